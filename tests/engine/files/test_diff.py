"""`diff`: the same lines with every driver, for running and stopped containers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.lib.images import Dir, File, Image, Link, busybox_layer, layer
from tests.lib.needs import DRIVERS
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

CHANGE = """
echo new > /new; mkdir -p /made/deep; echo x > /made/deep/file; ln -s x /made/link
echo more >> /a/changed; chmod 600 /a/mode; chown 7:8 /a/owner; rm /a/gone; touch /a/kept
rm -r /dir; mkdir /dir; echo x > /dir/other; rm -r /whole; rm /b/one; mv /b/two /b/three
rm /link; mkdir /link; echo x > /link/x; rm /lower/gone2; rm -r /replaced; echo f > /replaced
mkdir -p /a/.wh.dir; echo done > /tmp/done
"""

EXPECTED = """
C /a
A /a/.wh.dir
C /a/changed
D /a/gone
C /a/mode
C /a/owner
C /b
D /b/one
A /b/three
D /b/two
C /dir
D /dir/inner
C /dir/other
D /dir/sub
C /link
A /link/x
C /lower
D /lower/gone2
A /made
A /made/deep
A /made/deep/file
A /made/link
A /new
C /replaced
C /tmp
A /tmp/done
D /whole
"""


def image(rless: Product) -> str:
    first = layer({
        "a/changed": "a", "a/mode": "a", "a/owner": "a", "a/gone": "a",
        "a/untouched": "a", "dir/inner": "x", "dir/sub/deep": "x", "dir/other": "y",
        "whole/x": "x", "b/one": "1", "b/two": "2", "link": Link("b"), "lower/gone": "x",
        "lower/gone2": "x", "replaced/x": "x", "tmp": Dir(mode=0o1777),
    })  # fmt: skip
    second = layer({"lower/.wh.gone": "", "a/kept": File("k", mode=0o640), "lower/new": "x"})
    return rless.add_image("diff", Image([busybox_layer(), first, second], {"Env": ["PATH=/bin"]}))


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("state", ["running", "stopped"])
def test_diff_shows_every_kind_of_change(rless: Product, driver: str, state: str) -> None:
    words = ["--name", "box", "--network", "none", "--storage-driver", driver,
             "-v", "diff-test:/vol/deep/data", "--tmpfs", "/scratch"]  # fmt: skip
    script = CHANGE.replace("touch /a/kept; ", "") if driver == "copy" else CHANGE
    if state == "running":
        rless("run", "-d", *words, image(rless), "sh", "-c", f"{script} sleep 1000").expect()
        wait_for(lambda: rless("cp", "box:/tmp/done", "-").code == 0, "the changes")
    else:
        rless("run", *words, image(rless), "sh", "-c", script).expect()
    found = rless("diff", "box").expect().lines()
    # `touch` alone: the time of a file that was not written to.
    assert [line for line in found if not line.endswith("/a/kept")] == EXPECTED.strip().split("\n")
    assert rless("diff", "box").expect().lines() == found
    rless("rm", "-f", "box").expect()


def test_diff_of_an_unchanged_container_is_empty(rless: Product) -> None:
    rless("run", "--name", "box", "--network", "none", "-v", "diff-test:/a/b/c", rless.image,
          "sh", "-c", "echo x > /a/b/c/d").expect()  # fmt: skip
    assert rless("diff", "box").expect().out == ""
    rless("rm", "box").expect()


def test_diff_of_the_host_image_works(rless: Product) -> None:
    script = "echo x > /etc/rless-test; mkdir /usr/local/rless-test; echo y > /srv/file"
    rless("run", "--name", "box", "--network", "none", "host:", "sh", "-c", script).expect()
    found = rless("diff", "box").expect().lines()
    assert {"A /etc/rless-test", "A /usr/local/rless-test", "A /srv/file"} <= set(found)
    assert len(found) < 12, found
    rless("rm", "box").expect()


def test_diff_of_a_rootfs_directory_works(rless: Product, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/sh")
    for suffix in (":O", ""):
        rless("run", "--name", "box", "--network", "none", "--rootfs", f"{root}{suffix}", "/bin/sh",
              "-c", "echo x > /new").expect()  # fmt: skip
        done = rless("diff", "box")
        if suffix:
            assert done.expect().lines() == ["A /new"]
        else:
            assert "no image to compare with" in done.expect(1).one_line_error()
        rless("rm", "box").expect()


def test_hostile_names_are_escaped(rless: Product) -> None:
    rless("run", "--name", "box", "--network", "none", rless.image, "sh", "-c",
          "echo x > \"$(printf '/tmp/a\\n\\033[31m')\"").expect()  # fmt: skip
    assert rless("diff", "box").expect().lines() == ["C /tmp", "A /tmp/a\\n\\x1b[31m"]
    rless("rm", "box").expect()


def test_wrong_arguments_are_refused(rless: Product) -> None:
    assert "no such container" in rless("diff", "none").expect(1).one_line_error()
    rless("diff").expect(125)
