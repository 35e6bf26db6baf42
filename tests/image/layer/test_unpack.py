"""Unpacking of ordinary layers: attributes, whiteouts and implied parents."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.store import records
from tests.lib import images
from tests.lib.image_store import SINGLE, Workshop, look, map_for
from tests.lib.images import Device, Dir, Fifo, File, Hard, Link, layer

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep


def test_attributes_are_kept(workshop: Workshop) -> None:
    image = workshop.unpack(
        [
            layer(
                {
                    "./": Dir(mode=0o751, mtime=5),
                    "d": Dir(mode=0o2775, uid=7, gid=50, mtime=1.5),
                    "d/f": File("text", mode=0o4755, uid=1000, gid=1001, mtime=1234567890.25),
                    "d/plain": "in a set-gid directory",
                    "d/none": Dir(mode=0),
                    "d/none/inside": File("x", mode=0),
                    "sticky": Dir(mode=0o1777),
                    "l": Link("/no/where", uid=3, gid=4, mtime=77),
                    "h": Hard("d/f"),
                    "p": Fifo(mode=0o620, uid=9),
                    "x": File("", xattrs={"user.a": b"\x01\x00b", "user.b.c": b"x" * 200}),
                    "cap": File("", mode=0o755, xattrs={"security.capability": CAPABILITY}),
                    "n\\udcff\udcff": "not UTF-8",
                    "big": File(b"z" * 3_000_000),
                    "zero": File(b""),
                }
            )
        ]
    )
    tree = workshop.tree(image)
    assert tree["."]["mode"] == 0o751 and tree["."]["mtime"] == 5 * 10**9
    assert (tree["d"]["mode"], tree["d"]["uid"], tree["d"]["gid"]) == (0o2775, 7, 50)
    assert tree["d"]["mtime"] == 1_500_000_000
    assert (tree["d/f"]["mode"], tree["d/f"]["uid"], tree["d/f"]["gid"]) == (0o4755, 1000, 1001)
    assert tree["d/f"]["mtime"] == 1234567890_250000000
    assert tree["d/plain"]["gid"] == 0  # not that of the directory
    assert tree["d/none"]["mode"] == tree["d/none/inside"]["mode"] == 0
    assert tree["sticky"]["mode"] == 0o1777
    assert (tree["l"]["link"], tree["l"]["uid"], tree["l"]["gid"]) == ("/no/where", 3, 4)
    assert tree["l"]["mtime"] == 77 * 10**9
    assert tree["h"]["inode"] == tree["d/f"]["inode"] and tree["h"]["links"] == 2
    assert (tree["p"]["kind"], tree["p"]["mode"], tree["p"]["uid"]) == ("fifo", 0o620, 9)
    assert tree["x"]["xattrs"] == {"user.a": "010062", "user.b.c": "78" * 200}
    assert bytes.fromhex(tree["cap"]["xattrs"]["security.capability"]) == CAPABILITY
    assert tree["n\\udcff\udcff"]["text"] == "not UTF-8"
    assert tree["big"]["size"] == 3_000_000
    assert image.size == 3_000_000 + 4 + 22 + 1 + 9


def test_net_raw_alone_is_not_effective(workshop: Workshop) -> None:
    """With cap_net_raw=ep nobody could execute the file in a container without NET_RAW."""
    given = {
        "ping": struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0),
        "both": struct.pack("<IIIII", 0x02000001, 1 << 13 | 1 << 10, 0, 0, 0),
        "high": struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 1, 0),
    }
    made = {name: File("", xattrs={"security.capability": it}) for name, it in given.items()}
    tree = workshop.tree(workshop.unpack([layer(made)]))
    kept = {name: bytes.fromhex(tree[name]["xattrs"]["security.capability"]) for name in given}
    assert kept == given | {"ping": struct.pack("<IIIII", 0x02000000, 1 << 13, 0, 0, 0)}


def test_files_of_the_image_user_belong_to_the_caller(workshop: Workshop) -> None:
    """USER app: its files are the caller's own on disk, root's belong to a subordinate id."""
    made = images.busybox_image([layer({"data": Dir(uid=1000, gid=1000)})], User="user")
    image = workshop.unpack(made)
    (key,) = image.keys
    directories = image.layer_dirs(key)
    assert directories is not None
    status = os.stat(f"{directories[1]}/data")
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
    assert os.stat(f"{directories[0]}/bin").st_uid != os.getuid()
    assert workshop.tree(image, 0)["bin"]["uid"] == 0


def test_sparse_files_stay_sparse(workshop: Workshop) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "holes")
        with open(path, "wb") as file:
            file.seek(50 << 20)
            file.write(b"end")
        out = Path(directory, "a.tar")
        command = ["tar", "--format=pax", "--owner=0", "--group=0", "-S", "-cf", out]
        subprocess.run([*command, "-C", directory, "holes"], check=True)
        data = out.read_bytes()
    image = workshop.unpack([data])
    facts = workshop.tree(image)["holes"]
    assert facts["size"] == (50 << 20) + 3
    assert facts["blocks"] * 512 < 1 << 20
    assert image.size < 1 << 20


def test_whiteouts_become_overlayfs_whiteouts(workshop: Workshop) -> None:
    image = workshop.unpack(
        [
            layer({"d/a": "1", "d/b": "2", "e/x": "3", "f/g/h": "4", "gone": "5"}),
            layer(
                images.whiteout("d/a")
                | images.opaque("e")
                | {"e/new": "n"}
                | images.whiteout("f")
                | {"f/fresh": "in a directory made anew"}
                | images.whiteout("gone")
            ),
        ]
    )
    key = next(iter(image.keys))
    assert image.whiteouts(key) == "overlay"
    tree = workshop.tree(image)
    assert tree["d/a"]["kind"] == "character" and tree["d/a"]["device"] == 0
    assert tree["gone"]["kind"] == "character"
    assert "d/b" not in tree
    assert tree["e"]["xattrs"] == {"user.overlay.opaque": "79"}
    # A directory that was removed and made anew shows nothing of the old one.
    assert tree["f"]["kind"] == "directory"
    assert tree["f"]["xattrs"] == {"user.overlay.opaque": "79"}


@pytest.mark.parametrize("order", [0, 1])
def test_whiteout_affects_only_lower_layers(workshop: Workshop, order: int) -> None:
    pairs: list[tuple[str, images.Value]] = [("f", "new"), (".wh.f", "")]
    more: list[tuple[str, images.Value]] = [("d", Dir()), ("d/x", "new"), (".wh.d", "")]
    entries = [*pairs, *more] if order == 0 else [*pairs[::-1], more[2], *more[:2]]
    image = workshop.unpack([layer({"f": "old", "d/y": "old"}), layer(entries)])
    tree = workshop.tree(image)
    assert tree["f"]["text"] == "new"
    assert tree["d/x"]["text"] == "new"
    assert tree["d"]["xattrs"] == {"user.overlay.opaque": "79"}


def test_whiteouts_work_on_poor_file_systems(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rootless.image.layer.parallel_unpack.supports_overlay_whiteouts", lambda fd: False
    )
    image = workshop.unpack(
        [
            layer({"d/a": "1", "e/x": "3", "f/g": "4"}),
            layer(
                images.whiteout("d/a")
                | images.opaque("e")
                | images.whiteout("f")
                | {"f/fresh": "new", ".wh.back": "", "back": "replaces"}
            ),
            layer({"d/a/b": "a directory now", "e/y": "z"}),
        ]
    )
    assert image.whiteouts(next(iter(image.keys))) == "aufs"
    tree = workshop.tree(image, 1)
    assert tree["d/.wh.a"]["kind"] == "file" and "d/a" not in tree
    assert "e/.wh..wh..opq" in tree and "f/.wh..wh..opq" in tree
    assert ".wh.f" not in tree and ".wh.back" not in tree
    assert tree["back"]["text"] == "replaces"
    assert workshop.tree(image, 2)["d/a/b"]["text"] == "a directory now"


def test_implied_parents_copy_the_lower_directories(workshop: Workshop) -> None:
    image = workshop.unpack(
        [
            layer(
                {
                    "a": Dir(mode=0o700, uid=5, gid=6, mtime=100, xattrs={"user.k": b"v"}),
                    "a/b": Dir(mode=0o2711, uid=8, mtime=200),
                    "a/b/old": "x",
                }
            ),
            layer({"unrelated": "x"}),
            layer({"a/b/c/d": "new"}),
        ]
    )
    tree = workshop.tree(image)
    assert (tree["a"]["mode"], tree["a"]["uid"], tree["a"]["gid"]) == (0o700, 5, 6)
    assert tree["a"]["mtime"] == 100 * 10**9 and tree["a"]["xattrs"] == {"user.k": "76"}
    assert (tree["a/b"]["mode"], tree["a/b"]["uid"], tree["a/b"]["gid"]) == (0o2711, 8, 0)
    assert tree["a/b"]["mtime"] == 200 * 10**9
    assert (tree["a/b/c"]["mode"], tree["a/b/c"]["uid"]) == (0o755, 0)


def test_links_below_are_followed_within_the_root(workshop: Workshop) -> None:
    image = workshop.unpack(
        [
            layer(
                {
                    "usr/lib": Dir(mode=0o711),
                    "lib": Link("usr/lib"),
                    "lib64": Link("/lib"),
                    "up": Link("../../../usr/../lib64"),
                    "dangling": Link("made/there"),
                }
            ),
            layer({"up/x": "1", "lib64/y": "2", "dangling/z": "3"}),
            layer({"lib": Dir(), "lib/z": "a directory of its own now", "lib64/w": "4"}),
        ]
    )
    tree = workshop.tree(image, 1)
    assert tree["usr/lib"]["mode"] == 0o711
    assert tree["usr/lib/x"]["text"] == "1" and tree["usr/lib/y"]["text"] == "2"
    assert tree["made/there/z"]["text"] == "3"
    assert not {"up", "lib", "lib64", "dangling"} & tree.keys()
    tree = workshop.tree(image, 2)
    assert tree["lib"]["kind"] == "directory" and tree["lib/w"]["text"] == "4"
    assert "usr" not in tree


def test_hidden_lower_files_are_ignored(workshop: Workshop) -> None:
    image = workshop.unpack(
        [
            layer({"a": Dir(mode=0o700), "a/b": Dir(mode=0o700), "l": Link("a"), "o/p/q": "x"}),
            layer(images.whiteout("a") | images.whiteout("l") | images.opaque("o")),
            layer({"a/b/c": "1", "l/m": "2", "o/p/r": "3"}),
        ]
    )
    tree = workshop.tree(image)
    assert tree["a"]["mode"] == tree["a/b"]["mode"] == 0o755
    assert tree["l/m"]["text"] == "2"
    assert tree["o/p"]["mode"] == 0o755


def test_hard_link_to_a_lower_file_copies_it_up(workshop: Workshop) -> None:
    image = workshop.unpack(
        [layer({"d/f": File("text", mode=0o640, uid=5, mtime=9)}), layer({"g": Hard("d/f")})]
    )
    tree = workshop.tree(image)
    assert tree["g"]["inode"] == tree["d/f"]["inode"]
    assert (tree["g"]["text"], tree["g"]["mode"], tree["g"]["uid"]) == ("text", 0o640, 5)
    assert tree["g"]["mtime"] == 9 * 10**9


def test_hard_link_to_a_symlink_is_kept(workshop: Workshop) -> None:
    tree = workshop.tree(workshop.unpack([layer({"l": Link("/etc/shadow"), "h": Hard("l")})]))
    assert tree["h"]["kind"] == "link" and tree["h"]["link"] == "/etc/shadow"


def test_devices_are_skipped_and_counted(workshop: Workshop) -> None:
    image = workshop.unpack(
        [layer({"dev/null": Device(), "dev/sda": Device(block=True, major=8), "f": "x"})]
    )
    assert not [path for path in workshop.tree(image) if path.startswith("dev/")]
    meta = records.read_meta(workshop.root, next(iter(image.keys)), image.chain[0])
    assert meta is not None and meta["skipped_devices"] == 2


def test_single_id_files_belong_to_the_caller(workshop: Workshop) -> None:
    image = workshop.unpack(
        [
            layer(
                {
                    "f": File("x", uid=1000, gid=2000, mode=0o6755),
                    "d": Dir(uid=99, mode=0o3777),
                    "cap": File("", xattrs={"security.capability": CAPABILITY}),
                }
            )
        ],
        idmap_for=lambda image: SINGLE,
    )
    tree = workshop.tree(image, key="single")
    assert (tree["f"]["uid"], tree["f"]["gid"]) == (0, 0)
    assert tree["f"]["mode"] == 0o755  # no set-id bits: the file is the caller's own
    assert tree["d"]["mode"] == 0o1777
    assert tree["cap"]["xattrs"] == {}


def test_id_outside_the_map_is_named(workshop: Workshop) -> None:
    with pytest.raises(RlessError, match="a/far belongs to uid 4000000") as caught:
        workshop.unpack([layer({"a/far": File("x", uid=4_000_000)})])
    assert "subuid" in (caught.value.hint or "")
    assert workshop.contents() == {}


def test_image_without_layers_is_unpacked(workshop: Workshop) -> None:
    image = workshop.unpack([])
    assert image.layer_dirs(next(iter(image.keys))) == []


def test_equal_layers_in_one_image_are_unpacked(workshop: Workshop) -> None:
    same = layer({"f": "x"})
    image = workshop.unpack([same, same, layer(images.whiteout("f")), same])
    assert len(set(image.chain)) == 4
    assert workshop.tree(image)["f"]["text"] == "x"


def test_more_than_a_hundred_layers_are_unpacked(workshop: Workshop) -> None:
    layers = [layer({"etc": Dir(mode=0o750), "etc/0": "0"})]
    layers += [layer({f"etc/{number}": str(number)}) for number in range(1, 110)]
    image = workshop.unpack(layers)
    directories = image.layer_dirs(next(iter(image.keys)))
    assert directories is not None and len(directories) == 110
    assert workshop.tree(image, 109)["etc"]["mode"] == 0o750
    assert workshop.tree(image, 57)["etc/57"]["text"] == "57"


def test_result_agrees_with_gnu_tar(workshop: Workshop, tmp_path: Path) -> None:
    """Unpack a real tree both ways and compare."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add("/usr/share/zoneinfo", "usr/share/zoneinfo")
    image = workshop.unpack([buffer.getvalue()])
    other = tmp_path / "tar"
    other.mkdir()
    subprocess.run(["tar", "-xpf", "-", "-C", other], input=buffer.getvalue(), check=True)
    theirs = look(str(other), SINGLE)
    mine = workshop.tree(image)
    for path, facts in theirs.items():
        if path in (".", "usr", "usr/share"):
            continue  # not in the archive
        for name in ("kind", "mode", "size", "mtime", "link", "digest"):
            if name == "size" and facts["kind"] == "directory":
                continue
            assert mine[path].get(name) == facts.get(name), (path, name)
    assert len(mine) == len(theirs)
    assert map_for(image).key in image.keys
