"""Steps 1 to 3 of a container's life: its image, its id map, its files on disk.

container.json keeps the results, so every later start uses the same image, map and request, even if
a name has come to mean something else. `start` has the other steps.
"""

from __future__ import annotations

import os
import time

from rootless import log, paths
from rootless.engine import defaults, idmap_policy
from rootless.engine.spec import etc_files, generate
from rootless.engine.spec.rootfs_source import RootfsSource
from rootless.engine.start.image_argument import resolve
from rootless.engine.start.sandbox import joins
from rootless.engine.state import bundle, events, reconcile
from rootless.engine.state import container as containers
from rootless.errors import RlessError
from rootless.image.config.user import resolve_group, resolve_user
from rootless.linux.process import close_on_exec_from, signal_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.engine.idmap_policy import Owner
    from rootless.engine.networks.attachment import Membership
    from rootless.engine.request import Mount, Port, RunRequest
    from rootless.engine.start.explain import Outside
    from rootless.engine.start.image_argument import ImageArgument
    from rootless.engine.start.sandbox import Sandbox
    from rootless.engine.state.container import Container
    from rootless.engine.state.records import HealthCheck, IdMapRecord, MountRecord, RestartPolicy
    from rootless.image.squashfs.image_file import ImageFile
    from rootless.image.store.store import Image
    from rootless.linux.idmap import IdMap
    from rootless.oci.runtime_spec import Spec


class StartContext:
    """What the steps of a create or a start have found out so far, for the steps that follow."""

    def __init__(self, request: RunRequest) -> None:
        self.request = request
        self.times: list[tuple[str, float]] = []
        self._began = time.monotonic()
        self.storage = paths.storage_root()
        self.sandbox: Sandbox | None = None
        self.image: Image | None = None
        self.argument: ImageArgument | None = None
        self.config: dict[str, Any] = {}
        self.user: tuple[int, int, list[int], str] = (0, 0, [], "/root")
        self.users = (b"", b"")  # the image's passwd and group
        self.subordinate = idmap_policy.Subordinate()
        self.warned = False
        self.added_groups: list[int] = []
        self.outside: Outside | None = None  # for --explain
        self.idmap: IdMap
        self.source: RootfsSource
        self.container: Container
        self.spec: Spec
        self.joined: dict[str, str] = {}
        self.joined_init: tuple[int, int] | None = None
        self.mounts: list[Mount] = []  # as they were decided (`spec.mounts`)
        self.made: list[Mount] = []  # those whose host path this start has made
        self._made_paths: list[str] = []
        self.to_fill: list[tuple[str, str]] = []  # (directory, target) of volumes
        self.files: list[str] = []  # of ours, that the container gets to see
        self.links: list[tuple[str, str]] = []  # (target, path) that devices need

    @property
    def member(self) -> Membership | None:
        """Return the networks of several containers that it will be in, once that is begun."""
        return self.sandbox.member if self.sandbox is not None else None

    def check_sources(self, make: bool = False) -> None:
        """Check the host paths of mounts and devices.

        Args:
            make: make those that -v makes; a start that is refused removes them.

        Raises:
            RlessError: one is missing, or is no device.
        """
        if self.mounts:
            from rootless.engine.spec import mounts

            missing = mounts.check_sources(self.mounts)
            for mount in missing if make else ():
                self._made_paths[:0] = mounts.make_source(mount)
                self.made.append(mount)
        etc_files.check_devices(self.request.devices)

    def remove_made(self) -> None:
        """Remove the host paths that were made for a start that is refused."""
        if self._made_paths:
            from rootless.engine.spec import mounts

            mounts.remove_made(self._made_paths)

    def make_volumes(self) -> dict[str, Owner]:
        """Make what is missing of the volumes of the container; return whom the caller is in each.

        Raises:
            RlessError: the disk is full, or another container interferes.
        """
        if not self.mounts:
            return {}
        from rootless.engine.spec import mounts

        return mounts.make_volumes(self.mounts, self.storage, self.container.id, self.idmap)

    def mark(self, step: str) -> None:
        """Note what the time since the last mark was spent on."""
        now = time.monotonic()
        self.times.append((step, now - self._began))
        self._began = now
        log.debug(step)


def create(
    request: RunRequest,
    run: bool = False,
    argument: ImageArgument | None = None,
    sandbox: Sandbox | None = None,
    make_room: Callable[[], None] | None = None,
) -> StartContext:
    """Make a container, which then waits to be started.

    Args:
        run: it is started at once, as `rless run` does.
        argument: what the image is, where that is known.
        sandbox: what the caller has begun for it; its ids are mapped meanwhile.
        make_room: called once the image is here, before the name is taken.

    Raises:
        RlessError: nothing is left of the container then.
    """
    close_on_exec_from(3)  # what the caller left open is not for newuidmap, pasta or us
    context = StartContext(request)
    context.argument, context.sandbox = argument, sandbox
    if request.cidfile and os.path.lexists(request.cidfile):
        raise RlessError(f"--cidfile: {request.cidfile} exists", "remove it or name another")
    if request.asks_limits():
        from rootless.engine import resources

        resources.check(request)
    reconcile.reconcile()
    find_joined(context)
    _find_image(context)
    if sandbox is not None:
        sandbox.begin_maps(context.idmap)
    context.mark("image")
    if make_room is not None:
        make_room()
    _make_container(context, run)
    context.mark("container")
    return context


# -- 1 image, 2 map ------------------------------------------------------------------------------


def _find_image(context: StartContext) -> None:
    request = context.request
    argument = context.argument or resolve(request, context.storage)
    if argument.kind == "file":
        _take_file(context, argument.read(context.storage))
    elif argument.kind in ("directory", "host"):
        context.source = RootfsSource(argument.kind)
        context.source.path = argument.path
        context.source.driver = request.driver
        if argument.kind == "host":
            context.source.cache = f"{context.storage}/host"
            context.source.hidden = _homes()
            context.config = {"Cmd": ["/bin/sh"]}
            context.users = _host_users()
        else:
            context.users = _users_of(argument.path.removesuffix(":O"))
        context.user = _resolve_user(context, request.user or "")
        context.idmap = _choose_map(context, host=True)
    else:
        _take_image(context, argument.image or _pull(context))


def _pull(context: StartContext) -> Image:
    request = context.request
    name = request.image or ""
    if request.pull == "never":
        raise RlessError(
            f"image {name} is not in the local store, and --pull never was given",
            f"rless pull {name}",
        )
    from rootless.engine.request import HOST_IMAGE
    from rootless.image.store.store import Store
    from rootless.image.transfer import pull

    try:
        return pull.pull(
            name,
            Store(context.storage),
            platform=request.platform,
            policy=request.pull,
            quiet=request.quiet,
            signature_policy=request.signature_policy,
            idmap_for=lambda found: _adopt(context, found),
        )
    except RlessError as error:
        if f"{name}:" == HOST_IMAGE:
            raise RlessError(error.message, f"the host's own programs are `{HOST_IMAGE}`") from None
        raise


def _take_image(context: StartContext, image: Image) -> None:
    """Take an image of the store, with its layers for the map."""
    _adopt(context, image)
    layers = image.layer_dirs(context.idmap.key)
    if layers is None:
        from rootless.image.store.store import Store
        from rootless.image.transfer.install import ensure_layers

        layers = ensure_layers(image, context.idmap, Store(context.storage))
    context.source = RootfsSource("layers")
    context.source.layers = layers
    context.source.whiteouts = image.whiteouts(context.idmap.key)
    context.source.driver = context.request.driver


def _take_file(context: StartContext, image: ImageFile) -> None:
    """Take an image that is a file; it stays where it is."""
    request = context.request
    image.check_platform(request.platform)
    # A later start may have another working directory.
    request = context.request = request.replace(image=image.path)
    context.config = image.config
    source = context.source = RootfsSource("squashfs")
    source.path, source.offset, source.identity = image.path, image.offset, image.identity
    source.cache = f"{context.storage}/flat"
    source.driver = request.driver
    spec = request.user or context.config.get("User") or ""
    context.users = image.passwd, image.group
    context.user = _resolve_user(context, spec)
    context.idmap = _choose_map(context)
    if context.idmap.single and not context.joined:
        # The files of the image are root's, so root has to be mapped. Another user of the
        # container is it in a namespace of the container's own (`_gather_facts`).
        context.idmap = idmap_policy.build_single(0, 0)


def _adopt(context: StartContext, image: Image) -> IdMap:
    """Take an image: its config, its user, and with them the map."""
    context.image = image
    context.config = image.config
    spec = context.request.user or context.config.get("User") or ""
    context.users = image.passwd(), image.group()
    context.user = _resolve_user(context, spec)
    context.idmap = _choose_map(context)
    return context.idmap


def _homes() -> list[str]:
    """Return the caller's home by the password database: $HOME may be unset, or another."""
    import pwd

    try:
        return [pwd.getpwuid(os.getuid()).pw_dir]
    except KeyError:
        return []


def _users_of(directory: str) -> tuple[bytes, bytes]:
    """Return passwd and group of a tree, which links of it do not lead out of."""
    from rootless.image.squashfs.tree import Tree

    with Tree(directory) as tree:
        return tree.read("/etc/passwd", 1 << 20) or b"", tree.read("/etc/group", 1 << 20) or b""


def _host_users() -> tuple[bytes, bytes]:
    texts = []
    for path in ("/etc/passwd", "/etc/group"):
        with open(path, "rb") as file:
            texts.append(file.read(1 << 20))
    return texts[0], texts[1]


def _resolve_user(context: StartContext, spec: str) -> tuple[int, int, list[int], str]:
    passwd, group = context.users
    if context.request.userns.startswith("keep-id") and not spec:
        # As Podman: keep-id also runs the application as the kept user.
        uid, gid = idmap_policy.keep_id(context.request.userns)
        spec = f"{uid}:{gid}"
    uid, gid, groups, home = resolve_user(spec, passwd=passwd, group=group)
    try:
        context.added_groups = [
            resolve_group(name, group=group) for name in context.request.group_add
        ]
    except RlessError as error:
        raise error.within("--group-add") from error
    return uid, gid, groups, home


def _choose_map(context: StartContext, host: bool = False) -> IdMap:
    """Return the map; of a container that we join, its own.

    Args:
        host: its root is of the host's files.
    """
    if context.joined:
        return containers.find(context.joined["id"]).idmap()
    request = context.request
    # Devices, the socket of a service manager and the streams of ranks may be the caller's only.
    if request.devices or request.cdi or request.holds or request.sdnotify == "container":
        host = True
    caller = None if host else (0, 0)
    if request.mounts or request.volumes_from:
        from rootless.engine.spec import mounts

        caller = mounts.caller_in(request, context.storage, caller)
    mapping = idmap_policy.choose(request.userns, context.user[:2], context.subordinate, caller)
    asked = request.userns == "single"
    if mapping.single and not (asked or request.quiet or context.warned):
        context.warned = True
        idmap_policy.warn_single(context.subordinate)
    return mapping


def _warn_owners(context: StartContext, volumes: dict[str, Owner]) -> None:
    """Say where volumes, or files of the host, show other owners than they should."""
    mode = f"container:{context.joined['id'][:12]}" if context.joined else context.request.userns
    if not volumes or context.request.quiet or (context.idmap.single and mode == "auto"):
        return  # of a single id all is said
    from rootless.image.store.ownership import own_ids

    bound = any(mount.type == "bind" for mount in context.mounts)
    idmap_policy.warn_owners(mode, context.user[:2], own_ids(context.idmap), volumes, bound)


def find_joined(context: StartContext) -> None:
    """Find the containers whose namespaces are joined; they must all be one.

    Their namespaces belong to their user namespace, so ours is the same, with its map.
    """
    for kind, name in joins(context.request).items():
        try:
            other = containers.find(name)
        except RlessError as error:
            raise RlessError(f"--{kind}: {error.message}", error.hint) from error
        if context.joined.get("id", other.id) != other.id:
            raise RlessError("namespaces of two different containers cannot be joined at once")
        context.joined["id"] = other.id
        # The name may pass to another container before the next start.
        context.request = context.request.replace(**{kind: f"container:{other.id}"})


# -- 3 container ---------------------------------------------------------------------------------


def _make_container(context: StartContext, run: bool) -> None:
    request, config = context.request, context.config
    sandbox = context.sandbox
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
        "uids": context.idmap.uids,
        "gids": context.idmap.gids,
        "key": context.idmap.key,
    }
    context.container = bundle.create(
        container_id,
        request.name,
        {
            "id": container_id,
            "name": "",
            "image": request.image or request.rootfs,
            "image_id": context.image.id if context.image else None,
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
            "network": _show_network(context),
            "systemd": systemd,
            "stop_signal": stop_number,
            "stop_timeout": defaults.STOP_TIMEOUT if timeout is None else timeout,
            "tty": request.tty,
            "stdin_open": request.interactive,
            "stdin_once": _stdin_once(request),
            "log": {"driver": request.log_driver or "local", "options": dict(request.log_options)},
            "restart": _restart_policy(request),
            "health": _health(request, config),
            "mounts": _decide_mounts(context, container_id),
            "idmap": extents,
            "user": context.user,
            "added_groups": context.added_groups,
            "source": context.source.to_data(),
            "request": request.to_data(),
        },
        lambda container: _populate(context, container),
    )
    events.of_container("create", context.container)
    try:
        # Only now that its facts are on disk: they keep others from removing its volumes.
        _warn_owners(context, context.make_volumes())
    except BaseException:
        bundle.discard(context.container)
        raise


def _decide_mounts(context: StartContext, container_id: str) -> list[MountRecord]:
    """Decide on all mounts; the module is loaded only where there are some."""
    request = context.request
    if not (request.mounts or request.volumes_from or context.config.get("Volumes")):
        return []
    from rootless.engine.spec import mounts

    context.mounts = mounts.decide(request, context.config, context.storage, container_id)
    context.to_fill = mounts.to_fill(context.mounts)
    return mounts.to_records(context.mounts)


def _populate(context: StartContext, container: Container) -> None:
    """Make what belongs to a container: its users' files, the file with its id."""
    context.check_sources()
    if context.request.add_user:
        request = context.request
        etc_files.write_users(
            container.directory, context.user[:2], *context.users, user_home=request.user_home
        )
    if context.request.cidfile:
        _write_cidfile(context.request.cidfile, container.id)


def _stdin_once(request: RunRequest) -> bool:
    once = not request.detach if request.stdin_once is None else request.stdin_once
    return request.interactive and once


def _health(request: RunRequest, config: dict[str, Any]) -> HealthCheck | None:
    """Return the health check; its module is loaded only where one may be."""
    if not (config.get("Healthcheck") or request.asks_health()):
        return None
    from rootless.engine.exec import healthcheck

    return healthcheck.wanted(request, config)


def _restart_policy(request: RunRequest) -> RestartPolicy:
    policy = request.restart
    return {"name": policy["name"], "max": policy["max"]} if policy else {"name": "no", "max": 0}


def _show_network(context: StartContext) -> str:
    mode = context.request.network or "pasta"
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
