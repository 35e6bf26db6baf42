"""The monitor config: one table for Python and C, strictly checked by both."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rootless.engine.monitor import execute
from rootless.errors import RlessError
from tests.lib.compiled import ROOT, static_program
from tests.lib.held import monitor_config

KEEPER: dict[str, Any] = {
    "child": 0,
    "init_fd": -1,
    "pty_fd": -1,
    "client_fd": -1,
    "result_fd": -1,
    "directory": "",
    "id": "c" * 64,
    "name": "held",
    "attributes": "",
    "exec": "",
    "events": "/dev/null",
}


@pytest.fixture
def config() -> Iterator[dict[str, Any]]:
    """Return a whole config of a container whose end is recorded already."""
    yield {**monitor_config("/nowhere"), "remove": True}


def memfd(text: bytes) -> int:
    fd = os.memfd_create("config")
    os.write(fd, text)
    return fd


def text_of(config: dict[str, Any]) -> bytes:
    fd = execute.encode(config)  # type: ignore[arg-type]
    try:
        return os.pread(fd, 1 << 16, 0)
    finally:
        os.close(fd)


def run(text: bytes, *fds: int) -> int:
    """Return how the program ends with this config; it inherits the descriptors."""
    fd = memfd(text)
    try:
        program = static_program("helpers/monitor")
        return subprocess.run([program, str(fd)], pass_fds=[fd, *fds], timeout=20).returncode
    finally:
        os.close(fd)


def test_header_is_current() -> None:
    script = ROOT / "scripts/monitor-config"
    made = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, check=True).stdout
    current = (ROOT / "helpers/monitor/config.h").read_bytes()
    assert made == current, "run scripts/monitor-config > helpers/monitor/config.h"


def test_python_reads_its_own_config(config: dict[str, Any]) -> None:
    config |= {"python": ["/usr/bin/python3", "-I"], "helper_pids": [12, 13], "error": '"\udcff"'}
    fd = memfd(text_of(config))
    assert execute.decode(fd) == config
    os.close(fd)


@pytest.mark.parametrize("key", ["error", "init", "begun"])
def test_python_refuses_a_missing_key(config: dict[str, Any], key: str) -> None:
    del config[key]
    fd = memfd(text_of(config))
    with pytest.raises(RlessError, match=f"lacks {key}"):
        execute.decode(fd)
    os.close(fd)


def test_python_refuses_an_unknown_key(config: dict[str, Any]) -> None:
    fd = memfd(text_of({**config, "surplus": 1}))
    with pytest.raises(RlessError, match="unknown key: surplus"):
        execute.decode(fd)
    os.close(fd)


def test_descriptors_stay_open_over_execve(config: dict[str, Any]) -> None:
    reader, writer = os.pipe()
    config |= {"stdout_fd": reader, "connection_fds": [writer], "pasta": reader}
    os.close(execute.encode(config))  # type: ignore[arg-type]
    assert os.get_inheritable(reader)
    assert os.get_inheritable(writer)
    os.close(reader)
    os.close(writer)


def test_program_takes_a_whole_config(config: dict[str, Any]) -> None:
    assert run(text_of({**config, "code": 5})) == 5
    null = os.open("/dev/null", os.O_RDONLY)  # can be read, like a pidfd after the end
    assert run(text_of({**KEEPER, "init_fd": null}), null) == 0
    os.close(null)


def test_program_refuses_a_missing_key(config: dict[str, Any]) -> None:
    for key, value in config.items():
        if not isinstance(value, list):
            less = {name: value for name, value in config.items() if name != key}
            assert run(text_of(less)) == 70, key
    for key in KEEPER:
        less = {name: value for name, value in KEEPER.items() if name != key}
        assert run(text_of(less)) == 70, key


def test_program_refuses_malformed_config(config: dict[str, Any]) -> None:
    whole = text_of(config)
    for more in (
        b"unknown\x001\0",
        b"code\x001\0",  # twice
        b"child\x001\0",  # a keeper's
        b"python",
        b"python\0",
        b"python\0word",
        65 * b"python\0word\0",
    ):
        assert run(whole + more) == 70, more
    assert run(whole + 64 * b"python\0word\0") == 0
    for value in ("", "x", "5x"):
        assert run(text_of({**config, "code": value})) == 70, value
    assert run(b"") == 70
