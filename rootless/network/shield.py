"""The child half of the default network: no packet for a loopback address goes to the host.

A process can send to 127.0.0.1 by way of eth0 (SO_BINDTODEVICE, which needs no privilege since
Linux 5.7). pasta's version of 2023 takes the packet and connects to the host's own 127.0.0.1;
that of 2025 drops it, but not if the address is spelled ::ffff:127.0.0.1 (which only raw sockets
can send). Security class 38.

Unreachable routes end all of that in the kernel, before pasta. Two ways around stay, and both
need a capability that says so: CAP_NET_ADMIN can remove the routes, and CAP_NET_RAW can write
whole frames by a packet socket, which no route sees. So the seccomp filter must refuse
socket(AF_PACKET) unless the user asked for one of the two.
"""

from __future__ import annotations

from rootless.linux import route

_LOOPBACK = [
    (route.AF_INET, b"\x00\x00\x00\x00", 8),  # "this host": a connect() takes it for loopback
    (route.AF_INET, b"\x7f\x00\x00\x00", 8),
    (route.AF_INET6, bytes(16), 96),  # ::, ::1 and the old IPv4-compatible addresses
    (route.AF_INET6, bytes(10) + b"\xff\xff" + bytes(4), 96),  # ::ffff:0:0/96
]


def close_loopback() -> None:
    """Refuse packets for loopback addresses on every interface but `lo`.

    Where it runs: in the container's network namespace, with CAP_NET_ADMIN, before the
    application.
    """
    route.add_unreachable(_LOOPBACK)
