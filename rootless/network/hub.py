"""The hub: one network namespace of the user with all bridges, and the program that keeps it.

Theory of operation (docs/decisions/0011-bridges.md).

- The hub has a user namespace of its own, in which the caller's id and all her subordinate ids map
  to themselves. The user namespaces of members are its children. So a process of the hub, and no
  other, may act in both networks, which a pair of virtual interfaces requires.
- `rless-networks` (helpers/networks) keeps the hub. This small program also answers DNS queries and
  carries published ports. pasta, its child, connects it to the outside. The hub ends with the last
  connection to the program, and after a SIGKILL.
- A member is a connection to the program, which the container's monitor keeps open.
- The first start makes the hub, under a lock. A connection is valid once the program has confirmed
  it. A program that is about to end closes the connection instead, and the start makes a new hub.
"""

from __future__ import annotations

import _socket  # `socket` takes 8 ms for its enums
import os
import select
import struct

from rootless import paths
from rootless.errors import RlessError, SyscallError
from rootless.linux import idmap, ns, process, unix
from rootless.linux.locks import Locked
from rootless.linux.network import netlink
from rootless.linux.procfs import start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from rootless.linux.idmap import IdMap
    from rootless.network.pasta import Pasta

PROGRAM = "rless-networks"
_SOCKET = "networks"
_LOCK = "lock"
_QUESTIONS, _STREAMS = 64, 16  # sockets for the host's name servers, by UDP and TCP
_RESOLVERS = 512  # the number that the first of them gets; nothing else is open from there on
_LONGEST = 4096  # bytes of an answer
_AT_ONCE = 100  # milliseconds for an answer that is known; pasta may be about to begin
TITLE = "rless: networks"
# Addresses of pasta's link in the hub: of nobody else, so that the host's own can be reached.
_IPV4, _IPV6 = "169.254.117.2", "fd72:6c65:7373::2"


class Hub:
    """A connection to the program that holds the hub.

    Attributes:
        fd: the connection. What keeps it open is a member, once it has joined.
        pid: of the program, which lives while it does not close the connection.
    """

    __slots__ = ("fd", "pid")

    def __init__(self, fd: int, pid: int) -> None:
        self.fd = fd
        self.pid = pid

    @property
    def userns(self) -> str:
        """Return the path of the hub's user namespace."""
        return f"/proc/{self.pid}/ns/user"

    @property
    def netns(self) -> str:
        """Return the path of the hub's network namespace."""
        return f"/proc/{self.pid}/ns/net"

    def call(self, *words: str, fds: Sequence[int] = ()) -> int:
        """Send a message; return the errno that answers it.

        Raises:
            RlessError: the program has ended.
        """
        answer = self._ask(words, fds)
        return answer[1] if len(answer) > 1 else 0

    def wait_for_way_out(self) -> str:
        """Wait until connections to the outside work; return "", or why they never will."""
        return self._ask(("W",), ())[1:].decode("utf-8", "replace")

    def no_way_out(self) -> str:
        """Return why connections to the outside do not work; "": they do, or are about to."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        try:
            os.write(self.fd, b"W\0")
            said = os.read(self.fd, _LONGEST) if poll.poll(_AT_ONCE) else b""
        except OSError as error:  # it ends this very moment
            return f"{TITLE}: {error.strerror}"
        return said[1:].decode("utf-8", "replace")

    def _ask(self, words: Sequence[str], fds: Sequence[int]) -> bytes:
        message = b"".join(word.encode() + b"\0" for word in words)
        channel = _socket.socket(fileno=self.fd)
        try:
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))]
            channel.sendmsg([message], rights if fds else [])
            while True:
                answer = channel.recv(_LONGEST)
                if not answer:
                    raise RlessError("the networks have just ended", "try again")
                if answer[:1] == message[:1]:
                    return answer
        except OSError as error:
            raise RlessError(f"the networks have just ended: {error.strerror}") from error
        finally:
            channel.detach()

    def close(self) -> None:
        """Close the connection; a member that nobody else keeps leaves by this."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def directory() -> str:
    """Return the directory of the hub's socket and of its locks."""
    return paths.checked(f"{paths.boot_root()}/hub")


def connect() -> Hub | None:
    """Return a connection to the hub; None: there is none."""
    directory_fd = os.open(directory(), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        channel.connect(f"/proc/self/fd/{directory_fd}/{_SOCKET}")
        pid, uid = unix.peer(channel)
        if uid != os.getuid() or channel.recv(1) != b"H":
            return None
        return Hub(channel.detach(), pid)
    except OSError:
        return None
    finally:
        channel.close()
        os.close(directory_fd)


def enter(ids: IdMap, way_out: bool, made: Callable[[int], None] | None = None) -> Hub:
    """Return a connection to the hub, which is made if there is none.

    Args:
        ids: all ids of the caller's, each as itself (`engine.idmap_policy.identity`).
        way_out: whether the caller needs one.
        made: told the pid of its program, if it was made now.

    Raises:
        RlessError: it cannot be made, or there is no way out.
    """
    hub = connect()
    if hub is None:
        with Locked(f"{directory()}/{_LOCK}"):
            hub = connect()
            if hub is None:
                hub = _make(ids, way_out)
                if made is not None:
                    made(hub.pid)
    return hub


def _make(ids: IdMap, way_out: bool) -> Hub:
    os.close(process.open_own_program(PROGRAM))
    program = process.own_program(PROGRAM)
    try:
        pasta: Pasta | None = _prepare_pasta()
    except RlessError:
        if way_out:
            raise
        pasta = None  # an internal network needs none
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    sockets = [_resolver_socket(_socket.SOCK_DGRAM) for _ in range(_QUESTIONS)]
    streams = [_resolver_socket(_socket.SOCK_STREAM) for _ in range(_STREAMS)]
    reason: list[RlessError] = []
    transparent: list[bool] = []

    def before() -> None:
        os.setsid()
        process.show_as(TITLE)
        ours.close()
        if pasta is not None:
            pasta.fork(die_with_parent=True)

    def meanwhile() -> None:
        try:
            transparent.append(_populate(pasta, way_out))
        except RlessError as error:
            reason.append(error)

    def body() -> NoReturn:
        if reason:
            theirs.send(f"{reason[0].message}\0{reason[0].hint or ''}".encode())
            os._exit(1)
        _become(program, theirs.detach(), pasta, sockets, streams, transparent[0])

    try:
        child = idmap.NamespacedChild(ns.CLONE_NEWNET, body, before=before, meanwhile=meanwhile)
        child.begin_maps(ids)
        child.release()
        theirs.close()
        answer = ours.recv(_LONGEST)
        if answer != b"H":
            os.waitpid(child.pid, 0)
            message, _, hint = answer.decode("utf-8", "replace").partition("\0")
            raise RlessError(message or "the networks could not be made", hint or None)
        return Hub(ours.detach(), child.pid)
    finally:
        ours.close()
        theirs.close()
        if pasta is not None:
            pasta.close()
        for one in [*sockets, *streams]:
            one.close()


def _prepare_pasta() -> Pasta:
    from rootless.network import pasta, pasta_options

    families = pasta_options.families()
    ip = None if "-6" in families else _IPV4
    return pasta.prepare([], ip=ip, ip6=None if "-4" in families else _IPV6)


def _resolver_socket(kind: int) -> _socket.socket:
    """Return a socket of the host's network, for both families where it has both."""
    try:
        made = _socket.socket(_socket.AF_INET6, kind | _socket.SOCK_CLOEXEC)
        made.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 0)
    except OSError:
        made = _socket.socket(_socket.AF_INET, kind | _socket.SOCK_CLOEXEC)
    made.setblocking(False)
    return made


def _populate(pasta: Pasta | None, way_out: bool) -> bool:
    """Make the hub's network: the way out, forwarding to it, and nothing else between bridges.

    Returns:
        Whether members can be shown the addresses of clients outside.

    Where it runs: in the hub, before its id maps are there.
    """
    from rootless.network import firewall

    netlink.loopback_up()
    if pasta is not None:
        own = f"/proc/{os.getpid()}/ns"
        pasta.begin(f"{own}/net", f"{own}/user")
    try:
        try:
            firewall.install(transparent=True)
            firewall.deliver_to_transparent_sockets()
            transparent = True
        except SyscallError:  # a kernel without nft_socket: the client is the gateway then
            firewall.install(transparent=False)
            transparent = False
    except SyscallError as error:
        if way_out:
            raise RlessError(
                f"networks of several containers need the kernel's nf_tables: {error}",
                "ask the administrator for `modprobe nf_tables nft_masq nft_ct nft_fib_inet`, "
                "use a network made with --internal, or the default network",
            ) from error
        return False  # nothing is forwarded
    firewall.switch_forwarding_on()
    return transparent


def _become(
    program: str,
    first: int,
    pasta: Pasta | None,
    questions: Sequence[_socket.socket],
    streams: Sequence[_socket.socket],
    transparent: bool,
) -> NoReturn:
    """Become the program that holds the hub."""
    from rootless.linux import caps

    os.chdir(directory())
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        os.unlink(_SOCKET)
    except FileNotFoundError:
        pass
    listener.bind(_SOCKET)
    listener.listen(1024)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    words = [listener.fileno(), first]
    words += [pasta.pidfd, pasta.detach_ready()] if pasta is not None else [-1, -1]
    for fd in words:
        if fd >= 0:
            os.set_inheritable(fd, True)
    for index, one in enumerate([*questions, *streams]):
        os.dup2(one.fileno(), _RESOLVERS + index, inheritable=True)
    words += [_RESOLVERS, _RESOLVERS + len(questions), int(transparent)]
    caps.keep_over_exec()
    os.execve(program, [TITLE, *map(str, words)], {})


def restore_way_out(hub: Hub, note: Callable[[list[int]], None]) -> None:
    """Start a pasta for a hub whose own has ended, or that was made without one.

    It is no child of the program. Ending it is up to that all the same, or, where the program is
    killed, to who finds the note.

    Args:
        note: called with [pid, start time] before it begins.

    Raises:
        RlessError: there is none on this host.
    """
    pasta = _prepare_pasta()
    pasta.fork(die_with_parent=False)
    note([pasta.pid, start_time(pasta.pid) or 0])
    pasta.begin(hub.netns, hub.userns)
    hub.call("O", fds=[pasta.pidfd, pasta.detach_ready()])
