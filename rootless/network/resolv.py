"""The text of /etc/resolv.conf, /etc/hosts and /etc/hostname of a container.

All functions but `read_host` are pure. Names and addresses of the user are checked, because a
newline in them would start another line of the file (security class 29).
"""

from __future__ import annotations

import os

from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Where pasta answers DNS queries with what the host's resolver says, if that one listens on a
# loopback address of the host, which the container cannot reach. The address is Podman's.
FORWARD = "169.254.1.1"

_HOST_FILE = "/etc/resolv.conf"
_RESOLVED_FILE = "/run/systemd/resolve/resolv.conf"  # what systemd-resolved itself asks
_RESOLVED_STUBS = ("127.0.0.53", "127.0.0.54")
_LIMIT = 1 << 20  # bytes
_MAX_NAMESERVERS = 3  # glibc and musl look at no more (resolv.conf(5))
_MAX_HOSTNAME = 64  # bytes; the kernel's limit

_HOSTS_HEAD = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)
_OWN_ADDRESS = "127.0.1.1"


def read_host() -> str:
    """Return the host's resolv.conf as a container can use it; empty if there is none.

    Behind systemd-resolved's stub on 127.0.0.53 it is the file with the servers that the stub
    asks, as Docker and Podman do: unlike a forwarded stub they answer by TCP too with the
    pasta of 2023 (long answers need that).
    """
    text = _read(_HOST_FILE)
    servers = _values(text, "nameserver")
    if servers and all(server in _RESOLVED_STUBS for server in servers):
        return _read(_RESOLVED_FILE) or text
    return text


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        return os.read(fd, _LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _values(text: str, keyword: str) -> list[str]:
    """Return what stands behind a keyword, line by line, as resolv.conf(5) reads it."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 1 and fields[0] == keyword:
            found.append(" ".join(fields[1:]))
    return found


def _is_loopback(server: str) -> bool:
    return server.startswith("127.") or server in ("::1", "0.0.0.0", "::")


def _reachable(text: str) -> list[str]:
    """Return the servers that can be reached from another network namespace."""
    servers = [value.split()[0] for value in _values(text, "nameserver")]
    # An address with a zone (fe80::1%eth0) is one of the host's own links.
    return [server for server in servers if not _is_loopback(server) and "%" not in server]


def needs_forward(host_text: str) -> bool:
    """Tell whether the host's only resolvers are on its loopback: pasta must forward to them.

    No resolver at all means one on 127.0.0.1 (resolv.conf(5)).
    """
    return not _reachable(host_text)


def resolv_text(
    host_text: str,
    dns: Sequence[str],
    search: Sequence[str],
    options: Sequence[str],
    *,
    private_network: bool,
) -> str:
    """Return the resolv.conf of a container.

    Args:
        host_text: the host's; of `read_host` where the network is not the host's.
        dns, search, options: of --dns, --dns-search ("." alone: none), --dns-option; each
            replaces what the host has.
        private_network: the container has a network of its own, so the host's loopback
            resolvers are replaced by what pasta forwards to them.

    Raises:
        RlessError: a value that cannot be in that file.
    """
    if not private_network and not (dns or search or options):
        return host_text
    for server in dns:
        check_address(server, "--dns")
    for flag, values in (("--dns-search", search), ("--dns-option", options)):
        for value in values:
            _check_word(value, flag)
    if dns:
        servers = list(dns)
    elif private_network:
        servers = _reachable(host_text) or [FORWARD]
    else:
        servers = [value.split()[0] for value in _values(host_text, "nameserver")]
    lines = [f"nameserver {server}" for server in servers[:_MAX_NAMESERVERS]]
    if search:
        domains = " ".join(domain for domain in search if domain != ".")
    else:
        domains = (_values(host_text, "search") or _values(host_text, "domain") or [""])[-1]
    if domains:
        lines.append(f"search {domains}")
    chosen = list(options) or _values(host_text, "options")
    if chosen:
        lines.append(f"options {' '.join(chosen)}")
    return "".join(f"{line}\n" for line in lines)


def hosts_text(
    hostname: str,
    domainname: str | None,
    add_host: Sequence[tuple[str, str]],
    addresses: Sequence[str] = (),
    host_text: str | None = None,
) -> str:
    """Return the hosts file of a container.

    Args:
        add_host: (name, address) of --add-host, in the order given.
        addresses: the container's own; none: 127.0.1.1, as Debian does where it may change.
        host_text: the host's file, for a container in the host's network.

    Raises:
        RlessError: a name or an address that cannot be in that file.
    """
    added = ""
    for name, target in add_host:
        _check_word(name, "--add-host")
        added += f"{check_address(target, '--add-host')}\t{name}\n"
    if host_text is not None:
        return added + host_text
    own = check_hostname(hostname)
    if domainname:
        _check_word(domainname, "--domainname")
        if "." not in own:
            own = f"{own}.{domainname} {own}"
    lines = "".join(f"{address}\t{own}\n" for address in addresses or [_OWN_ADDRESS])
    return f"{_HOSTS_HEAD}{added}{lines}"


def options_for_names(options: Sequence[str]) -> list[str]:
    """Return the options of a member of networks: a name without a dot may be a member's.

    So it is asked for as it is first, as in Docker's networks.
    """
    chosen = list(options) or [
        word for value in _values(read_host(), "options") for word in value.split()
    ]
    if not any(option.startswith("ndots:") for option in options):
        chosen = [option for option in chosen if not option.startswith("ndots:")] + ["ndots:0"]
    return chosen


def hostname_text(hostname: str) -> str:
    """Return the /etc/hostname of a container."""
    return f"{check_hostname(hostname)}\n"


def check_hostname(name: str) -> str:
    """Return a host name that the kernel and the files of /etc take; RlessError: it is none."""
    _check_word(name, "--hostname")
    if len(name.encode("utf-8", "surrogateescape")) > _MAX_HOSTNAME:
        raise RlessError(f"--hostname {escape(name)}: it is longer than {_MAX_HOSTNAME} bytes")
    return name


def check_address(text: str, flag: str) -> str:
    """Return an IPv4 or IPv6 address as it was given; RlessError: it is none."""
    import _socket

    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text)
            return text
        except (OSError, ValueError):  # ValueError: a NUL; UnicodeError is one too
            continue
    raise RlessError(f"{flag}: {escape(text)!r} is not an IP address")


def _check_word(text: str, flag: str) -> None:
    if not text or not text.isprintable() or any(char.isspace() for char in text) or "#" in text:
        raise RlessError(f"{flag}: {escape(text)!r} is not a name")
