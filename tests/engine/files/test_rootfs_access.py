"""The child process that accesses a container's files, and attacks on it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.engine.files import rootfs_access
from rootless.engine.state.container import Container, find
from rootless.errors import RlessError
from rootless.linux import prctl
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


@pytest.fixture(params=["running", "stopped"])
def container(
    rless: Product, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Container]:
    for name, value in rless.env.items():
        monkeypatch.setenv(name, value)
    flags = ["--name", "box", "--network", "none", "-v", "rootfs-access-test:/vol"]
    if request.param == "running":
        rless("run", "-d", *flags, rless.image, "sleep", "1000").expect()
    else:
        rless("run", *flags, rless.image, "true").expect()
    yield find("box")
    rless("rm", "-f", "box").expect()


def test_child_imports_nothing(container: Container) -> None:
    """CVE-2019-14271: the container's files would be taken for the modules."""

    def load(root_fd: int) -> None:
        __import__("colorsys")

    with pytest.raises(RlessError, match="colorsys was not loaded before"):
        rootfs_access.call(container, load)


def test_child_cannot_be_inspected(container: Container) -> None:
    """Class 35; the kernel resets this with each change of ids."""
    assert rootfs_access.call(container, lambda root_fd: prctl.get_dumpable()) is False


def test_child_is_only_root_of_the_container(container: Container) -> None:
    def look(root_fd: int) -> list[object]:
        return [os.getuid(), os.getgid(), os.stat("bin/probe", dir_fd=root_fd).st_mode & 0o777]

    assert rootfs_access.call(container, look) == [0, 0, 0o755]


def test_volumes_are_mounted_on_request(container: Container) -> None:
    def device(root_fd: int) -> list[int]:
        return [os.stat(name, dir_fd=root_fd).st_dev for name in (".", "vol")]

    root, volume = rootfs_access.call(container, device)
    assert root != volume
    root, volume = rootfs_access.call(container, device, volumes=False)
    assert root == volume


def test_failure_is_reported_and_leaves_nothing(container: Container) -> None:
    def fail(root_fd: int) -> None:
        raise RlessError("it failed", "do this", 7)

    before = os.listdir("/proc/self/fd")
    with pytest.raises(RlessError) as caught:
        rootfs_access.call(container, fail)
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == (
        "it failed", "do this", 7,
    )  # fmt: skip
    with pytest.raises(RlessError, match="internal error: ZeroDivisionError"):
        rootfs_access.call(container, lambda root_fd: 1 // 0)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_recycled_pid_is_not_entered(rless: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 39: the number of the container's init was given to another process."""
    for name, value in rless.env.items():
        monkeypatch.setenv(name, value)
    rless("run", "-d", "--name", "box", "--network", "none", rless.image, "sleep", "99").expect()
    box = find("box")
    pid, started = box.init() or (0, 0)
    for start, expected in ((started, b"entered"), (started + 1, b"is not running")):
        reader, writer = os.pipe()
        body = rootfs_access._body(lambda root_fd: "entered", reader, writer, None)
        child = rootfs_access._join(box, (pid, start), body, True)
        os.waitpid(child, 0)
        os.close(writer)
        assert expected in os.read(reader, 4096)
        os.close(reader)
    rless("rm", "-f", "box").expect()


def test_start_waits_for_rootfs_access(rless: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writable layer is mounted once: of two commands, the second waits."""
    for name, value in rless.env.items():
        monkeypatch.setenv(name, value)
    rless("create", "--name", "box", "--network", "none", rless.image, "sleep", "1000").expect()
    box = find("box")
    seen: list[str] = []

    def meanwhile() -> None:
        process = rless.start("start", "box")
        time.sleep(0.4)
        seen.append(find("box").status()[0])
        seen.append(str(process.poll()))
        waiting.append(process)

    waiting: list[object] = []
    rootfs_access.call(box, lambda root_fd: time.sleep(0.6), meanwhile=meanwhile, purpose="cp")
    assert seen == ["created", "None"]
    wait_for(lambda: find("box").init() is not None, "the start")
    rless("rm", "-f", "box").expect()


def test_killed_command_leaves_true_state(rless: Product, tmp_path: Path) -> None:
    """SIGKILL of a command that holds a container: it is neither locked nor said to have run."""
    rless("create", "--name", "box", "--network", "none", rless.image, "true").expect()
    process = rless.start("cp", "-", "box:/tmp")
    assert process.stdin is not None
    process.stdin.write(b"x")
    process.stdin.flush()
    wait_for(lambda: len(os.listdir(rless.live)) > 1, "the lock")
    process.kill()
    process.communicate()
    wait_for(lambda: not rless.processes(), "the end of its children")
    assert "Created" in rless("ps", "-a").expect().out
    rless("cp", "box:/bin/probe", str(tmp_path)).expect()
    assert rless("start", "-a", "box").expect().code == 0
    rless("rm", "box").expect()
