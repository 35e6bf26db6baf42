"""`events`: recorded events are printed once and in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rootless.cli.main import main
from rootless.engine.state import events

ROOT = Path(__file__).parents[3]
EVENTS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from rootless.cli.main import main
sys.exit(main(["events", *sys.argv[1:]]))
"""
ID = "0" * 60 + "beef"


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "storage"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("RLESS_STORAGE", str(directory))
    return directory


def shown(capfd: Any, *words: str) -> list[str]:
    assert main(["events", "--until", "0s", *words]) == 0
    lines: list[str] = capfd.readouterr().out.splitlines()
    return lines


def fill() -> None:
    events.record("pull", "image", "busybox:latest", name="busybox")
    events.record("create", "container", ID, image="busybox:latest", name="web", tier="front")
    events.record("start", "container", ID, image="busybox:latest", name="web")
    events.record("health_status: healthy", "container", ID, image="busybox:latest", name="web")
    events.record("die", "container", "1" * 64, image="alpine:3", name="db", exitCode=7)
    events.record("create", "volume", "data", driver="local")


def test_events_are_printed_as_lines(storage: Path, capfd: Any) -> None:
    line = {"time": 1_700_000_000_000_000_001, "type": "container", "action": "die", "id": ID,
            "attributes": {"name": "web", "image": "x:1", "exitCode": "3"}}  # fmt: skip
    (storage / "events").write_text(json.dumps(line) + "\n")
    [text] = shown(capfd)
    stamp, rest = text.split(" ", 1)
    assert stamp[19:29] == ".000000001"
    assert rest == f"container die {ID} (exitCode=3, image=x:1, name=web)"
    [text] = shown(capfd, "--format", "json")
    assert json.loads(text) == {
        "status": "die", "id": ID, "from": "x:1", "Type": "container", "Action": "die",
        "Actor": {"ID": ID, "Attributes": line["attributes"]}, "scope": "local",
        "time": 1_700_000_000, "timeNano": 1_700_000_000_000_000_001,
    }  # fmt: skip
    form = "{{.Time}} {{.Type}} {{.Status}} {{.Actor.Attributes.exitCode}} {{.From}}"
    assert shown(capfd, "--format", form) == ["1700000000 container die 3 x:1"]


@pytest.mark.parametrize(
    ("words", "expected"),
    (
        ([], "pull create start health_status die create"),
        (["type=container"], "create start health_status die"),
        (["type=image", "type=volume"], "pull create"),
        (["event=create"], "create create"),
        (["event=create", "type=volume"], "create"),
        (["event=health_status"], "health_status"),
        (["event=health_status: healthy"], "health_status"),
        (["container=web"], "create start health_status"),
        (["container=" + "1" * 12], "die"),
        (["container=web", "container=db"], "create start health_status die"),
        (["image=busybox"], "pull create start health_status"),
        (["image=alpine:3"], "die"),
        (["label=tier"], "create"),
        (["label=tier=front"], "create"),
        (["label=tier=back"], ""),
        (["volume=data"], "create"),
    ),
)
def test_filters_select_events(capfd: Any, words: list[str], expected: str) -> None:
    fill()
    given = [word for text in words for word in ("--filter", text)]
    found = [text.partition(":")[0] for text in shown(capfd, "--format", "{{.Action}}", *given)]
    assert " ".join(found) == expected


def test_wrong_filters_are_refused(capfd: Any) -> None:
    assert main(["events", "--filter", "type=swarm"]) == 1
    assert "'swarm' is not one of container, image, network, volume" in capfd.readouterr().err
    assert main(["events", "--filter", "node=x"]) == 1
    assert "there is no filter 'node'" in capfd.readouterr().err


def test_since_and_until_select_events(capfd: Any) -> None:
    fill()
    middle = time.time_ns()
    events.record("destroy", "container", ID)
    since = f"{middle // 10**9}.{middle % 10**9:09}"
    assert shown(capfd, "--since", since, "--format", "{{.Action}}") == ["destroy"]
    assert len(shown(capfd, "--since", "1h")) == 7
    before = f"{middle // 10**9}.{middle % 10**9:09}"
    assert main(["events", "--until", before, "--format", "{{.Action}}"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 6


def follow(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", EVENTS, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_events_starts_from_now_by_default() -> None:
    fill()
    until = str(int(time.time()) + 30)
    process = follow("--since", str(int(time.time()) + 0), "--format", "{{.Action}}")
    assert process.stdout is not None
    for _ in range(6):
        process.stdout.readline()
    events.record("kill", "container", ID)
    assert process.stdout.readline() == "kill\n"
    process.terminate()
    process.communicate()
    plain = follow("--format", "{{.Action}}")
    assert plain.stdout is not None
    deadline = time.monotonic() + 30
    got = threading.Event()

    def read() -> None:
        assert plain.stdout is not None
        assert plain.stdout.readline() == "oom\n"
        got.set()

    reader = threading.Thread(target=read)
    reader.start()
    while not got.wait(0.1):  # when it has begun to look is not known
        assert time.monotonic() < deadline, until
        events.record("oom", "container", ID)
    reader.join()
    plain.terminate()
    plain.communicate()


def test_events_ends_at_until() -> None:
    begin = time.time()
    process = follow("--until", str(int(begin) + 2))
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("", "", 0)
    assert int(begin) + 2 <= time.time() < begin + 20


def test_rotation_is_exact(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_MOST", 20000)
    process = follow("--since", "1h", "--format", "{{.ID}}")
    time.sleep(0.7)
    for number in range(600):
        events.record("start", "container", str(number), name="x" * 40)
        time.sleep(0.002)
    assert (storage / "events.1").exists()
    assert (storage / "events").stat().st_size < 21000
    assert process.stdout is not None
    found = [process.stdout.readline().strip() for _ in range(600)]
    process.terminate()
    process.communicate()
    assert found == [str(number) for number in range(600)]


def test_concurrent_writers_lose_nothing(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is one write; of several that find the file full, one renames it."""
    monkeypatch.setattr(events, "_MOST", 30000)
    children = []
    for writer in range(6):
        pid = os.fork()
        if pid == 0:
            for number in range(50):
                events.record("start", "container", f"{writer}-{number}", name="y" * 50)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    lines = (storage / "events").read_text().splitlines()
    older = storage / "events.1"
    lines += older.read_text().splitlines() if older.exists() else []
    found = [json.loads(line)["id"] for line in lines]
    assert len(found) == len(set(found))
    # With 300 lines of 170 bytes there was at most one rename.
    assert len(found) == 300


def test_recording_never_fails(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of a hostile image may have any name and length; the disk may be full."""
    labels: dict[str, Any] = {"id": "x", "kind": "y", "action": "z", "self": "\ud800\n", "n": 1}
    events.record("start", "container", ID, **labels)
    events.record("start", "container", ID, name="web", big="x" * (1 << 20))
    first, second = map(json.loads, (storage / "events").read_text().splitlines())
    assert first["attributes"]["kind"] == "y"
    assert second["attributes"] == {"name": "web"}
    monkeypatch.setattr(events, "path", lambda: "/dev/full/x")
    events.record("start", "container", ID)
    monkeypatch.setattr(events, "path", lambda: "/dev/full")
    events.record("start", "container", ID)


def test_link_in_place_of_the_file_is_not_followed(storage: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("x")
    (storage / "events").symlink_to(target)
    events.record("start", "container", ID)
    assert target.read_text() == "x"


def test_damaged_lines_are_skipped(storage: Path, capfd: Any) -> None:
    fill()
    with open(storage / "events", "a") as file:
        file.write('{"time": 1\n[]\n{}\n\x00\n{"time": "x", "attributes": {}}\n')
    events.record("stop", "container", ID)
    assert shown(capfd, "--format", "{{.Action}}")[-1] == "stop"
    assert len(shown(capfd)) == 7


def test_hostile_names_are_escaped(capfd: Any) -> None:
    events.record("start", "container", ID, name="\x1b[2J\n", label="\x9b")
    for form in ([], ["--format", "json"], ["--format", "{{.Actor.Attributes}}"]):
        [text] = shown(capfd, *form)
        assert text.isprintable()
