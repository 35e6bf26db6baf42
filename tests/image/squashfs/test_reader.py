"""Reading single files of squashfs and SIF images, also damaged ones (security class 46)."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.squashfs import image_file, sif
from rootless.image.squashfs.reader import Squashfs
from tests.lib import flat as made

pytestmark = pytest.mark.needs("mksquashfs")
NAMES = [f"file-{number:04}" for number in range(1500)]
BIG = random.Random(7).randbytes(700_000) + bytes(400_000) + b"end"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tree with what the format tells apart: sizes, holes, links, large directories."""
    root = tmp_path_factory.mktemp("tree")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "empty").write_bytes(b"")
    (root / "big").write_bytes(BIG)
    (root / "exact").write_bytes(b"x" * 131072)
    (root / "many").mkdir()
    for name in NAMES:
        (root / "many" / name).write_text(name)
    os.symlink("/usr/../etc/./passwd", root / "absolute")
    (root / "usr").mkdir()
    os.symlink("../etc", root / "usr/relative")
    os.symlink("round", root / "round")
    os.symlink("../../../etc/passwd", root / "above")
    return root


@contextmanager
def image(path: Path, offset: int = 0, length: int | None = None) -> Iterator[Squashfs]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield Squashfs(fd, path.name, offset, length)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "flags",
    [
        *(("-comp", name) for name in ("gzip", "lzma", "xz", "lz4", "zstd")),
        ("-comp", "lz4", "-Xhc"),
        ("-noI", "-noD", "-noF"),
        ("-no-fragments",),
        ("-always-use-fragments", "-b", "4096"),
    ],
    ids=" ".join,
)
def test_files_are_read(tree: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    with image(made.mksquashfs(tree, tmp_path / "x", *flags)) as files:
        assert files.read("/etc/passwd", 1000) == b"root:x:0:0::/:/bin/sh\n"
        assert files.read("/empty", 10) == b""
        assert files.read("/big", len(BIG)) == BIG
        assert files.read("/exact", 200_000) == b"x" * 131072
        for name in (NAMES[0], NAMES[777], NAMES[-1]):
            assert files.read(f"/many/{name}", 100) == name.encode()
        assert files.read("/many/file-9999", 100) is None


def test_links_do_not_lead_out(tree: Path, tmp_path: Path) -> None:
    with image(made.mksquashfs(tree, tmp_path / "x")) as files:
        for name in ("/absolute", "/usr/relative/passwd", "/above"):
            assert files.read(name, 100) == b"root:x:0:0::/:/bin/sh\n"
        assert files.read("/round", 100) is None
        assert files.exists("/usr/relative")
        assert files.read("/etc", 100) is None  # a directory
        assert files.read("/etc/passwd/x", 100) is None


def test_overlarge_files_are_refused(tree: Path, tmp_path: Path) -> None:
    with (
        image(made.mksquashfs(tree, tmp_path / "x")) as files,
        pytest.raises(RlessError, match="at most 5"),
    ):
        files.read("/etc/passwd", 5)


def test_file_that_is_no_image_is_refused(tree: Path, tmp_path: Path) -> None:
    good = made.mksquashfs(tree, tmp_path / "good").read_bytes()
    cases = {
        "not a squashfs": b"x" * 5000,
        "not a squashfs image": good[:50],
        "is truncated": good[: len(good) // 2],
        "format 3.1": good[:28] + struct.pack("<HH", 3, 1) + good[32:],
        "block size": good[:12] + struct.pack("<I", 7) + good[16:],
        "tables": good[:64] + struct.pack("<Q", 1 << 60) + good[72:],
        "method 77": good[:20] + struct.pack("<H", 77) + good[22:],
        "lzo": good[:20] + struct.pack("<H", 3) + good[22:],
        "damaged": good[:32] + struct.pack("<Q", 0x7FFFFFFF0000) + good[40:],
    }
    for why, data in cases.items():
        broken = tmp_path / "broken"
        broken.write_bytes(data)
        with pytest.raises(RlessError, match=why), image(broken) as files:
            files.read("/etc/passwd", 100)


def test_damaged_image_causes_only_errors(tree: Path, tmp_path: Path) -> None:
    """Whatever bytes are changed: an answer or an RlessError, and soon."""
    chance = random.Random(1)
    good = made.mksquashfs(tree, tmp_path / "good", "-comp", "gzip", "-noI").read_bytes()
    inodes = struct.unpack_from("<Q", good, 64)[0]
    for _ in range(300):
        data = bytearray(good)
        for _ in range(chance.randint(1, 8)):
            start = 0 if chance.random() < 0.3 else inodes
            end = 96 if start == 0 else len(data)
            data[chance.randrange(start, end)] = chance.randrange(256)
        broken = tmp_path / "broken"
        broken.write_bytes(data)
        try:
            with image(broken) as files:
                for name in ("/etc/passwd", "/big", f"/many/{NAMES[900]}", "/above"):
                    files.read(name, 2_000_000)
        except RlessError:
            pass


def test_recursive_directory_is_bounded(tree: Path, tmp_path: Path) -> None:
    """A path of 2000 parts costs what it costs; the budget ends what a loop would take."""
    with (
        image(made.mksquashfs(tree, tmp_path / "x")) as files,
        pytest.raises(RlessError, match="circles"),
    ):
        files._budget = 3
        files.read("/many/file-1400", 100)


def test_sif_file_is_read(tree: Path, tmp_path: Path) -> None:
    path = made.write_sif(made.mksquashfs(tree, tmp_path / "x"), tmp_path / "x.sif")
    fd = os.open(path, os.O_RDONLY)
    offset, length, architecture = sif.find_partition(fd, "x.sif")
    os.close(fd)
    assert architecture in ("amd64", "arm64")
    with image(path, offset, length) as files:
        assert files.read("/big", len(BIG)) == BIG


def test_broken_sif_files_are_refused(tmp_path: Path) -> None:
    whole = 20_000
    good = made.descriptor(made.PARTITION, 8192, 100)
    cases = {
        "not a SIF": b"x" * whole,
        "0 entries": made.sif(),
        "entries": made.sif(good, total=1 << 40),
        "table lies outside": made.sif(good, table=whole - 10),
        "outside of it": made.sif(good, table=-5),
        "it may be cut short": made.sif(made.descriptor(made.PARTITION, 8192, 1 << 50)),
        "cut short": made.sif(made.descriptor(made.PARTITION, -1, 100)),
        "ext3": made.sif(made.descriptor(made.PARTITION, 8192, 9, file_system=made.EXT3)),
        "encrypted": made.sif(made.descriptor(made.PARTITION, 8192, 9, file_system=5)),
        "OCI-SIF": made.sif(made.descriptor(made.OCI_INDEX, 8192, 9)),
        "no root file system": made.sif(made.descriptor(made.SIGNATURE, 8192, 9)),
        "no root": made.sif(made.descriptor(made.PARTITION, 8192, 9, used=False)),
        "no root file": made.sif(made.descriptor(made.PARTITION, 8192, 9, role=3)),
    }
    path = tmp_path / "x.sif"
    for why, data in cases.items():
        path.write_bytes(data.ljust(whole, b"\0"))
        fd = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises(RlessError, match=why):
                sif.find_partition(fd, "x.sif")
        finally:
            os.close(fd)


def test_config_of_the_image_file_is_found(tmp_path: Path) -> None:
    """And is checked: it may be hostile (security class 15)."""

    def config(files: dict[str, str]) -> tuple[str, dict[str, object]]:
        root = tmp_path / f"root-{len(list(tmp_path.iterdir()))}"
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        path = made.mksquashfs(root, root.with_suffix(".sqsh"))
        found = image_file.read(str(path), str(tmp_path / "storage"))
        again = image_file.read(str(path), str(tmp_path / "storage"))
        assert (found.config, found.passwd) == (again.config, again.passwd)
        return found.made_by, found.config

    assert config({"bin/sh": ""}) == ("", {})
    tool, found = config({"ch/metadata.json": '{"env": {"A": "1"}, "cwd": "/w"}'})
    assert (tool, found) == ("charliecloud", {"Env": ["A=1"], "WorkingDir": "/w"})
    tool, found = config({"bin/sh": "", "etc/rc": "", "etc/environment": "A=1\n# B=2\n\nC=x y\n"})
    assert (tool, found["Env"]) == ("enroot", ["A=1", "C=x y"])
    tool, found = config({"bin/sh": "", ".singularity.d/runscript": ""})
    assert (tool, found["Cmd"]) == ("apptainer", ["/.singularity.d/runscript"])
    for hostile in (
        "[1]",
        "[" * 100_000,
        '{"env": [1]}',
        '{"env": {"A": {}}}',
        '{"env": {"A\\u0000": "1"}}',
        '{"env": {"A": "\\u0000"}}',
        '{"env": {"": "1"}}',
        '{"env": {"A": "\\ud800"}}',
        '{"cwd": "/\\udc00"}',
    ):
        with pytest.raises(RlessError, match=r"/ch/metadata\.json"):
            config({"ch/metadata.json": hostile})
    with pytest.raises(RlessError, match=r"config\.json"):
        config({".rless/config.json": "{"})


def test_cached_config_belongs_to_that_file_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("one")
    path = made.mksquashfs(root, tmp_path / "x.sqsh")
    storage = str(tmp_path / "storage")
    assert image_file.read(str(path), storage).passwd == b"one"
    (root / "etc/passwd").write_text("two")
    made.mksquashfs(root, tmp_path / "x.sqsh")
    found = image_file.read(str(path), storage)
    assert found.passwd == b"two"
    kept = image_file.record_path(storage, found.identity)
    for text in ("", "{", "[]", '{"format": 1}', "null"):
        Path(kept).write_text(text)
        assert image_file.read(str(path), storage).passwd == b"two"
