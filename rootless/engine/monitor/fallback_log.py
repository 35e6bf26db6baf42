"""The log of a container, written by the monitor in Python (helpers/monitor/log*.c)."""

from __future__ import annotations

import errno
import os
import time

from rootless import jsontext

_LINE = 16384
_STUCK = 5.0  # seconds without a word after which the journal is not waited for
_STREAMS = ("stdout", "stderr")


class Log:
    """The log of one container, by its driver."""

    def __init__(self, orders: dict[str, str]) -> None:
        self.driver = orders.get("log", "none")
        self.path = f"{orders['directory']}/log"
        self.limit = int(orders.get("log_size", 20 << 20))
        self.files = int(orders.get("log_files", 5))
        self.fd = -1
        self.size = 0
        self.lost = 0
        self.lines = [b"", b""]
        self.stuck = False
        self.journal = orders.get("journal", "")
        self.fields = orders.get("journal_fields", "").encode("utf-8", "surrogateescape")

    def write(self, stream: int, data: bytes) -> None:
        """Keep what was written; a full disk loses it, and that is said once it can be."""
        if self.driver == "local":
            self._keep(stream, data)
        elif self.driver != "none":
            self._cut(stream, data)

    def _keep(self, stream: int, data: bytes) -> None:
        """Put one record into the log, after the word of what is missing before it, if any."""
        records = [(stream, data)] if data else []
        if self.lost:
            said = "rless: %d bytes of output are missing here: the log could not be written\n"
            records.insert(0, (1, (said % self.lost).encode()))
        self.lost = 0 if self._put(records) else self.lost + len(data)

    def _cut(self, stream: int, data: bytes) -> None:
        """Cut into lines; what has no end yet waits for it, or for 16 KiB."""
        rest = self.lines[stream] + data
        while rest:
            end = rest.find(b"\n", 0, _LINE) + 1
            if not end and len(rest) < _LINE:
                break
            line, rest = rest[: end or _LINE], rest[end or _LINE :]
            self._keep(stream, line)
        self.lines[stream] = rest

    def _put(self, records: list[tuple[int, bytes]]) -> bool:
        if self.driver == "journald":
            return all(self._send(stream, data) for stream, data in records)
        now = time.time_ns()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
        stamp += f".{now % 10**9:09d}Z"
        text = b""
        for stream, data in records:
            name = _STREAMS[stream]
            if self.driver == "local":
                text += f"{stamp} {name} {len(data)}\n".encode() + data + b"\n"
            else:
                log = data.decode("utf-8", "surrogateescape")
                line = jsontext.dumps({"log": log, "stream": name, "time": stamp})
                text += line.encode() + b"\n"
        try:
            self._append(text)
        except OSError:
            return False
        return True

    def _append(self, record: bytes) -> None:
        """Append one record: all of it, or nothing."""
        if self.fd < 0:
            self._open()
        if self.size and self.size + len(record) > self.limit:
            self._rotate()
        try:
            done = os.write(self.fd, record)
        except OSError:
            done = 0
        if done != len(record):
            os.ftruncate(self.fd, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += done

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self.fd = os.open(self.path, flags, 0o600)
        self.size = os.fstat(self.fd).st_size

    def _rotate(self) -> None:
        os.close(self.fd)
        self.fd = -1
        names = [self.path, *(f"{self.path}.{number}" for number in range(1, self.files))]
        if len(names) == 1:
            os.unlink(self.path)
        for newer, older in zip(names[-2::-1], names[:0:-1], strict=True):
            try:
                os.rename(newer, older)
            except FileNotFoundError:
                pass  # so many there are not yet
        self._open()

    def _send(self, stream: int, data: bytes) -> bool:
        import _socket

        whole = data.endswith(b"\n")
        message = data.removesuffix(b"\n")
        record = b"" if whole else b"CONTAINER_PARTIAL_MESSAGE=true\n"
        record += b"PRIORITY=3\n" if stream else b"PRIORITY=6\n"
        record += b"MESSAGE\n" + len(message).to_bytes(8, "little") + message + b"\n"
        channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            # Its queue is short, so it is waited for; but only once where it takes nothing.
            channel.settimeout(0 if self.stuck else _STUCK)
            channel.sendto(self.fields + record, self.journal)
        except OSError:
            self.stuck = True
            return False
        finally:
            channel.close()
        self.stuck = False
        return True

    def end(self) -> None:
        """Write what had no end, and close."""
        for stream, line in enumerate(self.lines):
            if line:
                self._keep(stream, line)
            self.lines[stream] = b""
        if self.lost:
            self._keep(1, b"")
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
