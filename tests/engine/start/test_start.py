"""`create` and `start`: a container that is created now and run later, repeatedly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def create(rless: Product, name: str, flags: str, *command: str) -> str:
    words = ["--name", name, *flags.split()]
    if "--network" not in flags:
        words += ["--network", "none"]
    return rless("create", *words, rless.image, *command).expect().out.strip()


def state(rless: Product, name: str) -> str:
    rows = [json.loads(line) for line in rless("ps", "-a", "--format", "json").expect().lines()]
    return next((str(row["State"]) for row in rows if row["Names"] == name), "none")


def test_created_container_lives_from_start_to_rm(rless: Product) -> None:
    made = create(rless, "later", "-e WORD=hello", "sh", "-c", "echo $WORD; exit 4")
    assert len(made) == 64
    assert state(rless, "later") == "created"
    assert not os.listdir(rless.live)[1:]
    assert rless("start", "later").expect().out == "later\n"
    assert rless("wait", "later").expect().out == "4\n"
    assert state(rless, "later") == "exited"
    assert rless("start", "-a", made[:12]).expect(4).out == "hello\n"
    rless("rm", "later").expect()


def test_files_survive_between_starts(rless: Product) -> None:
    drivers = ["overlay", "copy"]
    if os.path.exists("/usr/bin/fuse-overlayfs") and os.path.exists("/dev/fuse"):
        drivers.append("fuse-overlayfs")
    for driver in drivers:
        script = "echo x >>/etc/count; rm -f /etc/motd /data/seed; wc -l </etc/count; ls /data"
        create(rless, driver, f"--storage-driver {driver}", "sh", "-c", script)
        for number in (1, 2, 3):
            assert rless("start", "-a", driver).expect().out == f"{number}\n", driver
        rless("rm", driver).expect()


def test_storage_driver_is_kept(rless: Product) -> None:
    """One that was chosen by trying, too: each keeps changes in its own form."""
    create(rless, "copied", "--storage-driver copy", "sh", "-c", "echo x >>/n; wc -l </n")
    rless("start", "-a", "copied").expect()
    facts = json.loads((rless.container() / "container.json").read_text())
    assert facts["source"]["driver"] == "copy"
    rless("rm", "copied").expect()


def test_volumes_and_ids_are_kept(rless: Product) -> None:
    script = "stat -c '%u %g' /v/f 2>&1; touch /v/f; chown 1000:1000 /v/f; id -u"
    create(rless, "vol", "-v /v --user 0", "sh", "-c", script)
    first = rless("start", "-a", "vol").expect().lines()
    assert "No such file" in first[0]
    assert rless("start", "-a", "vol").expect().lines() == ["1000 1000", "0"]
    rless("rm", "-v", "vol").expect()


def test_start_of_a_running_container_does_nothing(rless: Product) -> None:
    rless.detach("busy", "", "sleep", "60")
    before = set(rless.processes())
    assert rless("start", "busy").expect().out == "busy\n"
    assert set(rless.processes()) == before
    rless("rm", "-f", "busy").expect()


def test_concurrent_starts_run_one_container(rless: Product) -> None:
    """One wins, the other finds it running; there are never two."""
    create(rless, "race", "", "sleep", "60")
    for _ in range(3):
        racers = [rless.start("start", "race") for _ in range(5)]
        assert [racer.wait(30) for racer in racers] == [0] * 5, [
            racer.stderr.read() for racer in racers if racer.stderr
        ]
        monitors = [what for what in rless.processes().values() if "monitor of" in what]
        assert len(monitors) == 1, monitors
        rless("kill", "race").expect()
    rless("rm", "-f", "race").expect()


def test_start_reports_missing_containers_and_starts_the_others(rless: Product) -> None:
    for name in ("one", "two"):
        create(rless, name, "", "sleep", "60")
    done = rless("start", "one", "none", "two").expect(1)
    assert done.lines() == ["one", "two"]
    assert "no such container: none" in done.one_line_error()
    assert "at once" in rless("start", "-a", "one", "two").expect(1).one_line_error()
    rless("rm", "-f", "one", "two").expect()


def test_failed_start_is_recorded(rless: Product, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    mount = f"--mount type=bind,src={source},dst=/m"
    create(rless, "gone", mount, "true")
    rless("start", "-a", "gone").expect(0)
    source.rmdir()
    assert "does not exist" in rless("start", "gone").expect(1).one_line_error()
    assert state(rless, "gone") == "exited"
    facts = json.loads((rless.container() / "exit.json").read_text())
    assert "does not exist" in facts["error"]
    source.mkdir()
    rless("start", "-a", "gone").expect(0)
    rless("rm", "gone").expect()


def test_missing_command_exits_127(rless: Product) -> None:
    create(rless, "wrong", "", "no-such-command")
    assert "no-such-command" in rless("start", "wrong").expect(1).one_line_error()
    assert "no-such-command" in rless("start", "-a", "wrong").expect(127).one_line_error()
    facts = json.loads((rless.container() / "exit.json").read_text())
    assert facts["code"] == 127
    assert "no-such-command" in facts["error"]
    rless("rm", "wrong").expect()


def test_created_container_with_rm_is_removed_at_exit(rless: Product) -> None:
    create(rless, "once", "--rm", "sh", "-c", "exit 3")
    rless("start", "-a", "once").expect(3)
    assert rless.containers() == []
    create(rless, "once", "--rm", "no-such-command")
    rless("start", "-a", "once").expect(127)
    assert rless.containers() == []


def test_created_container_is_not_reported_as_killed(rless: Product) -> None:
    create(rless, "kept", "--rm", "true")
    live = rless.live
    for name in os.listdir(live):
        os.unlink(live / name)  # as after a reboot
    assert state(rless, "kept") == "created"
    rless("rm", "kept").expect()


def test_start_passes_standard_input(rless: Product) -> None:
    create(rless, "cat", "-i", "cat")
    assert rless("start", "-ai", "cat", stdin=b"typed").expect().out == "typed"
    assert rless("start", "-ai", "cat", stdin=b"again").expect().out == "again"
    rless("rm", "cat").expect()


def test_network_of_another_container_is_joined_at_each_start(rless: Product) -> None:
    """Its namespaces are looked up at each start: they are not those of the last one."""
    rless.detach("server", "", "sleep", "60")
    create(rless, "client", "--network container:server", "readlink", "/proc/self/ns/net")
    first = rless("start", "-a", "client").expect().out
    rless("stop", "-t", "0", "server").expect()
    assert "not running" in rless("start", "client").expect(1).one_line_error()
    rless("start", "server").expect()
    assert rless("start", "-a", "client").expect().out.startswith("net:[")
    assert first.startswith("net:[")
    rless("rm", "-f", "client", "server").expect()


def test_killed_start_leaves_true_state(own_rless: Product) -> None:
    """The container is there afterwards, in a state that is true, and starts again."""
    rless = own_rless
    create(rless, "victim", "", "sh", "-c", "echo x >>/n; sleep 60")
    for moment in range(12):
        process = rless.start("start", "victim")
        time.sleep(moment / 150)
        process.kill()
        process.wait(10)
        wait_for(lambda: state(rless, "victim") in ("created", "exited", "running"), "a state")
        wait_for(
            lambda: (
                (state(rless, "victim") == "running")
                == any("sleep" in what for what in rless.processes().values())
            ),
            "a state that is true",
        )
        rless("kill", "victim")
    rless("start", "victim").expect()
    rless("rm", "-f", "victim").expect()


def test_service_manager_is_notified(rless: Product, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        env = {"NOTIFY_SOCKET": str(path)}
        words = ("run", "-d", "--name", "unit", "--network=none")
        rless(*words, rless.image, "sleep", "60", env=env).expect()
        told = dict(line.split("=") for line in manager.recv(4096).decode().splitlines())
        assert told["READY"] == "1"
        pid = int(told["MAINPID"])
        assert b"monitor of" in Path(f"/proc/{pid}/cmdline").read_bytes()
        rless("rm", "-f", "unit").expect()
        rless(*words, "--sdnotify=ignore", rless.image, "sleep", "60", env=env).expect()
        rless("rm", "-f", "unit").expect()
        script = "ls -l $NOTIFY_SOCKET; sleep 60"
        rless(*words, "--sdnotify=container", rless.image, "sh", "-c", script, env=env).expect()
        assert manager.recv(4096).startswith(b"MAINPID=")
        wait_for(lambda: "srw" in rless("logs", "unit").out, "the socket")
        rless("rm", "-f", "unit").expect()


def test_start_forwards_signals(rless: Product) -> None:
    create(
        rless,
        "term",
        "",
        "sh",
        "-c",
        "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done",
    )
    process = rless.start("start", "-a", "term")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 5
    process = rless.start("start", "-a", "term")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()  # unlike run, start is not what the container lives by
    process.wait()
    assert state(rless, "term") == "running"
    rless("rm", "-f", "term").expect()


def test_detached_start_returns_to_the_shell(rless: Product) -> None:
    create(rless, "quiet", "", "sleep", "60")
    argv = " ".join(f"'{word}'" for word in rless.argv("start", "quiet"))
    done = subprocess.run(["bash", "-c", f"x=$({argv}); echo $x"], env=rless.environment(),
                          capture_output=True, timeout=20, text=True)  # fmt: skip
    assert done.stdout == "quiet\n"
    rless("rm", "-f", "quiet").expect()
