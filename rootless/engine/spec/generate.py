"""Make the OCI config.json from request, image config and `SpecInputs`, as a pure function.

Nothing here changes the host, and of its files only a user's own seccomp profile is read. What the
start has found out is in `SpecInputs`, and only this module merges it with the request. So a test
of the translation compares dicts, and config.json says everything that the runtime will do.
"""

from __future__ import annotations

import errno
import os

from rootless.engine import defaults
from rootless.engine.request import as_words
from rootless.errors import RlessError
from rootless.linux.caps import NAMES, NUMBERS
from rootless.runtime import seccomp
from rootless.runtime.inside.process import WORKDIRS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from rootless.engine.request import Device, RunRequest
    from rootless.engine.request import Mount as RequestMount
    from rootless.linux.idmap import IdMap
    from rootless.oci.runtime_spec import Capabilities, Mount, Namespace, Rlimit, Spec

_SHM = "/dev/shm"  # noqa: S108  # of the container


class SpecInputs:
    """What the translation needs beside request and image; each start finds it out anew.

    Attributes:
        uid, gid, groups, home: of the application's user, resolved in the image.
        idmap: the map of the container.
        inner_map: (uids, gids) of a user namespace of the container's own (--userns=nomap).
        files: container path -> file of ours to bind there (/etc/hosts, ...).
        env: variables of links, devices and --fakeroot, as NAME=VALUE; -e overrides them.
        env_over: variables that override those of -e.
        devices: added to those of the request.
        mounts: those of `spec.mounts` and of devices.
        hosts: (name, address) for /etc/hosts, beside those of --add-host.
        keep_groups: a device needs one of the caller's supplementary groups.
        namespace_paths: kind -> path, of namespaces of other containers and of the network.
        last_cap: the highest capability number of this kernel.
        init: our init program, to bind; None without --init.
        no_new_privs: the value if the request has none.
        seccomp: the profile; None: unconfined.
        systemd: the container's id in systemd mode; else "".
        hostname: of the container; "" where it shares the host's.
        cgroup_namespace: make one.
        resources: `linux.resources`, of the limits in the request.
        host_mqueue: share the host's /dev/mqueue (--ipc host).
    """

    __slots__ = (
        "cgroup_namespace",
        "devices",
        "env",
        "env_over",
        "files",
        "gid",
        "groups",
        "home",
        "host_mqueue",
        "hostname",
        "hosts",
        "idmap",
        "init",
        "inner_map",
        "keep_groups",
        "last_cap",
        "mounts",
        "namespace_paths",
        "no_new_privs",
        "resources",
        "seccomp",
        "systemd",
        "uid",
    )

    def __init__(self, idmap: IdMap, uid: int, gid: int) -> None:
        self.idmap = idmap
        self.uid = uid
        self.gid = gid
        self.groups: list[int] = []
        self.home = "/"
        self.inner_map: tuple[list[Any], list[Any]] | None = None
        self.files: dict[str, str] = {}
        self.env: list[str] = []
        self.env_over: list[str] = []
        self.devices: list[Device] = []
        self.mounts: list[RequestMount] = []
        self.hosts: list[tuple[str, str]] = []
        self.keep_groups = False
        self.namespace_paths: dict[str, str] = {}
        self.last_cap = len(NAMES) - 1
        self.init: str | None = None
        self.no_new_privs = False
        self.seccomp: dict[str, Any] | None = None
        self.hostname = ""
        self.systemd = ""
        self.resources: dict[str, Any] = {}
        self.cgroup_namespace = True
        self.host_mqueue = False


def generate(request: RunRequest, image: dict[str, Any], inputs: SpecInputs) -> Spec:
    """Return the config for one container; `root.path` is still to be filled in.

    Args:
        request: what the user asked for.
        image: the image's `config` object (image-spec, config.md), {} without an image.
        inputs: what this start has found out.

    Raises:
        RlessError: no command, an unknown capability, options that exclude each other.
    """
    privileged = request.privileged
    sets = capabilities(request, inputs.uid, inputs.last_cap)
    spec: Spec = {
        "ociVersion": "1.2.0",
        "root": {"path": "", "readonly": request.read_only},
        "process": {
            "terminal": request.tty,
            "user": {
                "uid": inputs.uid,
                "gid": inputs.gid,
                "umask": 0o022 if request.umask is None else request.umask,
                "additionalGids": inputs.groups,
            },
            "args": command(request, image, inputs.init),
            "env": environment(request, image, inputs),
            "cwd": directory(request, image),
            "capabilities": sets,
            "rlimits": rlimits(request),
            "noNewPrivileges": _no_new_privs(request, inputs),
        },
        "mounts": mounts(request, inputs),
        "annotations": _annotations(request, inputs),
        "linux": {
            "namespaces": namespaces(request, inputs),
            "resources": inputs.resources,
            "sysctl": dict(request.sysctls),
            "rootfsPropagation": "private",
            "maskedPaths": [] if privileged else _unmasked(request, defaults.MASKED_PATHS),
            "readonlyPaths": [] if privileged else _unmasked(request, defaults.READONLY_PATHS),
        },
    }
    if request.oom_score_adj is not None:
        spec["process"]["oomScoreAdj"] = request.oom_score_adj
    if inputs.hostname:
        spec["hostname"] = inputs.hostname
    if request.domainname:
        spec["domainname"] = request.domainname
    if inputs.inner_map:
        uids, gids = inputs.inner_map
        spec["linux"]["uidMappings"] = uids
        spec["linux"]["gidMappings"] = gids
    if inputs.seccomp is not None:
        spec["linux"]["seccomp"] = inputs.seccomp
    return spec


def directory(request: RunRequest, image: dict[str, Any]) -> str:
    """Return the working directory."""
    return (*request.workdirs, request.workdir or image.get("WorkingDir") or "/")[0]


def rlimits(request: RunRequest) -> list[Rlimit]:
    """Return the limits of --ulimit."""
    return [_rlimit(*limit) for limit in request.ulimits]


def _annotations(request: RunRequest, inputs: SpecInputs) -> dict[str, str]:
    keep = request.keep_groups or inputs.keep_groups
    kept = {"run.oci.keep_original_groups": "1"} if keep else {}
    places = {WORKDIRS: "\n".join(request.workdirs)} if request.workdirs else {}
    return {**request.annotations, **kept, **places}


def command(request: RunRequest, image: dict[str, Any], init: str | None) -> list[str]:
    """Return the argv: Docker's rules for Entrypoint and Cmd.

    --entrypoint also drops the image's Cmd; "" resets the entrypoint.
    """
    if request.holds:
        return [defaults.INIT_PATH, "--hold"]
    if request.entrypoint is None:
        argv = [*(image.get("Entrypoint") or ()), *(request.command or image.get("Cmd") or ())]
    else:
        argv = [*as_words(request.entrypoint), *request.command]
    if not argv:
        raise RlessError("no command: the image names none", "give one: rless run IMAGE COMMAND")
    return [defaults.INIT_PATH, "--", *argv] if init else argv


def environment(request: RunRequest, image: dict[str, Any], inputs: SpecInputs) -> list[str]:
    """Return the environment, built from nothing.

    From below to above: Docker's PATH, the host's variables, those that describe the container,
    the image's, those of the start, those of -e, and what even -e cannot change. --unset-env,
    and a bare `-e KEY` that is not set here, take from the image's and what is below.
    """
    variables = dict(entry.partition("=")[::2] for entry in (defaults.PATH, *request.env_under))
    if inputs.hostname:
        variables["HOSTNAME"] = inputs.hostname
    if request.tty:
        variables["TERM"] = "xterm"
    if inputs.systemd:
        from rootless.engine.spec import systemd_mode

        variables |= systemd_mode.environment(inputs.systemd)
    for entry in image.get("Env") or []:
        name, _, value = entry.partition("=")
        variables[name] = value
    for name in request.env_remove:
        variables.pop(name, None)
    if request.env_unset:
        from rootless.engine.spec.hpc import matcher

        unset = matcher(request.env_unset)
        variables = {name: value for name, value in variables.items() if not unset(name)}
    for entry in (*inputs.env, *request.env, *inputs.env_over):
        name, _, value = entry.partition("=")
        variables[name] = value
    variables.setdefault("HOME", inputs.home)
    if request.path_before or request.path_after:
        path = (*request.path_before, variables["PATH"], *request.path_after)
        variables["PATH"] = ":".join(filter(None, path))
    return [f"{name}={value}" for name, value in variables.items()]


def capabilities(request: RunRequest, uid: int, last_cap: int) -> Capabilities:
    """Return the five sets, as Docker since 20.10.14: nothing inheritable, nothing ambient.

    --privileged gives all of them, less those of --cap-drop (Docker ignores that one).
    A user other than root has no capability until a set-id program gives some of the bounding
    set, and then only without no_new_privs. With `ambient` it has those of --cap-add.
    """
    everything = NAMES[: last_cap + 1]
    add, drop = _cap_names(request.cap_add), _cap_names(request.cap_drop)
    if request.privileged:
        add.add("ALL")
    base = everything if "ALL" in add else () if "ALL" in drop else defaults.CAPABILITIES
    if request.privileged and "ALL" in drop:
        base = ()
    wanted = (set(base) | (add - {"ALL"})) - (drop - {"ALL"})
    chosen = [name for name in everything if name in wanted]
    held = chosen if uid == 0 else []
    if request.ambient and uid != 0:
        held = [name for name in chosen if name in add or "ALL" in add]
        return {
            "bounding": chosen,
            "effective": held,
            "permitted": held,
            "inheritable": held,
            "ambient": held,
        }
    return {
        "bounding": chosen,
        "effective": held,
        "permitted": held,
        "inheritable": [],
        "ambient": [],
    }


def _cap_names(names: Iterable[str]) -> set[str]:
    for name in names:
        if name != "ALL" and name not in NUMBERS:
            raise RlessError(f"unknown capability {name}")
    return set(names)


def namespaces(request: RunRequest, inputs: SpecInputs) -> list[Namespace]:
    """Return the namespaces: new ones, and those by path of other containers."""
    paths = inputs.namespace_paths
    wanted: list[Namespace] = [{"type": "mount"}]
    if inputs.inner_map:
        wanted.insert(0, {"type": "user"})
    for kind, mode in (
        ("pid", request.pid),
        ("ipc", request.ipc),
        ("uts", request.uts),
        ("cgroup", request.cgroupns),
    ):
        if kind in paths:
            wanted.append({"type": kind, "path": paths[kind]})
        elif mode != "host" and (kind != "cgroup" or inputs.cgroup_namespace):
            wanted.append({"type": kind})
    if "network" in paths:
        wanted.append({"type": "network", "path": paths["network"]})
    return wanted


def mounts(request: RunRequest, inputs: SpecInputs) -> list[Mount]:
    """Return all mounts in the order of their making: Docker's, then the user's."""
    private_dev = ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if inputs.idmap.host_gid(defaults.TTY_GROUP) is not None:
        pts.append(f"gid={defaults.TTY_GROUP}")
    kernel = ["nosuid", "noexec", "nodev"]
    system = [*kernel] if request.privileged else [*kernel, "ro"]
    result: list[Mount] = []
    # A new proc or sysfs needs a pid or network namespace of our user namespace; of a shared
    # one, the host's own is bound, with the same covers.
    if request.pid == "host":
        result.append(_bind("/proc", "/proc", ["rbind", *kernel]))
    else:
        result.append(_mount("/proc", "proc", kernel))
    result.append(_mount("/dev", "tmpfs", private_dev))
    result.append(_mount("/dev/pts", "devpts", pts))
    if request.uses_host_network() or inputs.inner_map:
        result.append(_bind("/sys", "/sys", ["rbind", *(f"r{option}" for option in system)]))
    else:
        result.append(_mount("/sys", "sysfs", system))
        result.append(_mount("/sys/fs/cgroup", "cgroup", [*system, "relatime"]))
    if request.ipc == "host":
        if inputs.host_mqueue:
            result.append(_bind("/dev/mqueue", "/dev/mqueue", ["rbind", *kernel]))
        result.append(_bind(_SHM, _SHM, ["rbind", *kernel]))
    else:
        result.append(_mount("/dev/mqueue", "mqueue", kernel))
        if request.ipc != "none":
            size = defaults.SHM_SIZE if request.shm_size is None else request.shm_size
            result.append(_mount(_SHM, "tmpfs", [*kernel, "mode=1777", f"size={size}"]))
    if inputs.systemd:
        from rootless.engine.spec import systemd_mode

        result += systemd_mode.mounts()
    for path, source in inputs.files.items():
        flag = "ro" if request.read_only else "rw"
        result.append(_bind(path, source, ["bind", "nosuid", "nodev", "noexec", flag]))
    for device in (*request.devices, *inputs.devices):
        if os.path.normpath(device.container) == "/dev/ptmx":
            continue  # the container's own, as in Docker
        access = "ro" if "w" not in device.permissions else "rw"
        result.append(_bind(device.container, device.host, ["bind", "nosuid", "noexec", access]))
    asked = [_asked(entry) for entry in inputs.mounts]
    # A parent before what lies in it, whatever the order on the command line (as Docker).
    result += sorted(asked, key=lambda entry: entry["destination"].rstrip("/").count("/"))
    if inputs.init:
        result.append(_bind(defaults.INIT_PATH, inputs.init, ["bind", "nosuid", "nodev", "ro"]))
    overridden = {entry["destination"] for entry in asked}
    return [
        entry
        for index, entry in enumerate(result)
        if entry in asked or entry["destination"] not in overridden or index == 0
    ]


def _asked(mount: RequestMount) -> Mount:
    """Translate one mount; a volume is a bind of its directory."""
    if mount.type == "tmpfs":
        options = _tmpfs_options(mount)
        return _mount(mount.target, "tmpfs", options)
    options = ["rbind" if mount.recursive else "bind"]
    if mount.read_only:
        # Docker since 25: what is mounted below the source is read-only as well.
        options.append("rro" if mount.recursive else "ro")
    # The nodes of a directory of the user's are no devices here, whatever a file system says.
    if "dev" not in mount.options:
        options.append("nodev")
    options += [name for name in mount.options if name in _BIND_OPTIONS]
    if mount.propagation:
        options.append(mount.propagation)
    if mount.subpath:
        from rootless.runtime.inside.mounts import SUBDIR

        options.append(f"{SUBDIR}{mount.subpath}")
    assert mount.source is not None
    return _bind(mount.target, mount.source, options)


_BIND_OPTIONS = frozenset({"exec", "noexec", "suid", "nosuid", "nodev", "dev"})
_OPPOSITES = {"exec": "noexec", "suid": "nosuid", "dev": "nodev"}


def _tmpfs_options(mount: RequestMount) -> list[str]:
    asked = [name for name in mount.options if name not in ("rw", "ro")]
    options = [no for yes, no in _OPPOSITES.items() if yes not in asked]
    options += [name for name in asked if name not in _OPPOSITES and name not in options]
    if mount.read_only:
        options.append("ro")
    if mount.tmpfs_size is not None:
        options.append(f"size={mount.tmpfs_size}")
    mode = 0o1777 if mount.tmpfs_mode is None else mount.tmpfs_mode
    if not any(name.startswith("mode=") for name in options):
        options.append(f"mode={mode:o}")
    return options


def _mount(destination: str, fstype: str, options: list[str]) -> Mount:
    return {"destination": destination, "type": fstype, "source": fstype, "options": options}


def _bind(destination: str, source: str, options: list[str]) -> Mount:
    return {"destination": destination, "type": "bind", "source": source, "options": options}


def _rlimit(name: str, soft: int, hard: int) -> Rlimit:
    top = 2**64 - 1
    return {
        "type": f"RLIMIT_{name.upper()}",
        "soft": top if soft < 0 else soft,
        "hard": top if hard < 0 else hard,
    }


def _no_new_privs(request: RunRequest, inputs: SpecInputs) -> bool:
    for option in request.security_opt:
        name, _, value = option.replace(":", "=", 1).partition("=")
        if name == "no-new-privileges":
            return value in ("", "true", "1")
    return inputs.no_new_privs


def _unmasked(request: RunRequest, paths: tuple[str, ...]) -> list[str]:
    """Return the covered paths less those of --security-opt systempaths/unmask."""
    opened: set[str] = set()
    for option in request.security_opt:
        name, _, value = option.partition("=")
        if name == "systempaths" and value == "unconfined":
            return []
        if name == "unmask":
            if value.upper() == "ALL":
                return []
            opened.update(value.split(":"))
    return [path for path in paths if path not in opened]


def _refuse(name: str, *values: tuple[int, int, int], error: int = errno.EPERM) -> dict[str, Any]:
    """Return the rule that refuses a call with these (index, mask, value) of arguments."""
    tests = [
        {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
        for index, mask, value in values
    ]
    return {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": error, "args": tests}


# Sockets that send whole frames, which no route sees (network.loopback_guard).
_ALL = 0xFFFFFFFF
_NO_XDP = _refuse("socket", (0, _ALL, 44))  # AF_XDP: past the interface's guard too
_NO_FRAMES = [
    _refuse("socket", (0, _ALL, 17)),  # AF_PACKET
    _refuse("socket", (1, 0xF, 10)),  # SOCK_PACKET: the kernel makes AF_PACKET of AF_INET with it
    _NO_XDP,
]
_NO_FRAMES_PAST_GUARD = [
    _refuse("setsockopt", (1, _ALL, 263), (2, _ALL, 20)),  # SOL_PACKET, PACKET_QDISC_BYPASS
    _refuse("socketcall", (0, _ALL, 14), error=errno.ENOSYS),  # i386: the same behind a pointer
    _NO_XDP,
]


def seccomp_profile(request: RunRequest, inputs: SpecInputs) -> dict[str, Any] | None:
    """Return the profile of a request (--security-opt); None: unconfined.

    Args:
        inputs: has the user and the last capability already.

    Raises:
        RlessError: its file cannot be read.
    """
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
    bounding = capabilities(request, inputs.uid, inputs.last_cap)["bounding"]
    if profile is not None and profile != "builtin":
        return seccomp.load_profile_file(profile, bounding)
    rules = seccomp.default_profile(bounding, allow_nested_userns=nested)
    if "CAP_NET_ADMIN" not in bounding:
        rules["syscalls"] += _NO_FRAMES_PAST_GUARD if "CAP_NET_RAW" in bounding else _NO_FRAMES
    return rules
