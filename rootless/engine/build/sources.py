"""What a COPY or ADD takes from a tree: its sources, found by name, and the digest of their content.

Only what is named is walked. Names are looked up beneath the root of the tree, and links are
followed inside it (`tree`). What .dockerignore or --exclude leaves out is as if it were not there.

The content digest is of all that decides about the files of the new layer, and of nothing else:
names, kinds, modes, link targets, attributes, bytes, and owners where these are kept. It has no
times, no inodes, and no owners of the host.

Source: Docker, "Dockerfile reference", COPY; BuildKit solver/llbsolver/file, cache/contenthash.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rootless.dockerfile.ignore import IgnoreRules
from rootless.dockerfile.wildcards import BadPatternError, Wildcard, has_wildcards
from rootless.engine.build import modes, tree
from rootless.engine.build.hashes import Hashes
from rootless.engine.build.remote.places import is_remote
from rootless.engine.build.steps import ONBUILD
from rootless.errors import RlessError, escape
from rootless.image.layer import xattrs
from rootless.linux.walk import Entry, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rootless.dockerfile.ignore import State
    from rootless.engine.build.steps import CopyStep
    from rootless.image.layer.owners import Below

    OwnerOf = Callable[[bytes, os.stat_result], tuple[int, int]]

    class Remote(Protocol):
        """A source that is fetched; it has a root of its own.

        Attributes:
            identity: what the digest has of it.
            root_fd: of where it will be; nothing is there before `fetch`.
        """

        identity: bytes
        root_fd: int

        def fetch(self) -> None:
            """Fetch it, if that was not done."""


_DIRECTORIES = "**"  # any number of them, in the names of --parents


class Source(NamedTuple):
    """One file, directory or here-document that was chosen.

    Attributes:
        name: of the file, as it was named, for a destination that is a directory.
        path: in its tree, without links.
        is_directory: its contents are meant.
        kept: with --parents, the directories that are kept above it: (name, path in the tree).
        content: of a here-document, else None.
        below: stands in front of the paths of the entries where --exclude looks at them.
        remote: where it comes from, None: from the tree of the selection.
    """

    name: bytes
    path: bytes = b""
    is_directory: bool = False
    kept: tuple[tuple[bytes, bytes], ...] = ()
    content: bytes | None = None
    below: bytes = b""
    remote: Remote | None = None


class Selection:
    """What was chosen from a tree.

    Attributes:
        sources: in the order in which they are copied.
        root_fd: of the tree that they are in; it must stay open.
        warnings: what was left out and why; complete once `digest` was called.
        below: owners of files in the tree, where they are kept as data (`image.layer.owners`).
    """

    def __init__(
        self,
        root_fd: int,
        sources: Sequence[Source],
        ignore: IgnoreRules | None = None,
        exclude: IgnoreRules | None = None,
        *,
        keeps_owner: bool = True,
        keeps_mode: bool = True,
        excluded: Sequence[str] = (),
    ) -> None:
        """Make a selection; `select` finds its sources.

        Args:
            excluded: the patterns of `exclude`.
            keeps_owner, keeps_mode: they are those of the files, so the digest has them.
        """
        self.root_fd = root_fd
        self.sources = tuple(sources)
        self.warnings: list[str] = []
        self.below: Below | None = None
        self._ignore = ignore
        self._exclude = exclude
        self._keeps_owner = keeps_owner
        self._keeps_mode = keeps_mode
        self._excluded = b"\0".join(map(os.fsencode, excluded))

    def fetch(self) -> None:
        """Fetch what comes from elsewhere.

        Raises:
            RlessError: it cannot be had.
        """
        for source in self.sources:
            if source.remote is not None:
                source.remote.fetch()

    def entries(self, source: Source) -> Iterator[tuple[bytes, Entry]]:
        """Yield the files of a source, each with its path from there; its own is b"".

        A directory comes before what is in it, and a second time after that (`Entry.leaving`).
        Its descriptor is open until then.

        Raises:
            RlessError: something is gone meanwhile, or may not be read.
        """
        root_fd = source.remote.root_fd if source.remote else self.root_fd
        try:
            if source.is_directory:
                root = tree.open_directory(root_fd, source.path)
                try:
                    yield from self._walk(source, root)
                finally:
                    os.close(root)
            else:
                parent, _, name = source.path.rpartition(b"/")
                with tree.opened(root_fd, parent) as dir_fd:
                    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                    yield b"", Entry(b"", name, dir_fd, -1, status)
        except BrokenPipeError:
            raise  # of the consumer: who reads on the other side has failed, and says why
        except OSError as error:
            path = tree.join(source.path, os.fsencode(error.filename or b""))
            raise RlessError(f"cannot read {tree.shown(path)}: {error.strerror}", None, 1) from error

    def _walk(self, source: Source, root: int) -> Iterator[tuple[bytes, Entry]]:
        ignore = None if source.remote else self._ignore
        filters = _filters((ignore, source.path), (self._exclude, source.below))
        waiting: list[Entry] = []  # excluded directories, until something in them is not
        for entry in walk(root, lambda path: any([each.hides(path) for each in filters])):
            if entry.leaving:
                for each in filters:
                    each.leave(entry.path)
                if waiting and waiting[-1].path == entry.path:
                    waiting.pop()
                else:
                    yield entry.path, entry
                continue
            is_directory = entry.fd >= 0
            if entry.path and any([each.excludes(entry.path, is_directory) for each in filters]):
                if is_directory:
                    waiting.append(entry)
                continue
            for above in waiting:
                yield above.path, above
            waiting.clear()
            yield entry.path, entry

    def owner_of(self, path: bytes, status: os.stat_result) -> tuple[int, int]:
        """Return the owner of a file, by its path in the tree."""
        if self.below is not None:
            return self.below.get(path, (0, 0))
        return status.st_uid, status.st_gid

    def digest(self, known: Hashes | None = None) -> str:
        """Return the digest of the content, "sha256:…".

        Args:
            known: digests of files; only for a context, whose files lie where they are.

        Raises:
            RlessError: as `entries`.
        """
        known = known or Hashes()
        owner_of = self.owner_of if self._keeps_owner else None
        content = _Content(known, owner_of, self._keeps_mode)
        for source in self.sources:
            content.add(b"source", source.name, b"d" if source.is_directory else b"f")
            for name, path in source.kept:
                with tree.opened(self.root_fd, path) as fd:
                    content.directory(path, b"/" + name, fd)
            if source.content is not None:
                content.add(source.content)
                continue
            if source.remote is not None:
                content.add(b"remote", source.remote.identity, self._excluded)
                continue
            for path, entry in self.entries(source):
                if entry.leaving:
                    continue
                if is_left_out(entry.status.st_mode):
                    where = tree.shown(tree.join(source.path, path))
                    self.warnings.append(f"{where}: not a file that an image can have: left out")
                    continue
                # A directory that is the source gives its contents, not its own attributes.
                if path or not source.is_directory:
                    content.file(tree.join(source.path, path), path, entry)
        known.save()
        return content.digest


def is_left_out(mode: int) -> bool:
    """Tell whether a file is none that is copied: a socket, a FIFO, a device (class 65)."""
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


class _Content:
    """The digest of files, one after the other."""

    def __init__(self, known: Hashes, owner_of: OwnerOf | None, keeps_mode: bool) -> None:
        self._hash = hashlib.sha256()
        self._known = known
        self._owner_of = owner_of
        self._keeps_mode = keeps_mode
        self._links: dict[tuple[int, int], bytes] = {}

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def add(self, *parts: bytes) -> None:
        """Add one record, so that no other has the same bytes."""
        for part in parts:
            self._hash.update(b"%d:" % len(part))
            self._hash.update(part)
        self._hash.update(b";")

    def directory(self, path: bytes, name: bytes, fd: int) -> None:
        self._record(path, name, b"d", os.fstat(fd))
        self._attributes(fd)

    def file(self, path: bytes, name: bytes, entry: Entry) -> None:
        """Add a file.

        Args:
            path: in the tree. name: as the digest has it.
        """
        status = entry.status
        if entry.fd >= 0:
            self.directory(path, name, entry.fd)
        elif stat.S_ISLNK(status.st_mode):
            self._record(path, name, b"l", status, entry.link() or b"")
        elif status.st_nlink > 1 and (first := self._first(status, path)) != path:
            self._record(path, name, b"h", status, first)
        else:
            fd = entry.open()
            if fd < 0:
                return
            try:
                status = os.fstat(fd)
                digest = self._known.find(status) or self._known.read(fd)
                self._record(path, name, b"f", status, digest)
                self._attributes(fd)
            finally:
                os.close(fd)

    def _first(self, status: os.stat_result, path: bytes) -> bytes:
        return self._links.setdefault((status.st_dev, status.st_ino), path)

    def _record(
        self, path: bytes, name: bytes, kind: bytes, status: os.stat_result, what: bytes = b""
    ) -> None:
        mode = stat.S_IMODE(status.st_mode) if self._keeps_mode and kind != b"l" else 0
        owner = (0, 0) if self._owner_of is None else self._owner_of(path, status)
        self.add(name, kind, b"%o %d %d" % (mode, *owner), what)

    def _attributes(self, fd: int) -> None:
        for name, value in sorted(xattrs.read(fd).items()):
            self.add(name, value)


class _Filter:
    """Patterns, as they are carried down a walk.

    Args:
        base: where the walk begins, as the patterns see it.
    """

    def __init__(self, rules: IgnoreRules, base: bytes) -> None:
        self._rules = rules
        self._base = os.fsdecode(base)
        self._here = [(b"", _state(rules, self._base))]  # directories that the walk is in
        self._last = (b"", self._here[0][1])

    def hides(self, path: bytes) -> bool:
        """Tell whether a path and all below it is left out."""
        name = self._name(path)
        state = self._rules.enter(self._here[-1][1], name)
        self._last = (path, state)
        return state.is_excluded and not self._rules.may_return(state, name)

    def excludes(self, path: bytes, is_directory: bool) -> bool:
        """Tell whether the path is left out that `hides` was just asked for."""
        if is_directory:
            self._here.append(self._last)
        return self._last[1].is_excluded

    def leave(self, path: bytes) -> None:
        if path:
            self._here.pop()

    def _name(self, path: bytes) -> str:
        name = os.fsdecode(path)
        return f"{self._base}/{name}" if self._base else name


def _filters(*found: tuple[IgnoreRules | None, bytes]) -> list[_Filter]:
    return [_Filter(rules, base) for rules, base in found if rules]


def _state(rules: IgnoreRules, path: str) -> State:
    """Return what patterns say about a path, by all directories on the way."""
    state = rules.root
    parts = path.split("/") if path else []
    for count in range(1, len(parts) + 1):
        state = rules.enter(state, "/".join(parts[:count]))
    return state


def _is_ignored(rules: IgnoreRules | None, path: bytes, is_directory: bool) -> bool:
    """Tell whether a path, without links, is as if it were not there.

    A directory is there as soon as something below it may be.
    """
    if not rules or not path:
        return False
    name = os.fsdecode(path)
    state = _state(rules, name)
    return state.is_excluded and not (is_directory and rules.may_return(state, name))


def select(
    root_fd: int,
    step: CopyStep,
    ignore: IgnoreRules | None = None,
    added: Callable[[str], Source] | None = None,
) -> Selection:
    """Find the sources of a COPY or ADD.

    Args:
        root_fd: of the context or tree that they are in; it stays open.
        ignore: of a context, what its .dockerignore leaves out.
        added: makes a source of a URL, for ADD.

    Raises:
        RlessError: there is no such file, a URL cannot be had, or a pattern is malformed.
    """
    if step.checksum and not any(map(is_remote, step.sources)):
        raise RlessError("ADD --checksum: this is only for URLs", "verify the file in a RUN", 1)
    exclude = IgnoreRules(list(step.exclude)) if step.exclude else None
    finder = _Finder(root_fd, step, ignore, exclude)
    sources: list[Source] = []
    for text in step.sources:
        if not is_remote(text):
            sources += finder.find(text)
        elif added is None or not step.add:
            raise RlessError(f"COPY {escape(text)[:200]}: COPY takes no URL", "use ADD", 1)
        else:
            sources.append(added(text))
    for name, content in step.files:
        last = os.fsencode(name).rpartition(b"/")[2]
        if last in (b"", b".", b".."):
            raise RlessError(f"{escape(name)}: this is no name of a file", None, 1)
        sources.append(Source(last, content=content))
    kept = step.origin.kind != "context" and not step.owner
    found = Selection(
        root_fd,
        sources,
        ignore,
        exclude,
        keeps_owner=kept,
        keeps_mode=not modes.is_octal(step.mode),
        excluded=step.exclude,
    )
    found.warnings += finder.warnings
    return found


def select_tree(root_fd: int, path: str, ignore: IgnoreRules | None = None) -> Selection:
    """Select one file or directory, with all that is in it: the source of a bind mount.

    Raises:
        RlessError: there is none.
    """
    found = tree.find(root_fd, tree.cleaned(path))
    if found.status is None or _is_ignored(ignore, found.path, found.is_directory):
        raise RlessError(f"{tree.shown(tree.cleaned(path))}: no such file or directory", None, 1)
    name = found.path.rpartition(b"/")[2]
    return Selection(root_fd, [Source(name, found.path, found.is_directory)], ignore)


class _Match(NamedTuple):
    """Where a name has led to so far.

    Attributes:
        named: the path with links, from where --parents begins. found: the same without links.
        kept: as of `Source`.
    """

    named: bytes
    found: tree.Found
    kept: tuple[tuple[bytes, bytes], ...] = ()


class _Finder:
    """Finds sources by name in one tree."""

    def __init__(
        self, root_fd: int, step: CopyStep, ignore: IgnoreRules | None, exclude: IgnoreRules | None
    ) -> None:
        self._root_fd = root_fd
        self._step = step
        self._ignore = ignore
        self._exclude = exclude
        self.warnings: list[str] = []

    def find(self, text: str) -> list[Source]:
        """Return the sources that one word means."""
        before, pivot, after = text.partition("/./") if self._step.parents else ("", "", text)
        if not pivot:
            before, after = "", text
        start = tree.find(self._root_fd, tree.cleaned(before))
        matches = [_Match(b"", start)]
        parts = [part for part in tree.cleaned(after).split(b"/") if part]
        is_pattern = False
        if self._step.parents and parts and parts[-1] == os.fsencode(_DIRECTORIES):
            parts.pop()  # all that is in a directory is what the directory gives
        for part in parts:
            name = os.fsdecode(part)
            step: Callable[[_Match], Iterator[_Match]]
            if self._step.parents and name == _DIRECTORIES:
                step, is_pattern = self._directories, True
            elif has_wildcards(name):
                step, is_pattern = self._matching(name), True
            else:
                step = self._named(part)
            matches = [found for match in matches for found in step(match)]
        unique = {match.named: match for match in matches if self._is_there(match.found)}
        if not unique and (self._step.like_cp or not is_pattern):
            raise self._missing(text)
        if not unique:
            self.warnings.append(f"{escape(text)}: nothing has such a name: nothing is copied")
        sources = (self._source(unique[named], is_pattern) for named in sorted(unique))
        return [source for source in sources if source is not None]

    def _is_there(self, found: tree.Found) -> bool:
        """Tell whether a file is; a directory that is left out is where something below is not."""
        if found.status is None or not found.is_directory or not self._ignore:
            return found.status is not None
        if not _state(self._ignore, os.fsdecode(found.path)).is_excluded:
            return True
        source = Source(b"", found.path, is_directory=True)
        below = Selection(self._root_fd, [source], self._ignore).entries(source)
        return any(path for path, _ in below)

    def _source(self, match: _Match, is_pattern: bool) -> Source | None:
        name = match.named.rpartition(b"/")[2]
        is_directory = match.found.is_directory
        if self._step.parents:
            kept = match.kept
            if is_directory and match.named:
                kept = (*kept, (match.named, match.found.path))
            if _is_ignored(self._exclude, match.named, is_directory):
                return None
            return Source(name, match.found.path, is_directory, kept, None, match.named)
        if (is_pattern or not is_directory) and _is_ignored(self._exclude, name, is_directory):
            return None
        below = b"" if is_directory else name
        return Source(name, match.found.path, is_directory, (), None, below)

    def _missing(self, text: str) -> RlessError:
        what = f"{self._step.text.removeprefix(ONBUILD).partition(' ')[0]} {escape(text)}"
        where = "the build's context" if self._step.origin.kind == "context" else "its tree"
        found = tree.find(self._root_fd, tree.cleaned(text.replace("/./", "/")))
        if found.status is not None:
            return RlessError(
                f"{what}: .dockerignore leaves it out", "add a line with ! and its name there", 1
            )
        return RlessError(f"{what}: there is no such file in {where}", None, 1)

    # -- one component of a name ------------------------------------------------------------------

    def _named(self, part: bytes) -> Callable[[_Match], Iterator[_Match]]:
        def step(match: _Match) -> Iterator[_Match]:
            found = self._enter(match, part)
            if found is not None:
                yield found

        return step

    def _matching(self, pattern: str) -> Callable[[_Match], Iterator[_Match]]:
        try:
            wildcard = Wildcard(pattern)
        except BadPatternError as error:
            raise RlessError(
                f"{escape(pattern)}: malformed pattern: {error}", "quote a [ or \\ by a \\", 1
            ) from error

        def step(match: _Match) -> Iterator[_Match]:
            for name in self._names(match):
                if wildcard.matches(os.fsdecode(name)):
                    found = self._enter(match, name)
                    if found is not None:
                        yield found

        return step

    def _directories(self, match: _Match) -> Iterator[_Match]:
        """Yield a directory and all below it; links to directories are not entered."""
        if not match.found.is_directory:
            return
        todo = [match]
        while todo:
            here = todo.pop()
            yield here
            for name in self._names(here):
                path = tree.join(here.found.path, name)
                below = self._enter(here, name)
                if below is not None and below.found.is_directory and below.found.path == path:
                    todo.append(below)

    def _names(self, match: _Match) -> list[bytes]:
        if not match.found.is_directory:
            return []
        with tree.opened(self._root_fd, match.found.path) as fd:
            return sorted(map(os.fsencode, os.listdir(fd)))

    def _enter(self, match: _Match, name: bytes) -> _Match | None:
        """Return what has a name in a directory; None: nothing, or it is as if not there."""
        if not match.found.is_directory:
            return None
        path = tree.join(match.found.path, name)
        if _is_ignored(self._ignore, path, is_directory=True):
            return None  # it is not even looked at
        found = tree.find(self._root_fd, path)
        if found.status is None or _is_ignored(self._ignore, found.path, found.is_directory):
            return None
        kept = match.kept
        if self._step.parents and match.named:
            kept = (*kept, (match.named, match.found.path))
        return _Match(tree.join(match.named, name), found, kept)
