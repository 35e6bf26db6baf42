"""Filters of lists: `--filter KEY=VALUE`, and the containers that they select.

Values of one key are alternatives, and different keys must all match. Labels are the exception, as
in Docker: all of them must match. Names and ids are regular expressions, again as in Docker.
"""

from __future__ import annotations

from rootless.errors import INVALID, RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Filters = Mapping[str, Sequence[str]]

CONTAINER_KEYS = (
    "ancestor", "before", "exited", "expose", "health", "id", "label", "label!", "name",
    "network", "publish", "since", "status", "volume",
)  # fmt: skip
EVENT_KEYS = ("container", "event", "id", "image", "label", "network", "type", "volume")
EVENT_TYPES = ("container", "image", "network", "volume")
# Docker's words; "removing" and "dead" are states that rless does not have.
STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
HEALTH = ("starting", "healthy", "unhealthy", "none")
_REFUSED = {
    "is-task": "rless has no swarm",
    "isolation": "it exists on Windows only",
}


def parse(texts: Sequence[str], known: Sequence[str]) -> dict[str, list[str]]:
    """Return the values by key.

    Args:
        texts: KEY=VALUE; `label!=X` has the key `label!`.
        known: the keys that the verb has.

    Raises:
        RlessError: an unknown key, or no value.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise RlessError(f"--filter: {text!r} is not of the form KEY=VALUE")
        key = key.strip().lower()
        if key in _REFUSED and key not in known:
            raise RlessError(f"--filter {key} is not supported: {_REFUSED[key]}", exit_code=1)
        if key not in known:
            raise RlessError(
                f"--filter: there is no filter {key!r}", f"filters are {', '.join(known)}", 1
            )
        found.setdefault(key, []).append(value.strip())
    return found


def matches_labels(labels: Mapping[str, str] | None, filters: Filters) -> bool:
    """Tell whether labels fit the filters `label` (all of them) and `label!` (none of them)."""
    labels = labels or {}
    return all(_has(labels, text) for text in filters.get("label", ())) and not any(
        _has(labels, text) for text in filters.get("label!", ())
    )


def _has(labels: Mapping[str, str], text: str) -> bool:
    key, equals, value = text.partition("=")
    return key in labels and (not equals or labels[key] == value)


def pattern(key: str, text: str) -> Callable[[str], bool]:
    """Return a test for a value of `name` or `id`: equal, or found as a regular expression.

    Raises:
        RlessError: it is no regular expression.
    """
    import re
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = re.compile(text)
    except (re.error, RecursionError, OverflowError):
        raise RlessError(
            f"--filter {key}: {text!r} is not a regular expression", None, 1, INVALID
        ) from None
    return lambda value: value == text or found.search(value) is not None


class Chosen:
    """Tells whether a container (a row of `ps`) passes all filters.

    Raises:
        RlessError: a value that the key cannot have; an unknown container of before or since.
    """

    def __init__(self, filters: Filters) -> None:
        self.filters = filters
        self.tests: list[Callable[[dict[str, Any]], bool]] = []
        for key in filters:
            make = getattr(self, f"_{key.rstrip('!')}")
            self.tests.append(make(filters[key]))

    def __call__(self, row: dict[str, Any]) -> bool:
        return all(test(row) for test in self.tests)

    def _id(self, texts: Sequence[str]) -> Any:
        tests = [pattern("id", text) for text in texts]
        return lambda row: any(test(row["id"]) for test in tests)

    def _name(self, texts: Sequence[str]) -> Any:
        # Docker's names begin with a slash: `^/web$` finds web, as `^web$` does.
        tests = [pattern("name", text) for text in texts]
        return lambda row: any(test(name) for test in tests for name in _spellings(row["name"]))

    def _label(self, texts: Sequence[str]) -> Any:
        return lambda row: matches_labels(row["labels"], self.filters)

    def _status(self, texts: Sequence[str]) -> Any:
        wanted = [_one_of("status", text, STATES) for text in texts]
        return lambda row: row["status"] in wanted

    def _health(self, texts: Sequence[str]) -> Any:
        wanted = [_one_of("health", text, HEALTH) for text in texts]
        return lambda row: (row["health"] or "none") in wanted

    def _exited(self, texts: Sequence[str]) -> Any:
        codes = []
        for text in texts:
            try:
                codes.append(int(text))
            except ValueError:
                raise RlessError(
                    f"--filter exited: {text!r} is not an exit code", None, 1, INVALID
                ) from None
        return lambda row: row["status"] == "exited" and row["exit_code"] in codes

    def _before(self, texts: Sequence[str]) -> Any:
        moments = [_created(text) for text in texts]
        return lambda row: any(row["created"] < moment for moment in moments)

    def _since(self, texts: Sequence[str]) -> Any:
        moments = [_created(text) for text in texts]
        return lambda row: any(row["created"] > moment for moment in moments)

    def _volume(self, texts: Sequence[str]) -> Any:
        def test(row: dict[str, Any]) -> bool:
            for mount in row["mounts"]:
                known = {mount.get("name"), mount.get("target"), mount.get("source")}
                if any(text in known or text.rstrip("/") in known for text in texts):
                    return True
            return False

        return test

    def _network(self, texts: Sequence[str]) -> Any:
        def test(row: dict[str, Any]) -> bool:
            known = {row["network"], *(name for pair in row["networks"] for name in pair)}
            return any(text in known for text in texts)

        return test

    def _publish(self, texts: Sequence[str]) -> Any:
        ports = {port for text in texts for port in ports_of("publish", text)}
        return lambda row: any(_host_port(port) in ports for port in row["ports"] if "->" in port)

    def _expose(self, texts: Sequence[str]) -> Any:
        ports = {port for text in texts for port in ports_of("expose", text)}

        def test(row: dict[str, Any]) -> bool:
            for exposed in [*row["exposed"], *(port.rpartition("->")[2] for port in row["ports"])]:
                if ports.intersection(ports_of("expose", exposed)):
                    return True
            return False

        return test

    def _ancestor(self, texts: Sequence[str]) -> Any:
        wanted = [_ancestor_test(text) for text in texts]
        return lambda row: any(test(row) for test in wanted)


def _host_port(port: str) -> str:
    """Return "8080/tcp" of "0.0.0.0:8080->80/tcp"."""
    host, _, inner = port.rpartition("->")
    return f"{host.rpartition(':')[2]}/{inner.rpartition('/')[2]}"


def _spellings(name: str) -> tuple[str, str]:
    return name, f"/{name}"


def _one_of(key: str, text: str, allowed: Sequence[str]) -> str:
    if text not in allowed:
        raise RlessError(
            f"--filter {key}: {text!r} is not one of {', '.join(allowed)}", None, 1, INVALID
        )
    return text


def _created(reference: str) -> float:
    from rootless.engine.state.container import find

    return float(find(reference).facts["created"])


def ports_of(key: str, text: str) -> list[str]:
    """Return ["8000/tcp", "8001/tcp"] for `8000-8001[/tcp]`.

    Raises:
        RlessError: it is no port.
    """
    numbers, _, protocol = text.partition("/")
    first, dash, last = numbers.partition("-")
    last = last if dash else first
    valid = all(n.isascii() and n.isdigit() and 0 < int(n) < 65536 for n in (first, last))
    if not valid or int(first) > int(last) or protocol not in ("", "tcp", "udp", "sctp"):
        raise RlessError(
            f"--filter {key}: {text!r} is not a port", "expected PORT[-PORT][/PROTO]", 1, INVALID
        )
    return [f"{number}/{protocol or 'tcp'}" for number in range(int(first), int(last) + 1)]


def _ancestor_test(text: str) -> Callable[[dict[str, Any]], bool]:
    """Return the test for containers of an image, by name, id, or beginning of an id.

    An image that was built on top of that one counts too: its layers begin with the other's.
    """
    from rootless import paths
    from rootless.image.store.store import Store

    store = Store(paths.storage_root())
    try:
        image = store.lookup(text)
    except RlessError:
        image = None
    bare = text.removeprefix("sha256:")
    if image is None:
        # Its name may mean nothing any more; the containers still say what they were made of.
        return lambda row: (
            row["image"] == text
            or (
                len(bare) >= 4
                and str(row["image_id"] or "").removeprefix("sha256:").startswith(bare)
            )
        )
    chain = image.chain
    above = {
        record["id"]
        for kind in ("ids", "names")
        for record in store.records(kind)
        if chain and record["chain"][: len(chain)] == chain
    }
    return lambda row: row["image_id"] == image.id or row["image_id"] in above


# -- events ------------------------------------------------------------------------------------


def chooses_event(filters: Filters) -> Callable[[Mapping[str, Any]], bool]:
    """Return whether an event (as `events.record` wrote it) passes all filters.

    Raises:
        RlessError: there is no such type of events.
    """
    for text in filters.get("type", ()):
        _one_of("type", text, EVENT_TYPES)

    def test(event: Mapping[str, Any]) -> bool:
        kind, action, attributes = event["type"], event["action"], event["attributes"]
        chosen = True
        for key, texts in filters.items():
            if key == "type":
                chosen = kind in texts
            elif key == "event":
                chosen = action in texts or action.partition(":")[0] in texts
            elif key == "label":
                chosen = matches_labels(attributes, filters)
            elif key == "image":
                name = event["id"] if kind == "image" else attributes.get("image", "")
                other = attributes.get("name", "") if kind == "image" else name
                known = {name, other, _untagged(name), _untagged(other)}
                chosen = any(text in known or _is_id(text, name) for text in texts)
            elif key == "id":
                chosen = any(event["id"].startswith(text) for text in texts)
            else:  # container, network, volume: by name, or the beginning of the id
                name = event["id"] if key == "volume" else attributes.get("name", "")
                chosen = kind == key and any(
                    text == name or (key != "volume" and event["id"].startswith(text))
                    for text in texts
                )
            if not chosen:
                return False
        return True

    return test


def _untagged(name: str) -> str:
    head, colon, tag = name.partition("@")[0].rpartition(":")
    return head if colon and "/" not in tag else name


def _is_id(text: str, identifier: str) -> bool:
    bare = text.removeprefix("sha256:")
    return len(bare) >= 4 and identifier.removeprefix("sha256:").startswith(bare)
