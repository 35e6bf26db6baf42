"""User namespaces and their maps, by the real kernel, newuidmap and newgidmap."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from rootless.errors import RlessError, SyscallError
from rootless.linux import idmap, ns, prctl, process, programs, subid
from rootless.linux.idmap import IdMap

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("user namespaces", "ordinary user")
subordinate = pytest.mark.needs("subordinate ids", "newuidmap", "newgidmap")

ME, MINE = os.getuid(), os.getgid()


def children() -> set[str]:
    """Return the children of the test process: other tests may have left it some (a subreaper)."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as stream:
        return set(stream.read().split())


def single(uid: int = 0, gid: int = 0) -> IdMap:
    return IdMap([(uid, ME, 1)], [(gid, MINE, 1)], "single")


def first(kind: str) -> int:
    """Return the first subordinate id."""
    return subid.ranges(kind)[0][0]


def several() -> IdMap:
    """Map in several extents, as for an application with uid 2 and gid 1."""
    uids, gids = first("uid"), first("gid")
    return IdMap(
        [(0, uids, 2), (2, ME, 1), (3, uids + 2, 5)],
        [(0, gids, 1), (1, MINE, 1), (2, gids + 1, 5)],
        "u2g1",
    )


def read_maps() -> list[list[list[int]]]:
    result = []
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/self/{name}", encoding="ascii") as file:
            result.append([[int(field) for field in line.split()] for line in file])
    return result


# -- maps ----------------------------------------------------------------------------------------


@subordinate
def test_several_extents_are_mapped() -> None:
    wanted = several()
    uids, gids = idmap.call_in_userns(wanted, read_maps)
    assert [tuple(extent) for extent in uids] == list(wanted.uids)
    assert [tuple(extent) for extent in gids] == list(wanted.gids)


def test_single_id_is_mapped() -> None:
    assert idmap.call_in_userns(single(), read_maps) == [[[0, ME, 1]], [[0, MINE, 1]]]


def test_single_id_denies_setgroups() -> None:
    def inside() -> str:
        with open("/proc/self/setgroups", encoding="ascii") as file:
            return file.read().strip()

    assert idmap.call_in_userns(single(), inside) == "deny"


@pytest.mark.parametrize("uid", [0, 1, 1000])
def test_become_root_or_oneself_in_the_namespace(uid: int) -> None:
    """Root where 0 is mapped, oneself elsewhere; with all capabilities over the namespace."""

    def inside() -> list[int]:
        prctl.set_hostname("inside")
        return [os.getuid(), os.getgid(), *os.getresuid()]

    namespaces = ns.CLONE_NEWNS | ns.CLONE_NEWUTS
    assert idmap.call_in_userns(single(uid, uid), inside, namespaces=namespaces) == [uid] * 5


@subordinate
def test_becoming_root_needs_no_capability_of_the_host(tmp_path: Path) -> None:
    """Files that root of the namespace makes belong to the first subordinate id on the host."""
    tmp_path.chmod(0o777)
    path = tmp_path / "file"

    def inside() -> list[int]:
        path.touch()
        os.chown(path, 2, 1)
        status = path.stat()
        (tmp_path / "roots").touch()
        return [os.getuid(), status.st_uid, status.st_gid]

    assert idmap.call_in_userns(several(), inside) == [0, 2, 1]
    assert (path.stat().st_uid, path.stat().st_gid) == (ME, MINE)
    assert (tmp_path / "roots").stat().st_uid == first("uid")
    idmap.call_in_userns(several(), os.unlink, str(tmp_path / "roots"))


@subordinate
def test_refused_map_shows_the_message_of_the_helper() -> None:
    before = children()
    """An id that is not ours: newuidmap says so, and nobody is left behind."""
    bad = IdMap([(0, ME, 1), (1, 1, 5)], several().gids, "bad")
    with pytest.raises(RlessError, match=r"newuidmap refused the id map: .*not allowed") as caught:
        idmap.call_in_userns(bad, read_maps)
    assert "rless doctor" in (caught.value.hint or "")
    bad = IdMap(several().uids, [(0, MINE, 1), (1, 1, 5)], "bad")
    with pytest.raises(RlessError, match="newgidmap refused the id map: "):
        idmap.call_in_userns(bad, read_maps)
    assert children() <= before


@subordinate
def test_missing_helper_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    monkeypatch.setattr(programs, "find_privileged", lambda name: None)
    with pytest.raises(RlessError, match="newuidmap is not installed") as caught:
        idmap.call_in_userns(several(), read_maps)
    assert "uidmap" in (caught.value.hint or "")
    assert children() <= before


@subordinate
def test_helper_without_setuid_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("newuidmap", "newgidmap"):
        real = programs.find(name)
        assert real
        copy = tmp_path / name
        with open(real, "rb") as source:
            copy.write_bytes(source.read())
        copy.chmod(0o755)
    monkeypatch.setattr(programs, "find_privileged", lambda name: str(tmp_path / name))
    with pytest.raises(RlessError, match="newuidmap refused the id map") as caught:
        idmap.call_in_userns(several(), read_maps)
    assert "must be setuid root" in (caught.value.hint or "")


def test_planted_helper_is_not_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Class 44: neither $PATH nor a directory that is not root's leads to another program."""
    planted = tmp_path / "newuidmap"
    planted.write_text("#!/bin/sh\n")
    planted.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs.find("newuidmap") != str(planted)
    monkeypatch.setattr(programs, "DIRECTORIES", (str(tmp_path),))
    assert programs.find("newuidmap") is None


@subordinate
def test_helpers_get_a_fixed_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "newuidmap"
    program.write_text("#!/bin/sh\nexec >&2\necho $(env); exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(programs, "find_privileged", lambda name: str(program))
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LD_PRELOAD", "")
    with pytest.raises(RlessError) as caught:
        idmap.call_in_userns(several(), read_maps)
    assert "SECRET" not in caught.value.message
    assert "LD_PRELOAD" not in caught.value.message
    assert "PATH=/usr/bin:/bin" in caught.value.message


def test_ids_are_translated_to_the_host() -> None:
    made = IdMap([(0, 100, 2), (2, 1000, 1)], [(0, 200, 1)], "x")
    assert [made.host_uid(uid) for uid in range(4)] == [100, 101, 1000, None]
    assert [made.host_gid(gid) for gid in range(2)] == [200, None]
    assert not made.single
    assert IdMap([(5, 1000, 1)], [(5, 1000, 1)], "x").single


# -- call_in_userns ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 1, "tëxt", [1, [2]], {"a": None}, True])
def test_results_come_back(value: Any) -> None:
    assert idmap.call_in_userns(single(), lambda: value) == value


def test_arguments_are_passed() -> None:
    assert idmap.call_in_userns(single(), lambda *args: list(args), 1, "b") == [1, "b"]


def test_big_result_comes_back() -> None:
    assert len(idmap.call_in_userns(single(), lambda: "x" * 1_000_000)) == 1_000_000


def test_result_outside_json_is_an_error() -> None:
    with pytest.raises(RlessError, match="ended early"):
        idmap.call_in_userns(single(), lambda: {1, 2})


def test_surrogates_in_a_result_come_back() -> None:
    """File names that are no UTF-8 come through, or at least do not break the call."""
    result = idmap.call_in_userns(single(), lambda: "a\udcff")
    assert isinstance(result, str)
    assert result.startswith("a")


def test_errors_are_raised_again() -> None:
    def fail() -> None:
        raise RlessError("no\nway", "do this", 127)

    with pytest.raises(RlessError) as caught:
        idmap.call_in_userns(single(), fail)
    assert caught.value.message == "no\nway"
    assert caught.value.hint == "do this"
    assert caught.value.exit_code == 127


def test_os_errors_name_the_file() -> None:
    with pytest.raises(RlessError, match="/nothing: No such file or directory"):
        idmap.call_in_userns(single(), os.stat, "/nothing")


def test_bugs_are_reported_as_such() -> None:
    with pytest.raises(RlessError, match="internal error: ValueError: invalid literal"):
        idmap.call_in_userns(single(), int, "x")


def test_dead_child_is_reported() -> None:
    with pytest.raises(RlessError, match="ended early"):
        idmap.call_in_userns(single(), lambda: os.kill(os.getpid(), 9))
    with pytest.raises(RlessError, match="ended early"):
        idmap.call_in_userns(single(), lambda: os._exit(0))


def test_system_exit_ends_only_the_child() -> None:
    parent = os.getpid()

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(RlessError, match="SystemExit"):
        idmap.call_in_userns(single(), leave)
    assert os.getpid() == parent


def test_no_descriptor_is_left() -> None:
    before = os.listdir("/proc/self/fd")
    for function in (lambda: None, lambda: 1 // 0, lambda: os._exit(1)):
        try:
            idmap.call_in_userns(single(), function)
        except RlessError:
            pass
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_mounts_stay_inside(tmp_path: Path) -> None:
    from rootless.linux import mount

    def inside() -> bool:
        mount.mount("tmpfs", str(tmp_path), "tmpfs")
        (tmp_path / "file").touch()
        return (tmp_path / "file").exists()

    assert idmap.call_in_userns(single(), inside)
    assert list(tmp_path.iterdir()) == []


def test_namespaces_are_new() -> None:
    kinds = {"mnt": ns.CLONE_NEWNS, "net": ns.CLONE_NEWNET, "uts": ns.CLONE_NEWUTS}

    def inside() -> dict[str, str]:
        return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "ipc", *kinds)}

    seen = idmap.call_in_userns(single(), inside, namespaces=sum(kinds.values()))
    for kind in ("user", *kinds):
        assert seen[kind] != os.readlink(f"/proc/self/ns/{kind}")
    assert seen["ipc"] == os.readlink("/proc/self/ns/ipc")


def test_failed_unshare_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    """The child's errno arrives here, and the child is gone."""

    def refuse(flags: int) -> None:
        raise SyscallError("unshare", errno.ENOSPC)

    monkeypatch.setattr(ns, "unshare", refuse)
    with pytest.raises(SyscallError) as caught:
        idmap.call_in_userns(single(), lambda: None)
    assert caught.value.errno == errno.ENOSPC
    assert children() <= before


# -- clone3 --------------------------------------------------------------------------------------


def test_clone3_makes_pid_1_with_a_pidfd() -> None:
    """The child is pid 1 in new namespaces, and the pidfd is its own."""
    kinds = ("pid", "uts", "ipc", "mnt")

    def inside() -> Any:
        reader, writer = os.pipe()
        block, _ = os.pipe()
        flags = ns.CLONE_NEWPID | ns.CLONE_NEWUTS | ns.CLONE_NEWIPC | ns.CLONE_NEWNS
        pid, pidfd = ns.clone3(flags)
        if pid == 0:
            os.write(writer, f"{os.getpid()} {pidfd}".encode())
            os.read(block, 1)
            os._exit(0)
        said = os.read(reader, 100).decode()
        new = [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds]
        own = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
        process.pidfd_send_signal(pidfd, signal.SIGKILL)
        ended, status = os.waitpid(pid, 0)
        return said, new, own, ended == pid, status

    said, new, own, is_it, status = idmap.call_in_userns(single(), inside)
    assert said == "1 -1"
    assert not set(new) & set(own)
    assert is_it
    assert status == signal.SIGKILL


def test_clone3_without_flags_is_fork() -> None:
    pid, pidfd = ns.clone3(0)
    if pid == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    with pytest.raises(SyscallError) as caught:
        process.pidfd_send_signal(pidfd, 0)
    os.close(pidfd)
    assert caught.value.errno == errno.ESRCH  # whoever has the number now


def test_failed_clone3_is_an_error() -> None:
    with pytest.raises(SyscallError) as caught:
        ns.clone3(ns.CLONE_NEWPID)  # no capability in the host's user namespace
    assert caught.value.errno == errno.EPERM
    with pytest.raises(SyscallError) as caught:
        ns.clone3(0, cgroup_fd=0xFFFFFF)
    assert caught.value.errno == errno.EBADF


def test_setns_reports_errors() -> None:
    fd = os.open("/proc/self/ns/user", os.O_RDONLY)
    with pytest.raises(SyscallError) as caught:
        ns.setns(fd, ns.CLONE_NEWUSER)
    os.close(fd)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(SyscallError) as caught:
        ns.setns(9999)
    assert caught.value.errno == errno.EBADF
