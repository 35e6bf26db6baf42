"""SIGKILL at any moment: the next command removes what is left.

The moments are random but seeded: RLESS_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.lib.images import Image, busybox_layer, layer
from tests.lib.product import Product, descendants

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

SEED = int(os.environ.get("RLESS_TEST_SEED", "20"))


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended, or is another user's in the container: the monitor's to kill


def wait_dead(pids: Iterable[int]) -> None:
    """Wait until killed processes have ended: the kernel takes its time on a busy machine."""
    deadline = time.monotonic() + 10
    for pid in pids:
        while time.monotonic() < deadline:
            try:
                with open(f"/proc/{pid}/stat", "rb") as stream:
                    if stream.read().rpartition(b")")[2].split()[0] in (b"Z", b"X"):
                        break
            except (FileNotFoundError, ProcessLookupError):
                break
            time.sleep(0.005)


def generations(process: subprocess.Popen[bytes], base: set[int]) -> list[list[int]]:
    """Return the command, its monitor (and other children), and what is below, as they are now."""
    found: list[list[int]] = [[process.pid], [], []]
    for pid in descendants() - base - {process.pid}:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stream:
                parent = int(stream.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        found[1 if parent in (process.pid, os.getpid()) else 2].append(pid)
    return found


def clear_and_check(rless: Product) -> None:
    """Run a command, then look; what still runs was detached in time, and is removed.

    What the killed ones had below them may end only after that command, which leaves it alone: then
    the next one has to clean up.
    """
    deadline = time.monotonic() + 30
    while True:
        for name in rless("ps", "-aq").expect().lines():
            done = rless("rm", "-f", name)
            assert done.code == 0 or "no such container" in done.err, done
        try:
            return rless.assert_clean(1)
        except AssertionError:
            if time.monotonic() > deadline:
                raise


@pytest.mark.parametrize("victims", ["command", "monitor", "below", "all"])
@pytest.mark.parametrize("flags", ["--rm", "-d --rm", "-d", "--rm -v vol:/data -i --network=pasta"])
def test_command_killed_at_a_random_moment_leaves_nothing(
    own_rless: Product, victims: str, flags: str
) -> None:
    rless = own_rless
    rless.run("", "true").expect()  # the image is there
    chance = random.Random(f"{SEED} {victims} {flags}")
    words = flags.replace("pasta", "private").split()
    if "--network" not in flags:
        words.append("--network=none")
    for _ in range(6):
        base = descendants()
        process = rless.start("run", *words, rless.image, "sh", "-c", "touch /srv/x; sleep 30")
        moment = chance.uniform(0, 0.12)
        time.sleep(moment)
        command, monitor, below = generations(process, base)
        chosen = {"command": command, "monitor": monitor, "below": below,
                  "all": [*command, *monitor, *below]}[victims]  # fmt: skip
        chance.shuffle(chosen)
        for pid in chosen:
            kill(pid)
        if victims == "below" or not chosen:
            time.sleep(0.05)
            kill(process.pid)
        if victims == "monitor" and chosen:
            assert process.wait(10) is not None  # it does not hang, it reports
        else:
            kill(process.pid)
            process.wait(10)
        clear_and_check(rless)


def test_command_killed_while_storing_leaves_nothing(own_rless: Product) -> None:
    rless = own_rless
    chance = random.Random(f"{SEED} store")
    for number in range(10):
        content = {f"f{n}": os.urandom(20_000) for n in range(100)}
        image = Image([busybox_layer(), layer({**content, "n": str(number)})], {"Cmd": ["true"]},
                      compression="none")  # fmt: skip
        reference = rless.add_image(f"killed-{number}", image)
        base = descendants()
        process = rless.start("run", "--rm", "-q", "--network=none", reference, "/bin/true")
        time.sleep(chance.uniform(0.02, 0.25))
        processes = [pid for group in generations(process, base) for pid in group]
        for pid in processes if number % 2 else [process.pid]:
            kill(pid)
        process.wait(10)
        clear_and_check(rless)
        # What was stored is whole, what was not is fetched again.
        rless.run("", "/bin/true", image=reference).expect()


def test_killed_command_ends_its_container(rless: Product) -> None:
    process = rless.start("run", "--rm", "--network=none", rless.image, "sh", "-c",
                          "echo ready; sleep 60")  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.wait(10)
    rless.assert_clean()  # the monitor does it, no other command is needed


def test_killed_detached_container_is_shown_as_exited(rless: Product) -> None:
    rless.detach("gone", "", "sleep", "60")
    pids = rless.processes()
    for pid in pids:
        kill(pid)
    wait_dead(pids)
    assert "Exited (137)" in rless("ps", "-a").expect().out
    assert rless("ps", "-q").expect().out == ""
    rless("rm", "gone").expect()


def test_concurrent_commands_can_reconcile(own_rless: Product) -> None:
    rless = own_rless
    rless.run("", "true").expect()
    base = descendants()
    for _ in range(3):
        victims = [
            rless.start("run", "--rm", "--network=none", rless.image, "sleep", "60")
            for _ in range(4)
        ]
        time.sleep(0.25)
        for pid in descendants() - base:
            kill(pid)
        for victim in victims:
            victim.wait(10)
        sweepers = [rless.start("ps", "-a") for _ in range(4)]
        assert [sweeper.wait(20) for sweeper in sweepers] == [0] * 4, [
            sweeper.stderr.read() for sweeper in sweepers if sweeper.stderr
        ]
        clear_and_check(rless)
