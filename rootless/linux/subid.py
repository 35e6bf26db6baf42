"""Subordinate ids: which host ids the caller may map into a user namespace (subuid(5)).

libsubid also reads the ranges of LDAP or SSSD. It is used if /etc/nsswitch.conf names a `subid`
source. Otherwise the plain files are read: the result is the same, without loading nine shared
libraries at each start.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError

_KINDS = {"uid": "subuid", "gid": "subgid"}
_LIMIT = 4 << 20  # bytes; the file is the administrator's, but a mistake must not eat memory
_MAX_ID = 0xFFFFFFFE
_MAX_DIGITS = 20


def ranges(kind: str, uid: int | None = None) -> list[tuple[int, int]]:
    """Return the (start, count) ranges that belong to a user, in the order they are listed.

    Args:
        kind: "uid" or "gid".
        uid: whose ranges; the caller's real uid by default, never a name from $USER.
    """
    owner = os.getuid() if uid is None else uid
    if _has_subid_source():
        found = _from_libsubid(kind, owner)
        if found is not None:
            return found
    return _from_file(f"/etc/{_KINDS[kind]}", owner)


def _has_subid_source() -> bool:
    try:
        text = _read("/etc/nsswitch.conf")
    except OSError:
        return False
    return any(line.lstrip().startswith(b"subid:") for line in text.split(b"\n"))


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _LIMIT)
    finally:
        os.close(fd)


# uid -> what the name service has said: it is asked for both kinds, and opens five files.
_names: dict[int, str | None] = {}


def _login_name(uid: int) -> str | None:
    if uid not in _names:
        import pwd

        try:
            _names[uid] = pwd.getpwuid(uid).pw_name
        except KeyError:
            _names[uid] = None
    return _names[uid]


def _from_libsubid(kind: str, uid: int) -> list[tuple[int, int]] | None:
    """Return what libsubid says, None where it is absent or failed."""
    from rootless.linux import libsubid  # with ctypes, 3 ms: only where a site needs it

    found = libsubid.ranges(kind, _login_name(uid) or str(uid))
    if found is None:
        return None
    return [(start, length) for start, length in found if _is_valid(start, length)]


def _from_file(path: str, uid: int) -> list[tuple[int, int]]:
    try:
        text = _read(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RlessError(f"cannot read {path}: {error.strerror}") from error
    return parse(text, uid, _login_name)


def parse(text: bytes, uid: int, login_name: object = None) -> list[tuple[int, int]]:
    """Return the ranges of `uid` in the text of a subuid(5) file.

    Entries are by login name or by number. Lines that are not three fields with two numbers
    are passed over, as newuidmap does.

    Args:
        login_name: gives the name of a uid, or None; asked only if a line has a name.
    """
    number = str(uid).encode()
    name: bytes | None = None
    asked = False
    found = []
    for line in text.split(b"\n"):
        fields = line.strip().split(b":")
        if len(fields) != 3 or line.startswith(b"#"):
            continue
        owner = fields[0]
        if owner != number:
            if not asked and callable(login_name):
                answer = login_name(uid)
                name = answer.encode() if answer else None
                asked = True
            if name is None or owner != name:
                continue
        # Python refuses to read thousands of digits, with an error of its own.
        if not all(field.isdigit() and len(field) <= _MAX_DIGITS for field in fields[1:]):
            continue
        start, count = int(fields[1]), int(fields[2])
        if _is_valid(start, count):
            found.append((start, count))
    return found


def _is_valid(start: int, count: int) -> bool:
    return count > 0 and start > 0 and start + count - 1 <= _MAX_ID
