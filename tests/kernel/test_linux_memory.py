"""Mapped files."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from rootless.errors import SyscallError
from rootless.linux.memory import map_file

if TYPE_CHECKING:
    from pathlib import Path


def test_mapped_file_outlives_its_descriptor_and_name(tmp_path: Path) -> None:
    content = os.urandom(3 * 4096 + 17)
    path = tmp_path / "file"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    before = set(os.listdir("/proc/self/fd"))
    mapped = map_file(fd, len(content))
    assert set(os.listdir("/proc/self/fd")) <= before
    os.close(fd)
    path.unlink()
    assert bytes(mapped) == content
    assert bytes(mapped[4090:4100]) == content[4090:4100]
    assert mapped.readonly


def test_unmappable_file_is_an_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(SyscallError) as caught:
        map_file(fd, 1)
    assert caught.value.errno == errno.ENODEV
    os.close(fd)
