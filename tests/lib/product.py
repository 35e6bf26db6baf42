"""Run rless as its user does, in a storage of its own, and find what it leaves behind.

The process of the tests becomes a subreaper: whatever rless starts and forgets stays below it in
the process tree, so a leftover process is simply a descendant that no test knows of.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rootless.paths import boot_id
from tests.lib import images
from tests.lib.compiled import PROGRAMS, ROOT, static_program

_PR_SET_CHILD_SUBREAPER = 36
# As the launcher (helpers/launcher) starts it; the bytecode goes where the user may write.
# Before what a launcher of Python runs: a key comes just when a control group has been made.
KEY_AT_CGROUP = """import os
make = os.mkdir
def mkdir(path, *rest, **more):
    make(path, *rest, **more)
    if str(path).startswith("/sys/fs/cgroup") and os.path.basename(path).startswith("rless-"):
        os.write(2, b"made")
        raise KeyboardInterrupt
os.mkdir = mkdir
"""
_START = """import sys
del sys.argv[0]
sys.path.append(sys.argv.pop(0))
from rootless.launch import start
start("rootless.cli.main")"""
_GRACE = 30.0  # seconds: a killed process may take its time on a busy machine


class Result:
    """What a command said."""

    def __init__(self, args: Sequence[str], code: int, out: bytes, err: bytes) -> None:
        self.args = list(args)
        self.code = code
        self.raw = out
        self.out = out.decode("utf-8", "surrogateescape")
        self.err = err.decode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return (
            f"{' '.join(self.args)} -> {self.code}\nstdout: {self.out[-2000:]}\nstderr: {self.err}"
        )

    def expect(self, code: int = 0) -> Result:
        """Return itself, if the exit code is this one."""
        assert self.code == code, repr(self)
        return self

    def facts(self) -> dict[str, str]:
        """Return the lines of `probe` as {fact: rest of the line}."""
        return {name: rest for name, _, rest in (line.partition(" ") for line in self.lines())}

    def lines(self) -> list[str]:
        """Return the lines of standard output."""
        return self.out.splitlines()

    def one_line_error(self) -> str:
        """Return what it complained of, which must be one line of rless, free of controls."""
        assert self.err.endswith("\n"), repr(self)
        assert self.err.count("\n") == 1, repr(self)
        assert self.err.startswith("rless: "), repr(self)
        assert self.err[:-1].isprintable(), repr(self)
        return self.err[len("rless: ") : -1]


class Product:
    """rless with a home, a storage and a runtime directory of its own."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.storage = base / "storage"
        self.runtime = base / "run"
        self.home = base / "home"
        self.runtime.mkdir(mode=0o700)
        self.home.mkdir()
        self.env = {
            "HOME": str(self.home),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "RLESS_STORAGE": str(self.storage),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "TERM": "dumb",
        }
        self.image = ""  # what run, sh and probe use
        self._known: list[subprocess.Popen[bytes]] = []
        self.begin()

    # -- running ---------------------------------------------------------------------------

    def argv(self, *words: str) -> list[str]:
        """Return the command line that starts rless."""
        return [*launcher(), *words]

    def __call__(
        self,
        *words: str,
        stdin: bytes | int | None = None,
        env: Mapping[str, str | None] | None = None,
        timeout: float = 60,
        **more: Any,
    ) -> Result:
        """Run `rless WORDS...` to its end.

        Args:
            stdin: what it reads; None: /dev/null.
            env: added to its environment; None as a value takes a variable away.
        """
        if isinstance(stdin, bytes):
            more["input"] = stdin
        else:
            more["stdin"] = subprocess.DEVNULL if stdin is None else stdin
        done = subprocess.run(
            self.argv(*words),
            stdout=more.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            env=self.environment(env),
            timeout=timeout,
            **more,
        )
        return Result(words, done.returncode, done.stdout or b"", done.stderr)

    def environment(self, changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """Return the environment of a run with these changes."""
        merged = {**self.env, **(changes or {})}
        return {name: value for name, value in merged.items() if value is not None}

    def start(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start `rless WORDS...` with pipes; the end of the test kills it."""
        options: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        options["env"] = self.environment(more.pop("env", None))
        process = subprocess.Popen(self.argv(*words), **{**options, **more})
        self._known.append(process)
        return process

    def run(
        self, flags: str | Sequence[str], *command: str, image: str | None = None, **more: Any
    ) -> Result:
        """Run a container that is removed, without network: `flags`, the image, the command."""
        given = flags.split() if isinstance(flags, str) else list(flags)
        if not any(word.startswith(("--network", "--net")) for word in given):
            given = ["--network", "none", *given]
        named = [] if image == "" else [image or self.image]
        return self("run", "--rm", "-q", *given, *named, *command, **more)

    def sh(self, script: str, *flags: str, **more: Any) -> Result:
        """Run a shell script in a container; it must exit with 0."""
        return self.run(flags, "sh", "-c", script, **more).expect()

    def probe(self, verbs: str, *flags: str, **more: Any) -> Result:
        """Run `probe` with these words in a container; it must exit with 0."""
        return self.run(flags, "probe", *verbs.split(), **more).expect()

    def detach(self, name: str, flags: str, *command: str, image: str | None = None) -> str:
        """Start a container with a name in the background; return its id."""
        words = ["--name", name, *flags.split()]
        if "--network" not in flags:
            words += ["--network", "none"]
        done = self("run", "-d", *words, image or self.image, *command).expect()
        return done.out.strip()

    def add_image(self, name: str, image: images.Image) -> str:
        """Write an image as an OCI layout; return its reference."""
        return f"oci:{images.write_oci_layout(image, self.base / 'images' / name)}"

    # -- what is there ------------------------------------------------------------------------

    def containers(self) -> list[str]:
        """Return the ids of the containers on disk."""
        return _names(self.storage / "containers")

    def container(self, index: int = 0) -> Path:
        """Return the directory of a container."""
        return self.storage / "containers" / self.containers()[index]

    def processes(self) -> dict[int, str]:
        """Return the processes below us that no test started: pid -> what it is."""
        mine = {process.pid for process in self._known if process.poll() is None}
        found = {}
        for pid in descendants() - self._baseline - mine:
            if _reap(pid):
                continue
            what = _describe(pid)
            if what:
                found[pid] = what
        return found

    @property
    def live(self) -> Path:
        """Where the processes of this boot's containers are noted."""
        return self.storage / "run" / boot_id() / "live"

    def leftovers(self) -> list[str]:
        """Return what is there that should not be when no container exists."""
        found = [f"process {pid}: {what}" for pid, what in self.processes().items()]
        with open("/proc/self/mountinfo") as stream:
            found += [f"mount {line.strip()}" for line in stream if str(self.base) in line]
        for directory in ("containers", "names", "tmp"):
            found += [f"{directory}/{name}" for name in _names(self.storage / directory)]
        # The mark of this boot stays.
        found += [f"live/{name}" for name in _names(self.live) if name != "booted"]
        if group := os.environ.get("RLESS_TEST_CGROUP"):
            for directory, names, _ in os.walk(group):  # one that goes meanwhile is no error
                found += [f"cgroup {directory}/{name}" for name in names if name[:6] == "rless-"]
        return found

    def begin(self) -> None:
        """Take what runs now for something else: a registry of the session, a pause of Podman."""
        self._baseline = descendants()

    def assert_clean(self, grace: float = _GRACE) -> None:
        """Fail if something is left behind."""
        deadline = time.monotonic() + grace
        while found := self.leftovers():
            if time.monotonic() > deadline:
                raise AssertionError("left behind:\n" + "\n".join(found))
            time.sleep(0.02)

    def clear(self) -> None:
        """Take away what a failed test has left, so that the next one starts clean."""
        for process in self._known:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    try:
                        stream.close()
                    except OSError:
                        pass  # nobody reads what was still buffered
        self._known = []
        if self.leftovers():
            for pid in self.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass  # it has ended, or ends with its parent
            self("ps", "-a")
            for name in self.containers():
                self("rm", "-f", name)
        if any(name[0] != "." for name in _names(self.storage / "volumes")):
            self("volume", "prune", "-a", "-f")

    def remove(self) -> None:
        """Remove all of it, files of subordinate ids too."""
        self.clear()
        self("unshare", "rm", "-rf", str(self.storage))
        shutil.rmtree(self.base, ignore_errors=True)


@functools.cache
def launcher() -> tuple[str, ...]:
    """Return the words that start rless from this tree as an installed one: the launcher in C."""
    target = Path(_bytecode()).with_suffix(".bin") / "rless"
    python = target.with_name("python")
    target.parent.mkdir()
    flags = f"-X pycache_prefix={_bytecode()}"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {flags} "$@"\n')
    python.chmod(0o755)
    values = {"NAME": "rless", "MODULE": "rootless.cli.main"}
    values |= {"SOURCE": str(ROOT), "PYTHON": str(python), "VERSION": ""}
    reason = PROGRAMS["write_launcher"](target, values)
    assert reason is None, reason
    return (str(target),)


@functools.cache
def _bytecode() -> str:
    """Return a directory for bytecode, where the user may write."""
    made = tempfile.mkdtemp(prefix="rless-bytecode-")
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not in what was forked
            for directory in (made, f"{made}.bin"):
                shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    return made


def python_launcher() -> tuple[str, ...]:
    """Return the words of a launcher that is a script: Python, sealed."""
    flags = ("-I", "-S", "-X", f"pycache_prefix={_bytecode()}")
    return (sys.executable, *flags, "-c", _START, str(ROOT), "rless")


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def descendants() -> set[int]:
    """Return the pids of all processes below this one."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stream:
                    parent = int(stream.read().rpartition(b")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(name))
    found: set[int] = set()
    queue = [os.getpid()]
    while queue:
        for pid in children.get(queue.pop(), ()):
            found.add(pid)
            queue.append(pid)
    return found


def _reap(pid: int) -> bool:
    """Take the status of an orphan that was given to us; tell whether it has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def _describe(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as stream:
            stat = stream.read()
        with open(f"/proc/{pid}/cmdline", "rb") as stream_bytes:
            words = stream_bytes.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return f"{stat[:60]} {words[:12]!r}"


def become_subreaper() -> None:
    """Make orphans below this process children of it."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Wait until `condition()` is true; return what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
    return value


@functools.cache
def probe_layer() -> bytes:
    """Return the layer with `probe` and what the tests look for."""
    program = Path(static_program("tests/lib/probe.c")).read_bytes()
    return images.layer(
        {
            "bin/probe": images.File(program, mode=0o755),
            "data": images.Dir(),
            "data/seed": images.File("seed\n", mode=0o640, uid=1000, gid=1000),
            "srv": images.Dir(),
            "opt": images.Dir(),
            "opt/user": images.Dir(uid=1000, gid=1000),
        }
    )


def probe_image(**config: Any) -> images.Image:
    """Return busybox with `probe`."""
    return images.busybox_image([probe_layer()], compression="none", **config)


@pytest.fixture(scope="session")
def shared_product() -> Iterator[Product]:
    """Make one storage for all tests of this process, with the images unpacked once."""
    become_subreaper()
    base = Path(tempfile.mkdtemp(prefix="rless-product-"))
    product = Product(base)
    product.image = product.add_image("root", probe_image())
    product("pull", "-q", product.image).expect()
    yield product
    product.remove()


@pytest.fixture
def rless(shared_product: Product) -> Iterator[Product]:
    """Give rless in the shared storage; what the test leaves behind there is a failure."""
    shared_product.begin()
    yield shared_product
    try:
        shared_product.assert_clean()
    finally:
        shared_product.clear()


@pytest.fixture
def own_rless(shared_product: Product, tmp_path: Path) -> Iterator[Product]:
    """Give rless in an empty storage of the test's own."""
    base = tmp_path / "product"
    base.mkdir()
    product = Product(base)
    product.image = shared_product.image
    yield product
    try:
        product.assert_clean()
    finally:
        product.remove()
