"""The whole way of an image on a file system as poor as NFS can be: the real commands, with the
calls that such a one refuses made to fail below them (tests/lib/poor_files.c)."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.image.store.staging import Staging, store_lock
from rootless.linux.files import open_tmpfile
from tests.lib import images
from tests.lib.compiled import ROOT
from tests.lib.images import File, layer
from tests.lib.product import Product, own_rless, shared_product

__all__ = ["own_rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "compiler", "docker-registry")


@pytest.fixture(scope="session")
def shim() -> Iterator[str]:
    """Compile what makes the calls fail."""
    with tempfile.TemporaryDirectory(prefix="rless-poor-") as directory:
        path = f"{directory}/poor.so"
        source = ROOT / "tests" / "lib" / "poor_files.c"
        compiler = os.environ.get("CC", "cc").split()
        subprocess.run([*compiler, "-shared", "-fPIC", "-O2", "-o", path, source], check=True)
        os.chmod(directory, 0o755)
        yield path


@pytest.fixture
def poor(own_rless: Product, shim: str, tmp_path: Path) -> Product:
    """Give rless on such a file system, with an archive of an image beside it."""
    own_rless.env["LD_PRELOAD"] = shim
    image = images.busybox_image(
        [layer({"kept": File("x", xattrs={"user.k": b"v"}), "gone": "y"}), layer({".wh.gone": ""})]
    )
    images.write_docker_archive(image, tmp_path / "image.tar", "poor:1")
    return own_rless


def test_simulated_calls_fail(shim: str, tmp_path: Path) -> None:
    """Else the others prove nothing."""
    script = """
import fcntl, os, sys
def refused(call, *args):
    try: call(*args)
    except OSError as error: return error.errno
fd = os.open(sys.argv[1], os.O_RDONLY)
print(refused(os.open, sys.argv[1], os.O_RDWR | os.O_TMPFILE), refused(fcntl.flock, fd, 1),
      refused(os.setxattr, fd, "user.k", b""), refused(os.fchown, fd, os.getuid(), -1))"""
    environment = {"LD_PRELOAD": shim, "POOR_FILES": "squash"}
    words = [sys.executable, "-c", script, str(tmp_path)]
    said = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout
    expected = (errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOTSUP, errno.EPERM)
    assert said.split() == [str(number) for number in expected]


def test_images_pass_through_a_poor_file_system(
    poor: Product, registry_host: str, tmp_path: Path
) -> None:
    archive = (tmp_path / "image.tar").read_bytes()
    poor("load", stdin=gzip.compress(archive)).expect()
    name = f"{registry_host}/poor/image:1"
    poor("tag", "poor:1", name).expect()
    for compression in ("gzip", "zstd"):
        poor("push", "--compression", compression, name).expect()
    before = poor("inspect", "--format", "{{.Id}}", name).expect().out
    poor("rmi", "-f", before.strip()).expect()
    poor("pull", name).expect()
    assert poor("inspect", "--format", "{{.Id}}", name).expect().out == before
    assert poor.run("", "sh", "-c", "cat /kept; ls /gone", image=name).out == "x"
    for form in ("docker-archive", "oci-archive"):
        for more in ([], ["--compress", "gzip"]):
            if form == "docker-archive" and more:
                continue
            target = tmp_path / f"saved-{form}-{len(more)}"
            poor("save", "--format", form, *more, "-o", str(target), name).expect()
            poor("rmi", name).expect()
            poor("load", "-i", str(target)).expect()
            assert poor("inspect", "--format", "{{.Id}}", name).expect().out == before
    poor("import", "-", "poor:imported", stdin=gzip.compress(layer({"f": "x"}))).expect()
    poor("image", "prune", "-a", "-f").expect()
    assert poor("images", "-q").expect().out == ""
    assert list((poor.storage / "tmp").iterdir()) == []
    assert not any((poor.storage / "layers").iterdir())


def test_root_squash_is_reported_in_one_line(poor: Product, tmp_path: Path) -> None:
    """The server refuses owners that are not the caller: one line, and not a byte stays."""
    poor.env["POOR_FILES"] = "squash"
    archive = (tmp_path / "image.tar").read_bytes()
    for _ in range(2):
        said = poor("load", stdin=archive).expect(1).one_line_error()
        assert "Operation not permitted; set RLESS_STORAGE to a local directory" in said
        left = [path for path in poor.storage.rglob("*") if path.is_file()]
        known = ("lock", "events", "booted", "reserved")
        assert [path.name for path in left if path.name not in known] == []


def test_exhausted_quota_is_reported_in_one_line(poor: Product, tmp_path: Path) -> None:
    """One line that says so, and what to do, whatever is made."""
    poor("load", "-q", "-i", str(tmp_path / "image.tar")).expect()
    poor.env["POOR_FILES"] = "quota"
    for words in (
        ("run", "--rm", "--network=none", "poor:1", "true"),
        ("create", "poor:1", "true"),
        ("load", "-i", str(tmp_path / "image.tar")),
        ("volume", "create", "vol"),
    ):
        done = poor(*words)
        assert done.code in (1, 125)
        said = done.one_line_error()
        assert "Disk quota exceeded" in said, words
        assert "free some space" in said, words
    poor.env["POOR_FILES"] = ""


@pytest.mark.needs("mksquashfs")
def test_image_files_work_on_a_poor_file_system(poor: Product, tmp_path: Path) -> None:
    """A home as poor as NFS: flatten into it, and run from it."""
    poor("load", "-q", "-i", str(tmp_path / "image.tar")).expect()
    file = tmp_path / "x.sqsh"
    poor("flatten", "poor:1", str(file)).expect()
    for flags in ("", "--userns=single", "--hpc"):
        done = poor.run(flags, "sh", "-c", "cat /kept; ls /gone 2>/dev/null", image=str(file))
        assert done.out == "x"


@pytest.mark.needs("nfs directory")
def test_images_work_on_nfs(own_rless: Product, tmp_path: Path) -> None:
    """Where the machine has such a directory that the user may write to: $RLESS_TEST_NFS."""
    place = Path(os.environ["RLESS_TEST_NFS"]) / f"rless-{os.getpid()}"
    place.mkdir()
    own_rless.env["RLESS_STORAGE"] = str(place / "storage")
    image = images.busybox_image()
    images.write_docker_archive(image, tmp_path / "image.tar", "poor:1")
    try:
        done = own_rless.run(
            "--userns=single", "echo", "ran", image=f"docker-archive:{tmp_path}/image.tar"
        )
        assert done.expect().out == "ran\n"
        own_rless("flatten", f"docker-archive:{tmp_path}/image.tar", str(place / "x.sqsh")).expect()
        assert (
            own_rless.run("--hpc", "echo", "ran", image=str(place / "x.sqsh")).expect().out
            == "ran\n"
        )
        assert "nfs" in own_rless("doctor").out
    finally:
        own_rless("unshare", "rm", "-rf", str(place))


def test_skipped_device_nodes_are_reported(
    own_rless: Product, registry_host: str, tmp_path: Path
) -> None:
    """On standard error, once; not with -q."""
    rless = own_rless
    image = images.Image([layer({"dev": images.Dir(), "dev/null": images.Device(), "f": "x"})])
    said = "left out 1 device node (rootless users cannot make them)"
    images.push(image, f"{registry_host}/device:1")
    assert said in rless("pull", f"{registry_host}/device:1").expect().out
    assert rless("pull", "-q", f"{registry_host}/device:1").expect().out.count("\n") == 1
    path = tmp_path / "a.tar"
    images.write_docker_archive(image, path, "device:2")
    done = rless("load", "-i", str(path)).expect()
    assert done.out == "Loaded image: device:2\n" and said in done.err
    assert rless("load", "-q", "-i", str(path)).expect().err == ""
    path.write_bytes(image.layers[0])
    assert said in rless("import", str(path)).expect().err


def test_read_only_store_is_reported(own_rless: Product, tmp_path: Path) -> None:
    """The hint is not to free some space."""
    path = tmp_path / "a.tar"
    images.write_docker_archive(images.Image([layer({"f": "x"})]), path, "made:1")
    own_rless("load", "-q", "-i", str(path)).expect()
    for name in ("tmp", "."):
        (own_rless.storage / name).chmod(0o500)
    (own_rless.storage / "lock").chmod(0o400)
    try:
        for words in (("load", "-i", str(path)), ("tag", "made:1", "made:2")):
            said = own_rless(*words).expect(1).one_line_error()
            assert "Permission denied; set RLESS_STORAGE to a directory that you can wri" in said
        assert own_rless("images", "-q").expect().out.count("\n") == 1
    finally:
        for name in (".", "tmp"):
            (own_rless.storage / name).chmod(0o700)


def test_tmpfile_falls_back_to_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "")
        return real(path, flags, *rest)

    for patched in (False, True):
        if patched:
            monkeypatch.setattr(os, "open", refuse)
        fd = open_tmpfile(str(tmp_path))
        assert os.write(fd, b"text") == 4
        assert os.pread(fd, 9, 0) == b"text"
        assert os.fstat(fd).st_mode & 0o7777 == 0o600
        assert os.fstat(fd).st_nlink == 0
        assert not os.get_inheritable(fd)
        assert os.listdir(tmp_path) == []
        os.close(fd)


def test_deletion_leaves_layers_of_a_running_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without locks too, though only the identities in tmp/ tell of it."""

    def no_locks(fd: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    root = str(tmp_path)
    ready, told = os.pipe()
    go, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        with Staging(root):
            os.write(told, b".")
            os.read(go, 1)
        os._exit(0)
    os.read(ready, 1)
    with store_lock(root, exclusive=True) as held:
        assert held is False
    with Staging(root), store_lock(root) as shared:
        assert shared
    os.close(end)
    os.waitpid(pid, 0)
    with Staging(root), store_lock(root, exclusive=True) as held:
        assert held is True
    for fd in (ready, told, go):
        os.close(fd)
