"""User namespaces and their id maps: made, mapped by newuidmap/newgidmap, entered.

The kernel lets a user map only one id, its own. To map more, newuidmap(1) is needed, a setuid
program that checks /etc/subuid. It must run outside of the namespace. The process that made the
namespace waits on a pipe meanwhile, so its pid cannot be reused (security class 44).
"""

from __future__ import annotations

import errno
import os
import stat

from rootless import jsontext
from rootless.errors import RlessError, SyscallError
from rootless.linux import mount, ns, prctl, process, programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    Extent = tuple[int, int, int]
    Helper = tuple[str, int, int]  # its name, pid, and what it says


class IdMap:
    """Map container ids to host ids, by extents of (container id, host id, count).

    Attributes:
        uids, gids: the extents, as in user_namespaces(7).
        key: names the owners that files have on disk under this map; layers are unpacked once
            for each key.
        single: only one id is mapped; files on disk all belong to it.
    """

    __slots__ = ("gids", "key", "single", "uids")

    def __init__(self, uids: Sequence[Extent], gids: Sequence[Extent], key: str) -> None:
        self.uids = tuple(uids)
        self.gids = tuple(gids)
        self.key = key
        self.single = sum(extent[2] for extent in uids) == 1

    def host_uid(self, uid: int) -> int | None:
        """Return the host's uid for a container's uid; None: it is not mapped."""
        return _translate(self.uids, uid)

    def host_gid(self, gid: int) -> int | None:
        """Return the host's gid for a container's gid; None: it is not mapped."""
        return _translate(self.gids, gid)

    def group_range(self, gid: int) -> tuple[int, int]:
        """Return the first and the last gid of the widest range that the kernel takes.

        It compares the host's ids, and wants both pairs of numbers in order. Where the map is not
        in order at its ends, only the extent of `gid` is left, a container's gid.
        """
        lowest = min(self.gids, key=_host_id)
        highest = max(self.gids, key=_host_id)
        if lowest[0] > highest[0]:
            lowest = highest = next(
                (one for one in self.gids if one[0] <= gid < one[0] + one[2]), highest
            )
        return lowest[0], highest[0] + highest[2] - 1


def _host_id(extent: Extent) -> int:
    return extent[1]


def _translate(extents: Sequence[Extent], container_id: int) -> int | None:
    for first, host, count in extents:
        if first <= container_id < first + count:
            return host + container_id - first
    return None


def why_powerless(path: str) -> str | None:
    """Return why newuidmap or newgidmap has no privilege to write a map; None: it has.

    Debian makes them setuid, others give them a file capability. A mount with nosuid, or a
    caller with no_new_privs (a container, some batch systems), takes either away.
    """
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        return f"{path} lies on a file system mounted nosuid"
    if prctl.has_no_new_privs():
        return "your session runs with no_new_privs, in which set-id programs have no effect"
    if not os.stat(path).st_mode & stat.S_ISUID:
        try:
            os.getxattr(path, "security.capability")
        except OSError:
            return f"{path} is neither setuid root nor has a file capability"
    return None


def write_maps(pid: int, idmap: IdMap) -> None:
    """Write the maps of the user namespace of `pid`, a waiting child of ours.

    The kernel takes one extent of our own id directly (setgroups is denied then), and from a
    caller with CAP_SETUID in the parent namespace all; anything else goes to newuidmap and
    newgidmap, both at once.

    Raises:
        RlessError: a helper is missing, is not setuid, or refuses; the message is its own.

    Where it runs: in the parent user namespace.
    Source: user_namespaces(7), newuidmap(1).
    """
    finish_maps(begin_maps(pid, idmap))


def begin_maps(pid: int, idmap: IdMap) -> list[Helper]:
    """Do as `write_maps`; return the helpers that are still at it.

    Raises:
        RlessError: a helper is missing.
    """
    if idmap.single and sum(extent[2] for extent in idmap.gids) == 1 and os.geteuid() != 0:
        _write(f"/proc/{pid}/setgroups", "deny")
    try:
        _write(f"/proc/{pid}/uid_map", _format(idmap.uids))
    except SyscallError as error:
        if error.errno != errno.EPERM:
            raise
    else:
        _write(f"/proc/{pid}/gid_map", _format(idmap.gids))
        return []
    return [
        _start_helper("newuidmap", pid, idmap.uids),
        _start_helper("newgidmap", pid, idmap.gids),
    ]


def finish_maps(helpers: list[Helper]) -> None:
    """Wait for newuidmap and newgidmap, where they are at work.

    Raises:
        RlessError: one refused; the message is its own.
    """
    failures = [failure for failure in map(_finish_helper, helpers) if failure]
    if failures:
        raise failures[0]


def _format(extents: Sequence[Extent]) -> str:
    return "".join(f"{first} {host} {count}\n" for first, host, count in extents)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise SyscallError(f"write({path}, {text.strip()!r})", error.errno or 0) from error
    finally:
        os.close(fd)


def _start_helper(name: str, pid: int, extents: Sequence[Extent]) -> Helper:
    program = programs.find_privileged(name)
    if program is None:
        raise RlessError(
            f"cannot map subordinate ids: {name} is not installed",
            "ask the administrator for the package uidmap (shadow-utils), "
            "or use --userns=single, with your own id only",
        )
    arguments = [name, str(pid), *(str(number) for extent in extents for number in extent)]
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
    actions.append((os.POSIX_SPAWN_DUP2, writer, 2))
    try:
        child = os.posix_spawn(program, arguments, process.HELPER_ENVIRONMENT, file_actions=actions)
    except OSError as error:
        os.close(reader)
        raise RlessError(f"cannot run {program}: {error.strerror}") from error
    finally:
        os.close(writer)
        os.close(null)
    return name, child, reader


def _finish_helper(running: Helper) -> RlessError | None:
    name, child, reader = running
    said = b""
    while chunk := os.read(reader, 4096):
        said += chunk[: 4096 - len(said)]
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if status == 0:
        return None
    lines = said.decode("utf-8", "replace").strip().splitlines()
    why = lines[-1].removeprefix(f"{name}: ") if lines else f"status {status}"
    hint = "see `rless doctor`, or use --userns=single, with your own id only"
    if "Operation not permitted" in why:
        hint = f"{name} must be setuid root or have a file capability; " + hint
    return RlessError(f"{name} refused the id map: {why}", hint)


class NamespacedChild:
    """A child in new namespaces, a user namespace first, in which it waits for its id maps.

    It has all capabilities in that namespace, from the first moment, and still the caller's own
    id. Mounts that it makes are seen by nobody else. Once it is mapped it runs its body. If the
    caller ends before, so does the child.

    Attributes:
        pid: of the child, ours to wait for.
    """

    __slots__ = ("_helpers", "_inside", "_release_fd", "_released", "_status_fd", "pid")

    def __init__(
        self,
        namespaces: int,
        body: Callable[[], NoReturn],
        *,
        inside: str | None = None,
        before: Callable[[], None] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        """Fork it.

        Args:
            namespaces: more CLONE_NEW* flags, made together with the user namespace.
            body: what it runs; must end in os._exit or execve. It may begin as soon as the maps
                are there; where the caller can still abandon it then, it has to find out itself.
            inside: /proc/PID/ns/user of a user namespace in which it makes its own; then who
                writes the maps must be in there too.
            before: what it does first, while it is still in the caller's namespaces.
            meanwhile: what it does while the maps are being written.
        """
        self._inside = inside
        self._helpers: list[Helper] = []
        self._released = False
        self._status_fd, status_fd = os.pipe()
        release_fd, self._release_fd = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:  # whatever happens, the child does not come back into the caller's stack
                os.close(self._status_fd)
                os.close(self._release_fd)
                if before is not None:
                    before()
                self._enter(namespaces, status_fd)
                if meanwhile is not None:
                    meanwhile()
                if os.read(release_fd, 1) != b"g":
                    os._exit(70)
                os.close(release_fd)
                body()
            finally:
                os._exit(70)
        os.close(status_fd)
        os.close(release_fd)

    def _enter(self, namespaces: int, status_fd: int) -> None:
        """Make the namespaces, in the child, and say how that went."""
        try:
            if path := self._inside:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                ns.setns(fd, ns.CLONE_NEWUSER)
                os.close(fd)
            ns.unshare(ns.CLONE_NEWUSER | namespaces)
            if namespaces & ns.CLONE_NEWNS:
                # What the host mounts later still arrives; nothing goes back.
                mount.mount(None, "/", None, mount.MS_REC | mount.MS_SLAVE)
        except SyscallError as error:
            os.write(status_fd, f"{error.errno} {error.call}".encode())
            os._exit(70)
        except OSError as error:
            os.write(status_fd, f"{error.errno} open({error.filename})".encode())
            os._exit(70)
        os.write(status_fd, _ENTERED)
        os.close(status_fd)

    def begin_maps(self, idmap: IdMap, write: Callable[[int, IdMap], None] | None = None) -> None:
        """Begin to write its maps, once it is in its namespace.

        Args:
            write: what writes them, where that is somebody else's: called with its pid.

        Raises:
            SyscallError: unshare failed in the child, with its errno.
            RlessError: the maps cannot be written. The child is gone then.
        """
        try:
            said = b""
            # Not to its end: what the child has forked (pasta) may hold the pipe for longer.
            while said != _ENTERED and (chunk := os.read(self._status_fd, 4096)):
                said += chunk
            if not said:
                raise RlessError("the child ended before it had a user namespace")
            if said != _ENTERED:
                number, _, call = said.decode("utf-8", "replace").partition(" ")
                raise SyscallError(call, int(number))
            if write is not None:
                write(self.pid, idmap)
            else:
                self._helpers = begin_maps(self.pid, idmap)
            if not self._helpers:
                self._release_body()
        except BaseException:
            self.abandon()
            raise

    def release(self) -> None:
        """Wait for its maps; it is not to be abandoned from now on.

        Raises:
            RlessError: the maps were refused. The child is gone then.
        """
        helpers, self._helpers = self._helpers, []
        try:
            finish_maps(helpers)
        except BaseException:
            self.abandon()
            raise
        self._release_body()
        self._released = True

    def abandon(self) -> None:
        """End the child, unless it was released."""
        if self._released:
            return
        self._released = True
        self._close()  # it reads the end of the pipe and exits
        os.waitpid(self.pid, 0)
        helpers, self._helpers = self._helpers, []
        for helper in helpers:
            _finish_helper(helper)

    def _release_body(self) -> None:
        """Have it run its body: the maps are there."""
        if self._release_fd >= 0:
            try:
                os.write(self._release_fd, b"g")
            except BrokenPipeError:
                pass  # it was killed: whoever waits for a word of it finds out
            self._close()

    def _close(self) -> None:
        for fd in (self._status_fd, self._release_fd):
            if fd >= 0:
                os.close(fd)
        self._status_fd = self._release_fd = -1


_ENTERED = b"+"


def spawn(idmap: IdMap, namespaces: int, body: Callable[[], NoReturn]) -> int:
    """Fork a child into a new user namespace (and others); return its pid once it is mapped.

    Args:
        namespaces, body: see `NamespacedChild`.

    Raises:
        SyscallError: unshare failed in the child, with its errno.
        RlessError: the maps could not be written. The child is gone then.
    """
    child = NamespacedChild(namespaces, body)
    child.begin_maps(idmap)
    child.release()
    return child.pid


def call_in_userns(
    idmap: IdMap, function: Callable[..., Any], *args: object, namespaces: int = ns.CLONE_NEWNS
) -> Any:
    """Run `function(*args)` as root of a new user namespace; return its JSON-able result.

    It runs in a forked child that sees the caller's memory as it was, uid 0 (where mapped) and
    every capability over files of the mapped ids.

    Raises:
        RlessError: what `function` raised, or that the child died.
    """
    return Call(idmap, function, *args, namespaces=namespaces).result()


class Call:
    """Run a function as `call_in_userns` does, while the caller goes on.

    Attributes:
        pid: of the child; not to be waited for by others.
        fd: readable once there is a result.
    """

    __slots__ = ("_status", "_text", "fd", "pid")

    def __init__(
        self,
        idmap: IdMap,
        function: Callable[..., Any],
        *args: object,
        namespaces: int = ns.CLONE_NEWNS,
    ) -> None:
        reader, writer = os.pipe()
        self._text: str | None = None
        self._status = 0

        def body() -> NoReturn:
            try:
                os.close(reader)
                process.become_root()
            except BaseException as error:
                answer(writer, _raise, error)
            answer(writer, function, *args)

        try:
            self.pid = spawn(idmap, namespaces, body)
        except BaseException:
            os.close(reader)
            os.close(writer)
            raise
        os.close(writer)
        self.fd = reader

    def result(self) -> Any:
        """Wait for the child and return what the function returned.

        Raises:
            RlessError: what the function raised, or that the child died.
        """
        if self._text is None:
            with open(self.fd, encoding="utf-8") as stream:
                self.fd = -1
                self._text = stream.read()
            _, self._status = os.waitpid(self.pid, 0)
        return take_answer(self._text, self._status)

    def close(self) -> None:
        """End the child if it still runs; a result that nobody took is lost."""
        if self._text is None:
            os.close(self.fd)
            self.fd = -1
            self._text = ""
            os.kill(self.pid, 9)  # ours, and not waited for: the number cannot be another's
            os.waitpid(self.pid, 0)


def answer(writer: int, function: Callable[..., Any], *args: object) -> NoReturn:
    """Run `function(*args)`, write its result or its error for `take_answer`, and end."""
    code = 0
    try:
        said = {"result": function(*args)}
    except RlessError as error:
        said = {"error": [error.message, error.hint, error.exit_code, error.kind]}
    except OSError as error:
        said = {"error": [_describe(error), None, 125]}
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException as error:
        said = {"error": [f"internal error: {type(error).__name__}: {error}", None, 125]}
    try:
        with open(writer, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(jsontext.dumps(said))
    except BaseException:
        code = 70
    os._exit(code)


def take_answer(text: str, status: int) -> Any:
    """Return what the function of a child returned.

    Args:
        status: of the child, as waitpid(2) gives it.

    Raises:
        RlessError: what the function raised, or that the child died.
    """
    if not text:
        raise RlessError(f"the process in the user namespace ended early (status {status})")
    said = jsontext.loads(text)
    if "error" in said:
        raise RlessError(*said["error"])
    return said["result"]


def _raise(error: BaseException) -> NoReturn:
    raise error


def _describe(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
