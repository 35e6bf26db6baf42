"""The host side of a container's start: prepare, clone init, send GO, wait for READY.

`begin` does everything but the last, which may be the task of another process (`Begun`). Everything
that can fail or take time is done before the clone: the seccomp filter is ready, namespaces are
opened, the cgroup exists, and all modules that init needs are loaded.
"""

from __future__ import annotations

import errno
import os

from rootless.errors import RlessError, SyscallError
from rootless.linux import idmap, ns, prctl
from rootless.linux.process import pidfd_open, pidfd_send_signal
from rootless.runtime import sync
from rootless.runtime.host.namespaces import Namespaces
from rootless.runtime.inside.init import Init
from rootless.runtime.seccomp import cached_filter, load_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.oci.runtime_spec import Spec
    from rootless.runtime.cgroup.base import Cgroup
    from rootless.runtime.host.optional_features import OptionalFeatures

_OOM_SCORE = "/proc/self/oom_score_adj"  # proc(5)


class Begun:
    """A container that is being created: its init is at work, or waits at its start FIFO.

    Attributes:
        pid, pidfd: init, in the caller's pid namespace.
        status_fd: gives READY, then the end of the file when the application has been executed; or
            FAILED at any point.
        cgroup: its control group.
    """

    __slots__ = ("_go_fd", "cgroup", "pid", "pidfd", "status_fd")

    def __init__(self, pid: int, pidfd: int, status_fd: int, go_fd: int, cgroup: Cgroup) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.status_fd = status_fd
        self._go_fd = go_fd
        self.cgroup = cgroup

    def wait_ready(self, optional: OptionalFeatures | None = None) -> dict[str, Any]:
        """Wait until the container is created (runtime.md, Lifecycle, step 6).

        Args:
            extras: has the hooks that run when init asks for them.

        Returns:
            The report of init (`sync.READY`).

        Raises:
            RlessError: of any step of init.
        """
        hooks = None if optional is None else lambda: _run_hooks(optional, self.pid, self._go_fd)
        report = sync.expect_ready(self.status_fd, hooks)
        self.close_go()
        return report

    def close_go(self) -> None:
        """Close the channel to init. An init that still waits for GO ends."""
        if self._go_fd >= 0:
            os.close(self._go_fd)
            self._go_fd = -1

    def end(self) -> None:
        """Kill init, and forget it."""
        self.close_go()
        if self.status_fd >= 0:
            os.close(self.status_fd)
            self.status_fd = -1
        try:
            pidfd_send_signal(self.pidfd, 9)
        except SyscallError:
            pass  # it has ended by itself
        os.close(self.pidfd)
        os.waitpid(self.pid, 0)

    def wait_exec(self) -> None:
        """Wait until the application runs.

        Raises:
            RlessError: it could not be executed (exit code 126 or 127).
        """
        try:
            sync.expect_exec(self.status_fd)
        finally:
            os.close(self.status_fd)
            self.status_fd = -1


def begin(
    spec: Spec,
    place: Callable[[], Cgroup],
    *,
    cache_dir: str,
    start_fifo: int,
    status: tuple[int, int] | None = None,
    stdio: tuple[int, int, int] | None = None,
    console_fd: int = -1,
    die_with_parent: bool = False,
    want_report: bool = False,
    use_pivot: bool = True,
    keep_fds: tuple[int, ...] = (),
    started: Callable[[int], None] | None = None,
    optional: OptionalFeatures | None = None,
) -> Begun:
    """Begin to create a container; its init waits at the start FIFO for a byte, `sync.START`.

    Args:
        spec: the config; `root.path` is absolute.
        place: gives its cgroup (`rootless.runtime.cgroup`). Called when all else is ready, because
            it may have to wait; it may still change the limits and mounts of the spec.
        cache_dir: where compiled seccomp filters are kept.
        start_fifo: what init reads before it executes the application; it keeps a copy.
        status: (reader, writer) of the pipe by which init reports, where the caller has it
            already; both are taken over. None: one is made.
        stdio: descriptors for 0, 1 and 2; None: the caller's own.
        console_fd: a connected unix socket that gets the pty's master; -1 without a terminal.
        die_with_parent: kill the container when the caller ends.
        want_report: have init read back the facts for `--explain`.
        use_pivot: False on a root that is an initramfs.
        keep_fds: descriptors that the application inherits.
        started: told the pid of init before it is let go, so that a note of it exists whatever
            happens to the caller.
        extras: what only the command line asks; the hooks of the runtime run here.

    Raises:
        RlessError: of any step of the parent. Nothing is left then.
    """
    process = spec["process"]
    linux = spec.get("linux", {})
    seccomp = linux.get("seccomp")
    if seccomp is not None and optional is None and seccomp.get("listenerPath"):
        raise RlessError("linux.seccomp.listenerPath: nobody here would send the listener")
    bpf = cached_filter(seccomp, cache_dir) if seccomp is not None else None
    flags = load_flags(seccomp) if seccomp is not None else 0
    _load_modules(spec, console_fd >= 0, want_report)
    namespaces = Namespaces(spec)
    status_reader, status_writer = status or os.pipe()
    go_reader, go_writer = os.pipe()
    init = Init(
        spec,
        namespaces=namespaces,
        seccomp_filter=bpf,
        seccomp_flags=flags,
        stdio=stdio,
        console_fd=console_fd if process.get("terminal") else -1,
        status_fd=status_writer,
        go_fd=go_reader,
        start_fifo=start_fifo,
        parent_pid=os.getpid(),
        die_with_parent=die_with_parent,
        want_report=want_report,
        use_pivot=use_pivot,
        keep_fds=keep_fds,
        optional=optional,
    )
    cgroup_fd = -1
    # With nothing to do for it after the clone, init need not wait for us.
    at_once = namespaces.idmap is None and started is None
    if at_once:
        os.write(go_writer, sync.GO)
    try:
        if namespaces.user_fd < 0:
            namespaces.join_pid()
        if namespaces.idmap is not None:
            # A new user namespace has no rights over those that are joined: they come first.
            namespaces.join()
        cgroup = place()
        cgroup_fd = cgroup.open()
        closed = namespaces.shares_pids and namespaces.idmap is None
        with _Inherited(process.get("oomScoreAdj"), closed):
            if namespaces.user_fd >= 0:
                pid, pidfd = _clone_joined(namespaces, cgroup_fd)
            else:
                pid, pidfd = _clone(namespaces.new, cgroup_fd)
            if pid == 0:
                # If we die, init must see the end of the pipe.
                os.close(go_writer)
                os.close(status_reader)
                init.run()
    finally:
        for fd in (status_writer, go_reader, cgroup_fd):
            if fd >= 0:
                os.close(fd)
        namespaces.close()
    begun = Begun(pid, pidfd, status_reader, go_writer, cgroup)
    try:
        if namespaces.idmap is not None:
            idmap.write_maps(pid, namespaces.idmap)
        if started is not None:
            started(pid)
        if not at_once:
            _say_go(go_writer)
        if optional is None:
            begun.close_go()
    except BaseException:
        begun.end()
        raise
    return begun


def _clone(flags: int, cgroup_fd: int) -> tuple[int, int]:
    try:
        return ns.clone3(flags, cgroup_fd)
    except SyscallError as error:
        if error.errno == errno.ENOSPC:
            raise RlessError(
                "cannot make the container's namespaces: a limit of namespaces is reached",
                "end containers that you do not need, or raise the sysctls user.max_*_namespaces",
            ) from error
        raise error.within("cannot make the container's namespaces") from error


def _clone_joined(namespaces: Namespaces, cgroup_fd: int) -> tuple[int, int]:
    """Clone init in a user namespace that is given by path.

    Who joins one leaves its own for good, so a helper does it; init is its sibling, our child.
    """
    reader, writer = os.pipe()
    helper = os.fork()
    if helper == 0:
        _join_and_clone(namespaces, cgroup_fd, writer)
        os.close(reader)
        os.close(writer)
        return 0, -1
    os.close(writer)
    try:
        pid: int = sync.expect_ready(reader)["pid"]
        # Others can reach the sender by now: check that the pid is our child.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    finally:
        os.close(reader)
        os.waitpid(helper, 0)
    return pid, pidfd_open(pid)


def _join_and_clone(namespaces: Namespaces, cgroup_fd: int, writer: int) -> None:
    """In the helper: come back in init only."""
    try:
        namespaces.join_user()
        namespaces.join_pid()
        pid, _ = ns.clone3(namespaces.new | ns.CLONE_PARENT, cgroup_fd)
        if pid == 0:
            return
        sync.send(writer, sync.READY, {"pid": pid})
    except RlessError as error:
        sync.send(writer, sync.FAILED, sync.error_payload(error))
    os._exit(0)


def _run_hooks(optional: OptionalFeatures, pid: int, go_writer: int) -> None:
    """Run what of the hooks is the runtime's, then let init go on."""
    from rootless.runtime.host import hooks

    early = [entry for entry in optional.hooks if entry[0] in ("prestart", "createRuntime")]
    # Step 2 of the lifecycle is done: that is what the specification calls created.
    hooks.run_all(early, {**optional.state, "pid": pid, "status": "created"})
    _say_go(go_writer)


def _say_go(fd: int) -> None:
    try:
        os.write(fd, sync.GO)
    except BrokenPipeError:
        raise RlessError("runtime: init ended before it began") from None


def _load_modules(spec: Spec, console: bool, want_report: bool) -> None:
    """Import what only some configs need: init can import nothing any more."""
    if console:
        import rootless.runtime.inside.tty
    if want_report:
        import rootless.runtime.inside.kernel_facts
    linux = spec.get("linux", {})
    if linux.get("sysctl"):
        import rootless.runtime.inside.sysctl
    if any(entry["type"] == "time" for entry in linux.get("namespaces", ())):
        import rootless.runtime.inside.timens
    if any("tmpcopyup" in mount.get("options", ()) for mount in spec.get("mounts", ())):
        import rootless.runtime.inside.copyup  # noqa: F401


class _Inherited:
    """What init has from its first moment, as its parent has it while it clones.

    In a pid namespace that is shared, others can see it, and so it is undumpable at once
    (CVE-2016-9962); only a user namespace of its own keeps them out until its maps are written.
    Elsewhere it need not be, and the parent must not: for as long as it is, its /proc/PID/ns is
    closed to pasta, and the id maps of init to us.
    """

    __slots__ = ("_dumpable", "_old", "_score", "_undumpable")

    def __init__(self, score: int | None, undumpable: bool) -> None:
        self._score = score
        self._old = ""
        self._undumpable = undumpable
        self._dumpable = True

    def __enter__(self) -> None:
        if self._score is not None:
            try:
                with open(_OOM_SCORE, encoding="utf-8") as file:
                    self._old = file.read()
                _write_oom_score(str(self._score))
            except OSError as error:
                raise RlessError(
                    f"cannot set the OOM score to {self._score}: {error.strerror}",
                    "a user may raise it, but not go below what it is now",
                ) from error
        if self._undumpable:
            self._dumpable = prctl.get_dumpable()
            prctl.set_dumpable(False)

    def __exit__(self, *error: object) -> None:
        if self._undumpable:
            prctl.set_dumpable(self._dumpable)
        if self._old:
            _write_oom_score(self._old)


def _write_oom_score(text: str) -> None:
    with open(_OOM_SCORE, "w", encoding="utf-8") as file:
        file.write(text)
