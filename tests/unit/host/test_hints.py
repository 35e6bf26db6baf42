"""Hints for a refused user namespace."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from rootless.host import facts, hints, tun


@pytest.fixture(autouse=True)
def plain_host(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Be a host where nothing is restricted; a test sets what is."""
    values: dict[str, int] = {"user.max_user_namespaces": 15000}
    monkeypatch.setattr(facts, "sysctl", values.get)
    monkeypatch.setattr(facts, "inside_container", lambda: None)
    monkeypatch.setattr(facts, "read", lambda path: "Seccomp:\t0\n" if "status" in path else None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(hints, "_in_chroot", lambda: False)
    return values


@pytest.mark.parametrize(
    ("name", "value", "number", "why", "hint"),
    [
        ("kernel.unprivileged_userns_clone", 0, errno.EPERM, "root only", "sysctl -w kernel"),
        ("user.max_user_namespaces", 0, errno.ENOSPC, "limited to 0", "sysctl -w user.max_user"),
        ("user.max_user_namespaces", 9, errno.ENOSPC, "limit of user namespaces is", "raise"),
        (hints.APPARMOR_SYSCTL, 1, errno.EPERM, "AppArmor", "profile"),
        (hints.APPARMOR_SYSCTL, 1, errno.EACCES, "AppArmor", "profile"),
        (hints.APPARMOR_SYSCTL, 0, errno.EPERM, "security module", "administrator"),
        ("x", 0, errno.EINVAL, "CONFIG_USER_NS", "kernel"),
        ("x", 0, errno.ENOMEM, "memory", "doctor"),
    ],
)
def test_hint_names_the_cause(
    plain_host: dict[str, int], name: str, value: int, number: int, why: str, hint: str
) -> None:
    plain_host[name] = value
    found_why, found_hint = hints.hint_for_userns_failure(number)
    assert why in found_why
    assert hint in found_hint


def test_container_is_named_before_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "inside_container", lambda: "/.dockerenv")
    monkeypatch.setattr(facts, "read", lambda path: "Seccomp:\t2\n")
    why, hint = hints.hint_for_userns_failure(errno.EPERM)
    assert why.startswith("this process is in a container")
    assert hint.startswith("start the outer container with --security-opt seccomp=unconfined")


def test_selinux_is_named_where_it_confines_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/sys/fs/selinux/enforce": "1", "/proc/self/attr/current": "staff_u:r:staff_t:s0\0"}
    monkeypatch.setattr(facts, "read", texts.get)
    why, hint = hints.hint_for_userns_failure(errno.EACCES)
    assert "SELinux" in why
    assert "staff_t" in why
    assert "ausearch -m AVC" in hint
    texts["/proc/self/attr/current"] = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\0"
    assert "SELinux" not in hints.hint_for_userns_failure(errno.EACCES)[0]


def test_selinux_is_named_where_it_closes_the_tun_device(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/sys/fs/selinux/enforce": "1", "/proc/self/attr/current": "staff_u:r:staff_t:s0\0"}
    monkeypatch.setattr(facts, "read", texts.get)
    monkeypatch.setattr(tun, "TUN", "/dev/null")  # any device that everybody may open
    why, hint = tun.hint_for_tun_failure()
    assert why == "SELinux does not let processes of the type staff_t open it"
    assert hint is hints.SELINUX_WANTED
    monkeypatch.setattr(tun, "TUN", "/dev/mem")
    assert tun.hint_for_tun_failure()[1] == "sudo modprobe tun; sudo chmod 666 /dev/mem"
    texts["/sys/fs/selinux/enforce"] = "0"
    monkeypatch.setattr(tun, "TUN", "/dev/null")
    assert "missing or closed to you" in tun.hint_for_tun_failure()[0]


def test_apparmor_profile_that_confines_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/proc/self/attr/apparmor/current": "laptop (enforce)\n"}
    monkeypatch.setattr(facts, "read", texts.get)
    why, hint = hints.hint_for_userns_failure(errno.EPERM)
    assert why == "the AppArmor profile laptop does not let this process use user namespaces"
    assert hint is hints.PROFILE_WANTED
    monkeypatch.setattr(facts, "inside_container", lambda: "/.dockerenv")
    assert "outer container" in hints.hint_for_userns_failure(errno.EPERM)[1]
    for label in ("rless (unconfined)\n", "unconfined\n", "old (complain)\n"):
        texts["/proc/self/attr/apparmor/current"] = label
        assert "AppArmor profile" not in hints.hint_for_userns_failure(errno.EPERM)[0]


def test_profile_is_the_file_that_is_installed() -> None:
    """A distribution installs it as it is; doctor prints it with other paths."""
    file = Path(hints.__file__).with_name("rless.apparmor").read_text()
    rules = "".join(line for line in file.splitlines(True) if not line.startswith("#"))
    assert '"/usr/{,local/}bin/{rless,rless-oci}"' in rules
    printed = hints.apparmor_profile(["/opt/r/rless", "/opt/r/rless-oci"])
    attached = '"/{opt/r/rless,opt/r/rless-oci}"'
    assert printed == rules.replace('"/usr/{,local/}bin/{rless,rless-oci}"', attached)


def test_chroot_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a file says that it is a container, and where it is on a mount point."""
    assert "chroot" in hints.hint_for_userns_failure(errno.EPERM)[0]
    monkeypatch.setattr(facts, "inside_container", lambda: "/.dockerenv")
    why, hint = hints.hint_for_userns_failure(errno.EPERM)
    assert "chroot" in why
    assert "in a container" in why
    assert "outside of the chroot" in hint
    monkeypatch.setattr(hints, "_in_chroot", lambda: True)
    why, hint = hints.hint_for_userns_failure(errno.EPERM)
    assert why == "the kernel refuses user namespaces in a chroot"
    assert "pivot_root" in hint


def test_profile_names_both_commands() -> None:
    text = hints.apparmor_profile(["/opt/v/bin/rless", "/opt/v/bin/rless-oci"])
    assert '"/{opt/v/bin/rless,opt/v/bin/rless-oci}" flags=(unconfined)' in text
    assert "\n  userns,\n" in text
    assert '"/opt/v/rless"' in hints.apparmor_profile(["/opt/v/rless"])
    assert r'"/srv/a\[1\]/rless"' in hints.apparmor_profile(["/srv/a[1]/rless"])
