"""What the user or the administrator has set: one file, read once in a process.

The file is $RLESS_CONFIG, else $XDG_CONFIG_HOME/rless/config.toml (~/.config), else
/etc/rless/config.toml: the first that exists, alone. It comes after the command line and the
environment and before the defaults. Where there is none, all that it costs a start is two
failed opens; where there is one, all of it is checked, so that a wrong key is not found out only
by the verb that needs it. docs/configuration.md explains the keys.
"""

from __future__ import annotations

import os
import sys

from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SYSTEM_FILE = "/etc/rless/config.toml"
_MOST = 1 << 20  # bytes of the file

# section -> key -> what its value is: see `_check`
KEYS: dict[str, dict[str, str]] = {
    "storage": {
        "root": "path",
        "driver": "one of overlay fuse-overlayfs copy",
        "additional-stores": "paths",
        "image-path": "paths",
    },
    "images": {
        "max-concurrent-downloads": "count",
        "max-concurrent-uploads": "count",
    },
    "images.limits": {
        **dict.fromkeys(
            (
                "json-bytes auth-bytes token-bytes user-file-bytes blob-bytes zstd-window chunk"
                " layer-bytes sparse-bytes split-record-bytes extension-bytes name-bytes"
                " trailing-bytes xattr-bytes slowest-bytes-per-second upload-whole progress-bytes"
                " resume-bytes"
            ).split(),
            "size",
        ),
        **dict.fromkeys(
            (
                "index-children index-depth layers archive-members sparse-entries members"
                " xattrs redirects attempts replaced pages"
            ).split(),
            "count",
        ),
        **dict.fromkeys(
            "abandon-seconds connect-seconds current-seconds idle-seconds document-seconds"
            " resume-seconds retry-after-seconds".split(),
            "seconds",
        ),
    },
    "containers": {
        "log-driver": "one of local json-file journald none",
        "log-max-size": "size",
        "log-max-file": "count",
        "stop-timeout": "timeout",
        "userns": "text",
        "network": "text",
        "cgroup-manager": "one of auto systemd cgroupfs none",
        "cgroup-parent": "text",
        "limits": "one of enforce try",
        "pids-limit": "timeout",
    },
}

_VARIABLES = ("RLESS_CONFIG", "XDG_CONFIG_HOME", "HOME")
_loaded: dict[tuple[str | None, ...], tuple[str, dict[str, dict[str, Any]]]] = {}


def get(section: str, key: str) -> Any:
    """Return the value of a key; None: it is not set.

    Sizes are bytes (int), seconds floats, counts and the stop timeout ints, paths absolute.

    Raises:
        RlessError: the file cannot be read, or something in it is wrong.
    """
    return load()[1].get(section, {}).get(key)


def load() -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the path of the file that counts, "" for none, and its sections.

    Raises:
        RlessError: as `get`.
    """
    asked = tuple(os.environ.get(name) for name in _VARIABLES)
    if asked not in _loaded:
        _loaded[asked] = _load(asked[0])
    return _loaded[asked]


def home() -> str | None:
    """Return the home directory; None: there is none.

    From the password database where $HOME is not set, or is somebody else's: systemd services
    start programs without it, Slurm with that of root.
    """
    path = os.environ.get("HOME", "")
    if path.startswith("/") and (os.access(path, os.W_OK) or not os.path.exists(path)):
        return path
    import pwd  # 0.3 ms, and only on odd hosts

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return path if path.startswith("/") else None


def _load(asked: str | None) -> tuple[str, dict[str, dict[str, Any]]]:
    if asked:
        try:
            return asked, parse(_read(asked), asked)
        except OSError as error:
            raise RlessError(
                f"cannot read the configuration {asked}: {error.strerror}",
                "RLESS_CONFIG names it: correct or unset that",
            ) from error
    for path in _places():
        try:
            data = _read(path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # PermissionError: $HOME is another's, as after `su`
        except OSError as error:
            raise RlessError(f"cannot read the configuration {path}: {error.strerror}") from error
        return path, parse(data, path)
    return "", {}


def _places() -> Iterator[str]:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if base.startswith("/"):
        yield f"{base}/rless/config.toml"
    elif own := home():
        yield f"{own}/.config/rless/config.toml"
    yield SYSTEM_FILE


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        return file.read(_MOST)


def parse_toml(data: bytes, what: str) -> dict[str, Any]:
    """Return a TOML document.

    Args:
        what: how errors name it.

    Raises:
        RlessError: it is none, or this Python reads none: since 3.11 it does by itself.
    """
    try:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        document: dict[str, Any] = tomllib.loads(data.decode())
    except ImportError:
        raise RlessError(
            f"{what} cannot be read: this Python has no TOML", "pip install tomli"
        ) from None
    except (ValueError, RecursionError) as error:
        why = escape(str(error))[:200] or type(error).__name__
        raise RlessError(f"{what} is not valid TOML: {why}") from None
    return document


def parse(data: bytes, path: str) -> dict[str, dict[str, Any]]:
    """Return the sections of a file, checked.

    Args:
        path: how errors name it.

    Raises:
        RlessError: it is no TOML, or has an unknown key or a value of the wrong kind.
    """
    what = f"the configuration {path}"
    document = parse_toml(data, what)
    # Written as a table in its section, told apart from it here.
    images = document.get("images")
    if isinstance(images, dict) and "limits" in images:
        document["images.limits"] = images.pop("limits")
    sections: dict[str, dict[str, Any]] = {}
    for section, keys in document.items():
        if section not in KEYS:
            raise _unknown(what, f"[{section}]", [f"[{name}]" for name in KEYS])
        if not isinstance(keys, dict):
            raise RlessError(f"{what}: {section} is not a section", f"write [{section}]")
        known = KEYS[section]
        for key in keys:
            if key not in known:
                raise _unknown(what, f"{key} in [{section}]", list(known))
        sections[section] = {
            key: _check(value, known[key], f"{what}: {key} in [{section}]")
            for key, value in keys.items()
        }
    return sections


def _unknown(what: str, name: str, known: list[str]) -> RlessError:
    import difflib

    near = difflib.get_close_matches(name.partition(" in ")[0], known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return RlessError(f"{what}: unknown: {escape(name)[:100]}", hint)


def _check(value: Any, kind: str, what: str) -> Any:
    """Return a value in the unit that `get` promises."""
    if kind == "paths":
        if not isinstance(value, list):
            raise RlessError(f"{what} is not a list of directories", 'write ["/dir", …]')
        return [_path(item, what) for item in value]
    if kind == "path":
        return _path(value, what)
    if kind == "size":
        return _size(value, what)
    if kind in ("count", "timeout"):
        low = 1 if kind == "count" else -1
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value < 1 << 31:
            raise RlessError(f"{what} is not a whole number from {low} on")
        return value
    if kind == "seconds":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < 1 << 31:
            raise RlessError(f"{what} is not a number of seconds")
        return float(value)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise RlessError(f"{what} is not a word in quotes")
    if kind.startswith("one of "):
        choices = kind.split()[2:]
        if value not in choices:
            raise RlessError(f"{what}: {value!r} is not {' or '.join(choices)}")
    return value


def _path(value: object, what: str) -> str:
    """Return an absolute path; `~/`, $HOME, $USER and $UID are those of the caller.

    So that one file of the administrator can give each user a place of her own.
    """
    if not isinstance(value, str) or "\0" in value:
        raise RlessError(f"{what} is not a path in quotes")
    parts = value.split("/")
    if parts[0] == "~":
        parts[0] = "$HOME"
    path = "/".join(_variable(part[1:], what) if part[:1] == "$" else part for part in parts)
    if not path.startswith("/"):
        raise RlessError(f"{what}: {escape(value)[:200]!r} is not an absolute path")
    return os.path.normpath(path)


def _variable(name: str, what: str) -> str:
    value: str | None
    if name == "UID":
        value = str(os.getuid())
    elif name == "HOME":
        value = home()
    elif name == "USER":
        import pwd

        try:
            value = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            value = None
    else:
        raise RlessError(f"{what}: ${escape(name)[:50]} has no meaning", "use $HOME, $USER or $UID")
    if not value:
        raise RlessError(f"{what}: ${name} is not known here")
    return value


_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def _size(value: object, what: str) -> int:
    """Return bytes from a number or from text as "20MiB", "64g": binary units, as Docker's."""
    text = str(value).strip().lower() if isinstance(value, str | int) else ""
    number = text.rstrip("kmgtib ")
    unit = text[len(number) :].strip().removesuffix("b").removesuffix("i")
    if isinstance(value, bool) or not number.isascii() or not number.isdigit():
        unit = "?"
    if unit not in _UNITS or len(number) > 18:
        raise RlessError(f"{what} is not a size", 'write bytes, or as "20MiB"')
    size = int(number) << _UNITS[unit]
    if not 0 < size < 1 << 62:
        raise RlessError(f"{what} is out of range")
    return size
