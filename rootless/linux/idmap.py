"""User namespaces with their id maps: made, mapped by newuidmap/newgidmap, entered.

The kernel lets a user map one id, its own. More needs newuidmap(1), a setuid program that
checks /etc/subuid. It must run outside, while the process that made the namespace waits on a
pipe: so its pid cannot be reused (security class 44).
"""

from __future__ import annotations

import errno
import os
import stat

from rootless import jsontext
from rootless.errors import RlessError, SyscallError
from rootless.linux import mount, ns, prctl, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    Extent = tuple[int, int, int]

# Only directories that root owns on every system: a newuidmap planted in $PATH is never run.
_HELPER_DIRECTORIES = ("/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin")


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


def _translate(extents: Sequence[Extent], container_id: int) -> int | None:
    for first, host, count in extents:
        if first <= container_id < first + count:
            return host + container_id - first
    return None


def find_helper(name: str) -> str | None:
    """Return the absolute path of newuidmap or newgidmap; None: not installed."""
    for directory in _HELPER_DIRECTORIES:
        path = f"{directory}/{name}"
        try:
            status = os.stat(path)
        except OSError:
            continue
        if status.st_uid == 0 and stat.S_ISREG(status.st_mode) and not status.st_mode & 0o022:
            return path
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
    if idmap.single and sum(extent[2] for extent in idmap.gids) == 1 and os.geteuid() != 0:
        _write(f"/proc/{pid}/setgroups", "deny")
    try:
        _write(f"/proc/{pid}/uid_map", _format(idmap.uids))
    except SyscallError as error:
        if error.errno != errno.EPERM:
            raise
    else:
        _write(f"/proc/{pid}/gid_map", _format(idmap.gids))
        return
    running = [
        _start_helper("newuidmap", pid, idmap.uids),
        _start_helper("newgidmap", pid, idmap.gids),
    ]
    failures = [failure for failure in map(_finish_helper, running) if failure]
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


def _start_helper(name: str, pid: int, extents: Sequence[Extent]) -> tuple[str, int, int]:
    program = find_helper(name)
    if program is None:
        raise RlessError(
            f"cannot map subordinate ids: {name} is not installed",
            "ask the administrator for the package uidmap (shadow-utils); "
            "--userns=single goes on with your own id",
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


def _finish_helper(running: tuple[str, int, int]) -> RlessError | None:
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
    hint = "see `rless doctor`; --userns=single goes on with your own id"
    if "Operation not permitted" in why:
        hint = f"{name} must be setuid root or have a file capability; " + hint
    return RlessError(f"{name} refused the id map: {why}", hint)


def become_root(*, keep_groups: bool = False) -> None:
    """Become uid and gid 0 of this user namespace, as far as they are mapped.

    The supplementary groups go, if they need not be kept.

    Where id 0 has no mapping (one id, and the application is not root) the caller stays who it
    is, with all capabilities all the same.
    """
    try:
        if not keep_groups:
            os.setgroups([])
    except OSError as error:
        if error.errno != errno.EPERM:  # setgroups is denied where one id is mapped
            raise SyscallError("setgroups", error.errno or 0) from error
    for change in (os.setresgid, os.setresuid):
        try:
            change(0, 0, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: 0 is not mapped
                raise SyscallError("setresuid(0)", error.errno or 0) from error


def spawn(
    idmap: IdMap,
    namespaces: int,
    body: Callable[[], NoReturn],
    before: Callable[[], None] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> int:
    """Fork a child into a new user namespace (and others); return its pid once it is mapped.

    The child has all capabilities in its namespace and still the caller's own id. It then runs
    `body`, which must end in os._exit or execve. Mounts that it makes are seen by nobody else.

    Args:
        namespaces: more CLONE_NEW* flags, made together with the user namespace.
        before: what the child does first, while it is still in the caller's namespaces.
        meanwhile: what the child does while the maps are being written.

    Raises:
        SyscallError: unshare failed in the child, with its errno.
        RlessError: the maps could not be written. The child is gone then.
    """
    ready_reader, ready_writer = os.pipe()
    go_reader, go_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:  # whatever happens, the child does not come back into the caller's stack
            os.close(ready_reader)
            os.close(go_writer)
            if before is not None:
                before()
            _enter(namespaces, ready_writer, go_reader, meanwhile)
            body()
        finally:
            os._exit(70)
    os.close(ready_writer)
    os.close(go_reader)
    try:
        failure = process.read_exactly(ready_reader, 4)
        if len(failure) != 4:
            raise RlessError("the child ended before it had a user namespace")
        number = int.from_bytes(failure, "little")
        if number:
            raise SyscallError("unshare(CLONE_NEWUSER)", number)
        write_maps(pid, idmap)
        os.write(go_writer, b"g")
    except BaseException:
        os.close(go_writer)
        go_writer = -1
        os.waitpid(pid, 0)  # it reads the end of the pipe and exits
        raise
    finally:
        os.close(ready_reader)
        if go_writer >= 0:
            os.close(go_writer)
    return pid


def spawn_joined(
    path: str,
    namespaces: int,
    body: Callable[[], NoReturn],
    before: Callable[[], None] | None = None,
) -> int:
    """Fork a child into an existing user namespace, with new other ones; return its pid.

    Args:
        path: /proc/PID/ns/user of the caller's own process in that namespace.
        namespaces: CLONE_NEW* flags of what the child makes anew inside it.
        before: as in `spawn`.

    Raises:
        RlessError: the namespace is gone, or not the caller's.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            if before is not None:
                before()
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            ns.setns(fd, ns.CLONE_NEWUSER)
            os.close(fd)
            ns.unshare(namespaces)
            mount.mount(None, "/", None, mount.MS_REC | mount.MS_SLAVE)
            os.close(writer)
            body()
        except (OSError, RlessError) as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(70)
    os.close(writer)
    failure = os.read(reader, 4096)
    os.close(reader)
    if failure:
        os.waitpid(pid, 0)
        raise RlessError(f"cannot join the container's namespaces: {failure.decode()}")
    return pid


def _enter(
    namespaces: int, ready_writer: int, go_reader: int, meanwhile: Callable[[], None] | None
) -> None:
    """Make the namespaces in the child, and wait there for the maps."""
    try:
        ns.unshare(ns.CLONE_NEWUSER | namespaces)
        number = 0
    except SyscallError as error:
        number = error.errno
    os.write(ready_writer, number.to_bytes(4, "little"))
    os.close(ready_writer)
    if meanwhile is not None:
        meanwhile()
    if os.read(go_reader, 1) != b"g":
        os._exit(70)
    os.close(go_reader)
    if namespaces & ns.CLONE_NEWNS:
        # What the host mounts later still arrives; nothing goes back.
        mount.mount(None, "/", None, mount.MS_REC | mount.MS_SLAVE)


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
                become_root()
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
        said = {"error": [error.message, error.hint, error.exit_code]}
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
