"""Interfaces, addresses and routes as the kernel has them, read and removed by pyroute2.

This module is for commands that start nothing, or have a network to choose once. Importing pyroute2
takes about 100 ms, so a start makes its interfaces by `rootless.linux.network.link`
(docs/decisions/0011-bridges.md).

A container's network namespace belongs to a user namespace below the caller's. A process may join
it only after it has joined that user namespace, and only a process with one thread may do so.
Functions about a container therefore fork a child, which joins both and answers by a pipe.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket

from rootless.errors import RlessError, SyscallError
from rootless.linux import idmap, ns
from rootless.linux.network import nftables
from rootless.network import accounting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TypedDict

    class Addresses(TypedDict):
        """The addresses of a network, but for its loopback's.

        Attributes:
            addresses: (address, prefix length), of both families.
            gateways: of the default routes, of both families.
        """

        addresses: list[tuple[str, int]]
        gateways: list[str]


_NS_GET_USERNS = 0xB701  # ioctl_ns(2), Linux 4.9
_LOOPBACK = 1  # the index of `lo`, in each network namespace
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_UNIVERSE = 0  # RT_SCOPE_UNIVERSE: not an address of one link only
_UNICAST = 1  # RTN_UNICAST
_BROADCAST, _MULTICAST = 3, 5  # RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES)  # IPv6 is switched off


def counters(pid: int) -> tuple[int, int]:
    """Return the bytes (received, sent) by the network of a process.

    Those of its loopback are not counted, but for what comes by published ports (`accounting`).

    Both are 0 in the caller's own network, and where the process has ended.
    """
    try:
        if os.path.samefile(f"/proc/{pid}/ns/net", "/proc/self/ns/net"):
            return 0, 0
        received, sent = _call(f"/proc/{pid}/ns/net", _counters)
    except (OSError, RlessError):
        return 0, 0
    return received, sent


def addresses(pid: int) -> Addresses:
    """Return the addresses and gateways of a process's network; none if it has ended."""
    try:
        found: Addresses = _call(f"/proc/{pid}/ns/net", _addresses)
    except (OSError, RlessError):
        return {"addresses": [], "gateways": []}
    return found


def remove(netns: str, name: str, gateways: Sequence[str]) -> None:
    """Remove an interface of a container's network; one that is gone is no error.

    Args:
        netns: the path of the network namespace.
        gateways: of the default routes that the network shall have then; one that is there stays.

    Raises:
        RlessError: the network could not be joined or changed.
    """
    _call(netns, _remove, name, gateways)


def host_routes() -> list[tuple[str, int]]:
    """Return (address, prefix length) of what the caller's network has IPv4 routes to.

    The routes of all tables are among them, as those of a VPN often have one of their own; the
    default routes are not.
    """
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as kernel:
            return [
                (route.get_attr("RTA_DST"), route["dst_len"])
                for route in kernel.get_routes(family=socket.AF_INET)
                if route["dst_len"] and not _BROADCAST <= route["type"] <= _MULTICAST
            ]
    except (OSError, NetlinkError):
        return []


def _call(netns: str, function: Callable[..., Any], *args: object) -> Any:
    """Run `function(*args)` in a network namespace; return its JSON-able result."""
    import pyroute2  # noqa: F401 - here, so that each child has it

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        idmap.answer(writer, _run, netns, function, args)
    os.close(writer)
    with open(reader, encoding="utf-8") as stream:
        text = stream.read()
    return idmap.take_answer(text, os.waitpid(pid, 0)[1])


def _run(netns: str, function: Callable[..., Any], args: tuple[object, ...]) -> Any:
    from pyroute2 import IPRoute, NetlinkError

    netns_fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    userns_fd = fcntl.ioctl(netns_fd, _NS_GET_USERNS)
    if not os.path.samestat(os.fstat(userns_fd), os.stat("/proc/self/ns/user")):
        ns.setns(userns_fd, ns.CLONE_NEWUSER)
    ns.setns(netns_fd, ns.CLONE_NEWNET)
    try:
        with IPRoute() as kernel:
            return function(kernel, *args)
    except NetlinkError as error:
        raise SyscallError(f"netlink({function.__name__.strip('_')})", error.code) from error


def _counters(kernel: Any) -> tuple[int, int]:
    received, sent = _published()
    for one in kernel.get_links():
        if one["index"] != _LOOPBACK:
            figures = one.get_attr("IFLA_STATS64")
            received += figures["rx_bytes"]
            sent += figures["tx_bytes"]
    return received, sent


def _published() -> tuple[int, int]:
    """Return the bytes that `accounting` has counted."""
    from pyroute2 import NetlinkError
    from pyroute2.nftables.main import NFTables

    sums = {accounting.RECEIVED: 0, accounting.SENT: 0}
    try:
        with NFTables(nfgen_family=nftables.INET) as kernel:
            for rule in kernel.get_rules():
                if rule.get_attr("NFTA_RULE_TABLE") != accounting.TABLE:
                    continue
                for one in rule.get_attr("NFTA_RULE_EXPRESSIONS"):
                    if one.get_attr("NFTA_EXPR_NAME") == "counter":
                        data = one.get_attr("NFTA_EXPR_DATA")
                        found = data.get_attr("NFTA_COUNTER_BYTES")
                        sums[rule.get_attr("NFTA_RULE_CHAIN")] += found
    except (OSError, NetlinkError):
        pass  # the kernel has no nf_tables
    return sums[accounting.RECEIVED], sums[accounting.SENT]


def _addresses(kernel: Any) -> Addresses:
    return {"addresses": list(_own(kernel.get_addr())), "gateways": list(_gateways(kernel))}


def _own(found: Iterable[Any]) -> Iterator[tuple[str, int]]:
    for one in found:
        of_a_link = one["family"] == socket.AF_INET6 and one["scope"] != _UNIVERSE
        if one["index"] != _LOOPBACK and not of_a_link:
            yield one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS"), one["prefixlen"]


def _gateways(kernel: Any) -> Iterator[str]:
    for family in _FAMILIES:
        for route in kernel.get_routes(family=family):
            gateway = route.get_attr("RTA_GATEWAY")
            if gateway and not route["dst_len"] and route["type"] == _UNICAST:
                yield gateway


def _remove(kernel: Any, name: str, gateways: Sequence[str]) -> None:
    from pyroute2 import NetlinkError

    for index in kernel.link_lookup(ifname=name):
        kernel.link("del", index=index)
    for gateway in gateways:
        family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
        ignored = (errno.EEXIST, *(_NO_FAMILY if family == socket.AF_INET6 else ()))
        try:
            kernel.route("add", family=family, dst="default", gateway=gateway)
        except NetlinkError as error:
            if error.code not in ignored:
                raise
