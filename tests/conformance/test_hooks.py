"""The six hooks: their order, their input, and what one that fails does (runtime.md, Lifecycle)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle

pytestmark = pytest.mark.needs("compiler", "user namespaces", "subordinate ids")

KINDS = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")


@pytest.fixture
def live(bundle: Bundle) -> Iterator[Bundle]:
    """Give a bundle whose runtime's calls share one user namespace."""
    with bundle.session():
        yield bundle


def note(kind: str, log: Path) -> dict[str, object]:
    """Return a hook that notes its name and its standard input."""
    return {"path": "/bin/sh", "args": ["sh", "-c", f"(echo {kind}; cat; echo) >> {log}"]}


def notes(log: Path) -> list[tuple[str, dict[str, object]]]:
    """Return what the hooks have noted."""
    lines = [line for line in log.read_text().splitlines() if line] if log.exists() else []
    return [(name, json.loads(state)) for name, state in zip(lines[::2], lines[1::2], strict=True)]


def test_hooks_run_in_order_with_the_state(live: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    live.spec["annotations"] = {"a": "b"}
    live.spec["hooks"] = {kind: [note(kind, log)] for kind in KINDS}
    live.spec["hooks"]["startContainer"] = [
        {"path": "/probe", "args": ["probe", "write", "/started", "x"]}
    ]
    live.create("stat", "/started", ",", "sleep", "60")
    early = [name for name, _ in notes(log) if name != "poststart"]  # runc calls it too early
    assert early == ["prestart", "createRuntime", "createContainer"]
    assert not (live.rootfs / "started").exists()
    live.call("start", live.id).expect()
    assert "stat /started file" in live.wait_output("stat")
    assert notes(log)[3:][0][0] == "poststart"
    live.call("kill", live.id, "KILL").expect()
    live.wait_status("stopped")
    live.call("delete", live.id).expect()
    found = notes(log)
    assert [name for name, _ in found] == list(KINDS)
    for name, state in found:
        assert state["id"] == live.id
        assert state["bundle"] == str(live.path)
        assert state["annotations"] == {"a": "b"}
        if name in ("prestart", "createRuntime", "poststart"):
            assert isinstance(state["pid"], int) and state["pid"] > 0


def test_several_hooks_of_a_kind_run_in_order(live: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    live.spec["hooks"] = {"prestart": [note("a", log), note("b", log), note("c", log)]}
    live.run("id").expect()
    assert [name for name, _ in notes(log)] == ["a", "b", "c"]


def test_hooks_get_arguments_and_environment(live: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    # crun wants its hooks to read the state: it has no pipe without a reader.
    text = f'while read -r line; do :; done; echo "$0 $1 $A ${{PATH:-none}}" > {log}'
    live.spec["hooks"] = {
        "prestart": [
            {
                "path": "/bin/sh",
                "args": ["sh", "-c", text, "zero", "one"],
                "env": ["A=x", "PATH=/y"],
            }
        ]
    }
    live.run("id").expect()
    assert log.read_text() == "zero one x /y\n"


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
@pytest.mark.parametrize("hook", ["/bin/false", "/no/such/program"])
def test_failed_create_hook_prevents_the_container(
    live: Bundle, kind: str, hook: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    live.spec["hooks"] = {kind: [{"path": hook}, note("never", log)]}
    live.fails("id")
    assert not log.exists()
    assert live.call("state", live.id).code != 0


def test_slow_hook_is_killed(live: Bundle) -> None:
    live.spec["hooks"] = {
        "prestart": [{"path": "/bin/sleep", "args": ["sleep", "30"], "timeout": 1}]
    }
    live.fails("id")


def test_failed_poststop_hook_changes_nothing(live: Bundle) -> None:
    live.spec["hooks"] = {"poststop": [{"path": "/bin/false"}]}
    assert live.run("exit", "3").code == 3


def test_create_container_hook_sees_mounts_before_pivot_root(live: Bundle, tmp_path: Path) -> None:
    """createContainer is in the container's mount namespace, with the host's root."""
    log = tmp_path / "log"
    text = f"readlink /proc/self/ns/mnt > {log}; readlink /proc/self/ns/net >> {log}"
    live.spec["hooks"] = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", text]}]}
    facts = live.facts("ns")
    assert log.read_text().split() == [facts["mnt"], facts["net"]]
