"""What is left of a container of several ranks (`--join`) after it was killed, and its end.

No process is the parent of all its processes, so they are found by their mount namespace. The lock
under which such a container is made has no owner any more once the start process was killed.
"""

from __future__ import annotations

import os
import time

from rootless.errors import SyscallError
from rootless.linux import locks
from rootless.linux.process import pidfd_open, pidfd_send_signal
from rootless.linux.signals import signal

_CLEAN_UP = 2.0  # seconds that killed processes may take to end


def end_inside(container_id: str) -> None:
    """Kill what is in the mount namespace of a container whose monitor or holder has gone.

    Known by the id, of which nobody else has mounts (`etc_files.show`). The caller's own namespace
    is left out: the monitor's, and that of programs that serve mounts.
    """
    deadline = time.monotonic() + _CLEAN_UP
    own = os.stat("/proc/self/ns/mnt").st_ino
    word = container_id.encode()
    found = True
    while found and time.monotonic() < deadline:
        found = False
        for name in os.listdir("/proc"):
            if name.isdigit() and _is_inside(name, own, word):
                found = _kill(name, own, word) or found
        if found:
            time.sleep(0.002)


def _is_inside(pid: str, own: int, word: bytes) -> bool:
    try:
        if os.stat(f"/proc/{pid}/ns/mnt").st_ino == own:
            return False
        with open(f"/proc/{pid}/mountinfo", "rb") as file:
            return word in file.read()
    except OSError:
        return False  # another user's, or it has ended


def _kill(pid: str, own: int, word: bytes) -> bool:
    try:
        pidfd = pidfd_open(int(pid))
    except SyscallError:
        return False
    try:
        if not _is_inside(pid, own, word):
            return False  # the number has passed to another
        pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    except SyscallError:
        return False
    finally:
        os.close(pidfd)


def drop_lock(path: str) -> None:
    """Remove the lock of one who was killed while it made a container; held ones stay."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        if locks.lock(fd, wait=False) and locks.is_at(fd, path):
            os.unlink(path)  # else it is being made
    except OSError:
        pass  # another command was faster
    finally:
        os.close(fd)
