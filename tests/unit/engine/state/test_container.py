"""Containers on disk: names, states, run records, and what reconcile makes of odd ones."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rootless import paths
from rootless.engine.state import bundle
from rootless.engine.state import container as containers
from rootless.engine.state.container import Container
from rootless.engine.state.reconcile import reconcile
from rootless.errors import RlessError
from rootless.linux.procfs import start_time


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("RLESS_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "storage"


def make(name: str | None = None, **facts: Any) -> Container:
    uids = [(0, os.getuid(), 1)]
    return bundle.create(
        containers.new_id(),
        name,
        {
            "name": "",
            "image": "i",
            "image_id": None,
            "command": ["true"],
            "created": 1.0,
            "rm": False,
            "detach": False,
            "labels": {},
            "ports": [],
            "stop_signal": 15,
            "stop_timeout": 10,
            "tty": False,
            "host": os.uname().nodename,
            "boot": paths.boot_id(),
            "idmap": {"uids": uids, "gids": uids, "key": "k"},
            **facts,
        },
    )


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as made:
        yield made
        made.kill()


def known(made: subprocess.Popen[bytes]) -> list[int]:
    return [made.pid, start_time(made.pid) or 0]


def test_id_has_dockers_form() -> None:
    first, second = containers.new_id(), containers.new_id()
    assert first != second
    assert len(first) == 64
    assert set(first) <= set("0123456789abcdef")


def test_container_is_found_by_name_id_and_prefix() -> None:
    made = make("web")
    for reference in ("web", made.id, made.id[:12], made.id[:1]):
        assert containers.find(reference).id == made.id
    for reference in ("", ".", "..", "we", "WEB", "web/", f"../containers/{made.id}", "x" * 5000,
                      "é" * 250, "\x1b"):  # fmt: skip
        with pytest.raises(RlessError) as error:
            containers.find(reference)
        assert error.value.exit_code == 1


def test_ambiguous_prefix_is_refused() -> None:
    ids = [make().id for _ in range(17)]
    prefix = next(one[0] for one in ids if [two[0] for two in ids].count(one[0]) > 1)
    with pytest.raises(RlessError, match="beginning of"):
        containers.find(prefix)


def test_names_are_checked() -> None:
    made = make("web")
    with pytest.raises(RlessError, match="already in use"):
        make("web")
    assert len(containers.all_ids()) == 1  # nothing is left of the second
    bundle.discard(made)
    assert make("web").facts["name"] == "web"
    assert make().facts["name"] != make().facts["name"]


def test_dangling_name_is_free(storage: Path) -> None:
    os.makedirs(storage / "names", mode=0o700)
    os.chmod(storage, 0o700)
    os.symlink("f" * 64, storage / "names" / "web")
    assert make("web").facts["name"] == "web"


def test_directory_is_private() -> None:
    made = make()
    assert os.stat(made.directory).st_mode & 0o777 == 0o700
    assert os.stat(f"{made.directory}/container.json").st_mode & 0o777 == 0o600
    assert os.stat(made.run_record_path).st_mode & 0o777 == 0o600


def test_states_are_derived(process: subprocess.Popen[bytes]) -> None:
    made = make()
    assert made.status() == ("created", None)
    made.update_run_record(init=known(process))
    assert made.status() == ("running", None)
    assert made.init() == tuple(known(process))
    process.kill()
    process.wait()
    assert made.status() == ("running", None)  # its owner, this test, has not noted the end
    made.record_exit(3)
    assert made.status() == ("exited", 3)
    other = make()
    other.update_run_record(owner=known(process))
    assert other.status() == ("exited", 137)


def test_listed_run_records_hide_no_start(process: subprocess.Popen[bytes]) -> None:
    """A container that is started after a list of the run records was read is not shown as dead."""
    made = make(run=False)
    made.remove_run_record()
    assert made.status(recorded=False) == ("created", None)
    assert made.claim()
    made.update_run_record(init=known(process))
    Path(made.directory, "started").touch()
    assert made.status(recorded=False) == ("running", None)
    made.record_exit(3)
    made.remove_run_record()
    assert made.status(recorded=False) == ("exited", 3)


def test_zombie_and_recycled_pid_are_dead(process: subprocess.Popen[bytes]) -> None:
    pid, start = known(process)
    assert containers.is_alive([pid, start])
    assert not containers.is_alive([pid, start + 1])
    assert not containers.is_alive([2**22 + 1, start])
    assert not containers.is_alive(None)
    process.kill()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not containers.is_alive([pid, start])


def test_recycled_pid_is_not_signalled(process: subprocess.Popen[bytes]) -> None:
    """Class 39."""
    pid, start = known(process)
    made = make()
    made.update_run_record(init=[pid, start + 1])
    with pytest.raises(RlessError, match="not running"):
        made.send(9)
    containers.signal_process((pid, start + 1), 9)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    containers.signal_process((pid, start), 9)
    assert process.wait(5) == -9
    containers.signal_process((pid, start), 9)  # gone: no error


def test_reconcile_keeps_running_containers(process: subprocess.Popen[bytes]) -> None:
    made = make("kept")
    for owner in ("owner", "monitor"):
        made.update_run_record(**{"owner": [1, 0], "monitor": [1, 0], owner: known(process)})
        reconcile()
        assert os.path.exists(made.run_record_path)
    made.update_run_record(owner=[1, 0], monitor=[1, 0])
    reconcile()
    assert not os.path.exists(made.run_record_path)
    assert made.status() == ("exited", 137)
    assert containers.find("kept").id == made.id


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"owner": null}',
        '{"rm": true}',
        "7",
        '{"owner": 5}',
        '{"init": ["x", 1]}',
        "\0",
    ],
)
def test_reconcile_survives_odd_run_records(entry: str) -> None:
    """A power failure, another version: no command may fail for ever on them."""
    made = make("whole")
    records = Path(made.run_record_path).parent
    (records / ("e" * 64)).write_text(entry)
    reconcile()
    reconcile()
    assert containers.find("whole").id == made.id


def test_unknown_directories_are_ignored(storage: Path) -> None:
    make("whole")
    for name, text in (("a" * 64, ""), ("b" * 64, "{"), ("c" * 64, "[]"), ("d" * 64, "null")):
        (storage / "containers" / name).mkdir()
        (storage / "containers" / name / "container.json").write_text(text)
    (storage / "containers" / ("f" * 64)).mkdir()
    (storage / "containers" / "file").touch()
    assert containers.find("whole").facts["name"] == "whole"
    with pytest.raises(RlessError):
        containers.find("a" * 64)


@given(
    value=st.dictionaries(
        st.text(),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.text()
            | st.floats(allow_nan=False, allow_infinity=False),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=10,
        ),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_files_are_written_atomically(tmp_path: Path, value: Any) -> None:
    path = str(tmp_path / "file")
    containers.write_json(path, value)
    assert containers.read_json(path) == json.loads(json.dumps(value))
    assert [name for name in os.listdir(tmp_path) if name.startswith("file")] == ["file"]


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    containers.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        containers.write_json(path, object())
    assert containers.read_json(path) == {"old": 1}
    assert [name for name in os.listdir(tmp_path) if name.startswith("file")] == ["file"]
