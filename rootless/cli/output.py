"""Print lists as Docker does: tables, JSON lines and the simple Go templates.

Rows are dicts with Docker's own field names ("ID", "Names", "Status"); a template names them
as `{{.ID}}`. Of Go's template language there is exactly this: literal text, `\\t`, `\\n`,
`{{.Field}}`, `{{json .Field}}`, `{{json .}}` and a leading `table`; the rest is refused.
"""

from __future__ import annotations

import json
import time

from rootless.cli import streams
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Row = Mapping[str, object]

_GAP = 3


def show(
    rows: Sequence[Row],
    columns: Sequence[tuple[str, str]],
    *,
    template: str | None = None,
    ids: str | None = None,
) -> None:
    """Print `rows`.

    Args:
        columns: (field, heading) of the table.
        template: the value of --format; None or "table" for the table.
        ids: the only field to print, one a line (the flag -q).
    """
    if ids is not None and template is None:
        streams.write("".join(f"{escape(str(row[ids]))}\n" for row in rows))
        return
    if template in (None, "", "table"):
        streams.write(
            table([[str(row[f]) for f, _ in columns] for row in rows], [h for _, h in columns])
        )
        return
    assert template is not None
    if template == "json":
        streams.write("".join(f"{json.dumps(row)}\n" for row in rows))
        return
    headings = dict(columns)
    if template.startswith("table "):
        cells = compile_template(template[6:])
        head = _cells("".join(_heading(p, headings) for p in cells))
        body = [_cells("".join(part(row) for part in cells)) for row in rows]
        streams.write(table(body, head))
        return
    parts = compile_template(template)
    streams.write("".join("".join(part(row) for part in parts) + "\n" for row in rows))


def _cells(line: str) -> list[str]:
    return line.split("\t")


def table(rows: Sequence[Sequence[str]], headings: Sequence[str]) -> str:
    """Return the table as text; control characters of cells are escaped, the last line ends."""
    lines = [list(headings), *[[escape(cell) for cell in row] for row in rows]]
    widths = [
        max(len(line[i]) if i < len(line) else 0 for line in lines) for i in range(len(lines[0]))
    ]
    text = ""
    for line in lines:
        padded = (cell.ljust(width + _GAP) for cell, width in zip(line, widths, strict=False))
        text += "".join(padded).rstrip() + "\n"
    return text


class _Field:
    """Print one field of a row, as text or as JSON; `name` is "" for the whole row."""

    def __init__(self, name: str, as_json: bool) -> None:
        self.name = name
        self.as_json = as_json

    def __call__(self, row: Row) -> str:
        if self.name and self.name not in row:
            raise RlessError(
                f"--format: there is no field {self.name!r}", f"fields are {', '.join(row)}"
            )
        value = row[self.name] if self.name else row
        return json.dumps(value) if self.as_json else escape(str(value))


class _Literal:
    """Print the same text for every row."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, row: Row) -> str:
        return self.text


def _heading(part: Callable[[Row], str], headings: Mapping[str, str]) -> str:
    if isinstance(part, _Field):
        return headings.get(part.name, part.name.upper())
    return part({})


def compile_template(template: str) -> list[_Field | _Literal]:
    """Return the parts of a template.

    Raises:
        RlessError: it needs more than fields and text.
    """
    parts: list[_Field | _Literal] = []
    rest = template
    while rest:
        text, opening, rest = rest.partition("{{")
        if text:
            parts.append(_Literal(text.replace("\\t", "\t").replace("\\n", "\n")))
        if not opening:
            break
        action, closing, rest = rest.partition("}}")
        words = action.split()
        as_json = words[:1] == ["json"]
        if as_json:
            del words[0]
        name = words[0][1:] if len(words) == 1 else ""
        whole = as_json and words == ["."]
        if not closing or not (whole or (words and words[0][0] == "." and name.isidentifier())):
            raise RlessError(
                f"--format: {{{{{action}{'}}' if closing else ''} is not supported",
                "use {{.Field}}, {{json .Field}}, {{json .}}, json or table",
            )
        parts.append(_Field(name, as_json))
    return parts


def human_size(size: float) -> str:
    """Return bytes as Docker does: four digits, decimal units ("4.43MB")."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000 or unit == "PB":
            break
        size /= 1000
    return f"{size:.4g}{unit}" if size < 1000 else f"{size:.0f}{unit}"


def human_time(seconds: float) -> str:
    """Return a span of time as Docker does ("About a minute", "3 weeks")."""
    minutes, hours = int(seconds / 60), int(seconds / 3600 + 0.5)
    if seconds < 1:
        return "Less than a second"
    if seconds < 2:
        return "1 second"
    if seconds < 60:
        return f"{int(seconds)} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def ago(moment: float, now: float | None = None) -> str:
    """Return "3 weeks ago" for a moment in seconds of the epoch; "N/A" for 0."""
    if not moment:
        return "N/A"
    return f"{human_time(max(0.0, (time.time() if now is None else now) - moment))} ago"


def stamp(moment: float) -> str:
    """Return a moment as Docker's CreatedAt ("2026-01-31 12:00:00 +0000 UTC")."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(moment)) if moment else "N/A"


def short_id(identifier: str, full: bool = False) -> str:
    """Return an id as shown in tables: 12 digits without the algorithm, or all of it."""
    return identifier if full else identifier.removeprefix("sha256:")[:12]


def shorten(text: str, width: int) -> str:
    """Return `text`, cut to `width` characters with an ellipsis."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
