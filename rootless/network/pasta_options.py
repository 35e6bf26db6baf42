"""The command line of pasta: published ports, the families of the host, options of the user.

Every option for ports is always given. An option that is left out means "auto" to pasta, which then
forwards every listening port, in both directions (security class 38).
"""

from __future__ import annotations

import os

from rootless.errors import RlessError
from rootless.linux import processor, programs
from rootless.network import resolv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.network.ports import Port

_ROUTES4, _ROUTES6 = "/proc/net/route", "/proc/net/ipv6_route"

# pasta's own address in the container's network; the version of 2023 takes that of the host's
# interface by default, and gives up where it has none, as with a VPN (tun, WireGuard).
_MAC = "9a:55:9a:55:9a:55"
# Containers do not get the host's addresses, as pasta would have it: what they send to one of these
# would stay inside, and a connection from the host to its own address, to a published port, would
# come from the container's own and never arrive (in all versions). A host without a default route
# has none to give. What pasta makes of these addresses is an ordinary connection of the host.
_OWN_ADDRESS, _OWN_ADDRESS6 = "10.0.2.100", "fd52:6c65:7373::100"
_OFFLINE = ["-4", "-i", "lo"]
_OF_MACS = frozenset("0123456789abcdefABCDEF:")

# Options of pasta that --network=pasta:OPTIONS must not give, because they are how it is run.
_RESERVED = frozenset(
    "-1 -F -P -f -h -s --netns --netns-only --no-netns-quit --one-off --print-capabilities"
    " --repair-path --runas --socket-path --userns --version --vhost-user".split()
)
# Options that decide on the addresses of the container.
_ADDRESSING = {"-4", "-6", "-a", "-g", "-i"}
_LONG = {
    "--address": "-a",
    "--fd": "-F",
    "--foreground": "-f",
    "--gateway": "-g",
    "--help": "-h",
    "--interface": "-i",
    "--ipv4-only": "-4",
    "--ipv6-only": "-6",
    "--mac-addr": "-M",
    "--ns-ifname": "-I",
    "--pid": "-P",
    "--socket": "-s",
    "--tcp-ns": "-T",
    "--tcp-ports": "-t",
    "--udp-ns": "-U",
    "--udp-ports": "-u",
}


def _build_of(path: str) -> str:
    """Return the build for this processor: what pasta itself would find and execute, in 1 ms."""
    build = f"{os.path.realpath(path)}.avx2"
    return build if processor.has_avx2() and programs.is_trusted(build) else path


def program() -> str:
    """Return the absolute path of pasta.

    Raises:
        RlessError: no pasta, no /dev/net/tun.
    """
    path = programs.find_pasta()
    if path is None:
        raise RlessError(
            "the default network needs pasta, which is not installed",
            "install the package passt, or build it for yourself as docs/network.md says, "
            "or use --network=host or --network=none",
        )
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        from rootless.host.tun import hint_for_tun_failure

        why, hint = hint_for_tun_failure()
        raise RlessError(
            f"the default network needs /dev/net/tun: {why}",
            f"use --network=host or --network=none, or: {hint}",
        )
    return path


def command(
    ports: Sequence[Port],
    options: Sequence[str] = (),
    *,
    ip: str | None = None,
    ip6: str | None = None,
    mac: str | None = None,
) -> list[str]:
    """Return the arguments of pasta, from its absolute path on, all but the namespaces.

    Args:
        ports: what is published, each with its number (`ports.take`); nothing else is forwarded.
        options: of --network=pasta:OPTIONS, as Podman takes them; each replaces what would be
            the default here (`-T 5432`, `--map-gw`, `-I tap0`, `-4`).
        ip, ip6, mac: addresses of the container; None: always the same ones, and a random one,
            which pasta must be told of before it meets the interface (`loopback_guard`).

    Raises:
        RlessError: of `program`, or an option that cannot be.

    Where it runs: on the host, as the user.
    """
    path = _build_of(program())
    given = _given(options)
    arguments = [path, "--config-net", "--quiet", "--foreground", "--pid", "/proc/self/fd/1"]
    # We end it ourselves. To watch for the namespace's end costs 10 ms at its own (inotify, SRCU).
    arguments.append("--no-netns-quit")
    if os.geteuid() == 0:
        arguments += ["--runas", "0"]  # it becomes nobody otherwise, who may not join
    if "--map-gw" not in given and "--map-host-loopback" not in given:
        arguments.append("--no-map-gw")
    for flag in ("-T", "-U"):
        if flag not in given:
            arguments += [flag, "none"]
    for flag, protocol in (("-t", "tcp"), ("-u", "udp")):
        published = _port_specs([port for port in ports if port.protocol == protocol])
        for spec in published:
            arguments += [flag, spec]
        if not published and flag not in given:
            arguments += [flag, "none"]
    if "-I" not in given:
        arguments += ["-I", "eth0"]  # as in Docker; the default is the host's name for it
    if "--ns-mac-addr" not in given:
        arguments += ["--ns-mac-addr", mac or _random_mac()]
    if "-M" not in given:
        arguments += ["-M", _MAC]
    if not given & _ADDRESSING:
        arguments += _addresses(ip, ip6)
    elif ip or ip6:
        raise RlessError("--network=pasta:OPTIONS give the addresses, and so does another flag")
    if "--dns-forward" not in given and resolv.needs_forward(resolv.read_host()):
        arguments += ["--dns-forward", resolv.FORWARD]
    return arguments + [option for option in options if option != "--map-gw"]


def shares_addresses(options: Sequence[str]) -> bool:
    """Tell whether options of --network=pasta may give the container the host's addresses.

    Raises:
        RlessError: an option that cannot be.
    """
    return bool(_given(options) & _ADDRESSING)


def interface(arguments: Sequence[str]) -> str:
    """Return the name of the container's interface in the arguments of pasta."""
    return _value(arguments, "--ns-ifname", "-I") or "eth0"


def mac_address(arguments: Sequence[str]) -> str:
    """Return the hardware address of the container's interface; "": it is not to be read."""
    value = _value(arguments, "--ns-mac-addr")
    parts = value.split(":")
    well_formed = len(parts) == 6 and all(len(part) == 2 for part in parts)
    return value if well_formed and not set(value) - _OF_MACS else ""


def _value(arguments: Sequence[str], long: str, short: str | None = None) -> str:
    """Return the last value of an option; "": it is not given."""
    value = ""
    for index, argument in enumerate(arguments):
        if argument in (long, short):
            value = arguments[index + 1] if index + 1 < len(arguments) else ""
        elif argument.startswith(f"{long}="):
            value = argument.partition("=")[2]
        elif short is not None and argument.startswith(short):
            value = argument[2:]
    return value


def _random_mac() -> str:
    """Return an address of one interface that nobody has assigned (IEEE 802: local, unicast)."""
    return f"02:{os.urandom(5).hex(':')}"


def _given(options: Sequence[str]) -> set[str]:
    """Return which options a user gives, by their short name where there is one.

    Raises:
        RlessError: one that decides how pasta is run.
    """
    given = set()
    for option in options:
        if not option.startswith("-"):
            continue  # the value of the option before it
        name = option.partition("=")[0] if option.startswith("--") else option[:2]
        name = _LONG.get(name, name)
        # getopt takes the beginning of a long name for the whole.
        reserved = name in _RESERVED or any(
            name.startswith("--") and other.startswith(name) for other in (*_RESERVED, *_LONG)
        )
        if reserved:
            raise RlessError(
                f"--network=pasta: {option} is not supported: rless itself decides how pasta runs"
            )
        given.add(name)
    return given


def _port_specs(ports: Sequence[Port]) -> list[str]:
    """Return the values of -t or -u; neighbours are one range."""
    runs: list[tuple[str | None, int, int, int]] = []  # address, host, container, how many
    for port in ports:
        host, container = port.host_port or 0, port.container_port
        if runs:
            address, first, inner, count = runs[-1]
            if (address, first + count, inner + count) == (port.host_ip, host, container):
                runs[-1] = (address, first, inner, count + 1)
                continue
        runs.append((port.host_ip, host, container, 1))
    return [
        (f"{address}/" if address else "") + f"{_span(host, count)}:{_span(container, count)}"
        for address, host, container, count in runs
    ]


def _span(first: int, count: int) -> str:
    return f"{first}-{first + count - 1}" if count > 1 else str(first)


def _addresses(ip: str | None, ip6: str | None) -> list[str]:
    """Return the options for families and addresses.

    Raises:
        RlessError: an address of a family that the host has no way out by.
    """
    arguments = list(families())
    if "-6" not in arguments:
        ip = ip or _OWN_ADDRESS
    if "-4" not in arguments:
        ip6 = ip6 or _OWN_ADDRESS6
    if ip:
        if "-6" in arguments:
            raise RlessError(f"the container cannot have {ip}: this host has no way out by IPv4")
        net, _, last = ip.rpartition(".")
        # The version of 2023 makes no default route by a gateway that is not in the same network.
        arguments += ["-a", ip, "-n", "24", "-g", f"{net}.{1 if last == '2' else 2}"]
    if ip6:
        if "-4" in arguments:
            raise RlessError(f"the container cannot have {ip6}: this host has no way out by IPv6")
        import _socket

        packed = _socket.inet_pton(_socket.AF_INET6, ip6)
        end = b"\2" if packed[-1] == 1 else b"\1"
        gateway = _socket.inet_ntop(_socket.AF_INET6, packed[:8] + bytes(7) + end)
        arguments += ["-a", ip6, "-g", gateway]
    return arguments


def families() -> list[str]:
    """Return the options for what the host has: both families, one, or no way out at all.

    pasta looks for the interface with the default route. The version of 2023 refuses to start
    where there is none: then it is given the loopback, and published ports and connections to the
    host's other addresses work all the same.
    """
    ipv4 = ipv6 = False
    try:
        with open(_ROUTES4, "rb") as file:
            for line in file:
                fields = line.split()
                # Interface, destination, gateway, flags, ..., mask; 0x1: up; 0x200: reject
                if len(fields) > 7 and fields[1] == fields[7] == b"00000000":
                    ipv4 = ipv4 or int(fields[3], 16) & 0x201 == 0x1
    except OSError:
        pass
    try:
        with open(_ROUTES6, "rb") as file:
            for line in file:
                if line.startswith(b"0" * 32 + b" 00 "):
                    fields = line.split()
                    ipv6 = ipv6 or (int(fields[8], 16) & 0x201 == 0x1 and fields[9] != b"lo")
    except OSError:
        pass  # a kernel without IPv6
    if ipv4 and ipv6:
        return []
    if ipv4:
        return ["-4"]
    return ["-6"] if ipv6 else _OFFLINE
