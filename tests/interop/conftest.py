"""Podman and Buildah with rless-oci as their runtime, as an ordinary user.

They want cgroup v2 alone at /sys/fs/cgroup. So, on any host, they run in a user namespace with all
subordinate ids, and a cgroup2 there (tests/lib/inside.py), which they take for the one that they
make for a user themselves: that is what the two variables say.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.bundle import INSIDE, RLESS
from tests.lib.compiled import static_program
from tests.lib.product import Result


class Guest:
    """Programs that run in one user namespace, with one storage.

    Attributes:
        runtime: path of a command `rless-oci`.
        base: a directory for files of the tests.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.runtime = base / "rless-oci"
        words = " ".join(f"'{word}'" for word in RLESS[:-1])
        self.runtime.write_text(f'#!/bin/sh\nexec {words} "$0" "$@"\n')
        self.runtime.chmod(0o755)
        (base / "run").mkdir(mode=0o700)
        self.environment = {
            "HOME": str(base),
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "LC_ALL": "C.UTF-8",
            "TERM": "xterm",
            "XDG_RUNTIME_DIR": str(base / "run"),
            "_CONTAINERS_USERNS_CONFIGURED": "done",
            "_CONTAINERS_ROOTLESS_UID": str(os.getuid()),
            "_CONTAINERS_ROOTLESS_GID": str(os.getgid()),
        }
        command = [*INSIDE, "sh", "-c", "echo ready; exec sleep 1000"]
        self._holder = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        with open(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children") as file:
            self._pid = file.read().split()[0]

    def close(self) -> None:
        """End all processes of the namespace."""
        os.kill(int(self._pid), signal.SIGKILL)
        self._holder.communicate()

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs a program in the namespace."""
        return [*INSIDE, "--join", self._pid, *words]

    def call(self, *words: str, input: bytes = b"", tty: bool = False) -> Result:  # noqa: A002
        """Run a program; with `tty` on a terminal of its own."""
        command = self.command(*words)
        if tty:
            line = " ".join(f"'{word}'" for word in command)
            command = ["script", "-qec", line, "/dev/null"]
        done = subprocess.run(
            command, env=self.environment, input=input, capture_output=True, timeout=60
        )
        return Result(command, done.returncode, done.stdout, done.stderr)

    def storage(self) -> list[str]:
        """Return the options that name the storage."""
        where = ["--root", f"{self.base}/store", "--runroot", f"{self.base}/run/containers"]
        return [*where, "--storage-driver", "vfs"]

    def podman(self, *words: str, input: bytes = b"", tty: bool = False) -> Result:  # noqa: A002
        """Run a command of Podman with our runtime."""
        own = ["--tmpdir", f"{self.base}/run/libpod", "--cgroup-manager", "cgroupfs"]
        own += ["--events-backend", "file", "--runtime", str(self.runtime)]
        return self.call("podman", *self.storage(), *own, *words, input=input, tty=tty)

    def buildah(self, *words: str, tty: bool = False) -> Result:
        """Run a command of Buildah."""
        return self.call("buildah", *self.storage(), *words, tty=tty)


@pytest.fixture(scope="session")
def guest() -> Iterator[Guest]:
    """Give a user namespace with an image `probe` in its storage."""
    base = Path(tempfile.mkdtemp(prefix="rless-i-"))  # Podman wants short paths
    guest = Guest(base)
    archive = base / "image.tar"
    with tarfile.open(archive, "w") as tar:
        busybox = "/bin/busybox" if Path("/bin/busybox").exists() else sys.executable
        tar.add(static_program("tests/lib/probe.c"), "probe", filter=_of_root)
        tar.add(busybox, "bin/busybox", filter=_of_root)
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)
    try:
        guest.podman("import", str(archive), "localhost/probe").expect()
        yield guest
    finally:
        guest.podman("rm", "--all", "--force", "--time", "0")
        guest.call("rm", "-rf", str(base))  # its owners are those of the namespace
        guest.close()


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    return entry
