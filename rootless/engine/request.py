"""What one `rless run` or `create` asks for, as plain data: the seam of cli and engine.

Everything here was checked for its form (numbers, sizes, names, absolute paths) and nothing
for whether this host or this image can do it: that is the engine's part. The classes have
`__slots__` and no decorator, because this module is on the path of every cached `run`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from rootless.engine.state.records import RestartPolicy

HOST_IMAGE = "host:"  # the name that stands for the host's own programs
FILE_SUFFIXES = (".sqsh", ".sqfs", ".squashfs", ".sif")  # of images that are files


class Plain:
    """Compare and show by value; the base of all classes of this module."""

    __slots__: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the fields as JSON-able values, the nested ones too."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}

    def fill(self, data: dict[str, Any]) -> None:
        """Take the fields from what `as_dict` gave; those of another version are left out."""
        for name, value in data.items():
            if name in self.__slots__:
                setattr(self, name, value)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]  # fields change, so never a key

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


def _plain(value: object) -> object:
    if isinstance(value, Plain):
        return value.as_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


class Mount(Plain):
    """Ask for one mount: of -v, --mount or --tmpfs.

    Attributes:
        type: "bind", "volume" or "tmpfs".
        source: absolute host path (bind), volume name (volume; None: anonymous), None (tmpfs).
        target: absolute, normalised path in the container, never "/".
        options: the rest, checked by name: exec noexec suid nosuid nodev; for tmpfs
            also uid=N gid=N nr_inodes=N nr_blocks=N size=N% and other mount(8) flags.
        create_source: make a missing bind source a directory (-v does, --mount by request).
        tmpfs_size: bytes. tmpfs_mode: permission bits.
        propagation: None, or one of private rprivate shared rshared slave rslave.
        recursive: bring the mounts below a bind source too.
        nocopy: do not fill a new volume with what the image has at the target.
        labels: of a volume that is made.
    """

    __slots__ = (
        "create_source",
        "labels",
        "nocopy",
        "options",
        "propagation",
        "read_only",
        "recursive",
        "source",
        "target",
        "tmpfs_mode",
        "tmpfs_size",
        "type",
    )

    def __init__(self, kind: str, source: str | None, target: str) -> None:
        self.type = kind
        self.source = source
        self.target = target
        self.read_only = False
        self.options: list[str] = []
        self.create_source = False
        self.tmpfs_size: int | None = None
        self.tmpfs_mode: int | None = None
        self.propagation: str | None = None
        self.recursive = True
        self.nocopy = False
        self.labels: dict[str, str] = {}


class Device(Plain):
    """Ask for a host device: its path, its path inside, and a subset of "rwm"."""

    __slots__ = ("container", "host", "permissions")

    def __init__(self, host: str, container: str, permissions: str = "rwm") -> None:
        self.host = host
        self.container = container
        self.permissions = permissions


class Port(Plain):
    """Ask for a published port.

    Attributes:
        host_ip: an address of the host, None for all of them.
        host_port: None means any free one.
        container_port: ports of a range are requests of their own.
        protocol: "tcp" or "udp".
        host_end: None, or the last of a range that begins with `host_port`: any free one of it.
    """

    __slots__ = ("container_port", "host_end", "host_ip", "host_port", "protocol")

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


class RunRequest(Plain):
    """Hold all that `rless run` can ask; the defaults are those of a bare `rless run IMAGE`."""

    __slots__ = (
        "add_host",
        "add_user",
        "annotations",
        "argv",
        "attach",
        "blkio_weight",
        "blkio_weight_device",
        "cap_add",
        "cap_drop",
        "cdi",
        "cgroup_conf",
        "cgroup_manager",
        "cgroup_parent",
        "cgroupns",
        "cgroups",
        "cidfile",
        "command",
        "cpu_period",
        "cpu_quota",
        "cpu_shares",
        "cpus",
        "cpuset_cpus",
        "cpuset_mems",
        "cwd",
        "debug",
        "detach",
        "detach_keys",
        "device_read_bps",
        "device_read_iops",
        "device_write_bps",
        "device_write_iops",
        "devices",
        "dns",
        "dns_option",
        "dns_search",
        "domainname",
        "driver",
        "entrypoint",
        "env",
        "env_host",
        "env_remove",
        "env_under",
        "env_unset",
        "explain",
        "expose",
        "fabric",
        "fakeroot",
        "group_add",
        "health_cmd",
        "health_interval",
        "health_retries",
        "health_start_interval",
        "health_start_period",
        "health_timeout",
        "holds",
        "hostname",
        "hpc",
        "image",
        "init",
        "interactive",
        "ip",
        "ip6",
        "ipc",
        "join",
        "keep_groups",
        "labels",
        "limits",
        "links",
        "log_driver",
        "log_options",
        "mac_address",
        "memory",
        "memory_reservation",
        "memory_swap",
        "modules",
        "mounts",
        "name",
        "network",
        "networks",
        "no_healthcheck",
        "no_hosts",
        "oom_score_adj",
        "pid",
        "pids_limit",
        "platform",
        "privileged",
        "publish",
        "publish_all",
        "pull",
        "quiet",
        "read_only",
        "restart",
        "rm",
        "rootfs",
        "sdnotify",
        "security_opt",
        "share_cwd",
        "share_home",
        "share_tmp",
        "shm_size",
        "sig_proxy",
        "stop_signal",
        "stop_timeout",
        "sysctls",
        "systemd",
        "tty",
        "ulimits",
        "user",
        "userns",
        "uts",
        "volumes_from",
        "workdir",
    )

    def __init__(self) -> None:
        # What to run. `image` is None exactly when `rootfs` (an absolute path) is given.
        self.image: str | None = None
        self.rootfs: str | None = None
        self.command: list[str] = []
        self.entrypoint: str | None = None  # None: the image's; "": none at all
        self.platform: str | None = None  # "os/arch[/variant]"
        self.pull = "missing"  # always, missing, never
        self.quiet = False
        self.argv: list[str] = []  # the words as typed and where, for `generate systemd --new`
        self.cwd = ""

        # Who it is.
        self.name: str | None = None
        self.hostname: str | None = None
        self.domainname: str | None = None
        self.labels: dict[str, str] = {}
        self.annotations: dict[str, str] = {}
        self.cidfile: str | None = None

        # The process. `env` has "KEY=VALUE", files first; a bare `-e KEY` is resolved already,
        # and `env_remove` has the KEYs not set here: Docker drops these of the image.
        self.env: list[str] = []
        # `env_under` comes before the image's own, `env_unset` takes from both what it matches.
        self.env_remove: list[str] = []
        self.env_under: list[str] = []
        self.env_unset: list[str] = []
        self.user: str | None = None  # as typed: user[:group], names or numbers
        self.group_add: list[str] = []
        self.keep_groups = False  # the caller's supplementary groups
        self.workdir: str | None = None  # absolute
        self.init = False
        self.ulimits: list[tuple[str, int, int]] = []  # (name, soft, hard), -1: unlimited
        self.oom_score_adj: int | None = None

        # What of the host it shares: `engine.spec.hpc` writes these down as mounts, variables and
        # devices. `fakeroot` None: for root where one id is mapped.
        self.hpc = False
        self.share_home = False
        self.share_cwd = False
        self.share_tmp = False
        self.env_host = False
        self.fabric = False
        self.add_user = False  # to /etc/passwd and /etc/group, where the image has not the user
        self.modules: list[str] = []
        self.fakeroot: bool | None = None

        # How it is held.
        self.interactive = False
        self.tty = False
        self.detach = False
        self.rm = False
        self.sig_proxy = True
        self.stop_signal: str | None = None  # "SIGTERM" or a number
        self.stop_timeout: int | None = None  # seconds; -1: wait for ever
        self.log_driver: str | None = None  # None: local; json-file, journald, none
        self.log_options: dict[str, Any] = {}  # max-size: bytes, max-file: files, tag: text
        self.restart: RestartPolicy | None = None
        self.attach: list[str] = []  # stdin, stdout, stderr; []: all that there is
        self.detach_keys: str | None = None  # as typed; None: ctrl-p,ctrl-q
        self.sdnotify: str | None = None  # container, conmon, ignore
        self.systemd = "auto"  # also true, always, false

        # One container for several `run`s: the KEY that they share ("": found out).
        self.join: str | None = None
        self.holds = False  # its first process only holds the namespaces that they enter

        # Its health check; seconds; 0 or None: as the image says, else Docker's default.
        self.health_cmd: str | None = None
        self.health_interval = 0.0
        self.health_timeout = 0.0
        self.health_retries = 0
        self.health_start_period = 0.0
        self.health_start_interval = 0.0
        self.no_healthcheck = False

        # Namespaces: private, host, container:NAME; ipc also none.
        self.userns = "auto"  # also host-root nomap single keep-id[:uid=N,gid=N] container:NAME
        self.pid = "private"
        self.ipc = "private"
        self.uts = "private"
        self.cgroupns = "private"
        # None: pasta; none, host, container:NAME, ns:PATH, or the name of the first of `networks`.
        self.network: str | None = None

        # Networks of several containers: "name", and what is wished of "ip", "ip6", "mac",
        # "interface", "aliases".
        self.networks: list[dict[str, Any]] = []
        self.links: list[tuple[str, str]] = []  # (container, alias) of --link

        # The network.
        self.add_host: list[tuple[str, str]] = []  # (name, address or "host-gateway")
        self.ip: str | None = None
        self.ip6: str | None = None
        self.mac_address: str | None = None
        self.dns: list[str] = []
        self.dns_search: list[str] = []  # "." alone: no search domain
        self.dns_option: list[str] = []
        self.no_hosts = False
        self.publish: list[Port] = []
        self.publish_all = False  # what is exposed, at random ports
        self.expose: list[str] = []  # "80/tcp", "90-99/udp"

        # Files.
        self.mounts: list[Mount] = []  # in the order given
        self.volumes_from: list[str] = []  # "CONTAINER[:ro|rw]"
        self.read_only = False
        self.shm_size: int | None = None  # bytes
        self.devices: list[Device] = []
        self.cdi: list[str] = []  # devices by name: "vendor.com/class=name", "gpus=all"
        self.driver: str | None = None  # overlay, fuse-overlayfs, copy; None: by trying

        # Limits; 0, "", [] or {}: none.
        self.memory = 0  # bytes
        self.memory_swap = 0  # bytes, with the memory; -1: no limit
        self.memory_reservation = 0  # bytes
        self.cpus = 0  # 1e-9 CPUs
        self.cpu_period = 0  # microseconds
        self.cpu_quota = 0  # microseconds
        self.cpu_shares = 0
        self.cpuset_cpus = ""
        self.cpuset_mems = ""
        self.pids_limit = 0  # 0: the default; -1: any number
        self.blkio_weight = 0
        self.blkio_weight_device: list[tuple[str, int]] = []  # (path, weight)
        self.device_read_bps: list[tuple[str, int]] = []  # (path, bytes a second)
        self.device_write_bps: list[tuple[str, int]] = []
        self.device_read_iops: list[tuple[str, int]] = []
        self.device_write_iops: list[tuple[str, int]] = []
        self.cgroup_conf: dict[str, str] = {}  # file -> value
        self.cgroup_manager = "auto"  # systemd, cgroupfs, none
        self.cgroup_parent: str | None = None  # a slice of systemd, an absolute path of cgroupfs
        self.cgroups = "enabled"  # disabled; split: in the group that the caller is in
        self.limits = "enforce"  # try: what cannot be limited is not

        # Privileges.
        self.cap_add: list[str] = []  # "CAP_NET_ADMIN" or "ALL"
        self.cap_drop: list[str] = []
        self.privileged = False
        self.security_opt: list[str] = []  # "key=value", seccomp files as absolute paths
        self.sysctls: dict[str, str] = {}

        # What to tell.
        self.explain: str | None = None  # None, "text", "json"
        self.debug = False

    def manager(self) -> str:
        """Return who makes the control group: --cgroups has a say."""
        by_mode = {"disabled": "none", "split": "cgroupfs"}
        return by_mode.get(self.cgroups, self.cgroup_manager)

    def is_file(self) -> bool:
        """Tell whether the image may be named as a file."""
        name = self.image or ""
        return name[:1] in "/." or name.endswith(FILE_SUFFIXES)

    def asks_limits(self) -> bool:
        """Tell whether anything is said of limits or control groups."""
        return any(
            getattr(self, name)
            for name in self.__slots__
            if name.startswith(("blkio_", "cpu", "device_", "memory", "pids_"))
        ) or bool(
            self.cgroup_conf
            or self.cgroup_parent
            or self.cgroups != "enabled"
            or self.cgroup_manager != "auto"
        )

    def resources(self) -> dict[str, Any]:
        """Return `linux.resources`, with the limits that are asked for.

        Raises:
            RlessError: a device that is none.
        """
        if not self.asks_limits():
            return {}  # nor is the module loaded
        from rootless.engine import resources

        return resources.wanted(self)

    def asks_health(self) -> bool:
        """Tell whether anything is said of the health check."""
        return any(getattr(self, name) for name in self.__slots__ if name.startswith("health_"))

    def uses_host_network(self) -> bool:
        """Tell whether its network is one that is there already, and no container's."""
        return (self.network or "").partition(":")[0] in ("host", "ns")

    def published(self, exposed: Iterable[str]) -> list[Port]:
        """Return what -p and -P publish together.

        Args:
            exposed: "80/tcp" of the image and --expose; -P leaves those to -p that it names.
        """
        # Copies: the numbers that are found for them are those of one start.
        found = [_port(port.as_dict()) for port in self.publish]
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

    def to_data(self) -> dict[str, Any]:
        """Return what was asked for, as plain data, for container.json; not the defaults."""
        defaults = RunRequest()
        return {
            name: _plain(value)
            for name in self.__slots__
            if (value := getattr(self, name)) != getattr(defaults, name)
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> RunRequest:
        """Return the request that `to_data` has given, of this version or an older one."""
        request = cls()
        request.fill(data)
        request.mounts = [_mount(entry) for entry in data.get("mounts", ())]
        request.devices = [_device(entry) for entry in data.get("devices", ())]
        request.publish = [_port(entry) for entry in data.get("publish", ())]
        request.ulimits = [tuple(entry) for entry in data.get("ulimits", ())]
        request.links = [tuple(entry) for entry in data.get("links", ())]
        request.add_host = [tuple(entry) for entry in data.get("add_host", ())]
        for name in cls.__slots__:
            if name.startswith(("blkio_weight_d", "device_")):
                setattr(request, name, [tuple(entry) for entry in data.get(name, ())])
        return request


def _mount(data: dict[str, Any]) -> Mount:
    mount = Mount(data["type"], data["source"], data["target"])
    mount.fill(data)
    return mount


def _device(data: dict[str, Any]) -> Device:
    return Device(data["host"], data["container"], data["permissions"])


def _port(data: Mapping[str, Any]) -> Port:
    port = Port(data["host_ip"], data["host_port"], data["container_port"], data["protocol"])
    port.host_end = data.get("host_end")
    return port
