"""Image files: a squashfs image or a SIF file, used where it is.

Nothing is copied into the store and nothing is locked: many nodes read the same file of a shared
file system. What a start must know of it (where in the file the root file system is, its config,
its users) is read from the file once, and kept in the storage under the file's identity: device,
inode, size, times.

The place of the config depends on the tool that made the file:

    rless        /.rless/config.json: the image config of the OCI image that was flattened
    Apptainer    /.singularity.d/: env/*.sh, which a shell reads, and runscript
    enroot       /etc/environment and /etc/rc
    Charliecloud /ch/metadata.json

A squashfs image of another tool has no config, so the user has to give the command.
"""

from __future__ import annotations

import os
import stat

from rootless import config, jsontext, paths
from rootless.errors import RlessError, escape
from rootless.linux import files

try:
    from _blake2 import blake2b  # as in `store`
except ImportError:
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rootless.image.squashfs.reader import Squashfs
    from rootless.image.squashfs.tree import Tree

SUFFIXES = (".sqsh", ".sqfs", ".squashfs", ".sif")
CONFIG_PATH = "/.rless/config.json"
_FORMAT = 2  # of what is kept
_LONGEST_LINE = 4096  # bytes of a line that makes the file executable
_MOST_CONFIG = 4 << 20  # bytes
_MOST_TEXT = 1 << 20
# The application's shell reads what Apptainer's images say of the environment, then becomes it.
# `more` comes after that: what the image must not change; `says` is said where there is no program.
_APPTAINER = (
    'for f in /.singularity.d/env/*.sh; do [ -f "$f" ] && . "$f"; done; unset f; {more}'
    'command -v "$1" >/dev/null 2>&1 || {{ echo "{says}executable file not found in \\$PATH" >&2; '
    'exit {code}; }}; exec "$@"'
)


class ImageFile:
    """One image file.

    Attributes:
        path: absolute.
        fd: the file, if it was to be kept open; else -1.
        offset: bytes before the squashfs image.
        identity: [device, inode, size, mtime in ns]; another file of the same name has another one.
        config: the "config" object of an image config.
        passwd, group: the text of the image's files.
        architecture: in Go's words; "" if unknown.
        made_by: "rless", "apptainer", "enroot", "charliecloud" or "".
    """

    __slots__ = (
        "architecture",
        "config",
        "fd",
        "group",
        "identity",
        "made_by",
        "offset",
        "passwd",
        "path",
    )

    def __init__(self, path: str, identity: list[int]) -> None:
        self.path = path
        self.identity = identity
        self.fd = -1
        self.offset = 0
        self.config: dict[str, Any] = {}
        self.passwd = b""
        self.group = b""
        self.architecture = ""
        self.made_by = ""

    def check_platform(self, platform: str | None) -> None:
        """Refuse an image for another machine, unless it is asked for by --platform.

        Raises:
            RlessError: it is for another one.
        """
        if not self.architecture:
            return
        from rootless.image.model.platforms import host_platform, parse_platform

        wanted = parse_platform(platform) if platform else host_platform()
        if wanted.architecture != self.architecture:
            raise RlessError(
                f"{escape(self.path)} is for {escape(self.architecture)[:40]}, "
                f"not for {wanted.architecture}",
                f"--platform linux/{escape(self.architecture)[:40]} runs it where the host emulates"
                " that",
            )


def named(name: str) -> str | None:
    """Return the absolute path of the file that a name is; None: it is another kind of name.

    A path begins with `/`, `./` or `../`, or ends as such files do.

    Raises:
        RlessError: it is a path, and there is no file.
    """
    by_suffix = name.endswith(SUFFIXES) and not name.startswith(
        ("docker:", "docker-archive:", "oci:", "oci-archive:")
    )
    if not by_suffix and not name.startswith(("/", "./", "../")):
        return None
    path = os.path.abspath(name)
    if os.path.isdir(path):
        raise RlessError(
            f"{name} is a directory, not an image", f"run a directory by --rootfs {name}"
        )
    if not os.path.exists(path):
        raise RlessError(f"{name}: there is no such file", "name an image, or a file of one")
    return path


def search(name: str) -> str | None:
    """Return the file in one of the directories of `image-path` that a name means; or None.

    `ubuntu` and `ubuntu:24.04` are ubuntu.sqsh and ubuntu_24.04.sif there, for instance; see
    docs/hpc.md.

    Raises:
        RlessError: others could replace it.
    """
    directories = directories_of_files()
    if not directories:
        return None
    for directory in directories:
        for candidate in _file_names(name):
            path = f"{directory}/{candidate}"
            if os.path.isfile(path):
                _check_trusted(directory, path)
                return path
    return None


def directories_of_files() -> list[str]:
    """Return the directories of `image-path`: $RLESS_IMAGE_PATH, else the configuration."""
    given = os.environ.get("RLESS_IMAGE_PATH")
    if given is not None:
        return [path for path in given.split(":") if path.startswith("/")]
    return config.get("storage", "image-path") or []


def _file_names(name: str) -> Iterator[str]:
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, ""
    if not repository or ".." in repository.split("/") or "@" in name or repository[0] == "/":
        return
    stems = [f"{repository}{mark}{tag or 'latest'}" for mark in ("_", ":", "+")]
    if tag in ("", "latest"):
        stems.insert(0, repository)
    # enroot writes a slash as a plus.
    for stem in dict.fromkeys([*stems, *(stem.replace("/", "+") for stem in stems)]):
        for suffix in SUFFIXES:
            yield stem + suffix


def _check_trusted(directory: str, path: str) -> None:
    """Refuse a file that others could replace: where it is named, or where it really is."""
    real = os.path.realpath(path)
    places = [real, os.path.dirname(real), directory]
    while len(path) > len(directory):
        places.append(path)
        path = os.path.dirname(path)
    for place in places:
        for status in (os.lstat(place), os.stat(place)):
            paths.check_trusted(status, f"image-path: {escape(place)}", place)


def identity_of(status: os.stat_result) -> list[int]:
    """Return what tells a file from another one that takes its name."""
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def read(path: str, storage: str, keep_open: bool = False) -> ImageFile:
    """Return the image in a file.

    Args:
        storage: where what was found is kept for the next time.
        keep_open: the caller gets the open file, too, and closes it.

    Raises:
        RlessError: it cannot be read, or is no image, or a damaged one.
    """
    what = escape(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise RlessError(f"cannot open the image {what}: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise RlessError(f"the image {what} is not a regular file", "name a file of an image")
        image = ImageFile(path, identity_of(status))
        kept = record_path(storage, image.identity)
        if not _recall(image, kept):
            _parse(image, fd, what)
            _keep(image, kept)
        if keep_open:
            image.fd, fd = fd, -1
        return image
    finally:
        if fd >= 0:
            os.close(fd)


def record_path(storage: str, identity: list[int]) -> str:
    """Return where it is kept what was found in a file."""
    text = ":".join(map(str, identity)).encode()
    return f"{storage}/flat/{blake2b(text, digest_size=12).hexdigest()}.json"


def _recall(image: ImageFile, kept: str) -> bool:
    try:
        fd = os.open(kept, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        with open(fd, "rb") as file:
            record = jsontext.loads(file.read())
        if record["format"] != _FORMAT or record["identity"] != image.identity:
            return False
        image.offset, image.architecture = record["offset"], record["architecture"]
        image.config, image.made_by = record["config"], record["made_by"]
        image.passwd = record["passwd"].encode("utf-8", "surrogateescape")
        image.group = record["group"].encode("utf-8", "surrogateescape")
    except (ValueError, KeyError, TypeError, AttributeError):
        return False  # cut off by a full disk, or of another version
    # It names the environment after the file.
    if image.made_by == "apptainer":
        image.config["Env"] = _apptainer_names(image.path)
    return True


def _keep(image: ImageFile, kept: str) -> None:
    record = {
        "format": _FORMAT,
        "path": image.path,
        "identity": image.identity,
        "offset": image.offset,
        "architecture": image.architecture,
        "config": image.config,
        "made_by": image.made_by,
        "passwd": image.passwd.decode("utf-8", "surrogateescape"),
        "group": image.group.decode("utf-8", "surrogateescape"),
    }
    try:
        os.makedirs(os.path.dirname(kept), 0o700, exist_ok=True)
        files.write(kept, jsontext.dumps(record).encode())
    except OSError:
        pass  # it is read again the next time


def _parse(image: ImageFile, fd: int, what: str) -> None:
    from rootless.image.squashfs import sif
    from rootless.image.squashfs.reader import MAGIC, Squashfs

    head = files.read_at(fd, _LONGEST_LINE, 0, what)
    length = None
    if head[sif.MAGIC_AT : sif.MAGIC_AT + len(sif.MAGIC)] == sif.MAGIC:
        image.offset, length, image.architecture = sif.find_partition(fd, what)
    else:
        image.offset = _launch_line(head)
        if head[image.offset : image.offset + len(MAGIC)] != MAGIC:
            raise RlessError(
                f"{what} is neither a squashfs image nor a SIF file",
                "an archive is run by its kind: docker-archive:PATH, oci-archive:PATH",
            )
    _take(image, Squashfs(fd, what, image.offset, length))


def read_tree(path: str) -> ImageFile:
    """Return what a root file system in a directory says of itself, as one in a file does.

    Args:
        path: absolute.

    Raises:
        RlessError: it cannot be read.
    """
    from rootless.image.squashfs.tree import Tree

    image = ImageFile(path, [])
    with Tree(path) as tree:
        _take(image, tree)
    return image


def _launch_line(head: bytes) -> int:
    """Return the length of a line that makes a file executable, with the NULs behind it, or 0."""
    if not head.startswith(b"#!"):
        return 0
    line, newline, rest = head.partition(b"\n")
    return len(line) + len(newline) + len(rest) - len(rest.lstrip(b"\0"))


def _take(image: ImageFile, content: Squashfs | Tree) -> None:
    image.passwd = content.read("/etc/passwd", _MOST_TEXT) or b""
    image.group = content.read("/etc/group", _MOST_TEXT) or b""
    for made_by, find in _TOOLS:
        found = find(content, image)
        if found is not None:
            image.config, image.made_by = found, made_by
            break


def _of_rless(files: Squashfs | Tree, image: ImageFile) -> dict[str, Any] | None:
    text = files.read(CONFIG_PATH, _MOST_CONFIG)
    if text is None:
        return None
    from rootless.image.config.manifest import parse_config

    document = parse_config(text, f"{escape(image.path)}: {CONFIG_PATH}")
    image.architecture = image.architecture or document.get("architecture") or ""
    return dict(document["config"])


def _of_apptainer(files: Squashfs | Tree, image: ImageFile) -> dict[str, Any] | None:
    if not files.exists("/.singularity.d"):
        return None
    found: dict[str, Any] = {"Env": _apptainer_names(image.path)}
    if files.exists("/bin/sh"):
        found["Entrypoint"] = apptainer_shell("rless: cannot execute $1: ", 127)
    if files.exists("/.singularity.d/runscript"):
        found["Cmd"] = ["/.singularity.d/runscript"]
    elif files.exists("/bin/sh"):
        found["Cmd"] = ["/bin/sh"]
    return found


def apptainer_shell(says: str, code: int, more: str = "") -> list[str]:
    """Return the words before a command of an image of Apptainer's, which set its environment.

    Args:
        says: the start of the message that the program `$1` is not there, for double quotes.
        code: the exit code then.
        more: commands of a shell between the image's and the program, each ended by a semicolon.
    """
    script = _APPTAINER.format(says=says, code=code, more=more)
    return ["/bin/sh", "-c", script, "sh"]


def _apptainer_names(path: str) -> list[str]:
    """Return the variables by which programs in such an image know where they are."""
    name = path.rpartition("/")[2]
    return [
        f"{prefix}_{key}={value}"
        for prefix in ("APPTAINER", "SINGULARITY")
        for key, value in (("CONTAINER", path), ("NAME", name))
    ]


def _of_enroot(files: Squashfs | Tree, image: ImageFile) -> dict[str, Any] | None:
    if not files.exists("/etc/rc") or not files.exists("/bin/sh"):
        return None
    text = files.read("/etc/environment", _MOST_TEXT)
    if text is None:
        return None
    return {"Env": _pairs(text), "Entrypoint": ["/bin/sh", "/etc/rc"], "Cmd": ["/bin/sh"]}


def _pairs(text: bytes) -> list[str]:
    lines = text.decode("utf-8", "surrogateescape").splitlines()
    pairs = (line.strip() for line in lines)
    return [pair for pair in pairs if "=" in pair and pair[0] not in "#=" and "\0" not in pair]


def _of_charliecloud(files: Squashfs | Tree, image: ImageFile) -> dict[str, Any] | None:
    text = files.read("/ch/metadata.json", _MOST_CONFIG)
    if text is None:
        return None
    from rootless.image.config.manifest import check_container_config, read_object

    what = f"{escape(image.path)}: /ch/metadata.json"
    said = read_object(text, what)
    variables, directory = said.get("env") or {}, said.get("cwd") or "/"
    if not isinstance(variables, dict) or not all(
        isinstance(value, str) for value in variables.values()
    ):
        raise RlessError(f"{what}: env is not an object of strings")
    found: dict[str, Any] = {
        "Env": [f"{name}={value}" for name, value in variables.items() if "=" not in name]
    }
    if isinstance(directory, str) and directory.startswith("/"):
        found["WorkingDir"] = directory
    check_container_config(found, what)
    return found


_TOOLS = (
    ("rless", _of_rless),
    ("apptainer", _of_apptainer),
    ("charliecloud", _of_charliecloud),
    ("enroot", _of_enroot),
)
