"""The map policy as arithmetic: whatever the ranges, the map is one that the kernel takes."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.engine import idmap_policy
from rootless.errors import RlessError
from rootless.linux.idmap import IdMap

MAX = 2**31 - 1


def subordinate(
    uids: list[tuple[int, int]], gids: list[tuple[int, int]] | None = None
) -> idmap_policy.Subordinate:
    """Return what a host with these ranges would give."""
    found = idmap_policy.Subordinate.__new__(idmap_policy.Subordinate)
    found.uids, found.gids = uids, uids if gids is None else gids
    found.why_none = None if uids else "there are none"
    return found


@st.composite
def ranges(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Draw ranges that do not overlap, as newuidmap allows them, in any order."""
    at, found = 100_000, []
    for _ in range(draw(st.integers(1, 6))):
        at += draw(st.integers(0, 1000))
        count = draw(st.integers(1, 70_000))
        found.append((at, count))
        at += count
    return draw(st.permutations(found))


def check(extents: tuple[tuple[int, int, int], ...]) -> None:
    """Check what the kernel checks: map_write() in kernel/user_namespace.c."""
    assert 0 < len(extents) <= 340
    for side in (0, 1):
        spans = sorted((extent[side], extent[side] + extent[2]) for extent in extents)
        assert all(low < high for low, high in spans)
        assert all(one[1] <= two[0] for one, two in pairwise(spans))
        assert spans[0][0] >= 0
        assert spans[-1][1] <= 2**32 - 1


ids = st.one_of(st.integers(0, 70_000), st.integers(0, MAX))


@given(ranges(), ranges(), ids, ids)
def test_every_map_is_valid_and_maps_the_user_to_the_caller(
    uids: list[tuple[int, int]], gids: list[tuple[int, int]], uid: int, gid: int
) -> None:
    mapping = idmap_policy.build(uid, gid, subordinate(uids, gids))
    check(mapping.uids)
    check(mapping.gids)
    assert mapping.host_uid(uid) == os.getuid()
    assert mapping.host_gid(gid) == os.getgid()
    assert not mapping.single


@given(ranges(), ids)
def test_all_subordinate_ids_are_used_in_their_order(uids: list[tuple[int, int]], uid: int) -> None:
    mapping = idmap_policy.build(uid, 0, subordinate(uids))
    host = [start + offset for start, count in uids for offset in (0, count // 2, count - 1)]
    inside = {}
    for first, start, count in mapping.uids:
        for number in host:
            if start <= number < start + count:
                inside[number] = first + number - start
    assert set(inside) == set(host)
    assert [inside[number] for number in host] == sorted(inside[number] for number in host)
    total = sum(count for _, count in uids)
    assert sum(extent[2] for extent in mapping.uids) == total + 1
    # Without a hole, but for where the user lies beyond all of them.
    if uid <= total:
        assert max(first + count for first, _, count in mapping.uids) == total + 1


@given(ranges(), ids, ids)
def test_maps_with_one_key_own_files_alike(uids: list[tuple[int, int]], one: int, two: int) -> None:
    """The key names a directory of unpacked layers, so it must tell maps apart."""
    first, second = (idmap_policy.build(uid, 0, subordinate(uids)) for uid in (one, two))
    if first.key == second.key:
        assert first.uids == second.uids
        assert first.gids == second.gids


def test_usual_map_gives_the_caller_the_user_id() -> None:
    me, group = os.getuid(), os.getgid()
    mapping = idmap_policy.build(0, 0, subordinate([(100_000, 65_536)]))
    assert mapping.uids == ((0, me, 1), (1, 100_000, 65_536))
    mapping = idmap_policy.build(1000, 50, subordinate([(100_000, 65_536)]))
    assert mapping.uids == ((0, 100_000, 1000), (1000, me, 1), (1001, 101_000, 64_536))
    assert mapping.gids == ((0, 100_000, 50), (50, group, 1), (51, 100_050, 65_486))


def test_short_range_is_not_exceeded() -> None:
    mapping = idmap_policy.build(0, 0, subordinate([(100_000, 10)]))
    assert mapping.host_uid(10) == 100_009
    assert mapping.host_uid(11) is None
    mapping = idmap_policy.build(1000, 1000, subordinate([(100_000, 10)]))
    assert mapping.host_uid(9) == 100_009
    assert mapping.host_uid(10) is None
    assert mapping.host_uid(1000) == os.getuid()


def test_single_id_without_subordinate_ids() -> None:
    for uid in (0, 1000, MAX):
        mapping = idmap_policy.build(uid, uid, subordinate([]))
        assert mapping.single
        assert mapping.uids == ((uid, os.getuid(), 1),)


def test_modes_give_their_maps() -> None:
    some = subordinate([(100_000, 65_536)])
    me = os.getuid()
    assert idmap_policy.choose("auto", (33, 44), some).host_uid(33) == me
    assert idmap_policy.choose("host-root", (33, 44), some).host_uid(0) == me
    assert idmap_policy.choose("host-root", (33, 44), some).host_uid(33) == 100_032
    assert idmap_policy.choose("keep-id", (0, 0), some).host_uid(me) == me
    assert idmap_policy.choose("keep-id:uid=7,gid=8", (0, 0), some).host_uid(7) == me
    assert idmap_policy.choose("keep-id:uid=7,gid=8", (0, 0), some).host_gid(8) == os.getgid()
    nomap = idmap_policy.choose("nomap", (0, 0), some)
    assert nomap.host_uid(0) == 100_000
    assert nomap.host_uid(65_536) == me  # for the engine; the container's own map ends before


def test_caller_is_whom_the_map_is_asked_for() -> None:
    some = subordinate([(100_000, 65_536)])
    me = os.getuid()
    mapping = idmap_policy.choose("auto", (33, 44), some, (0, 0))
    assert (mapping.host_uid(0), mapping.host_uid(33)) == (me, 100_032)
    # Whom that map does not have is the caller himself.
    for user in ((70_000, 0), (0, 70_000)):
        mapping = idmap_policy.choose("auto", user, some, (0, 0))
        assert (mapping.host_uid(user[0]), mapping.host_gid(user[1])) == (me, os.getgid())
    assert idmap_policy.choose("auto", (33, 44), subordinate([]), (0, 0)).host_uid(33) == me
    assert idmap_policy.choose("keep-id:uid=7", (0, 0), some, (0, 0)).host_uid(7) == me


@pytest.mark.parametrize("user", [(2**31, 0), (0, 2**31), (2**32, 0)])
def test_impossible_ids_are_refused(user: tuple[int, int]) -> None:
    with pytest.raises(RlessError, match="out of range"):
        idmap_policy.choose("auto", user, subordinate([(100_000, 65_536)]))


def test_nomap_needs_subordinate_ids() -> None:
    with pytest.raises(RlessError, match="subordinate"):
        idmap_policy.choose("nomap", (0, 0), subordinate([]))


def test_map_translates_mapped_ids() -> None:
    mapping = IdMap([(0, 5, 1), (1, 100, 10)], [(0, 6, 1)], "k")
    assert [mapping.host_uid(number) for number in (0, 1, 10, 11)] == [5, 100, 109, None]
    assert mapping.host_gid(1) is None


def test_remedy_fits_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rootless.linux.subid.ranges", lambda kind: [])
    found = idmap_policy.Subordinate()
    assert (found.why_none, found.remedy) == (
        "you have no range in /etc/subuid", "`rless doctor` tells how to get a range",
    )  # fmt: skip
    monkeypatch.setattr("rootless.linux.subid.ranges", lambda kind: [(100_000, 65536)])
    there = {"newuidmap": "/usr/bin/newuidmap"}
    monkeypatch.setattr("rootless.linux.programs.find_privileged", there.get)
    monkeypatch.setattr("rootless.linux.idmap.why_powerless", lambda path: None)
    found = idmap_policy.Subordinate()
    assert (found.why_none, found.remedy) == (
        "newgidmap is not installed", "`rless doctor` names the package",
    )  # fmt: skip
