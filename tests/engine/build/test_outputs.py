"""What a build gives to others: archives and pushes that other tools read, files that are whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lib import images
from tests.lib.builds import NAME, Builds, seed
from tests.lib.product import Product, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

TEXT = 'FROM localhost/base:1\nRUN echo made > /made && chown 5:6 /made\nENV A=b\nCMD ["x"]\n'


@pytest.fixture
def build(rless: Product, tmp_path: Path) -> Builds:
    return Builds(rless, tmp_path / "context")


@pytest.fixture
def registry(rless: Product) -> Iterator[str]:
    with images.registry() as host:
        yield host


def document(archive: Path, digest: str = "") -> dict[str, Any]:
    """Return a blob of an OCI archive as JSON; without a digest, index.json."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"blobs/sha256/{digest[7:]}" if digest else "index.json")
        assert file is not None
        found: dict[str, Any] = json.loads(file.read())
        return found


def manifest_of(archive: Path) -> dict[str, Any]:
    return document(archive, document(archive)["manifests"][0]["digest"])


def said(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_archive_has_annotations_and_compression(build: Builds, tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    words = (
        "-o",
        f"type=oci,dest={out},compression=zstd,compression-level=9,annotation.Some.Key=v",
    )
    build(TEXT, *words, "--annotation", "manifest:other=w=x").expect()
    manifest = manifest_of(out)
    assert manifest["annotations"] == {"Some.Key": "v", "other": "w=x"}
    assert {layer["mediaType"][-8:] for layer in manifest["layers"]} == {"tar+zstd"}


def test_level_of_compression_counts(build: Builds, tmp_path: Path) -> None:
    sizes = []
    for level in (1, 9):
        out = tmp_path / f"{level}.tar"
        build(TEXT, "-o", f"type=oci,dest={out},compression-level={level}").expect()
        manifest = manifest_of(out)
        assert manifest["layers"][0]["mediaType"].endswith("tar+gzip")
        sizes.append(sum(layer["size"] for layer in manifest["layers"]))
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--annotation", "a=b"], "a manifest"),
        (["-o", "type=image,annotation.a=b"], "a manifest"),
        (["--annotation", "index:a=b", "--push"], "there is no index"),
        (["--annotation", "index-descriptor:a=b", "--push"], "index-descriptor:"),
        (["-o", "type=oci,oci-mediatypes=false,dest=x"], "oci-mediatypes=false"),
        (["-o", "type=oci,dest=x,compression-level=30"], "compression-level=30"),
        (["-o", "type=local,dest=x,annotation.a=b"], "annotation.a"),
        (["-o", "type=oci,dest=x,annotation-index.a=b"], "there is no index"),
        (["-o", "type=oci,dest=x,annotation-index-descriptor.a=b"], "annotation-index-desc"),
    ],
)
def test_what_cannot_be_is_refused(rless: Product, words: list[str], message: str) -> None:
    assert message in rless("build", "-t", "x", *words, ".").expect(125).one_line_error()


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize(
    "keys",
    [
        "compression=zstd",
        "compression=uncompressed",
        "oci-mediatypes=false,compression-level=2",
    ],
)
def test_skopeo_reads_what_is_pushed(
    build: Builds, registry: str, tmp_path: Path, keys: str
) -> None:
    name = f"{registry}/app/one:1"
    metadata = tmp_path / "metadata"
    flags = ("--metadata-file", str(metadata), "--iidfile", str(tmp_path / "iid"))
    build(TEXT, "-o", f"type=registry,{keys}", *flags, tag=name).expect()
    raw = said("skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{name}")
    manifest = json.loads(raw)
    is_docker = "oci" in keys
    assert ("docker" in manifest["mediaType"]) == is_docker
    facts = json.loads(metadata.read_text())
    assert facts["containerimage.digest"] == images.digest(raw.encode())
    assert facts["containerimage.config.digest"] == manifest["config"]["digest"]
    assert facts["image.name"] == name
    assert facts["containerimage.descriptor"] == {
        "mediaType": manifest["mediaType"],
        "digest": facts["containerimage.digest"],
        "size": len(raw),
    }
    assert (tmp_path / "iid").read_text() == manifest["config"]["digest"]
    config = said("skopeo", "inspect", "--tls-verify=false", "--config", f"docker://{name}")
    assert json.loads(config)["config"]["Cmd"] == ["x"]
    copy = ("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false")
    said(*copy, f"docker://{name}", f"dir:{tmp_path}/copy")


@pytest.mark.needs("skopeo")
def test_other_tools_read_the_archives(build: Builds, tmp_path: Path) -> None:
    oci, docker = tmp_path / "oci.tar", tmp_path / "docker.tar"
    outputs = ("-o", f"type=oci,dest={oci}", "-o", f"type=docker,dest={docker}")
    build(TEXT, *outputs, "--load").expect()
    identifier = build.inspect()["Id"]
    for source in (f"oci-archive:{oci}", f"docker-archive:{docker}"):
        raw = json.loads(said("skopeo", "inspect", "--raw", source))
        assert raw["config"]["digest"] == identifier
        said("skopeo", "--insecure-policy", "copy", "-q", source, f"dir:{tmp_path}/{source[:3]}")


def test_layout_is_a_build_context(build: Builds, tmp_path: Path) -> None:
    layout, metadata = tmp_path / "layout", tmp_path / "metadata"
    (build.context / "file").write_text("in\n")
    words = ("-o", f"type=oci,tar=false,dest={layout}", f"--metadata-file={metadata}")
    build("FROM scratch\nCOPY file /\n", *words).expect()
    descriptor = json.loads(metadata.read_text())["containerimage.descriptor"]
    raw = (layout / "blobs/sha256" / descriptor["digest"][7:]).read_bytes()
    assert (descriptor["digest"], descriptor["size"]) == (images.digest(raw), len(raw))
    for place in (layout, f"{layout}@{descriptor['digest']}"):
        context = f"--build-context=made=oci-layout://{place}"
        build("FROM made\n", context, "-o", str(tmp_path / "out")).expect()
        assert (tmp_path / "out/file").read_text() == "in\n"
    done = build("FROM made\n", f"--build-context=made=oci-layout://{layout}:none")
    assert done.code == 1 and "has no image none" in done.err


@pytest.mark.needs("mksquashfs", "unsquashfs")
def test_squashfs_runs(build: Builds, tmp_path: Path) -> None:
    out = tmp_path / "out.sqsh"
    build(TEXT, "-o", f"type=squashfs,dest={out}", tag="").expect()
    assert "/made" in said("unsquashfs", "-l", out)
    assert build.run("cat", "/made", name=str(out)) == "made\n"


@pytest.mark.parametrize("kind", ["tar", "oci"])
def test_killed_export_leaves_the_file_of_before(build: Builds, tmp_path: Path, kind: str) -> None:
    """SIGKILL while it is written: the old one is whole."""
    (build.context / "large").write_bytes(os.urandom(40_000_000))
    (build.context / "Dockerfile").write_text("FROM localhost/base:1\nCOPY large /\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").write_text("old")
    words = ("build", "-q", "-t", NAME, "-o", f"type={kind},dest={out}/file", str(build.context))
    process = build.rless.start(*words, stdout=subprocess.DEVNULL)
    wait_for(
        lambda: len(os.listdir(out)) > 1 or _writes(out) or process.poll() is not None, "it", 60
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / "file").read_bytes() in (b"old",) or tarfile.is_tarfile(out / "file")
    build(f"FROM localhost/base:1\n{seed()}", "-o", f"type={kind},dest={out}/file").expect()
    assert tarfile.is_tarfile(out / "file")


def _writes(directory: Path) -> bool:
    """Tell whether a process has a file without a name open in a directory."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link).startswith(f"{directory}/#"):
                return True
        except OSError:
            continue
    return False
