"""The command line of pasta: what is published, what the host has, what the user asked for.

Every option for ports is given, always: what is left out is "auto" in pasta, which forwards
whatever listens, in both directions (security class 38).
"""

from __future__ import annotations

import os
import stat

from rootless.errors import RlessError
from rootless.linux import processor
from rootless.network import resolv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.network.ports import Port

# As for newuidmap: only what root has installed is run, wherever $PATH points.
_DIRECTORIES = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin")

_ROUTES4, _ROUTES6 = "/proc/net/route", "/proc/net/ipv6_route"

# pasta's own address in the container's network; the version of 2023 takes that of the host's
# interface by default, and gives up where it has none, as with a VPN (tun, WireGuard).
_MAC = "9a:55:9a:55:9a:55"
# For a host without a default route: addresses of its own instead of the host's.
_OFFLINE = ["-4", "-i", "lo", "-a", "10.0.2.100", "-n", "24", "-g", "10.0.2.2"]

# Options of pasta that --network=pasta:OPTIONS must not give, because they are how it is run.
_RESERVED = frozenset(
    "-F -P -f -h -s --netns --netns-only --no-netns-quit --runas --userns --version".split()
)
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


def find() -> str | None:
    """Return the absolute path of pasta; None: it is not installed (or not by root).

    Whoever owns "/" counts as root: in a user namespace without id 0 that is the overflow id.
    """
    return next(
        (path for path in (f"{base}/pasta" for base in _DIRECTORIES) if _is_safe(path)), None
    )


def _is_safe(path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    closed = stat.S_ISREG(status.st_mode) and not status.st_mode & 0o022
    return closed and status.st_uid in (0, os.stat("/").st_uid)


def _build_of(path: str) -> str:
    """Return the build for this processor: what pasta itself would find and execute, in 1 ms."""
    build = f"{os.path.realpath(path)}.avx2"
    return build if processor.has_avx2() and _is_safe(build) else path


def command(ports: Sequence[Port], options: Sequence[str] = ()) -> list[str]:
    """Return the arguments of pasta, from its absolute path on, all but the namespaces.

    Args:
        ports: what is published; nothing else is forwarded.
        options: of --network=pasta:OPTIONS, as Podman takes them; each replaces what would be
            the default here (`-T 5432`, `--map-gw`, `-I tap0`, `-4`).

    Raises:
        RlessError: no pasta, no /dev/net/tun, an option that cannot be, or a port that is
            taken or not ours to take.

    Where it runs: on the host, as the user.
    """
    path = find()
    if path is None:
        raise RlessError(
            "the default network needs pasta, which is not installed",
            "install the package passt, or use --network=host or --network=none",
        )
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        raise RlessError(
            "the default network needs /dev/net/tun, which is missing or closed to you",
            "ask the administrator for `modprobe tun` and mode 0666, "
            "or use --network=host or --network=none",
        )
    if ports:
        from rootless.network.ports import take

        take(ports)
    given = _given(options)
    arguments = [
        _build_of(path),
        "--config-net",
        "--quiet",
        "--foreground",
        "--pid",
        "/proc/self/fd/1",
    ]
    if os.geteuid() == 0:
        arguments += ["--runas", "0"]  # it becomes nobody otherwise, who may not join
    if "--map-gw" not in given and "--map-host-loopback" not in given:
        arguments.append("--no-map-gw")
    for flag in ("-T", "-U"):
        if flag not in given:
            arguments += [flag, "none"]
    for flag, protocol in (("-t", "tcp"), ("-u", "udp")):
        published = [_port_spec(port) for port in ports if port.protocol == protocol]
        for spec in published:
            arguments += [flag, spec]
        if not published and flag not in given:
            arguments += [flag, "none"]
    if "-I" not in given:
        arguments += ["-I", "eth0"]  # as in Docker; the default is the host's name for it
    if "-M" not in given:
        arguments += ["-M", _MAC]
    if not given & {"-4", "-6", "-a", "-g", "-i"}:
        arguments += _families()
    if "--dns-forward" not in given and resolv.needs_forward(resolv.read_host()):
        arguments += ["--dns-forward", resolv.FORWARD]
    return arguments + [option for option in options if option != "--map-gw"]


def interface(arguments: Sequence[str]) -> str:
    """Return the name of the container's interface in the arguments of pasta."""
    name = ""
    for index, argument in enumerate(arguments):
        if argument in ("-I", "--ns-ifname") and index + 1 < len(arguments):
            name = arguments[index + 1]
        elif argument.startswith("--ns-ifname="):
            name = argument.partition("=")[2]
        elif argument.startswith("-I"):
            name = argument[2:]
    return name or "eth0"


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
        if name in _RESERVED:
            raise RlessError(
                f"--network=pasta: {option} is not supported: rless itself decides how pasta runs"
            )
        given.add(name)
    return given


def _port_spec(port: Port) -> str:
    address = f"{port.host_ip}/" if port.host_ip else ""
    return f"{address}{port.host_port}:{port.container_port}"


def _families() -> list[str]:
    """Return the options for what the host has: both families, one, or no way out at all.

    pasta copies the addresses of the interface with the default route. The version of 2023
    refuses to start where there is none: then the container gets addresses of its own, and
    published ports and connections to the host's other addresses work all the same.
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
