"""The types of the records on disk: the keys of each JSON file, and their meaning.

    containers/<id>/container.json    ContainerRecord
    containers/<id>/exit.json         ExitRecord
    containers/<id>/health.json       HealthRecord
    run/<boot>/live/<id>              RunRecord
    run/<boot>/live/change-<id>       ChangeRecord
    volumes/<name>/volume.json        VolumeRecord
    networks/<name>.json              NetworkRecord

Only type checkers import this module: at run time a record is a plain dict, as it was read. Keys
that are not named here are kept. Keys that an older version does not write are NotRequired. Times
are seconds since 1970, unless a comment says otherwise. A tuple is a list in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from typing_extensions import NotRequired

if TYPE_CHECKING:
    from rootless.linux.idmap import Extent
    from rootless.rootfs import MountedRecord

# [pid, start time] in the form of `linux.procfs.start_time`: no other process ever has both.
Process: TypeAlias = list[int]


# -- container.json ------------------------------------------------------------------------------


class LogSettings(TypedDict):
    driver: str  # local, json-file, journald, none
    options: dict[str, Any]  # max-size: bytes, max-file: files, tag: text


class RestartPolicy(TypedDict):
    name: str  # no, on-failure, always, unless-stopped
    max: int  # of on-failure: restarts; 0: no limit


class HealthCheck(TypedDict):
    """A health check, with the times in seconds."""

    test: list[str]  # as an image has it: ["CMD", ...] or ["CMD-SHELL", TEXT]
    retries: int
    interval: float
    timeout: float
    start_period: float
    start_interval: float


class MountRecord(TypedDict):
    type: str  # bind, volume, tmpfs
    name: str  # of a volume; else ""
    source: str
    target: str
    rw: bool
    options: list[str]
    propagation: str
    anonymous: bool  # a volume that belongs to this container
    subpath: NotRequired[str]  # of a volume: what is mounted of it


class IdMapRecord(TypedDict):
    uids: Sequence[Extent]
    gids: Sequence[Extent]
    key: str  # names the map in the storage


class ContainerRecord(TypedDict):
    """container.json: what a container is, so that each start is the same."""

    id: str
    name: str
    image: str | None  # as it was asked for; or the directory of --rootfs
    image_id: NotRequired[str | None]
    image_config: NotRequired[dict[str, Any]]  # the image's own `config` object
    command: list[str]
    path: str  # the first word of the command, and the others
    args: list[str]
    created: float
    host: str  # the machine that it belongs to, where several share the storage
    boot: str
    run: NotRequired[bool]  # made by `run`, which starts it at once
    rm: bool
    detach: bool
    labels: dict[str, str]
    exposed: NotRequired[list[str]]  # "80/tcp"
    ports: list[str]  # what was asked for, as `ps` shows it
    network: NotRequired[str]
    macs: NotRequired[dict[str, str]]  # id of a network that it has left -> its address there
    systemd: NotRequired[str]  # "", or how it is prepared for systemd as its first process
    stop_signal: int
    stop_timeout: int  # seconds; -1: for ever
    tty: bool
    stdin_open: bool
    stdin_once: bool  # its standard input ends with the first client's
    log: NotRequired[LogSettings]
    restart: NotRequired[RestartPolicy]
    health: NotRequired[HealthCheck | None]
    mounts: NotRequired[list[MountRecord]]
    idmap: IdMapRecord
    user: tuple[int, int, list[int], str]  # uid, gid, groups of the image, home
    added_groups: list[int]  # of --group-add
    source: NotRequired[dict[str, Any]]  # as `RootfsSource.to_data` gives it
    request: NotRequired[dict[str, Any]]  # as `RunRequest.to_data` gives it


class ContainerChanges(TypedDict, total=False):
    """The keys of container.json that may change once it is written."""

    name: str
    network: str
    macs: dict[str, str]
    restart: RestartPolicy
    source: dict[str, Any]
    request: dict[str, Any]


# -- how it ended, how it fares ------------------------------------------------------------------


class ExitRecord(TypedDict):
    """exit.json; the monitor (helpers/monitor/record.c) writes it, too."""

    code: int
    finished: float
    # Not there if the disk was full: the run record has the two above then.
    started: NotRequired[float | None]
    error: NotRequired[str | None]  # why it could not be started
    oom: NotRequired[bool]
    restarts: NotRequired[int]
    restart_at: NotRequired[float]  # when its policy starts it again


class HealthResult(TypedDict):
    start: float
    end: float
    exit_code: int
    output: str


class HealthRecord(TypedDict):
    status: str  # starting, healthy, unhealthy
    failing_streak: int
    log: list[HealthResult]  # the newest last


# -- while it runs -------------------------------------------------------------------------------


class MemberRecord(TypedDict):
    """A container's place in a network."""

    name: str
    id: str
    bridge: str  # in the process that holds the networks
    interface: str  # in the container
    outside: str  # the other end of that interface
    ip: str  # "": none
    ip6: str
    mac: str
    aliases: list[str]
    links: NotRequired[list[list[str]]]  # (container, alias): names that it alone has for others
    gateways: list[str]
    prefixes: dict[str, int]  # bytes of an address -> bits of its network


class RunRecord(TypedDict, total=False):
    """The processes of a container that is made, runs, or is cleaned up, and what they hold.

    At first only the owner is known; each step adds its own keys.
    """

    owner: Process  # answers for the container until there is a monitor, or while it removes it
    monitor: Process
    init: Process
    pasta: Process
    hub: Process  # the process that holds the networks
    rm: bool  # the container goes with this record
    removing: bool
    volumes: bool  # its anonymous volumes go, too
    purpose: str  # of a command that works on its files
    directory: str
    started: float
    restarts: int
    cgroup: str
    manager: str  # of the cgroup: systemd, cgroupfs, none
    mac: str  # of pasta's interface
    ports: list[str]  # as they are published
    rootfs: MountedRecord
    networks: list[MemberRecord]
    ended: ExitRecord  # written by the monitor where the disk was full


class ChangeRecord(TypedDict):
    """A container is being renamed or updated."""

    owner: Process
    names: list[str]  # which it may have got, or lost


# -- volumes, networks ---------------------------------------------------------------------------


class VolumeRecord(TypedDict, total=False):
    """volume.json; volumes of early versions have none."""

    created: float
    driver: str
    labels: dict[str, str]
    options: dict[str, str]
    anonymous: bool
    container: str | None  # an anonymous one's
    caller: Sequence[int]  # uid and gid that the caller is in its map, once it has been used


class SubnetRecord(TypedDict):
    subnet: str
    gateway: str
    range: str | None  # where addresses are given from; None: all of the subnet
    reserved: NotRequired[dict[str, str]]  # what has it -> an address that no container gets


class NetworkRecord(TypedDict):
    name: str
    id: str
    created: float
    internal: bool  # without a way out
    ipv6: bool
    labels: dict[str, str]
    options: dict[str, str]
    subnets: list[SubnetRecord]
