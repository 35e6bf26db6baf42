"""A virtual machine with systemd, made by scripts/vm: boot it, run scripts in it, cut its power.

    with Machine(directory) as machine:
        machine.run("rless run -d ...", user="alice").expect()
        machine.reboot()

Its disk is a fresh layer over the one in $RLESS_VM_CACHE, and stays over reboots. An agent in it
runs scripts as root, or as an ordinary user with a login session of her own for each script. This
tree is installed there in /opt/rless.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.lib import images
from tests.lib.compiled import ROOT
from tests.lib.product import Result

IMAGE = "oci:/opt/images/busybox"
_BOOT = 240.0  # seconds; an emulated processor is slow, and so may be the machine that does it


class Machine:
    """A virtual machine that runs until the end of the `with` block."""

    def __init__(self, directory: Path) -> None:
        self.cache = Path(os.environ["RLESS_VM_CACHE"])
        self.directory = directory
        self._qemu: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._answers: dict[int, dict[str, Any]] = {}
        self._news = threading.Condition()
        self._count = 0

    def __enter__(self) -> Machine:
        write_payload(self.directory)
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw",
             "-b", self.cache / "disk", self.directory / "disk"],
            check=True,
        )  # fmt: skip
        self.boot()
        return self

    def __exit__(self, *details: object) -> None:
        self.cut()

    @property
    def is_on(self) -> bool:
        """Tell whether it runs."""
        return self._qemu is not None and self._qemu.poll() is None

    # -- power -----------------------------------------------------------------------------

    def boot(self) -> None:
        """Switch it on, and wait until its agent answers."""
        port = self.directory / "port"
        port.unlink(missing_ok=True)
        accel = os.environ.get("RLESS_VM_ACCEL", "tcg,thread=multi")
        self._qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", accel, "-cpu", "max", "-smp", "2", "-m", "3072",
             "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
             "-kernel", self.cache / "vmlinuz", "-initrd", self.cache / "initrd",
             "-append", "console=ttyS0 quiet mitigations=off random.trust_cpu=on panic=-1 audit=0",
             "-serial", f"file:{self.directory}/console",
             "-drive", f"file={self.directory}/disk,format=qcow2,if=virtio",
             "-drive", f"file={self.directory}/payload.tar,format=raw,if=virtio,readonly=on",
             "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
             "-chardev", f"socket,id=agent,path={port},server=on,wait=off",
             "-device", "virtserialport,chardev=agent,name=agent"],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self._answers = {}
        while not port.exists():
            assert self._qemu.poll() is None, "qemu has ended"
            time.sleep(0.05)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(os.fspath(port))
        threading.Thread(target=self._listen, args=(self._socket,), daemon=True).start()
        self._await(0, _BOOT)

    def reboot(self) -> None:
        """Shut it down as systemd does, and boot it again."""
        assert self._qemu is not None
        self.run("systemctl --no-block reboot", "root").expect()
        self._qemu.wait(120)  # -no-reboot: a reboot ends it
        self.cut()
        self.boot()

    def cut(self) -> None:
        """Take its power away."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
        if self._socket is not None:
            self._socket.close()
        self._qemu = self._socket = None

    # -- work ------------------------------------------------------------------------------

    def run(self, script: str, user: str = "alice", timeout: float = 180) -> Result:
        """Run a shell script to its end, in a login session of its own."""
        return self.wait(self.start(script, user), timeout)

    def start(self, script: str, user: str = "alice") -> int:
        """Start a shell script; return its number for `wait`."""
        assert self._socket is not None
        self._count += 1
        job = {"id": self._count, "user": user, "script": script}
        self._socket.sendall(json.dumps(job).encode() + b"\n")
        return self._count

    def wait(self, number: int, timeout: float = 180) -> Result:
        """Return what a script said, once it has ended."""
        answer = self._await(number, timeout)
        out, err = (answer[key].encode("latin-1") for key in ("out", "err"))
        return Result([f"script {number}"], answer["code"], out, err)

    def _await(self, number: int, timeout: float) -> dict[str, Any]:
        with self._news:
            if not self._news.wait_for(lambda: number in self._answers, timeout):
                console = (self.directory / "console").read_text(errors="replace")
                raise TimeoutError(f"no answer from the machine; its console:\n{console[-3000:]}")
            return self._answers.pop(number)

    def _listen(self, connection: socket.socket) -> None:
        rest = b""
        while True:
            try:
                data = connection.recv(1 << 20)
            except OSError:
                return  # it was switched off
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            with self._news:
                for line in lines:
                    answer = json.loads(line)
                    self._answers[answer["id"]] = answer
                self._news.notify_all()


def write_payload(directory: Path) -> None:
    """Write what the machine unpacks at its first boot: this tree, installed, and an image."""
    tree = directory / "payload"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--ignore-installed", "--no-warn-script-location", "--prefix", tree / "opt/rless", ROOT],
        check=True,
    )  # fmt: skip
    # Made for the Python of this machine, which is the other one's: they are of one release.
    images.write_oci_layout(images.busybox_image(), tree / "opt/images/busybox")
    subprocess.run(
        ["tar", "-C", tree, "--owner=0", "--group=0", "--mode=go=u-w", "-cf",
         directory / "payload.tar", "."],
        check=True,
    )  # fmt: skip


def main() -> int:
    """Boot a machine, run one script in it, and return its exit code."""
    parser = argparse.ArgumentParser(prog="scripts/vm run")
    parser.add_argument("-u", "--user", default="alice")
    parser.add_argument("script", nargs="+")
    given = parser.parse_args()
    script = given.script[0] if len(given.script) == 1 else shlex.join(given.script)
    with tempfile.TemporaryDirectory(prefix="rless-vm-") as name, Machine(Path(name)) as machine:
        done = machine.run(script, given.user, 3600)
    sys.stdout.buffer.write(done.raw)
    sys.stderr.write(done.err)
    return done.code


if __name__ == "__main__":
    raise SystemExit(main())
