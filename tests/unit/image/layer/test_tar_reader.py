"""The tar reader: the same members as Python's tarfile, and stricter where tools disagree."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.image.layer.tar_reader import REGULAR, Member, TarError, TarReader
from rootless.image.model import limits


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def contents(reader: TarReader, member: Member) -> bytes:
    """Return a regular member's data with its holes."""
    if member.sparse is None:
        return reader.read(member.size)
    data = bytearray(member.size)
    for offset, length in member.sparse:
        data[offset : offset + length] = reader.read(length)
    return bytes(data)


def read_all(data: bytes, chunk: int = 1 << 16) -> list[tuple[Member, bytes]]:
    reader = TarReader(chunked(data, chunk))
    return [
        (member, contents(reader, member) if member.kind == REGULAR else b"") for member in reader
    ]


def header(name: bytes = b"x", size: int | bytes = 0, kind: bytes = b"0", **fields: bytes) -> bytes:
    """Return one ustar header block with a right checksum; `fields` are raw."""
    block = bytearray(512)

    def put(offset: int, value: bytes) -> None:
        block[offset : offset + len(value)] = value

    put(0, name)
    put(100, fields.get("mode", b"0000644\0"))
    put(108, fields.get("uid", b"0000000\0"))
    put(116, fields.get("gid", b"0000000\0"))
    put(124, size if isinstance(size, bytes) else b"%011o\0" % size)
    put(136, fields.get("mtime", b"00000000000\0"))
    put(148, b" " * 8)
    put(156, kind)
    put(157, fields.get("link", b""))
    put(257, fields.get("magic", b"ustar\x0000"))
    put(345, fields.get("prefix", b""))
    for offset, value in fields.items():
        if offset.startswith("at"):
            put(int(offset[2:]), value)
    put(148, fields.get("checksum", b"%06o\0 " % sum(block)))
    return bytes(block)


def pax(records: dict[bytes, bytes] | list[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    pairs = records.items() if isinstance(records, dict) else records
    data = b""
    for key, value in pairs:
        body = b" " + key + b"=" + value + b"\n"
        length = len(body) + 1
        while len(b"%d" % length) + len(body) != length:
            length += 1
        data += b"%d" % length + body
    return header(b"PaxHeaders/x", len(data), kind) + padded(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


END = bytes(1024)


# -- against the oracle ------------------------------------------------------------------------

NAMES = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\n"),
    min_size=1,
    max_size=300,
).filter(lambda name: name.strip("/") and not name.endswith("/"))


class Archive(bytes):
    """Bytes that a failing test does not print."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@st.composite
def archives(draw: st.DrawFn) -> tuple[bytes, int]:
    """Make an archive by tarfile in one of its formats; return it and a size of chunks."""
    style = draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    buffer = io.BytesIO()
    big = style == tarfile.GNU_FORMAT or draw(st.booleans())
    with tarfile.open(fileobj=buffer, mode="w", format=style) as archive:
        for _ in range(draw(st.integers(0, 6))):
            info = tarfile.TarInfo(draw(NAMES))
            info.type = draw(
                st.sampled_from(
                    [
                        tarfile.REGTYPE,
                        tarfile.AREGTYPE,
                        tarfile.DIRTYPE,
                        tarfile.SYMTYPE,
                        tarfile.LNKTYPE,
                        tarfile.FIFOTYPE,
                        tarfile.CHRTYPE,
                    ]
                )
            )
            info.mode = draw(st.integers(0, 0o7777))
            most = 2**31 if big else 0o7777777
            info.uid, info.gid = draw(st.integers(0, most)), draw(st.integers(0, most))
            if style == tarfile.PAX_FORMAT:
                # Not close to 0: Python would write an exponent, which pax(1) does not know.
                seconds = draw(st.integers(-(10**9), 10**10) | st.integers(1, 10**10))
                info.mtime = seconds + draw(st.sampled_from([0, 0.25]))  # type: ignore[assignment]
            else:
                info.mtime = draw(st.integers(0, 2**40))
            if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = draw(NAMES)
            data = b""
            if info.isreg():
                data = draw(st.binary(max_size=700))
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return Archive(buffer.getvalue()), draw(st.sampled_from([1, 7, 511, 512, 513, 4096, 1 << 20]))


@given(archives())
@settings(max_examples=150, deadline=None)
def test_members_agree_with_tarfile(made: tuple[bytes, int]) -> None:
    data, chunk = made
    mine = read_all(data, chunk)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        theirs = archive.getmembers()
        assert len(mine) == len(theirs)
        for (member, body), info in zip(mine, theirs, strict=True):
            name = os.fsencode(info.name)
            assert member.name.rstrip(b"/") == name
            assert member.kind == (b"0" if info.type == tarfile.AREGTYPE else info.type)
            assert member.mode == info.mode
            assert (member.uid, member.gid) == (info.uid, info.gid)
            assert member.link == os.fsencode(info.linkname)
            assert abs(member.mtime / 1e9 - info.mtime) < 1e-3
            if info.isreg():
                file = archive.extractfile(info)
                assert file is not None and body == file.read()


@given(archives(), st.integers(0, 1 << 30), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_damaged_archive_never_crashes(made: tuple[bytes, int], position: int, value: int) -> None:
    data = bytearray(made[0])
    data[position % len(data)] = value
    try:
        read_all(bytes(data))
    except TarError as error:
        assert error.message.isprintable()


@given(archives(), st.integers(1, 1 << 30))
@settings(max_examples=60, deadline=None)
def test_truncated_archive_is_never_accepted(made: tuple[bytes, int], cut: int) -> None:
    data = made[0]
    whole = read_all(data)
    shorter = data[: len(data) - 1 - cut % len(data)]
    try:
        found = read_all(shorter)
    except TarError:
        return
    # Only the end mark and padding may be missing, or whole members from the end.
    assert len(found) <= len(whole)
    assert [member.name for member, _ in found] == [m.name for m, _ in whole][: len(found)]


@pytest.mark.parametrize("style", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_gnu_tar_formats_are_read(tmp_path: Path, style: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"data" * 1000)
    (tree / "empty").touch()
    (tree / "link").symlink_to("file")
    os.link(tree / "file", tree / "hard")
    if style != "v7":
        deep = tree / ("d" * 60) / ("e" * 60)
        deep.mkdir(parents=True)
        (deep / "long").write_text("x")
    out = tmp_path / "a.tar"
    subprocess.run(["tar", f"--format={style}", "-cf", out, "-C", tree, "."], check=True)
    with tarfile.open(out) as archive:
        expected = sorted(os.fsencode(name).removeprefix(b"./") for name in archive.getnames())
    found = {
        m.name.removeprefix(b"./").rstrip(b"/"): body for m, body in read_all(out.read_bytes())
    }
    assert sorted(found) == sorted(name if name != b"." else b"" for name in expected) or (
        sorted(found) == expected
    )
    assert sum(body == b"data" * 1000 for body in found.values()) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")),
    ],
)
def test_gnu_sparse_files_are_read(options: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "holes")
        with open(path, "wb") as file:
            for block in range(0, 60, 2):
                file.seek(block * (1 << 16))
                file.write(b"%d" % block * 1000)
            file.truncate(5_000_000)
        out = Path(directory, "a.tar")
        subprocess.run(["tar", *options, "-S", "-cf", out, "-C", directory, "holes"], check=True)
        ((member, body),) = read_all(out.read_bytes(), 1000)
        assert member.name == b"holes"
        assert member.size == 5_000_000
        assert member.sparse is not None and len(member.sparse) > 20
        assert body == path.read_bytes()


def test_star_prefix_and_signed_checksum_are_read() -> None:
    block = header(b"name", prefix=b"dir", at508=b"tar\0", at476=b"00000000000\0")
    assert read_all(block + END)[0][0].name == b"dir/name"
    raw = bytearray(header(b"n\xff\xfe"))
    raw[148:156] = b" " * 8
    signed = sum(byte - 256 if byte > 127 else byte for byte in raw)
    raw[148:156] = b"%06o\0 " % signed
    assert read_all(bytes(raw) + END)[0][0].name == b"n\xff\xfe"


def test_checksum_of_a_block_of_high_bytes_is_exact() -> None:
    """Adler-32, by which bytes are summed, is modulo 65521."""
    fields = {"name": b"n" + b"\xff" * 99, "link": b"\xff" * 100, "prefix": b"\xff" * 155}
    block = header(**fields)
    total = int(block[148:154], 8)
    assert total > 65521
    assert read_all(block + END)[0][0].name.endswith(b"/n" + b"\xff" * 99)
    for wrong in (total - 65521, total + 65521, total + 1):
        with pytest.raises(TarError, match="checksum"):
            read_all(header(**fields, checksum=b"%06o\0 " % wrong) + END)


def test_base256_numbers_are_read() -> None:
    size = b"\x80" + (2000).to_bytes(11, "big")
    mtime = b"\xff" * 11 + b"\xfe"
    data = header(b"x", uid=b"\x80\0\0\0\0\x01\0\0", mtime=mtime, size=size) + padded(b"y" * 2000)
    ((member, body),) = read_all(data + END)
    assert (member.uid, member.size, member.mtime) == (65536, 2000, -2_000_000_000)
    assert body == b"y" * 2000


# -- where tools disagree (classes 5, 6, 7) ------------------------------------------------------


def test_pax_size_wins() -> None:
    """TARmageddon: a parser that takes the header's size sees a second archive inside."""
    inner = header(b"smuggled", 4) + padded(b"evil")
    data = pax({b"size": b"%d" % len(inner)}) + header(b"outer", 0) + inner + END
    ((member, body),) = read_all(data)
    assert member.name == b"outer" and body == inner


def test_last_pax_record_wins_and_an_empty_one_resets() -> None:
    data = pax([(b"path", b"a"), (b"path", b"b"), (b"mtime", b"5"), (b"mtime", b"")])
    ((member, _),) = read_all(data + header(b"name", mtime=b"00000000007\0") + END)
    assert member.name == b"b" and member.mtime == 7_000_000_000


def test_times_have_nanoseconds() -> None:
    for text, expected in (
        (b"1.123456789999", 1_123456789),
        (b"-1.5", -1_500_000_000),
        (b"7", 7_000_000_000),
        (b"99999999999999999999", (1 << 40) * 10**9),
    ):
        ((member, _),) = read_all(pax({b"mtime": text}) + header() + END)
        assert member.mtime == expected


def test_global_headers_apply_to_harmless_fields() -> None:
    data = pax({b"comment": b"git", b"mtime": b"9"}, b"g") + header() + END
    assert read_all(data)[0][0].mtime == 9_000_000_000


SPARSE = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"10"}


def old_sparse(pairs: list[tuple[int, int]], real: int, size: int) -> bytes:
    table = b"".join(b"%011o\0%011o\0" % pair for pair in pairs)
    return header(
        b"s", size, b"S", magic=b"ustar  \0", at386=table, at483=b"%011o\0" % real
    ) + padded(b"z" * size)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (header(checksum=b"000000\0 ") + END, "checksum"),
        (header(checksum=b"zzzzzz\0 ") + END, "checksum"),
        (header(size=b"0000000000z\0") + END, "bad size"),
        (header(size=b"-0000000001\0") + END, "bad size"),
        (header(size=b"\xff" * 12) + END, "a member of -1 bytes"),
        (header(size=b"\x80" + b"\x7f" * 11) + END, "a member of"),
        (header(size=b"1_0\0\0\0\0\0\0\0\0\0") + END, "bad size"),
        (header(size=b"0o7\0\0\0\0\0\0\0\0\0") + END, "bad size"),
        (header(uid=b"\xff" * 8) + END, "is no id"),
        (header(uid=b"\x80\0\0\xff\xff\xff\xff\xff") + END, "is no id"),
        (header(b"x", 10), "middle"),
        (header(b"x", 10) + b"short", "middle"),
        (header()[:300], "middle"),
        (header() + bytes(512) + header() + END, "after a block of zeros"),
        (header() + END + b"junk" + bytes(508), "after the end"),
        (header() + END + header(b"second"), "after the end"),
        (header() + END + bytes(limits.TRAILING_BYTES + 1), "too much padding"),
        (header(kind=b"Q") + END, "unknown member type Q"),
        (header(kind=b"\x1b") + END, "unknown member type"),
        (header(b"dir/", 5, b"\0") + padded(b"12345") + END, "directory with data"),
        (pax({b"path": b"a\0b"}) + header() + END, "NUL"),
        (pax({b"linkpath": b"a\0b"}) + header(kind=b"2") + END, "NUL"),
        (pax({b"size": b"-1"}) + header() + END, "bad size"),
        (pax({b"size": b"1e3"}) + header() + END, "bad size"),
        (pax({b"size": b"9" * 19}) + header() + END, "a member of"),
        (pax({b"uid": b"4294967295"}) + header() + END, "is no id"),
        (pax({b"mtime": b"now"}) + header() + END, "bad time"),
        (pax({b"path": b"a"}, b"g") + header() + END, "global pax header sets path"),
        (pax({b"size": b"512"}, b"g") + header() + END, "global pax header sets size"),
        (pax({b"path": b"a"}) + END, "after an extended header"),
        (pax({b"path": b"a"}), "after an extended header"),
        (header(b"l", 4, b"L") + padded(b"name") + pax({b"path": b"a"}) + header() + END, "both"),
        (header(b"l", 2, b"L") + padded(b"\0\0") + header() + END, "long name"),
        (header(b"p", b"\x80" + (8 << 30).to_bytes(11, "big"), b"x"), "extended"),
        (header(b"p", 8, b"x") + padded(b"99 a=b\n\n") + header() + END, "bad pax record"),
        (header(b"p", 8, b"x") + padded(b"8 abcde\n") + header() + END, "bad pax record"),
        (header(b"p", 8, b"x") + padded(b"-8 ab=c\n") + header() + END, "bad pax record"),
        (header(b"p", 8, b"x") + padded(b"8 =abcd\n") + header() + END, "bad pax record"),
        (old_sparse([(0, 10)], 5, 10) + END, "sparse map"),
        (old_sparse([(5, 5), (0, 5)], 20, 10) + END, "sparse map"),
        (old_sparse([(0, 5)], 20, 10) + END, "does not match"),
        (old_sparse([(0, 5)], 1 << 32, 5) + END, None),
        (pax({**SPARSE}) + header(b"s", 512) + padded(b"x\n") + END, "sparse map"),
        (pax({**SPARSE}) + header(b"s", 512) + padded(b"9999999\n") + END, "pieces"),
        (pax({**SPARSE}) + header(b"s", 512) + b"1" * 512 + END, "sparse map"),
        (pax({**SPARSE}) + header(b"s", 512) + padded(b"1\n0\n") + END, "sparse map"),
        (pax({**SPARSE}) + header(b"s", 512) + padded(b"1\n0\n0\n7\n") + END, "sparse map"),
        (
            pax({b"GNU.sparse.size": b"10", b"GNU.sparse.map": b"0,5,1"}) + header(b"s", 5) + END,
            "sparse map",
        ),
        (pax({b"GNU.sparse.map": b"0,5"}) + header(b"s", 5) + END, "without a size"),
        (
            pax({b"GNU.sparse.size": b"%d" % (1 << 50), b"GNU.sparse.map": b""}) + header() + END,
            "sparse file of",
        ),
    ],
)
def test_malformed_headers_are_refused(data: bytes, why: str | None) -> None:
    if why is None:
        assert next(iter(TarReader([data]))).size == 1 << 32
        return
    with pytest.raises(TarError) as caught:
        read_all(data)
    assert why in caught.value.message
    assert caught.value.message.isprintable()


def test_missing_end_is_tolerated() -> None:
    assert len(read_all(header())) == 1
    assert len(read_all(header() + bytes(512))) == 1
    assert read_all(b"") == []
    assert len(read_all(header() + END + bytes(10240))) == 1
    # The docker command ends the context of `build -f` right behind the data.
    assert [data for _, data in read_all(header(size=3) + b"abc")] == [b"abc"]
    with pytest.raises(TarError, match="in the middle of a member"):
        read_all(header(size=3) + b"ab")


def test_number_of_members_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEMBERS", 10)
    with pytest.raises(TarError, match="more than 10 members"):
        read_all(header() * 11 + END)


def test_number_of_sparse_entries_is_limited() -> None:
    entries = b"0\n" * 300
    data = pax(SPARSE) + header(b"s", 1 << 20) + padded(b"1048577\n" + entries)
    with pytest.raises(TarError, match="pieces"):
        read_all(data)


def test_data_cannot_be_read_past_its_member() -> None:
    reader = TarReader([header(b"x", 3) + padded(b"abc") + END])
    next(iter(reader))
    with pytest.raises(TarError, match="more data"):
        reader.read(4)


def test_unread_data_is_skipped_by_seeking() -> None:
    data = header(b"a", 5000) + padded(b"y" * 5000) + header(b"b", 3) + padded(b"abc") + END
    position = 0

    def chunks() -> Iterator[bytes]:
        nonlocal position
        while chunk := data[position : position + 512]:
            position += len(chunk)
            yield chunk

    def skip(size: int) -> bool:
        nonlocal position
        position += size
        return position <= len(data)

    offsets = {}
    reader = TarReader(chunks(), skip=skip)
    for member in reader:
        offsets[member.name] = reader.offset
    assert data[offsets[b"b"] : offsets[b"b"] + 3] == b"abc"
    position = 0
    cut = TarReader(iter([header(b"a", 5000)]), skip=lambda size: False)
    with pytest.raises(TarError, match="middle"):
        list(cut)
