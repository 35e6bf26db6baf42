"""What a start loads and asks of the file system, counted: no clock, so nothing here flakes.

An installation is made by hand from this tree, with the file that helpers/hot.py writes.
"""

from __future__ import annotations

import compileall
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lib import images
from tests.lib.fronts import Front
from tests.lib.product import Product, own_rless, rless, shared_product

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["own_rless", "rless", "shared_product"]

ROOT = Path(__file__).resolve().parents[2]
START = """import sys
del sys.argv[0]
sys.path.append(sys.argv.pop(0))
from rootless import launch
launch.front = "{front}"
launch.start("{module}")"""
# Names every import in all processes of a command: an audit hook is inherited by fork.
WATCH = """import os, sys
log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
os.write(log, "".join(name + "\\n" for name in sys.modules).encode())
os.close(log)
def hook(event, args):
    if event == "import":
        try:
            fd = os.open({log!r}, os.O_WRONLY | os.O_APPEND)
        except OSError:
            return
        os.write(fd, (args[0] + "\\n").encode())
        os.close(fd)
sys.addaudithook(hook)
"""
FORBIDDEN = frozenset(
    "_pyrepl argparse asyncio click collections concurrent contextlib dataclasses email enum"
    " functools getpass hashlib http importlib inspect json logging pathlib pyroute2 random re"
    " shlex shutil signal site socket ssl subprocess tempfile textwrap threading traceback typing"
    " urllib urllib3 warnings weakref zlib zstandard".split()
)
# What Python 3.11 needs, with hardly anything to spare. A number that is reached is a reason to
# look at what has come in (the failed test shows all), not to raise it at once.
MODULES_OF_RUN = 141  # those of the foreground process, too, which the launcher in C does not load
MODULES_OF_EXEC = 90
MODULES_OF_VERSION = 44
MODULES_OF_STATE = 55
MORE_MODULES_OF_FRONT = 14
MORE_MODULES_OF_ENTERING = 10
PATHS_OF_RUN = 392
RUN = ("run", "--rm", "--network", "none", "--userns", "single")


class Installation:
    """The package in a directory of its own, compiled, with or without hot.bin."""

    def __init__(self, base: Path) -> None:
        self.lib = base / "lib with blank"
        self.package = self.lib / "rootless"
        self.hot = self.package / "hot.bin"
        shutil.copytree(
            ROOT / "rootless", self.package, ignore=shutil.ignore_patterns("__pycache__", "*.bin")
        )
        runpy.run_path(str(ROOT / "helpers" / "hot.py"))["write"](self.lib)
        compileall.compile_dir(self.lib, quiet=2)

    def argv(self, *words: str, before: str = "") -> list[str]:
        """Return the command line of a start as the launcher makes it."""
        module = {"rless": "rootless.cli.main", "rless-oci": "rootless.runtime.commands.main"}.get(
            words[0], "rootless.cli.fronts.main"
        )
        front = words[0] if module == "rootless.cli.fronts.main" else ""
        code = before + START.format(module=module, front=front)
        return [sys.executable, "-I", "-S", "-c", code, str(self.lib), *words]

    def python(self, code: str, **more: str) -> str:
        """Run code with HotModules in place; return what it prints."""
        code = (
            "import sys; sys.path.append(sys.argv[1])\n"
            "from rootless.launch import HotModules\n"
            "hot = HotModules(sys.argv[1] + '/rootless'); sys.meta_path.insert(0, hot)\n" + code
        )
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, str(self.lib)],
            capture_output=True,
            text=True,
            check=False,
            **more,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, done.stderr
        out: str = done.stdout
        return out


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("hot"))


@pytest.fixture
def damaged(installed: Installation) -> Iterator[Installation]:
    """Give back what a test has done to hot.bin."""
    content = installed.hot.read_bytes()
    yield installed
    installed.hot.write_bytes(content)


def loaded(
    installation: Installation, log: Path, *words: str, env: dict[str, str] | None = None
) -> set[str]:
    """Return the modules that all processes of a command have looked for."""
    argv = installation.argv(*words, before=WATCH.format(log=str(log)))
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return set(log.read_text().split())


def forbidden(modules: set[str]) -> list[str]:
    return sorted(FORBIDDEN & {name.partition(".")[0] for name in modules})


# -- counts ------------------------------------------------------------------------------------


@pytest.fixture
def cached(rless: Product) -> Product:
    """Have an image that has been run."""
    rless(*RUN, rless.image, "true").expect()
    return rless


@pytest.mark.needs("user namespaces")
def test_run_loads_few_modules(installed: Installation, cached: Product, tmp_path: Path) -> None:
    words = ("rless", *RUN, cached.image, "true")
    modules = loaded(installed, tmp_path / "log", *words, env=cached.env)
    assert "rootless.runtime.inside.init" in modules
    # Where no systemd can be reached, nothing is loaded to speak to one, nor to set limits.
    assert not {"rootless.linux.dbus", "rootless.runtime.cgroup.systemd"} & modules
    assert not {"rootless.engine.resources", "rootless.runtime.cgroup.resources"} & modules
    assert forbidden(modules) == []
    assert len(modules) <= MODULES_OF_RUN, (len(modules), sorted(modules))


@pytest.mark.needs("user namespaces")
def test_front_adds_a_table_to_run(
    installed: Installation, cached: Product, tmp_path: Path
) -> None:
    words = (*RUN, cached.image, "true")
    plain = loaded(installed, tmp_path / "plain", "rless", *words, env=cached.env)
    front = loaded(installed, tmp_path / "front", "docker", *words, env=cached.env)
    assert not {name for name in plain if ".fronts" in name}
    prefix = "rootless.cli.fronts"
    names = ("main", "voice", "docker", "docker.main")
    added = {prefix, *(f"{prefix}.{name}" for name in names), "rootless.cli.flags.limits"}
    assert front - plain == added
    code = f"print(['{prefix}.' + name in hot.index for name in {names}])"
    assert installed.python(code) == f"{[True] * 4}\n"


@pytest.mark.needs("user namespaces")
def test_exec_loads_few_modules(installed: Installation, cached: Product, tmp_path: Path) -> None:
    flags = ("-d", "--network", "none", "--userns", "single", "--name", "box")
    cached("run", *flags, cached.image, "sleep", "600").expect()
    try:
        words = ("rless", "exec", "box", "true")
        modules = loaded(installed, tmp_path / "log", *words, env=cached.env)
    finally:
        cached("rm", "-f", "box").expect()
    assert "rootless.runtime.host.exec" in modules
    assert forbidden(modules) == []
    assert len(modules) <= MODULES_OF_EXEC, (len(modules), sorted(modules))


@pytest.mark.needs("user namespaces")
def test_front_costs_a_table(installed: Installation, rless: Product, tmp_path: Path) -> None:
    """Under the name apptainer a start loads what `run --hpc` does, and its own few modules."""
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-x", "-C", tree], input=images.busybox_layer(), check=True)
    words = ("rless", "run", "--hpc", "--rootfs", f"{tree}:O", "true")
    env = {**rless.env, "LD_LIBRARY_PATH": ""}
    run = loaded(installed, tmp_path / "run", *words, env=env)
    front = ("apptainer", "exec", str(tree), "true")
    more = loaded(installed, tmp_path / "front", *front, env=env) - run
    assert "rootless.cli.fronts.apptainer.actions" in more
    assert forbidden(more) == []
    assert len(more) <= MORE_MODULES_OF_FRONT, sorted(more)


@pytest.mark.needs("user namespaces")
def test_front_enters_an_instance_as_exec_does(
    installed: Installation, rless: Product, tmp_path: Path
) -> None:
    """Nothing of a start is loaded: no options of `run`, no images, no JSON."""
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-x", "-C", tree], input=images.busybox_layer(), check=True)
    apptainer = Front(rless, "apptainer")
    apptainer("instance", "start", str(tree), "hot").expect()
    try:
        plain = loaded(installed, tmp_path / "plain", "rless", "exec", "hot", "true", env=rless.env)
        words = ("apptainer", "exec", "instance://hot", "true")
        more = loaded(installed, tmp_path / "front", *words, env=rless.env) - plain
    finally:
        apptainer("instance", "stop", "hot").expect()
    assert "rootless.cli.fronts.apptainer.enter" in more
    assert forbidden(more) == []
    assert len(more) <= MORE_MODULES_OF_ENTERING, sorted(more)


@pytest.mark.parametrize(
    ("words", "ceiling"),
    ((("--version",), MODULES_OF_VERSION), (("state", "none"), MODULES_OF_STATE)),
    ids=("version", "state"),
)
def test_oci_runtime_loads_few_modules(
    installed: Installation, tmp_path: Path, words: tuple[str, ...], ceiling: int
) -> None:
    root = ("rless-oci", "--root", str(tmp_path))
    modules = loaded(installed, tmp_path / "log", *root, *words)
    assert forbidden(modules) == []
    assert len(modules) <= ceiling, (len(modules), sorted(modules))


def paths(log: Path, argv: list[str], env: dict[str, str]) -> list[str]:
    """Return the system calls with a path that a command and its children make.

    As an ordinary user, who cannot trace newuidmap: use `--userns single`.
    """
    # A file for each process (-ff): in one, calls that go on side by side are cut in two.
    strace = ["strace", "-ff", "-qq", "-e", "trace=%file", "-e", "signal=none", "-o", str(log)]
    subprocess.run([*strace, *argv], env=env, check=True, capture_output=True)
    text = "".join(one.read_text() for one in log.parent.glob(f"{log.name}.*"))
    fstat = re.compile(r"newfstatat\(\d.*AT_EMPTY_PATH")
    return [line for line in text.splitlines() if not fstat.match(line)]


@pytest.mark.needs("user namespaces", "strace")
def test_run_accesses_few_paths(
    installed: Installation, own_rless: Product, tmp_path: Path
) -> None:
    """In a storage of its own: what other tests leave to be cleared is not counted here."""
    own_rless(*RUN, own_rless.image, "true").expect()
    start = paths(tmp_path / "a", [sys.executable, "-I", "-S", "-c", ""], own_rless.env)
    argv = installed.argv("rless", *RUN, own_rless.image, "true")
    run = paths(tmp_path / "b", argv, own_rless.env)
    assert len(run) - len(start) <= PATHS_OF_RUN, (len(run), len(start), "\n".join(run))
    # What is loaded is in hot.bin, except for what reads that: nothing was forgotten.
    own = re.findall(rf'"{re.escape(str(installed.package))}/([^"]*)"', "\n".join(run))
    files = {name for name in own if "__pycache__" in name or name.endswith(".bin")}
    assert {name.partition(".")[0] for name in files} == {
        "hot", "__pycache__/__init__", "__pycache__/launch"
    }  # fmt: skip
    assert own.count("hot.bin") == 2


@pytest.mark.needs("strace")
def test_ps_needs_no_bindings(installed: Installation, rless: Product, tmp_path: Path) -> None:
    """What it loads is in the first part of hot.bin; the second would have to be mapped by them."""
    rless("create", "--network", "none", "--name", "box", rless.image, "true").expect()
    try:
        argv = installed.argv("rless", "ps", "-a")
        opened = "\n".join(paths(tmp_path / "log", argv, rless.env))
    finally:
        rless("rm", "box").expect()
    assert "/container.json" in opened
    assert "_ctypes" not in opened
    assert opened.count("rootless/hot.bin") == 1


@pytest.mark.needs("user namespaces")
def test_stored_short_name_reads_no_registries_conf(
    installed: Installation, cached: Product, tmp_path: Path
) -> None:
    """registries.conf says what a short name means; one that is there as docker.io's is clear."""
    cached("tag", cached.image, "hot/name:1").expect()
    try:
        (tmp_path / "registries.conf").write_text("broken = ")
        env = {**cached.env, "CONTAINERS_REGISTRIES_CONF": str(tmp_path / "registries.conf")}
        for name in ("hot/name:1", "docker.io/hot/name:1"):
            words = ("rless", *RUN, name, "true")
            modules = loaded(installed, tmp_path / "log", *words, env=env)
            assert "rootless.runtime.inside.init" in modules
            assert not {"tomllib", "tomli", "rootless.image.model.registries_conf"} & modules
        argv = installed.argv("rless", *RUN, "hot/other", "true")
        done = subprocess.run(argv, env=env, capture_output=True, text=True)
        assert "registries.conf is not valid TOML" in done.stderr
    finally:
        cached("rmi", "hot/name:1").expect()


# -- hot.bin -----------------------------------------------------------------------------------


def test_bundled_modules_look_like_their_sources(installed: Installation) -> None:
    code = """
import json
from rootless.engine.start import run
import rootless.cli, rootless.runtime.inside.init
print(json.dumps({m.__name__: [m.__file__, m.__spec__.origin, m.__package__,
    getattr(m, "__path__", None), type(m.__loader__).__name__, m.__doc__ is None,
    m.__loader__.is_package(m.__name__), m.__spec__.has_location]
    for m in (run, rootless.cli, rootless.runtime.inside.init)}))
"""
    package = str(installed.package)
    found = json.loads(installed.python(code))
    run = f"{package}/engine/start/run.py"
    cli = f"{package}/cli/__init__.py"
    assert found["rootless.engine.start.run"] == [
        run, run, "rootless.engine.start", None, "HotLoader", True, False, True
    ]  # fmt: skip
    assert found["rootless.cli"] == [
        cli, cli, "rootless.cli", [f"{package}/cli"], "HotLoader", True, True, True
    ]  # fmt: skip


def test_debuggers_find_the_sources(installed: Installation) -> None:
    code = """
import inspect, traceback, importlib.resources
from rootless import errors
print("class RlessError" in inspect.getsource(errors))
try:
    errors.escape(5)
except Exception:
    traceback.print_exc(file=sys.stdout)
import rootless.cli
print((importlib.resources.files(rootless.cli) / "main.py").is_file())
"""
    out = installed.python(code)
    assert out.startswith("True\n")
    assert out.endswith("True\n")
    assert f'File "{installed.package}/errors.py", line ' in out
    lines = (installed.package / "errors.py").read_text().splitlines()
    number = int(re.findall(r"errors\.py\", line (\d+)", out)[0])
    assert lines[number - 1].strip() in out


def test_all_modules_can_be_imported_and_reloaded(installed: Installation) -> None:
    code = """
import importlib
names = sorted(hot.index)
for name in names:
    __import__(name)
kinds = {type(sys.modules[name].__loader__).__name__ for name in names if name != "rootless"}
print(len(names) > 60, kinds, hot.index.keys() - {"rootless"})
import rootless.errors
print(type(importlib.reload(rootless.errors).__loader__).__name__)
"""
    assert installed.python(code) == "True {'HotLoader'} set()\nSourceFileLoader\n"


def test_nothing_is_imported_after_the_barrier(installed: Installation) -> None:
    code = """
from rootless.runtime.inside import init
init.forbid_imports()
for name in ("rootless.runtime.inside.tty", "rootless.engine.start.run", "fractions"):
    try:
        __import__(name)
    except ImportError:
        print("no")
"""
    assert installed.python(code) == "no\nno\nno\n"


def test_no_descriptor_is_left_open(installed: Installation) -> None:
    code = "import os, rootless.engine.start.run; print(sorted(os.listdir('/proc/self/fd')))"
    assert len(json.loads(installed.python(code).replace("'", '"'))) == 4  # the listing's own


def flip_magic(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def lose_index(content: bytes) -> bytes:
    start = 32 + int.from_bytes(content[4:8], "little")
    end = 32 + int.from_bytes(content[8:12], "little")
    return content[:start] + b"?" * (end - start) + content[end:]


def lose_first_code(content: bytes) -> bytes:
    start = int.from_bytes(content[4:8], "little")
    return content[:32] + b"?" * start + content[32 + start :]


def lose_second_part(content: bytes) -> bytes:
    end = 32 + int.from_bytes(content[8:12], "little")
    return content[:end] + b"?" * (len(content) - end)


@pytest.mark.parametrize(
    "damage",
    (
        lambda content: b"",
        lambda content: content[:3],
        lambda content: content[:31],
        lambda content: content[:1000],
        lambda content: content[:-1],
        lambda content: content[:4] + b"\xff" * 28 + content[32:],
        flip_magic,
        lose_index,
        lose_first_code,
        lose_second_part,
    ),
    ids="empty magic header first second sizes other-magic index first-code second-code".split(),
)
def test_damaged_bundle_is_ignored(damaged: Installation, damage: object, tmp_path: Path) -> None:
    damaged.hot.write_bytes(damage(damaged.hot.read_bytes()))  # type: ignore[operator]
    for words, out in (
        (("rless", "--version"), "rless "),
        (("rless", "run", "--rm", "oci:/none"), ""),
        (("rless-oci", "--version"), "rless-oci "),
    ):
        env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
        done = subprocess.run(damaged.argv(*words), capture_output=True, text=True, env=env)
        assert done.stdout.startswith(out), done
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == (0 if out else 1), done.stderr


def test_replaced_bundle_is_not_mixed_with_the_old_one(damaged: Installation) -> None:
    content = damaged.hot.read_bytes()
    other = content[:16] + bytes(16) + content[32:]
    code = f"""
open(hot.path, "wb").write({other[:32]!r} + bytes({len(other) - 32}))
import rootless.cli.main as main, rootless.engine.start.run as run
print(type(main.__loader__).__name__, type(run.__loader__).__name__)
"""
    assert damaged.python(code) == "HotLoader SourceFileLoader\n"


def test_bundle_is_reproducible(installed: Installation, tmp_path: Path) -> None:
    again = Installation(tmp_path)
    assert again.hot.read_bytes()[4:16] == installed.hot.read_bytes()[4:16]
    assert again.hot.stat().st_mode & 0o777 == 0o644
    assert str(tmp_path).encode() not in again.hot.read_bytes()
