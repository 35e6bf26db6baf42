"""A commit of a git repository, as a directory.

    find       which commit a ref means: asked for without fetching anything
    check_out  the files of a commit, with those of its submodules

Both are done in a child, in which `walls` hold. Only the commit is fetched (depth 1) where the
server can do that. Redirects are followed here, before git, which follows none: so a password never
goes to whoever is redirected to, and https never becomes http. Files get the time of the commit.

Source: BuildKit source/git; git-fetch(1), gitmodules(5), gitprotocol-http(5).
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rootless.engine.build import tree
from rootless.engine.build.remote import credentials, places
from rootless.engine.build.remote.archive import BOMB_MEMBERS
from rootless.engine.build.remote.walls import PLACE, Git, agent_path
from rootless.engine.build.ssh_agent import Proxy
from rootless.engine.idmap_policy import build_single
from rootless.errors import RlessError, escape
from rootless.image.layer.layers import Caller
from rootless.image.model import limits
from rootless.image.registry import http
from rootless.linux.idmap import call_in_userns
from rootless.linux.walk import walk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    from rootless.engine.build.remote.places import Repository
    from rootless.linux.idmap import IdMap

    Modules: TypeAlias = "dict[str, dict[str, str]]"

_TREE = "tree"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHORT = re.compile(r"[0-9a-f]{4,40}")
_INFO = "/info/refs"
_SECONDS = limits.transfer_seconds(limits.GIB)
_DEPTH = 10  # of submodules in submodules
_MODULES = 1000
_WITHOUT = "use ?submodules=false"
_HEADS = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")


class Checkout:
    """A repository that is looked at, and then fetched, for one build.

    Args:
        directory: an empty one, for all that comes.
        secrets: of --secret; see `credentials`. agent: the socket of an ssh agent, "" for none.
    """

    def __init__(
        self, place: Repository, directory: str, secrets: Mapping[str, bytes], agent: str = ""
    ) -> None:
        self._place = place
        self._directory = directory
        self._secrets = secrets
        self._agent = agent
        self._count = 0
        self._name = ""  # the full one of the ref, where it is known

    def find(self) -> str:
        """Return the commit that is meant.

        Raises:
            RlessError: the repository cannot be reached, or has no such commit.
        """
        place = self._place
        if _COMMIT.fullmatch(place.ref):
            commit = place.ref
        elif not place.ref and _COMMIT.fullmatch(place.commit):
            commit = place.commit
        else:
            commit, self._name = self._call("find")
        if not commit.startswith(place.commit):
            raise RlessError(
                f"{shown(place.url)} has {commit} as {escape(place.ref) or 'HEAD'}, "
                f"not {escape(place.commit)}",
                None,
                1,
            )
        return commit

    def fetch(self, commit: str, *, keep_git_dir: bool = False) -> int:
        """Fetch a commit; return its files, or those in `subdir`, as a descriptor.

        Raises:
            RlessError: it cannot be had, is far too large, or has no such directory.
        """
        work, _ = self._call("check_out", self._name, commit, keep_git_dir)
        root_fd = os.open(f"{work}/{_TREE}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if not self._place.subdir:
            return root_fd
        try:
            found = tree.find(root_fd, tree.cleaned(self._place.subdir))
            if not found.is_directory:
                raise RlessError(f"{shown(self._place.url)} has no directory "
                                 f"{escape(self._place.subdir)}", None, 1)  # fmt: skip
            return tree.open_directory(root_fd, found.path)
        finally:
            os.close(root_fd)

    def _call(self, task: str, *args: object) -> Any:
        self._count += 1
        work = f"{self._directory}/{self._count}"
        os.mkdir(work, 0o700)
        idmap = build_single(0, 0)
        proxy = None
        work_fd = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._agent and not self._place.url.startswith(("http", "git:")):
                proxy = Proxy(agent_path(work_fd), self._agent)
            found = call_in_userns(
                idmap, _work, task, self._place, work, self._secrets, proxy is not None, idmap,
                Caller(idmap), args,
            )  # fmt: skip
        except RlessError as error:
            error.exit_code = 1
            raise
        finally:
            os.close(work_fd)
            if proxy is not None:
                proxy.close()
        return found if task == "find" else (work, found)


def shown(url: str) -> str:
    """Return the URL of a repository for messages."""
    return http.shown(url) if "://" in url else escape(url)[:200]


def _work(
    task: str,
    place: Repository,
    work: str,
    secrets: Mapping[str, bytes],
    has_agent: bool,
    idmap: IdMap,
    caller: Caller,
    args: tuple[Any, ...],
) -> Any:
    """Do a task, in a child of the build."""
    caller.bind_child()
    git = Git(work, has_agent)
    try:
        worker = _Worker(git, secrets, urlsplit(place.url).netloc)
        if task == "find":
            return worker.find(place)
        return worker.check_out(place, *args)
    except RlessError as error:
        raise error.within(shown(place.url)) from error


class _Worker:
    def __init__(self, git: Git, secrets: Mapping[str, bytes], main: str) -> None:
        self._git = git
        self._secrets = secrets
        self._main = main  # whom a secret without a host is for
        self._modules = 0
        self._members = 0
        self._bytes = 0

    # -- servers ---------------------------------------------------------------------------------

    def _reach(self, url: str) -> str:
        """Return the URL that git is to use, after redirects; its password is configured."""
        if not url.startswith(("http://", "https://")):
            self._git.configure({})
            return url
        general = urlsplit(url).netloc == self._main
        bare, authorization = credentials.for_git(url, self._secrets, general=general)
        client = http.Client(plain=True)
        deadline = time.monotonic() + limits.DOCUMENT_SECONDS
        headers = {"Authorization": authorization} if authorization else {}
        try:
            ask = f"{bare.rstrip('/')}{_INFO}?service=git-upload-pack"
            response = client.get(ask, headers, deadline=deadline)
            response.close()
        finally:
            client.close()
        if response.status in (401, 403):
            raise RlessError(
                f"the server answers {response.status}",
                "a secret GIT_AUTH_TOKEN is sent as the password",
                1,
            )
        if not 200 <= response.status < 300:
            raise RlessError(f"the server answers {response.status}", None, 1)
        reached, info, _ = response.url.partition(f"{_INFO}?")
        if not info:
            raise RlessError("the server redirects to what is no repository", None, 1)
        is_same = urlsplit(reached)[:2] == urlsplit(bare)[:2]
        origin = "{0}://{1}".format(*urlsplit(reached)[:2])
        self._git.configure({origin: authorization} if authorization and is_same else {})
        return reached

    # -- commits ---------------------------------------------------------------------------------

    def find(self, place: Repository) -> tuple[str, str]:
        """Return the commit of a ref, and the full name of that, "" for none."""
        url = self._reach(place.url)
        ref = place.ref or "HEAD"
        patterns = [ref] if ref == "HEAD" else _names(ref)
        refs = {}
        said = self._git("ls-remote", "--", url, *patterns).decode("utf-8", "replace")
        for line in said.splitlines():
            commit, _, name = line.partition("\t")
            if _COMMIT.fullmatch(commit):
                refs[name] = commit
        for name in patterns:
            if name in refs:
                return refs[name], name.removesuffix("^{}")
        if _SHORT.fullmatch(ref):
            self._begin(_TREE)
            self._git("fetch", "-q", "--no-tags", "--", url, *_HEADS, cwd=_TREE, seconds=_SECONDS)
            found = self._git("rev-parse", "--verify", "-q", f"{ref}^{{commit}}", cwd=_TREE)
            return found.decode().strip(), ""
        raise RlessError(f"there is no branch or tag {escape(ref)}", None, 1)

    def _begin(self, directory: str, commit: str = "") -> None:
        form = ["--object-format=sha256"] if len(commit) == 64 else []
        self._git("init", "-q", "--template=", *form, directory)

    def _fetch(self, url: str, name: str, commit: str, directory: str) -> None:
        """Fetch a commit by the name that it has, by itself, or with all that there is.

        Servers differ in what they give out: a commit without a name, one without those before.
        """
        tries: list[tuple[str, ...]] = [("--depth=1", "--", url, commit), ("--", url, *_HEADS)]
        if name:
            kept = re.sub("^refs/heads/", "refs/remotes/origin/", name)
            place = f"+{name}:{kept}" if name.startswith("refs/") else name
            tries.insert(0, ("--depth=1", "--", url, place))
        failure: RlessError | None = None
        for words in tries:
            try:
                self._git("fetch", "-q", "--no-tags", "-u", *words, cwd=directory, seconds=_SECONDS)
            except RlessError as error:
                failure = error
            if self._has(commit, directory):
                return
        raise failure or RlessError(f"the commit {commit} is not there", None, 1)

    def _has(self, commit: str, directory: str) -> bool:
        try:
            self._git("cat-file", "-e", f"{commit}^{{commit}}", cwd=directory)
        except RlessError:
            return False
        return True

    # -- files -----------------------------------------------------------------------------------

    def check_out(self, place: Repository, name: str, commit: str, keep_git_dir: bool) -> None:
        """Make the files of a commit in `_TREE`."""
        git_dirs: list[str] = []
        self._check_out(place, name, commit, _TREE, 0, git_dirs)
        said = self._git("log", "-1", "--format=%ct", commit, cwd=_TREE).strip()
        seconds = int(said) if said.isdigit() and len(said) < 12 else 0
        for number, directory in enumerate(git_dirs):
            if keep_git_dir:
                for name in ("FETCH_HEAD", "ORIG_HEAD"):
                    if os.path.lexists(f"{directory}/.git/{name}"):
                        os.unlink(f"{directory}/.git/{name}")
            else:
                os.rename(f"{directory}/.git", f"git-{number}")
        _set_times(_TREE, seconds)

    def _check_out(
        self,
        place: Repository,
        name: str,
        commit: str,
        directory: str,
        depth: int,
        git_dirs: list[str],
    ) -> None:
        url = self._reach(place.url)
        self._begin(directory, commit)
        self._fetch(url, name, commit, directory)
        links = self._measure(commit, directory)
        self._git("checkout", "-q", "--force", "--detach", commit, cwd=directory, seconds=_SECONDS)
        bare = credentials.without(place.url)
        self._git("config", "remote.origin.url", bare, cwd=directory)
        git_dirs.append(directory)
        if not place.submodules or not links:
            return
        if depth >= _DEPTH:
            raise RlessError(f"submodules in submodules, {depth} deep", _WITHOUT, 1)
        modules = self._read_modules(commit, directory)
        for path, pinned in links.items():
            found = modules.get(path, {})
            if found.get("update") == "none":
                continue
            self._modules += 1
            if self._modules > _MODULES:
                raise RlessError(f"more than {_MODULES} submodules", _WITHOUT, 1)
            try:
                if not found.get("url"):
                    raise RlessError("it has no URL in .gitmodules", _WITHOUT, 1)
                _check_directory(directory, path)
                below = places.parse_repository(_joined(bare, found["url"]))
                self._check_out(below, "", pinned, f"{directory}/{path}", depth + 1, git_dirs)
            except RlessError as error:
                raise error.within(f"submodule {escape(path)}") from error

    def _measure(self, commit: str, directory: str) -> dict[str, str]:
        """Refuse a tree that is far too large; return the paths and commits of its submodules."""
        links = {}
        rest = b""
        room = os.statvfs(PLACE)
        room_bytes = min(limits.LAYER_BYTES, room.f_bavail * room.f_frsize)
        words = ("ls-tree", "-r", "-l", "-z", "--full-tree", commit)
        for chunk in self._git.stream(*words, cwd=directory, seconds=_SECONDS):
            *lines, rest = (rest + chunk).split(b"\0")
            self._members += len(lines)
            for line in lines:
                head, _, path = line.partition(b"\t")
                mode, kind, digest, size = head.split()
                if kind == b"commit":
                    links[os.fsdecode(path)] = digest.decode()
                elif size.isdigit():
                    self._bytes += int(size)
            if self._members > BOMB_MEMBERS:
                raise RlessError(f"it has more than {BOMB_MEMBERS} files", None, 1)
            if self._bytes > room_bytes:
                raise RlessError("there is no room for its files", limits.NO_ROOM, 1)
        return links

    def _read_modules(self, commit: str, directory: str) -> Modules:
        """Return what .gitmodules says, by path."""
        try:
            said = self._git("config", "-z", f"--blob={commit}:.gitmodules", "--get-regexp",
                             r"^submodule\..*\.(path|url|update)$", cwd=directory)  # fmt: skip
        except RlessError:
            return {}
        named: Modules = {}
        for record in said.decode("utf-8", "surrogateescape").split("\0"):
            key, _, value = record.partition("\n")
            name, _, field = key.removeprefix("submodule.").rpartition(".")
            named.setdefault(name, {})[field] = value
        return {found["path"]: found for found in named.values() if "path" in found}


def _check_directory(directory: str, path: str) -> None:
    """Refuse a submodule where there is no directory, or one behind a link.

    Raises:
        RlessError: so it is.
    """
    root_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(tree.open_directory(root_fd, os.fsencode(path)))
    finally:
        os.close(root_fd)


def _names(ref: str) -> list[str]:
    """Return the full names that a ref can mean, the first one first; as git-checkout does."""
    if ref == "HEAD":
        return [ref]
    if ref.startswith("refs/"):
        return [f"{ref}^{{}}", ref] if ref.startswith("refs/tags/") else [ref]
    return [f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/{ref}"]


def _joined(base: str, url: str) -> str:
    """Return the URL of a submodule, which may be relative to that of its repository."""
    if not url.startswith(("./", "../")):
        return url
    head, mark, path = base.partition(":") if "://" not in base else ("", "", "")
    if "://" in base:
        parts = urlsplit(base)
        head, mark, path = f"{parts.scheme}://{parts.netloc}", "", parts.path
    joined = posixpath.normpath(posixpath.join("/", path, url))
    return f"{head}{mark}{joined if '://' in base else joined.lstrip('/')}"


def _set_times(directory: str, seconds: int) -> None:
    times = (seconds * 1_000_000_000, seconds * 1_000_000_000)
    root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for entry in walk(root_fd):
            if entry.leaving:
                os.utime(entry.fd, ns=times)
            elif not stat.S_ISDIR(entry.status.st_mode):
                os.utime(entry.name, ns=times, dir_fd=entry.dir_fd, follow_symlinks=False)
    finally:
        os.close(root_fd)
