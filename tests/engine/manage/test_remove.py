"""`rm`: complete removal, also of many containers and against concurrent commands."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.lib.life import init_of, obedient, row
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def test_removed_container_leaves_nothing(rless: Product) -> None:
    obedient(rless, "gone")
    rless("stop", "gone").expect()
    assert rless("rm", "gone").expect().out == "gone\n"
    rless.assert_clean(0)


def test_forced_removal_kills_all_before_waiting(rless: Product) -> None:
    names = [f"rm{number}" for number in range(5)]
    made = [rless.detach(name, "", "sleep", "600") for name in names]
    inits = [init_of(rless, name) for name in made]
    assert rless("rm", "-f", *names).expect().lines() == names
    assert not any(os.path.exists(f"/proc/{pid}") for pid in inits)
    rless.assert_clean(0)


def test_forced_removal_may_stop_first(rless: Product, tmp_path: Path) -> None:
    """`podman rm -f -t SECONDS`: the application gets its signal, and the time to end by it."""
    script = "trap 'echo asked >/s/asked; exit' TERM; echo >/s/in; while :; do sleep 0.1; done"
    rless.detach("asked", f"-v {tmp_path}:/s", "sh", "-c", script)
    wait_for((tmp_path / "in").exists, "the trap")
    assert "--force" in rless("rm", "-t", "30", "asked").expect(125).err
    rless("rm", "-f", "-t", "30", "asked", "nosuch").expect()
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_removal_waits_for_a_monitor_that_still_cleans_up(rless: Product) -> None:
    """The exit code is there before the monitor is through: that is no start."""
    for number in range(8):
        name = f"brief{number}"
        rless.detach(name, "", "sleep", "600")
        directory = rless.container()
        os.kill(init_of(rless, directory.name), signal.SIGKILL)
        wait_for((directory / "exit.json").exists, "the exit code")
        rless("rm", name).expect()


def test_errors_name_the_container(rless: Product) -> None:
    rless.detach("busy", "", "sleep", "600")
    rless.detach("ended", "", "true")
    rless("wait", "ended").expect()
    done = rless("rm", "busy", "none", "ended").expect(1)
    assert done.lines() == ["ended"]
    first, second = done.err.splitlines()
    assert first.startswith("rless: cannot remove container busy: it is running;")
    assert second.startswith("rless: no such container: none")
    # As Docker: with --force what is not there is told, and no failure.
    done = rless("rm", "-f", "none", "busy").expect()
    assert done.out == "busy\n"
    assert "no such container: none" in done.one_line_error()


def test_files_of_other_ids_are_removed(rless: Product) -> None:
    script = "mkdir /srv/d; chown 1000:1000 /srv/d; chmod 700 /srv/d; echo x >/srv/d/f"
    rless("run", "--name", "foreign", "--network=none", rless.image, "sh", "-c", script).expect()
    rless("run", "--name", "plain", "--network=none", rless.image, "true").expect()
    assert rless("rm", "plain", "foreign").expect().lines() == ["plain", "foreign"]
    rless.assert_clean(0)


def test_killed_removal_is_finished_by_the_next_command(rless: Product) -> None:
    """At each moment: the run record says what was begun, and the next command ends it."""
    for delay in (0.03, 0.05, 0.06, 0.07, 0.08, 0.1):
        rless("run", "--name", "half", "--network=none", "-v", "/anonymous", rless.image,
              "sh", "-c", "for i in $(seq 200); do mkdir -p /srv/$i/x; done").expect()  # fmt: skip
        removing = rless.start("rm", "-v", "half")
        time.sleep(delay)
        removing.kill()
        removing.wait(10)
        wait_for(lambda: not rless.processes(), "the end of its children")
        left = rless("ps", "-aq").expect().lines()
        if left:  # it was killed before it had begun
            assert row(rless, "half")["State"] == "exited"
            rless("rm", "-v", "half").expect()
        rless.assert_clean(0)
        assert os.listdir(rless.storage / "volumes") == [".lock"]


def test_concurrent_removals_of_one_container_succeed_once(rless: Product) -> None:
    """One of them does it; the other says that it is being done, or that it is done."""
    for _ in range(5):
        rless.detach("pair", "", "sleep", "600")
        both = [rless.start("rm", "-f", "pair") for _ in range(2)]
        codes = sorted(process.wait(20) for process in both)
        said = [process.stderr.read().decode() for process in both if process.stderr]
        assert codes[0] == 0, said
        for text in said:
            assert text == "" or "already in progress" in text or "no such container" in text
        rless.assert_clean()


def test_forced_removal_races_with_automatic_removal(rless: Product) -> None:
    for delay in (0.0, 0.01, 0.02, 0.04):
        made = rless.detach("self", "--rm", "sleep", "600")
        os.kill(init_of(rless, made), signal.SIGKILL)
        time.sleep(delay)
        done = rless("rm", "-f", "self")
        assert done.code == 0, done
        assert rless("ps", "-aq").out == ""
        rless.assert_clean()


def test_name_is_free_after_removal(rless: Product) -> None:
    for _ in range(5):
        rless.detach("phoenix", "", "sleep", "600")
        rless("rm", "-f", "phoenix").expect()


def test_removal_records_an_event(rless: Product) -> None:
    made = rless.detach("told", "-l a=b", "true")
    rless("wait", "told").expect()
    rless("rm", "told").expect()
    lines = (rless.storage / "events").read_text().splitlines()
    event = json.loads(lines[-1])
    assert (event["action"], event["id"]) == ("destroy", made)
    assert event["attributes"]["name"] == "told"
    assert event["attributes"]["a"] == "b"


def test_link_flag_is_refused(rless: Product) -> None:
    assert "there are no links" in rless("rm", "-l", "x").expect(125).one_line_error()


def test_starting_container_is_not_removed(rless: Product) -> None:
    """Without --force; with it, the start is waited for and what it started is killed."""
    words = ("run", "-d", "--name", "young", "--network=none", rless.image, "sleep", "600")
    for _ in range(3):
        starting = rless.start(*words)
        wait_for((rless.storage / "names" / "young").is_symlink, "the name")
        done = rless("rm", "young").expect(1)
        assert "being started" in done.err or "running" in done.err or "no such" in done.err
        rless("rm", "-f", "young").expect()
        code = starting.wait(20)
        if rless("ps", "-aq").out:  # the name was there before the rest: rm knew nothing yet
            assert code == 0
            rless("rm", "-f", "young").expect()
        rless.assert_clean()
