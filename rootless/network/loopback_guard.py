"""Why the namespace holder makes pasta's interface: no way by it leads to the host's loopback.

A process can send to 127.0.0.1 by way of eth0 (SO_BINDTODEVICE, which needs no privilege since
Linux 5.7). pasta's version of 2023 takes the packet and connects to the host's own 127.0.0.1. That
of 2025 drops it, unless the address is spelled ::ffff:127.0.0.1 (which only raw sockets can send).
Security class 38.

So the namespace holder (helpers/userns_holder/network.c) makes the interface before pasta attaches
to it, and gives it local routes: the kernel delivers what is sent by it to a loopback address in
the container. Two ways around the routes remain, and each needs a capability: CAP_NET_ADMIN can
remove them, and with CAP_NET_RAW a process can write whole frames, which no route sees. So the
seccomp filter must refuse the sockets that write frames (AF_PACKET, its old form SOCK_PACKET,
AF_XDP) unless the user asked for one of the two capabilities.

An interface made in this way outlives pasta. So nobody has to wait for the kernel to remove it when
pasta ends (40 ms), and a pasta that is started again finds it.

The interface has its hardware address before pasta starts, and pasta is told the address. Otherwise
pasta would not know it before it has seen a packet, and would lose what comes from outside until
then. A connection that is lost in this way is not tried again.
"""

from __future__ import annotations

import errno

from rootless.errors import RlessError, SyscallError


def explain(error: SyscallError) -> RlessError:
    """Return what to tell of a failure to make the interface."""
    if error.call.startswith("netlink"):
        return error
    if error.errno == errno.EADDRNOTAVAIL:
        return RlessError("--ns-mac-addr: this cannot be the address of one interface")
    return RlessError(
        f"the default network needs /dev/net/tun: {error.message}",
        "--network host and --network none need none; an administrator: modprobe tun",
    )
