"""`system reset`: everything of rless goes, and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def run(rless: Product, name: str, *words: str) -> None:
    rless("run", "--name", name, "--network", "none", *words).expect()


def test_reset_removes_all_that_rless_has_stored(own_rless: Product, tmp_path: Path) -> None:
    """Running containers, files of other ids; but not what links and volumes lead to."""
    rless = own_rless
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    rless("network", "create", "net").expect()
    rless("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt",
          f"device={outside}", "bound").expect()  # fmt: skip
    run(rless, "ended", "-v", "bound:/b", "-v", "vol:/v", "-v", "/anonymous", rless.image, "sh",
        "-c", "mkdir /v/d; chown 7:7 /v/d; chmod 700 /v/d; ls /b")  # fmt: skip
    run(rless, "host", "host:", "true")
    run(rless, "running", "-d", rless.image, "sleep", "600")
    os.symlink(outside, rless.storage / "flat")
    (rless.storage / "files").mkdir()  # of image files that were fetched
    (rless.storage / "files" / "x.sif").touch()
    rless("tag", rless.image, "base").expect()
    text = "FROM base\nRUN --mount=type=cache,target=/c,uid=7 touch /c/x\n"
    rless("build", "-q", "-t", "built", "-", stdin=text.encode()).expect()

    asked = rless("system", "reset", stdin=b"n\n").expect()
    assert str(rless.storage) in asked.out
    assert rless("ps", "-q").lines()

    assert rless("system", "reset", "-f").expect().out == ""
    assert not rless.storage.exists()
    assert (outside / "file").read_text() == "kept"
    assert rless("ps", "-aq").expect().out == ""
    assert rless("images", "-q").expect().out == ""


def test_files_that_are_not_from_rless_stay(own_rless: Product) -> None:
    own_rless("volume", "create", "vol").expect()
    mine = own_rless.storage / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("dear")
    said = own_rless("system", "reset", "-f").expect().one_line_error()
    assert "not from rless: mine" in said
    assert (mine / "thesis").read_text() == "dear"
    assert os.listdir(own_rless.storage) == ["mine"]


def test_reset_waits_for_no_pull(own_rless: Product) -> None:
    """An image that is being fetched would lose its layers."""
    rless = own_rless
    rless("volume", "create", "vol").expect()
    with open(rless.storage / "lock", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert "being fetched" in rless("system", "reset", "-f").expect(1).one_line_error()
    assert rless("volume", "ls", "-q").lines() == ["vol"]


def test_container_of_another_machine_is_left_alone(own_rless: Product) -> None:
    """In a storage that machines share, only that machine can tell whether it runs."""
    rless = own_rless
    run(rless, "there", "host:", "true")
    directory = rless.container()
    facts = json.loads((directory / "container.json").read_text())
    (directory / "container.json").write_text(json.dumps({**facts, "host": "elsewhere"}))
    (directory / "exit.json").unlink()
    said = rless("system", "reset", "-f").expect(1).one_line_error()
    assert "container there may run on elsewhere" in said
    assert rless("ps", "-aq").lines()
    rless("rm", "-f", "there").expect()
