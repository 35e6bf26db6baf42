"""Conclusions from facts and probes."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from rootless.host import checks, facts, hints
from rootless.host.checks import FAIL, OK, WARN
from rootless.host.probe import Outcome
from rootless.linux import programs
from tests.lib.compiled import ROOT

GOOD = Outcome("works")
REFUSED = Outcome(error="unshare: Operation not permitted", number=errno.EPERM)


def mount(fstype: str) -> facts.Mount:
    return facts.Mount("/", "/", fstype, "none", frozenset())


def test_kernel_version_is_judged() -> None:
    assert checks.check_kernel("5.12.0").status == OK
    check = checks.check_kernel("5.10.0-28-amd64")
    assert check.status == FAIL
    assert check.fix
    assert checks.check_python((3, 9), "/usr/bin/python3").status == FAIL


def test_userns_on_ubuntu_prints_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "sysctl", {hints.APPARMOR_SYSCTL: 1}.get)
    check = checks.check_userns(REFUSED)
    assert check.status == FAIL
    assert "AppArmor" in check.meaning
    assert "/etc/apparmor.d/rless" in check.fix
    assert "\n  userns,\n" in check.fix


@pytest.mark.parametrize(
    ("failures", "status"),
    [({}, OK), ({"mqueue": "no such device"}, WARN), ({"proc": "EPERM"}, FAIL)],
)
def test_kernel_mounts_are_judged(failures: dict[str, str], status: str) -> None:
    assert checks.check_kernel_mounts(Outcome(failures)).status == status


def test_no_new_privs_is_named() -> None:
    check = checks.check_confinement({"NoNewPrivs": "1", "Seccomp": "0"})
    assert check.status == WARN
    assert "no_new_privs" in check.fact


def test_idmap_program_is_judged(tmp_path: Path) -> None:
    assert checks.check_idmap_program("newuidmap", facts.CAP_SETUID, None).status == WARN
    half = checks.check_idmap_program("newgidmap", facts.CAP_SETGID, None, is_installed=True)
    assert "reinstall" in half.fix
    program = tmp_path / "newuidmap"
    program.touch()
    check = checks.check_idmap_program("newuidmap", facts.CAP_SETUID, str(program))
    assert check.status == WARN
    assert check.fix == f"sudo chmod u+s {program}"


@pytest.mark.parametrize(
    ("ranges", "status", "word"),
    [
        ([], WARN, "has no subordinate"),
        ([(100000, 1000), (300000, 24)], WARN, "1024 subordinate uids (100000+1000, 300000+24)"),
        ([(100000, 32768), (300000, 32768)], OK, "65536"),
    ],
)
def test_subordinate_ids_are_judged(ranges: list[tuple[int, int]], status: str, word: str) -> None:
    check = checks.check_subids("uid", ranges, "jo", "x:100000:65536\n", has_libsubid=True)
    assert check.status == status
    assert word in check.fact
    if status != OK:
        assert check.fix == "sudo usermod --add-subuids 165536-231071 jo"


def test_subordinate_ids_may_come_from_a_directory_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "read", lambda path: "subid: sss\n")
    check = checks.check_subids("uid", [], "jo", "", has_libsubid=False)
    assert "libsubid is not installed" in check.meaning
    assert "libsubid" in check.fix


@pytest.mark.parametrize(
    ("fstype", "space", "status", "word"),
    [
        ("ext4", (50 << 30, 10**6, 0), OK, "50.0 GiB"),
        ("btrfs", (50 << 30, -1, 0), OK, "btrfs"),
        ("nfs4", (50 << 30, 10**6, 0), WARN, "nfs4"),
        ("lustre", (50 << 30, 10**6, 0), WARN, "lustre"),
        ("ext4", (1 << 30, 10**6, 0), WARN, "1.0 GiB"),
        ("ext4", (50 << 30, 5, 0), WARN, "5 inodes"),
        ("ext4", (50 << 30, 10**6, os.ST_NOEXEC), WARN, "noexec"),
        ("ext4", (50 << 30, 10**6, os.ST_RDONLY), FAIL, "read-only"),
        ("tmpfs", (50 << 30, 10**6, 0), WARN, "tmpfs"),
    ],
)
def test_storage_is_judged(
    fstype: str, space: tuple[int, int, int], status: str, word: str
) -> None:
    check = checks.check_storage("/s", mount(fstype), Outcome(space))
    assert check.status == status
    assert word in check.fact


def test_storage_on_a_dead_server_is_reported() -> None:
    late = Outcome(error="no answer within 10 s", number=errno.ETIMEDOUT)
    assert checks.check_storage("/s", mount("nfs4"), late).status == FAIL


@pytest.mark.parametrize(
    ("overlay", "program", "device", "chosen", "status"),
    [
        (GOOD, "/usr/bin/fuse-overlayfs", GOOD, "overlay", OK),
        (GOOD, None, REFUSED, "overlay", OK),
        (REFUSED, "/usr/bin/fuse-overlayfs", GOOD, "fuse-overlayfs", OK),
        (REFUSED, "/usr/bin/fuse-overlayfs", REFUSED, "copy", WARN),
        (REFUSED, None, GOOD, "copy", WARN),
    ],
)
def test_driver_is_judged(
    overlay: Outcome, program: str | None, device: Outcome, chosen: str, status: str
) -> None:
    fuse = checks.check_fuse(program, device, None)
    check = checks.check_driver(checks.check_overlay(overlay, GOOD), fuse)
    assert (check.fact, check.status) == (chosen, status)


def test_runtime_directory_is_judged(tmp_path: Path) -> None:
    uid = os.getuid()
    tmp_path.chmod(0o700)
    assert checks.check_runtime_dir(None, uid).status == OK
    assert checks.check_runtime_dir(str(tmp_path), uid).status == OK
    assert "belongs to uid" in checks.check_runtime_dir(str(tmp_path), uid + 1).fact
    assert "No such file" in checks.check_runtime_dir(str(tmp_path / "gone"), uid).fact
    assert "absolute" in checks.check_runtime_dir("run", uid).fact
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert "not a directory" in checks.check_runtime_dir(str(link), uid).fact
    tmp_path.chmod(0o711)
    assert checks.check_runtime_dir(str(tmp_path), uid).status == OK
    tmp_path.chmod(0o770)
    check = checks.check_runtime_dir(str(tmp_path), uid)
    assert (check.status, check.fix) == (WARN, f"chmod go-w {tmp_path}")


def test_network_is_judged() -> None:
    absent = checks.check_network(None, REFUSED, GOOD)
    assert absent.status == FAIL
    assert "passt" in absent.fix and "prefix=$HOME/.local" in absent.fix
    assert checks.check_network("/usr/bin/pasta", GOOD, REFUSED).status == FAIL
    assert checks.check_network("/usr/bin/pasta", GOOD, GOOD).status == OK
    mute = checks.check_network("/usr/bin/pasta", Outcome(result=""), GOOD)
    assert (mute.status, mute.fact) == (OK, "pasta (/usr/bin/pasta)")


def test_bridges_are_judged() -> None:
    assert checks.check_bridges(REFUSED).status == WARN
    assert "--internal" in checks.check_bridges(Outcome("not supported")).meaning
    assert checks.check_bridges(Outcome("")).status == OK


@pytest.mark.parametrize("layout", ["none", "v1", "v2", "hybrid"])
def test_missing_delegation_is_reported(layout: str) -> None:
    check = checks.check_cgroup(facts.Cgroups(layout, None, ()), None)
    assert check.status == WARN
    assert check.fix


def test_delegation_is_recognized(tmp_path: Path) -> None:
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (tmp_path / name).touch()
    full = facts.Cgroups("v2", str(tmp_path), tuple("cpu cpuset io memory pids".split()))
    assert checks.check_cgroup(full, None).status == OK
    part = facts.Cgroups("v2", str(tmp_path), ("memory",))
    assert "cpu, cpuset, io, pids" in checks.check_cgroup(part, None).meaning


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"systemd": False, "session": False, "linger": False, "kills": None}, OK, "no systemd"),
        ({"systemd": True, "session": True, "linger": True, "kills": False}, OK, "outlive"),
        ({"systemd": True, "session": True, "linger": True, "kills": None}, OK, "outlive"),
        ({"systemd": True, "session": True, "linger": True, "kills": True}, OK, "outlive"),
        ({"systemd": True, "session": True, "linger": False, "kills": True}, WARN,
         "with the last session"),
        ({"systemd": True, "session": True, "linger": False, "kills": False}, WARN,
         "with the last session"),
        ({"systemd": True, "session": False, "linger": False, "kills": True}, WARN,
         "KillUserProcesses=yes"),
        ({"systemd": True, "session": False, "linger": False, "kills": None}, WARN, "at logout"),
        ({"systemd": True, "session": False, "linger": False, "kills": False}, WARN, "go on"),
    ],
)  # fmt: skip
def test_linger_is_judged(given: dict[str, bool | None], status: str, words: str) -> None:
    check = checks.check_linger("me", **given)  # type: ignore[arg-type]
    assert check.status == status
    assert words in f"{check.fact} {check.meaning}"
    assert (check.fix == "loginctl enable-linger me") == (status == WARN)


@pytest.mark.parametrize(
    ("said", "kills"),
    [
        ("KillUserProcesses=no", False),
        ("KillUserProcesses=yes\\nKillOnlyUsers=\\nKillExcludeUsers=root", True),
        ("KillUserProcesses=yes\\nKillOnlyUsers=\\nKillExcludeUsers=root me", False),
        ("KillUserProcesses=yes\\nKillOnlyUsers=you\\nKillExcludeUsers=", False),
        ("", None),
    ],
)
def test_logind_knows_its_own_default(
    said: str, kills: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "loginctl"
    program.write_text(f"#!/bin/sh\nprintf '{said}\\n'\n")
    program.chmod(0o755)
    monkeypatch.setattr(programs, "find", lambda name: str(tmp_path / name))
    assert facts.ask_logind("me") is kills
    program.unlink()
    assert facts.ask_logind("me") is None


def test_kill_user_processes_is_judged(tmp_path: Path) -> None:
    vendor, admin = tmp_path / "usr", tmp_path / "etc"
    places = (str(vendor), str(admin))
    assert facts.kills_user_processes(places) is None
    for directory in (vendor, admin):
        (directory / "logind.conf.d").mkdir(parents=True)
    (vendor / "logind.conf").write_text("[Login]\nKillUserProcesses=yes\n")
    assert facts.kills_user_processes(places) is True
    (admin / "logind.conf").write_text("[Login]\n#KillUserProcesses=yes\n")
    assert facts.kills_user_processes(places) is None
    (vendor / "logind.conf.d/50.conf").write_text("[Login]\nKillUserProcesses = on\n")
    (vendor / "logind.conf.d/60.txt").write_text("[Login]\nKillUserProcesses=no\n")
    assert facts.kills_user_processes(places) is True
    (admin / "logind.conf.d/50.conf").write_text("[Login]\nKillUserProcesses=no\n")
    assert facts.kills_user_processes(places) is False


def test_missing_programs_tell_what_they_cost() -> None:
    assert checks.check_programs([]).status == OK
    check = checks.check_programs(["rless-init", "rless-networks"])
    assert check.status == WARN
    assert check.meaning == "--init is refused; containers cannot be in a network of several"
    assert "compiler" in check.fix
    check = checks.check_programs(list(checks.PROGRAMS))
    assert check.status == FAIL
    assert check.meaning.startswith("no container can be started; ")


def test_each_program_is_checked() -> None:
    helpers = re.findall(r'"(rless-[a-z-]+)": "helpers/', (ROOT / "setup.py").read_text())
    assert set(checks.PROGRAMS) == set(helpers)


def test_policy_of_images_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = checks.check_policy(None)
    assert (none.status, none.fact.partition(":")[0]) == (OK, "no policy.json")
    path = tmp_path / "policy.json"
    path.write_text("{}")
    assert checks.check_policy(str(path)).status == OK
    monkeypatch.setattr(os, "access", lambda *_: False)  # root reads all
    assert checks.check_policy(str(path)).status == WARN
