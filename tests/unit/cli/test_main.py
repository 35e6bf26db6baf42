"""The command as a process: exit codes, the one error line, broken outputs, imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rootless import __version__
from rootless.cli import main as cli
from rootless.cli import streams
from rootless.errors import RlessError

ROOT = Path(__file__).parents[3]


def rless(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a program."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from rootless.cli.main import main; "
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-I", "-B", "-c", code + "sys.exit(main())", *argv],
        text=True,
        timeout=60,
        **({"capture_output": True} | options),  # type: ignore[call-overload]
    )
    return done


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in which $rless is the command."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from rootless.cli.main import main"
    return subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "code": f"{code}; sys.exit(main())", "python": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
    )


RLESS = '"$python" -I -B -c "$code"'


def test_version() -> None:
    for flag in ("--version", "-v"):
        done = rless(flag)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"rless {__version__}\n", "")


def test_help_names_every_verb() -> None:
    done = rless("--help")
    assert done.returncode == 0
    assert rless().stdout == done.stdout
    for verbs in cli.VERBS.values():
        for verb in verbs:
            assert f"\n  {verb} " in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    (
        (["nope"], "rless: no such verb: nope; see 'rless --help'\n"),
        (
            ["exec", "x"],
            "rless: the verb exec is not supported: not built yet; see 'rless --help'\n",
        ),
        (["--nope"], "rless: unknown flag: --nope; see 'rless --help'\n"),
        (["--storage"], "rless: flag needs a value: --storage; see 'rless --help'\n"),
        (["image", "x"], "rless: no such verb: image x; 'rless image' takes pull, ls, list, rm\n"),
        (["run", "--foo"], "rless: unknown flag: --foo; see 'rless run --help'\n"),
        (["ps", "x"], "rless: 'rless ps' takes no argument; see 'rless ps --help'\n"),
        (["stop"], "rless: 'rless stop' needs at least an argument; see 'rless stop --help'\n"),
    ),
)
def test_errors_are_one_line(argv: list[str], message: str) -> None:
    done = rless(*argv)
    assert (done.returncode, done.stdout, done.stderr) == (125, "", message)


def test_errors_escape_what_was_typed() -> None:
    done = rless("run", "--\x1b[2J\n", "x")
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


def test_aliases() -> None:
    assert cli.find(["container", "ls", "-a"]) == ("ps", ["-a"])
    assert cli.find(["container", "run", "x"]) == ("run", ["x"])
    assert cli.find(["image", "rm", "x"]) == ("rmi", ["x"])
    assert rless("image", "--help").stdout == "Usage: rless image pull|ls|list|rm ...\n"


def test_help_of_a_verb() -> None:
    assert "--follow" in rless("logs", "--help").stdout
    assert rless("help", "logs").stdout == rless("logs", "-h").stdout
    assert rless("help", "container", "ls").stdout == rless("ps", "--help").stdout
    assert rless("help").stdout == rless("--help").stdout


def test_storage_and_debug_are_set_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RLESS_STORAGE", "RLESS_DEBUG"):
        monkeypatch.setenv(name, "")
    from rootless import log

    monkeypatch.setattr(log, "enabled", False)
    assert cli.main(["--debug", "--storage=/x/y", "--version"]) == 0
    assert (os.environ["RLESS_STORAGE"], log.enabled) == ("/x/y", True)


def test_a_full_disk_is_seen() -> None:
    for verb in ("--version", "--help", "version", "run --help"):
        done = shell(f"{RLESS} {verb} > /dev/full")
        assert done.returncode == 125
        assert done.stderr == "rless: cannot write to standard output: No space left on device\n"


def test_a_closed_output_is_seen_and_not_reused() -> None:
    done = shell(f"{RLESS} --version >&-")
    assert done.returncode == 125
    assert done.stderr == "rless: cannot write to standard output: Bad file descriptor\n"


def test_closed_descriptors_do_not_matter_to_an_error() -> None:
    done = shell(f"{RLESS} nope <&- >&- 2>&-")
    assert done.returncode == 125


def test_a_broken_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = rless("--help", stdout=writer, stderr=subprocess.PIPE, capture_output=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


class BoomError(Exception):
    """An error that nobody expects."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    (
        (RlessError("a\nb", "do c", 127), 127, "rless: a\\nb; do c\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
        (FileNotFoundError(2, "No such file or directory", "/x"), 125,
         "rless: /x: No such file or directory\n"),
        (BoomError("why\x1b"), 125,
         "rless: internal error: BoomError: why\\x1b; run with --debug and report it\n"),
        (RecursionError("deep"), 125,
         "rless: internal error: RecursionError: deep; run with --debug and report it\n"),
    ),
)  # fmt: skip
def test_one_place_prints_errors(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(values: object, args: object) -> int:
        raise error

    monkeypatch.delenv("RLESS_DEBUG", raising=False)
    monkeypatch.setattr(cli, "load", loader(fail))
    assert cli.main(["ps"]) == code
    assert capfd.readouterr().err == line


def loader(action: object) -> object:
    from rootless.cli.parse import Verb

    return lambda verb: SimpleNamespace(VERB=Verb(verb, ""), main=action)


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(values: object, args: object) -> int:
        raise BoomError("why")

    monkeypatch.setenv("RLESS_DEBUG", "1")
    monkeypatch.setattr(cli, "load", loader(fail))
    from rootless import log

    monkeypatch.setattr(log, "enabled", False)
    assert cli.main(["ps"]) == 125
    error = capfd.readouterr().err
    assert "Traceback" in error
    assert error.endswith("rless: internal error: BoomError: why\n")


def test_each_goes_on_and_remembers(capfd: pytest.CaptureFixture[str]) -> None:
    done = []

    def action(name: str) -> None:
        if name == "bad":
            raise RlessError("no such container: bad", exit_code=1)
        done.append(name)

    assert streams.each(["a", "bad", "c"], action) == 1
    assert done == ["a", "c"]
    assert capfd.readouterr().err == "rless: no such container: bad\n"


FORBIDDEN = (
    "click re subprocess typing dataclasses enum functools collections shlex logging pathlib"
    " tempfile socket contextlib json argparse signal"
).split()


@pytest.mark.parametrize(
    "argv",
    (
        ["--version"],
        ["--help"],
        ["run", "--rm", "-it", "-e", "A=1", "-v", "/a:/b", "--mount", "type=tmpfs,dst=/t",
         "-p", "127.0.0.1:80:80", "--ulimit", "nofile=1", "--add-host", "a:::1", "-u", "1000",
         "--cap-add", "ALL", "--security-opt", "no-new-privileges", "--stop-signal", "TERM",
         "--device", "/dev/null", "--env-file", "/dev/null", "--shm-size", "1m", "image", "true"],
    ),
)  # fmt: skip
def test_the_hot_path_imports_little(argv: list[str]) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
before = set(sys.modules)
from rootless.cli.main import load, main
if sys.argv[1] == "run":
    from rootless.cli.parse import parse
    module = load("run")
    module.build(*parse(module.VERB, sys.argv[2:]))
else:
    main()
print(*sorted(set(sys.modules) - before), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code, *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = done.stderr.split()
    assert [name for name in loaded if name in FORBIDDEN] == []
    assert len(loaded) <= (25 if argv[0] == "run" else 16), loaded


def test_completion() -> None:
    env = {**os.environ, "_RLESS_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    done = rless(env={**env, "COMP_WORDS": "rless run --priv"})
    assert done.stdout == "plain,--privileged\n"
    done = rless(env={**env, "COMP_CWORD": "1", "COMP_WORDS": "rless im"})
    assert done.stdout == "plain,images\n"
