"""Groups of cases, and how they are measured and printed."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.peers import AT_ONCE, PACKAGES, Peers

# Seconds after a sample: the kernel still takes its interfaces and namespaces down, under locks
# that the next start would wait for, whoever's that is.
SETTLE = 0.15

Command = list[str]


class Case(NamedTuple):
    """One program in a group.

    In all commands NAME is replaced by a name of its own for each sample.

    Attributes:
        timed: commands whose time counts.
        before, after: commands around each sample, whose time does not.
        target: the largest ratio to the group's first case that is allowed.
        most: milliseconds that are allowed, too.
        more: milliseconds above the group's first case that are allowed.
    """

    label: str
    timed: Sequence[Command]
    before: Sequence[Command] = ()
    after: Sequence[Command] = ()
    target: float | None = None
    most: float | None = None
    more: float | None = None


class Group(NamedTuple):
    """What is compared with each other; the first case is the reference.

    Attributes:
        repeat: how often a sample does what is timed. at_once: how many of them at a time.
        first, last: commands around the whole group.
    """

    name: str
    samples: int
    cases: Sequence[Case]
    repeat: int = 1
    at_once: int = AT_ONCE
    first: Sequence[Command] = ()
    last: Sequence[Command] = ()


def measure(peers: Peers, group: Group) -> None:
    """Measure a group and print its part of the table."""
    unable = prepare(peers, group)
    usable = [case for case in group.cases if case.label not in unable and works(peers, case)]
    if usable:
        times: dict[str, list[tuple[float, float]]] = {case.label: [] for case in usable}
        for _ in range(group.samples):
            for case in random.sample(usable, len(usable)):
                times[case.label].append(sample(peers, case, group.repeat, group.at_once))
        show(group, usable, times)
    for command in group.last:
        if command[0] not in peers.missing:
            peers.run(command)


def prepare(peers: Peers, group: Group) -> set[str]:
    """Run the commands before a group; return the peers that cannot, and say so."""
    unable: set[str] = set()
    for command in group.first:
        program = command[0]
        if program not in PACKAGES:
            peers.check(command)
        elif program not in peers.missing and program not in unable:
            done = peers.run(command)
            if done.returncode:
                said = done.stdout.strip().splitlines() or [f"exit code {done.returncode}"]
                print(f"\nbench: {program} cannot do {group.name!r} here: {said[-1]}", flush=True)
                unable.add(program)
    return unable


def sample(peers: Peers, case: Case, repeat: int, at_once: int) -> tuple[float, float]:
    """Return the milliseconds of one sample, and those of processor time."""
    name = f"bench-{time.monotonic_ns()}"
    for command in case.before:
        peers.check(named(command, name))
    commands = [
        named(command, f"{name}-{number}") if repeat > 1 else named(command, name)
        for number in range(repeat)
        for command in case.timed
    ]
    spent = peers.time(commands, at_once if repeat > 1 else 1)
    for command in case.after:
        peers.run(named(command, name))
    time.sleep(SETTLE)
    return spent


def named(command: Command, name: str) -> Command:
    return [part.replace("NAME", name) for part in command]


def works(peers: Peers, case: Case) -> bool:
    """Warm up; say and leave out what does not run here."""
    if case.timed[0][0] in peers.missing:
        return False
    for number in range(2):
        name = f"warm-{time.monotonic_ns()}-{number}"
        for command in (*case.before, *case.timed, *case.after):
            done = peers.run(named(command, name))
            if done.returncode and command not in case.after:
                said = done.stdout.strip().splitlines() or [f"exit code {done.returncode}"]
                print(f"\nbench: {case.label} does not run here: {said[-1]}")
                return False
    return True


def show(group: Group, cases: Sequence[Case], times: dict[str, list[tuple[float, float]]]) -> None:
    """Print medians, quartiles, processor time, ratios, targets."""
    print(f"\n{group.name}   ({group.samples} samples)")
    reference: tuple[str, float, float] | None = None
    for case in cases:
        low, middle, high = statistics.quantiles([one[0] for one in times[case.label]], n=4)
        used = statistics.median(one[1] for one in times[case.label])
        line = f"  {case.label:<20}{middle:8.1f}  ({low:.1f} to {high:.1f})"
        line = f"{line:<50}{used:8.1f}"
        if reference is None:
            reference = case.label, middle, used
        else:
            label, base, base_used = reference
            ratio = middle / base
            line += f"{ratio:7.2f} x {label} ({used / max(base_used, 0.1):.2f})"
            if case.target is not None:
                met = ratio <= case.target and (case.most is None or middle <= case.most)
                most = f" and {case.most:.0f} ms" if case.most else ""
                line += f"   target {case.target}{most}: {'yes' if met else 'NO'}"
            if case.more is not None:
                met = middle - base <= case.more
                line += f"   {middle - base:+.1f} ms"
                line += f"   target +{case.more:.0f} ms: {'yes' if met else 'NO'}"
        print(line, flush=True)
