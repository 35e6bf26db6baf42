"""The terminal: its master goes to --console-socket, its size is the config's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lib.bundle import Bundle
from tests.runtime.test_terminal import Listener, listener, read_all

__all__ = ["listener"]
pytestmark = pytest.mark.needs("compiler", "user namespaces", "subordinate ids")


@pytest.fixture
def live(bundle: Bundle) -> Iterator[Bundle]:
    """Give a bundle whose runtime's calls share one user namespace."""
    with bundle.session():
        bundle.process["terminal"] = True
        yield bundle


def test_application_gets_the_terminal(live: Bundle, listener: Listener) -> None:
    live.process["consoleSize"] = {"height": 33, "width": 99}
    live.create("tty", ",", "stat", "/dev/console", options=["--console-socket", listener.path])
    master = listener.receive()
    live.call("start", live.id).expect()
    said = read_all(master)
    assert "isatty 1 1 1" in said
    assert "controlling ok" in said
    assert "winsize 33 99" in said
    assert "stat /dev/console char" in said


@pytest.mark.parametrize("verb", ["create", "exec"])
def test_terminal_has_the_group_of_devpts(live: Bundle, listener: Listener, verb: str) -> None:
    """A user may write to the terminals of others only by programs of the group tty."""
    (pts,) = (one for one in live.spec["mounts"] if one["destination"] == "/dev/pts")
    pts["options"].append("gid=5")
    user = {"uid": 1000, "gid": 100}
    if verb == "create":
        live.process["user"] = user
        live.create("stat", "/dev/pts/0", options=["--console-socket", listener.path])
        live.call("start", live.id).expect()
    else:
        live.process["terminal"] = False
        live.create("sleep", "60")
        live.call("start", live.id).expect()
        words = ["-t", "-u", "1000:100", "--console-socket", listener.path]
        live.call("exec", "-d", *words, live.id, "/probe", "stat", "/dev/pts/0").expect()
    *_, group, _, _, _ = read_all(listener.receive()).split()
    assert group == "5"  # the owner is the user, but crun 1.8 has that for `create` only


def test_exec_gets_a_terminal(live: Bundle, listener: Listener) -> None:
    live.process["terminal"] = False
    live.create("sleep", "60")
    live.call("start", live.id).expect()
    words = ["exec", "-d", "-t", "--console-socket", listener.path, live.id, "/probe", "tty"]
    live.call(*words).expect()
    assert "isatty 1 1 1" in read_all(listener.receive())


def test_create_needs_a_socket(live: Bundle) -> None:
    live.write("id")
    assert live.call("create", "-b", str(live.path), live.id).code != 0


def test_unreachable_socket_is_an_error(live: Bundle) -> None:
    live.write("id")
    words = ["create", "--console-socket", "/no/such/socket", "-b", str(live.path), live.id]
    assert live.call(*words).code != 0
    assert live.call("state", live.id).code != 0
