"""RUN --mount=type=ssh: a socket that passes on to an agent what a RUN may ask of it.

A RUN may list the keys and have something signed. All else is refused here: it could add keys,
remove them, or lock the agent. The agent is the caller's, or one that holds the keys of
`--ssh ID=KEY` in memory for this build: OpenSSH's.

Source: draft-miller-ssh-agent, sections 3 and 5.1; ssh-agent(1), ssh-add(1).
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import struct
import subprocess
from threading import Thread
from typing import TYPE_CHECKING

from rootless.errors import RlessError, escape
from rootless.linux import prctl, programs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack
    from typing import NoReturn

    from rootless.engine.build.request import Agent

_LIST, _SIGN = 11, 13
_FAILURE = struct.pack(">IB", 1, 5)
_LONGEST = 256 << 10  # bytes of a message, OpenSSH's limit
_KEY_BYTES = 100 << 10  # of a file with a key, BuildKit's limit
_SOCKET = "agent"


def open_agents(asked: Iterable[Agent], directory: str, opened: ExitStack) -> dict[str, str]:
    """Return the sockets of --ssh by their ids.

    Args:
        directory: absolute, private: for agents of ours, which end with `opened`.

    Raises:
        RlessError: there is no agent, or a key cannot be read.
    """
    found = {}
    for agent in asked:
        what = f"--ssh {escape(agent.id)}"
        paths = agent.paths or (os.environ.get("SSH_AUTH_SOCK", ""),)
        if not paths[0]:
            raise RlessError(f"{what}: no agent runs", "start one: ssh-agent")
        try:
            is_socket = [stat.S_ISSOCK(os.stat(path).st_mode) for path in paths]
        except OSError as error:
            raise RlessError(f"{what}: {escape(error.filename)}: {error.strerror}") from error
        if any(is_socket) and len(paths) > 1:
            raise RlessError(f"{what}: several sockets, or a socket and keys", "give one socket")
        if is_socket[0]:
            found[agent.id] = os.path.abspath(paths[0])
            continue
        holder = KeyAgent(f"{directory}/ssh{len(found)}", what)
        opened.callback(holder.close)
        for path in paths:
            holder.add(path)
        found[agent.id] = holder.path
    return found


class KeyAgent:
    """An agent of OpenSSH that has the keys of files; it ends with the caller.

    Attributes:
        path: of its socket.
    """

    def __init__(self, directory: str, what: str) -> None:
        """Start it.

        Args:
            directory: for its socket; it is made. what: is said of, in errors.

        Raises:
            RlessError: there is no ssh-agent.
        """
        self._what = what
        self._directory = directory
        self.path = f"{directory}/{_SOCKET}"
        os.mkdir(directory, 0o700)
        parent = os.getpid()

        def follow_parent() -> None:
            # The program is set-group-ID, against ptrace; then the kernel would not tell it of our
            # end. It is undumpable by itself, too.
            prctl.set_no_new_privs()
            prctl.set_parent_death_signal(signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(137)

        self._process = subprocess.Popen(
            [self._program("ssh-agent"), "-D", "-a", _SOCKET],
            cwd=directory,  # an address holds 107 bytes, a path may be longer
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=follow_parent,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():  # it names its socket once that is there
            self.close()
            raise RlessError(f"{what}: ssh-agent does not start")

    def add(self, path: str) -> None:
        """Give it the key of a file.

        Raises:
            RlessError: it is no key, or has a passphrase.
        """
        what = f"{self._what}={escape(path)}"
        done = subprocess.run(
            [self._program("ssh-add"), "-q", "-"],
            cwd=self._directory,
            env={"SSH_AUTH_SOCK": _SOCKET, "SSH_ASKPASS": "/bin/false",
                 "SSH_ASKPASS_REQUIRE": "force"},
            input=_read_key(path, what),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # no terminal, where it would ask for a passphrase
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise RlessError(
                f"{what}: no private key, or one with a passphrase",
                "ssh-add it to an agent, and leave the file out",
            )

    def close(self) -> None:
        """End it; what it held is gone."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _program(self, name: str) -> str:
        path = programs.find(name)
        if path is None:
            raise RlessError(
                f"{self._what}: {name} is not installed", "install openssh-client, or run an agent"
            )
        return path


def _read_key(path: str, what: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise RlessError(f"{what}: {error.strerror}") from error
    try:
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        data = os.read(fd, _KEY_BYTES + 1) if is_file else b""
    finally:
        os.close(fd)
    if not is_file or len(data) > _KEY_BYTES:
        raise RlessError(f"{what}: not a file of at most {_KEY_BYTES >> 10} KiB")
    return data


class Proxy:
    """A process that serves one socket until it is closed; it ends with the caller."""

    def __init__(self, path: str, agent: str) -> None:
        """Begin to listen.

        Args:
            path: of the new socket. agent: of the agent's.

        Raises:
            RlessError: the agent does not answer.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _connect(agent).close()
            listener.bind(path)
            listener.listen(16)
            parent = os.getpid()
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    prctl.set_parent_death_signal(signal.SIGKILL)
                    if os.getppid() == parent:
                        _serve(listener, agent)
                finally:
                    os._exit(0)
        finally:
            listener.close()

    def close(self) -> None:
        """End it."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


def _connect(agent: str) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory, _, name = agent.rpartition("/")
    place = -1
    try:
        # Below a descriptor: an address holds 107 bytes, a path may be longer.
        place = os.open(directory or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        channel.connect(f"/proc/self/fd/{place}/{name}")
    except OSError as error:
        channel.close()
        raise RlessError(f"the ssh agent {agent} does not answer: {error.strerror}") from error
    finally:
        if place >= 0:
            os.close(place)
    return channel


def _serve(listener: socket.socket, agent: str) -> NoReturn:
    while True:
        client, _ = listener.accept()
        Thread(target=_answer, args=(client, agent), daemon=True).start()


def _answer(client: socket.socket, agent: str) -> None:
    """Pass on the requests of one client, one after the other."""
    try:
        with client, _connect(agent) as upstream:
            while (request := _receive(client)) is not None:
                if request[4] not in (_LIST, _SIGN):
                    client.sendall(_FAILURE)
                    continue
                upstream.sendall(request)
                answer = _receive(upstream)
                if answer is None:
                    return
                client.sendall(answer)
    except (OSError, RlessError):
        pass  # one of the two has gone


def _receive(channel: socket.socket) -> bytes | None:
    """Return one message with its length; None at the end, or if it is not of this protocol."""
    head = _exactly(channel, 4)
    if head is None:
        return None
    (length,) = struct.unpack(">I", head)
    if not 1 <= length <= _LONGEST:
        return None
    body = _exactly(channel, length)
    return None if body is None else head + body


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        chunk = channel.recv(size - len(data))
        if not chunk:
            return None
        data += chunk
    return data
