"""The progress of a pull: lines in a pipe, a redrawn block on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios

import pytest

from rootless.image.registry import progress
from rootless.image.registry.progress import Progress


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


def test_progress_in_a_pipe_is_lines() -> None:
    assert shown(False).splitlines() == [
        r"Pulling x\x1b[2J",
        "aaaa: Waiting",
        "bbbb: Already exists",
        "aaaa: Download complete",
        "aaaa: Pull complete",
        "Digest: sha256:1",
    ]


def test_progress_on_a_terminal_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0.0)
    text = shown(True).replace("\r\n", "\n")
    assert "\x1b[2A\x1b[J" in text  # two rows redrawn
    assert "2MB/4MB" in text and "[=====>" in text
    assert max(len(line) for line in text.replace("\x1b[2A\x1b[J", "").splitlines()) < 61
    final = text.rpartition("\x1b[J")[2]
    assert final == "aaaa: Pull complete\nbbbb: Already exists\nDigest: sha256:1\n"


def test_bytes_are_counted_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bar if the number is known; in a pipe they are passed on without a word."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0.0)
    chunks = [b"x" * 1_000_000] * 2
    for total, expected in ((4_000_000, "2MB/4MB"), (0, "a: Saving 2MB")):
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        shows = Progress(follower, lines=False)
        assert list(shows.through("a", ("Saving", "Saved"), chunks, total)) == chunks
        text = ""
        while not text.endswith("a: Saved\r\n"):
            text += os.read(leader, 65536).decode()
        assert expected in text
        os.close(leader)
        os.close(follower)
    reader, writer = os.pipe()
    assert list(Progress(writer, lines=False).through("a", ("Saving", "Saved"), chunks)) == chunks
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_quiet_prints_nothing() -> None:
    assert shown(False, quiet=True) == shown(True, quiet=True) == ""


def test_closed_descriptor_does_not_end_the_pull() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    Progress(writer).say("nobody listens")
    os.close(writer)


class Screen:
    """A terminal that knows what Progress may use: newline, CSI n A, CSI J, and wrapping."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.text: list[str] = [""]  # what has scrolled out too
        self.row = 0
        self.most = 0  # how far up it was asked to go

    def feed(self, data: str) -> None:
        while data:
            if found := re.match(r"\x1b\[(\d+)A", data):
                self.most = max(self.most, int(found[1]))
                self.row -= int(found[1])
            elif found := re.match(r"\x1b\[J", data):
                del self.text[self.row + 1 :]
                self.text[self.row] = ""
            elif found := re.match(r"\r?\n", data):
                self.row += 1
                if self.row == len(self.text):
                    self.text.append("")
            else:
                found = re.match(r"[^\x1b\r\n]+", data)
                assert found is not None, data[:20]
                assert len(found[0]) < self.columns
                self.text[self.row] = found[0]
            data = data[found.end() :]


@pytest.mark.parametrize(("columns", "lines"), [(100, 30), (40, 10), (15, 3), (10, 2)])
def test_more_layers_than_lines_fit_the_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: int, lines: int
) -> None:
    """A line a layer at the end, none of the pictures before, and all the time those that move."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0.0)
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    os.set_blocking(reader, False)
    screen = Screen(columns, lines)

    def look() -> None:
        try:
            while data := os.read(reader, 65536):
                screen.feed(data.decode())
        except BlockingIOError:
            pass

    shows = Progress(writer)
    shows.say("first")
    names = [f"{number:04}" for number in range(60)]
    for name in names:
        shows.state(name, "Pulling fs layer", 1000)
        look()
    for name in names:
        shows.state(name, "Downloading", 1000)
        shows.advance(name, 500)
        look()
        assert any(line.startswith(f"{name}: Downloading"[: columns - 1]) for line in screen.text)
        shows.state(name, "Pull complete")
        look()
    shows.say("between")
    shows.finish()
    shows.say("last")
    look()
    assert screen.most < lines
    whole = [f"{name}: Pull complete"[: columns - 1] for name in names]
    assert screen.text == ["first", "between", *whole, "last", ""]
    os.close(writer)
    os.close(reader)


def test_narrowed_terminal_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was drawn is wrapped by then, and takes more lines."""
    monkeypatch.setattr("rootless.image.registry.progress._REDRAW_SECONDS", 0)
    monkeypatch.setenv("TERM", "xterm")
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    shows = Progress(writer)
    shows.state("aaaa", "x" * 30)
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    shows.state("bbbb", "y")
    said = b""
    while b"\x1b[2A\x1b[J" not in said:
        said += os.read(reader, 65536)  # a terminal gives it in pieces
    os.close(writer)
    os.close(reader)
