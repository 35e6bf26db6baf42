"""The network mode of a request: what step 6 prepares on the host, before the network exists.

None, pasta:OPTIONS          take the ports; pasta waits to be told the namespaces
ns:PATH                      this process enters that namespace, so that its children are in it
none, host, container:NAME   nothing to do here
NETWORK                      see `engine.networks.attachment`
"""

from __future__ import annotations

import errno
import os

from rootless.engine.spec import generate
from rootless.errors import RlessError, SyscallError
from rootless.linux import ns
from rootless.linux.caps import NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rootless.engine.request import RunRequest
    from rootless.linux.idmap import IdMap
    from rootless.network.pasta import Pasta

HOST_GATEWAY = "host-gateway"  # the address of --add-host that stands for the host's
HOST_NAMES = ("host.containers.internal", "host.docker.internal")


def is_private(request: RunRequest) -> bool:
    """Tell whether the container gets a network namespace of its own."""
    joined = (request.network or "").startswith("container:")
    return not (joined or request.uses_host_network())


def prepare(request: RunRequest, exposed: Iterable[str]) -> Pasta | None:
    """Make ready what the network needs of the host; to be called before the fork.

    Args:
        exposed: ports of the image and of --expose, for -P.

    Raises:
        RlessError: see `pasta.prepare`; a namespace that cannot be entered.
    """
    mode = request.network or "pasta"
    if mode.startswith("ns:"):
        _enter(mode.removeprefix("ns:"))
        return None
    if mode.partition(":")[0] != "pasta":
        return None
    from rootless.network import pasta

    options = mode.partition(":")[2]
    return pasta.prepare(
        request.published(exposed),
        options.split(",") if options else [],
        ip=request.ip,
        ip6=request.ip6,
        mac=request.mac_address,
    )


def hosts_of_host(
    request: RunRequest, named: Iterable[tuple[str, str]], way_out: bool
) -> list[tuple[str, str]]:
    """Return the lines of /etc/hosts that name the host, as in Podman and Docker Desktop.

    There are none where the host cannot be reached, or is reached as 127.0.0.1 anyway.

    Args:
        named: (name, address) of --add-host and others, which take precedence.
        way_out: a member's networks are not all internal.
    """
    mode, _, options = (request.network or "pasta").partition(":")
    if mode == "pasta":
        if options:
            from rootless.network import pasta_options

            if pasta_options.shares_addresses(options.split(",")):
                return []  # the address may be the container's own
    elif not request.networks or not way_out:
        return []
    address = _outward_address()
    taken = {name for name, _ in named}
    return [(name, address) for name in HOST_NAMES if address and name not in taken]


def host_address(request: RunRequest) -> str:
    """Return the address by which a container reaches the host: of --add-host NAME:host-gateway.

    It is that of the interface with the default route: services of the host that listen on it or
    on all addresses answer there, those on its loopback do not.

    Raises:
        RlessError: there is none.
    """
    mode = request.network or "pasta"
    if mode == "host":
        return "127.0.0.1"
    if mode.partition(":")[0] == "pasta" or request.networks:
        if address := _outward_address():
            return address
        raise RlessError(
            f"--add-host with {HOST_GATEWAY}: this host has no address but its loopback's now",
            "give an address, or use --network=host",
        )
    raise RlessError(
        f"--add-host with {HOST_GATEWAY} is not supported: "
        f"with --network={mode} there is no way to the host",
        "give an address",
    )


def _outward_address() -> str:
    """Return the host's address on its way out; "": it is offline."""
    import _socket

    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        probe.connect(("192.0.2.1", 9))  # finds a route; sends nothing
        address: str = probe.getsockname()[0]
        return address
    except OSError:
        return ""
    finally:
        probe.close()


def guard(request: RunRequest) -> str:
    """Return the guard of pasta's interface (helpers/userns_holder/main.c).

    Who has CAP_NET_ADMIN can take it away, so it is no reason not to start.
    """
    bounding = generate.capabilities(request, 0, len(NAMES) - 1)["bounding"]
    if "CAP_NET_RAW" not in bounding:
        return "0"
    return "1" if "CAP_NET_ADMIN" in bounding else "2"


def check_guard(request: RunRequest, joined: RunRequest) -> None:
    """Check that a container whose network is joined has the guard that the new one needs.

    Raises:
        RlessError: it was made without one.
    """
    by_pasta = (joined.network or "pasta").partition(":")[0] == "pasta"
    if by_pasta and guard(request) == "2" and guard(joined) == "0":
        raise RlessError(
            f"--cap-add NET_RAW with --network {request.network}: that container was started "
            "without NET_RAW, so raw packets would reach the host's loopback",
            "start it with --cap-add NET_RAW, or give it a network of `rless network create`",
        )


def allow_ping(ids: IdMap, gid: int) -> None:
    """Let the groups of a container make ICMP sockets in its network, which is the caller's.

    So `ping` needs no CAP_NET_RAW.

    Args:
        gid: of the application; its group comes first where not all can.

    Where it runs: in the container's user namespace, on the host's mounts.
    Source: icmp(7), ping_group_range.
    """
    first, last = ids.group_range(gid)
    try:
        fd = os.open("/proc/sys/net/ipv4/ping_group_range", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # /proc/sys is read-only here, as in a container: no ping then
    try:
        os.write(fd, b"%d %d" % (first, last))
    finally:
        os.close(fd)


def _enter(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RlessError(f"--network ns:{path}: {error.strerror}") from error
    try:
        ns.setns(fd, ns.CLONE_NEWNET)
    except SyscallError as error:
        if error.errno == errno.EPERM:
            raise RlessError(
                f"--network ns:{path}: it belongs to a user namespace where you have no rights",
                "run rless in that one, or join a container by --network container:NAME",
            ) from error
        raise RlessError(f"--network ns:{path}: it is not a network namespace") from error
    finally:
        os.close(fd)
