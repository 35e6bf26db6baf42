"""Trusted programs (class 44): $PATH and writable directories lead to no other one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.linux import programs


def program(path: Path, mode: int = 0o755) -> str:
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def owned_by(monkeypatch: pytest.MonkeyPatch, owners: dict[str, int]) -> None:
    """Let `os.stat` tell other owners of some paths than they have."""
    stat = os.stat

    def told(path: str, **options: object) -> os.stat_result:
        status = stat(path, **options)  # type: ignore[arg-type]
        fields = list(status)
        fields[4] = owners.get(path, status.st_uid)
        return os.stat_result(fields)

    monkeypatch.setattr(os, "stat", told)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(programs, "DIRECTORIES", (f"{tmp_path}/none", str(tmp_path)))
    return tmp_path


def test_path_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = program(tmp_path / "sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs.find("sh") in ("/usr/bin/sh", "/bin/sh")
    assert programs.find_in_path("sh") == planted


@pytest.mark.parametrize(
    ("owner", "mode", "found"),
    [
        (0, 0o755, True),
        (65534, 0o755, True),  # root's, seen in a user namespace
        (1000, 0o755, False),  # a user's own
        (0, 0o775, False),
        (0, 0o757, False),
    ],
)
def test_only_roots_own_programs_are_found(
    directory: Path, monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, found: bool
) -> None:
    path = program(directory / "tool", mode)
    owned_by(monkeypatch, {path: owner, "/usr": 65534})
    assert programs.find("tool") == (path if found else None)


def test_users_program_is_not_the_systems(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(directory / "tool")
    owned_by(monkeypatch, {path: 1000, "/usr": 0})
    assert programs.find("tool") is None


def test_link_counts_as_what_it_leads_to(directory: Path) -> None:
    (directory / "tool").symlink_to("/bin/sh")
    assert programs.find("tool") == f"{directory}/tool"
    (directory / "other").symlink_to("/etc")
    assert programs.find("other") is None


def test_pasta_may_be_the_users_own(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ~/.local/bin, after that of the system."""
    home = tmp_path / "home"
    (home / ".local/bin").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    assert programs.find_pasta() is None
    own = program(home / ".local/bin/pasta")
    assert programs.find_pasta() == own
    os.chmod(own, 0o757)
    with pytest.raises(RlessError, match="pasta can be changed by others: refused"):
        programs.find_pasta()
    systems = program(directory / "pasta")
    owned_by(monkeypatch, {systems: 0, "/usr": 0})
    assert programs.find_pasta() == systems


def test_path_gives_the_users_own_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, later = tmp_path / "mine", tmp_path / "later"
    for place in (mine, later):
        place.mkdir()
    monkeypatch.setenv("PATH", f"relative:{mine}")
    assert programs.find_in_path("tool", str(later)) is None
    fallback = program(later / "tool")
    assert programs.find_in_path("tool", str(later)) == fallback
    path = program(mine / "tool")
    assert programs.find_in_path("tool", str(later)) == path
    Path(path).chmod(0o644)
    assert programs.find_in_path("tool", str(later)) == fallback


def test_program_in_path_that_others_can_change_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = program(tmp_path / "tool", 0o757)
    with pytest.raises(RlessError, match="tool can be changed by others: refused"):
        programs.find_in_path("tool")
    os.chmod(path, 0o755)
    owned_by(monkeypatch, {path: os.getuid() + 1})
    with pytest.raises(RlessError, match="tool can be changed by others: refused"):
        programs.find_in_path("tool")


@pytest.mark.parametrize(("owner", "found"), [(0, True), (65534, False)])
def test_privileged_program_needs_an_owner_that_has_an_id(
    directory: Path, monkeypatch: pytest.MonkeyPatch, owner: int, found: bool
) -> None:
    path = program(directory / "newuidmap", 0o4755)
    owned_by(monkeypatch, {path: owner, "/usr": owner})
    assert programs.find("newuidmap") == path
    assert programs.find_privileged("newuidmap") == (path if found else None)
