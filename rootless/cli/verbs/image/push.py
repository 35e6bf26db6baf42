"""`rless push`: send an image to a registry."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.flags import signing
from rootless.cli.flags.values import choice
from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "push",
    "[OPTIONS] NAME[:TAG] [DESTINATION]",
    (
        (
            "Options",
            (
                ("--all-tags -a", "", "flag", "all", "boolean", "Push all tags of a repository"),
                ("--compression --compression-format", "gzip|zstd", "value", "compression",
                 "image.push.compression",
                 ("How to compress layers; by default, layers that the registry has "
                  "stay as they are")),
                ("--platform", "OS/ARCH[/VARIANT]", "value", "platform", "platform",
                 "Which image of that name to push"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Print the name only"),
                *signing.OPTIONS,
                ("--remove-signatures", "", "flag", "remove_signatures", "boolean",
                 "Leave out the signatures that the image was pulled with"),
                ("--disable-content-trust", "", "flag", "accepted", "compat.content_trust",
                 "Accepted without effect: Docker Content Trust was discontinued"),
            ),
        ),
    ),
    (
        ("--tls-verify", "", "it can only be set for each host",
         "use insecure = true in registries.conf"),
        ("--creds", "USER:PASSWORD", "other users would see the password", "use rless login"),
    ),
    least=1,
    most=2,
    failure=1,
)  # fmt: skip


def compression(value: str) -> str:
    """Return "gzip" or "zstd"."""
    return choice(value, "gzip", "zstd")


def main(values: dict[str, Any], args: list[str]) -> int:
    """Push an image, or all tags of a repository."""
    from rootless.engine.images import registries
    from rootless.image.model.packing import Packing

    names = args[:1]
    if values.get("all"):
        if len(args) > 1:
            raise RlessError("--all-tags takes no destination", VERB.see_help())
        names = registries.names_of(args[0])
    quiet = bool(values.get("quiet"))
    signers = signing.signers(values, VERB.see_help())
    for name in names:
        pushed, _ = registries.push(
            name,
            args[1] if len(args) > 1 else None,
            packing=Packing(values.get("compression")),
            platform=values.get("platform"),
            quiet=quiet,
            signers=signers,
            remove_signatures=bool(values.get("remove_signatures")),
        )
        if quiet:
            streams.write(f"{escape(pushed)}\n")
    return 0
