"""`cp` in both directions, for running and stopped containers; attacks of class 36."""

from __future__ import annotations

import io
import os
import pty
import random
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.product import Product, Result, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

MAKE = """
mkdir -p /t/dir/sub /t/empty; echo one > /t/dir/one; echo two > /t/dir/sub/two
ln -s one /t/dir/link; ln -s dir /t/ld; ln -s /t/dir/one /t/lf; ln -s nowhere /t/broken
ln /t/dir/one /t/dir/hard; mkfifo /t/dir/fifo; chmod 640 /t/dir/one; chmod 750 /t/dir
chown 5:6 /t/dir/sub/two; chmod 4755 /t/dir/sub/two; touch -d @1000000000 /t/dir/sub/two /t/dir/sub
echo vol > /vol/file; echo ready > /ready
"""


class Box:
    """A container with files in it."""

    def __init__(self, rless: Product, running: bool) -> None:
        self.rless = rless
        self.running = running

    def cp(self, *words: str, **more: object) -> Result:
        return self.rless("cp", *words, **more)  # type: ignore[arg-type]

    def tar(self, path: str) -> dict[str, tarfile.TarInfo]:
        """Return what `cp box:path -` says, by name."""
        done = self.cp(f"box:{path}", "-").expect()
        with tarfile.open(fileobj=io.BytesIO(done.raw)) as archive:
            return {member.name: member for member in archive}

    def read(self, path: str) -> bytes:
        done = self.cp(f"box:{path}", "-").expect()
        with tarfile.open(fileobj=io.BytesIO(done.raw)) as archive:
            member = archive.next()
            assert member is not None
            file = archive.extractfile(member)
            assert file is not None
            return file.read()


@pytest.fixture(params=["running", "stopped"])
def box(rless: Product, request: pytest.FixtureRequest) -> Iterator[Box]:
    running = request.param == "running"
    flags = ["--name", "box", "--network", "none", "-v", "cp-test:/vol"]
    if running:
        rless("run", "-d", *flags, rless.image, "sh", "-c", MAKE + "sleep 1000").expect()
        wait_for(lambda: rless("cp", "box:/ready", "-").code == 0, "the files")
    else:
        rless("run", *flags, rless.image, "sh", "-c", MAKE).expect()
    yield Box(rless, running)
    rless("rm", "-f", "box").expect()


# -- from a container ----------------------------------------------------------------------------


def test_file_is_copied_out(box: Box, tmp_path: Path) -> None:
    box.cp("box:/t/dir/one", f"{tmp_path}/new").expect()
    box.cp("box:/t/dir/one", str(tmp_path)).expect()
    box.cp("box:t/dir/one", f"{tmp_path}/new").expect()  # relative: from /, and over a file
    for name in ("new", "one"):
        made = tmp_path / name
        assert made.read_text() == "one\n"
        assert stat.S_IMODE(made.stat().st_mode) == 0o640
        assert made.stat().st_uid == os.getuid()


def test_directory_is_copied_out(box: Box, tmp_path: Path) -> None:
    done = box.cp("box:/t/dir", f"{tmp_path}/new").expect()
    assert "fifo: a FIFO is not copied" in done.err
    assert done.err.count("\n") == 1
    box.cp("box:/t/dir", str(tmp_path)).expect()
    for name in ("new", "dir"):
        made = tmp_path / name
        assert sorted(path.name for path in made.rglob("*")) == [
            "hard", "link", "one", "sub", "two",
        ]  # fmt: skip
        assert os.readlink(made / "link") == "one"
        assert (made / "hard").samefile(made / "one")
        assert stat.S_IMODE(made.stat().st_mode) == 0o750
        assert (made / "sub").stat().st_mtime == 1000000000
        two = (made / "sub/two").stat()
        assert (two.st_mtime, stat.S_IMODE(two.st_mode)) == (1000000000, 0o755)  # no set-id here
        assert two.st_uid == os.getuid()


def test_contents_of_a_directory_are_copied_out(box: Box, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o700)
    (tmp_path / "there/kept").write_text("kept")
    box.cp("box:/t/dir/.", f"{tmp_path}/there").expect()
    box.cp("box:/t/dir/.", f"{tmp_path}/new").expect()
    assert sorted(os.listdir(tmp_path / "there")) == ["hard", "kept", "link", "one", "sub"]
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o700
    assert sorted(os.listdir(tmp_path / "new")) == ["hard", "link", "one", "sub"]


def test_links_as_source_are_copied_or_followed(box: Box, tmp_path: Path) -> None:
    box.cp("box:/t/lf", f"{tmp_path}/a").expect()
    assert os.readlink(tmp_path / "a") == "/t/dir/one"
    box.cp("-L", "box:/t/lf", f"{tmp_path}/b").expect()
    box.cp("-L", "box:/t/lf", str(tmp_path)).expect()
    assert (tmp_path / "b").read_text() == (tmp_path / "lf").read_text() == "one\n"
    assert not (tmp_path / "lf").is_symlink()
    box.cp("box:/t/ld", f"{tmp_path}/c").expect()
    assert os.readlink(tmp_path / "c") == "dir"
    for flag, source in ((["-L"], "ld"), ([], "ld/"), ([], "ld/.")):
        target = tmp_path / f"d{len(flag)}{source[2:].replace('/', 's')}"
        box.cp(*flag, f"box:/t/{source}", str(target)).expect()
        assert (target / "sub/two").read_text() == "two\n"
    box.cp("box:/t/broken", f"{tmp_path}/e").expect()
    assert os.readlink(tmp_path / "e") == "nowhere"
    assert "Could not find" in box.cp("-L", "box:/t/broken", f"{tmp_path}/f").expect(1).err


def test_tar_archive_is_written_to_stdout(box: Box) -> None:
    found = box.tar("/t/dir")
    assert list(found) == [
        "dir", "dir/fifo", "dir/hard", "dir/link", "dir/one", "dir/sub", "dir/sub/two",
    ]  # fmt: skip
    two = found["dir/sub/two"]
    assert (two.uid, two.gid, two.mode, two.mtime) == (5, 6, 0o4755, 1000000000)
    assert found["dir/one"].islnk()
    assert found["dir/one"].linkname == "dir/hard"
    assert list(box.tar("/t/dir/sub/.")) == [".", "./two"]
    assert list(box.tar("/t/dir/one")) == ["one"]


def test_files_in_volumes_are_copied(box: Box, tmp_path: Path) -> None:
    box.cp("box:/vol/file", f"{tmp_path}/file").expect()
    assert (tmp_path / "file").read_text() == "vol\n"
    box.cp("box:/vol", f"{tmp_path}/vol").expect()
    assert (tmp_path / "vol/file").read_text() == "vol\n"


def test_root_is_copied_without_kernel_file_systems(box: Box, tmp_path: Path) -> None:
    box.cp("box:/", f"{tmp_path}/all").expect()
    assert (tmp_path / "all/t/dir/one").read_text() == "one\n"
    assert (tmp_path / "all/vol/file").read_text() == "vol\n"
    for name in ("proc", "sys", "dev"):
        path = tmp_path / "all" / name
        assert not path.exists() or not os.listdir(path), name


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("/none", "x", "Could not find the file /none in container box"),
        ("/none/x", "x", "Could not find the file /none in container box"),
        ("/t/dir/one/", "x", "/t/dir/one: not a directory"),
        ("/t/dir/fifo", "x", "it is a FIFO"),
        ("/t/dir", "file", "cannot copy directory"),
        ("/t/dir/one", "no/x", 'invalid output path: directory "{}/no" does not exist'),
        ("/t/dir/one", "x/", "no such directory"),
        ("/t/dir/one", "file/", "not a directory"),
        ("/t/dir/one", "pipe", "must be a directory or a regular file"),
        ("/t", "over", "cannot overwrite non-directory"),
        ("/t/dir/one", "over2", "cannot overwrite directory"),
    ],
)
def test_wrong_sources_are_refused(
    box: Box, tmp_path: Path, source: str, target: str, message: str
) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "over/t").mkdir(parents=True)
    (tmp_path / "over/t/dir").write_text("kept")
    (tmp_path / "over2/one").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    done = box.cp(f"box:{source}", f"{tmp_path}/{target}").expect(1)
    # Before it there may be the line about a FIFO.
    assert message.format(tmp_path) in done.err.splitlines()[-1]
    assert (tmp_path / "file").read_text() == "kept"


# -- to a container ------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a tree on the host."""
    base = tmp_path / "tree"
    (base / "sub").mkdir(parents=True)
    (base / "file").write_text("file\n")
    (base / "file").chmod(0o640)
    (base / "sub/deep").write_text("deep\n")
    (base / "link").symlink_to("file")
    os.link(base / "file", base / "hard")
    os.utime(base / "sub/deep", (1e9, 1e9))
    return base


def test_directory_is_copied_in(box: Box, tree: Path) -> None:
    box.cp(str(tree), "box:/t").expect()
    found = box.tar("/t/tree")
    assert list(found) == [
        "tree", "tree/file", "tree/hard", "tree/link", "tree/sub", "tree/sub/deep",
    ]  # fmt: skip
    assert {(member.uid, member.gid) for member in found.values()} == {(0, 0)}
    assert found["tree/file"].mode == 0o640
    assert found["tree/hard"].islnk()
    assert found["tree/link"].linkname == "file"
    assert found["tree/sub/deep"].mtime == 1e9
    box.cp(f"{tree}/.", "box:/t/empty").expect()
    box.cp(f"{tree}/.", "box:/t/new").expect()
    assert box.read("/t/empty/sub/deep") == box.read("/t/new/sub/deep") == b"deep\n"


def test_file_is_copied_in(box: Box, tree: Path) -> None:
    for target in ("/t/new", "/t/dir/one", "/t/ld", "/t/lf", "/vol", "/vol/file"):
        box.cp(f"{tree}/file", f"box:{target}").expect()
    for path in ("/t/new", "/t/dir/one", "/t/dir/file", "/vol/file"):
        assert box.read(path) == b"file\n", path
    assert box.tar("/t/lf")["lf"].issym()  # what it points to was replaced
    assert box.read("/t/dir/hard") == b"one\n"  # as a new file: its other name keeps the old one


def test_archive_flag_keeps_owners(box: Box, tree: Path) -> None:
    box.cp("-a", f"{tree}/file", "box:/t/own").expect()
    me = box.tar("/t/own")["own"]
    assert (me.uid, me.gid) == (os.getuid(), os.getgid())
    box.cp("-L", f"{tree}/link", "box:/t/followed").expect()
    assert box.read("/t/followed") == b"file\n"
    box.cp(f"{tree}/link", "box:/t/kept").expect()
    assert box.tar("/t/kept")["kept"].issym()


@pytest.mark.parametrize("packed", ["", "gz", "bz2", "xz"])
def test_tar_archive_is_read_from_stdin(box: Box, packed: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{packed}") as archive:
        for name, kind, text in (
            ("d", tarfile.DIRTYPE, ""), ("d/f", tarfile.REGTYPE, "text"),
            ("d/l", tarfile.SYMTYPE, "f"), ("d/h", tarfile.LNKTYPE, "d/f"),
            ("d/same", tarfile.REGTYPE, "x"), ("d/same", tarfile.LNKTYPE, "d/same"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.uid, info.mode, info.mtime = kind, 1000, 0o750, 1000000000
            if kind == tarfile.REGTYPE:
                info.size = len(text)
            else:
                info.linkname = text
            archive.addfile(info, io.BytesIO(text.encode()))
    box.cp("-", "box:/t", stdin=buffer.getvalue()).expect()
    found = box.tar("/t/d")
    assert list(found) == ["d", "d/f", "d/h", "d/l", "d/same"]
    assert {member.uid for member in found.values()} == {0}
    assert found["d"].mtime == 1000000000
    assert found["d/h"].islnk()
    box.cp("-a", "-", "box:/t", stdin=buffer.getvalue()).expect()
    assert {member.uid for member in box.tar("/t/d").values()} == {1000}
    done = box.cp("-", "box:/t/lf", stdin=buffer.getvalue()).expect(1)
    assert "must be a directory" in done.one_line_error()


@pytest.mark.parametrize(
    "broken", [b"no archive at all" * 100, b"\x1f\x8b\x08broken", b"BZh9xxxx", b"\xfd7zXZ\0xxx"]
)
def test_broken_archive_is_an_error(rless: Product, broken: bytes) -> None:
    rless("run", "--name", "box", "--network", "none", rless.image, "true").expect()
    done = rless("cp", "-", "box:/tmp", stdin=broken).expect(1 if broken[:2] != b"no" else 125)
    assert "standard input" in done.one_line_error()
    rless("rm", "box").expect()


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("none", "/t", "lstat {}/none: no such file or directory"),
        ("tree/file/", "/t", "not a directory"),
        ("tree", "/none/x", "Could not find the file /none in container box"),
        ("tree", "/t/dir/one", "cannot copy directory"),
        ("tree/file", "/t/x/", "no such directory"),
        ("tree/file", "/t/dir/fifo", "must be a directory or a regular file"),
        ("pipe", "/t", "it is a FIFO"),
    ],
)
def test_wrong_destinations_are_refused(
    box: Box, tree: Path, source: str, target: str, message: str
) -> None:
    os.mkfifo(tree.parent / "pipe")
    done = box.cp(f"{tree.parent}/{source}", f"box:{target}").expect(1)
    assert message.format(tree.parent) in done.one_line_error()


def test_read_only_destination_is_refused(rless: Product, tree: Path) -> None:
    flags = ["--name", "box", "--network", "none", "--read-only", "-v", f"{tree}:/ro:ro",
             "-v", "cp-test:/vol"]  # fmt: skip
    rless("run", "-d", *flags, rless.image, "sleep", "1000").expect()
    for _ in range(2):
        for target, what in (
            ("/", "container rootfs"),
            ("/ro", "mounted volume"),
            ("/ro/file", "mounted volume"),
            ("/etc/x", "container rootfs"),
        ):
            done = rless("cp", f"{tree}/file", f"box:{target}").expect(1)
            assert done.one_line_error() == f"{what} is marked read-only"
        rless("cp", f"{tree}/file", "box:/vol/x").expect()
        rless("cp", "box:/ro/file", f"{tree}/back").expect()
        (tree / "back").unlink()
        rless("kill", "box")
        rless("wait", "box")
    rless("rm", "-f", "box").expect()


def test_wrong_arguments_are_refused(rless: Product) -> None:
    for words, message in (
        (("a:/x", "b:/y"), "copying between containers is not supported"),
        (("/x", "/y"), "must specify at least one container source"),
        (("./a:b", "y"), "must specify at least one container source"),
        (("", "b:/y"), "source can not be empty"),
        (("a:/x", ""), "destination can not be empty"),
        (("none:/x", "/tmp/x"), "no such container: none"),
    ):
        assert message in rless("cp", *words).expect(1).one_line_error()


def test_copy_reports_what_it_did(rless: Product, tmp_path: Path) -> None:
    rless("run", "--name", "box", "--network", "none", rless.image, "true").expect()
    (tmp_path / "f").write_bytes(bytes(1200000))
    done = rless("cp", "--quiet=false", f"{tmp_path}/f", "box:/tmp/").expect()
    assert done.err == "Successfully copied 1.2MB to box:/tmp\n"
    assert rless("cp", f"{tmp_path}/f", "box:/tmp/").expect().err == ""  # stdout is no terminal
    main, other = pty.openpty()
    done = rless("cp", "box:/tmp/f", f"{tmp_path}/g", stdout=other).expect()
    os.close(other)
    os.close(main)
    assert done.err == f"Successfully copied 1.2MB to {tmp_path}/g\n"
    rless("rm", "box").expect()


def test_sparse_and_large_files_are_copied(box: Box, tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(1 << 30)
        file.write(b"end")
    box.cp(f"{tmp_path}/sparse", "box:/t/sparse").expect()
    box.cp("box:/t/sparse", f"{tmp_path}/back").expect()
    back = (tmp_path / "back").stat()
    assert back.st_size == (1 << 30) + 3
    assert back.st_blocks * 512 < 1 << 20
    with (tmp_path / "back").open("rb") as file:
        file.seek(1 << 30)
        assert file.read() == b"end"


def test_names_of_any_bytes_are_copied(box: Box, tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff\n\x1b[31m\xc3\xa4 -x"
    with open(raw, "wb") as file:
        file.write(b"x")
    box.cp(os.fsdecode(raw), "box:/t/dir").expect()
    box.cp("box:/t/dir", f"{tmp_path}/back").expect()
    assert os.path.basename(raw) in os.listdir(os.fsencode(tmp_path) + b"/back")


def test_copy_excludes_other_copies_and_starts(rless: Product, tmp_path: Path) -> None:
    """Two commands at one stopped container wait for each other: its layer is mounted once."""
    rless("run", "--name", "box", "--network", "none", rless.image, "true").expect()
    (tmp_path / "f").write_text("x")
    running = [rless.start("cp", f"{tmp_path}/f", f"box:/tmp/{number}") for number in range(6)]
    for process in running:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    listed = rless("cp", "box:/tmp/.", "-").expect()
    with tarfile.open(fileobj=io.BytesIO(listed.raw)) as archive:
        assert set(archive.getnames()) == {".", *(f"./{number}" for number in range(6))}
    rless("rm", "box").expect()


# -- attacks -------------------------------------------------------------------------------------


def hostile(rless: Product, script: str, *flags: str) -> None:
    words = ["--name", "box", "--network", "none", *flags]
    rless("run", "-d", *words, rless.image, "sh", "-c", f"{script}; sleep 1000").expect()
    wait_for(lambda: rless("cp", "box:/ready", "-").code == 0, "the container")


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_links_of_the_container_do_not_lead_out(rless: Product, tmp_path: Path, state: str) -> None:
    """CVE-2018-15664: every link counts from the container's root."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    script = (
        f"ln -s {secret} /abs; ln -s ../../../../../../..{secret} /rel; "
        f"ln -s /proc/1/root{secret} /magic; touch /ready"
    )
    if state == "running":
        hostile(rless, script)
    else:
        words = ["--name", "box", "--network", "none"]
        rless("run", *words, rless.image, "sh", "-c", script).expect()
    (tmp_path / "evil").write_text("evil")
    for name in ("abs", "rel", "magic"):
        rless("cp", f"box:/{name}/key", f"{tmp_path}/out").expect(1)
        rless("cp", "-L", f"box:/{name}", f"{tmp_path}/out").expect(1)
        rless("cp", f"{tmp_path}/evil", f"box:/{name}/key").expect(1)
        rless("cp", f"{tmp_path}/evil", f"box:/{name}/").expect(1)
    assert os.listdir(secret) == ["key"]
    assert (secret / "key").read_text() == "secret"
    assert not (tmp_path / "out").exists()
    rless("rm", "-f", "box").expect()


def test_foreign_link_in_a_sticky_directory_is_not_followed(rless: Product, tmp_path: Path) -> None:
    """As the kernel follows none there: neither to write to what it leads to, nor to read it."""
    rless("create", "--name", "stuck", "--network", "none", rless.image, "true").expect()
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    shared.mkdir()
    shared.chmod(0o1777)
    mine.write_text("mine")
    (shared / "link").symlink_to(mine)
    out, into = ("stuck:/etc/passwd", f"{shared}/link"), ("-L", f"{shared}/link", "stuck:/new")
    rless("unshare", "chown", "-h", "1:1", f"{shared}/link").expect()
    rless("unshare", "chown", "2:2", str(shared)).expect()
    for words in (out, into):
        error = rless("cp", *words).expect(1).one_line_error()
        assert f"{shared}/link is a link of uid" in error
    assert mine.read_text() == "mine"
    rless("unshare", "chown", "-h", "2:2", f"{shared}/link").expect()  # of the directory's owner
    for words in (into, out):
        rless("cp", *words).expect()
    assert mine.read_text() != "mine"
    rless("unshare", "chown", "0:0", str(shared)).expect()
    rless("rm", "stuck").expect()


def test_names_in_an_archive_do_not_lead_out(rless: Product, tmp_path: Path) -> None:
    hostile(rless, f"ln -s {tmp_path} /tmp/out; touch /ready")
    for name, kind, link in (
        ("../../../x", tarfile.REGTYPE, ""),
        ("out/x", tarfile.REGTYPE, ""),
        ("h", tarfile.LNKTYPE, "../../../etc/passwd"),
    ):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            archive.addfile(info)
        rless("cp", "-", "box:/tmp", stdin=buffer.getvalue())
    assert os.listdir(tmp_path) == []
    rless("rm", "-f", "box").expect()


def test_swapped_links_do_not_lead_out(rless: Product, tmp_path: Path) -> None:
    """CVE-2018-15664, CVE-2019-14271: the same, while the container does its best."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    (secret / "deep").mkdir()
    (secret / "deep/key").write_text("secret")
    data = tmp_path / "data"
    data.mkdir()
    hostile(
        rless,
        f"""mkdir -p /w/real/deep /b/real/deep
        for d in /w /b; do echo own > $d/real/key; echo own > $d/real/deep/key; done
        swap() {{ cd $1; while :; do mv real away; ln -s {secret} real; rm real; mv away real
            mv real/deep real/gone; ln -s {secret}/deep real/deep; rm real/deep
            mv real/gone real/deep; done; }}
        host() {{ cd /b; while :; do mkdir -p etc; mv etc away2; ln -s {secret} etc; rm etc
            mv away2 etc; rm etc/passwd; ln -s {secret}/key etc/passwd; done; }}
        touch /ready; (swap /w) 2>/dev/null & (swap /b) 2>/dev/null & (host) 2>/dev/null &
        wait""",
        "-v",
        f"{data}:/b",
    )
    dice = random.Random(36)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/key").write_text("evil")
    (tmp_path / "evil/deep").mkdir()
    (tmp_path / "evil/deep/key").write_text("evil")
    for number in range(24):
        out = tmp_path / f"out{number}"
        place = dice.choice(["/w/real", "/b/real"])
        match dice.randrange(4):
            case 0:
                rless("cp", f"box:{place}", str(out))
            case 1:
                rless("cp", "-L", f"box:{place}/key", str(out))
            case 2:
                rless("cp", f"{tmp_path}/evil/.", f"box:{place}")
            case 3:
                # The host's side of a directory that the container writes in.
                rless("cp", "box:/etc", str(data))
        for directory, _, names in os.walk(out) if not out.is_symlink() else ():
            for path in map(Path(directory).joinpath, names):
                assert path.is_symlink() or b"secret" not in path.read_bytes(), path
        assert out.is_symlink() or not out.is_file() or b"secret" not in out.read_bytes()
        assert (secret / "key").read_text() == "secret"
        assert (secret / "deep/key").read_text() == "secret"
        assert sorted(os.listdir(secret)) == ["deep", "key"]
        assert os.listdir(secret / "deep") == ["key"]
    rless("rm", "-f", "box").expect()


def test_files_of_the_container_are_not_imported(rless: Product, tmp_path: Path) -> None:
    """CVE-2019-14271: what is loaded after entering would be the container's."""
    roots = {os.path.dirname(os.__file__), "/usr/lib/python3", "/usr/lib"}
    script = "; ".join(
        f"mkdir -p {root}; for m in encodings codecs traceback json re posixpath array; do "
        f'echo \'open("/pwned", "w")\' > {root}/$m.py; done'
        for root in sorted(roots)
    )
    hostile(rless, f"{script}; touch /ready")
    for words in (
        ("box:/none", str(tmp_path)),
        ("box:/etc", f"{tmp_path}/etc"),
        (f"{tmp_path}/etc", "box:/root"),
        ("box:/bin", "-"),
        ("box:/dev/null", "-"),
    ):
        rless("cp", *words)
    rless("export", "box").expect()
    assert "Could not find" in rless("cp", "box:/pwned", "-").expect(1).err
    rless("rm", "-f", "box").expect()


def test_entering_process_is_not_visible(rless: Product, tmp_path: Path) -> None:
    """Class 35: the container looks at all of /proc while cp works in it."""
    spy = """
        touch /ready; while :; do for p in /proc/[0-9]*; do
            case $(cat $p/cmdline 2>/dev/null | tr '\\0' ' ') in *rootle[s]s*)
                echo seen $p >> /seen; cat $p/environ >> /seen 2>/dev/null
                ls $p/fd >> /seen 2>/dev/null ;; esac; done; done
    """
    hostile(rless, spy, "--cap-add=SYS_PTRACE")
    (tmp_path / "f").write_bytes(bytes(1 << 20))
    for number in range(10):
        rless("cp", f"{tmp_path}/f", f"box:/tmp/{number}").expect()
    assert "Could not find" in rless("cp", "box:/seen", "-").expect(1).err
    rless("rm", "-f", "box").expect()


def test_devices_are_refused(rless: Product, tmp_path: Path) -> None:
    hostile(rless, "touch /ready")
    done = rless("cp", "box:/dev/null", f"{tmp_path}/x").expect(1)
    assert "it is a device" in done.one_line_error()
    assert not (tmp_path / "x").exists()
    rless("rm", "-f", "box").expect()


def test_swapped_fifo_does_not_block(rless: Product, tmp_path: Path) -> None:
    """Class 8: a FIFO in place of a file that is opened later."""
    hostile(rless, "mkdir /d; touch /ready; (while :; do rm -f /d/x; echo a > /d/x; "
            "rm -f /d/x; mkfifo /d/x; done) 2>/dev/null & true")  # fmt: skip
    for number in range(10):
        rless("cp", "box:/d", f"{tmp_path}/{number}", timeout=60)
    rless("rm", "-f", "box").expect()


def test_interrupted_copy_leaves_no_process_and_no_lock(rless: Product, tmp_path: Path) -> None:
    rless("run", "--name", "box", "--network", "none", rless.image, "true").expect()
    for signal in (subprocess.signal.SIGINT, subprocess.signal.SIGKILL):  # type: ignore[attr-defined]
        process = rless.start("cp", "-", "box:/tmp")
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        process.send_signal(signal)
        process.communicate(timeout=20)
        wait_for(lambda: not rless.processes(), "the end of the child")
        (tmp_path / "f").write_text("x")
        rless("cp", f"{tmp_path}/f", "box:/tmp/f").expect()
    rless("rm", "box").expect()


def test_full_destination_is_reported_in_one_line(rless: Product, tmp_path: Path) -> None:
    rless("run", "-d", "--name", "box", "--network", "none", "--tmpfs", "/small:size=64k",
          rless.image, "sleep", "1000").expect()  # fmt: skip
    (tmp_path / "f").write_bytes(os.urandom(1 << 20))
    done = rless("cp", f"{tmp_path}/f", "box:/small/").expect(1)
    assert "No space left on device" in done.one_line_error()
    rless("rm", "-f", "box").expect()


def test_copies_from_a_running_container_run_in_parallel(rless: Product, tmp_path: Path) -> None:
    hostile(rless, "mkdir /d; for i in $(seq 200); do echo $i > /d/$i; done; touch /ready")
    failures: list[Result] = []

    def copy(number: int) -> None:
        done = rless("cp", "box:/d", f"{tmp_path}/{number}")
        if done.code or len(os.listdir(tmp_path / str(number))) != 200:
            failures.append(done)

    threads = [threading.Thread(target=copy, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    rless("rm", "-f", "box").expect()
