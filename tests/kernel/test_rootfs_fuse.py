"""fuse-overlayfs ends with its container, however that ends."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rootless import rootfs
from rootless.errors import RlessError
from rootless.linux import idmap, ns, programs
from tests.lib import engine_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

pytestmark = pytest.mark.needs("user namespaces", "fuse", "fuse-overlayfs")
SECONDS = 5.0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "c")
    os.makedirs(f"{path}/layer/from-the-layer")
    yield path
    engine_namespace.run(engine_namespace.make_map("single"), rootfs.remove_workspace, path)


def state(pid: int) -> str:
    """Return the state of a process, "gone" if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            letter = file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    return "gone" if letter == "Z" else letter


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + SECONDS
    while state(pid) != "gone":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Running:
    """A process like the engine's that has mounted, and one like the container's below it.

    The container's process has a mount namespace of its own and lists the root on request.
    """

    def __init__(self, place: str) -> None:
        map_ = engine_namespace.make_map("single")
        asked, self.ask = os.pipe()
        self.answer, answering = os.pipe()

        def body() -> NoReturn:
            try:
                os.close(self.ask)
                os.close(self.answer)
                mounted = rootfs.mount([f"{place}/layer"], place, map_, driver="fuse-overlayfs")
                container = os.fork()
                if container == 0:
                    ns.unshare(ns.CLONE_NEWNS)
                    while os.read(asked, 1):
                        os.write(answering, json.dumps(os.listdir(mounted.path)).encode())
                    os._exit(0)
                os.write(answering, json.dumps([container, *mounted.helper_pids]).encode())
                os.close(answering)
                signal.pause()
            finally:
                os._exit(1)

        self.engine = idmap.spawn(map_, ns.CLONE_NEWNS, body)
        os.close(asked)
        os.close(answering)
        self.container, self.helper = json.loads(os.read(self.answer, 4096))

    def list_root(self) -> list[str]:
        os.write(self.ask, b"?")
        names: list[str] = json.loads(os.read(self.answer, 4096))
        return names

    def kill_engine(self) -> None:
        os.kill(self.engine, signal.SIGKILL)
        os.waitpid(self.engine, 0)

    def end(self) -> None:
        for pid in (self.engine, self.container):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            os.waitpid(self.engine, 0)
        except ChildProcessError:
            pass
        os.close(self.ask)
        os.close(self.answer)


@pytest.fixture
def running(place: str) -> Iterator[Running]:
    processes = Running(place)
    yield processes
    processes.end()


def test_fuse_overlayfs_ends_when_all_else_is_killed(running: Running) -> None:
    assert running.list_root() == ["from-the-layer"]
    running.kill_engine()
    assert running.list_root() == ["from-the-layer"]
    assert state(running.helper) != "gone"
    os.kill(running.container, signal.SIGKILL)
    assert wait_until_gone(running.helper)


def test_fuse_overlayfs_ends_after_container_and_engine(running: Running) -> None:
    os.kill(running.container, signal.SIGKILL)
    assert wait_until_gone(running.container)
    assert state(running.helper) != "gone"
    running.kill_engine()
    assert wait_until_gone(running.helper)


def test_unmount_waits_for_fuse_overlayfs(place: str) -> None:
    def case() -> list[str]:
        map_ = engine_namespace.make_map("single")
        mounted = rootfs.mount([f"{place}/layer"], place, map_, driver="fuse-overlayfs")
        pid = mounted.helper_pids[0]
        before = state(pid)
        rootfs.unmount(mounted)
        return [before, "reaped" if not os.path.exists(f"/proc/{pid}") else state(pid)]

    before, after = engine_namespace.run(engine_namespace.make_map("single"), case)
    assert before != "gone"
    assert after == "reaped"


def test_fuse_overlayfs_inherits_nothing(place: str) -> None:
    """A secret in the caller's environment or an open file is none of its business."""

    def case() -> dict[str, object]:
        map_ = engine_namespace.make_map("single")
        os.environ["SECRET"] = "x"
        stray = os.open("/etc/passwd", os.O_RDONLY)
        os.set_inheritable(stray, True)
        mounted = rootfs.mount([f"{place}/layer"], place, map_, driver="fuse-overlayfs")
        pid = mounted.helper_pids[0]
        fds = f"/proc/{pid}/fd"
        result = {
            "files": [os.readlink(f"{fds}/{fd}") for fd in os.listdir(fds)],
            "environment": Path(f"/proc/{pid}/environ").read_text(),
            "session": os.getsid(pid) == pid,
        }
        rootfs.unmount(mounted)
        return result

    found = engine_namespace.run(engine_namespace.make_map("single"), case)
    assert "/etc/passwd" not in found["files"]
    assert "SECRET" not in found["environment"]
    assert found["session"] is True


def test_failure_shows_the_message_of_fuse_overlayfs(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends at once; the mount that was made for it is taken away again."""
    monkeypatch.setattr(programs, "find", lambda name: "/bin/false")

    def case() -> list[object]:
        map_ = engine_namespace.make_map("single")
        with pytest.raises(RlessError) as caught:
            rootfs.mount([f"{place}/layer"], place, map_, driver="fuse-overlayfs")
        with open("/proc/self/mountinfo") as file:
            return [str(caught.value), "fuse.false" in file.read()]

    said, still_mounted = engine_namespace.run(engine_namespace.make_map("single"), case)
    assert "false ended" in said
    assert not still_mounted
