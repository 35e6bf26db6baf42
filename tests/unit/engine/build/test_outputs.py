"""What a build makes: -o as typed, and files beneath a directory of the caller's."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from rootless.engine.build import outputs
from rootless.engine.build.outputs import Output, parse
from rootless.engine.build.request import BuildRequest
from rootless.errors import RlessError

if TYPE_CHECKING:
    from pathlib import Path


def one(text: str, **more: Any) -> Output:
    (found,) = parse([text], **more)
    return found


def facts(output: Output) -> dict[str, Any]:
    """Return what differs from the defaults."""
    default = Output(kind="")
    found = {name: value for name, value in vars(output).items() if name != "umask"}
    return {name: value for name, value in found.items() if value != getattr(default, name)}


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("/out", {"kind": "local", "dest": "/out"}),
        ("-", {"kind": "tar", "dest": "-"}),
        ("type=local,dest=/out,mode=delete", {"kind": "local", "dest": "/out", "delete": True}),
        ("type=tar", {"kind": "tar", "dest": "-"}),
        ('type=tar,"dest=/a,b.tar"', {"kind": "tar", "dest": "/a,b.tar"}),
        ("type=oci,dest=/x,tar=false", {"kind": "oci", "dest": "/x", "directory": True}),
        ("type=oci,compression=zstd", {"kind": "oci", "dest": "-", "compression": "zstd"}),
        ("type=oci,compression=uncompressed", {"kind": "oci", "dest": "-", "compression": ""}),
        (
            "type=registry,name=a,compression=uncompressed",
            {"kind": "image", "names": ("a",), "push": True, "compression": ""},
        ),
        ("type=docker,dest=/x.tar", {"kind": "docker", "dest": "/x.tar"}),
        ("type=docker", {"kind": "image"}),
        ("type=image,name=a:1,push=true", {"kind": "image", "names": ("a:1",), "push": True}),
        ('type=registry,"name=a,b"', {"kind": "image", "names": ("a", "b"), "push": True}),
        ("type=image,rewrite-timestamp=1", {"kind": "image", "rewrite_timestamp": True}),
        (
            "type=squashfs,dest=/x.sqsh,compression=xz,keep-owners=true",
            {"kind": "squashfs", "dest": "/x.sqsh", "compression": "xz", "keep_owners": True},
        ),
        ("type=cacheonly", {"kind": "cacheonly"}),
    ),
)
def test_outputs_are_read(text: str, expected: dict[str, Any]) -> None:
    assert facts(one(text)) == expected


def test_shorthands_add_to_what_is_given() -> None:
    assert [facts(found) for found in parse([])] == [{"kind": "image"}]
    pushed = {"kind": "image", "push": True}
    assert [facts(found) for found in parse([], push=True, tags=["a"])] == [pushed]
    both = parse(["type=cacheonly"], load=True)
    assert [found.kind for found in both] == ["cacheonly", "image"]
    assert [found.takes_image for found in both] == [False, True]
    assert one("/out").takes_tree
    assert len(parse(["type=registry"], push=True, tags=["a"])) == 1


@pytest.mark.parametrize(
    ("kind", "known"),
    (
        ("oci", "gzip or zstd or uncompressed"),
        ("image", "gzip or zstd or uncompressed"),
    ),
)
def test_compressions_that_there_are_are_named(kind: str, known: str) -> None:
    with pytest.raises(RlessError) as caught:
        one(f"type={kind},compression=lz9")
    assert caught.value.hint == f"use {known}"


@pytest.mark.parametrize(
    ("texts", "message"),
    (
        ([""], "--output is empty"),
        (["dest=x"], "it has no type="),
        (["type=ftp"], "the type 'ftp' is not known"),
        (["type=local"], "local needs dest="),
        (["type=local,dest=-"], "cannot be standard output"),
        (["type=oci,tar=false"], "cannot be standard output"),
        (["type=local,dest=x,mod=delete"], "local has no option 'mod'"),
        (["type=local,dest=x,mode=move"], "neither copy nor delete"),
        (["type=cacheonly,dest=x"], "it takes none"),
        (["type=image,push=maybe"], "neither true nor false"),
        (["type=image,push=true"], "needs a name"),
        (["type=image,unpack=true"], "not built yet"),
        (["type=image,annotation.a=b"], "a manifest"),
        (["type=image,compression=estargz"], "compression=estargz is not supported"),
        (["type=tar", "type=oci"], "only one output can be standard output"),
        (["type=local,x"], "is not KEY=VALUE"),
        (["type=local,dest=/etc/passwd"], "is no directory"),
        (["type=tar,dest=/etc"], "is a directory"),
        (["type=\x1b[2J"], r"\x1b"),
    ),
)
def test_wrong_outputs_are_one_line(texts: list[str], message: str) -> None:
    with pytest.raises(RlessError) as caught:
        parse(texts)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


# -- files ---------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a tree like that of an image."""
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "bin/su").write_text("su")
    (root / "bin/su").chmod(0o6755)
    os.link(root / "bin/su", root / "bin/sudo")
    (root / "link").symlink_to("/etc/passwd")
    (root / "etc").mkdir(mode=0o750)
    (root / "etc/conf").write_text("new")
    os.mkfifo(root / "fifo")
    os.utime(root / "etc/conf", ns=(2_000_000_000_000_000_000, 2_000_000_000_000_000_000))
    return root


def export(text: str, tree: Path, stdout_fd: int = -1, newest: int | None = None) -> None:
    root_fd = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    try:
        outputs.export_trees(one(text), [outputs.Tree(root_fd)], stdout_fd, newest)
    finally:
        os.close(root_fd)


def test_directory_gets_the_files_of_the_caller(tree: Path, tmp_path: Path) -> None:
    """Class 66: no set-id bits; what is there stays."""
    dest = tmp_path / "a/out"
    dest.mkdir(parents=True)
    (dest / "mine").write_text("stays")
    export(str(dest), tree)
    assert (dest / "mine").read_text() == "stays"
    assert stat.S_IMODE((dest / "bin/su").stat().st_mode) == 0o755
    assert (dest / "bin/su").samefile(dest / "bin/sudo")
    assert os.readlink(dest / "link") == "/etc/passwd"
    assert (dest / "etc/conf").read_text() == "new"
    assert stat.S_IMODE((dest / "etc").stat().st_mode) == 0o750
    assert not os.path.lexists(dest / "fifo")
    assert {(entry.stat().st_uid, entry.stat().st_gid) for entry in dest.iterdir()
            if not entry.is_symlink()} == {(os.getuid(), dest.stat().st_gid)}  # fmt: skip


def test_directory_is_made_by_the_umask_of_the_caller(tree: Path, tmp_path: Path) -> None:
    made = one(str(tmp_path / "b/out"))
    root_fd = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    before = os.umask(0)  # as in a step process
    try:
        outputs.export_trees(made, [outputs.Tree(root_fd)], -1)
        assert os.umask(0) == 0
    finally:
        os.umask(before)
        os.close(root_fd)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o777 & ~before
    assert stat.S_IMODE((tmp_path / "b/out").stat().st_mode) == 0o777 & ~before


def test_directory_is_written_through_no_link(tree: Path, tmp_path: Path) -> None:
    """Class 66: neither a link to a file nor one to a directory is followed."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "conf").write_text("old")
    dest = tmp_path / "out"
    (dest / "etc").mkdir(parents=True)
    (dest / "etc/conf").symlink_to(victim / "conf")
    export(str(dest), tree)
    assert (victim / "conf").read_text() == "old"
    assert (dest / "etc/conf").read_text() == "new"
    assert not (dest / "etc/conf").is_symlink()

    other = tmp_path / "other"
    other.mkdir()
    (other / "etc").symlink_to(victim)
    with pytest.raises(RlessError, match="cannot overwrite non-directory .*/other/etc"):
        export(str(other), tree)
    assert (victim / "conf").read_text() == "old"


def test_delete_removes_what_is_not_in_the_result(tree: Path, tmp_path: Path) -> None:
    """Class 66: and nothing behind a link."""
    victim = tmp_path / "victim"
    (victim / "sub").mkdir(parents=True)
    dest = tmp_path / "out"
    (dest / "bin/su").mkdir(parents=True)  # of another type than in the result
    (dest / "bin/su/x").write_text("x")
    (dest / "gone/deep").mkdir(parents=True)
    (dest / "file").write_text("x")
    (dest / "out").symlink_to(victim)
    (dest / "etc").symlink_to(victim)
    (tree / "way").symlink_to(victim)  # a link of the result is no directory, wherever it leads
    (dest / "way/sub").mkdir(parents=True)
    export(f"type=local,dest={dest},mode=delete", tree)
    assert sorted(os.listdir(dest)) == ["bin", "etc", "link", "way"]
    assert os.readlink(dest / "way") == str(victim)
    assert (dest / "bin/su").read_text() == "su"
    assert not (dest / "etc").is_symlink()
    assert (victim / "sub").is_dir()
    assert os.listdir(victim) == ["sub"]


def test_tar_has_all_with_owners_and_modes(tree: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    export("type=tar", tree, writer, newest=1_000_000_000)
    os.close(writer)
    with open(reader, "rb") as file:
        archive = tarfile.open(fileobj=io.BytesIO(file.read()))
    members = {member.name: member for member in archive}
    assert list(members) == [
        *("bin", "bin/su", "bin/sudo", "etc", "etc/conf", "fifo", "link"),
    ]
    assert members["bin/su"].mode == 0o6755
    assert members["bin/sudo"].linkname == "bin/su"
    assert max(member.mtime for member in members.values()) == 1_000_000_000

    export(f"type=tar,dest={tmp_path}/x.tar", tree)
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert archive.getmember("etc/conf").mtime == 2_000_000_000
    expected = 0o666 & ~one("type=tar").umask
    assert stat.S_IMODE((tmp_path / "x.tar").stat().st_mode) == expected


def test_directory_has_no_later_time_than_wanted(tree: Path, tmp_path: Path) -> None:
    export(str(tmp_path / "out"), tree, newest=1_000_000_000)
    for name in ("etc/conf", "bin"):
        assert (tmp_path / "out" / name).stat().st_mtime == 1_000_000_000


def test_failure_to_write_is_one_line(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for text in (f"{tmp_path}/file/out", f"type=tar,dest={tmp_path}/nowhere/x.tar"):
        with pytest.raises(RlessError, match="cannot write .*: (Not a directory|No such file)"):
            export(text, tree)


# -- results -------------------------------------------------------------------------------------


def test_results_are_written_whole(tmp_path: Path) -> None:
    request = BuildRequest(
        context=".", iidfile=f"{tmp_path}/iid", metadata_file=f"{tmp_path}/meta.json"
    )
    (tmp_path / "iid").write_text("old")
    described = {"digest": "sha256:2", "size": 9}
    outputs.write_results(request, "sha256:1", ["a:1"], {"containerimage.descriptor": described})
    assert (tmp_path / "iid").read_text() == "sha256:1"
    assert json.loads((tmp_path / "meta.json").read_text()) == {
        "containerimage.config.digest": "sha256:1",
        "containerimage.descriptor": {"digest": "sha256:2", "size": 9},
        "containerimage.digest": "sha256:2",
        "image.name": "a:1",
    }
    assert sorted(os.listdir(tmp_path)) == ["iid", "meta.json"]


def test_results_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    request = BuildRequest(context=".", iidfile=f"{tmp_path}/no/iid")
    with pytest.raises(RlessError, match="--iidfile .*: No such file"):
        outputs.write_results(request, "sha256:1", [], {})
