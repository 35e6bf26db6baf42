"""Lines for --debug, and warnings."""

from __future__ import annotations

import os
import re

import pytest

from rootless import log


def test_debug_is_off_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    log.debug("x")
    assert capfd.readouterr().err == ""


def test_debug_lines_have_the_elapsed_time(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "enabled", True)
    log.debug("a\nb")
    line = capfd.readouterr().err
    found = re.fullmatch(rf"rless\[{os.getpid()}\] +([0-9.]+) ms  a\\nb\n", line)
    assert found
    assert float(found[1]) > 0


def test_warnings_are_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    log.warn("a\x1b[2J\udcff")
    assert capfd.readouterr().err == "rless: warning: a\\x1b[2J\\udcff\n"


def test_closed_standard_error_is_tolerated() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os.close(2)
            log.warn("x")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
