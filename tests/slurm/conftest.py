"""Jobs of a real Slurm (scripts/slurm-rig), whose oci.conf `rless slurm-config` has printed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from rootless.runtime.commands.features import example_spec
from tests.lib.compiled import ROOT, static_program
from tests.lib.product import Result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PATIENCE = 20.0  # seconds


class Slurm:
    """The cluster as an ordinary user sees it.

    Attributes:
        environment: of all its commands.
        directory: of slurm.conf and oci.conf.
    """

    def __init__(self, conf: str) -> None:
        self.directory = os.path.dirname(conf)
        keep = ("HOME", "PATH", "USER", "LANG", "RLESS_STORAGE", "XDG_RUNTIME_DIR")
        self.environment = {name: os.environ[name] for name in keep if name in os.environ}
        self.environment |= {"SLURM_CONF": conf}
        self.environment["PATH"] = f"{ROOT}/.venv/bin:{self.environment['PATH']}"
        self._jobs: list[str] = []
        self._started: list[subprocess.Popen[bytes]] = []

    def call(self, *command: str, timeout: float = 60, **more: Any) -> Result:
        """Run a command of Slurm; return what it said."""
        if "input" not in more:
            more.setdefault("stdin", subprocess.DEVNULL)
        environment = {**self.environment, **more.pop("env", {})}
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            timeout=timeout,
            check=False,
            **more,
        )
        return Result(command, done.returncode, done.stdout, done.stderr)

    def name(self) -> str:
        """Return a name for a job, which is cancelled at the end of the test if it still runs."""
        self._jobs.append(f"j{uuid.uuid4().hex[:10]}")
        return self._jobs[-1]

    def start(self, *command: str, output: Path, **more: Any) -> subprocess.Popen[bytes]:
        """Start a command of Slurm whose output goes to a file."""
        with open(output, "wb") as file:
            environment = {**self.environment, **more.pop("env", {})}
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                **more,
            )
        self._started.append(process)
        return process

    def cancel_all(self) -> None:
        """End what the test has left."""
        for process in self._started:
            process.kill()
            process.wait()
        self._started.clear()
        for name in self._jobs:
            self.call("scancel", "--signal=KILL", "--full", f"--name={name}")
            self.call("scancel", f"--name={name}")

    def await_idle(self) -> None:
        """Wait until the node has no job of ours: a step that cannot be ended would keep it."""
        for name in self._jobs:
            wait_for(lambda name=name: not self.call("squeue", "-h", f"--name={name}").out)


def wait_for(condition: Any, patience: float = _PATIENCE) -> Any:
    """Return what a condition says once it is true."""
    deadline = time.monotonic() + patience
    while not (result := condition()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)
    return result


def processes_with(word: str) -> list[int]:
    """Return the processes that have this word in their arguments or environment."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                text = file.read()
            with open(f"/proc/{name}/environ", "rb") as file:
                text += file.read()
        except OSError:
            continue
        if word.encode() in text:
            found.append(int(name))
    return found


@pytest.fixture(scope="session")
def cluster() -> Slurm:
    """Return the Slurm of this run of the tests."""
    return Slurm(os.environ["RLESS_TEST_SLURM"])


@pytest.fixture
def slurm(cluster: Slurm) -> Iterator[Slurm]:
    """Return the cluster; jobs that the test leaves are ended."""
    yield cluster
    cluster.cancel_all()
    cluster.await_idle()
    cluster._jobs.clear()


class Bundle:
    """An OCI bundle with busybox and the probe, as a user makes one for --container."""

    def __init__(self, path: Path) -> None:
        self.path = path
        binaries = path / "rootfs" / "bin"
        binaries.mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, binaries / "busybox")
        shutil.copy(static_program("tests/lib/probe.c"), binaries / "probe")
        for name in ("cat", "echo", "env", "grep", "id", "ls", "sh", "sleep", "touch", "true"):
            (binaries / name).symlink_to("busybox")
        (path / "rootfs" / "tmp").mkdir(mode=0o777)
        self.spec: dict[str, Any] = dict(example_spec())
        self.spec["root"]["readonly"] = False
        # Slurm expects its own network and host name in there; what `spec` gives is closed.
        del self.spec["hostname"]
        self.spec["linux"]["namespaces"] = [
            {"type": kind} for kind in ("user", "mount", "pid", "ipc")
        ]
        self.spec["mounts"] = [one for one in self.spec["mounts"] if one["destination"] != "/sys"]
        self.write()

    def write(self) -> None:
        """Write config.json."""
        (self.path / "config.json").write_text(json.dumps(self.spec))

    def bind(self, source: Path, target: str) -> None:
        """Mount a directory of the host."""
        entry = {"destination": target, "type": "bind", "source": str(source)}
        self.spec["mounts"].append({**entry, "options": ["rbind"]})
        self.write()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Return a new bundle."""
    return Bundle(tmp_path / "bundle")
