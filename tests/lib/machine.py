"""A virtual machine with systemd, made by scripts/vm: boot it, run scripts in it, cut its power.

    with Machine(directory) as machine:
        machine.run("rless run -d ...", user="alice").expect()
        machine.reboot()

Its disk is a fresh layer over the one in $RLESS_VM_CACHE, and stays over reboots. An agent in it
runs scripts as root, or as an ordinary user with a login session of her own for each script. This
tree is installed there in /opt/rless.

`save` boots it once and keeps its state just after that: then it is there in a second. This part
imports nothing that the system's Python does not have.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lib import hosts

if TYPE_CHECKING:
    from tests.lib.product import Result

IMAGE = "oci:/opt/images/busybox"
_BOOT = 480.0  # seconds; an emulated processor is slow, and so may be the machine that does it
_RUN = 420.0  # the most that a script takes
_PAYLOAD = 128 << 20  # bytes of the disk with this tree: what is saved knows the size

# The end of a boot, and what the first commands would have to read.
_SETTLE = """systemctl is-system-running --wait
until systemctl is-active -q user@1000; do sleep 0.2; done
python3 -c 'import json, socket, ctypes, subprocess'
cat /bin/busybox /usr/bin/newuidmap /usr/bin/systemctl >/dev/null
sync"""
_UNPACK = """date -s @{now} >/dev/null && blockdev --flushbufs /dev/vdb &&
tar -C / -xpf /dev/vdb && sync"""


class Machine:
    """A virtual machine that runs until the end of the `with` block.

    Args:
        payload: what it unpacks at its start (`write_payload`), written if it is not there.

    Attributes:
        users: those that scripts have run as; the caller may clear it.
    """

    def __init__(self, directory: Path, payload: Path | None = None) -> None:
        self.cache = Path(os.environ["RLESS_VM_CACHE"])
        self.directory = directory
        self.payload = payload or directory / "payload.tar"
        self.users: set[str] = set()
        self._qemu: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._answers: dict[int, dict[str, Any]] = {}
        self._news = threading.Condition()
        self._count = 0

    def __enter__(self) -> Machine:
        if not self.payload.exists():
            write_payload(self.payload)
        saved = self.is_saved()
        self._make_disk(self.cache / "saved", "qcow2") if saved else self._make_disk()
        if saved:
            state = shlex.quote(os.fspath(self.cache / "state"))
            self._switch_on("-incoming", f"exec:cat {state}")
        else:
            self.boot()
        self.run(_UNPACK.format(now=time.time()), "root").expect()
        hosts.prepare(self)
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
        self._switch_on()
        self._await(0, _BOOT)

    def reboot(self) -> None:
        """Shut it down as systemd does, and boot it again."""
        assert self._qemu is not None
        self.start("systemctl --no-block reboot", "root")  # may end the agent before it answers
        self._qemu.wait(_BOOT)  # -no-reboot: a reboot ends it
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

    def _switch_on(self, *more: str, kernel: str | None = None) -> None:
        port = self.directory / "port"
        port.unlink(missing_ok=True)
        self._qemu = subprocess.Popen([*self._command(kernel), *more], stdin=subprocess.DEVNULL)
        self._answers = {}
        while not port.exists():
            assert self._qemu.poll() is None, "qemu has ended"
            time.sleep(0.02)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(os.fspath(port))
        threading.Thread(target=self._listen, args=(self._socket,), daemon=True).start()

    def _command(self, kernel: str | None = None) -> list[str]:
        kernel = hosts.chosen().kernel if kernel is None else kernel
        here, cache = self.directory, self.cache
        accel = os.environ.get("RLESS_VM_ACCEL", "tcg,thread=multi,tb-size=512")
        console = "ttyS0"
        system = ["qemu-system-x86_64", "-accel", accel, "-cpu", "max"]
        if hosts.chosen().processor == "aarch64":  # one of servers; `max` signs each pointer
            console = "ttyAMA0"
            system = ["qemu-system-aarch64", "-machine", "virt", "-cpu", "neoverse-n1",
                      "-accel", "tcg,thread=multi,tb-size=512"]  # fmt: skip
        return [
            *system, "-smp", "2", "-m", "2048", "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot",
            "-kernel", f"{cache}/vmlinuz", "-initrd", f"{cache}/initrd",
            "-append", f"console={console} quiet mitigations=off random.trust_cpu=on panic=-1"
            f" {kernel}",
            "-serial", f"file:{here}/console",
            "-drive", f"file={here}/disk,format=qcow2,if=virtio",
            "-drive", f"file={self.payload},format=raw,if=virtio,readonly=on",
            "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=agent,path={here}/port,server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=agent",
        ]  # fmt: skip

    def _make_disk(self, base: Path | None = None, form: str = "raw") -> None:
        """Make the layer that this machine writes to."""
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", form,
             "-b", base or self.cache / "disk", self.directory / "disk"],
            check=True,
        )  # fmt: skip

    # -- its state after a boot ------------------------------------------------------------

    def _key(self) -> str:
        """Return what the saved state fits: a disk, a qemu and its devices."""
        version = subprocess.run([self._command()[0], "--version"], capture_output=True).stdout
        words = " ".join(self._command()).replace(os.fspath(self.payload), "/payload.tar")
        words = words.replace(os.fspath(self.directory), "")
        disk = (self.cache / "stamp").read_text()
        seen = f"{version!r} {words} {disk} {_SETTLE}{hosts.chosen().disk}"
        return hashlib.sha256(seen.encode()).hexdigest()

    def is_saved(self) -> bool:
        """Tell whether there is a state that fits."""
        try:
            return (self.cache / "state.key").read_text() == self._key()
        except OSError:
            return False

    def save(self) -> None:
        """Boot it, and keep its state: the memory, and a layer of the disk."""
        host = hosts.chosen()
        (self.cache / "state.key").unlink(missing_ok=True)
        with open(self.payload, "wb") as file:
            file.truncate(_PAYLOAD)
        self._make_disk()
        if host.disk:
            self._switch_on(kernel="")
            self._await(0, _BOOT)
            self.run(f"{host.disk}\nsync", "root").expect()
            self.cut()
        console = self.directory / "monitor"
        self._switch_on("-monitor", f"unix:{console},server=on,wait=off")
        self._await(0, _BOOT)
        self.run(_SETTLE, "root")
        state = self.cache / "state"
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(os.fspath(console))
            command = f"exec:cat >{shlex.quote(os.fspath(state))}"
            text = f'migrate_set_parameter max-bandwidth 10G\nmigrate "{command}"\nquit\n'
            monitor.sendall(text.encode())
            assert self._qemu is not None
            self._qemu.wait(120)
        self.cut()
        shutil.move(self.directory / "disk", self.cache / "saved")
        (self.cache / "state.key").write_text(self._key())

    # -- work ------------------------------------------------------------------------------

    def run(self, script: str, user: str = "alice", timeout: float = _RUN) -> Result:
        """Run a shell script to its end, in a login session of its own."""
        return self.wait(self.start(script, user), timeout)

    def start(self, script: str, user: str = "alice") -> int:
        """Start a shell script; return its number for `wait`."""
        assert self._socket is not None
        self._count += 1
        self.users.add(user)
        job = {"id": self._count, "user": user, "script": script}
        self._socket.sendall(json.dumps(job).encode() + b"\n")
        return self._count

    def wait(self, number: int, timeout: float = _RUN) -> Result:
        """Return what a script said, once it has ended."""
        from tests.lib.product import Result

        answer = self._await(number, timeout)
        out, err = (answer[key].encode("latin-1") for key in ("out", "err"))
        return Result([f"script {number}"], answer["code"], out, err)

    def state(self, name: str, user: str = "alice") -> dict[str, Any]:
        """Return the State of `rless inspect`."""
        done = self.run(f"rless inspect -f '{{{{json .State}}}}' {name}", user).expect()
        found: dict[str, Any] = json.loads(done.out)
        return found

    def show(self, unit: str, user: str = "alice") -> dict[str, str]:
        """Return what systemctl shows of a user unit."""
        done = self.run(f"systemctl --user show {unit}", user).expect()
        return dict(line.partition("=")[::2] for line in done.lines())

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


def write_payload(path: Path, add: Callable[[Path], None] = lambda tree: None) -> None:
    """Write what the machine unpacks at its start: this tree, installed, and an image.

    `add` is called with the directory to add more to it.
    """
    from tests.lib import images
    from tests.lib.compiled import ROOT

    tree = path.parent / "payload"
    other = Path(os.environ["RLESS_VM_CACHE"], "tree")
    if other.exists():
        _install_for(other, tree / "opt/rless", path.parent)
    else:
        # Made for the Python of this machine, which is the other one's: they are of one release.
        _pip("install", "--ignore-installed", "--no-warn-script-location",
             "--prefix", tree / "opt/rless", ROOT)  # fmt: skip
    program = ("arm64", other / "usr/bin/busybox") if hosts.chosen().processor else None
    image = images.busybox_image(other=program)
    images.write_oci_layout(image, tree / "opt/images/busybox")
    add(tree)
    subprocess.run(
        ["tar", "-C", tree, "--owner=0", "--group=0", "--mode=go=u-w", "-cf", path, "."],
        check=True,
    )
    assert path.stat().st_size <= _PAYLOAD
    os.truncate(path, _PAYLOAD)


def _pip(verb: str, *arguments: str | Path, **env: str) -> None:
    pip = [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *arguments], check=True, env={**os.environ, **env})


def install(packages: Path, *names: str) -> None:
    """Install packages of Python for the machine, of another release or processor."""
    version = _python(Path(os.environ["RLESS_VM_CACHE"], "tree"))[len("python") :]
    platforms = []
    if processor := hosts.chosen().processor:
        kinds = ("linux", "manylinux2014", "manylinux_2_28")
        platforms = [f"--platform={kind}_{processor}" for kind in kinds]
    _pip("install", "--target", packages, "--only-binary=:all:", "--python-version", version,
         *platforms, *names)  # fmt: skip


def _python(root: Path) -> str:
    """Return the name of the Python that lies below a root, as python3.11."""
    names = (path.name for path in root.glob("usr/bin/python3.*"))
    return next(name for name in names if name[len("python3.") :].isdigit())


def _install_for(other: Path, prefix: Path, scratch: Path) -> None:
    """Install this tree for another release or processor, whose /usr lies below `other`."""
    from tests.lib.compiled import ROOT

    packages = prefix / "lib" / _python(other) / "site-packages"
    processor = hosts.chosen().processor
    env = {"CC": f"{processor}-linux-gnu-gcc", "_PYTHON_HOST_PLATFORM": f"linux-{processor}"}
    _pip("wheel", "--no-deps", "--wheel-dir", scratch, ROOT, **(env if processor else {}))
    install(packages, *map(os.fspath, scratch.glob("rless-*.whl")))
    shutil.move(packages / "bin", prefix / "bin")
    shutil.copytree(ROOT / "helpers", scratch / "helpers")
    # Another processor's machine is of this release, whose Python is here, too.
    root = "/" if processor else os.fspath(other)
    script = f"""mount --rbind {shlex.quote(os.fspath(scratch))} {root}/mnt
        cd /; exec chroot {root} sh -euc '
            cd /mnt/{packages.relative_to(scratch)}
            python3 -X no_debug_ranges /mnt/helpers/hot.py .
            python3 -m compileall -q . || true'"""
    subprocess.run(["unshare", "-rm", "sh", "-euc", script], stdout=subprocess.DEVNULL, check=True)


def main() -> int:
    """Save the state, or boot a machine, run one script in it, and return its exit code."""
    parser = argparse.ArgumentParser(prog="scripts/vm run")
    parser.add_argument("verb", choices=["run", "save"])
    parser.add_argument("-u", "--user", default="alice")
    parser.add_argument("script", nargs="*")
    given = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory(prefix="rless-vm-") as name:
        machine = Machine(Path(name))
        if given.verb == "save":
            if not machine.is_saved():
                machine.save()
            return 0
        script = given.script[0] if len(given.script) == 1 else shlex.join(given.script)
        with machine:
            done = machine.run(script, given.user, 3600)
    sys.stdout.buffer.write(done.raw)
    sys.stderr.write(done.err)
    return done.code


if __name__ == "__main__":
    raise SystemExit(main())
