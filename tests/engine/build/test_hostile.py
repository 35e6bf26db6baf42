"""Hostile contexts, images and archives: nothing outside is read or written, and nothing hangs."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lib.product import Product, Result

    Build = Callable[..., Result]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("secret\n")
    path = tmp_path / "context"
    path.mkdir()
    return path


@pytest.fixture
def build(rless: Product, context: Path) -> Build:
    """Return a function that builds a Dockerfile in the context; none of it is kept."""
    rless("tag", rless.image, "localhost/base:1").expect()

    def run(text: str, *words: str, **more: Any) -> Result:
        if text:
            (context / "Dockerfile").write_text(text)
        words = ("--progress=plain", "--no-cache", "--output=type=cacheonly", *words)
        return rless("build", *words, str(context), timeout=30, **more)

    return run


@pytest.mark.parametrize("target", ["../outside", "{tmp}/outside", "/proc/self/root{tmp}/outside"])
def test_link_out_of_the_context_is_not_followed(
    build: Build, context: Path, tmp_path: Path, target: str
) -> None:
    """Class 70: the root of the context is the root of its links."""
    (context / "link").symlink_to(target.format(tmp=tmp_path))
    (context / "dir").symlink_to("..")
    for source in ("link", "dir/outside", "../outside", "li*"):
        done = build(f"FROM localhost/base:1\nCOPY {source} /got\nRUN cat /got || true\n")
        assert "secret" not in done.err
        assert done.code == 1 or source == "li*", done


def test_dockerfile_that_is_a_link_out_is_not_read(
    build: Build, context: Path, tmp_path: Path
) -> None:
    """Class 71."""
    (tmp_path / "outside").write_text("FROM localhost/base:1\nRUN echo was read\n")
    (context / "Dockerfile").symlink_to("../outside")
    done = build("")
    assert done.code != 0 and "was read" not in done.err


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore"])
def test_fifo_does_not_hang_the_build(build: Build, context: Path, name: str) -> None:
    """Class 71."""
    text = "FROM localhost/base:1\n"
    if name == "Dockerfile":
        text = ""
    os.mkfifo(context / name)
    done = build(text)
    assert done.code != 0 and name in done.err


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_ignore_file_beside_the_dockerfile_is_no_way_out(
    build: Build, context: Path, tmp_path: Path, kind: str
) -> None:
    """Class 71: a Dockerfile that is named comes with an ignore file, of whoever wrote both."""
    (context / "D").write_text("FROM localhost/base:1\n")
    beside = context / "D.dockerignore"
    if kind == "link":
        beside.symlink_to(tmp_path / "outside")
    elif kind == "fifo":
        os.mkfifo(beside)
    else:
        beside.mkdir()
    done = build("", "-f", str(context / "D"))
    assert done.code != 0 and "D.dockerignore" in done.err and "secret" not in done.err


def test_huge_ignore_file_is_refused_and_not_shown(build: Build, context: Path) -> None:
    (context / ".dockerignore").write_text("secret-line\n" * 200_000)
    done = build("FROM localhost/base:1\n")
    assert done.code != 0 and "secret-line" not in done.err


def test_destination_through_a_link_stays_in_the_image(
    build: Build, context: Path, tmp_path: Path
) -> None:
    """Class 52."""
    (context / "file").write_text("copied\n")
    build(
        "FROM localhost/base:1\n"
        f"RUN ln -s {tmp_path} /out; ln -s ../../../../../..{tmp_path} /up; mkdir -p {tmp_path}\n"
        "COPY file /out/new\n"
        "COPY file /up/new2\n"
        f"RUN cat {tmp_path}/new {tmp_path}/new2\n"
    ).expect()
    assert not (tmp_path / "new").exists() and not (tmp_path / "new2").exists()


def test_owner_by_name_reads_only_a_regular_passwd(build: Build, context: Path) -> None:
    """Class 69."""
    (context / "file").write_text("")
    done = build(
        "FROM localhost/base:1\nRUN rm /etc/passwd; mkfifo /etc/passwd\nCOPY --chown=user file /f\n"
    )
    assert done.code == 1 and "passwd" in done.err


def test_unknown_owner_is_refused(build: Build, context: Path) -> None:
    (context / "file").write_text("")
    done = build("FROM localhost/base:1\nCOPY --chown=nobody2 file /f\n")
    assert done.code == 1 and "nobody2" in done.err


def test_sockets_and_fifos_of_a_context_are_left_out(build: Build, context: Path) -> None:
    """Class 65."""
    (context / "d").mkdir()
    (context / "d/file").write_text("")
    os.mkfifo(context / "d/fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(context / "d", os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        done = build("FROM localhost/base:1\nCOPY d /d\nRUN ls /d | tr '\\n' ' '\n").expect()
    assert " file \n" in done.err
    assert done.err.count("left out") == 2


def archive(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as made:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("name", ["../../../escaped", "/escaped", "a/../../../escaped"])
def test_archive_stays_beneath_the_destination(
    build: Build, context: Path, tmp_path: Path, name: str
) -> None:
    """Class 59."""
    (context / "a.tgz").write_bytes(archive((name, b"out\n"), ("kept", b"in\n")))
    done = build("FROM localhost/base:1\nADD a.tgz /d/e/\nRUN ls / /d /d/e; cat /d/e/kept\n")
    assert not (tmp_path / "escaped").exists()
    if done.code == 0:
        listed = done.err.partition("RUN ls")[2]
        root = listed.partition("/d:")[0]
        assert "escaped" not in root, done


def test_whiteout_in_an_archive_deletes_nothing(build: Build, context: Path) -> None:
    """Class 59."""
    (context / "a.tgz").write_bytes(archive(("bin/.wh.busybox", b"")))
    done = build("FROM localhost/base:1\nADD a.tgz /\nRUN true\n")
    assert done.code == 1 and ".wh." in done.err


def test_device_in_an_archive_is_left_out(build: Build, context: Path) -> None:
    """Class 65."""
    with tarfile.open(context / "a.tar", "w") as made:
        for name, kind in (("null", tarfile.CHRTYPE), ("disk", tarfile.BLKTYPE), ("file", b"0")):
            member = tarfile.TarInfo(name)
            member.type, member.devmajor, member.devminor = kind, 1, 3
            made.addfile(member)
    done = build("FROM localhost/base:1\nADD a.tar /d/\nRUN ls /d | tr '\\n' ' '\n").expect()
    assert " file \n" in done.err


def test_instructions_of_a_base_image_have_no_secrets(
    rless: Product, build: Build, context: Path
) -> None:
    """Class 62: what ONBUILD does is shown, and has no more than any RUN."""
    (context / "Dockerfile").write_text(
        "FROM localhost/base:1\n"
        "ONBUILD RUN --mount=type=secret,id=key cat /run/secrets/key || echo no secret; id -u\n"
    )
    rless("build", "-t", "localhost/trigger:1", str(context)).expect()
    try:
        done = build("FROM localhost/trigger:1\n").expect()
        assert "] ONBUILD RUN --mount=type=secret,id=key cat" in done.err and " no secret\n" in done.err
    finally:
        rless("rmi", "localhost/trigger:1").expect()


def test_control_characters_of_a_dockerfile_are_escaped(build: Build) -> None:
    """Class 68."""
    done = build("FROM localhost/base:1\nRUN echo \x1b[31m; exit 3\n")
    assert done.code == 1
    assert ">>> RUN echo \x1b" not in done.err
