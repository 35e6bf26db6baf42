"""The request of one `rless run` or `create`, as plain data between cli and engine.

The form of everything here has been checked (numbers, sizes, names, absolute paths). Whether this
host and this image can do it is not checked: that is the engine's part. Once the command line is
read, nobody changes a request; what a start finds out goes into `spec.generate.SpecInputs`.

This module is loaded by every cached `run`, so the classes are plain ones.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, ClassVar, Final, NoReturn, TypeVar

    _Self = TypeVar("_Self", bound="Requested")

HOST_IMAGE = "host:"  # the name that stands for the host's own programs
FILE_SUFFIXES = (".sqsh", ".sqfs", ".squashfs", ".sif")  # of images that are files


class Plain:
    """Compare and show by value."""

    __slots__: tuple[str, ...] = ()
    fields: ClassVar[tuple[str, ...]] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON-able values, the nested ones too."""
        return {name: _plain(getattr(self, name)) for name in self.fields}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]  # some fields are mappings

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.fields)
        return f"{type(self).__name__}({shown})"


_ReadOnly = type(vars(type))  # types.MappingProxyType, without the module
_NONE: Mapping[str, Any] = _ReadOnly({})
_DATA = (type(None), bool, int, float, str, tuple, _ReadOnly)


class Requested(Plain):
    """A value that never changes.

    The data in the bodies of a class and of its bases are its fields, each with its default. An
    instance holds only what differs from the defaults.
    """

    def __init_subclass__(cls) -> None:
        # Not by the annotations: hot.bin has none.
        bodies = (vars(base).items() for base in cls.__mro__[:-3])  # the last three have none
        cls.fields = tuple(
            name
            for body in bodies
            for name, value in body
            if type(value) in _DATA and not name.startswith("_") and name != "fields"
        )

    def __init__(self, *values: Any, **named: Any) -> None:
        """Take values in the order of the fields, or by their names.

        Raises:
            TypeError: there is no such field.
        """
        given = dict(zip(self.fields, values, strict=False), **named) if values else named
        own = self.__dict__
        for name, value in given.items():
            if name not in self.fields:
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
            frozen = _frozen(value)
            if frozen != getattr(type(self), name):
                own[name] = frozen

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot change: use replace()")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot change: use replace()")

    def replace(self: _Self, **changes: Any) -> _Self:
        """Return a copy with some fields changed."""
        return type(self)(**{**vars(self), **changes})

    def to_data(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults, as JSON-able values."""
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_data(cls: type[_Self], data: Mapping[str, Any]) -> _Self:
        """Return what `to_data` or `as_dict` gave; fields of another version are left out."""
        return cls(**{name: value for name, value in data.items() if name in cls.fields})


def _frozen(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return _ReadOnly({name: _frozen(item) for name, item in value.items()})
    return value


def _plain(value: object) -> object:
    if isinstance(value, Plain):
        return value.as_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (dict, _ReadOnly)):
        return {name: _plain(item) for name, item in value.items()}
    return value


class Mount(Requested):
    """One mount, as requested, and as `spec.mounts.decide` completes it.

    Attributes:
        type: "bind", "volume" or "tmpfs".
        source: absolute host path (bind), volume name (volume; None: anonymous), None (tmpfs).
            `decide` replaces the name of a volume by its directory.
        target: absolute, normalised path in the container, never "/".
        options: the rest, checked by name: exec noexec suid nosuid nodev; for tmpfs
            also uid=N gid=N nr_inodes=N nr_blocks=N size=N% and other mount(8) flags.
        create_source: make a missing bind source a directory (-v does, --mount by request).
        tmpfs_size: bytes. tmpfs_mode: permission bits.
        propagation: None, or one of private rprivate shared rshared slave rslave.
        recursive: bind the mounts below the source too.
        nocopy: do not fill a new volume with what the image has at the target.
        labels: of a volume that is made.
        subpath: of a volume, the part that is mounted: a path in it, normalised; "": all of it.
        name, anonymous: of a volume; set by `decide`.
        overlay: the container sees the source through an overlay: its changes are its own, and
            go when it ends.
    """

    type: Final[str] = ""
    source: Final[str | None] = None
    target: Final[str] = ""
    read_only: Final[bool] = False
    options: Final[tuple[str, ...]] = ()
    create_source: Final[bool] = False
    tmpfs_size: Final[int | None] = None
    tmpfs_mode: Final[int | None] = None
    propagation: Final[str | None] = None
    recursive: Final[bool] = True
    nocopy: Final[bool] = False
    labels: Final[Mapping[str, str]] = _NONE
    subpath: Final[str] = ""
    name: Final[str] = ""
    anonymous: Final[bool] = False
    overlay: Final[bool] = False


class Device(Requested):
    """A host device: its path, its path inside, and a subset of "rwm"."""

    host: Final[str] = ""
    container: Final[str] = ""
    permissions: Final[str] = "rwm"


class Port(Plain):
    """A published port. A request's own ports never change: `published` returns copies.

    Attributes:
        host_ip: an address of the host, None for all of them.
        host_port: None means any free one.
        container_port: each port of a range has a `Port` of its own.
        protocol: "tcp" or "udp".
        host_end: the last port of a range that begins with `host_port`, of which any free one is
            taken; else None.
    """

    __slots__ = fields = ("host_ip", "host_port", "container_port", "protocol", "host_end")

    def __init__(
        self,
        host_ip: str | None,
        host_port: int | None,
        container_port: int,
        protocol: str,
        host_end: int | None = None,
    ) -> None:
        self.host_ip = host_ip
        self.host_port = host_port
        self.container_port = container_port
        self.protocol = protocol
        self.host_end = host_end


class ImageChoice(Requested):
    """What to run. `image` is None exactly when `rootfs`, an absolute path, is given."""

    image: Final[str | None] = None
    rootfs: Final[str | None] = None
    command: Final[tuple[str, ...]] = ()
    # One word or several; None: the image's; "" or (): none at all.
    entrypoint: Final[str | tuple[str, ...] | None] = None
    platform: Final[str | None] = None  # "os/arch[/variant]"
    pull: Final[str] = "missing"  # always, missing, never
    signature_policy: Final[str | None] = None  # absolute path; None: the user's, the system's
    quiet: Final[bool] = False
    driver: Final[str | None] = None  # overlay, fuse-overlayfs, copy; None: by trying
    overlay: Final[str | None] = None  # absolute: a directory of the user's for the writable layer
    above: Final[
        tuple[str, ...]
    ] = ()  # absolute: directories and image files on it, the last on top


class Identity(Requested):
    """The container's name, and the command line as typed."""

    name: Final[str | None] = None
    replaces: Final[bool] = False  # the container that has the name is removed
    hostname: Final[str | None] = None
    domainname: Final[str | None] = None
    labels: Final[Mapping[str, str]] = _NONE
    annotations: Final[Mapping[str, str]] = _NONE
    cidfile: Final[str | None] = None
    asked: Final[Mapping[str, Any]] = _NONE  # of Docker's HostConfig: what `inspect` gives back
    argv: Final[tuple[str, ...]] = ()  # the words as typed, for `generate systemd --new`
    cwd: Final[str] = ""  # where they were


class Process(Requested):
    """The application: its environment, user and rights.

    `env` has "KEY=VALUE", files first; a bare `-e KEY` is resolved already, and `env_remove` has
    the KEYs that are not set here: Docker drops these of the image. `env_under` comes before the
    image's own, `env_unset` takes from both what it matches.
    """

    env: Final[tuple[str, ...]] = ()
    env_remove: Final[tuple[str, ...]] = ()
    env_under: Final[tuple[str, ...]] = ()
    env_unset: Final[tuple[str, ...]] = ()
    user: Final[str | None] = None  # as typed: user[:group], names or numbers
    group_add: Final[tuple[str, ...]] = ()
    keep_groups: Final[bool] = False  # the caller's supplementary groups
    path_before: Final[tuple[str, ...]] = ()  # directories before and after those of PATH
    path_after: Final[tuple[str, ...]] = ()
    umask: Final[int | None] = None  # None: 0022
    workdir: Final[str | None] = None  # absolute
    # In place of that: the first one that is there is entered, and none is made.
    workdirs: Final[tuple[str, ...]] = ()
    init: Final[bool] = False
    systemd: Final[str] = "auto"  # also true, always, false
    ulimits: Final[tuple[tuple[str, int, int], ...]] = ()  # (name, soft, hard), -1: unlimited
    oom_score_adj: Final[int | None] = None
    cap_add: Final[tuple[str, ...]] = ()  # "CAP_NET_ADMIN" or "ALL"
    ambient: Final[bool] = False  # who is not root has those of cap_add
    cap_drop: Final[tuple[str, ...]] = ()
    privileged: Final[bool] = False
    fakeroot: Final[bool | None] = None  # None: for root where one id is mapped
    security_opt: Final[tuple[str, ...]] = ()  # "key=value", seccomp files as absolute paths
    sysctls: Final[Mapping[str, str]] = _NONE


class Supervision(Requested):
    """How the container is watched, and by whom."""

    interactive: Final[bool] = False
    stdin_once: Final[bool | None] = None  # it ends with its first client's; None: by `detach`
    tty: Final[bool] = False
    console_size: Final[tuple[int, int] | None] = None  # rows, columns; None: the caller's
    detach: Final[bool] = False
    detach_keys: Final[str | None] = None  # as typed; None: ctrl-p,ctrl-q
    attach: Final[tuple[str, ...]] = ()  # stdin, stdout, stderr; (): all that there is
    sig_proxy: Final[bool] = True
    rm: Final[bool] = False
    stop_signal: Final[str | None] = None  # "SIGTERM" or a number
    stop_timeout: Final[int | None] = None  # seconds; -1: wait for ever
    log_driver: Final[str | None] = None  # None: local; json-file, journald, none
    log_options: Final[Mapping[str, Any]] = _NONE  # max-size: bytes, max-file: files, tag: text
    restart: Final[Mapping[str, Any] | None] = None  # {"name": ..., "max": ...}; None: no
    sdnotify: Final[str | None] = None  # container, conmon, ignore
    explain: Final[str | None] = None  # None, "text", "json"
    debug: Final[bool] = False


class Health(Requested):
    """The health check. Times are seconds; 0 or None: the image's value, else Docker's default."""

    health_cmd: Final[str | tuple[str, ...] | None] = None  # for a shell; or its words, without one
    health_interval: Final[float] = 0.0
    health_timeout: Final[float] = 0.0
    health_retries: Final[int] = 0
    health_start_period: Final[float] = 0.0
    health_start_interval: Final[float] = 0.0
    no_healthcheck: Final[bool] = False

    def asks_health(self) -> bool:
        """Tell whether anything is said of the health check, but that there is to be none."""
        return any(name.startswith("health_") for name in vars(self))


class Namespaces(Requested):
    """Namespaces: private, host, container:NAME; ipc also none."""

    userns: Final[str] = "auto"  # host-root nomap single keep-id[:uid=N,gid=N] container:NAME
    pid: Final[str] = "private"
    ipc: Final[str] = "private"
    uts: Final[str] = "private"
    cgroupns: Final[str] = "private"
    # None: pasta; none, host, container:NAME, ns:PATH, or the name of the first of `networks`.
    network: Final[str | None] = None

    # One container for several `run`s: the KEY that they share ("": found out).
    join: Final[str | None] = None
    holds: Final[bool] = False  # its first process only holds the namespaces that they enter


class Network(Requested):
    """The network within its namespace."""

    # Those of several containers: "name", and what is asked of "ip", "ip6", "mac", "interface",
    # "aliases"; of the API's clients also "links", (container, alias) each, and "driver_opts".
    networks: Final[tuple[Mapping[str, Any], ...]] = ()
    links: Final[tuple[tuple[str, str], ...]] = ()  # (container, alias) of --link
    add_host: Final[tuple[tuple[str, str], ...]] = ()  # (name, address or "host-gateway")
    ip: Final[str | None] = None
    ip6: Final[str | None] = None
    mac_address: Final[str | None] = None
    dns: Final[tuple[str, ...]] = ()
    dns_search: Final[tuple[str, ...]] = ()  # "." alone: no search domain
    dns_option: Final[tuple[str, ...]] = ()
    no_hosts: Final[bool] = False
    publish: Final[tuple[Port, ...]] = ()
    publish_all: Final[bool] = False  # what is exposed, at random ports
    expose: Final[tuple[str, ...]] = ()  # "80/tcp", "90-99/udp"

    def published(self, exposed: Iterable[str]) -> list[Port]:
        """Return what -p and -P publish together, as copies: a start finds free ports for them.

        Args:
            exposed: "80/tcp" of the image and --expose; -P leaves those to -p that it names.
        """
        found = [Port(**port.as_dict()) for port in self.publish]
        if not self.publish_all:
            return found
        from rootless import log

        named = {f"{port.container_port}/{port.protocol}" for port in found}
        for text in exposed:
            number, _, protocol = text.partition("/")
            if protocol not in ("tcp", "udp"):
                log.warn(f"port {text} is not published: only tcp and udp are carried")
            elif text not in named:
                found.append(Port(None, None, int(number), protocol))
        return found


class Files(Requested):
    """Mounts and devices."""

    mounts: Final[tuple[Mount, ...]] = ()  # in the order given
    volumes_from: Final[tuple[str, ...]] = ()  # "CONTAINER[:ro|rw]"
    read_only: Final[bool] = False
    shm_size: Final[int | None] = None  # bytes
    devices: Final[tuple[Device, ...]] = ()
    cdi: Final[tuple[str, ...]] = ()  # devices by name: "vendor.com/class=name", "gpus=all"


class HostSharing(Requested):
    """What it shares of the host; `spec.hpc` turns these into mounts, variables and devices."""

    hpc: Final[bool] = False
    share_home: Final[bool] = False
    share_cwd: Final[bool] = False
    share_tmp: Final[bool] = False
    env_host: Final[bool] = False
    fabric: Final[bool] = False
    add_user: Final[bool] = False  # to /etc/passwd and /etc/group, where the image has not the user
    user_home: Final[str | None] = None  # that she has there; None: that of the host
    localtime: Final[bool] = False  # the host's time zone
    modules: Final[tuple[str, ...]] = ()


class Limits(Requested):
    """Limits and the control group; 0, "", () or {}: none."""

    memory: Final[int] = 0  # bytes
    memory_swap: Final[int] = 0  # bytes, with the memory; -1: no limit
    memory_reservation: Final[int] = 0  # bytes
    cpus: Final[int] = 0  # 1e-9 CPUs
    cpu_period: Final[int] = 0  # microseconds
    cpu_quota: Final[int] = 0  # microseconds
    cpu_shares: Final[int] = 0
    cpuset_cpus: Final[str] = ""
    cpuset_mems: Final[str] = ""
    pids_limit: Final[int] = 0  # 0: the default; -1: any number
    blkio_weight: Final[int] = 0
    blkio_weight_device: Final[tuple[tuple[str, int], ...]] = ()  # (path, weight)
    device_read_bps: Final[tuple[tuple[str, int], ...]] = ()  # (path, bytes a second)
    device_write_bps: Final[tuple[tuple[str, int], ...]] = ()
    device_read_iops: Final[tuple[tuple[str, int], ...]] = ()
    device_write_iops: Final[tuple[tuple[str, int], ...]] = ()
    cgroup_conf: Final[Mapping[str, str]] = _NONE  # file -> value
    cgroup_manager: Final[str] = "auto"  # systemd, cgroupfs, none
    cgroup_parent: Final[str | None] = None  # a slice of systemd, an absolute path of cgroupfs
    cgroups: Final[str] = "enabled"  # disabled; split: in the group that the caller is in
    limits: Final[str] = "enforce"  # try: what cannot be limited is not

    def manager(self) -> str:
        """Return the manager of the control group, with regard to --cgroups."""
        by_mode = {"disabled": "none", "split": "cgroupfs"}
        return by_mode.get(self.cgroups, self.cgroup_manager)

    def asks_limits(self) -> bool:
        """Tell whether anything is said of limits or control groups."""
        return any(name in Limits.fields and name != "limits" for name in vars(self))

    def resources(self) -> dict[str, Any]:
        """Return `linux.resources`, with the limits that are asked for.

        Raises:
            RlessError: a device that is none.
        """
        if not self.asks_limits():
            return {}  # nor is the module loaded
        from rootless.engine import resources

        return resources.wanted(self)


def as_words(entrypoint: str | Iterable[str] | None) -> list[str]:
    """Return an entrypoint as a list of words."""
    if isinstance(entrypoint, str):
        return [entrypoint] if entrypoint else []
    return list(entrypoint or ())


class RunRequest(
    ImageChoice,
    Identity,
    Process,
    Supervision,
    Health,
    Namespaces,
    Network,
    Files,
    HostSharing,
    Limits,
):
    """All options of `rless run`; the defaults are those of a bare `rless run IMAGE`.

    A function that needs one group of fields takes that group; a request has all of them. On
    disk (container.json) it is flat.
    """

    def uses_host_network(self) -> bool:
        """Tell whether its network is one that is there already, and no container's."""
        return (self.network or "").partition(":")[0] in ("host", "ns")

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> RunRequest:
        """Return the request that `to_data` has given, of this version or an older one."""
        nested = {
            "mounts": [Mount.from_data(entry) for entry in data.get("mounts", ())],
            "devices": [Device.from_data(entry) for entry in data.get("devices", ())],
            "publish": [Port(**entry) for entry in data.get("publish", ())],
        }
        return super().from_data({**data, **nested})
