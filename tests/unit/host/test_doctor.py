"""The output of doctor; it leaves nothing behind."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from rootless.host import doctor, probe
from rootless.host.checks import FAIL, OK, WARN, Check


def test_table_is_aligned_and_escaped() -> None:
    found = [
        Check("a", OK, "fine"),
        Check("longer-id", WARN, "esc\x1b[2J " + "word " * 40, "meaning", "first\n  a file\n"),
    ]
    text = doctor.render(found, 80, False)
    lines = text.splitlines()
    assert lines[0] == "ok    a          fine"
    assert lines[1].startswith("warn  longer-id  esc\\x1b[2J word")
    assert all(len(line) <= 80 for line in lines)
    assert all(line.startswith(" " * 17) for line in lines[2:])
    assert lines[-1].endswith("  a file")
    coloured = doctor.render(found, 80, True)
    assert coloured.replace("\033[32m", "").replace("\033[33m", "").replace("\033[0m", "") == text


def test_doctor_has_exit_code_and_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Check("a", OK, "fine"), Check("b", WARN, "odd")]
    monkeypatch.setattr(doctor, "collect", lambda: found)
    assert doctor.main(json_output=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["works"] is True
    assert [check["id"] for check in document["checks"]] == ["a", "b"]
    assert set(document["checks"][0]) == {"id", "status", "fact", "meaning", "fix"}
    found.append(Check("c", FAIL, "broken"))
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert out.endswith("rless run does not work here yet: c\n")
    assert "\033" not in out


@pytest.mark.needs("user namespaces")
def test_doctor_runs_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "storage"
    monkeypatch.setenv("RLESS_STORAGE", str(storage))
    doctor.main(json_output=True)
    document = json.loads(capsys.readouterr().out)
    statuses = {check["id"]: check["status"] for check in document["checks"]}
    assert statuses["userns"] == OK
    assert {"storage", "driver", "network", "seccomp", "cgroup"} <= set(statuses)
    assert not storage.exists()  # nothing is left


def test_foreign_storage_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setenv("RLESS_STORAGE", str(tmp_path))
    found = list(doctor._storage(True))
    assert [check.status for check in found] == [FAIL]
    assert found[0].fix == f"chmod 700 {tmp_path}"


def test_what_needs_user_namespaces_is_not_judged_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as in a chroot: modules of the kernel would be named as missing."""

    def refused() -> str:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setenv("RLESS_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setattr(probe, "user_namespace", refused)
    found = {check.id: check.status for check in doctor.collect()}
    assert found["userns"] == FAIL
    assert not {"bridges", "mounts", "idmap", "overlay"} & set(found)
