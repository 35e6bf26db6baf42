"""Find the root file system in a SIF file, as Apptainer and SingularityCE write them.

The format (github.com/sylabs/sif, pkg/sif/sif.go): a header of 128 bytes, then a table of
descriptors of 585 bytes, each of a data object somewhere in the file. The one that matters is
the primary system partition, a squashfs image. Little endian, without padding.
"""

from __future__ import annotations

import os
from struct import unpack_from

from rootless.errors import RlessError
from rootless.linux.files import read_at

MAGIC = b"SIF_MAGIC\0"
MAGIC_AT = 32  # behind the line that makes it executable
_HEADER = 128
_DESCRIPTOR = 585
_MOST_DESCRIPTORS = 4096
_PARTITION, _OCI_INDEX = 0x4004, 0x400A
_PRIMARY = 2  # type of a partition
_FILE_SYSTEMS = {
    1: "squashfs",
    2: "ext3",
    3: "an archive",
    4: "raw data",
    5: "an encrypted squashfs",
    6: "an encrypted squashfs",
}
ARCHITECTURES = {
    b"01": "386",
    b"02": "amd64",
    b"03": "arm",
    b"04": "arm64",
    b"05": "ppc64",
    b"06": "ppc64le",
    b"07": "mips",
    b"08": "mipsle",
    b"09": "mips64",
    b"10": "mips64le",
    b"11": "s390x",
    b"12": "riscv64",
}


def _table(fd: int, what: str) -> bytes:
    """Return the table of descriptors."""
    size = os.fstat(fd).st_size
    header = read_at(fd, _HEADER, 0, what)
    if len(header) < _HEADER or header[MAGIC_AT : MAGIC_AT + len(MAGIC)] != MAGIC:
        raise RlessError(f"{what} is not a SIF file")
    total, table = unpack_from("<qq", header, 88)
    if not 0 < total <= _MOST_DESCRIPTORS:
        raise _broken(what, f"its table has {total} entries")
    if not _HEADER <= table <= size - total * _DESCRIPTOR:
        raise _broken(what, "its table lies outside of it")
    entries = read_at(fd, total * _DESCRIPTOR, table, what)
    if len(entries) < total * _DESCRIPTOR:
        raise _broken(what, "its table is cut short")
    return entries


def objects(fd: int, what: str) -> list[tuple[int, int, int, int]]:
    """Return (number, kind, offset, bytes) of each data object of a SIF file.

    Args:
        fd: of a regular file.
        what: how errors name it.

    Raises:
        RlessError: it is damaged.
    """
    size = os.fstat(fd).st_size
    entries = _table(fd, what)
    found = []
    for at in range(0, len(entries), _DESCRIPTOR):
        kind, used, number = unpack_from("<i?I", entries, at)
        offset, length = unpack_from("<qq", entries, at + 17)
        if used:
            if not 0 <= offset <= size or not 0 <= length <= size - offset:
                raise _broken(what, f"its part {number} lies outside of it")
            found.append((number, kind, offset, length))
    return found


def find_partition(fd: int, what: str) -> tuple[int, int, str]:
    """Return (offset, bytes, architecture) of the root file system in a SIF file.

    The architecture has Go's name, "" if the file does not say.

    Args:
        fd: of a regular file.
        what: how errors name it.

    Raises:
        RlessError: it is damaged, or has no squashfs image as its root.
    """
    size = os.fstat(fd).st_size
    entries = _table(fd, what)
    oci = False
    for at in range(0, len(entries), _DESCRIPTOR):
        kind, used = unpack_from("<i?", entries, at)
        oci = oci or (used and kind == _OCI_INDEX)
        if not used or kind != _PARTITION:
            continue
        offset, length = unpack_from("<qq", entries, at + 17)
        file_system, role = unpack_from("<ii", entries, at + 201)
        if role != _PRIMARY:
            continue
        if file_system != 1:
            name = _FILE_SYSTEMS.get(file_system, f"of kind {file_system}")
            raise RlessError(
                f"{what}: its root file system is {name}, which a user cannot mount",
                "build it again as squashfs, without encryption",
            )
        if not 0 < length <= size or not _HEADER <= offset <= size - length:
            raise _broken(what, "its root file system lies outside of it: it may be cut short")
        architecture = ARCHITECTURES.get(entries[at + 209 : at + 211], "")
        return offset, length, architecture
    if oci:
        raise RlessError(
            f"{what} is an OCI-SIF, which holds layers and no root file system",
            "convert it: singularity build --no-oci, or pull the image from its registry",
        )
    raise RlessError(f"{what} has no root file system", "it may contain only data or signatures")


def _broken(what: str, why: str) -> RlessError:
    return RlessError(f"{what} is damaged: {why}", "copy or build it again")
