"""Small verbs: their calls of the engine and their output."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from rootless.cli.main import main
from rootless.errors import RlessError

Calls = list[tuple[object, ...]]
MANY = object()  # the result of a verb that takes many containers: one for each of them


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Put a recorder in place of the engine."""
    made: Calls = []

    def recorder(name: str, result: object = None) -> object:
        def call(*args: object) -> object:
            made.append((name, *args))
            if args and args[0] == "gone":
                raise RlessError("no such thing: gone", exit_code=1)
            return result

        return call

    def outcomes(name: str) -> object:
        """Return a verb that takes many containers."""

        def call(names: list[str], *args: object) -> list[tuple[object, RlessError | None]]:
            made.append((name, names, *args))
            error = RlessError("no such container: gone", exit_code=1)
            return [(7 if name == "wait" else n, error if n == "gone" else None) for n in names]

        return call

    image = SimpleNamespace(id="sha256:0", name="docker.io/library/x:latest", digest="sha256:1")
    modules: dict[str, dict[str, object]] = {
        "rootless.engine.manage.stop": dict.fromkeys(("stop", "kill", "restart"), MANY),
        "rootless.engine.manage.remove": {"remove": MANY},
        "rootless.engine.manage.wait": {"wait": MANY},
        "rootless.engine.manage.update": {"update": MANY},
        "rootless.engine.images.images": {"pull": image, "remove": ["Untagged: x"]},
        "rootless.engine.idmap_policy": {"unshare": 3},
        "rootless.engine.start.run": {"run": 42},
        "rootless.host.doctor": {"main": 0},
    }
    for path, functions in modules.items():
        module = ModuleType(path)
        for name, result in functions.items():
            setattr(module, name, outcomes(name) if result is MANY else recorder(name, result))
        package, _, leaf = path.rpartition(".")
        __import__(package)
        monkeypatch.setitem(sys.modules, path, module)
        monkeypatch.setattr(sys.modules[package], leaf, module, raising=False)
    return made


@pytest.mark.parametrize(
    ("argv", "asked", "code", "printed"),
    (
        (["stop", "a", "b", "-t", "3"], [("stop", ["a", "b"], 3, None)], 0, "a\nb\n"),
        (["stop", "a", "-s", "int"], [("stop", ["a"], None, "SIGINT")], 0, "a\n"),
        (["stop", "gone", "b"], [("stop", ["gone", "b"], None, None)], 1, "b\n"),
        (["restart", "-t", "1", "a"], [("restart", ["a"], 1, None)], 0, "a\n"),
        (["kill", "a"], [("kill", ["a"], "SIGKILL")], 0, "a\n"),
        (["kill", "-s", "hup", "a"], [("kill", ["a"], "SIGHUP")], 0, "a\n"),
        (["rm", "a", "-f"], [("remove", ["a"], True, False)], 0, "a\n"),
        (["rm", "-f", "gone", "a"], [("remove", ["gone", "a"], True, False)], 0, "a\n"),
        (["rm", "gone", "a"], [("remove", ["gone", "a"], False, False)], 1, "a\n"),
        (["container", "rm", "-v", "a"], [("remove", ["a"], False, True)], 0, "a\n"),
        (["update", "--restart", "on-failure:2", "a"],
         [("update", ["a"], {"restart": {"name": "on-failure", "max": 2}})], 0, "a\n"),
        (["wait", "a", "gone", "b"], [("wait", ["a", "gone", "b"], "not-running")], 1, "7\n7\n"),
        (["pull", "-q", "x"], [("pull", "x", None, True, None)], 0, "docker.io/library/x:latest\n"),
        (["pull", "--platform", "linux/arm64", "x"], [("pull", "x", "linux/arm64", False, None)], 0,
         "docker.io/library/x:latest\n"),
        (["image", "rm", "-f", "x"], [("remove", "x", True)], 0, "Untagged: x\n"),
        (["doctor", "--json"], [("main", True)], 0, ""),
        (["unshare", "ls", "-l"], [("unshare", ["ls", "-l"])], 3, ""),
        (["stop", "a\x1b[2J"], [("stop", ["a\x1b[2J"], None, None)], 0, "a\\x1b[2J\n"),
    ),
)  # fmt: skip
def test_verb_calls_the_engine(
    argv: list[str],
    asked: Calls,
    code: int,
    printed: str,
    calls: Calls,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(argv) == code
    assert calls == asked
    assert capfd.readouterr().out == printed


def test_run_passes_a_request_and_returns_its_status(calls: Calls) -> None:
    assert main(["run", "--rm", "busybox", "true"]) == 42
    ((name, request, make_room),) = calls
    assert (name, make_room) == ("run", None)
    assert (request.image, request.command, request.rm) == ("busybox", ("true",), True)  # type: ignore[attr-defined]


def test_terminal_is_required_for_tty(
    calls: Calls, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.isatty", lambda fd: False)
    assert main(["run", "-it", "busybox"]) == 125
    assert capfd.readouterr().err == "rless: standard input is not a terminal; leave -t out\n"
    assert main(["run", "-t", "busybox"]) == 42
    assert main(["run", "-dit", "busybox"]) == 42


def test_unshare_defaults_to_the_shell(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/zsh")
    main(["unshare"])
    monkeypatch.delenv("SHELL")
    main(["unshare"])
    assert calls == [("unshare", ["/bin/zsh"]), ("unshare", ["/bin/sh"])]
