"""`rless alias ls`: list the commands of other names that are rless."""

from __future__ import annotations

import os
import shutil

from rootless.cli import output
from rootless.cli.fronts import aliases
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "alias ls",
    "[OPTIONS] [DIR...]",
    (
        (
            "Options",
            (
                ("--format", "FORMAT", "value", "format", "text",
                 "table, json, or a template such as '{{.Name}} {{.Path}}'"),
            ),
        ),
    ),
)  # fmt: skip

COLUMNS = (("Name", "NAME"), ("Path", "PATH"), ("Target", "TARGET"), ("Found", "FOUND IN PATH"))


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print those of the given directories, else those of PATH; and what a shell would find."""
    directories = args or os.environ.get("PATH", "").split(":")
    rows = [_row(path) for path in aliases.find(map(os.path.abspath, filter(None, directories)))]
    output.show(rows, COLUMNS, template=values.get("format"))
    return 0


def _row(path: str) -> dict[str, str]:
    name = os.path.basename(path)
    found = shutil.which(name)
    seen = "no" if found is None else "yes" if found == path else f"no: {found}"
    return {"Name": name, "Path": path, "Target": os.path.realpath(path), "Found": seen}
