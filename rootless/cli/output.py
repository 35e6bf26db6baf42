"""Print lists as Docker does: tables, JSON lines and Go templates.

Rows are dicts with Docker's own field names ("ID", "Names", "Status"); a template names them
as `{{.ID}}`, and `template` has the language. A value of a row that is a function is a method
of it, as `{{.Label "x"}}` of `ps`: `json` leaves it out.
"""

from __future__ import annotations

import time

from rootless.cli import streams
from rootless.errors import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Row = Mapping[str, object]

GAP = 3


def show(
    rows: Sequence[Row],
    columns: Sequence[tuple[str, str]],
    *,
    template: str | None = None,
    ids: str | None = None,
    headings: Mapping[str, object] | None = None,
) -> None:
    """Print `rows`.

    Args:
        columns: (field, heading) of the table.
        template: the value of --format; None or "table" for the table.
        ids: the only field to print, one a line (the flag -q).
        headings: headings of further fields, for `table TEMPLATE`; without one a field is
            headed by its name in capitals.
    """
    if template in (None, "", "table"):
        if ids is not None:
            streams.write("".join(f"{escape(str(row[ids]))}\n" for row in rows))
            return
        streams.write(
            table([[str(row[f]) for f, _ in columns] for row in rows], [h for _, h in columns])
        )
        return
    assert template is not None
    from rootless.cli.template import Renderer, compile_template

    if template == "json":
        template = "{{json .}}"
    tabular = template.startswith("table ")
    nodes = compile_template(template[6:] if tabular else template, escapes=True)
    renderer = Renderer(nodes, strict=True)
    lines = [renderer.render(row) for row in rows]
    if tabular:
        head = Renderer(nodes, heading=True).render({**dict(columns), **(headings or {})})
        streams.write(table([_cells(line) for line in lines], _cells(head)))
        return
    streams.write("".join(f"{line}\n" for line in lines))


def _cells(line: str) -> list[str]:
    return line.split("\t")


def table(rows: Sequence[Sequence[str]], headings: Sequence[str]) -> str:
    """Return the table as text; control characters of cells are escaped, the last line ends."""
    empty = [""] * len(headings)
    lines = [list(headings)]
    for row in rows:  # of a template, which may have more or fewer cells
        cells = row if "".join(row).isprintable() else map(escape, row)
        lines.append([*cells, *empty][: len(empty)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    layout = "".join(f"{{:{width + GAP}}}" for width in widths)
    return "".join([layout.format(*line).rstrip() + "\n" for line in lines])


def human_size(size: float) -> str:
    """Return bytes as Docker does: four digits, decimal units ("4.43MB")."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000 or unit == "PB":
            break
        size /= 1000
    return f"{size:.4g}{unit}" if size < 1000 else f"{size:.0f}{unit}"


def binary_size(size: float) -> str:
    """Return bytes as Docker's `info` and `stats` do: four digits, binary units ("7.637GiB")."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024 or unit == "PiB":
            break
        size /= 1024
    return f"{size:.4g}{unit}"


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


def container_status(item: dict[str, Any]) -> str:
    """Return Docker's text for a row of `query.ps`, as "Up 5 minutes (healthy)" or "Created"."""
    state = item["status"]
    if state in ("running", "paused"):
        text = f"Up {ago(item.get('started') or item['created']).removesuffix(' ago')}"
        if state == "paused":
            return f"{text} (Paused)"
        checked = item.get("health")
        if checked:
            text += " (health: starting)" if checked == "starting" else f" ({checked})"
        return f"{text} (network lost)" if item.get("network_lost") else text
    if state in ("exited", "restarting"):
        ended = item.get("finished")
        text = f"{state.capitalize()} ({item['exit_code']})"
        return text + (f" {ago(ended)}" if ended else "")
    return str(state).capitalize()
