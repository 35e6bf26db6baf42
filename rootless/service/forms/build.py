"""A build of Docker's API: its query -> the request of the engine; its steps -> lines.

Each value goes through the grammar of the flag of `rless build` that means the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rootless.cli.parse import convert
from rootless.cli.verbs.image import build as verb
from rootless.engine.build.progress import Progress
from rootless.engine.build.remote.contexts import is_fetched
from rootless.errors import INVALID, NOT_BUILT, RlessError, escape
from rootless.frozen import replace
from rootless.service.http import HttpError, decode_json
from rootless.service.inputs import get, objects, pairs, texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rootless.engine.build.request import BuildRequest
    from rootless.engine.build.steps import Plan
    from rootless.service.forms.progress import Lines

    Query = Mapping[str, Sequence[str]]

_CLIPPED = 1 << 20  # characters of output that wait for their turn
_FALSE = ("", "0", "no", "false", "none")
# Parameters whose value is that of a flag as it is; "" and "0" are the default.
_VALUES = (
    ("target", "--target"),
    ("platform", "--platform"),
    ("shmsize", "--shm-size"),
    ("memory", "--memory"),
    ("memswap", "--memory-swap"),
    ("cpushares", "--cpu-shares"),
    ("cpuperiod", "--cpu-period"),
    ("cpuquota", "--cpu-quota"),
    ("cpusetcpus", "--cpuset-cpus"),
    ("cpusetmems", "--cpuset-mems"),
    ("cgroupparent", "--cgroup-parent"),
    ("isolation", "--isolation"),
)
_FLAGS = (("nocache", "--no-cache"), ("pull", "--pull"), ("squash", "--squash"))


def read(query: Query) -> BuildRequest:
    """Return the request of a build; its context is standard input, or `remote`.

    Raises:
        RlessError: something in it is wrong, or cannot be done.
    """
    try:
        return _Reader(query).request()
    except HttpError as error:
        raise RlessError(error.message, kind=INVALID) from error
    except RlessError as error:
        error.kind = error.kind or INVALID
        raise


class _Reader:
    """One query while it is read."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.index = verb.VERB.index()
        self.values: dict[str, Any] = {}

    def text(self, name: str) -> str:
        return self.query.get(name, [""])[0]  # docker-py sends a second `dockerfile`: its text

    def is_set(self, name: str) -> bool:
        return self.text(name).lower() not in _FALSE

    def flag(self, name: str, value: object) -> None:
        """Take a flag with its value, as the command line does."""
        row = self.index[name]
        assert len(row) == 6
        found = convert(row, name, str(value))
        if row[2] == "list":
            self.values.setdefault(row[3], []).append(found)
        else:
            self.values[row[3]] = found

    def json(self, name: str) -> dict[str, Any]:
        """Return a parameter in JSON, as the only member of an object."""
        text = self.text(name)
        return {name: decode_json(text, name)} if text else {}

    def request(self) -> BuildRequest:
        self.refuse()
        for name, flag in _VALUES:
            if self.text(name) not in ("", "0"):
                self.flag(flag, self.text(name))
        for name, flag in _FLAGS:
            if self.is_set(name):
                self.flag(flag, "true")
        for text in self.query.get("t", ()):
            if text:
                self.flag("--tag", text)
        if self.text("networkmode") not in ("", "default", "bridge"):
            self.flag("--network", self.text("networkmode"))
        for text in self.query.get("extrahosts", ()):
            self.flag("--add-host", text)
        for text in texts(self.json("securityopt"), "securityopt"):
            self.flag("--security-opt", text)
        for one in objects(self.json("ulimits"), "ulimits"):
            limits = f"{get(one, 'Soft', 0)}:{get(one, 'Hard', 0)}"
            self.flag("--ulimit", f"{get(one, 'Name', '')}={limits}")
        for text in texts(self.json("cachefrom"), "cachefrom"):
            if not _is_here(text):  # what was built here is in the cache all the same
                self.flag("--cache-from", text)
        file = self.text("dockerfile")
        if file and is_fetched(file):
            raise HttpError(400, f"dockerfile: {file!r} is not a path in the context")
        made = verb.request({**self.values, "progress": "quiet"}, [self.context()])
        # A client's null: it has no such variable. Ours are not asked for.
        given: dict[str, Any] = get(self.json("buildargs"), "buildargs", {})
        arguments = {"arguments": {k: v for k, v in given.items() if v is not None}}
        return replace(
            made,
            file=file,
            build_args=pairs(arguments, "arguments"),
            labels=pairs(self.json("labels"), "labels"),
            sent=True,
        )

    def refuse(self) -> None:
        """Refuse what only BuildKit has."""
        if self.text("version") not in ("", "1"):
            raise RlessError(
                "rless does not speak BuildKit's protocol: set DOCKER_BUILDKIT=0", kind=NOT_BUILT
            )
        if get(self.json("outputs"), "outputs", [{}])[:1] not in ([], [{}]):
            raise RlessError("outputs needs BuildKit: use `rless build -o`", kind=NOT_BUILT)
        if self.text("session"):
            raise RlessError("a session needs BuildKit: set DOCKER_BUILDKIT=0", kind=NOT_BUILT)

    def context(self) -> str:
        remote = self.text("remote")
        if remote and (remote == "-" or not is_fetched(remote)):
            raise HttpError(400, f"remote: {remote!r} is neither a URL nor a git repository")
        return remote or "-"


def _is_here(name: str) -> bool:
    from rootless.engine.images import images

    try:
        images.find(name)
    except RlessError:
        return False
    return True


class _Entry:
    """One instruction.

    Attributes:
        begun, done: those without a step of their own are done from the beginning.
        output: what waits for its turn.
    """

    def __init__(self, text: str, *, done: bool) -> None:
        self.text = text
        self.begun = self.done = done
        self.shown = False
        self.output: list[str] = []
        self.waiting = 0


class Classic(Progress):
    """Tells of a build as Docker's classic builder does: one instruction after the other.

    Stages are built at the same time all the same; what is not the next waits for its turn.
    """

    def __init__(self, lines: Lines) -> None:
        super().__init__(1)
        self._lines = lines
        self._entries: list[_Entry] = []
        self._of_steps: dict[tuple[int, int], _Entry] = {}
        self._of_ids: dict[int, _Entry] = {}
        self._next = 0

    def show_plan(self, plan: Plan) -> None:
        """Number the instructions of all stages."""
        for stage in plan.stages:
            below = stage.base
            base = plan.stages[below].name if isinstance(below, int) else below.name
            named = f" AS {stage.name}"
            if stage.name.removeprefix("stage-").isdecimal():
                named = ""  # it has no name in the Dockerfile
            first = _Entry(f"FROM {base}{named}", done=True)
            if not isinstance(below, int) and below.id:
                first.output.append(f" ---> {below.id[7:19]}\n")
            self._entries.append(first)
            for one in stage.history:
                step = one.step
                entry = _Entry(step.text if step else one.created_by, done=step is None)
                self._entries.append(entry)
                if step is not None:
                    self._of_steps[stage.index, step.number] = entry
        self._go_on()

    def handle(self, message: Mapping[str, Any]) -> None:
        """Tell of a message."""
        kind = message["kind"]
        if kind == "warning":
            self._say(f"[Warning] {escape(message['text'])}\n")
            return
        if kind == "stage":
            return
        if "step" in message:
            self._of_ids[message["id"]] = self._of_steps[message["stage"], message["step"]]
        entry = self._of_ids.get(message["id"])
        if entry is None:
            return
        entry.begun = True
        if kind == "output":
            text = message["text"].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            self._output_of(entry, text if message["stream"] == 1 else f"\x1b[91m{text}\x1b[0m")
        elif kind == "cached":
            self._output_of(entry, " ---> Using cache\n")
        if kind == "failed" and not entry.shown:
            self._show(entry)
        entry.done |= kind in ("cached", "done", "failed")
        self._go_on()

    def _output_of(self, entry: _Entry, text: str) -> None:
        if entry.shown:
            self._say(text)
            return
        before = entry.waiting
        entry.waiting += len(text)
        if entry.waiting <= _CLIPPED:
            entry.output.append(text)
        elif before <= _CLIPPED:
            entry.output.append("[output clipped]\n")

    def _go_on(self) -> None:
        """Show what has its turn."""
        while self._next < len(self._entries):
            entry = self._entries[self._next]
            if entry.begun and not entry.shown:
                self._show(entry)
            if not entry.done:
                return
            self._next += 1

    def _show(self, entry: _Entry) -> None:
        entry.shown = True
        number = self._entries.index(entry) + 1
        self._say(f"Step {number}/{len(self._entries)} : {entry.text}\n")
        for text in entry.output:
            self._say(text)
        entry.output = []

    def _say(self, text: str) -> None:
        self._lines.tell({"stream": text})
