"""`logs`, `ps`, `inspect` and `events` of running containers."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

# A hash of what was written comes after it, on standard error.
NOISE = "head -c {size} /dev/urandom > /n; cat /n; sha256sum < /n >&2"


def end(rless: Product, name: str) -> None:
    rless("wait", name).expect()


def test_logs_keep_binary_data_and_streams(rless: Product) -> None:
    rless.detach("noise", "--log-opt max-size=50m", "sh", "-c", NOISE.format(size=10_000_000))
    end(rless, "noise")
    done = rless("logs", "noise", timeout=60)
    assert done.code == 0
    assert hashlib.sha256(done.raw).hexdigest() == done.err.split()[0]
    rless("rm", "noise").expect()


@pytest.mark.parametrize("driver", ("local", "json-file"))
def test_follow_across_rotations(rless: Product, driver: str) -> None:
    script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; sleep 0.3; printf end"
    flags = f"--log-driver {driver} --log-opt max-size=20k --log-opt max-file=50"
    rless.detach("turns", flags, "sh", "-c", f"sleep 1; {script}")
    done = rless("logs", "-f", "turns", timeout=60)
    expected = "".join(f"line {number}\n" for number in range(5000)) + "end"
    assert (done.code, done.out, done.err) == (0, expected, "")
    directory = rless.container()
    assert (directory / "log.1").exists()
    assert (directory / "log").stat().st_size < 25000
    assert rless("logs", "turns").out == expected
    assert rless("logs", "-n", "3", "turns").out == "line 4998\nline 4999\nend"
    rless("rm", "turns").expect()


def test_follow_through_restarts(rless: Product) -> None:
    rless.detach("again", "--restart on-failure:2", "sh", "-c", "echo run; exit 4")
    done = rless("logs", "-f", "again")
    assert (done.code, done.out) == (0, "run\n" * 3)
    wait_for(lambda: "Exited (4)" in rless("ps", "-a").out, "the end")
    form = "{{.RestartCount}} {{.State.ExitCode}} {{.State.Status}}"
    assert rless("inspect", "-f", form, "again").out == "2 4 exited\n"
    rless("rm", "again").expect()


def test_logs_of_a_terminal_have_times(rless: Product) -> None:
    before = int(time.time())
    rless.detach("tty", "-t", "sh", "-c", "echo one; echo two >&2")
    end(rless, "tty")
    done = rless("logs", "--timestamps", "--since", str(before), "tty")
    assert done.err == ""
    stamps, texts = zip(*(line.split(" ", 1) for line in done.lines()), strict=True)
    assert texts == ("one", "two")  # with a terminal the two are one stream
    assert all(len(stamp) == 30 and stamp.endswith("Z") for stamp in stamps)
    assert rless("logs", "--until", str(before - 5), "tty").out == ""
    rless("rm", "tty").expect()


def test_created_container_has_an_empty_log(rless: Product) -> None:
    rless("create", "--name", "new", "--network", "none", rless.image, "true").expect()
    assert rless("logs", "new").expect().out == ""
    assert "Created" in rless("ps", "-a").out
    assert rless("ps", "-q").out == ""
    state = json.loads(rless("inspect", "-f", "{{json .State}}", "new").out)
    assert (state["Status"], state["Pid"], state["Running"]) == ("created", 0, False)
    assert state["StartedAt"] == state["FinishedAt"] == "0001-01-01T00:00:00Z"
    rless("rm", "new").expect()


def test_container_without_a_log_is_reported(rless: Product) -> None:
    rless.detach("mute", "--log-driver none", "echo", "x")
    end(rless, "mute")
    done = rless("logs", "mute")
    assert done.code == 1
    assert "keeps no log" in done.one_line_error()
    rless("rm", "mute").expect()


def test_inspect_shows_the_request(rless: Product) -> None:
    rless.detach(
        "web", "-e A=1 -l tier=front -w /tmp -u 5:6 --cap-drop ALL --read-only --init --shm-size 1m"
        " --tmpfs /t --stop-signal USR1 --restart unless-stopped -v /srv:/in:ro",
        "sleep", "100",
    )  # fmt: skip
    [found] = json.loads(rless("inspect", "web").expect().out)
    assert found["State"]["Status"] == "running"
    assert found["State"]["Pid"] > 0
    assert (found["Path"], found["Args"]) == ("sleep", ["100"])
    config, host = found["Config"], found["HostConfig"]
    assert "A=1" in config["Env"]
    assert (config["WorkingDir"], config["User"]) == ("/tmp", "5:6")
    assert config["Labels"] == {"tier": "front"}
    assert (config["Cmd"], config["StopSignal"]) == (["sleep", "100"], "SIGUSR1")
    assert host["CapDrop"] == ["ALL"]
    assert (host["ReadonlyRootfs"], host["Init"], host["ShmSize"]) == (True, True, 1 << 20)
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["Binds"] == ["/srv:/in:ro"]
    assert "/t" in host["Tmpfs"]
    assert [m["Destination"] for m in found["Mounts"] if m["Type"] == "bind"] == ["/in"]
    assert list(found["NetworkSettings"]["Networks"]) == ["none"]
    rless("rm", "-f", "web").expect()


def test_inspect_finds_objects_of_all_kinds(rless: Product) -> None:
    rless("volume", "create", "data").expect()
    [image] = json.loads(rless("inspect", "--type", "image", rless.image).expect().out)
    assert image["Id"].startswith("sha256:")
    done = rless("inspect", "-f", "{{.Name}}", "data").expect()
    assert done.out == "data\n"
    assert rless("inspect", rless.image).expect().out.startswith("[\n    {\n")
    done = rless("inspect", "gone")
    assert (done.code, done.out) == (1, "[]\n")
    assert done.one_line_error() == "no such object: gone"
    rless("volume", "rm", "data").expect()


def test_ps_filters_by_ancestor(rless: Product) -> None:
    rless.detach("child", "", "true")
    end(rless, "child")
    image = rless("inspect", "-f", "{{.Image}}", "child").out.strip()
    for name in (rless.image, image, image.removeprefix("sha256:")[:12]):
        done = rless("ps", "-a", "--filter", f"ancestor={name}", "--format", "{{.Names}}")
        assert done.expect().out == "child\n"
    assert rless("ps", "-aq", "--filter", "ancestor=other").expect().out == ""
    size = rless("ps", "-a", "--format", "{{.Size}}").expect().out
    assert size.startswith("0B (virtual ")
    rless("rm", "child").expect()


def test_size_counts_what_the_container_wrote(rless: Product) -> None:
    """Directories of ids of the container that only they can read are counted too."""
    script = "mkdir -m 700 /d; head -c 5000 /dev/zero > /d/f; chown -R 5:5 /d"
    rless.detach("fat", "", "sh", "-c", script)
    end(rless, "fat")
    assert rless("ps", "-a", "--format", "{{.Size}}").expect().out.startswith("5kB (virtual ")
    assert rless("inspect", "-s", "-f", "{{.SizeRw}}", "fat").expect().out == "5000\n"
    rless("rm", "fat").expect()


def test_events_cover_the_life_of_a_container(rless: Product) -> None:
    before = f"{time.time():.9f}"
    rless.detach("star", "-l k=v", "sh", "-c", "exit 6")
    end(rless, "star")
    rless("rm", "star").expect()
    form = "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}"
    flags = ("--since", before, "--until", "0s", "--filter", "container=star")
    found = rless("events", *flags, "--format", form).expect().lines()
    assert found == [
        "create star <no value>", "start star <no value>", "die star 6", "destroy star <no value>",
    ]  # fmt: skip


def test_info_describes_the_host(rless: Product, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[containers]\nlog-driver = "json-file"\n')
    settings = {"RLESS_CONFIG": str(tmp_path / "config.toml")}
    assert rless("info", "-f", "{{.LoggingDriver}}", env=settings).out == "json-file\n"
    assert rless("info", "-f", "{{.LoggingDriver}}").out == "local\n"
    rless.detach("one", "", "sleep", "100")
    found = json.loads(rless("info", "--format", "json").expect().out)
    assert (found["Containers"], found["ContainersRunning"], found["ContainersStopped"]) == (
        1,
        1,
        0,
    )
    assert found["RlessRootDir"] == str(rless.storage)
    assert found["Driver"] in ("overlay", "fuse-overlayfs", "copy")
    text = rless("system", "info").expect().out
    assert f"Storage Driver: {found['Driver']}\n" in text
    assert rless("info", "-f", "{{.OSType}}").out == "linux\n"
    assert not [name for name in rless.storage.iterdir() if name.name.startswith(".info-")]
    rless("rm", "-f", "one").expect()
