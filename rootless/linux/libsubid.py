"""Subordinate id ranges from libsubid, which also reads those of LDAP or SSSD."""

from __future__ import annotations

import ctypes


class _Range(ctypes.Structure):
    """struct subid_range (shadow/subid.h)."""

    _fields_ = [("start", ctypes.c_ulong), ("count", ctypes.c_ulong)]


def ranges(kind: str, owner: str) -> list[tuple[int, int]] | None:
    """Return the (start, count) ranges of a user, None where libsubid is absent or failed.

    Args:
        kind: "uid" or "gid".
        owner: the login name, or the uid as a number.

    Source: shadow/subid.h.
    """
    for soname in ("libsubid.so.5", "libsubid.so.4", "libsubid.so.3"):
        try:
            library = ctypes.CDLL(soname)
            break
        except OSError:
            continue
    else:
        return None
    # libsubid 3 had the names without the prefix.
    for name in (f"subid_get_{kind}_ranges", f"get_sub{kind}_ranges"):
        if hasattr(library, name):
            get_ranges = getattr(library, name)
            break
    else:
        return None
    array = ctypes.POINTER(_Range)()
    count = get_ranges(owner.encode(), ctypes.byref(array))
    if count < 0:
        return None
    found = [(array[index].start, array[index].count) for index in range(count)]
    ctypes.CDLL(None).free(array)
    return found
