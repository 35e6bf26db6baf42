"""What a user does to containers that exist: stop, kill, wait, rm, rename, update.

Theory of operation. Verbs take several containers, and do each step to all of them before they
wait: to stop fifty takes as long as the slowest of them. What fails for one is noted beside its
name and the others go on.

A container runs exactly as long as its monitor does: when that has ended, all is recorded and
cleaned up. So waiting is waiting for the monitor, by pidfd. Signals go through it, too, since it
may signal every id of the container and we may not; only where no monitor answers they go to the
first process directly.

Starts, stops and removals meet at the entry in `live`: it is made exclusively, by a start and by
a removal, and whoever comes second says so. Who only signals waits until a start that is under
way has got to its application.
"""

from __future__ import annotations

import os
import select
import time

from rootless.engine import events
from rootless.engine.container import (
    STOPPED,
    Container,
    changing_path,
    containers_root,
    drop_name,
    find,
    is_alive,
    load,
    put_ballast,
    read_json,
    signal_process,
    take_name,
    this_process,
    unlink,
    write_new,
)
from rootless.engine.monitor_client import connect
from rootless.errors import RlessError, SyscallError
from rootless.linux.process import pidfd_open, signal_number
from rootless.linux.tree import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from rootless.engine.monitor_client import Client

    # (the name as it was given, what went wrong)
    Outcome = tuple[str, RlessError | None]
else:
    # The module `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal

_FIRST_LOOK = 0.002  # seconds between two looks at a start that is under way; doubled each time
_LAST_LOOK = 0.1
_ASK_AGAIN = 50.0  # ms between two looks whether an application has a handler now
_START_TIME = 60.0  # seconds that a start may take before a stop gives up


class Running:
    """A running container in hand: its monitor, held so that it cannot be mistaken.

    Attributes:
        fd: readable when there may be news of the end.
        monitor: (pid, start time).
        deadline: when it is killed; None: never.
        lost: a signal that it had no handler for, which it gets once it has one; 0: none.
    """

    __slots__ = ("_down", "_end_fd", "_sent", "client", "container", "deadline", "lost", "monitor")

    def __init__(self, container: Container, entry: dict[str, Any]) -> None:
        self.container = container
        self.monitor = entry["monitor"]
        self._down, self._sent, self.lost = False, 0, 0
        self.client: Client | None = connect(container)
        self._end_fd = _open_process(self.monitor)
        self.deadline: float | None = None

    @property
    def fd(self) -> int:
        return self._end_fd if self.client is None else self.client.fd

    def has_ended(self) -> bool:
        """Tell, once `fd` can be read, whether the container has ended and all is recorded.

        The monitor says so; without its word its own end does. It may live on for a while, for
        readers that are slow.
        """
        if self.client is None:
            return True
        if self.client.wait(0) is not None:
            return True
        if self.client.gone:
            self.client.close()
            self.client = None
            if is_alive(self.monitor):
                self._ask_again()
        return False

    def _ask_again(self) -> None:
        """Connect anew: the monitor has just become another program, to start the container again.

        What it was asked for meanwhile is lost with the connection.
        """
        self.client = connect(self.container)
        if self.client is not None:
            if self._down:
                self.client.stop_restarts()
            if self._sent:
                self.client.forward(self._sent)

    def signal(self, number: int) -> bool:
        """Signal the container's first process; one that has ended is no error.

        Returns:
            False: it was not the application yet.
        """
        self._sent = number
        # Before it is sent: the monitor may tell of the end at once.
        events.of_container("kill", self.container, signal=number)
        if self.client is not None:
            try:
                return self.client.signal(number)
            except RlessError:
                return True  # it has ended, or is between two starts
        init = self.container.init()
        if init is not None:
            signal_process(init, number)
        return True

    def ask(self, number: int) -> None:
        """Signal it, for good: process 1 of a pid namespace loses what it has no handler for.

        So an application that is just starting would not hear of a stop. Asked after the signal:
        what it still does not catch then it cannot have got.
        """
        heard = self.signal(number) and self._catches(number)
        self.lost = 0 if heard or number == signal.SIGKILL else number

    def ask_again(self) -> None:
        """Signal it once more if it has got a handler for what was lost."""
        if self.lost and self._catches(self.lost):
            self.ask(self.lost)

    def _catches(self, number: int) -> bool:
        """Tell whether the first process catches a signal, or keeps it for later."""
        init = self.container.init()
        if init is None:
            return False
        try:
            with open(f"/proc/{init[0]}/status", "rb") as file:
                lines = [line for line in file if line.startswith((b"SigBlk:", b"SigCgt:"))]
        except OSError:
            return False  # it has just ended
        return any(int(line.split()[1], 16) >> (number - 1) & 1 for line in lines)

    def keep_down(self) -> None:
        """Tell the monitor that this end is wanted: no restart by policy."""
        self._down = True
        if self.client is not None:
            self.client.stop_restarts()

    def close(self) -> None:
        """Let go of it."""
        if self.client is not None:
            self.client.close()
            self.client = None
        if self._end_fd >= 0:
            os.close(self._end_fd)
            self._end_fd = -1


def _open_process(process: Sequence[int] | None) -> int:
    """Return a pidfd of a process known by pid and start time; -1: it has ended."""
    if not process:
        return -1
    try:
        pidfd = pidfd_open(process[0])
    except SyscallError:
        return -1
    if is_alive((process[0], process[1])):
        return pidfd
    os.close(pidfd)
    return -1


def take(container: Container) -> Running | None:
    """Return a container that runs, or waits for a restart, in hand; None: it does neither.

    A start that is under way is waited for.

    Raises:
        RlessError: that start takes too long.
    """
    pause, deadline = _FIRST_LOOK, time.monotonic() + _START_TIME
    while True:
        entry = container.live()
        monitor = is_alive(entry.get("monitor"))
        if not monitor and not is_alive(entry.get("owner")):
            return None  # it is not there, or was killed: sweep's
        if entry.get("removing"):
            return None
        if monitor and entry.get("init"):
            held = Running(container, entry)
            if held.fd >= 0:
                return held
            held.close()
            continue  # it ended just now
        if time.monotonic() > deadline:
            raise RlessError(
                f"container {container.facts['name']} is being started and does not come up",
                "rless rm -f removes it",
                1,
            )
        time.sleep(pause)
        pause = min(2 * pause, _LAST_LOOK)


class _Ends:
    """Wait for several containers to end, and kill each one that is late."""

    def __init__(self) -> None:
        self._waiting: list[Running] = []

    def add(self, running: Running, seconds: float | None) -> None:
        """Wait for this one, too; after `seconds` it is killed, None: never."""
        running.deadline = None if seconds is None else time.monotonic() + seconds
        self._waiting.append(running)

    def wait_for(self, running: Running) -> None:
        """Wait until this one has ended; the others get what is due to them meanwhile."""
        while running in self._waiting:
            poll = select.poll()
            for other in self._waiting:
                poll.register(other.fd, select.POLLIN)
            due = [other.deadline for other in self._waiting if other.deadline is not None]
            left = None if not due else max(0.0, 1000 * (min(due) - time.monotonic()))
            if any(other.lost for other in self._waiting):
                left = _ASK_AGAIN if left is None else min(left, _ASK_AGAIN)
            ready = {fd for fd, _ in poll.poll(left)}
            now = time.monotonic()
            for other in self._waiting[:]:
                other.ask_again()
                if other.fd in ready and other.has_ended():
                    self._waiting.remove(other)
                elif other.deadline is not None and other.deadline <= now:
                    other.deadline, other.lost = None, 0
                    other.signal(signal.SIGKILL)
        running.close()
        _clear(running.container)

    def wait_down(self, running: Running, number: int) -> None:
        """Wait until one that was asked to end is down for good."""
        self.wait_for(running)
        # It may have ended by itself just before it was asked, and been started by its policy.
        again = take(running.container)
        if again is not None and again.monitor == running.monitor:
            _end(again, number)
            self.add(again, 0.0)
            self.wait_for(again)
        elif again is not None:
            again.close()  # somebody has started it since


def _clear(container: Container) -> None:
    """Clear what a killed monitor left, if this one was."""
    entry = container.live()
    if entry and not any(is_alive(entry.get(process)) for process in ("owner", "monitor")):
        from rootless.engine import sweep

        sweep.clear(container)


def _thaw(running: Running) -> None:
    """Let a paused container go on: else it could not obey a signal."""
    if running.container.status()[0] == "paused":
        from rootless.engine.pause import thaw

        thaw(running.container)


# -- stop, kill, restart ---------------------------------------------------------------------------


def stop(
    references: Iterable[str],
    timeout: int | None = None,
    name: str | None = None,
    by_user: bool = True,
) -> Iterator[Outcome]:
    """Ask containers to end by their stop signals; kill those that have not after a while.

    One that does not run is stopped already. Yields what came of each, in order.

    Args:
        timeout: seconds; None: each container's own; -1: wait for ever.
        name: another signal than each container's own.
        by_user: the user wants it down, also after a reboot.
    """
    ends = _Ends()
    asked: list[tuple[str, Running | None, RlessError | None]] = []
    for reference in references:
        try:
            running = take(find(reference))
            if running is not None:
                facts = running.container.facts
                number = facts["stop_signal"] if name is None else signal_number(name)
                limit = facts["stop_timeout"] if timeout is None else timeout
                if by_user:
                    _mark_stopped(running.container)
                _end(running, number)
                ends.add(running, None if limit < 0 else limit)
            asked.append((reference, running, None))
        except RlessError as error:
            asked.append((reference, None, error))
    for reference, running, outcome in asked:
        if running is not None:
            ends.wait_down(running, signal.SIGKILL)
            events.of_container("stop", running.container)
        yield reference, outcome


def _mark_stopped(container: Container) -> None:
    """Note that the user wants it down: unless-stopped does not bring it back after a boot."""
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        os.close(os.open(f"{container.directory}/{STOPPED}", flags, 0o600))
    except OSError:
        pass  # it is removed just now, or the disk is full: then it may come back


def _end(running: Running, number: int) -> None:
    """Send a signal that is to end the container for good."""
    running.keep_down()
    running.ask(number)
    _thaw(running)


def kill(references: Iterable[str], name: str = "SIGKILL") -> Iterator[Outcome]:
    """Send a signal, by name or number, to containers; after SIGKILL wait for their ends."""
    number = signal_number(name)
    ends = _Ends()
    asked: list[tuple[str, Running | None, RlessError | None]] = []
    for reference in references:
        try:
            container = find(reference)
            running = take(container)
            if running is None:
                raise RlessError(
                    f"cannot kill container {container.facts['name']}: it is not running",
                    exit_code=1,
                )
            # As Docker: by these two the user wants it down, by others she tells it something.
            if number in (signal.SIGKILL, container.facts["stop_signal"]):
                _mark_stopped(container)
                _end(running, number)
            else:
                running.signal(number)
            if number == signal.SIGKILL:
                ends.add(running, None)
            else:
                running.close()
                running = None
            asked.append((reference, running, None))
        except RlessError as error:
            asked.append((reference, None, error))
    for reference, running, outcome in asked:
        if running is not None:
            ends.wait_down(running, number)
        yield reference, outcome


def restart(
    references: Iterable[str], timeout: int | None = None, name: str | None = None
) -> Iterator[Outcome]:
    """Stop containers and start them again, with what they were made of."""
    from rootless.engine.start import start

    for reference, outcome in stop(references, timeout, name):
        if outcome is None:
            try:
                container = find(reference)
                start(container)
                events.of_container("restart", container)
            except RlessError as failure:
                yield reference, failure
                continue
        yield reference, outcome


# -- wait ------------------------------------------------------------------------------------------

NOT_RUNNING, NEXT_EXIT, REMOVED = "not-running", "next-exit", "removed"


def wait(
    references: Iterable[str], condition: str = NOT_RUNNING
) -> Iterator[tuple[int, RlessError | None]]:
    """Yield the exit codes of containers, in order, each once it has ended.

    Args:
        condition: NOT_RUNNING: it does not run now; NEXT_EXIT: it ends from now on; REMOVED: it
            is there no more.
    """
    waits: list[tuple[_Exit | None, RlessError | None]] = []
    for reference in references:
        try:
            waits.append((_Exit(find(reference)), None))
        except RlessError as error:
            waits.append((None, error))
    for awaited, outcome in waits:
        if awaited is None:
            yield 0, outcome
            continue
        try:
            yield awaited.code(condition), None
        except RlessError as failure:
            yield 0, failure


class _Exit:
    """The next end of a container; held from the start, since it may be gone by then."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._before = container.finished()
        self._running = take(container)

    def code(self, condition: str) -> int:
        """Wait, and return the exit code."""
        while self._running is None and condition == NEXT_EXIT:
            if load(self._container.id) is None:
                raise RlessError(f"container {self._container.facts['name']} is gone", exit_code=1)
            if self._container.finished() not in (None, self._before):
                break  # it has come and gone between two looks
            time.sleep(_LAST_LOOK)
            self._running = take(self._container)
        code = self._recorded() if self._running is None else self._wait(self._running)
        while condition == REMOVED and os.path.lexists(self._container.directory):
            time.sleep(_LAST_LOOK)
        return code

    def _wait(self, running: Running) -> int:
        """Wait for this end, after which a restart by policy may follow."""
        poll = select.poll()
        try:
            while True:
                poll.register(running.fd, select.POLLIN)
                fd = running.fd
                poll.poll()
                if running.has_ended():
                    break
                poll.unregister(fd)
            code = None if running.client is None else running.client.code
            _clear(self._container)
            return self._recorded() if code is None else code
        finally:
            running.close()

    def _recorded(self) -> int:
        ended = read_json(f"{self._container.directory}/exit.json")
        return int(ended["code"]) if ended else self._container.status()[1] or 0


# -- rm --------------------------------------------------------------------------------------------


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
    ends, running = _Ends(), []
    for reference in dict.fromkeys(references):
        outcomes[reference] = None
        try:
            container = find(reference)
            held = _take_to_remove(container, force)
            if held is not None:
                running.append(held)
                _end(held, signal.SIGKILL)
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
    put_ballast()  # a full disk may have room for it again
    for reference, outcome in outcomes.items():
        identifier = going[reference].id if reference in going else ""
        yield reference, failures.get(identifier, outcome)


def _take_to_remove(container: Container, force: bool) -> Running | None:
    """Return a running container that may be killed; None: it does not run."""
    if force:
        return take(container)
    entry = container.live()
    if entry.get("removing") or not any(is_alive(entry.get(p)) for p in ("owner", "monitor")):
        return None
    state = container.status()[0]
    state = "being started" if state in ("created", "exited") else state
    raise RlessError(
        f"cannot remove container {container.facts['name']}: it is {state}",
        "stop it first (rless stop), or use rless rm -f",
        1,
    )


def _claim(container: Container, force: bool, volumes: bool) -> bool:
    """Make the container's entry in `live` ours, so that nobody starts it; False: it is gone.

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
            container.forget_live()
            return False
        held = container.live()
        if not any(is_alive(held.get(process)) for process in ("owner", "monitor")):
            _clear(container)
        elif held.get("removing"):
            raise RlessError(f"removal of container {name} is already in progress", exit_code=1)
        elif not force:
            raise RlessError(
                f"cannot remove container {name}: it was started just now", "rless rm -f", 1
            )
        else:
            running = take(container)
            if running is not None:
                ends = _Ends()
                _end(running, signal.SIGKILL)
                ends.add(running, None)
                ends.wait_down(running, signal.SIGKILL)


def _delete_all(containers: list[Container], volumes: bool) -> dict[str, RlessError]:
    """Delete what containers have on disk; return id -> what went wrong.

    Names go first, directories after them, entries in `live` last: killed anywhere between, the
    next sweep finishes it. Directories that have nothing of another id go without a user
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
            from rootless.image.ownership import everything
            from rootless.linux.idmap import call_in_userns

            said = call_in_userns(everything(), _delete_foreign, root_fd, foreign)
            failures = {name: RlessError(text, exit_code=1) for name, text in said.items()}
    finally:
        os.close(root_fd)
    for container in containers:
        if container.id not in failures:
            container.forget_live()
            events.of_container("destroy", container)
    return failures


def _delete_volumes(container: Container, going: list[str]) -> None:
    if any(mount["anonymous"] for mount in container.facts.get("mounts") or ()):
        from rootless.engine.volumes import remove_anonymous

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


# -- rename, update --------------------------------------------------------------------------------


def rename(reference: str, name: str) -> None:
    """Give a container another name, running or not.

    Raises:
        RlessError: the name is another one's, or its own.
    """
    container = find(reference)
    old = container.facts["name"]
    if name == old:
        raise RlessError(f"container {old} has that name already", exit_code=1)
    _change(container, [old, name], lambda: _change_name(container, old, name))
    events.of_container("rename", container, oldName=old)


def _change(container: Container, names: list[str], change: Callable[[], None]) -> None:
    """Change container.json, which nobody else changes meanwhile.

    Killed half-way, a renamed one has two names: by this note the next sweep takes one away.

    Raises:
        RlessError: of `change`; or another command is at it.
    """
    note, name = changing_path(container.id), container.facts["name"]
    entry = {"owner": this_process(), "names": names}
    try:
        if not write_new(note, entry):
            from rootless.engine import sweep

            sweep.sweep()  # it may be that of a command that was killed
            if not write_new(note, entry):
                raise RlessError(
                    f"container {name} is being changed by another command", "try again", 1
                )
        try:
            change()
        finally:
            unlink(note)
    except OSError as error:
        raise RlessError(f"cannot change container {name}: {error.strerror}", None, 1) from error


def _change_name(container: Container, old: str, name: str) -> None:
    current = load(container.id)  # now that nobody else renames it
    if current is None or current.facts["name"] != old or _is_going(container):
        raise RlessError(f"container {old} was renamed or removed just now", exit_code=1)
    try:
        take_name(container.id, name)
        container.update_facts(name=name)
    except RlessError as error:
        raise RlessError(error.message, error.hint, 1) from error
    except OSError:
        drop_name(name, container.id)
        raise
    drop_name(old, container.id)
    running = take(container)
    if running is not None:
        if running.client is not None:
            running.client.rename(name)
        running.close()
    if _is_going(container):
        drop_name(name, container.id)  # who removes it may know the old one only


def _is_going(container: Container) -> bool:
    """Tell whether a container is being removed, or is gone."""
    return bool(container.live().get("removing")) or load(container.id) is None


def update(references: Iterable[str], policy: dict[str, Any]) -> Iterator[Outcome]:
    """Change the restart policy of containers; a running one has it from now on.

    Args:
        policy: name (no, on-failure, always, unless-stopped) and max.
    """
    for reference in references:
        try:
            container = find(reference)
            if container.facts["rm"] and policy["name"] != "no":
                raise RlessError(
                    f"cannot update container {container.facts['name']}: it is removed at its "
                    "end (--rm), so it has no restart policy",
                    exit_code=1,
                )
            _change(container, [], lambda one=container: _change_policy(one, policy))  # type: ignore[misc]
            running = take(container)
            if running is not None:
                if running.client is not None:
                    running.client.set_restart(policy)
                running.close()
            events.of_container("update", container)
            yield reference, None
        except RlessError as error:
            yield reference, error


def _change_policy(container: Container, policy: dict[str, Any]) -> None:
    request = {**container.facts["request"], "restart": policy}
    container.update_facts(restart=policy, request=request)
