"""Be a process on an older kernel: what came after it answers ENOSYS, and uname(2) says 2.6.

    python3 -m tests.lib.old_kernel 5.10 COMMAND...

A seccomp filter, so at native speed, and not the same as the kernel: flags, file systems and their
rights in a user namespace stay those of this one, and backports of distributions are not told. It
sets no_new_privs, so newuidmap has no power in it.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

# Calls and the first Linux that has them; from 424 on all processors have the same numbers.
CALLS = {
    "pidfd_send_signal": (424, (5, 1)), "open_tree": (428, (5, 2)), "move_mount": (429, (5, 2)),
    "fsopen": (430, (5, 2)), "fsconfig": (431, (5, 2)), "fsmount": (432, (5, 2)),
    "pidfd_open": (434, (5, 3)), "clone3": (435, (5, 3)), "close_range": (436, (5, 9)),
    "openat2": (437, (5, 6)), "pidfd_getfd": (438, (5, 6)), "faccessat2": (439, (5, 8)),
    "epoll_pwait2": (441, (5, 11)), "mount_setattr": (442, (5, 12)),
    "landlock_create_ruleset": (444, (5, 13)), "fchmodat2": (452, (6, 6)),
}  # fmt: skip
_ENOSYS, _EINVAL = 38, 22
_CLOSE_RANGE_CLOEXEC, _WITH_CLOEXEC = 4, (5, 11)
_LOAD_NR, _LOAD_THIRD = (0x20, 0, 0, 0), (0x20, 0, 0, 32)  # offsets in struct seccomp_data
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_UNAME26 = 0x0020000  # personality(2)


def become(version: str, answer: int = _ENOSYS) -> None:
    """Make this process, and what it executes, one on the kernel of a version as "5.10"."""
    wanted = tuple(int(number) for number in version.split("."))
    program = [_LOAD_NR]
    for number, since in CALLS.values():
        if since > wanted:
            program += [(0x15, 0, 1, number), (0x06, 0, 0, _ERRNO | answer)]
    if wanted < _WITH_CLOEXEC:
        program += [(0x15, 0, 3, CALLS["close_range"][0]), _LOAD_THIRD,
                    (0x15, 0, 1, _CLOSE_RANGE_CLOEXEC), (0x06, 0, 0, _ERRNO | _EINVAL)]  # fmt: skip
    program.append((0x06, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    whole = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for failed in (
        libc.personality(_UNAME26) == -1,
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        libc.prctl(_PR_SET_SECCOMP, _FILTER, whole, 0, 0),
    ):
        if failed:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    become(sys.argv[1])
    os.execvp(sys.argv[2], sys.argv[2:])
