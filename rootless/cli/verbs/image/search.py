"""`rless search`: find repositories of a registry."""

from __future__ import annotations

from rootless.cli import output
from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "search",
    "[OPTIONS] TERM",
    (
        (
            "Options",
            (
                ("--filter -f", "KEY=VALUE", "list", "filters", "search.condition",
                 "Show only some: stars=N, is-official=true, is-automated=true"),
                ("--format", "FORMAT", "value", "format", "text",
                 "table, json, or a template such as '{{.Name}} {{.StarCount}}'"),
                ("--limit", "N", "value", "limit", "search.most",
                 "Show at most N results (25)"),
                ("--no-trunc", "", "flag", "full", "boolean", "Show full descriptions"),
            ),
        ),
    ),
    least=1,
    most=1,
    failure=1,
)  # fmt: skip

COLUMNS = (
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
)
_WIDTH = 45


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print what a registry finds."""
    from rootless.engine.images.registries import search

    if not args[0].strip("/ "):
        raise RlessError("the term is empty", VERB.see_help())
    found = search(args[0], values.get("limit", 25), values.get("filters") or ())
    rows = [_row(entry, bool(values.get("full"))) for entry in found]
    output.show(rows, COLUMNS, template=values.get("format"))
    return 0


def _row(entry: dict[str, Any], full: bool) -> dict[str, object]:
    text = escape(entry["description"].replace("\n", " ").strip())
    return {
        "Name": entry["name"],
        "Description": text if full else output.shorten(text, _WIDTH),
        "StarCount": entry["star_count"],
        "IsOfficial": "[OK]" if entry["is_official"] else "",
        "IsAutomated": "[OK]" if entry["is_automated"] else "",
    }
