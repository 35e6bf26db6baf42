"""The oci.conf of each version of Slurm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless import config
from rootless.engine.ranks import slurm_config
from rootless.errors import RlessError

# src/common/oci_config.c of these versions: an unknown key is fatal for every step.
_KEYS_22_05 = frozenset(
    "ContainerPath CreateEnvFile RunTimeCreate RunTimeDelete RunTimeKill RunTimeQuery RunTimeRun"
    " RunTimeStart".split()
)
_KEYS_23_02 = _KEYS_22_05 | frozenset(
    "DisableHooks EnvExclude MountSpoolDir RunTimeEnvExclude SrunPath SrunArgs DisableCleanup"
    " StdIODebug SyslogDebug FileDebug DebugFlags IgnoreFileConfigJson".split()
)


def _entries(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return dict(line.partition("=")[::2] for line in lines)


@pytest.mark.parametrize(
    ("version", "keys"), [((22, 5), _KEYS_22_05), ((23, 2), _KEYS_23_02), ((26, 5), _KEYS_23_02)]
)
def test_only_keys_of_the_version_are_printed(
    version: tuple[int, int], keys: frozenset[str]
) -> None:
    entries = _entries(slurm_config.oci_conf(version, "/usr/bin", images=False))
    assert entries.keys() <= keys
    assert {"RunTimeRun", "RunTimeQuery", "RunTimeKill", "RunTimeDelete"} <= entries.keys()
    # What is not quoted ends at a space; a quote inside would end it, too.
    assert all(value[0] == value[-1] == '"' for value in entries.values())
    assert all('"' not in value[1:-1] for value in entries.values())


def test_run_is_the_process_that_slurm_signals() -> None:
    for images in (False, True):
        run = _entries(slurm_config.oci_conf((23, 11), "/usr/bin", images=images))["RunTimeRun"]
        assert run.startswith('"exec /usr/bin/rless')


def test_images_need_a_slurm_that_can_name_them() -> None:
    entries = _entries(slurm_config.oci_conf((23, 2), "/usr/bin", images=True))
    assert entries.keys() <= _KEYS_23_02
    assert entries["IgnoreFileConfigJson"] == "true"
    with pytest.raises(RlessError, match="can name no image"):
        slurm_config.oci_conf((22, 5), "/usr/bin", images=True)


@pytest.mark.parametrize("directory", ["/opt/my tools", '/a"b', "/50%", "relative", "/a'b", "/$x"])
def test_directory_unfit_for_a_pattern_is_refused(directory: str) -> None:
    with pytest.raises(RlessError, match="patterns allow no such"):
        slurm_config.oci_conf((23, 11), directory, images=False)


@pytest.mark.parametrize(
    ("text", "version"),
    [("22.05.8", (22, 5)), ("23.11", (23, 11)), ("24.05.0-0rc1", (24, 5)), ("26.05.3-1", (26, 5))],
)
def test_versions_are_parsed(text: str, version: tuple[int, int]) -> None:
    assert slurm_config.parse_version(text) == version


@pytest.mark.parametrize("text", ["", "x", "23", "20.11.9", "23.x", "\u0662\u0663.\u0661\u0661"])
def test_invalid_version_is_refused(text: str) -> None:
    with pytest.raises(RlessError):
        slurm_config.parse_version(text)


def test_installed_version_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "slurmd"
    program.write_text("#!/bin/sh\necho slurm-wlm 24.11.5\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert slurm_config.installed_version() == (24, 11)


def test_home_of_another_user_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # slurmd starts jobs' runtimes with root's.
    monkeypatch.delenv("HOME", raising=False)
    own = config.home()
    monkeypatch.setenv("HOME", "/proc")
    assert config.home() == own
    # A child in a user namespace has another uid, and would look up another home.
    assert os.environ["HOME"] == own
    monkeypatch.setenv("HOME", "/nonexistent-home")
    assert config.home() == "/nonexistent-home"
