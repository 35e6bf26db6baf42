"""`logs`: exact bytes, streams, lines, times, rotation and closed readers."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.engine.query import logs
from tests.lib.records import Records

ROOT = Path(__file__).parents[3]
LOGS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from rootless.cli.main import main
sys.exit(main(["logs", *sys.argv[1:]]))
"""
BEGIN = 1_700_000_000 * 10**9  # 2023-11-14T22:13:20Z


def stamp(nanoseconds: int) -> str:
    moment = datetime.fromtimestamp(nanoseconds // 10**9, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09}Z"


def frame(data: bytes, stream: str = "stdout", at: int = BEGIN) -> bytes:
    """Return a frame of the driver local."""
    return f"{stamp(at)} {stream} {len(data)}\n".encode() + data + b"\n"


def json_line(data: bytes, stream: str = "stdout", at: int = BEGIN) -> bytes:
    """Return a line of the driver json-file."""
    text = data.decode("utf-8", "surrogateescape")
    return json.dumps({"log": text, "stream": stream, "time": stamp(at)}).encode() + b"\n"


class Log:
    """A container with a log that the test writes."""

    def __init__(self, records: Records, driver: str = "local", state: str = "exited") -> None:
        self.records = records
        self.driver = driver
        self.id = records.add("c", state=state, log={"driver": driver, "options": {}})
        self.path = records.directory(self.id) / "log"

    def write(self, data: bytes, stream: str = "stdout", at: int = BEGIN) -> None:
        """Append what one read of the application's output gave."""
        with open(self.path, "ab") as file:
            if self.driver == "local":
                file.write(frame(data, stream, at))
                return
            for line in data.splitlines(keepends=True):
                file.write(json_line(line, stream, at))

    def rotate(self, most: int = 5) -> None:
        """Rename the files as the monitor does."""
        for number in range(most - 2, 0, -1):
            older = Path(f"{self.path}.{number}")
            if older.exists():
                older.rename(f"{self.path}.{number + 1}")
        self.path.rename(f"{self.path}.1")

    def end(self) -> None:
        """Let the container end."""
        (self.path.parent / "exit.json").write_text('{"code": 0, "finished": 1.0}')
        os.unlink(self.records.live / self.id)

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-I", "-B", "-c", LOGS, *words, "c"]

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "RLESS_STORAGE": str(self.records.storage), "TZ": "UTC"}

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(self.argv(*words), env=self.env, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done

    def out(self, *words: str) -> bytes:
        done = self.run(*words)
        assert done.stderr == b""
        return done.stdout

    def follow(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv("-f", *words), env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "storage")


@pytest.fixture(params=("local", "json-file"))
def log(records: Records, request: pytest.FixtureRequest) -> Log:
    return Log(records, request.param)


@pytest.fixture(params=("local", "json-file"))
def living(records: Records, request: pytest.FixtureRequest) -> Log:
    return Log(records, request.param, "running")


# -- what is there -----------------------------------------------------------------------------


def test_streams_keep_exact_bytes(log: Log) -> None:
    everything = bytes(range(256)) + b"\xff\xfe partial \xc3"
    log.write(b"one\n")
    log.write(b"err\n", "stderr")
    log.write(everything)
    log.write(b"no end", "stderr")
    done = log.run()
    assert done.stdout == b"one\n" + everything
    assert done.stderr == b"err\nno end"


def test_empty_log_prints_nothing(log: Log) -> None:
    assert log.out() == b""
    log.write(b"")
    assert log.out() == b""


def test_binary_output_spans_frames_and_files(log: Log) -> None:
    source = random.Random(1)
    chunks = [source.randbytes(source.randrange(1, 1 << 16)) for _ in range(60)]
    for number, chunk in enumerate(chunks):
        log.write(chunk)
        if number % 20 == 19:
            log.rotate()
    assert log.out() == b"".join(chunks)


def test_since_and_until_select_lines(log: Log) -> None:
    for number in range(5):
        log.write(f"{number}\n".encode(), at=BEGIN + number * 60 * 10**9)
    assert log.out("--since", "2023-11-14T22:15:20Z") == b"2\n3\n4\n"
    assert log.out("--since", "2023-11-14T22:15:20") == b"2\n3\n4\n"
    assert log.out("--since", "2023-11-14T23:15:20+01:00") == b"2\n3\n4\n"
    assert log.out("--since", "1700000120") == b"2\n3\n4\n"
    assert log.out("--since", "1700000120.000000001") == b"3\n4\n"
    assert log.out("--until", "1700000060") == b"0\n1\n"
    assert log.out("--since", "1700000060", "--until", "1700000120") == b"1\n2\n"
    assert log.out("--since", "10m") == b""
    assert log.out("--until", "10m") == b"0\n1\n2\n3\n4\n"
    # The last lines of what is left.
    assert log.out("--until", "1700000120", "-n", "2") == b"1\n2\n"
    assert log.out("--since", "1700000120", "-n", "9") == b"2\n3\n4\n"


@pytest.mark.parametrize(
    "text", ("yesterday", "", "10", "2023-13-01", "1h30", "2023-11-14T99:00:00")
)
def test_wrong_times_are_refused(log: Log, text: str) -> None:
    done = subprocess.run(log.argv("--since", text), env=log.env, capture_output=True)
    if text == "10":
        assert done.returncode == 0  # ten seconds after 1970
        return
    assert done.returncode == 125
    assert done.stderr.count(b"\n") == 1
    assert b"is not a time such as" in done.stderr


def test_timestamps_are_printed(log: Log) -> None:
    log.write(b"a\nb", at=BEGIN)
    log.write(b"c\n", at=BEGIN + 1)
    log.write(b"\nd", at=BEGIN + 2)
    first, third = stamp(BEGIN).encode(), stamp(BEGIN + 2).encode()
    assert log.out("-t") == (first + b" a\n" + first + b" bc\n" + third + b" \n" + third + b" d")


def test_details_are_printed(records: Records) -> None:
    log = Log(records)
    log.write(b"a\nb\n")
    path = log.path.parent / "container.json"
    facts = json.loads(path.read_text())
    assert log.out("--details") == b" a\n b\n"
    facts["labels"] = {"tier": "front end", "other": "x"}
    facts["log"]["options"] = {"labels": "tier,none"}
    path.write_text(json.dumps(facts))
    assert log.out("--details") == b"tier=front+end a\ntier=front+end b\n"


def test_tail_prints_the_last_lines(log: Log) -> None:
    log.write(b"a\nb\nc\n")
    log.write(b"d\ne")
    log.write(b"f\n\n")
    log.write(b"err\n", "stderr")
    log.write(b"last")
    for count, out, err in (
        ("0", b"", b""),
        ("1", b"last", b""),
        ("2", b"last", b"err\n"),
        ("3", b"\nlast", b"err\n"),
        ("4", b"ef\n\nlast", b"err\n"),
        ("100", b"a\nb\nc\nd\nef\n\nlast", b"err\n"),
        ("all", b"a\nb\nc\nd\nef\n\nlast", b"err\n"),
    ):
        done = log.run("-n", count)
        assert (done.stdout, done.stderr) == (out, err), count


def test_tail_spans_rotations(log: Log) -> None:
    whole = b""
    for number in range(400):
        text = f"{number} {'x' * (number % 97)}\n".encode()
        whole += text
        log.write(text)
        if number % 100 == 99:
            log.rotate()
    lines = whole.splitlines(keepends=True)
    for count in (1, 50, 99, 100, 101, 250, 399, 400, 500):
        assert log.out("--tail", str(count)) == b"".join(lines[-count:])


def test_tail_reads_only_the_end_of_a_large_file(records: Records) -> None:
    """More than one block of frames: the start is found in the right one."""
    log = Log(records)
    with open(log.path, "wb") as file:
        for number in range(60000):
            file.write(frame(b"%d %s\n" % (number, b"y" * 40)))
    lines = log.out("-n", "30000").splitlines()
    assert (len(lines), lines[0].split()[0], lines[-1].split()[0]) == (30000, b"30000", b"59999")
    start, offset = logs._tail_start(fds := logs.snapshot(str(log.path)), "local", 10)
    for fd in fds:
        os.close(fd)
    assert start == 0
    assert offset > log.path.stat().st_size - 3 * (1 << 20)


def test_log_drivers_without_a_file_are_reported(records: Records) -> None:
    log = Log(records, "none")
    done = subprocess.run(log.argv(), env=log.env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("rless: container c keeps no log: its log driver is none; ")


def test_missing_container_is_reported(records: Records) -> None:
    env = {**os.environ, "RLESS_STORAGE": str(records.storage)}
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", LOGS, "gone"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("rless: no such container: gone")


# -- damage ------------------------------------------------------------------------------------


def decoded(data: bytes) -> bytes:
    batches = logs._decode([(0, data), (0, b"")], logs.local_frames)
    return b"".join(bytes(text) for batch in batches for _, _, text in batch or ())


def test_truncated_frame_hides_no_other() -> None:
    """Left by a crash or a full disk; another frame may have been written after it."""
    cut = frame(b"0123456789" * 10)
    for length in range(1, len(cut)):
        text = decoded(frame(b"before\n") + cut[:length] + frame(b"after\n"))
        assert text.startswith(b"before\n"), length
        assert text.endswith(b"after\n"), length
        text = decoded(frame(b"before\n") + cut[:length])
        assert text.startswith(b"before\n")
        assert set(text[7:]) <= set(b"0123456789")


def test_overlong_frame_is_ignored() -> None:
    forged = f"{stamp(BEGIN)} stdout 99999\n".encode()
    assert decoded(forged + frame(b"x\n")) == b"x\n"
    assert decoded(frame(b"a\n") + forged * 3 + frame(b"x\n")).endswith(b"x\n")


def test_truncated_json_line_hides_no_other(records: Records) -> None:
    log = Log(records, "json-file")
    log.path.write_bytes(
        json_line(b"a\n") + b'{"log":"b\n' + b"[]\n{}\n1\n\n" + json_line(b"c\n") + b'{"log'
    )
    assert log.out() == b"a\nc\n"


def test_content_cannot_forge_a_frame(log: Log) -> None:
    fake = frame(b"forged\n", "stderr")
    log.write(fake + fake)
    done = log.run()
    assert (done.stdout, done.stderr) == (fake + fake, b"")
    assert log.run("-n", "1").stdout == b"\n"


@given(st.lists(st.tuples(st.binary(max_size=200), st.booleans()), max_size=20), st.data())
def test_frames_of_any_split_are_read_back(
    pieces: list[tuple[bytes, bool]], data: st.DataObject
) -> None:
    written = b"".join(frame(text, "stderr" if err else "stdout") for text, err in pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=6)))
    bounds = [0, *cuts, len(written)]
    parts = [(0, written[a:b]) for a, b in itertools.pairwise(bounds) if b > a]
    found = [
        (bytes(text), stream == 2)
        for batch in logs._decode(parts, logs.local_frames)
        for _, stream, text in batch or ()
    ]
    assert found == pieces


# -- following ---------------------------------------------------------------------------------


def read_until(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    assert process.stdout is not None
    found = b""
    deadline = time.monotonic() + 30
    while not found.endswith(text):
        assert time.monotonic() < deadline, found
        more = os.read(process.stdout.fileno(), 1 << 16)
        assert more, found
        found += more
    return found


def test_follow_ends_with_the_container(living: Log) -> None:
    living.write(b"first\n")
    process = living.follow()
    assert read_until(process, b"first\n") == b"first\n"
    living.write(b"second")
    assert read_until(process, b"second") == b"second"
    living.write(b" third\n")
    living.end()
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == (b" third\n", b"", 0)


def test_follow_of_an_ended_container_ends(log: Log) -> None:
    log.write(b"all\n")
    assert log.out("-f") == b"all\n"
    assert log.out("-f", "-n", "0") == b""


def test_follow_starts_at_the_tail(living: Log) -> None:
    living.write(b"old\nold\n")
    process = living.follow("-n", "0", "-t")
    time.sleep(0.5)
    living.write(b"new\n", at=BEGIN + 5)
    assert read_until(process, b"new\n") == stamp(BEGIN + 5).encode() + b" new\n"
    living.end()
    assert process.communicate(timeout=20)[0] == b""


def test_follow_ends_at_until(living: Log) -> None:
    living.write(b"now\n", at=time.time_ns())
    process = living.follow("--until", str(int(time.time()) + 1))
    out, _ = process.communicate(timeout=20)
    assert out == b"now\n"
    living.end()


def test_follow_across_rotations_is_exact(living: Log) -> None:
    process = living.follow()
    source = random.Random(2)
    sent = []

    def write() -> None:
        for number in range(300):
            chunk = (
                b"%d " % number + source.randbytes(source.randrange(3000)).hex().encode() + b"\n"
            )
            living.write(chunk)
            sent.append(chunk)
            if number % 15 == 14:
                living.rotate(30)
            if number % 4 == 0:
                time.sleep(0.001)
        living.end()

    thread = threading.Thread(target=write)
    thread.start()
    out, err = process.communicate(timeout=60)
    thread.join()
    assert err == b""
    assert out == b"".join(sent)


def test_reading_during_rotation_has_no_gap(living: Log) -> None:
    """Each answer of a plain `logs` is a beginning of what was written, without a hole."""
    stop = threading.Event()
    whole = bytearray()

    def write() -> None:
        number = 0
        while not stop.is_set() and number < 4000:
            line = b"%d\n" % number
            whole.extend(line)
            living.write(line)
            number += 1
            if number % 40 == 0:
                living.rotate(200)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(15):
            text = living.out()
            assert text == bytes(whole[: len(text)])
    finally:
        stop.set()
        thread.join()
    living.end()


def test_follow_continues_through_restarts(records: Records) -> None:
    """While it waits to be restarted, only the monitor lives."""
    log = Log(records, "local", "running")
    entry = records.live / log.id

    def replace(path: Path, data: object) -> None:
        made = log.path.parent / "made"  # as rless does: it is never there in part
        made.write_text(json.dumps(data))
        made.replace(path)

    live = json.loads(entry.read_text())
    (log.path.parent / "exit.json").write_text('{"code": 1, "finished": 1, "restart_at": 9e9}')
    replace(entry, {**live, "init": None})
    log.write(b"one\n")
    process = log.follow()
    read_until(process, b"one\n")
    time.sleep(0.3)
    assert process.poll() is None
    replace(entry, live)
    log.write(b"two\n")
    read_until(process, b"two\n")
    log.end()
    process.communicate(timeout=20)


def test_follow_ends_when_the_container_is_removed(living: Log) -> None:
    living.write(b"x\n")
    process = living.follow()
    read_until(process, b"x\n")
    living.end()
    for path in living.path.parent.iterdir():
        path.unlink()
    living.path.parent.rmdir()
    assert process.communicate(timeout=20) == (b"", b"")


# -- readers -----------------------------------------------------------------------------------


def test_closed_reader_is_no_error(log: Log) -> None:
    for _ in range(40):
        log.write(b"x" * 60000 + b"\n")
    process = subprocess.Popen(
        log.argv(), env=log.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    os.read(process.stdout.fileno(), 10)
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_nonblocking_pipe_gets_everything(log: Log) -> None:
    data = b"".join(b"%d\n" % number for number in range(100000))
    for at in range(0, len(data), 50000):
        log.write(data[at : at + 50000])
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen(log.argv(), env=log.env, stdout=writer)
    os.close(writer)
    time.sleep(0.3)  # the pipe is full now
    found = b""
    while more := os.read(reader, 1 << 16):
        found += more
    os.close(reader)
    assert process.wait(20) == 0
    assert found == data


def test_full_disk_is_reported(log: Log) -> None:
    log.write(b"x\n")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(log.argv(), env=log.env, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 125
    assert done.stderr == b"rless: cannot write the log: No space left on device\n"


# -- the journal -------------------------------------------------------------------------------


def test_journal_messages_are_printed() -> None:
    from rootless.engine.query import journald

    def line(**fields: Any) -> bytes:
        fields = {"__REALTIME_TIMESTAMP": "1700000000000001", "PRIORITY": "6", **fields}
        return json.dumps(fields).encode()

    assert journald.frame(line(MESSAGE="héllo")) == (
        stamp(BEGIN + 1000).encode(), 1, "héllo\n".encode(),
    )  # fmt: skip
    binary = journald.frame(line(MESSAGE=[255, 0], PRIORITY="3"))
    assert binary is not None
    assert binary[1:] == (2, b"\xff\x00\n")
    part = journald.frame(line(MESSAGE="half", CONTAINER_PARTIAL_MESSAGE="true"))
    assert part is not None
    assert part[2] == b"half"
    for damaged in (b"", b"{", b"{}", b"[]"):
        assert journald.frame(damaged) is None


def test_missing_journalctl_is_reported(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    from rootless.engine.query import journald
    from rootless.errors import RlessError
    from rootless.linux import programs

    monkeypatch.setattr(programs, "find", lambda name: None)
    with pytest.raises(RlessError, match="there is no journalctl here"):
        next(journald.frames("x", None))


def test_journalctl_is_asked_for_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rootless.engine.query import journald
    from rootless.linux import programs

    program = tmp_path / "journalctl"
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *" _UID={os.getuid()} CONTAINER_ID_FULL=abc") ;;\n'
        "*) echo bad >&2; exit 1;; esac\n"
        'echo \'{"MESSAGE":"hi","__REALTIME_TIMESTAMP":"1700000000000000"}\'\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(programs, "find", lambda name: str(program))
    found = [frame for batch in journald.frames("abc", None) for frame in batch or ()]
    assert [text for _, _, text in found] == [b"hi\n"]
    from rootless.errors import RlessError

    with pytest.raises(RlessError, match="journalctl failed: bad"):
        list(journald.frames("other", None))
