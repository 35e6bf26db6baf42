"""`rless network ls`: list networks."""

from __future__ import annotations

from rootless.cli import output
from rootless.cli.flags.values import boolean
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.networks.store import Network

VERB = Verb(
    "network ls",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--filter -f", "KEY=VALUE", "list", "filters", "text",
                 "Show only some: by dangling, driver, id, label, label!, name, type"),
                ("--format", "FORMAT", "value", "format", "text",
                 "table, json, or a template such as '{{.Name}} {{.ID}}'"),
                ("--no-trunc", "", "flag", "no_trunc", "boolean", "Show ids in full"),
                ("--noheading -n", "", "flag", "no_heading", "boolean",
                 "Do not print the headings"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Show the ids only"),
            ),
        ),
    ),
    most=0,
)  # fmt: skip

COLUMNS = (("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE"))
KEYS = ("dangling", "driver", "id", "label", "label!", "name", "scope", "type")


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the networks, by name."""
    from rootless.engine.networks import store
    from rootless.engine.query import filters

    store.find(store.DEFAULT)
    chosen = choose(filters.parse(values.get("filters", ()), KEYS))
    rows = [row(one, bool(values.get("no_trunc"))) for one in store.every() if chosen(one)]
    template = values.get("format")
    if values.get("no_heading") and template in (None, "table"):
        template = "\t".join(f"{{{{.{field}}}}}" for field, _ in COLUMNS)
    output.show(rows, COLUMNS, template=template, ids="ID" if values.get("quiet") else None)
    return 0


def choose(given: dict[str, list[str]]) -> Any:
    """Return whether a network passes all filters, as Docker's."""
    from rootless.engine.networks import store
    from rootless.engine.query import filters

    names = [filters.pattern("name", text) for text in given.get("name", ())]
    dangling = [_truth(text) for text in given.get("dangling", ())]

    def test(one: Network) -> bool:
        return (
            filters.matches_labels(one.record["labels"], given)
            and (not names or any(name(one.name) for name in names))
            and ("id" not in given or any(one.id.startswith(text) for text in given["id"]))
            and ("driver" not in given or "bridge" in given["driver"])
            and ("scope" not in given or "local" in given["scope"])
            and (
                "type" not in given
                or ("builtin" if one.name == store.DEFAULT else "custom") in given["type"]
            )
            and (not dangling or (not store.users(one)) in dangling)
        )

    return test


def _truth(text: str) -> bool:
    try:
        return boolean(text)
    except ValueError as error:
        raise RlessError(f"--filter dangling: {text!r} {error}", None, 1) from None


def row(one: Network, whole_id: bool) -> dict[str, object]:
    """Return a network under Docker's field names."""
    labels = one.record["labels"]
    return {
        "CreatedAt": output.stamp(one.record["created"]),
        "Driver": "bridge",
        "ID": one.id if whole_id else one.id[:12],
        "IPv4": "true",
        "IPv6": str(any(whole.size == 16 for whole, _, _ in one.ranges)).lower(),
        "Internal": str(one.internal).lower(),
        "Label": lambda name: labels.get(name, ""),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Name": one.name,
        "Scope": "local",
    }
