"""The container's parent, from the mounted root file system to the monitor.

Theory of operation. The start process has found out everything (`create`, `start`), and has entered
the engine's user and mount namespace (`sandbox`). It makes the root file system there, calls the
runtime, and becomes the monitor by execve (`monitor.execute`). So the monitor is init's parent. In
the namespace it keeps the invoking user's own id, and has every capability over files of mapped
ids.

    foreground process               monitor                           init
       |                               |  all but init is made           |
       |                               |  execve: rless-monitor          |  the root is entered
       |                               |  <-- status: READY(report) ---  |  waits for a byte
       |                               |  -- start FIFO: START ------->  |
       |                               |  <-- status: closed by execve   |  the application runs
       |  <-- B ---------------------  |
       |  <-> link, as other clients   |                                |
       |  <-- X code ----------------  |  ended, and cleaned up

After init is cloned this process does almost nothing. Init writes to pages that both still share,
and the kernel has to copy each of them until this process has executed the monitor.

If the foreground process is killed while the container depends on it, its link ends, and the
monitor kills the container and cleans up. A detached container has no foreground process. If the
monitor is killed, the kernel kills init, and the foreground process or the next command cleans up
(`reconcile`).
"""

from __future__ import annotations

import os
import time

from rootless import paths, rootfs
from rootless.engine.attach.foreground import ALWAYS, UNTIL_BEGUN
from rootless.engine.defaults import LOG_FILES, LOG_SIZE
from rootless.engine.monitor import execute
from rootless.engine.spec import etc_files
from rootless.engine.state import monitor_client
from rootless.engine.state.container import this_process, write_json
from rootless.errors import RlessError
from rootless.linux import prctl
from rootless.linux.process import show_as
from rootless.linux.procfs import start_time
from rootless.linux.unix import receive_fd
from rootless.runtime import sync
from rootless.runtime.host import parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from rootless.engine.attach.foreground import Foreground
    from rootless.engine.monitor.config import HealthConfig, InitConfig, LogConfig, SandboxConfig
    from rootless.engine.start.create import StartContext
    from rootless.engine.start.sandbox import Sandbox
    from rootless.engine.state.records import ContainerRecord, HealthCheck
    from rootless.oci.runtime_spec import Namespace
    from rootless.rootfs import Mounted
    from rootless.rootfs.above import Above
    from rootless.runtime.cgroup.base import Cgroup
    from rootless.runtime.host.parent import Begun


# The monitor has room for twice as many mounts, and for the pids that serve them.
_MOST_OVERLAYS = 32
# ms that the first one of those who join a container may take to come (--join)
_JOIN_TIMEOUT = 10000


class Startup:
    """The parent of one container, until it becomes the monitor."""

    def __init__(
        self,
        context: StartContext,
        sandbox: Sandbox,
        foreground: Foreground,
        stop_on_disconnect: bool,
        keep: bool,
    ) -> None:
        """Prepare the start.

        Args:
            context: what the steps before have found out.
            sandbox: namespaces and network, which this process has entered.
            stop_on_disconnect: the container ends with the foreground process, until the user
                detaches.
            keep: whether the container stays if the start fails, with the reason.
        """
        self.context = context
        self.sandbox = sandbox
        self.foreground = foreground
        self.container = context.container
        self.spec = context.spec
        self.idmap = context.idmap
        self.source = context.source
        self.pipes = sandbox.pipes
        self.pasta = sandbox.pasta
        self.stop_on_disconnect = stop_on_disconnect
        self.keep = keep
        self.mounted: Mounted | None = None
        self.overlays: list[Mounted] = []
        self.shown: Mounted | None = None  # files of ours
        self.cgroup: Cgroup | None = None
        self.program_fd = self.config_fd = -1
        self.started = 0.0

    def run(self) -> NoReturn:
        """Start the container and become its monitor; never return.

        Raises:
            RlessError: the start failed. Everything is undone then, except what `keep` asks for.
        """
        try:
            config_fd = self._create()
        except BaseException as error:
            self._give_up(error)
            raise
        execute.exec_monitor(self.program_fd, config_fd, self.container.id)

    def _create(self) -> int:
        """Make the container, up to an init that is at work; return the monitor config."""
        if self.sandbox.has_network:
            # It was made with our user namespace; the runtime joins it.
            entry: Namespace = {"type": "network", "path": f"/proc/{os.getpid()}/ns/net"}
            self.spec["linux"]["namespaces"].append(entry)
        began = time.monotonic()
        self.mounted = self._mount()
        self.context.times.append(("root filesystem", time.monotonic() - began))
        self.sandbox.has_mounted()
        self._fill_volumes(self.mounted.path)
        if self.context.request.localtime and self.mounted.driver != "directory":
            etc_files.place_localtime(self.mounted.path)
        if self.context.made:
            from rootless.engine.spec.mounts import check_targets

            check_targets(self.context.made, self.context.mounts, self.mounted.path)
        self._mount_overlays()
        self.shown = etc_files.show(self.container.directory, self.context.files)
        self.spec["root"]["path"] = self.mounted.path
        pipes = self.pipes
        if self.shares_pids:
            # What the application leaves behind must come to us, to end with the container.
            prctl.set_child_subreaper()
            # Others see init before it is the application; our arguments may hold secrets.
            show_as(f"rless: init of {self.container.id[:12]}")
        begun = parent.begin(
            self.spec,
            self._prepare,
            cache_dir=f"{self.context.storage}/seccomp",
            start_fifo=pipes.init_start_fifo,
            status=(pipes.status, pipes.init_status),
            stdio=pipes.stdio,
            console_fd=pipes.console,
            die_with_parent=True,
            want_report=self.context.request.explain is not None,
            keep_fds=self._launcher_fds(),
        )
        try:
            pipes.status = pipes.init_status = -1  # taken over
            pipes.close_init_ends()
            self.context.mark("init")
            execute.add(self.config_fd, self._init_config(begun))
            self.context.mark("monitor")
            self.foreground.settle()
        except BaseException:
            begun.end()
            raise
        return self.config_fd

    def _init_config(self, begun: Begun) -> InitConfig:
        """Wait for terminal and network; return the part of the monitor config about init."""
        init = [begun.pid, start_time(begun.pid) or 0]
        self.container.update_run_record(init=init, started=self.started)
        config: InitConfig = {
            "init": begun.pid,
            "init_fd": begun.pidfd,
            "pty_fd": self._receive_pty(),
            "status_fd": begun.status_fd,
            "release_fd": self.pipes.start_fifo,
            "begun": False,
        }
        if self.pasta is not None and self.pasta.ports:
            from rootless.network import accounting

            accounting.count(self.pasta.ports)  # while pasta starts
        self.sandbox.settle()
        self.context.mark("network")
        if self.context.request.explain is not None:
            self._explain(begun)
            config.update({"status_fd": -1, "release_fd": -1, "begun": True})
        elif self.pasta is not None:
            self._open_start_fifo(begun)  # init is waiting by now: the network took longer
            config["release_fd"] = -1
        return config

    def _open_start_fifo(self, begun: Begun) -> dict[str, Any]:
        """Do what the monitor does when init is ready; return what init reports."""
        from rootless.engine.state import events

        report = begun.wait_ready()
        events.of_container("start", self.container)
        try:
            os.write(self.pipes.start_fifo, sync.START)
        except BrokenPipeError:
            pass  # init was killed: the end of its pipe tells
        return report

    def _explain(self, begun: Begun) -> None:
        """Start the application, and print its state before anybody may reap it."""
        from rootless.engine.start import explain

        cgroup, mounted = self.cgroup, self.mounted
        assert mounted is not None and cgroup is not None
        report = self._open_start_fifo(begun)
        begun.wait_exec()
        self.context.mark("started")
        made = {
            "report": report,
            "init": begun.pid,
            "rootfs": mounted.describe(),
            "cgroup": [cgroup.manager, cgroup.path, cgroup.why],
        }
        explain.show(self.context, made, self.pasta)

    def _prepare(self) -> Cgroup:
        """Make the control group, and do everything else that does not need init."""
        assert self.mounted is not None
        cgroup = self._place()
        write_json(f"{self.container.directory}/config.json", self.spec)
        self.started = time.time()
        self.program_fd = execute.open_program()
        self.config_fd = execute.encode(self._sandbox_config())
        return cgroup

    def _receive_pty(self) -> int:
        """Return the master of the terminal, once init has made it; -1: there is none."""
        if self.pipes.console_socket < 0:
            return -1
        try:
            return receive_fd(self.pipes.console_socket)
        except OSError:
            return -1  # init has failed, and says so itself

    def _place(self) -> Cgroup:
        """Return the control group; put the limits as they were set into the spec."""
        assert self.mounted is not None
        began = time.monotonic()
        helpers = [*self._helper_pids(), *([self.pasta.pid] if self.pasta is not None else ())]
        pending = self.sandbox.pending
        pending.update(self.spec["linux"]["resources"])
        self.cgroup = cgroup = pending.finish(helpers, self._note)
        self.spec["linux"]["resources"] = cgroup.resources
        if cgroup.rlimits:
            import resource  # noqa: F401  # init can load nothing any more

            self.spec["process"]["rlimits"] = [*self.spec["process"]["rlimits"], *cgroup.rlimits]
        if cgroup.cpus:
            from rootless.engine.resources import parse_set

            # Of this process, which becomes the monitor: init has it from us.
            os.sched_setaffinity(0, parse_set(cgroup.cpus))
        if systemd := self.container.facts.get("systemd"):
            from rootless.engine.spec import systemd_mode

            systemd_mode.open_cgroup(self.spec, cgroup, systemd)
        self.context.times.append(("control group", time.monotonic() - began))
        return cgroup

    def _note(self, manager: str, cgroup: str) -> None:
        """Record what exists, and the control group that is about to exist."""
        assert self.mounted is not None
        pasta = self.pasta
        if pasta is not None:
            process = [pasta.pid, start_time(pasta.pid) or 0]
            self.container.update_run_record(now=False, pasta=process)
        self.container.update_run_record(
            # All else that there is by now ends with this process, which is noted as the owner.
            now=bool(cgroup or pasta is not None),
            monitor=this_process(),
            mac=pasta.mac if pasta is not None else "",
            cgroup=cgroup,
            manager=manager,
            ports=self.sandbox.published(),
            rootfs=self.mounted.describe(),
            restarts=0,
        )

    def _sandbox_config(self) -> SandboxConfig:
        """Return the monitor config without the part about init and its terminal."""
        from rootless.engine.state import events

        container, pipes, mounted = self.container, self.pipes, self.mounted
        assert mounted is not None and self.cgroup is not None
        facts = container.facts
        storage = paths.storage_root()
        restart, health = facts["restart"], facts["health"]
        has_volumes = facts["rm"] and any(mount["anonymous"] for mount in facts["mounts"])
        needs_python = restart["name"] != "no" or health or not facts["rm"] or has_volumes
        return {
            "id": container.id,
            "name": facts["name"],
            "directory": container.directory,
            "attributes": events.attributes_text(facts),
            "run_record": container.run_record_path,
            "names": f"{storage}/names",
            "events": events.path(),
            "started": repr(self.started),
            "remove": facts["rm"],
            "remove_volumes": has_volumes,
            "cgroup": self.cgroup.path or "",
            "mounts": [one.path for one in self._mounts if one.driver not in ("copy", "directory")],
            "lock_fds": mounted.lock_fds,
            "helper_pids": self._helper_pids(),
            "pasta": self.pasta.pid if self.pasta is not None else 0,
            "wait_pasta": bool(self.sandbox.published()),
            "member_fd": self.sandbox.member.fd if self.sandbox.member is not None else -1,
            "orphans": self.shares_pids,
            "listener_fd": monitor_client.listen(container.directory),
            "stdin_fd": pipes.app_in,
            "stdout_fd": pipes.app_out,
            "stderr_fd": pipes.app_err,
            "stdin_once": facts["stdin_once"],
            "client_fd": pipes.client,
            "client_stdin_fd": pipes.client_in,
            "client_stdout_fd": pipes.client_out,
            "client_stderr_fd": pipes.client_err,
            "stop_on_disconnect": ALWAYS if self.stop_on_disconnect else UNTIL_BEGUN,
            "connection_fds": [],
            **log_config(facts),
            "restart": restart["name"],
            "restart_max": restart["max"],
            "restarts": 0,
            "restart_delay": 0,
            "stop_signal": facts["stop_signal"],
            "stop_timeout": facts["stop_timeout"],
            "join_timeout": _JOIN_TIMEOUT if facts["request"].get("holds") else 0,
            **health_config(health),
            "python": execute.interpreter() if needs_python else [],
            "python_fd": execute.open_interpreter() if needs_python else -1,
            "environment": [f"RLESS_STORAGE={storage}", "PATH=/usr/bin:/bin"],
            "code": 0,
            "error": "",
        }

    def _launcher_fds(self) -> tuple[int, ...]:
        """Return the descriptors for the application that the command was started with."""
        environment = self.spec["process"].get("env", [])
        if not any(entry.startswith("PMI_FD=") for entry in environment):
            return ()
        from rootless.engine.spec.hpc import launcher_fds

        return launcher_fds(environment)

    @property
    def shares_pids(self) -> bool:
        """Tell whether the pid namespace outlives the container, with what is left in it."""
        namespaces = self.spec["linux"]["namespaces"]
        return not any(one["type"] == "pid" and not one.get("path") for one in namespaces)

    def _mount(self) -> Mounted:
        above = self._show_above() if self.context.request.above else None
        if above is None:
            return self._mount_root(())
        try:
            mounted = self._mount_root(above.paths)
        except BaseException:
            above.close()
            raise
        above.hand_over(mounted)
        return mounted

    def _show_above(self) -> Above:
        """Show the user's layers on the image."""
        from rootless.image.squashfs import image_file
        from rootless.rootfs.above import Above, Layer

        layers = []
        for path in self.context.request.above:
            layer = Layer(path)
            if not os.path.isdir(path):
                image = image_file.read(path, paths.storage_root())
                layer = Layer(path, image.offset, image.identity)
            layers.append(layer)
        return Above(layers, self.container.directory, self.idmap, self.source.cache)

    def _mount_root(self, above: Sequence[str]) -> Mounted:
        workspace, source = self.container.directory, self.source
        options: dict[str, Any] = {
            "driver": source.driver,
            "volatile": bool(self.container.facts["rm"]),
        }
        if self.context.request.overlay is not None and source.kind != "host":
            options["place"] = self.context.request.overlay
        if source.kind == "host":
            from rootless.rootfs import host

            mounted = host.mount(
                workspace, self.idmap, source.cache, exclude=source.hidden, **options
            )
        elif source.kind == "squashfs":
            from rootless.rootfs import squashfs

            words = b""
            if self.sandbox.server is None:  # else that was told when the spec was made
                from rootless.rootfs import prefetch

                words = prefetch.words(self.spec)
            mounted = squashfs.mount(
                source.path,
                source.offset,
                source.identity,
                workspace,
                self.idmap,
                source.cache,
                begun=self.sandbox.server,
                ahead=words,
                above=above,
                **options,
            )
        elif source.kind == "directory":
            mounted = rootfs.mount_directory(
                source.path, workspace, self.idmap, above=above, **options
            )
        else:
            mounted = rootfs.mount(
                *([*source.layers, *above], workspace, self.idmap),
                whiteouts=source.whiteouts,
                **options,
            )
        if self.context.links:
            from rootless.engine.spec import cdi

            cdi.link(mounted.path, self.context.links)
        if source.driver is None and mounted.driver not in ("overlay", "directory", "host"):
            # Each stores changes in its own form, so a later start takes the same one.
            source.driver = mounted.driver
            self.container.update_facts(source=source.to_data())
        return mounted

    def _fill_volumes(self, root: str) -> None:
        if self.context.to_fill:
            from rootless.engine.state import volumes

            for directory, target in self.context.to_fill:
                volumes.fill(directory, root, target, self.context.user[:2])

    def _mount_overlays(self) -> None:
        """Mount what `-v SOURCE:TARGET:O` asks for, and have the runtime bind that."""
        for mount in self.context.mounts:
            if not mount.overlay:
                continue
            if len(self.overlays) == _MOST_OVERLAYS:
                raise RlessError(f"a container can have {_MOST_OVERLAYS} overlays (-v with O)")
            workspace = f"{self.container.directory}/overlays/{len(self.overlays)}"
            mounted = rootfs.mount_over(mount.source or "", workspace, self.idmap)
            self.overlays.append(mounted)
            for entry in self.spec["mounts"]:
                if entry["destination"] == mount.target:
                    entry["source"] = mounted.path

    @property
    def _mounts(self) -> list[Mounted]:
        made = (self.mounted, *self.overlays, self.shown)
        return [mounted for mounted in made if mounted is not None]

    def _helper_pids(self) -> list[int]:
        return [pid for mounted in self._mounts for pid in mounted.helper_pids]

    def _give_up(self, error: BaseException) -> None:
        """Undo what was made, in the reverse order."""
        if self.pasta is not None:
            # A published port is free again when the container is gone; else nobody would see it.
            self.pasta.stop(wait=bool(self.sandbox.published()))
        group_stays = False
        if group := self.container.run_record().get("cgroup"):  # noted before it is made
            from rootless.runtime.cgroup import cgroupfs

            try:
                cgroupfs.remove(group)
            except OSError:
                group_stays = True  # the next `reconcile` finds it by the run record
        for mounted in self._mounts:
            rootfs.unmount(mounted)
        self.context.remove_made()
        try:
            if self.keep:
                reason = error.message if isinstance(error, RlessError) else str(error)
                self.container.record_exit(getattr(error, "exit_code", 125), reason)
                if not group_stays:
                    self.container.remove_run_record()
            else:
                from rootless.engine.state.bundle import discard

                discard(self.container, keep_record=group_stays)
        except (OSError, RlessError):
            pass  # what is left is found by the next `reconcile`: the run record stays


def log_config(facts: ContainerRecord) -> LogConfig:
    """Return the part of the monitor config about the log."""
    log = facts["log"]
    options = log["options"]
    config: LogConfig = {
        "log": log["driver"],
        "log_size": options.get("max-size", LOG_SIZE),
        "log_files": options.get("max-file", LOG_FILES),
        "journal": JOURNAL,
        "journal_fields": "",
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
        config["journal_fields"] = "".join(
            f"{name}={' '.join(str(value).splitlines())}\n" for name, value in fields.items()
        )
    return config


JOURNAL = "/run/systemd/journal/socket"


def health_config(health: HealthCheck | None) -> HealthConfig:
    """Return the part of the monitor config about the health check; times are milliseconds."""
    if health is None:
        return {"health_first": 0, "health_start_interval": 0, "health_interval": 0}
    interval = int(1000 * (health["interval"] or 30))
    while_starting = int(1000 * (health["start_interval"] or 5))
    if not health["start_period"]:
        while_starting = interval
    return {
        "health_first": min(interval, while_starting),
        "health_start_interval": while_starting,
        "health_interval": interval,
    }
