"""The columns of `top`: those of ps(1), read from /proc of the host.

The image's own ps is never run: it is a program of the image (security class 35).
"""

from __future__ import annotations

import grp
import os
import pwd
import time

from rootless.engine.state.processes import PAGE, TICKS
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rootless.engine.state.processes import Process

    Column = tuple[str, Callable[[Process], str]]

_WIDTH = 8  # of a user's name, as in ps
_FULL = "user=UID pid ppid c stime tty=TTY time args=CMD"
_USERS = "user pid %cpu %mem vsz rss tty=TTY stat start time args"
_LONG = "user=UID pid ppid c pri nice vsz rss tty=TTY stat time args=CMD"


class Clock:
    """Times and sizes of this host, read once."""

    def __init__(self) -> None:
        self.now = time.time()
        self.up = time.clock_gettime(time.CLOCK_BOOTTIME)
        with open("/proc/meminfo", "rb") as file:
            self.memory = int(file.readline().split()[1]) * 1024

    def started(self, process: Process) -> float:
        """Return when a process started, in seconds since the epoch."""
        return self.now - self.elapsed(process)

    def elapsed(self, process: Process) -> float:
        """Return for how many seconds it has run."""
        return max(0.0, self.up - process.start / TICKS)


def _ids(process: Process, kind: str, index: int) -> int:
    try:
        with open(f"/proc/{process.pid}/status", "rb") as file:
            line = next(line for line in file if line.startswith(kind.encode() + b":"))
        return int(line.split()[1 + index])
    except (OSError, StopIteration):
        return -1


def _user(process: Process, index: int) -> str:
    number = _ids(process, "Uid", index)
    try:
        name = pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return str(number)
    return name if len(name) <= _WIDTH else f"{name[: _WIDTH - 1]}+"


def _group(process: Process, index: int) -> str:
    number = _ids(process, "Gid", index)
    try:
        name = grp.getgrgid(number).gr_name
    except (KeyError, OverflowError):
        return str(number)
    return name if len(name) <= _WIDTH else f"{name[: _WIDTH - 1]}+"


def _arguments(process: Process) -> str:
    try:
        with open(f"/proc/{process.pid}/cmdline", "rb") as file:
            words = file.read(1 << 20).rstrip(b"\0").split(b"\0")
    except OSError:
        words = [b""]
    text = b" ".join(words).decode("utf-8", "surrogateescape")
    if text:
        return text
    return f"[{process.comm}]" + (" <defunct>" if process.state == "Z" else "")


def _terminal(process: Process) -> str:
    if not process.tty:
        return "?"
    major, minor = os.major(process.tty), os.minor(process.tty)
    if 136 <= major <= 143:  # Unix98 pty slaves (admin-guide/devices.txt)
        return f"pts/{minor + 256 * (major - 136)}"
    return f"tty{minor}" if major == 4 and minor < 64 else f"{major}:{minor}"


def _cpu_time(process: Process) -> str:
    seconds = (process.user + process.system) // TICKS
    days, rest = divmod(seconds, 86400)
    text = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{text}" if days else text


def _elapsed(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86400)
    text = f"{rest // 60 % 60:02}:{rest % 60:02}"
    if days or rest >= 3600:
        text = f"{rest // 3600:02}:{text}"
    return f"{days}-{text}" if days else text


def _start(moment: float, now: float) -> str:
    """Return the hour of the last day, else the day, else the year, as ps."""
    then = time.localtime(moment)
    if now - moment < 86400:
        return time.strftime("%H:%M", then)
    return time.strftime("%b%d" if then.tm_year == time.localtime(now).tm_year else "%Y", then)


def _state(process: Process) -> str:
    marks = "<" if process.nice < 0 else "N" if process.nice > 0 else ""
    marks += "s" if process.session == process.pid else ""
    marks += "l" if process.threads > 1 else ""
    return process.state + marks + ("+" if process.foreground == process.group else "")


def _columns(clock: Clock) -> dict[str, Column]:
    """Return each column by ps's name of it: its heading, and what it shows."""

    def share(process: Process) -> float:
        used = (process.user + process.system) / TICKS
        return 100 * used / max(0.01, clock.elapsed(process))

    def memory(process: Process) -> float:
        return 100 * process.resident * PAGE / clock.memory

    columns: dict[str, Column] = {
        "pid": ("PID", lambda one: str(one.pid)),
        "ppid": ("PPID", lambda one: str(one.parent)),
        "pgid": ("PGID", lambda one: str(one.group)),
        "sid": ("SID", lambda one: str(one.session)),
        "user": ("USER", lambda one: _user(one, 1)),
        "ruser": ("RUSER", lambda one: _user(one, 0)),
        "uid": ("UID", lambda one: str(_ids(one, "Uid", 1))),
        "ruid": ("RUID", lambda one: str(_ids(one, "Uid", 0))),
        "group": ("GROUP", lambda one: _group(one, 1)),
        "rgroup": ("RGROUP", lambda one: _group(one, 0)),
        "gid": ("GID", lambda one: str(_ids(one, "Gid", 1))),
        "rgid": ("RGID", lambda one: str(_ids(one, "Gid", 0))),
        "comm": ("COMMAND", lambda one: one.comm),
        "args": ("COMMAND", _arguments),
        "tty": ("TT", _terminal),
        "time": ("TIME", _cpu_time),
        "cputimes": ("TIME", lambda one: str((one.user + one.system) // TICKS)),
        "etime": ("ELAPSED", lambda one: _elapsed(clock.elapsed(one))),
        "etimes": ("ELAPSED", lambda one: str(int(clock.elapsed(one)))),
        "stime": ("STIME", lambda one: _start(clock.started(one), clock.now)),
        "start": ("START", lambda one: _start(clock.started(one), clock.now)),
        "lstart": ("STARTED", lambda one: time.ctime(clock.started(one))),
        "c": ("C", lambda one: str(min(99, int(share(one))))),
        "%cpu": ("%CPU", lambda one: f"{share(one):.1f}"),
        "%mem": ("%MEM", lambda one: f"{memory(one):.1f}"),
        "vsz": ("VSZ", lambda one: str(one.virtual // 1024)),
        "rss": ("RSS", lambda one: str(one.resident * PAGE // 1024)),
        "stat": ("STAT", _state),
        "state": ("S", lambda one: one.state),
        "nice": ("NI", lambda one: str(one.nice)),
        "pri": ("PRI", lambda one: str(39 - one.priority - 20)),
        "nlwp": ("NLWP", lambda one: str(one.threads)),
    }
    for other, name in _SYNONYMS.items():
        columns[other] = columns[name]
    return columns


_SYNONYMS = {
    "euser": "user", "uname": "user", "euid": "uid", "egroup": "group", "egid": "gid",
    "pgrp": "pgid", "sess": "sid", "session": "sid", "cmd": "args", "command": "args",
    "ucmd": "comm", "ucomm": "comm", "tt": "tty", "tname": "tty", "cputime": "time",
    "bsdstart": "start", "start_time": "stime", "pcpu": "%cpu", "pmem": "%mem", "vsize": "vsz",
    "rssize": "rss", "s": "state", "ni": "nice", "thcount": "nlwp",
}  # fmt: skip
# What selects processes or asks for headings as they are anyway: those of the container.
_EVERYTHING = frozenset({"-e", "-A", "a", "x", "ax", "-a", "-x", "-ax", "w", "ww", "-w", "-ww"})
_SETS = {
    "-f": _FULL, "-ef": _FULL, "-F": _FULL, "-eF": _FULL, "u": _USERS, "aux": _USERS,
    "-aux": _USERS, "axu": _USERS, "auxw": _USERS, "auxww": _USERS, "-l": _LONG, "-el": _LONG,
}  # fmt: skip


def parse(options: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return (column, heading or None) of the options that `top` takes from ps(1).

    Raises:
        RlessError: an option or a column is not known; it is named.
    """
    asked = ""
    found: list[tuple[str, str | None]] = []
    words = iter(word for option in options for word in option.split())
    for word in words:
        if word in _SETS:
            asked = _SETS[word]
        elif word in _EVERYTHING:
            continue
        elif word in ("-o", "-eo", "-Ao", "o", "axo", "-axo", "--format"):
            following = next(words, None)
            if following is None:
                raise RlessError(f"top: {word} needs the names of columns", "-o pid,user,args", 1)
            found += _named(following)
        elif word.startswith(("-o", "--format=")):
            found += _named(word.removeprefix("--format=").removeprefix("-o"))
        else:
            raise RlessError(
                f"top: the option {word!r} of ps is not supported",
                "use -ef, aux, or -o with the names of columns",
                1,
            )
    if not found:
        found = [entry for name in (asked or _FULL).split() for entry in _named(name)]
    known = {*_SYNONYMS, *_columns(Clock())}
    for name, _ in found:
        if name not in known:
            raise RlessError(f"top: the column {name!r} of ps is not supported", None, 1)
    return found


def _named(text: str) -> list[tuple[str, str | None]]:
    """Split `pid,user=WHO,args`; what follows "=" is a heading, to the end (ps(1))."""
    found: list[tuple[str, str | None]] = []
    names, equals, heading = text.partition("=")
    for name in names.split(","):
        if name:
            found.append((name, None))
    if equals and found:
        found[-1] = (found[-1][0], heading)
    return found


def table(
    processes: Sequence[Process], columns: Sequence[tuple[str, str | None]]
) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows."""
    known = _columns(Clock())
    headings = [known[name][0] if title is None else title for name, title in columns]
    return headings, [[known[name][1](one) for name, _ in columns] for one in processes]
