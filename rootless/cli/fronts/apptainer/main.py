"""The command `apptainer`, and `singularity`, which is the same."""

from __future__ import annotations

from rootless import launch
from rootless.cli import streams
from rootless.cli.fronts.voice import version, version_line
from rootless.errors import RlessError

FAILURE = 255  # the exit code of each failure of the tool


def main(argv: list[str], name: str) -> int:
    """Run a command line of Apptainer; return its exit code."""
    try:
        streams.guard()
        launch.let_interrupts_in()
        if argv == ["--version"]:
            streams.write(version_line(name))
            return 0
        if argv == ["version"]:
            streams.write(version(name) + "\n")
            return 0
        raise RlessError(f"{name} {' '.join(argv[:1])} is not supported: not built yet")
    except (Exception, KeyboardInterrupt) as error:
        streams.report(error)
        return FAILURE
