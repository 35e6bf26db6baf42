"""Steps 4 to 7: start a container that exists, and attend it until it ends.

    4 spec      request + image + the present state of the host -> config.json
    5 monitor   this process enters the user namespace, makes the root file system, calls the
                runtime, and becomes the monitor
    6 network   pasta, in parallel with the mounts
    7 attach    the foreground process: streams, signals, exit code

Every start makes the spec again, so what it names outside (containers whose namespaces are joined,
the host's name servers, devices) is looked up when it is used.
"""

from __future__ import annotations

import os

from rootless.engine import idmap_policy
from rootless.engine.attach.foreground import (
    Attachment,
    Foreground,
    fork_foreground,
    run_start_process,
)
from rootless.engine.request import HOST_IMAGE, RunRequest
from rootless.engine.spec import etc_files, generate, network_mode
from rootless.engine.spec.generate import SpecInputs
from rootless.engine.spec.rootfs_source import RootfsSource
from rootless.engine.start.create import StartContext, find_joined
from rootless.engine.start.sandbox import Sandbox, begin_cgroup, joins
from rootless.engine.state import container as containers
from rootless.engine.state import reconcile
from rootless.errors import CONFLICT, NOT_FOUND, RlessError
from rootless.linux import caps, prctl
from rootless.linux.process import close_on_exec_from
from rootless.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from rootless.engine.networks.attachment import Membership
    from rootless.engine.state.container import Container


_PACKAGED = ("layers", "squashfs")  # what packages can be installed in


def load(container: Container) -> StartContext:
    """Return the context in which a container that exists is started.

    Raises:
        RlessError: another version has made it, or a container that it joins is gone.
    """
    facts = container.facts
    if "request" not in facts or "source" not in facts:
        raise RlessError(
            f"container {facts['name']} was made by an older rless and cannot be started again",
            "rless rm it, and run it anew",
        )
    context = StartContext(RunRequest.from_data(facts["request"]))
    context.container = container
    context.config = facts["image_config"]
    uid, gid, groups, home = facts["user"]
    context.user = (uid, gid, groups, home)
    context.added_groups = facts["added_groups"]
    context.idmap = container.idmap()
    context.source = RootfsSource.from_data(facts["source"])
    if facts["mounts"]:
        from rootless.engine.spec import mounts

        context.mounts = mounts.of_container(facts["mounts"], context.request)
        if not container.was_started():
            context.to_fill = mounts.to_fill(context.mounts)
    find_joined(context)
    return context


def start(
    container: Container,
    streams: Sequence[str] = (),
    keys: str | None = None,
    sig_proxy: bool = True,
) -> int:
    """Start a container that exists; return its exit code, or 0 where it is not attached.

    A container that runs already is not started again, as in Docker, but its streams are attached.

    Args:
        streams: to attach, of stdin, stdout and stderr.
        keys: the keys to detach, as typed; None: the default.

    Raises:
        RlessError: it cannot be started; exit.json has the reason as well.
    """
    close_on_exec_from(3)
    attachment = Attachment(
        streams, keys, proxy=sig_proxy and bool(streams), stop_on_disconnect=False
    )
    code = fork_foreground(lambda foreground: _claim_and_run(container, attachment, foreground))
    if code == RUNS:
        return attach(container, streams, keys, sig_proxy) if streams else 0
    if code == _INTERRUPTED and not streams:
        raise KeyboardInterrupt  # `cli.main` ends without a message then
    return code


def start_for(container: Container, streams: Sequence[str], fd: int) -> NoReturn:
    """Start a container in this process, for a foreground process at the other end of a socket.

    That is a program that serves many at once, so it cannot wait as `start` does. The protocol is
    that of `ForegroundParent`; `RUNS` is the exit code where the container runs already.
    """
    prctl.set_parent_death_signal(signal.SIGKILL)
    attachment = Attachment(streams, None, proxy=False, stop_on_disconnect=False)
    run_start_process(lambda foreground: _claim_and_run(container, attachment, foreground), fd)


RUNS = -1  # in place of an exit code: it runs already
_INTERRUPTED = 130  # what `fork_foreground` returns of a start that a key has ended


def _claim_and_run(container: Container, attachment: Attachment, foreground: Foreground) -> int:
    """Start a container, unless it runs; return only if it runs already."""
    reconcile.reconcile()
    while not container.claim():
        if container.status()[0] in ("running", "paused", "restarting"):
            return RUNS
        if container.run_record().get("removing"):
            raise RlessError(
                f"container {container.facts['name']} is being removed", exit_code=1, kind=CONFLICT
            )
        if not containers.await_run_record(container):
            raise RlessError(
                f"container {container.facts['name']} is being started or ended by another "
                "command, and this takes too long",
                "try again",
                1,
            )
        reconcile.reconcile()
    try:
        _reread(container)
        context = load(container)
        context.mark("container")
    except BaseException:
        container.remove_run_record()
        raise
    return run_to_exit(context, attachment, foreground, keep=True)


def _reread(container: Container) -> None:
    """Read the facts again, now that only a rename may still change them."""
    current = containers.load(container.id)
    if current is None:
        raise RlessError(
            f"no such container: {container.facts['name']}", exit_code=1, kind=NOT_FOUND
        )
    container.facts = current.facts


def attach(
    container: Container, streams: Sequence[str], keys: str | None, sig_proxy: bool = True
) -> int:
    """Attach to a container that runs; return its exit code, or 0 when detached.

    Args:
        streams, keys, sig_proxy: as for `start`.

    Raises:
        RlessError: it does not run, or its monitor was killed.
    """
    from rootless.engine.attach.session import KILLED, detached, pump
    from rootless.engine.attach.streams import Signals
    from rootless.engine.state import events, monitor_client

    signals = Signals(sig_proxy)
    try:
        client = monitor_client.connect(container)
        if client is None:
            raise RlessError(
                f"container {container.facts['name']} is not running", exit_code=1, kind=CONFLICT
            )
        pipes = [os.pipe() for _ in range(3)]
        with_input = "stdin" in streams and container.facts["stdin_open"]
        try:
            client.attach(pipes[0][0] if with_input else -1, pipes[1][1], pipes[2][1])
        finally:
            for fd in (pipes[0][0], pipes[1][1], pipes[2][1]):
                os.close(fd)
        events.of_container("attach", container)
        signals.forward(client.forward)
        stdin = pipes[0][1] if with_input else -1
        if not with_input:
            os.close(pipes[0][1])
        tty = container.facts["tty"]
        code = pump(client, tty, streams, keys, (stdin, pipes[1][0], pipes[2][0]))
        if code is None:
            raise RlessError(KILLED, exit_code=137)
        if client.code is None:
            detached(container)
        return code
    finally:
        signals.restore()


# -- 4 spec --------------------------------------------------------------------------------------


def _make_spec(context: StartContext, inputs: SpecInputs) -> None:
    request = context.request
    _gather(context, inputs)
    context.spec = generate.generate(request, context.config, inputs)
    if request.tty:
        from rootless.engine.attach.terminal import window_size

        if request.console_size is not None:
            rows, columns = request.console_size
            context.spec["process"]["consoleSize"] = {"height": rows, "width": columns}
        elif size := window_size():
            context.spec["process"]["consoleSize"] = size


def enter_joined(context: StartContext) -> None:
    """Find the namespaces of the container that is joined; it must run."""
    if not context.joined:
        return
    other = containers.find(context.joined["id"])
    init = other.init()
    if init is None:
        raise RlessError(
            f"container:{other.facts['name']}: that container is not running",
            "start it first",
            kind=CONFLICT,
        )
    request = context.request
    if "network" in joins(request):
        network_mode.check_guard(request, RunRequest.from_data(other.facts["request"]))
    for kind in joins(request):
        name = {"userns": "user", "cgroupns": "cgroup"}.get(kind, kind)
        file = {"network": "net"}.get(name, name)
        context.joined[name] = f"/proc/{init[0]}/ns/{file}"
    context.joined["user"] = f"/proc/{init[0]}/ns/user"
    context.joined_init = init


def _gather(context: StartContext, inputs: SpecInputs) -> None:
    """Find out what the spec needs beside the request and the image."""
    request = context.request
    uid, gid, groups, home = context.user
    if request.cdi:
        _add_devices(context, inputs)
    # Groups that the image lists but the map does not have are lost; asked for, they are missed.
    inputs.groups = [number for number in groups if context.idmap.host_gid(number) is not None]
    for number in context.added_groups:
        if context.idmap.host_gid(number) is None:
            raise RlessError(
                f"--group-add: group {number} is not in the container's id map",
                "`rless doctor` shows your subordinate ids",
            )
        inputs.groups.append(number)
    inputs.home = home
    inputs.last_cap = caps.last_capability()
    inputs.host_mqueue = request.ipc == "host" and os.path.isdir("/dev/mqueue")
    inputs.namespace_paths = {
        kind: path for kind, path in context.joined.items() if kind not in ("id", "user")
    }
    if request.userns == "nomap":
        count = idmap_policy.count(context.subordinate)
        inner = [{"containerID": 0, "hostID": 0, "size": count}]
        inputs.inner_map = (inner, inner)
    elif context.source.kind == "squashfs" and context.idmap.single and (uid, gid) != (0, 0):
        inputs.inner_map = (
            [{"containerID": uid, "hostID": 0, "size": 1}],
            [{"containerID": gid, "hostID": 0, "size": 1}],
        )
        inputs.groups = []
    if request.uts == "private":
        inputs.hostname = request.hostname or (
            os.uname().nodename if request.uses_host_network() else context.container.id[:12]
        )
    if "network" in context.joined:
        inputs.files = etc_files.of_other(containers.find(context.joined["id"]).directory)
    else:
        member = context.member
        own, servers, way_out = ([], [], True) if member is None else member.for_files()
        inputs.files = etc_files.write(
            request,
            context.container.directory,
            inputs.hostname,
            hosts=inputs.hosts,
            addresses=own,
            servers=servers,
            way_out=way_out,
        )
    if request.add_user:
        inputs.files.update(etc_files.users(context.container.directory))
    inputs.init = etc_files.place_init(context.container.directory) if request.init else None
    inputs.systemd = context.container.id if context.container.facts.get("systemd") else ""
    inputs.no_new_privs = request.image == HOST_IMAGE
    inputs.seccomp = generate.seccomp_profile(request, inputs)
    inputs.resources = request.resources()
    if fakes_root(context):
        from rootless.engine.spec import fakeroot

        inputs.seccomp = fakeroot.pretend(inputs.seccomp)
        inputs.files.update(fakeroot.write_files(context.container.directory))
        inputs.env += fakeroot.ENVIRONMENT
    directory = context.container.directory
    context.files = [*inputs.files.values()]
    inputs.files = {path: etc_files.shown(directory, file) for path, file in inputs.files.items()}
    if inputs.init is not None and inputs.init.startswith(directory):
        context.files.append(inputs.init)
        inputs.init = etc_files.shown(directory, inputs.init)
    # Once more for a container that was just created: it costs nothing where all is there.
    context.check_sources(make=True)
    context.make_volumes()
    inputs.mounts += context.mounts
    if request.sdnotify == "container":
        from rootless.engine.attach import sdnotify

        if (mount := sdnotify.socket_mount()) is not None:
            inputs.mounts.append(mount)
            inputs.env_over.append(f"NOTIFY_SOCKET={sdnotify.INSIDE}")


def _add_devices(context: StartContext, inputs: SpecInputs) -> None:
    """Add what devices by name need; a mount of the user's own at the same place stays."""
    from rootless.engine.spec import cdi, mounts

    edits = cdi.resolve(context.request.cdi)
    taken = {mount.target for mount in context.mounts}
    inputs.devices += edits.devices
    inputs.mounts += [mount for mount in edits.mounts if mount.target not in taken]
    inputs.env += cdi.environment(edits, context.config)
    inputs.keep_groups = edits.keep_groups
    context.links = edits.links
    mounts.check_sources(inputs.mounts)
    etc_files.check_devices(inputs.devices)


def fakes_root(context: StartContext) -> bool:
    """Tell whether changes of owners and users have to seem successful (--fakeroot)."""
    if context.request.fakeroot is not None:
        return context.request.fakeroot
    return context.idmap.single and context.user[0] == 0 and context.source.kind in _PACKAGED


# -- 5 monitor, 6 network, 7 attach --------------------------------------------------------------


def run_to_exit(
    context: StartContext, attachment: Attachment, foreground: Foreground, keep: bool
) -> NoReturn:
    """Start the container, which this process has claimed, and become its monitor.

    Args:
        keep: whether the container stays if the start fails, with the reason in exit.json.

    Raises:
        RlessError: it could not be started.
    """
    container, request = context.container, context.request
    keep = keep and not container.facts["rm"]
    sandbox = context.sandbox
    try:
        if sandbox is None:
            enter_joined(context)
            userns = context.joined.get("user")
            exposed = container.facts["exposed"]
            pending = begin_cgroup(request)
            sandbox = Sandbox(request, attachment.streams, userns, exposed, container.id, pending)
            context.sandbox = sandbox
            sandbox.begin_maps(context.idmap)
        notify = _notify_mode(context, attachment)
        foreground.hand_over(container, attachment, sandbox.pipes, keep, notify)
        inputs = SpecInputs(context.idmap, *context.user[:2])
        if sandbox.member is not None:
            _join_networks(context, sandbox.member, inputs)
        _make_spec(context, inputs)
        sandbox.prefetch(context.spec)
        _forget_last_run(container, keep)
        if container.facts.get("health"):
            from rootless.engine.exec import healthcheck

            healthcheck.reset(container)
        if request.explain is not None:
            from rootless.engine.start import explain

            explain.note_outside(context)
        from rootless.engine.start.startup import Startup

        sandbox.enter(context.idmap, context.user[1])
        if context.joined and containers.find(context.joined["id"]).init() != context.joined_init:
            # Had it ended before we joined, its pid could have been another's: all is given up.
            raise RlessError("the container whose namespaces are joined has just ended")
        context.mark("user namespace")
    except BaseException as error:
        if sandbox is not None:
            sandbox.close()
        _undo(context, keep, error)
        raise
    Startup(context, sandbox, foreground, attachment.stop_on_disconnect, keep).run()


def _notify_mode(context: StartContext, attachment: Attachment) -> str:
    """Return the mode in which to notify a service manager of the start; "": none."""
    if attachment.streams or "NOTIFY_SOCKET" not in os.environ:
        return ""
    mode = context.request.sdnotify or "conmon"
    return "" if mode == "ignore" else mode


def _forget_last_run(container: Container, keep: bool) -> None:
    """Remove what the last run has recorded, before the monitor records this one."""
    if container.facts["run"] and not keep:
        return  # it was made just now
    containers.unlink(f"{container.directory}/exit.json")
    containers.unlink(f"{container.directory}/{containers.STOPPED}")
    if not container.facts["run"]:
        flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open(f"{container.directory}/started", flags, 0o600))


def _undo(context: StartContext, keep: bool, error: BaseException) -> None:
    """Undo a start that failed before there was a monitor."""
    from rootless.engine.state import bundle

    container = context.container
    context.remove_made()
    try:
        if keep:
            reason = error.message if isinstance(error, RlessError) else str(error)
            if container.was_started():
                container.record_exit(getattr(error, "exit_code", 125), reason)
            container.remove_run_record()
        elif container.facts["run"]:
            bundle.discard(container)
        else:
            bundle.delete(container, volumes=True)
    except (OSError, RlessError):
        pass  # the first reason is the one to tell; the next `reconcile` clears up


def _join_networks(context: StartContext, member: Membership, inputs: SpecInputs) -> None:
    """Take the container's addresses in its networks, which its files in /etc need."""
    request, container = context.request, context.container
    member.take_addresses(container)
    container.update_run_record(networks=member.places, hub=member.process)
    if request.links:
        from rootless.engine.networks import links

        inputs.hosts, inputs.env = links.resolve(
            request.links, container.facts["name"], member.places
        )
    ports = request.published(container.facts["exposed"])
    member.join(container, request.hostname or "", request.dns, ports)
