"""`save`, `load`, `import` and `commit` show how far they are, on a terminal only."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def on_terminal(rless: Product, *words: str, stdin: int | None = None) -> str:
    """Run a command with a terminal for its errors; return what it has shown there."""
    leader, follower = pty.openpty()
    process = rless.start(*words, stdin=stdin, stderr=follower, env={"TERM": "xterm"})
    os.close(follower)
    shown = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # EIO: it was closed at the other end
            break
        if not chunk:
            break
        shown += chunk
    os.close(leader)
    process.communicate(timeout=60)
    assert process.returncode == 0, shown.decode()
    return shown.decode()


def through_pipe(path: Path, rless: Product, *words: str) -> str:
    with open(path, "rb") as file:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            while data := file.read(65536):
                os.write(writer, data)
            os._exit(0)
        os.close(writer)
        shown = on_terminal(rless, *words, stdin=reader)
        os.close(reader)
        os.wait()
    return shown


def test_progress_is_shown_on_a_terminal(rless: Product, tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 25)
    deep.mkdir()
    archive, files = tmp_path / "image.tar", deep / "files.tar"
    assert ": Saved" in on_terminal(rless, "save", "-o", str(archive), rless.image)
    packed = (
        "save",
        "--format",
        "oci-archive",
        "--compress",
        "gzip",
        "-o",
        str(tmp_path / "packed"),
    )
    assert ": Saved" in on_terminal(rless, *packed, rless.image)
    assert "standard input: Read" in through_pipe(archive, rless, "load")
    rless("create", "--name", "one", rless.image).expect()
    rless("export", "-o", str(files), "one").expect()
    shown = on_terminal(rless, "import", str(files))
    assert "files.tar: Read" in shown  # whatever the length of the path
    assert "Pull complete" in shown
    assert "one: Committed" in on_terminal(rless, "commit", "one")
    rless("rm", "one").expect()


def test_nothing_is_shown_in_a_pipe(rless: Product, tmp_path: Path) -> None:
    archive = str(tmp_path / "image.tar")
    rless("create", "--name", "one", rless.image).expect()
    for words in (
        ("save", "-o", archive, rless.image),
        ("load", "-i", archive),
        ("commit", "one"),
    ):
        assert rless(*words).expect().err == ""
    rless("rm", "one").expect()
