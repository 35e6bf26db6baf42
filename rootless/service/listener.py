"""The socket of the service: where it is, who may have made it, and who listens there.

Whoever listens outlives the service: systemd, by the units that `units` writes, or our program
rless-listener (helpers/listener). Both give the service the socket when somebody connects
(sd_listen_fds(3)). A socket that somebody listens at is never replaced: a container that has it
bound would keep one that is dead.
"""

from __future__ import annotations

import errno
import os
import select
import shlex
import signal
import socket
import stat
import subprocess
from typing import TYPE_CHECKING

from rootless import paths
from rootless.engine.monitor.execute import interpreter
from rootless.errors import RlessError
from rootless.linux import locks, process, unix
from rootless.service import units

if TYPE_CHECKING:
    from collections.abc import Mapping

BACKLOG = 1024
IDLE = 30  # seconds without a client after which the service ends
_LONGEST = 107  # bytes of a socket's path (unix(7))
_FIRST = 3  # descriptor of a socket that is inherited
_PROGRAM = "rless-listener"
_PATIENCE = 10.0  # seconds


def default_socket() -> str:
    """Return where the socket is: in the runtime directory, else in the storage.

    Raises:
        RlessError: no directory for it can be made.
    """
    return f"{paths.runtime_root()}/docker.sock"


def path_of(address: str | None) -> str:
    """Return the absolute path of a socket that a user has named, or of the default one.

    Raises:
        RlessError: it is no unix socket, or its path is too long.
    """
    path = address or default_socket()
    if "://" in path:
        kind, _, path = path.partition("://")
        if kind != "unix":
            raise RlessError(
                f"rless does not serve {kind}://: whoever reaches the socket is you",
                "use a unix socket; from another host, DOCKER_HOST=ssh://HOST",
            )
    path = os.path.abspath(path)
    if len(os.fsencode(path)) > _LONGEST:
        raise RlessError(
            f"the socket's path has more than {_LONGEST} bytes: {path}",
            "give another one, or move the storage (RLESS_STORAGE)",
        )
    return path


def variables(path: str) -> dict[str, str]:
    """Return the variables by which clients find a socket, and build without BuildKit."""
    return {
        "DOCKER_HOST": f"unix://{path}",
        "DOCKER_BUILDKIT": "0",
        "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE": path,
    }


def shell_text(given: Mapping[str, str]) -> str:
    """Return the lines that set variables in a shell."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in given.items())


# -- who listens -----------------------------------------------------------------------------------


def is_alive(path: str) -> bool:
    """Tell whether somebody listens at a socket, without a knock that would start the service.

    A datagram socket cannot be connected to it (EPROTOTYPE), but only if it is there at all.

    Raises:
        RlessError: it is no socket, or not ours to connect to.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(status.st_mode):
        raise RlessError(f"{path} is there already, and is no socket", "give another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise RlessError(f"cannot connect to {path}: {error.strerror}") from error
    return True


# -- listening -------------------------------------------------------------------------------------


def locked(path: str) -> locks.Locked:
    """Return the lock under which a socket is made or removed.

    Raises:
        RlessError: its directory is open to others.
    """
    paths.private_dir(os.path.dirname(path), "give the path of a socket in a directory of yours")
    return locks.Locked(f"{path}.lock")


def bind(path: str) -> socket.socket:
    """Return a socket that listens at a path, in place of a dead one; with its lock held.

    Raises:
        RlessError: somebody listens there already, or it cannot be made.
    """
    if is_alive(path):
        raise RlessError(
            f"a service answers at {path} already", "use that one, or give another path"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        if os.path.lexists(path):
            os.unlink(path)  # of one that was killed
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise RlessError(f"cannot make the socket {path}: {error.strerror}") from error
    finally:
        os.umask(mask)
    return listener


def inherited() -> socket.socket | None:
    """Return the socket that whoever has started us holds; None: there is none.

    The variables that tell of it are removed: they are not for processes of ours.

    Raises:
        RlessError: it is no unix socket that listens, or its file is not ours alone.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return None
    if count != "1":
        raise RlessError(f"the service takes one socket, not {count}", "see docs/service.md")
    try:
        listener = socket.socket(fileno=_FIRST)
    except OSError as error:
        raise RlessError(f"descriptor {_FIRST} is no socket") from error
    try:
        _check(listener)
    except BaseException:
        listener.close()
        raise
    listener.set_inheritable(False)
    return listener


def _check(listener: socket.socket) -> None:
    kind = listener.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listener.family != socket.AF_UNIX or kind != socket.SOCK_STREAM or not listens:
        raise RlessError(
            "the socket that the service was given is no unix stream socket that listens",
            "use ListenStream= with a path",
        )
    path = listener.getsockname()
    if not isinstance(path, str) or not path.startswith("/"):
        raise RlessError(
            "the socket that the service was given has no file", "use ListenStream= with a path"
        )
    try:
        status = os.lstat(path)
    except OSError as error:
        raise RlessError(f"the socket {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.getuid():
        raise RlessError(f"{path} is no socket of yours")
    if status.st_mode & 0o077:
        raise RlessError(
            f"the socket {path} is open to other users (mode {status.st_mode & 0o777:04o})",
            "use SocketMode=0600",
        )
    paths.private_dir(os.path.dirname(path), "use DirectoryMode=0700")


# -- on demand -------------------------------------------------------------------------------------


def ensure(path: str) -> None:
    """Have somebody listen at a socket: systemd where its unit is installed, else our program.

    Raises:
        RlessError: nobody can.
    """
    if is_alive(path):
        return
    if path == default_socket() and units.start() and is_alive(path):
        return
    with locked(path):
        if not is_alive(path):
            _hold(path)


def _hold(path: str) -> None:
    """Leave our program behind, with a socket that listens."""
    python = interpreter("rootless.cli.main")
    program = process.own_program(_PROGRAM)
    with bind(path) as listener:
        log = os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

        fd = listener.fileno()
        try:
            child = subprocess.Popen(
                [program, path, str(fd), *python, "service", "--time", str(IDLE)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                start_new_session=True,
                pass_fds=(fd,),
            )
        except OSError as error:
            os.unlink(path)
            raise process.cannot_execute(_PROGRAM, error) from error
        finally:
            os.close(log)
        assert child.stdout is not None
        with child.stdout:
            child.stdout.read()  # its end: the socket listens, or the program has ended
        if child.poll() is not None:
            os.unlink(path)
            raise RlessError(f"{_PROGRAM} has ended with {child.returncode}")
        child.returncode = 0  # it stays: nobody is to be warned of that


def stop(path: str) -> bool:
    """End who listens at a socket, and the service; containers go on. False: there was nobody.

    Raises:
        RlessError: it is systemd's, or nobody of ours.
    """
    with locked(path):
        if not is_alive(path):
            return False
        pid, uid = _listener_of(path)
        if pid <= 0 or uid != os.getuid():
            raise RlessError(f"another user's process, or one of a container, listens at {path}")
        if _name(pid) == "systemd":
            raise RlessError(
                f"systemd listens at {path}",
                f"systemctl --user stop {units.SOCKET}, or rless service uninstall",
            )
        try:
            pidfd = process.pidfd_open(pid)
        except OSError:
            return False
        try:
            if is_alive(path) and _listener_of(path)[0] == pid:  # it is still the one
                process.pidfd_send_signal(pidfd, signal.SIGTERM)
                _wait(pidfd)
        finally:
            os.close(pidfd)
    return True


def _listener_of(path: str) -> tuple[int, int]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_PATIENCE)
        try:
            client.connect(path)
        except OSError as error:
            raise RlessError(f"cannot connect to {path}: {error.strerror or error}") from error
        return unix.peer(client)


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as stream:
            return stream.read().strip()
    except OSError:
        return ""  # it has ended


def _wait(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(_PATIENCE * 1000):
        raise RlessError("the service does not end", "see `ps` for rless-listener")
