"""Subordinate ids from files and from libsubid."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.errors import RlessError
from rootless.linux import libsubid, subid

if TYPE_CHECKING:
    from pathlib import Path


def parse(text: str, uid: int = 1000, name: str | None = "alice") -> list[tuple[int, int]]:
    return subid.parse(text.encode(), uid, lambda _: name)


def test_names_and_numbers_are_found() -> None:
    text = "bob:100000:65536\nalice:165536:65536\n1000:300000:10\n1001:400000:10\n"
    assert parse(text) == [(165536, 65536), (300000, 10)]


def test_ranges_keep_their_order() -> None:
    assert parse("alice:300000:5\nalice:100000:7\n") == [(300000, 5), (100000, 7)]


def test_short_ranges_are_returned() -> None:
    assert parse("alice:100000:1\n") == [(100000, 1)]


def test_user_without_a_name_is_found_by_number() -> None:
    assert parse("None:1:1\n:5:5\n1000:100000:2\n", name=None) == [(100000, 2)]


def test_digits_are_never_a_name() -> None:
    """Class 16: 1001 is the uid, whoever is called so."""
    assert parse("1001:100000:1\n", uid=1000, name="bob") == []


def test_name_is_looked_up_only_when_needed() -> None:
    def fail(uid: int) -> str:
        raise AssertionError(uid)

    assert subid.parse(b"1000:100000:1\n\n# alice:1:1\n", 1000, fail) == [(100000, 1)]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "alice",
        "alice:100000",
        "alice:100000:1:2",
        "alice::1",
        "alice:100000:",
        "alice:x:1",
        "alice:-5:10",
        "alice:100000:0",
        "alice:0:65536",  # root itself is nobody's subordinate
        "alice:100000:-1",
        "alice:1e5:10",
        "alice:0x10:10",
        "alice: 100000:10",
        "alice:4294967295:1",
        "alice:4294967290:10",
        "alice:100000:4294967296",
        "#alice:100000:10",
        "Alice:100000:10",
        "alice :100000:10",
        f"alice:{'9' * 5000}:1",  # Python itself refuses to read so many digits
        "alice:\u0661\u0660\u0660:10",  # digits, but not ours
    ],
)
def test_junk_is_skipped(line: str) -> None:
    assert parse(f"{line}\nalice:200000:3\n") == [(200000, 3)]


def test_surrounding_white_space_is_ignored() -> None:
    assert parse("  alice:100000:10\t\r\n") == [(100000, 10)]


@settings(database=None)
@given(st.binary())
def test_any_content_is_survived(text: bytes) -> None:
    for start, count in subid.parse(text, 1000, lambda _: "alice"):
        assert 0 < start <= start + count - 1 < 0xFFFFFFFF


_entry = st.tuples(
    st.sampled_from(["alice", "bob", "1000", "1001"]),
    st.integers(1, 2**31),
    st.integers(1, 2**31 - 2),
)


@settings(database=None)
@given(st.lists(_entry))
def test_written_ranges_are_read_back(entries: list[tuple[str, int, int]]) -> None:
    text = "".join(f"{owner}:{start}:{count}\n" for owner, start, count in entries)
    assert parse(text) == [
        (start, count) for owner, start, count in entries if owner in ("alice", "1000")
    ]


def test_ranges_are_read_from_files(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    assert subid._from_file(str(path), os.getuid()) == []
    path.write_text(f"{os.getuid()}:100000:10\n")
    assert subid._from_file(str(path), os.getuid()) == [(100000, 10)]
    path.unlink()
    path.mkdir()
    with pytest.raises(RlessError, match="cannot read"):
        subid._from_file(str(path), os.getuid())


# -- libsubid ------------------------------------------------------------------------------------


class _Library:
    """What libsubid does, with ranges that the test chooses; None: the call fails."""

    def __init__(self, ranges: list[tuple[int, int]] | None, name: str) -> None:
        self.asked: list[bytes] = []
        setattr(self, name, lambda owner, array: self._get(owner, array, ranges))

    def _get(self, owner: bytes, array: Any, ranges: list[tuple[int, int]] | None) -> int:
        self.asked.append(owner)
        if ranges is None:
            return -1
        malloc = ctypes.CDLL(None).malloc
        malloc.restype = ctypes.c_void_p
        size = ctypes.sizeof(libsubid._Range)
        memory = malloc(ctypes.c_size_t(size * max(1, len(ranges))))
        for index, (start, count) in enumerate(ranges):
            one = libsubid._Range.from_address(memory + index * size)
            one.start, one.count = start, count
        array._obj.contents = ctypes.cast(memory, ctypes.POINTER(libsubid._Range)).contents
        return len(ranges)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that installs a library under a soname."""
    real = ctypes.CDLL

    def install(soname: str, made: _Library) -> _Library:
        def load(name: str | None, *args: Any, **keywords: Any) -> Any:
            if name is not None and name.startswith("libsubid"):
                if name != soname:
                    raise OSError(name)
                return made
            return real(name, *args, **keywords)

        monkeypatch.setattr(ctypes, "CDLL", load)
        return made

    return install


@pytest.mark.parametrize(
    ("soname", "name"),
    [
        ("libsubid.so.5", "subid_get_uid_ranges"),
        ("libsubid.so.4", "subid_get_uid_ranges"),
        ("libsubid.so.3", "get_subuid_ranges"),
    ],
)
def test_ranges_come_from_libsubid(library: Any, soname: str, name: str) -> None:
    ranges = [(100000, 65536), (300000, 10)]
    made = library(soname, _Library(ranges, name))
    assert subid._from_libsubid("uid", os.getuid()) == ranges
    assert made.asked == [(subid._login_name(os.getuid()) or str(os.getuid())).encode()]


def test_empty_or_junk_answer_of_libsubid_is_handled(library: Any) -> None:
    library("libsubid.so.4", _Library([], "subid_get_gid_ranges"))
    assert subid._from_libsubid("gid", os.getuid()) == []
    library("libsubid.so.4", _Library([(0, 5), (5, 0), (9, 3)], "subid_get_gid_ranges"))
    assert subid._from_libsubid("gid", os.getuid()) == [(9, 3)]


def test_file_is_read_without_libsubid(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subid, "_has_subid_source", lambda: True)
    monkeypatch.setattr(subid, "_from_file", lambda path, uid: [(len(path), uid)])
    library("none", _Library([], "none"))
    assert subid.ranges("uid", 7) == [(len("/etc/subuid"), 7)]
    library("libsubid.so.4", _Library(None, "subid_get_uid_ranges"))  # LDAP does not answer
    assert subid.ranges("uid", 7) == [(len("/etc/subuid"), 7)]
    library("libsubid.so.4", _Library([], "none"))  # a library without the functions
    assert subid.ranges("gid", 7) == [(len("/etc/subgid"), 7)]
    library("libsubid.so.4", _Library([], "subid_get_uid_ranges"))  # none is an answer
    assert subid.ranges("uid", 7) == []


def test_libsubid_is_asked_only_with_a_configured_source(
    library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = library("libsubid.so.4", _Library([(1, 1)], "subid_get_uid_ranges"))
    monkeypatch.setattr(subid, "_has_subid_source", lambda: False)
    monkeypatch.setattr(subid, "_from_file", lambda path, uid: [])
    assert subid.ranges("uid", 7) == []
    assert made.asked == []


def _installed() -> list[str]:
    found = []
    for soname in ("libsubid.so.5", "libsubid.so.4", "libsubid.so.3"):
        try:
            ctypes.CDLL(soname)
        except OSError:
            continue
        found.append(soname)
    return found


@pytest.mark.parametrize("soname", _installed())
@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_real_libsubid_agrees_with_the_file(soname: str, kind: str) -> None:
    """Run where the library is installed; without a source in nsswitch.conf it reads the file."""
    if not subid._has_subid_source():
        expected = subid._from_file(f"/etc/sub{kind}", os.getuid())
        assert subid._from_libsubid(kind, os.getuid()) == expected
