"""`rless slurm-config`: an oci.conf for Slurm."""

from __future__ import annotations

import os
import sys
from typing import Any

from rootless import log
from rootless.cli import streams
from rootless.cli.parse import Verb

VERB = Verb(
    "slurm-config",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--slurm", "VERSION", "value", "version", "text",
                 "For this version of Slurm, such as 23.11 (default: the installed one)"),
                ("--images", "", "flag", "images", "boolean",
                 ("Let --container of srun and sbatch name an image, not a bundle (from "
                  "Slurm 23.02)")),
                ("--bin", "DIR", "value", "bin", "absolute",
                 "Where rless and rless-oci are on the nodes (default: as this rless)"),
            ),
        ),
    ),
    most=0,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print it; warn of programs that only their owner could run."""
    from rootless.engine.ranks import slurm_config

    asked = values.get("version")
    version = slurm_config.parse_version(asked) if asked else slurm_config.installed_version()
    programs = values.get("bin")
    if programs is None:
        programs = os.path.dirname(os.path.abspath(sys.argv[0]))
        if not slurm_config.is_for_all(programs):
            log.warn(f"{programs} is closed to other users: Slurm runs it as each of them")
    streams.write(slurm_config.oci_conf(version, programs, images=bool(values.get("images"))))
    return 0
