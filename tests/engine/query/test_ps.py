"""`ps`: states, filters, sizes, and its cost with many containers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from rootless.cli.main import main
from tests.lib.records import Records


@pytest.fixture
def ps(capfd: pytest.CaptureFixture[str]) -> Any:
    """Run `ps` with these words; return the lines."""

    def run(*words: str, code: int = 0) -> list[str]:
        assert main(["ps", *words]) == code
        shown = capfd.readouterr()
        return (shown.err if code else shown.out).splitlines()

    return run


def names(ps: Any, *words: str) -> list[str]:
    found: list[str] = ps("-a", "--format", "{{.Names}}", *words)
    return sorted(found)


def test_states_are_shown(records: Records, ps: Any) -> None:
    now = time.time()
    records.add("up", state="running", created=now - 400)
    records.add("sick", state="running", health={"test": ["CMD", "x"]})
    path = records.directory(records.add("new", state="running", health={"test": ["CMD", "x"]}))
    (path / "health.json").write_text('{"status": "healthy", "failing_streak": 0, "log": []}')
    records.add("over", exit={"code": 3, "finished": now - 7200, "started": now - 7300})
    assert names(ps) == ["new", "over", "sick", "up"]
    shown = dict(line.split("|") for line in ps("-a", "--format", "{{.Names}}|{{.Status}}"))
    assert shown == {
        "up": "Up 5 minutes",
        "sick": "Up 5 minutes (health: starting)",
        "new": "Up 5 minutes (healthy)",
        "over": "Exited (3) 2 hours ago",
    }
    assert sorted(ps("--format", "{{.Names}} {{.State}}")) == [
        "new running", "sick running", "up running",
    ]  # fmt: skip
    assert sorted(ps("--filter", "status=exited", "--format", "{{.Names}}")) == ["over"]


def test_all_fields_are_available(records: Records, ps: Any) -> None:
    identifier = records.add(
        "web",
        state="running",
        command=["sh", "-c", "sleep 1000000000000"],
        labels={"com.example.tier": "front", "a": "b"},
        ports=["0.0.0.0:8000->80/tcp", "0.0.0.0:8001->81/tcp", "127.0.0.1:9->9/udp"],
        exposed=["80/tcp", "443/tcp"],
        mounts=[
            {"type": "volume", "name": "data", "source": "/s/data", "target": "/data", "rw": True},
            {"type": "bind", "name": None, "source": "/srv/a/very/long/path", "target": "/x"},
        ],
        network="none",
    )
    row = json.loads(ps("--format", "json")[0])
    assert set(row) == set(
        "Command CreatedAt HealthStatus ID Image Labels LocalVolumes Mounts Names Networks Ports"
        " RunningFor Size State Status".split()
    )
    assert row["ID"] == identifier[:12]
    assert row["Command"] == '"sh -c sleep 1000000…"'
    assert row["Ports"] == ("0.0.0.0:8000-8001->80-81/tcp, 127.0.0.1:9->9/udp, 443/tcp")
    assert row["Mounts"] == "data,/srv/a/very/lo…"
    assert row["LocalVolumes"] == "1"
    assert row["Labels"] == "a=b,com.example.tier=front"
    assert row["Networks"] == "none"
    assert ps("--format", '{{.Label "none"}}-{{.Label "com.example.tier"}}') == ["-front"]
    table = ps("--format", r'table {{.ID}}\t{{.Label "com.example.tier"}}\t{{.CreatedAt}}')
    assert table[0].split() == ["CONTAINER", "ID", "tier", "CREATED", "AT"]
    assert ps("-q", "--no-trunc") == [identifier]
    full = ps("--no-trunc", "--format", "{{.Command}} {{.Mounts}}")
    assert full == ['"sh -c sleep 1000000000000" data,/srv/a/very/long/path']


def test_last_limits_and_order_is_by_creation(records: Records, ps: Any) -> None:
    for number in range(4):
        records.add(f"c{number}", created=1000.0 + number)
    assert ps("-a", "--format", "{{.Names}}") == ["c3", "c2", "c1", "c0"]
    assert ps("-n", "2", "--format", "{{.Names}}") == ["c3", "c2"]
    assert ps("-l", "--format", "{{.Names}}") == ["c3"]
    assert ps("-q") == []


FILTERS = (
    ("name=web", ["web", "web2"]),
    ("name=^web$", ["web"]),
    ("name=^/web$", ["web"]),
    ("name=db,x", []),
    ("label=tier", ["db", "web"]),
    ("label=tier=front", ["web"]),
    ("label!=tier", ["web2"]),
    ("label!=tier=front", ["db", "web2"]),
    ("exited=7", ["db"]),
    ("status=exited", ["db", "web2"]),
    ("status=running", ["web"]),
    ("status=dead", []),
    ("before=web", ["db"]),
    ("since=web", ["web2"]),
    ("volume=data", ["db"]),
    ("volume=/var/data/", ["db"]),
    ("volume=/host", ["web"]),
    ("network=host", ["web2"]),
    ("publish=8080", ["web"]),  # the port of the host
    ("publish=8070-8090/tcp", ["web"]),
    ("publish=8080/udp", []),
    ("publish=80", []),
    ("publish=443", []),
    ("expose=443", ["web"]),
    ("expose=80", ["web"]),  # that of the container
    ("expose=8080", []),
    ("expose=9000-9002", ["db"]),
    ("health=healthy", ["web"]),
    ("health=none", ["db", "web2"]),
    ("ancestor=busybox:latest", ["db", "web", "web2"]),
    ("ancestor=alpine", []),
    ("ancestor=sha256:" + "1" * 64, ["db", "web", "web2"]),
    ("ancestor=1111111", ["db", "web", "web2"]),
)


@pytest.fixture
def three(records: Records) -> Records:
    path = records.directory(
        records.add(
            "web",
            state="running",
            created=2000.0,
            labels={"tier": "front"},
            ports=["0.0.0.0:8080->80/tcp"],
            exposed=["443/tcp"],
            health={"test": ["CMD", "x"]},
            mounts=[{"type": "bind", "name": None, "source": "/host", "target": "/in"}],
        )
    )
    (path / "health.json").write_text('{"status": "healthy"}')
    records.add(
        "db",
        created=1000.0,
        exit={"code": 7},
        labels={"tier": "back"},
        exposed=["9001/tcp"],
        mounts=[{"type": "volume", "name": "data", "source": "/s", "target": "/var/data"}],
    )
    records.add("web2", created=3000.0, network="host")
    return records


@pytest.mark.parametrize(("text", "expected"), FILTERS)
def test_filters_select_containers(three: Records, ps: Any, text: str, expected: list[str]) -> None:
    assert names(ps, "--filter", text) == expected


def test_filters_combine(three: Records, ps: Any) -> None:
    """Values of one kind are alternatives, kinds must all hold, labels must all hold."""
    both = ("--filter", "status=running", "--filter", "status=exited")
    assert names(ps, *both) == ["db", "web", "web2"]
    assert names(ps, *both, "--filter", "name=web") == ["web", "web2"]
    labels = ("--filter", "label=tier=front", "--filter", "label=tier=back")
    assert names(ps, *labels) == []
    identifier = ps("-a", "-q", "--no-trunc", "--filter", "name=db")[0]
    assert names(ps, "--filter", f"id={identifier[:10]}") == ["db"]


@pytest.mark.parametrize(
    ("text", "why"),
    (
        ("nope=x", "there is no filter 'nope'; filters are ancestor, before"),
        ("name", "'name' is not of the form KEY=VALUE"),
        ("status=up", "'up' is not one of created"),
        ("health=ill", "'ill' is not one of starting"),
        ("exited=x", "'x' is not an exit code"),
        ("publish=99999", "'99999' is not a port"),
        ("publish=90-80", "'90-80' is not a port"),
        ("name=(", "'(' is not a regular expression"),
        ("before=gone", "no such container: gone"),
        ("is-task=true", "is-task is not supported: rless has no swarm"),
    ),
)
def test_wrong_filters_are_refused(records: Records, capfd: Any, text: str, why: str) -> None:
    assert main(["ps", "--filter", text]) in (1, 125)
    error = capfd.readouterr().err
    assert why in error
    assert error.count("\n") == 1


def test_sizes_are_shown(records: Records, ps: Any) -> None:
    path = records.directory(records.add("a"))
    (path / "upper/dir").mkdir(parents=True)
    (path / "upper/dir/file").write_bytes(b"x" * 1500)
    os.link(path / "upper/dir/file", path / "upper/again")
    (path / "upper/link").symlink_to("/etc/passwd")
    assert ps("-a", "--format", "{{.Size}}") == ["1.511kB (virtual 1.511kB)"]
    assert ps("-a", "-s")[0].endswith("SIZE")
    assert "1.511kB (virtual" in ps("-a", "-s")[1]
    assert json.loads(ps("-a", "--format", "json")[0])["Size"] == "N/A"
    shown = json.loads(ps("-a", "--format", "{{ json . }}")[0])["Size"]
    assert shown == "1.511kB (virtual 1.511kB)"


def test_hostile_text_is_escaped(records: Records, ps: Any) -> None:
    """Class 37: what an image or a command has is escaped in tables, templates and JSON."""
    evil = "\x1b]0;x\x07\x9b\x7f"
    records.add("a", command=["sh", evil + "\n"], image=evil, labels={evil: evil})
    for form in ([], ["--format", "json"], ["--format", "{{.Image}}{{.Command}}{{.Labels}}"]):
        text = "\n".join(ps("-a", *form))
        assert text.replace("\n", "").isprintable()


def test_damaged_record_hides_no_other_container(records: Records, ps: Any) -> None:
    records.add("good")
    for text in ("", "{", "[]", "\xff"):
        path = records.directory(records.add(f"bad{len(text)}{text.isalpha()}"))
        (path / "container.json").write_text(text)
    assert "good" in names(ps)


SPEED = """
import sys
sys.path.insert(0, {root!r})
from rootless.cli.main import main
code = main(["ps", "-a"])
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


def test_hundred_containers_are_listed_by_few_calls(records: Records) -> None:
    """One pass, no namespace, no process, no heavy module: what makes it fast is counted."""
    import sys

    for number in range(100):
        records.add(f"c{number}", state="exited" if number % 2 else "running")
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", SPEED.format(root=root)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert len(done.stdout.splitlines()) == 101
    loaded = set(done.stderr.split())
    heavy = "json re subprocess typing dataclasses logging click argparse tempfile socket".split()
    assert loaded.isdisjoint(heavy), loaded.intersection(heavy)
