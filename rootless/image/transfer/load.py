"""Load: all images of one archive, which may be a pipe, compressed, and made by any tool.

The forms are docker-archive (`manifest.json`), OCI layouts as a tar or a directory, Docker's form
that is both, and skopeo's `dir:`. Nothing in it is trusted: names go through the reference grammar,
digests are verified, and no network is touched whatever the archive says.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from typing import TYPE_CHECKING

from rootless.errors import RlessError, escape
from rootless.image.archive import directory
from rootless.image.archive.directory import DirectoryImage
from rootless.image.archive.read import DirectoryFiles, DockerArchive, OciLayout, TarFiles
from rootless.image.config.manifest import ManifestError, PlatformError
from rootless.image.layer.decompress import compression_of
from rootless.image.layer.tar_reader import BLOCK_BYTES, TarReader, check_start
from rootless.image.model import limits
from rootless.image.model.platforms import PlatformRequest, host_platform, parse_platform
from rootless.image.model.reference import Reference, parse
from rootless.image.store import records
from rootless.image.store.staging import Staging, clear_leftovers
from rootless.image.transfer.install import install
from rootless.image.trust.guard import Guard
from rootless.linux.files import open_tmpfile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rootless.image.registry.progress import Progress
    from rootless.image.store.store import Image, Store
    from rootless.image.transfer.install import MapFor


READS = ("Reading", "Read")


class AnyPlatform(PlatformRequest):
    """Accepts an image for any platform; of several it takes the one that fits this host best."""

    __slots__ = ()

    def __init__(self) -> None:
        host = host_platform()
        super().__init__(host.os, host.architecture, host.variant, explicit=False)

    def rank(self, os_name: str, architecture: str, variant: str) -> int | None:
        """Return how well a platform fits; everything does."""
        fits = super().rank(os_name, architecture, variant)
        return 1000 if fits is None else fits


def load(
    path: str | None,
    store: Store,
    *,
    platform: str | None = None,
    idmap_for: MapFor,
    progress: Progress,
    signature_policy: str | None = None,
) -> Iterator[tuple[Image, list[Reference]]]:
    """Yield each image of an archive with its names, once it is in the store.

    Args:
        path: of a file or a directory; None: standard input.
        platform: as `--platform`; images for others are left out. None: whatever there is.
        signature_policy: as for `pull`.

    Raises:
        RlessError: the archive is broken or hostile. Images that were yielded stay.

    Where it runs: on the host; the caller must have no second thread.
    """
    wanted = parse_platform(platform) if platform else AnyPlatform()
    records.make_frame(store.root)
    clear_leftovers(store.root)
    with Staging(store.root) as staging, contextlib.ExitStack() as stack:
        name = path or "standard input"
        files: DirectoryFiles | TarFiles
        if path is not None and os.path.isdir(path):
            files = DirectoryFiles(path)
        else:
            files = TarFiles(
                name, staging.path, open_stream(path, staging.path, progress), progress
            )
        stack.callback(files.close)
        taken = 0
        found = list(_images(files, name, staging.path))
        transport = _transport(files)
        guard = Guard(Reference(name, transport, path=path or ""), signature_policy)
        guard.refuse_early()
        for number, (source, names) in enumerate(found):
            scratch = f"{staging.path}/image-{number}"
            os.mkdir(scratch, 0o700)
            references = [parse(text) for text in names]
            try:
                image = install(
                    store,
                    guard.watch(source),
                    wanted,
                    references,
                    platform=platform,
                    idmap_for=idmap_for,
                    progress=progress,
                    scratch=scratch,
                )
            except PlatformError:
                continue
            taken += 1
            yield image, references
        if not taken:
            why = f"no image for {wanted}" if found and platform else "no image"
            raise RlessError(f"{escape(name)} has {why}", exit_code=1)


def _transport(files: DirectoryFiles | TarFiles) -> str:
    """Return what a policy calls this form of an archive."""
    if isinstance(files, DirectoryFiles):
        return "dir" if directory.is_one(files) else "oci"
    return "docker-archive" if files.open("manifest.json") is not None else "oci-archive"


def _images(
    files: DirectoryFiles | TarFiles, name: str, scratch: str
) -> Iterator[tuple[DirectoryImage | DockerArchive | OciLayout, Sequence[str]]]:
    """Yield what gives each image of an archive, and its names."""

    def number(transport: str, at: int) -> Reference:
        return Reference(name, transport, tag=f"@{at}", path=name)

    if isinstance(files, TarFiles) and files.open("manifest.json") is not None:
        archive = DockerArchive(number("docker-archive", 0), scratch, files)
        for at, names in enumerate(archive.entries()):
            yield DockerArchive(number("docker-archive", at), scratch, files), names
        return
    if isinstance(files, DirectoryFiles) and directory.is_one(files):
        yield DirectoryImage(name, files), ()
        return
    if files.open("oci-layout") is None and files.open("index.json") is None:
        raise ManifestError(
            f"{escape(name)} is no archive of images: it has neither manifest.json nor index.json",
            "an archive of files becomes an image by `rless import`",
        )
    layout = OciLayout(number("oci-archive", 0), scratch, files)
    for at, found in enumerate(layout.entries()):
        if found is not None:
            yield OciLayout(number("oci-archive", at), scratch, files), found


def open_stream(path: str | None, scratch: str, progress: Progress) -> int:
    """Open a file that can be read at any place: what comes by a pipe is stored first.

    Args:
        path: None: standard input.

    Raises:
        RlessError: it cannot be read, is a directory or a terminal, or is too large.
    """
    try:
        fd = os.dup(0) if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        what = "standard input" if path is None else path
        raise RlessError(f"cannot open {escape(what)}: {error.strerror}", exit_code=1) from error
    status = os.fstat(fd)
    # Files of /proc say that they have no bytes.
    if (
        stat.S_ISREG(status.st_mode)
        and status.st_size
        and (path is not None or os.lseek(fd, 0, os.SEEK_CUR) == 0)
    ):
        return fd
    try:
        if os.isatty(fd):
            raise RlessError(
                "an archive is not read from a terminal", "use -i FILE, or a pipe", exit_code=1
            )
        what = escape(path or "standard input")
        return store(progress.through(what, READS, _chunks(fd, what)), scratch, what)
    finally:
        os.close(fd)


def _chunks(fd: int, what: str) -> Iterator[bytes]:
    try:
        while chunk := os.read(fd, limits.CHUNK):
            yield chunk
    except OSError as error:
        raise RlessError(f"cannot read {what}: {error.strerror}", exit_code=1) from error


def store(chunks: Iterable[bytes], scratch: str, what: str) -> int:
    """Store the archive that comes in a file without a name; return that.

    Raises:
        RlessError: its first block is none of an archive, or it is too large; nothing is left.
    """
    chunks = iter(chunks)
    start = b""
    while len(start) < BLOCK_BYTES and (chunk := next(chunks, b"")):
        start += chunk
    if compression_of(start) == "none" and not check_start(start, what):
        for _ in TarReader(itertools.chain((start,), chunks), what):
            pass  # an empty archive ends soon, and zeros without end are none
    stored = open_tmpfile(scratch)
    size = 0
    try:
        for chunk in itertools.chain((start,), chunks):
            size += len(chunk)
            if size > limits.BLOB_BYTES:
                raise RlessError(f"{what} is larger than {limits.BLOB_BYTES} bytes")
            view = memoryview(chunk)
            while view:
                view = view[os.write(stored, view) :]
    except BaseException as error:
        os.close(stored)
        if isinstance(error, OSError):
            raise RlessError(
                f"cannot store {what}: {error.strerror}", limits.hint(error.errno), exit_code=1
            ) from error
        raise
    return stored
