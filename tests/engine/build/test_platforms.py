"""Several platforms in one build: an index, as buildx makes it.

The programs of the foreign base image are the host's, so its RUNs go through everywhere.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lib import images
from tests.lib.builds import Builds, seed
from tests.lib.product import Product

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

BOTH = "linux/amd64,linux/arm64"
TEXT = (
    "FROM --platform=$BUILDPLATFORM {base} AS tools\n"
    "{seed}"
    "RUN echo tool > /tool\n"
    "FROM {base}\n"
    "ARG TARGETARCH TARGETPLATFORM\n"
    "COPY --from=tools /tool /\n"
    "RUN echo $TARGETPLATFORM > /for && chown 3:4 /for\n"
)


@pytest.fixture
def registry(rless: Product) -> Iterator[str]:
    """A registry that has base:1 for two platforms."""
    with images.registry() as host:
        layers = [images.busybox_layer()]
        both = [
            images.Image(layers, {"Env": [f"BASE={name}"]}, architecture=name)
            for name in ("amd64", "arm64")
        ]
        images.push(both, f"{host}/base:1")
        yield host


@pytest.fixture
def build(rless: Product, tmp_path: Path) -> Builds:
    return Builds(rless, tmp_path / "context")


def text_of(registry: str) -> str:
    return TEXT.format(base=f"{registry}/base:1", seed=seed())


def read_json(archive: tarfile.TarFile, name: str) -> dict[str, Any]:
    file = archive.extractfile(name)
    assert file is not None
    found: dict[str, Any] = json.loads(file.read())
    return found


def test_index_of_two_platforms(build: Builds, registry: str, tmp_path: Path) -> None:
    """Into the store, to a registry, into an OCI archive: from one build."""
    rless, name, out = build.rless, f"{registry}/app:1", tmp_path / "out.tar"
    metadata = tmp_path / "metadata"
    words = ("-o", f"type=oci,dest={out}", "--load", "--push", "--annotation", "index:a=b")
    text = text_of(registry)
    done = build(text, "--platform", BOTH, *words, f"--metadata-file={metadata}",
                 f"--iidfile={tmp_path}/iid", tag=name).expect()  # fmt: skip
    assert done.err.count("RUN echo tool") == 1, "the stage of the build's platform is done once"
    assert "[linux/arm64 stage-1 2/2] RUN echo" in done.err
    here = build.inspect(name)
    assert here["Architecture"] == images.Image([]).architecture
    assert (tmp_path / "iid").read_text() == here["Id"]
    for arch in ("amd64", "arm64"):
        one = json.loads(rless("image", "inspect", f"--platform=linux/{arch}", name).expect().out)[
            0
        ]
        assert one["Architecture"] == arch
        assert f"BASE={arch}" in one["Config"]["Env"]
        said = (
            rless("run", "--rm", "--network=none", one["Id"], "cat", "/for", "/tool").expect().out
        )
        assert said == f"linux/{arch}\ntool\n"
    with tarfile.open(out) as archive:
        (entry,) = read_json(archive, "index.json")["manifests"]
        assert entry["mediaType"] == images.OCI_INDEX
        assert entry["annotations"]["org.opencontainers.image.ref.name"] == "1"
        index = read_json(archive, f"blobs/sha256/{entry['digest'][7:]}")
    assert index["annotations"] == {"a": "b"}
    platforms = [one["platform"]["architecture"] for one in index["manifests"]]
    assert platforms == ["amd64", "arm64"]
    facts = json.loads(metadata.read_text())
    assert facts["containerimage.descriptor"]["mediaType"] == images.OCI_INDEX
    assert "containerimage.config.digest" not in facts
    with contextlib.closing(http.client.HTTPConnection(registry, timeout=60)) as link:
        link.request("GET", "/v2/app/manifests/1", headers={"Accept": images.OCI_INDEX})
        data = link.getresponse().read()
    assert images.digest(data) == facts["containerimage.digest"]
    assert [one["platform"] for one in json.loads(data)["manifests"]] == [
        {"os": "linux", "architecture": "amd64"},
        {"os": "linux", "architecture": "arm64"},
    ]
    rless("rmi", "--force", here["Id"]).expect()
    rless("load", "-q", "-i", str(out)).expect()
    assert build.inspect(name)["Id"] == here["Id"]
    # All is cached now; a trailing build for one platform finds it, too.
    again = build(text, "--platform=linux/arm64", tag="one:1").expect()
    assert again.err.count("CACHED") == 4, again.err
    rless(
        "run", "--rm", "--network=none", "--pull=never", "--platform=linux/arm64", "one:1", "true"
    ).expect()


def test_name_goes_from_the_images_of_all_platforms(build: Builds) -> None:
    rless, name = build.rless, "localhost/several:1"
    build(f"FROM scratch\nLABEL a={time.time_ns()}\n", "--platform", BOTH, tag=name).expect()
    rless("tag", name, "localhost/kept:1").expect()
    said = rless("rmi", name).expect().out
    assert said.count("Untagged") == 1 and said.count("Deleted: sha256:") == 1
    assert "several" not in rless("images").expect().out
    assert build.inspect("localhost/kept:1")["Architecture"] == images.Image([]).architecture
    rless("rmi", name).expect(1)


def test_files_of_each_platform_have_a_directory(build: Builds, tmp_path: Path) -> None:
    text = "FROM scratch\nARG TARGETARCH\nCOPY <<EOF /f\n$TARGETARCH\nEOF\nCOPY --chown=7:8 f /d/\n"
    (build.context / "f").write_text("")
    out = tmp_path / "out"
    words = ("-o", str(out), "-o", f"type=tar,dest={out}.tar")
    build(text, "--platform=amd64", "--platform=linux/arm/v7", *words, tag="").expect()
    assert (out / "linux_amd64/f").read_text() == "amd64\n"
    assert (out / "linux_arm_v7/f").read_text() == "arm\n"
    with tarfile.open(f"{out}.tar") as archive:
        assert archive.getmember("linux_arm_v7/d/f").uid == 7
    (out / "linux_amd64/f").unlink()
    (out / "linux_amd64/d/f").unlink()
    (out / "linux_amd64/d").rmdir()
    (out / "linux_amd64").rmdir()
    (out / "linux_amd64").symlink_to(tmp_path / "context")
    build(text, "--platform=amd64,arm", "-o", str(out), tag="").expect(1)
    assert not (build.context / "d").exists(), "no link is followed"


def test_index_of_one(build: Builds, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--build-arg", "BUILDKIT_MULTI_PLATFORM=1", "-o", f"type=oci,dest={out},tar=false")
    done = build("FROM scratch\nLABEL a=b\n", *words, tag="one:1").expect()
    assert "no ARG" not in done.err
    (entry,) = json.loads((out / "index.json").read_text())["manifests"]
    index = json.loads((out / f"blobs/sha256/{entry['digest'][7:]}").read_text())
    assert len(index["manifests"]) == 1


def test_run_of_a_foreign_program_says_what_is_missing(build: Builds) -> None:
    foreign = bytearray(Path("/bin/true").read_bytes())
    foreign[18:20] = (0xF7).to_bytes(2, "little")  # e_machine: EM_BPF, which no binfmt runs
    (build.context / "sh").write_bytes(foreign)
    text = "FROM scratch\nCOPY --chmod=755 sh /bin/sh\nRUN true\n"
    done = build(text, "--platform", BOTH).expect(1)
    last = done.err.splitlines()[-1]
    assert "cannot execute /bin/sh: Exec format error" in last and "binfmt_misc" in last


@pytest.mark.needs("skopeo")
def test_skopeo_reads_the_index(build: Builds, tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    text = "FROM scratch\nARG TARGETARCH\nLABEL for=$TARGETARCH\nCOPY Dockerfile /\n"
    build(text, "--platform", BOTH, "-o", f"type=oci,dest={out}", tag="").expect()
    words = ("skopeo", "--insecure-policy", "copy", "-q", "--all", f"oci-archive:{out}",
             f"oci:{tmp_path}/copy")  # fmt: skip
    subprocess.run(words, check=True)
    words = ("skopeo", "--override-arch=arm64", "inspect", "--config", f"oci-archive:{out}")
    config = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    assert config["architecture"] == config["config"]["Labels"]["for"] == "arm64"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "type=docker,dest=x"], "type=docker"),
        (["-o", "type=squashfs,dest=x"], "squashfs"),
        (["--platform=linux/a$b"], "not a platform"),
    ],
)
def test_what_cannot_hold_several_is_refused(
    rless: Product, words: list[str], message: str
) -> None:
    said = rless("build", "--platform", BOTH, *words, ".").expect(125).one_line_error()
    assert message in said
