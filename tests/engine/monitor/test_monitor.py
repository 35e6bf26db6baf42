"""The monitor program in C, also built with sanitizers."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rootless.engine.state.monitor_client import Client
from rootless.errors import RlessError
from rootless.image.store.ownership import everything
from rootless.linux import prctl
from rootless.linux.idmap import call_in_userns
from rootless.linux.seccomp import load_filter
from rootless.runtime import sync
from rootless.runtime.seccomp.compiler import compile_filter
from tests.lib.held import Held, frames, small_files
from tests.lib.product import wait_for

Start = Callable[..., Held]
PROGRAMS = pytest.mark.parametrize("program", ["c", "sanitized"])
pytestmark = PROGRAMS


@pytest.fixture
def start(tmp_path: Path, program: str) -> Iterator[Start]:
    """Give a function that starts a command under the monitor."""
    made: list[Held] = []

    def begin(*command: str, **more: Any) -> Held:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(Held(directory, program, command, **more))
        return made[-1]

    yield begin
    for held in made:
        held.close()


def emitter(size: int) -> tuple[str, ...]:
    """Return a command that writes that many bytes, each place its own."""
    return (
        sys.executable,
        "-Sc",
        f"import sys\nfor n in range({size // 16}): sys.stdout.write('%015d\\n' % n)",
    )


def expected(size: int) -> str:
    digest = hashlib.sha256()
    for first in range(0, size // 16, 65536):
        last = min(first + 65536, size // 16)
        digest.update("".join(f"{n:015d}\n" for n in range(first, last)).encode())
    return digest.hexdigest()


class Reader(threading.Thread):
    """Reads a pipe to its end."""

    def __init__(self, fd: int, pause: float = 0) -> None:
        super().__init__(daemon=True)
        self.fd, self.pause = fd, pause
        self.digest = hashlib.sha256()
        self.size = 0
        self.start()

    def run(self) -> None:
        while data := os.read(self.fd, 1 << 16):
            self.digest.update(data)
            self.size += len(data)
            time.sleep(self.pause)
        os.close(self.fd)

    def result(self) -> str:
        self.join(60)
        assert not self.is_alive()
        return self.digest.hexdigest()


# -- the end ---------------------------------------------------------------------------------------


def test_exit_is_recorded_and_reported(start: Start) -> None:
    held = start("sh", "-c", "sleep 0.2; exit 7")
    client = held.connect()
    assert client.wait(0.01) is None
    assert client.wait(10) == 7
    held.wait()
    assert held.exit().items() >= {
        "code": 7, "started": 12.5, "error": None, "oom": False, "restarts": 0,
    }.items()  # fmt: skip
    assert abs(held.exit()["finished"] - time.time()) < 30
    event = json.loads(held.events.read_text())
    assert event["action"] == "die"
    assert event["attributes"] == {
        "label": "l",
        "image": "an image",
        "name": "held",
        "exitCode": "7",
    }
    assert abs(event["time"] / 1e9 - time.time()) < 30
    assert not held.run_record.exists()
    assert sorted(os.listdir(held.directory)) == ["exit.json"]
    assert (held.base / "names" / "held").is_symlink()


def test_overlong_restart_error_keeps_the_exit_record(start: Start) -> None:
    """A container chooses the name of the program that cannot be started again."""
    held = start("sh", "-c", "exit 3", error=json.dumps("cannot execute " + 8000 * "\x1b"))
    held.wait()
    assert held.exit()["code"] == 3


def test_death_by_signal_exits_128_plus_its_number(start: Start) -> None:
    held = start("sleep", "60")
    client = held.connect()
    client.signal(signal.SIGTERM)
    assert client.wait(10) == 143
    held.wait()
    with pytest.raises(RlessError, match="not running"):
        client.signal(signal.SIGTERM)


def test_unknown_signal_is_refused(start: Start) -> None:
    client = start("sleep", "60").connect()
    with pytest.raises(RlessError, match="Invalid argument"):
        client.signal(99)


def test_signals_do_not_end_the_monitor(start: Start) -> None:
    held = start("sleep", "60")
    held.connect().signal(signal.SIGWINCH)  # it is at work
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        os.kill(held.pid, number)
    client = held.connect()
    client.signal(signal.SIGKILL)
    assert client.wait(10) == 137


def test_surviving_processes_do_not_delay_the_exit(start: Start) -> None:
    """In the host's pid namespace other processes go on; what they write has no end."""
    script = (
        "import fcntl, os, time\n"
        "fcntl.fcntl(1, 1031, 1 << 20)\n"  # F_SETPIPE_SZ: it is never empty
        "for n in range(3):\n"
        "    if os.fork() == 0:\n"
        "        while True: os.write(1, bytes(1 << 16))\n"
        "time.sleep(0.3)\n"
        "os._exit(3)"
    )
    held = start(sys.executable, "-Sc", script, log="json-file", log_size=1 << 20)
    try:
        held.wait()
        assert held.exit()["code"] == 3
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(held.init, signal.SIGKILL)


def test_container_is_removed_at_exit(start: Start, program: str) -> None:
    script = "mkdir -p {0}/a/b && cd {0}/a && touch x && chmod 500 b && ln -s / link; i=0; "
    script += (
        "while [ $i -lt 300 ]; do mkdir dddddddddddddddd && cd dddddddddddddddd; i=$((i+1)); done"
    )
    held = start("sleep", "60", remove=True)
    upper = held.directory / "upper"
    subprocess.run(["sh", "-c", script.format(upper)], check=True)
    client = held.connect()
    client.rename("other")
    (held.base / "names" / "held").rename(held.base / "names" / "other")
    client.signal(signal.SIGKILL)
    assert client.wait(20) == 137
    held.wait()
    assert not held.directory.exists()
    assert not held.run_record.exists()
    assert not (held.base / "names" / "other").is_symlink()
    assert held.actions() == ["die", "destroy"]


def test_name_of_another_container_is_kept(start: Start) -> None:
    held = start("sleep", "60", remove=True)
    link = held.base / "names" / "held"
    link.unlink()
    link.symlink_to("d" * 64)
    client = held.connect()
    client.signal(signal.SIGKILL)
    client.wait(10)
    held.wait()
    assert link.is_symlink()


def test_full_disk_at_exit_keeps_the_exit_record(start: Start) -> None:
    """What the monitor cannot write anew it writes where its entry was."""
    held = start("sh", "-c", "sleep 0.3; exit 9", prepare=lambda: small_files(70))
    client = held.connect()
    assert client.wait(10) == 9
    held.wait()
    assert os.listdir(held.directory) == []
    assert json.loads(held.run_record.read_text())["ended"]["code"] == 9


# -- the beginning -----------------------------------------------------------------------------


class Beginning:
    """A container whose init is played by the test, up to its execve, and the starter's link."""

    def __init__(self, start: Start, *command: str, **more: Any) -> None:
        status, self.status = os.pipe()
        self.release, release = os.pipe()
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = {
            "status_fd": status,
            "release_fd": release,
            "client_fd": theirs.fileno(),
            "stop_on_disconnect": 1,
            **more,
        }
        self.held = start(*command, prepare=self.close, **config)
        for fd in (status, release):
            os.close(fd)
        theirs.close()

    def close(self) -> None:
        """Close the ends that are init's and the starter's."""
        os.close(self.release)
        self.execute()
        self.link.close()

    def execute(self) -> None:
        """Close the pipe, as execve does, or the end of init."""
        if self.status >= 0:
            os.close(self.status)
        self.status = -1

    def hear(self) -> bytes:
        assert select.select([self.link], [], [], 10)[0]
        return self.link.recv(1 << 16)

    def is_quiet(self) -> bool:
        """Tell whether for a while neither the starter nor init is told anything."""
        return not select.select([self.link, self.release], [], [], 0.2)[0]


@pytest.fixture
def begin(start: Start) -> Iterator[Callable[..., Beginning]]:
    """Give a function that makes a container whose init has just been cloned."""
    made: list[Beginning] = []

    def begin(*command: str, **more: Any) -> Beginning:
        made.append(Beginning(start, *command, **more))
        return made[-1]

    yield begin
    for one in made:
        one.close()


Begin = Callable[..., Beginning]


def test_init_is_released_when_it_is_ready(begin: Begin) -> None:
    one = begin("sh", "-c", "sleep 1; exit 7")
    assert one.is_quiet()
    assert not one.held.events.exists()
    sync.send(one.status, sync.READY, {"times": []})
    assert os.read(one.release, 2) == sync.START
    assert one.held.actions() == ["start"]
    event = json.loads(one.held.events.read_text())
    assert event["attributes"] == {"label": "l", "image": "an image", "name": "held"}
    assert os.read(one.release, 1) == b""
    assert not select.select([one.link], [], [], 0.1)[0]
    one.execute()
    assert one.hear() == b"B"
    assert one.hear() == b"X\7\0\0\0"
    one.held.wait()
    assert one.held.actions() == ["start", "die"]


def test_fragmented_report_of_init_is_reassembled(begin: Begin) -> None:
    """A report of any length, and two frames of which neither begins where a piece does."""
    one = begin("sleep", "60")
    body = json.dumps([{"text": "R\5\0\0\0,1" * 100_000}]).encode()
    frame = sync.READY + len(body).to_bytes(4, "little") + body
    for piece in (frame[:3], frame[3:5], frame[5:9], frame[9:-1]):
        view = memoryview(piece)
        while view:
            view = view[os.write(one.status, view) :]
        time.sleep(0.02)
    assert one.is_quiet()
    os.write(one.status, frame[-1:] + sync.FAILED)
    assert os.read(one.release, 2) == sync.START
    body = json.dumps([["why", "how", 126]]).encode()
    os.write(one.status, len(body).to_bytes(4, "little") + body)
    assert one.hear() == b"F" + json.dumps(["why", "how", 126]).encode()


def test_failed_start_is_reported_and_not_retried(begin: Begin) -> None:
    """No policy starts again what could not be started."""
    one = begin("sh", "-c", "sleep 0.5; exit 127", restart="always", restart_delay=30000)
    sync.send(one.status, sync.READY, {})
    assert os.read(one.release, 2) == sync.START
    reason = ["cannot execute \N{EURO SIGN}\x1b: none", None, 127]
    sync.send(one.status, sync.FAILED, reason)
    one.execute()
    said = one.hear()
    assert said[:1] == b"F"
    assert json.loads(said[1:]) == reason
    assert one.hear() == b"X\x7f\0\0\0"
    one.held.wait()
    assert one.held.exit()["code"] == 127
    assert "restart_at" not in one.held.exit()
    assert one.held.actions() == ["start", "die"]
    assert not one.held.run_record.exists()


def test_failed_start_before_init_is_ready_is_reported(begin: Begin) -> None:
    one = begin("sh", "-c", "sleep 0.5; exit 125", restart="on-failure", restart_delay=30000)
    sync.send(one.status, sync.FAILED, ["cannot mount", "a hint", 125])
    one.execute()
    assert json.loads(one.hear()[1:]) == ["cannot mount", "a hint", 125]
    assert os.read(one.release, 1) == b""
    assert one.hear()[:1] == b"X"
    one.held.wait()
    assert one.held.actions() == ["die"]


@pytest.mark.parametrize("length", [4000, 1 << 20])
def test_reason_larger_than_a_message_is_replaced(begin: Begin, length: int) -> None:
    one = begin("sleep", "60")
    sync.send(one.status, sync.FAILED, ["5,", "x,12" * (length // 4) + "7" * 100, 126])
    why = "runtime: the start failed, with a reason too long to be told"
    assert json.loads(one.hear()[1:]) == [why, None, 126]


def test_longest_reason_is_complete(begin: Begin) -> None:
    """It comes as it is while the client's buffer has room for it."""
    one = begin("sleep", "60")
    reason = ["x" * (4094 - len('["",null,126]')), None, 126]
    sync.send(one.status, sync.FAILED, reason)
    client = Client(one.link.fileno())
    client.hear()
    assert client.failed == reason
    assert not client.begun


def test_init_killed_before_it_is_ready_is_reported(begin: Begin) -> None:
    one = begin("sh", "-c", "sleep 0.3; kill -9 $$", restart="always", restart_delay=30000)
    os.write(one.status, b"R\5\0")  # it was about to say so
    one.execute()
    why = "runtime: init was killed before it was ready"
    assert json.loads(one.hear()[1:]) == [why, None, 125]
    assert os.read(one.release, 1) == b""
    assert one.hear() == b"X\x89\0\0\0"
    one.held.wait()
    assert one.held.actions() == ["die"]
    assert "restart_at" not in one.held.exit()


def test_start_is_reported_before_an_immediate_exit(begin: Begin) -> None:
    """All that was to be told of the start is told before the end."""
    one = begin("sh", "-c", "sleep 0.3")
    os.kill(one.held.pid, signal.SIGSTOP)
    time.sleep(0.5)  # meanwhile init is at its end
    sync.send(one.status, sync.READY, {})
    one.execute()
    os.kill(one.held.pid, signal.SIGCONT)
    assert [one.hear()[:1] for _ in range(2)] == [b"B", b"X"]
    one.held.wait()
    assert one.held.actions() == ["start", "die"]


def test_client_hears_that_the_application_already_runs(begin: Begin) -> None:
    """(--explain) Its start was somebody else's to note."""
    one = begin("sleep", "60", status_fd=-1, release_fd=-1, begun=True)
    client = Client(one.link.fileno())
    client.hear()
    assert client.begun
    client.signal(signal.SIGTERM)
    assert client.wait(10) == 143
    one.held.wait()
    assert one.held.actions() == ["die"]


def test_start_process_that_ends_early_ends_the_start(begin: Begin) -> None:
    one = begin("sleep", "60", restart="always")
    one.held.connect()
    os.kill(one.held.pid, signal.SIGSTOP)
    one.link.close()
    sync.send(one.status, sync.READY, {})  # at the same moment
    os.kill(one.held.pid, signal.SIGCONT)
    assert os.read(one.release, 1) == b""
    one.held.wait()
    assert one.held.exit()["code"] == 137
    assert one.held.actions() == ["die"]


def test_start_process_may_detach_before_init_is_released(begin: Begin) -> None:
    one = begin("sleep", "60")
    one.link.send(b"D")
    one.link.close()
    client = one.held.connect()
    assert client.wait(0.1) is None
    sync.send(one.status, sync.READY, {})
    assert os.read(one.release, 2) == sync.START
    one.execute()
    client.signal(signal.SIGWINCH)
    assert client.wait(0.2) is None


@pytest.mark.parametrize("explained", [False, True])
def test_start_ends_with_its_start_process_until_it_runs(begin: Begin, explained: bool) -> None:
    """Who starts it and stays, but not as its keeper (`rless start`)."""
    config: dict[str, Any] = {"status_fd": -1, "release_fd": -1, "begun": True} if explained else {}
    one = begin("sleep", "60", stop_on_disconnect=2, **config)
    if not explained:
        sync.send(one.status, sync.READY, {})
        one.execute()
    assert one.hear() == b"B"
    one.link.close()
    client = one.held.connect()
    assert client.wait(0.3) is None
    client.signal(signal.SIGTERM)
    assert client.wait(10) == 143
    one = begin("sleep", "60", stop_on_disconnect=2)
    sync.send(one.status, sync.READY, {})
    one.link.close()
    one.held.wait()
    assert one.held.exit()["code"] == 137


def test_only_the_start_process_hears_of_a_failed_start(begin: Begin) -> None:
    """And not who has its place now."""
    one = begin("sleep", "60")
    one.link.send(b"D")
    one.link.close()
    clients = [one.held.connect() for _ in range(3)]
    for client in clients:
        with contextlib.suppress(RlessError):
            client.signal(0)
    sync.send(one.status, sync.READY, {})
    one.execute()
    assert [client.wait(0.1) for client in clients] == [None] * 3
    assert not any(client.begun for client in clients)


def test_signal_is_held_until_the_application_runs(begin: Begin) -> None:
    """Until init executes it, the kernel would throw away what it has no handler for."""
    script = "trap 'exit 5' TERM; trap 'echo one' USR1; echo ready; while :; do sleep 0.05; done"
    one = begin("sh", "-c", script)
    wait_for((one.held.directory / "log").exists, "the application")
    sync.send(one.status, sync.READY, {})
    client = one.held.connect()
    assert not client.signal(signal.SIGTERM)
    with pytest.raises(RlessError, match="Invalid argument"):
        client.signal(99)
    assert client.wait(0.5) is None
    one.execute()
    assert client.wait(10) == 5


def test_sigkill_is_sent_at_once(begin: Begin) -> None:
    one = begin("sleep", "60")
    client = one.held.connect()
    client.signal(signal.SIGTERM)
    client.signal(signal.SIGKILL)
    assert client.wait(10) == 137


def test_remaining_processes_are_killed_at_exit(start: Start) -> None:
    """In a shared pid namespace no kernel does it; a cgroup there may not be."""
    script = "sleep 0.3; (setsid sh -c 'sleep 998; :' & echo $!); (sleep 0.1 & echo $!); "
    script += "sleep 1.5; exit 4"
    held = start("sh", "-c", script, orphans=True, prepare=prctl.set_child_subreaper)
    client = held.connect()

    def said() -> list[int]:
        log = held.directory / "log"
        return [int(n) for _, data in frames(log) for n in data.split()] if log.exists() else []

    wait_for(lambda: len(said()) == 2, "the orphans")
    lasting, brief = said()
    wait_for(lambda: not os.path.exists(f"/proc/{brief}"), "its being waited for", 5)
    assert os.path.exists(f"/proc/{lasting}")
    inner = Path(f"/proc/{lasting}/task/{lasting}/children").read_text().split()
    assert client.wait(10) == 4
    held.wait()
    for pid in (lasting, *inner):
        assert not os.path.exists(f"/proc/{pid}")


# -- stop on disconnect --------------------------------------------------------------------------


def with_link(start: Start, *command: str, **more: Any) -> tuple[Held, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.set_inheritable(False)
    held = start(
        *command, client_fd=theirs.fileno(), stop_on_disconnect=1, prepare=ours.close, **more
    )
    theirs.close()
    return held, ours


def test_disconnected_command_stops_the_container(start: Start) -> None:
    held, ours = with_link(start, "sleep", "60", restart="always")
    held.connect()
    ours.close()
    held.wait()
    assert held.exit()["code"] == 137


def test_detached_command_leaves_the_container_running(start: Start) -> None:
    held, ours = with_link(start, "sleep", "60")
    ours.send(b"D")
    ours.close()
    client = held.connect()
    assert client.wait(0.3) is None
    client.signal(signal.SIGKILL)
    assert client.wait(10) == 137


# -- the log -------------------------------------------------------------------------------------


def test_local_log_keeps_exact_bytes(start: Start) -> None:
    data = bytes(range(256)) * 1000
    code = "import os; os.write(1, bytes(range(256)) * 1000); os.write(2, b'no newline')"
    held = start(sys.executable, "-Sc", code)
    held.wait()
    found = list(frames(held.directory / "log"))
    assert b"".join(part for stream, part in found if stream == "stdout") == data
    assert b"".join(part for stream, part in found if stream == "stderr") == b"no newline"


def test_rotation_loses_nothing(start: Start) -> None:
    size = 1 << 20
    held = start(*emitter(size), log_size=100_000, log_files=50)
    held.wait()
    logs = sorted(held.directory.glob("log*"))
    assert len(logs) > 8
    assert all(file.stat().st_size <= 100_000 for file in logs)
    data = b"".join(part for _, part in frames(held.directory / "log"))
    assert hashlib.sha256(data).hexdigest() == expected(size)


@pytest.mark.parametrize("files", [1, 3])
def test_rotation_limits_the_size_of_logs(start: Start, files: int) -> None:
    held = start(*emitter(1 << 20), log_size=100_000, log_files=files)
    held.wait()
    names = sorted(file.name for file in held.directory.glob("log*"))
    assert names == ["log", "log.1", "log.2"][:files]
    assert b"".join(part for _, part in frames(held.directory / "log")).endswith(b"65535\n")


def test_json_file_log_has_dockers_format(start: Start) -> None:
    code = (
        "import os; os.write(1, b'a \"line\" \\\\ \\t\\x01 \\xc3\\xa9 \\xff\\xed\\xa0\\x80\\n');"
        "os.write(1, b'half'); os.write(2, b'e' * 40000 + b'\\n')"
    )
    held = start(sys.executable, "-Sc", code, log="json-file")
    held.wait()
    lines = [json.loads(line) for line in (held.directory / "log").read_text().splitlines()]
    assert all(line.keys() == {"log", "stream", "time"} for line in lines)
    assert all(len(line["time"]) == 30 for line in lines)
    out = [line["log"] for line in lines if line["stream"] == "stdout"]
    assert out == ['a "line" \\ \t\x01 \u00e9 \udcff\udced\udca0\udc80\n', "half"]
    err = [line["log"] for line in lines if line["stream"] == "stderr"]
    assert [len(text) for text in err] == [16384, 16384, 40001 - 32768]
    assert "".join(err) == "e" * 40000 + "\n"


def test_json_file_log_takes_any_bytes(start: Start) -> None:
    data = os.urandom(300_000)
    held = start("cat", stdin=True, log="json-file", stdin_once=True, log_size=50_000, log_files=99)
    _, stdin, out, _ = held.attach(stdin=True)
    reader = Reader(out)
    view = memoryview(data)
    while view:
        view = view[os.write(stdin, view[:50_000]) :]
    os.close(stdin)
    assert reader.result() == hashlib.sha256(data).hexdigest()
    held.wait()
    files = sorted(held.directory.glob("log.*"), key=lambda file: -int(file.suffix[1:]))
    found = b""
    for file in [*files, held.directory / "log"]:
        for line in file.read_bytes().splitlines():
            found += json.loads(line)["log"].encode("utf-8", "surrogateescape")
    assert found == data


def test_journald_log_sends_messages(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.settimeout(10)
        fields = "CONTAINER_NAME=held\nSYSLOG_IDENTIFIER=tag\n"
        script = "echo one; printf two; echo three >&2"
        held = start("sh", "-c", script, log="journald", journal=tmp_path / "journal",
                     journal_fields=fields)  # fmt: skip
        held.wait()
        records = sorted(journal.recv(65536) for _ in range(3))
    head = fields.encode()
    size = [number.to_bytes(8, "little") for number in (3, 3, 5)]
    assert records == sorted(
        [
            head + b"PRIORITY=6\nMESSAGE\n" + size[0] + b"one\n",
            head + b"CONTAINER_PARTIAL_MESSAGE=true\nPRIORITY=6\nMESSAGE\n" + size[1] + b"two\n",
            head + b"PRIORITY=3\nMESSAGE\n" + size[2] + b"three\n",
        ]
    )
    assert not (held.directory / "log").exists()


def test_missing_journal_does_not_block(start: Start, tmp_path: Path) -> None:
    held = start("sh", "-c", "echo one", log="journald", journal=tmp_path / "none")
    held.wait()
    assert held.exit()["code"] == 0


def test_log_driver_none_writes_nothing(start: Start) -> None:
    held = start("sh", "-c", "head -c 9000000 /dev/zero; exit 6", log="none")
    held.wait()
    assert held.exit()["code"] == 6
    assert not (held.directory / "log").exists()


def test_full_disk_does_not_block_and_is_noted_in_the_log(start: Start) -> None:
    """What the log lacks is said in it, once; the frames around are whole."""
    limit = 200_000
    script = "read x; head -c 1000000 /dev/zero; read x; echo last"
    held = start("sh", "-c", script, stdin=True, prepare=lambda: small_files(limit),
                 log_size=1 << 30)  # fmt: skip
    _, stdin, out, _ = held.attach(stdin=True)
    reader = Reader(out)
    os.write(stdin, b"go\n")
    wait_for(lambda: reader.size == 1_000_000, "the output")
    log = held.directory / "log"
    found = list(frames(log))
    assert 0 < log.stat().st_size <= limit
    os.truncate(log, 0)  # there is room again
    os.write(stdin, b"go\n")
    held.wait()
    found += frames(log)
    reader.join(20)
    assert reader.size == 1_000_005
    assert found[-1] == ("stdout", b"last\n")
    marker = re.compile(rb"rless: (\d+) bytes of output are missing here: ")
    missing = [int(match[1]) for _, part in found if (match := marker.match(part))]
    kept = sum(len(part) for stream, part in found if stream == "stdout")
    assert missing
    assert kept + sum(missing) == 1_000_005


# -- clients -------------------------------------------------------------------------------------


def test_input_reaches_the_application(start: Start) -> None:
    held = start("cat", stdin=True)
    client, stdin, out, _ = held.attach(stdin=True)
    for word in (b"one\n", b"two\n"):
        os.write(stdin, word)
        assert os.read(out, 100) == word
    os.close(stdin)
    # Only this one has nothing more to say.
    assert client.wait(0.2) is None
    client, stdin, out, _ = held.attach(stdin=True)
    os.write(stdin, b"three\n")
    assert os.read(out, 100) == b"three\n"
    client.signal(signal.SIGKILL)
    assert client.wait(10) == 137


def test_end_of_input_is_passed_on(start: Start) -> None:
    held = start("cat", stdin=True, stdin_once=True)
    client, stdin, out, _ = held.attach(stdin=True)
    os.write(stdin, b"word")
    os.close(stdin)
    assert client.wait(10) == 0
    assert os.read(out, 100) == b"word"


def test_megabyte_of_input_arrives(start: Start) -> None:
    data = os.urandom(1 << 20)
    held = start("cat", stdin=True, stdin_once=True)
    _, stdin, out, _ = held.attach(stdin=True)
    reader = Reader(out)
    view = memoryview(data)
    while view:
        view = view[os.write(stdin, view[:77_777]) :]
    os.close(stdin)
    assert reader.result() == hashlib.sha256(data).hexdigest()


def test_unread_input_does_not_block_the_monitor(start: Start) -> None:
    held = start("sh", "-c", "exec <&-; sleep 0.3; exit 4", stdin=True)
    client, stdin, _, _ = held.attach(stdin=True)
    with pytest.raises(BrokenPipeError):
        while True:
            os.write(stdin, bytes(100_000))
    assert client.wait(10) == 4


def test_stalled_client_does_not_block_others(start: Start) -> None:
    """All of it to both, and nobody waits for the one who does not read."""
    size = 100 << 20
    script = f"read x; exec {shlex.join(emitter(size))}"
    held = start("sh", "-c", script, stdin=True, log_size=1 << 20, log_files=2)
    _, stdin, quick, _ = held.attach(stdin=True)
    stopped_client, _, stopped, _ = held.attach()
    reader = Reader(quick)
    os.write(stdin, b"go\n")
    assert reader.result() == expected(size)
    assert stopped_client.wait(10) == 0  # the end is told beside the backlog
    assert held.exit()["code"] == 0
    late = Reader(stopped)
    assert late.result() == expected(size)
    held.wait()


def like_nfs() -> None:
    """Let the kernel refuse what NFS does not have: files without a name, locks, holes."""
    rules = [
        {
            "names": ["openat", "open"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": errno.EOPNOTSUPP,
            "args": [{"index": 2, "value": 0o20000000, "valueTwo": 0o20000000,
                      "op": "SCMP_CMP_MASKED_EQ"}],
        },
        {"names": ["flock"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOLCK},
        {"names": ["fallocate"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EOPNOTSUPP},
    ]  # fmt: skip
    prctl.set_no_new_privs()
    load_filter(compile_filter({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))


def test_backlog_works_on_nfs(start: Start) -> None:
    size = 30 << 20
    script = f"read x; exec {shlex.join(emitter(size))}"
    held = start("sh", "-c", script, stdin=True, prepare=like_nfs)
    _, stdin, quick, _ = held.attach(stdin=True)
    clients = [held.attach() for _ in range(2)]  # which must not share a file by its name
    reader = Reader(quick)
    os.write(stdin, b"go\n")
    assert reader.result() == expected(size)
    assert [name for name in os.listdir(held.directory) if "backlog" in name] == []
    for client, _, stopped, _ in clients:
        assert client.wait(10) == 0
        assert Reader(stopped).result() == expected(size)
    held.wait()


def test_detaching_client_does_not_close_input(start: Start) -> None:
    """Its farewell comes before the end of what it typed, which else would be the application's."""
    held = start("cat", stdin=True, stdin_once=True)
    for _ in range(20):
        client, stdin, _, _ = held.attach(stdin=True)
        client.let_go()
        os.close(stdin)
        client.close()
    client = held.connect()
    assert client.wait(0.2) is None
    client.signal(signal.SIGKILL)
    assert client.wait(10) == 137


def test_closed_client_does_not_disturb_others(start: Start) -> None:
    held = start("sh", "-c", "read x; head -c 3000000 /dev/zero; exit 3", stdin=True)
    _, stdin, out, _ = held.attach(stdin=True)
    going, _, other, other_err = held.attach()
    reader = Reader(out)
    os.write(stdin, b"go\n")
    os.read(other, 10)
    for fd in (other, other_err):
        os.close(fd)
    going.close()
    reader.join(20)
    assert reader.size == 3_000_000
    held.wait()
    assert held.exit()["code"] == 3


def test_client_with_other_files_than_pipes_is_refused(start: Start, tmp_path: Path) -> None:
    """They are made not to block, and so must be nobody else's."""
    client = start("sleep", "60").connect()
    with (
        (tmp_path / "file").open("w") as file,
        pytest.raises(RlessError, match="Invalid argument"),
    ):
        client.attach(-1, file.fileno(), file.fileno())


@pytest.mark.needs("user namespaces", "subordinate ids")
def test_other_user_is_refused(start: Start) -> None:
    """Class 43, were the directory ever open: the socket asks who it is."""
    held = start("sleep", "60")
    held.connect()
    held.directory.chmod(0o711)
    (held.directory / "monitor").chmod(0o777)
    assert call_in_userns(everything(), kill_as_another, str(held.directory), 0) == "k"
    held.connect()
    assert call_in_userns(everything(), kill_as_another, str(held.directory), 1) == ""


def kill_as_another(directory: str, uid: int) -> str:
    """Ask for a signal that does nothing as this user; return the kind of the answer."""
    os.chdir(directory)
    if uid:
        os.setresuid(uid, uid, uid)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect("monitor")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            channel.send(b"K\0")
            return channel.recv(2)[:1].decode()
    return ""


def test_malformed_messages_are_ignored(start: Start) -> None:
    held = start("sleep", "60")
    client = held.connect()
    odd = (b"?", b"A", b"W", b"W\1", b"K", b"U", b"U{", b'U{"restart":{', b"\0" * 4000, b"N" * 900)
    for message in odd:
        if message != b"K" and not message.startswith(b"U"):
            os.write(client.fd, message)
    other = held.connect()
    other.signal(signal.SIGKILL)
    assert other.wait(10) == 137


def test_clients_beyond_the_limit_wait(start: Start) -> None:
    """More than there are places for wait for one."""
    held = start("sleep", "60")
    clients = [held.connect() for _ in range(64)]
    clients[0].signal(signal.SIGWINCH)
    waiting = held.connect()
    clients[1].close()
    waiting.signal(signal.SIGKILL)
    assert clients[2].wait(10) == 137


def test_terminal_is_attached_and_resized(start: Start) -> None:
    master, slave = os.openpty()
    try:
        held = start("sleep", "60", pty_fd=master, stdout_fd=-1, stderr_fd=-1)
    finally:
        os.close(master)
    client, stdin, out, _ = held.attach(stdin=True)
    client.resize(33, 99)
    wait_for(lambda: os.get_terminal_size(slave) == (99, 33), "the size")
    os.write(slave, b"output\n")
    assert os.read(out, 100) == b"output\r\n"
    os.write(stdin, b"input\n")
    assert os.read(slave, 100) == b"input\n"
    os.close(slave)
    client.signal(signal.SIGKILL)
    assert client.wait(10) == 137


# -- restart ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "most", "code", "again"),
    [
        ("no", 0, 1, False),
        ("always", 0, 0, True),
        ("unless-stopped", 0, 0, True),
        ("on-failure", 0, 1, True),
        ("on-failure", 0, 0, False),
        ("on-failure", 2, 1, True),
    ],
)
def test_restart_policies_decide_about_exit_codes(
    start: Start, policy: str, most: int, code: int, again: bool
) -> None:
    held = start("sh", "-c", f"sleep 0.1; exit {code}", restart=policy, restart_max=most,
                 restart_delay=30000)  # fmt: skip
    client = held.connect()
    assert client.wait(10) == code
    if not again:
        held.wait()
        assert "restart_at" not in held.exit()
        return
    assert held.exit()["restart_at"] - held.exit()["finished"] == pytest.approx(60, abs=1)
    assert held.exit()["restarts"] == 1
    held.connect().stop_restarts()
    held.wait()
    assert "restart_at" not in held.exit()
    assert not held.run_record.exists()


def test_on_failure_stops_after_its_maximum(start: Start) -> None:
    held = start("sh", "-c", "exit 1", restart="on-failure", restart_max=2, restarts=2)
    held.wait()
    assert held.exit()["restarts"] == 2


def test_stop_ends_the_restart_policy(start: Start) -> None:
    held = start("sleep", "60", restart="always")
    client = held.connect()
    client.stop_restarts()
    client.signal(signal.SIGTERM)
    assert client.wait(10) == 143
    held.wait()
    assert "restart_at" not in held.exit()


def test_restart_policy_can_be_changed(start: Start) -> None:
    held = start("sleep", "60", restart="always")
    client = held.connect()
    client.set_restart({"name": "no", "max": 0})
    client.signal(signal.SIGTERM)
    assert client.wait(10) == 143
    held.wait()
    held = start("sleep", "60", restart_delay=30000)
    client = held.connect()
    client.set_restart({"name": "on-failure", "max": 3})
    client.signal(signal.SIGTERM)
    assert client.wait(10) == 143
    assert held.exit()["restart_at"]


# -- what it costs ---------------------------------------------------------------------------------


def test_monitor_uses_little_memory(start: Start, program: str) -> None:
    held = start("sh", "-c", "echo ready; exec sleep 60")
    wait_for((held.directory / "log").exists, "the log")
    time.sleep(0.1)
    if program == "c":
        assert held.memory() <= 200


def test_idle_monitor_uses_no_cpu_time(start: Start) -> None:
    """No timer, no polling: an idle container takes no processor time."""
    held = start("sleep", "60")
    held.connect()
    held.attach()
    time.sleep(0.2)

    def switches() -> str:
        text = Path(f"/proc/{held.pid}/status").read_text()
        return text[text.index("voluntary_ctxt_switches") :]

    before = switches()
    time.sleep(0.5)
    assert switches() == before


def test_hung_up_terminal_does_not_spin(start: Start) -> None:
    master, slave = os.openpty()
    os.close(slave)
    held = start("sleep", "60", pty_fd=master, stdout_fd=-1, stderr_fd=-1)
    os.close(master)
    held.attach(stdin=True)
    time.sleep(0.2)
    stat = Path(f"/proc/{held.pid}/stat").read_text().rpartition(")")[2].split()
    before = int(stat[11]) + int(stat[12])
    select.select((), (), (), 0.5)
    stat = Path(f"/proc/{held.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(stat[11]) + int(stat[12]) - before <= 2  # ticks of 10 ms


# -- those who have joined (class 49) --------------------------------------------------------------


def _rank(held: Held, script: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a process that joins; return it and the errno of the answer."""
    rank = subprocess.Popen(["sh", "-c", script])
    pidfd = os.pidfd_open(rank.pid)
    error = held.connect().join(pidfd)
    os.close(pidfd)
    return rank, error


def test_container_ends_with_its_last_rank(start: Start) -> None:
    held = start("sleep", "60", join_timeout=10000)
    one, error = _rank(held, "exec sleep 60")
    assert error == 0
    two, error = _rank(held, "exit 0")
    assert error == 0
    two.wait()
    client = held.connect()
    assert client.wait(0.2) is None
    one.kill()
    one.wait()
    assert client.wait(10) == 143
    held.wait()


def test_signals_reach_all_ranks(start: Start) -> None:
    held = start("sleep", "60", join_timeout=10000)
    rank, _ = _rank(held, "exec sleep 60")
    held.connect().signal(signal.SIGUSR1)
    assert rank.wait(10) == -signal.SIGUSR1
    held.wait()


def test_sigkill_ends_all_ranks(start: Start) -> None:
    held = start("sleep", "60", join_timeout=10000)
    rank, _ = _rank(held, "exec sleep 60")
    held.connect().signal(signal.SIGKILL)
    assert rank.wait(10) == -signal.SIGKILL
    held.wait()


def test_container_without_ranks_cannot_be_joined(start: Start) -> None:
    held = start("sleep", "60")
    rank, error = _rank(held, "exec sleep 60")
    assert error == errno.EINVAL
    rank.kill()
    rank.wait()


def test_container_ends_when_no_rank_joins_in_time(start: Start) -> None:
    """Who made the container was killed before it joined."""
    held = start("sleep", "60", join_timeout=200)
    assert held.connect().wait(10) == 137
    held.wait()


def test_pasta_that_takes_no_signal_is_told(start: Start) -> None:
    """As where AppArmor lets pasta take none of ours: here it is a process of root."""
    held = start("cat", stdin=True, stdin_once=True, pasta=1, wait_pasta=True)
    _, stdin, _, err = held.attach(stdin=True)
    os.close(stdin)
    held.wait()
    said = os.read(err, 4096).decode()
    os.close(err)
    assert said.startswith("rless: warning: pasta of container held goes on and keeps its ports")
    assert "process 1 takes no signal from rless; docs/network.md" in said
