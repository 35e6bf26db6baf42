"""The monitor's calls into Python: restart a container, check its health, remove its volumes.

The monitor (helpers/monitor) starts this module in its own user, mount and network namespace, with
its capabilities. `restart` replaces the monitor, and becomes the monitor again by execve: so init
keeps the same parent, and the namespaces, mounts and network of the first start stay. The other
callbacks are children of the monitor.
"""

from __future__ import annotations

import os
import sys
import time

from rootless import jsontext
from rootless.engine.monitor import execute
from rootless.engine.state import container as containers
from rootless.engine.state import events
from rootless.errors import RlessError
from rootless.linux.procfs import start_time
from rootless.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.engine.monitor.config import MonitorConfig
    from rootless.engine.state.container import Container
    from rootless.oci.runtime_spec import Spec
    from rootless.runtime.cgroup.base import Cgroup


def main() -> int:
    """Run the callback that the monitor's arguments name.

    They are the verb, the id, the descriptor of the config, the number of restarts, the last
    delay, and the descriptors of connections that wait for the next monitor.
    """
    verb, container_id, config_fd, count, delay, connections = sys.argv[1:]
    if verb == "health":
        from rootless.engine.exec import healthcheck

        return healthcheck.main(container_id)
    container = containers.load(container_id)
    if verb == "volumes":
        if container is not None:
            from rootless.engine.state import volumes

            volumes.remove_anonymous(container)
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    if container is None:
        raise RlessError(f"no such container: {container_id}")  # its run record forbids that
    program_fd = execute.open_program()
    config = execute.decode(int(config_fd))
    config.update(
        {
            "name": container.facts["name"],
            "restarts": int(count),
            "restart_delay": int(delay),
            "connection_fds": [int(fd) for fd in connections.split(",") if fd],
            "client_fd": -1,
            "client_stdin_fd": -1,
            "client_stdout_fd": -1,
            "client_stderr_fd": -1,
            "stop_on_disconnect": 0,
            "begun": False,
            "status_fd": -1,
            "release_fd": -1,
        }
    )
    try:
        _start(container, config)
        policy = container.facts["restart"]
        config.update({"restart": policy["name"], "restart_max": policy["max"]})
    except (RlessError, OSError) as error:
        # As Docker: what cannot be started again stays down, and says why.
        config.update(
            {
                "init": 0,
                "init_fd": -1,
                "pty_fd": -1,
                "stdin_fd": -1,
                "stdout_fd": -1,
                "stderr_fd": -1,
                "restart": "no",
                "code": error.exit_code if isinstance(error, RlessError) else 125,
                "error": jsontext.dumps([str(error)[:_LONGEST_REASON]])[1:-1],
            }
        )
    return execute.exec_monitor(program_fd, execute.encode(config), container_id)


_LONGEST_REASON = 500  # characters, of up to 12 bytes each: the monitor has room for 8192


def _start(container: Container, config: MonitorConfig) -> None:
    """Start the container in the current namespaces, and update the config."""
    from rootless import paths
    from rootless.engine.start.pipes import Pipes
    from rootless.linux.unix import receive_fd
    from rootless.runtime import sync
    from rootless.runtime.cgroup.cgroupfs import CgroupfsCgroup
    from rootless.runtime.cgroup.none import NoCgroup
    from rootless.runtime.host import parent

    facts = container.facts
    spec = _read_spec(container)
    _refuse_tracers(spec)
    path = container.run_record().get("cgroup")
    cgroup: Cgroup = NoCgroup("kept")
    if path:
        cgroup = CgroupfsCgroup(path, "kept")
        cgroup.make_anew()
        if limits := spec["linux"].get("resources"):
            from rootless.runtime.cgroup import resources

            resources.apply(path, limits)
    pipes = Pipes(facts["tty"], facts["stdin_open"], (), foreground=False)
    created = parent.begin(
        spec,
        lambda: cgroup,
        cache_dir=f"{paths.storage_root()}/seccomp",
        start_fifo=pipes.init_start_fifo,
        status=(pipes.status, pipes.init_status),
        stdio=pipes.stdio,
        console_fd=pipes.console,
        die_with_parent=True,
    )
    pipes.init_status = -1
    try:
        created.wait_ready()
        started = time.time()
        container.update_run_record(
            init=[created.pid, start_time(created.pid) or 0],
            started=started,
            restarts=config["restarts"],
        )
        pipes.close_init_ends()
        pty = receive_fd(pipes.console_socket) if pipes.console_socket >= 0 else -1
        containers.unlink(f"{container.directory}/exit.json")
        if facts["health"]:
            from rootless.engine.exec import healthcheck

            healthcheck.reset(container)
        os.write(pipes.start_fifo, sync.START)
        sync.expect_exec(created.status_fd)
    except BaseException:
        created.end()
        raise
    events.of_container("start", container)
    config.update(
        {
            "init": created.pid,
            "init_fd": created.pidfd,
            "started": repr(started),
            "pty_fd": pty,
            "stdin_fd": pipes.app_in,
            "stdout_fd": pipes.app_out,
            "stderr_fd": pipes.app_err,
        }
    )


_SYS_PTRACE = 1 << 19  # capabilities(7)


def _refuse_tracers(spec: Spec) -> None:
    """See that nobody can trace the new init while that is still in our mount namespace.

    Its memory belongs to the container's user namespace, as ours does. In a pid namespace that
    it joins, CAP_SYS_PTRACE would open /proc/PID/root, which is the host's. A start by the user
    has no such moment: memory of the host's user namespace is closed to the container.

    Raises:
        RlessError: there is a process that can.
    """
    joined = [one.get("path") for one in spec["linux"]["namespaces"] if one["type"] == "pid"]
    if not joined or not joined[0]:
        return
    wanted = os.stat(joined[0])
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if not os.path.samestat(os.stat(f"/proc/{name}/ns/pid"), wanted):
                continue
            with open(f"/proc/{name}/status", "rb") as file:
                sets = [line.split()[1] for line in file if line.startswith((b"CapPrm", b"CapBnd"))]
        except OSError:
            continue  # not of this user namespace, or it has ended
        if any(int(one, 16) & _SYS_PTRACE for one in sets):
            raise RlessError(
                "not started again: a container in the same pid namespace has CAP_SYS_PTRACE, "
                "and could look into the host then",
                "rless start it, or leave --cap-add=SYS_PTRACE or --pid=container: out",
            )


def _read_spec(container: Container) -> Spec:
    """Return the config of the first start, with the namespaces that are joined as they are now."""
    from rootless.engine.start import start

    with open(f"{container.directory}/config.json", "rb") as file:
        spec: Spec = jsontext.loads(file.read())
    context = start.load(container)
    start.enter_joined(context)
    for namespace in spec["linux"]["namespaces"]:
        if namespace["type"] in context.joined:
            namespace["path"] = context.joined[namespace["type"]]
    return spec
