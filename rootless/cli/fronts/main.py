"""The command of every front: take its voice, then run it."""

from __future__ import annotations

import sys

from rootless import launch
from rootless.cli.fronts.voice import HPC, take_voice


def main() -> int:
    """Run the front that the launcher was called by; return its exit code."""
    take_voice(launch.front)
    if launch.front in HPC:
        from rootless.cli.fronts.apptainer import main as apptainer

        if launch.front == "run-singularity":
            return apptainer.main(["run", *sys.argv[1:]], "singularity")
        return apptainer.main(sys.argv[1:], launch.front)
    from rootless.cli.fronts.docker import main as docker

    return docker.main(sys.argv[1:], launch.front)
