"""The builder: root in the namespaces of the build, which has the steps done.

A step is ready once the step before it, and the stages that it takes files from, are done. What can
be found in the cache without looking at files is found here; for all else a process is forked. It
is a copy of the builder, with everything loaded, so no step starts Python. It does the next steps of
its stage, too, for as long as they leave nothing behind in it: a fork costs as much as a small RUN.
At most `jobs` are at work. The first failure ends all others.

    builder        {"step": ...}             what is to be done (`step_process.Task`)
    step process   {"kind": "output", ...}   messages for whoever shows the progress
                   {"kind": "result", ...}   the last word about a step
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
from rootless.engine.build.messages import Receiver, sender
from rootless.engine.build.steps import CopyStep, Result, RunStep, State
from rootless.errors import RlessError
from rootless.linux import prctl
from rootless.linux.process import describe_end
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
            cache that its steps have. running: a process is at work on it. process: that one, or
            one that waits for the next step.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.next = 0
        self.state: State | None = None
        self.layers: dict[int, float] = {}
        self.keys: list[str] = []
        self.running = False
        self.process: _Process | None = None

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
    """A step process.

    Attributes:
        number, began: of the step that it is at. said: its last word about that.
        done: how many it has done.
        kept: number of the last one, if a layer in its directory is not sealed; else 0.
        left_host: a RUN of it has entered the network of the build, and there is no way back.
    """

    def __init__(self, track: _Track, pid: int, fd: int, tasks: int) -> None:
        self.track = track
        self.pid = pid
        self.fd = fd
        self.receiver = Receiver(fd)
        self.tasks = tasks
        self.number = 0
        self.began = 0.0
        self.said: dict[str, Any] | None = None
        self.done = 0
        self.kept = 0
        self.left_host = False

    def suits(self, step: Step) -> bool:
        """Tell whether the step can be done by it."""
        if isinstance(step, RunStep):
            return not (self.left_host and step.network == "host")
        return not (self.left_host and isinstance(step, CopyStep) and step.add)

    def give(self, number: int, task: dict[str, Any]) -> None:
        """Give it a step to do."""
        self.number = number
        self.began = time.monotonic()
        self.said = None
        sender(self.tasks)(task)

    def end(self) -> None:
        """Kill it, which is ours and was not waited for, and forget it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.close()

    def close(self) -> None:
        """Close the pipes."""
        os.close(self.tasks)
        os.close(self.fd)
        self.track.process = None


class Builder:
    """The scheduler of one build.

    Attributes:
        has_made: the result of a step is new in the cache.
    """

    def __init__(self, site: Site, say: Say) -> None:
        """Prepare it.

        Args:
            say: gets the messages for whoever shows the progress.
        """
        self._site = site
        self._say = say
        self._tracks = [_Track(stage) for stage in site.plan.stages]
        self._processes: dict[int, _Process] = {}
        self._left: list[int] = []  # numbers of steps whose directories are not needed any more
        self._poll = select.poll()
        self._count = 0
        self._loaded = False
        self.has_made = False

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
                self._clear()
                if not self._running():
                    break
                for fd, _ in self._poll.poll():
                    self._read(self._processes[fd])
        finally:
            for process in self._processes.values():
                process.end()
        results = [track.result for track in self._tracks]
        assert None not in results
        return [result for result in results if result is not None]

    def _running(self) -> int:
        """Return how many step processes are at work."""
        return sum(track.running for track in self._tracks)

    def _begin_ready(self) -> None:
        """Begin every step that can begin, and take from the cache what needs no process."""
        moved = True
        while moved:
            moved = False
            for track in self._tracks:
                while not track.running and self._is_ready(track):
                    if not self._take_cached(track):
                        if self._running() >= self._site.jobs:
                            break
                        self._give(track)
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
        if found.chain == before.chain:  # of a WORKDIR that was there
            state = before
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

    def _give(self, track: _Track) -> None:
        """Have a process do the next step."""
        step, before = track.step, track.state
        assert step is not None and before is not None
        if track.process is not None and not track.process.suits(step):
            self._forget(track.process)
        self._start(track, self._announce(track, "start"))

    def _start(self, track: _Track, number: int) -> None:
        step, before = track.step, track.state
        assert step is not None and before is not None
        process = track.process or self._fork(track)
        if isinstance(step, RunStep) and step.network == "default":
            process.left_host = True
        chains = {
            index: result.state.chain
            for index in step.stages() if (result := self._tracks[index].result) is not None
        }  # fmt: skip
        rest = track.stage.steps[track.next + 1 :]
        is_last = not rest or not process.suits(rest[0])
        task = step_process.Task(track.next, number, before, chains, is_last)
        track.running = True
        with contextlib.suppress(BrokenPipeError):  # it has died: its end is read next
            process.give(number, task.data())

    def _fork(self, track: _Track) -> _Process:
        # A RUN is done for certain; what else it is may be found once its files were looked at.
        if not self._loaded and (self.has_made or isinstance(track.step, RunStep)):
            step_process.load()
            self._loaded = True
        messages, tasks = os.pipe(), os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                prctl.set_parent_death_signal(signal.SIGKILL)
                if os.getppid() != parent:
                    os._exit(137)
                for fd in (messages[0], tasks[1]):
                    os.close(fd)
                for other in self._processes.values():
                    os.close(other.fd)
                    os.close(other.tasks)
                step_process.run(self._site, track.stage, tasks[0], messages[1])
            finally:
                os._exit(70)
        os.close(messages[1])
        os.close(tasks[0])
        process = _Process(track, pid, messages[0], tasks[1])
        track.process = self._processes[process.fd] = process
        self._poll.register(process.fd, select.POLLIN)
        return process

    def _read(self, process: _Process) -> None:
        for message in process.receiver.read():
            if message["kind"] in ("result", "failed"):
                process.said = message
                if message.get("goes_on"):
                    self._finish(process)
            else:
                self._say({**message, "id": process.number})
        if process.receiver.ended:
            track = process.track
            status = self._forget(process)
            if track.running and self._is_untouched(process):
                self._start(track, process.number)
            elif track.running:
                self._finish(process, status)

    def _is_untouched(self, process: _Process) -> bool:
        """Tell whether one that waited for its next step was killed before it began that."""
        scratch = f"{self._site.scratch}/{process.number}"
        has_begun = process.said is not None or os.path.lexists(scratch)
        return process.done > 0 and not has_begun and not process.kept

    def _forget(self, process: _Process) -> int:
        """Wait for the end of a process, which has nothing to do any more; return its status."""
        self._poll.unregister(process.fd)
        del self._processes[process.fd]
        process.close()
        return os.waitpid(process.pid, 0)[1]

    def _finish(self, process: _Process, status: int = 0) -> None:
        """Take the result of a step."""
        track, said = process.track, process.said
        track.running = False
        self._left += filter(None, (process.kept, process.number))
        process.kept = 0
        step = track.step
        assert step is not None
        process.done += 1
        if said is None:
            said = {"kind": "failed", "message": f"its process {describe_end(status)}",
                    "hint": None, "exit_code": 1}  # fmt: skip
        if said["kind"] == "failed":
            failure = {"line": step.line, "end_line": step.end_line, "text": step.text}
            self._say({**said, **failure, "id": process.number, "stage": track.stage.index})
            raise RlessError(said["message"], said["hint"], said["exit_code"])
        if said["cached"]:
            self._say({"kind": "cached", "id": process.number})
        else:
            self.has_made = True
            seconds = round(time.monotonic() - process.began, 3)
            self._say({"kind": "done", "id": process.number, "seconds": seconds})
        state = State(said["key"], tuple(said["chain"]))
        if state.chain[-1:] == (step_process.UNSEALED,):
            process.kept = self._left.pop()
        self._advance(track, state, said["created"], said["keys"])

    def _clear(self) -> None:
        """Delete the directories of steps that are done, whose mounts have ended.

        Here, as the files of other ids can be deleted: outside that would take a new namespace.
        """
        if not self._left:
            return
        fd = os.open(self._site.scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for number in self._left:
                with contextlib.suppress(RlessError):  # the staging directory goes as a whole
                    remove_tree(fd, str(number))
        finally:
            self._left.clear()
            os.close(fd)
