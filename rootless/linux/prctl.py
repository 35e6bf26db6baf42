"""Attributes of the calling process (prctl(2)) and its session keyring (keyctl(2))."""

from __future__ import annotations

from rootless.linux import ffi
from rootless.linux.call import OUTER, SYS_KEYCTL, failed, libc, syscall

_PR_SET_PDEATHSIG = 1
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_GET_NO_NEW_PRIVS = 39
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_KEYCTL_JOIN_SESSION_KEYRING = 1
_EPERM = 1

_prctl = libc.prctl
_sethostname = libc.sethostname
_setdomainname = libc.setdomainname


def _call(name: str, option: int, *args: int) -> int:
    padded = [ffi.c_ulong(arg) for arg in (*args, 0, 0, 0, 0)[:4]]
    result: int = _prctl(option, *padded)
    if result == -1:
        raise failed(f"prctl({name})")
    return result


def set_parent_death_signal(signal: int) -> None:
    """Ask for `signal` when the parent thread ends; 0 for none.

    The kernel forgets it when credentials change and when a set-id program is executed.
    """
    _call("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, signal)


def set_dumpable(dumpable: bool) -> None:
    """Allow or forbid ptrace and /proc/PID access by processes with fewer rights (proc(5))."""
    _call("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, int(dumpable))


def get_dumpable() -> bool:
    """Tell whether the process is dumpable."""
    return _call("PR_GET_DUMPABLE", _PR_GET_DUMPABLE) == 1


def set_keep_caps(keep: bool) -> None:
    """Keep the permitted capabilities through the next change away from uid 0."""
    _call("PR_SET_KEEPCAPS", _PR_SET_KEEPCAPS, int(keep))


def set_child_subreaper() -> None:
    """Become the parent of descendants whose own parent ends."""
    _call("PR_SET_CHILD_SUBREAPER", _PR_SET_CHILD_SUBREAPER, 1)


def set_no_new_privs() -> None:
    """Make sure that no later execve gives more rights (kernel: userspace-api/no_new_privs)."""
    _call("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def has_no_new_privs() -> bool:
    """Tell whether no execve can give the caller more rights."""
    return bool(_call("PR_GET_NO_NEW_PRIVS", _PR_GET_NO_NEW_PRIVS))


def drop_bounding(capability: int) -> None:
    """Remove a capability from the bounding set; EINVAL: the kernel does not know it."""
    _call("PR_CAPBSET_DROP", _PR_CAPBSET_DROP, capability)


def read_bounding(capability: int) -> bool:
    """Tell whether a capability is in the bounding set; EINVAL: the kernel does not know it."""
    return bool(_call("PR_CAPBSET_READ", _PR_CAPBSET_READ, capability))


def clear_ambient() -> None:
    """Empty the ambient set."""
    _call("PR_CAP_AMBIENT", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def raise_ambient(capability: int) -> None:
    """Add a capability, permitted and inheritable already, to the ambient set."""
    _call("PR_CAP_AMBIENT", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def join_new_session_keyring() -> None:
    """Leave the caller's session keyring for a new one; a kernel without keys is no error."""
    syscall("keyctl(JOIN_SESSION_KEYRING)", SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None)


def set_hostname(name: str) -> None:
    """Set the host name of the UTS namespace (sethostname(2)); needs CAP_SYS_ADMIN in it."""
    raw = name.encode()
    if _sethostname(raw, ffi.c_size_t(len(raw))) == -1:
        error = failed(f"sethostname({name})")
        if error.errno == _EPERM:  # the capability is there: Podman's filter looks for the host's
            error.hint = f"a seccomp filter around this process forbids it: {OUTER}"
        raise error


def set_domainname(name: str) -> None:
    """Set the NIS domain name of the UTS namespace (setdomainname(2))."""
    raw = name.encode()
    if _setdomainname(raw, ffi.c_size_t(len(raw))) == -1:
        raise failed(f"setdomainname({name})")
