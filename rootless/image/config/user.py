"""Resolve an image's USER or `--user` to ids, by the image's own /etc/passwd and /etc/group.

Digits are always numbers: a number that is too large must not fall back to a *name* made of digits,
nor wrap around to 0 (CVE-2024-40635). Malformed lines are ignored.
"""

from __future__ import annotations

from rootless.errors import RlessError, escape

MAX_ID = (1 << 31) - 1


def resolve_user(spec: str, *, passwd: bytes, group: bytes) -> tuple[int, int, list[int], str]:
    """Return (uid, gid, supplementary gids, home) for "", USER, UID, USER:GROUP, UID:GID, ...

    As Docker: without a group the user's own group and all groups that list the user; with
    one, that alone. The group itself is among the supplementary ones, so that a set-group-id
    program does not lose it: a file may refuse it what all others may (CVE-2022-36109). A number
    needs no entry in the files.

    Args:
        spec: what USER or `--user` says; "" means uid 0.
        passwd, group: the text of the image's files, b"" if it has none.

    Raises:
        RlessError: no such name, or a number outside 0 … 2^31-1.
    """
    user, _, wanted_group = spec.partition(":")
    number = _number(user or "0", spec)
    name, uid, gid, home = b"", 0, 0, "/"
    if number is not None:
        uid = number
    wanted = user.encode("utf-8", "surrogateescape")
    for fields in _entries(passwd, least=4, fields=7):
        found_uid, found_gid = _field(fields[2]), _field(fields[3])
        if found_uid is None or found_gid is None:
            continue
        if (found_uid == number) if number is not None else (fields[0] == wanted):
            name, uid, gid = fields[0], found_uid, found_gid
            if fields[5].startswith(b"/"):
                home = fields[5].decode("utf-8", "surrogateescape")
            break
    else:
        if number is None:
            raise RlessError(
                f"unable to find user {escape(user)}: no matching entries in passwd file"
            )
    if wanted_group:
        gid = _find_group(wanted_group, spec, group)
        return uid, gid, [gid], home
    groups = [gid]
    if name:
        for fields in _entries(group, least=3, fields=4):
            found_gid = _field(fields[2])
            if found_gid is None or found_gid in groups:
                continue
            if name in fields[3].split(b","):
                groups.append(found_gid)
    return uid, gid, groups, home


def resolve_group(spec: str, *, group: bytes) -> int:
    """Return the gid of a group's name or number, as `--group-add` gives it.

    Raises:
        RlessError: no such name, or a number outside 0 … 2^31-1.
    """
    return _find_group(spec, spec, group)


def _find_group(wanted: str, spec: str, group: bytes) -> int:
    number = _number(wanted, spec)
    if number is not None:
        return number
    raw = wanted.encode("utf-8", "surrogateescape")
    for fields in _entries(group, least=3, fields=4):
        gid = _field(fields[2])
        if gid is not None and fields[0] == raw:
            return gid
    raise RlessError(f"unable to find group {escape(wanted)}: no matching entries in group file")


def _number(text: str, spec: str) -> int | None:
    """Return the number that `text` is, None if it is a name."""
    if not (text.isascii() and text.isdigit()):
        return None
    # int() of thousands of digits is slow and, from 4,300 on, an error.
    digits = text.lstrip("0") or "0"
    if len(digits) > 10 or int(digits) > MAX_ID:
        raise RlessError(f"invalid id {escape(spec)[:200]}: an id must be between 0 and {MAX_ID}")
    return int(digits)


def _field(field: bytes) -> int | None:
    """Return the id in a field of passwd or group; None if it is not a plain one in range."""
    if not field.isdigit() or len(field) > 10:
        return None
    value = int(field)
    return value if value <= MAX_ID else None


def _entries(text: bytes, *, least: int, fields: int) -> list[list[bytes]]:
    """Split the lines that have a name and at least `least` fields; pad them to `fields`."""
    found = []
    for line in text.split(b"\n"):
        parts = line.strip().split(b":")
        # passwd(5) has 7 fields, group(5) 4; images made by hand often end earlier.
        if len(parts) < least or not parts[0] or parts[0].startswith(b"#"):
            continue
        parts += [b""] * (fields - len(parts))
        found.append(parts)
    return found
