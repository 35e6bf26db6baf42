"""The words of a front: its version, and what its lines on standard error begin with."""

from __future__ import annotations

import os

from rootless.errors import voice

# front -> what a line on standard error begins with: of an error, of a warning
VOICES = {
    "apptainer": ("FATAL:   ", "WARNING: "),
    "singularity": ("FATAL:   ", "WARNING: "),
    "docker": ("docker: ", "docker: warning: "),
    "podman": ("Error: ", "podman: warning: "),
}


def take_voice(front: str) -> None:
    """Print errors and warnings as the front does, from now on."""
    voice["error"], voice["warning"] = VOICES[front]


def version(front: str) -> str:
    """Return the number that the front says as its version."""
    from rootless import __version__
    from rootless.cli.fronts.versions import NUMBERS

    chosen = os.environ.get("RLESS_FRONT_VERSION")
    return chosen or NUMBERS[front].format(release=__version__)


def version_line(front: str) -> str:
    """Return what the front answers to --version."""
    from rootless import __version__
    from rootless.cli.fronts.versions import LINES

    return LINES[front].format(version(front), release=__version__) + "\n"
