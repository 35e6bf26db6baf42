"""The launchers: sealed from the caller's directory and environment (security class 45)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rootless import __version__
from rootless.cli.fronts.versions import LINES, NUMBERS
from rootless.cli.fronts.voice import HPC
from tests.lib.compiled import PROGRAMS, ROOT

pytestmark = pytest.mark.needs("compiler")
VERSION = "python{}.{}".format(*sys.version_info)
MAIN = """
from __future__ import annotations
import json, sys
import _signal
if "early" in sys.argv:
    _signal.raise_signal(_signal.SIGINT)
def main() -> int:
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGINT})
    if "click" in sys.argv:
        import fake_click
        print(fake_click.__file__)
        return 0
    if "callback" in sys.argv:
        import signal, weakref
        def callback(_):
            if "key" in sys.argv:
                signal.raise_signal(signal.SIGINT)
            raise ValueError
        one = type("One", (), {})()
        watched = weakref.ref(one, callback)
        del one
        print("it goes on")
        return 0
    if "missing" in sys.argv:
        import no_such_module
    if "unbuilt" in sys.argv:
        sys.modules["_ctypes"] = None
        import _ctypes
    print(json.dumps({
        "argv": sys.argv, "path": sys.path, "isolated": sys.flags.isolated,
        "no_site": sys.flags.no_site, "json": json.__file__,
        "main": __file__, "modules": sorted(sys.modules),
    }))
    return 7
"""


class Prefix:
    """An installation made by hand: launcher, package, and the interpreter of these tests."""

    def __init__(self, base: Path, lib: str, source: str = "", python: str = "") -> None:
        self.base = base
        self.lib = base / lib
        self.launcher = base / "bin" / "rless"
        package = self.lib / "rootless"
        (package / "cli").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "cli" / "__init__.py").touch()
        (package / "cli" / "main.py").write_text(MAIN)
        (package / "launch.py").write_text((ROOT / "rootless" / "launch.py").read_text())
        (base / "bin").mkdir()
        values = {
            "NAME": "rless",
            "MODULE": "rootless.cli.main",
            "SOURCE": source,
            "PYTHON": python,
            "VERSION": "{}.{}".format(*sys.version_info),
        }
        assert PROGRAMS["write_launcher"](self.launcher, values) is None

    def add_python(self) -> Prefix:
        """Be a virtual environment."""
        for name in ("python3", VERSION):
            (self.base / "bin" / name).symlink_to(os.path.realpath(sys.executable))
        home = os.path.dirname(os.path.realpath(sys.executable))
        (self.base / "pyvenv.cfg").write_text(f"home = {home}\n")
        return self


@pytest.fixture
def venv(tmp_path: Path) -> Prefix:
    return Prefix(tmp_path / "a 'b' $c", f"lib/{VERSION}/site-packages").add_python()


def run(
    *command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True
    )


def facts_of(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    import json

    assert done.returncode == 7, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_arguments_and_exit_code_are_passed_on(venv: Prefix) -> None:
    arguments = ["run", "", "a b", "*", "-c", "$HOME", "--", "é\n"]
    found = facts_of(run(venv.launcher, *arguments))
    assert found["argv"] == [str(venv.launcher), *arguments]
    assert found["isolated"] == found["no_site"] == 1


def test_planted_modules_are_not_imported(venv: Prefix, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    (planted / "rootless" / "cli").mkdir(parents=True)
    for name in ("json", "sitecustomize", "usercustomize", "site", "os", "rootless/__init__",
                 "rootless/launch", "rootless/cli/__init__", "rootless/cli/main"):  # fmt: skip
        (planted / f"{name}.py").write_text("print('planted')\nraise SystemExit(99)\n")
    environment = {
        "PYTHONPATH": str(planted),
        "PYTHONHOME": str(planted),
        "PYTHONSTARTUP": str(planted / "json.py"),
        "PYTHONUSERBASE": str(planted),
        "PYTHONPLATLIBDIR": str(planted),
        "PYTHONINSPECT": "1",
        "PYTHONWARNINGS": "error",
        "ENV": str(planted / "json.py"),
        "BASH_ENV": str(planted / "json.py"),
    }
    found = facts_of(run(venv.launcher, cwd=planted, env=environment))
    assert str(planted) not in str(found)
    assert str(found["main"]).startswith(str(venv.lib))


@pytest.mark.parametrize(
    ("target", "command", "directory"),
    [
        ("{bin}/rless", "{home}/rless", "/"),
        ("other", "./rless", "{home}"),
        ("../a 'b' $c/bin/rless", "{home}/rless", "/"),
        (None, "bin/rless", "{bin}/.."),
        (None, "./rless", "{bin}"),
        (None, "{bin}/../bin//rless", "/"),
    ],
    ids=["link", "link to link", "relative link", "relative", "dot", "dots"],
)
def test_installation_is_found_by_any_path(
    venv: Prefix, tmp_path: Path, target: str | None, command: str, directory: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    names = {"bin": str(venv.base / "bin"), "home": str(home)}
    (home / "other").symlink_to(venv.launcher)
    if target:
        (home / "rless").symlink_to(target.format(**names))
    done = run("env", command.format(**names), cwd=Path(directory.format(**names)))
    found = facts_of(done)
    assert found["path"][-1] == str(venv.lib)  # type: ignore[index]


def test_installation_is_found_through_path(venv: Prefix) -> None:
    found = facts_of(run("env", f"PATH={venv.base}/bin:{os.environ['PATH']}", "rless"))
    assert found["path"][-1] == str(venv.lib)  # type: ignore[index]


def test_prefix_without_interpreter_uses_the_matching_version(tmp_path: Path) -> None:
    real = os.path.realpath(sys.executable)
    for lib in (f"lib/{VERSION}/dist-packages", f"lib64/{VERSION}/site-packages"):
        prefix = Prefix(tmp_path / lib.replace("/", "-"), lib, python=real)
        assert facts_of(run(prefix.launcher))["path"][-1] == str(prefix.lib)  # type: ignore[index]


def test_editable_installation_runs_from_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    prefix = Prefix(tree, ".", source=str(tree)).add_python()
    found = facts_of(run(prefix.launcher))
    assert found["path"][-1] == str(tree)  # type: ignore[index]


def test_installation_by_target_is_found(tmp_path: Path) -> None:
    """`pip install --target` puts packages and bin/ into one directory."""
    prefix = Prefix(tmp_path / "p", ".", python=sys.executable)
    assert facts_of(run(prefix.launcher))["path"][-1] == str(tmp_path / "p")  # type: ignore[index]


def test_broken_installation_is_reported(tmp_path: Path) -> None:
    prefix = Prefix(tmp_path / "p", "elsewhere")
    done = run(prefix.launcher)
    assert done.returncode == 125
    assert done.stderr.startswith("rless: the installation of ")
    assert done.stderr.count("\n") == 1
    moved = Prefix(tmp_path / "q", "lib", source="/gone", python=sys.executable)
    assert "in /gone" in run(moved.launcher).stderr


def test_site_is_loaded_only_for_third_party_packages(venv: Prefix) -> None:
    (venv.lib / "linked.pth").write_text(f"{venv.base}/more\n")
    (venv.base / "more").mkdir()
    (venv.base / "more" / "fake_click.py").touch()
    found = facts_of(run(venv.launcher))
    assert "site" not in found["modules"]  # type: ignore[operator]
    done = run(venv.launcher, "click")
    assert done.stdout == f"{venv.base}/more/fake_click.py\n", done.stderr


def test_missing_module_is_reported_once(venv: Prefix) -> None:
    done = run(venv.launcher, "missing")
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr


def test_python_without_a_module_is_named(venv: Prefix) -> None:
    shutil.copy(ROOT / "rootless" / "errors.py", venv.lib / "rootless")
    done = run(venv.launcher, "unbuilt")
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert "was built without the module _ctypes" in done.stderr
    assert "libffi" in done.stderr


def test_sitecustomize_is_not_run(venv: Prefix) -> None:
    (venv.lib / "sitecustomize.py").write_text("print('customized')\n")
    (venv.lib / "fake_click.py").touch()
    assert "customized" not in run(venv.launcher, "click").stdout


def test_interrupt_before_main_is_silent(venv: Prefix) -> None:
    """Python alone would print a traceback of whatever it was importing."""
    done = run(venv.launcher, "early")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_interrupt_inside_an_interpreter_callback_ends_the_program(venv: Prefix) -> None:
    """It ends the program, as any other; Python alone would say that it was ignored, and go on."""
    done = run(venv.launcher, "callback", "key")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
    done = run(venv.launcher, "callback")
    assert (done.returncode, done.stdout) == (0, "it goes on\n")
    assert "ValueError" in done.stderr


# -- by the name of a front ----------------------------------------------------------------------


@pytest.fixture
def fronts(venv: Prefix) -> Path:
    """A directory of links to the launcher; all that Python does is to say what it was told."""
    (venv.lib / "rootless" / "cli" / "fronts").mkdir()
    (venv.lib / "rootless" / "cli" / "fronts" / "__init__.py").touch()
    (venv.lib / "rootless" / "cli" / "fronts" / "main.py").write_text(
        "import sys\nfrom rootless import launch\n"
        "def main():\n print(launch.front, *sys.argv[1:])\n return 3\n"
    )
    directory = venv.base / "links"
    directory.mkdir()
    for name in NUMBERS:
        (directory / name).symlink_to(venv.launcher)
    return directory


@pytest.mark.parametrize("name", NUMBERS)
def test_version_of_front_needs_no_python(fronts: Path, venv: Prefix, name: str) -> None:
    shutil.rmtree(venv.lib)
    number = NUMBERS[name].format(release=__version__)
    line = LINES[name].format(number, release=__version__) + "\n"
    flags = ["--version"] if name in HPC else ["--version", "-v"]
    for flag in flags:
        done = run(fronts / name, flag)
        assert (done.returncode, done.stdout, done.stderr) == (0, line, "")
    done = run(fronts / name, "--version", env={"RLESS_FRONT_VERSION": "1.2.3"})
    assert done.stdout.startswith(line.partition(" version ")[0] + " version 1.2.3")


def test_version_alone_is_the_number(fronts: Path, venv: Prefix) -> None:
    shutil.rmtree(venv.lib)
    done = run(fronts / "singularity", "version")
    assert done.stdout == NUMBERS["singularity"].format(release=__version__) + "\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("docker", ["version"]),
        ("docker", ["run", "-v", "/a:/b", "image"]),
        ("apptainer", ["-v", "exec", "image", "--version"]),
        ("singularity", ["version", "--help"]),
        ("podman", []),
    ],
)
def test_front_begins_with_its_name_and_words(fronts: Path, name: str, words: list[str]) -> None:
    done = run("env", f"PATH={fronts}:{os.environ['PATH']}", name, *words)
    assert (done.returncode, done.stdout) == (3, " ".join([name, *words]) + "\n"), done.stderr


# A tmpfs in the place of the control groups, as the user with id 0 of a new user namespace.
GROUPS = """
threads=/sys/fs/cgroup/user.slice/user-0.slice/user@0.service/cgroup.threads
mount -t tmpfs none /sys/fs/cgroup && mkdir -p ${threads%/*} && : >$threads || exit
"$@" >/dev/null
[ "$2" = ps ] || until [ -s $threads ]; do sleep 0.02; done
cat $threads
"""


@pytest.mark.needs("user namespaces")
@pytest.mark.parametrize(("verb", "primes"), [("run", True), ("start", True), ("ps", False)])
def test_move_by_systemd_is_primed(tmp_path: Path, verb: str, primes: bool) -> None:
    """While Python starts somebody asks the kernel to move a thread."""
    prefix = Prefix(tmp_path / "venv", f"lib/{VERSION}/site-packages").add_python()
    command = ["unshare", "-Urm", "sh", "-c", GROUPS, "sh", str(prefix.launcher), verb]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isdigit() == primes
