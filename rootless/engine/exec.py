"""`rless exec`: one more process in a running container, and its streams until its end.

    1 container  it runs, and is not paused; its first process is held
    2 process    the container's record and the wishes -> an OCI `process` object
    3 start      the runtime joins the container, out of sight, and becomes the program
    4 attach     streams or terminal, signals, exit code

What the process may do comes from the container's own config.json: capabilities, no_new_privs,
system calls, limits, mode mask. Nothing comes from the caller, and its environment least of all.

The pid namespace of the container ends with its first process, and with it whatever was started
in there. Where the container has none of its own (`--pid host`), its control group does that;
where it has neither, a keeper does: a process that waits for the container's end.
"""

from __future__ import annotations

import os
import select

from rootless import jsontext, paths
from rootless.engine import container as containers
from rootless.engine import events
from rootless.engine.attach import Pump, Signals
from rootless.engine.keys import Keys
from rootless.engine.pause import is_paused
from rootless.engine.wires import receive_fd
from rootless.errors import EXIT_CANNOT_EXECUTE, RlessError, SyscallError
from rootless.linux.caps import NAMES, last_capability
from rootless.linux.openat2 import openat2
from rootless.linux.process import close_on_exec_from, close_others, pidfd_send_signal, show_as
from rootless.runtime import exec as runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from rootless.engine.container import Container
    from rootless.engine.terminal import Terminal
    from rootless.oci.runtime_spec import Capabilities, Process, Spec

_USERS_LIMIT = 1 << 20  # bytes of /etc/passwd or /etc/group that are read
_KILL = 9


class ExecRequest:
    """Hold all that `rless exec` can ask.

    Attributes:
        env: "KEY=VALUE", files first. env_remove: KEYs to take from the container's.
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
    init = hold(container)
    name, image = container.facts["name"], container.facts["image"]
    exec_id = os.urandom(32).hex()
    shown = " ".join(request.command)

    def tell(action: str, **more: Any) -> None:
        attributes = {"execID": exec_id, "image": image, "name": name}
        events.record(action, "container", container.id, **attributes, **more)

    tell(f"exec_create: {shown}")
    spec = load_spec(container)
    description, prepare = describe(request, container, spec)
    if request.tty:
        from rootless.engine.terminal import window_size

        if size := window_size():
            description["consoleSize"] = size
    streams = Streams(request)
    signals = Signals(proxy=not request.detach)
    try:
        started = runtime.start(
            spec,
            description,
            init,
            cgroup=container.live().get("cgroup") or None,
            cache_dir=f"{paths.storage_root()}/seccomp",
            stdio=streams.stdio,
            console_fd=streams.console,
            prepare=prepare,
        )
        streams.close_inner()
        tell(f"exec_start: {shown}")
        master = streams.receive_master()
        if init.shares_pids and not container.live().get("cgroup"):
            keep(started.pidfd, init.pidfd, -1)
        if request.detach:
            if master >= 0:
                keep(started.pidfd, -1, master)
            return 0
        signals.forward(lambda number: _signal(started.pidfd, number))
        code = Attendance(started, streams, master, keys if request.interactive else None).run()
        if code is None:
            keep(started.pidfd, -1, master)
            tell("exec_detach")
            return 0
        tell("exec_die", exitCode=code)
        return code
    except RlessError as error:
        if number := signals.interrupted():
            return 128 + number
        tell("exec_die", exitCode=error.exit_code)
        raise
    finally:
        signals.restore()
        streams.close()


# -- 1 container ---------------------------------------------------------------------------------


def hold(container: Container) -> runtime.Init:
    """Hold the first process of a container that runs and is not paused.

    Raises:
        RlessError: it does not, with Docker's words and exit code.
    """
    name = container.facts["name"]
    process = container.init()
    if process is None:
        raise RlessError(
            f"container {name} is not running", f"start it first (rless start {name})", 1
        )
    if is_paused(container):
        raise RlessError(
            f"container {name} is paused",
            f"unpause the container before exec (rless unpause {name})",
            1,
        )
    return runtime.Init(*process)


def load_spec(container: Container) -> Spec:
    """Return the config that the container was started with.

    Raises:
        RlessError: it cannot be read.
    """
    path = f"{container.directory}/config.json"
    try:
        with open(path, "rb") as file:
            spec: Spec = jsontext.loads(file.read())
    except (OSError, ValueError) as error:
        raise RlessError(f"cannot read {path}: {error}") from error
    return spec


# -- 2 process -----------------------------------------------------------------------------------


def describe(
    request: ExecRequest, container: Container, spec: Spec
) -> tuple[Process, Callable[[Process], None] | None]:
    """Return the `process` object, and what completes it inside, where only there it is known."""
    own = spec["process"]
    environment = dict(entry.partition("=")[::2] for entry in own.get("env", []))
    if request.tty:
        environment.setdefault("TERM", "xterm")
    for name in request.env_remove:
        environment.pop(name, None)
    asked = dict(entry.partition("=")[::2] for entry in request.env)
    environment.update(asked)
    user = dict(own.get("user", {}))
    description: Process = {
        "terminal": request.tty,
        "user": user,  # type: ignore[typeddict-item]
        "args": request.command,
        "env": _list(environment),
        "cwd": request.workdir or own.get("cwd", "/"),
        "rlimits": own.get("rlimits", []),
        "capabilities": capabilities(own, user.get("uid", 0), request.privileged),  # type: ignore[arg-type]
    }
    if request.user is None:
        return description, None
    from rootless.image.user import resolve_user

    wanted = request.user
    has_home = "HOME" in asked or _chose_home(container)
    has_group = _mapped_groups(container, spec)

    def prepare(description: Process) -> None:
        try:
            uid, gid, groups, home = resolve_user(
                wanted, passwd=_read("/etc/passwd"), group=_read("/etc/group")
            )
        except RlessError as error:
            raise RlessError(error.message, error.hint, EXIT_CANNOT_EXECUTE) from error
        user.update(uid=uid, gid=gid, additionalGids=[one for one in groups if has_group(one)])
        if not has_home:
            environment["HOME"] = home
        description["env"] = _list(environment)
        description["capabilities"] = capabilities(own, uid, request.privileged)

    return description, prepare


def _list(environment: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environment.items()]


def capabilities(own: Process, uid: int, privileged: bool) -> Capabilities:
    """Return the five sets: the container's bounding set, or all that there are.

    Root has what is in the bounding set, others have nothing, whoever the container runs as.
    """
    bounding = list(own.get("capabilities", {}).get("bounding", []))
    if privileged:
        bounding = list(NAMES[: last_capability() + 1])
    held = bounding if uid == 0 else []
    return {
        "bounding": bounding,
        "effective": held,
        "permitted": held,
        "inheritable": [],
        "ambient": [],
    }


def _chose_home(container: Container) -> bool:
    """Tell whether the image or the user set HOME; else it is that of the container's user."""
    image = (container.facts.get("image_config") or {}).get("Env") or []
    request = (container.facts.get("request") or {}).get("env") or []
    return any(entry.startswith("HOME=") for entry in (*image, *request))


def _mapped_groups(container: Container, spec: Spec) -> Callable[[int], bool]:
    """Return what tells whether a group of the image is in the map; others are lost, as in run."""
    extents = [
        (entry["containerID"], entry["size"])
        for entry in spec.get("linux", {}).get("gidMappings", [])
    ] or [(first, size) for first, _, size in container.idmap().gids]

    def is_mapped(gid: int) -> bool:
        return any(first <= gid < first + size for first, size in extents)

    return is_mapped


def _read(path: str) -> bytes:
    """Return the start of a file beneath "/" that may be anything; b"" for what is no file.

    Where it runs: in the container's namespaces, as its root (security class 17).
    """
    import stat  # loaded by now

    root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    fd = -1
    try:
        # Looked at before it is opened: to open a device or a FIFO can have effects.
        handle = openat2(root_fd, path, os.O_PATH)
        regular = stat.S_ISREG(os.fstat(handle).st_mode)
        os.close(handle)
        if not regular:
            return b""
        fd = openat2(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        data = b""
        while len(data) < _USERS_LIMIT and (
            chunk := os.read(fd, min(65536, _USERS_LIMIT - len(data)))
        ):
            data += chunk
        return data
    except (SyscallError, OSError):
        return b""
    finally:
        os.close(root_fd)
        if fd >= 0:
            os.close(fd)


# -- 4 attach ------------------------------------------------------------------------------------


class Streams:
    """The pipes of a process, or the socket that brings its terminal.

    Attributes:
        stdio: its descriptors 0 to 2; None with a terminal.
        console: its end of the socket.
        stdin, stdout, stderr: our ends; -1 for what there is not.
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
        """Close what is the process's."""
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
    """Copies between the caller's streams and the process's, until it ends or we leave."""

    def __init__(
        self, started: runtime.Started, streams: Streams, master: int, keys: Keys | None
    ) -> None:
        super().__init__(started.pidfd)
        self.started = started
        self.terminal: Terminal | None = None
        if master >= 0:
            from rootless.engine.terminal import Terminal, resize

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
        code = self.started.wait()
        self.drain(to_the_end=False)
        return code


def _signal(pidfd: int, number: int) -> None:
    try:
        pidfd_send_signal(pidfd, number)
    except SyscallError as error:
        if error.errno != 3:  # it has just ended
            raise


# -- the keeper ----------------------------------------------------------------------------------


def keep(pidfd: int, init_pidfd: int, master: int) -> None:
    """Leave a process behind that looks after another until that one ends.

    Args:
        init_pidfd: whose end is its end too, where no kernel object sees to it; or -1.
        master: of the terminal, which the kernel would hang up with its last master; or -1.
    """
    if os.fork() == 0:
        try:
            os.setsid()
            show_as("rless: keeper of an exec")
            _keep(pidfd, init_pidfd, master)
        finally:
            os._exit(0)


def _keep(pidfd: int, init_pidfd: int, master: int) -> NoReturn:
    import _signal as signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    close_others({pidfd, init_pidfd, master})
    poll = select.poll()
    for fd in (pidfd, init_pidfd, master):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == pidfd:
                os._exit(0)
            if fd == init_pidfd:
                try:
                    pidfd_send_signal(pidfd, _KILL)
                except SyscallError:
                    pass  # it has just ended
                poll.unregister(fd)
            elif not _drain(fd):
                poll.unregister(fd)


def _drain(master: int) -> bool:
    """Read what nobody wants to see; False: no more will come."""
    try:
        return bool(os.read(master, 65536))
    except OSError:
        return False
