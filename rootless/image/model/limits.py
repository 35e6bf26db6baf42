"""Limits of what an image may ask for: ceilings against bombs.

Each is far above what real images need and far below what hurts the host. They are module constants
so that a test can lower them. The section [images.limits] of the configuration sets them by name,
LAYER_BYTES as `layer-bytes`.
"""

from __future__ import annotations

import errno

from rootless import config, paths

# What to do when the room itself is the limit.
NO_ROOM = paths.NO_ROOM

NOT_WRITABLE = "set RLESS_STORAGE to a directory that you can write to"

# A server of a home that squashes root refuses what belongs to others.
NO_OWNERS = "set RLESS_STORAGE to a local directory: {} refuses foreign owners"

# fuse-overlayfs takes each name of a whiteout for one of its own.
NO_WHITEOUTS = "set RLESS_STORAGE to a local directory that is no union mount"

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

# Documents.
JSON_BYTES = 4 * MIB  # a manifest, an index or a config
INDEX_CHILDREN = 1000
INDEX_DEPTH = 2  # an index may hold indexes, these may not
LAYERS = 512
AUTH_BYTES = 1 * MIB
TOKEN_BYTES = 1 * MIB
SIGNATURES = 128  # of one image, as containers/image has it
SIGNATURES_BYTES = 4 * MIB  # all payloads of the signatures of one image
USER_FILE_BYTES = 1 * MIB  # /etc/passwd or /etc/group of an image

# Blobs and archives.
BLOB_BYTES = 64 * GIB  # one compressed layer
ARCHIVE_MEMBERS = 100_000  # members of a docker-archive or oci-archive itself
ZSTD_WINDOW = 128 * MIB
CHUNK = 256 * KIB  # read and decompressed at a time

# Transfers.
UPLOAD_WHOLE = 4 * MIB  # a blob up to this is sent by one request
PROGRESS_BYTES = 1 * MIB  # an attempt that got this far was not in vain
PAGES = 1000  # of a list of tags or repositories

# Layers.
LAYER_BYTES = 256 * GIB  # file contents in one layer, holes not counted
SPARSE_BYTES = 16 * TIB  # apparent size of one file
SPARSE_ENTRIES = 1 << 20
MEMBERS = 10_000_000  # files of one layer
EXTENSION_BYTES = 1 * MIB  # one pax header, GNU long name or long link
NAME_BYTES = 4095  # PATH_MAX without its NUL
REPLACED = 100_000  # files of a layer that the same layer replaces later
SPLIT_RECORD_BYTES = 16 * MIB  # of a record that was made by ourselves
TRAILING_BYTES = 1 * MIB  # zeros after the end of an archive
XATTRS = 256  # extended attributes of one file
XATTR_BYTES = 64 * KIB  # one value (XATTR_SIZE_MAX)

RESUME_BYTES = 8 * MIB  # what came of a blob from this on stays if the pull is interrupted

# Time.
CONNECT_SECONDS = 15.0
IDLE_SECONDS = 60.0  # between two packets
CURRENT_SECONDS = 5.0  # until it is known that an image is up to date; else it is pulled
DOCUMENT_SECONDS = 60.0  # a manifest, a config or a token as a whole
SLOWEST_BYTES_PER_SECOND = 16 * KIB  # a blob slower than this on average is given up
ABANDON_SECONDS = 1.0  # until a thread that waits for a server is left behind
RESUME_SECONDS = 7 * 24 * 3600.0  # what an interrupted pull left goes after that
REDIRECTS = 5
ATTEMPTS = 5
RETRY_AFTER_SECONDS = 60.0  # a server that asks for more is not waited for

# Transfers at a time, layers of one image.
CONCURRENT_DOWNLOADS: int = config.get("images", "max-concurrent-downloads") or 3
CONCURRENT_UPLOADS: int = config.get("images", "max-concurrent-uploads") or 5

for _name, _value in config.sections().get("images.limits", {}).items():
    globals()[_name.upper().replace("-", "_")] = _value


_LOCAL = ("", "tmpfs", "ramfs")  # where a refusal is no matter of a server
_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), NO_ROOM),
    **dict.fromkeys((errno.EROFS, errno.EACCES), NOT_WRITABLE),
}


def hint(number: int | None) -> str | None:
    """Return what to do about an errno of writing to the store; None: nobody knows."""
    if number in (errno.EPERM, errno.EACCES):
        name = _file_system()
        if number == errno.EPERM or name not in _LOCAL:
            return NO_OWNERS.format(name or "this file system")
    if number in (errno.EOPNOTSUPP, errno.ENOLCK, errno.ESTALE):
        name = _file_system()
        return f"set RLESS_STORAGE to a local directory, away from {name}" if name else None
    return _HINTS.get(number or 0)


def transfer_seconds(size: int) -> float:
    """Return how long the transfer of a blob of `size` bytes may take in all."""
    return 2 * IDLE_SECONDS + size / SLOWEST_BYTES_PER_SECOND


def _file_system() -> str:
    """Return the name of what the storage lies on, "" if there is nothing odd to it."""
    from rootless.errors import RlessError
    from rootless.linux.filesystem import name_of

    try:
        return name_of(paths.storage_root())
    except RlessError:
        return ""
