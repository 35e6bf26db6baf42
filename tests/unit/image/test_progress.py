"""What a pull shows: lines in a pipe, a redrawn block on a terminal, nothing when quiet."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios

import pytest

from rootless.image import progress
from rootless.image.progress import Progress


def shown(on_terminal: bool, quiet: bool = False) -> str:
    """Return what a small pull writes."""
    if on_terminal:
        reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    else:
        reader, writer = os.pipe()
    shows = Progress(writer, quiet=quiet)
    shows.say("Pulling x\x1b[2J")
    shows.state("aaaa", "Waiting", 4_000_000)
    shows.state("bbbb", "Already exists")
    shows.state("aaaa", "Downloading", 4_000_000)
    for done in range(0, 4_000_001, 1_000_000):
        shows.advance("aaaa", done)
    shows.state("aaaa", "Pull complete")
    shows.finish()
    shows.say("Digest: sha256:1")
    os.write(writer, b"")
    text = b""
    os.set_blocking(reader, False)
    while True:
        try:
            chunk = os.read(reader, 65536)
        except BlockingIOError:
            break
        if not chunk:
            break
        text += chunk
    os.close(writer)
    os.close(reader)
    return text.decode()


def test_in_a_pipe() -> None:
    assert shown(False).splitlines() == [
        r"Pulling x\x1b[2J",
        "aaaa: Waiting",
        "bbbb: Already exists",
        "aaaa: Download complete",
        "aaaa: Pull complete",
        "Digest: sha256:1",
    ]


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0.0)
    text = shown(True).replace("\r\n", "\n")
    assert "\x1b[2A\x1b[J" in text  # two rows redrawn
    assert "2MB/4MB" in text and "[=====>" in text
    assert max(len(line) for line in text.replace("\x1b[2A\x1b[J", "").splitlines()) < 61
    final = text.rpartition("\x1b[J")[2]
    assert final == "aaaa: Pull complete\nbbbb: Already exists\nDigest: sha256:1\n"


def test_quiet() -> None:
    assert shown(False, quiet=True) == shown(True, quiet=True) == ""


def test_a_closed_descriptor_ends_no_pull() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    Progress(writer).say("nobody listens")
    os.close(writer)
