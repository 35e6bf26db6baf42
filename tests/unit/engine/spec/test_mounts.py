"""The volumes that a container gets, and the paths where none may be (class 18)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rootless.engine.idmap_policy import build_single
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
    storage, container = places
    decided = wanted.decide(request, config, storage, os.path.basename(container))
    wanted.make_volumes(decided, storage, os.path.basename(container), build_single(0, 0))
    return {mount.target: mount for mount in decided}, wanted.to_fill(decided)


def test_container_without_volumes_gets_none() -> None:
    request = RunRequest()
    assert wanted.decide(request, {}, "/nonexistent", "c") == []
    assert wanted.decide(request, {"Volumes": None}, "/nonexistent", "c") == []
    wanted.make_volumes([Mount("bind", "/x", "/y")], "/nonexistent", "c", build_single(0, 0))


def test_named_volume_is_shared_and_may_be_filled(places: tuple[str, str]) -> None:
    storage, _ = places
    mounted, to_fill = prepare(places, [Mount("volume", "data", "/srv")])
    directory = f"{storage}/volumes/data/_data"
    assert mounted["/srv"].source == directory
    assert to_fill == [(directory, "/srv")]
    # Whether it is empty is found out under its lock, by who may look into it.
    assert prepare(places, [Mount("volume", "data", "/other")])[1] == [(directory, "/other")]
    nocopy = Mount("volume", "fresh", "/srv", nocopy=True)
    assert prepare(places, [nocopy])[1] == []


def test_volume_keeps_its_first_map(places: tuple[str, str]) -> None:
    storage, _ = places
    mounts = [Mount("volume", "data", "/srv"), Mount("volume", None, "/own")]
    decided = wanted.decide(RunRequest(mounts=mounts), {}, storage, "c")
    assert wanted.caller_in(RunRequest(mounts=mounts), storage, (0, 0)) == (0, 0)
    for uid in (7, 8):
        found = wanted.make_volumes(decided, storage, "c", build_single(uid, uid))
        assert set(found.values()) == {(7, 7)}
    assert wanted.caller_in(RunRequest(mounts=mounts), storage, (0, 0)) == (7, 7)
    assert wanted.caller_in(RunRequest(mounts=mounts), storage, None) == (7, 7)
    bind = Mount("bind", "/tmp", "/srv")
    assert wanted.caller_in(RunRequest(mounts=[bind]), storage, (0, 0)) is None
    assert wanted.caller_in(RunRequest(mounts=[bind, *mounts]), storage, (0, 0)) == (7, 7)


def test_anonymous_volume_is_found_again_by_its_container(places: tuple[str, str]) -> None:
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


def test_user_mount_replaces_an_image_volume(places: tuple[str, str]) -> None:
    mounted, _ = prepare(
        places, [Mount("bind", "/x", "/srv"), Mount("tmpfs", None, "/run")], ["/srv/", "/run"]
    )
    assert {target: mount.type for target, mount in mounted.items()} == {
        "/srv": "bind",
        "/run": "tmpfs",
    }


@pytest.mark.parametrize(
    "target",
    ["", "/", "//", "///", "/.", "/x/..", "/x/../..", "/proc", "/proc/", "/proc/sys", "//proc/1",
     "/x/../proc", "/sys", "/dev", "/dev/.", "relative", "../x", "."],
)  # fmt: skip
def test_volumes_on_reserved_paths_are_refused(places: tuple[str, str], target: str) -> None:
    with pytest.raises(RlessError, match="not a place for a volume"):
        prepare(places, [], [target])


ASKED = [
    Mount("bind", "/a", "/b", create_source=True, recursive=False, propagation="rslave"),
    Mount("bind", "/a", "/c", read_only=True, options=["noexec"]),
    Mount("tmpfs", None, "/t", tmpfs_size=4096, tmpfs_mode=0o700, options=["uid=5"]),
    Mount("volume", "data", "/d", labels={"l": "1"}, nocopy=True),
    Mount("volume", None, "/e"),
]


def test_later_start_has_the_mounts_of_the_first() -> None:
    """The disk has what was decided, and the request what was asked for: together it is all."""
    request = RunRequest(mounts=ASKED)
    decided = wanted.decide(request, {"Volumes": {"/image": {}}}, "/nonexistent", "c")
    records = json.loads(json.dumps(wanted.to_records(decided)))
    assert wanted.of_container(records, request) == decided


def test_mounts_without_a_request_come_from_the_record() -> None:
    """Those of --volumes-from stand in the record alone, as do those of the image."""
    decided = wanted.decide(RunRequest(mounts=ASKED[:2]), {}, "/nonexistent", "c")
    first, second = wanted.of_container(wanted.to_records(decided), RunRequest())
    assert first == ASKED[0].replace(create_source=False)
    assert second == ASKED[1].replace(propagation="rprivate")


def test_record_has_what_inspect_shows() -> None:
    decided = wanted.decide(RunRequest(mounts=ASKED), {}, "/s", "c")
    bind, _, tmpfs, named, anonymous = wanted.to_records(decided)
    assert bind == {
        "type": "bind", "name": "", "source": "/a", "target": "/b", "rw": True,
        "options": ["bind"], "propagation": "rslave", "anonymous": False,
    }  # fmt: skip
    assert tmpfs["options"] == ["uid=5", "size=4096", "mode=700"]
    assert (named["name"], named["source"]) == ("data", "/s/volumes/data/_data")
    assert (named["options"], named["anonymous"]) == (["nocopy"], False)
    assert (len(anonymous["name"]), anonymous["anonymous"]) == (64, True)
