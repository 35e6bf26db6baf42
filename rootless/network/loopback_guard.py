"""Why the namespace holder makes pasta's interface: no way by it leads to the host's loopback.

A process can send to 127.0.0.1 by way of eth0 (SO_BINDTODEVICE, which needs no privilege since
Linux 5.7). pasta's version of 2023 takes the packet and connects to the host's own 127.0.0.1. That
of 2025 drops it, unless the address is spelled ::ffff:127.0.0.1 (which only raw sockets can send).
Security class 38.

So the namespace holder (helpers/userns_holder/network.c) makes the interface before pasta attaches
to it, and gives it local routes: the kernel delivers what is sent by it to a loopback address in
the container. Two ways around the routes remain, and each needs a capability that a container does
not have by default:

- CAP_NET_ADMIN can remove them, and what follows.
- CAP_NET_RAW: a raw socket with IP_HDRINCL is routed by the address of sendto(2), but pasta reads
  the one in the header. A packet socket writes whole frames. So where a container has this
  capability, the interface gets a guard as well: a filter of clsact's egress hook, which drops
  frames by the destination in their header. The seccomp filter refuses what sends past that hook:
  PACKET_QDISC_BYPASS and AF_XDP. Without the guard such a container is not started.

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
    if error.call in ("netlink(RTM_NEWQDISC)", "netlink(RTM_NEWTFILTER)"):
        return RlessError(
            f"NET_RAW with the default network needs sch_ingress and cls_bpf: {error.message}",
            "an administrator: modprobe -a sch_ingress cls_bpf; or use --network none, or a "
            "network of `rless network create`",
        )
    if error.call.startswith("netlink"):
        return error
    if error.errno == errno.EADDRNOTAVAIL:
        return RlessError("--ns-mac-addr: this cannot be the address of one interface")
    return RlessError(
        f"the default network needs /dev/net/tun: {error.message}",
        "--network host and --network none need none; an administrator: modprobe tun",
    )
