"""Probes are bounded in time and leave no trace."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from rootless.errors import RlessError, SyscallError
from rootless.host import facts, hints, probe
from rootless.linux import programs


def _raise(error: BaseException) -> None:
    raise error


def test_result_comes_back() -> None:
    outcome = probe.bounded(lambda: [1, "a"])
    assert outcome
    assert outcome.result == [1, "a"]


@pytest.mark.parametrize(
    ("error", "text", "number"),
    [
        (SyscallError("unshare", errno.EPERM), "unshare: Operation not permitted", errno.EPERM),
        (RlessError("no"), "no", 0),
        (OSError(errno.ENOENT, "No such file", "/x"), "/x: No such file", errno.ENOENT),
        (ValueError("odd"), "ValueError: odd", 0),
        (KeyboardInterrupt(), "KeyboardInterrupt: ", 0),
    ],
)
def test_failure_comes_back(error: BaseException, text: str, number: int) -> None:
    outcome = probe.bounded(_raise, error)
    assert not outcome
    assert (outcome.error, outcome.number) == (text, number)


def test_hanging_probe_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def hang() -> None:
        child = os.fork()
        if child:
            pids.write_text(f"{os.getpid()} {child}")
        time.sleep(60)

    start = time.monotonic()
    outcome = probe.bounded(hang, seconds=0.5)
    assert time.monotonic() - start < 5
    assert outcome.error == "no answer within 0.5 s"
    assert outcome.number == errno.ETIMEDOUT
    for pid in map(int, pids.read_text().split()):
        while True:  # the kernel takes its time with a process that was killed
            status = facts.parse_status(facts.read(f"/proc/{pid}/status") or "State:\tX")
            if status["State"][0] in "XZ":
                break
            assert time.monotonic() - start < 10


def test_dying_probe_is_reported() -> None:
    assert probe.bounded(os._exit, 3).error == "the probe died"


@pytest.mark.needs("user namespaces")
def test_namespaces_and_kernel_mounts_leave_the_caller_alone() -> None:
    before = os.readlink("/proc/self/ns/user"), facts.read("/proc/self/mountinfo")
    assert probe.bounded(probe.user_namespace)
    outcome = probe.bounded(probe.kernel_mounts)
    assert outcome, outcome.error
    assert set(outcome.result) <= {"proc", "sysfs", "mqueue", "devpts"}
    assert (os.readlink("/proc/self/ns/user"), facts.read("/proc/self/mountinfo")) == before


@pytest.mark.needs("user namespaces")
def test_limit_of_user_namespaces_is_recognized() -> None:
    """The real errno of a real limit; the sysctl of a user namespace is its own."""

    def limited() -> list[object]:
        probe.user_namespace()
        with open("/proc/sys/user/max_user_namespaces", "w", encoding="ascii") as file:
            file.write("0")
        outcome = probe.bounded(probe.user_namespace)
        return [outcome.number, *hints.hint_for_userns_failure(outcome.number)]

    number, why, hint = probe.bounded(limited).result
    assert number == errno.ENOSPC
    assert "limited to 0" in why
    assert "user.max_user_namespaces=15000" in hint


@pytest.mark.needs("user namespaces")
def test_overlay_leaves_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "a,b:c"
    directory.mkdir()
    outcome = probe.bounded(probe.kernel_overlay, str(directory))
    assert outcome, outcome.error
    assert not os.path.ismount(directory / "merged")
    assert (directory / "upper" / "new").read_text() == "new"
    probe.remove(str(directory))
    assert not directory.exists()


@pytest.mark.needs("user namespaces", "fuse", "fuse-overlayfs")
def test_fuse_overlay_leaves_nothing(tmp_path: Path) -> None:
    program = programs.find("fuse-overlayfs")
    assert program is not None
    outcome = probe.bounded(probe.fuse_overlay, str(tmp_path), program)
    assert outcome, outcome.error
    for pid in filter(str.isdigit, os.listdir("/proc")):
        assert str(tmp_path) not in (facts.read(f"/proc/{pid}/cmdline") or "")
    probe.remove(str(tmp_path))
    assert not tmp_path.exists()


@pytest.mark.needs("user namespaces")
def test_failed_fuse_overlay_is_reported(tmp_path: Path) -> None:
    outcome = probe.bounded(probe.fuse_overlay, str(tmp_path), "/bin/false")
    assert outcome.error == "it ended at once"


@pytest.mark.needs("user namespaces", "subordinate ids", "ordinary user")
def test_owner_is_probed(tmp_path: Path) -> None:
    from rootless.linux import subid

    uids, gids = subid.ranges("uid"), subid.ranges("gid")
    assert probe.bounded(probe.full_map, uids, gids)
    assert probe.bounded(probe.foreign_owner, str(tmp_path), uids, gids)
    assert not list(tmp_path.iterdir())


@pytest.mark.needs("ordinary user")
def test_refused_map_is_reported() -> None:
    outcome = probe.bounded(probe.full_map, [(4000000000, 10)], [(4000000000, 10)])
    assert not outcome
    assert "refused" in outcome.error or "not installed" in outcome.error


def test_version_is_probed(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho name 1.2\necho more\n")
    program.chmod(0o755)
    assert probe.bounded(probe.version, str(program)).result == "name 1.2"
    program.write_text("#!/bin/sh\nexit 3\n")
    assert "says nothing (status 3)" in probe.bounded(probe.version, str(program)).error
    assert "No such file" in probe.bounded(probe.version, str(tmp_path / "none")).error


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo pasta 1; echo more", "pasta 1"), ("exit 0", ""), ("echo no >&2; exit 1", "no")],
)
def test_version_is_what_a_program_says(tmp_path: Path, script: str, said: str) -> None:
    """Debian 13's pasta says nothing into a pipe, and works."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert probe.version(str(program)) == said


def test_program_that_fails_without_a_word_is_reported(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(RlessError, match=r"says nothing \(status 3\)"):
        probe.version(str(program))
