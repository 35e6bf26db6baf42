"""The OCI runtime-spec config.json as types: the contract between engine and runtime.

Field names are those of the specification (version 1.2). Unknown keys are kept, so a TypedDict here
has the keys that rless reads or writes, not all keys of a file. Only type checkers import this
module: at run time a config is a plain dict.
"""

from __future__ import annotations

from typing import Any, TypedDict


class Root(TypedDict, total=False):
    path: str
    readonly: bool


class Mount(TypedDict, total=False):
    destination: str
    type: str
    source: str
    options: list[str]


class User(TypedDict, total=False):
    uid: int
    gid: int
    umask: int
    additionalGids: list[int]


class Box(TypedDict):
    height: int
    width: int


class Rlimit(TypedDict):
    type: str
    soft: int
    hard: int


class Capabilities(TypedDict, total=False):
    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


class Process(TypedDict, total=False):
    terminal: bool
    consoleSize: Box
    user: User
    args: list[str]
    env: list[str]
    cwd: str
    capabilities: Capabilities
    rlimits: list[Rlimit]
    noNewPrivileges: bool
    oomScoreAdj: int
    apparmorProfile: str
    selinuxLabel: str
    scheduler: dict[str, Any]
    ioPriority: dict[str, Any]
    execCPUAffinity: dict[str, str]


class Namespace(TypedDict, total=False):
    type: str
    path: str


class IdMapping(TypedDict):
    containerID: int
    hostID: int
    size: int


class Device(TypedDict, total=False):
    type: str
    path: str
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class Linux(TypedDict, total=False):
    namespaces: list[Namespace]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]
    devices: list[Device]
    cgroupsPath: str
    resources: dict[str, Any]
    rootfsPropagation: str
    seccomp: dict[str, Any]
    sysctl: dict[str, str]
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    personality: dict[str, Any]
    memoryPolicy: dict[str, Any]
    timeOffsets: dict[str, dict[str, int]]


class Hook(TypedDict, total=False):
    path: str
    args: list[str]
    env: list[str]
    timeout: int


class Spec(TypedDict, total=False):
    ociVersion: str
    root: Root
    mounts: list[Mount]
    process: Process
    hostname: str
    domainname: str
    hooks: dict[str, list[Hook]]
    annotations: dict[str, str]
    linux: Linux


class State(TypedDict, total=False):
    """The answer of the runtime's `state` command (runtime.md, section State)."""

    ociVersion: str
    id: str
    status: str
    pid: int
    bundle: str
    annotations: dict[str, str]
    created: str
