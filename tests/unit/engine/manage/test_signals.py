"""What is said of a pasta that takes no signal of ours."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest

from rootless.engine.manage import signals
from rootless.errors import SyscallError
from rootless.linux.procfs import start_time


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EACCES, True), (errno.EPERM, True), (0, False)]
)
def test_pasta_that_cannot_be_ended_is_told(
    number: int,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As AppArmor answers where pasta's own profile takes signals of others only."""

    def deny(process: object, signal: int) -> None:
        if number:
            raise SyscallError("pidfd_send_signal", number)

    monkeypatch.setattr(signals, "signal_process", deny)
    me = [os.getpid(), start_time(os.getpid())]
    running = SimpleNamespace(pasta=me, container=SimpleNamespace(facts={"name": "web"}))
    signals._tell_of_pasta(running)  # type: ignore[arg-type]
    told = capfd.readouterr().err
    assert (f"pasta of container web goes on and keeps its ports: process {me[0]}" in told) == said


def test_pasta_that_has_ended_is_not_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "signal_process", lambda *given: pytest.fail("signalled"))
    signals._tell_of_pasta(SimpleNamespace(pasta=None))  # type: ignore[arg-type]
    signals._tell_of_pasta(SimpleNamespace(pasta=[os.getpid(), 1]))  # type: ignore[arg-type]
