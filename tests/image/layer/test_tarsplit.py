"""The tar of an unpacked layer is restored byte for byte, or not at all."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.layer import tarsplit
from rootless.image.store.store import Image as StoredImage
from rootless.image.store.store import layer_dir, split_path
from tests.lib import images
from tests.lib.image_store import SINGLE, Workshop
from tests.lib.images import Device, Dir, Fifo, File, Hard, Link, layer, opaque, whiteout


def tar_of(workshop: Workshop, image: StoredImage, index: int = -1) -> bytes:
    with tarsplit.open_layer(workshop.store, image, index % len(image.chain)) as stream:
        data = stream.read()
        assert len(data) == stream.size
    return data


def check(workshop: Workshop, *layers: bytes, **options: object) -> StoredImage:
    image = workshop.unpack(list(layers), **options)
    for index, data in enumerate(layers):
        assert tar_of(workshop, image, index) == data
    return image


LAYERS = {
    "files": {"a": "text", "empty": "", "d/e/f": b"\0" * 70_000, "big": os.urandom(3_000_000)},
    "attributes": {
        "s": File("set-id", mode=0o4755, uid=3, gid=4),
        "none": File("secret", mode=0, uid=1000),
        "shut": Dir(mode=0, uid=7),
        "shut/in": File("x", mode=0),
        "x": File("x", xattrs={"user.a": b"1", "user.overlay.opaque": b"y"}),
    },
    "kinds": {
        "f": "x",
        "h": Hard("f"),
        "l": Link("f"),
        "p": Fifo(),
        "dev": Device(),
        **whiteout("gone"),
        **opaque("d"),
    },
    "data of members that are not kept": {
        ".wh.x": "a whiteout with content",
        ".wh..wh.plnk": "aufs",
        "d/.wh..wh..opq": "opaque with content",
        ".wh.y/below": "dropped",
    },
    "names": {"n" * 200: "x", "ü\udcff": "y", "a" * 90 + "/" + "b" * 120 + "/c": "deep"},
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_member_is_restored(workshop: Workshop, name: str) -> None:
    check(workshop, layer({"d": None, "gone": "x"}), layer(LAYERS[name]))


def test_single_id_layer_is_restored(workshop: Workshop) -> None:
    check(workshop, layer(LAYERS["attributes"]), idmap_for=lambda _: SINGLE)


def test_members_replaced_in_the_layer_are_restored(workshop: Workshop) -> None:
    data = layer(
        [
            ("a", "first"),
            ("a", "second"),
            ("a", "third, and longer"),
            ("d/e/f", "below"),
            ("d/e/g", Hard("a")),
            ("d", Link("e")),
            ("d", None),
            ("d/e/f", "a second one of that path"),
            ("e", "file"),
            ("e", Hard("a")),
            ("x", "later a device"),
            ("x", Device()),
            ("d", "a file at last"),
        ]
    )
    check(workshop, layer({"e": None}), data)


def test_members_behind_links_are_restored(workshop: Workshop) -> None:
    below = layer({"usr/lib": None, "lib": Link("usr/lib")})
    data = layer([("lib/a", "x"), ("l", Link("usr")), ("l/b", "y"), ("l", "now a file")])
    check(workshop, below, data)


def test_sparse_files_and_tails_are_restored(workshop: Workshop, tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        for start in range(0, 3_000_000, 500_000):
            file.seek(start)
            file.write(b"data at" + str(start).encode())
        file.truncate(4_000_000)
    for number, form in enumerate(("gnu", "pax", "ustar")):
        archive = tmp_path / f"{form}.tar"
        command = ["tar", "-C", tmp_path, "--sparse", f"--format={form}", "-cf", archive, "sparse"]
        if form == "ustar":
            command.remove("--sparse")
        subprocess.run(command, check=True)
        check(workshop, archive.read_bytes() + bytes(512 * number))


def test_archives_with_few_end_blocks_are_restored(workshop: Workshop) -> None:
    data = layer({"a": "x"})
    end = data.rstrip(b"\0")
    end += bytes(-len(end) % 512)
    check(workshop, end, end + bytes(512), b"", bytes(1024))


@pytest.mark.parametrize("seed", range(12))
def test_any_order_of_members_is_restored(workshop: Workshop, seed: int) -> None:
    rng = random.Random(seed)
    names = ["a", "b", "a/b", "a/c", "a/b/c", "b/a", "c"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for _ in range(60):
            info = tarfile.TarInfo(rng.choice(names))
            kind = rng.choice("fffdw")
            content = rng.randbytes(rng.choice((0, 1, 511, 512, 513, 5000)))
            if kind == "d":
                info.type, content = tarfile.DIRTYPE, b""
            elif kind == "w":
                info.name = os.path.join(os.path.dirname(info.name), ".wh.x")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    try:
        check(workshop, buffer.getvalue())
    except RlessError as error:
        assert "is not a directory" in error.message  # a file on the way: no layer at all
        assert workshop.contents() == {}


# -- a store that somebody changed -------------------------------------------------------------


def break_file(path: str) -> None:
    Path(path, "a").write_text("TEXT")


def shorten_file(path: str) -> None:
    Path(path, "a").write_text("t")


def link_file(path: str) -> None:
    Path(path, "a").unlink()
    Path(path, "a").symlink_to("/etc/passwd")


def pipe_file(path: str) -> None:
    Path(path, "a").unlink()
    os.mkfifo(Path(path, "a"))


def link_directory(path: str) -> None:
    Path(path, "d").rename(Path(path, "real"))
    Path(path, "d").symlink_to("real")


def remove_file(path: str) -> None:
    Path(path, "a").unlink()


@pytest.mark.parametrize(
    "change", [break_file, shorten_file, link_file, pipe_file, link_directory, remove_file]
)
def test_changed_layer_is_an_error(workshop: Workshop, change: object) -> None:
    image = workshop.unpack([layer({"a": "text", "d/b": "text"})])
    change(layer_dir(workshop.root, next(iter(image.keys)), image.chain[0]))  # type: ignore[operator]
    with pytest.raises(RlessError, match=r"layer \w{12} of the store") as caught:
        tar_of(workshop, image)
    assert caught.value.hint == "remove the image and pull it again"


@pytest.mark.parametrize("at", [0, 20, 30, 60, -1])
def test_changed_record_is_an_error(workshop: Workshop, at: int) -> None:
    image = workshop.unpack([layer({f"f{n}": str(n) for n in range(30)})])
    path = Path(split_path(workshop.root, image.chain[0]))
    data = bytearray(path.read_bytes())
    data[at] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(RlessError, match="layer"):
        tar_of(workshop, image)


def test_abandoned_stream_leaves_nothing(workshop: Workshop) -> None:
    image = workshop.unpack([layer({"a": os.urandom(5_000_000)})])
    before = os.listdir("/proc/self/fd")
    with tarsplit.open_layer(workshop.store, image, 0) as stream:
        stream.read(100)
    assert os.listdir("/proc/self/fd") == before


def test_two_streams_can_be_read_at_once(workshop: Workshop) -> None:
    layers = [layer({"a": os.urandom(3_000_000)}), layer({"b": os.urandom(3_000_000)})]
    image = workshop.unpack(layers)
    with (
        tarsplit.open_layer(workshop.store, image, 0) as one,
        tarsplit.open_layer(workshop.store, image, 1) as two,
    ):
        assert two.read() == layers[1]
        assert one.read() == layers[0]


def test_layer_of_an_older_version_is_reported(workshop: Workshop) -> None:
    made = images.Image([layer({"a": "text"})])
    image = workshop.unpack(made)
    os.unlink(split_path(workshop.root, image.chain[0]))
    with pytest.raises(RlessError, match="older rless") as caught:
        tar_of(workshop, image)
    assert caught.value.hint == "pull the image again"
    again = workshop.unpack(made)
    assert tar_of(workshop, again) == made.layers[0]


def test_record_is_removed_with_the_layer(workshop: Workshop) -> None:
    from rootless.image.transfer.remove import remove

    image = workshop.unpack([layer({"a": "text"})])
    assert len(os.listdir(f"{workshop.root}/splits")) == 1
    remove(workshop.store, image.name, force=False, used=[])
    assert workshop.contents() == {}
