"""Images from Dockerfiles: steps, contexts and stages, in generated files that are always the same.

Both tools have their default network and their default number of jobs. All files of a context are
of one seed, so that every call builds the same.
"""

from __future__ import annotations

import ctypes
import os
import random
import select
import shutil
import struct
import sys
import time

from benchmarks.peers import IMAGE, Peers
from benchmarks.table import Case, Command, Group

NAME = "build"
COUNTED = "build: programs started"
SEED = 18
STEPS = 20  # of a build that does nothing else
FILES = 50_000  # of 4 KiB, in directories of a hundred
SOURCES = 2_000
WRITTEN = 1 << 30  # bytes
STAGES = 4
_OPENED, _CLOSED = 0x20, 0x10  # IN_OPEN, IN_CLOSE_NOWRITE
_EVENT = struct.Struct("iIII")


def groups(peers: Peers, runs: int) -> list[Group]:
    """Return what is measured; podman or the same work outside is the reference of each group."""
    few = max(3, runs // 4)
    true = "RUN true\n"
    cached = "".join(f"RUN true\nENV n={n}\nCOPY a /{n}\n" for n in range(10))
    write = f"dd if=/dev/urandom of=/out bs=1M count={WRITTEN >> 20}"
    load = [[peers.rless, "load", "-q", "-i", peers.archive]]
    work = f"busybox head -c {_megabytes()}m /dev/zero | busybox sha256sum"
    stages = "".join(f"FROM {IMAGE} AS s{n}\nRUN {work} >/{n}\n" for n in range(STAGES))
    stages += f"FROM {IMAGE}\n" + "".join(f"COPY --from=s{n} /{n} /\n" for n in range(STAGES))
    source = f"FROM {IMAGE}\nRUN true\nWORKDIR /app\nCOPY a .\nRUN true\nCOPY tree src\n"
    source += "RUN busybox find src | busybox wc -l >count\n"
    contexts = {
        "none": (f"FROM {IMAGE}\n{true}", 0),
        "steps": (f"FROM {IMAGE}\n{true}" + true * STEPS, 0),
        "cached": (f"FROM {IMAGE}\n{cached}", 0),
        "files": (f"FROM {IMAGE}\nCOPY tree /tree\n", FILES),
        "write": (f"FROM {IMAGE}\nRUN {write}\n", 0),
        "stages": (stages, 0),
        "source": (source, SOURCES),
    }
    new = ["--no-cache"]
    empty = {"podman": [["image", "prune", "-f"]], peers.rless: [["builder", "prune", "-a", "-f"]]}

    def one(
        program: str,
        name: str,
        *flags: str,
        before: tuple[Command, ...] = (),
        target: float | None = None,
        most: float | None = None,
        more: float | None = None,
        clean: bool = False,
        label: str | None = None,
    ) -> Case:
        """Return the case of a tool; with `clean` nothing of a sample stays in its store."""
        context = f"{peers.work}/{NAME}/{name}"
        after: list[Command] = []
        if clean:
            after = [[program, *line] for line in (["rmi", "-f", f"built-{name}"], *empty[program])]
        timed = [[program, "build", "-q", "-t", f"built-{name}", *flags, context]]
        return Case(label or os.path.basename(program), timed, before, after, target, most, more)

    def group(name: str, samples: int, *cases: Case) -> Group:
        return Group(
            f"{NAME}: {name}",
            samples,
            cases,
            first=load,
            prepare=lambda: write_all(peers, contexts),
        )

    rless = peers.rless
    changed = (["sh", "-c", f"echo NAME >{peers.work}/{NAME}/source/tree/0/0"],)
    at_once = f"seq {STAGES} | xargs -P {os.cpu_count()} -I N sh -c '{work}'"
    return [
        group(f"{STEPS + 1} steps RUN true", few,
              one("podman", "steps", *new), one(rless, "steps", *new, target=0.20)),
        group(f"{STEPS} more steps RUN true", runs,
              one(rless, "none", *new, label="rless, 1 RUN"),
              one(rless, "steps", *new, label=f"rless, {STEPS + 1} RUN", more=15.0 * STEPS)),
        group("30 steps, all cached", runs,
              one("podman", "cached"), one(rless, "cached", target=0.25, most=120)),
        group(f"COPY of {FILES} files", few,
              one("podman", "files", *new, clean=True),
              one(rless, "files", *new, clean=True, target=0.30)),
        group("RUN that writes 1 GB", few,
              Case("dd", [["sh", "-c", write.replace("of=/out", f"of={peers.work}/out")]],
                   after=[["rm", f"{peers.work}/out"]]),
              one(rless, "write", *new, clean=True, target=1.15),
              one("podman", "write", *new, clean=True)),
        group(f"{STAGES} stages of 2 s", few,
              Case("outside, by xargs -P", [["sh", "-c", at_once]]),
              one(rless, "stages", *new, target=1.2),
              one("podman", "stages", *new, f"--jobs={os.cpu_count()}")),
        group(f"one of {SOURCES} source files changed", runs,
              one("podman", "source", before=changed),
              one(rless, "source", before=changed, target=0.30)),
    ]  # fmt: skip


def _megabytes() -> int:
    """Return how much sha256sum of busybox reads in 2 s, as far as this process knows already."""
    if not _speed:
        count = 64
        began = time.perf_counter()
        os.system(f"busybox head -c {count}m /dev/zero | busybox sha256sum >/dev/null")  # noqa: S605
        _speed.append(max(1, round(2 * count / (time.perf_counter() - began))))
    return _speed[0]


_speed: list[int] = []


def write_all(peers: Peers, contexts: dict[str, tuple[str, int]]) -> None:
    """Write the contexts, if they are not there: a Dockerfile, a file `a`, and some in `tree`."""
    if os.path.exists(f"{peers.work}/{NAME}"):
        return
    for name, (text, count) in contexts.items():
        context = f"{peers.work}/{NAME}/{name}"
        os.makedirs(context)
        with open(f"{context}/Dockerfile", "w", encoding="utf-8") as file:
            file.write(text)
        with open(f"{context}/a", "w", encoding="utf-8") as file:
            file.write("a\n")
        chance = random.Random(SEED)
        for number in range(count):
            directory = f"{context}/tree/{number // 100}"
            if number % 100 == 0:
                os.makedirs(directory)
            with open(f"{directory}/{number % 100}", "wb") as data:
                data.write(chance.randbytes(4096))


# -- counted ---------------------------------------------------------------------------------


def count(peers: Peers) -> None:
    """Print how often a build of many steps starts Python and newuidmap.

    inotify counts the opens of a program, whoever runs it: the smallest number of some builds is
    that of the build.
    """
    names = {"python3": os.path.realpath(sys.executable), "newuidmap": shutil.which("newuidmap")}
    write_all(peers, {})
    context = f"{peers.work}/{NAME}/counted"
    os.makedirs(context)
    with open(f"{context}/Dockerfile", "w", encoding="utf-8") as file:
        file.write(f"FROM {IMAGE}\n" + "RUN true\n" * STEPS)
    print(f"\n{COUNTED} in a build of {STEPS} steps")
    for program, own in peers.installations():
        peers.check([program, "load", "-q", "-i", peers.archive], own)
        for name, path in names.items():
            if path is None:
                continue
            argv = [program, "build", "-q", "--no-cache", context]
            least = min(_count_starts(peers, path, argv, own) for _ in range(3))
            when = ", before" * (program == peers.before)
            met = "yes" if least == 1 else "NO"
            print(f"  rless{when}: {name:<10}{least:4}   target 1: {met}", flush=True)


def _count_starts(peers: Peers, path: str, argv: Command, own: dict[str, str]) -> int:
    """Return how often a program was opened while a command ran."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    # With the ends between them, two starts in turn are not merged into one event.
    if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(path), _OPENED | _CLOSED) < 0:
        raise SystemExit(f"bench: cannot watch {path}: {os.strerror(ctypes.get_errno())}")
    try:
        peers.check(argv, own)
        opened = 0
        while select.select([fd], [], [], 0)[0]:
            data = os.read(fd, 1 << 16)
            offset = 0
            while offset < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, offset)
                opened += bool(mask & _OPENED)
                offset += _EVENT.size + length
        return opened
    finally:
        os.close(fd)
