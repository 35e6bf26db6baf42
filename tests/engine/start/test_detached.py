"""Detached containers: started, listed, stopped and removed by name and id."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.lib.compiled import ROOT
from tests.lib.life import monitor_of
from tests.lib.product import Product, python_launcher, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def test_detached_container_lives_from_run_to_rm(rless: Product) -> None:
    made = rless.detach("life", "-e A=b -l k=v", "sh", "-c", "echo out; echo err >&2; sleep 60")
    assert len(made) == 64
    assert set(made) <= set("0123456789abcdef")
    row = json.loads(rless("ps", "--format", "json").expect().lines()[0])
    assert row["Names"] == "life"
    assert row["State"] == "running"
    assert made[:12] in rless("ps").out
    wait_for(lambda: rless("logs", "life").err == "err\n", "the log")
    assert rless("logs", made[:12]).expect().lines() == ["out"]
    began = time.monotonic()
    assert rless("stop", "-t", "1", "life").expect().out == "life\n"
    assert 0.9 < time.monotonic() - began < 5  # sh is process 1 and has no handler of TERM
    assert rless("ps", "-q").expect().out == ""
    assert "Exited (137)" in rless("ps", "-a").out
    assert rless("wait", "life").expect().out == "137\n"
    assert rless("rm", "life").expect().out == "life\n"
    assert rless("ps", "-aq").expect().out == ""


def test_stop_uses_the_stop_signal(rless: Product) -> None:
    rless.detach("polite", "--stop-signal USR1", "sh", "-c", "trap 'exit 3' USR1; echo ready; "
                 "while :; do sleep 0.05; done")  # fmt: skip
    wait_for(lambda: "ready" in rless("logs", "polite").out, "the start")
    began = time.monotonic()
    rless("stop", "polite").expect()
    assert time.monotonic() - began < 5
    assert rless("wait", "polite").out == "3\n"
    rless("rm", "polite").expect()


def test_kill_accepts_name_number_and_prefix(rless: Product) -> None:
    for words, code in ((("-s", "INT"), 2), (("--signal=15",), 15), ((), 9)):
        script = "trap 'exit 2' INT; trap 'exit 15' TERM; echo ready; while :; do sleep 0.05; done"
        made = rless.detach("victim", "", "sh", "-c", script)
        wait_for(lambda: "ready" in rless("logs", "victim").out, "the start")
        rless("kill", *words, made[:10]).expect()
        assert rless("wait", made).expect().out == f"{137 if code == 9 else code}\n"
        rless("rm", made).expect()


def test_wrong_names_are_refused(rless: Product) -> None:
    for words in (["stop"], ["kill"], ["rm"], ["wait"], ["logs"]):
        for name in ("none", "../x", ".", "", "a/b", "-x" if words == ["?"] else "\x1b[2J"):
            done = rless(*words, "--", name)
            assert done.code == 1, (words, name, done)
            done.one_line_error()


def test_running_container_is_not_removed(rless: Product) -> None:
    rless.detach("busy", "", "sleep", "60")
    assert "running" in rless("rm", "busy").expect(1).one_line_error()
    rless("rm", "-f", "busy").expect()
    assert rless.containers() == []


def test_container_is_visible_in_every_session(rless: Product, tmp_path: Path) -> None:
    """A login, cron and `su` differ in XDG_RUNTIME_DIR, and a logout removes its content."""
    rless.detach("busy", "--rm", "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")
    (tmp_path / "other").mkdir(mode=0o700)
    for value in (None, str(tmp_path / "other"), "/nonexistent"):
        env = {"XDG_RUNTIME_DIR": value}
        assert rless("ps", "--format", "{{.Names}}", env=env).expect().out == "busy\n"
        assert "running" in rless("rm", "busy", env=env).expect(1).one_line_error()
        rless.run("", "true", env=env).expect()  # it reconciles
    rless("stop", "busy", env={"XDG_RUNTIME_DIR": None}).expect()
    wait_for(lambda: rless.containers() == [], "the removal")


@pytest.mark.needs("tun", "pasta")
def test_published_port_is_free_after_removal(rless: Product) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    publish = f"--network pasta -p 127.0.0.1:{port}:80"
    for end in (("rm", "-f", "web"), ("stop", "-t", "0", "web")):
        rless.detach("web", publish, "sleep", "60")
        socket.create_connection(("127.0.0.1", port), 5).close()
        taken = rless.run(f"--network pasta -p {port}:80", "true").expect(125)
        assert "taken" in taken.one_line_error()
        rless(*end).expect()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5).close()
    rless("rm", "web").expect()
    for _ in range(3):
        rless.run(publish, "true").expect()


def test_name_is_unique_until_removal(rless: Product) -> None:
    rless.detach("taken", "", "sleep", "60")
    again = rless.run("--name taken", "true").expect(125).one_line_error()
    assert "already in use" in again
    assert len(rless.containers()) == 1
    rless("rm", "-f", "taken").expect()
    rless.run("--name taken", "true").expect()
    rless.run("--name taken", "true").expect()
    bad = rless.run(["--name", "a/b"], "true").expect(125)
    bad.one_line_error()


def test_concurrent_runs_take_a_name_once(rless: Product) -> None:
    words = ("run", "-d", "--name", "race", "--network=none", rless.image, "sleep", "60")
    racers = [rless.start(*words) for _ in range(6)]
    assert sorted(racer.wait(30) for racer in racers) == [0] + [125] * 5
    assert len(rless.containers()) == 1
    rless("rm", "-f", "race").expect()


def test_container_stays_without_rm(rless: Product) -> None:
    assert rless("run", "--network=none", rless.image, "sh", "-c", "exit 4").code == 4
    row = json.loads(rless("ps", "-a", "--format", "json").expect().lines()[0])
    assert row["State"] == "exited"
    assert "(4)" in row["Status"]
    rless("rm", row["ID"]).expect()


def test_rm_removes_files_of_root(rless: Product) -> None:
    script = """
        mkdir -p /a/b/c; chown -R 1000:1000 /a; chmod 000 /a /a/b; touch /srv/x; chmod 000 /srv
        cd /tmp; for i in $(seq 300); do mkdir dddddddddddddddd && cd dddddddddddddddd; done
        ln -s / /link; mkfifo /fifo
    """
    rless.sh(script)
    rless("run", "--name", "mess", "--network=none", rless.image, "sh", "-c", script).expect()
    rless("rm", "mess").expect()


def test_detach_returns_at_once(rless: Product) -> None:
    """In a shell's $(...), which waits until nobody holds the other end of its pipe."""
    argv = " ".join(f"'{word}'" for word in rless.argv("run", "-d", "--rm", "--network=none"))
    script = f"id=$({argv} {rless.image} sleep 60); echo ${{#id}}"
    began = time.monotonic()
    done = subprocess.run(["bash", "-c", script], env=rless.environment(), capture_output=True,
                          timeout=30, text=True)  # fmt: skip
    assert time.monotonic() - began < 5
    assert done.stdout == "64\n"
    assert done.stderr == ""
    rless("rm", "-f", *rless.containers()).expect()


def test_detached_container_with_rm_is_removed_at_exit(rless: Product) -> None:
    rless.detach("brief", "--rm", "sh", "-c", "exit 3")
    wait_for(lambda: not rless.containers(), "the removal")


def test_detached_failure_is_reported(rless: Product) -> None:
    done = rless("run", "-d", "--name", "bad", "--network=none", rless.image, "no-such-command")
    done.expect(127).one_line_error()
    assert done.out == ""


@pytest.mark.parametrize("network", ["none", "pasta"])
def test_failed_monitor_is_reported(
    own_rless: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    """No id is printed of a container that went with its monitor at once."""
    rless = own_rless
    rless("pull", "-q", rless.image).expect()
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "rootless", tree / "rootless")
    shutil.copy("/bin/false", tree / "rootless" / "bin" / "rless-monitor")
    rless("create", "--name", "kept", f"--network={network}", rless.image, "sleep", "60").expect()
    words = [str(tree) if word == str(ROOT) else word for word in python_launcher()]
    monkeypatch.setattr(rless, "argv", lambda *more: [*words, *more])
    done = rless("run", "-d", f"--network={network}", rless.image, "sleep", "60")
    assert done.expect(137).out == ""
    assert "monitor was killed" in done.one_line_error()
    assert len(rless.containers()) == 1
    assert "monitor was killed" in rless("start", "kept").expect(1).one_line_error()
    assert "Exited (137)" in rless("ps", "-a").out
    rless("rm", "kept").expect()


def test_container_survives_the_end_of_its_session(rless: Product) -> None:
    argv = rless.argv(
        "run", "-d", "--name", "survivor", "--network=none", rless.image, "sleep", "60"
    )
    subprocess.run(["setsid", "-w", *argv], env=rless.environment(), check=True,
                   stdout=subprocess.DEVNULL, timeout=30)  # fmt: skip
    assert "survivor" in rless("ps").out
    session = {line.split()[5] for line in rless.processes().values()}
    assert str(os.getsid(0)) not in session
    rless("rm", "-f", "survivor").expect()


def test_cidfile_has_the_id(rless: Product, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    rless(
        "run", "-d", "--cidfile", str(file), "--network=none", rless.image, "sleep", "60"
    ).expect()
    assert file.read_text() == rless.containers()[0]
    error = rless.run(["--cidfile", str(file)], "true").expect(125).one_line_error()
    assert "exists" in error
    assert len(rless.containers()) == 1
    rless("rm", "-f", file.read_text()).expect()
    rless.run(["--cidfile", f"{tmp_path}/no/cid"], "true").expect(125).one_line_error()
    assert rless.containers() == []


def test_logs_can_be_followed(rless: Product) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.1; done"
    rless.detach("follow", "", "sh", "-c", script)
    assert rless("logs", "-f", "follow").expect().lines() == ["1", "2", "3"]
    rless("rm", "follow").expect()


def test_logs_are_bounded(rless: Product) -> None:
    """Class 41: an application that writes for ever fills no disk."""
    rless.detach("loud", "--log-opt max-size=5m --log-opt max-file=3", "sh", "-c",
                 "head -c 45000000 /dev/zero; echo end")  # fmt: skip
    rless("wait", "loud").expect()
    directory = rless.container()
    logs = sorted(name for name in os.listdir(directory) if name.startswith("log"))
    assert logs == ["log", "log.1", "log.2"]
    assert all((directory / name).stat().st_size <= 5 << 20 for name in logs)
    assert rless("logs", "loud").expect().raw.endswith(b"end\n")
    rless("rm", "loud").expect()


def test_full_log_does_not_stop_the_container(rless: Product) -> None:
    rless.detach("none", "--log-driver none", "sh", "-c", "head -c 9000000 /dev/zero; exit 6")
    assert rless("wait", "none").expect().out == "6\n"
    rless("rm", "none").expect()


def test_detached_container_has_stdin_only_on_request(rless: Product) -> None:
    rless.detach("closed", "", "cat")
    assert rless("wait", "closed").expect().out == "0\n"
    rless.detach("open", "-i", "cat")
    time.sleep(0.2)
    assert "open" in rless("ps").out
    rless("rm", "-f", "open", "closed").expect()


def test_fifty_parallel_runs_succeed(rless: Product) -> None:
    running: list[subprocess.Popen[bytes]] = []
    codes = []
    for number in range(50):
        if len(running) == 8:
            codes.append(running.pop(0).wait(60))
        words = ("run", "--rm", "--network=none", rless.image, "sh", "-c", f"exit {number}")
        running.append(rless.start(*words))
    codes += [process.wait(60) for process in running]
    assert codes == list(range(50))
    rless.assert_clean(0)


@pytest.mark.parametrize("flags", [(), ("--rm",)])
def test_foreground_container_is_kept_when_its_monitor_is_killed(
    rless: Product, flags: tuple[str, ...]
) -> None:
    """It has run, so this is its end, and no start that failed."""
    words = ("run", "--name", "front", "--network", "none", *flags)
    process = rless.start(*words, rless.image, "sh", "-c", "echo ready; exec sleep 600")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.kill(monitor_of(rless, rless.containers()[0]), signal.SIGKILL)
    assert process.wait(10) == 137
    if flags:
        assert rless.containers() == []
        return
    shown = rless("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "front").expect()
    assert shown.out == "exited 137\n"
    rless("rm", "front").expect()
