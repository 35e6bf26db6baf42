"""Completion as it is typed: a real bash on a terminal, with the script that rless prints."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.product import Product, rless, shared_product

__all__ = ["rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")
IMAGE = "localhost:5000/tool:one"
SHOW = b"\x01echo '[\x05]'\n"  # C-a, C-e: print the line, in place of running it


class Bash:
    """An interactive bash with completion."""

    def __init__(self, rless: Product, directory: Path) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 1000, 0, 0))
        script = directory / "completion"
        script.write_text(rless("completion", "bash").expect().out)
        path = f"{Path(rless.argv()[0]).parent}:{rless.env['PATH']}"
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**rless.env, "PATH": path},
            start_new_session=True,
        )
        os.close(slave)
        os.write(self.master, f". {script}\n".encode())

    def complete(self, typed: str) -> str:
        """Return what the line is after the tab key."""
        os.write(self.master, typed.encode() + b"\t" + SHOW)
        seen, deadline = "", time.monotonic() + 60
        while not (found := re.search(r"^\[(.*)\]\r*$", seen, re.M)):
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, seen
            seen += os.read(self.master, 65536).decode()
        return found[1]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def bash(rless: Product, tmp_path: Path) -> Iterator[Bash]:
    rless("tag", rless.image, IMAGE).expect()
    rless("create", "--name", "web", rless.image).expect()
    shell = Bash(rless, tmp_path)
    yield shell
    shell.close()
    rless("rm", "web").expect()
    rless("rmi", IMAGE).expect()


def test_bash_completes_what_is_typed(bash: Bash) -> None:
    for typed, rest in (
        ("rless image inspect localhost:5000/to", "ol:one "),
        ("rless image inspect localhost:5000/tool:", "one "),
        ("rless run --network container:", "web "),
        ("rless run --network=container:w", "eb "),
        ("rless run --network ho", "st "),
        ("rless run --network=ho", "st "),
        ("rless run --restart=unl", "ess-stopped "),
        ("rless run --pull al", "ways "),
        ("rless run --cap-add SYS_PTR", "ACE "),
        ("rless run --privil", "eged "),
        (f"rless run {IMAGE} true --privil", ""),
        (f"rless run {IMAGE} true --network=ho", ""),
    ):
        assert bash.complete(typed) == typed + rest
