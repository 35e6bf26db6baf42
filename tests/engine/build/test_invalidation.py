"""What makes a step be done anew and what does not, one by one, for COPY and for a bind mount."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lib.builds import Builds, cached, seed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

STEPS = {
    "copy": "COPY tree /tree/\n",
    "bind": "RUN --mount=type=bind,source=tree,target=/m --mount=type=secret,id=s cat /m/file\n",
}


@pytest.fixture(params=sorted(STEPS))
def step(request: pytest.FixtureRequest) -> str:
    return STEPS[request.param]


@pytest.fixture
def build(rless: Product, tmp_path: Path) -> Builds:
    return Builds(rless, tmp_path / "context")


@pytest.fixture
def tree(build: Builds) -> Path:
    made = build.context / "tree"
    (made / "dir").mkdir(parents=True)
    (made / "file").write_text("before")
    (made / "link").symlink_to("file")
    (made / "ignored").write_text("before")
    (build.context / "outside").write_text("before")
    (build.context / ".dockerignore").write_text("tree/ignored\n")
    return made


def change_a_byte(tree: Path) -> None:
    """Neither size nor time tells."""
    status = os.stat(tree / "file")
    (tree / "file").write_text("beyond")
    os.utime(tree / "file", ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte": change_a_byte,
    "a mode": lambda tree: (tree / "file").chmod(0o600),
    "the mode of a directory": lambda tree: (tree / "dir").chmod(0o700),
    "a name": lambda tree: (tree / "dir").rename(tree / "other"),
    "where a link leads": lambda tree: ((tree / "link").unlink(), (tree / "link").symlink_to("x")),
    "an empty directory": lambda tree: (tree / "other" / "empty").mkdir(),
    "a file that goes": lambda tree: (tree / "link").unlink(),
    "an attribute": lambda tree: os.setxattr(tree / "file", "user.note", b"x"),
    "a file in place of a directory": lambda tree: (
        shutil.rmtree(tree / "other"),
        (tree / "other").touch(),
    ),
}


def test_each_change_of_a_source_invalidates(build: Builds, tree: Path, step: str) -> None:
    text = f"FROM localhost/base:1\n{seed()}{step}"
    assert cached(build(text, tag="").expect()) == 0
    for what, change in CHANGES.items():
        change(tree)
        assert cached(build(text, tag="").expect()) == 1, what


def test_nothing_else_invalidates(build: Builds, tree: Path, step: str, tmp_path: Path) -> None:
    head = seed()
    secret = tmp_path / "secret"
    secret.write_text("before")
    words = ["--secret", f"id=s,src={secret}"]
    stage = "FROM localhost/base:1 AS {}\nRUN : {}\n"
    last = "FROM localhost/base:1\n"
    plain = f"{last}{head}{step}"

    def same(what: str, text: str, *more: str, steps: int = 2) -> None:
        assert cached(build(text, *words, *more, tag="").expect()) == steps, what

    same("nothing yet", plain, steps=0)
    same("nothing", plain)
    for path in (tree, tree / "file", tree / "dir"):
        os.utime(path, (1000, 1000))
    same("times", plain)
    copy = tree.with_name("copy")  # as a new clone has it: other inodes
    shutil.copytree(tree, copy, symlinks=True)
    tree.rename(tree.with_name("old"))
    copy.rename(tree)
    same("inodes", plain)
    (build.context / "outside").write_text("after")
    same("a file that no step names", plain)
    (tree / "ignored").write_text("after")
    same("an ignored file", plain)
    same("a stage that nobody needs", f"{stage.format('other', 1)}{plain}")
    same("the same, changed", f"{stage.format('other', 2)}{plain}")
    same("a comment, blank lines", f"# one\n{last}\n\n# two\n{head}\n# three\n{step}\n\n")
    same("a label of the file", f"{last}LABEL a=1\n{head}LABEL b=2\n{step}CMD x\n")
    same("a label", plain, "--label", "c=3")
    secret.write_text("after")
    same("the value of a secret", plain)
    same("a proxy", plain, "--build-arg", "HTTP_PROXY=http://localhost:1")
    same("an argument that nobody uses", plain, "--build-arg", "unused=1")
    same("the other name", plain, "-t", "localhost/other:1")
