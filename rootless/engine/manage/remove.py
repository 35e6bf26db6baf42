"""Remove containers and all that they have on disk.

The run record is the lock of starts, stops and removals: a start and a removal create it
exclusively, and the second one reports the conflict.
"""

from __future__ import annotations

import os

from rootless.engine.manage.signals import Ends, Running, clear_dead, take
from rootless.engine.state import events
from rootless.engine.state.container import (
    Container,
    await_run_record,
    containers_root,
    find,
    is_owned,
    load,
    reserve_space,
)
from rootless.errors import CONFLICT, RlessError
from rootless.linux.signals import signal
from rootless.linux.tree import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rootless.engine.manage.stop import Outcome


def remove(
    references: Iterable[str], force: bool = False, volumes: bool = False
) -> Iterator[Outcome]:
    """Remove containers and all that they have on disk; yield what came of each, in order.

    Args:
        force: kill those that run: all are signalled, then all are waited for. One that is gone
            by itself meanwhile is removed, too.
        volumes: their anonymous volumes, too.
    """
    outcomes: dict[str, RlessError | None] = {}
    going: dict[str, Container] = {}
    ends, running = Ends(), []
    for reference in dict.fromkeys(references):
        outcomes[reference] = None
        try:
            container = find(reference)
            held = _take_to_remove(container, force)
            if held is not None:
                running.append(held)
                held.end(signal.SIGKILL)
                ends.add(held, None)
            going[reference] = container
        except RlessError as error:
            outcomes[reference] = error
    for held in running:
        ends.wait_down(held, signal.SIGKILL)
    claimed: list[Container] = []
    for reference, container in going.items():
        try:
            if _claim(container, force, volumes):
                claimed.append(container)
        except RlessError as error:
            outcomes[reference] = error
    failures = _delete_all(claimed, volumes)
    reserve_space()  # a full disk may have room for it again
    for reference, outcome in outcomes.items():
        identifier = going[reference].id if reference in going else ""
        yield reference, failures.get(identifier, outcome)


def _take_to_remove(container: Container, force: bool) -> Running | None:
    """Return a running container that may be killed; None: it does not run."""
    if force:
        return take(container)
    record = container.run_record()
    if record.get("removing") or not is_owned(record):
        return None
    state = container.status()[0]
    if state == "exited" and record.get("init"):
        await_run_record(container)  # its exit code is known, and its monitor still cleans up
        if not is_owned(container.run_record()):
            return None
    state = "being started" if state in ("created", "exited") else state
    raise RlessError(
        f"cannot remove container {container.facts['name']}: it is {state}",
        "stop the container before (rless stop), or use rless rm -f",
        1,
        CONFLICT,
    )


def _claim(container: Container, force: bool, volumes: bool) -> bool:
    """Make the container's run record ours, so that nobody starts it; False: it is gone.

    Raises:
        RlessError: another one is removing or starting it.
    """
    name = container.facts["name"]
    while True:
        if container.claim(rm=True, removing=True, volumes=volumes):
            current = load(container.id)
            if current is not None:
                container.facts = current.facts  # it may have another name since
            if os.path.lexists(container.directory):
                return True
            container.remove_run_record()
            return False
        record = container.run_record()
        if not is_owned(record):
            clear_dead(container)
        elif record.get("removing"):
            raise RlessError(
                f"removal of container {name} is already in progress", exit_code=1, kind=CONFLICT
            )
        elif not force:
            raise RlessError(
                f"cannot remove container {name}: it was started just now",
                "rless rm -f",
                1,
                kind=CONFLICT,
            )
        else:
            running = take(container)
            if running is not None:
                ends = Ends()
                running.end(signal.SIGKILL)
                ends.add(running, None)
                ends.wait_down(running, signal.SIGKILL)


def _delete_all(containers: list[Container], volumes: bool) -> dict[str, RlessError]:
    """Delete what containers have on disk; return id -> what went wrong.

    Names go first, directories after them, run records last: killed anywhere between, the
    next `reconcile` finishes it. Directories that have nothing of another id go without a user
    namespace; all the others in one.
    """
    failures: dict[str, RlessError] = {}
    foreign = []
    root_fd = os.open(containers_root(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for container in containers:
            try:
                if volumes or container.facts["rm"]:
                    _delete_volumes(container, [other.id for other in containers])
                container.forget_name()
                remove_tree(root_fd, container.id)
            except RlessError:
                foreign.append(container.id)
        if foreign:
            from rootless.image.store.ownership import everything
            from rootless.linux.idmap import call_in_userns

            said = call_in_userns(everything(), _delete_foreign, root_fd, foreign)
            failures = {name: RlessError(text, exit_code=1) for name, text in said.items()}
    finally:
        os.close(root_fd)
    for container in containers:
        if container.id not in failures:
            container.remove_run_record()
            events.of_container("destroy", container)
    return failures


def _delete_volumes(container: Container, going: list[str]) -> None:
    if any(mount["type"] == "volume" for mount in container.facts.get("mounts") or ()):
        from rootless.engine.state.volumes import remove_anonymous

        remove_anonymous(container, going)


def _delete_foreign(root_fd: int, names: list[str]) -> dict[str, str]:
    """Delete directories as root of all our ids; return name -> why not."""
    failures = {}
    for name in names:
        try:
            remove_tree(root_fd, name)
        except RlessError as error:
            failures[name] = error.message
    return failures
