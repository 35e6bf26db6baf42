"""Images as directories, Apptainer's sandboxes: unpacked of a file, packed into a SIF file.

All files of a sandbox are the user's, as in an image file that is run with one id. What unpacks the
file of a stranger may write to the new directory only (`rootfs.unpacked`).
"""

from __future__ import annotations

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
from rootless.linux import idmap, programs
from rootless.linux.process import HELPER_ENVIRONMENT
from rootless.linux.tree import remove_tree
from rootless.rootfs import unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.squashfs.image_file import ImageFile

_MOST = 4 << 20  # bytes of the labels and the definition
_MISSING = "ask the administrator for the package squashfs-tools"


def of_name(name: str, target: str, platform: str | None = None, quiet: bool = False) -> None:
    """Write an image as a directory, whole or not at all.

    Args:
        target: absolute; it is not there yet.
        quiet: nothing is shown of a pull.

    Raises:
        RlessError: no such image, no room, a program is missing.
    """
    with tempfile.TemporaryDirectory(dir=_parent(target), prefix=".rless-") as scratch:
        file = f"{scratch}/image.sif"
        flatten(name, file, sif=True, compression="lz4", platform=platform, quiet=quiet)
        unpack(image_file.read(file, scratch), target)


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
    scratch = tempfile.mkdtemp(dir=_parent(target), prefix=".rless-")
    fd = os.open(image.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        source = unpacked.Packed(fd, image.path, image.offset, RlessError("it is to be unpacked"))
        mapping = idmap_policy.build_single(0, 0)
        idmap.call_in_userns(mapping, unpacked.unpack, program, source, scratch)
        os.rename(f"{scratch}/root", target)
    finally:
        os.close(fd)
        parent_fd = os.open(_parent(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        remove_tree(parent_fd, os.path.basename(scratch))
        os.close(parent_fd)


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
    with tempfile.TemporaryDirectory(dir=_parent(target), prefix=".rless-") as scratch:
        file = f"{scratch}/root"
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
