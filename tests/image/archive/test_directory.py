"""The form `dir:`: one image and its signatures in a directory, as skopeo and Podman write it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.archive.directory import DirectoryImage
from rootless.image.archive.read import DirectoryFiles
from rootless.image.model import limits
from rootless.image.model.platforms import parse_platform
from rootless.image.registry.progress import Progress
from rootless.image.store.store import Image as StoredImage
from rootless.image.transfer.load import load
from tests.lib import images
from tests.lib.image_store import Workshop, map_for
from tests.lib.images import Image, layer

IMAGE = Image([layer({"etc/motd": "hello\n"})], {"Cmd": ["true"]})


def loaded(workshop: Workshop, path: Path, **options: Any) -> StoredImage:
    found = load(
        str(path), workshop.store, idmap_for=map_for, progress=Progress(quiet=True), **options
    )
    (image, names), *others = found
    assert (names, others) == ([], [])
    return image


def written(directory: Path, image: Image = IMAGE) -> Path:
    """Write an image as skopeo does."""
    directory.mkdir()
    (directory / "version").write_text("Directory Transport Version: 1.1\n")
    (directory / "manifest.json").write_bytes(image.manifest_data)
    for digest, data in image.all_blobs().items():
        (directory / digest[7:]).write_bytes(data)
    return directory


def test_a_directory_is_loaded(workshop: Workshop, tmp_path: Path) -> None:
    made = written(tmp_path / "made")
    (made / "signature-1").write_bytes(b"\x88first")
    (made / "signature-3").write_bytes(b"\x88after a gap")
    image = loaded(workshop, made)
    assert (image.id, image.digest) == (IMAGE.id, IMAGE.digest)
    assert workshop.tree(image)["etc/motd"]["text"] == "hello\n"


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_what_skopeo_writes_is_loaded(workshop: Workshop, tmp_path: Path, form: str) -> None:
    source = images.write_oci_layout(IMAGE, tmp_path / "layout")
    tool = ["skopeo", "--insecure-policy", "--tmpdir", str(tmp_path), "copy", "-q", "-f", form]
    subprocess.run([*tool, f"oci:{source}:latest", f"dir:{tmp_path}/copied"], check=True)
    assert loaded(workshop, tmp_path / "copied").id == IMAGE.id


def test_the_image_of_this_platform_is_chosen(workshop: Workshop, tmp_path: Path) -> None:
    made = written(tmp_path / "made")
    other = Image([layer({"a": "b"})], architecture="s390x")
    for one in (IMAGE, other):
        (made / f"{one.digest[7:]}.manifest.json").write_bytes(one.manifest_data)
        for digest, data in one.all_blobs().items():
            (made / digest[7:]).write_bytes(data)
    (made / "manifest.json").write_bytes(images.index([other, IMAGE]))
    (made / "signature-1").write_bytes(b"of the index")
    (made / f"{IMAGE.digest[7:]}.signature-1").write_bytes(b"of the image")
    assert loaded(workshop, made).id == IMAGE.id
    files = DirectoryFiles(str(made))
    source = DirectoryImage("made", files)
    found = source.find(parse_platform(None))
    assert source.signatures(found.digest) == [b"of the image"]
    assert source.signatures(found.digests[0]) == [b"of the index"]
    files.close()


def test_what_is_not_there_or_was_changed_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    config, blob = IMAGE.all_blobs()
    for number, (name, data) in enumerate(
        [(config[7:], b"{}"), (blob[7:], b"x"), (blob[7:], None), ("manifest.json", b"[]")]
    ):
        made = written(tmp_path / str(number))
        (made / name).unlink()
        if data is not None:
            (made / name).write_bytes(data)
        with pytest.raises(RlessError):
            loaded(workshop, made)


def test_links_are_not_followed(workshop: Workshop, tmp_path: Path) -> None:
    made = written(tmp_path / "made")
    config = made / IMAGE.id[7:]
    config.rename(tmp_path / "outside")
    config.symlink_to(tmp_path / "outside")
    with pytest.raises(RlessError, match="has no file"):
        loaded(workshop, made)


def test_a_name_in_the_manifest_is_a_digest(workshop: Workshop, tmp_path: Path) -> None:
    made = written(tmp_path / "made")
    document = json.loads(IMAGE.manifest_data)
    document["config"]["digest"] = "sha256:../../etc/passwd"
    (made / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(RlessError, match="bad digest"):
        loaded(workshop, made)


def test_signatures_are_bounded(tmp_path: Path) -> None:
    made = written(tmp_path / "made")
    files = DirectoryFiles(str(made))
    source = DirectoryImage("made", files)
    found = source.find(parse_platform(None))
    (made / "signature-1").write_bytes(b"x" * (limits.JSON_BYTES + 1))
    with pytest.raises(RlessError, match="larger than"):
        source.signatures(found.digest)
    for number in range(limits.SIGNATURES + 1):
        (made / f"signature-{number + 1}").write_bytes(b"x")
    with pytest.raises(RlessError, match="more than"):
        source.signatures(found.digest)
    files.close()
