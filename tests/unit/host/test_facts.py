"""Parsers of facts, with texts of real kernels and distributions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.host import facts
from rootless.linux import call

HYBRID = """\
22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
30 22 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/memory rw,nosuid shared:11 - cgroup cgroup rw,memory
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 28 0:40 / /home rw,nosuid shared:20 - nfs4 server:/home rw,vers=4.2
41 40 0:41 / /home/with\\040space rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.18.44-fc-v595", (6, 18)),
        ("5.15.0-91-generic", (5, 15)),
        ("5.14.0-427.13.1.el9_4.x86_64", (5, 14)),
        ("6.6-rc1", (6, 6)),
        ("6", (0, 0)),
        ("", (0, 0)),
        ("next-20250101", (0, 0)),
    ],
)
def test_os_release_is_parsed(release: str, expected: tuple[int, int]) -> None:
    assert call.parse_release(release) == expected


def test_mountinfo_is_parsed() -> None:
    table = facts.parse_mountinfo(HYBRID)
    assert len(table) == 7
    assert table[2].fstype == "cgroup2"
    assert table[2].target == "/sys/fs/cgroup/unified"
    assert "nosuid" in table[2].options
    assert table[6].target == "/home/with space"


@given(st.text())
def test_parsers_survive_any_text(text: str) -> None:
    facts.parse_mountinfo(text)
    facts.parse_status(text)
    call.parse_release(text)
    facts.next_free_range(text)
    facts.locate_cgroup(text, facts.parse_mountinfo(HYBRID))


@pytest.mark.parametrize(
    ("path", "fstype"),
    [
        ("/", "ext4"),
        ("/homely", "ext4"),
        ("/home", "nfs4"),
        ("/home/me/.local/share/rless", "nfs4"),
        ("/home/with space/x", "tmpfs"),
    ],
)
def test_mount_of_finds_the_mount(path: str, fstype: str) -> None:
    mount = facts.mount_of(path, facts.parse_mountinfo(HYBRID))
    assert mount is not None
    assert mount.fstype == fstype


def test_mount_of_takes_the_last_of_stacked_mounts() -> None:
    line = "1 0 0:1 / /x rw - {} none rw\n"
    table = facts.parse_mountinfo(line.format("ext4") + line.format("tmpfs"))
    mount = facts.mount_of("/x/y", table)
    assert mount is not None
    assert mount.fstype == "tmpfs"


V2 = "30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
CONTAINED = "30 22 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"


@pytest.mark.parametrize(
    ("membership", "mounts", "expected"),
    [
        (
            "0::/user.slice/user-1000.slice/session-1.scope\n",
            V2,
            ("v2", "/sys/fs/cgroup/user.slice/user-1000.slice/session-1.scope"),
        ),
        ("0::/\n", V2, ("v2", "/sys/fs/cgroup")),
        (
            "5:memory:/x\n1:name=systemd:/y\n0::/z\n",
            HYBRID,
            ("hybrid", "/sys/fs/cgroup/unified/z"),
        ),
        ("5:memory:/x\n", V1, ("v1", None)),
        ("", "", ("none", None)),
        ("0::/docker/abc/d\n", CONTAINED, ("v2", "/sys/fs/cgroup/d")),
        # A cgroup beside the mount's root: what the mount shows does not hold it.
        ("0::/docker/abcd\n", CONTAINED, ("v2", None)),
    ],
)
def test_cgroup_is_located(membership: str, mounts: str, expected: tuple[str, str | None]) -> None:
    assert facts.locate_cgroup(membership, facts.parse_mountinfo(mounts)) == expected


def test_process_status_is_parsed() -> None:
    status = facts.parse_status("Name:\tcat\nNoNewPrivs:\t1\nSeccomp:\t2\n")
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        # getfattr -e hex -n security.capability, after setcap cap_setuid=ep and cap_net_raw=ep
        ("0100000280000000000000000000000000000000", 1 << facts.CAP_SETUID),
        ("0100000200200000000000000000000000000000", 1 << 13),
        ("010000038000000000000000000000000000000000000000", 1 << facts.CAP_SETUID),
        ("0100000200000000000000000000000000000000", 0),
        ("00", 0),
        ("", 0),
    ],
)
def test_file_capability_is_parsed(value: str, bits: int) -> None:
    assert facts.parse_file_capability(bytes.fromhex(value)) == bits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (100000, 165535)),
        ("a:100000:65536\n", (165536, 231071)),
        ("a:165536:65536\nb:100000:65536\n", (231072, 296607)),
        ("# remark\na:1\nb:x:y\n", (100000, 165535)),
    ],
)
def test_next_free_range_is_found(text: str, expected: tuple[int, int]) -> None:
    assert facts.next_free_range(text) == expected


def test_library_cache_matches_whole_names() -> None:
    cache = b"glibc-ld.so.cache1.1\0libseccomp.so.2\0/usr/lib/libseccomp.so.2\0"
    assert facts.library_in_cache(cache, "libseccomp.so.2")
    assert not facts.library_in_cache(cache, "libseccomp.so")


def test_absent_files_are_reported_as_such() -> None:
    assert facts.read("/nonexistent") is None
    assert facts.sysctl("kernel.no_such_thing") is None
    assert facts.file_capabilities("/nonexistent") == 0
    assert facts.privilege_of("/nonexistent", facts.CAP_SETUID) is None
    assert not facts.is_delegated("/nonexistent")
