"""Read the values about the network: its mode, addresses, names and ports."""

from __future__ import annotations

from rootless.cli.values import choice, integer, line, refuse
from rootless.engine.request import Port


def address(value: str) -> str:
    """Return `value` if it is an IPv4 or IPv6 address, without a zone."""
    import _socket  # the C half: `socket` itself would load enum and selectors

    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, value)
        except (OSError, ValueError):
            continue
        return value
    raise ValueError("is not an IP address")


def network(value: str) -> str | None:
    """Return the network mode, None for the default one (pasta)."""
    if "=" in value and not value.startswith("pasta:"):
        fields = dict(part.partition("=")[::2] for part in value.split(","))
        value = fields.pop("name", "")
        if fields:
            raise refuse(f"--network {'='.join(fields.popitem())}", "not built yet")
    if value in ("", "default", "private", "pasta"):
        return None
    if value in ("none", "host"):
        return value
    if value.startswith("pasta:"):
        return line(value)
    if value.startswith("container:"):
        if value == "container:":
            raise ValueError("names no container")
        return line(value)
    raise refuse(
        f"--network {value}",
        "networks of several containers are not built yet",
        "leave it out (pasta), or use pasta:OPTIONS, none, host, container:NAME",
    )


def dns(value: str) -> str:
    """Return the address of a name server."""
    return address(value.strip(" "))


def dns_search(value: str) -> str:
    """Return a search domain; "." stands for none."""
    value = value.strip(" ")
    if value == ".":
        return value
    labels = value.removesuffix(".").split(".")
    if len(value) > 254 or not all(
        part.isascii() and part.replace("-", "a").replace("_", "a").isalnum() for part in labels
    ):
        raise ValueError("is not a domain")
    return value


def dns_option(value: str) -> str:
    """Return one option of resolv.conf(5)."""
    if not value or any(char.isspace() for char in value):
        raise ValueError("is empty or has white space")
    return line(value)


def add_host(value: str) -> tuple[str, str]:
    """Return (name, address) of `name:ip` or `name=ip`; the address may have brackets."""
    name, separator, target = value.partition("=" if "=" in value else ":")
    if not separator or not name or ":" in name or any(char.isspace() for char in name):
        raise ValueError("is not NAME:ADDRESS")
    if target == "host-gateway":
        raise refuse(
            f"--add-host {name}:host-gateway",
            "the container has no address of the host to talk to",
            "give an address",
        )
    if target.startswith("[") and target.endswith("]"):
        target = target[1:-1]
    return line(name), address(target)


def _protocol(value: str, flag: str) -> str:
    if value == "sctp":
        raise refuse(f"{flag} with sctp", "the network drivers here carry tcp and udp")
    return choice(value.lower(), "tcp", "udp")


def publish(value: str) -> list[Port]:
    """Return the ports of `[[ip:][hostPort]:]containerPort[/tcp|udp]`, or of its long form.

    Ranges are as long as each other, or there is one port of the container: then the host's is
    any free one of the range. No host port, or 0, is any free one at all.
    """
    if "=" in value:
        fields = dict(part.partition("=")[::2] for part in value.split(","))
        unknown = set(fields) - {"published", "target", "protocol", "mode"}
        if unknown or "target" not in fields:
            raise ValueError("is not published=PORT,target=PORT[,protocol=PROTOCOL]")
        if fields.get("mode", "host") not in ("host", "ingress"):
            raise ValueError("has a mode other than host and ingress")
        value = f"{fields.get('published', '')}:{fields['target']}/{fields.get('protocol', 'tcp')}"
    rest, slash, protocol = value.partition("/")
    protocol = _protocol(protocol, "--publish") if slash else "tcp"
    head, _, container = rest.rpartition(":")
    host_ip, _, host = head.rpartition(":")
    if host_ip.startswith("[") and host_ip.endswith("]"):
        host_ip = host_ip[1:-1]
    ip = address(host_ip) if host_ip else None
    first, last = _range(container, 1)
    low, high = _range(host, 0) if host else (0, 0)
    if first == last and high > low:
        if not low:
            raise ValueError("has a range that begins with port 0")
        return [Port(ip, low, first, protocol, high)]
    if low and high - low != last - first:
        raise ValueError("has ranges of different lengths")
    return [
        Port(ip, low + number - first if low else None, number, protocol)
        for number in range(first, last + 1)
    ]


def _range(value: str, least: int) -> tuple[int, int]:
    low, dash, high = value.partition("-")
    first = integer(low, least, 65535)
    last = integer(high, least, 65535) if dash else first
    if last < first:
        raise ValueError("is a range that ends before it begins")
    return first, last


def expose(value: str) -> str:
    """Return `80/tcp` or `90-99/udp`."""
    ports, slash, protocol = value.partition("/")
    first, last = _range(ports, 1)
    span = f"{first}-{last}" if last > first else str(first)
    return f"{span}/{choice(protocol.lower(), 'tcp', 'udp', 'sctp') if slash else 'tcp'}"
