"""Seccomp user notification: send the descriptor of a filter's listener to the agent.

Init has the descriptor only after the filter is loaded, when the agent may already have to answer
init's own system calls. So a helper sends it, which was made before and shares init's descriptors:
init tells it the number by write(2), so a filter may not notify of write(2) (as in runc).
Loaded only where a config has `linux.seccomp.listenerPath`. Source: runtime-spec
config-linux.md (containerprocessstate); seccomp_unotify(2), Linux 5.0.
"""

from __future__ import annotations

import _socket
import os

from rootless import jsontext
from rootless.errors import RlessError
from rootless.linux import ns, unix
from rootless.linux.seccomp import FLAG_NEW_LISTENER, load_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rootless.oci.runtime_spec import State

_VERSION = "0.2.0"  # of the container process state, which the specification has by this number


class Listener:
    """The runtime's end of the channel to the agent of one container's filter.

    Args:
        fd: a connected unix socket, which is taken over.
        metadata: `listenerMetadata` of the profile.
    """

    __slots__ = ("_metadata", "_state", "fd")

    def __init__(self, fd: int, state: State, metadata: str = "") -> None:
        self.fd = fd
        self._metadata = metadata
        self._state = state

    def load(self, bpf: bytes, flags: int, pid: int) -> None:
        """Load the filter into the calling process, and send its listener.

        Args:
            pid: of the caller, as the runtime sees it.
        """
        message = {
            "ociVersion": _VERSION,
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": self._metadata,
            "state": {**self._state, "pid": pid},
        }
        text = jsontext.dumps(message).encode()
        reader, writer = os.pipe()
        helper = ns.clone_sharing_fds()
        if helper == 0:
            try:
                number = os.read(reader, 8)
                if number:
                    self._send(text, int.from_bytes(number, "little"))
                    os._exit(0)
            finally:
                os._exit(1)
        listener = load_filter(bpf, flags | FLAG_NEW_LISTENER)
        os.write(writer, listener.to_bytes(8, "little"))
        _, status = os.waitpid(helper, 0)
        for fd in (reader, writer, listener, self.fd):
            os.close(fd)
        if status:
            raise RlessError("linux.seccomp.listenerPath: the agent did not take the listener")

    def _send(self, text: bytes, listener: int) -> None:
        unix.send(self.fd, text, [listener])


def connect(seccomp: Mapping[str, Any], state: State) -> Listener:
    """Connect to the agent of a profile, while its socket can be seen.

    Raises:
        RlessError: nobody listens.
    """
    path = seccomp["listenerPath"]
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        channel.connect(path)
    except OSError as error:
        channel.close()
        raise RlessError(f"linux.seccomp.listenerPath {path}: {error.strerror}") from error
    return Listener(channel.detach(), state, seccomp.get("listenerMetadata", ""))
