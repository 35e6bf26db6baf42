"""Write SIF files, as Apptainer and SingularityCE lay them out.

A SIF file is a header, a table of 48 descriptors at 4096, and from 32768 on the data objects: here
labels, definition file, the image's config, and last, at a multiple of 4096, the root file system.
So all but the sizes is known before the root file system is, and mksquashfs writes that in place.

Nothing in the file depends on the time: the same objects give the same bytes.

Source: github.com/sylabs/sif, pkg/sif (sif.go, create.go).
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from struct import pack

from rootless.errors import RlessError, escape
from rootless.image.squashfs.sif import ARCHITECTURES, MAGIC
from rootless.linux.files import Output, default_mode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LAUNCH = b"#!/usr/bin/env run-singularity\n"
_TABLE = 4096
_DESCRIPTORS = 48
_DESCRIPTOR = 585
_DATA = 32768
_ALIGNMENT = 4096
_BLOCK = 1 << 24  # bytes that are copied at a time
_DEFFILE, _LABELS, _PARTITION, _JSON = 0x4001, 0x4003, 0x4004, 0x4006
_SQUASHFS, _PRIMARY = 1, 2
_GROUP = 0xF0000001  # the first one


class Head:
    """What stands before the root file system.

    Attributes:
        size: bytes; the root file system begins there.

    Args:
        architecture: in Go's words.
        labels: of the image. deffile: the definition file. config: the image's config, as JSON.
            One that is empty is left out, but for the labels.

    Raises:
        RlessError: the format has no number for this architecture.
    """

    def __init__(
        self,
        architecture: str,
        *,
        labels: Mapping[str, str],
        deffile: str = "",
        config: bytes = b"",
    ) -> None:
        codes = {name: code for code, name in ARCHITECTURES.items()}
        if architecture not in codes:
            raise RlessError(
                f"a SIF file cannot be for {escape(architecture)[:40] or 'an unknown machine'}",
                f"it can be for {', '.join(codes)}",
            )
        self._architecture = codes[architecture] + b"\0"
        text = json.dumps(dict(labels), ensure_ascii=False, indent="\t", sort_keys=True)
        objects = (
            (_DEFFILE, "", deffile.encode("utf-8", "surrogateescape")),
            (_LABELS, "labels.json", f"{text}\n".encode("utf-8", "surrogateescape")),
            (_JSON, "oci-config.json", config),
        )
        self._objects = [one for one in objects if one[2]]
        end = _DATA + sum(_aligned(len(data)) for _, _, data in self._objects)
        self.size = end

    def fill(self, squashfs: int, identity: str) -> bytes:
        """Return its bytes, now that the root file system is known.

        Args:
            squashfs: bytes of the root file system.
            identity: what tells the image from others, such as its digest.
        """
        table: list[bytes] = []
        data, end = b"", _DATA
        for kind, name, content in self._objects:
            offset = _DATA + len(data)
            table.append(_descriptor(len(table) + 1, kind, offset, len(content), end, name))
            data += content.ljust(_aligned(len(content)), b"\0")
            end = offset + len(content)
        extra = pack("<ii3s", _SQUASHFS, _PRIMARY, self._architecture)
        number = len(table) + 1
        table.append(_descriptor(number, _PARTITION, self.size, squashfs, end, "", extra))
        entries = b"".join(table).ljust(_DESCRIPTORS * _DESCRIPTOR, b"\0")
        header = LAUNCH.ljust(32, b"\0") + MAGIC + b"01\0" + self._architecture
        header += _uuid(f"{identity}\n{squashfs}".encode() + data)
        header += pack(
            "<8q",
            *(0, 0),  # when it was made, and changed
            *(_DESCRIPTORS - len(table), _DESCRIPTORS),
            *(_TABLE, len(entries)),
            *(_DATA, len(data) + squashfs),
        )
        return (header.ljust(_TABLE, b"\0") + entries).ljust(_DATA, b"\0") + data


def write(
    target: str,
    squashfs: str,
    *,
    architecture: str,
    labels: Mapping[str, str],
    identity: str,
    deffile: str = "",
    config: bytes = b"",
) -> None:
    """Write a SIF file around a squashfs image that is there, whole or not at all.

    A file of that name is replaced. See `Head` for the arguments.

    Raises:
        RlessError: no such image, no room, no such architecture.
    """
    head = Head(architecture, labels=labels, deffile=deffile, config=config)
    try:
        with (
            open(squashfs, "rb") as source,
            Output(target, mode=executable_mode(), durable=True) as file,
        ):
            size = os.fstat(source.fileno()).st_size
            os.lseek(file.fd, head.size, os.SEEK_SET)
            while os.sendfile(file.fd, source.fileno(), None, _BLOCK):
                pass
            os.pwrite(file.fd, head.fill(size, identity), 0)
    except OSError as error:
        what = escape(str(error.filename or target))
        raise RlessError(
            f"cannot write {escape(target)}: {what}: {error.strerror}", "name another file"
        ) from error


def executable_mode() -> int:
    """Return the mode of a SIF file: it is run by its first line."""
    mode = default_mode()
    return 0o755 & (mode | (mode & 0o444) >> 2)


def _descriptor(
    number: int, kind: int, offset: int, size: int, before: int, name: str, extra: bytes = b""
) -> bytes:
    """Return the descriptor of an object; `before` is where the one before it ends."""
    head = pack("<i?III", kind, True, number, _GROUP, 0)
    places = pack("<qqq", offset, size, offset - before + size)
    times_and_owner = bytes(4 * 8)
    return (
        head + places + times_and_owner + name.encode().ljust(128, b"\0") + extra.ljust(384, b"\0")
    )


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _uuid(data: bytes) -> bytes:
    """Return a UUID made of data (RFC 9562, version 8)."""
    digest = bytearray(sha256(data).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return bytes(digest)
