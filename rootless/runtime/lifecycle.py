"""The operations of the OCI runtime specification (runtime.md, section Operations)."""

from __future__ import annotations

import os
import select

from rootless import jsontext, paths
from rootless.errors import RlessError, SyscallError
from rootless.linux.process import pidfd_send_signal, start_time
from rootless.oci import validate
from rootless.runtime import cgroup as cgroups
from rootless.runtime import mounts, parent
from rootless.runtime.cgroup.base import Wish
from rootless.runtime.cgroup.resources import asked
from rootless.runtime.state import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType

    from rootless.oci.runtime_spec import Spec, State
else:
    # The module `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal

_CONFIG_LIMIT = 16 << 20  # bytes
# About ourselves, or not to be caught.
_OURS = frozenset({signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG})


def load(bundle: str, config: str | None = None) -> Spec:
    """Return the checked config of a bundle, with `root.path` absolute.

    Raises:
        RlessError: no config, bad JSON, or a field that cannot be honoured, by its JSON path.
    """
    path = config or f"{bundle}/config.json"
    try:
        with open(path, "rb") as file:
            text = file.read(_CONFIG_LIMIT + 1)
    except OSError as error:
        raise RlessError(f"cannot read {path}: {error.strerror}", exit_code=1) from error
    if len(text) > _CONFIG_LIMIT:
        raise RlessError(f"{path} is larger than {_CONFIG_LIMIT >> 20} MiB", exit_code=1)
    try:
        document = jsontext.loads(text)
    except (ValueError, RecursionError) as error:
        raise RlessError(f"{path} is not JSON: {error}", exit_code=1) from error
    spec = validate.check(document, path)
    spec["root"]["path"] = os.path.join(bundle, spec["root"]["path"])
    for mount in spec.get("mounts", ()):
        if mounts.is_bind(mount):
            mount["source"] = os.path.join(bundle, mount["source"])
    return spec


def _wish(spec: Spec, container_id: str, manager: str | None) -> Wish:
    """Return what the config asks for its control group.

    With systemd `cgroupsPath` is SLICE:PREFIX:NAME, as runc and crun have it.
    """
    linux = spec.get("linux", {})
    path = linux.get("cgroupsPath", "").strip("/")
    if manager == "systemd":
        wish = Wish(f"rless-{container_id}", manager, required=True)
        if path:
            parts = path.split(":")
            if len(parts) != 3 or not parts[2]:
                raise RlessError(
                    f"linux.cgroupsPath: {path} is not SLICE:PREFIX:NAME",
                    "which the control group manager systemd takes",
                    1,
                )
            wish.parent = parts[0] or None
            wish.name = "-".join(part for part in parts[1:] if part)
    else:
        # As runc and crun: systemd is asked only if that is asked for.
        wish = Wish(
            f"rless-{container_id}" if path in ("", ".", "..") else path,
            manager or "cgroupfs",
            required=manager is not None,
        )
    wish.resources = asked(linux.get("resources", {}))
    return wish


class Options:
    """What create and run take beside the id."""

    __slots__ = (
        *("bundle", "cgroup_manager", "config", "console_socket", "pid_file", "preserve_fds"),
        "use_pivot",
    )

    def __init__(self) -> None:
        self.bundle = os.getcwd()
        self.cgroup_manager: str | None = None  # None: cgroupfs, where it can be
        self.config: str | None = None
        self.pid_file: str | None = None
        self.console_socket: str | None = None
        self.preserve_fds = 0
        self.use_pivot = True


def create(
    root: str, container_id: str, options: Options, die_with_parent: bool = False
) -> parent.Created:
    """Create a container, whose init then waits for `start`.

    Raises:
        RlessError: of any step. Nothing is left then.
    """
    bundle = os.path.abspath(options.bundle)
    spec = load(bundle, options.config)
    wants_terminal = bool(spec["process"].get("terminal"))
    if wants_terminal != (options.console_socket is not None):
        need = "needs" if wants_terminal else "allows no"
        raise RlessError(f"process.terminal {need} --console-socket", exit_code=1)
    record = Record(root, container_id)
    record.make()
    console_fd = gate_fd = -1
    created: parent.Created | None = None
    cgroup = None
    try:
        if options.console_socket is not None:
            console_fd = _connect(options.console_socket)
        gate_fd = os.open(record.fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(gate_fd, True)
        cgroup = cgroups.choose(_wish(spec, container_id, options.cgroup_manager))
        facts = {
            "boot": paths.boot_id(),
            "bundle": bundle,
            "annotations": spec.get("annotations", {}),
            "cgroup": cgroup.path,
        }
        created = parent.create(
            spec,
            cgroup,
            cache_dir=f"{root}/.seccomp",
            gate_fd=gate_fd,
            console_fd=console_fd,
            die_with_parent=die_with_parent,
            use_pivot=options.use_pivot,
            keep_fds=tuple(range(3, 3 + options.preserve_fds)),
            started=lambda pid: record.write({"pid": pid, "start": start_time(pid), **facts}),
        )
        if options.pid_file:
            _write_pid_file(options.pid_file, created.pid)
        record.mark_created()
        return created
    except BaseException:
        if created is not None:
            pidfd_send_signal(created.pidfd, signal.SIGKILL)
            os.waitpid(created.pid, 0)
            os.close(created.status_fd)
        if cgroup is not None:
            cgroup.destroy()
        record.remove()
        raise
    finally:
        for fd in (console_fd, gate_fd, created.pidfd if created else -1):
            if fd >= 0:
                os.close(fd)


def run(root: str, container_id: str, options: Options) -> int:
    """Create, start, wait for and delete a container; return its exit code.

    Signals are forwarded; if this process is killed, the container is killed as well.
    """
    created = create(root, container_id, options, die_with_parent=True)
    record = Record(root, container_id)

    def forward(number: int, frame: FrameType | None) -> None:
        try:
            record.signal(number)
        except RlessError:
            pass  # it has just ended

    for number in signal.valid_signals() - _OURS:
        try:
            signal.signal(number, forward)
        except (OSError, ValueError):
            continue  # the C library keeps two for itself
    try:
        record.open_start_gate()
        created.wait_exec()
    finally:
        _, status = os.waitpid(created.pid, 0)
        delete(root, container_id, force=True)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def kill(root: str, container_id: str, number: int, everything: bool) -> None:
    """Signal the first process; `everything`: all in its cgroup, where it has one."""
    record = Record(root, container_id)
    cgroup = record.read().get("cgroup")
    if everything and cgroup:
        _signal_cgroup(cgroup, number)
    else:
        record.signal(number)


def _signal_cgroup(path: str, number: int) -> None:
    try:
        with open(f"{path}/cgroup.procs", encoding="utf-8") as file:
            pids = [int(line) for line in file]
    except OSError:
        return
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def delete(root: str, container_id: str, force: bool) -> None:
    """Delete a stopped container; `force` kills it first, and an unknown id is no error then.

    Raises:
        RlessError: it is running, or does not exist.
    """
    record = Record(root, container_id)
    try:
        facts = record.read()
        status = record.state()["status"]
    except RlessError:
        if force:
            record.remove()  # where there is one, it is damaged
            return
        raise
    if status in ("created", "running", "creating"):
        if not force:
            raise RlessError(f"container {container_id} is {status}", "use --force", 1)
        _kill_and_wait(record, facts["pid"])
    if facts.get("cgroup"):
        from rootless.runtime.cgroup import cgroupfs

        cgroupfs.remove(facts["cgroup"])
    record.remove()


def _kill_and_wait(record: Record, pid: int) -> None:
    from rootless.linux.process import pidfd_open

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


def _connect(path: str) -> int:
    import _socket

    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        channel.connect(path)
    except OSError as error:
        channel.close()
        raise RlessError(f"--console-socket {path}: {error.strerror}", exit_code=1) from error
    return channel.detach()


def _write_pid_file(path: str, pid: int) -> None:
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(str(pid))
        os.rename(temporary, path)
    except OSError as error:
        raise RlessError(f"--pid-file {path}: {error.strerror}", exit_code=1) from error
