"""Subnets and addresses of bridge networks: which are free, and which container has one.

The address of a running container is a link <run>/<boot>/leases/<network id>/<address> whose target
is the container's id. The lease is valid as long as that container has a run record, so it needs no
release. An address of --ip is reserved for as long as the container exists, by a link in
<storage>/networks/<network id>.
"""

from __future__ import annotations

import _socket
import os

from rootless import paths
from rootless.errors import RlessError
from rootless.linux.locks import Locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

_FIRST, _LAST = 0, 255  # of the subnets 10.89.N.0/24, as Podman takes them


class Subnet:
    """A range of addresses, as numbers.

    Attributes:
        size: bytes of an address, 4 or 16.
        base, prefix: the first address, and how many bits all share.
    """

    __slots__ = ("base", "prefix", "size")

    def __init__(self, base: int, prefix: int, size: int) -> None:
        self.base = base
        self.prefix = prefix
        self.size = size

    @property
    def count(self) -> int:
        """Return how many addresses there are."""
        return 1 << (8 * self.size - self.prefix)

    def __contains__(self, address: int) -> bool:
        return self.base <= address < self.base + self.count

    def overlaps(self, other: Subnet) -> bool:
        """Tell whether an address is in both."""
        if self.size != other.size:
            return False
        return self.base < other.base + other.count and other.base < self.base + self.count

    def __str__(self) -> str:
        return f"{show(self.base, self.size)}/{self.prefix}"


def number(text: str) -> tuple[int, int]:
    """Return an address as (number, bytes).

    Raises:
        RlessError: it is none.
    """
    family = _socket.AF_INET6 if ":" in text else _socket.AF_INET
    try:
        packed = _socket.inet_pton(family, text)
    except (OSError, ValueError):
        raise RlessError(f"{text!r} is not an IP address") from None
    return int.from_bytes(packed, "big"), len(packed)


def packed(text: str) -> bytes:
    """Return an address as 4 or 16 bytes; of "" none."""
    if not text:
        return b""
    value, size = number(text)
    return value.to_bytes(size, "big")


def show(value: int, size: int) -> str:
    """Return an address as text."""
    family = _socket.AF_INET6 if size == 16 else _socket.AF_INET
    return _socket.inet_ntop(family, value.to_bytes(size, "big"))


def subnet(text: str) -> Subnet:
    """Return the subnet of "10.89.0.0/24".

    Raises:
        RlessError: it is none, or bits are set beyond its prefix.
    """
    address, slash, bits = text.partition("/")
    base, size = number(address)
    if not slash or not bits.isdigit() or int(bits) > 8 * size:
        raise RlessError(f"{text!r} is not a subnet such as 10.89.7.0/24")
    made = Subnet(base, int(bits), size)
    if base % made.count:
        right = Subnet(base - base % made.count, made.prefix, size)
        raise RlessError(f"{text!r} is not a subnet: do you mean {right}?")
    return made


def free_subnet(taken: Iterable[Subnet]) -> Subnet:
    """Return an IPv4 subnet that no network has, and no route of the host.

    Raises:
        RlessError: there is none left.
    """
    from rootless.network import interfaces

    routes = (f"{base}/{prefix}" for base, prefix in interfaces.host_routes())
    used = [*taken, *map(subnet, routes)]
    for third in range(_FIRST, _LAST + 1):
        candidate = Subnet((10 << 24) | (89 << 16) | (third << 8), 24, 4)
        if not any(candidate.overlaps(other) for other in used):
            return candidate
    raise RlessError("no subnet of 10.89.0.0/16 is free", "give one with --subnet")


def free_subnet6() -> Subnet:
    """Return a unique local IPv6 subnet; by RFC 4193 it is one by chance."""
    return Subnet(int.from_bytes(b"\xfd" + os.urandom(7) + bytes(8), "big"), 64, 16)


# -- leases ----------------------------------------------------------------------------------------


def _leases(network_id: str) -> str:
    return paths.checked(f"{paths.checked(f'{paths.boot_root()}/leases')}/{network_id}")


def _kept(network_id: str) -> str:
    return f"{paths.storage_root()}/networks/{network_id}"


def take(
    network_id: str,
    container_id: str,
    ranges: Collection[tuple[Subnet, Subnet, int]],
    requested: dict[int, int],
    is_live: Callable[[str], bool],
    exists: Callable[[str], bool],
    reserved: Collection[str] = (),
) -> dict[int, int]:
    """Give a container an address of each family that a network has; return size -> address.

    Args:
        ranges: (subnet, where addresses are given from, gateway) each.
        requested: size -> address of --ip and --ip6. The container keeps them while it exists: no
            other is given them by itself. One that asks for them, too, gets them while they are
            not in use, as when Compose makes a container anew beside the old one.
        is_live, exists: tell of a container whether it runs or is being started, and whether it
            is there.
        reserved: addresses that are given only if they are asked for.

    Raises:
        RlessError: the address is another one's, or none is free.
    """
    directory = _leases(network_id)
    with Locked(directory):
        kept = _read(_kept(network_id), exists, container_id)
        live = _read(directory, is_live, container_id)
        given = {}
        for whole, part, gateway in ranges:
            asked = requested.get(whole.size)
            used = live if asked is not None else {**kept, **live}
            address = _choose(whole, part, gateway, asked, used, reserved)
            _link(directory, show(address, whole.size), container_id)
            if asked is not None:
                _link(paths.checked(_kept(network_id)), show(address, whole.size), container_id)
            given[whole.size] = address
        return given


def _choose(
    whole: Subnet,
    part: Subnet,
    gateway: int,
    asked: int | None,
    used: dict[str, str],
    kept: Collection[str],
) -> int:
    if asked is not None:
        text = show(asked, whole.size)
        if asked not in whole:
            raise RlessError(f"the address {text} is not in the network's subnet {whole}")
        if asked == gateway:
            raise RlessError(f"the address {text} is the network's gateway")
        if text in used:
            raise RlessError(f"the address {text} is in use by container {used[text][:12]}")
        return asked
    # The first and the last address of an IPv4 subnet mean all of it.
    reserved = {whole.base, gateway}
    if whole.size == 4 and whole.prefix < 31:
        reserved.add(whole.base + whole.count - 1)
    for address in range(part.base, part.base + part.count):
        if address in reserved:
            continue
        text = show(address, whole.size)
        if text not in used and text not in kept:
            return address
    raise RlessError(f"no address of {part} is free")


def _read(directory: str, counts: Callable[[str], bool], own: str) -> dict[str, str]:
    """Return address -> container; what no longer counts is removed."""
    used: dict[str, str] = {}
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return used
    for name in names:
        path = f"{directory}/{name}"
        try:
            owner = os.readlink(path)
        except OSError:
            continue
        if owner != own and counts(owner):
            used[name] = owner
        elif owner != own:
            _unlink(path)
    return used


def _link(directory: str, name: str, container_id: str) -> None:
    path = f"{directory}/{name}"
    _unlink(path)  # our own, of an earlier start, or of one that is gone
    os.symlink(container_id, path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def give_back(network_id: str, container_id: str) -> None:
    """Take a container's addresses back, also those that it had asked for."""
    for directory in (_leases(network_id), _kept(network_id)):
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            continue
        for name in names:
            try:
                if os.readlink(f"{directory}/{name}") == container_id:
                    _unlink(f"{directory}/{name}")
            except OSError:
                continue


def forget(network_id: str) -> None:
    """Remove what is noted of a network."""
    import shutil

    shutil.rmtree(_leases(network_id), ignore_errors=True)
    shutil.rmtree(_kept(network_id), ignore_errors=True)
