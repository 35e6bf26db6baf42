"""Start one more process in a running container, out of reach of the processes in there.

Theory of operation. Three processes, the last two forks of the first:

    caller                       joiner                           entrant
      | holds init by a pidfd      |                                |
      | ----------- clone3 ------> | in the container's cgroup      |
      |                            | undumpable                     |
      |                            | descriptors, keyring           |
      |                            | setns(init's pidfd)            |
      |                            | root; user; pty                |
      |                            | -- clone3(CLONE_PARENT) -----> | first seen in the container
      | <--- READY(pid) ---------- | exits                          | session, terminal, directory
      |                                                             | capabilities, user
      | <--- end of file, or FAILED ------------------------------- | seccomp, execve

The joiner is in no pid namespace of the container, so no process in there can name it. When the
entrant can be named, it has nothing to steal: no descriptor of the host but the streams it is
given, no key, no argument. It cannot be traced, and neither its memory nor its program can be
opened through /proc, because it is undumpable and its memory belongs to the host's user namespace
until execve (CVE-2016-9962, CVE-2019-5736, CVE-2022-1227). The kernel opens the program in the
container's own root, with the container's own rights.

A caller that was executed in the container's own user namespace (a health check, run by the
monitor) has memory that belongs to that namespace. There, CAP_SYS_PTRACE gives access to undumpable
processes too. So before its joiner forks, it gives up all that the program will not have, system
calls too: a process that traces the entrant then gets only what the container has anyway.

One setns(2) by a pidfd enters all namespaces: all of one process, or none (Linux 5.8). The entrant
is a child of the caller, which gets its exit code without a process in between.

Nothing of the image is run or imported for our own purposes (`process.forbid_imports`).
"""

from __future__ import annotations

import errno
import os

from rootless.errors import EXIT_CANNOT_EXECUTE, RlessError, SyscallError, escape
from rootless.linux import ns, prctl
from rootless.linux.cgroup import may_enter, membership, sockets
from rootless.linux.process import arguments_place, become_root, pidfd_open, show_as
from rootless.linux.procfs import start_time
from rootless.runtime import sync
from rootless.runtime.host.namespaces import FILES, FLAGS
from rootless.runtime.inside import process as application
from rootless.runtime.inside.container_process import (
    ContainerProcess,
    forbid_imports,
    leave_keyring,
)
from rootless.runtime.limits import asked
from rootless.runtime.seccomp import cached_filter, load_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from rootless.oci.runtime_spec import Process, Spec
    from rootless.runtime.host.optional_features import OptionalFeatures

_OOM_SCORE = "/proc/self/oom_score_adj"  # proc(5)


class Init:
    """A container's first process, held by a pidfd, so its pid cannot come to mean another process.

    Attributes:
        pidfd: of the process.
        namespaces: CLONE_NEW* of those of its namespaces that are not the caller's.
        shares_pids: its pid namespace is not its own: a process in there may outlive it.
    """

    __slots__ = ("namespaces", "pid", "pidfd", "shares_pids")

    def __init__(self, pid: int, start: int) -> None:
        """Hold the process of this pid and start time.

        Raises:
            RlessError: it has ended, or may not be looked into.
        """
        try:
            self.pidfd = pidfd_open(pid)
        except SyscallError as error:
            raise RlessError("the container has ended", exit_code=1) from error
        self.pid = pid
        try:
            self.namespaces = sum(FLAGS[kind] for kind in FILES if _differs(pid, FILES[kind]))
            self.shares_pids = _pid_in_namespace(pid) != 1
        except (FileNotFoundError, ProcessLookupError):
            self.namespaces = 0
        except PermissionError as error:
            os.close(self.pidfd)
            raise RlessError(
                f"cannot look at the container's first process, {pid}: {error.strerror}",
                exit_code=EXIT_CANNOT_EXECUTE,
            ) from error
        # Asked last: all that was read by number was about this process.
        if start_time(pid) != start or not self.namespaces:
            os.close(self.pidfd)
            raise RlessError("the container has ended", exit_code=1)

    def close(self) -> None:
        """Let it go."""
        os.close(self.pidfd)


def _differs(pid: int, name: str) -> bool:
    try:
        ours = os.stat(f"/proc/self/ns/{name}")
    except FileNotFoundError:
        return False  # the kernel has no such namespaces: time is of Linux 5.6
    theirs = os.stat(f"/proc/{pid}/ns/{name}")
    return (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino)


def _pid_in_namespace(pid: int) -> int:
    """Return its number in its own pid namespace: 1 if that one ends with it."""
    with open(f"/proc/{pid}/status", "rb") as file:
        line = next((line for line in file if line.startswith(b"NSpid:")), b"0")
    return int(line.split()[-1])


class Started:
    """A process that was started in a container, a child of the caller.

    Attributes:
        pid, pidfd: in the caller's pid namespace.
    """

    __slots__ = ("pid", "pidfd")

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd

    def wait(self) -> int:
        """Wait for its end; return the exit code, 128+n for one that signal n ended."""
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


def prepare(
    spec: Spec,
    description: Process,
    init: Init,
    *,
    cgroup: str | None,
    below: str | None = None,
    cache_dir: str,
    stdio: tuple[int, int, int] | None = None,
    console_fd: int = -1,
    complete: Callable[[Process], None] | None = None,
    keep_fds: tuple[int, ...] = (),
    optional: OptionalFeatures | None = None,
    keep_groups: bool = False,
) -> Entrant:
    """Return what starts a process in a running container, with all that can be done before a fork.

    Args:
        spec: the container's config.
        description: an OCI `process` object. What it leaves out is not taken from the config,
            but no_new_privs and the seccomp filter always are the container's.
        init: its first process.
        cgroup: the directory of its control group, if it has one.
        below: the path of the process's group in it; None: that of the first process.
        cache_dir: where compiled seccomp filters are kept.
        stdio: descriptors for 0, 1 and 2; None: the caller's own.
        console_fd: a connected unix socket that gets the pty's master; for `terminal`.
        complete: called in the container's namespaces, as its root, before the process is made;
            it may complete `description` by what it reads beneath "/". It can import nothing,
            and all that it opens may be hostile.
        keep_fds: descriptors that the process inherits.
        extras: what only the command line asks.
        keep_groups: it has the caller's supplementary groups.

    Raises:
        RlessError: there is no filter, or the description is not valid.
    """
    place = attach = None
    if cgroup:
        place = _place_of(init, cgroup) if below is None else cgroup + below
    if cgroup and place and not may_enter(place) and (reachable := sockets()):
        attach = _way_in(cgroup, place, reachable)
    seccomp = spec.get("linux", {}).get("seccomp")
    bpf = cached_filter(seccomp, cache_dir) if seccomp is not None else None
    if spec["process"].get("noNewPrivileges"):
        description["noNewPrivileges"] = True
    if description.get("terminal"):
        import rootless.runtime.inside.tty  # noqa: F401  # nothing can be imported later
    return Entrant(
        description,
        init=init,
        cgroup=place,
        attach=attach,
        limited=_has_limits(spec),
        oom_score=spec["process"].get("oomScoreAdj"),
        complete=complete,
        seccomp_filter=bpf,
        seccomp_flags=load_flags(seccomp) if seccomp is not None else 0,
        keep_groups=keep_groups,
        stdio=stdio,
        console_fd=console_fd if description.get("terminal") else -1,
        status_fd=-1,
        keep_fds=keep_fds,
        optional=optional,
    )


def _place_of(init: Init, cgroup: str) -> str:
    """Return where the first process is: a systemd divides its control group, and moves below.

    A group whose controllers go down takes no process itself (cgroups(7)).
    """
    path = known = membership(init.pid)
    while known not in ("", "/") and not cgroup.endswith(known):
        known = os.path.dirname(known)
    return cgroup + path[len(known) :] if known not in ("", "/") else cgroup


def _way_in(cgroup: str, place: str, reachable: list[tuple[str, bool]]) -> Callable[[], None]:
    """Return how to have systemd move the caller."""
    from rootless.runtime.cgroup import systemd  # the joiner can import nothing

    below = place[len(cgroup) :]
    return lambda: systemd.attach(cgroup, os.getpid(), reachable, below)


def _has_limits(spec: Spec) -> bool:
    return bool(asked(spec.get("linux", {}).get("resources", {})))


class Entrant(ContainerProcess):
    """The joiner and, after its clone3, the entrant."""

    def __init__(
        self,
        description: Process,
        *,
        init: Init,
        cgroup: str | None,
        attach: Callable[[], None] | None = None,
        limited: bool,
        oom_score: int | None,
        complete: Callable[[Process], None] | None,
        console_fd: int,
        keep_groups: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(description, die_with_parent=False, **common)
        self.init = init
        self.cgroup = cgroup
        self.attach = attach
        self.limited = limited
        self.oom_score = oom_score
        self.complete = complete
        self.console_fd = console_fd
        self.keep_groups = keep_groups
        self.joined_fd = self.entrant_status = -1
        # Our memory is the container's user namespace's. A terminal needs its session first.
        self.exposed = not init.namespaces & ns.CLONE_NEWUSER and console_fd < 0
        # Outside of the pid namespace, /proc/self is nobody: what leads there is not executed.
        self.hold_program = self.exposed or application.is_own_image_writable()
        self.born_inside = False  # the control group
        arguments_place()  # for `show_as`, which each process after the fork would look for

    def start(self) -> Started:
        """Start the process; return once its program runs.

        Raises:
            RlessError: of any step (exit code 126 or 127 for the program). Nothing is left then.
        """
        status_reader, self.entrant_status = os.pipe()
        joined_reader, self.joined_fd = os.pipe()
        joiner = self.fork_joiner()
        if joiner == 0:
            self.join()
        os.close(self.entrant_status)
        os.close(self.joined_fd)
        try:
            try:
                pid: int = sync.expect_ready(joined_reader)["pid"]
                # The container can reach the sender by now: check that the pid is our child.
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            finally:
                os.close(joined_reader)
                os.waitpid(joiner, 0)
            pidfd = pidfd_open(pid)  # our child: the number is its own until we wait for it
            try:
                sync.expect_exec(status_reader)
            except BaseException:
                os.close(pidfd)
                os.waitpid(pid, 0)
                raise
        finally:
            os.close(status_reader)
        return Started(pid, pidfd)

    def fork_joiner(self) -> int:
        """Fork the joiner, in the container's control group if it can be; return its pid or 0.

        Where it cannot be born there, the joiner tries to move, and reports why that fails
        (`enter_cgroup`).
        """
        self.born_inside = bool(self.cgroup) and not self._changes_cpus()
        try:
            if self.born_inside:
                return ns.fork_into(str(self.cgroup))
        except (SyscallError, OSError):
            self.born_inside = False
        return os.fork()

    def join(self) -> NoReturn:
        """Go into the container; become the entrant there."""
        # What fails in the joiner is told by its own pipe: the other is for the entrant.
        self.status_fd = self.joined_fd
        try:
            forbid_imports()
            for step in (
                self.hide,
                self.enter_cgroup,
                self.leave_caller,
                self.enter_namespaces,
                self.become_known,
                self.make_terminal,
                *((self.limit_process, self.change_user, self.restrict) if self.exposed else ()),
            ):
                step()
            told = os.pipe() if self.optional is not None and self.optional.listener else (-1, -1)
            pid = ns.clone_sibling() if self.exposed else ns.clone3(ns.CLONE_PARENT)[0]
            if pid:
                if told[1] >= 0:
                    os.write(told[1], str(pid).encode())
                sync.send(self.joined_fd, sync.READY, {"pid": pid})
                os._exit(0)
        except BaseException as error:
            self.fail_by(error)
        self.status_fd = self.entrant_status
        if self.optional is not None and told[0] >= 0:
            self.optional.pid = int(os.read(told[0], 16))
        self.enter()

    def become(self) -> NoReturn:
        """Go into the container and become the program there, in the caller's own process.

        For one that is in the host's user and pid namespace. Its session, process group, control
        group, streams and `keep_fds` stay its own. Until execve its memory is the host's, so that
        nobody in the container may look into it.
        """
        assert not self.exposed
        try:
            forbid_imports()
            self.hide()
            self.reset_signals()
            self.keep_only({self.init.pidfd})
            leave_keyring()
            self.enter_namespaces()
            self.limit_process()
            self.change_user()
            self.restrict()
            application.execute(self.process["args"], self.environment, self.held)
        except RlessError as error:
            failure = error
        except OSError as error:
            failure = RlessError(f"{error.filename or 'runtime'}: {error.strerror}")
        except BaseException as error:
            failure = RlessError(f"internal error: {type(error).__name__}: {error}")
        os.write(2, f"rless: {escape(str(failure))}\n".encode())
        os._exit(failure.exit_code)

    # -- the joiner -----------------------------------------------------------------------------

    def hide(self) -> None:
        """Let nobody look into us, before there is anybody who could.

        Arguments may hold secrets, and /proc/PID/cmdline asks for no right (class 43).
        """
        if self.oom_score is not None:
            try:
                with open(_OOM_SCORE, "w", encoding="utf-8") as file:
                    file.write(str(self.oom_score))
            except OSError as error:
                raise RlessError(
                    f"cannot set the OOM score to {self.oom_score}: {error.strerror}",
                    "a user may raise it, but not go below what it is now",
                ) from error
        show_as("rless: exec")
        prctl.set_dumpable(False)
        if self.optional is not None:
            self.optional.look_at_host()

    def enter_cgroup(self) -> None:
        """Enter the container's control group, while we still see the host's."""
        if self.born_inside:
            return
        self.set_cpus("initial")
        self._enter_cgroup()
        self.set_cpus("final")

    def _changes_cpus(self) -> bool:
        """Tell whether it may name CPUs for the time before it is in the control group."""
        return self.optional is not None and self.optional.scheduling is not None

    def set_cpus(self, when: str) -> None:
        """Take the CPUs that the description names for before, and for after this step."""
        scheduling = self.optional.scheduling if self.optional is not None else None
        if scheduling is not None:
            scheduling.take_cpus(when)

    def _enter_cgroup(self) -> None:
        if not self.cgroup:
            return
        try:
            fd = os.open(f"{self.cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        except OSError as error:
            # From a session whose own group is not ours to leave: then systemd moves us. Else the
            # container's end still ends the process, by its pid namespace; but a limit must not
            # be left behind.
            why = str(error.strerror)
            if self.attach is not None:
                try:
                    self.attach()
                    return
                except RlessError as refused:
                    why = refused.message
            if self.limited:
                raise RlessError(
                    f"cannot enter the container's control group: {why}",
                    "call rless from the session that the container was started in",
                ) from error

    def leave_caller(self) -> None:
        """Give up the caller's descriptors, signals, umask and keys."""
        self.reset_signals()
        os.umask(0o022)
        joined = {self.joined_fd, self.entrant_status, self.console_fd, self.init.pidfd}
        self.keep_only(joined)
        if self.optional is None or self.optional.new_keyring:
            leave_keyring()

    def enter_namespaces(self) -> None:
        """Join all namespaces of init that are not ours; become root in there."""
        try:
            ns.setns(self.init.pidfd, self.init.namespaces)
        except SyscallError as error:
            if error.errno == errno.ESRCH:
                raise RlessError("the container has ended", exit_code=1) from error
            raise error.within("cannot join the container's namespaces") from error
        os.close(self.init.pidfd)
        self.invoker = (os.geteuid(), os.getegid())
        become_root(keep_groups=self.keep_groups)
        prctl.set_dumpable(False)  # fs.suid_dumpable decides with each change of user: not ours

    def become_known(self) -> None:
        """Find out who the process is to be."""
        if self.complete is not None:
            self.complete(self.process)
            self.read_description()

    def make_terminal(self) -> None:
        """Make the pty in the container's devpts, and hand its master over."""
        if self.console_fd < 0:
            return
        from rootless.runtime.inside import tty  # loaded by the caller

        root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        owner = self.process.get("user", {}).get("uid", 0)
        size = self.process.get("consoleSize")
        self.console = tty.make_terminal(root_fd, self.console_fd, size, owner)
        os.close(root_fd)
        os.close(self.console_fd)

    # -- the entrant ----------------------------------------------------------------------------

    def enter(self) -> NoReturn:
        """Become the program."""
        try:
            os.close(self.joined_fd)
            os.setsid()
            if not self.exposed:
                self.limit_process()
                self.change_user()
                self.restrict()
            application.execute(self.process["args"], self.environment, self.held)
        except BaseException as error:
            self.fail_by(error)
