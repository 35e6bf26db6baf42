"""What a container of the front shows of the host: binds, home, working directory, /tmp.

What is given wins over what is implied, whatever the order; of two for one place the last does.
"""

from __future__ import annotations

import os

from rootless import config, log
from rootless.cli.fronts.apptainer.parse import commas
from rootless.engine.request import Mount
from rootless.engine.spec.hpc import SYSTEM
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  # of the host, or of the container
_LIBRARIES = "/.singularity.d/libs"  # in LD_LIBRARY_PATH of an image
_OWN = ("proc", "sys", "dev", "devpts")  # what a container cannot be without


class Places:
    """The mounts of one container.

    Attributes:
        mounts: by target.
        home: where the home is inside.
        workdirs: where the command starts: the first that is there.
        left_out: what --no-mount names.
        binds: what the program is told of them: SOURCE[:TARGET[:OPTIONS]], with commas.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        """Find them out.

        Raises:
            RlessError: a mount is not written as one, or a directory cannot be made.
        """
        self._values = values
        self._contain = bool(values.get("contain"))
        self.left_out = _left_out(values)
        given = [_bind(text) for text in _binds(values.get("bind", []))]
        given += [_csv(text) for text in values.get("mount", ())]
        self.binds = ",".join(map(_shown, given))
        self.mounts: dict[str, Mount] = {}
        self._site = config.sections().get("hpc", {})
        self._add_home()
        self._add_temporary()
        for place in commas(values.get("scratch", [])):
            self._add(self._empty(_absolute(place), f"scratch{_absolute(place)}"))
        for library in commas(values.get("containlibs", [])):
            target = f"{_LIBRARIES}/{os.path.basename(library)}"
            self._add(_mount(os.path.abspath(library), target, True, "--containlibs"))
        self.mounts.update((mount.target, mount) for mount in given)
        self._add_working_directory()

    def has(self, target: str) -> bool:
        """Tell whether a mount of the site, or of these, is to be made."""
        return target in self.mounts or not {target, "bind-paths"} & self.left_out

    def _add(self, mount: Mount) -> None:
        if mount.target not in self.left_out:
            self.mounts[mount.target] = mount

    def _empty(self, target: str, name: str, mode: int = 0o1777) -> Mount:
        """Return an empty directory: of --workdir, else of memory."""
        if "workdir" not in self._values:
            return Mount("tmpfs", None, target, options=("exec",), tmpfs_mode=mode)
        path = f"{self._values['workdir']}/{name}"
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise RlessError(f"--workdir: cannot make {path}: {error.strerror}") from error
        return Mount("bind", path, target)

    def _add_home(self) -> None:
        values = self._values
        own = config.home() or "/"
        source, target = own, "/root" if values.get("fakeroot") else own
        asked = values.get("home")
        if asked is not None:
            source, _, inside = asked.partition(":")
            source = os.path.abspath(source)
            target = _absolute(inside) if inside else source
        self.home = target
        if target in SYSTEM - {"/root"} or values.get("no_home") or "home" in self.left_out:
            return
        if asked is None and self._contain:
            self._add(self._empty(target, "home", 0o700))
        elif asked is not None:
            self._add(_mount(source, target, False, "--home"))
        elif self._site.get("home", True) and own not in SYSTEM - {"/root"}:
            if os.path.isdir(own):
                self._add(Mount("bind", own, target))
            else:
                log.warn(f"your home directory {own} is not there: it is not mounted")

    def _add_temporary(self) -> None:
        if "tmp" in self.left_out:
            return
        for place in _TEMPORARY:
            if self._contain:
                self._add(self._empty(place, place.lstrip("/").replace("/", "_")))
            elif self._site.get("tmp", True) and os.path.isdir(place):
                self._add(Mount("bind", place, place))
        # Of a job, often on a disk of its own: programs inside are told of it.
        own = os.environ.get("TMPDIR", "")
        if own.startswith("/") and not self._contain and os.path.isdir(own):
            self._show(os.path.normpath(own))

    def _add_working_directory(self) -> None:
        """Mount the working directory where it is not to be seen yet, and say where to start."""
        asked = self._values.get("pwd")
        try:
            here = os.getcwd()
        except FileNotFoundError:
            here = ""
        if not self._contain and here and "cwd" not in self.left_out:
            if self._site.get("cwd", True):
                self._show(here)
        elif self._contain:
            here = ""
        places = (here, self.home, "/") if asked is None else (_absolute(asked),)
        self.workdirs = tuple(filter(None, places))

    def _show(self, path: str) -> None:
        """Mount a directory in its place, if it is not to be seen yet, and none of the system's."""
        seen = any(
            f"{path}/".startswith(f"{mount.target}/") and mount.source == mount.target
            for mount in self.mounts.values()
        )
        system = path in SYSTEM or path.startswith(("/proc/", "/sys/", "/dev/", "/usr/", "/etc/"))
        if not seen and not system:
            self._add(Mount("bind", path, path))


def _left_out(values: dict[str, Any]) -> set[str]:
    found = set(commas(values.get("no_mount", [])))
    for name in found:
        if name in _OWN:
            raise RlessError(f"--no-mount: a container cannot be without {name}")
        if not name.startswith("/") and name not in ("home", "tmp", "cwd", "hostfs", "bind-paths"):
            raise RlessError(f"--no-mount: {name} is no mount", "see 'apptainer exec --help'")
    return found


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise RlessError(f"{path} is not an absolute path in the container")
    return os.path.normpath("/" + path.lstrip("/"))


def _binds(texts: list[str]) -> list[str]:
    """Split lists of binds; `ro` and `rw` alone belong to the bind before them."""
    found: list[str] = []
    for text in texts:
        for part in text.replace("\\,", "\0").split(","):
            if found and ":" in found[-1] and part.partition("=")[0] in _OPTIONS:
                found[-1] += f",{part}"
            elif part:
                found.append(part.replace("\0", ","))
    return found


_OPTIONS = ("ro", "rw", "id", "image-src")


def _bind(text: str) -> Mount:
    r"""Return the mount of SOURCE[:TARGET[:OPTIONS]]; `\:` is a colon of a name."""
    parts = [part.replace("\0", ":") for part in text.replace("\\:", "\0").split(":")]
    if len(parts) > 3 or not parts[0]:
        raise RlessError(f"--bind: {text!r} is not SOURCE[:TARGET[:ro|rw]]")
    source = os.path.abspath(parts[0])
    target = parts[1] if len(parts) > 1 and parts[1] else source
    read_only = False
    for option in parts[2].split(",") if len(parts) > 2 else ():
        if option.startswith(("id=", "image-src=")):
            raise RlessError(
                f"--bind: {option} is not supported: an image is not mounted in another",
                "unpack it, and bind the directory",
            )
        if option not in ("ro", "rw"):
            raise RlessError(f"--bind: {text!r} has the unknown option {option!r}")
        read_only = option == "ro"
    return _mount(source, target, read_only, "--bind")


def _csv(text: str) -> Mount:
    """Return the mount of `type=bind,source=S,target=T[,ro]`."""
    from rootless.cli.flags import mounts as flags

    try:
        fields = flags.fields_of_record(text.strip())
    except ValueError as error:
        raise RlessError(f"--mount: {text!r} {error}") from None
    found: dict[str, str] = {}
    for field in fields:
        key, _, value = field.partition("=")
        found[_KEYS.get(key, key)] = value
    kind = found.pop("type", "")
    if kind != "bind":
        raise RlessError(f"--mount: the type {kind!r} is not supported", "use type=bind")
    source, target = found.pop("source", ""), found.pop("target", "")
    read_only = found.pop("ro", "false") in ("", "1", "true")
    if found:
        raise RlessError(f"--mount: {text!r} has the unknown field {next(iter(found))!r}")
    if not source or not target:
        raise RlessError(f"--mount: {text!r} has no source or no target")
    return _mount(os.path.abspath(source), target, read_only, "--mount")


_KEYS = {"src": "source", "dst": "target", "destination": "target", "readonly": "ro"}


def _mount(source: str, target: str, read_only: bool, flag: str) -> Mount:
    if not os.path.exists(source):
        raise RlessError(f"{flag}: {source}: there is no such file or directory")
    target = _absolute(target)
    if target == "/":
        raise RlessError(f"{flag}: nothing can be mounted over the root directory")
    return Mount("bind", source, target, read_only=read_only)


def _shown(mount: Mount) -> str:
    text = f"{mount.source}:{mount.target}"
    return f"{text}:ro" if mount.read_only else text
