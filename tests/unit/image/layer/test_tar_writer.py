"""What TarWriter writes, tarfile, tar(1) and our own reader read."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.layer.tar_reader import (
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Member,
    TarReader,
)
from rootless.image.layer.tar_writer import TarWriter


def write(members: list[tuple[Member, bytes]], **options: bool) -> bytes:
    pieces: list[bytes] = []
    writer = TarWriter(pieces.append, **options)
    for member, data in members:
        writer.add(
            member.name,
            member.mode,
            member.uid,
            member.gid,
            member.mtime,
            member.kind,
            member.link,
            member.size,
            xattrs=member.xattrs,
        )
        if data:
            writer.data(data)
    writer.end()
    archive = b"".join(pieces)
    assert writer.written == len(archive)
    return archive


def member(name: bytes, kind: bytes = REGULAR, size: int = 0, **facts: object) -> Member:
    made = Member(name, kind, size)
    for key, value in facts.items():
        setattr(made, key, value)
    return made


def read(archive: bytes) -> list[tuple[Member, bytes]]:
    reader = TarReader([archive])
    return [(found, reader.read(found.size)) for found in reader]


def test_random_members_are_read_back() -> None:
    dice = random.Random(4)
    members = []
    for number in range(400):
        depth = dice.randint(1, 6)
        name = b"/".join(
            bytes(dice.choice(b"abc\xc3\xa4\xff -.") for _ in range(dice.choice((1, 9, 90, 250))))
            for _ in range(depth)
        )
        name = b"%d" % number + name.rstrip(b"/")
        kind = dice.choice((REGULAR, REGULAR, DIRECTORY, SYMLINK, HARD_LINK, FIFO))
        data = dice.randbytes(dice.choice((0, 1, 511, 512, 513, 5000))) if kind == REGULAR else b""
        made = member(
            name + b"/" if kind == DIRECTORY else name,
            kind,
            len(data),
            mode=dice.randint(0, 0o7777),
            uid=dice.choice((0, 1000, 2097151, 2097152, 2**32 - 2)),
            gid=dice.choice((0, 5, 2**31)),
            mtime=dice.choice((0, 10**18, 10**18 + 7, -1, -(10**9), 2**34 * 10**9)),
            link=b"x" * dice.choice((1, 100, 101, 900)) if kind in (SYMLINK, HARD_LINK) else b"",
            xattrs={b"user.a": dice.randbytes(9), b"user.b": b"="} if dice.random() < 0.2 else None,
        )
        members.append((made, data))
    archive = write(members)
    assert archive == write(members)
    found = read(archive)
    assert len(found) == len(members)
    for (before, data), (after, text) in zip(members, found, strict=True):
        assert data == text
        for fact in ("name", "kind", "size", "mode", "uid", "gid", "mtime", "link", "xattrs"):
            assert getattr(before, fact) == getattr(after, fact), (fact, before.name)


def test_tarfile_and_tar_agree(tmp_path: Path) -> None:
    long = b"/".join([b"d" * 60] * 5)
    archive = write(
        [
            (member(b"d", DIRECTORY, mode=0o1777, uid=5, gid=6, mtime=10**18), b""),
            (member(b"d/f", size=3, mode=0o4755, uid=7000000), b"abc"),
            (member(long, size=5, mode=0o600), b"12345"),
            (member(b"l", SYMLINK, mode=0o777, link=b"x" * 150), b""),
            (member(b"h", HARD_LINK, mode=0o600, link=long), b""),
        ],
        record=True,
    )
    assert len(archive) % 10240 == 0
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
        assert names == ["d", "d/f", long.decode(), "l", "h"]
        assert tar.getmember("d/f").uid == 7000000
        assert tar.getmember("d/f").mode == 0o4755
        assert tar.getmember("l").linkname == "x" * 150
        assert tar.getmember("h").linkname == long.decode()
        assert tar.extractfile(long.decode()).read() == b"12345"  # type: ignore[union-attr]
    listed = subprocess.run(
        ["tar", "-tf", "-"], input=archive, capture_output=True, check=True
    ).stdout.splitlines()
    assert listed == [b"d/", b"d/f", long, b"l", b"h"]


def test_device_keeps_its_numbers() -> None:
    pieces: list[bytes] = []
    writer = TarWriter(pieces.append)
    writer.add(b"null", 0o666, kind=CHARACTER, major=1, minor=3)
    writer.end()
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
        found = tar.getmember("null")
        assert (found.type, found.devmajor, found.devminor) == (tarfile.CHRTYPE, 1, 3)


@pytest.mark.parametrize("size", [10, 3 << 20])
def test_shrunken_file_is_padded(tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    data = os.urandom(size)
    source.write_bytes(data)
    archive = tmp_path / "archive"
    with source.open("rb", buffering=0) as file, archive.open("wb", buffering=0) as out:
        writer = TarWriter(out.fileno())
        writer.add(b"whole", 0o644, size=size)
        assert writer.copy(file.fileno()) == 0
        file.seek(0)
        writer.add(b"cut", 0o644, size=size + 1000)
        assert writer.copy(file.fileno()) == 1000
        writer.end()
    (whole, first), (cut, second) = read(archive.read_bytes())
    assert (whole.name, cut.name) == (b"whole", b"cut")
    assert first == data
    assert second == data + bytes(1000)
    assert writer.written == archive.stat().st_size


def test_incomplete_member_is_an_error() -> None:
    writer = TarWriter(lambda piece: None)
    writer.add(b"a", 0o644, size=3)
    writer.data(b"ab")
    with pytest.raises(RlessError, match="1 bytes"):
        writer.add(b"b", 0o644)
    with pytest.raises(RlessError, match="more data"):
        writer.data(b"xy")
    with pytest.raises(RlessError, match="1 bytes"):
        writer.end()


@pytest.mark.parametrize("name", [b"", b"a\0b"])
def test_impossible_names_are_refused(name: bytes) -> None:
    with pytest.raises(RlessError):
        TarWriter(lambda piece: None).add(name, 0o644)
