"""Read what a container wrote: files of the drivers local and json-file, the journal.

The monitor (helpers/monitor) writes `<container>/log`, and renames it to log.1 … log.N when it is
full, without telling the readers. Theory of operation, from the files to the two descriptors:

    _Files      bytes, file after file in the order in which they were written; with `follow`
                it waits for more, and goes on in the next file once this one was renamed
    decoders    bytes -> frames (time, stream, data), whole ones only
    _tail       only the last lines that exist
    _Prefix     the line's time before each line
    write       joins adjacent frames of the same stream

Without an option that needs lines (-n, -t), frames are copied whole: 100 MB take a few hundred
reads and writes. Everything is bytes, so a log is returned exactly, partial last lines included.
"""

from __future__ import annotations

import os
import re
import time
from array import array
from collections import deque
from typing import TYPE_CHECKING

from rootless import jsontext
from rootless.engine.state.container import find, is_alive, load
from rootless.engine.timestamps import stamp_of
from rootless.errors import RlessError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rootless.engine.state.container import Container

    Data = bytes | memoryview
    Frame = tuple[bytes, int, Data]  # time as it is in the file, 1 or 2, what was written
    # None: that was all that is there now; with `follow` more may come
    Batch = list[Frame] | None

_CHUNK = 1 << 20
_SOON = 0.05  # seconds: the container ends a moment after it has written that it does
_LOOK = 1.0  # seconds after which the log is looked at in any case
_ATTEMPTS = 100
_ATTEMPT_PAUSE = 0.001  # seconds: more than a rename takes
_STREAMS = {b"stdout": 1, b"stderr": 2}
_STAMP = 30  # characters of 2026-01-02T03:04:05.123456789Z
_LONGEST_FRAME = 1 << 16
_HEADER_MOST = 48  # bytes of a header, its line end too
_HEADER = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (?:stdout|stderr) \d{1,5}\n")


class LogOptions:
    """The options of `logs`.

    Attributes:
        follow: go on until the container has ended.
        since, until: nanoseconds since 1970; None: no bound.
        tail: how many of the last lines; None: all.
        timestamps, details: what to print before each line.
    """

    __slots__ = ("details", "follow", "since", "tail", "timestamps", "until")

    def __init__(self) -> None:
        self.follow = False
        self.since: int | None = None
        self.until: int | None = None
        self.tail: int | None = None
        self.timestamps = False
        self.details = False


def show(reference: str, options: LogOptions, out_fd: int, err_fd: int) -> None:
    """Copy a container's log: its standard output to `out_fd`, its standard error to `err_fd`.

    Raises:
        BrokenPipeError: nobody reads it any more.
        RlessError: no such container, no log that can be read, or it cannot be written.
    """
    if not options.follow:
        for batch in read(reference, options):
            write(batch or [], out_fd, err_fd)
        return
    from rootless.linux.inotify import watching

    changes, quiet = watching(find(reference).directory), 0
    try:
        for batch in read(reference, options):
            if batch is not None:
                write(batch, out_fd, err_fd)
                quiet = 0
            elif changes is None:
                time.sleep(_SOON)
            else:
                quiet = 0 if changes.wait(pause(quiet)) else quiet + 1
    finally:
        if changes is not None:
            changes.close()


def pause(quiet: int) -> float:
    """Return the seconds to wait for a change before a log is looked at in any case.

    Args:
        quiet: how often nothing had changed.
    """
    return min(_LOOK, _SOON * (1 + quiet))


def read(reference: str, options: LogOptions) -> Iterator[Batch]:
    """Yield a container's log; None: that was all at this moment, so look again later.

    Raises:
        RlessError: no such container, or no log that can be read.
    """
    container = find(reference)
    log = container.facts.get("log")
    driver = log["driver"] if log else "local"
    alive = (lambda: may_write(container)) if options.follow else None
    if driver == "journald":
        from rootless.engine.query.journald import frames

        batches: Iterator[Batch] = frames(container.id, alive)
        if options.tail is not None:
            batches = _tail(batches, options.tail)
    elif driver in ("local", "json-file"):
        batches = _from_files(f"{container.directory}/log", driver, options, alive)
    else:
        raise RlessError(
            f"container {container.facts['name']} keeps no log: its log driver is {driver}",
            "make it with --log-driver local",
            1,
        )
    if options.since is not None or options.until is not None:
        batches = _between(batches, options.since, options.until)
        if options.tail is not None:
            batches = _tail(batches, options.tail)
    if options.timestamps or options.details:
        details = _details(container) if options.details else None
        batches = map(_Prefix(options.timestamps, details), batches)
    return batches


def may_write(container: Container) -> bool:
    """Tell whether more can come to a log: the container runs, restarts, or was never started."""
    record = container.run_record()
    if is_alive(record.get("init")) or is_alive(record.get("monitor")):
        return True
    return load(container.id) is not None and container.status()[0] == "created"


def _details(container: Container) -> bytes:
    """Return the attributes that the log's options `labels` and `env` name, as Docker does."""
    from urllib.parse import quote_plus

    log = container.facts.get("log")
    options = log["options"] if log else {}
    labels = container.facts.get("labels") or {}
    request = container.facts.get("request") or {}
    given = dict(text.partition("=")[::2] for text in request.get("env") or ())
    found = {}
    for option, values in (("labels", labels), ("env", given)):
        for name in str(options.get(option) or "").split(","):
            if name in values:
                found[name] = values[name]
    pairs = (f"{quote_plus(name)}={quote_plus(text)}" for name, text in sorted(found.items()))
    return ",".join(pairs).encode() + b" "


def write(batch: list[Frame], out_fd: int, err_fd: int) -> None:
    """Write the frames in order, neighbours of one stream in one piece."""
    at = 0
    while at < len(batch):
        stream, end = batch[at][1], at + 1
        while end < len(batch) and batch[end][1] == stream:
            end += 1
        data = batch[at][2] if end == at + 1 else b"".join([frame[2] for frame in batch[at:end]])
        _write_all(out_fd if stream == 1 else err_fd, data)
        at = end


def _write_all(fd: int, data: Data) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # somebody made the terminal or pipe non-blocking
            import select

            select.select((), (fd,), ())
        except BrokenPipeError:
            raise
        except OSError as error:
            raise RlessError(f"cannot write the log: {error.strerror}") from error


# -- files -> bytes ----------------------------------------------------------------------------


class _Files:
    """The files of one log.

    Attributes:
        number: grows with every file; a frame is never in two files.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.number = 0
        self.fds = snapshot(path)
        self.offset = 0  # where the first file is to be read from

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())

    def start_at(self, index: int, offset: int) -> None:
        """Leave out the files before `index`, and the beginning of that one."""
        for fd in self.fds[:index]:
            os.close(fd)
        del self.fds[:index]
        if self.fds:
            os.lseek(self.fds[0], offset, os.SEEK_SET)

    def chunks(self, alive: Callable[[], bool] | None) -> Iterator[tuple[int, bytes]]:
        """Yield (number of the file, bytes); no bytes: that is all at this moment.

        Args:
            alive: go on until it says no; None: end at the end.
        """
        while True:
            # Asked before reading, so that nothing written in between is missed.
            more = alive() if alive else False
            while self.fds:
                while data := os.read(self.fds[0], _CHUNK):
                    yield self.number, data
                if not self._next():
                    break
            if not self.fds:  # it has not begun
                self.fds = snapshot(self.path)
                if self.fds:
                    continue
            yield self.number, b""
            if not more:
                return

    def _next(self) -> bool:
        """Go to the next file, if there is one: it was there before, or this one was renamed."""
        if len(self.fds) == 1:
            here = os.fstat(self.fds[0])
            try:
                if os.path.samestat(os.stat(self.path), here):
                    return False
            except FileNotFoundError:
                pass  # just between two files, or it was not written to since
            newer = snapshot(self.path)
            known = [os.path.samestat(os.fstat(fd), here) for fd in newer]
            if True in known:  # else it was renamed out of the set while we were held up
                for fd in newer[: known.index(True) + 1]:
                    os.close(fd)
                del newer[: known.index(True) + 1]
            self.fds += newer
            # What was written after our last read, and before the rename.
            if os.fstat(self.fds[0]).st_size > os.lseek(self.fds[0], 0, os.SEEK_CUR):
                return True
        if len(self.fds) == 1:
            return False
        os.close(self.fds.pop(0))
        self.number += 1
        return True


def snapshot(path: str) -> list[int]:
    """Open all files of a log; return the descriptors, oldest first.

    A rename in the midst would show a file twice, in the wrong order, or not at all: then all is
    tried anew. A gap that stays was not made by a rename.
    """
    for attempt in range(_ATTEMPTS):
        numbers = _numbers(path)
        fds: list[int] = []
        try:
            for number in numbers:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
                fds.append(os.open(_name(path, number), flags))
            if all(map(os.path.samestat, map(os.fstat, fds), _stats(path, numbers))) and (
                numbers == list(range(len(numbers))) == _numbers(path) or attempt == _ATTEMPTS - 1
            ):
                return fds[::-1]
        except FileNotFoundError:
            pass
        for fd in fds:
            os.close(fd)
        time.sleep(_ATTEMPT_PAUSE)
    raise RlessError(f"the log {path} changes faster than it can be read")


def _name(path: str, number: int) -> str:
    return f"{path}.{number}" if number else path


def _stats(path: str, numbers: list[int]) -> list[os.stat_result]:
    return [os.stat(_name(path, number)) for number in numbers]


def _numbers(path: str) -> list[int]:
    """Return which of the files there are: 0 for `log`, 1 for `log.1`."""
    directory, base = os.path.split(path)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    ends = [name[len(base) + 1 :] for name in names if name.startswith(f"{base}.")]
    return sorted([0] * (base in names) + [int(end) for end in ends if end.isdecimal()])


# -- bytes -> frames ---------------------------------------------------------------------------


def _from_files(
    path: str, driver: str, options: LogOptions, alive: Callable[[], bool] | None
) -> Iterator[Batch]:
    files = _Files(path)
    try:
        tail = options.tail
        # With bounds of time the last lines are those of what is left: `show` does both.
        tail = None if options.since is not None or options.until is not None else tail
        if tail is not None:
            files.start_at(*_tail_start(files.fds, driver, tail))
        decode = local_frames if driver == "local" else json_frames
        batches = _decode(files.chunks(alive), decode)
        yield from batches if tail is None else _tail(batches, tail)
    finally:
        files.close()


def _decode(
    chunks: Iterable[tuple[int, bytes]],
    decode: Callable[[bytes, bool], tuple[list[Frame], int]],
) -> Iterator[Batch]:
    rest, current = b"", 0
    for number, data in chunks:
        if number != current:
            if rest:
                yield decode(rest, True)[0]  # cut by a crash or a full disk
            rest, current = b"", number
        if not data:
            yield None
            continue
        whole = rest + data if rest else data
        frames, used = decode(whole, False)
        rest = whole[used:]
        if frames:
            yield frames
    if rest:
        yield decode(rest, True)[0]


def local_frames(data: bytes, last: bool) -> tuple[list[Frame], int]:
    """Return the whole frames that `data` begins with, and how many bytes they take.

    A frame that was cut, and after which another one was written, ends where that one begins.

    Args:
        last: nothing will follow: what there is of the last frame counts, too.
    """
    frames: list[Frame] = []
    view = memoryview(data)
    at, size, before = 0, len(data), -1
    while at < size:
        line_end = data.find(b"\n", at, at + _HEADER_MOST)
        stream = _STREAMS.get(data[at + 31 : at + 37])
        try:
            length = int(data[at + 38 : line_end])
        except ValueError:
            length = -1
        if line_end < 0 or stream is None or not 0 <= length <= _LONGEST_FRAME:
            if size - at < _HEADER_MOST and not last and data[at : at + 4].isdigit():
                break  # the rest of the header is still to come
            # The frame before may have been cut, and its end is in what was written after it.
            found = _HEADER.search(data, at + 1 if before < 0 else before)
            if found is not None and found.start() == at:  # of more than a frame can have
                found = _HEADER.search(data, at + 1)
            if found is None:
                at = size if last else max(at, size - _HEADER_MOST)
                break
            if found.start() < at:
                frames[-1] = (*frames[-1][:2], view[before : found.start()])
            at, before = found.start(), -1
            continue
        end = line_end + 1 + length
        stamp = data[at : at + _STAMP]
        if end < size and data[end] == 10:
            before = line_end + 1
            frames.append((stamp, stream, view[before:end]))
            at = end + 1
            continue
        if end >= size and not last:
            break
        found = _HEADER.search(data, line_end + 1, end + _HEADER_MOST)
        cut = found.start() if found else min(end, size)
        frames.append((stamp, stream, view[line_end + 1 : cut]))
        at, before = cut, -1
    return frames, at


def json_frames(data: bytes, last: bool) -> tuple[list[Frame], int]:
    """Return the frames of the whole lines of Docker's json-file, and how many bytes they take.

    Bytes that are no UTF-8 are lone surrogates in it; a line that cannot be read is left out.
    """
    end = len(data) if last else data.rfind(b"\n") + 1
    frames: list[Frame] = []
    for line in data[:end].split(b"\n"):
        try:
            entry = jsontext.loads(line)
            text, stream, stamp = entry["log"], entry["stream"], entry["time"]
            frames.append(
                (
                    _nine_digits(stamp).encode(),
                    2 if stream == "stderr" else 1,
                    text.encode("utf-8", "surrogateescape"),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # the empty one at the end, or cut by a full disk
    return frames, end


def _nine_digits(stamp: str) -> str:
    """Return Docker's time with all digits: its zeros at the end are left out in files."""
    whole, _, digits = stamp.rstrip("Z").partition(".")
    return f"{whole}.{digits[:9]:<09}Z"


# -- frames -> frames --------------------------------------------------------------------------


def _between(batches: Iterator[Batch], since: int | None, until: int | None) -> Iterator[Batch]:
    low = stamp_of(since) if since is not None else b""
    high = stamp_of(until) if until is not None else b"\xff"
    for batch in batches:
        if batch is None:
            yield None
            if until is not None and time.time_ns() > until:
                return  # nothing of that time can come any more
            continue
        yield [frame for frame in batch if low <= frame[0] <= high]


def _tail(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    """Keep the last `count` lines of what is there before the first None; then let all pass.

    A line without an end counts, too. A line is where it ends: of two streams the order is that.
    """
    done: deque[list[Frame]] = deque(maxlen=count)
    open_lines: dict[int, list[Frame]] = {}
    for batch in batches:
        if batch is None:
            break
        for stamp, stream, data in batch:
            for piece in _lines(data):
                open_lines.setdefault(stream, []).append((stamp, stream, piece))
                if piece[-1:] == b"\n":
                    done.append(open_lines.pop(stream))
    for line in open_lines.values():
        done.append(line)
    yield [frame for line in done for frame in line]
    yield None
    yield from batches


def _lines(data: Data) -> list[bytes]:
    """Return the lines with their ends; only \\n ends one."""
    pieces = bytes(data).split(b"\n")
    last = pieces.pop()
    lines = [piece + b"\n" for piece in pieces]
    return [*lines, last] if last else lines


class _Prefix:
    """Put time and details before each line; a line may come in several frames."""

    def __init__(self, timestamps: bool, details: bytes | None) -> None:
        self.timestamps = timestamps
        self.details = details or b""
        self.inside: dict[int, bool] = {}

    def __call__(self, batch: Batch) -> Batch:
        if batch is None:
            return None
        found: list[Frame] = []
        for stamp, stream, data in batch:
            prefix = (stamp + b" " if self.timestamps else b"") + self.details
            text = bytes(data)
            if not text:
                continue
            body, end = (text[:-1], b"\n") if text[-1:] == b"\n" else (text, b"")
            new = b"" if self.inside.get(stream) else prefix
            found.append((stamp, stream, new + body.replace(b"\n", b"\n" + prefix) + end))
            self.inside[stream] = not end
        return found


def _tail_start(fds: list[int], driver: str, count: int) -> tuple[int, int]:
    """Return (index of the file, offset) from where there are at least `count` whole lines.

    Two more: the first line of each stream may have begun before that.
    """
    wanted = count + len(_STREAMS)
    if count == 0 and fds:
        return len(fds) - 1, _end_of_frames(fds[-1], driver)
    for index in reversed(range(len(fds))):
        search = _local_start if driver == "local" else _json_start
        offset, wanted = search(fds[index], wanted)
        if wanted <= 0:
            return index, offset
    return 0, 0


def _end_of_frames(fd: int, driver: str) -> int:
    end = 0
    for offset, _, _ in _walk(fd, local_frames if driver == "local" else json_frames):
        end = offset
    return end


def _walk(
    fd: int, decode: Callable[[bytes, bool], tuple[list[Frame], int]]
) -> Iterator[tuple[int, int, list[Frame]]]:
    """Yield (offset behind them, offset before them, frames) for the file from its start."""
    at, rest = 0, b""
    while data := os.pread(fd, _CHUNK, at + len(rest)):
        whole = rest + data
        frames, used = decode(whole, False)
        yield at + used, at, frames
        at, rest = at + used, whole[used:]


def _local_start(fd: int, wanted: int) -> tuple[int, int]:
    """Return (offset of a frame, lines still missing); frames can only be found from the start.

    Memory: 16 bytes for each megabyte of the file.
    """
    offsets, lines = array("Q"), array("Q")
    for _, before, frames in _walk(fd, local_frames):
        offsets.append(before)
        lines.append(sum(bytes(data).count(b"\n") for _, _, data in frames))
    while offsets and wanted > 0:
        wanted -= lines.pop()
        start = offsets.pop()
        if wanted <= 0:
            return start, wanted
    return 0, wanted


def _json_start(fd: int, wanted: int) -> tuple[int, int]:
    """Return (offset of a line, lines still missing), found from the end."""
    at = os.fstat(fd).st_size
    block = b""
    wanted += 1  # the first line of the last block is cut
    while at > 0 and wanted > 0:
        after = block[:3]
        length = min(at, _CHUNK)
        at -= length
        block = os.pread(fd, length, at)
        # An escaped \n before the quote that ends the text: the line is whole.
        wanted -= (block + after).count(b'\\n",')
    if at == 0:
        return 0, wanted - 1
    return at + block.find(b"\n") + 1, 0
