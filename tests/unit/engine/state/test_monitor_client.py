"""The client of a monitor that has just ended."""

from __future__ import annotations

from rootless.engine.state.monitor_client import Client
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
