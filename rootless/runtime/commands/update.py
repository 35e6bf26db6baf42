"""The verb `update`: change the limits of a running container."""

from __future__ import annotations

from rootless.errors import RlessError
from rootless.oci import validate
from rootless.runtime import cgroup
from rootless.runtime.host import lifecycle
from rootless.runtime.host.state import Record
from rootless.runtime.limits import asked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Options of the command line -> their places in `linux.resources`.
LIMITS = {
    "--memory": ("memory", "limit"),
    "--memory-swap": ("memory", "swap"),
    "--memory-reservation": ("memory", "reservation"),
    "--cpu-period": ("cpu", "period"),
    "--cpu-quota": ("cpu", "quota"),
    "--cpu-burst": ("cpu", "burst"),
    "--cpu-shares": ("cpu", "shares"),
    "--cpu-idle": ("cpu", "idle"),
    "--cpu-rt-period": ("cpu", "realtimePeriod"),
    "--cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "--cpuset-cpus": ("cpu", "cpus"),
    "--cpuset-mems": ("cpu", "mems"),
    "--blkio-weight": ("blockIO", "weight"),
    "--pids-limit": ("pids", "limit"),
}
_WORDS = frozenset({"--cpuset-cpus", "--cpuset-mems"})
_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def update(root: str, container_id: str, path: str | None, limits: dict[str, str]) -> None:
    """Change limits; those that are not named stay.

    Args:
        path: of a document as `linux.resources`; "-": standard input.
        limits: by the names of LIMITS.

    Raises:
        RlessError: it is not running, or a limit cannot be set. None is changed then.
    """
    record = Record(root, container_id)
    status = record.state()["status"]
    if status not in ("created", "running", "paused"):
        raise RlessError(f"container {container_id} is {status}, not running", exit_code=1)
    facts, spec = record.read(), record.read_spec()
    changes: dict[str, Any] = {}
    if path is not None:
        where = "/dev/stdin" if path == "-" else path
        changes = validate.check_resources(lifecycle.read_json(where), path)
    for name, text in limits.items():
        section, key = LIMITS[name]
        changes.setdefault(section, {})[key] = text if name in _WORDS else _number(name, text)
    validate.check_resources(changes, "update")
    linux = spec.setdefault("linux", {})
    whole = {**linux.get("resources", {})}
    for section, value in changes.items():
        old = whole.get(section)
        merges = isinstance(old, dict) and isinstance(value, dict)
        whole[section] = {**old, **value} if merges else value  # type: ignore[dict-item]
    manager = facts.get("manager", "none")
    cgroup.change(facts.get("cgroup"), manager, asked(whole), {}, best_effort=False)
    whole.get("memory", {}).pop("checkBeforeUpdate", None)  # it is of this update only
    linux["resources"] = whole
    record.write_spec(spec)


def _number(name: str, text: str) -> int:
    """Return a number, which may have a unit as 64m, or be -1 for no limit."""
    digits, factor = text, 1
    if text[-1:].lower() in _UNITS:
        digits, factor = text[:-1], _UNITS[text[-1:].lower()]
    if text == "-1":
        return -1
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise RlessError(f"{name} {text}: not a number", exit_code=1)
    return int(digits) * factor
