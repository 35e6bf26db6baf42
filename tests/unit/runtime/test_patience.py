"""A systemd that is there and says nothing is waited for once, with a warning."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.linux import dbus
from rootless.linux.cgroup import sockets
from rootless.runtime.cgroup import PendingCgroup, patience
from rootless.runtime.cgroup.base import CgroupRequest
from tests.lib.fakesystemd import FakeSystemd
from tests.lib.product import wait_for


@pytest.fixture
def mute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Make a bus that takes connections and answers none."""
    monkeypatch.setattr(dbus, "TIMEOUT", 0.3)
    monkeypatch.setattr(patience, "SHORT", 0.1)
    runtime = tmp_path / "runtime"
    (runtime / "systemd").mkdir(parents=True)
    runtime.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(runtime / "systemd/private"))
        server.listen(10)
        yield server


def ask() -> float:
    """Ask for a scope; return how long was to be waited for an answer."""
    pending = PendingCgroup()
    pending.begin("systemd")
    assert pending._connection is not None
    waited = pending._connection.patience
    pending.ask(CgroupRequest("scope", "systemd"), [os.getpid()])
    pending.close()
    return waited


@pytest.mark.usefixtures("mute")
def test_mute_systemd_is_waited_for_once(capfd: pytest.CaptureFixture[str]) -> None:
    assert ask() == dbus.TIMEOUT
    (line,) = capfd.readouterr().err.splitlines()
    assert "your systemd does not answer (waited for 0.3 s)" in line
    assert "a start waits for 0.1 s" in line
    assert [ask(), ask()] == [patience.SHORT] * 2
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("mute")
def test_answer_ends_the_short_patience() -> None:
    ask()
    connection = patience.reach(sockets())
    assert connection.patience == patience.SHORT
    patience.answered(connection)
    connection.close()
    assert ask() == dbus.TIMEOUT


def test_systemd_that_answers_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with FakeSystemd(tmp_path) as systemd:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(systemd.runtime_dir))
        assert ask() == dbus.TIMEOUT
        wait_for(lambda: systemd.calls, "the request")
    assert capfd.readouterr().err == ""
    assert not (systemd.runtime_dir / "rless/systemd-is-mute").exists()
