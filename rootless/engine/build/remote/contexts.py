"""Contexts that are no directory of the caller's: standard input, a URL, a git repository.

Each becomes a directory below the store's temporary directory, which is gone after the build, and
after a killed one with the next command. Its .dockerignore counts for nothing, as BuildKit has it:
whoever packed it has left out what is not needed.

What begins as an archive is one, whatever its name; else it is a Dockerfile, and its context is
empty.

Source: Docker, "Build context".
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from rootless import paths
from rootless.dockerfile.ignore import SIZE_LIMIT
from rootless.engine.build.context import Context
from rootless.engine.build.remote import archive, places
from rootless.engine.build.remote.added import check_allowed
from rootless.errors import RlessError, escape
from rootless.image.layer.tar_reader import BLOCK_BYTES
from rootless.image.model import limits
from rootless.image.registry.progress import Progress
from rootless.image.store import records
from rootless.image.store.staging import Staging, clear_leftovers
from rootless.image.transfer.load import READS, store

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterator, Mapping

    from rootless.engine.build.request import BuildRequest

_FILE = "file"


def is_fetched(text: str) -> bool:
    """Tell whether a context is no directory of the caller's."""
    if text.startswith("github.com/"):
        return not os.path.isdir(text)
    return text == "-" or places.is_remote(text)


class Opener:
    """Opens such contexts for one build.

    Args:
        secrets: of --secret; see `credentials`.
        opened: has them closed at the end.
    """

    def __init__(
        self, request: BuildRequest, secrets: Mapping[str, bytes], opened: contextlib.ExitStack
    ) -> None:
        self._request = request
        self._secrets = secrets
        self._opened = opened
        self._staging = ""
        self._count = 0
        self._progress = Progress(quiet=request.progress in ("quiet", "rawjson"))

    def open(self, text: str, *, is_main: bool = True) -> Context:
        """Open the main context, or a named one: that has no Dockerfile.

        Raises:
            RlessError: it cannot be had, or is none.
        """
        if text == "-":
            if not is_main:
                raise RlessError("only the main context can be standard input", exit_code=1)
            return self._of_stream()
        place = places.parse_context(text)
        check_allowed(escape(text)[:200])
        if isinstance(place, places.Repository):
            return self._of_repository(place)
        return self._of_url(place, is_main)

    def read_url(self, text: str) -> bytes:
        """Return the Dockerfile that a URL gives.

        Raises:
            RlessError: it cannot be had, or is larger than 1 MiB.
        """
        place = places.parse(text)
        check_allowed(escape(text)[:200])
        if isinstance(place, places.Repository):
            raise RlessError(f"--file {escape(text)}: a repository is no Dockerfile", exit_code=1)
        fd = self._fetch(place)
        try:
            return _read(fd, _shown(place))
        finally:
            os.close(fd)

    # -- what they are made of -------------------------------------------------------------------

    def _of_stream(self) -> Context:
        what = "standard input"
        if os.isatty(0):
            raise RlessError(
                "a context is not read from a terminal", "give a directory, or a pipe", 1
            )
        chunks = _chunks(what)
        start = b""
        while len(start) < BLOCK_BYTES and (chunk := next(chunks, b"")):
            start += chunk
        chunks = itertools.chain((start,), chunks)
        scratch = self._directory()
        if not archive.begins_as_archive(start):
            return self._of_dockerfile(_all_of(chunks, what), scratch)
        fd = store(self._progress.through(what, READS, chunks), scratch, what)
        self._progress.finish()
        return self._of_archive(fd, what, scratch)

    def _of_url(self, place: places.Url, is_main: bool) -> Context:
        what = _shown(place)
        fd = self._fetch(place)
        if archive.begins_as_archive(os.pread(fd, BLOCK_BYTES, 0)):
            return self._of_archive(fd, what, self._directory())
        try:
            if not is_main:
                raise RlessError(f"{what}: this is no tar archive, so it is no context", exit_code=1)
            return self._of_dockerfile(_read(fd, what), self._directory())
        finally:
            os.close(fd)

    def _of_repository(self, place: places.Repository) -> Context:
        from rootless.engine.build.remote.git import Checkout, shown

        checkout = Checkout(place, self._directory(), self._secrets, self._agent(place))
        self._progress.say(f"{shown(place.url)}: fetching")
        keeps = place.keep_git_dir
        if keeps is None:
            keeps = self._request.keeps_git_dir()
        fd = checkout.fetch(checkout.find(), keep_git_dir=keeps)
        found = self._opened.enter_context(Context(fd, is_fetched=True))
        found.time = int(os.fstat(fd).st_mtime)  # all files have the time of the commit
        return found

    def _agent(self, place: places.Repository) -> str:
        """Return the socket of --ssh default, else of the caller's agent, as for ssh itself."""
        if place.url.startswith(("http", "git:")):
            return ""
        from rootless.engine.build.ssh_agent import open_agents

        asked = [one for one in self._request.ssh if one.id == "default"]
        found = open_agents(asked, self._directory(), self._opened)
        return found.get("default") or os.environ.get("SSH_AUTH_SOCK", "")

    def _of_archive(self, fd: int, what: str, scratch: str) -> Context:
        try:
            return self._opened_at(archive.unpack(fd, what, scratch))
        finally:
            os.close(fd)

    def _of_dockerfile(self, text: bytes, scratch: str) -> Context:
        """Return the empty context of a Dockerfile without one."""
        found = self._opened_at(scratch)
        found.dockerfile = text
        return found

    def _opened_at(self, path: str) -> Context:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._opened.enter_context(Context(fd, is_fetched=True))

    def _fetch(self, place: places.Url) -> int:
        """Return a descriptor of a file with what a URL gives."""
        what = _shown(place)
        path = f"{self._directory()}/{_FILE}"
        from rootless.engine.build.remote.download import fetch  # with HTTP and TLS

        fetch(
            place.text,
            path,
            self._secrets,
            tell=lambda done, total: self._progress.advance(what, done, "Downloading", total),
        )
        self._progress.finish()
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _directory(self) -> str:
        """Return a new directory, which is gone after the build."""
        if not self._staging:
            root = paths.storage_root()
            records.make_frame(root)
            clear_leftovers(root)
            self._staging = self._opened.enter_context(Staging(root)).path
        self._count += 1
        path = f"{self._staging}/{self._count}"
        os.mkdir(path, 0o755)
        return path


def _chunks(what: str) -> Iterator[bytes]:
    try:
        while chunk := os.read(0, limits.CHUNK):
            yield chunk
    except OSError as error:
        raise RlessError(f"cannot read {what}: {error.strerror}", exit_code=1) from error


def _read(fd: int, what: str) -> bytes:
    return _all_of(iter(lambda: os.read(fd, limits.CHUNK), b""), what)


def _all_of(chunks: Iterator[bytes], what: str) -> bytes:
    text = b""
    for chunk in chunks:
        text += chunk
        if len(text) > SIZE_LIMIT:
            raise RlessError(
                f"{what}: no tar archive, and larger than a Dockerfile of {SIZE_LIMIT >> 10} KiB",
                exit_code=1,
            )
    return text


def _shown(place: places.Url) -> str:
    from rootless.image.registry.http import shown

    return shown(place.text)
