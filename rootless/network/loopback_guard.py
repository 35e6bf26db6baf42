"""Why rless-unshare makes pasta's interface: no way by it leads to the host's loopback.

A process can send to 127.0.0.1 by way of eth0 (SO_BINDTODEVICE, which needs no privilege since
Linux 5.7). pasta's version of 2023 takes the packet and connects to the host's own 127.0.0.1;
that of 2025 drops it, but not if the address is spelled ::ffff:127.0.0.1 (which only raw sockets
can send). Security class 38.

So rless-unshare (helpers/userns_holder/network.c) makes the interface, before pasta attaches to it,
with local routes: what is sent by it
to a loopback address is delivered in the container. Two ways around stay, and both need a
capability that says so: CAP_NET_ADMIN can remove the routes, and CAP_NET_RAW can write whole
frames, which no route sees. So the seccomp filter must refuse the sockets that do (AF_PACKET, its
old form SOCK_PACKET, AF_XDP) unless the user asked for one of the two.

The interface outlives pasta, by this: pasta's end need not wait for it to be taken away (40 ms),
and one that is started anew finds it again.

It has its hardware address before pasta is there, which is told of it. Left to itself pasta knows
none until it has seen a packet, and what it is sent from outside before that goes nowhere; a
connection is not tried again.
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
