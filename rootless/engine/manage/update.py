"""Update the restart policy and the limits of a container."""

from __future__ import annotations

from rootless.engine.manage.signals import take
from rootless.engine.state import events
from rootless.engine.state.container import (
    Container,
    changing_path,
    find,
    this_process,
    unlink,
    write_json,
    write_new,
)
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from rootless.engine.manage.stop import Outcome
    from rootless.engine.request import RunRequest
    from rootless.engine.state.records import ChangeRecord, ContainerChanges


def change(container: Container, names: list[str], act: Callable[[], None]) -> None:
    """Change container.json, which nobody else changes meanwhile.

    Killed half-way, a renamed one has two names: by this note the next `reconcile` takes one away.

    Raises:
        RlessError: of `act`; or another command is at it.
    """
    note, name = changing_path(container.id), container.facts["name"]
    record: ChangeRecord = {"owner": this_process(), "names": names}
    try:
        if not write_new(note, record):
            from rootless.engine.state import reconcile

            reconcile.reconcile()  # it may be that of a command that was killed
            if not write_new(note, record):
                raise RlessError(
                    f"container {name} is being changed by another command", "try again", 1
                )
        try:
            act()
        finally:
            unlink(note)
    except OSError as error:
        raise RlessError(f"cannot change container {name}: {error.strerror}", None, 1) from error


def update(references: Iterable[str], changes: dict[str, Any]) -> Iterator[Outcome]:
    """Change the restart policy and the limits of containers; a running one has them from now on.

    Args:
        changes: fields of the request: `restart` (name, max), and limits (`resources.UPDATABLE`).
    """
    policy = changes.get("restart")
    if changes.get("memory") == 0:
        changes.setdefault("memory_swap", 0)  # which is their sum
    for reference in references:
        try:
            container = find(reference)
            if policy is not None and container.facts["rm"] and policy["name"] != "no":
                raise RlessError(
                    f"cannot update container {container.facts['name']}: it is removed at its "
                    "end (--rm), so it has no restart policy",
                    exit_code=1,
                )
            change(container, [], lambda one=container: _change_request(one, changes))  # type: ignore[misc]
            running = take(container) if policy is not None else None
            if running is not None:
                if running.client is not None and policy is not None:
                    running.client.set_restart(policy)
                running.close()
            events.of_container("update", container)
            yield reference, None
        except RlessError as error:
            yield reference, RlessError(error.message, error.hint, 1)


def _change_request(container: Container, changes: dict[str, Any]) -> None:
    """Note what is changed for the next start; the limits are tried on a running one first."""
    from rootless.engine.request import RunRequest

    data = {**container.facts["request"], **changes}
    facts: ContainerChanges = {"request": data}
    if "restart" in changes:
        facts["restart"] = changes["restart"]
    limits = {name: value for name, value in changes.items() if name != "restart"}
    if limits:
        from rootless.engine import resources

        request = RunRequest.from_data(data)
        resources.check_update(RunRequest.from_data(container.facts["request"]), limits)
        resources.check(request)
        _limit(container, request, limits)
    container.update_facts(**facts)


def _limit(container: Container, request: RunRequest, changes: dict[str, Any]) -> None:
    """Set the limits of a running container, and note them for a restart by its policy.

    Raises:
        RlessError: the kernel refuses, or there is no control group that could have them.
    """
    from rootless.engine import resources
    from rootless.engine.exec.process import load_spec
    from rootless.runtime import cgroup

    if container.init() is None:
        return
    record = container.run_record()
    spec = load_spec(container)
    wanted = resources.wanted(request)
    if not request.pids_limit and "pids" in spec["linux"]["resources"]:
        wanted["pids"] = spec["linux"]["resources"]["pids"]  # the default
    spec["linux"]["resources"] = cgroup.change(
        record.get("cgroup") or None,
        record.get("manager", "none"),
        wanted,
        resources.lifted(request, changes),
        best_effort=request.limits == "try",
    )
    write_json(f"{container.directory}/config.json", spec)
