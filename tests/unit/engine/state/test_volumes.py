"""Which volumes a container gets, and where none may be (class 18)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rootless.engine.request import Mount, RunRequest
from rootless.engine.spec import mounts as wanted
from rootless.errors import RlessError


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, str]:
    """Return a storage and the directory of a container."""
    for name in ("storage", "container"):
        (tmp_path / name).mkdir(mode=0o700)
    return str(tmp_path / "storage"), str(tmp_path / "container")


def prepare(
    places: tuple[str, str], mounts: list[Mount], targets: list[str] | None = None
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the mounts by target, and what is to be filled."""
    request = RunRequest(mounts=mounts)
    config: dict[str, Any] = (
        {"Volumes": {target: {} for target in targets}} if targets is not None else {}
    )
    mounted, to_fill = wanted.prepare(request, config, *places)
    return {mount.target: mount for mount in mounted}, to_fill


def test_none() -> None:
    request = RunRequest()
    assert wanted.prepare(request, {}, "/nonexistent", "/nonexistent") == ([], [])
    assert wanted.prepare(request, {"Volumes": None}, "/nonexistent", "/none") == ([], [])


def test_a_named_volume_is_shared_and_may_be_filled(places: tuple[str, str]) -> None:
    storage, _ = places
    mounted, to_fill = prepare(places, [Mount("volume", "data", "/srv")])
    directory = f"{storage}/volumes/data/_data"
    assert mounted["/srv"].source == directory
    assert to_fill == [(directory, "/srv")]
    # Whether it is empty is found out under its lock, by who may look into it.
    assert prepare(places, [Mount("volume", "data", "/other")])[1] == [(directory, "/other")]
    nocopy = Mount("volume", "fresh", "/srv", nocopy=True)
    assert prepare(places, [nocopy])[1] == []


def test_an_anonymous_volume_is_found_again_by_its_container(places: tuple[str, str]) -> None:
    storage, _ = places
    mounted, to_fill = prepare(places, [Mount("volume", None, "/srv")], ["/image", "/other/"])
    assert len(mounted) == len(to_fill) == 3
    sources = {mount.source for mount in mounted.values()}
    assert len(sources) == 3
    for source in sources:
        name = source.removeprefix(f"{storage}/volumes/").removesuffix("/_data")
        assert len(name) == 64
        assert set(name) <= set("0123456789abcdef")
        record = json.loads(Path(storage, "volumes", name, "volume.json").read_text())
        assert (record["anonymous"], record["container"]) == (True, "container")
        assert os.path.isdir(source)
    again, _ = prepare(places, [Mount("volume", None, "/srv")], ["/image", "/other/"])
    assert {mount.source for mount in again.values()} == sources


def test_a_mount_of_the_users_takes_the_place_of_the_images(places: tuple[str, str]) -> None:
    mounted, _ = prepare(
        places, [Mount("bind", "/x", "/srv"), Mount("tmpfs", None, "/run")], ["/srv/", "/run"]
    )
    assert mounted == {}


@pytest.mark.parametrize(
    "target",
    ["", "/", "//", "///", "/.", "/x/..", "/x/../..", "/proc", "/proc/", "/proc/sys", "//proc/1",
     "/x/../proc", "/sys", "/dev", "/dev/.", "relative", "../x", "."],
)  # fmt: skip
def test_where_none_may_be(places: tuple[str, str], target: str) -> None:
    with pytest.raises(RlessError, match="not a place for a volume"):
        prepare(places, [], [target])
