"""`rless run`, told once from top to bottom.

    1 image     the name -> layers on disk, and who the application runs as
    2 map       which of the image's users is the invoking user
    3 container its directory, name and files
    4 spec      wishes + image + facts -> config.json
    5 monitor   forked into the user namespace: root file system, runtime, clean-up
    6 network   pasta, beside the mounts
    7 attach    streams, signals, exit code

The rootless order differs from how Docker tells it: the user namespace exists before the
overlay can be mounted. Everything heavy is loaded where it is needed, not here.
"""

from __future__ import annotations

import os
import time

from rootless import log, paths
from rootless.engine import container as containers
from rootless.engine import defaults, specgen, sweep, userns
from rootless.engine.attach import Pump, Signals, Terminal, window_size
from rootless.engine.monitor import DETACH, REAP, Monitor, Source
from rootless.engine.wires import Wires, receive_fd
from rootless.errors import RlessError, SyscallError
from rootless.linux import caps, idmap, ns
from rootless.linux.process import close_on_exec_from, signal_number, start_time
from rootless.runtime import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.container import Container
    from rootless.engine.request import RunRequest
    from rootless.image.store import Image
    from rootless.linux.idmap import IdMap
    from rootless.network.pasta import Pasta
    from rootless.oci.runtime_spec import Spec

_HOST_IMAGE = "host:"


def _refuse_socket(index: int, mask: int, value: int) -> dict[str, Any]:
    test = {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
    return {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [test]}


# Whole frames can be addressed to the host's loopback, past every route (network.shield).
_NO_PACKET_SOCKETS = [
    _refuse_socket(0, 0xFFFFFFFF, 17),  # AF_PACKET
    _refuse_socket(0, 0xFFFFFFFF, 44),  # AF_XDP, which sends frames too
    _refuse_socket(1, 0xF, 10),  # SOCK_PACKET: the kernel makes AF_PACKET of any AF_INET with it
]


class Run:
    """One `rless run`: what the steps have found out so far."""

    def __init__(self, request: RunRequest) -> None:
        self.request = request
        self.times: list[tuple[str, float]] = []
        self._began = time.monotonic()
        self.storage = paths.storage_root()
        self.image: Image | None = None
        self.config: dict[str, Any] = {}
        self.user: tuple[int, int, list[int], str] = (0, 0, [], "/root")
        self.subordinate = userns.Subordinate()
        self.warned = False
        self.added_groups: list[int] = []
        self.idmap: IdMap
        self.source: Source
        self.container: Container
        self.spec: Spec
        self.joined: dict[str, str] = {}
        self.joined_init: tuple[int, int] | None = None
        self.volumes: list[tuple[str, str]] = []

    def mark(self, step: str) -> None:
        """Note what the time since the last mark was spent on."""
        now = time.monotonic()
        self.times.append((step, now - self._began))
        self._began = now
        log.debug(step)


def run(request: RunRequest) -> int:
    """Run a container; return its exit code, or 0 for one that was detached.

    Raises:
        RlessError: nothing is left of the container then.
    """
    close_on_exec_from(3)  # what the caller left open is not for newuidmap, pasta or us
    state = Run(request)
    if request.cidfile and os.path.lexists(request.cidfile):
        raise RlessError(f"--cidfile: {request.cidfile} exists", "remove it or name another")
    sweep.sweep()
    _join_others(state)
    _find_image(state)
    state.mark("image")
    _make_container(state)
    state.mark("container")
    signals = Signals(request.sig_proxy)
    try:
        return _start(state, signals)
    finally:
        signals.restore()


# -- 1 image, 2 map ------------------------------------------------------------------------------


def _find_image(state: Run) -> None:
    request = state.request
    if request.rootfs is not None:
        state.source = Source("directory")
        state.source.path = request.rootfs
        state.source.driver = request.driver
        state.user = _resolve_user(state, request.user or "", b"", b"")
        state.idmap = _choose_map(state)
        return
    name = request.image or ""
    if name == _HOST_IMAGE:
        state.source = Source("host")
        state.source.cache = f"{state.storage}/host"
        state.source.hidden = _homes()
        state.source.driver = request.driver
        state.config = {"Cmd": ["/bin/sh"]}
        state.user = _resolve_user(state, request.user or "", *_host_users())
        state.idmap = _choose_map(state)
        return
    from rootless.image.store import Store

    store = Store(state.storage)
    image = None if request.pull == "always" else store.lookup(name, request.platform)
    if image is None:
        from rootless.image import pull

        if request.pull == "never":
            raise RlessError(
                f"image {name} is not in the local store, and --pull never was given",
                f"rless pull {name}",
            )
        image = pull.pull(
            name,
            store,
            platform=request.platform,
            policy=request.pull,
            quiet=request.quiet,
            idmap_for=lambda found: _adopt(state, found),
        )
    _adopt(state, image)
    layers = image.layer_dirs(state.idmap.key)
    if layers is None:
        from rootless.image import pull

        layers = pull.ensure_layers(image, state.idmap, store)
    state.source = Source("layers")
    state.source.layers = layers
    state.source.whiteouts = image.whiteouts(state.idmap.key)
    state.source.driver = request.driver


def _adopt(state: Run, image: Image) -> IdMap:
    """Take an image: its config, its user, and with them the map."""
    state.image = image
    state.config = image.config
    spec = state.request.user or state.config.get("User") or ""
    state.user = _resolve_user(state, spec, image.passwd(), image.group())
    state.idmap = _choose_map(state)
    return state.idmap


def _homes() -> list[str]:
    """Return the caller's home by the password database: $HOME may be unset, or another."""
    import pwd

    try:
        return [pwd.getpwuid(os.getuid()).pw_dir]
    except KeyError:
        return []


def _host_users() -> tuple[bytes, bytes]:
    texts = []
    for path in ("/etc/passwd", "/etc/group"):
        with open(path, "rb") as file:
            texts.append(file.read(1 << 20))
    return texts[0], texts[1]


def _resolve_user(
    state: Run, spec: str, passwd: bytes, group: bytes
) -> tuple[int, int, list[int], str]:
    from rootless.image.user import resolve_group, resolve_user

    if state.request.userns.startswith("keep-id") and not spec:
        # As Podman: keep-id also runs the application as the kept user.
        uid, gid = userns.keep_id(state.request.userns)
        spec = f"{uid}:{gid}"
    uid, gid, groups, home = resolve_user(spec, passwd=passwd, group=group)
    try:
        state.added_groups = [resolve_group(name, group=group) for name in state.request.group_add]
    except RlessError as error:
        raise error.within("--group-add") from error
    return uid, gid, groups, home


def _choose_map(state: Run) -> IdMap:
    """Return the map; of a container that we join, its own."""
    if state.joined:
        other = containers.load(state.joined["id"])
        assert other is not None
        return other.idmap()
    mapping = userns.choose(state.request.userns, state.user[:2], state.subordinate)
    asked = state.request.userns == "single"
    if mapping.single and not (asked or state.request.quiet or state.warned):
        state.warned = True
        userns.warn_single(state.subordinate)
    return mapping


def _join_others(state: Run) -> None:
    """Find the containers whose namespaces are joined; they must all be one.

    Their namespaces belong to their user namespace, so ours is the same, with its map.
    """
    request = state.request
    for kind in ("userns", "pid", "ipc", "uts", "cgroupns", "network"):
        mode = getattr(request, kind) or ""
        if not mode.startswith("container:"):
            continue
        try:
            other = containers.find(mode.partition(":")[2])
        except RlessError as error:
            raise RlessError(f"--{kind}: {error.message}", error.hint) from error
        init = other.init()
        if init is None:
            raise RlessError(
                f"--{kind} {mode}: that container is not running",
                "run it with -d first",
            )
        if state.joined.get("id", other.id) != other.id:
            raise RlessError("namespaces of two different containers cannot be joined at once")
        state.joined["id"] = other.id
        name = {"userns": "user", "cgroupns": "cgroup"}.get(kind, kind)
        file = {"network": "net"}.get(name, name)
        state.joined[name] = f"/proc/{init[0]}/ns/{file}"
        state.joined["user"] = f"/proc/{init[0]}/ns/user"
        state.joined_init = init


# -- 3 container, 4 spec -------------------------------------------------------------------------


def _make_container(state: Run) -> None:
    from rootless.engine import volumes

    request = state.request
    container_id = containers.new_id()
    stop_signal = request.stop_signal or state.config.get("StopSignal") or defaults.STOP_SIGNAL
    try:
        stop_number = signal_number(stop_signal)
    except RlessError as error:
        raise RlessError(
            f"the image's StopSignal: {error.message}", "give another one with --stop-signal"
        ) from error
    timeout = request.stop_timeout
    extents = {"uids": state.idmap.uids, "gids": state.idmap.gids, "key": state.idmap.key}
    state.container = containers.create(
        container_id,
        request.name,
        {
            "id": container_id,
            "name": None,
            "image": request.image or request.rootfs,
            "image_id": state.image.id if state.image else None,
            "command": specgen.command(request, state.config, None),
            "created": time.time(),
            "host": os.uname().nodename,
            "boot": paths.boot_id(),
            "rm": request.rm,
            "detach": request.detach,
            "labels": {**(state.config.get("Labels") or {}), **request.labels},
            "exposed": sorted({*(state.config.get("ExposedPorts") or {}), *request.expose}),
            "ports": [_show_port(port) for port in request.publish],
            "mounts": volumes.describe(request, state.config, state.storage, container_id),
            "stop_signal": stop_number,
            "stop_timeout": defaults.STOP_TIMEOUT if timeout is None else timeout,
            "tty": request.tty,
            "idmap": extents,
        },
    )
    try:
        facts = _gather_facts(state)
        state.spec = specgen.generate(request, state.config, facts)
        if request.tty and (size := window_size()):
            state.spec["process"]["consoleSize"] = size
        if request.cidfile:
            _write_cidfile(request.cidfile, container_id)
    except BaseException:
        containers.discard(state.container)
        raise


def _show_port(port: Any) -> str:
    host = f"{port.host_ip or '0.0.0.0'}:{port.host_port}"
    return f"{host}->{port.container_port}/{port.protocol}"


def _write_cidfile(path: str, container_id: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(container_id)
    except OSError as error:
        raise RlessError(f"--cidfile: cannot write {path}: {error.strerror}") from error


def _gather_facts(state: Run) -> specgen.Facts:
    from rootless.engine import files, volumes

    request = state.request
    uid, gid, groups, home = state.user
    facts = specgen.Facts(state.idmap, uid, gid)
    # Groups that the image lists but the map does not have are lost; asked for, they are missed.
    facts.groups = [number for number in groups if state.idmap.host_gid(number) is not None]
    for number in state.added_groups:
        if state.idmap.host_gid(number) is None:
            raise RlessError(
                f"--group-add: group {number} is not in the container's id map",
                "`rless doctor` shows your subordinate ids",
            )
        facts.groups.append(number)
    facts.home = home
    facts.last_cap = caps.last_capability()
    facts.host_mqueue = request.ipc == "host" and os.path.isdir("/dev/mqueue")
    facts.namespace_paths = {
        kind: path for kind, path in state.joined.items() if kind not in ("id", "user")
    }
    if request.userns == "nomap":
        count = userns.count(state.subordinate)
        inner = [{"containerID": 0, "hostID": 0, "size": count}]
        facts.inner_map = (inner, inner)
    if request.uts == "private":
        facts.hostname = request.hostname or (
            os.uname().nodename if request.network == "host" else state.container.id[:12]
        )
    if "network" in state.joined:
        facts.files = files.of_other(containers.find(state.joined["id"]).directory)
    else:
        facts.files = files.write(request, state.container.directory, facts.hostname)
    facts.init = files.place_init(state.container.directory) if request.init else None
    facts.no_new_privs = request.image == _HOST_IMAGE
    facts.seccomp = _seccomp_profile(request, facts)
    files.check_sources(request)
    facts.volumes, state.volumes = volumes.prepare(
        request,
        state.config,
        state.storage,
        state.container.directory,
        state.container.facts["mounts"],
    )
    return facts


def _seccomp_profile(request: RunRequest, facts: specgen.Facts) -> dict[str, Any] | None:
    from rootless.runtime import seccomp

    nested = False
    profile: str | None = None
    for option in request.security_opt:
        name, _, value = option.partition("=")
        if name == "seccomp":
            profile = value
        elif name == "nested-userns":
            nested = True
    if profile == "unconfined" or (request.privileged and profile is None):
        return None
    bounding = specgen.capabilities(request, facts.uid, facts.last_cap)["bounding"]
    if profile is not None and profile != "builtin":
        return seccomp.load_profile_file(profile, bounding)
    rules = seccomp.default_profile(bounding, allow_nested_userns=nested)
    if not {"CAP_NET_RAW", "CAP_NET_ADMIN", "ALL"}.intersection(request.cap_add):
        # Only for who asks. Docker's default CAP_NET_RAW still pings.
        rules["syscalls"] += _NO_PACKET_SOCKETS
    return rules


# -- 5 monitor, 6 network, 7 attach --------------------------------------------------------------


def _start(state: Run, signals: Signals) -> int:
    """Fork the monitor, bring the network up beside it, and stay until the end."""
    request = state.request
    new_network = "network" not in state.joined and request.network != "host"
    wires = Wires(request)
    pasta: Pasta | None = None
    try:
        if new_network and request.network != "none":
            pasta = _prepare_pasta(request)
        monitor = Monitor(
            state.container,
            state.spec,
            state.idmap,
            state.source,
            wires,
            new_network=new_network,
            pasta=pasta,
            want_report=request.explain is not None,
            cache_dir=f"{state.storage}/seccomp",
            volumes=state.volumes,
        )
        namespaces = ns.CLONE_NEWNS | (ns.CLONE_NEWNET if new_network else 0)
        pid = _fork(state, namespaces, monitor)
    except BaseException:
        wires.close_all()
        if pasta is not None:
            pasta.close()
        containers.discard(state.container)
        raise
    wires.close_monitor_ends()
    state.mark("user namespace")
    detached = False
    try:
        code, detached = _attend(state, signals, wires, pasta)
        return code
    finally:
        wires.close_all()  # a monitor that was not told to go on cleans up now
        if not detached:
            os.waitpid(pid, 0)
            if os.path.lexists(state.container.live_path):
                sweep.clear(state.container)  # the monitor was killed


def _fork(state: Run, namespaces: int, monitor: Monitor) -> int:
    try:
        if state.joined:
            path = state.joined["user"]
            return idmap.spawn_joined(path, namespaces, monitor.run, monitor.start_network)
        return idmap.spawn(
            state.idmap, namespaces, monitor.run, monitor.start_network, monitor.meanwhile
        )
    except SyscallError as error:
        if error.call.startswith("unshare"):
            raise userns.explain_failure(error) from error
        raise


def _prepare_pasta(request: RunRequest) -> Pasta:
    from rootless.network import pasta, pasta_options

    options = (request.network or "").partition(":")[2]
    arguments = pasta_options.command(request.publish, options.split(",") if options else [])
    return pasta.Pasta(arguments)


def _attend(state: Run, signals: Signals, wires: Wires, pasta: Pasta | None) -> tuple[int, bool]:
    """Follow the container to its end, or until it is detached; return (exit code, detached)."""
    request = state.request
    pump = Pump(wires.result)
    ready = pump.run_until(sync.READY)
    state.mark("created")
    if state.joined and containers.find(state.joined["id"]).init() != state.joined_init:
        # Had it ended before we joined, its pid could have been another's: all is given up.
        raise RlessError("the container whose namespaces are joined has just ended")
    signals.watch(ready["init"])
    if pasta is not None:
        pasta.wait_ready()
        state.container.record_live(pasta=[pasta.pid, start_time(pasta.pid) or 0])
        state.mark("network")
    terminal = None
    if wires.socket >= 0:
        master, wires.socket = receive_fd(wires.socket), -1
        terminal = Terminal(master)
        pump.add_terminal(master, keys=request.interactive)
    elif not request.detach:
        pump.add(wires.stdout, 1)
        pump.add(wires.stderr, 2)
        wires.stdout = wires.stderr = -1
        if wires.stdin >= 0:
            pump.add(0, wires.stdin, close_sink=True)
            wires.stdin = -1
    if number := signals.interrupted():
        return 128 + number, False
    os.write(wires.gate, sync.START)
    Pump(wires.result).run_until(sync.STARTED)
    signals.forward()
    state.mark("started")
    if request.explain:
        from rootless.engine import explain

        explain.show(state, ready, pasta)
        os.write(wires.orders, REAP)
    if request.detach:
        os.write(wires.orders, DETACH)
        print(state.container.id)
        return 0, True
    with terminal or _nothing():
        code = pump.run_until(sync.EXITED)
        pump.drain()
    return int(code), False


class _nothing:  # noqa: N801  # contextlib.nullcontext, without the import of contextlib
    def __enter__(self) -> None:
        pass

    def __exit__(self, *details: object) -> None:
        pass
