"""OCI bundles: a root with nothing but the probe in it, a config to edit, a runtime to run it.

A test changes `spec`, runs verbs of the probe and reads facts back. The same bundle can be given
to crun and runc, the oracles. These want cgroup v2 and real root; so all runtimes that are
compared run as root of a user namespace of the test's (tests/lib/inside.py), and the config
then has no user namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootless.linux import subid
from rootless.runtime.commands.features import example_spec
from tests.lib.compiled import ROOT, static_program
from tests.lib.product import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_START = """import sys
del sys.argv[0]
sys.path.append(sys.argv.pop(0))
from rootless.launch import start
start("rootless.runtime.commands.main")"""
RLESS = [sys.executable, "-I", "-S", "-B", "-c", _START, str(ROOT), "rless-oci"]
# What a runtime under test is called with: nothing of the test's environment matters to it.
ENVIRONMENT = {"HOME": "/nonexistent", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
INSIDE = [sys.executable, "-B", str(ROOT / "tests/lib/inside.py")]
COMMANDS = {"rless-oci": RLESS, "crun": ["crun"], "runc": ["runc"]}


class Bundle:
    """One container to be: a bundle, a state directory, a runtime.

    Attributes:
        path, rootfs, state: directories.
        spec: the config; written before each `run` and `create`.
        inside: run the runtime as root of a user namespace with all subordinate ids mapped.
    """

    def __init__(self, base: Path, runtime: str = "rless-oci", inside: bool = False) -> None:
        self.base = base
        self.path = base / "bundle"
        self.rootfs = self.path / "rootfs"
        self.state = base / "state"
        self.runtime = runtime
        self.inside = inside or runtime != "rless-oci"
        self.id = f"t{uuid.uuid4().hex[:12]}"
        self._joined: list[str] = []
        self.rootfs.mkdir(parents=True)
        shutil.copy(static_program("tests/lib/probe.c"), self.rootfs / "probe")
        self.spec: dict[str, Any] = dict(example_spec())
        self.spec["ociVersion"] = "1.0.2"  # the oracles may be older than 1.2
        self.spec["root"]["readonly"] = False
        if self.inside:
            self.remove_namespace("user")
            del self.spec["linux"]["uidMappings"], self.spec["linux"]["gidMappings"]

    @property
    def process(self) -> dict[str, Any]:
        """Return the process object of the config."""
        return self.spec["process"]  # type: ignore[no-any-return]

    @property
    def linux(self) -> dict[str, Any]:
        """Return the linux object of the config."""
        return self.spec["linux"]  # type: ignore[no-any-return]

    def remove_namespace(self, kind: str) -> None:
        """Let the container share the caller's namespace of this kind."""
        wanted = [entry for entry in self.linux["namespaces"] if entry["type"] != kind]
        self.linux["namespaces"] = wanted

    def map_many_ids(self) -> None:
        """Map 0 to the caller, and all subordinate ids from 1 on."""
        for kind, own in (("uid", os.getuid()), ("gid", os.getgid())):
            first, count = subid.ranges(kind)[0]
            self.linux[f"{kind}Mappings"] = [
                {"containerID": 0, "hostID": own, "size": 1},
                {"containerID": 1, "hostID": first, "size": count},
            ]

    def mount(self, destination: str, fstype: str, source: object, *options: str) -> None:
        """Add a mount at the end."""
        entry = {"destination": destination, "type": fstype, "source": str(source)}
        self.spec["mounts"].append({**entry, "options": list(options)})

    def bind(self, source: object, destination: str, *options: str) -> None:
        """Add a recursive bind mount at the end."""
        self.mount(destination, "bind", source, "rbind", *options)

    def write(self, *words: str) -> None:
        """Write config.json, with these verbs of the probe as the command, if there are any."""
        if words:
            self.process["args"] = ["/probe", *words]
        (self.path / "config.json").write_text(json.dumps(self.spec))

    def command(self, verb: str, *arguments: str) -> list[str]:
        """Return the command line of one call of the runtime."""
        command = [*COMMANDS[self.runtime], "--root", str(self.state), verb]
        if verb in ("create", "run") and self.runtime != "rless-oci" and self.id in arguments:
            # A user has 200 keys, which the kernel frees late; the oracles insist on a new one.
            # It is by the name of that key that crun refuses the wrong ids of others.
            command.append("--no-new-keyring")
        command += arguments
        if self.inside:
            command = [*INSIDE, *self._joined, *command]
        return command

    def call(self, verb: str, *arguments: str, **more: Any) -> Result:
        """Call the runtime; return what it said."""
        command = self.command(verb, *arguments)
        if "input" not in more:
            more.setdefault("stdin", subprocess.DEVNULL)
        for name in ("stdout", "stderr"):
            more.setdefault(name, subprocess.PIPE)
        more.setdefault("env", ENVIRONMENT)
        done = subprocess.run(command, timeout=30, check=False, **more)
        return Result(command, done.returncode, done.stdout or b"", done.stderr or b"")

    def run(self, *words: str, options: Sequence[str] = (), **more: Any) -> Result:
        """Run a container whose command is these verbs of the probe."""
        self.write(*words)
        return self.call("run", *options, "-b", str(self.path), self.id, **more)

    def create(self, *words: str, options: Sequence[str] = (), **more: Any) -> Result:
        """Create a container, which keeps the streams: they are the file that `output` reads."""
        self.write(*words)
        with open(self.base / "output", "wb") as output:
            more = {"stdout": output, "stderr": output, **more}
            done = self.call("create", *options, "-b", str(self.path), self.id, **more)
        assert done.code == 0, (repr(done), self.output())
        return done

    def output(self) -> str:
        """Return what a created container has written."""
        return (self.base / "output").read_text()

    def wait_output(self, text: str) -> str:
        """Return the output once it holds `text`."""
        deadline = time.monotonic() + 30
        while text not in self.output():
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.01)
        return self.output()

    def wait_status(self, status: str) -> None:
        """Wait until the container has this status."""
        deadline = time.monotonic() + 30
        while self.status() != status:
            assert time.monotonic() < deadline, self.status()
            time.sleep(0.01)

    @contextlib.contextmanager
    def session(self) -> Iterator[Bundle]:
        """Let all calls of the runtime share one user namespace; delete the container after."""
        holder = None
        if self.inside:
            command = [*INSIDE, "sh", "-c", "echo ready; exec sleep 100"]
            holder = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert holder.stdout is not None
            holder.stdout.readline()
            with open(f"/proc/{holder.pid}/task/{holder.pid}/children") as file:
                self._joined = ["--join", file.read().split()[0]]
        try:
            yield self
        finally:
            self.call("delete", "--force", self.id)
            if holder is not None:
                os.kill(int(self._joined[1]), signal.SIGKILL)
                holder.communicate()

    def facts(self, *words: str) -> dict[str, str]:
        """Run a container that must work; return the facts that its probe printed."""
        return self.run(*words).expect().facts()

    def fails(self, *words: str, code: int | None = None, **more: Any) -> str:
        """Run a container that must not work; return the complaint: one printable line.

        Nothing may be left then.
        """
        done = self.run(*words, **more)
        assert done.code != 0, repr(done)
        assert code is None or done.code == code, repr(done)
        assert done.out == "", repr(done)
        if self.runtime == "rless-oci":
            assert [name for name in self.containers() if name == self.id] == []
            return complaint(done)
        return done.err

    def containers(self) -> list[str]:
        """Return the names in the state directory."""
        return sorted(os.listdir(self.state)) if self.state.exists() else []

    def status(self) -> str:
        """Return the status of the container."""
        status: str = json.loads(self.call("state", self.id).expect().out)["status"]
        return status

    def pid(self) -> int:
        """Return the pid of the container's first process."""
        pid: int = json.loads(self.call("state", self.id).expect().out)["pid"]
        return pid


def complaint(done: Result) -> str:
    """Return what rless-oci complained of, which must be one line that a terminal can show."""
    assert done.err.endswith("\n"), repr(done)
    assert done.err.count("\n") == 1, repr(done)
    assert done.err.startswith("rless-oci: "), repr(done)
    assert done.err[:-1].isprintable(), repr(done)
    assert "internal error" not in done.err, repr(done)
    return done.err.removeprefix("rless-oci: ")[:-1]
