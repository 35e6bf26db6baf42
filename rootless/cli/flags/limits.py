"""Read the values of the flags that limit what a container uses: Docker's syntaxes."""

from __future__ import annotations

from rootless.cli.flags.values import choice, integer, line, required, size

_ONE_CPU = 1_000_000_000
_LONGEST = (1 << 63) - 1


def memory(value: str) -> int:
    """Return bytes; 0: no limit."""
    return size(value)


def memory_swap(value: str) -> int:
    """Return bytes of memory and swap together; -1: no limit of swap; 0: the default."""
    return -1 if value == "-1" else size(value)


def cpus(value: str) -> int:
    """Return a number of CPUs, as 1.5, in units of 1e-9 (NanoCPUs); 0: no limit."""
    whole, dot, part = value.partition(".")
    digits = whole + part
    if not (digits.isascii() and digits.isdigit()) or len(whole) > 9 or (dot and not digits):
        raise ValueError("is not a number of CPUs such as 1.5")
    if len(part.rstrip("0")) > 9:
        raise ValueError("is too precise")
    return int(whole or "0") * _ONE_CPU + int(part[:9].ljust(9, "0"))


def count(value: str) -> int:
    """Return a number from 0 on; 0: no limit, or the kernel's."""
    return integer(value, 0, _LONGEST)


def quota(value: str) -> int:
    """Return microseconds of CPU time in each period; -1, 0: no limit."""
    return max(integer(value, -1, _LONGEST), 0)


def pids(value: str) -> int:
    """Return how many processes; -1: any number, also written 0."""
    return integer(value, -1, _LONGEST) or -1


def cpuset(value: str) -> str:
    """Return a list of numbers as 0-2,7; empty: the default."""
    if value:
        from rootless.engine.resources import parse_set

        parse_set(value)
    return value


def weight(value: str) -> int:
    """Return a weight of block I/O; 0: the kernel's."""
    number = integer(value, 0, 1000)
    if 0 < number < 10:
        raise ValueError("is not between 10 and 1000")
    return number


def _device(value: str) -> tuple[str, str]:
    path, colon, rest = value.rpartition(":")
    if not colon or not path.startswith("/dev/"):
        raise ValueError("names no device below /dev and a number after a colon")
    return line(path), rest


def weight_device(value: str) -> tuple[str, int]:
    """Return (path, weight)."""
    path, number = _device(value)
    return path, integer(number, 10, 1000)


def rate(value: str) -> tuple[str, int]:
    """Return (path, bytes a second)."""
    path, amount = _device(value)
    return path, size(amount)


def operations(value: str) -> tuple[str, int]:
    """Return (path, operations a second)."""
    path, amount = _device(value)
    return path, integer(amount, 0, _LONGEST)


def conf(value: str) -> tuple[str, str]:
    """Return (file, value) of a control group v2, as memory.high=1G."""
    file, equals, content = line(value).partition("=")
    if not equals or not file.replace(".", "a").replace("_", "a").isalnum() or "." not in file:
        raise ValueError("is not FILE=VALUE of a control group, as memory.high=1073741824")
    return file, content


def manager(value: str) -> str:
    """Return the name of a control group manager; "auto" for the choice by trying."""
    return choice(value, "auto", "systemd", "cgroupfs", "none")


def groups(value: str) -> str:
    """Return whether the container gets a control group."""
    return choice(value, "enabled", "disabled", "split")


def parent(value: str) -> str | None:
    """Return a slice or a path; None for the default."""
    return required(line(value)) if value else None


def effort(value: str) -> str:
    """Return what becomes of a limit that cannot be set."""
    return choice(value, "enforce", "try")
