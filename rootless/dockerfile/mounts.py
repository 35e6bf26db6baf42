"""The values of `RUN --mount` and `RUN --device`.

Source: docs.docker.com/reference/dockerfile (RUN --mount); BuildKit
frontend/dockerfile/instructions/commands_runmount.go, commands_rundevice.go.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Literal

from rootless.dockerfile.errors import DockerfileError, nearest
from rootless.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    _Name = TypeVar("_Name", bound=str)

MountType = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing = Literal["shared", "private", "locked"]

_TYPES: tuple[MountType, ...] = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARINGS: tuple[Sharing, ...] = ("shared", "private", "locked")
_SAME = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_SAME |= {"rw": "readwrite"}
_SWITCHES = ("readonly", "readwrite", "required")
_ALWAYS = ("type", "target")
_KEYS: dict[str, tuple[str, ...]] = {
    "bind": (*_ALWAYS, "from", "source", "readonly", "readwrite"),
    "cache": (
        *(*_ALWAYS, "from", "source", "readonly", "readwrite"),
        *("id", "sharing", "mode", "uid", "gid"),
    ),
    "tmpfs": (*_ALWAYS, "size", "readonly", "readwrite"),
    "secret": (*_ALWAYS, "id", "source", "env", "required", "mode", "uid", "gid"),
    "ssh": (*_ALWAYS, "id", "required", "mode", "uid", "gid"),
}
_MODES = {"cache": 0o755, "secret": 0o400, "ssh": 0o600}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_ID_LIMIT = 2**32 - 1


class Mount(Frozen):
    """A mount of one RUN.

    Attributes:
        target: as written, may be relative to the working directory; "" for a secret or an agent
            without one (`secret_path` has the default).
        origin: the value of `from`, "" for the build's context or none.
        source: a path in the origin's root; "" is the root itself.
        id: the name of the cache, secret or agent. The default is filled in, but for a cache: that
            is its target once it is absolute, here "".
        env: the variable that holds the secret, "" for none.
        size: limit of a tmpfs in bytes, 0 for none.
        given: which of mode, uid, gid, from were written, by these names.
    """

    type: MountType
    target: str = ""
    origin: str = ""
    source: str = ""
    readonly: bool = False
    id: str = ""
    sharing: Sharing = "shared"
    required: bool = False
    env: str = ""
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    given: frozenset[str] = frozenset()

    def secret_path(self) -> str | None:
        """Return where the file of a secret is, or None if it is only in a variable."""
        if self.target:
            return self.target
        return None if self.env else f"/run/secrets/{self.id}"


class Device(Frozen):
    """A device of one RUN, by its CDI name."""

    name: str
    required: bool = False


def mount_origin(text: str) -> str:
    """Return the value of `from` in a value that is not expanded yet; "" if there is none.

    Raises:
        DockerfileError: a variable in it, which is not possible there.
    """
    origin = ""
    for part in split_csv(text):
        key, _, value = part.partition("=")
        if key.lower() == "from":
            origin = value
    if "$" in origin[:-1]:
        raise DockerfileError(
            f"--mount: from={origin}: there are no variables in it",
            "define a stage by FROM, and name that",
        )
    return origin


def parse_mount(text: str, expand: Callable[[str], str] = str) -> Mount:
    """Read the value of a `--mount`.

    Args:
        expand: gives the value of a word; it is not used for `from`.

    Raises:
        DockerfileError: an unknown type or key, one that the type has not, or a wrong value.
    """
    values: dict[str, str] = {}
    origin = mount_origin(text)
    for part in split_csv(text):
        key, equals, value = part.partition("=")
        key = _SAME.get(key.lower(), key.lower())
        if not equals:
            if key not in _SWITCHES:
                raise DockerfileError(f"--mount: {part!r} is not KEY=VALUE")
            value = "true"
        values[key] = origin if key == "from" else expand(value)
    kind = _chosen("type", values.get("type", "bind").lower(), _TYPES)
    for key in values:
        if key not in _KEYS[kind]:
            hint = nearest(key, _KEYS[kind]) or f"it has {', '.join(_KEYS[kind])}"
            raise DockerfileError(f"--mount: a {kind} mount has no key {key!r}", hint)
    mount = Mount(
        kind,
        values.get("target", ""),
        origin,
        values.get("source", ""),
        _is_readonly(kind, values),
        values.get("id", ""),
        _chosen("sharing", values.get("sharing", "shared").lower(), _SHARINGS),
        _switch("required", values.get("required", "false")),
        values.get("env", ""),
        _size(values.get("size", "0")),
        _number("mode", values["mode"], 8, 0o7777) if "mode" in values else _MODES.get(kind, 0),
        _number("uid", values.get("uid", "0"), 10, _ID_LIMIT),
        _number("gid", values.get("gid", "0"), 10, _ID_LIMIT),
        frozenset(values) & {"mode", "uid", "gid", "from"},
    )
    return _checked(mount)


def _checked(mount: Mount) -> Mount:
    """Return the mount with the default of its id, once its values fit together."""
    from rootless.frozen import replace

    if mount.type in ("bind", "cache", "tmpfs"):
        if not mount.target:
            raise DockerfileError(f"--mount: a {mount.type} mount needs a target")
        if posixpath.normpath("/" + mount.target) in ("/", "//"):
            raise DockerfileError(f"--mount: the target {mount.target} would hide the whole root")
        return mount
    if mount.type == "ssh":
        return replace(mount, id=mount.id or "default")
    if mount.source and mount.id:
        raise DockerfileError("--mount: a secret has an id or a source, not both")
    name = mount.id or mount.source or posixpath.basename(mount.target)
    if not name:
        raise DockerfileError("--mount: a secret needs an id or a target")
    return replace(mount, id=name)


def parse_device(text: str) -> Device:
    """Read the value of a `--device`.

    Raises:
        DockerfileError: an unknown key, no name, or two.
    """
    name, required = "", False
    for index, part in enumerate(split_csv(text)):
        key, equals, value = part.partition("=")
        # The name of one device of a kind has a = itself: vendor.com/kind=NAME.
        if not index and ("/" in key or (not equals and part.lower() != "required")):
            key, value = "name", part
        if key.lower() == "required":
            required = _switch("required", value if equals else "true")
        elif key.lower() == "name" and value and not name:
            name = value
        else:
            raise DockerfileError(f"--device: {part!r} is not expected", "write NAME[,required]")
    if not name:
        raise DockerfileError("--device needs a name")
    return Device(name, required)


def split_csv(text: str) -> list[str]:
    """Split at commas; a field in double quotes may have commas, and doubled quotes (RFC 4180).

    Raises:
        DockerfileError: a quote is not closed, or stands inside a field without quotes.
    """
    fields: list[str] = []
    at = 0
    while True:
        if text.startswith('"', at):
            match = re.compile(r'"((?:[^"]|"")*)"(?=,|\Z)').match(text, at)
            if match is None:
                raise DockerfileError(f"a quote is not closed in {text!r}")
            fields.append(match[1].replace('""', '"'))
            end = match.end()
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            fields.append(text[at:end])
            if '"' in fields[-1]:
                raise DockerfileError(f"a quote inside a field of {text!r}")
        if end == len(text):
            return fields
        at = end + 1


def _is_readonly(kind: str, values: dict[str, str]) -> bool:
    readonly = kind not in ("cache", "tmpfs")
    for key, value in values.items():  # the last one counts
        if key == "readonly":
            readonly = _switch(key, value)
        elif key == "readwrite":
            readonly = not _switch(key, value)
    return readonly


def _chosen(key: str, value: str, known: tuple[_Name, ...]) -> _Name:
    for name in known:
        if name == value:
            return name
    hint = nearest(value, known) or f"use one of {', '.join(known)}"
    raise DockerfileError(f"--mount: {key}={value} is unknown", hint)


def _switch(key: str, value: str) -> bool:
    # The words of Go's strconv.ParseBool.
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise DockerfileError(f"{key}={value}: it is true or false")


def _number(key: str, value: str, base: int, most: int) -> int:
    digits = "01234567" if base == 8 else "0123456789"
    number = int(value, base) if value and not value[:20].strip(digits) else -1
    if not 0 <= number <= most or len(value) > 20:
        raise DockerfileError(f"--mount: {key}={value} is no number that can be one")
    return number


def _size(value: str) -> int:
    match = _SIZE.fullmatch(value)
    if match is None:
        raise DockerfileError(f"--mount: size={value} is no size", "write it as 64m or 1g")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))
