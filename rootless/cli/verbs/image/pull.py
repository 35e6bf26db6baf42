"""`rless pull`: fetch images."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "pull",
    "[OPTIONS] IMAGE [IMAGE...]",
    (
        (
            "Options",
            (
                ("--all-tags -a", "", "flag", "all_tags", "boolean",
                 "Fetch every tag of the repository"),
                ("--platform", "OS/ARCH[/VARIANT]", "value", "platform", "platform",
                 "Which image of a multi-platform index to use"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Print the name only"),
                ("--signature-policy", "FILE", "value", "signature_policy", "absolute",
                 "The policy.json that the image has to satisfy"),
                ("--disable-content-trust", "", "flag", "accepted", "compat.content_trust",
                 "Accepted without effect: Docker Content Trust was discontinued"),
            ),
        ),
    ),
    least=1,
    failure=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Fetch the images, one after the other, and print the full name of each."""
    from rootless.engine.images.images import pull

    def fetch(name: str) -> None:
        quiet, policy = bool(values.get("quiet")), values.get("signature_policy")
        image = pull(name, values.get("platform"), quiet, policy)
        streams.write(f"{escape(str(image.name))}\n")

    def fetch_all(name: str) -> None:
        from rootless.engine.images.archives import all_tags

        for tagged in all_tags(name):
            fetch(tagged)

    return 1 if streams.each(args, fetch_all if values.get("all_tags") else fetch) else 0
