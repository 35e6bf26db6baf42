"""`rless top`: show the processes of a container."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.output import GAP
from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

VERB = Verb("top", "CONTAINER [ps OPTIONS]", least=1, interspersed=False)

_LEAST = 20  # characters of a column, as Docker


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the processes, by their numbers on the host."""
    from rootless.engine.query import top
    from rootless.engine.state import container, processes

    columns = top.parse(args[1:])
    found = container.find(args[0])
    if found.init() is None:
        raise RlessError(f"container {found.facts['name']} is not running", exit_code=1)
    headings, rows = top.table(processes.of(found), columns)
    streams.write(text([headings, *rows]))
    return 0


def text(lines: Sequence[Sequence[str]]) -> str:
    """Return the table as Docker sets it; control characters of processes are escaped."""
    cells = [[escape(cell) for cell in line] for line in lines]
    widths = [
        max(_LEAST, *(len(cell) + GAP for cell in column)) for column in zip(*cells, strict=True)
    ]
    widths[-1] = 0
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + "\n"
        for line in cells
    )
