"""The process that becomes a container's monitor, forked before anything of that is known.

Making namespaces, starting pasta and loading the runtime take longer than all that the command
finds out meanwhile, and need nothing of it. So the command forks this child as soon as it knows
that nothing has to be fetched, and both work side by side:

    command                              child
      asks systemd for a scope             new namespaces, the network begun
      image, id map                           .
      newuidmap, newgidmap                 loads the runtime
      container, its directory, spec          .
      -- maps are written -- plan -------> `monitor`: root file system, runtime

The plan is plain data: what the child must know it is told, and has no other way to learn of it.
Until the plan comes, the child has made nothing that is not gone with it, and it ends when the
command does. Who starts a container that is there, or joins another's namespaces, forks the child
when that is found: the same child, a little later.

The network has two halves. The one here, in the child, is begun in the new network namespace; the
command waits for it before the application starts.
"""

from __future__ import annotations

import os
from marshal import dumps, loads

from rootless.engine import network
from rootless.engine.wires import Wires
from rootless.errors import RlessError, SyscallError
from rootless.linux import idmap, netlink, ns
from rootless.linux.cgroup import sockets
from rootless.linux.process import read_exactly, show_as
from rootless.runtime import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Collection
    from typing import Any, NoReturn, TypedDict

    from rootless.engine.membership import Membership
    from rootless.engine.request import RunRequest
    from rootless.image.flat import FlatImage
    from rootless.linux.idmap import IdMap
    from rootless.network.pasta import Pasta
    from rootless.oci.runtime_spec import Spec
    from rootless.rootfs import squashfs
    from rootless.runtime.cgroup import Asked, Making
    from rootless.runtime.cgroup.base import Wish

    class Plan(TypedDict):
        """What the child is told.

        Attributes:
            container, source: of `hand_over`, `to_data`.
            volumes: (directory, target) of those that are to be filled.
            cache_dir: of compiled seccomp filters.
            ports: what is published, as `ports.Taken` shows it.
            report: have init read back the facts for --explain.
            leash: the container ends with the command, until that lets go.
            keep: a start that fails leaves the container, with the reason.
            scope: what the command has asked of systemd (`Making.tell`).
        """

        container: dict[str, Any]
        spec: Spec
        source: dict[str, Any]
        volumes: list[tuple[str, str]]
        cache_dir: str
        ports: list[str]
        report: bool
        leash: bool
        keep: bool
        scope: Asked | None

else:
    # The module `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal

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


class Child:
    """The child, as the command sees it; in the child, what it does until the plan comes.

    Attributes:
        pid: of the child.
        container_id: of the container that it is for.
        wires: what both and the application are connected by.
        pasta: the network, if there is one of its own beyond the loopback.
        scope: what was asked of systemd, for the plan.
    """

    def __init__(
        self,
        request: RunRequest,
        streams: Collection[str],
        userns: str | None = None,
        exposed: Collection[str] = (),
        container_id: str | None = None,
        making: Making | None = None,
        file: FlatImage | None = None,
    ) -> None:
        """Fork it.

        Args:
            streams: those that the command passes on.
            userns: /proc/PID/ns/user of the container whose namespaces are joined.
            exposed: ports of the image and of --expose, for -P.
            container_id: of the container; None: there is none yet, and it is to get this one's.
            making: its control group, if that was begun (`begin_cgroup`).
            file: an open image, to be served as soon as there are namespaces for it.

        Raises:
            RlessError: what the network needs is not there.
        """
        self._new_network = network.is_private(request)
        self._network_error: RlessError | None = None
        self._request = request
        self._file = file
        self._begun: squashfs.Begun | None = None
        self._program: str | None = None  # that serves it
        self.container_id = container_id or os.urandom(32).hex()
        self._making = making or begin_cgroup(request)
        self.scope: Asked | None = None
        self.pasta: Pasta | None = None
        self.member: Membership | None = None
        self.wires = Wires(
            request.tty, request.interactive, streams, link=request.explain is not None
        )
        namespaces = ns.CLONE_NEWNS | (ns.CLONE_NEWNET if self._new_network else 0)
        try:
            self.pasta = network.prepare(request, exposed)
            if request.networks:
                self.member = _enter_networks(request, userns)
            if self.pasta is None and file is None:
                _load_shared()
            self._newborn = idmap.Newborn(
                namespaces,
                self._run,
                join=userns,
                inside=self.member.inside if self.member is not None else None,
                before=self._detach,
                meanwhile=self._prepare,
            )
        except BaseException:
            self.wires.close_all()
            if self.pasta is not None:
                self.pasta.close()
            if self.member is not None:
                self.member.close()
            if self._making is not None:
                self._making.close()
            raise
        self.pid = self._newborn.pid
        if self._making is not None:
            self._ask_for_cgroup(self._making)  # before all else: it takes longest
        self.wires.close_monitor_ends()

    # -- in the command --------------------------------------------------------------------------

    def begin_maps(self, mapping: IdMap) -> None:
        """Begin to write its id maps.

        Raises:
            RlessError: it could not make or join its namespaces, or a helper is missing.
        """
        try:
            write = self.member.write_maps if self.member is not None else None
            self._newborn.begin_maps(mapping, write)
        except SyscallError as error:
            if error.call.startswith("unshare"):
                from rootless.engine import userns

                raise userns.explain_failure(error) from error
            raise

    def release(self, plan: Plan) -> None:
        """Wait for its maps, and tell it what to do: it is the container's monitor from now on.

        Raises:
            RlessError: the maps were refused.
        """
        text = dumps(plan)  # type: ignore[arg-type]  # plain data, for all that is known
        self._newborn.release()
        data = memoryview(len(text).to_bytes(8, "little") + text)
        try:
            while data:
                data = data[os.write(self.wires.plan, data) :]
        except BrokenPipeError:
            pass  # it was killed: who waits for its answer finds out
        os.close(self.wires.plan)
        self.wires.plan = -1

    def abandon(self) -> None:
        """End it, unless it was released."""
        self.wires.close_all()
        if self.pasta is not None:
            self.pasta.close()
        if self.member is not None:
            self.member.close()  # first: the process behind it was forked with our end of the plan
        self._newborn.abandon()

    def reap(self) -> None:
        """Wait for what has helped it to come this far."""
        if self._making is not None:
            self._making.reap()

    def published(self) -> list[str]:
        """Return the ports that are published, as `ports.Taken` shows them."""
        if self.member is not None:
            return self.member.ports
        return self.pasta.ports if self.pasta is not None else []

    def _ask_for_cgroup(self, making: Making) -> None:
        try:
            making.ask(self._wish(self._request.resources()), [self.pid])
        except RlessError:
            pass  # met again where the config is made, and told
        self.scope = making.tell()

    def _wish(self, resources: dict[str, Any]) -> Wish:
        """Return what is asked for the control group.

        Args:
            resources: `linux.resources` of the config.
        """
        from rootless.engine import defaults
        from rootless.runtime.cgroup.base import Wish

        request = self._request
        manager = request.manager()
        made = Wish(f"rless-{self.container_id}", manager, required=manager != "auto")
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

    # -- in the child ----------------------------------------------------------------------------

    def _detach(self) -> None:
        """Leave the command's terminal, and fork what has to stay in the host's network."""
        self.wires.close_command_ends()
        show_as("rless: monitor")
        os.setsid()  # the terminal's signals are for the command, which forwards them
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        if self.pasta is not None:
            self.pasta.fork(die_with_parent=True)
        if self._file is not None:
            from rootless.rootfs import squashfs

            self._program = squashfs.find_server()  # no owner can be told where no id is mapped
        if self.member is not None:
            self.member.close_command_ends()

    def _prepare(self) -> None:
        """Begin the network and an image's program, which have a long way to go; load what we need.

        None needs the id maps: the capabilities are there from the first moment.
        """
        try:
            if self._new_network:
                self._begin_network()
        except RlessError as error:
            self._network_error = error  # told when there is somebody to tell
        if self._file is not None:
            from rootless.rootfs import squashfs

            self._begun = squashfs.Begun(self._file.fd, self._file.offset, self._program)
        try:
            import rootless.engine.monitor  # noqa: F401
        except Exception:
            pass  # `_run` meets it again, and tells

    def _begin_network(self) -> None:
        if self.pasta is not None:
            from rootless.network import shield

            shield.close_loopback(self.pasta.interface)
            # Only now: the shield and pasta both open the tap device, which one at a time can.
            own = f"/proc/{os.getpid()}/ns"
            self.pasta.begin(f"{own}/net", f"{own}/user")
        netlink.loopback_up()

    def _run(self) -> NoReturn:
        """Take the plan, and be the monitor."""
        if self._begun is not None:
            self._begun.mount()
        plan = self._receive_plan()
        path = f"/proc/{os.getpid()}/ns/net" if self._new_network else None
        try:
            from rootless.engine.monitor import Monitor
            from rootless.runtime.cgroup import Making

            making = self._making or Making()
            making.take_over(
                self._wish(plan["spec"]["linux"]["resources"]), [os.getpid()], plan["scope"]
            )
            monitor = Monitor(
                plan,
                self.wires,
                self.pasta,
                self.member.fd if self.member is not None else -1,
                path,
                self._network_error,
                making,
                self._begun,
            )
        except Exception as error:
            text = f"internal error: {type(error).__name__}: {error}"
            failure = RlessError(text, "run with --debug and report it")
            sync.send(self.wires.monitor_result, sync.FAILED, sync.error_payload(failure))
            os._exit(failure.exit_code)
        monitor.run()

    def _receive_plan(self) -> Plan:
        """Wait for the plan; end if the command is killed: nothing of a container is ours yet."""
        size = int.from_bytes(read_exactly(self.wires.monitor_plan, 8), "little")
        text = read_exactly(self.wires.monitor_plan, size)
        if not text or len(text) < size:
            os._exit(70)
        os.close(self.wires.monitor_plan)
        self.wires.monitor_plan = -1
        plan: Plan = loads(text)
        return plan


def begin_cgroup(request: RunRequest) -> Making | None:
    """Connect to systemd, if it may be asked for a scope.

    It lets us in while we go on, as who we are on the host.
    """
    manager = request.manager()
    if manager != "systemd" and not (manager == "auto" and sockets()):
        return None
    from rootless.runtime.cgroup import Making

    making = Making()
    making.begin(manager, request.cgroup_parent, early=True)
    return making


def _enter_networks(request: RunRequest, userns: str | None) -> Membership:
    from rootless.engine.membership import Membership

    if userns is not None:
        raise RlessError(
            "--network of several containers and namespaces of another container do not go "
            "together: its user namespace is not made for the network",
            "join that one's network too",
        )
    return Membership(request)


def _load_shared() -> None:
    """Load, and look up, what both sides need: once, not twice.

    Not where a network has to be begun, or an image's program: that has the longest way to go, and
    1 ms later would be 1 ms later at the end.
    """
    import rootless.engine.events
    import rootless.engine.monitor_client
    import rootless.engine.source
    import rootless.linux.caps
    import rootless.runtime.seccomp  # noqa: F401
    from rootless.engine.container import live_root

    live_root()
