"""`rless system dial-stdio`: connect standard input and output to the service.

`docker -H ssh://HOST` runs `docker system dial-stdio` there.
"""

from __future__ import annotations

import os
import socket
import threading

from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("system dial-stdio", "", most=0)

_BLOCK = 65536


def main(values: dict[str, Any], args: list[str]) -> int:
    """Copy both ways until the service closes; the end of the input is passed on."""
    from rootless.service import listener

    path = listener.path_of(None)
    listener.ensure(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(path)
        except OSError as error:
            raise RlessError(f"cannot connect to {path}: {error.strerror}") from error
        threading.Thread(target=_send, args=(client,), daemon=True).start()
        try:
            while data := client.recv(_BLOCK):
                view = memoryview(data)
                while view:
                    view = view[os.write(1, view) :]
        except OSError:
            pass  # one of both sides has gone
    return 0


def _send(client: socket.socket) -> None:
    try:
        while data := os.read(0, _BLOCK):
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the service has closed
