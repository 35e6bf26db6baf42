"""Steps 1 to 3 of a container's life: its image, its map, and what it is on disk.

What is found out here is kept in container.json, so that every later start has the same image,
map and request, whatever has become of the names in it. See `start` for the rest.
"""

from __future__ import annotations

import os
import time

from rootless import log, paths
from rootless.engine import defaults, idmap_policy
from rootless.engine.request import HOST_IMAGE
from rootless.engine.spec import etc_files, generate
from rootless.engine.spec.rootfs_source import Source
from rootless.engine.start.sandbox import joins
from rootless.engine.state import container as containers
from rootless.engine.state import events, reconcile
from rootless.errors import RlessError
from rootless.image.config.user import resolve_group, resolve_user
from rootless.linux.process import close_on_exec_from, signal_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.networks.attachment import Membership
    from rootless.engine.request import Mount, Port, RunRequest
    from rootless.engine.start.sandbox import Sandbox
    from rootless.engine.state.container import Container
    from rootless.engine.state.records import HealthCheck, IdMapRecord, MountRecord, RestartPolicy
    from rootless.image.squashfs.image_file import ImageFile
    from rootless.image.store.store import Image
    from rootless.linux.idmap import IdMap
    from rootless.oci.runtime_spec import Spec


class Run:
    """One container in the making, or one start of it: what the steps have found out so far."""

    def __init__(self, request: RunRequest) -> None:
        self.request = request
        self.times: list[tuple[str, float]] = []
        self._began = time.monotonic()
        self.storage = paths.storage_root()
        self.sandbox: Sandbox | None = None
        self.image: Image | None = None
        self.file: ImageFile | None = None
        self.config: dict[str, Any] = {}
        self.user: tuple[int, int, list[int], str] = (0, 0, [], "/root")
        self.users = (b"", b"")  # the image's passwd and group
        self.subordinate = idmap_policy.Subordinate()
        self.warned = False
        self.added_groups: list[int] = []
        self.outside: dict[str, str] = {}  # the caller's namespaces, where they are to be shown
        self.idmap: IdMap
        self.source: Source
        self.container: Container
        self.spec: Spec
        self.joined: dict[str, str] = {}
        self.joined_init: tuple[int, int] | None = None
        self.mounts: list[Mount] = []  # as they were decided (`spec.mounts`)
        self.to_fill: list[tuple[str, str]] = []  # (directory, target) of volumes
        self.links: list[tuple[str, str]] = []  # (target, path) that devices need

    @property
    def member(self) -> Membership | None:
        """Return the networks of several containers that it will be in, once that is begun."""
        return self.sandbox.member if self.sandbox is not None else None

    def check_sources(self) -> None:
        """Check the host paths of mounts and devices; make those that -v makes.

        Raises:
            RlessError: one is missing, or is no device.
        """
        if self.mounts:
            from rootless.engine.spec import mounts

            mounts.check_sources(self.mounts)
        etc_files.check_devices(self.request.devices)

    def make_volumes(self) -> None:
        """Make what is missing of the volumes of the container.

        Raises:
            RlessError: the disk is full, or another container interferes.
        """
        if self.mounts:
            from rootless.engine.spec import mounts

            mounts.make_volumes(self.mounts, self.storage, self.container.id)

    def mark(self, step: str) -> None:
        """Note what the time since the last mark was spent on."""
        now = time.monotonic()
        self.times.append((step, now - self._began))
        self._began = now
        log.debug(step)


def create(
    request: RunRequest,
    run: bool = False,
    image: Image | None = None,
    file: ImageFile | None = None,
    sandbox: Sandbox | None = None,
) -> Run:
    """Make a container, which then waits to be started.

    Args:
        run: it is started at once, as `rless run` does.
        image, file: the local image, where that was looked up.
        sandbox: what the caller has begun for it; its ids are mapped meanwhile.

    Raises:
        RlessError: nothing is left of the container then.
    """
    close_on_exec_from(3)  # what the caller left open is not for newuidmap, pasta or us
    state = Run(request)
    state.image, state.file, state.sandbox = image, file, sandbox
    if request.cidfile and os.path.lexists(request.cidfile):
        raise RlessError(f"--cidfile: {request.cidfile} exists", "remove it or name another")
    if request.asks_limits():
        from rootless.engine import resources

        resources.check(request)
    reconcile.reconcile()
    find_joined(state)
    _find_image(state)
    if sandbox is not None:
        sandbox.begin_maps(state.idmap)
    state.mark("image")
    _make_container(state, run)
    state.mark("container")
    return state


# -- 1 image, 2 map ------------------------------------------------------------------------------


def _find_image(state: Run) -> None:
    request = state.request
    if request.rootfs is not None:
        state.source = Source("directory")
        state.source.path = request.rootfs
        state.source.driver = request.driver
        state.user = _resolve_user(state, request.user or "")
        state.idmap = _choose_map(state)
        return
    name = request.image or ""
    if state.file is not None:
        _take_file(state, state.file)
        return
    if name == HOST_IMAGE:
        state.source = Source("host")
        state.source.cache = f"{state.storage}/host"
        state.source.hidden = _homes()
        state.source.driver = request.driver
        state.config = {"Cmd": ["/bin/sh"]}
        state.users = _host_users()
        state.user = _resolve_user(state, request.user or "")
        state.idmap = _choose_map(state)
        return
    if request.is_file():
        from rootless.image.squashfs import image_file

        if path := image_file.named(name):
            _take_file(state, image_file.read(path, state.storage))
            return
    from rootless.image.store.store import Store

    store = Store(state.storage)
    image = None
    if request.pull != "always":
        image = state.image or store.lookup(name, request.platform)
    if image is None:
        from rootless.image.squashfs import image_file

        if path := image_file.search(name):
            _take_file(state, image_file.read(path, state.storage))
            return
        from rootless.image.transfer import pull

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
        from rootless.image.transfer import pull

        layers = pull.ensure_layers(image, state.idmap, store)
    state.source = Source("layers")
    state.source.layers = layers
    state.source.whiteouts = image.whiteouts(state.idmap.key)
    state.source.driver = request.driver


def _take_file(state: Run, image: ImageFile) -> None:
    """Take an image that is a file; it stays where it is."""
    request = state.request
    image.check_platform(request.platform)
    # A later start may have another working directory.
    request = state.request = request.replace(image=image.path)
    state.config = image.config
    source = state.source = Source("squashfs")
    source.path, source.offset, source.identity = image.path, image.offset, image.identity
    source.cache = f"{state.storage}/flat"
    source.driver = request.driver
    spec = request.user or state.config.get("User") or ""
    state.users = image.passwd, image.group
    state.user = _resolve_user(state, spec)
    state.idmap = _choose_map(state)
    if state.idmap.single and not state.joined:
        # The files of the image are root's, so root has to be mapped. Another user of the
        # container is it in a namespace of the container's own (`_gather_facts`).
        state.idmap = idmap_policy.build_single(0, 0)


def _adopt(state: Run, image: Image) -> IdMap:
    """Take an image: its config, its user, and with them the map."""
    state.image = image
    state.config = image.config
    spec = state.request.user or state.config.get("User") or ""
    state.users = image.passwd(), image.group()
    state.user = _resolve_user(state, spec)
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


def _resolve_user(state: Run, spec: str) -> tuple[int, int, list[int], str]:
    passwd, group = state.users
    if state.request.userns.startswith("keep-id") and not spec:
        # As Podman: keep-id also runs the application as the kept user.
        uid, gid = idmap_policy.keep_id(state.request.userns)
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
        return containers.find(state.joined["id"]).idmap()
    mapping = idmap_policy.choose(state.request.userns, state.user[:2], state.subordinate)
    asked = state.request.userns == "single"
    if mapping.single and not (asked or state.request.quiet or state.warned):
        state.warned = True
        idmap_policy.warn_single(state.subordinate)
    return mapping


def find_joined(state: Run) -> None:
    """Find the containers whose namespaces are joined; they must all be one.

    Their namespaces belong to their user namespace, so ours is the same, with its map.
    """
    for kind, name in joins(state.request).items():
        try:
            other = containers.find(name)
        except RlessError as error:
            raise RlessError(f"--{kind}: {error.message}", error.hint) from error
        if state.joined.get("id", other.id) != other.id:
            raise RlessError("namespaces of two different containers cannot be joined at once")
        state.joined["id"] = other.id
        # The name may pass to another container before the next start.
        state.request = state.request.replace(**{kind: f"container:{other.id}"})


# -- 3 container ---------------------------------------------------------------------------------


def _make_container(state: Run, run: bool) -> None:
    request, config = state.request, state.config
    sandbox = state.sandbox
    container_id = containers.new_id() if sandbox is None else sandbox.container_id
    command = generate.command(request, config, None)
    systemd, default_signal = "", defaults.STOP_SIGNAL
    if request.systemd != "auto" or command[0].endswith(("init", "systemd")):
        from rootless.engine.spec import systemd_mode

        if systemd := systemd_mode.wanted(request, command):
            default_signal = systemd_mode.STOP_SIGNAL
    stop_signal = request.stop_signal or config.get("StopSignal") or default_signal
    try:
        stop_number = signal_number(stop_signal)
    except RlessError as error:
        raise RlessError(
            f"the image's StopSignal: {error.message}", "give another one with --stop-signal"
        ) from error
    timeout = request.stop_timeout
    extents: IdMapRecord = {
        "uids": state.idmap.uids,
        "gids": state.idmap.gids,
        "key": state.idmap.key,
    }
    state.container = containers.create(
        container_id,
        request.name,
        {
            "id": container_id,
            "name": "",
            "image": request.image or request.rootfs,
            "image_id": state.image.id if state.image else None,
            "image_config": config,
            "command": command,
            "path": command[0],
            "args": command[1:],
            "created": time.time(),
            "host": os.uname().nodename,
            "boot": paths.boot_id(),
            "run": run,
            "rm": request.rm,
            "detach": request.detach,
            "labels": {**(config.get("Labels") or {}), **request.labels},
            "exposed": _exposed(request, config),
            "ports": [_show_port(port) for port in request.publish],
            "network": _show_network(state),
            "systemd": systemd,
            "stop_signal": stop_number,
            "stop_timeout": defaults.STOP_TIMEOUT if timeout is None else timeout,
            "tty": request.tty,
            "stdin_open": request.interactive,
            "stdin_once": request.interactive and not request.detach,
            "log": {"driver": request.log_driver or "local", "options": dict(request.log_options)},
            "restart": _restart_policy(request),
            "health": _health(request, config),
            "mounts": _decide_mounts(state, container_id),
            "idmap": extents,
            "user": state.user,
            "added_groups": state.added_groups,
            "source": state.source.to_data(),
            "request": request.to_data(),
        },
        lambda container: _populate(state, container),
    )
    try:
        # Only now that its facts are on disk: they keep others from removing its volumes.
        state.make_volumes()
    except BaseException:
        containers.discard(state.container)
        raise
    events.of_container("create", state.container)


def _decide_mounts(state: Run, container_id: str) -> list[MountRecord]:
    """Decide on all mounts; the module is loaded only where there are some."""
    request = state.request
    if not (request.mounts or request.volumes_from or state.config.get("Volumes")):
        return []
    from rootless.engine.spec import mounts

    state.mounts = mounts.decide(request, state.config, state.storage, container_id)
    state.to_fill = mounts.to_fill(state.mounts)
    return mounts.to_records(state.mounts)


def _populate(state: Run, container: Container) -> None:
    """Make what belongs to a container: the sources of its mounts, the file with its id."""
    state.check_sources()
    if state.request.add_user:
        etc_files.write_users(container.directory, state.user[:2], *state.users)
    if state.request.cidfile:
        _write_cidfile(state.request.cidfile, container.id)


def _health(request: RunRequest, config: dict[str, Any]) -> HealthCheck | None:
    """Return the health check; its module is loaded only where one may be."""
    if not (config.get("Healthcheck") or request.asks_health()):
        return None
    from rootless.engine.exec import healthcheck

    return healthcheck.wanted(request, config)


def _restart_policy(request: RunRequest) -> RestartPolicy:
    policy = request.restart
    return {"name": policy["name"], "max": policy["max"]} if policy else {"name": "no", "max": 0}


def _show_network(state: Run) -> str:
    mode = state.request.network or "pasta"
    return mode if mode.startswith("container:") else mode.partition(":")[0]


def _show_port(port: Port) -> str:
    """Return what is asked for; what is true stands in the run record."""
    number = f"{port.host_port or ''}"
    if port.host_end:
        number += f"-{port.host_end}"
    address = f"[{port.host_ip}]" if ":" in (port.host_ip or "") else port.host_ip or ""
    return f"{address}:{number}->{port.container_port}/{port.protocol}"


def _exposed(request: RunRequest, config: dict[str, Any]) -> list[str]:
    texts = [*(config.get("ExposedPorts") or {}), *request.expose]
    if not texts:
        return []
    from rootless.network import ports

    return ports.exposed(texts)


def _write_cidfile(path: str, container_id: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(container_id)
    except OSError as error:
        raise RlessError(f"--cidfile: cannot write {path}: {error.strerror}") from error
