"""The sandbox: what a start begins early, in parallel: namespaces, network, control group.

These take longer than the steps that find out what the container is, and do not depend on them. So
they begin as soon as it is known that no image has to be fetched:

    this process                         in parallel
      asks systemd for a scope             namespace holder: new namespaces, pasta's interface
      image, id map                        pasta, or the hub of the networks
      .                                    rless-serve, where the image is a file
      .                                    newuidmap, newgidmap
      container, its directory, spec       rless-serve: the mount, once both have ended
      .                                    rless-serve: files that the spec will need
      enters the namespaces                namespace holder ends
      `startup`: root file system, runtime

Until it enters the namespaces, this process is on the host, as the invoking user. The sandbox ends
with this process, whatever ends it.
"""

from __future__ import annotations

import os

from rootless import launch
from rootless.engine import defaults
from rootless.engine.spec import network_mode
from rootless.engine.start.pipes import Pipes
from rootless.errors import RlessError, SyscallError
from rootless.linux import namespace_holder, ns
from rootless.linux.cgroup import sockets
from rootless.linux.namespace_holder import Holder
from rootless.runtime.cgroup import PendingCgroup
from rootless.runtime.cgroup.base import CgroupRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    from rootless.engine.networks.attachment import Membership
    from rootless.engine.request import RunRequest
    from rootless.image.squashfs.image_file import ImageFile
    from rootless.linux.idmap import IdMap
    from rootless.network.pasta import Pasta
    from rootless.oci.runtime_spec import Spec
    from rootless.rootfs import squashfs

_TO_CLEAN_UP = 5.0  # seconds that a scope has, after a stop
_KINDS = ("userns", "pid", "ipc", "uts", "cgroupns", "network")


def joins(request: RunRequest) -> dict[str, str]:
    """Return the namespaces of other containers that a request joins: the option -> the name."""
    found = {}
    for kind in _KINDS:
        mode = getattr(request, kind) or ""
        if mode.startswith("container:"):
            found[kind] = mode.partition(":")[2]
    return found


class Sandbox:
    """The parts of a container that have begun.

    Attributes:
        container_id: the container that it is for.
        pipes: between the monitor, the application and the foreground process.
        pasta: the container's own network, if it has more than the loopback interface.
        member: its place in the networks that several containers share.
        pending: the control group.
        server: the program that serves an image file.
    """

    def __init__(
        self,
        request: RunRequest,
        streams: Collection[str],
        userns: str | None = None,
        exposed: Collection[str] = (),
        container_id: str | None = None,
        pending: PendingCgroup | None = None,
        file: ImageFile | None = None,
    ) -> None:
        """Begin the sandbox.

        Args:
            streams: those that the foreground process copies.
            userns: /proc/PID/ns/user of the container whose namespaces are joined.
            exposed: ports of the image and of --expose, for -P.
            container_id: of the container; None: there is none yet, and it will get this sandbox's.
            pending: its control group, if that was begun already (`begin_cgroup`).
            file: an open image file, which belongs to the sandbox from now on.

        Raises:
            RlessError: what the network needs is missing.
        """
        self.has_network = network_mode.is_private(request)
        self.container_id = container_id or os.urandom(32).hex()
        self.pending = pending if pending is not None else PendingCgroup()
        self.pasta: Pasta | None = None
        self.member: Membership | None = None
        self.server: squashfs.Begun | None = None
        self._request = request
        self._file = file
        self._holder: Holder | None = None
        # Before anything is forked: it ends with the last descriptor of ours.
        begun, launch.holder = launch.holder, ""
        if begun and (userns is not None or request.networks or not self.has_network):
            namespace_holder.end_begun(begun)
            begun = ""
        self.pipes = Pipes(request.tty, request.interactive, streams)
        try:
            self.pasta = network_mode.prepare(request, exposed)
            if request.networks:
                self.member = _enter_networks(request, userns)
            inside = self.member.inside if self.member is not None else None
            flags = ns.CLONE_NEWNET if self.has_network else 0
            self._holder = Holder(flags, inside, userns, self._interface(), begun)
            self._ask_for_cgroup()
            if file is not None:
                self._begin_server(file, self._holder)
            if self.pasta is not None:
                self.pasta.fork(die_with_parent=True)
                _explained(self._holder.wait_made)
                proc = f"/proc/{self._holder.pid}/ns"
                self.pasta.begin(f"{proc}/net", f"{proc}/user")
        except BaseException:
            self.close()
            raise

    def begin_maps(self, mapping: IdMap) -> None:
        """Begin to write the id maps.

        Raises:
            RlessError: such namespaces cannot be made, or a helper is missing.
        """
        holder = self._holder
        assert holder is not None
        _explained(holder.wait_made)
        write = self.member.write_maps if self.member is not None else None
        holder.begin_maps(mapping, write)
        if self.server is not None and holder.is_mapped:
            self.server.mount()

    def enter(self, mapping: IdMap, gid: int) -> None:
        """Enter the namespaces once they are mapped, and begin what can be begun only in them.

        Args:
            mapping: of their ids.
            gid: of the application.

        Raises:
            RlessError: the maps were refused, or the network could not be begun.
        """
        holder = self._holder
        assert holder is not None
        if self.member is not None:
            self.member.see_way_out()
        _explained(holder.enter)
        if self.has_network:
            network_mode.allow_ping(mapping, gid)
        if self.server is not None:
            self.server.mount()

    def prefetch(self, spec: Spec) -> None:
        """Let the server of an image file read in parallel what `spec` will need."""
        if self.server is not None:
            from rootless.rootfs import prefetch

            self.server.prefetch(prefetch.words(spec))

    def has_mounted(self) -> None:
        """Let the namespace holder end in parallel: nobody needs its /proc entries any more.

        Only pasta may not have found the namespaces yet.
        """
        if self.pasta is None and self._holder is not None:
            self._holder.end()

    def settle(self) -> None:
        """Wait until the network is up, and until the helpers of the sandbox have ended.

        Raises:
            RlessError: the network failed.
        """
        assert self._holder is not None
        if self.pasta is not None:
            self.pasta.wait_ready()
        if self.member is not None:
            self.member.wait_ready()
        self._holder.close()

    def close(self) -> None:
        """End everything that has begun, unless a monitor has taken it over."""
        self.pipes.close_all()
        if self._file is not None:
            os.close(self._file.fd)
            self._file = None
        if self.server is not None:
            self.server.close()
        if self.pasta is not None:
            self.pasta.close()
        if self.member is not None:
            self.member.close()
        if self._holder is not None:
            self._holder.close()
        self.pending.close()

    def published(self) -> list[str]:
        """Return the ports that are published, as `ports.Taken` shows them."""
        if self.member is not None:
            return self.member.ports
        return self.pasta.ports if self.pasta is not None else []

    def _ask_for_cgroup(self) -> None:
        """Request the control group, before everything else, because it takes longest."""
        try:
            self.pending.ask(self._cgroup_request(self._request.resources()), [os.getpid()])
        except RlessError:
            pass  # reported where the config is made, which finds it again

    def _cgroup_request(self, resources: dict[str, Any]) -> CgroupRequest:
        """Return the request for the control group.

        Args:
            resources: `linux.resources` of the config.
        """
        request = self._request
        manager = request.manager()
        made = CgroupRequest(f"rless-{self.container_id}", manager, required=manager != "auto")
        made.parent = request.cgroup_parent
        made.resources = resources
        made.default_pids = request.pids_limit or defaults.PIDS_LIMIT
        made.best_effort = request.limits == "try"
        made.hand_down = True
        made.description = f"container {request.name or self.container_id[:12]}"
        timeout = defaults.STOP_TIMEOUT if request.stop_timeout is None else request.stop_timeout
        if timeout >= 0:
            made.stop_timeout = timeout + _TO_CLEAN_UP
        return made

    def _interface(self) -> list[str]:
        """Return what pasta will attach to. It is made first: both open it, which one may."""
        if self.pasta is None:
            return []
        return [self.pasta.interface, network_mode.guard(self._request), self.pasta.mac]

    def _begin_server(self, file: ImageFile, holder: Holder) -> None:
        """Begin the program that serves the image; in a new namespace it would look like ours."""
        from rootless.rootfs import squashfs

        program = squashfs.find_server()
        self._file = None
        self.server = squashfs.Begun(file.fd, file.offset, program, holder.pid)


def _explained(step: Callable[[], None]) -> None:
    """Do a step of the namespace holder; say what to do about a failure."""
    try:
        step()
    except SyscallError as error:
        if error.call.startswith("unshare"):
            from rootless.engine import idmap_policy

            raise idmap_policy.explain_failure(error) from error
        if error.call.startswith("setns"):
            raise error.within("cannot join the container's namespaces") from error
        from rootless.network import loopback_guard

        raise loopback_guard.explain(error) from error


def begin_cgroup(request: RunRequest) -> PendingCgroup | None:
    """Connect to systemd, if it may be asked for a scope.

    It lets us in while we go on, as who we are on the host. The parent is the foreground process.
    """
    manager = request.manager()
    if manager != "systemd" and not (manager == "auto" and sockets()):
        return None
    pending = PendingCgroup()
    pending.begin(manager, request.cgroup_parent, [os.getppid()])
    return pending


def _enter_networks(request: RunRequest, userns: str | None) -> Membership:
    from rootless.engine.networks.attachment import Membership

    if userns is not None:
        raise RlessError(
            "--network of several containers and namespaces of another container do not go "
            "together: its user namespace is not made for the network",
            "join that one's network too",
        )
    return Membership(request)
