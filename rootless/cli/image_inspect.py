"""`rless image inspect`: show all about images as JSON."""

from __future__ import annotations

from rootless.cli import streams
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
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print what is known of each; those that are not there are said, and the rest printed."""
    from rootless.cli.template import Renderer, compile_template, to_json
    from rootless.engine.images import inspect_image

    template = values.get("format")
    found: list[dict[str, Any]] = []

    def add(name: str) -> None:
        found.append(inspect_image(name, values.get("platform")))

    renderer = None
    if template and template != "json":
        renderer = Renderer(compile_template(template))
    code = streams.each(args, add)
    if renderer is not None:
        streams.write("".join(f"{renderer.render(item)}\n" for item in found))
    elif template == "json":
        streams.write(f"{to_json(found)}\n")
    else:
        streams.write(f"{to_json(found, 4)}\n")
    return code
