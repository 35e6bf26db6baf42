"""Check a foreign config.json once, before it is used.

A value of the wrong type, or one that cannot be honoured, is refused by its JSON path. Unknown keys
are ignored, as the specification demands (config.md, Extensibility). Known keys that this runtime
cannot honour are refused, because ignoring them would be misleading.
"""

from __future__ import annotations

from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.oci.runtime_spec import Process, Spec

# In the order in which they are called (runtime.md, Lifecycle).
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
CLOCKS = ("monotonic", "boottime")
# A schema is a type, a range for a number, [schema] for a list, {key: schema} for an object; a
# key with "!" at its end must be there, one with "?" is absent if it is zero or empty, as in runc,
# and "*" stands for every key.
_ID = range(2**32 - 1)  # the last one means "leave it" to the kernel
_LIMIT = range(2**64)
_HOOK = {"path!": str, "args": [str], "env": [str], "timeout": range(1, 2**31)}
_COUNT = range(-1, 2**63)  # -1: no limit
_NUMBER = range(2**63)
_DEVICE = {"major!": range(2**32), "minor!": range(2**32)}
_RATE = [{**_DEVICE, "rate!": _LIMIT}]
_WEIGHT = range(10, 1001)
_RESOURCES: dict[str, Any] = {
    "memory": {
        **dict.fromkeys(("limit?", "reservation?", "swap?", "kernel?", "kernelTCP?"), _COUNT),
        "swappiness": _LIMIT,
        "disableOOMKiller": bool,
        "checkBeforeUpdate": bool,
    },
    "cpu": {
        "shares?": _LIMIT,
        "quota?": _COUNT,
        "burst": _LIMIT,
        "period?": _LIMIT,
        "realtimeRuntime?": _COUNT,
        "realtimePeriod?": _LIMIT,
        "cpus?": str,
        "mems?": str,
        "idle": range(2),
    },
    "pids": {"limit": _COUNT},
    "blockIO": {
        "weight?": _WEIGHT,
        "leafWeight?": _LIMIT,
        "weightDevice": [{**_DEVICE, "weight?": _WEIGHT, "leafWeight?": _LIMIT}],
        "throttleReadBpsDevice": _RATE,
        "throttleWriteBpsDevice": _RATE,
        "throttleReadIOPSDevice": _RATE,
        "throttleWriteIOPSDevice": _RATE,
    },
    "hugepageLimits": [{"pageSize!": str, "limit!": _LIMIT}],
    "rdma": {"*": {"hcaHandles": _NUMBER, "hcaObjects": _NUMBER}},
    "network": {"classID": _LIMIT, "priorities": list},
    "unified": {"*": str},
}
_MAPPING = {"containerID!": _ID, "hostID!": _ID, "size!": range(1, 2**32)}
_SCHEMA: dict[str, Any] = {
    "ociVersion!": str,
    "root!": {"path!": str, "readonly": bool},
    "hostname": str,
    "domainname": str,
    "annotations": {"*": str},
    "hooks": {kind: [_HOOK] for kind in HOOKS},
    "mounts": [{"destination!": str, "type": str, "source": str, "options": [str]}],
    "process!": {
        "terminal": bool,
        "consoleSize": {"height!": range(65536), "width!": range(65536)},
        "user": {"uid": _ID, "gid": _ID, "umask": range(0o1000), "additionalGids": [_ID]},
        "args!": [str],
        "env": [str],
        "cwd!": str,
        "capabilities": {
            "bounding": [str],
            "effective": [str],
            "inheritable": [str],
            "permitted": [str],
            "ambient": [str],
        },
        "rlimits": [{"type!": str, "soft!": _LIMIT, "hard!": _LIMIT}],
        "noNewPrivileges": bool,
        "oomScoreAdj": range(-1000, 1001),
        "apparmorProfile": str,
        "selinuxLabel": str,
        "scheduler": {
            "policy!": str,
            "nice": range(-20, 20),
            "priority": int,
            "flags": [str],
            "runtime": _LIMIT,
            "deadline": _LIMIT,
            "period": _LIMIT,
        },
        "ioPriority": {"class!": str, "priority": range(8)},
        "execCPUAffinity": {"initial": str, "final": str},
    },
    "linux": {
        "namespaces": [{"type!": str, "path": str}],
        "uidMappings": [_MAPPING],
        "gidMappings": [_MAPPING],
        "devices": [{"type!": str, "path!": str, "major": int, "minor": int}],
        "cgroupsPath": str,
        "resources": _RESOURCES,
        "rootfsPropagation": str,
        "seccomp": {},
        "sysctl": {"*": str},
        "maskedPaths": [str],
        "readonlyPaths": [str],
        "mountLabel": str,
        "personality": {"domain!": str, "flags": [str]},
        "memoryPolicy": {"mode!": str, "nodes": str, "flags": [str]},
        "timeOffsets": {
            clock: {"secs": range(-(2**63), 2**63), "nanosecs": range(10**9)} for clock in CLOCKS
        },
    },
}
_NAMES = {dict: "an object", list: "a list", str: "a string", int: "a number", bool: "a boolean"}
# JSON path -> why it cannot be had. Empty values are harmless.
_IMPOSSIBLE = {
    "linux.intelRdt": "resctrl groups are root's",
    "linux.netDevices": "only root of the host can move its network devices",
    "vm": "this runtime starts no virtual machines",
    "zos": "this is Linux",
}
_PROPAGATION = frozenset(
    {""}.union(*({name, f"r{name}"} for name in ("private", "slave", "shared", "unbindable")))
)
_HOST_NAME_LIMIT = 64  # __NEW_UTS_LEN, bytes


def check(document: Any, path: str) -> Spec:
    """Return the document as a Spec.

    Args:
        path: of the file, for the messages.

    Raises:
        RlessError: the first thing that is wrong, with its JSON path.
    """
    try:
        _check(document, _SCHEMA, "")
        _refuse_impossible(document)
        _check_hooks(document.get("hooks", {}))
        _check_process(document["process"])
        for index, mount in enumerate(document.get("mounts", ())):
            _check_mount(mount, f"mounts[{index}]")
        _check_linux(document.get("linux", {}))
        _check_names(document)
    except RlessError as error:
        raise RlessError(f"{path}: {error.message}", error.hint, 1) from None
    return document  # type: ignore[no-any-return]


def check_resources(document: Any, path: str) -> dict[str, Any]:
    """Return the document of `update --resources`; see `check`."""
    try:
        _check(document, _RESOURCES, "")
    except RlessError as error:
        raise RlessError(f"{path}: {error.message}", error.hint, 1) from None
    return document  # type: ignore[no-any-return]


def check_process(document: Any, path: str) -> Process:
    """Return a document of `exec --process` as a Process; see `check`."""
    try:
        _check(document, _SCHEMA["process!"], "process")
        _check_process(document)
    except RlessError as error:
        raise RlessError(f"{path}: {error.message}", error.hint, 1) from None
    return document  # type: ignore[no-any-return]


def _check(value: Any, schema: Any, where: str) -> None:
    if isinstance(schema, dict):
        _check_type(value, dict, where)
        if "*" in schema:
            for key, item in value.items():
                _check_type(key, str, where)
                _check(item, schema["*"], f"{where}.{key}")
            return
        for entry, inner in schema.items():
            name = entry.rstrip("!?")
            at = f"{where}.{name}" if where else name
            given = value.get(name)
            is_zero = entry.endswith("?") and given in (0, "") and given is not False
            if given is None or is_zero:
                if entry.endswith("!"):
                    raise RlessError(f"{at} is missing")
                value.pop(name, None)  # null means absent, as in Go
                continue
            _check(given, inner, at)
    elif isinstance(schema, list):
        _check_type(value, list, where)
        for index, item in enumerate(value):
            _check(item, schema[0], f"{where}[{index}]")
    elif isinstance(schema, range):
        _check_type(value, int, where)
        if value not in schema:
            raise RlessError(f"{where} is not between {schema.start} and {schema.stop - 1}")
    else:
        _check_type(value, schema, where)


def _check_type(value: Any, wanted: Any, where: str) -> None:
    # bool is an int to Python, but not to JSON.
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise RlessError(f"{where or 'the document'} is not {_NAMES[wanted]}")
    if wanted is str:
        if "\0" in value:
            raise RlessError(f"{where} holds a NUL")
        try:
            # Bytes that are not UTF-8 come as U+DC80 to U+DCFF; other surrogates are nothing.
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise RlessError(f"{where} holds half of a surrogate pair") from None


def _refuse_impossible(document: dict[str, Any]) -> None:
    for name, why in _IMPOSSIBLE.items():
        value: Any = document
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, dict):
            value = any(value.values())
        if value:
            raise RlessError(f"{name} is not supported: {why}")


def _check_hooks(hooks: dict[str, Any]) -> None:
    for kind in HOOKS:
        for index, hook in enumerate(hooks.get(kind, ())):
            if not hook["path"].startswith("/"):
                raise RlessError(f"hooks.{kind}[{index}].path: {hook['path']} is not absolute")
            for entry in hook.get("env", ()):
                if entry.find("=") < 1:
                    raise RlessError(f"hooks.{kind}[{index}].env: {entry} is not NAME=VALUE")


def _check_process(process: dict[str, Any]) -> None:
    if not process["args"]:
        raise RlessError("process.args is empty")
    if not process["cwd"].startswith("/"):
        raise RlessError(f"process.cwd: {process['cwd']} is not an absolute path")
    for index, entry in enumerate(process.get("env", ())):
        if entry.find("=") < 1:
            raise RlessError(f"process.env[{index}]: {entry} is not NAME=VALUE")
    seen = set()
    for index, limit in enumerate(process.get("rlimits", ())):
        where = f"process.rlimits[{index}]: {limit['type']}"
        if limit["type"] in seen:
            raise RlessError(f"{where} is there twice")
        if limit["soft"] > limit["hard"]:
            raise RlessError(f"{where}: soft is above hard")
        seen.add(limit["type"])


def _check_mount(mount: dict[str, Any], where: str) -> None:
    # The specification wants an absolute path; a relative one counts from the root, as older
    # runtimes had it.
    if not mount["destination"].startswith("/"):
        mount["destination"] = "/" + mount["destination"]
    options = mount.get("options", ())
    if mount.get("uidMappings") or mount.get("gidMappings"):
        raise RlessError(f"{where}.uidMappings: an ID-mapped mount needs real root")
    if "remount" in options:
        return
    if mount.get("type") == "bind" or "bind" in options or "rbind" in options:
        if not mount.get("source"):
            raise RlessError(f"{where}.source is missing: the mount of type bind needs one")
    elif not mount.get("type"):
        raise RlessError(f"{where}.type is missing")


def _check_linux(linux: dict[str, Any]) -> None:
    seen = set()
    for index, namespace in enumerate(linux.get("namespaces", ())):
        if namespace["type"] in seen:
            raise RlessError(f"linux.namespaces[{index}]: {namespace['type']} is there twice")
        seen.add(namespace["type"])
    if linux.get("timeOffsets") and "time" not in seen:
        raise RlessError("linux.timeOffsets: there is no new time namespace")
    for index, device in enumerate(linux.get("devices", ())):
        if not device["path"].startswith("/"):
            raise RlessError(f"linux.devices[{index}].path is not absolute")
    propagation = linux.get("rootfsPropagation", "")
    if propagation not in _PROPAGATION:
        raise RlessError(f"linux.rootfsPropagation: {propagation} is none")


def _check_names(document: dict[str, Any]) -> None:
    kinds = {entry["type"] for entry in document.get("linux", {}).get("namespaces", ())}
    for key in ("hostname", "domainname"):
        name = document.get(key, "")
        if name and "uts" not in kinds:
            raise RlessError(f"{key}: the container shares the uts namespace of the host")
        if not name.isprintable():
            raise RlessError(f"{key}: {name} holds control characters")
        if len(name.encode()) > _HOST_NAME_LIMIT:
            raise RlessError(f"{key} is longer than {_HOST_NAME_LIMIT} bytes")
