"""The driver is chosen by trying, and the failures of the others are kept."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from rootless import rootfs
from rootless.errors import RlessError, SyscallError
from rootless.linux.idmap import IdMap
from rootless.rootfs import copy, fuse_overlayfs, overlay

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAP = IdMap([(0, os.getuid(), 1)], [(0, os.getgid(), 1)], "single")


def failing(error: RlessError) -> Callable[..., object]:
    def fail(*args: object, **options: object) -> object:
        raise error

    return fail


@pytest.fixture
def place(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "layer").mkdir()
    (tmp_path / "c").mkdir()
    return str(tmp_path / "layer"), str(tmp_path / "c")


def test_overlay_is_tried_first(place: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "mount", lambda *args, **options: "the options")
    layer, workspace = place
    mounted = rootfs.mount([layer], workspace, MAP)
    assert mounted.describe() == {
        "path": f"{workspace}/merged",
        "driver": "overlay",
        "options": "the options",
        "layers": [layer],
        "why": [],
    }


def test_next_driver_is_tried_and_the_reason_kept(
    place: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "mount", failing(SyscallError("mount(overlay)", errno.EPERM)))
    monkeypatch.setattr(fuse_overlayfs, "mount", lambda *args, **options: ("lower", 42))
    mounted = rootfs.mount([place[0]], place[1], MAP)
    assert (mounted.driver, mounted.helper_pids) == ("fuse-overlayfs", [42])
    assert mounted.why == ["overlay: mount(overlay): Operation not permitted"]


def test_copy_is_the_last_resort(place: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "mount", failing(SyscallError("mount(overlay)", errno.EINVAL)))
    monkeypatch.setattr(fuse_overlayfs, "mount", failing(RlessError("no /dev/fuse")))
    monkeypatch.setattr(copy, "fill", lambda layers, workspace: None)
    mounted = rootfs.mount([place[0]], place[1], MAP)
    assert mounted.driver == "copy"
    assert [line.split(":")[0] for line in mounted.why] == ["overlay", "fuse-overlayfs"]


def test_all_reasons_are_reported_when_nothing_works(
    place: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "mount", failing(RlessError("one")))
    monkeypatch.setattr(fuse_overlayfs, "mount", failing(RlessError("two")))
    monkeypatch.setattr(copy, "fill", failing(RlessError("three")))
    with pytest.raises(RlessError) as caught:
        rootfs.mount([place[0]], place[1], MAP)
    assert "overlay: one; fuse-overlayfs: two; copy: three" in caught.value.message
    assert "rless doctor" in str(caught.value.hint)


def test_requested_driver_is_the_only_one_tried(
    place: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "mount", failing(RlessError("no")))
    monkeypatch.setattr(copy, "fill", failing(AssertionError()))  # type: ignore[arg-type]
    with pytest.raises(RlessError, match="overlay: no"):
        rootfs.mount([place[0]], place[1], MAP, driver="overlay")
    with pytest.raises(RlessError, match="unknown rootfs driver zfs"):
        rootfs.mount([place[0]], place[1], MAP, driver="zfs")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_ends_the_search(
    place: tuple[str, str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(overlay, "mount", failing(SyscallError("mount(overlay)", number)))
    monkeypatch.setattr(fuse_overlayfs, "mount", failing(AssertionError()))  # type: ignore[arg-type]
    with pytest.raises(RlessError, match="free some space"):
        rootfs.mount([place[0]], place[1], MAP)


def test_file_system_without_user_xattrs_is_refused_before_the_mount(
    place: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would mount, and fail later where a deleted directory is made again."""

    def setxattr(*args: object, **options: object) -> None:
        raise OSError(errno.ENOTSUP, "no")

    monkeypatch.setattr(os, "setxattr", setxattr)
    monkeypatch.setattr(overlay.mounts, "mount", failing(AssertionError()))  # type: ignore[arg-type]
    with pytest.raises(RlessError, match="setxattr"):
        rootfs.mount([place[0]], place[1], MAP, driver="overlay")
