"""What a source of ADD or a context names: a URL, a git repository, or a path.

    https://host/file                                 a URL
    https://host/repo.git, git@host:path, ssh://, git://   a repository
        #REF:SUBDIR  or  ?ref= &tag= &branch= &commit= &subdir= &submodules= &keep-git-dir=

Source: Docker, "Dockerfile reference", ADD; BuildKit util/gitutil, frontend/dockerfile/dfgitutil.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from rootless.frozen import Frozen, replace
from rootless.errors import RlessError, escape

if TYPE_CHECKING:
    from typing import TypeAlias

    Place: TypeAlias = "Url | Repository"

_SCHEMES = ("http", "https", "git", "ssh")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HELPER = re.compile(r"[a-z0-9-]+::")  # git's, as ext::COMMAND
_SCP = re.compile(r"git@([A-Za-z0-9.-]+):(.+)")
_COMMIT = re.compile(r"[0-9a-f]{4,64}")
_TRUE, _FALSE = ("", "1", "t", "true"), ("0", "f", "false")


class Url(Frozen):
    """A file behind an http or https URL.

    Attributes:
        name: of its path, for a destination that is a directory.
    """

    text: str
    name: str


class Repository(Frozen):
    """A commit of a git repository, or a directory of it.

    Attributes:
        url: for git, without what follows it here.
        ref: a branch, a tag, a full name (refs/...) or a commit; "": the default branch.
        subdir: "": all of it.
        commit: what it must be: a commit or the beginning of one; "": any.
        submodules: these too. keep_git_dir: .git too; None: nothing is said.
    """

    url: str
    ref: str = ""
    subdir: str = ""
    commit: str = ""
    submodules: bool = True
    keep_git_dir: bool | None = None


def is_remote(text: str) -> bool:
    """Tell whether a text is no path; `parse` says what it is, or refuses it."""
    return bool(_SCHEME.match(text) or _SCP.match(text) or text.startswith(("ext::", "fd::")))


def parse(text: str) -> Place:
    """Return what a text names that `is_remote`.

    Raises:
        RlessError: something that is never fetched, as a file of the host.
    """
    if any(char < "!" or char == "\x7f" for char in text):
        raise RlessError(f"{escape(text)[:200]}: this is no URL", "write a blank as %20", 1)
    if _SCP.match(text):
        return _repository(text, "")
    scheme = (_SCHEME.match(text) or [""])[0].partition(":")[0].lower()
    if scheme not in _SCHEMES or _HELPER.match(text):
        raise RlessError(
            f"{escape(text)[:200]}: only http, https, ssh and git are fetched from", None, 1
        )
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or host.startswith("-"):
        raise RlessError(f"{escape(text)[:200]}: this is no URL", None, 1)
    if scheme in ("git", "ssh") or parts.path.endswith(".git"):
        bare = urlunsplit((scheme, parts.netloc, parts.path, "", ""))
        return _repository(bare, parts.query, parts.fragment)
    name = unquote(parts.path).rstrip("/").rpartition("/")[2]
    if name in ("", ".", "..") or "\0" in name:
        name = "__unnamed__"
    return Url(urlunsplit((*parts[:4], "")), name)


def parse_repository(text: str) -> Repository:
    """Return what the URL of a submodule names: a repository, whatever its name ends in.

    Raises:
        RlessError: it is none that is fetched from.
    """
    if not is_remote(text):
        raise RlessError(f"{escape(text)[:200]}: a path of the host is not fetched from", None, 1)
    found = parse(text)
    return found if isinstance(found, Repository) else Repository(found.text.partition("?")[0])


def parse_context(text: str) -> Place:
    """Return what a context names; as `parse`, with `github.com/...` for a repository there."""
    if text.startswith("github.com/"):
        head, mark, rest = _split(text)
        text = f"https://{head if head.endswith('.git') else f'{head}.git'}{mark}{rest}"
    return parse(text)


def _split(text: str) -> tuple[str, str, str]:
    """Split a text before its query or fragment."""
    found = re.search(r"[?#]", text)
    return (text[: found.start()], found[0], text[found.end() :]) if found else (text, "", "")


def _repository(url: str, query: str, fragment: str = "") -> Repository:
    if _SCP.match(url):
        url, hash_, fragment = url.partition("#")
        url, _, query = url.partition("?")
    ref, _, subdir = fragment.partition(":")
    found = _with_query(Repository(url, unquote(ref), unquote(subdir)), query)
    if found.ref.startswith("-") or ".." in found.ref or not _is_ref(found.ref):
        raise RlessError(f"{escape(found.ref)[:200]}: this is no name of a branch or tag", None, 1)
    return found


def _with_query(found: Repository, query: str) -> Repository:
    """Return a repository with what its query says.

    Raises:
        RlessError: a key is unknown or stands twice, a value is wrong, or two contradict.
    """
    given: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        key = "commit" if key == "checksum" else key
        if given.setdefault(key, value) != value:
            raise _wrong(key, "it has two values")
    refs = {found.ref} - {""}
    for key, value in given.items():
        if key in ("submodules", "keep-git-dir"):
            if value.lower() not in (*_TRUE, *_FALSE):
                raise _wrong(key, f"{value} is neither true nor false")
            if key == "submodules":
                found = replace(found, submodules=value.lower() in _TRUE)
            else:
                found = replace(found, keep_git_dir=value.lower() in _TRUE)
        elif not value:
            raise _wrong(key, "it has no value")
        elif key in ("ref", "tag", "branch"):
            prefix = {"tag": "refs/tags/", "branch": "refs/heads/"}.get(key, "")
            refs.add(prefix + value.removeprefix(prefix))
        elif key == "subdir":
            if found.subdir not in ("", value):
                raise _wrong(key, "it says otherwise than the fragment")
            found = replace(found, subdir=value)
        elif key == "commit":
            if not _COMMIT.fullmatch(value):
                raise _wrong(key, f"{value} is no commit")
            found = replace(found, commit=value)
        else:
            raise _wrong(key, "it is unknown")
    if len(refs) > 1:
        raise _wrong("ref", f"only one of {' and '.join(sorted(refs))} can be meant")
    return replace(found, ref=refs.pop() if refs else "")


def _is_ref(name: str) -> bool:
    """Tell whether git could have such a name (git-check-ref-format(1)), as far as it matters."""
    return not any(char < "!" or char in "\x7f~^:?*[\\" for char in name)


def _wrong(key: str, why: str) -> RlessError:
    return RlessError(f"git repository: ?{escape(key)[:50]}=: {escape(why)[:200]}", None, 1)
