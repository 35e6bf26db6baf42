"""The container's parent: from the mounted root file system to the removed directory.

Theory of operation. The command (see `run`) forks this process into the engine's user and
mount namespace. It makes the root file system there, calls the runtime, and stays init's
parent: it reaps it, notes the exit code and removes what was made. It has the invoking user's
own id in the namespace, and every capability over files of mapped ids.

    command                          monitor
       |  <-- READY(facts) ----------   |   created; init waits at the gate
       |  -- gate: START --> init       |   the network is up: the command opens the gate
       |  <-- STARTED ---------------   |   the application runs
       |  -- DETACH ---------------->   |   -d: the command leaves
       |  -- REAP ------------------>   |   --explain: it has looked at the process
       |  <-- EXITED(code) ----------   |   over, and cleaned up

If the command is killed, its end of the orders pipe closes: the container is killed and
cleaned up, unless it was told to DETACH. If the monitor is killed, the kernel kills init; the
command, or the next one, clears the rest (`container.sweep`).
"""

from __future__ import annotations

import os
import select
import time

from rootless.engine.container import delete_directory, this_process, write_json
from rootless.engine.wires import receive_fd
from rootless.errors import RlessError, SyscallError
from rootless.linux import netlink
from rootless.linux.process import pidfd_send_signal, show_as, start_time
from rootless.runtime import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn

    from rootless.engine.container import Container
    from rootless.engine.wires import Wires
    from rootless.linux.idmap import IdMap
    from rootless.network.pasta import Pasta
    from rootless.oci.runtime_spec import Spec
    from rootless.rootfs import Mounted
    from rootless.runtime.cgroup.base import Cgroup
else:
    # The module `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal

DETACH = b"d"
REAP = b"r"


def load_runtime() -> None:
    """Load what only the monitor needs, while newuidmap is at work: 3 ms that nobody waits for."""
    from rootless import rootfs
    from rootless.runtime import cgroup, parent

    del rootfs, cgroup, parent


class Source:
    """Where the root file system comes from.

    Attributes:
        kind: "layers", "host" or "directory".
        layers: directories of the image, bottom to top.
        whiteouts: their form.
        path: of --rootfs.
        driver: asked for by --storage-driver, or None.
        cache, hidden: for `host:`; the latter are directories to leave out, beside $HOME.
    """

    __slots__ = ("cache", "driver", "hidden", "kind", "layers", "path", "whiteouts")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.layers: list[str] = []
        self.whiteouts = "overlay"
        self.path = ""
        self.driver: str | None = None
        self.cache = ""
        self.hidden: list[str] = []


class Monitor:
    """The parent of one container."""

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
        cache_dir: str,
        volumes: list[tuple[str, str]],
    ) -> None:
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
        self.cache_dir = cache_dir
        self.volumes = volumes
        self.mounted: Mounted | None = None
        self.cgroup: Cgroup | None = None
        self.detached = False

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
            if self.container.facts["detach"]:
                _leave_stdio()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
            code = self._live()
            self._tell(sync.EXITED, code)
        except RlessError as error:
            self._clean_up(error.exit_code, error.message)
            self._tell(sync.FAILED, sync.error_payload(error))
            code = error.exit_code
        except OSError as error:
            text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
            self._clean_up(code, text)
            self._tell(sync.FAILED, [text, None, code])
        except BaseException as error:
            text = f"internal error: {type(error).__name__}: {error}"
            self._clean_up(code, text)
            self._tell(sync.FAILED, [text, "run with --debug and report it", code])
        finally:
            os._exit(code)

    def _tell(self, kind: bytes, payload: Any) -> None:
        try:
            sync.send(self.wires.monitor_result, kind, payload)
        except OSError:
            pass  # the command has left

    def _live(self) -> int:
        from rootless.runtime import cgroup, parent

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
        self._fill_volumes(self.mounted.path)
        self.spec["root"]["path"] = self.mounted.path
        write_json(f"{self.container.directory}/config.json", self.spec)
        self.cgroup = cgroup.choose(self.spec, self.container.id)
        times.append(("control group", time.monotonic()))
        self.container.record_live(monitor=this_process(), cgroup=self.cgroup.path)
        created = parent.create(
            self.spec,
            self.cgroup,
            cache_dir=self.cache_dir,
            gate_fd=self.wires.init_gate,
            stdio=self.wires.stdio,
            console_fd=self.wires.console,
            die_with_parent=True,
            want_report=self.want_report,
        )
        init = [created.pid, start_time(created.pid) or 0]
        try:
            self.container.record_live(init=init, started=time.time())
            self.wires.close_init_ends()
            if self.wires.log_socket >= 0:
                self.wires.log = receive_fd(self.wires.log_socket)
            sync.send(
                self.wires.monitor_result,
                sync.READY,
                {
                    "init": init,
                    "report": created.report,
                    "rootfs": self.mounted.describe(),
                    "times": [
                        (name, at - times[index][1])
                        for index, (name, at) in enumerate(times[1:])
                    ],
                    "cgroup": [self.cgroup.manager, self.cgroup.path, self.cgroup.why],
                },
            )
            created.wait_exec()
            self._tell(sync.STARTED, None)
        except BaseException:
            _kill(created.pidfd)
            os.waitpid(created.pid, 0)
            raise
        return self._wait(created.pid, created.pidfd)

    def _mount(self) -> Mounted:
        from rootless import rootfs

        workspace, source = self.container.directory, self.source
        options: dict[str, Any] = {
            "driver": source.driver,
            "volatile": bool(self.container.facts["rm"]),
        }
        if source.kind == "host":
            return rootfs.mount_host(
                workspace, self.idmap, source.cache, exclude=source.hidden, **options
            )
        if source.kind == "directory":
            return rootfs.mount_directory(source.path, workspace, self.idmap, **options)
        return rootfs.mount(
            source.layers, workspace, self.idmap, whiteouts=source.whiteouts, **options
        )

    def _fill_volumes(self, root: str) -> None:
        if self.volumes:
            from rootless.engine import volumes

            for directory, target in self.volumes:
                volumes.fill(directory, root, target)

    def _wait(self, pid: int, pidfd: int) -> int:
        """Wait for the end of the application; return its exit code, all being cleaned up."""
        log = _Log(self.wires.log, f"{self.container.directory}/log")
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(self.wires.monitor_orders, select.POLLIN)
        if log.fd >= 0:
            poll.register(log.fd, select.POLLIN)
        ended, may_reap = False, not self.want_report
        while not (ended and may_reap):
            for fd, _ in poll.poll():
                if fd == pidfd:
                    ended = True
                    poll.unregister(pidfd)
                elif fd == log.fd and fd >= 0:
                    if not log.copy():
                        poll.unregister(fd)
                else:
                    order = os.read(fd, 1)
                    if order == DETACH:
                        self.detached = True
                    elif not order:
                        poll.unregister(fd)
                        if not self.detached and not ended:
                            _kill(pidfd)
                    may_reap = may_reap or order in (REAP, b"")
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
        log.drain()
        code = os.waitstatus_to_exitcode(status)
        code = code if code >= 0 else 128 - code
        self._clean_up(code, None)
        return code

    def _clean_up(self, code: int, error: str | None) -> None:
        """Remove what was made, in the reverse order; keep what `rm` has not been asked for."""
        if self.pasta is not None:
            # A published port is free again when the container is gone; else nobody would see it.
            self.pasta.stop(wait=bool(self.container.facts["ports"]))
        if self.cgroup is not None:
            try:
                self.cgroup.destroy()
            except OSError as failure:
                self._complain(f"cannot remove the cgroup {self.cgroup.path}: {failure.strerror}")
        if self.mounted is not None:
            from rootless import rootfs

            rootfs.unmount(self.mounted)
        try:
            if self.container.facts["rm"] or error is not None:
                self.container.forget_name()
                delete_directory(self.container.directory)
            else:
                self.container.record_exit(code, error)
        except (OSError, RlessError) as failure:
            # What is left is found by the next sweep: the entry in `live` stays.
            self._complain(f"cannot clean up {self.container.directory}: {failure}")
            return
        self.container.forget_live()

    def _complain(self, text: str) -> None:
        from rootless import log

        if not self.detached:
            log.warn(text)


class _Log:
    """The output of a detached container, in a file that is bounded: two times `_LIMIT`."""

    _LIMIT = 10 << 20  # bytes

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self.file = -1
        self.size = 0

    def copy(self) -> bool:
        """Copy what is there; False at the end."""
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False  # a pty says EIO when its last writer has gone
        if not data:
            return False
        if self.file < 0 or self.size + len(data) > self._LIMIT:
            self._open()
        try:
            self.size += os.write(self.file, data)
        except OSError:
            pass  # a full disk loses output, not the container
        return True

    def _open(self) -> None:
        if self.file >= 0:
            os.close(self.file)
            os.rename(self.path, f"{self.path}.1")
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = 0

    def drain(self) -> None:
        """Copy what is still in the pipe, without waiting for writers that live on."""
        if self.fd < 0:
            return
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while poll.poll(0) and self.copy():
            pass


def _leave_stdio() -> None:
    """Let go of the caller's streams: who reads them must see their end."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _kill(pidfd: int) -> None:
    try:
        pidfd_send_signal(pidfd, signal.SIGKILL)
    except SyscallError as error:
        if error.errno != 3:
            raise

