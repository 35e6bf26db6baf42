"""rootless/runtime/inside/tty.py: a pty of the container's own, handed over a socket (class 37)."""

from __future__ import annotations

import array
import fcntl
import os
import shutil
import socket
import struct
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle, complaint

pytestmark = pytest.mark.needs("compiler", "user namespaces")


class Listener:
    """A console socket as conmon has it; its path is short, as socket paths must be."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="rless-tty-")
        self.path = f"{self.directory}/s"
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.path)
        self.socket.listen(1)
        self.socket.settimeout(10)

    def receive(self) -> int:
        """Return the terminal's master."""
        channel, _ = self.socket.accept()
        with channel:
            channel.settimeout(10)
            name, ancillary, _, _ = channel.recvmsg(4096, socket.CMSG_SPACE(4))
        assert name
        fds = array.array("i", ancillary[0][2])
        return fds[0]

    def close(self) -> None:
        self.socket.close()
        shutil.rmtree(self.directory)


@pytest.fixture
def listener() -> Iterator[Listener]:
    one = Listener()
    yield one
    one.close()


def read_all(master: int) -> str:
    out = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # EIO: nobody holds the other end any more
            break
        out += data
    os.close(master)
    return out.decode()


def test_terminal_is_sent_over_the_socket(live: Bundle, listener: Listener) -> None:
    live.process["terminal"] = True
    live.process["consoleSize"] = {"height": 33, "width": 77}
    words = ["tty", ",", "stat", "/dev/console", "/dev/pts/0", ",", "ls", "/dev/pts"]
    live.create(*words, options=["--console-socket", listener.path])
    master = listener.receive()
    assert live.status() == "created"
    live.call("start", live.id).expect()
    lines = read_all(master).splitlines()
    assert lines[:4] == ["isatty 1 1 1", "controlling ok", "foreground 1 1", "winsize 33 77"]
    assert lines[4].startswith("stat /dev/console char 0620 0 ")
    assert lines[4].split()[-2] == lines[5].split()[-2] == "136:0"
    assert sorted(lines[6:]) == ["0", "ptmx"]
    assert live.output() == ""


def test_terminal_belongs_to_the_user(live: Bundle, listener: Listener) -> None:
    live.process["terminal"] = True
    live.create("stat", "/dev/pts/0", options=["--console-socket", listener.path])
    master = listener.receive()
    live.call("start", live.id).expect()
    assert read_all(master).split()[4] == "0"


def test_input_signals_and_size_are_passed_on(live: Bundle, listener: Listener) -> None:
    live.process["terminal"] = True
    words = ["wait-signal", "28", ",", "tty"]
    live.create(*words, options=["--console-socket", listener.path])
    master = listener.receive()
    live.call("start", live.id).expect()
    assert os.read(master, 100) == b"ready\r\n"
    os.write(master, b"\x03")  # the terminal turns it into SIGINT
    out = b""
    while b"signal 2\r\n" not in out:
        out += os.read(master, 100)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 11, 22, 0, 0))
    said = read_all(master)
    assert "signal 28\r\n" in said
    assert "winsize 11 22" in said


def test_missing_program_is_reported(live: Bundle, listener: Listener) -> None:
    live.process["terminal"] = True
    live.process["args"] = ["/nothing"]
    live.write()
    options = ["--console-socket", listener.path]
    done = live.call("create", *options, "-b", str(live.path), live.id)
    assert "no such file or directory in the container" in complaint(done)


def test_links_of_the_image_at_dev_console_are_not_followed(
    live: Bundle, listener: Listener, tmp_path: Path
) -> None:
    """CVE-2025-52565: without mounts on /dev the image's own /dev/console is the target."""
    outside = tmp_path / "outside"
    outside.mkdir()
    live.spec["mounts"] = [m for m in live.spec["mounts"] if m["destination"] != "/dev"]
    (live.rootfs / "dev/pts").mkdir(parents=True)
    (live.rootfs / "dev/console").symlink_to(outside / "console")
    live.process["terminal"] = True
    live.create("tty", options=["--console-socket", listener.path])
    master = listener.receive()
    live.call("start", live.id).expect()
    assert "controlling ok" in read_all(master)
    assert os.listdir(outside) == []


def test_terminal_needs_a_socket(bundle: Bundle) -> None:
    bundle.process["terminal"] = True
    bundle.write("id")
    done = bundle.call("create", "-b", str(bundle.path), bundle.id)
    assert "process.terminal needs --console-socket" in complaint(done)
    options = ["--console-socket", "/no/such/socket"]
    assert "/no/such/socket: No such file" in bundle.fails("id", options=options)
    bundle.process["terminal"] = False
    assert "allows no --console-socket" in bundle.fails("id", options=options)


def test_terminal_needs_devpts(bundle: Bundle, listener: Listener) -> None:
    bundle.process["terminal"] = True
    bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if m["destination"] != "/dev/pts"]
    message = bundle.fails("id", options=["--console-socket", listener.path])
    assert "cannot make a terminal" in message
