"""`rless save`: write images to an archive."""

from __future__ import annotations

import os

from rootless.cli.flags import signing
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "save",
    "[OPTIONS] IMAGE [IMAGE...]",
    (
        (
            "Options",
            (
                ("--output -o", "FILE", "value", "output", "text",
                 "Write to FILE instead of standard output"),
                ("--format", "FORMAT", "value", "form", "archives.form",
                 "docker-archive (the default; an OCI layout too), oci-archive, oci-dir or"
                 " docker-dir"),
                ("--compress", "gzip|zstd", "value", "compression", "archives.compression",
                 "Compress the layers; for the OCI formats, gzip for docker-dir"),
                ("--platform", "OS/ARCH[/VARIANT]", "value", "platform", "platform",
                 "Which image to write, if images for several platforms were pulled"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Show no progress"),
                *signing.OPTIONS,
                ("--multi-image-archive -m", "", "flag", "multi", "boolean",
                 "Accepted without effect: an archive can hold any number of images"),
            ),
        ),
    ),
    least=1,
    failure=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Write the images."""
    form = values.get("form", "docker-archive")
    compression = values.get("compression", "")
    output = values.get("output") or None
    if compression and form == "docker-archive":
        raise RlessError(
            "--compress: the layers of a docker-archive are plain",
            "use --format oci-archive, or compress the whole: rless save IMAGE | gzip",
        )
    if compression == "zstd" and form == "docker-dir":
        raise RlessError(
            "--compress zstd: Docker's manifests know gzip only", "use --compress gzip"
        )
    signers = signing.signers(values, VERB.see_help())
    if signers and form != "docker-dir":
        raise RlessError(
            f"a {form} has no place for signatures", "use --format docker-dir, or rless push"
        )
    if output is None and os.isatty(1):
        raise RlessError(
            "an archive is not written to a terminal", "use -o FILE, or redirect", exit_code=1
        )
    from rootless.engine.images.archives import save
    from rootless.image.model.packing import Packing

    save(
        args,
        output,
        form=form,
        packing=Packing(compression),
        platform=values.get("platform"),
        quiet=bool(values.get("quiet")),
        signers=signers,
    )
    return 0
