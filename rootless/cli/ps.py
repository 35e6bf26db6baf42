"""`rless ps`: list containers."""

from __future__ import annotations

from typing import Any

from rootless.cli import output
from rootless.cli.parse import Verb

VERB = Verb(
    "ps",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--all -a", "", "flag", "all", "boolean", "Show those that ended too"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Show the ids only"),
                ("--last -n", "N", "value", "last", "count", "Show the N newest, in any state"),
                ("--latest -l", "", "flag", "latest", "boolean", "Show the newest one"),
                ("--no-trunc", "", "flag", "full", "boolean", "Show whole ids and commands"),
                ("--format", "FORMAT", "value", "format", "text",
                 "table, json, or a template such as '{{.ID}} {{.Names}}'"),
            ),
        ),
    ),
    (
        ("--filter -f", "FILTER", "not built yet", "filter the output of --format json"),
        ("--size -s", "", "not built yet", ""),
    ),
    most=0,
)  # fmt: skip

COLUMNS = (
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the containers, the newest first."""
    from rootless.engine.control import list_containers

    last = 1 if values.get("latest") else values.get("last", -1)
    found = list_containers(bool(values.get("all")) or last > 0)
    found = sorted(found, key=lambda item: -float(item["created"]))
    if last > 0:
        found = found[:last]
    full = bool(values.get("full"))
    output.show(
        [row(item, full) for item in found],
        COLUMNS,
        template=values.get("format"),
        ids="ID" if values.get("quiet") else None,
    )
    return 0


def row(item: dict[str, Any], full: bool) -> dict[str, object]:
    """Return a container of the engine under Docker's field names."""
    command = item["command"]
    if not isinstance(command, str):
        command = " ".join(command)
    return {
        "Command": f'"{command if full else output.shorten(command, 20)}"',
        "CreatedAt": output.stamp(item["created"]),
        "ID": output.short_id(item["id"], full),
        "Image": item["image"] or "",
        "Labels": ",".join(f"{key}={value}" for key, value in (item["labels"] or {}).items()),
        "Names": item["name"],
        "Ports": ", ".join(item["ports"] or ()),
        "RunningFor": output.ago(item["created"]),
        "State": item["status"],
        "Status": status(item),
    }


def status(item: dict[str, Any]) -> str:
    """Return "Up 5 minutes", "Exited (0) 2 hours ago", "Created", "Dead"."""
    if item["status"] == "running":
        return f"Up {output.ago(item.get('started') or item['created']).removesuffix(' ago')}"
    if item["status"] == "exited":
        ended = item.get("finished")
        return f"Exited ({item['exit_code']})" + (f" {output.ago(ended)}" if ended else "")
    return str(item["status"]).capitalize()
