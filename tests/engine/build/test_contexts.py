"""Contexts from standard input and URLs: what they may be, and what is in a hostile one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from tests.lib.product import wait_for
from tests.lib.web_server import Page, WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lib.product import Product, Result

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")
_DOCKERFILE = b"FROM scratch\nCOPY . /\n"


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as made:
        yield made


@pytest.fixture
def build(rless: Product, tmp_path: Path) -> Callable[..., Result]:
    """Return a function that builds a context, with its files written to `out`."""

    def run(context: str, *words: str, stdin: bytes | None = None) -> Result:
        words = ("--progress=plain", f"-o={tmp_path / 'out'}", *words)
        return rless("build", *words, context, stdin=stdin)

    return run


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for one in members:
            member, content = one, b""
            if not isinstance(one, tarfile.TarInfo):
                member, content = tarfile.TarInfo(one[0]), one[1]
                member.size = len(content)
            assert isinstance(member, tarfile.TarInfo)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress]
)
def test_tar_on_standard_input_is_a_context(
    build: Callable[..., Result], tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    packed = pack(tar(("Dockerfile", _DOCKERFILE), ("./d/file", b"in\n"), (".dockerignore", b"d")))
    build("-", stdin=packed).expect()
    # Who packed it has left out what is not needed: the ignore file is a file like others.
    assert (tmp_path / "out/d/file").read_bytes() == b"in\n"


def test_dockerfile_of_a_packed_context_is_named_within_it(
    build: Callable[..., Result], tmp_path: Path
) -> None:
    packed = tar(("sub/My", b"FROM scratch\nCOPY x /y\n"), ("x", b"in\n"))
    build("-", "-f", "sub/My", stdin=packed).expect()
    assert (tmp_path / "out/y").read_bytes() == b"in\n"
    done = build("-", "-f", "../etc/passwd", stdin=packed)
    assert done.code == 1 and "no such Dockerfile in the context" in done.err
    assert "there is no Dockerfile" in build("-", stdin=packed).err


def test_dockerfile_on_standard_input_has_an_empty_context(
    build: Callable[..., Result], rless: Product
) -> None:
    done = build("-", stdin=b"FROM scratch\nCOPY file /\n")
    assert done.code == 1 and "no such file in the build's context" in done.err
    build("-", stdin=b"FROM scratch\nCOPY <<E /file\ntext\nE\n").expect()
    assert build("-", stdin=b"").code == 1
    assert build("-", "-f", "-", stdin=b"FROM scratch\n").code != 0
    done = build("-", stdin=b"RUN x\n" * 500_000)
    assert "larger than a Dockerfile" in done.one_line_error()
    rless.assert_clean()


def test_dockerfile_on_standard_input_has_a_directory_as_context(
    build: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/file").write_text("in\n")
    build(str(tmp_path / "context"), "-f", "-", stdin=_DOCKERFILE).expect()
    assert (tmp_path / "out/file").read_text() == "in\n"


def test_url_gives_a_context_or_a_dockerfile(
    build: Callable[..., Result], server: WebServer, tmp_path: Path
) -> None:
    server.pages["/c"] = Page(gzip.compress(tar(("Dockerfile", _DOCKERFILE), ("file", b"in\n"))))
    server.pages["/d"] = Page(b"FROM scratch\nCOPY --from=more file /more\n")
    build(server.url("/c")).expect()
    assert (tmp_path / "out/file").read_bytes() == b"in\n"
    build(server.url("/d"), f"--build-context=more={server.url('/c')}").expect()
    assert (tmp_path / "out/more").read_bytes() == b"in\n"
    build(
        server.url("/c"), "-f", server.url("/d"), f"--build-context=more={server.url('/c')}"
    ).expect()
    build(
        str(tmp_path), "-f", server.url("/d"), f"--build-context=more={server.url('/c')}"
    ).expect()
    done = build(server.url("/c"), f"--build-context=more={server.url('/d')}")
    assert done.code == 1 and "no tar archive" in done.err
    assert "404" in build(server.url("/none")).one_line_error()
    assert build(server.url("/c"), "--build-context=more=-").code == 1


def test_packed_context_cannot_reach_out(
    build: Callable[..., Result], tmp_path: Path, rless: Product
) -> None:
    """Classes 1 to 3 and 59."""
    (tmp_path / "outside").write_text("secret\n")
    packed = tar(
        ("Dockerfile", b"FROM scratch\nCOPY . /\n"),
        special("up", tarfile.SYMTYPE, "../../../../../../../../../.." + str(tmp_path)),
        ("up/written", b"x"),
        ("../../../../written", b"x"),
        special("null", tarfile.CHRTYPE),
        special("pipe", tarfile.FIFOTYPE),
    )
    build("-", stdin=packed)
    assert not (tmp_path / "written").exists() and (tmp_path / "outside").exists()
    rless.assert_clean()
    packed = tar(
        ("Dockerfile", b"FROM scratch\nCOPY l /got\n"),
        special("l", tarfile.SYMTYPE, str(tmp_path / "outside")),
    )
    assert build("-", stdin=packed).code == 1
    assert not (tmp_path / "out/got").exists()
    packed = tar(("Dockerfile", _DOCKERFILE), special("h", tarfile.LNKTYPE, "/etc/passwd"))
    assert build("-", stdin=packed).code == 1


@pytest.mark.parametrize("name", [".wh.file", "d/.wh..wh..opq", ".wh.d/file"])
def test_whiteouts_in_a_packed_context_are_refused(build: Callable[..., Result], name: str) -> None:
    """Class 59."""
    packed = tar(("Dockerfile", _DOCKERFILE), ("file", b""), ("d/file", b""), (name, b""))
    done = build("-", stdin=packed)
    assert done.code == 1 and ".wh." in done.one_line_error()


def test_broken_context_is_one_line(build: Callable[..., Result], rless: Product) -> None:
    packed = gzip.compress(tar(("Dockerfile", _DOCKERFILE), ("file", os.urandom(4096))))
    assert build("-", stdin=packed[:-2000]).code == 1
    assert "tar archive" in build("-", stdin=gzip.compress(b"x" * 2048)).one_line_error()
    rless.assert_clean()


def test_directories_that_nobody_may_enter_are_read_and_removed(
    build: Callable[..., Result], rless: Product, tmp_path: Path
) -> None:
    """Class 11."""
    closed = special("d", tarfile.DIRTYPE)
    closed.mode = 0
    packed = tar(("Dockerfile", b"FROM scratch\nCOPY d/file /\n"), closed, ("d/file", b"in\n"))
    build("-", stdin=packed).expect()
    assert (tmp_path / "out/file").read_bytes() == b"in\n"
    rless.assert_clean()


def test_what_a_killed_build_has_unpacked_goes_with_the_next_command(rless: Product) -> None:
    reader, writer = os.pipe()
    packed = tar(
        ("Dockerfile", b"FROM scratch\nCOPY x /\n"),
        *((f"f{number}", os.urandom(4096)) for number in range(100)),
    )
    process = rless.start("build", "-", stdin=reader)
    os.close(reader)
    with open(writer, "wb") as stream:
        stream.write(packed[:200_000])
        stream.flush()
        wait_for(lambda: list((rless.storage / "tmp").glob("*-*")), "the build to begin")
        process.kill()
        process.wait()
    wait_for(lambda: not rless.processes(), "the processes to end")
    rless("build", "-", stdin=b"FROM scratch\n").expect()
    rless.assert_clean()
