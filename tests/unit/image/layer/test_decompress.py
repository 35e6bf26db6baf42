"""Compressed layers: every form, both digests, bombs that cost no memory."""

from __future__ import annotations

import gzip
import hashlib
import os
import resource
import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
import zstandard

from rootless.errors import RlessError
from rootless.image.layer.decompress import BlobStream
from rootless.image.model import limits

DATA = os.urandom(700_000) + bytes(2_000_000) + b"end"
OPEN: list[int] = []
SKIPPABLE = b"\x50\x2a\x4d\x18" + struct.pack("<I", 5) + b"hello"


def stream(blob: bytes, before: bytes = b"", after: bytes = b"") -> BlobStream:
    fd = os.memfd_create("blob")
    OPEN.append(fd)
    with open(fd, "wb", closefd=False) as file:
        file.write(before + blob + after)
    return BlobStream(fd, len(before), len(blob))


@pytest.fixture(autouse=True)
def close_all() -> Iterator[None]:
    yield
    while OPEN:
        os.close(OPEN.pop())


@pytest.mark.parametrize(
    ("blob", "compression", "times"),
    [
        (DATA, "none", 1),
        (gzip.compress(DATA, mtime=0), "gzip", 1),
        (gzip.compress(DATA, mtime=0) * 2, "gzip", 2),
        (gzip.compress(DATA, mtime=0) + bytes(512), "gzip", 1),
        (
            b"".join(gzip.compress(DATA[n : n + 1000], mtime=0) for n in range(0, len(DATA), 1000)),
            "gzip",
            1,
        ),
        (zstandard.compress(DATA), "zstd", 1),
        (SKIPPABLE + zstandard.compress(DATA) + SKIPPABLE, "zstd", 1),
        (zstandard.compress(DATA) * 2, "zstd", 2),
        (b"", "none", 0),
        (gzip.compress(b"", mtime=0), "gzip", 0),
    ],
)
@pytest.mark.parametrize("ahead", [False, True])
def test_every_form_is_decompressed(blob: bytes, compression: str, times: int, ahead: bool) -> None:
    made = stream(blob, b"before", b"after")
    assert made.compression == compression
    chunks = list(made.ahead() if ahead else made)
    out = b"".join(chunks)
    assert out == DATA * times
    assert max(map(len, chunks), default=0) <= limits.CHUNK
    assert made.digest == "sha256:" + hashlib.sha256(blob).hexdigest()
    assert made.diff_id == "sha256:" + hashlib.sha256(out).hexdigest()


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (gzip.compress(DATA, mtime=0)[:-9], "too early"),
        (gzip.compress(DATA, mtime=0) + b"junk", "broken gzip"),
        (gzip.compress(DATA, mtime=0)[:-8] + bytes(8), "broken gzip"),
        (zstandard.compress(DATA) + b"junkjunk", "broken zstd"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
    ],
)
@pytest.mark.parametrize("ahead", [False, True])
def test_broken_streams_are_errors(blob: bytes, why: str, ahead: bool) -> None:
    with pytest.raises(RlessError, match=why):
        made = stream(blob)
        list(made.ahead() if ahead else made)


def test_huge_window_is_refused() -> None:
    # Frames of one empty block whose header asks for a window of 2^N bytes (RFC 8878).
    for log, works in ((27, True), (28, False), (30, False), (41, False)):
        frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + b"\x01\x00\x00"
        if works:
            assert b"".join(stream(frame)) == b""
            continue
        with pytest.raises(RlessError, match="broken zstd"):
            list(stream(frame))


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_bomb_costs_no_memory(kind: str) -> None:
    size = 256 << 20
    if kind == "gzip":
        compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
        bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(size >> 20))
        bomb += compressor.flush()
    else:
        bomb = zstandard.ZstdCompressor(level=1).compress(bytes(size))
    assert len(bomb) < size // 500
    tracemalloc.start()
    total = sum(map(len, stream(bomb)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == size
    assert peak < 8 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20  # in KiB: far below


def test_shrunken_file_is_noticed() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 100)
        file.flush()
        made = BlobStream(file.fileno(), 0, 200)
        with pytest.raises(RlessError, match="shorter"):
            list(made)
