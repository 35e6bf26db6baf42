"""Descriptors received over unix sockets."""

from __future__ import annotations

import os
import socket

import pytest

from rootless.linux import unix


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_descriptor_is_received() -> None:
    ours, theirs = unix.pair(unix.SOCK_STREAM)
    before = open_fds()
    with socket.socket(fileno=theirs) as sender, open("/etc/hosts", "rb") as file:
        socket.send_fds(sender, [b"+"], [file.fileno()])
        fd = unix.receive_fd(ours)
        assert os.path.sameopenfile(fd, file.fileno())
        assert not os.get_inheritable(fd)
        os.close(fd)
    assert len(open_fds()) == len(before) - 2


@pytest.mark.parametrize("kind", [unix.SOCK_STREAM, unix.SOCK_SEQPACKET])
def test_missing_descriptor_is_detected(kind: int) -> None:
    for said in (b"", b"text"):
        ours, theirs = unix.pair(kind)
        if said:
            os.write(theirs, said)
        os.close(theirs)
        with pytest.raises(OSError, match="no descriptor"):
            unix.receive_fd(ours)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(ours)


def test_second_descriptor_is_closed() -> None:
    ours, theirs = unix.pair(unix.SOCK_STREAM)
    with socket.socket(fileno=theirs) as sender:
        socket.send_fds(sender, [b"+"], [0, 1])
        before = len(open_fds())
        os.close(unix.receive_fd(ours))
        assert len(open_fds()) == before - 1


def test_reset_connection_is_reported() -> None:
    """The kernel says so with an error of its own."""
    ours, theirs = unix.pair(unix.SOCK_STREAM)
    os.write(ours, b"g")
    os.close(theirs)
    with pytest.raises(ConnectionResetError):
        unix.receive_fd(ours)
