"""COPY, ADD and WORKDIR: the tar of the layer that holds what they add to a tree.

No file is written here. Members go into the tar of a layer, under names without links, and the
unpacker of pulled layers makes files from them (`image.layer.create`).

Source: Docker, "Dockerfile reference", COPY, ADD, WORKDIR.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from rootless.engine.build import modes, tree
from rootless.engine.build.sources import is_left_out
from rootless.errors import RlessError, escape
from rootless.image.config import user
from rootless.linux import walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.engine.build.new_layer import NewLayer
    from rootless.engine.build.sources import Selection, Source
    from rootless.engine.build.steps import CopyStep, WorkdirStep


def owner_of(spec: str, open_before: Callable[[], int]) -> tuple[int, int]:
    """Return (uid, gid) of USER, UID, USER:GROUP, UID:GID...

    A number alone is the group too, a name alone means its own group. Names are looked up in the
    tree's passwd and group, which may be anything (security class 69).

    Args:
        open_before: returns the root of the tree; not called for numbers.

    Raises:
        RlessError: no such name, or one of the files is none that can be read.
    """
    name, colon, group = spec.partition(":")
    if not name or (colon and not group):
        raise RlessError(f"{escape(spec)}: this is no owner", "write USER or USER:GROUP", 1)
    by_name = [not _is_number(part) for part in (name, group) if part]
    try:
        passwd = tree.read_text(open_before(), b"etc/passwd") if by_name[0] else None
        groups = tree.read_text(open_before(), b"etc/group") if any(by_name[1:]) else None
        wanted = spec if group or by_name[0] else f"{name}:{name}"
        uid, gid, _, _ = user.resolve_user(wanted, passwd=passwd or b"", group=groups or b"")
    except RlessError as error:
        raise RlessError(f"owner {escape(spec)}: {error.message}", error.hint, 1) from error
    return uid, gid


class Copy:
    """What a COPY or ADD does to a tree.

    What can be said of it without the tree is said at once; `prepare` comes before `write`.

    Args:
        open_before: returns the root of the tree.

    Attributes:
        owner: of all that is copied; None: as the sources have it.

    Raises:
        RlessError: the owner or the mode cannot be.
    """

    def __init__(
        self, step: CopyStep, selection: Selection, open_before: Callable[[], int]
    ) -> None:
        self.owner: tuple[int, int] | None = None
        if step.owner:
            self.owner = owner_of(step.owner, open_before)
        elif step.origin.kind == "context":
            self.owner = (0, 0)
        self._step = step
        self._selection = selection
        self._mode = modes.parse(step.mode) if step.mode else stat.S_IMODE
        self._open_before = open_before
        self._before_fd = -1
        self._into = step.destination.endswith("/") or step.parents
        self._base = tree.cleaned(step.destination)

    @property
    def _name(self) -> str:
        return "ADD" if self._step.add else "COPY"

    def prepare(self) -> None:
        """Look at the tree.

        Raises:
            RlessError: the destination cannot be.
        """
        step, selection = self._step, self._selection
        if not step.link:
            self._before_fd = self._open_before()
            self._find_destination()
        count = len(selection.sources)
        if step.like_cp and count > 1:
            self._into = True
        if count and not self._into and max(count, len(step.sources) + len(step.files)) > 1:
            raise RlessError(
                f"{self._name}: several sources, and {escape(step.destination)} is no directory",
                "end the destination with a slash",
                1,
            )

    def _find_destination(self) -> None:
        found = tree.find(self._before_fd, self._base)
        self._base = found.path
        if found.is_directory:
            self._into = True
        elif found.status is not None and self._into:
            raise RlessError(f"{self._name}: {tree.shown(found.path)}: not a directory", None, 1)

    def write(self, fd: int) -> None:
        """Write the tar of the layer to a descriptor.

        Raises:
            RlessError: a source cannot be read, or is no directory where there is one, or is one
                where there is a file.
        """
        from rootless.engine.build.new_layer import NewLayer
        from rootless.image.layer.tar_writer import TarWriter

        writer = TarWriter(fd)
        layer = NewLayer(writer, self._before_fd, self.owner, self._mode)
        for source in self._selection.sources:
            self._write(layer, source)
        writer.end()
        layer.close()

    def _write(self, layer: NewLayer, source: Source) -> None:
        base = self._base
        if source.kept:
            base = tree.join(base, source.kept[-1][0])
        if self._into and (self._step.like_cp or not source.is_directory):
            base = tree.join(base, source.name)
        if self._step.add and self._unpack(layer, source):
            return
        if source.is_directory and self._step.like_cp:
            layer.make(base)
        in_base = self._into or source.is_directory
        layer.make(self._base if in_base else base.rpartition(b"/")[0])
        for name, path in source.kept:
            with tree.opened(self._selection.root_fd, path) as dir_fd:
                kept = walk.Entry(b"", b"", -1, dir_fd, os.fstat(dir_fd))
                owner = self._selection.owner_of(path, kept.status)
                layer.add(tree.join(self._base, name), kept, owner)
        if source.content is not None:
            layer.text(base, source.content)
            return
        for path, entry in self._selection.entries(source):
            if entry.leaving or is_left_out(entry.status.st_mode):
                continue
            if path or not source.is_directory:
                owner = self._selection.owner_of(tree.join(source.path, path), entry.status)
                layer.add(tree.join(base, path), entry, owner)

    def _unpack(self, layer: NewLayer, source: Source) -> bool:
        """Unpack a source that is an archive; return whether it is one."""
        from rootless.engine.build import add

        archive = add.open_archive(self._step, self._selection, source)
        if archive is not None:
            layer.make(self._base)
            with archive:
                archive.unpack(layer, self._base)
        return archive is not None


def workdir_writer(step: WorkdirStep, before_fd: int) -> Callable[[int], None] | None:
    """Return what writes the tar of the layer with the directory; None: it is there.

    Raises:
        RlessError: there is a file, or no such user.
    """
    found = tree.find(before_fd, tree.cleaned(step.directory))
    if found.is_directory:
        return None
    if found.status is not None:
        raise RlessError(f"WORKDIR {escape(step.directory)}: there is a file of this name", None, 1)
    owner = owner_of(step.user, lambda: before_fd) if step.user else (0, 0)

    def write(fd: int) -> None:
        from rootless.engine.build.new_layer import NewLayer
        from rootless.image.layer.tar_writer import TarWriter

        writer = TarWriter(fd)
        layer = NewLayer(writer, before_fd, owner, stat.S_IMODE)
        layer.make(found.path)
        writer.end()
        layer.close()

    return write


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
