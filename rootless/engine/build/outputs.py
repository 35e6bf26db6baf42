"""What a build makes (-o, --push, --load): the image's files, an archive, an image, or nothing.

The files of `local` and `tar` are read from the mounted tree of the target, in the namespaces of
the build, where root is the caller. The tree is hostile, and so may be what is at the destination:
all is made by descriptor beneath it. A link that is there is never followed, set-id bits are
dropped, and the owner is the caller. The other outputs are made of the recorded image, on the host.

Source: docs.docker.com/build/exporters.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from rootless.engine.build.carried.places import read_level
from rootless.errors import RlessError, SyscallError, escape
from rootless.frozen import Frozen, replace
from rootless.linux import files
from rootless.linux.openat2 import BENEATH, openat2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rootless.engine.build.request import BuildRequest
    from rootless.engine.files.fd_transfer import Facts, Sink
    from rootless.image.layer.owners import Below

_PACKING = ("compression", "compression-level", "force-compression", "oci-mediatypes")
_ANNOTATED = ("oci", "image", "registry")
_ANNOTATION = ("annotation.", "annotation-manifest.", "annotation-index.")
_OPTIONS = {
    "local": ("dest", "mode"),
    "tar": ("dest",),
    "oci": ("dest", "tar", *_PACKING, "rewrite-timestamp"),
    "docker": ("dest", "rewrite-timestamp"),
    "image": ("name", "push", *_PACKING, "rewrite-timestamp"),
    "registry": ("name", *_PACKING, "rewrite-timestamp"),
    "squashfs": ("dest", "compression", "keep-owners"),
    "sif": ("dest", "compression", "keep-owners"),
    "cacheonly": (),
}
# What BuildKit has too.
_LATER = {
    *("name-canonical", "unpack", "push-by-digest", "store", "dangling-name-prefix"),
    *("platform-split", "attestation-inline"),
}
_FILES = ("squashfs", "sif")
_COMPRESSIONS = ("gzip", "zstd")
_DIRECTORY_MODE = 0o755
_MODES = 0o1777  # without set-user-id and set-group-id
_NANOSECONDS = 1_000_000_000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Output(Frozen, kw_only=True):
    """One output.

    Attributes:
        kind: local, tar, oci, docker, image, squashfs, sif or cacheonly.
        dest: an absolute path, "-" for standard output; "" where there is none.
        delete: remove what is in the directory and not in the result.
        directory: an OCI layout as a directory, no archive of it.
        names: of the image. push: to the registries of all its names.
        compression: of the layers, or of the file; "": none. None: the usual one. level: of it.
        docker: a push has Docker's media types.
        annotations: of the manifest: (key, value). of_index: of the index of several platforms.
        rewrite_timestamp: no time in new layers is later than SOURCE_DATE_EPOCH.
        keep_owners: of the files in a squashfs image.
        umask: of the caller: a step process has none.
    """

    kind: str
    dest: str = ""
    delete: bool = False
    directory: bool = False
    names: tuple[str, ...] = ()
    push: bool = False
    compression: str | None = None
    level: int | None = None
    docker: bool = False
    annotations: tuple[tuple[str, str], ...] = ()
    of_index: tuple[tuple[str, str], ...] = ()
    rewrite_timestamp: bool = False
    keep_owners: bool = False
    umask: int = 0o077

    @property
    def takes_tree(self) -> bool:
        """Tell whether it is made of the mounted tree (`export_trees`)."""
        return self.kind in ("local", "tar")

    @property
    def has_manifest(self) -> bool:
        """Tell whether a manifest goes out with it; an image in the storage has none yet."""
        return self.kind == "oci" or self.push

    @property
    def takes_image(self) -> bool:
        """Tell whether it is made of the recorded image (`export_image`)."""
        return not self.takes_tree and self.kind != "cacheonly"


# -- reading -----------------------------------------------------------------------------------


def parse(
    texts: Sequence[str],
    push: bool = False,
    load: bool = False,
    tags: Sequence[str] = (),
    annotations: Sequence[str] = (),
    makes_index: bool = False,
) -> tuple[Output, ...]:
    """Return the outputs of a command line; without any, the image in the storage.

    Args:
        texts: of -o. push, load: the shorthands. tags: of -t. annotations: of --annotation.
        makes_index: the build is for several platforms (`BuildRequest.makes_index`).

    Raises:
        RlessError: an unknown type or key, a wrong value, or outputs that contradict each other.
    """
    found = [_parse(text) for text in texts]
    if push and not any(output.push for output in found):
        found.append(Output(kind="image", push=True))
    if load or not found:
        found.append(Output(kind="image"))
    pairs: dict[str, list[tuple[str, str]]] = {"manifest": [], "index": []}
    for text in annotations:
        level, pair = _annotation(text)
        pairs[level].append(pair)
    if any((one.annotations or one.of_index) and not one.has_manifest for one in found) or (
        annotations and not any(one.has_manifest for one in found)
    ):
        raise RlessError(
            "annotations are in a manifest, which an image in the storage does not have",
            "use --push or -o type=oci; or labels: --label",
        )
    if annotations:
        found = [
            replace(
                one,
                annotations=(*one.annotations, *pairs["manifest"]),
                of_index=(*one.of_index, *pairs["index"]),
            )
            if one.has_manifest
            else one
            for one in found
        ]
    _check_index(found, makes_index)
    if any(output.push and not output.names for output in found) and not tags:
        raise RlessError("what is pushed needs a name", "give one: -t HOST/NAME:TAG")
    if sum(output.dest == "-" for output in found) > 1:
        raise RlessError("only one output can be standard output", "give the others dest=FILE")
    return tuple(found)


def asked_for(request: BuildRequest) -> tuple[Output, ...]:
    """Return the outputs of a build (`parse`)."""
    return parse(
        request.outputs,
        request.push,
        request.load,
        request.tags,
        request.annotations,
        makes_index=request.makes_index,
    )


def _parse(text: str) -> Output:
    from rootless.dockerfile.mounts import split_csv

    if not text:
        raise RlessError("--output is empty", "give type=TYPE, or a directory")
    fields = split_csv(text)
    if len(fields) == 1 and "=" not in text:
        fields = ["type=tar", "dest=-"] if text == "-" else ["type=local", f"dest={text}"]
    options: dict[str, str] = {}
    given: dict[str, str] = {}  # keys of annotations have capitals
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals:
            raise RlessError(f"--output {escape(text)}: {escape(field)!r} is not KEY=VALUE")
        options[key.lower()] = value
        given[key.lower()] = key
    kind = options.pop("type", "")
    if kind not in _OPTIONS:
        what = f"the type {escape(kind)!r} is not known" if kind else "it has no type="
        raise RlessError(f"--output {escape(text)}: {what}", f"it is one of {', '.join(_OPTIONS)}")
    prefixes = _ANNOTATION if kind in _ANNOTATED else ()
    annotations: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
    for key, value in options.items():
        if key.startswith(prefixes):
            pair = (given[key].partition(".")[2], value)
            annotations[key.startswith("annotation-index.")].append(pair)
    for key in options:
        if key.startswith(prefixes) and not key.endswith("."):
            continue
        if key in _LATER or key.startswith("annotation"):
            raise RlessError(f"--output: {escape(key)} is not supported: not built yet")
        if key not in _OPTIONS[kind]:
            takes = f"it takes {', '.join(_OPTIONS[kind])}" if _OPTIONS[kind] else "it takes none"
            raise RlessError(f"--output: {kind} has no option {escape(key)!r}", takes)
    made = _made(kind, options)
    return replace(made, annotations=tuple(annotations[False]), of_index=tuple(annotations[True]))


def _check_index(found: Sequence[Output], makes_index: bool) -> None:
    """Refuse outputs that cannot hold images for several platforms, or an index of one.

    Raises:
        RlessError: there is one.
    """
    if not makes_index:
        if any(one.of_index for one in found):
            raise RlessError(
                "annotations of the index are not supported: there is no index for one platform",
                "add --build-arg BUILDKIT_MULTI_PLATFORM=1, or annotate the manifest",
            )
        return
    for one in found:
        if one.kind == "docker":
            raise RlessError(
                "--output: type=docker,dest= cannot hold images for several platforms",
                "use type=oci, or build for one platform",
            )
        if one.kind == "squashfs":
            raise RlessError(
                "--output: a squashfs is for one platform", "name one only by --platform"
            )


def _annotation(text: str) -> tuple[str, tuple[str, str]]:
    """Return level, key and value of --annotation: `[manifest:|index:]KEY=VALUE`."""
    name, equals, value = text.partition("=")
    level, colon, key = name.partition(":")
    if not colon:
        level, key = "manifest", name
    if level not in ("manifest", "index"):
        raise RlessError(
            f"--annotation {escape(text)}: {escape(level)}: is not supported",
            "use manifest:KEY=VALUE or index:KEY=VALUE",
        )
    if not equals or not key:
        raise RlessError(f"--annotation {escape(text)} is not KEY=VALUE")
    return level, (key, value)


def _made(kind: str, options: dict[str, str]) -> Output:
    dest = options.get("dest", "")
    if not dest and kind in ("local", *_FILES):
        raise RlessError(f"--output: {kind} needs dest=")
    if not dest and kind in ("tar", "oci"):
        dest = "-"
    directory = not _is("tar", options, True)
    if dest == "-" and (kind in ("local", *_FILES) or directory):
        raise RlessError(f"--output: {kind} cannot be standard output", "give dest=PATH")
    if dest == "-" and os.isatty(1):
        raise RlessError("an archive is not written to a terminal", "give dest=FILE, or redirect")
    if dest not in ("", "-"):
        dest = os.path.abspath(dest)
        wants = kind == "local" or directory
        if os.path.exists(dest) and os.path.isdir(dest) != wants:
            what = "is no directory" if wants else "is a directory"
            raise RlessError(f"--output: {escape(dest)} {what}")
    mode = options.get("mode", "copy")
    if mode not in ("copy", "delete"):
        raise RlessError(f"--output: mode={escape(mode)} is neither copy nor delete")
    names = tuple(name for name in options.get("name", "").split(",") if name)
    compression = _compression(kind, options.get("compression", ""))
    if compression is None and (
        "compression-level" in options or _is("force-compression", options, False)
    ):
        compression = "gzip"
    docker = not _is("oci-mediatypes", options, True)
    if docker and (kind == "oci" or compression not in (None, "gzip")):
        what = "an OCI archive" if kind == "oci" else f"compression={compression or 'uncompressed'}"
        raise RlessError(f"--output: oci-mediatypes=false is not for {what}")
    return Output(
        kind="image" if kind == "registry" or (kind == "docker" and not dest) else kind,
        dest=dest,
        delete=mode == "delete",
        directory=directory,
        names=names,
        push=kind == "registry" or _is("push", options, False),
        compression=compression,
        level=read_level("--output", compression or "", options.get("compression-level", "")),
        docker=docker,
        rewrite_timestamp=_is("rewrite-timestamp", options, False),
        keep_owners=_is("keep-owners", options, False),
        umask=0o666 & ~files.default_mode(),
    )


def _compression(kind: str, value: str) -> str | None:
    known: tuple[str, ...] = (*_COMPRESSIONS, "uncompressed")
    if kind in _FILES:
        from rootless.engine.images.flatten import COMPRESSIONS

        known = COMPRESSIONS
    if value and value not in known:
        raise RlessError(
            f"--output: compression={escape(value)} is not supported", f"use {' or '.join(known)}"
        )
    return "" if value == "uncompressed" else value or None


def _is(key: str, options: dict[str, str], default: bool) -> bool:
    value = options.get(key, str(default)).lower()
    if value not in ("true", "false", "1", "0"):
        raise RlessError(f"--output: {key}={escape(value)} is neither true nor false")
    return value in ("true", "1")


# -- files: in the namespaces of the build -----------------------------------------------------


class Tree(NamedTuple):
    """The files of one target.

    Attributes:
        root_fd: the root of the tree.
        name: of the directory of the output that they go into, without a slash; "": its top.
        below: owners, where they are kept as data (`image.layer.owners`).
    """

    root_fd: int
    name: str = ""
    below: Below | None = None


def export_trees(
    output: Output, trees: Sequence[Tree], stdout_fd: int, newest: int | None = None
) -> None:
    """Write the files of trees to a directory, or as a tar archive.

    Args:
        stdout_fd: standard output of the build.
        newest: no file gets a later time (seconds since 1970); None: as it is.

    Raises:
        RlessError: no room; a file where a directory is to be, or a link.

    Where it runs: in the user namespace of the build, as root, which is the caller.
    """
    umask = os.umask(output.umask)
    try:
        if output.kind == "local":
            for tree in trees:
                _write_directory(output, tree, newest)
        elif output.dest == "-":
            _write_tar(trees, stdout_fd, newest)
        else:
            with files.Output(output.dest, mode=files.default_mode()) as file:
                _write_tar(trees, file.fd, newest)
    except OSError as error:
        what = "standard output" if output.dest == "-" else escape(output.dest)
        hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        raise RlessError(f"cannot write {what}: {error.strerror}", hint, 1) from error
    finally:
        os.umask(umask)


def _write_tar(trees: Sequence[Tree], fd: int, newest: int | None) -> None:
    from rootless.image.layer.archiver import Archiver
    from rootless.image.layer.tar_reader import DIRECTORY
    from rootless.image.layer.tar_writer import TarWriter
    from rootless.linux.walk import walk

    class Clamped(TarWriter):
        __slots__ = ()

    Clamped.newest = newest
    writer = Clamped(fd)
    for tree in trees:
        within = os.fsencode(f"{tree.name}/" if tree.name else "")
        if tree.name:
            writer.add(os.fsencode(tree.name), _DIRECTORY_MODE, kind=DIRECTORY)
        archiver = Archiver(writer, owner=_owner_of(tree.below, len(within)))
        top_fd = os.open(".", _DIRECTORY, dir_fd=tree.root_fd)
        try:
            for entry in walk(top_fd):
                if entry.path and not entry.leaving:
                    archiver.add(within + entry.path, entry)
        finally:
            os.close(top_fd)
    writer.end()


def _owner_of(
    below: Below | None, start: int
) -> Callable[[bytes, int, os.stat_result], tuple[int, int]] | None:
    """Return what tells the owners of files whose paths in the tree begin at `start`."""
    if below is None:
        return None
    return lambda path, fd, status: below.get(path[start:], (0, 0))


class _Clamped:
    """A sink that makes no file later than a time."""

    def __init__(self, sink: Sink, newest: int) -> None:
        self._sink = sink
        self._newest = newest * _NANOSECONDS

    def _clamp(self, facts: Facts) -> Facts:
        facts.mtime = min(facts.mtime, self._newest)
        return facts

    def directory(self, name: bytes, status: Facts) -> None:
        self._sink.directory(name, self._clamp(status))

    def leave(self) -> None:
        self._sink.leave()

    def file(self, name: bytes, status: Facts, fd: int) -> None:
        self._sink.file(name, self._clamp(status), fd)

    def symlink(self, name: bytes, status: Facts, target: bytes) -> None:
        self._sink.symlink(name, self._clamp(status), target)


def _write_directory(output: Output, tree: Tree, newest: int | None) -> None:
    from rootless.engine.files.fd_transfer import Reader, Rules, Writer

    os.makedirs(output.dest, exist_ok=True)
    root_fd = os.open(".", _DIRECTORY, dir_fd=tree.root_fd)
    base_fd = _open_destination(output.dest, tree.name)
    try:
        if output.delete:
            _delete_others(root_fd, base_fd)
        writer = Writer(base_fd, None, Rules(None, _MODES, output.dest))
        sink: Sink = writer if newest is None else _Clamped(writer, newest)
        try:
            Reader(sink, "the result").tree(root_fd, b"")
        finally:
            writer.close()
    finally:
        os.close(base_fd)
        os.close(root_fd)


def _open_destination(path: str, name: str) -> int:
    """Return the directory that files go to; one of a name is made there, and no link is followed."""
    base_fd = os.open(path, _DIRECTORY)
    if not name:
        return base_fd
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o777, dir_fd=base_fd)
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=base_fd)
    finally:
        os.close(base_fd)


def _delete_others(root_fd: int, base_fd: int) -> None:
    """Remove what is in the destination, and not in the result or of another type there."""
    from rootless.linux.tree import remove_tree
    from rootless.linux.walk import walk

    for entry in walk(base_fd):
        if not entry.path or entry.leaving:
            continue
        is_directory = entry.fd >= 0
        if is_directory == _is_directory(root_fd, entry.path):
            continue
        if is_directory:
            entry.skip = True
            remove_tree(entry.dir_fd, entry.name)
        else:
            os.unlink(entry.name, dir_fd=entry.dir_fd)


def _is_directory(root_fd: int, path: bytes) -> bool | None:
    """Tell whether that is a directory; None: there is nothing."""
    try:
        fd = openat2(root_fd, path, os.O_PATH | os.O_NOFOLLOW, resolve=BENEATH)
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    try:
        return stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


# -- images: on the host -----------------------------------------------------------------------


def export_image(
    output: Output,
    identifiers: Sequence[str],
    names: Sequence[str],
    *,
    makes_index: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Make an output of the recorded images: an archive, a push.

    Args:
        identifiers: the images' ids, one a platform.
        names: all that they have, as typed.
        makes_index: they go out with an index.
        quiet: show no progress.

    Returns:
        What is known of it now for --metadata-file.

    Raises:
        RlessError: no room; a registry refuses it.
    """
    from rootless.image.model.packing import Packing

    packing = Packing(
        output.compression,
        level=output.level,
        docker=output.docker,
        annotations=dict(output.annotations),
        of_index=dict(output.of_index),
    )
    known: dict[str, Any] = {}
    indexed = identifiers if makes_index else ()
    if output.kind in ("oci", "docker"):
        from rootless.engine.images import archives

        form = f"{output.kind}-{'dir' if output.directory else 'archive'}"
        written = archives.save(
            names or identifiers,
            None if output.dest == "-" else output.dest,
            form=form,
            packing=packing,
            quiet=quiet,
            indexed=indexed,
        )
        if output.kind == "oci":
            known = {"containerimage.descriptor": written[0]}
    elif output.kind in _FILES:
        from rootless.engine.images import flatten
        from rootless.image.squashfs import apptainer

        flatten.flatten(
            identifiers[0],
            output.dest,
            sif=output.kind == "sif",
            deffile=apptainer.definition(names[0]) if names else "",
            compression=output.compression or "",
            keep_owners=output.keep_owners,
            force=True,
        )
    if output.push:
        from rootless.engine.images import registries
        from rootless.image.registry.progress import Progress

        for name in output.names or names:
            shown = Progress(2, quiet=quiet)
            _, made = registries.push(name, packing=packing, progress=shown, indexed=indexed)
            known = {"containerimage.descriptor": made}
    return known


def write_results(
    request: BuildRequest, identifier: str, names: Sequence[str], known: Mapping[str, Any]
) -> None:
    """Write the files of --iidfile and --metadata-file, each whole or not at all.

    Args:
        identifier: the image's id; "" where no image was recorded.
        names: all that it has, as typed.
        known: of `export_image`. Without a manifest the digest is the id, as Docker has it.

    Raises:
        RlessError: a file cannot be written.
    """
    if request.iidfile and identifier:
        _write("--iidfile", request.iidfile, identifier.encode())
    if request.metadata_file:
        found = dict(known)
        if identifier and not request.makes_index:
            found |= dict.fromkeys(("containerimage.config.digest", "containerimage.digest"), identifier)
        if known:
            found["containerimage.digest"] = known["containerimage.descriptor"]["digest"]
        if names:
            found["image.name"] = ",".join(names)
        text = f"{json.dumps(found, indent=2, sort_keys=True)}\n"
        _write("--metadata-file", request.metadata_file, text.encode())


def _write(flag: str, path: str, data: bytes) -> None:
    try:
        files.write(path, data, mode=files.default_mode())
    except OSError as error:
        raise RlessError(f"{flag} {escape(path)}: {error.strerror}", exit_code=1) from error
