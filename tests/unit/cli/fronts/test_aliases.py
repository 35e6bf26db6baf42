"""Links by which rless has other names: made, listed, removed, and nothing else is touched."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rootless.cli import main as rless
from rootless.cli.fronts import aliases, versions
from rootless.errors import RlessError


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the program that an installation has."""
    program = tmp_path / "software" / "rless"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    return program


def test_all_names_are_links_to_the_launcher(launcher: Path, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "bin"
    paths = aliases.install(str(directory))
    assert sorted(map(os.path.basename, paths)) == sorted(versions.NUMBERS)
    assert {os.readlink(path) for path in paths} == {str(launcher)}
    assert aliases.install(str(directory)) == paths  # once more is no error
    assert len(os.listdir(directory)) == 5


def test_another_program_stays(launcher: Path, tmp_path: Path) -> None:
    other = tmp_path / "podman"
    other.write_text("the real one")
    with pytest.raises(RlessError, match="podman is there already, and no alias of rless"):
        aliases.install(str(tmp_path))
    assert not os.path.lexists(tmp_path / "docker")  # none of them is made
    aliases.install(str(tmp_path), ["podman"], force=True)
    assert other.readlink() == launcher


def test_directory_is_never_replaced(launcher: Path, tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    with pytest.raises(RlessError, match="is a directory"):
        aliases.install(str(tmp_path), force=True)


def test_alias_of_a_removed_installation_is_replaced(launcher: Path, tmp_path: Path) -> None:
    (tmp_path / "docker").symlink_to("/gone/bin/rless")
    aliases.install(str(tmp_path), ["docker"])
    assert (tmp_path / "docker").readlink() == launcher


def test_only_aliases_are_removed(launcher: Path, tmp_path: Path) -> None:
    aliases.install(str(tmp_path), ["docker", "apptainer"])
    (tmp_path / "podman").symlink_to("/usr/bin/podman")
    assert aliases.remove(str(tmp_path), ["docker", "podman"]) == [str(tmp_path / "docker")]
    assert aliases.find([str(tmp_path)]) == [str(tmp_path / "apptainer")]
    assert (tmp_path / "podman").is_symlink()


def test_python_on_the_package_has_no_alias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "__main__.py")])
    with pytest.raises(RlessError, match="not started by its launcher"):
        aliases.install(str(tmp_path))


def test_verbs(
    launcher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "bin"
    monkeypatch.setenv("PATH", "/nowhere")
    assert rless.main(["alias", "install", "--names", "docker,podman", str(directory)]) == 0
    out, err = capfd.readouterr()
    assert out == f"{directory}/docker\n{directory}/podman\n"
    assert err == f"rless: warning: {directory} is not in PATH: put it first there\n"
    (directory / "docker").unlink()
    (directory / "docker").write_text("#!/bin/sh\n")
    (directory / "docker").chmod(0o755)
    aliases.install(str(tmp_path), ["docker"])
    monkeypatch.setenv("PATH", f"{directory}:{tmp_path}")
    assert rless.main(["alias", "ls", "--format", "{{.Path}} {{.Found}}"]) == 0
    assert capfd.readouterr()[0].splitlines() == [
        f"{directory}/podman yes",
        f"{tmp_path}/docker no: {directory}/docker",
    ]
    assert rless.main(["alias", "install", "--names", "ls", str(directory)]) == 125
    assert "'ls' is not one of apptainer" in capfd.readouterr()[1]
    assert rless.main(["alias", "rm", str(directory)]) == 0
    assert rless.main(["alias", "rm", str(directory)]) == 125
    assert "has no such alias of rless" in capfd.readouterr()[1]
