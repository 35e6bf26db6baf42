"""URLs and git repositories as sources of ADD.

What a source is made of is known before it is there: a file by its digest, a tree by its commit.
That is all that the key of the step has of it. So a step that the cache has fetches nothing, or
what the server says has changed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rootless import config
from rootless.engine.build.remote import places
from rootless.engine.build.sources import Source
from rootless.errors import RlessError, escape
from rootless.frozen import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rootless.engine.build.messages import Say
    from rootless.engine.build.remote.git import Checkout
    from rootless.engine.build.remote.places import Repository, Url
    from rootless.engine.build.steps import CopyStep

_FILE = b"file"
_TOLD = 64 << 20  # bytes between two lines of progress


def check_allowed(what: str) -> None:
    """Refuse to fetch anything where the site does not want it.

    Raises:
        RlessError: `add-url = false` of the configuration.
    """
    if config.get("build", "add-url") is False:
        raise RlessError(
            f"{what}: `add-url` of the configuration forbids it",
            "fetch it beforehand, and COPY it",
            1,
        )


class Added:
    """Makes sources of the URLs of one ADD.

    Args:
        scratch: a directory for what is fetched, which is made if it is needed.
        root: of the store. secrets: of --secret. agent: the socket of --ssh default, "" for none.
        network: of --network; with "none" nothing is fetched.
        asks: ask servers whether what they gave an earlier build is what they have.
    """

    def __init__(
        self,
        step: CopyStep,
        scratch: str,
        root: str,
        secrets: Mapping[str, bytes],
        say: Say,
        *,
        agent: str = "",
        network: str = "",
        asks: bool = True,
    ) -> None:
        self._step = step
        self._scratch = scratch
        self._root = root
        self._asks = asks
        self._secrets = secrets
        self._say = say
        self._agent = agent
        self._network = network
        self._count = 0

    def __call__(self, text: str) -> Source:
        """Return a source.

        Raises:
            RlessError: it is refused, or cannot be reached.
        """
        place = places.parse(text)
        what = f"ADD {escape(text)[:200]}"
        check_allowed(what)
        if self._network == "none":
            raise RlessError(f"{what}: --network=none forbids it", None, 1)
        if self._step.checksum and len(self._step.sources) > 1:
            raise RlessError("ADD --checksum: this is only for one source", "write an ADD each", 1)
        if isinstance(place, places.Repository):
            from rootless.engine.build.remote.git import Checkout

            keeps = self._step.keep_git_dir or bool(place.keep_git_dir)
            if self._step.checksum:
                place = replace(place, commit=_commit(self._step.checksum))
            found = Checkout(place, self._directory(), self._secrets, self._agent)
            tree = _AddedTree(place, found, keeps, self._say)
            return Source(b"", b"", is_directory=True, remote=tree)
        url = _AddedUrl(
            place, self._directory(), self._secrets, self._root, self._step.checksum, self._say
        )
        url.find(asks=self._asks)
        return Source(os.fsencode(place.name), _FILE, remote=url)

    def _directory(self) -> str:
        self._count += 1
        path = f"{self._scratch}/{self._count}"
        os.makedirs(path, 0o700)
        return path


class _AddedUrl:
    """A file behind a URL; as a source it is `_FILE` in a directory of its own.

    Attributes:
        identity: the digest of its bytes. root_fd: the directory.
    """

    def __init__(
        self,
        place: Url,
        directory: str,
        secrets: Mapping[str, bytes],
        root: str,
        checksum: str,
        say: Say,
    ) -> None:
        self._url = place.text
        self._path = f"{directory}/{os.fsdecode(_FILE)}"
        self._secrets = secrets
        self._root = root
        self._checksum = checksum
        self._say = say
        self._told = 0
        self._is_there = False
        self.root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.identity = b""

    def find(self, *, asks: bool) -> None:
        """Find out what it is: from its checksum, else from its server.

        Args:
            asks: ask first whether it is what it was in an earlier build.

        Raises:
            RlessError: it cannot be had.
        """
        from rootless.engine.build.remote.download import parse_checksum

        if self._checksum and parse_checksum(self._checksum)[0] == "sha256":
            self.identity = self._checksum.encode()
        else:
            self.identity = self._get(asks=asks)

    def fetch(self) -> None:
        """Fetch it, if that was not done.

        Raises:
            RlessError: it cannot be had, or is not what its server said.
        """
        if not self._is_there and self._get(asks=False) != self.identity:
            from rootless.image.registry.http import shown

            raise RlessError(f"{shown(self._url)} has changed meanwhile", "try again", 1)

    def _get(self, *, asks: bool) -> bytes:
        from rootless.engine.build.remote.download import Memory, fetch

        answer = fetch(
            self._url,
            self._path,
            self._secrets,
            memory=Memory(self._root),
            asks=asks,
            checksum=self._checksum,
            tell=self._tell,
        )
        self._is_there = bool(answer.path)
        return answer.digest.encode()

    def _tell(self, done: int, total: int) -> None:
        if done - self._told >= _TOLD:
            self._told = done
            of = f" of {total >> 20}" if total else ""
            self._say({"kind": "output", "stream": 2, "text": f"{done >> 20}{of} MiB\n"})


class _AddedTree:
    """The files of a commit; as a source they are all that is in `root_fd`.

    Attributes:
        identity: the commit, and what of it is taken. root_fd: -1 until it was fetched.
    """

    def __init__(
        self, place: Repository, checkout: Checkout, keep_git_dir: bool, say: Say
    ) -> None:
        self._checkout = checkout
        self._say = say
        self._commit = checkout.find()
        self._keep_git_dir = keep_git_dir
        self.root_fd = -1
        facts = [self._commit, place.subdir, str(place.submodules), str(keep_git_dir)]
        if keep_git_dir:
            facts += [place.url, place.ref]
        self.identity = "\0".join(facts).encode("utf-8", "surrogateescape")

    def fetch(self) -> None:
        """Fetch it, if that was not done.

        Raises:
            RlessError: it cannot be had.
        """
        if self.root_fd < 0:
            self._say({"kind": "output", "stream": 2, "text": f"commit {self._commit}\n"})
            self.root_fd = self._checkout.fetch(self._commit, keep_git_dir=self._keep_git_dir)


def _commit(checksum: str) -> str:
    """Return a commit, or the beginning of one, of --checksum."""
    if not set(checksum) <= set("0123456789abcdef") or not 4 <= len(checksum) <= 64:
        raise RlessError(f"ADD --checksum={escape(checksum)[:100]}: this is no commit", None, 1)
    return checksum
