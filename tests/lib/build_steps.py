"""One RUN of a build, done as its builder has it done: `Room(directory).run("echo hi")`.

The test is the build process: it answers for the network. The step process is its child, root of a
user namespace, with a mount namespace of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootless import rootfs
from rootless.dockerfile.mounts import Mount, parse_mount
from rootless.engine import idmap_policy
from rootless.engine.build import run as run_step
from rootless.engine.build.network import Network
from rootless.engine.build.steps import Origin, RunStep
from rootless.engine.request import RunRequest
from rootless.errors import RlessError
from rootless.linux import idmap, ns, process
from tests.lib import images
from tests.lib.image_store import Workshop

if TYPE_CHECKING:
    from typing import NoReturn

DIRECTORY = "directory"  # in `Outcome.written`; a file stands with its text
WHITEOUT = f"{stat.S_IFCHR:o}"


@dataclass
class Outcome:
    """What has come of a RUN: its exit code and output, or the error; and what it has written.

    `left` has the processes, and the mounts of the room, that the step process has still.
    """

    code: int = -1
    out: str = ""
    err: str = ""
    error: str = ""
    hint: str = ""
    written: dict[str, str] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


class Room:
    """A store with one image, in which RUNs are done one after the other."""

    def __init__(
        self, directory: Path, image: images.Image | None = None, userns: str = "auto"
    ) -> None:
        self.directory = directory
        self.workshop = Workshop(directory)
        self.idmap = idmap_policy.choose(userns, (0, 0), idmap_policy.Subordinate())
        self.image = self.workshop.unpack(
            image or images.busybox_image(), idmap_for=lambda _: self.idmap
        )
        self.context = directory / "context"
        self.context.mkdir()
        self.count = 0

    def mount(self, text: str) -> tuple[Mount, Origin | None]:
        """Return a mount by its text; `from=image` is the room's own image."""
        mount = parse_mount(text)
        if mount.type == "bind":
            return mount, Origin(mount.origin or "context")
        return mount, Origin(mount.origin) if mount.origin else None

    def step(self, *args: str, **fields: Any) -> RunStep:
        """Return a step: one word is a line for the shell, more are an argv."""
        pairs = [self.mount(text) for text in fields.pop("mounts", ())]
        fields["mounts"] = tuple(mount for mount, _ in pairs)
        fields["origins"] = {index: origin for index, (_, origin) in enumerate(pairs) if origin}
        argv = ("/bin/sh", "-c", *args) if len(args) == 1 else args
        common = {"number": 1, "text": "RUN", "created_by": "RUN", "line": 1, "end_line": 1}
        return RunStep(args=argv, **(common | fields))

    def run(self, *args: str, **fields: Any) -> Outcome:
        """Do a RUN, with these fields of the step; those of its environment are taken too."""
        known = ("proxies", "hostname", "allowed", "settings", "driver", "idmap", "secrets")
        known += ("agents", "emptied", "cgroup", "find_ignored", "killed", "timeout")
        known += ("cache_namespace",)
        more = {name: fields.pop(name) for name in known if name in fields}
        more["root"] = str(self.directory / "store")
        return self.execute(self.step(*args, **fields), **more)

    def execute(self, step: RunStep, **more: Any) -> Outcome:
        """Do a RUN; see `run_step.StepEnvironment` for what may be given.

        With `killed` the step process is killed at the first output of the RUN.
        """
        settings = more.pop("settings", RunRequest())
        mapping = more.pop("idmap", self.idmap)
        driver = more.pop("driver", None)
        killed = more.pop("killed", False)
        network = Network(settings)
        self.count += 1
        scratch = self.directory / f"run{self.count}"
        layers = self.image.layer_dirs(mapping.key)
        assert layers is not None
        reader, writer = os.pipe()
        context_fd = os.open(self.context, os.O_RDONLY | os.O_DIRECTORY)

        def open_origin(origin: Origin, name: str) -> int:
            if origin.kind == "context":
                return context_fd
            os.makedirs(scratch / name, 0o700)
            mounted = rootfs.mount(layers, str(scratch / name), mapping, volatile=True)
            return os.open(mounted.path, os.O_RDONLY | os.O_DIRECTORY)

        more["open_origin"] = open_origin

        def body() -> NoReturn:
            try:
                os.close(reader)
                process.become_root()
                answer = _in_step(
                    step, mapping, layers, scratch, settings, network, driver, killed, more
                )
            except BaseException:
                answer = {"failed": traceback.format_exc()}
            with open(writer, "w") as stream:
                json.dump(answer, stream)
            os._exit(0)

        try:
            pid = idmap.spawn(mapping, ns.CLONE_NEWNS, body)
            os.close(writer)
            answer = attend(network, pid, reader)
            os.waitpid(pid, 0)
        finally:
            os.close(context_fd)
            network.forget_client()
            network.close()
        assert "failed" not in answer, answer["failed"]
        return Outcome(**answer)


def attend(network: Network, pid: int, reader: int) -> dict[str, Any]:
    """Answer for the network as the build process does, until a step has sent its JSON."""
    text = b""
    poll = select.poll()
    poll.register(network.fd, select.POLLIN)
    poll.register(reader, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == network.fd:
                network.answer(pid)
                continue
            data = os.read(reader, 1 << 16)
            text += data
            if not data:
                os.close(reader)
                answer: dict[str, Any] = json.loads(text or b"{}")
                return answer


def _in_step(
    step: RunStep,
    mapping: idmap.IdMap,
    layers: list[str],
    scratch: Path,
    settings: RunRequest,
    network: Network,
    driver: str | None,
    killed: bool,
    more: dict[str, Any],
) -> dict[str, Any]:
    workspace = f"{scratch}/root"
    os.makedirs(workspace, 0o700)
    os.mkdir(f"{scratch}/own", 0o700)
    mounted = rootfs.mount(layers, workspace, mapping, volatile=True, driver=driver)
    environment = run_step.StepEnvironment(
        mapping,
        mounted,
        f"{scratch}/own",
        f"{scratch.parent}/seccomp",
        settings,
        network.client,
        **more,
    )
    outcome = Outcome()
    streams = {1: "", 2: ""}

    def say(message: dict[str, Any]) -> None:
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        if message["kind"] == "output":
            streams[message["stream"]] += message["text"]
        else:
            outcome.messages.append(message)

    try:
        outcome.code = run_step.execute(step, environment, say)
    except RlessError as error:
        outcome.error, outcome.hint = error.message, error.hint or ""
    outcome.out, outcome.err = streams[1], streams[2]
    outcome.left = _left(str(scratch))
    outcome.written = _contents(mounted.path if mounted.driver == "copy" else f"{workspace}/upper")
    return vars(outcome)


def _left(directory: str) -> list[str]:
    """Return the children of this process, and its mounts below a directory, without sources."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    places = (f"{directory}/own/mounts/", f"{directory}/mount")  # end with the step process
    return children + [
        path for path in mounted if path.startswith(directory) and not path.startswith(places)
    ]


def _contents(top: str) -> dict[str, str]:
    found = {}
    for directory, directories, names in os.walk(top):
        for name in directories + names:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                what = DIRECTORY
            elif stat.S_ISREG(status.st_mode):
                what = Path(path).read_text(errors="replace")
            else:
                what = f"{stat.S_IFMT(status.st_mode):o}"
            found[os.path.relpath(path, top)] = what
    return found
