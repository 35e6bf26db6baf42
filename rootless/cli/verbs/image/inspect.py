"""`rless image inspect`: show all about images as JSON."""

from __future__ import annotations

from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "image inspect",
    "[OPTIONS] IMAGE [IMAGE...]",
    (
        (
            "Options",
            (
                ("--format -f", "FORMAT", "value", "format", "text",
                 "json, or a template such as '{{.Config.Cmd}}'"),
                ("--platform", "OS/ARCH[/VARIANT]", "value", "platform", "platform",
                 "Show the image that was pulled for this platform"),
            ),
        ),
    ),
    least=1,
    failure=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print what is known of each; those that are not there are said, and the rest printed."""
    from rootless.cli.verbs.system.inspect import show
    from rootless.engine.images.images import inspect_image

    platform = values.get("platform")
    return show(args, lambda name: inspect_image(name, platform), values.get("format"))
