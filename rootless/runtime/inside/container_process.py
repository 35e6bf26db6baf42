"""A process on its way to the application: what a container's init and an exec'd process share.

`runtime.inside.init.Init` gets there through new namespaces, `runtime.host.exec.Entrant` through
those of a running container. Once inside, both give up the same things in the same order: the
caller's session and descriptors, capabilities, user, system calls.

Nothing may be imported once the root has changed, because sys.path then leads into the image.
`forbid_imports` enforces that.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from rootless.errors import EXIT_CANNOT_EXECUTE, RlessError, SyscallError, escape
from rootless.linux import prctl, process
from rootless.linux.seccomp import load_filter
from rootless.linux.signals import signal
from rootless.runtime import sync
from rootless.runtime.inside import process as application
from rootless.runtime.inside.capabilities import CapabilitySets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rootless.oci.runtime_spec import Process
    from rootless.runtime.host.optional_features import OptionalFeatures
    from rootless.runtime.inside.tty import Terminal


class ContainerProcess:
    """A process that is to become the application of an OCI `process` object.

    Attributes:
        stdio: what becomes its descriptors 0 to 2; None: the caller's own.
        console: its terminal, if it has one.
        status_fd: reports a failure to the parent, in the format of `sync`; closed by execve.
        keep_fds: descriptors that the application inherits.
        die_with_parent: whether it is killed when its parent ends.
        hold_program: other processes in the container could exchange the program, and our own
            program could be written: see `process.Held`.
        invoker: (uid, gid) that it has before it takes an id of the container.
        extras: optional OCI features, which the engine never uses.
        keep_groups: its supplementary groups stay as they are.
    """

    def __init__(
        self,
        description: Process,
        *,
        seccomp_filter: bytes | None,
        seccomp_flags: int,
        stdio: tuple[int, int, int] | None,
        status_fd: int,
        keep_fds: tuple[int, ...],
        die_with_parent: bool,
        optional: OptionalFeatures | None = None,
    ) -> None:
        self.process = description
        self.seccomp_filter = seccomp_filter
        self.seccomp_flags = seccomp_flags
        self.stdio = stdio
        self.status_fd = status_fd
        self.keep_fds = keep_fds
        self.die_with_parent = die_with_parent
        self.optional = optional
        if description.get("rlimits"):
            import resource  # noqa: F401  # a library of its own, which takes 0.3 ms to load
        self.read_description()
        self.console: Terminal | None = None
        self.own_image = application.image_of_caller()
        self.hold_program = False
        self.held: list[application.Held | OSError] | None = None
        self.entered = False
        self.invoker = (0, 0)
        self.keep_groups = False

    def read_description(self) -> None:
        """Translate what the `process` object says of capabilities and environment."""
        self.capabilities = CapabilitySets(self.process.get("capabilities", {}))
        self.environment = application.parse_environment(self.process.get("env", []))

    def fail(self, error: RlessError) -> NoReturn:
        """Report a failure to the parent, and end."""
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        try:
            sync.send(self.status_fd, sync.FAILED, sync.error_payload(error))
        except OSError:
            # Created by one command and started by another: the first one is not there to tell.
            if self.optional is not None and self.optional.failure_fd >= 0:
                sync.send(self.optional.failure_fd, sync.FAILED, sync.error_payload(error))
            else:
                os.write(2, f"rless-oci: {escape(str(error))}\n".encode())
        os._exit(error.exit_code)

    def fail_by(self, error: BaseException) -> NoReturn:
        """Report any exception."""
        if isinstance(error, RlessError):
            self.fail(error)
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            self.fail(RlessError(f"runtime: {where}{error.strerror}"))
        self.fail(RlessError(f"runtime: internal error: {type(error).__name__}: {error}"))

    def reset_signals(self) -> None:
        """Have the signals as a new program expects them: default, none blocked."""
        for number in range(1, signal.NSIG):
            # SIGPIPE stays ignored until `restrict`: the parent may have gone when we report.
            if number != signal.SIGPIPE and signal.getsignal(number) != signal.SIG_DFL:
                try:
                    signal.signal(number, signal.SIG_DFL)
                except (OSError, ValueError):
                    pass  # SIGKILL, SIGSTOP, and two that the C library keeps for itself
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def keep_only(self, fds: set[int]) -> None:
        """Take the application's stdio; close all others but `fds` and those that it inherits."""
        if self.stdio is not None:
            # Through copies above 2, so that no dup2 closes what a later one needs.
            for target, source in enumerate([os.dup(fd) for fd in self.stdio]):
                os.dup2(source, target, inheritable=True)
        if self.optional is not None:
            fds = fds | self.optional.fds()
        process.close_others({*fds, *self.keep_fds})

    def limit_process(self) -> None:
        """Set terminal, working directory and the file mode mask; see that limits can be set."""
        application.check_rlimits(self.process.get("rlimits", []))
        if self.console is not None:
            self.console.become_stdio()
        self.entered = application.enter_directory(self.process["cwd"])
        os.umask(self.process.get("user", {}).get("umask", 0o022))
        if self.optional is not None:
            self.optional.complete(self.environment, self.process.get("user", {}).get("uid", 0))
            if self.optional.scheduling is not None:
                self.optional.scheduling.apply()

    def change_user(self) -> None:
        """Drop the bounding set, then become the application's user."""
        user = self.process.get("user", {})
        uid, gid = user.get("uid", 0), user.get("gid", 0)
        self.capabilities.drop_bounding()
        prctl.set_keep_caps(True)
        groups = sorted(set(user.get("additionalGids", [])))
        self._give_stdio(uid)
        try:
            _set_ids(uid, gid, None if self.keep_groups else groups)
        except SyscallError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
            raise RlessError(
                f"cannot become user {uid}:{gid} with groups {groups}: "
                "an id is not in the container's id map",
                "see `rless doctor` for your subordinate ids",
            ) from error
        prctl.set_keep_caps(False)
        prctl.set_dumpable(False)  # fs.suid_dumpable decides with each change of user: not ours
        if self.die_with_parent:
            # The kernel forgets it when credentials change.
            prctl.set_parent_death_signal(signal.SIGKILL)
        if not self.entered and not application.enter_directory(self.process["cwd"]):
            raise RlessError(
                f"cannot enter the working directory {self.process['cwd']}: permission denied",
                exit_code=EXIT_CANNOT_EXECUTE,
            )

    def _give_stdio(self, uid: int) -> None:
        """Give pipes made for the container to its user, so that /dev/stdout can be opened."""
        if uid == self.invoker[0]:
            return
        for fd in (0, 1, 2):
            status = os.fstat(fd)
            if stat.S_ISFIFO(status.st_mode) and self.stdio is not None:
                try:
                    os.fchown(fd, uid, -1)
                except OSError:
                    pass  # not ours to give: the descriptor itself still works

    def restrict(self) -> None:
        """Take the last rights: capabilities, privileges by execve, system calls."""
        self.capabilities.regain()  # to read what the application's user may only execute
        if self.hold_program:
            self.held = application.hold_all(self.process["args"], self.environment)
        else:
            application.guard_image(self.process["args"][0], self.environment, self.own_image)
        process.close_on_exec_from(3)
        for fd in self.keep_fds:
            os.set_inheritable(fd, True)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        application.set_rlimits(self.process.get("rlimits", []))
        if self.optional is not None:
            self.optional.write_label()
        if self.process.get("noNewPrivileges"):
            self.capabilities.apply()
            prctl.set_no_new_privs()
            self._load_filter()
            return
        # Without no_new_privs only CAP_SYS_ADMIN may load a filter, so it comes first.
        self._load_filter()
        self.capabilities.apply()

    def _load_filter(self) -> None:
        if self.seccomp_filter is None:
            return
        if self.optional is not None and self.optional.listener is not None:
            self.optional.listener.load(self.seccomp_filter, self.seccomp_flags, self.optional.pid)
        else:
            load_filter(self.seccomp_filter, self.seccomp_flags)


_finders: list[object] = []


def forbid_imports() -> None:
    """Make every later import fail: the files that it would read are the image's.

    Modules that are loaded already stay usable. The finders are kept: to take them apart would
    write to pages that are shared with the parent.
    """
    _finders.extend(sys.meta_path)
    sys.meta_path.clear()
    sys.path.clear()
    sys.path_hooks.clear()


def leave_keyring() -> None:
    """Leave the caller's session keyring for a new one (security class 34)."""
    try:
        prctl.join_new_session_keyring()
    except SyscallError as error:
        # No keys in this kernel, or a seccomp filter around us: nothing to leave then.
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EDQUOT):
            raise


def _set_ids(uid: int, gid: int, groups: list[int] | None) -> None:
    try:
        process.set_ids(uid, gid, groups)
    except SyscallError as error:
        # setgroups is denied where one id is mapped; the process's own group needs none.
        if error.errno != errno.EPERM or set(groups or ()) - {gid}:
            raise
        process.set_ids(uid, gid, None)
