"""Images as directories, Apptainer's sandboxes: unpacked of a file, packed into a SIF file.

All files of a sandbox are the user's, as in an image file that is run with one id. What unpacks the
file of a stranger may write to the new directory only (`rootfs.unpacked`).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile

from rootless.engine import idmap_policy
from rootless.engine.images.flatten import PROGRAM, flatten
from rootless.errors import RlessError, escape
from rootless.image.model.platforms import host_platform
from rootless.image.squashfs import image_file, sif_writer
from rootless.image.squashfs.tree import Tree
from rootless.linux import files, idmap, programs
from rootless.linux.process import HELPER_ENVIRONMENT
from rootless.linux.tree import remove_tree
from rootless.rootfs import unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rootless.image.squashfs.image_file import ImageFile

_MOST = 4 << 20  # bytes of the labels and the definition
_MISSING = "ask the administrator for the package squashfs-tools"


def of_name(
    name: str,
    target: str,
    platform: str | None = None,
    quiet: bool = False,
    *,
    deffile: str = "",
    described: bool = False,
) -> None:
    """Write an image as a directory, whole or not at all.

    Args:
        target: absolute; it is not there yet.
        deffile, described: as for `flatten`.
        quiet: nothing is shown of a pull.

    Raises:
        RlessError: no such image, no room, a program is missing.
    """
    with scratch(_parent(target)) as place:
        file = f"{place}/image.sif"
        flatten(
            name,
            file,
            sif=True,
            compression="lz4",
            platform=platform,
            deffile=deffile,
            described=described,
            quiet=quiet,
        )
        unpack(image_file.read(file, place), target)


def unpack(image: ImageFile, target: str) -> None:
    """Write the root file system of an image file as a directory, whole or not at all.

    Args:
        target: absolute; it is not there yet.

    Raises:
        RlessError: it is damaged, no room, unsquashfs is missing.
    """
    program = programs.find(unpacked.UNPACKER)
    if program is None:
        raise RlessError(f"{unpacked.UNPACKER} is not installed", _MISSING)
    fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with scratch(_parent(target)) as place:
            why = RlessError("it is to be unpacked")
            source = unpacked.Packed(fd, image.path, image.offset, why)
            mapping = idmap_policy.build_single(0, 0)
            idmap.call_in_userns(mapping, unpacked.unpack, program, source, place)
            os.rename(f"{place}/root", target)
    finally:
        os.close(fd)


@contextlib.contextmanager
def scratch(parent: str) -> Iterator[str]:
    """Make a directory for the time of a `with` block.

    Raises:
        RlessError: it cannot be made.
    """
    try:
        path = tempfile.mkdtemp(dir=parent, prefix=".rless-")
    except OSError as error:
        raise RlessError(
            f"cannot make a directory in {escape(parent)}: {error.strerror}", "name another one"
        ) from error
    try:
        yield path
    finally:
        parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(parent_fd, os.path.basename(path))
        finally:
            os.close(parent_fd)


@contextlib.contextmanager
def in_place_of(target: str) -> Iterator[str]:
    """Yield where to write a directory, which takes the place of one that is there.

    Args:
        target: absolute.
    """
    if not os.path.lexists(target):
        yield target
        return
    with scratch(_parent(target)) as place:
        yield f"{place}/new"
        files.exchange(f"{place}/new", target)


def pack(tree: str, target: str) -> None:
    """Write a directory as a SIF file, whole or not at all; all its files become root's.

    Args:
        tree, target: absolute.

    Raises:
        RlessError: a file cannot be read, no room, mksquashfs is missing.
    """
    program = programs.find(PROGRAM)
    if program is None:
        raise RlessError(f"{PROGRAM} is not installed", _MISSING)
    with Tree(tree) as content:
        text = content.read("/.singularity.d/labels.json", _MOST) or b"{}"
        deffile = content.read("/.singularity.d/Singularity", _MOST) or b""
        config = content.read(image_file.CONFIG_PATH, _MOST) or b""
    try:
        labels = {str(name): str(value) for name, value in json.loads(text).items()}
    except (ValueError, AttributeError):
        raise RlessError(f"{escape(tree)}: its labels.json is not an object of strings") from None
    with scratch(_parent(target)) as place:
        file = f"{place}/root"
        words = [tree, file, "-all-root", "-noappend", "-no-progress", "-quiet", "-no-xattrs"]
        done = subprocess.run(
            [program, *words, "-comp", "gzip", "-mkfs-time", "0"],
            env=HELPER_ENVIRONMENT,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            why = escape(said[-1] if said else f"it ended with {done.returncode}")
            raise RlessError(f"{PROGRAM} failed: {why[:300]}")
        sif_writer.write(
            target,
            file,
            architecture=host_platform().architecture,
            labels=labels,
            identity=tree,
            deffile=deffile.decode("utf-8", "surrogateescape"),
            config=config,
        )


def _parent(target: str) -> str:
    parent = os.path.dirname(target)
    if not os.path.isdir(parent):
        raise RlessError(f"{escape(parent)}: there is no such directory", "make it")
    return parent
