"""`rless alias install`: make commands of other names that are rless."""

from __future__ import annotations

import os

from rootless import log
from rootless.cli import streams
from rootless.cli.flags.values import choice
from rootless.cli.fronts import aliases
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.cli.parse import Row

NAMES: Row = (
    "--names", "NAME[,NAME...]", "value", "names", "alias.install.names",
    f"Which commands: {', '.join(aliases.NAMES)} (all)",
)  # fmt: skip
VERB = Verb(
    "alias install",
    "[OPTIONS] DIR",
    (
        (
            "Options",
            (
                NAMES,
                ("--force -f", "", "flag", "force", "boolean", "Replace other files"),
            ),
        ),
    ),
    least=1,
    most=1,
    examples=(
        ("All, in a directory that PATH begins with", "rless alias install ~/bin"),
        ("For Snakemake and Nextflow", "rless alias install --names apptainer,singularity ~/bin"),
    ),
)  # fmt: skip


def names(value: str) -> list[str]:
    """Return names of fronts, each once."""
    return [choice(name, *aliases.NAMES) for name in dict.fromkeys(value.split(","))]


def main(values: dict[str, Any], args: list[str]) -> int:
    """Make them, print the path of each, and say if a shell would not find them there."""
    directory = os.path.abspath(args[0])
    made = aliases.install(
        directory, values.get("names", aliases.NAMES), force=bool(values.get("force"))
    )
    streams.write("".join(f"{path}\n" for path in made))
    if directory not in os.environ.get("PATH", "").split(":"):
        log.warn(f"{directory} is not in PATH: put it first there")
    return 0
