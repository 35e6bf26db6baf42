"""SIGKILL at random moments, and then the truth: what rless says against what /proc says.

A storm runs commands on a few containers, several at a time, and kills: the command, anything
that it has started, the monitor or the first process of a container. After a few kills it is
calm: all commands have ended, one `ps -a` reconciles, and nothing may be left that no container
accounts for, and no state may be told that is not so.

What runs is found without rless: each container's shell carries its name in its arguments.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path

from tests.lib.product import Product, descendants

MARK = "container-of-a-storm-"
SCRIPT = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
_CALM = 15.0  # seconds that the kernel and the monitors may take until all is as it will stay
_VERBS = (
    "run run run-rm run-always create start start stop stop rm rm-f rm-fv restart kill exec exec-d"
    " logs pause unpause wait ps update"
).split()


class Storm:
    """Random commands and kills; `kills` counts the processes that a SIGKILL has reached."""

    def __init__(self, rless: Product, seed: int | str, names: int = 4) -> None:
        self.rless = rless
        self.chance = random.Random(seed)
        self.names = [f"storm{number}" for number in range(names)]
        self.kills = 0
        self.rounds = 0
        self.history: list[str] = []
        self.base = descendants()

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
        self.rless("rm", "-f", "-v", *self.names)
        self._calm()
        assert self.rless.containers() == [], self._tell("removed, and still there")

    # -- the storm -----------------------------------------------------------------------------

    def _blow(self) -> None:
        running: list[subprocess.Popen[bytes]] = []
        for _ in range(self.chance.randint(3, 8)):
            running.append(self._begin())
            time.sleep(self.chance.uniform(0, 0.12))
            if self.chance.random() < 0.8:
                self._kill(self._victims(running))
        time.sleep(self.chance.uniform(0, 0.1))
        deadline = time.monotonic() + _CALM
        for process in running:
            # Followers of what goes on for ever would never end by themselves.
            words = process.args[-6:] if isinstance(process.args, list) else []
            if {"logs", "wait", "exec"} & set(map(str, words)):
                self._kill([process.pid])
            try:
                process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(
                    self._tell(f"it hangs: {process.args}\n{where(process.pid)}")
                ) from None

    def _begin(self) -> subprocess.Popen[bytes]:
        name, verb = self.chance.choice(self.names), self.chance.choice(_VERBS)
        image = ("--network=none", "-v", "/anonymous", self.rless.image, "sh", "-c", SCRIPT,
                 f"{MARK}{name}")  # fmt: skip
        words = {
            "run": ("run", "-d", "--name", name, *image),
            "run-rm": ("run", "-d", "--rm", "--name", name, *image),
            "run-always": ("run", "-d", "--restart", "always", "--name", name, *image),
            "update": ("update", "--restart", self.chance.choice(("no", "always")), name),
            "create": ("create", "--name", name, *image),
            "rm-f": ("rm", "-f", name),
            "rm-fv": ("rm", "-f", "-v", name),
            "restart": ("restart", "-t", "1", name),
            "stop": ("stop", "-t", "1", name),
            "exec": ("exec", name, "sh", "-c", "sleep 600; :", f"exec-{MARK}{name}"),
            "exec-d": ("exec", "-d", name, "sh", "-c", "sleep 600; :", f"exec-{MARK}{name}"),
            "logs": ("logs", "-f", name),
            "ps": ("ps", "-a"),
        }.get(verb, (verb, name))
        self.history.append(" ".join(words[:5]))
        return self.rless.start(*words)

    def _victims(self, running: list[subprocess.Popen[bytes]]) -> list[int]:
        """Return what to kill: one of the commands, of what is below them, or of the containers."""
        kind = self.chance.choice(("command", "command", "below", "monitor", "init", "any", "all"))
        commands = [process.pid for process in running if process.poll() is None]
        everything = sorted(descendants() - self.base)
        if kind == "command":
            chosen = commands
        elif kind == "below":
            chosen = [pid for pid in everything if pid not in commands]
        elif kind in ("monitor", "init"):
            chosen = [entry[kind][0] for entry in self._live() if entry.get(kind)]
        else:
            chosen = everything
        if kind == "all":
            self.history.append("  kill all")
            return chosen
        picked = [self.chance.choice(chosen)] if chosen else []
        self.history.append(f"  kill {kind} {picked}")
        return picked

    def _live(self) -> list[dict[str, list[int]]]:
        found = []
        for path in self.rless.live.glob("*"):
            try:
                entry = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if isinstance(entry, dict):
                found.append(entry)
        return found

    def _kill(self, pids: list[int]) -> None:
        for pid in pids:
            try:
                os.kill(pid, 9)
            except (ProcessLookupError, PermissionError):
                continue  # gone, or of a subordinate id: its parent is ours
            self.kills += 1

    # -- the calm --------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Reconcile, wait until nothing changes any more, and compare."""
        deadline = time.monotonic() + _CALM
        while True:
            wrong = self._wrong()
            if not wrong:
                return
            if time.monotonic() > deadline:
                raise AssertionError(self._tell("\n".join(wrong)))
            time.sleep(0.05)

    def _wrong(self) -> list[str]:
        """Return what rless says that is not so, and what is left that belongs to nobody."""
        rless = self.rless
        done = rless("ps", "-a", "--no-trunc", "--format", "json")
        if done.code:
            return [f"ps failed: {done}"]
        rows = {row["ID"]: row for row in map(json.loads, done.lines())}
        said = {row["Names"]: row["State"] for row in rows.values()}
        shells = marked()
        wrong = []
        for name in self.names:
            runs = len(shells.get(name, ()))
            if runs != (said.get(name) in ("running", "paused")):
                wrong.append(f"lie: {name} is {said.get(name)}, and {runs} of it run")
            if runs == 0 and marked("exec-").get(name):
                wrong.append(f"leak: an exec of {name} has outlived it")
        for state in said.values():
            if state not in ("created", "running", "paused", "exited", "restarting"):
                wrong.append(f"lie: a state {state}")
        wrong += self._leaks({key for key, row in rows.items()
                              if row["State"] in ("running", "paused", "restarting")},
                             set(rows))  # fmt: skip
        return wrong

    def _leaks(self, running: set[str], known: set[str]) -> list[str]:
        rless = self.rless
        leaks = []
        for container_id in rless.containers():
            if container_id not in known:
                leaks.append(f"leak: containers/{container_id}")
        links = {}
        names = rless.storage / "names"
        for link in names.iterdir() if names.exists() else ():
            links[link.name] = os.readlink(link)
        leaks += [f"leak: names/{n} -> {i}" for n, i in links.items() if i not in known]
        if len(links) != len(known):
            leaks.append(f"lie: {len(links)} names of {len(known)} containers")
        live = set(os.listdir(rless.live)) - {"booted"} if rless.live.exists() else set()
        leaks += [f"leak: live/{name}" for name in live - running]
        scratch = rless.storage / "tmp"
        leaks += [f"leak: tmp/{path.name}" for path in scratch.glob("*")]
        with open("/proc/self/mountinfo") as stream:
            leaks += [f"leak: mount {line}" for line in stream if str(rless.base) in line]
        if group := os.environ.get("RLESS_TEST_CGROUP"):
            for _, directories, _ in os.walk(group):
                ours = [name for name in directories if name.startswith("rless-")]
                leaks += [f"leak: cgroup {name}" for name in ours if name[6:] not in running]
        accounted = self._accounted()
        # What was begun by `exec` belongs to the container, too, whoever its parent is now.
        inside = {namespace(pid) for shells in marked().values() for pid in shells}
        for pid, what in rless.processes().items():
            # A keeper stays, whoever has killed its command, for as long as what it keeps.
            kept = {namespace(one) for one in (*children(pid), *held(pid))}
            keeps = kept & (inside - {namespace("self")})
            if pid not in accounted and namespace(pid) not in inside and not keeps:
                leaks.append(f"leak: process {pid} {what}")
        return leaks

    def _accounted(self) -> set[int]:
        """Return the processes that belong to something that runs."""
        return below([entry["monitor"][0] for entry in self._live() if entry.get("monitor")])

    def _tell(self, what: str) -> str:
        history = "\n".join(self.history)
        return f"{what}\nafter {self.kills} kills in {self.rounds} rounds:\n{history}"


def marked(prefix: str = "") -> dict[str, list[int]]:
    """Return name -> pids of the first processes of the storm's containers that run now."""
    found: dict[str, list[int]] = {}
    for pid in descendants():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
            children_of_namespace = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        mark = f"{prefix}{MARK}".encode()
        is_shell = words[:1] == [b"sh"] and len(words) > 3 and words[3].startswith(mark)
        inner = next(
            line.split() for line in children_of_namespace.splitlines() if line.startswith("NSpid")
        )
        if is_shell and state not in b"ZX" and (prefix or inner[-1] == "1"):
            found.setdefault(words[3][len(mark) :].decode(), []).append(pid)
    return found


def children(pid: int) -> list[int]:
    """Return the children of a process; [] for one that has gone."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def held(pid: int) -> list[int]:
    """Return the processes that a process has pidfds of."""
    found = []
    try:
        for path in Path(f"/proc/{pid}/fdinfo").iterdir():
            found += [int(line[4:]) for line in path.read_text().split("\n") if line[:4] == "Pid:"]
    except OSError:
        pass  # it has gone
    return [one for one in found if one > 0]


def namespace(pid: int | str) -> str:
    """Return which pid namespace a process is in; "" for one that has gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def below(pids: list[int]) -> set[int]:
    """Return these processes and all below them."""
    found, queue = set(pids), list(pids)
    while queue:
        pid = queue.pop()
        for child in children(pid):
            if child not in found:
                found.add(child)
                queue.append(child)
    return found


def where(pid: int) -> str:
    """Return what a process that hangs waits for, and what it has open."""
    lines = []
    for name in ("wchan", "syscall", "status"):
        try:
            lines.append(f"{name}: {Path(f'/proc/{pid}/{name}').read_text().strip()[:300]}")
        except OSError as error:
            lines.append(f"{name}: {error}")
    try:
        opened = os.listdir(f"/proc/{pid}/fd")
        lines += [f"fd {fd}: {os.readlink(f'/proc/{pid}/fd/{fd}')}" for fd in opened]
    except OSError as error:
        lines.append(f"fd: {error}")
    return "\n".join(lines)
