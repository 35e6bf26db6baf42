"""Contexts: the directories that COPY, ADD and bind mounts take files from.

A context is a directory, held by its descriptor: what has its name later does not matter. It is
never copied or packed; steps look up what they name. Its Dockerfile and ignore file are hostile as
all of it: they are regular files of at most 1 MiB, looked up beneath the directory (security class 71).
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from rootless.dockerfile.ignore import SIZE_LIMIT, IgnoreRules
from rootless.engine.build import tree
from rootless.errors import RlessError, describe, escape

if TYPE_CHECKING:
    from types import TracebackType

DOCKERFILES = ("Dockerfile", "Containerfile", "dockerfile")
_IGNORE_FILES = (".dockerignore", ".containerignore")
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Context:
    """A directory that a build takes files from; a `with` block closes it.

    Attributes:
        fd: the directory. ignore: what its ignore file leaves out, None without one.
        is_fetched: it is no directory of the caller's, and gone after the build.
        dockerfile: the text of one that came without a context, else None.
        time: of its commit, in seconds since 1970; None: it is no git repository.
    """

    def __init__(
        self, fd: int, ignore: IgnoreRules | None = None, *, is_fetched: bool = False
    ) -> None:
        self.fd = fd
        self.ignore = ignore
        self.is_fetched = is_fetched
        self.dockerfile: bytes | None = None
        self.time: int | None = None

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_context(path: str, dockerfile: str | None = None) -> Context:
    """Open a directory as a context.

    Args:
        path: of the caller; a link to a directory is followed.
        dockerfile: of the main context, as for `read_dockerfile`: the ignore file beside it comes
            first.

    Raises:
        RlessError: there is no such directory, or its ignore file is wrong.
    """
    try:
        fd = os.open(path, _PATH)
    except NotADirectoryError as error:
        raise RlessError(f"{escape(path)}: a context must be a directory") from error
    except OSError as error:
        raise RlessError(f"cannot open the context: {describe(error)}") from error
    try:
        return Context(fd, _read_ignore(fd, dockerfile))
    except BaseException:
        os.close(fd)
        raise


def read_dockerfile(context: Context | None, path: str = "") -> bytes:
    """Return the text of the Dockerfile.

    Args:
        context: where it is looked for by its usual names.
        path: of `--file`, as the caller sees it, or beneath a context that was fetched; "-":
            standard input; "": the usual names.

    Raises:
        RlessError: there is none, or it is no regular file of at most 1 MiB.
    """
    if path == "-":
        return _all_of(os.dup(0), "the Dockerfile on standard input")
    if path and context is not None and context.is_fetched and context.dockerfile is None:
        data = tree.read_text(context.fd, tree.cleaned(path), SIZE_LIMIT)
        if data is None:
            raise RlessError(f"{escape(path)}: there is no such Dockerfile in the context")
        return data
    if path:
        try:
            return _read_file(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise RlessError(f"{escape(path)}: there is no such Dockerfile") from error
    if context is not None and context.dockerfile is not None:
        return context.dockerfile
    found = None if context is None else _usual(context.fd)
    if found is None:
        raise RlessError("there is no Dockerfile in the context", "write one, or name it by --file")
    return found[1]


def hide_itself(context: Context, dockerfile: str) -> None:
    """Leave the Dockerfile and the ignore file out of a context, where the ignore file says so.

    Docker's clients send these two all the same, and nothing else that is ignored.

    Raises:
        RlessError: the ignore file is wrong.
    """
    rules = _read_ignore(context.fd, None)
    names = [*([dockerfile] if dockerfile else DOCKERFILES), *_IGNORE_FILES]
    hidden = [name for name in names if rules is not None and rules.excludes(name)]
    if hidden:
        context.ignore = IgnoreRules(hidden)


def _usual(fd: int) -> tuple[bytes, bytes] | None:
    """Return (name, text) of the Dockerfile that has one of the usual names."""
    for name in map(os.fsencode, DOCKERFILES):
        data = tree.read_text(fd, name, SIZE_LIMIT)
        if data is not None:
            return name, data
    return None


def _read_ignore(fd: int, dockerfile: str | None) -> IgnoreRules | None:
    data = None
    if dockerfile and dockerfile != "-":
        try:
            # Whoever wrote the context may have written this too: no link is followed.
            data = _read_file(f"{dockerfile}.dockerignore", os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            pass
    names = [*_IGNORE_FILES]
    if dockerfile == "" and (usual := _usual(fd)) is not None:
        names.insert(0, f"{os.fsdecode(usual[0])}.dockerignore")
    for name in names:
        if data is None:
            data = tree.read_text(fd, os.fsencode(name), SIZE_LIMIT)
    return None if data is None else IgnoreRules.parse(data)


def _read_file(path: str, flags: int) -> bytes:
    try:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RlessError(f"cannot read {escape(path)}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RlessError(f"{escape(path)}: not a regular file")
    return _all_of(fd, escape(path))


def _all_of(fd: int, what: str) -> bytes:
    with open(fd, "rb") as file:
        data = file.read(SIZE_LIMIT + 1)
    if len(data) > SIZE_LIMIT:
        raise RlessError(f"{what}: larger than {SIZE_LIMIT >> 10} KiB")
    return data
