"""`rless flatten`: write an image as one squashfs or SIF file."""

from __future__ import annotations

import os

from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "flatten",
    "[OPTIONS] IMAGE FILE",
    (
        (
            "Options",
            (
                ("--compression", "METHOD", "value", "compression", "image.flatten.compression",
                 "lz4 (default), zstd, gzip (default of SIF) or xz"),
                ("--keep-owners", "", "flag", "keep_owners", "boolean",
                 "Keep the owners of the files; by default all belong to root"),
                ("--force -f", "", "flag", "force", "boolean", "Replace FILE"),
                ("--platform", "OS/ARCH[/VARIANT]", "value", "platform", "platform",
                 "Which image of a multi-platform index to use"),
                ("--signature-policy", "FILE", "value", "signature_policy", "absolute",
                 "The policy.json that a pulled image has to satisfy"),
            ),
        ),
    ),
    least=2,
    most=2,
    failure=1,
)  # fmt: skip


def compression(value: str) -> str:
    """Return the name of a compression."""
    from rootless.engine.images.flatten import COMPRESSIONS

    if value not in COMPRESSIONS:
        raise ValueError(f"is none of {', '.join(COMPRESSIONS)}")
    return value


def main(values: dict[str, Any], args: list[str]) -> int:
    """Write the file."""
    from rootless.engine.images.flatten import flatten
    from rootless.image.squashfs.image_file import SUFFIXES

    if not args[1].endswith(SUFFIXES):
        raise RlessError(
            f"{args[1]}: the name of an image file must show that it is one",
            "end it with .sqsh, or with .sif for a SIF file",
        )
    flatten(args[0], os.path.abspath(args[1]), sif=args[1].endswith(".sif"), **values)
    return 0
