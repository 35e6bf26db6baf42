"""The container's parent: from the mounted root file system to the program that stays.

Theory of operation. The command (see `start`) forks this process into the engine's user and
mount namespace. It makes the root file system there, calls the runtime, and becomes the monitor
by execve (`hold`), still init's parent. It has the invoking user's own id in the namespace, and
every capability over files of mapped ids.

    command                          monitor                           init
       |  <-- READY(facts) ----------   |   created                      |  waits at the gate
       |  <-- READY -----------------   |   execve: rless-monitor        |
       |  -- gate: START ------------------------------------------->   |  the network is up
       |  <-- status: closed by execve, or FAILED -------------------   |  the application runs
       |  <-> link: a client as others, and the leash                   |
       |  <-- X code ----------------   |   over, and cleaned up

If the command is killed while it keeps the container, its link ends: the container is killed and
cleaned up. A detached one is nobody's. If the monitor is killed, the kernel kills init; the
command, or the next one, clears the rest (`sweep`).
"""

from __future__ import annotations

import os
import time

from rootless.engine.container import delete_directory, this_process, write_json
from rootless.engine.wires import receive_fd
from rootless.errors import RlessError, SyscallError
from rootless.linux import netlink, prctl
from rootless.linux.process import pidfd_send_signal, show_as, start_time
from rootless.runtime import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn

    from rootless.engine.container import Container
    from rootless.engine.hold import Orders
    from rootless.engine.wires import Wires
    from rootless.linux.idmap import IdMap
    from rootless.network.pasta import Pasta
    from rootless.oci.runtime_spec import Spec
    from rootless.rootfs import Mounted
    from rootless.runtime.cgroup.base import Cgroup
    from rootless.runtime.parent import Created
else:
    # The module `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal


def load_runtime() -> None:
    """Load what only the monitor needs, while newuidmap is at work: 3 ms that nobody waits for."""
    from rootless import rootfs
    from rootless.engine import hold
    from rootless.runtime import cgroup, parent

    del rootfs, cgroup, hold, parent


class Source:
    """Where the root file system comes from.

    Attributes:
        kind: "layers", "host", "squashfs" or "directory".
        layers: directories of the image, bottom to top.
        whiteouts: their form.
        path: of --rootfs, or of the file with a squashfs image.
        offset, identity: of that image in the file; which file it was.
        links: (target, absolute path) of links that devices need; found at each start.
        driver: asked for by --storage-driver, or None.
        cache: of what `host:` and squashfs images need.
        hidden: for `host:`: directories to leave out, beside $HOME.
    """

    __slots__ = (
        "cache",
        "driver",
        "hidden",
        "identity",
        "kind",
        "layers",
        "links",
        "offset",
        "path",
        "whiteouts",
    )

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.layers: list[str] = []
        self.whiteouts = "overlay"
        self.path = ""
        self.driver: str | None = None
        self.cache = ""
        self.hidden: list[str] = []
        self.offset = 0
        self.identity: list[int] = []
        self.links: list[tuple[str, str]] = []

    def to_data(self) -> dict[str, Any]:
        """Return it as plain data, for container.json."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Source:
        """Return what `to_data` has given."""
        made = cls(data["kind"])
        for name, value in data.items():
            setattr(made, name, value)
        return made


class Monitor:
    """The parent of one container, until it becomes the program that stays."""

    def __init__(
        self,
        container: Container,
        spec: Spec,
        idmap: IdMap,
        source: Source,
        wires: Wires,
        *,
        new_network: bool,
        pasta: Pasta | None,
        want_report: bool,
        leash: bool,
        keep: bool,
        cache_dir: str,
        volumes: list[tuple[str, str]],
    ) -> None:
        """Hold what the start needs.

        Args:
            leash: the container ends with the command, until that lets go.
            keep: a start that fails leaves the container, with the reason.
        """
        self.container = container
        self.spec = spec
        self.idmap = idmap
        self.source = source
        self.wires = wires
        self.new_network = new_network
        self.pasta = pasta
        self.network_begun = False
        self.network_error: RlessError | None = None
        self.want_report = want_report
        self.leash = leash
        self.keep = keep
        self.cache_dir = cache_dir
        self.volumes = volumes
        self.mounted: Mounted | None = None
        self.cgroup: Cgroup | None = None

    def start_network(self) -> None:
        """Fork pasta, while we are still in the host's network: it ends when we do."""
        if self.pasta is not None:
            self.pasta.fork(die_with_parent=True)

    def meanwhile(self) -> None:
        """Use the time that newuidmap takes: begin the network, load what only we need.

        Neither needs the id maps: the capabilities are there from the first moment. pasta has
        the longest way to go of all, so it goes first.
        """
        try:
            if self.new_network:
                self._begin_network()
        except RlessError as error:
            self.network_error = error  # told when there is somebody to tell
        if self.source.kind != "squashfs":  # there is more time while squashfuse starts
            load_runtime()

    def _begin_network(self) -> None:
        self.network_begun = True
        netlink.loopback_up()
        if self.pasta is not None:
            from rootless.network import shield

            shield.close_loopback(self.pasta.interface)
            # Only now: the shield and pasta both open the tap device, which one at a time can.
            own = f"/proc/{os.getpid()}/ns"
            self.pasta.begin(f"{own}/net", f"{own}/user")

    def run(self) -> NoReturn:
        """Do all of it; never return into the command's stack."""
        code = 125
        try:
            show_as(f"rless: monitor of {self.container.id[:12]}")
            os.setsid()  # the terminal's signals are for the command, which forwards them
            self.wires.close_command_ends()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
            orders = self._create()
            from rootless.engine import hold

            hold.hold(orders, self.container.id)
        except RlessError as error:
            self._give_up(error)
            code = error.exit_code
        except OSError as error:
            text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
            self._give_up(RlessError(text))
        except BaseException as error:
            text = f"internal error: {type(error).__name__}: {error}"
            self._give_up(RlessError(text, "run with --debug and report it"))
        finally:
            os._exit(code)

    def _create(self) -> Orders:
        """Make the container up to its gate; return the orders for what comes then."""
        if self.network_error is not None:
            raise self.network_error
        if self.new_network:
            if not self.network_begun:
                self._begin_network()
            # The network namespace was made with our user namespace; the runtime joins it.
            path = f"/proc/{os.getpid()}/ns/net"
            self.spec["linux"]["namespaces"].append({"type": "network", "path": path})
        times = [("", time.monotonic())]
        self.mounted = self._mount()
        times.append(("root filesystem", time.monotonic()))
        from rootless.engine import monitor_client
        from rootless.runtime import cgroup, parent

        self._fill_volumes(self.mounted.path)
        self.spec["root"]["path"] = self.mounted.path
        write_json(f"{self.container.directory}/config.json", self.spec)
        self.cgroup = cgroup.choose(self.spec, self.container.id, hand_down=True)
        times.append(("control group", time.monotonic()))
        pasta = self.pasta
        self.container.record_live(
            monitor=this_process(),
            pasta=[pasta.pid, start_time(pasta.pid) or 0] if pasta is not None else None,
            cgroup=self.cgroup.path or "",
            manager=self.cgroup.manager,
            rootfs=self.mounted.describe(),
            restarts=0,
        )
        listener = monitor_client.listen(self.container.directory)
        wires = self.wires
        if self.shares_pids:
            # What the application leaves behind must come to us, to end with the container.
            prctl.set_child_subreaper()
        created = parent.create(
            self.spec,
            self.cgroup,
            cache_dir=self.cache_dir,
            gate_fd=wires.init_gate,
            status=(wires.status, wires.init_status),
            stdio=wires.stdio,
            console_fd=wires.console,
            die_with_parent=True,
            want_report=self.want_report,
        )
        init = [created.pid, start_time(created.pid) or 0]
        try:
            started = time.time()
            self.container.record_live(init=init, started=started)
            wires.status = wires.init_status = -1
            wires.close_init_ends()
            pty = receive_fd(wires.console_socket) if wires.console_socket >= 0 else -1
            orders = self._orders(created, started, listener, pty)
            ready = {
                "init": init,
                "report": created.report,
                "rootfs": self.mounted.describe(),
                "times": [
                    (name, at - times[index][1]) for index, (name, at) in enumerate(times[1:])
                ],
                "cgroup": [self.cgroup.manager, self.cgroup.path, self.cgroup.why],
            }
            sync.send(wires.monitor_result, sync.READY, ready)
        except BaseException:
            _kill(created.pidfd)
            os.waitpid(created.pid, 0)
            raise
        return orders

    def _orders(self, created: Created, started: float, listener: int, pty: int) -> Orders:
        """Return what the monitor must know (helpers/monitor)."""
        from rootless import paths
        from rootless.engine import events, hold

        container, wires, mounted = self.container, self.wires, self.mounted
        assert mounted is not None and self.cgroup is not None
        facts = container.facts
        storage = paths.storage_root()
        helpers = mounted.helper_pids or (self.pasta is not None and facts["ports"])
        mount_point = "" if mounted.driver in ("copy", "directory") else mounted.path
        orders = {
            "id": container.id,
            "directory": container.directory,
            "name": facts["name"],
            "attributes": events.attributes_text(facts),
            "live": container.live_path,
            "names": f"{storage}/names",
            "events": f"{storage}/events",
            "started": repr(started),
            "remove": int(facts["rm"]),
            "stdin_once": int(facts["stdin_once"]),
            "leash": int(self.leash),
            "hold": int(self.want_report),
            "cgroup": self.cgroup.path or "",
            "mount": mount_point,
            "wait_helpers": int(bool(helpers)),
            "pasta": self.pasta.pid if self.pasta is not None else 0,
            "init": created.pid,
            "init_fd": created.pidfd,
            "listener": listener,
            "pty": pty,
            "in": wires.app_in,
            "out": wires.app_out,
            "err": wires.app_err,
            "client": wires.client,
            "client_in": wires.client_in,
            "client_out": wires.client_out,
            "client_err": wires.client_err,
            "lock": mounted.lock_fd,
            "status": created.status_fd,
            "hello": wires.monitor_result,
            "orphans": int(self.shares_pids),
            **log_orders(facts),
            "restart": facts["restart"]["name"],
            "restart_most": facts["restart"]["max"],
            "stop_signal": facts["stop_signal"],
            "stop_timeout": facts["stop_timeout"],
        }
        pairs = [(key, str(value)) for key, value in orders.items()]
        has_volumes = facts["rm"] and any(mount["anonymous"] for mount in facts["mounts"])
        if has_volumes:
            pairs.append(("volumes", "1"))
        if facts["restart"]["name"] != "no" or facts["health"] or not facts["rm"] or has_volumes:
            pairs += [("python", word) for word in hold.interpreter()]
            pairs += [("python_fd", str(hold.open_interpreter()))]
            pairs += [("environment", f"RLESS_STORAGE={storage}")]
            pairs += [("environment", "PATH=/usr/bin:/bin")]
        pairs += [("helper", str(pid)) for pid in mounted.helper_pids]
        if facts["health"]:
            pairs += health_orders(facts["health"])
        return pairs

    @property
    def shares_pids(self) -> bool:
        """Tell whether the pid namespace outlives the container, with what is left in it."""
        namespaces = self.spec["linux"]["namespaces"]
        return not any(one["type"] == "pid" and not one.get("path") for one in namespaces)

    def _mount(self) -> Mounted:
        from rootless import rootfs

        workspace, source = self.container.directory, self.source
        options: dict[str, Any] = {
            "driver": source.driver,
            "volatile": bool(self.container.facts["rm"]),
        }
        if source.kind == "host":
            mounted = rootfs.mount_host(
                workspace, self.idmap, source.cache, exclude=source.hidden, **options
            )
        elif source.kind == "squashfs":
            mounted = rootfs.mount_squashfs(
                source.path,
                source.offset,
                source.identity,
                workspace,
                self.idmap,
                source.cache,
                meanwhile=load_runtime,
                **options,
            )
        elif source.kind == "directory":
            mounted = rootfs.mount_directory(source.path, workspace, self.idmap, **options)
        else:
            mounted = rootfs.mount(
                source.layers, workspace, self.idmap, whiteouts=source.whiteouts, **options
            )
        if source.links:
            from rootless.engine import cdi

            cdi.link(mounted.path, source.links)
        if source.driver is None and mounted.driver not in ("overlay", "directory", "host"):
            # Each stores changes in its own form, so a later start takes the same one.
            source.driver = mounted.driver
            self.container.update_facts(source=source.to_data())
        return mounted

    def _fill_volumes(self, root: str) -> None:
        if self.volumes:
            from rootless.engine import volumes

            for directory, target in self.volumes:
                volumes.fill(directory, root, target)

    def _give_up(self, error: RlessError) -> None:
        """Take back what was made, in the reverse order, and tell the command why."""
        if self.pasta is not None:
            # A published port is free again when the container is gone; else nobody would see it.
            self.pasta.stop(wait=bool(self.container.facts["ports"]))
        if self.cgroup is not None:
            try:
                self.cgroup.destroy()
            except OSError:
                pass  # the next sweep finds it by the entry in `live`
        if self.mounted is not None:
            from rootless import rootfs

            rootfs.unmount(self.mounted)
        try:
            if self.keep:
                self.container.record_exit(error.exit_code, error.message)
            else:
                self.container.forget_name()
                delete_directory(self.container.directory)
            self.container.forget_live()
        except (OSError, RlessError):
            pass  # what is left is found by the next sweep: the entry in `live` stays
        try:
            sync.send(self.wires.monitor_result, sync.FAILED, sync.error_payload(error))
        except OSError:
            pass  # the command has left


def log_orders(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the orders about the log; `facts` is container.json."""
    log = facts["log"]
    options = log["options"]
    orders = {
        "log": log["driver"],
        "log_size": options.get("max-size", LOG_SIZE),
        "log_files": options.get("max-file", LOG_FILES),
    }
    if log["driver"] == "journald":
        short = facts["id"][:12]
        tag = options.get("tag") or short
        fields = {
            "CONTAINER_ID": short,
            "CONTAINER_ID_FULL": facts["id"],
            "CONTAINER_NAME": facts["name"],
            "CONTAINER_TAG": tag,
            "IMAGE_NAME": facts["image"] or "",
            "SYSLOG_IDENTIFIER": tag,
        }
        text = "".join(
            f"{name}={' '.join(str(value).splitlines())}\n" for name, value in fields.items()
        )
        orders |= {"journal": JOURNAL, "journal_fields": text}
    return orders


LOG_SIZE = 20 << 20  # bytes
LOG_FILES = 5
JOURNAL = "/run/systemd/journal/socket"


def health_orders(health: dict[str, Any]) -> Orders:
    """Return the orders about the health check, in milliseconds."""
    interval = int(1000 * (health["interval"] or 30))
    while_starting = int(1000 * (health["start_interval"] or 5))
    first = min(interval, while_starting) if health["start_period"] else interval
    return [
        ("health_interval", str(interval)),
        ("health_start_interval", str(while_starting if health["start_period"] else interval)),
        ("health_first", str(first)),
    ]


def _kill(pidfd: int) -> None:
    try:
        pidfd_send_signal(pidfd, signal.SIGKILL)
    except SyscallError as error:
        if error.errno != 3:
            raise
