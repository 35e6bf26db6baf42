"""What COPY and ADD take, where it goes, whose it is: the rules of the reference, one by one."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lib import images
from tests.lib.builds import NAME, Builds

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lib.product import Product, Result

    Build = Callable[..., Result]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    path = tmp_path / "context"
    for name, text in {"one": "1", "two": "2", "d/x": "x", "d/sub/y": "y", "d/z.log": "z"}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


@pytest.fixture
def build(rless: Product, context: Path) -> Build:
    """Return a function that does the lines on the base, then lists /t: path, mode, owner."""
    rless("tag", rless.image, "localhost/base:1").expect()
    show = "cd /t && find . ! -type l -exec stat -c '%n %a %u:%g' {} + | sort"

    def run(lines: str, *words: str, **more: Any) -> Result:
        (context / "Dockerfile").write_text(f"FROM localhost/base:1\n{lines}RUN {show}\n")
        options = ("--progress=plain", "--no-cache", "--output=type=cacheonly")
        return rless("build", *options, *words, str(context), timeout=30, **more)

    return run


def listed(done: Result) -> list[str]:
    """Return the lines that the last RUN has printed."""
    lines = [line.split(" ", 2)[2] for line in done.expect().err.splitlines() if " ./" in line]
    return [line.replace("./", "", 1) for line in lines]


def test_contents_of_a_directory_are_copied(build: Build, context: Path) -> None:
    (context / "d/sub").chmod(0o700)
    assert listed(build("COPY d /t\n")) == [
        "sub 700 0:0", "sub/y 644 0:0", "x 644 0:0", "z.log 644 0:0",
    ]  # fmt: skip


def test_file_gets_the_name_of_the_destination_or_goes_into_it(build: Build) -> None:
    lines = "WORKDIR /t\nCOPY one .\nCOPY one sub/\nCOPY one sub/named\n"
    assert listed(build(lines)) == [
        "one 644 0:0", "sub 755 0:0", "sub/named 644 0:0", "sub/one 644 0:0",
    ]  # fmt: skip


def test_several_sources_need_a_directory(build: Build) -> None:
    assert listed(build("COPY one two /t/\n")) == ["one 644 0:0", "two 644 0:0"]
    done = build("COPY one two /t\n")
    assert done.code == 1 and "slash" in done.err


def test_wildcards_do_not_cross_a_slash(build: Build) -> None:
    assert listed(build("COPY d/* /t/\n")) == ["x 644 0:0", "y 644 0:0", "z.log 644 0:0"]
    assert listed(build("COPY */x t?o /t/\n")) == ["two 644 0:0", "x 644 0:0"]


def test_ignored_and_excluded_files_are_not_copied(build: Build, context: Path) -> None:
    assert listed(build("COPY --exclude=**/*.log --exclude=sub d /t\n")) == ["x 644 0:0"]
    (context / ".dockerignore").write_text("d\n!d/sub\n")
    assert listed(build("COPY . /t\n"))[-2:] == ["one 644 0:0", "two 644 0:0"]
    assert "d/sub/y 644 0:0" in listed(build("COPY . /t\n"))
    done = build("COPY d/x /t/\n")
    assert done.code == 1 and "d/x" in done.err


def test_directory_is_not_there_if_nothing_in_it_comes_back(build: Build, context: Path) -> None:
    (context / ".dockerignore").write_text("**\n!d/nothing\n")
    for source in ("d", "d/"):
        done = build(f"COPY {source} /t\n")
        assert done.code == 1 and ".dockerignore" in done.err
    assert listed(build("WORKDIR /t\nCOPY * sub/\n")) == []


def test_owner_and_mode_are_those_of_the_flags(build: Build, context: Path) -> None:
    lines = "COPY --chown=user:10 --chmod=u=rwX,go= d /t\nCOPY --chown=7 --chmod=4711 one /t/\n"
    assert listed(build(lines)) == [
        "one 4711 7:7", "sub 700 1000:10", "sub/y 600 1000:10", "x 600 1000:10",
        "z.log 600 1000:10",
    ]  # fmt: skip


def test_existing_destination_keeps_mode_and_owner(build: Build) -> None:
    lines = "RUN mkdir -p /t/sub && chmod 711 /t/sub && chown 5:6 /t/sub && echo old > /t/sub/y\n"
    assert listed(build(f"{lines}COPY d/sub /t/sub\n")) == ["sub 711 5:6", "sub/y 644 0:0"]


def test_existing_directory_gets_mode_and_owner_of_the_one_that_is_copied(
    build: Build, context: Path
) -> None:
    """Docker does so, for each directory below the source: buildah's conformance test "directory"."""
    lines = "RUN mkdir -p -m 711 /t/sub && chown 5:6 /t/sub && echo old > /t/sub/y\n"
    (context / "d/sub").chmod(0o750)
    assert listed(build(f"{lines}COPY d /t\n"))[:2] == ["sub 750 0:0", "sub/y 644 0:0"]


def test_directory_over_a_file_is_an_error(build: Build) -> None:
    done = build("RUN mkdir /t && touch /t/sub\nCOPY d /t\n")
    assert done.code == 1 and "/t/sub" in done.err
    done = build("RUN mkdir -p /t/x/y\nCOPY d /t\n")
    assert done.code == 1 and "/t/x" in done.err


def test_parents_are_kept_from_the_pivot_on(build: Build) -> None:
    assert listed(build("COPY --parents d/sub/y /t/\n")) == [
        "d 755 0:0", "d/sub 755 0:0", "d/sub/y 644 0:0",
    ]  # fmt: skip
    assert listed(build("COPY --parents d/./sub/y /t/\n")) == ["sub 755 0:0", "sub/y 644 0:0"]


def test_owners_of_a_stage_are_kept(build: Build) -> None:
    lines = (
        "RUN mkdir /from && echo a > /from/a && chown 3:4 /from/a && chmod 640 /from/a\n"
        "FROM localhost/base:1\nCOPY --from=0 /from /t\n"
    )  # fmt: skip
    assert listed(build(lines)) == ["a 640 3:4"]


def test_hard_links_stay_hard_links(build: Build, context: Path) -> None:
    os.link(context / "d/x", context / "d/same")
    done = build("COPY d /t\nRUN test /t/x -ef /t/same && echo linked\n")
    assert " linked\n" in done.expect().err


def test_here_document_is_a_file(build: Build) -> None:
    lines = "ARG who=me\nCOPY <<a <<'b' /t/\nfor $who\na\nfor $who\nb\nRUN cat /t/a /t/b\n"
    err = build(lines).expect().err
    assert " for me\n" in err and " for $who\n" in err


def test_missing_source_is_named(build: Build) -> None:
    done = build("COPY nowhere /t/\n")
    assert done.code == 1 and "nowhere" in done.err


def test_archive_is_unpacked_by_its_content(build: Build, context: Path) -> None:
    import subprocess

    subprocess.run(["tar", "-cJf", context / "packed", "-C", context / "d", "x"], check=True)
    assert [line.split()[0] for line in listed(build("ADD packed /t/\n"))] == ["x"]
    assert listed(build("ADD --unpack=false packed /t/\n")) == ["packed 644 0:0"]
    assert listed(build("COPY packed /t/\n")) == ["packed 644 0:0"]


def _archive(path: Path, *members: tuple[str, bytes, str]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            archive.addfile(member)


def test_links_on_the_way_are_followed_in_the_destination(build: Build, context: Path) -> None:
    """Those of the archive and those that are there, as tar in a chroot of the destination does."""
    _archive(
        context / "a.tar",
        ("up", tarfile.SYMTYPE, "../.."),
        ("up/etc/file", tarfile.REGTYPE, ""),
        ("bin/tool", tarfile.REGTYPE, ""),
        ("bin/same", tarfile.LNKTYPE, "bin/tool"),
    )
    lines = "RUN mkdir -p /t/usr/bin && ln -s /usr/bin /t/bin\nADD a.tar /t\nRUN test -L /t/bin\n"
    assert listed(build(lines)) == [
        "etc 755 0:0", "etc/file 644 0:0",
        "usr 755 0:0", "usr/bin 755 0:0", "usr/bin/same 644 0:0", "usr/bin/tool 644 0:0",
    ]  # fmt: skip


def test_links_of_an_archive_may_not_go_in_a_circle(build: Build, context: Path) -> None:
    _archive(context / "a.tar", ("l", tarfile.SYMTYPE, "l"), ("l/file", tarfile.REGTYPE, ""))
    done = build("ADD a.tar /t\n")
    assert done.code == 1 and "too many links" in done.err


def test_directories_that_an_archive_leaves_out_are_in_the_layer(
    context: Path, rless: Product, tmp_path: Path
) -> None:
    _archive(context / "a.tar", ("deep/down/file", tarfile.REGTYPE, ""))
    Builds(rless, context)("FROM scratch\nADD a.tar /t/\n").expect()
    saved = tmp_path / "saved.tar"
    rless("save", "-q", "-o", str(saved), NAME).expect()
    assert list(images.saved_members(saved)[-1]) == ["t", "t/deep", "t/deep/down", "t/deep/down/file"]


def test_attributes_and_capabilities_are_kept(
    context: Path, rless: Product, tmp_path: Path
) -> None:
    """Of an archive, of a context, and from one stage to the next."""
    capability = bytes.fromhex("0100000200040000000000000000000000000000")  # net_bind_service=ep
    with tarfile.open(context / "given.tar", "w") as archive:
        member = tarfile.TarInfo("given")
        member.pax_headers = {
            "SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape"),
            "SCHILY.xattr.user.note": "archive",
        }
        archive.addfile(member)
    (context / "noted").write_text("")
    os.setxattr(context / "noted", "user.note", b"context")
    Builds(rless, context)(
        "FROM scratch AS stage\nADD given.tar /\nCOPY noted /\n"
        "FROM localhost/base:1\nCOPY --from=stage /given /noted /kept/\n"
    ).expect()
    saved = tmp_path / "saved.tar"
    rless("save", "-q", "-o", str(saved), NAME).expect()
    top = images.saved_members(saved)[-1]
    given, noted = (top[f"kept/{name}"].pax_headers for name in ("given", "noted"))
    assert given["SCHILY.xattr.user.note"] == "archive"
    kept = given["SCHILY.xattr.security.capability"]
    assert kept.encode("utf-8", "surrogateescape") == capability
    assert noted["SCHILY.xattr.user.note"] == "context"
