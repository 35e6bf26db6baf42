"""RUN --mount: what is mounted for one RUN, and is no part of the image.

    bind     files of the context, a stage or an image: read-only, or below an overlay whose upper
             directory is thrown away
    cache    a directory that lives on in the store (`caches`)
    tmpfs    a new one
    secret   a file in a tmpfs of the step's mount namespace, or a variable
    ssh      a socket there, whose other side passes on to the caller's agent what it may be asked

A source is looked up beneath the root that it is in, through no link out of it, and it is that very
file or directory that is mounted, at a place of ours (security class 53). The runtime binds it from
there. Secrets are in memory only, and in no argument, key or file of the store (class 56). All of
it ends with the step's mount namespace (class 57).
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from typing import TYPE_CHECKING

from rootless import rootfs
from rootless.engine.build import caches
from rootless.engine.request import Mount as SpecMount
from rootless.errors import RlessError, SyscallError, escape
from rootless.linux import mount as api
from rootless.linux.call import AT_FDCWD
from rootless.linux.openat2 import openat2
from rootless.linux.walk import walk

if TYPE_CHECKING:
    from rootless.dockerfile.ignore import IgnoreRules
    from rootless.dockerfile.mounts import Mount
    from rootless.engine.build.messages import Say
    from rootless.engine.build.run import StepEnvironment
    from rootless.engine.build.ssh_agent import Proxy
    from rootless.engine.build.steps import RunStep
    from rootless.rootfs import Mounted

_SECRETS = "size=16m,nr_inodes=256,mode=700"
_SECRET_LIMIT = 500 << 10  # bytes, BuildKit's
_READ_ONLY = api.MOUNT_ATTR_RDONLY | api.MOUNT_ATTR_NODEV
_AGENT = "/run/buildkit/ssh_agent"


class Mounts:
    """The mounts of one RUN.

    Attributes:
        wanted: for the config, in their order. env: variables, as NAME=VALUE.
    """

    def __init__(self, step: RunStep, environment: StepEnvironment, say: Say) -> None:
        self.wanted: list[SpecMount] = []
        self.env: list[str] = []
        self._step = step
        self._environment = environment
        self._say = say
        self._overlays: list[Mounted] = []
        self._caches: list[caches.Cache] = []
        self._proxies: list[Proxy] = []
        self._private = False

    def prepare(self) -> None:
        """Make everything ready; `close` undoes it, whether this fails or not.

        Raises:
            RlessError: a source, secret or agent is missing, or cannot be mounted.
        """
        self._take_caches()
        for index, mount in enumerate(self._step.mounts):
            try:
                getattr(self, f"_{mount.type}")(index, mount)
            except RlessError as error:
                what = mount.target or mount.id
                raise error.within(f"--mount=type={mount.type} {escape(what)}") from error
            except OSError as error:
                raise RlessError(
                    f"--mount=type={mount.type} {escape(mount.target or mount.id)}: "
                    f"{error.strerror}"
                ) from error

    def close(self) -> None:
        """End what was begun, and let go of the caches."""
        for proxy in self._proxies:
            proxy.close()
        for mounted in self._overlays:
            rootfs.unmount(mounted)
        for cache in self._caches:
            cache.close()
        if self._private:
            api.umount(self._path("private"))
        self._proxies, self._overlays, self._caches, self._private = [], [], [], False

    def _path(self, name: str) -> str:
        return f"{self._environment.directory}/{name}"

    def _target(self, path: str) -> str:
        """Return a target as an absolute path of the container.

        Raises:
            RlessError: it is the root.
        """
        target = posixpath.normpath(posixpath.join("/", self._step.directory, path))
        target = "/" + target.lstrip("/")
        if target == "/":
            raise RlessError("the target is the root")
        return target

    def _add(self, target: str, source: str, *, read_only: bool, options: tuple[str, ...]) -> None:
        self.wanted.append(
            SpecMount("bind", source, self._target(target), read_only=read_only, options=options)
        )

    # -- bind --------------------------------------------------------------------------------

    def _bind(self, index: int, mount: Mount) -> None:
        origin = self._step.origins[index]
        root_fd = self._environment.open_origin(origin, f"mount{index}")
        source_fd = open_source(root_fd, mount.source)
        try:
            place = self._attach(index, source_fd)
            path = _below(root_fd, source_fd)
        finally:
            os.close(source_fd)
        ignore = self._environment.find_ignored(origin)
        layer = self._path(f"hidden{index}")
        if ignore is not None and _hide(place, path, ignore, layer):
            place = self._lay_over(index, [place, layer])
        elif not mount.readonly:
            place = self._throw_away(index, place)
        self._add(mount.target, place, read_only=mount.readonly, options=())

    def _attach(self, index: int, source_fd: int) -> str:
        """Mount what is open read-only at a place of ours; return that."""
        tree = _clone(source_fd)
        try:
            place = self._place(index, stat.S_ISDIR(os.fstat(source_fd).st_mode))
            api.mount_setattr(tree, propagation=api.MS_PRIVATE, recursive=True)
            api.mount_setattr(tree, set_=_READ_ONLY, recursive=True)
            point = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                api.move_mount(tree, point)
            finally:
                os.close(point)
        finally:
            os.close(tree)
        return place

    def _place(self, index: int, is_directory: bool) -> str:
        os.makedirs(self._path("mounts"), 0o700, exist_ok=True)
        place = self._path(f"mounts/{index}")
        if is_directory:
            os.mkdir(place, 0o700)
        else:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return place

    def _lay_over(self, index: int, layers: list[str]) -> str:
        workspace = self._path(f"over{index}")
        os.mkdir(workspace, 0o700)
        mounted = rootfs.mount(layers, workspace, self._environment.idmap, volatile=True)
        self._overlays.append(mounted)
        return mounted.path

    def _throw_away(self, index: int, place: str) -> str:
        """Return a writable view of what is mounted there; nothing that is written is kept."""
        workspace = self._path(f"over{index}")
        if os.path.isdir(place):
            mounted = rootfs.mount_over(place, workspace, self._environment.idmap)
            self._overlays.append(mounted)
            return mounted.path
        status = os.stat(place)
        with open(place, "rb") as source, open(workspace, "xb") as target:
            while os.sendfile(target.fileno(), source.fileno(), None, 1 << 20):
                pass
            os.fchown(target.fileno(), status.st_uid, status.st_gid)
            os.fchmod(target.fileno(), stat.S_IMODE(status.st_mode))
        return workspace

    # -- cache and tmpfs ---------------------------------------------------------------------

    def _take_caches(self) -> None:
        """Lock all caches in the order of their names, so that two RUNs never wait in a circle."""
        environment = self._environment
        wanted: dict[str, Mount] = {}
        for mount in self._step.mounts:
            if mount.type != "cache":
                continue
            wanted.setdefault(self._cache_name(mount), mount)
        for name, mount in sorted(wanted.items()):
            cache = caches.Cache(f"{environment.root}/build/mounts", name)
            self._caches.append(cache)
            cache.take(mount.sharing, self._wait)

    def _cache_name(self, mount: Mount) -> str:
        environment = self._environment
        key = mount.id or self._target(mount.target)
        if environment.cache_namespace:
            key = f"{environment.cache_namespace}/{key}"
        return caches.name(environment.idmap.key, key, mount.mode, mount.uid, mount.gid)

    def _wait(self) -> None:
        self._say({"kind": "wait", "why": "another RUN has the cache"})

    def _cache(self, index: int, mount: Mount) -> None:
        environment = self._environment
        if mount.source and not mount.origin:
            raise RlessError("source is a directory of `from`, which is not given")
        name = self._cache_name(mount)
        cache = next(one for one in self._caches if one.name == name)
        if environment.emptied and mount.given:
            cache.empty_once(environment.emptied)
        if not cache.exists():
            seed = -1
            if mount.origin:
                root_fd = environment.open_origin(self._step.origins[index], f"mount{index}")
                seed = open_source(root_fd, mount.source, os.O_RDONLY | os.O_DIRECTORY)
            owner = (mount.uid, mount.gid)
            scratch = self._path(f"new{index}")
            cache.make(mount.mode, owner, seed, scratch, single=environment.idmap.single)
        self._add(mount.target, cache.path, read_only=mount.readonly, options=())

    def _tmpfs(self, _: int, mount: Mount) -> None:
        self.wanted.append(
            SpecMount(
                "tmpfs",
                None,
                self._target(mount.target),
                read_only=mount.readonly,
                options=("exec",),
                tmpfs_size=mount.size or None,
            )
        )

    # -- secret and ssh ----------------------------------------------------------------------

    def _secret(self, index: int, mount: Mount) -> None:
        value = self._environment.secrets.get(mount.id)
        if value is None:
            if mount.required:
                raise RlessError(
                    f"secret {escape(mount.id)} is required and was not given",
                    f"give it with --secret id={escape(mount.id)},src=FILE",
                )
            return
        if len(value) > _SECRET_LIMIT:
            raise RlessError(f"the secret is longer than {_SECRET_LIMIT} bytes")
        if mount.env:
            if b"\0" in value:
                raise RlessError("the secret has a NUL, which no variable can have")
            self.env.append(f"{mount.env}={value.decode('utf-8', 'surrogateescape')}")
        target = mount.secret_path()
        if target is None:
            return
        file = f"{self._make_private()}/secret{index}"
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as stream:
            stream.write(value)
            self._give(fd, mount)
        self._add(target, file, read_only=True, options=("noexec", "nosuid"))

    def _ssh(self, index: int, mount: Mount) -> None:
        from rootless.engine.build.ssh_agent import Proxy

        agent = self._environment.agents.get(mount.id)
        if agent is None:
            if mount.required:
                raise RlessError(
                    f"ssh agent {escape(mount.id)} is required and was not given",
                    f"give it with --ssh {escape(mount.id)}",
                )
            return
        file = f"{self._make_private()}/agent{index}"
        proxy = Proxy(file, agent)
        self._proxies.append(proxy)
        fd = os.open(file, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._give(fd, mount)
        finally:
            os.close(fd)
        target = self._target(mount.target or f"{_AGENT}.{index}")
        self._add(target, file, read_only=True, options=("noexec", "nosuid"))
        if not any(entry.startswith("SSH_AUTH_SOCK=") for entry in self.env):
            self.env.append(f"SSH_AUTH_SOCK={target}")

    def _make_private(self) -> str:
        """Return a tmpfs of this step."""
        place = self._path("private")
        if not self._private:
            os.mkdir(place, 0o700)
            flags = api.MS_NOSUID | api.MS_NODEV
            api.mount("rless-private", place, "tmpfs", flags, _SECRETS)
            self._private = True
        return place

    def _give(self, fd: int, mount: Mount) -> None:
        """Set owner and mode of a file in it.

        Raises:
            RlessError: the map of the build has no such user.
        """
        path = f"/proc/self/fd/{fd}"  # O_PATH descriptors are taken by no other call
        os.chmod(path, mount.mode)
        caches.change_owner(path, (mount.uid, mount.gid), self._environment.idmap.single)


def open_source(root_fd: int, source: str, flags: int = os.O_PATH) -> int:
    """Open the source of a mount beneath the root that it is in.

    Raises:
        RlessError: it is missing, or neither a directory nor a file.
    """
    try:
        fd = openat2(root_fd, posixpath.normpath(f"/{source}"), flags)
    except SyscallError as error:
        why = os.strerror(error.errno)
        raise RlessError(f"source {escape(source or '/')}: {why}", None, 1) from error
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        os.close(fd)
        raise RlessError(f"source {escape(source)}: it is neither a directory nor a file", None, 1)
    return fd


def _below(root_fd: int, fd: int) -> bytes:
    """Return the path of what is open, without links, from the root that it is in."""
    root, path = (os.readlink(b"/proc/self/fd/%d" % one) for one in (root_fd, fd))
    return path[len(root.rstrip(b"/")) :].strip(b"/")


def _hide(place: str, path: bytes, rules: IgnoreRules, layer: str) -> bool:
    """Make a layer in which all that is ignored is deleted; return whether there is anything.

    Args:
        place: a directory, or a file. path: of it, in the context.

    Raises:
        RlessError: it is ignored itself.
    """
    base = os.fsdecode(path)
    state = rules.root
    parts = base.split("/") if base else []
    for end in range(1, len(parts) + 1):
        state = rules.enter(state, "/".join(parts[:end]))
    is_directory = os.path.isdir(place)
    if state.is_excluded and not (is_directory and rules.may_return(state, base)):
        raise RlessError(f"source {escape(base)} is excluded by .dockerignore", None, 1)
    if not is_directory:
        return False
    states = {b"": state}
    any_hidden = False
    root_fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for entry in walk(root_fd):
            if not entry.path:
                continue
            if entry.leaving:
                states.pop(entry.path, None)
                continue
            name = "/".join(filter(None, (base, os.fsdecode(entry.path))))
            state = rules.enter(states[entry.path.rpartition(b"/")[0]], name)
            if entry.fd >= 0:
                states[entry.path] = state
            if state.is_excluded and not (entry.fd >= 0 and rules.may_return(state, name)):
                entry.skip = True
                any_hidden = True
                _delete(place, layer, entry.path)
    finally:
        os.close(root_fd)
    return any_hidden


def _delete(place: str, layer: str, path: bytes) -> None:
    """Mark a path of the directory `place` as deleted in a layer over it (overlayfs)."""
    import shutil

    parts = path.split(b"/")
    below, above = os.fsencode(place), os.fsencode(layer)
    for index in range(len(parts)):
        if not os.path.isdir(above):
            os.mkdir(above, 0o700)
            status = os.stat(below)
            os.chown(above, status.st_uid, status.st_gid)
            shutil.copystat(below, above)
        below, above = (os.path.join(one, parts[index]) for one in (below, above))
    os.mknod(above, stat.S_IFCHR)


def _clone(fd: int) -> int:
    """Return a detached mount of what is open.

    A descriptor of the build process's mount namespace is opened again by its path in ours, if
    that is the same file.
    """
    try:
        return api.open_tree(fd, b"")
    except SyscallError as error:
        if error.errno != errno.EINVAL:
            raise
    path = os.readlink(f"/proc/self/fd/{fd}")
    tree = api.open_tree(AT_FDCWD, path)
    ours, theirs = os.fstat(tree), os.fstat(fd)
    if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino):
        os.close(tree)
        raise RlessError("the source was moved while it was looked up", "try again")
    return tree
