"""What is read ahead of a program's start: only what lies below the container's root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.linux.process import Elsewhere, Here
from rootless.rootfs import ahead


def found(root: Path, program: str, path: str = "/bin:/usr/bin", directory: str = "/") -> str:
    """Return where the file is that would be read, relative to the root; "": none."""
    root_fd = os.open(root, os.O_PATH | os.O_CLOEXEC)
    fd = ahead._find(root_fd, program, ["A=b", f"PATH={path}"], directory)
    os.close(root_fd)
    if fd < 0:
        return ""
    try:
        return os.readlink(f"/proc/self/fd/{fd}").removeprefix(f"{root}/")
    finally:
        os.close(fd)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("bin", "usr/bin"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("bin/plain", "usr/bin/tool"):
        (tmp_path / name).write_bytes(b"x" * 300_000)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_it_is_found_as_a_program_is(root: Path) -> None:
    (root / "usr/bin/plain").write_text("")
    assert found(root, "plain") == "bin/plain"
    assert found(root, "tool") == "usr/bin/tool"
    assert found(root, "/usr/bin/tool") == "usr/bin/tool"
    assert found(root, "bin/tool", directory="/usr") == "usr/bin/tool"
    assert found(root, "missing") == found(root, "tool", path="") == ""
    (root / "bin/tool").write_text("no program")
    assert found(root, "tool") == "usr/bin/tool"


def test_links_stay_below_the_root(root: Path) -> None:
    (root / "bin/absolute").symlink_to("/usr/bin/tool")
    (root / "bin/up").symlink_to("../../../../../../../bin/plain")
    (root / "bin/circle").symlink_to("circle")
    (root / "bin/host").symlink_to("/proc/self/exe")
    assert found(root, "absolute") == "usr/bin/tool"
    assert found(root, "up") == "bin/plain"
    assert found(root, "circle") == found(root, "host") == ""


def test_nothing_else_is_opened_for_long(root: Path) -> None:
    os.mkfifo(root / "bin/pipe", 0o755)
    (root / "bin/directory").mkdir()
    assert found(root, "pipe") == found(root, "directory") == ""


def test_the_head_is_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *what: asked.append(what))
    root_fd = os.open(root, os.O_PATH | os.O_CLOEXEC)
    before = set(os.listdir("/proc/self/fd"))
    for program in ("plain", "missing"):
        ahead.read_ahead(root_fd, program, ["PATH=/bin"], "/", os.getpid())
    step = 128 << 10
    assert asked == [(at, step, os.POSIX_FADV_WILLNEED) for at in (0, step, 2 * step)]
    assert set(os.listdir("/proc/self/fd")) == before
    os.close(root_fd)


def test_a_child_may_run_everywhere_afterwards() -> None:
    allowed = os.sched_getaffinity(0)
    pid = os.fork()
    if pid == 0:
        while True:
            os.sched_yield()
    try:
        with Elsewhere(pid):
            within = os.sched_getaffinity(pid)
        assert len(within) == max(1, len(allowed) - 1)
        assert os.sched_getaffinity(pid) == os.sched_getaffinity(0) == allowed
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    with Elsewhere(pid):
        pass  # it has ended: no error


def test_who_stays_here_may_run_everywhere_afterwards() -> None:
    allowed = os.sched_getaffinity(0)
    with Here():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == allowed
