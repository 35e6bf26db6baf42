"""The modes that `--chmod` gives, octal or symbolic.

Source: POSIX.1-2017 chmod(1), "Extended Description". There is no umask: without `u`, `g`, `o` or
`a` a change is for all three.
"""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING

from rootless.errors import RlessError, escape

if TYPE_CHECKING:
    from collections.abc import Callable

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)")
_ACTION = re.compile(r"([-+=])([rwxXst]*|[ugo])(?=[-+=]|$)")
_LONGEST = 256  # characters
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 0o4, "w": 0o2, "x": 0o1}


def is_octal(text: str) -> bool:
    """Tell whether a mode does not depend on the one before."""
    return text.isascii() and text.isdigit()


def parse(text: str) -> Callable[[int], int]:
    """Return what makes the new permission bits from a file's st_mode.

    Raises:
        RlessError: it is no mode.
    """
    if is_octal(text):
        digits = text.lstrip("0") or "0"
        if len(digits) > 4 or not set(digits) <= set("01234567"):
            raise _refused(text)
        fixed = int(digits, 8)
        return lambda mode: fixed
    clauses = text.split(",") if len(text) <= _LONGEST else [""]
    actions = []
    for clause in clauses:
        found = _CLAUSE.fullmatch(clause)
        if found is None:
            raise _refused(text)
        who = found[1].replace("a", "ugo") or "ugo"
        actions += [(who, sign, what) for sign, what in _ACTION.findall(found[2])]

    def changed(mode: int) -> int:
        bits = stat.S_IMODE(mode)
        for who, sign, what in actions:
            bits = _change(bits, stat.S_ISDIR(mode), who, sign, what)
        return bits

    return changed


def _change(mode: int, is_directory: bool, who: str, sign: str, what: str) -> int:
    """Return the bits after one action, as `g-w`."""
    bits = 0
    for letter in what:
        if letter in _SHIFTS:
            bits |= mode >> _SHIFTS[letter] & 0o7
        elif letter == "X":
            bits |= 0o1 if is_directory or mode & 0o111 else 0
        else:
            bits |= _BITS.get(letter, 0)
    new = scope = 0
    for letter in set(who):
        new |= bits << _SHIFTS[letter]
        scope |= 0o7 << _SHIFTS[letter]
        special = {"u": stat.S_ISUID, "g": stat.S_ISGID, "o": 0}[letter]
        scope |= special
        new |= special if "s" in what else 0
    if set(who) == set("ugo"):
        scope |= stat.S_ISVTX
        new |= stat.S_ISVTX if "t" in what else 0
    if sign == "-":
        return mode & ~new
    if sign == "+":
        return mode | new
    if is_directory:
        scope &= 0o1777  # as chmod(1): a directory's set-id bits go only by name
    return mode & ~scope | new


def _refused(text: str) -> RlessError:
    return RlessError(
        f"--chmod={escape(text)[:80]}: this is no mode",
        "give an octal number up to 7777, or one as u=rwX,go=rX",
        1,
    )
