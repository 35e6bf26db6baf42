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


def publish(value: str) -> Port:
    """Return the port of `[ip:]hostPort:containerPort[/tcp|udp]`, or of its long form."""
    if "=" in value and not value.startswith("pasta:"):
        fields = dict(part.partition("=")[::2] for part in value.split(","))
        unknown = set(fields) - {"published", "target", "protocol", "mode"}
        if unknown or "target" not in fields:
            raise ValueError("is not published=PORT,target=PORT[,protocol=PROTOCOL]")
        value = f"{fields.get('published', '')}:{fields['target']}/{fields.get('protocol', 'tcp')}"
    rest, slash, protocol = value.partition("/")
    protocol = _protocol(protocol, "--publish") if slash else "tcp"
    head, _, container = rest.rpartition(":")
    host_ip, _, host = head.rpartition(":")
    if "-" in host + container:
        raise refuse(f"--publish {value}", "port ranges are not built yet", "give each port")
    container_port = integer(container, 1, 65535)
    if host in ("", "0"):
        raise refuse(
            f"--publish {value}",
            "a random host port is not built yet",
            "give HOST_PORT:CONTAINER_PORT",
        )
    if host_ip.startswith("[") and host_ip.endswith("]"):
        host_ip = host_ip[1:-1]
    elif ":" in host_ip:
        raise ValueError("has an IPv6 address without brackets")
    ip = address(host_ip) if host_ip else None
    return Port(ip, integer(host, 1, 65535), container_port, protocol)


def expose(value: str) -> str:
    """Return `80/tcp` or `90-99/udp`."""
    ports, slash, protocol = value.partition("/")
    low, dash, high = ports.partition("-")
    first = integer(low, 1, 65535)
    last = integer(high, 1, 65535) if dash else first
    if last < first:
        raise ValueError("is a range that ends before it begins")
    span = f"{first}-{last}" if dash else str(first)
    return f"{span}/{choice(protocol.lower(), 'tcp', 'udp', 'sctp') if slash else 'tcp'}"
