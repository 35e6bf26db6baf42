"""`rless exec`: run one more process in a running container, and attend it until it ends.

    1 container  it runs and is not paused; open a pidfd of its first process       (process.py)
    2 process    the container's record and the request -> an OCI `process` object  (process.py)
    3 start      the runtime joins the container, unseen by it, and executes the program
    4 attach     streams or terminal, signals, exit code

The container's own config.json decides what the process may do: capabilities, no_new_privs, system
calls, limits, umask. Nothing comes from the caller, least of all its environment.

The parent of the process is the keeper, which stands between the command and the process: see
`KeptProcess`.
"""

from __future__ import annotations

import errno
import os
import select

from rootless import paths
from rootless.engine.attach.detach_keys import Keys
from rootless.engine.attach.streams import Pump, Signals
from rootless.engine.exec.process import check, describe, hold, load_spec
from rootless.engine.state import container as containers
from rootless.engine.state import events
from rootless.errors import EXIT_TOOL, RlessError, SyscallError
from rootless.linux import prctl
from rootless.linux.process import (
    close_on_exec_from,
    close_others,
    kill_children,
    pidfd_open,
    pidfd_send_signal,
    show_as,
)
from rootless.linux.procfs import start_time
from rootless.linux.signals import signal
from rootless.linux.unix import receive_fd
from rootless.runtime import sync
from rootless.runtime.host import exec as runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeVar

    from rootless.engine.attach.terminal import Terminal
    from rootless.engine.monitor.config import KeeperConfig
    from rootless.engine.state.container import Container
    from rootless.oci.runtime_spec import Box

    Kept = TypeVar("Kept")

_CLEAN_UP = 2.0  # seconds that killed processes may take to end
_NOTHING_TO_KEEP: KeeperConfig = {
    "child": 0,
    "init_fd": -1,
    "pty_fd": -1,
    "client_fd": -1,
    "result_fd": -1,
    "directory": "",
    "id": "",
    "name": "",
    "attributes": "",
    "exec": "",
    "events": "",
}


class ExecRequest:
    """The options of `rless exec`.

    Attributes:
        env: "KEY=VALUE", those of files first. env_remove: KEYs to take from the container's.
        user: as typed; None: the container's own.
        detach_keys: as typed; None: ctrl-p,ctrl-q.
    """

    __slots__ = (
        "command",
        "container",
        "detach",
        "detach_keys",
        "env",
        "env_remove",
        "interactive",
        "privileged",
        "tty",
        "user",
        "workdir",
    )

    def __init__(self, container: str, command: list[str]) -> None:
        self.container = container
        self.command = command
        self.detach = False
        self.detach_keys: str | None = None
        self.env: list[str] = []
        self.env_remove: list[str] = []
        self.interactive = False
        self.privileged = False
        self.tty = False
        self.user: str | None = None
        self.workdir: str | None = None


def execute(request: ExecRequest) -> int:
    """Run a command in a running container; return its exit code, 0 for a detached one.

    Raises:
        RlessError: it does not run, or is paused (exit code 1); the command cannot be executed
            (126) or is not there (127).
    """
    close_on_exec_from(3)
    keys = Keys(request.detach_keys)
    container = containers.find(request.container)
    check(container)
    exec_id = os.urandom(32).hex()
    tell_created(request, container, exec_id)
    size: Box | None = None
    if request.tty:
        from rootless.engine.attach.terminal import window_size

        size = window_size()
    streams = Streams(request)
    signals = Signals(proxy=not request.detach)
    config = keeper_config(container, exec_id) if request.detach else None
    try:
        process = begin(KeptProcess, request, container, exec_id, streams, size, config=config)
        master = streams.receive_master()
        if request.detach:
            if master >= 0:
                hold_terminal(process.pidfd, master)
            return 0
        signals.forward(process.signal)
        code = Attendance(process, streams, master, keys if request.interactive else None).run()
        if code is None:
            hold_terminal(process.pidfd, master)
            events.of_container("exec_detach", container, execID=exec_id)
            return 0
        return code
    except RlessError:
        if number := signals.interrupted():
            return 128 + number
        raise
    finally:
        signals.restore()
        streams.close()


def tell_created(request: ExecRequest, container: Container, exec_id: str) -> None:
    """Record the event that a process is going to be run."""
    words = " ".join(request.command)
    events.of_container(f"exec_create: {words}", container, execID=exec_id)


def begin(
    keep: Callable[
        [Callable[[], runtime.Started], runtime.Init, Callable[[int], None], KeeperConfig | None],
        Kept,
    ],
    request: ExecRequest,
    container: Container,
    exec_id: str,
    streams: Streams,
    size: Box | None,
    *,
    config: KeeperConfig | None = None,
    ended: Callable[[int], None] | None = None,
) -> Kept:
    """Start the process, and close its ends of the streams.

    Args:
        keep: `KeptProcess`, or `Keeper` for a caller that has nothing else to do.
        size: of its terminal.
        config: as for `KeptProcess`.
        ended: called in the keeper, with the exit code, where that is no small program.

    Raises:
        RlessError: as `execute`.
    """

    def tell(action: str, **more: Any) -> None:
        events.of_container(action, container, execID=exec_id, **more)

    def start(entrant: runtime.Entrant) -> runtime.Started:
        started = entrant.start()
        tell(f"exec_start: {' '.join(request.command)}")
        return started

    def note(code: int) -> None:
        if ended is not None:
            ended(code)
        tell("exec_die", exitCode=code)

    init, cgroup = hold(container)
    spec = load_spec(container)
    description, complete = describe(request, container, spec)
    if size is not None:
        description["consoleSize"] = size
    try:
        # As much as can be before the forks: a page that is first written after one is copied.
        entrant = runtime.prepare(
            spec,
            description,
            init,
            cgroup=cgroup,
            cache_dir=f"{paths.storage_root()}/seccomp",
            stdio=streams.stdio,
            console_fd=streams.console,
            complete=complete,
        )
        process = keep(lambda: start(entrant), init, note, config)
    except RlessError as error:
        note(error.exit_code)
        raise
    streams.close_inner()
    return process


# -- 4 attach ------------------------------------------------------------------------------------


class Streams:
    """The pipes of a process, or the socket that brings its terminal.

    Attributes:
        stdio: the process's descriptors 0 to 2; None with a terminal.
        console: the process's end of the socket.
        stdin, stdout, stderr: our ends; -1: there is none.
    """

    def __init__(self, request: ExecRequest) -> None:
        self.stdin = self.stdout = self.stderr = self.console = self._socket = -1
        self.stdio: tuple[int, int, int] | None = None
        if request.tty:
            # Not the module `socket`, which takes 8 ms to import.
            import _socket

            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
            self._socket, self.console = ours.detach(), theirs.detach()
            return
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        stdin = stdout = stderr = null
        if not request.detach:
            self.stdout, stdout = os.pipe()
            self.stderr, stderr = os.pipe()
            if request.interactive:
                stdin, self.stdin = os.pipe()
                os.close(null)
        self.stdio = (stdin, stdout, stderr)

    def close_inner(self) -> None:
        """Close the process's ends."""
        for fd in {*(self.stdio or ()), self.console} - {-1}:
            os.close(fd)
        self.stdio, self.console = None, -1

    def receive_master(self) -> int:
        """Return the master of the terminal; -1 without one."""
        if self._socket < 0:
            return -1
        fd, self._socket = self._socket, -1
        return receive_fd(fd)

    def close(self) -> None:
        """Close all."""
        self.close_inner()
        for fd in {self.stdin, self.stdout, self.stderr, self._socket} - {-1}:
            try:
                os.close(fd)
            except OSError:
                pass  # the pump had it
        self.stdin = self.stdout = self.stderr = self._socket = -1


class Attendance(Pump):
    """Copies between the caller's streams and the process's, until it ends or the user detaches."""

    def __init__(
        self, process: KeptProcess, streams: Streams, master: int, keys: Keys | None
    ) -> None:
        super().__init__(process.result)
        self.process = process
        self.terminal: Terminal | None = None
        if master >= 0:
            from rootless.engine.attach.terminal import Terminal, resize

            self.terminal = Terminal(lambda rows, columns: resize(master, rows, columns))
            self.add_terminal(master, keys is not None, keys)
            return
        self.add_output(streams.stdout, 1)
        self.add_output(streams.stderr, 2)
        if streams.stdin >= 0:
            self.add_input(streams.stdin)
        streams.stdin = streams.stdout = streams.stderr = -1

    def run(self) -> int | None:
        """Return the exit code; None: the keys to detach were typed."""
        if self.terminal is None:
            return self._run()
        with self.terminal:
            return self._run()

    def _run(self) -> int | None:
        if not self.wait():
            return None
        code = self.process.code()
        self.drain(to_the_end=False)
        return code


# -- the keeper ----------------------------------------------------------------------------------


class KeptProcess:
    """A process in the container, and its parent, the keeper: our fork, in a session of its own.

    The pid namespace of a container ends only when all of its processes have been waited for, and
    their parents may be outside. The end of the container must not wait for a command that was
    stopped by ^Z or killed, or for a process 1 of this host that waits for no child. So the parent
    is a process that does nothing else. If the container shares its pid namespace, the keeper also
    kills the process and its descendants when the container ends.

    Attributes:
        pid, pidfd: the process. result: the keeper's report, in the frames of `sync`.
        keeper: [pid, start time] of the keeper.
    """

    def __init__(
        self,
        start: Callable[[], runtime.Started],
        init: runtime.Init,
        ended: Callable[[int], None],
        config: KeeperConfig | None = None,
    ) -> None:
        """Start the process; `ended` is called in the keeper, with the exit code.

        Args:
            config: with it the keeper executes a small program (helpers/monitor), and of its
                report there is only the end.

        Raises:
            RlessError: what `start` raises, or there is no such program.
        """
        self.result, writer = os.pipe()
        keeper = os.fork()
        if keeper == 0:
            try:
                os.close(self.result)
                _keep(start, init, writer, ended, config)
            finally:
                os._exit(EXIT_TOOL)
        os.close(writer)
        facts = sync.expect_ready(self.result)
        self.pid = facts["pid"]
        self.keeper = [keeper, start_time(keeper) or 0]
        self.pidfd = -1
        try:
            self.pidfd = pidfd_open(facts["pid"])
            if start_time(facts["pid"]) != facts["start"]:
                os.close(self.pidfd)
                self.pidfd = -1
        except SyscallError:
            pass  # it has ended, and was waited for

    def signal(self, number: int) -> None:
        """Signal the process; one that has ended is no error."""
        try:
            if self.pidfd >= 0:
                pidfd_send_signal(self.pidfd, number)
        except SyscallError as error:
            if error.errno != errno.ESRCH:
                raise

    def code(self) -> int:
        """Wait for its end; return the exit code, 128+n for one that signal n ended.

        Raises:
            RlessError: the keeper was killed.
        """
        try:
            code: int = sync.expect_ready(self.result)["code"]
        except sync.UnexpectedMessageError as error:
            raise RlessError("the keeper of the command was killed", exit_code=137) from error
        return code


class Keeper:
    """The caller as the keeper of a process that it has started.

    Attributes:
        pid, pidfd: the process. result: what others read the report from.
    """

    def __init__(
        self,
        start: Callable[[], runtime.Started],
        init: runtime.Init,
        ended: Callable[[int], None],
        config: KeeperConfig | None = None,
        report: tuple[int, int] | None = None,
    ) -> None:
        """Start the process.

        Args:
            ended, config: as for `KeptProcess`.
            report: a pipe; None: a new one.

        Raises:
            RlessError: as `KeptProcess`.
        """
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self.result, self._writer = report or os.pipe()
        self._init, self._ended, self._config = init, ended, config
        if init.shares_pids:
            prctl.set_child_subreaper()
        self._program = -1
        if config is not None and not init.shares_pids:
            from rootless.engine.monitor.execute import open_program

            self._program = open_program()
        self._started = start()
        self.pid, self.pidfd = self._started.pid, self._started.pidfd

    def keep(self) -> NoReturn:
        """Wait for the end of the process, without anything of what the caller was."""
        init, pidfd, writer = self._init, self.pidfd, self._writer
        _leave_caller({pidfd, init.pidfd, writer, self._program})
        if self._program >= 0 and self._config is not None:
            from rootless.engine.monitor.execute import exec_keeper

            self._config["child"] = self.pid
            self._config["init_fd"], self._config["result_fd"] = pidfd, writer
            exec_keeper(self._program, self._config)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if init.shares_pids:
            poll.register(init.pidfd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if pidfd in ready:
                break
            poll.unregister(init.pidfd)
            pidfd_send_signal(pidfd, signal.SIGKILL)
        code = self._started.wait()
        self._ended(code)
        try:
            sync.send(writer, sync.READY, {"code": code})
        except OSError:
            pass  # the command has gone
        if init.shares_pids:
            os.close(writer)
            _keep_orphans(init)
        os._exit(0)


def _keep(
    start: Callable[[], runtime.Started],
    init: runtime.Init,
    writer: int,
    ended: Callable[[int], None],
    config: KeeperConfig | None,
) -> NoReturn:
    try:
        os.setsid()  # the terminal's signals are for the command, which forwards them
        keeper = Keeper(start, init, ended, config, (-1, writer))
    except RlessError as error:
        sync.send(writer, sync.FAILED, sync.error_payload(error))
        os._exit(error.exit_code)
    except OSError as error:
        sync.send(writer, sync.FAILED, [f"exec: {error}", None, EXIT_TOOL])
        os._exit(EXIT_TOOL)
    sync.send(writer, sync.READY, {"pid": keeper.pid, "start": start_time(keeper.pid)})
    keeper.keep()


def _keep_orphans(init: runtime.Init) -> None:
    """Stay while descendants of the process remain, and kill them when the container ends."""
    poll = select.poll()
    poll.register(init.pidfd, select.POLLIN)
    try:
        while not poll.poll(1000):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        kill_children((), _CLEAN_UP)
    except ChildProcessError:
        pass  # there is nothing left


def hold_terminal(pidfd: int, master: int, reader: int = -1) -> None:
    """Leave a process behind that holds the terminal of another, until that one ends.

    The kernel hangs a terminal up with its last master; and what is written to it must go.

    Args:
        reader: the end of this pipe is that of who reads the terminal till then; -1: nobody does.
    """
    # The session may end with us, and the kernel hang it up before the child has left it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if pidfd < 0 or os.fork():
        return
    try:
        os.setsid()
        from rootless.engine.monitor.execute import exec_keeper, open_program

        program_fd = open_program()
        _leave_caller({pidfd, master, reader, program_fd})
        config: KeeperConfig = {
            **_NOTHING_TO_KEEP,
            "init_fd": pidfd,
            "pty_fd": master,
            "client_fd": reader,
        }
        exec_keeper(program_fd, config)
    finally:
        os._exit(0)


def keeper_config(container: Container, exec_id: str, directory: str = "") -> KeeperConfig:
    """Return what the small keeper must know to record the end; of the process nothing yet.

    Args:
        directory: where the exit code is recorded, by `records`; "": nowhere.
    """
    return {
        **_NOTHING_TO_KEEP,
        "directory": directory,
        "id": container.id,
        "name": container.facts["name"],
        "attributes": events.attributes_text(container.facts),
        "exec": exec_id,
        "events": events.path(),
    }


def _leave_caller(kept: set[int]) -> None:
    """Become a background process, without the caller's streams, terminal and arguments."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    show_as("rless: keeper of an exec")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    close_others(kept)
