"""Layers for a second id map: the same files with translated owners."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.layer import remap_owners
from rootless.image.transfer.install import ensure_layers
from rootless.linux.idmap import IdMap
from tests.lib import images
from tests.lib.image_store import SINGLE, Workshop, look, map_of
from tests.lib.images import Dir, Fifo, File, Hard, Image, Link, layer

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def everything_layer() -> bytes:
    """Return a layer with one of each kind."""
    return layer(
        {
            "": Dir(mode=0o750, uid=3, mtime=11),
            "d": Dir(mode=0o3775, uid=1000, gid=50, mtime=12.5, xattrs={"user.k": b"v"}),
            "d/setuid": File("s", mode=0o6755, uid=1000, gid=1000, mtime=13),
            "d/none": File("n", mode=0, uid=65000),
            "hard": Hard("d/setuid"),
            "link": Link("/nowhere", uid=7, mtime=14),
            "fifo": Fifo(mode=0o600, uid=8, mtime=15),
            "cap": File(
                "c", mode=0o755, xattrs={"security.capability": CAPABILITY, "user.a": b"b"}
            ),
            "locked": Dir(mode=0, uid=9),
            "locked/in": File("l", mode=0o400, uid=9),
            "n\udcff": "odd name",
            "big": File(os.urandom(300_000), uid=1001),
        }
    )


def comparable(tree: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Return what must be equal: all but inode numbers and blocks."""
    inodes: dict[object, int] = {}
    return {
        path: {key: value for key, value in facts.items() if key not in ("inode", "blocks")}
        | {"same as": inodes.setdefault(facts["inode"], len(inodes))}
        for path, facts in sorted(tree.items())
    }


@pytest.mark.parametrize(
    ("first", "second"), [((0, 0), (1000, 1000)), ((1000, 50), (0, 0)), ((7, 8), (65000, 9))]
)
def test_everything_survives_remapping(
    workshop: Workshop, first: tuple[int, int], second: tuple[int, int]
) -> None:
    layers = [
        everything_layer(),
        layer(images.whiteout("d/none") | images.opaque("locked") | {"locked/new": "x"}),
    ]
    image = workshop.unpack(layers, idmap_for=lambda image: map_of(*first))
    directories = ensure_layers(image, map_of(*second), workshop.store)
    for number, directory in enumerate(directories):
        old = image.layer_dirs(map_of(*first).key)
        assert old is not None
        before = comparable(look(old[number], map_of(*first)))
        after = comparable(look(directory, map_of(*second)))
        for path, facts in before.items():
            if facts["kind"] == "directory":
                facts["size"] = after[path]["size"] = 0
        assert after == before
    assert os.listdir(f"{workshop.root}/tmp") == []


def test_remapped_layer_is_cached(workshop: Workshop) -> None:
    image = workshop.unpack([everything_layer()])
    first = ensure_layers(image, map_of(5, 6), workshop.store)
    inode = os.stat(first[0]).st_ino
    again = workshop.store.lookup(image.name)
    assert again is not None and again.layer_dirs(map_of(5, 6).key) == first
    assert ensure_layers(again, map_of(5, 6), workshop.store) == first
    assert os.stat(first[0]).st_ino == inode
    by_id = workshop.store.lookup(image.id)
    assert by_id is not None and by_id.layer_dirs(map_of(5, 6).key) == first


def test_sparse_files_stay_sparse(workshop: Workshop, tmp_path: Path) -> None:
    holes = tmp_path / "holes"
    with open(holes, "wb") as file:
        file.write(b"start")
        file.seek(30 << 20)
        file.write(b"end")
        file.truncate(40 << 20)
    command = ["tar", "--owner=0", "--group=0", "-S", "-C", tmp_path, "-cf", "-", "holes"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    image = workshop.unpack([data])
    directories = ensure_layers(image, map_of(1, 1), workshop.store)
    facts = look(directories[0], map_of(1, 1))["holes"]
    assert facts["size"] == 40 << 20 and facts["blocks"] * 512 < 1 << 20
    assert facts["digest"] == workshop.tree(image)["holes"]["digest"]


def test_layer_is_remapped_to_a_single_id(workshop: Workshop) -> None:
    image = workshop.unpack([everything_layer()])
    directories = ensure_layers(image, SINGLE, workshop.store)
    tree = look(directories[0], SINGLE)
    assert {(facts["uid"], facts["gid"]) for facts in tree.values()} == {(0, 0)}
    assert tree["d/setuid"]["mode"] == 0o755 and tree["d"]["mode"] == 0o1775
    assert tree["d/setuid"]["inode"] == tree["hard"]["inode"]


def test_single_id_layer_is_remapped_from_its_source(workshop: Workshop) -> None:
    image = workshop.unpack([everything_layer()], idmap_for=lambda image: SINGLE)
    directories = ensure_layers(image, map_of(0, 0), workshop.store, quiet=True)
    assert look(directories[0], map_of(0, 0))["d"]["uid"] == 1000
    found = workshop.store.lookup(image.name)
    assert found is not None and set(found.keys) == {"single", map_of(0, 0).key}


def test_missing_source_is_reported_with_a_hint(workshop: Workshop) -> None:
    image = workshop.unpack([everything_layer()], idmap_for=lambda image: SINGLE)
    os.unlink(workshop.directory / "1.tar")
    with pytest.raises(RlessError, match="cannot open"):
        ensure_layers(image, map_of(0, 0), workshop.store, quiet=True)
    by_id = workshop.store.lookup(image.id)
    assert by_id is not None
    with pytest.raises(RlessError, match="not there for this user map") as caught:
        ensure_layers(by_id, map_of(0, 0), workshop.store, quiet=True)
    assert "by its name" in (caught.value.hint or "")


def test_layers_of_lost_id_ranges_are_not_used(
    workshop: Workshop,
) -> None:
    image = workshop.unpack([everything_layer()])
    chains = image.chain
    assert remap_owners.find_source(workshop.root, chains, map_of(1, 1)) is not None
    narrow = map_of(1, 1)
    smaller = IdMap([(*narrow.uids[0][:2], 1), *narrow.uids[1:2]], narrow.gids, "other")
    assert remap_owners.find_source(workshop.root, chains, smaller) is None


def test_pull_remaps_stored_layers(workshop: Workshop) -> None:
    base = everything_layer()
    workshop.unpack([base])
    made = Image([base, layer({"etc/passwd": "u:x:5:6::/:\n"})], {"User": "u"})
    image = workshop.unpack(made)
    assert workshop.tree(image, 0)["d"]["uid"] == 1000
    assert os.stat(image.layer_dirs(next(iter(image.keys)))[0]).st_uid != os.getuid()  # type: ignore[index]
