"""Read the three spellings of a mount, -v, --mount and --tmpfs, and --device, as Docker does.

Podman's options that have a meaning
here (exec, suid, rbind) are known to -v too; any other option is an error, never ignored.
"""

from __future__ import annotations

import os

from rootless.cli.flags.values import boolean, choice, integer, line, name_ok, refuse, size, text
from rootless.cli.flags.values import label as label_of
from rootless.engine.request import Device, Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_SETS = (
    ("ro", "rw"),
    ("exec", "noexec"),
    ("suid", "nosuid"),
    ("z", "Z"),
    ("bind", "rbind"),
    _PROPAGATION,
)
_PLAIN = ("exec", "noexec", "suid", "nosuid", "nodev")
_NO_EFFECT = ("consistent", "cached", "delegated", "default")  # Docker: "only on macOS"
_TMPFS_FLAGS = (
    "exec noexec suid nosuid nodev sync async dirsync mand nomand atime noatime diratime"
    " nodiratime relatime norelatime strictatime nostrictatime"
)


def _target(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"has the target {path!r}, not an absolute path")
    clean = "/" + os.path.normpath(text(path)).lstrip("/")
    if clean == "/":
        raise ValueError("has the target '/'")
    return clean


def _source(path: str) -> str:
    """Return a bind source as Docker's client does: only `.` and `/` start a path."""
    if path.startswith("~"):
        raise ValueError("starts with '~', which the shell did not expand: use $HOME")
    return os.path.abspath(text(path)) if path.startswith(".") else _absolute(path)


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"has the source {path!r}, not an absolute path")
    return "/" + os.path.normpath(text(path)).lstrip("/")


def _fields_of(kind: str, source: str | None, target: str) -> dict[str, Any]:
    """Return the fields of a `Mount`, for options to be added."""
    return {"type": kind, "source": source, "target": target, "options": [], "labels": {}}


def _label(option: str) -> None:
    """Take `z` or `Z`: without SELinux there is nothing to label, and unconfined nobody to let in.

    A container of ours has the SELinux type of who starts it.
    """
    if not os.path.exists("/sys/fs/selinux/enforce"):
        return
    from rootless.host import facts

    kind = facts.selinux_type()
    if kind not in ("", facts.UNCONFINED):
        raise refuse(
            f"the mount option {option}",
            f"rless sets no SELinux labels, and containers run as {kind}, as you do",
            "leave it out, and use chcon(1) if SELinux denies access",
        )
    if kind:
        from rootless import log

        log.warn(f"the mount option {option} has no effect: containers run as {kind}, as you do")


def _option(fields: dict[str, Any], option: str) -> bool:
    """Take one option that -v and --mount share; tell whether it is known."""
    if option in ("ro", "rw"):
        fields["read_only"] = option == "ro"
    elif option in _PROPAGATION:
        fields["propagation"] = option
    elif option in ("bind", "rbind"):
        fields["recursive"] = option == "rbind"
    elif option == "nocopy":
        fields["nocopy"] = True
    elif option in ("z", "Z"):
        _label(option)
    elif option in _PLAIN:
        fields["options"].append(option)
    elif option == "dev":
        raise refuse("the mount option dev", "device nodes are for --device", "use --device")
    elif option == "U":
        raise refuse(
            "the mount option U",
            "the owners of host files are not changed",
            "leave it out: --userns=auto makes them the application's",
        )
    elif option == "O":
        raise refuse("the mount option O", "it is for -v", "use -v SOURCE:TARGET:O")
    elif option.startswith(("upperdir=", "workdir=")):
        raise refuse(
            f"the mount option {option}",
            "the changes of an overlay go when the container ends",
            "copy the directory, and mount the copy without O",
        )
    elif option == "idmap" or option.startswith("idmap="):
        raise refuse(f"the mount option {option}", "not built yet")
    else:
        return option in _NO_EFFECT
    return True


def _no_conflict(options: list[str]) -> None:
    for group in _SETS:
        given = [option for option in options if option in group]
        if len(set(given)) > 1:
            raise ValueError(f"has both {given[0]} and {given[1]}")


def volume(value: str) -> Mount:
    """Return the mount of `-v [SOURCE:]TARGET[:OPTIONS]`; a source with a name is a volume."""
    parts = value.split(":")
    if not all(parts):
        raise ValueError("has an empty section")
    if len(parts) > 3:
        raise ValueError("has too many colons")
    if len(parts) == 1:
        return Mount("volume", None, _target(parts[0]))
    source, target = parts[0], _target(parts[1])
    if source[0] in "./~":
        fields = _fields_of("bind", _source(source), target)
        fields["create_source"] = True
    else:
        if not name_ok(source):
            raise ValueError(f"has the volume name {source!r}; a path starts with '/' or '.'")
        fields = _fields_of("volume", source, target)
    options = parts[2].split(",") if len(parts) == 3 else []
    _no_conflict(options)
    for option in options:
        if option == "O":
            fields["overlay"] = True
        elif not _option(fields, option):
            raise ValueError(f"has the unknown option {option!r}")
    if fields.get("overlay"):
        _check_overlay(fields)
    if fields.get("nocopy") and fields["type"] == "bind":
        raise ValueError("has nocopy, which is for volumes")
    propagation = fields.get("propagation")
    if propagation and fields["type"] == "volume":
        raise ValueError(f"has {propagation}, which is for host paths")
    return Mount(**fields)


def _check_overlay(fields: dict[str, Any]) -> None:
    """Refuse what an overlay cannot be; a named volume is taken as it is."""
    for name in ("propagation", "recursive"):
        if name in fields:
            raise ValueError("has O, which goes with neither propagation nor bind")
    if fields["type"] == "volume":
        fields["nocopy"] = True


def volumes_from(value: str) -> str:
    """Return `CONTAINER[:ro|rw]`, checked."""
    name, colon, mode = value.partition(":")
    if not name:
        raise ValueError("names no container")
    if colon and mode not in ("ro", "rw"):
        raise ValueError(f"has the mode {mode!r}, neither ro nor rw")
    return text(value)


def fields_of_record(line: str) -> list[str]:
    """Split one CSV record as Go's encoding/csv: a field with quotes is quoted as a whole."""
    if "\n" in line or "\r" in line:
        raise ValueError("has a line break")
    fields = []
    rest: str | None = line
    while rest is not None:
        if not rest.startswith('"'):
            field, comma, after = rest.partition(",")
            if '"' in field:
                raise ValueError("has a quote inside a field: quote the whole field")
        else:
            field, after = "", rest[1:]
            while True:
                piece, quote, after = after.partition('"')
                if not quote:
                    raise ValueError("has an open quote")
                field += piece
                if not after.startswith('"'):
                    break
                field += '"'
                after = after[1:]
            comma, after = after[:1], after[1:]
            if comma not in ("", ","):
                raise ValueError("has text behind a closing quote")
        fields.append(field)
        rest = after if comma else None
    return fields


def _switch(key: str, value: str, given: bool) -> bool:
    return boolean(choice(value, "1", "true", "0", "false")) if given else True


def mount(value: str) -> Mount:
    """Return the mount of `--mount type=T,src=S,dst=D,...`; T is volume if left out."""
    fields = _fields_of("volume", None, "")
    kinds: set[str] = set()
    bare: list[str] = []
    forced = False
    for field in fields_of_record(value.strip()):
        key, equals, content = field.partition("=")
        key = key.lower()
        given = bool(equals)
        if given and not content.strip():
            raise ValueError(f"has no value for {key!r}")
        if key != key.strip() or content != content.strip():
            raise ValueError(f"has white space around {key.strip()!r}")
        if key.startswith(("bind-", "volume-", "tmpfs-")):
            kinds.add(key.partition("-")[0])
        if key in ("readonly", "ro"):
            fields["read_only"] = _switch(key, content, given)
            if fields["read_only"]:
                bare.append("ro")
        elif key == "bind-nonrecursive":
            fields["recursive"] = not _switch(key, content, given)
        elif key == "bind-create-src":
            fields["create_source"] = _switch(key, content, given)
        elif key == "volume-nocopy":
            fields["nocopy"] = _switch(key, content, given)
        elif not given:
            if field not in (*_PLAIN, "rw", "dev", "z", "Z", "U"):
                raise ValueError(f"has {field!r}, not KEY=VALUE")
            bare.append(field)
            _option(fields, field)
        else:
            _mount_field(fields, key, content)
        forced = forced or field == "bind-recursive=readonly"
    _no_conflict(bare)
    if forced and not fields.get("read_only"):
        raise ValueError("has bind-recursive=readonly without readonly")
    _check_mount(fields, kinds, bare)
    return Mount(**fields)


def _mount_field(fields: dict[str, Any], key: str, content: str) -> None:
    if key == "type":
        kind = content.lower()
        if kind in ("image", "npipe", "cluster"):
            raise refuse(f"--mount type={kind}", "not built yet", "use bind, volume or tmpfs")
        fields["type"] = choice(kind, "bind", "volume", "tmpfs")
    elif key in ("source", "src"):
        fields["source"] = content
    elif key in ("target", "dst", "destination"):
        fields["target"] = _target(content)
    elif key == "consistency":
        choice(content.lower(), *_NO_EFFECT)
    elif key == "bind-propagation":
        fields["propagation"] = choice(content.lower(), *_PROPAGATION)
    elif key == "bind-recursive":
        if choice(content, "enabled", "disabled", "writable", "readonly") == "writable":
            raise refuse(
                "--mount bind-recursive=writable",
                "a read-only mount is read-only all the way down",
                "use enabled, readonly or disabled",
            )
        fields["recursive"] = content != "disabled"
    elif key == "tmpfs-size":
        fields["tmpfs_size"] = size(content)
    elif key == "tmpfs-mode":
        fields["tmpfs_mode"] = _mode(content)
    elif key == "volume-driver":
        if content != "local":
            raise refuse(f"--mount volume-driver={content}", "volumes are local directories")
    elif key == "volume-label":
        name, label = label_of(content)
        fields["labels"][name] = label
    elif key == "volume-subpath":
        fields["subpath"] = _subpath(content)
    elif key in ("volume-opt", "image-subpath"):
        raise refuse(
            f"--mount {key}", "not built yet", "volume-opt: use rless volume create --opt before"
        )
    else:
        raise ValueError(f"has the unknown key {key!r}")


def _subpath(path: str) -> str:
    """Return a path in a volume, without `..` in it."""
    normal = os.path.normpath(path)
    if path.startswith("/") or normal.partition("/")[0] == "..":
        raise ValueError(f"has the subpath {path!r}, which is not a path in the volume")
    return line(normal) if normal != "." else ""


def _check_mount(fields: dict[str, Any], kinds: set[str], bare: list[str]) -> None:
    kind, source = fields["type"], fields["source"]
    if not fields["target"]:
        raise ValueError("has no target")
    for other in sorted(kinds - {kind}):
        raise ValueError(f"mixes {other}-* options with the type {kind}")
    if kind == "bind":
        if source is None:
            raise ValueError("has no source")
        fields["source"] = _source(source)
    elif kind == "tmpfs":
        if source is not None:
            raise ValueError("has a source, which a tmpfs has not")
        if "z" in bare or "Z" in bare:
            raise ValueError("has an option that is not for tmpfs")
    elif source is not None and not name_ok(source):
        raise ValueError(f"has the volume name {source!r}; for a path say type=bind")
    elif source is None and fields.get("subpath"):
        raise ValueError("has a subpath, but names no volume")


def _mode(value: str) -> int:
    if not value or len(value) > 5 or set(value) - set("01234567"):
        raise ValueError(f"has the mode {value!r}, not an octal number")
    mode = int(value, 8)
    if mode > 0o7777:
        raise ValueError(f"has the mode {value!r}, more than 7777")
    return mode


def tmpfs(value: str) -> Mount:
    """Return the mount of `--tmpfs TARGET[:OPTIONS]`: mount(8) options and those of tmpfs(5)."""
    path, _, rest = value.partition(":")
    fields = _fields_of("tmpfs", None, _target(path))
    options = rest.split(",") if rest else []
    _no_conflict(options)
    for option in options:
        key, equals, content = option.partition("=")
        if option in ("ro", "rw"):
            fields["read_only"] = option == "ro"
        elif option in _TMPFS_FLAGS.split():
            fields["options"].append(option)
        elif key == "size" and equals:
            if content.endswith("%") and content[:-1].isascii() and content[:-1].isdigit():
                fields["options"].append(option)
            else:
                fields["tmpfs_size"] = size(content)
        elif key == "mode" and equals:
            fields["tmpfs_mode"] = _mode(content)
        elif key in ("uid", "gid") and content.isascii() and content.isdigit():
            fields["options"].append(option)
        elif key in ("nr_inodes", "nr_blocks") and equals:
            size(content)
            fields["options"].append(option)
        else:
            raise ValueError(f"has the unknown option {option!r}")
    return Mount(**fields)


def device(value: str) -> Device | str:
    """Return the device of `/dev/x[:/dev/y][:rwm]`, or the CDI name `vendor.com/class=name`."""
    parts = text(value).split(":")
    if "=" in value and "/" in value and not value.startswith("/"):
        from rootless.engine.spec.cdi import is_name

        if not is_name(value):
            raise ValueError("is neither a path nor of the form vendor.com/class=name")
        return value
    if len(parts) > 3 or not parts[0]:
        raise ValueError("is not a device")
    host = container = parts[0]
    permissions = "rwm"
    if len(parts) == 3:
        container, permissions = parts[1], parts[2]
    elif len(parts) == 2:
        if _device_mode(parts[1]):
            permissions = parts[1]
        else:
            container = parts[1]
    if not _device_mode(permissions):
        raise ValueError(f"has a bad mode {permissions!r}")
    for path in (host, container):
        if not path.startswith("/"):
            raise ValueError(f"has {path!r}, not an absolute path")
    if not {"r", "w"} <= set(permissions):
        # A read-only mount does not keep anyone from writing to a device.
        raise refuse(
            f"--device with the mode {permissions}",
            "device rules of control groups need root",
            "leave the mode out: the host's file permissions decide",
        )
    return Device(_absolute(host), _absolute(container), permissions)


def gpus(value: str) -> str:
    """Return what `--gpus` asks for, as the engine looks it up: gpus=all, gpus=device:0=nvidia.

    Docker's form: `all`, a number, or fields with commas: count, device, driver, capabilities.
    """
    if value.isascii() and value.isdigit() and int(value) > 0:
        return f"gpus=count:{int(value)}"
    if value == "all":
        return "gpus=all"
    asked, driver = "", ""
    for field in _fields(value):
        key, equals, content = field.partition("=")
        if not equals or not content:
            raise ValueError(f"has the field {field!r}, not key=value")
        if key == "device":
            asked = f"device:{content}"
        elif key == "count":
            asked = "all" if content in ("all", "-1") else f"count:{integer(content, 1, 1000)}"
        elif key == "driver":
            driver = line(content)
        elif key != "capabilities":  # what a device can do is in its description
            raise ValueError(f"has the unknown field {key!r}")
    return f"gpus={asked or 'all'}" + (f"={driver}" if driver else "")


def _fields(value: str) -> list[str]:
    """Split at commas that are outside of double quotes (CSV, as Docker's client)."""
    fields = [""]
    quoted = False
    for char in value:
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            fields.append("")
        else:
            fields[-1] += char
    if quoted:
        raise ValueError("has an open quote")
    return fields


def _device_mode(value: str) -> bool:
    return bool(value) and set(value) <= set("rwm") and len(set(value)) == len(value)
