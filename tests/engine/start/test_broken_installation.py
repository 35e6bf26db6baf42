"""An installation with missing or unusable programs is reported in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.lib import flat as made
from tests.lib.product import ROOT, Product, python_launcher


@pytest.fixture
def installed(own_rless: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run rless from a copy of the tree; return the directory of its programs."""
    own_rless("pull", "-q", own_rless.image).expect()
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "rootless", tree / "rootless")
    words = [str(tree) if word == str(ROOT) else word for word in python_launcher()]
    monkeypatch.setattr(own_rless, "argv", lambda *more: [*words, *more])
    return tree / "rootless" / "bin"


PROGRAMS = [
    *("rless-monitor", "rless-userns-holder", "rless-init"),
    pytest.param("rless-pasta", marks=pytest.mark.needs("pasta", "tun")),
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_missing_program_is_reported(own_rless: Product, installed: Path, name: str) -> None:
    rless = own_rless
    (installed / name).unlink()
    network = () if name == "rless-pasta" else ("--network=none",)
    done = rless("run", "--rm", "--init", *network, rless.image, "true").expect(125)
    error = done.one_line_error()
    assert f"cannot execute {installed}/{name}: No such file or directory" in error
    assert "install rless again" in error
    assert rless.containers() == []
    assert f"{name}: cannot be executed" in " ".join(rless("doctor").out.split())


@pytest.mark.needs("fuse", "squashfuse", "mksquashfs")
def test_missing_file_server_is_reported_instead_of_unpacking(
    own_rless: Product, installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    image = made.mksquashfs(tmp_path / "root", tmp_path / "image.sqsh")
    (installed / "rless-serve").unlink()
    done = own_rless("run", "--rm", "--network=none", str(image), "true").expect(125)
    assert "rless-serve: No such file or directory" in done.one_line_error()


@pytest.mark.parametrize(
    ("content", "mode", "hint"),
    [
        (b"\x7fELF for another processor", 0o755, "install rless again"),
        (b"\x7fELF", 0o644, "noexec"),  # as on such a mount
    ],
)
def test_program_that_may_not_be_executed_is_reported(
    own_rless: Product, installed: Path, content: bytes, mode: int, hint: str
) -> None:
    program = installed / "rless-userns-holder"
    program.unlink()
    program.write_bytes(content)
    program.chmod(mode)
    done = own_rless("run", "--rm", "--network=none", own_rless.image, "true").expect(125)
    assert hint in done.one_line_error()
    assert own_rless.containers() == []


def test_failed_start_keeps_the_container(own_rless: Product, installed: Path) -> None:
    rless = own_rless
    (installed / "rless-monitor").unlink()
    done = rless("create", "--name", "kept", "--network=none", rless.image, "true").expect()
    done = rless("start", "kept").expect(1)
    assert "install rless again" in done.err
    assert "Exited (125)" in rless("ps", "-a").out
    rless("rm", "kept").expect()


def test_detached_exec_needs_its_helper_program(own_rless: Product, installed: Path) -> None:
    rless = own_rless
    rless("run", "-d", "--name", "up", "--network=none", rless.image, "sleep", "60").expect()
    (installed / "rless-monitor").unlink()
    done = rless("exec", "-d", "up", "touch", "/begun").expect(125)
    assert "install rless again" in done.one_line_error()
    rless("exec", "up", "test", "-e", "/begun").expect(1)
    rless("rm", "-f", "up").expect()
