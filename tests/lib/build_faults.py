"""Builds that are killed at random moments, and then the truth: names, images, cache, leftovers.

A storm begins a few builds and removals at a time, each of another name, and kills: the command,
what it has started, all at once; or it sends Ctrl-C. In the calm one `ps -a` has cleaned up. Then
nothing may be left; a name is what it was, or what was just built, whole; and a build that takes
its steps from the cache gives the files that it says.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from tests.lib.faults import where
from tests.lib.product import Product, descendants

_CALM = 30.0  # seconds that the kernel and the tool may take until all is as it will stay
_HANGS = 120.0  # seconds of a build on a busy machine
_FILES = 40
_VERBS = ("build",) * 8 + ("rebuild", "rebuild", "prune", "image-prune", "rmi")
_KINDS = ("command", "command", "below", "all", "key", "none")
_DOCKERFILE = f"""
FROM localhost/storm AS tool
ARG K
RUN --mount=type=cache,target=/cache echo $K >>/cache/log; mkdir /out; \
    i=0; while [ $i -lt {_FILES} ]; do echo $K >/out/$i; i=$((i+1)); done; sleep 0.1
FROM localhost/storm
ARG K
COPY tree /tree/
WORKDIR /made
RUN --mount=type=bind,target=/context --mount=type=tmpfs,target=/scratch \
    cp -r /context/tree copy; echo $K >k
COPY --from=tool /out /out/
LABEL k=$K
"""
_SHOW = "cat /made/k /out/* | uniq -c | tr -s ' '; ls /out /tree /made/copy | wc -l"
_SHOWN = f" {_FILES + 1} {{}}\n{3 * _FILES + 5}\n"  # ls has three headings and two empty lines


class BuildStorm:
    """Random builds and kills; `kills` counts the processes that a signal has reached."""

    def __init__(self, rless: Product, seed: int | str, names: int = 3) -> None:
        self.rless = rless
        self.chance = random.Random(seed)
        self.kills = 0
        self.rounds = 0
        self.history: list[str] = []
        self.base = descendants()
        # What each name may be: the values of K; None: there is no such image.
        self.allowed: dict[str, set[int | None]] = {
            f"localhost/built{number}:latest": {None} for number in range(names)
        }
        self.context = rless.base / "storm-context"
        (self.context / "tree").mkdir(parents=True)
        for number in range(_FILES):
            (self.context / "tree" / str(number)).write_text("x" * 1000 * number)
        (self.context / "Dockerfile").write_text(_DOCKERFILE)
        rless("tag", rless.image, "localhost/storm:latest").expect()
        self.before = self._stored()

    def run(self, kills: int, seconds: float) -> None:
        """Go on until so many kills are done, or the time is over.

        Raises:
            AssertionError: a lie or a leak; the message has what led to it.
        """
        end = time.monotonic() + seconds
        while self.kills < kills and time.monotonic() < end:
            self.history = self.history[-60:]
            self._blow()
            self.rounds += 1
            self._calm()
            self._compare()
        for name in self._names():
            self.rless("rmi", name).expect()
        self.rless("builder", "prune", "-a", "-f").expect()
        self.rless("image", "prune", "-f").expect()
        self._calm()
        assert not (locks := self._locks()), self._tell(f"leak: {locks}")
        left = self._stored() - self.before
        assert not left, self._tell(f"leak: of builds all of which are removed: {sorted(left)}")

    # -- the storm -----------------------------------------------------------------------------

    def _blow(self) -> None:
        running: list[tuple[subprocess.Popen[bytes], str, int | None]] = []
        names = self.chance.sample(sorted(self.allowed), self.chance.randint(1, len(self.allowed)))
        for name in names:
            running.append(self._begin(name))
            time.sleep(self.chance.uniform(0, 0.3))
        for _ in range(self.chance.randint(1, 3)):
            self._kill([process for process, _, _ in running])
            time.sleep(self.chance.uniform(0, 0.3))
        for process, name, value in running:
            try:
                process.communicate(timeout=_HANGS)
            except subprocess.TimeoutExpired:
                raise AssertionError(
                    self._tell(f"it hangs: {process.args}\n{where(process.pid)}")
                ) from None
            if name and process.returncode == 0:
                self.allowed[name] = {value}

    def _begin(self, name: str) -> tuple[subprocess.Popen[bytes], str, int | None]:
        """Begin a command; return it, the name that it changes, and to what."""
        verb = self.chance.choice(_VERBS)
        value = self.chance.randrange(6) if "build" in verb else None
        words = {
            "prune": ("builder", "prune", "-a", "-f"),
            "image-prune": ("image", "prune", "-f"),
            "rmi": ("rmi", "-f", name),
        }.get(verb) or self._build(name, value, *(["--no-cache"] if verb == "rebuild" else []))
        self.history.append(" ".join(words))
        if "prune" in verb:
            name = ""
        else:
            self.allowed[name] = self.allowed[name] | {value}
        return self.rless.start(*words), name, value

    def _build(self, name: str, value: int | None, *flags: str) -> tuple[str, ...]:
        network = "--network=none"
        argument = f"--build-arg=K={value}"
        return ("build", "-q", network, argument, *flags, "-t", name, str(self.context))

    def _kill(self, running: list[subprocess.Popen[bytes]]) -> None:
        kind = self.chance.choice(_KINDS)
        commands = [process.pid for process in running if process.poll() is None]
        everything = sorted(descendants() - self.base)
        below = [pid for pid in everything if pid not in commands]
        chosen = {"below": below, "all": everything, "none": []}.get(kind, commands)
        if kind != "all" and chosen:
            chosen = [self.chance.choice(chosen)]
        self.history.append(f"  {kind} {chosen}")
        for pid in chosen:
            try:
                os.kill(pid, signal.SIGINT if kind == "key" else signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue  # gone, or of a subordinate id: its parent is ours
            self.kills += 1

    # -- the calm --------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Let the next command clean up, and wait until nothing is left."""
        done = self.rless("ps", "-a")
        assert done.code == 0, self._tell(f"ps failed: {done}")
        deadline = time.monotonic() + _CALM
        while leaks := self.rless.leftovers():
            if time.monotonic() > deadline:
                raise AssertionError(self._tell("leak: " + "\nleak: ".join(leaks)))
            time.sleep(0.05)
            self.rless("ps", "-a")

    def _compare(self) -> None:
        """Look at what the names have; then build from the cache, and look at that."""
        names = self._names()
        for name, allowed in self.allowed.items():
            value = self._look(name) if name in names else None
            if value not in allowed:
                raise AssertionError(self._tell(f"lie: {name} is {value}, not of {allowed}"))
            self.allowed[name] = {value}
        value = self.chance.randrange(6)
        name = self.chance.choice(sorted(self.allowed))
        done = self.rless(*self._build(name, value), timeout=_HANGS)
        assert done.code == 0, self._tell(f"it does not build any more: {done}")
        self.allowed[name] = {value}
        assert self._look(name) == value, self._tell(f"lie: the cache gives another {value}")
        assert not (locks := self._locks()), self._tell(f"leak: {locks}")

    def _locks(self) -> list[str]:
        locks = self.rless.storage / "build" / "locks"
        return [f"build/locks/{name}" for name in os.listdir(locks)] if locks.exists() else []

    def _names(self) -> set[str]:
        done = self.rless("images", "--format", "{{.Repository}}:{{.Tag}}").expect()
        return {line for line in done.lines() if line in self.allowed}

    def _look(self, name: str) -> int:
        """Return K of an image, all of whose files must be there."""
        label = self.rless("image", "inspect", "-f", "{{.Config.Labels.k}}", name).expect()
        value = label.out.strip()
        done = self.rless("run", "--rm", "--network=none", name, "sh", "-c", _SHOW)
        if done.code or done.out != _SHOWN.format(value):
            raise AssertionError(self._tell(f"lie: {name} of {value} is not whole: {done}"))
        return int(value)

    def _stored(self) -> set[str]:
        """Return the layers, records and entries that the storage has."""
        found = set()
        for top in ("layers", "splits", "build/cache"):
            base = self.rless.storage / top
            depth = 2 if top != "splits" else 1
            found |= {f"{top}/{path.relative_to(base)}" for path in _at(base, depth)}
        return found

    def _tell(self, what: str) -> str:
        history = "\n".join(self.history)
        return f"{what}\nafter {self.kills} kills in {self.rounds} rounds:\n{history}"


def _at(base: Path, depth: int) -> list[Path]:
    return list(base.glob("/".join("*" * depth)))
