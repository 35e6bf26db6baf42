"""The builder: root in the namespaces of the build, which has the steps done.

A step is ready once the step before it, and the stages that it takes files from, are done. What can
be found in the cache without looking at files is found here; for all else a process is forked. It
is a copy of the builder, with everything loaded, so no step starts Python. At most `jobs` are at
work. The first failure ends all others.

    step process   {"kind": "output", ...}   messages for whoever shows the progress
                   {"kind": "result", ...}   its last word
    builder        passes on messages, with the number of the step as "id"

Every process ends with its parent (PR_SET_PDEATHSIG), so nothing is left of a build that is killed
but its staging directory, which the next command deletes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any

from rootless.engine.build import step_process
from rootless.engine.build.messages import Receiver
from rootless.engine.build.steps import Result, RunStep, State
from rootless.errors import RlessError
from rootless.linux import prctl
from rootless.linux.tree import remove_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.engine.build.messages import Say
    from rootless.engine.build.site import Site
    from rootless.engine.build.steps import Stage, Step


class _Track:
    """How far a stage has come.

    Attributes:
        next: index of the step that is next. state: what it starts from; None: not known yet.
        layers: number of a step with a layer -> when that was made. keys: of the entries of the
            cache that its steps have. running: a process is at work on it.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.next = 0
        self.state: State | None = None
        self.layers: dict[int, float] = {}
        self.keys: list[str] = []
        self.running = False

    @property
    def step(self) -> Step | None:
        """Return the step that is next; None: all are done."""
        return self.stage.steps[self.next] if self.next < len(self.stage.steps) else None

    @property
    def result(self) -> Result | None:
        """Return what it has come to, once all is done."""
        if self.state is None or self.step is not None:
            return None
        return Result(self.state, self.layers, tuple(self.keys))


class _Process:
    """A step process."""

    def __init__(self, track: _Track, number: int, pid: int, fd: int) -> None:
        self.track = track
        self.number = number
        self.pid = pid
        self.fd = fd
        self.receiver = Receiver(fd)
        self.began = time.monotonic()
        self.last: dict[str, Any] | None = None


class Builder:
    """The scheduler of one build."""

    def __init__(self, site: Site, say: Say) -> None:
        """Prepare it.

        Args:
            say: gets the messages for whoever shows the progress.
        """
        self._site = site
        self._say = say
        self._tracks = [_Track(stage) for stage in site.plan.stages]
        self._running: dict[int, _Process] = {}
        self._poll = select.poll()
        self._count = 0
        self._loaded = False

    def run(self) -> list[Result]:
        """Do all steps; return what each stage has come to.

        Raises:
            RlessError: a step failed; nothing runs any more then.
        """
        several = len(self._site.plan.targets) > 1
        for track in self._tracks:
            stage = track.stage
            self._say({"kind": "stage", "stage": stage.index, "name": stage.name,
                       "steps": len(stage.steps),
                       "platform": stage.platform if several else ""})  # fmt: skip
        try:
            while True:
                self._begin_ready()
                if not self._running:
                    break
                for fd, _ in self._poll.poll():
                    self._read(self._running[fd])
        finally:
            for process in self._running.values():
                os.kill(process.pid, signal.SIGKILL)  # ours, and not waited for
                os.waitpid(process.pid, 0)
                os.close(process.fd)
        results = [track.result for track in self._tracks]
        assert None not in results
        return [result for result in results if result is not None]

    def _begin_ready(self) -> None:
        """Begin every step that can begin, and take from the cache what needs no process."""
        moved = True
        while moved:
            moved = False
            for track in self._tracks:
                while not track.running and self._is_ready(track):
                    if not self._take_cached(track):
                        if len(self._running) >= self._site.jobs:
                            break
                        self._fork(track)
                    moved = True

    def _is_ready(self, track: _Track) -> bool:
        if track.state is None:
            base = track.stage.base
            if isinstance(base, int):
                below = self._tracks[base].result
                track.state = None if below is None else below.state
            else:
                track.state = self._site.state_of_base(base)
        step = track.step
        if track.state is None or step is None:
            return False
        return all(self._tracks[index].result is not None for index in step.stages())

    def _take_cached(self, track: _Track) -> bool:
        """Take the result of the next step from the cache, if its key is known without files."""
        step, before = track.step, track.state
        assert step is not None and before is not None
        key = self._site.early_key(step, before, [one.result for one in self._tracks])
        if key is None or self._site.ignores_cache(track.stage):
            return False
        found = self._site.cache.find(key, before.chain)
        if found is None:
            return False
        self._announce(track, "cached")
        state = State(found.keys[0] if found.keys else key, found.chain)
        self._advance(track, state, found.created, [key])
        return True

    def _announce(self, track: _Track, kind: str) -> int:
        self._count += 1
        step = track.step
        assert step is not None
        self._say({"kind": kind, "stage": track.stage.index, "step": step.number,
                   "id": self._count, "text": step.text})  # fmt: skip
        return self._count

    def _advance(
        self, track: _Track, state: State, created: float, keys: Sequence[str]
    ) -> None:
        step, before = track.step, track.state
        assert step is not None and before is not None
        if state.chain != before.chain:
            track.layers[step.number] = created
            track.keys += keys
        track.state = state
        track.next += 1

    # -- step processes ----------------------------------------------------------------------

    def _fork(self, track: _Track) -> None:
        if not self._loaded:
            step_process.load()
            self._loaded = True
        number = self._announce(track, "start")
        step, before = track.step, track.state
        assert step is not None and before is not None
        if isinstance(step, RunStep):
            self._site.owners_in(before.chain)  # known to all later steps then
        reader, writer = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                prctl.set_parent_death_signal(signal.SIGKILL)
                if os.getppid() != parent:
                    os._exit(137)
                os.close(reader)
                for other in self._running.values():
                    os.close(other.fd)
                results = [one.result for one in self._tracks]
                step_process.run(self._site, track.stage, step, before, results, number, writer)
            finally:
                os._exit(70)
        os.close(writer)
        track.running = True
        self._running[reader] = _Process(track, number, pid, reader)
        self._poll.register(reader, select.POLLIN)

    def _read(self, process: _Process) -> None:
        for message in process.receiver.read():
            if message["kind"] in ("result", "failed"):
                process.last = message
            else:
                self._say({**message, "id": process.number})
        if process.receiver.ended:
            self._finish(process)

    def _finish(self, process: _Process) -> None:
        self._poll.unregister(process.fd)
        del self._running[process.fd]
        os.close(process.fd)
        _, status = os.waitpid(process.pid, 0)
        track, said = process.track, process.last
        track.running = False
        self._clear(process)
        step = track.step
        assert step is not None
        if said is None:
            said = {"kind": "failed", "message": f"its process ended (status {status})",
                    "hint": None, "exit_code": 1}  # fmt: skip
        if said["kind"] == "failed":
            failure = {"line": step.line, "end_line": step.end_line, "text": step.text}
            self._say({**said, **failure, "id": process.number, "stage": track.stage.index})
            raise RlessError(said["message"], said["hint"], said["exit_code"])
        if said["cached"]:
            self._say({"kind": "cached", "id": process.number})
        else:
            seconds = round(time.monotonic() - process.began, 3)
            self._say({"kind": "done", "id": process.number, "seconds": seconds})
        state = State(said["key"], tuple(said["chain"]))
        self._advance(track, state, said["created"], said["keys"])

    def _clear(self, process: _Process) -> None:
        """Delete the directory of a step, whose mounts have ended with its process.

        Here, as the files of other ids can be deleted: outside that would take a new namespace.
        """
        fd = os.open(self._site.scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(RlessError):  # the staging directory goes as a whole
                remove_tree(fd, str(process.number))
        finally:
            os.close(fd)
