"""The command as a process: exit codes, the one error line, broken outputs, imports."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rootless import __version__
from rootless.cli import complete, parse, streams, verb_table
from rootless.cli import main as cli
from rootless.cli.options import RUN
from rootless.errors import RlessError
from rootless.linux import filesystem

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


def test_version_is_printed() -> None:
    for flag in ("--version", "-v"):
        done = rless(flag)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"rless {__version__}\n", "")


def test_help_names_every_verb() -> None:
    done = rless("--help")
    assert done.returncode == 0
    assert rless().stdout == done.stdout
    for verbs in verb_table.VERBS.values():
        for verb in verbs:
            assert f"\n  {verb} " in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    (
        (["nope"], "rless: no such verb: nope; see 'rless --help'\n"),
        (
            ["compose", "up"],
            "rless: the verb compose is not supported: not built yet; use `rless network create`, "
            "and `rless run --network` for each service\n",
        ),
        (["buidl"], "rless: no such verb: buidl (did you mean build?); see 'rless --help'\n"),
        (["comit"], "rless: no such verb: comit (did you mean commit?); see 'rless --help'\n"),
        (["rnu"], "rless: no such verb: rnu (did you mean run?); see 'rless --help'\n"),
        (["strat"], "rless: no such verb: strat (did you mean start?); see 'rless --help'\n"),
        (["--nope"], "rless: unknown flag: --nope; see 'rless --help'\n"),
        (["--storage"], "rless: flag needs a value: --storage; see 'rless --help'\n"),
        (
            ["volume", "prnue"],
            "rless: no such verb: volume prnue (did you mean prune?); 'rless volume' takes "
            f"{', '.join(verb_table.ALIASES['volume'])}\n",
        ),
        (["run", "--foo"], "rless: unknown flag: --foo; see 'rless run --help'\n"),
        (["ps", "x"], "rless: 'rless ps' takes no argument; see 'rless ps --help'\n"),
        (["stop"], "rless: 'rless stop' needs at least an argument; see 'rless stop --help'\n"),
    ),
)
def test_errors_are_one_line(argv: list[str], message: str) -> None:
    done = rless(*argv)
    assert (done.returncode, done.stdout, done.stderr) == (125, "", message)


def test_help_of_run_has_examples_and_names_what_repeats() -> None:
    text = rless("run", "--help").stdout
    for what, line in RUN.examples:
        assert f"\n  # {what}\n  {line}\n" in text
    shown = "".join(text.split())  # without the line breaks
    for row in (row for _, rows in RUN.groups for row in rows):
        told = "".join(f"{row[5]} (repeatable)".split())
        assert (told in shown) == (row[2] in ("list", "map")), row[0]


def test_errors_escape_what_was_typed() -> None:
    done = rless("run", "--\x1b[2J\n", "x")
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("words", ["service ls", "service create", "node ls", "stack deploy"])
def test_verbs_of_swarm_are_refused_by_name(words: str) -> None:
    with pytest.raises(RlessError, match="it is one of swarm, and rless has no cluster"):
        verb_table.find(words.split())
    assert verb_table.find(["service", "./ls"]) == ("service", ["./ls"])


def test_aliases_work() -> None:
    assert verb_table.find(["container", "ls", "-a"]) == ("ps", ["-a"])
    assert verb_table.find(["container", "run", "x"]) == ("run", ["x"])
    assert verb_table.find(["image", "rm", "x"]) == ("rmi", ["x"])
    assert verb_table.find(["volume", "ls"]) == ("volume ls", [])
    assert verb_table.find(["system", "info"]) == ("info", [])


@pytest.mark.parametrize("group", verb_table.ALIASES)
def test_group_has_help(group: str) -> None:
    text = rless(group).stdout
    assert rless(group, "--help").stdout == rless("help", group).stdout == text
    assert text.startswith(f"Usage: rless {group} VERB ...\n")
    for name in verb_table.ALIASES[group]:
        assert f"\n  {name} " in text


def test_verb_has_help() -> None:
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


def test_full_disk_is_reported() -> None:
    for verb in ("--version", "--help", "version", "run --help"):
        done = shell(f"{RLESS} {verb} > /dev/full")
        assert done.returncode == 125
        assert done.stderr == "rless: cannot write to standard output: No space left on device\n"


def test_closed_output_is_reported_and_not_reused() -> None:
    done = shell(f"{RLESS} --version >&-")
    assert done.returncode == 125
    assert done.stderr == "rless: cannot write to standard output: Bad file descriptor\n"


def test_removed_working_directory_is_named(tmp_path: Path) -> None:
    for words in ("run host: true", "--storage=here ps", "pull oci:here"):
        (tmp_path / "gone").mkdir()
        done = shell(f"cd {tmp_path}/gone && rmdir ../gone && {RLESS} {words}")
        assert done.returncode in (1, 125)
        assert done.stderr == (
            "rless: getcwd: the working directory was removed: No such file or directory; "
            "go to another one\n"
        )
    (tmp_path / "gone").mkdir()
    code = "from rootless.runtime.commands.main import main; raise SystemExit(main())"
    oci = f"PYTHONPATH={ROOT} {sys.executable} -c '{code}'"
    done = shell(f"cd {tmp_path}/gone && rmdir ../gone && {oci} create x")
    assert done.returncode == 125
    assert "getcwd: the working directory was removed" in done.stderr


def test_errors_work_with_closed_descriptors() -> None:
    done = shell(f"{RLESS} nope <&- >&- 2>&-")
    assert done.returncode == 125


def test_broken_pipe_is_quiet() -> None:
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
        (ModuleNotFoundError("no", name="rootless.x"), 125,
         "rless: internal error: ModuleNotFoundError: no; run with --debug and report it\n"),
        (BoomError("why\x1b"), 125,
         "rless: internal error: BoomError: why\\x1b; run with --debug and report it\n"),
        (RecursionError("deep"), 125,
         "rless: internal error: RecursionError: deep; run with --debug and report it\n"),
    ),
)  # fmt: skip
def test_errors_are_printed_in_one_place(
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


@pytest.mark.parametrize(
    ("system", "remedy"),
    [("NFS", "; set RLESS_STORAGE to a local directory: NFS refuses foreign owners"), ("", "")],
)
def test_server_that_refuses_a_file_of_the_storage_is_named(
    system: str,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As NFS with root_squash: the error is Python's own."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("RLESS_STORAGE", str(tmp_path))
    monkeypatch.setattr(filesystem, "name_of", lambda path: system)
    path = f"{tmp_path}/tmp/1-2"
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    assert streams.report(refused, debug=False) == 125
    assert capfd.readouterr().err == f"rless: {path}: Permission denied{remedy}\n"


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


def test_failures_do_not_stop_the_other_arguments(capfd: pytest.CaptureFixture[str]) -> None:
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
def test_hot_path_imports_little(argv: list[str]) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
before = set(sys.modules)
from rootless.cli.main import main
from rootless.cli.verb_table import load
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
    loaded = [name for name in loaded if name not in ("gc", "rootless.launch")]  # by the launcher
    assert len(loaded) <= (31 if argv[0] == "run" else 17), loaded


def completed(line: str, shell: str = "bash", **environment: str) -> list[str]:
    """Return what is offered for the last word of a line."""
    words = line.split(" ")
    env = {"_RLESS_COMPLETE": f"{shell}_complete", "COMP_CWORD": str(len(words) - 1)}
    if shell == "fish":
        env["COMP_CWORD"] = words[-1]
    if shell == "bash":
        env["COMP_LINE"], env["COMP_WORD"] = line, re.split("[:=]", words[-1])[-1]
    done = rless(env={**os.environ, **environment, **env, "COMP_WORDS": line})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1] if done.stdout != "\n" else []


def test_verbs_and_flags_are_completed() -> None:
    assert completed("rless run --priv") == ["plain,--privileged"]
    assert completed("rless im") == ["plain,images", "plain,import", "plain,image"]
    assert completed("rless volume ") == [f"plain,{name}" for name in verb_table.ALIASES["volume"]]
    assert completed("rless container ls --no-t") == ["plain,--no-trunc"]
    assert completed("rless completion ") == ["plain,bash", "plain,zsh", "plain,fish"]
    every = completed("rless ")
    assert "plain,system" in every
    assert not [word for word in every if " " in word]
    assert "plain,ps\tList containers" in completed("rless p", "fish")


def test_names_are_completed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    names = tmp_path / "names"
    names.mkdir(mode=0o700)
    for name in ("web", "worker", "db"):
        (names / name).symlink_to("0" * 64)
    storage = {"RLESS_STORAGE": str(tmp_path)}
    assert completed("rless stop w", **storage) == ["plain,web", "plain,worker"]
    assert completed("rless stop web d", **storage) == ["plain,db"]
    assert completed("rless container rm -f d", **storage) == ["plain,db"]
    assert completed("rless rename web ", **storage) == []
    assert completed("rless stop x", **storage) == []
    assert completed("rless logs x", RLESS_STORAGE="/proc/1") == []


def test_values_of_flags_are_completed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "names").mkdir(mode=0o700)
    for name in ("web", "db"):
        (tmp_path / "names" / name).symlink_to("0" * 64)
    storage = {"RLESS_STORAGE": str(tmp_path)}
    offered = completed("rless run --network ", **storage)
    assert {"plain,none", "plain,host", "plain,container:web"} <= set(offered)
    assert "plain,bridge" in offered
    assert completed("rless run --network container:w", **storage) == ["plain,web"]
    assert completed("rless run --network=n", **storage) == ["plain,none"]
    assert completed("rless run --restart=on", **storage) == ["plain,on-failure"]
    assert completed("rless update --restart un", **storage) == ["plain,unless-stopped"]
    assert completed("rless run --pull a", **storage) == ["plain,always"]
    assert completed("rless run --cap-add NET_A", **storage) == ["plain,NET_ADMIN"]
    assert completed("rless run --cap-drop=AL", **storage) == ["plain,ALL"]
    assert completed("rless run --pull=a", "fish", **storage) == ["plain,--pull=always"]


def test_nothing_of_ours_is_offered_to_the_command_of_a_container() -> None:
    for line in (
        *("run alpine ls --", "run alpine ls --pull ", "run alpine ls --pull="),
        *("exec web --", "create alpine -"),
    ):
        assert completed(f"rless {line}")[0].startswith("file,"), line
        assert len(completed(f"rless {line}")) == 1


def test_completed_values_are_accepted() -> None:
    seen = set()
    for verbs in verb_table.VERBS.values():
        for name in verbs:
            for row in (row for _, rows in verb_table.load(name).VERB.groups for row in rows):
                flag = row[0].split()[0]
                if row[2] == "flag" or "|" in row[1]:
                    continue  # its metavar names the values
                if words := complete.values(flag):
                    seen.add(flag)
                    for word in words:
                        parse.convert(row, flag, word)
    assert set(complete._VALUES) | {"--cap-add", "--cap-drop"} == seen


def test_completion_does_not_load_every_verb() -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
os.environ.update(_RLESS_COMPLETE="bash_complete", COMP_LINE="rless ", COMP_WORD="")
from rootless.cli.main import main
main()
verbs = ("rootless.cli.verbs.container.run", "rootless.cli.verbs.container.ps")
print([name for name in sys.modules if name in verbs])
"""
    done = subprocess.run([sys.executable, "-I", "-B", "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("shell", ("bash", "zsh", "fish"))
def test_completion_scripts_are_printed(shell: str) -> None:
    done = rless("completion", shell)
    assert done.returncode == 0
    assert f"_RLESS_COMPLETE={shell}_complete" in done.stdout
    if program := shutil.which(shell):
        assert subprocess.run([program, "-n"], input=done.stdout, text=True).returncode == 0


def test_completion_for_an_unknown_shell_is_refused() -> None:
    done = rless("completion", "tcsh")
    assert done.returncode == 125
    assert done.stderr.startswith("rless: 'tcsh' is not one of bash, zsh, fish; ")
