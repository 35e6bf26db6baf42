"""`--squash`: one layer over the base, with the same files as the layers of the steps."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.lib.builds import Builds, cached, seed
from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

LIST = (
    "cd /; find . -xdev -path ./proc -prune -o -path ./sys -prune -o -path ./dev -prune"
    " -o ! -path './etc/h*' ! -path ./etc/resolv.conf ! -path . -exec stat -c '%n %A %u:%g'"
    " {} + | sort; cat $(find /d /new -type f | sort); readlink /d/link; stat -c '%h %Y' /new/dir/file"
)
TEXT = (
    "FROM localhost/base:1 AS below\n"
    "RUN mkdir -p /d/sub /gone /opaque && echo 1 > /d/one && echo 1 > /gone/file &&"
    " echo 1 > /opaque/old\n"
    "FROM below\n"
    "{seed}"
    "RUN echo 2 > /d/one; chmod 4711 /d/one; chown 5:6 /d/one; rm -r /gone; ln -s one /d/link\n"
    "RUN rm -r /opaque && mkdir /opaque && echo 2 > /opaque/new && rm /bin/busybox.old || true\n"
    "WORKDIR /new/dir\n"
    "COPY --chown=7:7 file .\n"
    "RUN ln file hard && mkfifo pipe && touch -d @5 file && chmod 700 /d/sub && rm -f /remove\n"
    "LABEL a=b\n"
)


@pytest.fixture
def build(rless: Product, tmp_path: Path) -> Builds:
    made = Builds(rless, tmp_path / "context")
    (made.context / "file").write_text("content\n")
    return made


@pytest.mark.parametrize("flag", ["--squash", "--layers=false"])
def test_squashed_image_has_the_same_files(build: Builds, flag: str) -> None:
    rless = build.rless
    (build.context / "base").write_text("x")
    build("FROM localhost/base:1\nCOPY base /remove\nRUN echo > /kept", tag="localhost/base:1")
    text = TEXT.format(seed=seed())
    build(text).expect()
    usual, base = build.inspect(), build.inspect("localhost/base:1")
    files = build.run("sh", "-c", LIST)
    assert "remove" not in files and "/kept" in files
    done = build(text, flag).expect()
    assert cached(done) == 7
    squashed = build.inspect()
    assert squashed["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]
    assert len(usual["RootFS"]["Layers"]) == len(base["RootFS"]["Layers"]) + 7
    assert build.run("sh", "-c", LIST) == files
    assert squashed["Config"] == usual["Config"]
    history = rless("history", "--format={{.CreatedBy}}\t{{.Size}}", "localhost/made:1").expect()
    assert "LABEL a=b" in history.out
    again = build(text, flag).expect()
    assert build.inspect()["Id"] == squashed["Id"], again.err
    rless("rmi", "localhost/made:1").expect()


def test_squash_of_scratch_is_one_layer(build: Builds) -> None:
    text = "FROM scratch\nCOPY file /a\nCOPY file /b\nCOPY file /a\n"
    build(text, "--squash").expect()
    assert len(build.inspect()["RootFS"]["Layers"]) == 1


def test_one_layer_needs_no_squash(build: Builds) -> None:
    text = "FROM localhost/base:1\nCOPY file /a\n"
    build(text).expect()
    usual = build.inspect()["Id"]
    build(text, "--squash").expect()
    assert build.inspect()["Id"] == usual


def test_file_that_is_as_before_is_kept(build: Builds) -> None:
    """Nothing is compared: it might differ in its capabilities alone."""
    text = "FROM localhost/base:1\nRUN chown 9 /bin/busybox && chown 0 /bin/busybox\nRUN touch /b\n"
    build(text, "--squash", "--output=type=oci,dest=out.tar,tar=true", "--load",
          cwd=build.context).expect()  # fmt: skip
    with tarfile.open(build.context / "out.tar") as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        digest = json.loads(read("index.json"))["manifests"][0]["digest"]
        layers = json.loads(read(f"blobs/sha256/{digest[7:]}"))["layers"]
        file = archive.extractfile(f"blobs/sha256/{layers[-1]['digest'][7:]}")
        with tarfile.open(fileobj=file) as layer:
            assert "bin/busybox" in layer.getnames() and "b" in layer.getnames()
