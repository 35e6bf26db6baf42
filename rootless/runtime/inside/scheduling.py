"""Scheduling of the application: priorities, I/O, memory policy, execution domain, CPUs.

The config's values become numbers on the host side, where an error can still name the JSON path.
`apply` runs in init, before the user changes. Loaded only where a config asks.
Source: runtime-spec config.md (scheduler, ioPriority, execCPUAffinity) and config-linux.md
(personality, memoryPolicy); linux/sched.h, linux/ioprio.h, linux/mempolicy.h.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError, SyscallError
from rootless.linux import sched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rootless.oci.runtime_spec import Linux, Process

_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_DOMAINS = {"LINUX": 0, "LINUX32": 8}
MEMORY_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
_HIGHEST = 1024  # CPUs and memory nodes that a list may name


class Scheduling:
    """The checked values of one config, as the kernel takes them."""

    __slots__ = ("_cpus", "_domain", "_io", "_memory", "_scheduler")

    def __init__(self, process: Process, linux: Linux) -> None:
        """Translate the words.

        Raises:
            RlessError: one that the kernel does not know, by its JSON path.
        """
        self._scheduler = _scheduler(process.get("scheduler"))
        self._io = _io_priority(process.get("ioPriority"))
        self._memory = _memory(linux.get("memoryPolicy"))
        self._domain: int | None = None
        if personality := linux.get("personality"):
            domain = personality["domain"]
            self._domain = _word(_DOMAINS, domain, "linux.personality.domain")
            if personality.get("flags"):
                raise RlessError("linux.personality.flags: there are none")
        affinity = process.get("execCPUAffinity", {})
        self._cpus = {
            when: numbers(text, f"process.execCPUAffinity.{when}")
            for when, text in affinity.items()
            if when in ("initial", "final") and text
        }

    def take_cpus(self, when: str) -> None:
        """Run on the CPUs that are named for this moment, if there are any.

        Args:
            when: "initial": before a process of `exec` is in the container's control group;
                "final": after that.

        Raises:
            RlessError: there are no such CPUs.
        """
        if when in self._cpus:
            try:
                os.sched_setaffinity(0, self._cpus[when])
            except OSError as error:
                raise RlessError(f"process.execCPUAffinity.{when}: {error.strerror}") from error

    def apply(self) -> None:
        """Have the calling process treated so.

        Raises:
            RlessError: the kernel refuses; real time priorities are root's.
        """
        for name, function, arguments in (
            ("linux.personality", sched.set_personality, self._domain),
            ("linux.memoryPolicy", sched.set_memory_policy, self._memory),
            ("process.ioPriority", sched.set_io_priority, self._io),
        ):
            if arguments is not None:
                _call(name, function, *(arguments if isinstance(arguments, tuple) else [arguments]))
        if self._scheduler is not None:
            policy, flags, values = self._scheduler
            _call("process.scheduler", sched.set_scheduler, policy, flags, **values)


def _call(name: str, function: Any, *arguments: Any, **more: Any) -> None:
    try:
        function(*arguments, **more)
    except SyscallError as error:
        hint = "the kernel keeps it for root" if error.errno == 1 else None
        raise RlessError(f"{name}: {error.message}", hint) from error


def _word(words: Mapping[str, int], word: str, where: str) -> int:
    if word not in words:
        raise RlessError(f"{where}: {word!r} is none of {', '.join(words)}")
    return words[word]


def _scheduler(asked: Mapping[str, Any] | None) -> tuple[int, int, dict[str, int]] | None:
    if asked is None:
        return None
    where = "process.scheduler"
    policy = _word(_POLICIES, asked["policy"], f"{where}.policy")
    flags = 0
    for flag in asked.get("flags", ()):
        flags |= _word(_SCHED_FLAGS, flag, f"{where}.flags")
    names = ("nice", "priority", "runtime", "deadline", "period")
    values = {name: asked[name] for name in names if asked.get(name)}
    if policy != _POLICIES["SCHED_DEADLINE"] and {"runtime", "deadline", "period"} & set(values):
        raise RlessError(f"{where}: runtime, deadline and period are for SCHED_DEADLINE")
    if not 0 <= values.get("priority", 0) < 100:
        raise RlessError(f"{where}.priority: {values['priority']} is not between 0 and 99")
    return policy, flags, values


def _io_priority(asked: Mapping[str, Any] | None) -> tuple[int, int] | None:
    if asked is None:
        return None
    kind = _word(_IO_CLASSES, asked["class"], "process.ioPriority.class")
    return kind, asked.get("priority", 0)


def _memory(asked: Mapping[str, Any] | None) -> tuple[int, int] | None:
    if asked is None:
        return None
    where = "linux.memoryPolicy"
    mode = _word(MEMORY_MODES, asked["mode"], f"{where}.mode")
    for flag in asked.get("flags", ()):
        mode |= _word(MEMORY_FLAGS, flag, f"{where}.flags")
    nodes = 0
    if asked.get("nodes"):
        for node in numbers(asked["nodes"], f"{where}.nodes"):
            nodes |= 1 << node
    return mode, nodes


def numbers(text: str, where: str) -> set[int]:
    """Return the numbers of a list as "0-3,7".

    Raises:
        RlessError: it is no such list, or names a number that no CPU or memory node has.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not all(
            word.isascii() and word.isdigit() and len(word) < 5 for word in (first, last or "0")
        ):
            raise RlessError(f"{where}: {text!r} is not a list as 0-3,7")
        low, high = int(first), int(last) if dash and last else int(first)
        if (dash and not last) or not low <= high < _HIGHEST:
            raise RlessError(f"{where}: {text!r} is not a list as 0-3,7")
        found.update(range(low, high + 1))
    return found
