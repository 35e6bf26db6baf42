"""The process that is forked before anything is known of the container: it leaves no trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lib.product import Product, rless, shared_product

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

ROOT = Path(__file__).resolve().parents[2]
# Fork a child, with a network or not, do something to it, and say how it went.
DRIVER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from rootless.engine import userns
from rootless.engine.child import Child
from rootless.engine.request import RunRequest
from rootless.errors import RlessError
from rootless.runtime import sync
request = RunRequest()
request.image, request.network = "none", sys.argv[2] or None
child = Child(request, [])
mapping = userns.choose("auto", (0, 0), userns.Subordinate())
def pids():
    child.begin_maps(mapping)
    with open(f"/proc/{child.pid}/task/{child.pid}/children") as file:
        print(child.pid, file.read(), flush=True)
"""


def drive(network: str, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DRIVER + code, str(ROOT), network],
        capture_output=True,
        text=True,
        timeout=60,
    )


def await_end(pids: Iterable[int]) -> None:
    """Wait until processes have ended; whoever adopts them may leave them as zombies."""
    deadline = time.monotonic() + 20
    for pid in pids:
        while os.path.exists(f"/proc/{pid}"):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state in "ZX":
                break
            assert time.monotonic() < deadline, pid
            time.sleep(0.01)


@pytest.mark.parametrize(
    "network", ("none", pytest.param("", marks=pytest.mark.needs("pasta", "tun")))
)
@pytest.mark.parametrize(
    "last_words",
    (
        "pids(); os.kill(os.getpid(), 9)",
        "pids(); child._newborn.release(); os.kill(os.getpid(), 9)",
        "pids(); child._newborn.release()\n"
        "os.write(child.wires.plan, bytes([9] + [0] * 7) + b'cut'); os.kill(os.getpid(), 9)",
    ),
    ids=("before the maps", "before the plan", "within the plan"),
)
def test_it_ends_with_a_command_that_is_killed(network: str, last_words: str) -> None:
    done = drive(network, last_words)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == (1 if network else 2)
    await_end(pids)


def test_it_is_waited_for_when_it_is_given_up() -> None:
    done = drive("", "pids(); child.abandon(); child.abandon()\nos.waitpid(-1, 0)")
    assert "ChildProcessError" in done.stderr  # there is no child any more
    await_end(int(word) for word in done.stdout.split())


def test_it_ends_when_the_maps_of_one_id_let_it_go_on_at_once() -> None:
    """It waits for its plan then, not for the maps."""
    code = "mapping = userns.build_single(0, 0)\npids(); child.abandon()\nos.waitpid(-1, 0)"
    done = drive("none", code)
    assert "ChildProcessError" in done.stderr
    await_end(int(word) for word in done.stdout.split())


def test_what_goes_wrong_in_it_is_told() -> None:
    done = drive("none", "pids(); child.release({})\nprint(sync.receive(child.wires.result))")
    assert "internal error: KeyError: 'spec'" in done.stdout, done


@pytest.mark.needs("pasta", "tun")
def test_a_command_that_fails_leaves_no_network(rless: Product) -> None:
    rless("create", "--name", "taken", rless.image).expect()
    try:
        flags = ("-p", "127.0.0.1:18931:80/tcp")
        failed = rless("run", *flags, "--name", "taken", rless.image, "true").expect(125)
        assert "already in use" in failed.err
    finally:
        rless("rm", "taken").expect()
    rless.assert_clean()
