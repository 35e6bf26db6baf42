"""The operations of the OCI runtime specification (runtime.md, section Operations).

create  config -> record -> cgroup -> init (parent.begin), which waits at its start FIFO
start   a byte is written to the FIFO; a caller that waits here learns whether the program runs
kill    a signal to the first process, or to all
delete  the remaining processes are killed, cgroup and record removed, the hooks `poststop` run
run     all of it, in the foreground unless detached
"""

from __future__ import annotations

import errno
import os
import select
import time

from rootless import jsontext, paths
from rootless.errors import RlessError, SyscallError
from rootless.linux import files
from rootless.linux.process import pidfd_open, pidfd_send_signal
from rootless.linux.procfs import start_time
from rootless.linux.signals import signal
from rootless.oci import validate
from rootless.runtime import cgroup as cgroups
from rootless.runtime.cgroup import cgroupfs
from rootless.runtime.cgroup.base import CgroupRequest
from rootless.runtime.host import parent
from rootless.runtime.host.optional_features import OptionalFeatures, state_of
from rootless.runtime.host.state import Record
from rootless.runtime.inside import mounts
from rootless.runtime.limits import asked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.oci.runtime_spec import Spec, State
    from rootless.runtime.host.console import Console
    from rootless.runtime.host.sdnotify import Relay

_CONFIG_LIMIT = 16 << 20  # bytes


def load(bundle: str, config: str | None = None) -> Spec:
    """Return the checked config of a bundle, with `root.path` absolute.

    Args:
        config: its path, which counts from the bundle.

    Raises:
        RlessError: no config, bad JSON, or a field that cannot be honoured, by its JSON path.
    """
    path = os.path.join(bundle, config or "config.json")
    spec = validate.check(read_json(path), path)
    spec["root"]["path"] = os.path.join(bundle, spec["root"]["path"])
    for mount in spec.get("mounts", ()):
        if mounts.is_bind(mount) and mount.get("source"):
            mount["source"] = os.path.join(bundle, mount["source"])
    linux = spec.setdefault("linux", {})
    if not linux.get("uidMappings") and not linux.get("gidMappings"):
        from rootless.runtime.host import usermap

        usermap.complete(linux)
    return spec


def read_json(path: str) -> Any:
    """Return the document of a JSON file that somebody else wrote.

    Raises:
        RlessError: it cannot be read, is too large, or is no JSON.
    """
    try:
        # O_NONBLOCK: a FIFO must not hang us.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(fd, "rb") as file:
            text = file.read(_CONFIG_LIMIT + 1) or b""
    except OSError as error:
        raise RlessError(f"cannot read {path}: {error.strerror}", exit_code=1) from error
    if len(text) > _CONFIG_LIMIT:
        raise RlessError(f"{path} is larger than {_CONFIG_LIMIT >> 20} MiB", exit_code=1)
    try:
        return jsontext.loads(text)
    except (ValueError, RecursionError) as error:
        raise RlessError(f"{path} is not JSON: {error}", exit_code=1) from error


def _cgroup_request(spec: Spec, container_id: str, manager: str | None) -> CgroupRequest:
    """Return what the config asks for its control group.

    With systemd `cgroupsPath` is SLICE:PREFIX:NAME, as runc and crun have it. With cgroupfs an
    absolute path counts from the mount point, where we may write there; any other is a name in
    the group that is delegated to us.
    """
    linux = spec.get("linux", {})
    absolute = linux.get("cgroupsPath", "").startswith("/")
    path = linux.get("cgroupsPath", "").strip("/")
    if manager == "systemd":
        request = CgroupRequest(f"rless-{container_id}", manager, required=True)
        if path:
            parts = path.split(":")
            if len(parts) != 3 or not parts[2]:
                raise RlessError(
                    f"linux.cgroupsPath: {path} is not SLICE:PREFIX:NAME",
                    "which the control group manager systemd takes",
                    1,
                )
            request.parent = parts[0] or None
            request.name = "-".join(part for part in parts[1:] if part)
    else:
        # As runc and crun: systemd is asked only if that is asked for.
        request = CgroupRequest(
            f"rless-{container_id}" if path in ("", ".", "..") else path,
            manager or "cgroupfs",
            required=manager is not None,
        )
        if absolute and path and manager != "none" and cgroupfs.can_hold(path):
            request.parent, request.name = os.path.split(os.path.normpath(f"/{path}"))
            request.required = True
    request.resources = asked(linux.get("resources", {}))
    return request


class Options:
    """The options of create and run, beside the id.

    Attributes:
        keep_fds: descriptors that the application inherits.
        listen_fds: how many of them are sockets that a service manager opened.
        notify_socket: of the service manager.
    """

    __slots__ = (
        "bundle",
        "cgroup_manager",
        "config",
        "console_socket",
        "detach",
        "keep",
        "keep_fds",
        "listen_fds",
        "new_keyring",
        "notify_socket",
        "pid_file",
        "pidfd_socket",
        "use_pivot",
    )

    def __init__(self) -> None:
        self.bundle = os.getcwd()
        self.cgroup_manager: str | None = None
        self.config: str | None = None
        self.console_socket: str | None = None
        self.detach = False
        self.keep = False
        self.keep_fds: tuple[int, ...] = ()
        self.listen_fds = 0
        self.new_keyring = True
        self.notify_socket: str | None = None
        self.pid_file: str | None = None
        self.pidfd_socket: str | None = None
        self.use_pivot = True


def create(root: str, container_id: str, options: Options) -> parent.Begun:
    """Create a container, whose init then waits for `start`.

    Raises:
        RlessError: of any step. Nothing is left then.
    """
    bundle = os.path.abspath(options.bundle)
    return _make(root, container_id, bundle, load(bundle, options.config), options)


def _make(
    root: str,
    container_id: str,
    bundle: str,
    spec: Spec,
    options: Options,
    foreground: bool = False,
    console: Console | None = None,
) -> parent.Begun:
    """Create a container of a config that is loaded.

    Args:
        foreground: it ends with the caller, who hears himself of what fails.
        console: the caller's own terminal, without --console-socket.
    """
    wants_terminal = bool(spec["process"].get("terminal"))
    if wants_terminal != (options.console_socket is not None or console is not None):
        need = "needs" if wants_terminal else "allows no"
        raise RlessError(f"process.terminal {need} --console-socket", exit_code=1)
    record = Record(root, container_id)
    state = state_of(container_id, bundle, spec.get("annotations", {}))
    facts: dict[str, Any] = {
        "pid": 0,
        "start": 0,
        "boot": paths.boot_id(),
        "bundle": bundle,
        "annotations": spec.get("annotations", {}),
        "created": _now(),
        "notify": options.notify_socket,
    }

    def note(manager: str, directory: str) -> None:
        facts.update(cgroup=directory, manager=manager)
        record.write(facts)

    def started(pid: int) -> None:
        facts.update(pid=pid, start=start_time(pid))
        record.write(facts)

    record.make()
    fds: list[int] = []
    created: parent.Begun | None = None
    try:
        _prepare_environment(spec, record, options)
        optional = OptionalFeatures(spec, spec["process"], state)
        optional.add_hooks(spec)
        optional.new_keyring = options.new_keyring
        if not foreground:
            optional.check_program = True
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            optional.failure_fd = os.open(record.failure, flags, 0o600)
        fds += [fd for fd in optional.fds() if fd >= 0]
        console_fd = console.inner if console is not None else -1
        if options.console_socket is not None:
            console_fd = connect(options.console_socket)
            fds.append(console_fd)
        start_fifo = os.open(record.fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        fds.append(start_fifo)
        os.set_blocking(start_fifo, True)
        placed = cgroups.choose(_cgroup_request(spec, container_id, options.cgroup_manager), note)
        record.write_spec(spec)
        created = parent.begin(
            spec,
            lambda: placed,
            cache_dir=f"{root}/.seccomp",
            start_fifo=start_fifo,
            console_fd=console_fd,
            die_with_parent=foreground,
            use_pivot=options.use_pivot,
            keep_fds=options.keep_fds,
            started=started,
            optional=optional,
        )
        created.wait_ready(optional)
        if options.pid_file:
            write_pid_file(options.pid_file, created.pid)
        if options.pidfd_socket:
            send_pidfd(connect(options.pidfd_socket, "--pidfd-socket"), created.pidfd)
        record.mark_created()
        return created
    except BaseException:
        if created is not None:
            created.end()
        _remove_cgroup(facts)
        record.remove()
        if facts["pid"]:
            _after_stop(spec, {**state, "status": "stopped"})
        raise
    finally:
        for fd in fds:
            os.close(fd)


def _prepare_environment(spec: Spec, record: Record, options: Options) -> None:
    """Put into the config what a service manager has given us for the container."""
    if options.listen_fds:
        env = spec["process"].setdefault("env", [])
        env += [f"LISTEN_FDS={options.listen_fds}", "LISTEN_PID=1"]
    if options.notify_socket:
        from rootless.runtime.host import sdnotify

        sdnotify.prepare(spec, options.notify_socket, record.notify)


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e9):09d}Z"


def start(root: str, container_id: str) -> None:
    """Let a created container run its program; come back when it does, and is ready.

    Raises:
        RlessError: the program cannot be executed; or a hook failed, and the container is gone.
    """
    record = Record(root, container_id)
    facts = record.read()
    relay = _relay(record, facts)
    try:
        record.write_start_fifo(wait=True)
        spec = record.read_spec()
        if spec.get("hooks", {}).get("poststart"):
            _after_start(root, record, spec)
        if relay is not None:
            try:
                pidfd = pidfd_open(facts["pid"])
            except SyscallError:
                return  # it has ended
            relay.wait(pidfd, facts["pid"])
            os.close(pidfd)
    finally:
        if relay is not None:
            relay.close()


def _relay(record: Record, facts: dict[str, Any]) -> Relay | None:
    if not facts.get("notify"):
        return None
    from rootless.runtime.host.sdnotify import Relay

    try:
        return Relay(record.notify, facts["notify"])
    except OSError as error:
        raise RlessError(
            f"cannot listen for the container's sd_notify: {error.strerror}"
        ) from error


def _after_start(root: str, record: Record, spec: Spec) -> None:
    """Run the hooks `poststart`; one that fails ends the container."""
    from rootless.runtime.host import hooks

    try:
        hooks.run_all(hooks.of(spec, "poststart"), record.state())
    except RlessError:
        delete(root, record.id, force=True)
        raise


def _after_stop(spec: Spec, state: State) -> None:
    """Run the hooks `poststop`."""
    if spec.get("hooks", {}).get("poststop"):
        from rootless.runtime.host import hooks

        hooks.run_poststop(spec, state)


def run(root: str, container_id: str, options: Options) -> int:
    """Create, start, wait for and delete a container; return its exit code.

    Signals are forwarded; if this process is killed, the container is killed as well. Detached,
    it is started only.
    """
    if options.detach:
        created = create(root, container_id, options)
        os.close(created.status_fd)
        os.close(created.pidfd)
        try:
            start(root, container_id)
        except RlessError:
            delete(root, container_id, force=True)
            raise
        return 0
    from rootless.runtime.host import foreground

    bundle = os.path.abspath(options.bundle)
    spec = load(bundle, options.config)
    console = None
    if options.console_socket is None and spec["process"].get("terminal"):
        from rootless.runtime.host.console import Console

        console = Console()
    created = _make(root, container_id, bundle, spec, options, True, console)
    record = Record(root, container_id)
    try:
        foreground.forward_signals(record.signal)
        relay = _relay(record, record.read())
        if console is not None:
            console.take_over()
        record.write_start_fifo()
        created.wait_exec()
        if spec.get("hooks", {}).get("poststart"):
            _after_start(root, record, spec)
        foreground.attend(created.pidfd, created.pid, console, relay)
    except BaseException:
        pidfd_send_signal(created.pidfd, signal.SIGKILL)
        if console is not None:
            console.drain()  # a hook's complaint
        raise
    finally:
        if console is not None:
            console.close()
        _, status = os.waitpid(created.pid, 0)
        os.close(created.pidfd)
        if not options.keep:
            delete(root, container_id, force=True)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def kill(root: str, container_id: str, number: int, everything: bool) -> None:
    """Signal the first process; `everything`: all processes of the container.

    KILL is for all where the kernel does not end them with the first: without a pid namespace of
    the container's own. Some may be left when that has ended.

    Raises:
        RlessError: there is none, and not `everything`.
    """
    record = Record(root, container_id)
    if not everything and not (number == signal.SIGKILL and _shares_pids(record.read_spec())):
        record.signal(number)
        return
    from rootless.runtime.host import processes

    facts = record.read()
    if not everything and not processes.of(facts):
        raise record.not_running()
    processes.signal_all(facts, number)


def _shares_pids(spec: Spec) -> bool:
    entries = spec.get("linux", {}).get("namespaces", ())
    return not any(entry["type"] == "pid" and not entry.get("path") for entry in entries)


def delete(root: str, container_id: str, force: bool) -> None:
    """Delete a stopped or created container; `force` kills any, and an unknown id is no error then.

    Raises:
        RlessError: it is running, or does not exist.
    """
    record = Record(root, container_id)
    try:
        facts = record.read()
        state = record.state()
    except RlessError:
        if force:
            record.remove()  # where there is one, it is damaged
            return
        raise
    status = state["status"]
    if status != "stopped":
        if not force and status != "created":
            raise RlessError(f"container {container_id} is {status}", "use --force", 1)
        _kill_and_wait(record, facts["pid"])
    _remove_cgroup(facts)
    spec: Spec | None = None
    if facts["pid"]:
        try:
            spec = record.read_spec()
        except RlessError:
            pass  # damaged: there are no hooks to be known of then
    record.remove()
    if spec is not None:
        _after_stop(spec, {**state, "status": "stopped", "pid": 0})


def _remove_cgroup(facts: dict[str, Any]) -> None:
    """Remove the control group that is noted in a record: noted before it is made."""
    if facts.get("cgroup"):
        cgroupfs.remove(facts["cgroup"])


def _kill_and_wait(record: Record, pid: int) -> None:
    try:
        pidfd = pidfd_open(pid)
    except SyscallError:
        return
    try:
        record.signal(signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(10_000)
    except RlessError:
        pass  # it ended by itself
    finally:
        os.close(pidfd)


def list_states(root: str) -> list[State]:
    """Return the states of all containers below the root."""
    answers = []
    for name in sorted(os.listdir(root)):
        if name.startswith("."):
            continue
        try:
            answers.append(Record(root, name).state())
        except RlessError:
            continue  # deleted just now
    return answers


def connect(path: str, option: str = "--console-socket") -> int:
    import _socket

    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        channel.connect(path)
    except OSError as error:
        channel.close()
        raise RlessError(f"{option} {path}: {error.strerror}", exit_code=1) from error
    return channel.detach()


def send_pidfd(channel: int, pidfd: int) -> None:
    """Send a pidfd over a connection to --pidfd-socket, as runc does, and close that.

    Raises:
        RlessError: nobody listens any more.
    """
    from rootless.linux import unix

    try:
        unix.send(channel, b"pidfd", [pidfd])
    except OSError as error:
        raise RlessError(f"--pidfd-socket: {error.strerror}", exit_code=1) from error
    finally:
        os.close(channel)


def check_pid_file(path: str) -> None:
    """Tell of a place where no file can be made, while there is no process yet.

    Raises:
        RlessError: as `write_pid_file`.
    """
    try:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        os.close(files.open_tmpfile(os.path.dirname(path) or "."))
    except OSError as error:
        raise _pid_file_error(path, error) from error


def write_pid_file(path: str, pid: int) -> None:
    try:
        files.write(path, str(pid).encode(), mode=files.default_mode())
    except OSError as error:
        raise _pid_file_error(path, error) from error


def _pid_file_error(path: str, error: OSError) -> RlessError:
    return RlessError(f"--pid-file {path}: {error.strerror}", exit_code=1)
