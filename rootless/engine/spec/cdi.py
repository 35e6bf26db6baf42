"""Devices by name: the Container Device Interface, by which vendors of GPUs describe their devices.

A CDI file says, for a kind such as `nvidia.com/gpu`, what each device needs in a container: nodes,
mounts, variables, hooks (github.com/cncf-tags/container-device-interface, SPEC.md, 0.3 to 1.1). The
files are in /etc/cdi and /var/run/cdi, and in ~/.config/cdi for those that a user has made. A
device of a later directory hides one of an earlier directory.

Hooks are programs that change the container's root as root of the host. This module does itself
what the important hooks of NVIDIA's toolkit do: it makes links, and turns directories of libraries
into LD_LIBRARY_PATH. Any other hook is never run; it is refused by name.

`--gpus` selects devices of the one kind `*/gpu` that exists.
"""

from __future__ import annotations

import json
import os
import stat

from rootless import config
from rootless.engine.request import Device, Mount
from rootless.errors import RlessError, escape
from rootless.linux.openat2 import make_dirs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_MOST = 4 << 20  # bytes of a file
_VERSIONS = ("0.3.", "0.4.", "0.5.", "0.6.", "0.7.", "0.8.", "1.0.", "1.1.")
_VENDORS = (
    "nvidia.com/gpu",
    "amd.com/gpu",
    "intel.com/gpu",
)  # in this order, unless a driver is named
_DRIVERS = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "intel.com/gpu"}
_EDITS = frozenset("env deviceNodes mounts hooks additionalGids intelRdt netDevices".split())
_NODE = frozenset("path hostPath type major minor fileMode permissions uid gid".split())
_MOUNT = frozenset("hostPath containerPath options type".split())
_HOOK = frozenset("hookName path args env timeout".split())
# What has nothing to do where no node can be made and no mode is wrong.
_IDLE_HOOKS = ("disable-device-node-modification", "chmod", "enable-cuda-compat")
_OPTIONS = frozenset("exec noexec suid nosuid nodev dev".split())


class Edits:
    """What devices need in a container.

    Attributes:
        env: NAME=VALUE. devices, mounts: as in a request.
        keep_groups: access to a node needs one of the host's groups.
        links: (target, absolute path of the link).
        libraries: directories for the dynamic linker.
    """

    __slots__ = ("devices", "env", "keep_groups", "libraries", "links", "mounts")

    def __init__(self) -> None:
        self.env: list[str] = []
        self.devices: list[Device] = []
        self.mounts: list[Mount] = []
        self.keep_groups = False
        self.links: list[tuple[str, str]] = []
        self.libraries: list[str] = []


class _Spec:
    """One checked file: its kind, its devices by name, and the edits that every device needs."""

    __slots__ = ("devices", "edits", "kind", "path")

    def __init__(self, path: str, document: object) -> None:
        what = f"the CDI file {escape(path)}"
        top = _object(document, what)
        version = top.get("cdiVersion")
        if not isinstance(version, str) or not f"{version}.".startswith(_VERSIONS):
            raise RlessError(
                f"{what}: its cdiVersion is {escape(str(version))[:40]}",
                f"known are {_VERSIONS[0]}0 to {_VERSIONS[-1]}0",
            )
        kind = top.get("kind")
        if not isinstance(kind, str) or not _is_kind(kind):
            raise RlessError(f"{what}: its kind is not of the form vendor.com/class")
        self.path = path
        self.kind = kind
        self.edits = _check_edits(top.get("containerEdits"), what)
        self.devices: dict[str, dict[str, Any]] = {}
        for entry in _list(top.get("devices"), f"{what}: devices"):
            device = _object(entry, f"{what}: a device")
            name = device.get("name")
            if not isinstance(name, str) or not _is_name(name):
                raise RlessError(f"{what}: a device has no proper name")
            where = f"{what}: device {name}"
            self.devices[name] = _check_edits(device.get("containerEdits"), where)


def resolve(names: Iterable[str]) -> Edits:
    """Return what the devices of these names need.

    Args:
        names: `vendor.com/class=device`; `gpus=all`, `gpus=count:N`, `gpus=device:NAME`, each
            with a driver behind another `=` or not.

    Raises:
        RlessError: there is no such device, or a file is wrong, or a hook cannot be done.
    """
    specs = _load()
    edits = Edits()
    used: list[_Spec] = []
    for text in dict.fromkeys(names):
        for name in _gpus(text, specs) if text.startswith("gpus=") else [text]:
            spec, device = _find(name, specs)
            _apply(edits, spec.devices[device], f"{spec.kind}={device}")
            if spec not in used:
                used.append(spec)
    for spec in used:
        _apply(edits, spec.edits, f"{spec.kind} ({escape(spec.path)})")
    return edits


def names(text: str) -> list[str]:
    """Return the devices that a Dockerfile means: `KIND` is the first one, `KIND=*` all of a kind.

    Raises:
        RlessError: a file is wrong.

    Source: BuildKit docs/cdi.md.
    """
    kind, equals, device = text.partition("=")
    if equals and device != "*":
        return [text]
    found = dict.fromkeys(
        f"{kind}={name}" for spec in _load() if spec.kind == kind for name in spec.devices
    )
    return ([*found] if equals else [*found][:1]) or [text]


def directories() -> list[str]:
    """Return where CDI files are looked for, the weakest first."""
    set_ = config.get("gpus", "cdi-directories")
    if set_ is not None:
        return list(set_)
    base = os.environ.get("XDG_CONFIG_HOME", "")
    home = config.home()
    own = base if base.startswith("/") else f"{home}/.config" if home else ""
    return [*_DIRECTORIES, *([f"{own}/cdi"] if own else [])]


def has(driver: str) -> bool:
    """Tell whether a file describes GPUs of a driver: nvidia, amd or intel.

    Raises:
        RlessError: a file is wrong.
    """
    return any(spec.kind == _DRIVERS[driver] for spec in _load())


def _find(name: str, specs: list[_Spec]) -> tuple[_Spec, str]:
    kind, _, device = name.partition("=")
    of_kind = [spec for spec in specs if spec.kind == kind]
    found = [spec for spec in of_kind if device in spec.devices]
    if found:
        # The last directory counts; two files of one directory must agree.
        top = os.path.dirname(found[-1].path)
        if sum(os.path.dirname(spec.path) == top for spec in found) > 1:
            raise RlessError(f"two files in {escape(top)} describe the device {escape(name)}")
        return found[-1], device
    if of_kind:
        there = (
            ", ".join(dict.fromkeys(name for spec in of_kind for name in spec.devices)) or "none"
        )
        raise RlessError(
            f"there is no device {escape(device)[:100]} of {kind}",
            f"there are {there[:300]}",
        )
    kinds = ", ".join(dict.fromkeys(spec.kind for spec in specs)) or "none"
    raise RlessError(
        f"no CDI file describes {escape(kind)[:100]}",
        f"looked in {', '.join(directories())}; kinds there: {kinds}; "
        "a vendor's tool writes one, as `nvidia-ctk cdi generate`",
    )


def _gpus(text: str, specs: list[_Spec]) -> list[str]:
    """Return the names that `--gpus` means."""
    _, asked, driver = f"{text}=".split("=")[:3]
    kinds = {spec.kind for spec in specs}
    if driver:
        kind = _DRIVERS.get(driver, f"{driver}.com/gpu")
    else:
        others = sorted(kind for kind in kinds if kind.endswith("/gpu"))
        kind = next((kind for kind in (*_VENDORS, *others) if kind in kinds), "")
    if not kind or kind not in kinds:
        raise RlessError(
            f"--gpus: no CDI file describes {kind or 'a GPU'}",
            f"looked in {', '.join(directories())}; a vendor's tool writes one, as "
            "`nvidia-ctk cdi generate`; or give the nodes by --device",
        )
    names = list(dict.fromkeys(name for s in specs if s.kind == kind for name in s.devices))
    if asked == "all":
        return [f"{kind}=all"] if "all" in names else [f"{kind}={name}" for name in names]
    how, _, value = asked.partition(":")
    if how == "device":
        return [f"{kind}={name}" for name in value.split(",")]
    single = [name for name in names if name.isdigit()] or [name for name in names if name != "all"]
    if int(value) > len(single):
        raise RlessError(f"--gpus: there are {len(single)} of {kind}, not {value}")
    return [f"{kind}={name}" for name in single[: int(value)]]


# -- files ---------------------------------------------------------------------------------------


def _load() -> list[_Spec]:
    """Return all files, the weakest first."""
    found = []
    for directory in directories():
        try:
            names = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise RlessError(f"{escape(directory)}: {error.strerror}") from error
        for name in names:
            if name.endswith((".json", ".yaml", ".yml")):
                path = f"{directory}/{name}"
                found.append(_Spec(path, _read(path)))
    return found


def _read(path: str) -> object:
    what = f"the CDI file {escape(path)}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST:
                raise RlessError(f"{what} is no file of at most {_MOST >> 20} MiB")
            if status.st_uid not in (0, os.getuid()) or status.st_mode & 0o002:
                raise RlessError(
                    f"{what} is not trusted: it belongs neither to root nor to you, "
                    "or everybody can write to it",
                    "it names host files that a container gets",
                )
            data = file.read(_MOST)
    except OSError as error:
        raise RlessError(f"{what}: {error.strerror}") from error
    try:
        if path.endswith(".json"):
            return json.loads(data)
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return yaml.load(data, Loader=loader)
    except ImportError:
        raise RlessError(
            f"{what} is YAML, and this Python has no reader", "install PyYAML"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RlessError(f"{what} is not valid: {_first_line(error)}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "yaml":
            raise
        raise RlessError(f"{what} is not valid: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return escape(" ".join(str(error).split()))[:200] or type(error).__name__


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise RlessError(f"{what} is not an object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise RlessError(f"{what} is not a list")
    return value


def _texts(value: object, what: str) -> list[str]:
    found = _list(value, what)
    for item in found:
        if not isinstance(item, str) or "\0" in item:
            raise RlessError(f"{what} is not a list of texts")
    return found


def _is_kind(kind: str) -> bool:
    vendor, slash, name = kind.partition("/")
    return bool(slash) and _is_word(vendor, "_.-") and _is_word(name, "_-")


def _is_name(name: str) -> bool:
    return _is_word(name, "_.:-", digits=True)


def _is_word(text: str, marks: str, digits: bool = False) -> bool:
    first_ok = text[:1].isalnum() if digits else text[:1].isalpha()
    plain = all(char.isalnum() or char in marks for char in text)
    return first_ok and plain and text.isascii() and text[-1:].isalnum()


def is_name(text: str) -> bool:
    """Tell whether a text has the form vendor.com/class=device."""
    kind, equals, device = text.partition("=")
    return bool(equals) and _is_kind(kind) and _is_name(device)


def _check_edits(value: object, what: str) -> dict[str, Any]:
    """Return `containerEdits`, with all that is read from it of the right kind."""
    if value is None:
        return {}
    edits = _object(value, f"{what}: containerEdits")
    _check_keys(edits, _EDITS, what)
    for entry in _texts(edits.get("env"), f"{what}: env"):
        if not entry.partition("=")[0] or "=" not in entry:
            raise RlessError(f"{what}: {escape(entry)[:100]!r} in env is not NAME=VALUE")
    for node in _list(edits.get("deviceNodes"), f"{what}: deviceNodes"):
        _check_keys(_object(node, f"{what}: a node"), _NODE, what)
        _path(node.get("path"), f"{what}: path of a node")
        _path(node.get("hostPath", node["path"]), f"{what}: hostPath of a node")
    for mount in _list(edits.get("mounts"), f"{what}: mounts"):
        _check_keys(_object(mount, f"{what}: a mount"), _MOUNT, what)
        _path(mount.get("hostPath"), f"{what}: hostPath of a mount")
        _path(mount.get("containerPath"), f"{what}: containerPath of a mount")
        _texts(mount.get("options"), f"{what}: options of a mount")
    for hook in _list(edits.get("hooks"), f"{what}: hooks"):
        _check_keys(_object(hook, f"{what}: a hook"), _HOOK, what)
        _path(hook.get("path"), f"{what}: path of a hook")
        _texts(hook.get("args"), f"{what}: args of a hook")
    for number in _list(edits.get("additionalGids"), f"{what}: additionalGids"):
        if not isinstance(number, int) or isinstance(number, bool):
            raise RlessError(f"{what}: additionalGids is not a list of numbers")
    return edits


def _check_keys(found: dict[str, Any], known: frozenset[str], what: str) -> None:
    for key in found:
        if key not in known:
            raise RlessError(f"{what}: unknown: {escape(key)[:100]}")


def _path(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise RlessError(f"{what} is not an absolute path")
    return value


# -- what comes of them --------------------------------------------------------------------------


def _apply(edits: Edits, given: dict[str, Any], what: str) -> None:
    for key in ("intelRdt", "netDevices"):
        if given.get(key):
            raise RlessError(f"{what}: {key} needs root of the host")
    edits.env += given.get("env") or ()
    for node in given.get("deviceNodes") or ():
        host = os.path.normpath(node.get("hostPath") or node["path"])
        device = Device(host, os.path.normpath(node["path"]))
        if device not in edits.devices:
            edits.devices.append(device)
    for entry in given.get("mounts") or ():
        options = entry.get("options") or []
        mount = Mount(
            "bind",
            os.path.normpath(entry["hostPath"]),
            os.path.normpath(entry["containerPath"]),
            read_only="ro" in options,
            options=[name for name in options if name in _OPTIONS and name != "dev"],
        )
        if mount.target == "/":
            raise RlessError(f"{what}: it mounts over the root")
        if all(other.target != mount.target for other in edits.mounts):
            edits.mounts.append(mount)
    edits.keep_groups = edits.keep_groups or bool(given.get("additionalGids"))
    for hook in given.get("hooks") or ():
        _emulate(edits, hook, what)


def _emulate(edits: Edits, hook: dict[str, Any], what: str) -> None:
    """Do what a hook of NVIDIA's toolkit would: nvidia-ctk hook NAME, or nvidia-cdi-hook NAME."""
    program = os.path.basename(hook["path"])
    words = list(hook.get("args") or [])[1:]
    if program == "nvidia-ctk" and words[:1] == ["hook"]:
        words = words[1:]
    name = words[0] if words else ""
    if program not in ("nvidia-ctk", "nvidia-cdi-hook") or not name:
        raise RlessError(
            f"{what}: its hook {escape(hook['path'])} is a program that wants root of the host",
            "it is not run; describe the device without it, in ~/.config/cdi",
        )
    options = _options(words[1:])
    if name == "create-symlinks":
        for text in options.get("link", ()):
            target, colons, link = text.partition("::")
            if not colons or not target or not link.startswith("/"):
                raise RlessError(f"{what}: a link of its hook has no form: {escape(text)[:100]}")
            edits.links.append((target, os.path.normpath(link)))
    elif name == "update-ldcache":
        for folder in options.get("folder", ()):
            if folder.startswith("/") and folder not in edits.libraries:
                edits.libraries.append(folder)
    elif name not in _IDLE_HOOKS:
        raise RlessError(
            f"{what}: the hook {program} {escape(name)[:50]} is not known",
            "it is not run; describe the device without it, in ~/.config/cdi",
        )


def _options(words: list[str]) -> dict[str, list[str]]:
    """Return the values of --name VALUE and --name=VALUE, by name."""
    found: dict[str, list[str]] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-"):
            found.setdefault(name, []).append(value if equals else next(rest, ""))
    return found


def environment(edits: Edits, image: dict[str, Any]) -> list[str]:
    """Return the variables of devices, as NAME=VALUE.

    Args:
        image: the image's config; its LD_LIBRARY_PATH goes before that of the devices.
    """
    if not edits.libraries:
        return edits.env
    variables = dict(entry.partition("=")[::2] for entry in image.get("Env") or ())
    before = variables.get("LD_LIBRARY_PATH", "")
    path = ":".join([*([before] if before else []), *edits.libraries])
    return [*edits.env, f"LD_LIBRARY_PATH={path}"]


def link(root: str, links: Iterable[Iterable[str]]) -> None:
    """Make the links in a root directory, beneath it whatever the image has there."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for target, path in links:
            directory, name = os.path.split(path)
            dir_fd = make_dirs(root_fd, directory)
            try:
                if _is_link(name, dir_fd):
                    os.unlink(name, dir_fd=dir_fd)
                os.symlink(target, name, dir_fd=dir_fd)
            except FileExistsError:
                pass  # a file of the image's own
            finally:
                os.close(dir_fd)
    finally:
        os.close(root_fd)


def _is_link(name: str, dir_fd: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
