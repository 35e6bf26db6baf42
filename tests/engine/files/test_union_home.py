"""A storage on fuse-overlayfs, which keeps no whiteouts of others: what works, and what not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib import images
from tests.lib.images import File, layer
from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "fuse", "fuse-overlayfs")


@pytest.fixture
def home(tmp_path: Path, own_rless: Product) -> Iterator[Product]:
    """Give rless with its storage on fuse-overlayfs, mounted by its user."""
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir(mode=0o700)
    own_rless.storage.mkdir()
    options = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    mount = str(own_rless.storage)
    subprocess.run(["fuse-overlayfs", "-o", options, mount], check=True, capture_output=True)
    try:
        yield own_rless
        assert list((own_rless.storage / "tmp").iterdir()) == []
    finally:
        subprocess.run(["fusermount3", "-u", "-z", mount], check=True)


def load(home: Product, tmp_path: Path, name: str, *layers: bytes) -> str:
    """Load an image that is root's alone, as its owners would be refused; return what was said."""
    archive = tmp_path / "image.tar"
    busybox = layer({"bin/busybox": File(Path("/bin/busybox").read_bytes(), mode=0o755)})
    settings = {"Env": ["PATH=/bin"], "Entrypoint": ["busybox"]}
    images.write_docker_archive(images.Image([busybox, *layers], settings), archive, name)
    return home("load", "-q", "-i", str(archive)).err


def test_containers_change_and_delete_files(home: Product, tmp_path: Path) -> None:
    assert load(home, tmp_path, "plain:1", layer({"kept": "x"})) == ""
    script = "busybox rm /kept; busybox ls /kept; echo y >/new; busybox cat /new"
    done = home("run", "--rm", "-q", "--network=none", "plain:1", "sh", "-c", script).expect()
    assert done.out == "y\n"
    assert "/kept" in done.err


def test_hpc_takes_a_file(home: Product, tmp_path: Path) -> None:
    load(home, tmp_path, "plain:1")
    box = str(tmp_path / "box.sqsh")
    home("flatten", "plain:1", box).expect()
    assert home("run", "--hpc", box, "busybox", "echo", "hello").expect().out == "hello\n"


def test_image_that_deletes_is_refused(home: Product, tmp_path: Path) -> None:
    said = load(home, tmp_path, "less:1", layer({"gone": "x"}), layer({".wh.gone": ""}))
    assert "cannot keep .wh.gone, which hides a file of a lower layer" in said
    assert said.count("\n") == 1
    assert "set RLESS_STORAGE to a local directory that is no union mount" in said
    assert list((home.storage / "tmp").iterdir()) == []
