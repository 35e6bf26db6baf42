"""Archives and layouts, our own and of other tools; hostile ones (class 13)."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.model import limits
from tests.lib import images
from tests.lib.image_store import Workshop
from tests.lib.images import Dir, Hard, Image, Link, layer

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

PLAIN = Image([layer({"f": "one"}), layer({"g": "two"})], {"Cmd": ["/g"], "Env": ["A=b"]})
OTHER = Image([layer({"f": "other"})])


def write(kind: str, image: Any, directory: Path, tag: str = "x:latest") -> str:
    """Write an image in one of the three forms; return the reference of its place."""
    target = directory / f"image-{kind}"
    if kind == "oci":
        images.write_oci_layout(image, target, tag)
    elif kind == "oci-archive":
        images.write_oci_archive(image, target, tag)
    else:
        images.write_docker_archive(image, target, tag)
    return f"{kind}:{target}"


KINDS = ("docker-archive", "oci-archive", "oci")


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_archive_is_read(workshop: Workshop, tmp_path: Path, kind: str) -> None:
    name = write(kind, PLAIN, tmp_path)
    image = workshop.pull(name)
    assert image.id == PLAIN.id
    assert image.config == {"Cmd": ["/g"], "Env": ["A=b"]}
    assert image.digest == ("" if kind == "docker-archive" else PLAIN.digest)
    assert workshop.tree(image, 1)["g"]["text"] == "two"
    found = workshop.store.lookup(name)
    assert found is not None and found.id == image.id


@pytest.mark.parametrize("kind", KINDS)
def test_image_of_several_is_selected(workshop: Workshop, tmp_path: Path, kind: str) -> None:
    name = write(kind, {"a:1": PLAIN, "b:2": OTHER}, tmp_path)
    with pytest.raises(RlessError, match="has 2 images") as caught:
        workshop.pull(name)
    assert "a:1" in (caught.value.hint or "")
    assert workshop.pull(f"{name}:b:2").id == OTHER.id
    assert workshop.pull(f"{name}:a:1").id == PLAIN.id
    assert workshop.pull(f"{name}:@1").id == OTHER.id
    with pytest.raises(RlessError, match="has no image"):
        workshop.pull(f"{name}:c:3")
    with pytest.raises(RlessError, match="has no image number 7"):
        workshop.pull(f"{name}:@7")


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_archive_is_read(
    workshop: Workshop, tmp_path: Path, kind: str, compression: str
) -> None:
    name = write(kind, PLAIN, tmp_path)
    path = Path(name.partition(":")[2])
    path.write_bytes(images.compress(path.read_bytes(), compression))
    assert workshop.tree(workshop.pull(name))["g"]["text"] == "two"
    assert os.listdir(f"{workshop.root}/tmp") == []


@pytest.mark.parametrize("kind", KINDS)
def test_changed_archive_is_noticed(workshop: Workshop, tmp_path: Path, kind: str) -> None:
    name = write(kind, PLAIN, tmp_path)
    workshop.pull(name)
    assert workshop.store.lookup(name) is not None
    shutil.rmtree(tmp_path / "image-oci", ignore_errors=True)
    write(kind, OTHER, tmp_path)
    assert workshop.store.lookup(name) is None
    assert workshop.pull(name, policy="missing").id == OTHER.id


def test_old_docker_save_links_equal_layers(workshop: Workshop, tmp_path: Path) -> None:
    data = layer({"f": "x"})
    image = Image([data, data])
    files: dict[str, images.Value] = {
        f"{image.id[7:]}.json": image.config_data,
        "one": Dir(),
        "one/layer.tar": data,
        "two": Dir(),
        "two/layer.tar": Link("../one/layer.tar"),
        "manifest.json": json.dumps(
            [{"Config": f"{image.id[7:]}.json", "Layers": ["one/layer.tar", "two/layer.tar"]}]
        ),
    }
    path = tmp_path / "a.tar"
    path.write_bytes(layer(files))
    assert len(workshop.pull(f"docker-archive:{path}").chain) == 2


def test_archives_cause_no_network_access(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class 19: `urls` of a layer is never looked at, and an archive never leads to a server."""

    def refuse(*_: object) -> None:
        raise AssertionError("an archive opened a socket")

    monkeypatch.setattr("socket.socket.connect", refuse)
    image = Image([layer({"f": "x"})])
    for descriptor in image.manifest["layers"]:  # type: ignore[attr-defined]
        descriptor["urls"] = ["http://127.0.0.1:1/layer"]
        descriptor["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    path = images.write_oci_archive(image, tmp_path / "a.tar")
    assert workshop.pull(f"oci-archive:{path}").id == image.id
    del image.manifest["layers"]
    image.manifest["layers"] = [{**descriptor, "digest": "sha256:" + "0" * 64}]
    images.write_oci_archive(image, path)
    with pytest.raises(RlessError, match="does not have layer"):
        workshop.pull(f"oci-archive:{path}")


# -- made by others ------------------------------------------------------------------------------


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("kind", KINDS)
def test_archive_of_skopeo_is_read(workshop: Workshop, tmp_path: Path, kind: str) -> None:
    image = images.busybox_image([layer({"data/f": "x"})])
    source = images.write_oci_layout(image, tmp_path / "source", "t")
    target = f"{kind}:{tmp_path}/out"
    name = f"{target}:quay.io/x/y:1" if kind == "docker-archive" else f"{target}:t"
    run = ["skopeo", "--insecure-policy", "--tmpdir", str(tmp_path), "copy", "-q"]
    subprocess.run([*run, f"oci:{source}:t", name], check=True)
    found = workshop.pull(name)
    assert found.id == image.id  # the same config, byte for byte
    assert workshop.tree(found)["data/f"]["text"] == "x"
    assert workshop.pull(target).id == image.id


@pytest.mark.needs("umoci")
def test_layout_of_umoci_is_read(workshop: Workshop, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    bundle = tmp_path / "bundle"
    umoci = ["umoci", "--log", "error"]
    subprocess.run([*umoci, "init", "--layout", layout], check=True)
    subprocess.run([*umoci, "new", "--image", f"{layout}:t"], check=True)
    subprocess.run([*umoci, "unpack", "--rootless", "--image", f"{layout}:t", bundle], check=True)
    (bundle / "rootfs/d").mkdir()
    (bundle / "rootfs/d/f").write_text("by umoci")
    subprocess.run([*umoci, "repack", "--image", f"{layout}:t", bundle], check=True)
    subprocess.run([*umoci, "config", "--image", f"{layout}:t", "--config.user", "5:6"], check=True)
    found = workshop.pull(f"oci:{layout}:t")
    assert workshop.tree(found)["d/f"]["text"] == "by umoci"
    assert next(iter(found.keys)).startswith("u5g6")


# -- class 13 and other hostile archives -----------------------------------------------------------


def docker_archive(path: Path, **changes: Any) -> str:
    """Write a docker-archive whose manifest.json or members are changed."""
    image = Image([layer({"f": "x"})])
    entry = {"Config": f"{image.id[7:]}.json", "Layers": ["a/layer.tar"], "RepoTags": ["x:1"]}
    members: dict[str, Any] = {f"{image.id[7:]}.json": image.config_data}
    members["a/layer.tar"] = image.layers[0]
    members["manifest.json"] = json.dumps([entry | changes.pop("entry", {})])
    members |= changes.pop("members", {})
    path.write_bytes(layer(members))
    return f"docker-archive:{path}"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"entry": {"Config": "../../../../etc/passwd"}}, "has no file"),
        ({"entry": {"Config": "/etc/passwd"}}, "has no file"),
        ({"entry": {"Layers": ["../../../../etc/passwd"]}}, "has no layer"),
        ({"entry": {"Layers": ["/etc/passwd"]}}, "has no layer"),
        ({"entry": {"Layers": "a/layer.tar"}}, "bad Layers|no Config or Layers"),
        ({"entry": {"Layers": [5]}}, "bad Layers"),
        ({"entry": {"Layers": []}}, "its manifest 0"),
        ({"entry": {"Layers": ["a/layer.tar"] * 2}}, "its manifest 2"),
        ({"entry": {"Layers": ["a/layer.tar"] * 10000}}, "bad Layers"),
        ({"entry": {"Config": 5}}, "no Config or Layers"),
        ({"members": {"manifest.json": Link("/etc/passwd")}}, "no file manifest.json"),
        ({"members": {"manifest.json": Hard("a/layer.tar")}}, "no file manifest.json"),
        ({"members": {"manifest.json": "{}"}}, "not a list"),
        ({"members": {"manifest.json": "[5]"}}, "not a list"),
        ({"members": {"manifest.json": "[" * 100_000}}, "nested"),
        ({"members": {"manifest.json": "[]"}}, "has 0 images"),
        ({"members": {"a/layer.tar": Link("/etc/passwd")}}, "has no layer"),
        ({"members": {"a/layer.tar": Link("../../../../../etc/passwd")}}, "has no layer"),
        ({"members": {"a/layer.tar": Link("b"), "a/b": Link("layer.tar")}}, "has no layer"),
        ({"members": {"a/layer.tar": layer({"f": "y"})}}, "but the image says"),
    ],
)
def test_13_members_pointing_outside_are_refused(
    workshop: Workshop, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    name = docker_archive(tmp_path / "a.tar", **changes)
    with pytest.raises(RlessError, match=why) as caught:
        workshop.pull(name)
    assert str(caught.value).isprintable()
    assert not workshop.contents()


def test_13_config_must_match_the_digest_in_its_name(workshop: Workshop, tmp_path: Path) -> None:
    name = docker_archive(tmp_path / "a.tar", entry={"Config": "0" * 64 + ".json"})
    with pytest.raises(RlessError, match="has no file"):
        workshop.pull(name)
    members = {"0" * 64 + ".json": Image([layer({"f": "x"})]).config_data}
    name = docker_archive(tmp_path / "b.tar", entry={"Config": "0" * 64 + ".json"}, members=members)
    with pytest.raises(RlessError, match="digest of its name"):
        workshop.pull(name)


def test_13_unrequested_hostile_members_do_nothing(workshop: Workshop, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    members = {str(victim): "evil", "../" * 20 + str(victim): "evil", "x": Link(str(victim))}
    name = docker_archive(tmp_path / "a.tar", members=members)
    workshop.pull(name)
    assert not victim.exists()


def test_20_names_in_an_archive_are_never_paths(workshop: Workshop, tmp_path: Path) -> None:
    tags = ["../../x", "a\x1b[31m", "-rf", "UPPER", "x" * 70_000, 5, None, "good:1"]
    name = docker_archive(tmp_path / "a.tar", entry={"RepoTags": tags})
    image = workshop.pull(f"{name}:good:1")
    names = [record["name"] for record in workshop.store.records("names")]
    assert names == [f"{name}:docker.io/library/good:1"]
    with pytest.raises(RlessError, match="has no image") as caught:
        workshop.pull(f"{name}:other:1")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600
    assert image.id
    assert all(
        set(entry) <= set("0123456789abcdef.json")
        for entry in os.listdir(f"{workshop.root}/images/names")
    )


Change = Callable[[Path], object]


def edit(path: str, function: Callable[[Any], object]) -> Change:
    """Return a change to a JSON document of a layout."""

    def change(root: Path) -> None:
        document = json.loads((root / path).read_text())
        function(document)
        (root / path).write_text(json.dumps(document))

    return change


def link_blob(root: Path) -> None:
    target = root / "blobs/sha256" / PLAIN.manifest["layers"][0]["digest"][7:]  # type: ignore[index]
    shutil.move(target, root.parent / "elsewhere")
    target.symlink_to(root.parent / "elsewhere")


def link_directory(root: Path) -> None:
    shutil.move(root / "blobs", root.parent / "blobs")
    (root / "blobs").symlink_to(root.parent / "blobs")


def fifo_index(root: Path) -> None:
    (root / "index.json").unlink()
    os.mkfifo(root / "index.json")


def spoil(which: str) -> Change:
    def change(root: Path) -> None:
        digest = PLAIN.digest if which == "manifest" else PLAIN.id
        if which == "layer":
            digest = PLAIN.manifest["layers"][1]["digest"]  # type: ignore[index]
        path = root / "blobs/sha256" / digest[7:]
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data)

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            edit("index.json", lambda d: d["manifests"][0].update(digest="sha256:../x")),
            "bad digest",
        ),
        (edit("index.json", lambda d: d["manifests"][0].update(size=3)), "instead of 3"),
        (edit("index.json", lambda d: d["manifests"][0].update(size=1 << 40)), "the limit is"),
        (edit("index.json", lambda d: d["manifests"][0].update(mediaType=5)), "no media type"),
        (edit("index.json", lambda d: d.update(manifests={})), "not a list"),
        (edit("oci-layout", lambda d: d.update(imageLayoutVersion="9")), "version 1.0.0"),
        (lambda root: (root / "oci-layout").unlink(), "no file oci-layout"),
        (lambda root: (root / "index.json").write_bytes(b" " * (5 << 20)), "larger than"),
        (link_blob, "does not have layer"),
        (link_directory, "has no file"),
        (fifo_index, "no file index.json"),
        (spoil("manifest"), "does not have the digest"),
        (spoil("config"), "does not have the digest"),
        (spoil("layer"), "broken gzip|does not have its digest|after the end"),
    ],
)
def test_hostile_layouts_are_refused(
    workshop: Workshop, tmp_path: Path, change: Change, why: str
) -> None:
    root = tmp_path / "layout"
    images.write_oci_layout(PLAIN, root)
    change(root)
    with pytest.raises(RlessError, match=why) as caught:
        workshop.pull(f"oci:{root}")
    assert str(caught.value).isprintable()
    assert not workshop.contents()


def test_layer_must_match_its_compressed_digest(workshop: Workshop, tmp_path: Path) -> None:
    image = Image([layer({"f": "x"})])
    digest = "sha256:" + "0" * 64
    image.manifest["layers"][0]["digest"] = digest  # type: ignore[index]
    images.write_oci_layout(image, tmp_path / "layout")
    (tmp_path / "layout/blobs/sha256" / digest[7:]).write_bytes(image.blobs[0])
    with pytest.raises(RlessError, match="does not have its digest"):
        workshop.pull(f"oci:{tmp_path}/layout")
    assert not workshop.contents()


def test_broken_outer_archives_are_refused(workshop: Workshop, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    whole = Path(images.write_docker_archive(PLAIN, path)).read_bytes()
    for data, why in (
        (b"", "no file manifest.json"),
        (b"junk" * 1000, "broken tar"),
        (whole[: len(whole) // 2], "broken tar|no file"),
        (gzip.compress(whole)[:-100], "broken gzip"),
        (b"PK\x03\x04zip", "broken tar"),
    ):
        path.write_bytes(data)
        with pytest.raises(RlessError, match=why):
            workshop.pull(f"docker-archive:{path}")
    for name, why in (("/nowhere", "No such file"), (str(tmp_path), "not a regular")):
        with pytest.raises(RlessError, match=why):
            workshop.pull(f"docker-archive:{name}")
    with pytest.raises(RlessError, match="cannot open"):
        workshop.pull(f"oci:{path}")


def test_archive_of_endless_members_is_refused(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ARCHIVE_MEMBERS", 50)
    members = {f"f{number}": "" for number in range(60)}
    with pytest.raises(RlessError, match="more than 50 members"):
        workshop.pull(docker_archive(tmp_path / "a.tar", members=members))


def test_other_platform_must_be_requested(workshop: Workshop, tmp_path: Path) -> None:
    other = "arm64" if os.uname().machine != "aarch64" else "amd64"
    image = Image([layer({"f": "x"})], architecture=other)
    path = images.write_docker_archive(image, tmp_path / "a.tar")
    with pytest.raises(RlessError, match=f"is for linux/{other}") as caught:
        workshop.pull(f"docker-archive:{path}")
    assert f"--platform linux/{other}" in (caught.value.hint or "")
    name = f"docker-archive:{path}"
    assert workshop.pull(name, platform=f"linux/{other}").platform["architecture"] == other
    assert workshop.store.lookup(name) is None
    assert workshop.store.lookup(name, f"linux/{other}") is not None
