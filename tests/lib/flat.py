"""Make images that are files: a SIF file by hand, squashfs images by mksquashfs."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

PARTITION, SIGNATURE, OCI_INDEX = 0x4004, 0x4005, 0x400A
SQUASHFS, EXT3, ENCRYPTED = 1, 2, 5
PRIMARY = 2
_SLOTS = 4
_TABLE, _DATA = 4096, 8192


def mksquashfs(tree: Path, target: Path, *flags: str) -> Path:
    """Write a directory as a squashfs image whose files are all root's."""
    words = ["mksquashfs", str(tree), str(target), "-all-root", "-noappend", "-quiet"]
    subprocess.run([*words, "-no-progress", *flags], check=True, stdout=subprocess.DEVNULL)
    return target


def descriptor(
    kind: int,
    offset: int,
    size: int,
    *,
    used: bool = True,
    file_system: int = SQUASHFS,
    role: int = PRIMARY,
    architecture: bytes = b"02",
) -> bytes:
    """Return a descriptor of a SIF file."""
    head = struct.pack("<i?III", kind, used, 1, 0xF0000001, 0)
    places = struct.pack("<qqqqqqq", offset, size, size, 0, 0, 0, 0)
    extra = struct.pack("<ii3s", file_system, role, architecture)
    return head + places + bytes(128) + extra.ljust(384, b"\0")


def sif(*descriptors: bytes, table: int = _TABLE, total: int | None = None) -> bytes:
    """Return the beginning of a SIF file: its header and its table."""
    header = b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + b"SIF_MAGIC\0" + b"01\0"
    header += (b"02" if os.uname().machine == "x86_64" else b"04") + b"\0" + bytes(16)
    count = len(descriptors) if total is None else total
    header += struct.pack("<qqqqqqqq", 0, 0, 0, count, table, 585 * count, _DATA, 0)
    return header.ljust(_TABLE, b"\0") + b"".join(descriptors)


def write_sif(squashfs: Path, target: Path, **more: object) -> Path:
    """Write a SIF file whose root file system is a squashfs image, as Apptainer lays it out."""
    data = squashfs.read_bytes()
    machine = b"02" if os.uname().machine == "x86_64" else b"04"
    options: dict[str, object] = {"architecture": machine, **more}
    table = [
        descriptor(0x4001, _DATA, 10),
        descriptor(PARTITION, _DATA + 4096, len(data), **options),  # type: ignore[arg-type]
        descriptor(SIGNATURE, _DATA + 4096 + len(data), 5),
    ]
    head = sif(*table, bytes(585)).ljust(_DATA, b"\0") + b"bootstrap:".ljust(4096, b"\0")
    target.write_bytes(head + data + b"signd")
    return target
