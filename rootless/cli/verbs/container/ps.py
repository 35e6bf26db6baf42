"""`rless ps`: list containers."""

from __future__ import annotations

from rootless.cli import output
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "ps",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--all -a", "", "flag", "all", "boolean", "Also show containers that have ended"),
                ("--filter -f", "KEY=VALUE", "list", "filters", "text",
                 "Show only some: by ancestor, before, exited, expose, health, id, label, name,"
                 " network, publish, since, status, volume"),
                ("--format", "FORMAT", "value", "format", "text",
                 "table, json, or a template such as '{{.ID}} {{.Names}}'"),
                ("--last -n", "N", "value", "last", "count", "Show the N newest, in any state"),
                ("--latest -l", "", "flag", "latest", "boolean", "Show the newest one"),
                ("--no-trunc", "", "flag", "full", "boolean", "Show full ids and commands"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Show the ids only"),
                ("--size -s", "", "flag", "size", "boolean", "Show the disk space of each"),
            ),
        ),
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
_SIZE = ("Size", "SIZE")
_MOUNT_WIDTH = 15


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the containers, the newest first."""
    from rootless.engine.query.ps import list_containers

    last = 1 if values.get("latest") else values.get("last", -1)
    everything = bool(values.get("all")) or last > 0
    chosen = None
    if values.get("filters"):
        from rootless.engine.query import filters

        given = filters.parse(values["filters"], filters.CONTAINER_KEYS)
        chosen = filters.Chosen(given)
        everything = everything or "status" in given
    found = list_containers(everything)
    if chosen is not None:
        found = [item for item in found if chosen(item)]
    found.sort(key=lambda item: -float(item["created"]))
    if last > 0:
        found = found[:last]
    full, template = bool(values.get("full")), values.get("format")
    named = (template or "").replace(" ", "")
    size = bool(values.get("size")) or ".Size" in named or "{{json.}}" in named
    rows = [row(item, full) for item in found]
    if size:
        for item, shown in zip(found, rows, strict=True):
            shown["Size"] = _size(item["id"])
    output.show(
        rows,
        (*COLUMNS, _SIZE) if size else COLUMNS,
        template=template,
        ids="ID" if values.get("quiet") else None,
        headings={"CreatedAt": "CREATED AT", "Label": _label_heading, **dict([_SIZE])},
    )
    return 0


def row(item: dict[str, Any], full: bool) -> dict[str, object]:
    """Return a container of the engine under Docker's field names."""
    command = item["command"]
    if not isinstance(command, str):
        command = " ".join(command)
    labels = item["labels"] or {}
    mounts = [mount.get("name") or mount.get("source") or "" for mount in item["mounts"]]
    local = sum(1 for mount in item["mounts"] if mount.get("type") == "volume")
    if not full:
        mounts = [output.shorten(mount, _MOUNT_WIDTH) for mount in mounts]
    return {
        "Command": f'"{command if full else output.shorten(command, 20)}"',
        "CreatedAt": output.stamp(item["created"]),
        "HealthStatus": item["health"] or "",
        "ID": output.short_id(item["id"], full),
        "Image": item["image"] or "",
        "Label": lambda name: labels.get(name, ""),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "LocalVolumes": str(local),
        "Mounts": ",".join(mount for mount in mounts if mount),
        "Names": item["name"],
        "Networks": ",".join(name for name, _ in item["networks"]) or item["network"],
        "Ports": ports(item),
        "RunningFor": output.ago(item["created"]),
        "Size": "N/A",  # unless it was asked for: that reads every file
        "State": item["status"],
        "Status": output.container_status(item),
    }


def _label_heading(name: str) -> str:
    return name.rpartition(".")[2].replace("-", " ").replace("_", " ")


def _size(container_id: str) -> str:
    from rootless.engine.query.ps import sizes
    from rootless.engine.state.container import load

    container = load(container_id)
    if container is None:
        return "N/A"  # removed meanwhile
    try:
        own, virtual = sizes(container)
    except RlessError as error:
        raise error.within(f"--size of {container.facts['name']}") from error
    return f"{output.human_size(own)} (virtual {output.human_size(virtual)})"


def ports(item: dict[str, Any]) -> str:
    """Return the published ports of a living container, then those only exposed.

    Neighbours are one range, as Docker shows them: "0.0.0.0:8000-8002->8000-8002/tcp".
    """
    if item["status"] in ("exited", "created", "unknown"):
        return ""
    published = []
    for text in item["ports"]:
        host, _, inner = text.rpartition("->")
        address, _, number = host.rpartition(":")
        port, _, protocol = inner.partition("/")
        published.append(
            (address, protocol, int(port or 0), int(number) if number.isdigit() else 0)
        )
    taken = {(port, protocol) for _, protocol, port, _ in published}
    shown = []
    runs: list[list[Any]] = []
    for address, protocol, port, host_port in sorted(published):
        last = runs[-1] if runs else None
        if (
            last
            and last[:2] == [address, protocol]
            and (port, host_port) == (last[3] + 1, last[5] + 1)
        ):
            last[3], last[5] = port, host_port
        else:
            runs.append([address, protocol, port, port, host_port, host_port])
    for address, protocol, first, end, low, high in runs:
        host = f"{low}-{high}" if high > low else str(low)
        inner = f"{first}-{end}" if end > first else str(first)
        shown.append(f"{address}:{host}->{inner}/{protocol}")
    for exposed in item["exposed"]:
        port, _, protocol = exposed.partition("/")
        if not (port.isdigit() and (int(port), protocol or "tcp") in taken):
            shown.append(f"{port}/{protocol or 'tcp'}")
    return ", ".join(shown)
