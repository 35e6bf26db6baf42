"""The container's init before it is the application: steps 2 to 6, inside, in order.

Theory of operation. `run` is the child of the parent's clone3: a copy of its interpreter in
new namespaces, which still sees the host's files. It ends in execve or os._exit and never returns.

 stage      steps                         what it gives up
 detach     id maps, descriptors          the caller's terminal, descriptors, ptrace by others
 namespaces joined ones, cgroup           the host's network, ipc, names
 host side  device nodes, bind sources    (the last look at the host, as the invoking user)
 identity   uid 0, sysctls, host name     the invoking user's id
 root       mounts, masks, pivot_root     the host's files
 process    limits, capabilities, user    every right that the config does not give
 start      start FIFO, seccomp, execve   system calls, and this program

Nothing can be imported after the first stage (see `runtime.inside.container_process`, which has the
stages `process` and `start`: an exec'd process goes through them as well).
"""

from __future__ import annotations

import os
import select
import time

from rootless.errors import SyscallError
from rootless.linux import mount as api
from rootless.linux import ns, openat2, prctl
from rootless.linux.network import netlink
from rootless.linux.process import become_root
from rootless.linux.signals import signal
from rootless.runtime import sync
from rootless.runtime.inside import devices, pivot
from rootless.runtime.inside import process as application
from rootless.runtime.inside.container_process import (
    ContainerProcess,
    forbid_imports,
    leave_keyring,
)
from rootless.runtime.inside.mounts import Root, open_root, open_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from rootless.oci.runtime_spec import Spec
    from rootless.runtime.host.namespaces import Namespaces
    from rootless.runtime.host.optional_features import OptionalFeatures


class Init(ContainerProcess):
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
        start_fifo: int,
        parent_pid: int,
        die_with_parent: bool,
        want_report: bool,
        use_pivot: bool,
        keep_fds: tuple[int, ...],
        optional: OptionalFeatures | None,
    ) -> None:
        super().__init__(
            spec["process"],
            seccomp_filter=seccomp_filter,
            seccomp_flags=seccomp_flags,
            stdio=stdio,
            status_fd=status_fd,
            keep_fds=keep_fds,
            die_with_parent=die_with_parent,
            optional=optional,
        )
        self.spec = spec
        self.linux = spec.get("linux", {})
        # crun's annotation, which Podman sets too.
        kept = spec.get("annotations", {}).get("run.oci.keep_original_groups")
        self.keep_groups = kept in ("1", "true")
        self.namespaces = namespaces
        self.console_fd = console_fd
        self.go_fd = go_fd
        self.start_fifo = start_fifo
        self.parent_pid = parent_pid
        self.want_report = want_report
        self.use_pivot = use_pivot
        self.root: Root
        self.root_tree = -1
        self.sources: list[int] = []
        self.null_fd = -1
        self.nodes: dict[str, int] = {}
        self.times: list[tuple[str, float]] = []

    def run(self) -> NoReturn:
        """Go through the steps; report a failure to the parent and end."""
        optional = self.optional
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
                self.populate_root,
                self.make_terminal,
                self.mask_paths,
                self.make_directory,
                *((self.run_hooks,) if optional is not None and optional.at_create else ()),
                self.enter_root,
                self.limit_process,
                self.change_user,
                *((self.find_program,) if optional is not None and optional.check_program else ()),
            ):
                began = time.monotonic()
                step()
                self.times.append((step.__name__, time.monotonic() - began))
            sync.send(self.status_fd, sync.READY, self.kernel_facts())
            self.wait_for_start()
            self.restrict()
            if optional is not None and optional.hooks:
                optional.run_start_hooks(self.environment, self.own_image)
            application.execute(self.process["args"], self.environment)
        except BaseException as error:
            self.fail_by(error)

    # -- detach ------------------------------------------------------------------------------

    def wait_for_maps(self) -> None:
        """Wait until the parent has written our id maps and said GO.

        Before `detach`: the kernel gives /proc/PID/uid_map of an undumpable process to root.
        """
        self._wait_for_go()
        if self.namespaces.new_time:
            from rootless.runtime.inside import timens  # loaded by the parent

            timens.enter(self.linux.get("timeOffsets", {}))
        if self.optional is not None:
            self.optional.look_at_host()

    def _wait_for_go(self) -> None:
        if os.read(self.go_fd, 1) != sync.GO:
            os._exit(137)

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
        self.reset_signals()
        joined = (entry[1] for entry in self.namespaces.joined)
        self.keep_only({self.status_fd, self.go_fd, self.start_fifo, self.console_fd, *joined})
        if self.optional is None or self.optional.new_keyring:
            leave_keyring()

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
        become_root(keep_groups=self.keep_groups)

    def write_sysctls(self) -> None:
        """Write the sysctls, before any mount is the container's."""
        if settings := self.linux.get("sysctl"):
            from rootless.runtime.inside import sysctl  # loaded by the parent

            sysctl.write(settings, {entry["type"] for entry in self.linux.get("namespaces", [])})

    def name_host(self) -> None:
        """Set the host and domain names of the UTS namespace."""
        if hostname := self.spec.get("hostname"):
            prctl.set_hostname(hostname)
        if domainname := self.spec.get("domainname"):
            prctl.set_domainname(domainname)

    # -- root --------------------------------------------------------------------------------

    def populate_root(self) -> None:
        """Make the root a mount, and attach to it all that the config lists, in its order."""
        propagation = self.linux.get("rootfsPropagation", "")
        self.root = Root(self.spec["root"]["path"], self.root_tree, propagation)
        populated = False
        for entry, source_fd in zip(self.spec.get("mounts", []), self.sources, strict=True):
            self.root.attach(entry, source_fd)
            if entry["destination"].rstrip("/") == "/dev" and not populated:
                populated = True
                if source_fd < 0:  # a bound /dev has what its owner put there
                    devices.populate(self.root, self.nodes)
        if not populated:
            devices.populate(self.root, self.nodes)
        for fd in self.nodes.values():
            os.close(fd)

    def make_terminal(self) -> None:
        """Make the pty, if one is asked for, and hand its master over."""
        if self.console_fd < 0:
            return
        from rootless.runtime.inside import tty  # loaded by the parent

        self.console = tty.make_console(
            self.root,
            self.console_fd,
            self.process.get("consoleSize"),
            self.process.get("user", {}).get("uid", 0),
        )
        os.close(self.console_fd)

    def mask_paths(self) -> None:
        """Cover what the container shall not see or not write."""
        for path in self.linux.get("readonlyPaths", []):
            self.root.make_read_only(path)
        self.root.mask(self.linux.get("maskedPaths", []), self.null_fd)

    def make_directory(self) -> None:
        """Make the working directory, if the image lacks it, beneath the root.

        Where several are named by an annotation of ours, take the first that is there.
        """
        places = self.spec.get("annotations", {}).get(application.WORKDIRS)
        if places is not None:
            self._choose_directory(places.split("\n"))
            return
        cwd = self.process["cwd"]
        try:
            os.close(openat2.make_dirs(self.root.fd, cwd))
        except SyscallError as error:
            raise error.within(f"cannot make the working directory {cwd}") from error

    def _choose_directory(self, places: list[str]) -> None:
        """Take the first directory that is there, else the last, which cannot be entered then."""
        for place in places:
            self.process["cwd"] = place
            try:
                os.close(self.root.open(place, os.O_PATH | os.O_DIRECTORY))
            except SyscallError:
                continue
            return

    def run_hooks(self) -> None:
        """Have the parent run its hooks, then run those of our own namespaces."""
        assert self.optional is not None
        sync.send(self.status_fd, sync.HOOKS, None)
        self._wait_for_go()
        self.optional.run_hooks_before_pivot()

    def enter_root(self) -> None:
        """Enter the new root; the host is gone after this."""
        if self.spec["root"].get("readonly"):
            api.mount_setattr(self.root.fd, set_=api.MOUNT_ATTR_RDONLY)
        pivot.enter_root(self.root.fd, self.use_pivot)
        self.root.close()
        os.close(self.null_fd)
        os.close(self.go_fd)

    # -- process -----------------------------------------------------------------------------

    def find_program(self) -> None:
        """Check that the program exists, while the caller still waits for the result."""
        application.find(self.process["args"][0], self.environment)

    # -- start -------------------------------------------------------------------------------

    def kernel_facts(self) -> dict[str, Any]:
        """Return what each step cost, and what the kernel says of us now if it is wanted."""
        kernel_facts: dict[str, Any] = {"times": self.times}
        if self.want_report:
            from rootless.runtime.inside import kernel_facts as facts  # loaded by the parent

            kernel_facts |= facts.read()
        return kernel_facts

    def wait_for_start(self) -> None:
        """Wait at the start FIFO for `start`; without one go on at once."""
        if self.start_fifo < 0:
            return
        # A FIFO that had no writer yet is at its end for read, but not for poll.
        poll = select.poll()
        poll.register(self.start_fifo, select.POLLIN)
        poll.poll()
        if os.read(self.start_fifo, 1) != sync.START:
            os._exit(137)
        # It stays open until execve closes it: who wrote to the FIFO waits for that.
