"""The container's init before it is the application: steps 2 to 6, on the inside, in order.

Theory of operation. `run` is the child of the parent's clone3: a copy of its interpreter in
new namespaces, still seeing the host's files. It ends in execve or os._exit and never returns.

 stage      steps                         what it gives up
 detach     id maps, descriptors          the caller's terminal, descriptors, ptrace by others
 namespaces joined ones, cgroup           the host's network, ipc, names
 host side  device nodes, bind sources    (the last look at the host, as the invoking user)
 identity   uid 0, sysctls, host name     the invoking user's id
 root       mounts, masks, pivot_root     the host's files
 process    limits, capabilities, user    every right that the config does not give
 start      gate, seccomp, execve         system calls, and this program

Nothing can be imported after the first stage: what lies on sys.path belongs to the image once
the root has changed. `forbid_imports` makes that a certainty.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import time

from rootless.errors import EXIT_CANNOT_EXECUTE, RlessError, SyscallError, escape
from rootless.linux import idmap, netlink, ns, openat2, prctl, process
from rootless.linux import mount as api
from rootless.linux.seccomp import load_filter
from rootless.runtime import devices, pivot, sync
from rootless.runtime import process as application
from rootless.runtime.capabilities import CapabilitySets
from rootless.runtime.mounts import Root, open_root, open_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn

    from rootless.oci.runtime_spec import Spec
    from rootless.runtime.namespaces import Namespaces
    from rootless.runtime.tty import Console
else:
    # The module `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal


class Init:
    """One container's init: the config, what the parent prepared, and the steps."""

    def __init__(
        self,
        spec: Spec,
        *,
        namespaces: Namespaces,
        seccomp_filter: bytes | None,
        seccomp_flags: int,
        stdio: tuple[int, int, int] | None,
        console_fd: int,
        status_fd: int,
        go_fd: int,
        gate_fd: int,
        parent_pid: int,
        die_with_parent: bool,
        want_report: bool,
        use_pivot: bool,
        keep_fds: tuple[int, ...],
    ) -> None:
        self.spec = spec
        self.process = spec["process"]
        self.linux = spec.get("linux", {})
        self.namespaces = namespaces
        self.seccomp_filter = seccomp_filter
        self.seccomp_flags = seccomp_flags
        self.stdio = stdio
        self.console_fd = console_fd
        self.status_fd = status_fd
        self.go_fd = go_fd
        self.gate_fd = gate_fd
        self.parent_pid = parent_pid
        self.die_with_parent = die_with_parent
        self.want_report = want_report
        self.use_pivot = use_pivot
        self.keep_fds = keep_fds
        self.capabilities = CapabilitySets(self.process.get("capabilities", {}))
        self.environment = application.parse_environment(self.process.get("env", []))
        self.console: Console | None = None
        self.root: Root
        self.root_tree = -1
        self.sources: list[int] = []
        self.null_fd = -1
        self.own_image = application.image_of_caller()
        self.entered = False
        self.nodes: dict[str, int] = {}
        self.invoker = (0, 0)
        self.times: list[tuple[str, float]] = []

    def run(self) -> NoReturn:
        """Go through the steps; report a failure to the parent and end."""
        try:
            forbid_imports()
            for step in (
                self.wait_for_maps,
                self.detach,
                self.join_namespaces,
                self.open_host_side,
                self.become_root,
                self.write_sysctls,
                self.name_host,
                self.furnish_root,
                self.make_terminal,
                self.mask_paths,
                self.make_directory,
                self.enter_root,
                self.limit_process,
                self.change_user,
            ):
                began = time.monotonic()
                step()
                self.times.append((step.__name__, time.monotonic() - began))
            sync.send(self.status_fd, sync.READY, self.report())
            self.wait_for_start()
            self.restrict()
            application.execute(self.process["args"], self.environment)
        except RlessError as error:
            self._fail(error)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            self._fail(RlessError(f"runtime: {where}{error.strerror}"))
        except BaseException as error:
            self._fail(RlessError(f"runtime: internal error: {type(error).__name__}: {error}"))

    def _fail(self, error: RlessError) -> NoReturn:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        try:
            sync.send(self.status_fd, sync.FAILED, sync.error_payload(error))
        except OSError:
            # Created by one command and started by another: the first one is not there to tell.
            os.write(2, f"rless-oci: {escape(str(error))}\n".encode())
        os._exit(error.exit_code)

    # -- detach ------------------------------------------------------------------------------

    def wait_for_maps(self) -> None:
        """Wait until the parent has written our id maps and said GO.

        Before `detach`: the kernel gives /proc/PID/uid_map of an undumpable process to root.
        """
        if os.read(self.go_fd, 1) != sync.GO:
            os._exit(137)
        os.close(self.go_fd)

    def detach(self) -> None:
        """Leave the caller's session, descriptors and keyring; let nobody look into us."""
        # Our /proc/PID/exe is the host's interpreter: no process of the container may open it
        # (CVE-2019-5736), and none may trace us while we still hold the host.
        prctl.set_dumpable(False)
        if self.die_with_parent:
            prctl.set_parent_death_signal(signal.SIGKILL)
            # With a new pid namespace the parent shows as 0 while it lives, and ever after.
            if os.getppid() not in (0, self.parent_pid):
                os._exit(137)
        os.setsid()
        os.umask(0o022)  # the caller's is not for the directories that we make for all users
        for number in range(1, signal.NSIG):
            # SIGPIPE stays ignored until `restrict`: the parent may have gone when we report.
            if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE):
                try:
                    signal.signal(number, signal.SIG_DFL)
                except (OSError, ValueError):
                    pass  # the C library keeps two for itself
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if self.stdio is not None:
            # Through copies above 2, so that no dup2 closes what a later one needs.
            for target, source in enumerate([os.dup(fd) for fd in self.stdio]):
                os.dup2(source, target, inheritable=True)
        keep = {self.status_fd, self.go_fd, self.gate_fd, self.console_fd, *self.keep_fds}
        keep.update(entry[1] for entry in self.namespaces.joined)
        first = 3
        for fd in sorted(fd for fd in keep if fd >= 3):
            if fd > first:
                os.closerange(first, fd)
            first = fd + 1
        process.close_from(first)
        try:
            prctl.join_new_session_keyring()
        except SyscallError as error:
            # No keys in this kernel, or a seccomp filter around us: nothing to leave then.
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EDQUOT):
                raise

    # -- namespaces --------------------------------------------------------------------------

    def join_namespaces(self) -> None:
        """Join the namespaces by path; make that of cgroups, now that we are in ours."""
        self.namespaces.join()
        if self.namespaces.new_cgroup:
            ns.unshare(ns.CLONE_NEWCGROUP)
        if self.namespaces.new & ns.CLONE_NEWNET:
            netlink.loopback_up()
        # Nothing that is mounted below may show up outside.
        api.mount(None, "/", None, api.MS_REC | api.MS_SLAVE)

    # -- host side ---------------------------------------------------------------------------

    def open_host_side(self) -> None:
        """Open what comes from the host, as the invoking user: root, devices, bind sources."""
        self.root_tree = open_root(self.spec["root"]["path"])
        self.nodes = devices.open_host_nodes(self.linux.get("devices", []))
        self.null_fd = devices.open_null()
        self.sources = [open_source(entry) for entry in self.spec.get("mounts", [])]

    # -- identity ----------------------------------------------------------------------------

    def become_root(self) -> None:
        """Become uid 0 of the user namespace, where it has one."""
        self.invoker = (os.geteuid(), os.getegid())
        idmap.become_root()

    def write_sysctls(self) -> None:
        """Write the sysctls, before any mount is the container's."""
        if settings := self.linux.get("sysctl"):
            from rootless.runtime import sysctl  # loaded by the parent

            sysctl.write(settings, {entry["type"] for entry in self.linux.get("namespaces", [])})

    def name_host(self) -> None:
        """Set the host and domain names of the UTS namespace."""
        if hostname := self.spec.get("hostname"):
            prctl.set_hostname(hostname)
        if domainname := self.spec.get("domainname"):
            prctl.set_domainname(domainname)

    # -- root --------------------------------------------------------------------------------

    def furnish_root(self) -> None:
        """Make the root a mount, and attach to it all that the config lists, in its order."""
        propagation = self.linux.get("rootfsPropagation", "")
        self.root = Root(self.spec["root"]["path"], self.root_tree, propagation)
        furnished = False
        for entry, source_fd in zip(self.spec.get("mounts", []), self.sources, strict=True):
            self.root.attach(entry, source_fd)
            if entry["destination"].rstrip("/") == "/dev" and not furnished:
                furnished = True
                if source_fd < 0:  # a bound /dev has what its owner put there
                    devices.furnish(self.root, self.nodes)
        if not furnished:
            devices.furnish(self.root, self.nodes)

    def make_terminal(self) -> None:
        """Make the pty, if one is asked for, and hand its master over."""
        if self.console_fd < 0:
            return
        user = self.process.get("user", {})
        self.console = make_console(
            self.root,
            self.console_fd,
            self.process.get("consoleSize"),
            (user.get("uid", 0), user.get("gid", 0)),
        )
        os.close(self.console_fd)

    def mask_paths(self) -> None:
        """Cover what the container shall not see or not write."""
        for path in self.linux.get("readonlyPaths", []):
            self.root.make_read_only(path)
        for path in self.linux.get("maskedPaths", []):
            self.root.mask(path, self.null_fd)

    def make_directory(self) -> None:
        """Make the working directory, if the image lacks it, beneath the root."""
        cwd = self.process["cwd"]
        try:
            os.close(openat2.make_dirs(self.root.fd, cwd))
        except SyscallError as error:
            raise error.within(f"cannot make the working directory {cwd}") from error

    def enter_root(self) -> None:
        """Enter the new root; the host is gone after this."""
        if self.spec["root"].get("readonly"):
            api.mount_setattr(self.root.fd, set_=api.MOUNT_ATTR_RDONLY)
        pivot.enter_root(self.root.fd, self.use_pivot)
        self.root.close()
        os.close(self.null_fd)

    # -- process -----------------------------------------------------------------------------

    def limit_process(self) -> None:
        """Set terminal, working directory and the file mode mask; see that limits can be set."""
        application.check_rlimits(self.process.get("rlimits", []))
        if self.console is not None:
            self.console.become_stdio()
        self.entered = application.enter_directory(self.process["cwd"])
        os.umask(self.process.get("user", {}).get("umask", 0o022))

    def change_user(self) -> None:
        """Drop the bounding set, then become the application's user."""
        user = self.process.get("user", {})
        uid, gid = user.get("uid", 0), user.get("gid", 0)
        self.capabilities.drop_bounding()
        prctl.set_keep_caps(True)
        groups = sorted(set(user.get("additionalGids", [])))
        self._give_stdio(uid)
        try:
            _set_ids(uid, gid, groups)
        except SyscallError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
            raise RlessError(
                f"cannot become user {uid}:{gid} with groups {groups}: "
                "an id is not in the container's id map",
                "see `rless doctor` for your subordinate ids",
            ) from error
        prctl.set_keep_caps(False)
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

    # -- start -------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Return what each step cost, and what the kernel says of us now if it is wanted."""
        report: dict[str, Any] = {"times": self.times}
        if self.want_report:
            from rootless.runtime import report as facts  # loaded by the parent

            report |= facts.read()
        return report

    def wait_for_start(self) -> None:
        """Wait at the gate for `start`; without a gate go on at once."""
        if self.gate_fd < 0:
            return
        # A FIFO that had no writer yet is at its end for read, but not for poll.
        gate = select.poll()
        gate.register(self.gate_fd, select.POLLIN)
        gate.poll()
        if os.read(self.gate_fd, 1) != sync.START:
            os._exit(137)
        os.close(self.gate_fd)

    def restrict(self) -> None:
        """Take the last rights: capabilities, privileges by execve, system calls."""
        self.capabilities.regain()  # to read what the application's user may only execute
        application.guard_image(self.process["args"][0], self.environment, self.own_image)
        process.close_on_exec_from(3)
        for fd in self.keep_fds:
            os.set_inheritable(fd, True)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        application.set_rlimits(self.process.get("rlimits", []))
        if self.process.get("noNewPrivileges"):
            self.capabilities.apply()
            prctl.set_no_new_privs()
            if self.seccomp_filter is not None:
                load_filter(self.seccomp_filter, self.seccomp_flags)
            return
        # Without no_new_privs only CAP_SYS_ADMIN may load a filter, so it comes first.
        if self.seccomp_filter is not None:
            load_filter(self.seccomp_filter, self.seccomp_flags)
        self.capabilities.apply()


def _set_ids(uid: int, gid: int, groups: list[int]) -> None:
    try:
        process.set_ids(uid, gid, groups)
    except SyscallError as error:
        if error.errno != errno.EPERM or groups:
            raise
        process.set_ids(uid, gid, None)  # setgroups is denied where one id is mapped


def make_console(root: Root, socket_fd: int, size: Any, owner: tuple[int, int]) -> Console:
    """Make a Console; its module is loaded by the parent only where a terminal is wanted."""
    from rootless.runtime.tty import Console

    return Console(root, socket_fd, size, owner)


def forbid_imports() -> None:
    """Make every later import fail: the files that it would read are the image's.

    Modules that are loaded already stay usable.
    """
    sys.meta_path.clear()
    sys.path.clear()
    sys.path_hooks.clear()
