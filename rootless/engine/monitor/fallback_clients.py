"""Clients of the monitor in Python: connections, pipes and backlogs (helpers/monitor/streams.c)."""

from __future__ import annotations

import os

from rootless.linux.files import open_tmpfile

CHUNK = 65536  # bytes read at once
_BACKLOG = 256 << 20


class Sink:
    """One output stream of a client: its pipe, and the backlog in an unlinked file."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.spill = -1
        self.at = self.end = 0
        self.todo = b""  # of the chunk

    def close(self) -> None:
        for fd in (self.fd, self.spill):
            if fd >= 0:
                os.close(fd)
        self.fd = self.spill = -1
        self.at = self.end = 0
        self.todo = b""

    @property
    def behind(self) -> bool:
        return self.at < self.end

    def give(self) -> bool:
        """Write what the pipe takes; False: the reader has gone."""
        while self.fd >= 0 and (self.behind or self.todo):
            data = os.pread(self.spill, CHUNK, self.at) if self.behind else self.todo
            try:
                given = os.write(self.fd, data)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if data is self.todo:
                self.todo = self.todo[given:]
                continue
            self.at += given
            if self.at == self.end:
                os.ftruncate(self.spill, 0)
                self.at = self.end = 0
        return True

    def keep(self, directory: str) -> bool:
        """Keep for later what is left of the chunk; False: there is no room."""
        if self.end - self.at + len(self.todo) > _BACKLOG:
            return False
        try:
            if self.spill < 0:
                self.spill = open_tmpfile(directory)
            while self.todo:
                size = os.pwrite(self.spill, self.todo, self.end)
                self.end += size
                self.todo = self.todo[size:]
        except OSError:
            return False
        return True


class Client:
    """A connection, and what is attached by it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.stdin = -1
        self.sinks = [Sink(-1), Sink(-1)]
        self.attached = self.stop_on_disconnect = False

    @property
    def behind(self) -> bool:
        return any(sink.behind for sink in self.sinks)

    def send(self, message: bytes) -> None:
        try:
            os.write(self.fd, message)
        except OSError:
            pass  # it has gone, or does not read: its own loss

    def close(self) -> None:
        for fd in (self.fd, self.stdin):
            if fd >= 0:
                os.close(fd)
        self.fd = self.stdin = -1
        for sink in self.sinks:
            sink.close()


def never_wait(fd: int) -> None:
    """Make a pipe or terminal of our own such that it is not waited for."""
    if fd >= 0:
        os.set_blocking(fd, False)
