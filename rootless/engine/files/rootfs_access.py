"""Access a container's files as the container sees them: for cp, export and commit.

Theory of operation. A forked child does all work. It holds a descriptor of the container's root and
resolves every name beneath it by openat2. It gets that root in one of two ways:

    it runs         the child joins the user and the mount namespace of the container's init, in
                    one setns by pidfd, so both are of the same process. It stays outside of the
                    pid namespace, so no process in the container has a number for it.
    it does not     the child makes a user namespace with the container's map and mounts the
                    layers, the writable layer and the volumes there, as a start would. It holds
                    the run record, which locks out a start at the same time, because a writable
                    layer must not be mounted twice.

The container cannot attack the child (security classes 35 and 36). It cannot trace or read the
child, which is not dumpable. It cannot give it code, because after entering the child imports
nothing and runs no program. It cannot redirect it, because every path is looked up beneath a
descriptor. Results come back as JSON over a pipe.
"""

from __future__ import annotations

import array  # noqa: F401  socket.send_fds imports it when it is called: too late in the child
import errno
import os
import signal
import socket
import sys
import time

from rootless import jsontext, paths
from rootless.engine.state import container as containers
from rootless.engine.state import reconcile
from rootless.engine.state import volumes as volumes_
from rootless.errors import CONFLICT, NOT_FOUND, RlessError, SyscallError
from rootless.image.store.staging import raise_descriptor_limit
from rootless.linux import idmap as idmaps
from rootless.linux import mount as mounts
from rootless.linux import ns, prctl
from rootless.linux.openat2 import make_dirs, make_file, openat2
from rootless.linux.process import become_root, pidfd_open
from rootless.linux.procfs import is_running
from rootless.rootfs import stored
from rootless.runtime.inside.mounts import open_part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from rootless.engine.state.container import Container
    from rootless.rootfs import Mounted

    Channel = tuple[socket.socket, socket.socket]

_WAIT_SECONDS = 30.0  # for another command that works on the same stopped container
_STEP_SECONDS = 0.02


def call(
    container: Container,
    function: Callable[[int], Any],
    *,
    channel: Channel | None = None,
    meanwhile: Callable[[], Any] | None = None,
    volumes: bool = True,
    purpose: str = "",
) -> Any:
    """Run `function(root_fd)` in a child that sees the container's files; return its result.

    Args:
        function: runs as root of the container's user namespace; it can import nothing and
            must look up nothing but beneath `root_fd`. Its result must be JSON-able.
        channel: two connected sockets; the first stays open here, the second in the child.
        meanwhile: runs here while the child works. What it raises is raised, unless the child
            failed too: then the child knows better why.
        volumes: show what is mounted in the container too; without, only its own root.
        purpose: the command's name, for one that has to wait.

    Raises:
        RlessError: what `function` raised, or that the container cannot be looked into.
    """
    init, held = _take(container, purpose)
    reader, writer = os.pipe()
    try:
        body = _body(function, reader, writer, channel)
        try:
            pid = (
                _join(container, init, body, volumes)
                if init is not None
                else _mount(container, body, volumes)
            )
        finally:
            os.close(writer)
            if channel is not None:
                channel[1].close()
        failure: BaseException | None = None
        try:
            if meanwhile is not None:
                meanwhile()
        except BaseException as error:
            failure = error
        finally:
            if channel is not None:
                channel[0].close()  # a child that still writes to it ends by that
        return _result(pid, reader, failure)
    finally:
        os.close(reader)
        if held:
            container.remove_run_record()


def _result(pid: int, reader: int, failure: BaseException | None) -> Any:
    text = b""
    while chunk := os.read(reader, 65536):
        text += chunk
    _, status = os.waitpid(pid, 0)
    answer = jsontext.loads(text.decode()) if text else {}
    error = answer.get("error")
    if failure is not None and (
        error is None or error[3] or not isinstance(failure, (RlessError, OSError))
    ):
        raise failure
    if answer.get("pipe"):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    if error is not None:
        raise RlessError(*error[:3], *error[4:])
    if not text:
        raise RlessError(f"the process that looked into the container ended ({status})")
    return answer["result"]


# -- the lock ------------------------------------------------------------------------------------


def _take(container: Container, purpose: str) -> tuple[tuple[int, int] | None, bool]:
    """Return (init, False) of a running container, or (None, True) with a stopped one held."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        if init := container.init():
            return init, False
        name = container.facts["name"]
        if container.status()[0] == "unknown":
            raise RlessError(f"container {name} is of the host {container.facts['host']}", None, 1)
        if _hold(container, purpose):
            return None, True
        reconcile.clear(container) if _is_abandoned(container) else time.sleep(_STEP_SECONDS)
        if time.monotonic() > deadline:
            raise RlessError(
                f"container {name} is busy: another command starts it, ends it or works on its "
                "files",
                "try again",
                1,
            )


def _hold(container: Container, purpose: str) -> bool:
    """Make the run record; False: there is one."""
    if not container.claim(rm=False, purpose=purpose):
        return False
    if not os.path.isdir(container.directory):
        container.remove_run_record()
        raise RlessError(f"no such container: {container.facts['name']}", None, 1, kind=NOT_FOUND)
    return True


def _is_abandoned(container: Container) -> bool:
    record = container.run_record()
    return bool(record) and not containers.is_owned(record)


# -- the child -----------------------------------------------------------------------------------


class _NoImports:
    """Refuses every import, which could take the container's files for modules."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        raise ImportError(f"{name} was not loaded before the container was entered")


def _body(
    function: Callable[[int], Any], reader: int, writer: int, channel: Channel | None
) -> Callable[[Callable[[], int]], NoReturn]:
    """Return what the child does, given how it comes by its root; it never returns."""

    def body(enter: Callable[[], int]) -> NoReturn:
        code = 0
        try:
            os.close(reader)
            if channel is not None:
                channel[0].close()
            answer = {"result": function(enter())}
        except RlessError as error:
            # What the other side of a copy has caused is less worth than what it says.
            consequence = getattr(error, "consequence", False)
            answer = {
                "error": [error.message, error.hint, error.exit_code, consequence, error.kind]
            }
        except BrokenPipeError:
            answer = {"error": ["nobody reads what is written", None, 1, True], "pipe": True}
        except OSError as error:
            answer = {"error": [_describe(error), None, 1, False]}
        except KeyboardInterrupt:
            os._exit(130)
        except BaseException as error:
            answer = {
                "error": [f"internal error: {type(error).__name__}: {error}", None, 125, False]
            }
        try:
            text = jsontext.dumps(answer).encode()
            while text:
                text = text[os.write(writer, text) :]
        except BaseException:
            code = 70
        os._exit(code)

    return body


def _describe(error: OSError) -> str:
    name = error.filename
    if isinstance(name, bytes):
        name = name.decode("utf-8", "backslashreplace")
    return f"{name}: {error.strerror}" if name else str(error.strerror)


def _forbid_tracing() -> None:
    """Let nobody look into this process, and end it with its parent.

    To be called again after each change of ids: the kernel resets both then.
    """
    prctl.set_dumpable(False)
    prctl.set_parent_death_signal(signal.SIGKILL)


def _seal() -> None:
    """Be ready for the container: root of its namespace, and no import from now on."""
    become_root()
    _forbid_tracing()
    os.umask(0)
    sys.meta_path[:] = [_NoImports()]
    sys.path[:] = []


def _join(
    container: Container,
    init: tuple[int, int],
    body: Callable[[Callable[[], int]], NoReturn],
    volumes: bool,
) -> int:
    """Fork the child into the namespaces of a running container; return its pid."""
    name = container.facts["name"]
    own_root = source_kind(container) == "directory"
    try:
        pidfd = pidfd_open(init[0])
    except SyscallError as error:
        raise RlessError(f"container {name} is not running", None, 1, kind=CONFLICT) from error
    outside = os.stat("/")

    def enter() -> int:
        _forbid_tracing()
        raise_descriptor_limit()
        # Behind the pidfd: this number cannot change hands any more.
        if not is_running(*init):
            raise RlessError(f"container {name} is not running", None, 1, kind=CONFLICT)
        try:
            ns.setns(pidfd, ns.CLONE_NEWUSER | ns.CLONE_NEWNS)
        except SyscallError as error:
            if error.errno == errno.ESRCH:
                raise RlessError(
                    f"container {name} is not running", None, 1, kind=CONFLICT
                ) from error
            raise error.within(f"cannot enter container {name}") from error
        os.close(pidfd)
        _seal()
        inside = os.stat("/")
        if (inside.st_dev, inside.st_ino) == (outside.st_dev, outside.st_ino) and not own_root:
            raise RlessError(f"container {name} has not entered its root yet", "try again", 1)
        root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return root_fd if volumes else _alone(root_fd)

    try:
        pid = os.fork()
        if pid == 0:
            body(enter)
        return pid
    finally:
        os.close(pidfd)


def _alone(root_fd: int) -> int:
    """Return the root without what is mounted in it: a copy of the one mount, seen by nobody."""
    try:
        clone = mounts.open_tree(root_fd, b"", recursive=False)
    except SyscallError as error:
        if error.errno != errno.EINVAL:
            raise
        return root_fd  # mounts that cannot be taken off: those of `host:` with --userns=nomap
    os.close(root_fd)
    return clone


def _mount(
    container: Container, body: Callable[[Callable[[], int]], NoReturn], volumes: bool
) -> int:
    """Fork a child that mounts the root of a stopped container; return its pid."""
    from rootless.rootfs import copy, fuse_overlayfs  # noqa: F401  before the seal

    source = root_source(container)
    wanted = bind_mounts(container) if volumes else []
    fresh = _fresh_volumes(container) if volumes else []
    read_only = is_read_only(container)
    uid, gid = container.facts["user"][:2]

    def enter() -> int:
        _forbid_tracing()
        raise_descriptor_limit()
        mounted = source()
        if mounted.driver in ("copy", "directory"):
            mounts.mount(mounted.path, mounted.path, None, mounts.MS_BIND | mounts.MS_REC)
        for directory, target in fresh:
            volumes_.fill(directory, mounted.path, target, (uid, gid))
        _seal()
        root_fd = os.open(mounted.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for bind in wanted:
            _bind(root_fd, *bind)
        if read_only and volumes:
            mounts.mount_setattr(root_fd, set_=mounts.MOUNT_ATTR_RDONLY)
        return root_fd

    return idmaps.spawn(container.idmap(), ns.CLONE_NEWNS, lambda: body(enter))


def _bind(root_fd: int, source: str, target: str, read_only: bool, subpath: str) -> None:
    """Mount a volume as a start would: its target is looked up beneath the root."""
    try:
        if subpath:
            tree_fd = open_part(source, subpath)
        else:
            tree_fd = mounts.open_tree(-1, source, recursive=True)
    except SyscallError as error:
        if error.errno == errno.ENOENT:
            return  # the host has removed it meanwhile
        raise
    try:
        flags = mounts.MOUNT_ATTR_NODEV | (mounts.MOUNT_ATTR_RDONLY if read_only else 0)
        mounts.mount_setattr(tree_fd, set_=flags, recursive=True)
        make = make_dirs if _is_directory(tree_fd) else make_file
        target_fd = make(root_fd, target)
        try:
            mounts.move_mount(tree_fd, target_fd)
        finally:
            os.close(target_fd)
    finally:
        os.close(tree_fd)


def _is_directory(fd: int) -> bool:
    try:
        os.close(openat2(fd, b".", os.O_PATH | os.O_DIRECTORY))
    except SyscallError:
        return False
    return True


# -- what a stopped container is made of ---------------------------------------------------------


def image_layers(container: Container) -> tuple[list[str], str]:
    """Return the directories of the layers of a container's image, and how they mark deletions.

    Raises:
        RlessError: the image is gone.
    """
    from rootless.image.store.store import Store

    facts = container.facts
    store = Store(paths.storage_root())
    image = store.lookup(facts["image_id"]) if facts["image_id"] else None
    layers = image.layer_dirs(facts["idmap"]["key"]) if image is not None else None
    if image is None or layers is None:
        raise RlessError(f"the image of container {facts['name']} is not there any more", None, 1)
    return layers, image.whiteouts(facts["idmap"]["key"])


def source_kind(container: Container) -> str:
    """Return what a container's root is made of: "layers", "host", "squashfs" or "directory"."""
    facts = container.facts
    if (facts.get("source") or {}).get("kind") == "squashfs":
        return "squashfs"
    if facts["image_id"]:
        return "layers"
    return "host" if facts["image"] == "host:" else "directory"


def root_source(container: Container) -> Callable[[], Mounted]:
    """Return a function that mounts the root as the next start would."""
    from rootless import rootfs
    from rootless.rootfs import host, squashfs

    workspace, idmap = container.directory, container.idmap()
    asked = (container.facts.get("request") or {}).get("driver")
    driver = stored.driver(workspace) or asked
    kind = source_kind(container)
    image = container.facts["image"] or ""
    if kind == "layers":
        layers, whiteouts = image_layers(container)
        return lambda: rootfs.mount(layers, workspace, idmap, driver=driver, whiteouts=whiteouts)
    if kind == "host":
        exclude = homes()
        return lambda: host.mount(workspace, idmap, exclude=exclude, driver=asked)
    if kind == "squashfs":
        file = packed_image(container)
        return lambda: squashfs.mount(*file[:3], workspace, idmap, file[3], driver=driver)
    return lambda: rootfs.mount_directory(image, workspace, idmap, driver=driver)


def packed_image(container: Container) -> tuple[str, int, list[int], str]:
    """Return (path, offset, identity, cache) of the squashfs image of a container."""
    source = container.facts["source"]
    return source["path"], source["offset"], source["identity"], source["cache"]


def homes() -> list[str]:
    """Return the caller's home by the password database: $HOME may be unset, or another."""
    import pwd

    try:
        return [pwd.getpwuid(os.getuid()).pw_dir]
    except KeyError:
        return []


def _spec(container: Container) -> dict[str, Any]:
    return containers.read_json(f"{container.directory}/config.json") or {}


def is_read_only(container: Container) -> bool:
    """Tell whether the container's root is read-only (--read-only)."""
    request = container.facts.get("request")
    if request is not None:
        return bool(request.get("read_only"))
    return bool((_spec(container).get("root") or {}).get("readonly"))


def bind_mounts(container: Container) -> list[tuple[str, str, bool, str]]:
    """Return (source, target, read-only, subpath) of what is bound, a parent before its child."""
    recorded = container.facts.get("mounts")
    if recorded is not None:
        found = [
            # What an overlay (`O`) would take of changes has ended with the container.
            (
                entry["source"],
                entry["target"],
                not entry["rw"] or "O" in entry["options"],
                entry.get("subpath", ""),
            )
            for entry in recorded
            if entry["type"] != "tmpfs"
        ]
    else:
        found = [
            (entry["source"], entry["destination"], bool({"ro", "rro"} & set(entry["options"])), "")
            for entry in _spec(container).get("mounts") or ()
            if {"bind", "rbind"} & set(entry.get("options") or ())
            and not entry["source"].startswith(f"{container.directory}/")
            and not entry["destination"].startswith(("/dev", "/proc", "/sys"))
        ]
    return sorted(found, key=lambda bind: bind[1].rstrip("/").count("/"))


_ALWAYS = ("/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


def _fresh_volumes(container: Container) -> list[tuple[str, str]]:
    """Return (directory, target) of the volumes that the first start would fill.

    Whoever puts a file into one before must not keep what the image has there out of it.
    """
    if container.status()[0] != "created":
        return []
    return [
        (entry["source"], entry["target"])
        for entry in container.facts.get("mounts") or ()
        if entry["type"] == "volume"
        and "nocopy" not in entry["options"]
        and os.path.isdir(entry["source"])
    ]


def mount_targets(container: Container) -> set[bytes]:
    """Return the paths, without the slash in front, that are mounts of ours or of the user's."""
    found = {*_ALWAYS}
    found.update(entry["destination"] for entry in _spec(container).get("mounts") or ())
    found.update(entry["target"] for entry in container.facts.get("mounts") or ())
    return {os.fsencode(os.path.normpath(path)).lstrip(b"/") for path in found}
