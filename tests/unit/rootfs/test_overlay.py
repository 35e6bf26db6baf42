"""The option string of overlayfs: descriptors, so that mountinfo shows no path of the host."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from rootless.errors import SyscallError
from rootless.rootfs import overlay

if TYPE_CHECKING:
    from pathlib import Path


class Kernel:
    """Take mounts down instead of making them; fail with the errnos that are queued."""

    def __init__(self) -> None:
        self.options: list[str] = []
        self.lower: list[str] = []
        self.cwd = ""
        self.failures: list[int] = []

    def mount(self, source: str, target: str, fstype: str, flags: int, data: str) -> None:
        self.options.append(data)
        self.cwd = os.getcwd()
        lower = data.partition(",upperdir=")[0].removeprefix("lowerdir=").split(":")
        self.lower = [os.path.realpath(path) for path in lower]
        if self.failures and (number := self.failures.pop(0)):
            raise SyscallError("mount(overlay)", number)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    fake = Kernel()
    monkeypatch.setattr(overlay.mounts, "mount", fake.mount)
    monkeypatch.setattr(os, "setxattr", lambda *args: None)
    return fake


def workspace(tmp_path: Path, count: int) -> tuple[str, list[str]]:
    place = str(tmp_path)
    overlay.prepare(place, None)
    layers = [f"{place}/{number:064x}" for number in range(count)]
    for layer in layers:
        os.mkdir(layer)
    return place, layers


def test_options_are_told_with_paths(tmp_path: Path, kernel: Kernel) -> None:
    place, (one, two) = workspace(tmp_path, 2)
    options = overlay.mount([one, two], place, f"{place}/merged")
    assert options == (
        f"lowerdir={two}:{one},upperdir={place}/upper,workdir={place}/work,userxattr"
    )


@pytest.mark.parametrize("count", [1, 2, 60, 150, 499])
def test_layers_are_given_by_descriptor_in_order(
    tmp_path: Path, kernel: Kernel, count: int
) -> None:
    place, layers = workspace(tmp_path, count)
    before = os.getcwd()
    fds = os.listdir("/proc/self/fd")
    overlay.mount(layers, place, f"{place}/merged")
    (options,) = kernel.options
    assert len(options) < os.sysconf("SC_PAGE_SIZE")
    assert str(tmp_path) not in options
    assert kernel.lower == [os.path.realpath(layer) for layer in reversed(layers)]
    assert os.getcwd() == before
    assert os.listdir("/proc/self/fd") == fds


def test_failure_restores_the_working_directory(tmp_path: Path, kernel: Kernel) -> None:
    place, layers = workspace(tmp_path, 499)
    before = os.getcwd()
    fds = os.listdir("/proc/self/fd")
    kernel.failures = [errno.EPERM]
    with pytest.raises(SyscallError):
        overlay.mount(layers, place, f"{place}/merged")
    assert (os.getcwd(), os.listdir("/proc/self/fd")) == (before, fds)
    assert kernel.cwd != before


def test_unknown_volatile_option_is_left_out(tmp_path: Path, kernel: Kernel) -> None:
    place, layers = workspace(tmp_path, 1)
    kernel.failures = [errno.EINVAL]
    options = overlay.mount(layers, place, f"{place}/merged", volatile=True)
    assert [text.endswith(",volatile") for text in kernel.options] == [True, False]
    assert options.endswith(f"upperdir={place}/upper,workdir={place}/work,userxattr")


def test_other_failures_of_a_volatile_mount_are_reported(tmp_path: Path, kernel: Kernel) -> None:
    place, layers = workspace(tmp_path, 1)
    kernel.failures = [errno.EPERM]
    with pytest.raises(SyscallError):
        overlay.mount(layers, place, f"{place}/merged", volatile=True)
    assert len(kernel.options) == 1


def test_prepare_completes_interrupted_directories(tmp_path: Path) -> None:
    """Killed between two calls: upper may be there without its attributes, work is not."""
    like = tmp_path / "like"
    like.mkdir(mode=0o750)
    (tmp_path / "c" / "upper").mkdir(parents=True, mode=0o700)
    overlay.prepare(str(tmp_path / "c"), str(like))
    assert (tmp_path / "c" / "upper").stat().st_mode & 0o7777 == 0o750
    (tmp_path / "c" / "upper").chmod(0o711)
    overlay.prepare(str(tmp_path / "c"), str(like))
    assert (tmp_path / "c" / "upper").stat().st_mode & 0o7777 == 0o711
