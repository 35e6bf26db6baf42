r"""Show how a build goes on: redrawn lines on a terminal, plain lines, nothing, or JSON.

All of it goes to standard error. The builder and its step processes tell by messages, a JSON
object each:

    {"kind": "stage", "stage": 0, "name": "build", "steps": 5, "platform": ""}
    {"kind": "start", "stage": 0, "step": 2, "id": 7, "text": "RUN make"}
    {"kind": "cached", "stage": 0, "step": 1, "id": 6, "text": ...}     or of an id that has begun
    {"kind": "output", "id": 7, "stream": 1, "text": "whole lines\n"}
    {"kind": "wait", "id": 7, "why": "another build is doing this step"}
    {"kind": "done", "id": 7, "seconds": 0.1}
    {"kind": "failed", "id": 7, "message": ..., "line": 5, "end_line": 6}
    {"kind": "warning", "text": ...}

Instructions, names and output are hostile. A terminal never gets a control character of theirs.
What a RUN has written goes into a pipe or a file byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections import deque
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rootless.errors import escape
from rootless.linux.redraw import Redrawn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rootless.engine.build.request import BuildRequest
    from rootless.engine.build.steps import Plan

_REDRAW_SECONDS = 0.1
_SHOWN = 6  # lines of output below a step that runs
_REPEATED = 100  # lines of output that are repeated when a step fails
_LONGEST = 4096  # characters of such a line


class _Step:
    """A step that has begun."""

    def __init__(self, number: int, title: str) -> None:
        self.id = number
        self.title = title
        self.began = time.monotonic()
        self.waits_for = ""
        self.tail: deque[str] = deque(maxlen=_REPEATED)

    def age(self) -> float:
        return time.monotonic() - self.began

    def keep(self, lines: list[str]) -> None:
        """Keep the last lines, as a terminal would show them: what overwrites a line counts."""
        for line in lines[-_REPEATED:]:
            self.tail.append(line.rstrip("\r").rpartition("\r")[2][:_LONGEST])


class Progress:
    """What all forms have in common; by itself it shows nothing but what has failed (quiet)."""

    def __init__(self, fd: int = 2) -> None:
        self._screen = Redrawn(fd)
        self._is_terminal = os.isatty(fd)
        self._stages: dict[int, tuple[str, str, int]] = {}  # platform, name, steps
        self._running: dict[int, _Step] = {}
        self._file = ""
        self._text = ""

    def show_source(self, name: str, text: str) -> None:
        """Take the Dockerfile, of which a failure shows the lines."""
        self._file, self._text = name, text

    def show_plan(self, plan: Plan) -> None:
        """Take the plan, before the first step."""

    def handle(self, message: Mapping[str, Any]) -> None:
        """Show a message."""
        kind = message["kind"]
        if kind == "stage":
            facts = (message.get("platform", ""), message["name"], message["steps"])
            self._stages[message["stage"]] = facts
        elif kind == "warning":
            self._warning(message["text"])
        elif kind == "start":
            self._begin(message)
        elif kind == "cached":
            step = self._running.pop(message["id"], None)
            if step is None:
                step = self._begin(message)
                del self._running[step.id]
            self._cached(step)
        elif message["id"] in self._running:
            step = self._running[message["id"]]
            if kind == "output":
                lines = message["text"].removesuffix("\n").split("\n")
                step.keep(lines)
                self._output(step, lines, message)
            elif kind == "wait":
                step.waits_for = message["why"]
                self._waits(step)
            elif kind in ("done", "failed"):
                del self._running[step.id]
                if kind == "done":
                    self._done(step, message["seconds"])
                else:
                    self._failed(step, message)

    def finish(self) -> None:
        """Leave the last state on the screen."""

    def _begin(self, message: Mapping[str, Any]) -> _Step:
        step = _Step(message["id"], f"{self._place(message)} {escape(message['text'])}")
        self._running[step.id] = step
        self._started(step)
        return step

    def _place(self, message: Mapping[str, Any]) -> str:
        """Return where a step is: `[2/5]` of an only stage, `[build 2/5]`, `[stage-1 2/5]`.

        With several platforms: `[linux/arm64 build 2/5]`.
        """
        platform, name, steps = self._stages.get(message["stage"], ("", "", 0))
        if name.isdecimal() or not name:
            names = {name for _, name, _ in self._stages.values()}
            name = f"stage-{name or message['stage']} " if len(names) > 1 else ""
        else:
            name = f"{escape(name)} "
        if platform:
            name = f"{escape(platform)} {name}"
        return f"[{name}{message['step']}/{steps}]"

    def _report(self, step: _Step, message: Mapping[str, Any]) -> str:
        """Return the last output of a step that failed, and its lines of the Dockerfile."""
        lines = []
        if step.tail:
            lines += ["------", f" > {step.title}:", *map(self._shown, step.tail), "------"]
        if self._text and message.get("line"):
            from rootless.dockerfile.errors import show_lines

            shown = show_lines(self._text, message["line"], message.get("end_line") or 0)
            lines += [f"{escape(self._file)}:{message['line']}", *shown]
        return "".join(f"{line}\n" for line in lines)

    def _shown(self, line: str) -> str:
        """Return a line of output as it may be written here."""
        return escape(line.expandtabs()) if self._is_terminal else line

    # What happens to a step: each form shows it in its own way.

    def _started(self, step: _Step) -> None:
        pass

    def _cached(self, step: _Step) -> None:
        pass

    def _output(self, step: _Step, lines: list[str], message: Mapping[str, Any]) -> None:
        pass

    def _waits(self, step: _Step) -> None:
        pass

    def _done(self, step: _Step, seconds: float) -> None:
        pass

    def _failed(self, step: _Step, message: Mapping[str, Any]) -> None:
        self._screen.write(self._report(step, message))

    def _warning(self, text: str) -> None:
        pass


class Plain(Progress):
    """A line for all that happens, with the number of its step."""

    def _started(self, step: _Step) -> None:
        self._say(f"#{step.id} {step.title}")

    def _cached(self, step: _Step) -> None:
        self._say(f"#{step.id} CACHED")

    def _output(self, step: _Step, lines: list[str], message: Mapping[str, Any]) -> None:
        head = f"#{step.id} {step.age():.3f} "
        text = "".join(f"{head}{self._shown(line)}\n" for line in lines)
        self._screen.write(text, "surrogateescape")

    def _waits(self, step: _Step) -> None:
        self._say(f"#{step.id} waiting: {escape(step.waits_for)}")

    def _done(self, step: _Step, seconds: float) -> None:
        self._say(f"#{step.id} DONE {seconds:.1f}s")

    def _failed(self, step: _Step, message: Mapping[str, Any]) -> None:
        self._say(f"#{step.id} ERROR: {escape(message['message'])}")
        super()._failed(step, message)

    def _warning(self, text: str) -> None:
        self._say(f"WARNING: {escape(text)}")

    def _say(self, text: str) -> None:
        self._screen.write(f"{text}\n")


class Terminal(Progress):
    """A line for each step that has ended; below them those that run, with their last output."""

    def __init__(self, fd: int = 2) -> None:
        super().__init__(fd)
        self._last = 0.0

    def finish(self) -> None:
        """Take away what runs no more."""
        self._redraw()
        self._screen.leave()

    def _started(self, step: _Step) -> None:
        self._redraw_soon()

    def _cached(self, step: _Step) -> None:
        self._redraw(f"CACHED {step.title}\n")

    def _output(self, step: _Step, lines: list[str], message: Mapping[str, Any]) -> None:
        self._redraw_soon()

    def _waits(self, step: _Step) -> None:
        self._redraw()

    def _done(self, step: _Step, seconds: float) -> None:
        self._redraw(f"{seconds:5.1f}s {step.title}\n")

    def _failed(self, step: _Step, message: Mapping[str, Any]) -> None:
        self._redraw(f" ERROR {step.title}\n{self._report(step, message)}")

    def _warning(self, text: str) -> None:
        self._redraw(f"WARNING: {escape(text)}\n")

    def _redraw_soon(self) -> None:
        now = time.monotonic()
        if now - self._last >= _REDRAW_SECONDS:
            self._last = now
            self._redraw()

    def _redraw(self, above: str = "") -> None:
        self._screen.draw(self._picture(), above)

    def _picture(self) -> list[str]:
        """Return the steps that run, and as much of their output as there is room for."""
        room = max(1, self._screen.size()[1] - 2)
        steps = list(self._running.values())[:room]
        each = min(_SHOWN, (room - len(steps)) // len(steps)) if steps else 0
        picture = []
        for step in steps:
            state = f" ({escape(step.waits_for)})" if step.waits_for else ""
            picture.append(f"{step.age():5.1f}s {step.title}{state}")
            lines = list(step.tail)[-each:] if each else []
            picture += [f"       {self._shown(line)}" for line in lines]
        return picture


class RawJson(Progress):
    """The records of BuildKit's `--progress=rawjson`, one a line.

    Source: moby/buildkit client/graph.go, SolveStatus.
    """

    def __init__(self, fd: int = 2) -> None:
        super().__init__(fd)
        self._vertexes: dict[int, dict[str, Any]] = {}

    def _started(self, step: _Step) -> None:
        digest = hashlib.sha256(f"{step.id} {step.title}".encode()).hexdigest()
        vertex = {"digest": f"sha256:{digest}", "name": step.title, "started": _now()}
        self._vertexes[step.id] = vertex
        self._say({"vertexes": [vertex]})

    def _cached(self, step: _Step) -> None:
        self._complete(step, cached=True)

    def _output(self, step: _Step, lines: list[str], message: Mapping[str, Any]) -> None:
        data = message["text"].encode("utf-8", "surrogateescape")
        log = {
            "vertex": self._vertexes[step.id]["digest"],
            "stream": message["stream"],
            "data": base64.b64encode(data).decode("ascii"),
            "timestamp": _now(),
        }
        self._say({"logs": [log]})

    def _done(self, step: _Step, seconds: float) -> None:
        self._complete(step)

    def _failed(self, step: _Step, message: Mapping[str, Any]) -> None:
        self._complete(step, error=message["message"])

    def _complete(self, step: _Step, **more: object) -> None:
        self._say({"vertexes": [{**self._vertexes.pop(step.id), "completed": _now(), **more}]})

    def _warning(self, text: str) -> None:
        short = base64.b64encode(text.encode("utf-8", "backslashreplace")).decode("ascii")
        self._say({"warnings": [{"level": 1, "short": short}]})

    def _say(self, record: dict[str, Any]) -> None:
        self._screen.write(json.dumps(record, separators=(",", ":")) + "\n")


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def make(request: BuildRequest) -> Progress:
    """Return the progress that was asked for; auto: redrawn lines where there is a terminal."""
    form = request.progress
    if form == "rawjson":
        return RawJson()
    if form == "quiet":
        return Progress()
    if form in ("auto", "tty") and Redrawn(2).live:
        return Terminal()
    return Plain()
