"""The work of rless-monitor in Python, where that program could not be built.

The same orders, messages, files and rules as helpers/monitor, which explains them; the two are
held against each other by the same tests. It takes 10 MB of memory for each container, and so is
never used where there is a choice.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import time

from rootless import jsontext
from rootless.engine.monitor import execute
from rootless.engine.monitor.fallback_clients import CHUNK, Client, Sink, never_wait
from rootless.engine.monitor.fallback_log import Log
from rootless.errors import RlessError, SyscallError
from rootless.linux import mount as mounts
from rootless.linux import tree, unix
from rootless.linux.process import kill_children, pidfd_open, pidfd_send_signal
from rootless.linux.signals import signal
from rootless.runtime import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_GRACE = 0.1  # seconds that a slow client may hold up all
_LAST_WORDS = 2 << 20  # bytes read of a stream after the end: all that a pipe holds
_CLEAN_UP = 2.0
_REAP = 1.0  # seconds between two looks at orphans that may have ended
_FIRST_DELAY, _LONGEST_DELAY, _LONG_RUN = 100, 60000, 10.0  # ms, ms, seconds
_LONGEST_POLL = 1 << 30  # ms: poll(2) takes an int
_LONGEST = 4096  # bytes of a reason: who reads it has no room for more
_UNTIL_BEGUN = 2  # the order `stop_on_disconnect`: not for longer; 1: until it lets go
_HEAD = 5  # bytes before the body of a frame of init


def run(orders_fd: int) -> NoReturn:
    """Stay with the container to its end, with the orders in a memfd."""
    code = 125
    try:
        holder = _Holder(orders_fd)
        holder.run()
        code = holder.code  # systemd's Restart=on-failure looks at it
    finally:
        os._exit(code)


class _Holder:
    """One container in hand."""

    def __init__(self, orders_fd: int) -> None:
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass  # the C library keeps two for itself
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGALRM, lambda *_: self._signal_init(signal.SIGKILL))
        self.core = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, self.core[1]))
        pairs = execute.decode(orders_fd)
        self.orders_fd = orders_fd
        self.orders = dict(pairs)
        self.python = [value for key, value in pairs if key == "python"]
        variables = [value.partition("=") for key, value in pairs if key == "environment"]
        self.environment = {name: value for name, _, value in variables}
        self.name = self.orders["name"]
        self.directory = self.orders["directory"]
        self.remove = bool(self.number("remove"))
        self.terminated = False
        self.listener = self.number("listener", -1)
        self.init = self.number("init")
        self.init_fd = self.number("init_fd", -1)
        self.starting = self.number("status", -1)  # init closes it by execve
        self.gate = self.number("gate", -1)  # at which init waits, until it is opened
        self.said, self.size = b"", 0  # of a frame of init, and how much of it has come
        self.ready = bool(self.number("ready"))  # who became us has let init go
        self.failed = False  # what became of the start
        self.asked: list[int] = []  # signals that came before that
        self.orphans = bool(self.number("orphans"))
        self.pasta = self.number("pasta")
        self.helpers = {int(value) for key, value in pairs if key == "helper"}
        self.stdin, self.pty = self.number("in", -1), self.number("pty", -1)
        out = self.pty if self.pty >= 0 else self.number("out", -1)
        self.sources = [out, self.number("err", -1)]
        self.typed = b""
        self.code = self.number("code")
        self.ended = self.init == 0
        self.out_of_memory = self.done = False
        self.policy, self.most = self.orders["restart"], self.number("restart_most")
        self.restarts, self.delay = self.number("restarts"), self.number("delay")
        self.restart_at = 0.0
        self.begun = time.monotonic()
        self.health_pid, self.health_fd, self.health_at = 0, -1, 0.0
        if "health_interval" in self.orders:
            self.health_at = self.begun + self.number("health_first") / 1000
        self.log = Log(self.orders)
        self.ranks: list[int] = []  # pidfds of those who have joined
        self.mount_ns = -1  # of the container, held once somebody has joined
        self.alone_until = 0.0
        if wait := self.number("ranks"):
            self.alone_until = self.begun + wait / 1000
        self.clients: list[Client] = []
        self.starter: Client | None = None
        self.stream, self.since = 0, 0.0  # of the chunk that is being given
        self.taken = 0  # bytes of the sources
        for key, value in pairs:
            if key == "connection":
                never_wait(int(value))
                self.clients.append(Client(int(value)))
        if (fd := self.number("client", -1)) >= 0:
            client = Client(fd)
            client.stdin = self.number("client_in", -1)
            client.sinks = [Sink(self.number(f"client_{name}", -1)) for name in ("out", "err")]
            client.attached, client.stop_on_disconnect = (
                True,
                bool(self.number("stop_on_disconnect")),
            )
            self.clients.append(client)
            self.starter = client
            for pipe in (fd, client.stdin, *(sink.fd for sink in client.sinks)):
                never_wait(pipe)
        for fd in (self.starting, self.stdin, *self.sources):
            never_wait(fd)
        if self.number("begun"):  # --explain: Python has opened the gate itself, to look
            self._tell_begun()

    def number(self, key: str, otherwise: int = 0) -> int:
        return int(self.orders.get(key, otherwise))

    # -- the start -----------------------------------------------------------------------------

    def _hear_init(self) -> None:
        if self.starting < 0:
            return  # nobody wants it any more, since this same round
        data = os.read(self.starting, CHUNK)
        if not data:
            self._end_start()
        while data:
            left = _frame_size(self.said) - self.size
            part, data = data[:left], data[left:]
            self.size += len(part)
            if self.size <= _HEAD or self.said[:1] == sync.FAILED:
                self.said += part  # a report may be long, and is nobody's
            if self.size >= _HEAD and self.size == _frame_size(self.said):
                self._obey_init(self.said[:1], self.said[_HEAD:])
                self.said, self.size = b"", 0

    def _obey_init(self, kind: bytes, body: bytes) -> None:
        if kind == sync.READY and not self.ready:
            self.ready = True
            self._event("start")  # before there can be an end to tell of
            if self.gate >= 0:
                try:
                    os.write(self.gate, sync.START)
                except BrokenPipeError:
                    pass  # init was killed: the end of its pipe tells
                os.close(self.gate)
                self.gate = -1
        elif kind == sync.FAILED and not self.failed:
            payload = body[1:-1]  # without the list around it
            if len(body) > _LONGEST:
                code = jsontext.loads(payload)[2]
                reason = "runtime: the start failed, with a reason too long to be told"
                payload = jsontext.dumps([reason, None, code]).encode()
            self._fail(payload)

    def _fail(self, payload: bytes) -> None:
        self.failed = True
        self._tell_starter(b"F" + payload)

    def _end_start(self) -> None:
        """Note that init is the application now, or has ended."""
        if self.starting < 0:
            return
        if not self.ready and not self.failed:
            self._fail(b'["runtime: init was killed before it was ready",null,125]')
        if not self.failed:
            self._tell_begun()
        self._close_start()
        self._begin_signals()

    def _close_start(self) -> None:
        for fd in (self.starting, self.gate):
            if fd >= 0:
                os.close(fd)
        self.starting = self.gate = -1

    def _tell_begun(self) -> None:
        self._tell_starter(b"B")
        if self.starter is not None and self.number("stop_on_disconnect") == _UNTIL_BEGUN:
            self.starter.stop_on_disconnect = False

    def _tell_starter(self, message: bytes) -> None:
        if self.starter is not None:
            self.starter.send(message)

    # -- what is told ------------------------------------------------------------------------

    def _record_exit(self) -> None:
        if self.remove:
            return
        now = time.time()
        exit_ = {
            "code": self.code,
            "started": float(self.orders["started"]),
            "finished": now,
            "error": jsontext.loads(f"[{self.orders.get('error', 'null')}]")[0],
            "oom": self.out_of_memory,
            "restarts": self.restarts,
        }
        if self.restart_at:
            exit_["restart_at"] = now + self.delay / 1000
        from rootless.engine.state.container import write_json

        try:
            write_json(f"{self.directory}/exit.json", exit_)
        except OSError:
            said = jsontext.dumps({"ended": {"code": self.code, "finished": now}}).encode()
            fd = os.open(self.orders["live"], os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            os.write(fd, said)
            os.ftruncate(fd, len(said))
            os.close(fd)
            self.orders["live"] = ""  # the only witness now

    def _event(self, action: str, **more: str) -> None:
        event = {
            "time": time.time_ns(),
            "type": "container",
            "action": action,
            "id": self.orders["id"],
            "attributes": {
                **jsontext.loads(f"{{{self.orders['attributes']}}}"),
                "name": self.name,
                **more,
            },
        }
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self.orders["events"], flags, 0o600)
            os.write(fd, jsontext.dumps(event).encode() + b"\n")
            os.close(fd)
        except OSError:
            pass  # what it tells of has happened all the same

    def _check_memory(self) -> None:
        try:
            with open(f"{self.orders.get('cgroup')}/memory.events", encoding="utf-8") as file:
                lines = dict(line.split() for line in file)
        except OSError:
            return
        if int(lines.get("oom_kill", 0)) and not self.out_of_memory:
            self.out_of_memory = True
            self._event("oom")

    # -- clients -----------------------------------------------------------------------------

    def _is_alone(self, client: Client) -> bool:
        others = any(other.attached for other in self.clients if other is not client)
        return not others and (client.stop_on_disconnect or self.log.driver == "none")

    def _drop(self, client: Client) -> None:
        client.close()
        if client in self.clients:
            self.clients.remove(client)

    def _lose_reader(self, client: Client, stream: int) -> None:
        client.sinks[stream].close()
        if (
            client.stop_on_disconnect
            and self._is_alone(client)
            and self.pty < 0
            and self.sources[stream] >= 0
        ):
            os.close(self.sources[stream])  # the application gets SIGPIPE
            self.sources[stream] = -1

    def _give(self, client: Client, stream: int) -> None:
        if not client.sinks[stream].give():
            self._lose_reader(client, stream)

    def _deliver(self) -> bool:
        """Bring the chunk to those who have not had all of it; True: somebody still wants it."""
        late = time.monotonic() - self.since >= _GRACE
        wanted = False
        for client in self.clients[:]:
            sink = client.sinks[self.stream]
            if sink.todo and not sink.behind:
                self._give(client, self.stream)
            too_slow = sink.todo and (late or sink.behind)
            if too_slow and not sink.keep(self.directory) and not self._is_alone(client):
                self._drop(client)
            wanted = wanted or bool(sink.todo)
        return wanted

    def _take(self, stream: int) -> bool:
        """Take what the application has written; False: there is nothing now."""
        fd = self.sources[stream]
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # a terminal says EIO when its last writer has gone
        if not data:
            if fd != self.pty:
                os.close(fd)
            self.sources[stream] = -1
            return False
        self.taken += len(data)
        self.log.write(stream, data)
        self.stream, self.since = stream, time.monotonic()
        for client in self.clients:
            if client.sinks[stream].fd >= 0:
                client.sinks[stream].todo = data
        self._deliver()
        return True

    def _hang_up(self) -> None:
        if self.pty >= 0:
            if self.sources[0] == self.pty:
                self.sources[0] = -1
            os.close(self.pty)
            self.pty = -1

    def _close_input(self) -> None:
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def _pass_input(self) -> None:
        fd = self.pty if self.pty >= 0 else self.stdin
        while self.typed and fd >= 0:
            try:
                self.typed = self.typed[os.write(fd, self.typed) :]
            except BlockingIOError:
                return
            except OSError:
                self._close_input()
                break
        self.typed = b""

    def _take_input(self, client: Client) -> None:
        if client.stdin < 0:
            return  # it has left in this same round
        try:
            self.typed = os.read(client.stdin, CHUNK)
        except BlockingIOError:
            return
        if self.typed:
            self._pass_input()
            return
        os.close(client.stdin)
        client.stdin = -1
        if self.pty < 0 and self.number("stdin_once"):
            self._close_input()
        if client.stop_on_disconnect:
            self._hang_up()

    def _signal_init(self, number: int) -> int:
        if self.ended:
            return errno.ESRCH
        if self.ranks and number != signal.SIGKILL:
            for fd in self.ranks:
                _signal(fd, number)
            return 0
        # Process 1 of a pid namespace loses what it has no handler for: it waits for who has one.
        if self.starting >= 0 and number != signal.SIGKILL and 0 < number < signal.NSIG:
            self.asked.append(number)
            return errno.EAGAIN  # kept
        try:
            pidfd_send_signal(self.init_fd, number)
        except SyscallError as error:
            return error.errno
        return 0

    def _begin_signals(self) -> None:
        """Give the application, which runs now, what it was sent."""
        for number in self.asked:
            self._signal_init(number)
        self.asked = []

    def _join(self, fds: list[int]) -> int:
        """Take one who joins in hand, by its pidfd; return an errno."""
        if not self.number("ranks") or len(fds) != 1:
            return errno.EINVAL
        over = not self.ranks and self.mount_ns >= 0
        if self.ended or self.terminated or self.starting >= 0 or over:
            return errno.ESRCH
        if self.mount_ns < 0:
            try:
                self.mount_ns = os.open(f"/proc/{self.init}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                return error.errno or errno.EIO
            self.alone_until = 0.0
        self.ranks.append(fds[0])
        return 0

    def _lose_rank(self, fd: int) -> None:
        """Note that one has ended; after the last one nothing is left to hold."""
        self.ranks.remove(fd)
        os.close(fd)
        if not self.ranks and not self.ended:
            self._signal_init(signal.SIGTERM)
            self.alone_until = time.monotonic() + _CLEAN_UP

    def _end_ranks(self) -> None:
        """End those who have joined, and what they have left in there."""
        if self.mount_ns < 0:
            return
        from rootless.engine.state.ranks import end_inside

        for fd in self.ranks:
            _signal(fd, signal.SIGKILL)
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(1000 * _CLEAN_UP)
            os.close(fd)
        self.ranks = []
        end_inside(self.orders["id"])
        os.close(self.mount_ns)
        self.mount_ns = -1

    def _stop_restarts(self) -> None:
        self.policy = "no"
        if self.restart_at:
            self.restart_at = 0.0
            self._record_exit()
            self.done = True

    def _terminate(self, *_: object) -> None:
        """Stop the container, as systemd ends the session or the machine; not as the user does."""
        self.terminated = True
        self._stop_restarts()
        self._signal_init(self.number("stop_signal", signal.SIGTERM))
        limit = self.number("stop_timeout", 10)
        if limit >= 0:
            signal.alarm(max(1, limit))

    def _attach(self, client: Client, flags: int, fds: list[int]) -> int:
        import stat

        with_input = flags & 1
        if self.ended:
            return errno.ESRCH
        if client.attached or len(fds) != 2 + with_input:
            return errno.EINVAL
        if not all(stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in fds):
            return errno.EINVAL
        for fd in fds:
            never_wait(fd)
        client.attached = True
        client.stdin = fds[0] if with_input else -1
        client.sinks = [Sink(fd) for fd in fds[-2:]]
        return 0

    def _hear(self, client: Client) -> None:
        fds: list[int] = []
        try:
            said, fds = unix.receive(client.fd, 4096, 8, unix.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        kind, rest = said[:1], said[1:]
        if not said:
            self._lose(client)
        elif kind == b"A":
            error = self._attach(client, rest[0] if rest else 0, fds)
            client.send(b"a" + bytes([error]))
            if not error:
                return
        elif kind == b"J":
            error = self._join(fds)
            client.send(b"j" + bytes([error]))
            if not error:
                return
        elif kind == b"W" and len(rest) == 4 and self.pty >= 0:
            from rootless.engine.attach.terminal import resize

            resize(self.pty, rest[0] | rest[1] << 8, rest[2] | rest[3] << 8)
        elif kind == b"K" and rest:
            client.send(b"k" + bytes([self._signal_init(rest[0])]))
        elif kind == b"S":
            self._stop_restarts()
        elif kind == b"U":
            policy = jsontext.loads(rest)["restart"]
            self.policy, self.most = policy["name"], policy.get("max", 0)
        elif kind == b"N":
            self.name = rest.decode("utf-8", "replace")
        elif kind == b"D":
            client.stop_on_disconnect = False
            if client.stdin >= 0:
                os.close(client.stdin)
                client.stdin = -1
        for fd in fds:
            os.close(fd)

    def _lose(self, client: Client) -> None:
        if client.stop_on_disconnect and not self.ended:
            self._stop_restarts()
            self._close_start()
            self._signal_init(signal.SIGKILL)
        self._drop(client)

    def _admit(self) -> None:
        import _socket

        listener = _socket.socket(fileno=os.dup(self.listener))
        try:
            fd, _ = listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        finally:
            listener.close()
        channel = _socket.socket(fileno=fd)
        peer = channel.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        channel.detach()
        if int.from_bytes(peer[4:8], "little") != os.getuid():
            os.close(fd)
            return
        never_wait(fd)
        self.clients.append(Client(fd))

    def _tell_end(self) -> None:
        for client in self.clients[:]:
            client.send(b"X" + self.code.to_bytes(4, "little"))
            if not client.behind:
                self._drop(client)
                continue
            for sink in client.sinks:
                if not sink.behind:
                    sink.close()

    # -- Python's work -------------------------------------------------------------------------

    def _become(self, verb: str) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, self.core)
        words = [verb, self.orders["id"], str(self.orders_fd), str(self.restarts), str(self.delay)]
        # What clients have said but we have not heard is said to whoever comes back.
        waiting = [client.fd for client in self.clients if verb == "restart"]
        for fd in waiting:
            os.set_inheritable(fd, True)
        words.append(",".join(map(str, waiting)))
        fd = self.number("python_fd", -1)
        os.execve(fd if fd >= 0 else self.python[0], [*self.python, *words], self.environment)

    def _child(self, verb: str) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            from rootless.linux import prctl

            prctl.set_parent_death_signal(signal.SIGKILL)
            for number in range(1, signal.NSIG):
                if number not in (signal.SIGKILL, signal.SIGSTOP):
                    try:
                        signal.signal(number, signal.SIG_DFL)
                    except (OSError, ValueError):
                        pass  # the C library keeps two for itself
            os.set_inheritable(self.orders_fd, True)
            self._become(verb)
        finally:
            os._exit(127)

    def _begin_health(self) -> None:
        self.health_pid = self._child("health")
        self.health_fd = pidfd_open(self.health_pid)
        self.health_at = 0.0

    def _end_health(self) -> None:
        _, status = os.waitpid(self.health_pid, 0)
        os.close(self.health_fd)
        self.health_fd = -1
        starting = os.waitstatus_to_exitcode(status) == 2
        interval = self.number("health_start_interval" if starting else "health_interval")
        self.health_at = time.monotonic() + interval / 1000

    def _schedule_restart(self) -> None:
        wanted = self.policy in ("always", "unless-stopped") or (
            self.policy == "on-failure"
            and self.code != 0
            and (self.most == 0 or self.restarts < self.most)
        )
        if not wanted or self.remove or self.terminated or self.failed:
            return
        if self.delay == 0 or time.monotonic() - self.begun >= _LONG_RUN:
            self.delay = _FIRST_DELAY
        else:
            self.delay = min(2 * self.delay, _LONGEST_DELAY)
        self.restarts += 1
        self.restart_at = time.monotonic() + self.delay / 1000

    def _start_again(self) -> None:
        if any(client.behind for client in self.clients) and os.fork() == 0:
            self.restart_at = 0.0
            self._linger()
            os._exit(0)
        for client in self.clients[:]:
            if client.behind:
                self._drop(client)  # they are the child's now
        kept = [self.number(name, -1) for name in ("lock", "member", "python_fd")]
        for fd in (self.orders_fd, self.listener, *kept):
            if fd >= 0:
                os.set_inheritable(fd, True)
        try:
            self._become("restart")
        except OSError:
            self._stop_restarts()

    # -- the end -------------------------------------------------------------------------------

    def _reap_orphans(self) -> None:
        """Reap the orphans that have ended; others are waited for where they are asked."""
        try:
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in (self.init, self.health_pid):
                    return
                os.waitpid(ended.si_pid, 0)
                if ended.si_pid == self.pasta:
                    self.pasta = 0
        except ChildProcessError:
            pass  # there are none

    def _end_cgroup(self) -> None:
        # A restart makes it anew: what is cloned into one that was killed once may be killed too.
        if self.orphans:
            self._reap_orphans()
            kill_children({self.pasta, *self.helpers}, _CLEAN_UP)
        path = self.orders.get("cgroup")
        if not path:
            return
        from rootless.runtime.cgroup import cgroupfs

        try:
            cgroupfs.remove(path)
        except OSError:
            pass  # the administrator's systemd removes it

    def _clean_up(self) -> None:
        self._end_ranks()
        if self.pasta:
            os.kill(self.pasta, signal.SIGKILL)
        self._end_cgroup()
        self._leave_networks()
        if self.orders["mount"]:
            try:
                mounts.umount(self.orders["mount"])
            except RlessError:
                pass  # it is unmounted already
        waited = {*self.helpers, *({self.pasta} if self.number("wait_pasta") else ())} - {0}
        deadline = time.monotonic() + _CLEAN_UP
        for pid in waited:
            try:
                while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
                    time.sleep(0.001)
            except ChildProcessError:
                pass  # it has ended
        if self.number("volumes"):
            os.waitpid(self._child("volumes"), 0)
        try:
            if self.remove:
                self._remove()
            else:
                os.unlink(f"{self.directory}/monitor")
        except (OSError, RlessError):
            return  # the next sweep finds the entry in `live`
        if self.orders["live"]:
            os.unlink(self.orders["live"])

    def _leave_networks(self) -> None:
        """Leave the networks, and wait until names and published ports are gone."""
        member = self.number("member", -1)
        if member >= 0:
            import socket

            channel = socket.socket(fileno=member)
            channel.settimeout(_CLEAN_UP)
            try:
                channel.shutdown(socket.SHUT_WR)
                while channel.recv(16):
                    pass
            except OSError:
                pass  # who held them was killed
            channel.close()

    def _remove(self) -> None:
        name = f"{self.orders['names']}/{self.name}"
        if os.path.islink(name) and os.readlink(name) == self.orders["id"]:
            os.unlink(name)
        parent = os.open(os.path.dirname(self.directory), os.O_RDONLY | os.O_DIRECTORY)
        tree.remove_tree(parent, self.orders["id"])
        os.close(parent)
        self._event("destroy")

    def _end_run(self) -> None:
        if self.init:
            _, status = os.waitpid(self.init, 0)
            code = os.waitstatus_to_exitcode(status)
            self.code = code if code >= 0 else 128 - code
            os.close(self.init_fd)
        self._end_start()
        self._check_memory()
        if self.health_fd >= 0:
            os.kill(self.health_pid, signal.SIGKILL)
            self._end_health()
        self.health_at = 0.0
        self._schedule_restart()
        self._record_exit()
        self._event("die", exitCode=str(self.code))
        for stream in (0, 1):
            self.taken = 0
            while True:  # others may write for ever
                if any(client.sinks[self.stream].todo for client in self.clients):
                    self._turn()
                elif (
                    self.sources[stream] < 0 or self.taken >= _LAST_WORDS or not self._take(stream)
                ):
                    break
        self.log.end()
        for fd in self.sources:
            if fd not in (self.pty, -1):
                os.close(fd)
        self.sources = [-1, -1]
        self._hang_up()
        self._close_input()
        self.done = not self.restart_at

    def _linger(self) -> None:
        """Feed those who are slow to the end."""
        while True:
            for client in self.clients[:]:
                if not client.behind:
                    self._drop(client)
            if not self.clients:
                return
            self._turn()

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        drained = False
        while not self.done:
            now = time.monotonic()
            if self.ended and not drained:
                drained = True
                self._end_run()
                if not self.done:
                    self._end_cgroup()
                    self._tell_end()
                continue
            if self.restart_at and now >= self.restart_at:
                self._start_again()
            if self.health_at and now >= self.health_at and not self.ended:
                self._begin_health()
            if self.alone_until and now >= self.alone_until and not self.ended:
                self.alone_until = 0.0
                self._signal_init(signal.SIGKILL)
            if not self.done:
                self._turn()
        self._clean_up()
        os.close(self.listener)
        self.listener = -1
        self._tell_end()
        self._linger()

    def _watch(self) -> dict[int, tuple[int, Any, tuple[Any, ...]]]:
        """Return descriptor -> (events, what to do, about what), in the order of their handling."""
        topics: dict[int, tuple[int, Any, tuple[Any, ...]]] = {}
        pending = any(client.sinks[self.stream].todo for client in self.clients)
        if not self.ended and self.init_fd >= 0:
            topics[self.init_fd] = (select.POLLIN, self._note_end, ())
        for client in self.clients:
            topics[client.fd] = (select.POLLIN, self._hear, (client,))
            for stream, sink in enumerate(client.sinks):
                if sink.fd >= 0:
                    wanted = select.POLLOUT if sink.behind or sink.todo else 0
                    topics[sink.fd] = (wanted, self._serve, (client, stream, sink.fd))
            if client.stdin >= 0 and not self.typed and not self.ended:
                if self.pty < 0 and self.stdin < 0:
                    os.close(client.stdin)
                    client.stdin = -1
                else:
                    topics[client.stdin] = (select.POLLIN, self._take_input, (client,))
        if self.starting >= 0:  # after the clients: nothing starts for one that has gone
            topics[self.starting] = (select.POLLIN, self._hear_init, ())
        for stream, fd in enumerate(self.sources):
            if fd >= 0 and not pending:
                topics[fd] = (select.POLLIN, self._take_if_free, (stream,))
        fd = self.pty if self.pty >= 0 else self.stdin
        if fd >= 0 and (self.typed or self.pty < 0):
            events = topics.get(fd, (0,))[0] | (select.POLLOUT if self.typed else 0)
            topics[fd] = (events, self._serve_input, (fd,))
        if self.health_fd >= 0:
            topics[self.health_fd] = (select.POLLIN, self._end_health, ())
        for fd in self.ranks:
            topics[fd] = (select.POLLIN, self._lose_rank, (fd,))
        if self.listener >= 0:
            topics[self.listener] = (select.POLLIN, self._admit, ())
        return topics

    def _note_end(self) -> None:
        self.ended = True

    def _serve(self, client: Client, stream: int, fd: int) -> None:
        if client.sinks[stream].fd != fd:
            return
        if self._events & select.POLLERR:
            self._lose_reader(client, stream)
        else:
            self._give(client, stream)

    def _take_if_free(self, stream: int) -> None:
        if self.sources[stream] >= 0 and not any(
            client.sinks[self.stream].todo for client in self.clients
        ):
            self._take(stream)

    def _serve_input(self, fd: int) -> None:
        if self.pty < 0 and self._events & select.POLLERR:
            self._close_input()
        self._pass_input()
        if fd == self.sources[0] and self._events & ~select.POLLOUT:
            self._take_if_free(0)

    _events = 0

    def _turn(self) -> None:
        topics = self._watch()
        poll = select.poll()
        for fd, (events, _, _) in topics.items():
            poll.register(fd, events)
        due = [moment for moment in (self.restart_at,) if moment]
        if self.health_at and not self.ended:
            due.append(self.health_at)
        if self.alone_until and not self.ended:
            due.append(self.alone_until)
        pending = any(client.sinks[self.stream].todo for client in self.clients)
        if pending and time.monotonic() - self.since < _GRACE:
            due.append(self.since + _GRACE)
        if self.orphans:
            self._reap_orphans()
            due.append(time.monotonic() + _REAP)
        left = 1000 * max(0.0, min(due) - time.monotonic()) if due else None
        ready = dict(poll.poll(None if left is None else min(left, _LONGEST_POLL)))
        for fd, (_, act, arguments) in topics.items():
            self._events = ready.get(fd, 0)
            gone = arguments and isinstance(arguments[0], Client) and arguments[0].fd < 0
            if self._events and not gone:
                act(*arguments)
        if pending:
            self._deliver()


def _frame_size(said: bytes) -> int:
    """Return the bytes of the frame that begins so, as far as that is known."""
    return _HEAD + int.from_bytes(said[1:_HEAD], "little") if len(said) >= _HEAD else _HEAD


def _signal(pidfd: int, number: int) -> None:
    try:
        pidfd_send_signal(pidfd, number)
    except SyscallError:
        pass  # it has just ended
