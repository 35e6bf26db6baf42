"""Mount points of a RUN go by descriptor, and nothing else does (security class 55)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.engine.build.stubs import Stubs

_PLACES = [("/etc/hosts", False), ("/proc", True)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def stubs(root: Path) -> Stubs:
    made = Stubs(str(root), None)
    made.make(_PLACES)
    assert made.made == ["etc/hosts", "proc"]
    return made


def test_what_was_made_and_is_empty_goes(root: Path, stubs: Stubs) -> None:
    stubs.remove()
    assert sorted(os.listdir(root)) == ["etc"]
    assert os.listdir(root / "etc") == []


def test_removal_goes_through_no_link(root: Path, stubs: Stubs, tmp_path: Path) -> None:
    """CVE-2024-23652: the very file that was made lies behind the link, so only that saves it."""
    os.rename(root / "etc", tmp_path / "host")
    (root / "etc").symlink_to(tmp_path / "host")
    stubs.remove()
    assert (tmp_path / "host" / "hosts").exists()


def test_another_file_of_the_name_stays(root: Path, stubs: Stubs) -> None:
    (root / "etc" / "new").touch()
    os.rename(root / "etc" / "new", root / "etc" / "hosts")
    (root / "new").mkdir()
    os.rename(root / "new", root / "proc")
    stubs.remove()
    assert (root / "etc" / "hosts").exists() and (root / "proc").exists()


def test_what_something_was_made_of_stays(root: Path, stubs: Stubs) -> None:
    (root / "etc" / "hosts").write_text("x")
    (root / "proc" / "file").touch()
    stubs.remove()
    assert (root / "etc" / "hosts").read_text() == "x"
    assert (root / "proc" / "file").exists()


@pytest.mark.parametrize("target", ["{outside}", "../../../../../../../../..{outside}"])
def test_places_behind_a_link_are_made_in_the_root(
    root: Path, tmp_path: Path, target: str
) -> None:
    """Class 52: /run of the image is a link to a directory that only the host has, or both have."""
    outside = tmp_path / "outside"
    (outside / "there").mkdir(parents=True)
    (root / "run").symlink_to(target.format(outside=outside))
    made = Stubs(str(root), None)
    made.make([("/run/secrets/key", False), ("/run/there/key", False)])
    assert os.listdir(outside) == ["there"] and os.listdir(outside / "there") == []
    inside = root / outside.relative_to("/")
    assert sorted(os.listdir(inside)) == ["secrets", "there"]
    made.remove()
    assert not inside.exists()
