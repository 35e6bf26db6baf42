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
