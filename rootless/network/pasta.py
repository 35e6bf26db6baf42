"""The default network: one pasta for a container, as a process of the user on the host.

pasta opens a tap device in the container's network namespace and passes what comes out of it
on by ordinary sockets of the host: no privilege is needed, and outgoing connections work as
those of any program of the user.

Left to itself it also lets the container reach services on the host's 127.0.0.1, by two ways:
the gateway's address and the container's own 127.0.0.1 (security class 38). `command` closes
both; `rootless.network.shield` closes a third one in the container.

Theory of operation:

- It stays in the foreground, in a session of its own (Ctrl-C is for the application), and is
  the child of the process that keeps the container. With `die_with_parent` the kernel ends it
  with that process, whatever ends that one. This keeps a recycled pid out of the game too.
- It says that it is ready by writing its "pid file", which is a pipe to us: the option does
  so in the foreground as well, after all is configured, in every version.
- Its end takes 25 to 45 ms, the time that the kernel needs to take the tap device away: nobody
  waits for it.
- It needs SIGPIPE at its default: Python ignores the signal, children inherit that, and the
  version of 2023 ("Couldn't install signal handlers") gives up.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from typing import TYPE_CHECKING

import _signal  # `signal` takes 4 ms for its enums
from rootless.errors import RlessError, SyscallError
from rootless.linux import prctl, process
from rootless.network import resolv

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn, Protocol

    class Port(Protocol):
        """What is asked of a published port (`rootless.engine.request.Port`)."""

        host_ip: str | None
        host_port: int | None
        container_port: int
        protocol: str


# As for newuidmap: only what root has installed is run, wherever $PATH points.
_DIRECTORIES = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
_ALTERNATIVE = "use --network=host or --network=none"
_PORT_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"

# pasta's own address in the container's network; the version of 2023 takes that of the host's
# interface by default, and gives up where it has none, as with a VPN (tun, WireGuard).
_MAC = "9a:55:9a:55:9a:55"
# For a host without a default route: addresses of its own instead of the host's.
_OFFLINE = ["-4", "-i", "lo", "-a", "10.0.2.100", "-n", "24", "-g", "10.0.2.2"]

# Options of pasta that --network=pasta:OPTIONS must not give, because they are how it is run.
_RESERVED = {
    "-P": "--pid",
    "-F": "--fd",
    "-f": "--foreground",
    "-h": "--help",
    "-s": "--socket",
    "--netns": "--netns",
    "--netns-only": "--netns-only",
    "--no-netns-quit": "--no-netns-quit",
    "--runas": "--runas",
    "--userns": "--userns",
    "--version": "--version",
}
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
    """Return the absolute path of pasta; None: it is not installed (or not by root)."""
    for directory in _DIRECTORIES:
        path = f"{directory}/pasta"
        try:
            status = os.stat(path)
        except OSError:
            continue
        if status.st_uid == 0 and stat.S_ISREG(status.st_mode) and not status.st_mode & 0o022:
            return path
    return None


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
            f"install the package passt, or {_ALTERNATIVE}",
        )
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        raise RlessError(
            "the default network needs /dev/net/tun, which is missing or closed to you",
            f"ask the administrator for `modprobe tun` and mode 0666, or {_ALTERNATIVE}",
        )
    if ports:
        check_ports(ports)
    given = _given(options)
    arguments = [path, "--config-net", "--quiet", "--foreground", "--pid", "/proc/self/fd/1"]
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
                f"--network=pasta: {option} is not supported: rless gives {_RESERVED[name]} itself"
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
        with open("/proc/net/route", "rb") as file:
            for line in file:
                fields = line.split()
                # Interface, destination, gateway, flags, ..., mask; 0x1: up; 0x200: reject
                if len(fields) > 7 and fields[1] == fields[7] == b"00000000":
                    ipv4 = ipv4 or int(fields[3], 16) & 0x201 == 0x1
    except OSError:
        pass
    try:
        with open("/proc/net/ipv6_route", "rb") as file:
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


def check_ports(ports: Sequence[Port]) -> None:
    """Check that each port can be had, by taking it for a moment.

    pasta is content if it gets a port for one of the two families: the other one's connections
    would go to whatever program has it. And its own message does not say why.

    Raises:
        RlessError: a port is taken, below the range that users may take, or on an address
            that this host does not have.
    """
    import _socket

    held = []
    try:
        for port in ports:
            held += _take(_socket, port)
    finally:
        for socket in held:
            socket.close()


def _take(_socket: object, port: Port) -> list[object]:
    import _socket as sockets

    kind = sockets.SOCK_DGRAM if port.protocol == "udp" else sockets.SOCK_STREAM
    addresses = [port.host_ip] if port.host_ip else ["0.0.0.0", "::"]
    held = []
    for address in addresses:
        family = sockets.AF_INET6 if ":" in address else sockets.AF_INET
        try:
            socket = sockets.socket(family, kind | sockets.SOCK_CLOEXEC)
        except OSError:
            continue  # no IPv6 in this kernel
        held.append(socket)
        if kind == sockets.SOCK_STREAM:  # as pasta does: a connection that has ended is no bar
            socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        if family == sockets.AF_INET6:
            socket.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, 1)
        try:
            socket.bind((address, port.host_port or 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL and not port.host_ip:
                continue  # IPv6 is switched off
            for one in held:
                one.close()
            raise _port_error(port, error) from error
    return held


def _port_error(port: Port, error: OSError) -> RlessError:
    where = f"{port.host_ip or 'any address'}, port {port.host_port}/{port.protocol}"
    if error.errno == errno.EADDRINUSE:
        return RlessError(
            f"cannot publish on {where}: it is taken",
            "publish on another port, or see by `ss -lntup` who has it",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return RlessError(f"cannot publish on {where}: this host does not have the address")
    if error.errno in (errno.EACCES, errno.EPERM):
        try:
            with open(_PORT_START, encoding="ascii") as file:
                first = file.read().strip()
        except OSError:
            first = "1024"
        return RlessError(
            f"cannot publish on {where}: users may take ports from {first} on",
            f"publish on a higher port, or ask the administrator for "
            f"`sysctl net.ipv4.ip_unprivileged_port_start={port.host_port}`",
        )
    return RlessError(f"cannot publish on {where}: {error.strerror}")


class Pasta:
    """One pasta, from before its namespaces exist until it is told to end.

    The pipes are made by the constructor, so that one process can `fork` it (its parent to be)
    and another `begin` it and wait for it. A process that does neither calls `close`.

    Attributes:
        pid: 0 until it is known: after `fork` in that process, after `wait_ready` in others.
    """

    __slots__ = ("_arguments", "_errors", "_go", "_parent", "_ready", "_said", "pid", "pidfd")

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._go = os.pipe()
        self._ready = os.pipe()
        self._errors = os.pipe()
        self._parent = 0
        self._said = b""
        self.pid = 0
        self.pidfd = -1

    def fork(self, die_with_parent: bool) -> None:
        """Fork the process that becomes pasta; it waits for `begin`.

        Where it runs: in the host's network namespace: so before an unshare(CLONE_NEWNET).
        """
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._become(parent if die_with_parent else 0)
            finally:
                os._exit(127)
        self._parent = parent
        self.pid = pid
        self.pidfd = process.pidfd_open(pid)

    def _become(self, parent: int) -> NoReturn:
        os.setsid()
        if parent:
            prctl.set_parent_death_signal(_signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(127)  # it ended before the line above
        _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
        os.close(self._go[1])
        paths = b""
        while chunk := os.read(self._go[0], 8192):
            paths += chunk
        if not paths.endswith(b"\n"):
            os._exit(127)  # the start was given up
        netns, userns = paths.decode("utf-8", "surrogateescape").split("\n")[:2]
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for source, target in ((null, 0), (self._ready[1], 1), (self._errors[1], 2)):
            os.dup2(source, target)
        process.close_on_exec_from(3)
        os.chdir("/")
        path, *arguments = self._arguments
        try:
            os.execve(
                path, ["pasta", "--netns", netns, "--userns", userns, *arguments], _ENVIRONMENT
            )
        except OSError as error:
            os.write(2, f"{path}: {error.strerror}\n".encode("utf-8", "surrogateescape"))
            os._exit(127)

    def begin(self, netns_path: str, userns_path: str) -> None:
        """Tell the waiting process which namespaces to serve; they must be mapped by now."""
        message = f"{netns_path}\n{userns_path}\n".encode("utf-8", "surrogateescape")
        try:
            os.write(self._go[1], message)
        except BrokenPipeError:
            pass  # it died: wait_ready tells
        self._close("_go")

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until the container's network is up.

        Raises:
            RlessError: it was not within `timeout` seconds, or pasta gave up: its last line.
        """
        self._close("_go")
        for pair in (self._ready, self._errors):
            if pair[1] >= 0:
                os.close(pair[1])
        ready_fd, self._ready = self._ready[0], (self._ready[0], -1)
        errors_fd, self._errors = self._errors[0], (self._errors[0], -1)
        poll = select.poll()
        poll.register(ready_fd, select.POLLIN)
        poll.register(errors_fd, select.POLLIN)
        number = b""
        deadline = time.monotonic() + timeout
        try:
            while not number.endswith(b"\n"):
                events = poll.poll(max(0, int(1000 * (deadline - time.monotonic()))))
                if not events:
                    raise RlessError(
                        f"the network was not ready after {timeout:g} seconds", _ALTERNATIVE
                    )
                for fd, _ in events:
                    chunk = os.read(fd, 4096)
                    if fd == errors_fd:
                        self._said = (self._said + chunk)[-4096:]
                        if not chunk:
                            poll.unregister(fd)
                    elif chunk:
                        number += chunk
                    else:
                        raise self._failure(errors_fd)
        finally:
            self.close()
        if self.pid == 0:
            self.pid = int(number)
            self.pidfd = process.pidfd_open(self.pid)

    def _failure(self, errors_fd: int) -> RlessError:
        """Return what pasta said before it gave up, in one line."""
        while chunk := os.read(errors_fd, 4096):
            self._said = (self._said + chunk)[-4096:]
        lines = self._said.decode("utf-8", "replace").splitlines()
        return RlessError(f"the network could not be made: pasta: {last_message(lines)}", _hint(lines))

    def process(self) -> list[int] | None:
        """Return [pid, start time] of a running pasta, as the record of a container has it."""
        if self.pid == 0:
            return None
        started = process.start_time(self.pid)
        return None if started is None else [self.pid, started]

    def stop(self, wait: bool = False) -> None:
        """End pasta at once; it has nothing to save.

        Args:
            wait: until it is gone, and the tap device with it; only in its parent.
        """
        self.close()
        if self.pidfd < 0:
            return
        try:
            process.pidfd_send_signal(self.pidfd, _signal.SIGKILL)
        except SyscallError as error:
            if error.errno != errno.ESRCH:
                raise
        if self._parent == os.getpid():
            try:
                os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            except ChildProcessError:
                pass
        os.close(self.pidfd)
        self.pidfd = -1

    def close(self) -> None:
        """Close the pipes: a process that waits for `begin` ends then."""
        for name in ("_go", "_ready", "_errors"):
            self._close(name)

    def _close(self, name: str) -> None:
        for fd in getattr(self, name):
            if fd >= 0:
                os.close(fd)
        setattr(self, name, (-1, -1))


def last_message(lines: Sequence[str]) -> str:
    """Return the line that says why pasta gave up, without its time stamp.

    The version of 2023 complains about a missing syslog after each message, others about a
    missing variant of the program: that is not why.
    """
    for line in reversed(lines):
        text = line.strip()
        stamp, colon, rest = text.partition(": ")
        if colon and stamp.replace(".", "").isdigit():
            text = rest
        if text and "syslog" not in text and "AVX2" not in text:
            return text.removesuffix(", exiting")
    return "it ended without a word"


def _hint(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    if "bind" in text:
        return "somebody was faster and has the port now: publish on another one"
    if "/dev/net/tun" in text:
        return f"ask the administrator for `modprobe tun`, or {_ALTERNATIVE}"
    return f"see `rless doctor`, or {_ALTERNATIVE}"


def start(
    netns_path: str,
    userns_path: str,
    ports: Sequence[Port],
    options: Sequence[str] = (),
    *,
    die_with_parent: bool = False,
) -> Pasta:
    """Start pasta for namespaces that exist and are mapped; don't wait for it.

    Args:
        netns_path, userns_path: /proc/PID/ns/net and user of a process that keeps them.
        die_with_parent: end it with the calling process; not where the caller goes away and
            the container stays.

    Raises:
        RlessError: see `command`.
    """
    pasta = Pasta(command(ports, options))
    try:
        pasta.fork(die_with_parent)
    except BaseException:
        pasta.close()
        raise
    pasta.begin(netns_path, userns_path)
    return pasta
