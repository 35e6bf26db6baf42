"""Explain why /dev/net/tun does not open, and what to do, for pasta and for `doctor`."""

from __future__ import annotations

import os

from rootless.host import facts, hints

TUN = "/dev/net/tun"


def hint_for_tun_failure() -> tuple[str, str]:
    """Return (why, hint) for a /dev/net/tun that cannot be opened for reading and writing.

    SELinux's types staff_t and user_t may not open it though its mode lets everybody do so
    (`corenet_rw_tun_tap_dev` in the reference policy): another mode would change nothing there.
    """
    confined = facts.selinux_type()
    if confined not in ("", facts.UNCONFINED) and _is_open_to_everybody():
        return (
            f"SELinux does not let processes of the type {confined} open it",
            hints.SELINUX_WANTED,
        )
    return "it is missing or closed to you", f"sudo modprobe tun; sudo chmod 666 {TUN}"


def _is_open_to_everybody() -> bool:
    try:
        return os.stat(TUN).st_mode & 0o006 == 0o006
    except OSError:
        return False
