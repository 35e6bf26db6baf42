"""sd_notify of a container: its READY=1 is forwarded to the service manager, as in runc and crun.

The caller's $NOTIFY_SOCKET leads to a socket of the host, which a container cannot reach. So a
directory of ours is bound at its path, with a socket in it. `start` (or `run`) forwards only what
reports readiness, because a container must not control its unit. Source: sd_notify(3).
"""

from __future__ import annotations

import _socket
import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.oci.runtime_spec import Spec

_NAME = "notify"
_LARGEST = 4096  # bytes of one message


def prepare(spec: Spec, path: str, directory: str) -> None:
    """Make the directory, and have the config bind it and name it to the application."""
    os.mkdir(directory, 0o755)
    spec.setdefault("mounts", []).append(
        {
            "destination": path,
            "type": "bind",
            "source": directory,
            "options": ["bind", "nosuid", "noexec", "nodev", "ro"],
        }
    )
    env = spec["process"].setdefault("env", [])
    env.append(f"NOTIFY_SOCKET={path}/{_NAME}")


class Relay:
    """The socket of one container, and the connection to the service manager.

    Attributes:
        fd: readable when the container has sent something.
    """

    __slots__ = ("_socket", "_target", "fd")

    def __init__(self, directory: str, target: str) -> None:
        """Make the socket that `prepare` has promised.

        Raises:
            OSError: it cannot be made.
        """
        self._target = "\0" + target[1:] if target.startswith("@") else target
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        # Below a descriptor: an address holds 107 bytes, a path may be longer.
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.bind(f"/proc/self/fd/{place}/{_NAME}")
            # For any user of the container; on the host, the directory above is ours alone.
            os.chmod(f"/proc/self/fd/{place}/{_NAME}", 0o777)  # noqa: S103
        finally:
            os.close(place)
        self.fd = self._socket.fileno()

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def pass_on(self, pid: int) -> bool:
        """Take one message; pass its READY=1 on, and return True, if it has one."""
        message = self._socket.recv(_LARGEST)
        if b"READY=1" not in message.split(b"\n"):
            return False
        channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            channel.sendto(b"READY=1\nMAINPID=%d\n" % pid, self._target)
        except OSError:
            pass  # nobody listens any more
        finally:
            channel.close()
        return True

    def wait(self, pidfd: int, pid: int) -> None:
        """Wait until the container is ready, or over."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self.fd in ready and self.pass_on(pid):
                return
            if pidfd in ready:
                return
