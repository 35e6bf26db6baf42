"""The client of a monitor that has just ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.engine.state.monitor_client import Client, listen
from rootless.errors import RlessError
from rootless.linux import unix


def test_last_message_is_read_after_a_connection_reset() -> None:
    """The kernel tells of a reset first, where the other side has not read all."""
    ours, theirs = unix.pair(unix.SOCK_SEQPACKET)
    client = Client(ours)
    client.forward(15)
    unix.send(theirs, b"B", [])
    unix.send(theirs, b"X\x07\0\0\0", [])
    Client(theirs).close()
    client.wait()
    assert (client.begun, client.code, client.gone) == (True, 7, False)
    client.hear()
    assert client.gone
    client.close()


def test_directory_that_holds_no_socket_is_named(tmp_path: Path) -> None:
    """As sshfs holds none; here a directory that cannot be written to."""
    tmp_path.chmod(0o500)
    said = r"cannot make a socket in .*Permission denied; set RLESS_STORAGE"
    with pytest.raises(RlessError, match=said):
        listen(str(tmp_path))
    tmp_path.chmod(0o700)
