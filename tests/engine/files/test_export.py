"""`export`: the container's own root as a tar archive, in a fixed order, by every driver."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.lib.needs import DRIVERS
from tests.lib.product import Product, Result, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

MAKE = """
mkdir -p /t/dir; echo one > /t/one; ln /t/one /t/dir/hard; ln -s one /t/link; rm /data/seed
chown 5:70000 /t/one || chown 5:6 /t/one; chmod 4711 /t/one; mkfifo /t/fifo
touch -d @1000000000 /t/one; echo vol > /vol/file
long=$(printf 'n%.0s' $(seq 200)); mkdir -p /t/$long/$long; echo x > /t/$long/$long/file
head -c 300000 /dev/urandom > /t/large; echo ready > /tmp/ready
"""


def members(done: Result) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(done.raw)) as archive:
        return {member.name: member for member in archive}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("state", ["running", "stopped"])
def test_export_leaves_out_volumes(rless: Product, driver: str, state: str, tmp_path: Path) -> None:
    words = ["--name", "box", "--network", "none", "--storage-driver", driver,
             "-v", "export-test:/vol", "-v", f"{tmp_path}:/bind"]  # fmt: skip
    (tmp_path / "bound").write_text("x")
    if state == "running":
        rless("run", "-d", *words, rless.image, "sh", "-c", MAKE + "sleep 1000").expect()
        wait_for(lambda: rless("cp", "box:/tmp/ready", "-").code == 0, "the files")
    else:
        rless("run", *words, rless.image, "sh", "-c", MAKE).expect()
    done = rless("export", "box").expect()
    found = members(done)
    assert list(found) == sorted(found, key=lambda name: name.encode().split(b"/"))
    assert "vol/file" not in found
    assert "bind/bound" not in found
    assert not any(name.startswith(("proc/", "sys/", "dev/")) for name in found)
    assert "data/seed" not in found
    assert found["data"].isdir()
    one = found["t/dir/hard"]
    assert (one.uid, one.mode, one.mtime, one.size) == (5, 0o4711, 1000000000, 4)
    assert found["t/one"].islnk()
    assert found["t/one"].linkname == "t/dir/hard"
    assert found["t/link"].linkname == "one"
    assert found["t/fifo"].isfifo()
    assert found["t/large"].size == 300000
    assert f"t/{'n' * 200}/{'n' * 200}/file" in found
    assert found["bin/busybox"].mode & 0o111
    # The same again, byte for byte, into a file that only a whole archive appears in.
    target = tmp_path / "out.tar"
    rless("export", "-o", str(target), "box").expect()
    assert target.read_bytes() == done.raw
    assert target.stat().st_mode & 0o777 == 0o600
    rless("rm", "-f", "box").expect()


def test_exported_root_can_be_run(rless: Product, tmp_path: Path) -> None:
    rless("run", "--name", "box", "--network", "none", rless.image, "sh", "-c",
          "echo kept > /kept").expect()  # fmt: skip
    rless("export", "-o", f"{tmp_path}/x.tar", "box").expect()
    with tarfile.open(tmp_path / "x.tar") as archive:
        archive.extractall(tmp_path / "root")
    done = rless("run", "--rm", "--network", "none", "--rootfs", f"{tmp_path}/root", "/bin/cat",
                 "/kept").expect()  # fmt: skip
    assert done.out == "kept\n"
    rless("rm", "box").expect()


def test_export_refuses_wrong_requests(rless: Product, tmp_path: Path) -> None:
    assert "no such container" in rless("export", "none").expect(1).one_line_error()
    rless("export", "-o", f"{tmp_path}/x", "none").expect(1)
    rless("run", "--name", "box", "--network", "none", rless.image, "true").expect()
    main, other = pty.openpty()
    done = rless("export", "box", stdout=other).expect(1)
    os.close(other)
    os.close(main)
    assert "terminal" in done.one_line_error()
    rless("export", "-o", f"{tmp_path}/no/x", "box").expect(1).one_line_error()
    with open("/dev/full", "wb") as full:
        done = rless("export", "box", stdout=full).expect(1)
    assert "No space left on device" in done.one_line_error()
    assert os.listdir(tmp_path) == []
    rless("export", "-o", "/dev/null", "box").expect()
    rless("rm", "box").expect()


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_export_of_the_host_image(rless: Product, state: str, tmp_path: Path) -> None:
    script = "echo x > /etc/rless-test; echo y > /srv/file"
    flags = ["--name", "box", "--network", "none", "-v", f"{tmp_path}:/media"]
    (tmp_path / "bound").write_text("x")
    if state == "running":
        rless("run", "-d", *flags, "host:", "sh", "-c", script + "; sleep 1000").expect()
        wait_for(lambda: rless("cp", "box:/srv/file", "-").code == 0, "the files")
    else:
        rless("run", *flags, "host:", "sh", "-c", script).expect()
    process = rless.start("export", "box", stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    found = set()
    with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
        for member in archive:
            found.add(member.name)
            if member.name >= "mnt":
                break  # /opt and /usr are large
    process.kill()
    assert {"etc/rless-test", "etc/passwd", "media"} <= found
    assert "media/bound" not in found
    assert "etc/shadow" not in found
    assert not any(name.startswith(("proc/", "dev/", "sys/")) for name in found)
    rless("rm", "-f", "box").expect()


def test_export_ends_when_its_reader_closes(rless: Product) -> None:
    rless("run", "--name", "box", "--network", "none", rless.image, "true").expect()
    process = rless.start("export", "box")
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(20) == 128 + 13
    rless("rm", "box").expect()


def test_deep_tree_is_exported(rless: Product) -> None:
    script = "cd /tmp; i=0; while [ $i -lt 1500 ]; do mkdir ddd; cd ddd; i=$((i+1)); done"
    rless("run", "--name", "box", "--network", "none", rless.image, "sh", "-c", script).expect()
    found = members(rless("export", "box").expect())
    assert "tmp/" + "/".join(["ddd"] * 1000) in found  # the shell gives up near PATH_MAX
    assert "A /tmp/ddd/ddd" in rless("diff", "box").expect().out
    rless("rm", "box").expect()
