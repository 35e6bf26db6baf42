"""Wrong command lines: a one-line error, the right exit code, nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


@pytest.mark.parametrize(
    "reference",
    [
        "UPPER/case", "a b", "", "-x/y:z", "a//b", "image:", "image@sha256:short", "a/../b",
        "image:tag:tag", "image@md5:0123", ":tag", "a\x1b[2Jb", "http://a/b", "x" * 300,
        "127.0.0.1:99999/a/b", "oci:", "docker-archive:", "oci:relative/none", "é/é",
    ],
)  # fmt: skip
def test_wrong_references_are_refused(rless: Product, reference: str) -> None:
    done = rless("run", "--rm", "-q", "--pull=never", "--network=none", "--", reference, "true")
    assert done.code == 125, done
    done.one_line_error()


def test_file_that_cannot_be_read_is_named(rless: Product) -> None:
    """As on a broken disk: reading gives EIO, which says nothing of the file."""
    path = "/proc/self/mem"
    for image in (path, f"docker-archive:{path}", f"oci-archive:{path}"):
        done = rless.run("", "true", image=image).expect(125)
        assert f"cannot read {path}: Input/output error" in done.one_line_error()
    for words in (("load", "-i", path), ("import", path)):
        done = rless(*words).expect(1)
        assert f"cannot read {path}: Input/output error" in done.one_line_error()


def test_missing_archives_are_reported(rless: Product, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(os.urandom(4096))
    (tmp_path / "empty").touch()
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for transport in ("oci-archive", "docker-archive", "oci"):
        for name in ("none", "garbage", "empty", "directory", "fifo"):
            done = rless.run("", "true", image=f"{transport}:{tmp_path}/{name}")
            assert done.code == 125, done
            assert "internal error" not in done.one_line_error(), done


@pytest.mark.parametrize(
    "flags",
    [
        "--shm-size=x",
        "--ulimit nofile",
        "--ulimit=nofile=9:1",
        "--ulimit=none=1",
        "--user=a:b:c",
        "-w=relative",
        "--name=a/b",
        "--cap-add=?",
        "--sysctl=x",
        "--env-file=/none",
        "-v=:",
        "-v=/a:b",
        "-v=/a:/",
        "-v=/a:/b:xx",
        "-v=a/b:/c",
        "--mount=type=x,dst=/y",
        "--mount=dst=/y,src=/none,type=bind",
        "--mount=type=bind,src=rel,dst=/y",
        "--tmpfs=x",
        "--tmpfs=/x:size=y",
        "--device=x",
        "--network=bridge0",
        "--pid=x",
        "--ipc=x",
        "--uts=x",
        "--userns=x",
        "--userns=keep-id:x=1",
        "--cgroupns=x",
        "--security-opt=x",
        "--security-opt=seccomp=/none",
        "--stop-signal=NOPE",
        "--stop-timeout=x",
        "--oom-score-adj=x",
        "--platform=//",
        "--pull=x",
        "--storage-driver=x",
        "--explain=x",
        "--hostname=-x",
        "--add-host=x",
        "--dns=x",
        "-p=x",
        "--gpus=all",
        "--memory=1g",
        "--no-such",
        "--restart=always",
        "--health-retries=x",
        "-m=1",
        "--cidfile=/none/x",
        "--log-driver=syslog",
        "-v /a:/x -v /b:/x",
        "--rootfs=/none",
        "--label-file=/none",
        "--group-add=none",
        "--group-add=\udcff",
        "--group-add=" + "1" * 5000,
        "--userns=keep-id:uid=" + "1" * 5000,
        "--userns=keep-id:uid=\u00b2",
    ],
)
def test_wrong_flags_are_refused(rless: Product, flags: str) -> None:
    done = rless("run", "--rm", *flags.split(), rless.image, "true")
    assert done.code == 125, done
    error = done.one_line_error()
    assert "internal error" not in error
    assert "Traceback" not in error


def test_missing_image_and_verb_are_reported(rless: Product) -> None:
    rless("run").expect(125).one_line_error()
    rless("run", "--rm").expect(125).one_line_error()
    assert rless("no-such-verb").code in (1, 125)
    rless("no-such-verb").one_line_error()


def test_host_without_its_colon_is_explained(rless: Product, tmp_path: Path) -> None:
    conf = tmp_path / "registries.conf"
    conf.write_text('unqualified-search-registries = ["127.0.0.1:1"]\n')
    done = rless.run("", "true", image="host", env={"CONTAINERS_REGISTRIES_CONF": str(conf)})
    assert done.code == 125
    assert done.one_line_error().endswith("; the host's own programs are `host:`")


def test_uncreatable_bind_sources_are_reported(rless: Product, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = rless.run(["-v", f"{tmp_path}/file/sub:/x"], "true").expect(125)
    done.one_line_error()
    done = rless.run(["-v", "/proc/none:/x"], "true").expect(125)
    done.one_line_error()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    done = rless.run(["-v", f"{closed}/sub:/x"], "true").expect(125)
    done.one_line_error()


def test_mount_type_mismatch_is_refused(rless: Product, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for source, target in ((tmp_path, "/etc/passwd"), (tmp_path / "file", "/etc"),
                           (tmp_path, "/etc/passwd/x")):  # fmt: skip
        done = rless.run(["-v", f"{source}:{target}"], "true").expect(125)
        assert target.rpartition("/x")[0] or target in done.one_line_error()
        assert "internal error" not in done.one_line_error()


def test_working_directory_on_a_file_is_refused(rless: Product) -> None:
    done = rless.run("-w /etc/passwd", "true")
    assert done.code in (125, 126, 127)
    assert "/etc/passwd" in done.one_line_error()


def test_interrupt_ends_a_stalled_pull(own_rless: Product) -> None:
    """A registry that does not answer, and a user who has enough of it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        name = f"127.0.0.1:{server.getsockname()[1]}/a/b:c"
        for number in (signal.SIGINT, signal.SIGTERM):
            process = own_rless.start("run", "--rm", "-q", name, "true")
            peer, _ = server.accept()
            time.sleep(0.1)
            process.send_signal(number)
            assert process.wait(10) in (128 + number, -number)
            peer.close()
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()
            own_rless("ps").expect()  # clears what a command left that could not do it itself
            own_rless.assert_clean(0)
