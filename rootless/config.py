"""What the user or the administrator has set: files and the environment, read once in a process.

Key by key, the first of these counts:

    the environment     RLESS_SECTION_KEY, as RLESS_CONTAINERS_NETWORK
    the user's file     $XDG_CONFIG_HOME/rless/config.toml (~/.config)
    the system's file   /etc/rless/rless.toml, or /etc/rless/config.toml

$RLESS_CONFIG names one file in place of both. All of it comes after the command line and before
the defaults. Where there is no file, all that it costs a start is three failed opens; where there
is one, all of it is checked, so that a wrong key is not found out only by the verb that needs it.
docs/configuration.md explains the keys.
"""

from __future__ import annotations

import os
import stat
import sys

from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SYSTEM_FILES = ("/etc/rless/rless.toml", "/etc/rless/config.toml")
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
                " resume-bytes signatures-bytes"
            ).split(),
            "size",
        ),
        **dict.fromkeys(
            (
                "index-children index-depth layers archive-members sparse-entries members"
                " xattrs redirects attempts replaced pages signatures"
            ).split(),
            "count",
        ),
        **dict.fromkeys(
            "abandon-seconds connect-seconds current-seconds idle-seconds document-seconds"
            " resume-seconds retry-after-seconds".split(),
            "seconds",
        ),
    },
    "build": {
        "add-url": "switch",
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
    "front": {
        "limits": "one of enforce try",
    },
    "hpc": {
        **dict.fromkeys("default home cwd tmp env-host fabric".split(), "switch"),
        "modules": "words",
        "unset-env": "words",
    },
    "gpus": {
        "cdi-directories": "paths",
    },
    # A section for each module.
    "modules.NAME": {
        **dict.fromkeys("mounts env unset-env devices".split(), "words"),
        "about": "text",
    },
}

_VARIABLES = ("RLESS_CONFIG", "XDG_CONFIG_HOME", "HOME")
_MODULE = "modules."

if TYPE_CHECKING:
    Sections = dict[str, dict[str, Any]]
    Origins = dict[tuple[str, str], str]  # (section, key) -> the file or the variable

_loaded: dict[tuple[str | None, ...], tuple[Sections, Origins]] = {}


def get(section: str, key: str) -> Any:
    """Return the value of a key; None: it is not set.

    Sizes are bytes (int), seconds floats, counts and the stop timeout ints, paths absolute.

    Raises:
        RlessError: a file cannot be read, or something in it is wrong.
    """
    return sections().get(section, {}).get(key)


def sections() -> Sections:
    """Return all that is set, by section; a module is the section "modules.NAME".

    Raises:
        RlessError: as `get`.
    """
    return _load()[0]


def origin(section: str, key: str) -> str:
    """Return what sets a key: a file, or `$VARIABLE`; "": nothing does."""
    return _load()[1].get((section, key), "")


def modules() -> Sections:
    """Return the modules by name."""
    return {
        name[len(_MODULE) :]: module
        for name, module in sections().items()
        if name.startswith(_MODULE)
    }


def _load() -> tuple[Sections, Origins]:
    asked = (
        *(os.environ.get(name) for name in _VARIABLES),
        *(f"{name}={os.environ[name]}" for name in os.environ if name[:6] == "RLESS_"),
    )
    if asked not in _loaded:
        _loaded[asked] = _merge()
    return _loaded[asked]


def _merge() -> tuple[Sections, Origins]:
    """Lay the user's file over the system's, and the environment over both."""
    merged: Sections = {}
    origins: Origins = {}
    for source, found in (*_files(), *_variables()):
        for section, keys in found.items():
            if section.startswith(_MODULE):
                merged[section] = {}  # one of two of the same name, never half of each
            merged.setdefault(section, {}).update(keys)
            origins.update(dict.fromkeys(((section, key) for key in keys), source))
    return merged, origins


def _variables() -> Iterator[tuple[str, Sections]]:
    names = [name for name in os.environ if name[:6] == "RLESS_"]
    for section, keys in KEYS.items():
        if section == "modules.NAME":
            continue  # too large for a variable
        prefix = variable_of(section, "")
        if not any(name.startswith(prefix) for name in names):
            continue
        for key, kind in keys.items():
            name = variable_of(section, key)
            text = os.environ.get(name)
            if text:
                value: Any = text
                if kind in ("paths", "words"):
                    value = [part for part in text.split(":" if kind == "paths" else ",") if part]
                elif kind in ("count", "timeout", "seconds"):
                    try:
                        value = float(text) if kind == "seconds" else int(text)
                    except ValueError:
                        pass  # refused below
                elif kind == "switch":
                    value = {"true": True, "1": True, "false": False, "0": False}.get(text, text)
                yield f"${name}", {section: {key: _check(value, kind, f"${name}")}}


def variable_of(section: str, key: str) -> str:
    """Return the variable that sets a key."""
    return f"RLESS_{section}_{key}".upper().replace("-", "_").replace(".", "_")


def home() -> str | None:
    """Return the home directory; None: there is none.

    From the password database where $HOME is not set, or is somebody else's: systemd services
    start programs without it, Slurm with that of root. It is set then: a process of ours in a
    user namespace has another uid, and so would find another.
    """
    path = os.environ.get("HOME", "")
    if path.startswith("/") and (os.access(path, os.W_OK) or not os.path.exists(path)):
        return path
    import pwd  # 0.3 ms, and only on odd hosts

    try:
        os.environ["HOME"] = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return path if path.startswith("/") else None
    return os.environ["HOME"]


def _files() -> Iterator[tuple[str, Sections]]:
    """Yield (path, sections) of the files that there are, the weakest first."""
    named = os.environ.get("RLESS_CONFIG")
    if named:
        try:
            data = _read(named)
        except OSError as error:
            raise RlessError(
                f"cannot read the configuration {named}: {error.strerror}",
                "RLESS_CONFIG names it: correct or unset that",
            ) from error
        yield named, parse(data, named)
        return
    for places in (SYSTEM_FILES, _own_places()):
        for path in places:
            try:
                data = _read(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if isinstance(error, PermissionError) and places is not SYSTEM_FILES:
                    continue  # $HOME is another's, as after `su`
                raise RlessError(
                    f"cannot read the configuration {path}: {error.strerror}"
                ) from error
            yield path, parse(data, path)
            break


def _own_places() -> tuple[str, ...]:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if base.startswith("/"):
        return (f"{base}/rless/config.toml",)
    own = home()
    return (f"{own}/.config/rless/config.toml",) if own else ()


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if mode & 0o002 and stat.S_ISREG(mode):  # /dev/null is none
            raise RlessError(
                f"the configuration {path} can be written by everybody, so it is not trusted",
                f"its owner must run: chmod o-w {path}",
            )
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
    modules = document.pop("modules", None)
    if isinstance(modules, dict):
        document.update({f"{_MODULE}{name}": module for name, module in modules.items()})
    elif modules is not None:
        raise RlessError(f"{what}: modules is not a section", "write [modules.NAME]")
    sections: dict[str, dict[str, Any]] = {}
    for section, keys in document.items():
        form = "modules.NAME" if section.startswith(_MODULE) else section
        if form not in KEYS:
            raise _unknown(what, f"[{section}]", [f"[{name}]" for name in KEYS])
        if not isinstance(keys, dict):
            raise RlessError(f"{what}: {section} is not a section", f"write [{section}]")
        known = KEYS[form]
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
    if kind == "words":
        if not isinstance(value, list):
            raise RlessError(f"{what} is not a list of words in quotes", 'write ["word", …]')
        return [expand(_check(item, "text", what), what) for item in value]
    if kind == "switch":
        if not isinstance(value, bool):
            raise RlessError(f"{what} is neither true nor false")
        return value
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
    return expand(value, what)


def expand(text: str, what: str) -> str:
    """Return a text with its templates filled in, for the user who runs rless.

    `{uid}`, `{gid}`, `{user}`, `{home}`, `{env:NAME}` and `{env:NAME:-text}` for where it is not
    set; other braces stay.

    Raises:
        RlessError: a variable is not set, or an unknown template.
    """
    if "{" not in text:
        return text
    parts = text.split("{")
    result = [parts[0]]
    for part in parts[1:]:
        name, brace, rest = part.partition("}")
        if not brace:
            raise RlessError(f"{what}: a brace is not closed: {escape(text)[:200]}")
        result.append(_template(name, what) + rest)
    return "".join(result)


def _template(name: str, what: str) -> str:
    if name.startswith("env:"):
        variable, dash, fallback = name[4:].partition(":-")
        value = os.environ.get(variable, "")
        if not value and not dash:
            raise RlessError(
                f"{what}: the variable {escape(variable)[:50]} is not set",
                f"write {{env:{escape(variable)[:50]}:-text}} for where it is not",
            )
        return value or fallback
    if name == "gid":
        return str(os.getgid())
    if name not in ("uid", "user", "home"):
        raise RlessError(
            f"{what}: {{{escape(name)[:50]}}} is not known",
            "use {uid}, {gid}, {user}, {home} or {env:NAME}",
        )
    return _variable(name.upper(), what, f"{{{name}}}")


def _path(value: object, what: str) -> str:
    """Return an absolute path; `~/`, $HOME, $USER, $UID and templates are of the caller.

    So that one file of the administrator can give each user a place of her own.
    """
    if not isinstance(value, str) or "\0" in value:
        raise RlessError(f"{what} is not a path in quotes")
    parts = expand(value, what).split("/")
    if parts[0] == "~":
        parts[0] = "$HOME"
    path = "/".join(_variable(part[1:], what) if part[:1] == "$" else part for part in parts)
    if not path.startswith("/"):
        raise RlessError(f"{what}: {escape(value)[:200]!r} is not an absolute path")
    return os.path.normpath(path)


def _variable(name: str, what: str, shown: str = "") -> str:
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
        raise RlessError(f"{what}: ${escape(name)[:50]} is not known", "use $HOME, $USER or $UID")
    if not value:
        raise RlessError(f"{what}: {shown or f'${name}'} is not known here")
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
