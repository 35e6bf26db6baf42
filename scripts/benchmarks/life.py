"""The life of a container: started, joined, listed, read, copied, ended."""

from __future__ import annotations

import os
from collections.abc import Sequence

from benchmarks.peers import IMAGE, Peers
from benchmarks.table import Case, Command, Group

QUIET = ["--network", "none"]
# It obeys TERM: podman asks for ten seconds before it kills, even by rm -f.
IDLE = ["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"]
LINES = 1_000_000  # of 100 bytes
COPIED = 1 << 30  # bytes


def groups(peers: Peers, runs: int) -> list[Group]:
    """Return what is measured; podman is the reference of each group."""
    few = max(3, runs // 4)
    big, out = f"{peers.work}/big", f"{peers.work}/out"
    twenty = [f"NAME-{number}" for number in range(20)]
    hundred = [f"listed-{number}" for number in range(100)]
    lines = f"yes {'x' * 99} | head -n {LINES}"
    fill = ["dd", "if=/dev/urandom", "bs=1M", f"count={COPIED >> 20}"]
    found = []

    def both(
        name: str,
        samples: int,
        timed: Sequence[Command],
        target: float | None = None,
        *,
        before: Sequence[Command] = (),
        after: Sequence[Command] = (),
        first: Sequence[Command] = (),
        last: Sequence[Command] = (),
        most: float | None = None,
    ) -> None:
        """Add a group of the same commands for both tools; IMAGE and PROGRAM are filled in."""

        def of(program: str, commands: Sequence[Command]) -> list[Command]:
            image = IMAGE if program == "podman" else peers.image
            filled = [
                [word.replace("IMAGE", image).replace("PROGRAM", program) for word in command]
                for command in commands
            ]
            return [line if line[0].startswith("/") else [program, *line] for line in filled]

        programs = ("podman", peers.rless)
        cases = [
            Case(
                os.path.basename(program),
                of(program, timed),
                of(program, before),
                of(program, after),
                None if program == "podman" else target,
                most,
            )
            for program in programs
        ]
        around = [[line for one in programs for line in of(one, part)] for part in (first, last)]
        found.append(Group(name, samples, cases, first=around[0], last=around[1]))

    start = ["run", "-d", "--name", "NAME", *QUIET, "IMAGE"]
    one = ["run", "-d", "--name", "one", *QUIET, "IMAGE", *IDLE]
    gone: Command = ["rm", "-f", "NAME"]
    both("run -d --network none", runs, [[*start, *IDLE]], 0.5, after=[gone])
    both(
        "run -d (default network)",
        runs,
        [["run", "-d", "--name", "NAME", "IMAGE", *IDLE]],
        0.5,
        after=[gone],
    )
    both(
        "exec C true",
        runs,
        [["exec", "one", "true"]],
        0.22,
        first=[one],
        last=[["rm", "-f", "one"]],
    )
    both(
        "stop + rm of one that obeys TERM",
        runs,
        [["stop", "NAME"], ["rm", "NAME"]],
        0.4,
        before=[[*start, *IDLE]],
    )
    both(
        "kill",
        runs,
        [["kill", "NAME"]],
        before=[[*start, *IDLE]],
        after=[gone],
    )
    both(
        "healthcheck run",
        runs,
        [["healthcheck", "run", "one"]],
        first=[[*one[:2], "--health-cmd", "true", "--health-interval", "1h", *one[2:]]],
        last=[["rm", "-f", "one"]],
    )
    both(
        "rm -f of 20",
        few,
        [["rm", "-f", *twenty]],
        0.10,
        before=[["run", "-d", "--name", name, *QUIET, "IMAGE", *IDLE] for name in twenty],
    )
    both(
        "ps -a with 100 containers",
        runs,
        [["ps", "-a"]],
        0.30,
        first=[
            *(["create", "--name", name, *QUIET, "IMAGE", *IDLE] for name in hundred),
            ["start", *hundred[:10]],
        ],
        last=[["rm", "-f", *hundred]],
        most=100,
    )
    both(
        "logs of 100 MB",
        few,
        [["/bin/sh", "-c", f"test $(PROGRAM logs one | wc -c) = {100 * LINES}"]],
        0.5,
        first=[
            ["run", "-d", "--name", "one", *QUIET, "IMAGE", "sh", "-c", lines],
            ["wait", "one"],
        ],
        last=[["rm", "-f", "one"]],
    )
    both(
        "cp of 1 GB into a container",
        few,
        [["cp", big, "one:/root/NAME"]],
        1.0,
        after=[["exec", "one", "busybox", "rm", "/root/NAME"]],
        first=[["/bin/env", *fill, f"of={big}"], one],
        last=[["rm", "-f", "one"], ["/bin/rm", "-f", big]],
    )
    both(
        "cp of 1 GB out of a container",
        few,
        [["cp", "one:/root/big", out]],
        1.0,
        after=[["/bin/rm", "-f", out]],
        first=[
            one,
            ["exec", "one", *fill, "of=/root/big"],
        ],
        last=[["rm", "-f", "one"]],
    )
    return found
