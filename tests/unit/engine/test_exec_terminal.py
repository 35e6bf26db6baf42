"""The terminal of a process whose `exec` was detached."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from rootless.engine.exec import exec as exec_


def test_terminal_keeper_survives_the_end_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command may lead the session: the kernel hangs up with it, whoever has not left yet."""
    seen: list[Any] = []

    def fork() -> int:
        seen.append(signal.getsignal(signal.SIGHUP))
        return 1

    monkeypatch.setattr(os, "fork", fork)
    before = signal.getsignal(signal.SIGHUP)
    try:
        exec_.hold_terminal(0, 0)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [signal.SIG_IGN]
