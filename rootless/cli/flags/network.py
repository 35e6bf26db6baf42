"""Read the values about the network: its mode, addresses, names and ports."""

from __future__ import annotations

from rootless.cli.flags.values import absolute, choice, integer, line, name_ok, refuse
from rootless.engine.request import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def address(value: str) -> str:
    """Return `value` if it is an IPv4 or IPv6 address, without a zone."""
    if not (_is_address(value, "AF_INET") or _is_address(value, "AF_INET6")):
        raise ValueError("is not an IP address")
    return value


def ip4(value: str) -> str | None:
    """Return an IPv4 address."""
    if value and not _is_address(value, "AF_INET"):
        raise ValueError("is not an IPv4 address")
    return value or None


def ip6(value: str) -> str | None:
    """Return an IPv6 address."""
    if value and not _is_address(value, "AF_INET6"):
        raise ValueError("is not an IPv6 address")
    return value or None


def _is_address(value: str, family: str) -> bool:
    import _socket  # the C half: `socket` itself would load enum and selectors

    try:
        _socket.inet_pton(getattr(_socket, family), value)
    except (OSError, ValueError):
        return False
    return True


def mac(value: str) -> str | None:
    """Return the hardware address of one interface, in lower case."""
    if not value:
        return None
    parts = value.replace("-", ":").split(":")
    if len(parts) != 6 or not all(len(part) == 2 for part in parts):
        raise ValueError("is not a MAC address")
    try:
        first = bytes(int(part, 16) for part in parts)[0]
    except ValueError:
        raise ValueError("is not a MAC address") from None
    if first & 1 or not any(part != "00" for part in parts):
        raise ValueError("is not the address of one interface")
    return ":".join(parts).lower()


def network(value: str) -> str | dict[str, Any] | None:
    """Return the network mode, None for the default (pasta), or a network with endpoint options.

    The latter is `NAME[:KEY=VALUE,...]` as Podman has it, or `name=NAME,KEY=VALUE,...`.
    """
    head = value.split(",", 1)[0]
    if "=" in head and ":" not in head.partition("=")[0]:
        fields = value.split(",")
        names = [field[5:] for field in fields if field.startswith("name=")]
        if len(names) != 1:
            raise ValueError("is not name=NAME[,KEY=VALUE...]")
        return _endpoint(names[0], [field for field in fields if not field.startswith("name=")])
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
    if value.startswith("ns:"):
        return f"ns:{absolute(value.removeprefix('ns:'))}"
    if value.startswith("slirp4netns"):
        raise refuse(f"--network {value}", "pasta does this here", "leave it out")
    name, _, rest = value.partition(":")
    return _endpoint(name, rest.split(",") if rest else [])


_DRIVER_OPT = "driver-opt="


def _endpoint(name: str, fields: list[str]) -> str | dict[str, Any] | None:
    """Return a network with the options of the container's endpoint; None: it is a mode."""
    if not fields and name in ("", "default", "private", "pasta", "none", "host"):
        return network(name)
    if not name.strip() or not all(char.isalnum() or char in "_.- " for char in name):
        raise ValueError("is not a mode, nor the name of a network")
    endpoint: dict[str, Any] = {"name": name}
    for field in fields:
        key, _, text = field.removeprefix(_DRIVER_OPT).partition("=")
        if key in ("ip", "ip6"):
            endpoint[key] = (ip4 if key == "ip" else ip6)(text)
        elif key in ("mac", "mac-address"):
            endpoint["mac"] = mac(text)
        elif key == "alias":
            endpoint.setdefault("aliases", []).append(alias(text))
        elif key in ("interface_name", "interface-name", "com.docker.network.endpoint.ifname"):
            if not 0 < len(text) < 16 or any(char.isspace() or char in "/:%" for char in text):
                raise ValueError(f"has {text!r}, which is not the name of an interface")
            endpoint["interface"] = line(text)
        else:
            raise refuse(f"--network {name}:{field}", "there is no such option")
    return endpoint


def alias(value: str) -> str:
    """Return a name under which others find the container.

    It goes to the hub, where ">" makes a link of it, and as a link's into /etc/hosts.
    """
    if not value or any(not char.isprintable() or char in " >#" for char in value):
        raise ValueError("is not a name")
    if len(value.encode()) > 253:
        raise ValueError("is longer than 253 bytes")
    return value


def link(value: str) -> tuple[str, str]:
    """Return (container, alias) of `CONTAINER[:ALIAS]`, or inspect's `/CONTAINER:/NAME/ALIAS`."""
    name, _, other = value.partition(":")
    if name.startswith("/"):
        name, other = name[1:], other.rpartition("/")[2]
    if not name_ok(f"{name}-"):  # of one character: the beginning of an id
        raise ValueError("is not CONTAINER[:ALIAS]")
    return name, alias(other or name)


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
        return line(name), target
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
