"""The fronts docker and podman: the command line of rless, with other words for the version."""

from __future__ import annotations

from rootless.cli import main as rless
from rootless.cli import streams
from rootless.cli.fronts.voice import version_line


def main(argv: list[str], name: str) -> int:
    """Run a command line of `docker` or `podman`; return its exit code."""
    if argv and argv[0] in ("-v", "--version"):
        streams.write(version_line(name))
        return 0
    return rless.main(argv)
