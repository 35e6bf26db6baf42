"""Check a config.json that somebody else wrote, once, before anything believes in it.

What has the wrong type, or cannot be honoured, is refused by its JSON path. Unknown keys are
ignored, as the specification asks (config.md, Extensibility); known ones that this runtime
does not implement are refused, because ignoring them would lie.
"""

from __future__ import annotations

from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.oci.runtime_spec import Spec

# A schema is a type, [schema] for a list, {key: schema} for an object; a key with "!" at its
# end must be there.
_MAPPING = {"containerID!": int, "hostID!": int, "size!": int}
_SCHEMA: dict[str, Any] = {
    "ociVersion!": str,
    "root!": {"path!": str, "readonly": bool},
    "hostname": str,
    "domainname": str,
    "annotations": {},
    "mounts": [{"destination!": str, "type": str, "source": str, "options": [str]}],
    "process!": {
        "terminal": bool,
        "consoleSize": {"height!": int, "width!": int},
        "user": {"uid": int, "gid": int, "umask": int, "additionalGids": [int]},
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
        "rlimits": [{"type!": str, "soft!": int, "hard!": int}],
        "noNewPrivileges": bool,
        "oomScoreAdj": int,
    },
    "linux": {
        "namespaces": [{"type!": str, "path": str}],
        "uidMappings": [_MAPPING],
        "gidMappings": [_MAPPING],
        "devices": [{"type!": str, "path!": str, "major": int, "minor": int}],
        "cgroupsPath": str,
        "resources": {},
        "rootfsPropagation": str,
        "seccomp": {},
        "sysctl": {},
        "maskedPaths": [str],
        "readonlyPaths": [str],
    },
}
# JSON path -> empty values of it are harmless, others are refused.
_NOT_BUILT = (
    "hooks",
    "process.apparmorProfile",
    "process.selinuxLabel",
    "process.scheduler",
    "process.ioPriority",
    "process.execCPUAffinity",
    "linux.mountLabel",
    "linux.intelRdt",
    "linux.personality",
    "linux.timeOffsets",
    "linux.seccomp.listenerPath",
    "vm",
    "zos",
)


def check(document: Any, path: str) -> Spec:
    """Return the document as a Spec.

    Raises:
        RlessError: the first thing that is wrong, with its JSON path.
    """
    _check(document, _SCHEMA, "")
    for name in _NOT_BUILT:
        value = document
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, dict):
            value = any(value.values())
        if value:
            raise RlessError(f"{path}: {name} is not supported: not built yet", exit_code=1)
    if not document["process"]["args"]:
        raise RlessError(f"{path}: process.args is empty", exit_code=1)
    for index, mount in enumerate(document.get("mounts") or []):
        # The specification wants an absolute path; a relative one counts from the root, as
        # older runtimes had it.
        if not mount["destination"].startswith("/"):
            mount["destination"] = "/" + mount["destination"]
        if "\0" in mount["destination"]:
            raise RlessError(f"{path}: mounts[{index}].destination holds a NUL", exit_code=1)
    return document  # type: ignore[no-any-return]


def _check(value: Any, schema: Any, where: str) -> None:
    if isinstance(schema, dict):
        _check_type(value, dict, where)
        for entry, inner in schema.items():
            name = entry.rstrip("!")
            at = f"{where}.{name}" if where else name
            if value.get(name) is None:
                if entry.endswith("!"):
                    raise RlessError(f"config.json: {at} is missing", exit_code=1)
                value.pop(name, None)  # null means absent, as in Go
                continue
            _check(value[name], inner, at)
    elif isinstance(schema, list):
        _check_type(value, list, where)
        for index, item in enumerate(value):
            _check(item, schema[0], f"{where}[{index}]")
    else:
        _check_type(value, schema, where)


def _check_type(value: Any, wanted: type, where: str) -> None:
    # bool is an int to Python, but not to JSON.
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return
    names = {dict: "an object", list: "a list", str: "a string", int: "a number", bool: "a boolean"}
    raise RlessError(
        f"config.json: {where or 'the document'} is not {names[wanted]}", exit_code=1
    )
