"""The confinement of rless-networks, should a container break into it (security class 50)."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.compiled import static_program
from tests.lib.faults import children
from tests.lib.hub import Member, only_member, question, read

pytestmark = pytest.mark.needs("user namespaces", "compiler")

SOURCES = (
    "helpers/networks/walls.c",
    "helpers/networks/networks.h",
    "helpers/common/walls.h",
)
NEEDED = {"udp", "tcp", "transparent"}
CAP_NET_ADMIN = 12


@pytest.fixture
def member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Member]:
    monkeypatch.setenv("RLESS_STORAGE", str(tmp_path / "s"))
    with only_member("br-one") as made:
        yield made


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def look_up(name: str) -> tuple[int, list[str]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect(("10.9.1.1", 53))
        client.send(question(name))
        code, found = read(client.recv(4096))
        return code, [data.hex() for data in found]


def files_process(member: Member) -> int:
    (pid,) = (
        pid
        for pid in children(member.hub.pid)
        if Path(f"/proc/{pid}/comm").read_text() == "rless-net-files\n"
    )
    return pid


def attempt(directory: Path, *walls: str) -> dict[str, int]:
    """Return the errno of each attempt behind these walls; 0: it succeeded."""
    (directory / "there").touch()
    (directory / "gone").touch()
    program = static_program("tests/lib/walls.c", includes=SOURCES)
    done = subprocess.run(
        [program, *walls], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {
        name: int(error) for name, error in (x.rsplit(" ", 1) for x in done.stdout.splitlines())
    }


def has_landlock() -> bool:
    """Ask for the version of Landlock: landlock_create_ruleset(NULL, 0, 1)."""
    return ctypes.CDLL(None).syscall(444, None, 0, 1) >= 1


@pytest.mark.needs("subordinate ids")
def test_running_program_keeps_one_capability(member: Member) -> None:
    seen = status(member.hub.pid)
    sets = [int(seen[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")]
    assert sets == [1 << CAP_NET_ADMIN, 1 << CAP_NET_ADMIN, 0, 0, 0]
    assert seen["NoNewPrivs"] == "1"


@pytest.mark.needs("subordinate ids")
def test_running_program_has_a_filter_of_system_calls(member: Member) -> None:
    assert status(member.hub.pid)["Seccomp"] == "2"


@pytest.mark.needs("subordinate ids")
def test_process_that_opens_files_has_no_capability_and_no_other_descriptor(
    member: Member,
) -> None:
    pid = files_process(member)
    seen = status(pid)
    assert [int(seen[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")] == [0, 0, 0]
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
    shown = sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    assert shown[:3] == ["/dev/null"] * 3
    assert [re.sub(r"\d+", "N", name) for name in shown[3:]] == ["socket:[N]"]


def test_attempts_succeed_without_walls(tmp_path: Path) -> None:
    """So what fails in the other tests fails because of a wall."""
    assert errno.EPERM not in attempt(tmp_path).values()
    assert errno.EACCES not in attempt(tmp_path).values()


def test_capabilities_beyond_networking_are_dropped(tmp_path: Path) -> None:
    seen = attempt(tmp_path, "capabilities")
    assert {seen[name] for name in NEEDED} == {0}
    refused = {"low port": errno.EACCES, "raw": errno.EPERM, "chroot": errno.EPERM}
    assert {name: seen[name] for name in refused} == refused
    assert seen["open"] == seen["netlink"] == seen["fork"] == 0  # these are for other walls


def test_no_file_can_be_opened_created_or_removed(tmp_path: Path) -> None:
    if not has_landlock():
        assert attempt(tmp_path, "files") == attempt(tmp_path)
        return
    seen = attempt(tmp_path, "capabilities", "files")
    for name in ("open", "directory", "create", "append", "unlink"):
        assert seen[name] == errno.EACCES, name
    assert {seen[name] for name in NEEDED} == {0}
    assert not (tmp_path / "made").exists()
    assert (tmp_path / "gone").exists()


def test_other_system_calls_are_refused(tmp_path: Path) -> None:
    """To one with all capabilities too."""
    seen = attempt(tmp_path, "calls")
    assert {seen.pop(name) for name in NEEDED} == {0}
    assert seen.pop("low port") == 0
    assert set(seen.values()) == {errno.EPERM}, seen
    assert (tmp_path / "gone").exists()


def test_process_that_opens_files_can_do_nothing_else(tmp_path: Path) -> None:
    seen = attempt(tmp_path, "beside")
    for name in ("open", "directory", "create", "append", "unlink"):
        assert seen.pop(name) == 0, name
    assert not set(seen.values()) - {errno.EPERM, errno.EBADF}, seen


@pytest.mark.needs("strace")
def test_program_enters_all_walls(tmp_path: Path) -> None:
    program = static_program("tests/lib/walls.c", includes=SOURCES)
    log = tmp_path / "calls"
    calls = "trace=capset,seccomp,landlock_restrict_self"
    words = ["strace", "-f", "-o", log, "-e", calls, program, "all"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    entered = re.findall(r"\d+ +(\w+)\(.* = 0$", log.read_text(), re.MULTILINE)
    files = ["landlock_restrict_self"] if has_landlock() else []
    assert entered == ["capset", *files, "seccomp"]


@pytest.mark.needs("subordinate ids")
def test_names_are_answered_when_the_process_that_opens_files_was_killed(member: Member) -> None:
    os.kill(files_process(member), signal.SIGKILL)
    assert member.run(look_up, "web") == [0, ["0a090105"]]


def test_process_that_opens_files_reads_changes_and_writes_events(tmp_path: Path) -> None:
    sources = ("helpers/networks/files.c", *SOURCES)
    program = static_program("tests/lib/files_process.c", includes=sources)
    directory = tmp_path / "run/boot/hub"
    directory.mkdir(parents=True)
    (directory / "networks").touch()
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    done = subprocess.run(
        [program, tmp_path / "resolv.conf"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["nameserver 192.0.2.1", "as before", "nameserver 192.0.2.2"]
    assert (tmp_path / "events").read_text() == '{"one": 1}\n{"two": 2}\n'
    assert not (directory / "networks").exists()


@pytest.mark.needs("subordinate ids")
def test_end_of_a_membership_is_an_event(member: Member, tmp_path: Path) -> None:
    member.end()
    deadline = time.monotonic() + 30
    while not (tmp_path / "s/events").exists():
        assert time.monotonic() < deadline, "no event"
        time.sleep(0.01)
    (event,) = map(json.loads, (tmp_path / "s/events").read_text().splitlines())
    assert (event["type"], event["action"]) == ("network", "disconnect")
    assert event["attributes"]["container"] == member.id
