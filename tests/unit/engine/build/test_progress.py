"""The progress of a build: what is written for the messages of the builder."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pty
import re
import struct
import termios
from typing import TYPE_CHECKING, Any

import pytest

from rootless.engine.build import progress
from rootless.engine.build.request import BuildRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rootless.engine.build.progress import Progress

STAGE = {"kind": "stage", "stage": 0, "name": "0", "steps": 3}
RUN = {"kind": "start", "stage": 0, "step": 2, "id": 7, "text": "RUN make"}
DONE = {"kind": "done", "id": 7, "seconds": 1.25}
FAILED = {"kind": "failed", "id": 7, "message": "exit code 2", "line": 2, "end_line": 2}


def output(text: str, number: int = 7, stream: int = 1) -> dict[str, Any]:
    return {"kind": "output", "id": number, "stream": stream, "text": text}


def shown(
    form: type[Progress],
    messages: Iterable[dict[str, Any]],
    size: tuple[int, int] | None = None,
    source: tuple[str, str] = ("", ""),
) -> str:
    """Return what is written; with a size (lines, columns) to a terminal, else to a pipe."""
    if size:
        reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        attributes = termios.tcgetattr(writer)
        attributes[1] &= ~termios.OPOST  # "\n" stays what it is
        termios.tcsetattr(writer, termios.TCSANOW, attributes)
    else:
        reader, writer = os.pipe()
    shows = form(writer)
    if source[1]:
        shows.show_source(*source)
    text = b""
    os.set_blocking(reader, False)
    for message in messages:
        shows.handle(message)
        text += drained(reader)
    shows.finish()
    text += drained(reader)
    os.close(writer)
    os.close(reader)
    return text.decode("utf-8", "surrogateescape")


def drained(fd: int) -> bytes:
    """Return what is there to be read."""
    text = b""
    try:
        while chunk := os.read(fd, 65536):
            text += chunk
    except BlockingIOError:
        pass
    return text


def timeless(text: str) -> str:
    return re.sub(r"\d+\.\d\d\d ", "T ", text)


def test_plain_tells_what_happens_to_each_step() -> None:
    cached = {"kind": "cached", "stage": 0, "step": 1, "id": 6, "text": "COPY . ."}
    late = {**RUN, "id": 8, "step": 3}
    wait = {"kind": "wait", "id": 8, "why": "another build is doing this step"}
    text = shown(
        progress.Plain,
        [
            {"kind": "warning", "text": "MaintainerDeprecated"},
            *(STAGE, cached, RUN, output("cc a\ncc b\n"), output("done\n", stream=2), DONE),
            *(late, wait, {"kind": "cached", "id": 8}),
        ],
    )
    assert timeless(text).splitlines() == [
        "WARNING: MaintainerDeprecated",
        "#6 [1/3] COPY . .",
        "#6 CACHED",
        "#7 [2/3] RUN make",
        "#7 T cc a",
        "#7 T cc b",
        "#7 T done",
        "#7 DONE 1.2s",
        "#8 [3/3] RUN make",
        "#8 waiting: another build is doing this step",
        "#8 CACHED",
    ]


def test_stages_are_named_where_there_are_several() -> None:
    named = {**STAGE, "stage": 1, "name": "build"}
    other = {**RUN, "stage": 1, "id": 8}
    text = shown(progress.Plain, [STAGE, named, RUN, other])
    assert text.splitlines() == ["#7 [stage-0 2/3] RUN make", "#8 [build 2/3] RUN make"]


@pytest.mark.parametrize("form", (progress.Plain, progress.Progress))
def test_failure_repeats_the_output_and_shows_the_lines(form: type[Progress]) -> None:
    text = shown(
        form,
        [STAGE, RUN, output("cc a\na.c:1: no\n"), FAILED],
        source=("app/Dockerfile", "FROM scratch\nRUN make\nRUN test\n"),
    )
    plain = ["#7 [2/3] RUN make", "#7 T cc a", "#7 T a.c:1: no", "#7 ERROR: exit code 2"]
    assert timeless(text).splitlines() == [
        *(plain if form is progress.Plain else []),
        "------",
        " > [2/3] RUN make:",
        "cc a",
        "a.c:1: no",
        "------",
        "app/Dockerfile:2",
        "1 |     FROM scratch",
        "2 | >>> RUN make",
        "3 |     RUN test",
        "4 |",
    ]


def test_failure_repeats_no_more_than_the_last_lines() -> None:
    lines = "".join(f"{number}\n" for number in range(1000))
    text = shown(progress.Progress, [STAGE, RUN, output(lines), output("x" * 9999 + "\n"), FAILED])
    kept = text.splitlines()[2:-1]
    assert (len(kept), kept[0], kept[-2], len(kept[-1])) == (100, "901", "999", 4096)


def test_quiet_shows_nothing_of_what_works() -> None:
    warning = {"kind": "warning", "text": "x"}
    assert shown(progress.Progress, [warning, STAGE, RUN, output("cc\n"), DONE]) == ""


def test_terminal_leaves_a_line_for_what_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0)
    text = shown(progress.Terminal, [STAGE, RUN, output("cc a\ncc b\n"), DONE], (24, 60))
    assert re.sub(r" *\d\.\ds", "T", text) == (
        "T [2/3] RUN make\n"
        "\x1b[1A\x1b[J"
        "T [2/3] RUN make\n       cc a\n       cc b\n"
        "\x1b[3A\x1b[J"
        "T [2/3] RUN make\n"
    )


def test_terminal_keeps_within_its_lines_and_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0)
    many = [{**RUN, "id": number, "text": f"RUN {'x' * 99}"} for number in range(1, 4)]
    noise = [output("y" * 99 + "\n", number % 3 + 1) for number in range(60)]
    text = shown(progress.Terminal, [STAGE, *many, *noise], (12, 40))
    pictures = re.split(r"\x1b\[\d+A\x1b\[J", text)
    heights = {len(picture.splitlines()) for picture in pictures}
    assert max(heights) <= 10  # of 12 lines
    assert max(map(len, text.splitlines())) < 40 + len("\x1b[10A\x1b[J")


def test_terminal_shows_what_overwrites_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0)
    text = shown(progress.Terminal, [STAGE, RUN, output("1%\r50%\r100%\r\n")], (24, 60))
    assert "\n       100%\n" in text
    assert "50%" not in text


@pytest.mark.parametrize("form", (progress.Plain, progress.Terminal, progress.Progress))
def test_a_terminal_gets_no_escape_sequence_of_others(
    form: type[Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class 68."""
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0)
    evil = "\x1b]0;owned\x07\x9b2J\udc9b"
    text = shown(
        form,
        [
            {"kind": "warning", "text": evil},
            {**STAGE, "name": evil, "platform": evil},
            {**RUN, "text": evil},
            {"kind": "wait", "id": 7, "why": evil},
            *(output(f"{evil}\n"), {**FAILED, "message": evil, "line": 1, "end_line": 1}),
        ],
        (24, 600),  # so that all is shown
        source=(evil, f"RUN {evil}"),
    )
    left = re.sub(r"\x1b\[\d+A\x1b\[J", "", text)  # ours
    assert r"\x1b]0;owned\x07\x9b2J\udc9b" in left
    assert left.replace("\n", "").isprintable()


def test_a_pipe_gets_the_output_byte_for_byte_but_names_escaped() -> None:
    """Class 68."""
    start = {**RUN, "text": "RUN \x1b[2J"}
    text = shown(progress.Plain, [STAGE, start, output("\x1b[31mred\udcff\n")])
    assert timeless(text) == "#7 [2/3] RUN \\x1b[2J\n#7 T \x1b[31mred\udcff\n"


def test_rawjson_has_the_records_of_buildkit() -> None:
    cached = {"kind": "cached", "stage": 0, "step": 1, "id": 6, "text": "COPY . ."}
    text = shown(
        progress.RawJson, [STAGE, cached, RUN, output("\x1b[1m\udcff\n", stream=2), FAILED]
    )
    records = [json.loads(line) for line in text.splitlines()]
    begun, found, run, log, failed = records
    assert found["vertexes"][0]["cached"] is True
    assert found["vertexes"][0]["digest"] == begun["vertexes"][0]["digest"]
    vertex = run["vertexes"][0]
    assert (vertex["name"], "completed" in vertex) == ("[2/3] RUN make", False)
    assert log["logs"][0]["vertex"] == vertex["digest"]
    assert base64.b64decode(log["logs"][0]["data"]) == b"\x1b[1m\xff\n"
    assert log["logs"][0]["stream"] == 2
    assert failed["vertexes"][0]["error"] == "exit code 2"


def test_a_pipe_has_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for form, kind in (
        ("auto", progress.Plain),
        ("tty", progress.Plain),
        ("plain", progress.Plain),
        ("quiet", progress.Progress),
        ("rawjson", progress.RawJson),
    ):
        reader, writer = os.pipe()
        saved = os.dup(2)
        os.dup2(writer, 2)
        try:
            made = progress.make(BuildRequest(context=".", progress=form))
        finally:
            os.dup2(saved, 2)
            for fd in (reader, writer, saved):
                os.close(fd)
        assert type(made) is kind
