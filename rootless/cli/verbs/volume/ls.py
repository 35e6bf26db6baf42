"""`rless volume ls`: list volumes."""

from __future__ import annotations

from rootless.cli import output
from rootless.cli.flags.values import boolean
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.state.volumes import Volume

VERB = Verb(
    "volume ls",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--filter -f", "KEY=VALUE", "list", "filters", "text",
                 "Show only some: by dangling, driver, label, name"),
                ("--format", "FORMAT", "value", "format", "text",
                 "table, json, or a template such as '{{.Name}} {{.Mountpoint}}'"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Show the names only"),
            ),
        ),
    ),
    (("--cluster", "", "there is no cluster", ""),),
    most=0,
)  # fmt: skip

COLUMNS = (("Driver", "DRIVER"), ("Name", "VOLUME NAME"))


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the volumes, by name."""
    from rootless.engine.query import filters
    from rootless.engine.state import volumes

    given = filters.parse(
        values.get("filters", ()), ("dangling", "driver", "label", "label!", "name")
    )
    used = volumes.users()
    found = [
        volume for volume in volumes.all_volumes() if filters.matches_labels(volume.labels, given)
    ]
    if "dangling" in given:
        wanted = {_truth(text) for text in given["dangling"]}
        found = [volume for volume in found if (volume.name not in used) in wanted]
    if "driver" in given:
        found = found if "local" in given["driver"] else []
    if "name" in given:
        tests = [filters.pattern("name", text) for text in given["name"]]
        found = [volume for volume in found if any(test(volume.name) for test in tests)]
    output.show(
        [row(volume, len(used.get(volume.name, ()))) for volume in found],
        COLUMNS,
        template=values.get("format"),
        ids="Name" if values.get("quiet") else None,
    )
    return 0


def row(volume: Volume, links: int) -> dict[str, object]:
    """Return a volume under Docker's field names."""
    labels = volume.labels
    return {
        "Availability": "N/A",
        "Driver": "local",
        "Group": "N/A",
        "Label": lambda name: labels.get(name, ""),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Links": str(links),
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Scope": "local",
        "Size": "N/A",  # `rless system df -v` measures
        "Status": "N/A",
    }


def _truth(text: str) -> bool:
    try:
        return boolean(text)
    except ValueError as error:
        raise RlessError(f"--filter dangling: {text!r} {error}", None, 1) from None
