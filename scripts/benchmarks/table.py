"""Groups of cases, and how they are measured and printed."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
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
        twin: the label of the same case with the version before.
        environment: what its commands get, if not what all get.
    """

    label: str
    timed: Sequence[Command]
    before: Sequence[Command] = ()
    after: Sequence[Command] = ()
    target: float | None = None
    most: float | None = None
    more: float | None = None
    twin: str | None = None
    environment: dict[str, str] | None = None


class Result(NamedTuple):
    """The medians of a group in milliseconds by label; the first is the reference."""

    group: Group
    cases: Sequence[Case]
    medians: dict[str, float]


class Group(NamedTuple):
    """What is compared with each other; the first case is the reference.

    Attributes:
        repeat: how often a sample does what is timed. at_once: how many of them at a time.
        first, last: commands around the whole group.
        prepare: makes the files that these commands need.
    """

    name: str
    samples: int
    cases: Sequence[Case]
    repeat: int = 1
    at_once: int = AT_ONCE
    first: Sequence[Command] = ()
    last: Sequence[Command] = ()
    prepare: Callable[[], None] | None = None


def measure(peers: Peers, group: Group) -> Result | None:
    """Measure a group, print its part of the table, and return it."""
    group = with_twins(peers, group)
    result = None
    unable = prepare(peers, group)
    usable = [case for case in group.cases if case.label not in unable and works(peers, case)]
    if usable:
        times: dict[str, list[tuple[float, float]]] = {case.label: [] for case in usable}
        for _ in range(group.samples):
            for case in random.sample(usable, len(usable)):
                times[case.label].append(sample(peers, case, group.repeat, group.at_once))
        show(group, usable, times)
        medians = {
            label: statistics.median(one[0] for one in taken) for label, taken in times.items()
        }
        result = Result(group, usable, medians)
    for command in group.last:
        if command[0] not in peers.missing:
            peers.run(command)
        if twin := peers.twin(command):
            peers.run(twin, peers.environment_before)
    return result


def with_twins(peers: Peers, group: Group) -> Group:
    """Return a group in which each case of rless is followed by that of the version before."""
    cases: list[Case] = []
    for case in group.cases:
        parts = [
            [peers.twin(line) or line for line in part]
            for part in (case.timed, case.before, case.after)
        ]
        if parts[0] == list(case.timed):
            cases.append(case)
            continue
        label = f"{case.label}, before"
        cases += [
            case._replace(twin=label),
            Case(label, *parts, environment=peers.environment_before),
        ]
    return group._replace(cases=cases)


def prepare(peers: Peers, group: Group) -> set[str]:
    """Run the commands before a group; return the peers that cannot, and say so."""
    if group.prepare:
        group.prepare()
    unable: set[str] = set()
    for command in group.first:
        program = command[0]
        if program not in PACKAGES:
            peers.check(command)
            if twin := peers.twin(command):
                peers.check(twin, peers.environment_before)
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
        peers.check(named(command, name), case.environment)
    commands = [
        named(command, f"{name}-{number}") if repeat > 1 else named(command, name)
        for number in range(repeat)
        for command in case.timed
    ]
    spent = peers.time(commands, at_once if repeat > 1 else 1, case.environment)
    for command in case.after:
        peers.run(named(command, name), case.environment)
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
            done = peers.run(named(command, name), case.environment)
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
            allowed = [f"{case.target}"] if case.target is not None else []
            allowed += [f"{case.most:.0f} ms"] if case.most is not None else []
            if allowed:
                met = case.target is None or ratio <= case.target
                met = met and (case.most is None or middle <= case.most)
                line += f"   target {' and '.join(allowed)}: {'yes' if met else 'NO'}"
            if case.more is not None:
                met = middle - base <= case.more
                line += f"   {middle - base:+.1f} ms"
                line += f"   target +{case.more:.0f} ms: {'yes' if met else 'NO'}"
        print(line, flush=True)


def compare(results: Sequence[Result]) -> None:
    """Print the version before and this one side by side: ratios, and milliseconds."""
    if not results:
        return
    print("\n| group | reference | before | after | target |\n|---|---|---|---|---|")
    for group, cases, medians in results:
        reference, base = cases[0].label, medians[cases[0].label]
        several = sum(case.twin is not None for case in cases) > 1
        for case in cases:
            if case.twin not in medians:
                continue
            before, after = medians[case.twin], medians[case.label]
            name = f"{group.name}: {case.label}" if several else group.name
            allowed = [f"{case.target}"] if case.target is not None else []
            allowed += [f"{case.most:.0f} ms"] if case.most is not None else []
            allowed += [f"+{case.more:.0f} ms"] if case.more is not None else []
            print(
                f"| {name} | {reference} ({base:.1f}) | {before / base:.2f} ({before:.1f}) "
                f"| {after / base:.2f} ({after:.1f}) | {', '.join(allowed)} |"
            )
