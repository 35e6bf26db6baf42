"""What is said where the store cannot be written."""

from __future__ import annotations

import errno

import pytest

from rootless.image.model import limits
from rootless.linux import filesystem


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_file_system_that_refuses_owners_is_named(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS with root_squash answers by one errno, sshfs by the other."""
    monkeypatch.setattr(filesystem, "name_of", lambda path: "FUSE")
    said = "set RLESS_STORAGE to a local directory: FUSE refuses foreign owners"
    assert limits.hint(number) == said


def test_directory_of_another_user_is_no_matter_of_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "name_of", lambda path: "")
    assert limits.hint(errno.EACCES) == limits.NOT_WRITABLE
