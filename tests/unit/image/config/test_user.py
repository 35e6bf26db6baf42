"""USER in every spelling: the image's own files, and digits that are never names (class 16)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import RlessError
from rootless.image.config.user import resolve_group, resolve_user

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:App:/home/app:/bin/sh
# comment:x:5:5::/:
short:x:7
nohome:x:8:8
4294967296:x:0:0:a name of digits:/root:/bin/sh
1234:x:0:0:a name of digits:/root:/bin/sh
relative:x:9:9:r:home:/bin/sh
wrapped:x:4294967296:0:w:/:/bin/sh
negative:x:-1:0:n:/:/bin/sh
junk:x:abc:0:n:/:/bin/sh
app:x:0:0:second of the same name:/:/bin/sh
"""
GROUP = b"""root:x:0:root
app:x:1001:
video:x:44:other,app
audio:x:29:app
twice:x:29:app
bad:x:x:app
three:x:33
55:x:0:
"""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", (0, 0, [0], "/root")),
        ("0", (0, 0, [0], "/root")),
        ("root", (0, 0, [0], "/root")),
        ("app", (1000, 1001, [1001, 44, 29], "/home/app")),
        ("1000", (1000, 1001, [1001, 44, 29], "/home/app")),
        ("01000", (1000, 1001, [1001, 44, 29], "/home/app")),
        ("app:", (1000, 1001, [1001, 44, 29], "/home/app")),
        ("app:audio", (1000, 29, [29], "/home/app")),
        ("app:7", (1000, 7, [7], "/home/app")),
        ("1000:1000", (1000, 1000, [1000], "/home/app")),
        ("4242", (4242, 0, [0], "/")),
        ("4242:three", (4242, 33, [33], "/")),
        ("1234", (1234, 0, [0], "/")),
        ("app:55", (1000, 55, [55], "/home/app")),
        ("2147483647", (2147483647, 0, [0], "/")),
        ("nohome", (8, 8, [8], "/")),
        ("relative", (9, 9, [9], "/")),
        (":audio", (0, 29, [29], "/root")),
    ],
)
def test_every_spelling_is_read(spec: str, expected: tuple[int, int, list[int], str]) -> None:
    assert resolve_user(spec, passwd=PASSWD, group=GROUP) == expected


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("nobody", "unable to find user nobody: no matching entries in passwd file"),
        ("short", "unable to find user short"),
        ("wrapped", "unable to find user wrapped"),
        ("negative", "unable to find user negative"),
        ("junk", "unable to find user junk"),
        ("-1", "unable to find user -1"),
        ("+0", "unable to find user"),
        ("٣", "unable to find user"),
        ("app:nogroup", "unable to find group nogroup: no matching entries in group file"),
        ("2147483648", "an id must be between"),
        ("4294967296", "an id must be between"),
        ("18446744073709551616", "an id must be between"),
        ("9" * 5000, "an id must be between"),
        ("app:4294967295", "an id must be between"),
        ("a\x1b[2Jb", r"unable to find user a\x1b[2Jb"),
    ],
)
def test_wrong_users_are_refused(spec: str, why: str) -> None:
    with pytest.raises(RlessError) as caught:
        resolve_user(spec, passwd=PASSWD, group=GROUP)
    assert why in caught.value.message
    assert caught.value.exit_code == 125


def test_numbers_work_without_files() -> None:
    assert resolve_user("5:6", passwd=b"", group=b"") == (5, 6, [6], "/")
    assert resolve_user("", passwd=b"", group=b"") == (0, 0, [0], "/")


def test_groups_are_given_by_name_and_number() -> None:
    assert resolve_group("audio", group=GROUP) == 29
    assert resolve_group("12", group=GROUP) == 12
    with pytest.raises(RlessError):
        resolve_group("none", group=GROUP)


@given(st.binary(max_size=300), st.binary(max_size=300), st.text(max_size=20))
def test_hostile_files_give_ids_in_range_or_one_line(
    passwd: bytes, group: bytes, spec: str
) -> None:
    try:
        uid, gid, groups, home = resolve_user(spec, passwd=passwd, group=group)
    except RlessError:
        return
    assert all(0 <= number < 2**31 for number in (uid, gid, *groups))
    assert home.startswith("/")
