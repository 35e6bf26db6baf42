"""The default profile as data: its conditions, and its version in the cache's file names."""

from __future__ import annotations

import hashlib
import json

import pytest

from rootless.runtime import seccomp
from rootless.runtime.seccomp import default
from rootless.runtime.seccomp.compiler import Profile

MACHINES = ("x86_64", "aarch64", "riscv64", "ppc64le", "s390x", "loongarch64")


def resolved() -> str:
    """Return all that the profile can resolve to, in one string."""
    everything = [
        default.default_profile(
            caps, kernel, machine, allow_nested_userns=nested, socketcall=socketcall
        )
        for machine in MACHINES
        for kernel in ((4, 7), (6, 18))
        for caps in [(), *((name,) for name in default.CAPABILITIES)]
        for nested in (False, True)
        for socketcall in (False, True)
    ]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:16]


def test_changed_profile_has_a_new_version() -> None:
    """A cached filter of the old profile must not be taken for one of the new.

    If this fails: raise seccomp.DEFAULT_VERSION and write the new pair here.
    """
    assert (seccomp.DEFAULT_VERSION, resolved()) == (2, "198b3d427fcf9898")


def test_each_capability_of_the_profile_is_in_the_name_of_the_file() -> None:
    assert tuple(seccomp._CAPABILITY_BITS) == default.CAPABILITIES
    bits = list(seccomp._CAPABILITY_BITS.values())
    assert bits == [1 << at for at in range(len(bits))]


@pytest.mark.parametrize("machine", [*MACHINES, "vax"])
def test_each_architecture_has_a_valid_profile(machine: str) -> None:
    profile = default.default_profile((), (6, 18), machine)
    Profile(profile)
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert json.loads(json.dumps(profile)) == profile


def test_dangerous_calls_need_a_capability() -> None:
    """The classes of attack that the profile is there for (security.md 32, 34, 40)."""
    forbidden = """
        add_key bpf clone3 create_module delete_module fanotify_init finit_module fsconfig fsmount
        fsopen fspick get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup
        ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind mount
        mount_setattr move_mount move_pages nfsservctl open_by_handle_at open_tree
        open_tree_attr perf_event_open pidfd_getfd pivot_root process_madvise quotactl
        quotactl_fd reboot request_key set_mempolicy setns settimeofday swapoff swapon sysfs
        syslog umount umount2 unshare userfaultfd vhangup vm86 vm86old
    """.split()
    for machine in MACHINES:
        profile = default.default_profile((), (6, 18), machine)
        allowed = {
            name
            for rule in profile["syscalls"]
            if rule["action"] == "SCMP_ACT_ALLOW"
            for name in rule["names"]
        }
        assert not allowed & set(forbidden)
        unconditional = {
            name
            for rule in profile["syscalls"]
            if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
            for name in rule["names"]
        }
        assert not unconditional & {"ioctl", "socket", "socketcall", "clone", "personality"}


def test_no_call_is_allowed_twice() -> None:
    everything = (*default.CAPABILITIES,)
    profile = default.default_profile(everything, (6, 18), "x86_64", allow_nested_userns=True)
    names = profile["syscalls"][0]["names"]
    assert len(names) == len(set(names))
