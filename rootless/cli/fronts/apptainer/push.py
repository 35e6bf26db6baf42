"""`push`: send a SIF file to a registry."""

from __future__ import annotations

import os

from rootless.cli.fronts.apptainer import parse
from rootless.cli.fronts.apptainer.images import Image, log_in
from rootless.cli.fronts.apptainer.pull import inform
from rootless.cli.fronts.apptainer.table import LOG_IN, REGISTRY, FrontVerb
from rootless.errors import RlessError, escape

_REFUSED = (
    *LOG_IN,
    ("--library", "URI", "there is no library", "use oras://"),
)
VERBS = {
    "push": FrontVerb(
        "push",
        "[OPTIONS] FILE oras://NAME[:TAG]",
        "Send a SIF file to a registry",
        (
            "Options",
            (
                *REGISTRY,
                ("--allow-unsigned -U", "", "flag", "unsigned", "boolean",
                 "Accepted: signatures in SIF files are not asked for"),
                ("--description -D", "TEXT", "value", "description", "text",
                 "Accepted: a registry has no description of a file"),
            ),
        ),
        refused=_REFUSED,
        least=2,
        most=2,
    )
}  # fmt: skip


def main(verb: str, argv: list[str], quiet: bool) -> int:
    """Send the file."""
    _, (name, uri) = parse.parse(VERBS[verb], argv)
    if not uri.startswith("oras://"):
        raise RlessError(
            f"cannot push to {escape(uri)}: a SIF file goes to a registry", "write oras://NAME:TAG"
        )
    image = Image(os.path.abspath(name))
    if image.tree:
        raise RlessError(f"{escape(name)} is a directory", "build a SIF file of it first")
    from rootless.engine.build.remote.image_files import reference_of
    from rootless.image.registry.progress import Progress
    from rootless.image.transfer import oras

    log_in(uri.removeprefix("oras://"))
    progress = Progress(quiet=quiet)
    try:
        oras.push(image.name, reference_of(uri), progress)
    finally:
        progress.finish()
    inform(f"Pushed {name} to {uri}", quiet)
    return 0
