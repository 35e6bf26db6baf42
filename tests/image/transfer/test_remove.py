"""rmi: names, ids, digests, images in use, undeletable trees and full disks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.model.reference import parse
from rootless.image.store import records
from rootless.image.store.names import read_all
from rootless.image.store.staging import Staging
from rootless.image.store.store import Image as StoredImage
from rootless.image.transfer import remove
from rootless.linux import mount
from rootless.linux.idmap import IdMap, call_in_userns
from tests.lib.image_store import Workshop
from tests.lib.images import Dir, File, Image, layer

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

OTHER = "sha256:" + "5" * 64
SINGLE_ROOT = IdMap([(0, 0, 1)], [(0, 0, 1)], "single")


def name(workshop: Workshop, image: StoredImage, *names: str, digests: bool = True) -> None:
    """Record an image under names of registries, and take its name of an archive away."""
    with Staging(workshop.root) as staging:
        for text in names:
            record = {
                "name": parse(text).canonical, "id": image.id, "digest": image.digest,
                "digests": [OTHER] if digests else [], "config": image.config,
                "platform": image.platform, "chain": image.chain, "users": image.users,
                "keys": image.keys, "size": image.size, "created": image.created,
                "source": None,
            }  # fmt: skip
            records.save(workshop.root, record, parse(text), None, staging.path)
    for path, record in read_all(workshop.store):
        if record["name"] == image.name:
            os.unlink(path)


def rm(workshop: Workshop, text: str, **options: object) -> list[str]:
    options = {"force": False, "used": {}, "running": {}} | options
    return remove.remove(workshop.store, text, **options)  # type: ignore[arg-type]


@pytest.fixture
def image(workshop: Workshop) -> StoredImage:
    return workshop.unpack([layer({"f": "x"}), layer({"g": "y"})])


def test_removing_the_last_name_removes_the_image(workshop: Workshop, image: StoredImage) -> None:
    name(workshop, image, "busybox:1", "busybox:2")
    assert rm(workshop, "busybox:1") == ["Untagged: busybox:1"]
    assert rm(workshop, "busybox:2") == [
        "Untagged: busybox:2", f"Untagged: busybox@{OTHER}", f"Deleted: {image.id}",
        f"Deleted: {image.chain[1]}", f"Deleted: {image.chain[0]}",
    ]  # fmt: skip
    assert workshop.contents() == {}


def test_image_is_removed_by_id_prefix_and_digest(workshop: Workshop, image: StoredImage) -> None:
    name(workshop, image, "localhost:5000/a/b:1", "busybox:1")
    assert rm(workshop, f"localhost:5000/a/b@{OTHER}") == [
        "Untagged: localhost:5000/a/b:1", f"Untagged: localhost:5000/a/b@{OTHER}"
    ]  # fmt: skip
    lines = rm(workshop, image.id[7:15])
    assert f"Deleted: {image.id}" in lines
    assert workshop.contents() == {}


def test_image_of_a_running_container_is_never_removed(
    workshop: Workshop, image: StoredImage
) -> None:
    name(workshop, image, "busybox:1", "busybox:2")
    runs = {"used": {image.id: "web"}, "running": {image.id: "web"}}
    assert rm(workshop, "busybox:1", **runs) == ["Untagged: busybox:1"]  # the other name stays
    for text in ("busybox:2", image.id):
        with pytest.raises(RlessError, match=r"used by a running container \(web\)") as caught:
            rm(workshop, text, force=True, **runs)
        assert caught.value.exit_code == 1
    assert workshop.store.lookup("busybox:2") is not None


def test_stopped_container_keeps_its_layers(workshop: Workshop, image: StoredImage) -> None:
    name(workshop, image, "busybox:1", digests=False)
    used = {image.id: "old"}
    with pytest.raises(RlessError, match=r"used by a container \(old\); remove the container"):
        rm(workshop, "busybox:1", used=used)
    assert rm(workshop, image.id, used=used, force=True) == ["Untagged: busybox:1"]
    with pytest.raises(RlessError, match="used by a container"):
        rm(workshop, image.id, used=used, force=True)
    left = workshop.store.lookup(image.id)
    assert left is not None and left.layer_dirs(next(iter(image.keys)))
    assert rm(workshop, image.id)[0] == f"Deleted: {image.id}"
    assert workshop.contents() == {}


def test_missing_image_is_reported(workshop: Workshop) -> None:
    for text in ("none", "none:1", "abcdef", OTHER, f"a@{OTHER}", "oci:/none"):
        with pytest.raises(remove.NotFoundError, match="no such image") as caught:
            rm(workshop, text)
        assert caught.value.exit_code == 1


def _fill_and_remove(directory: str, archive: str, options: str) -> list[object]:
    mount.mount("tmpfs", directory, "tmpfs", 0, f"mode=0700,{options}")
    small = Workshop(Path(directory))
    image = small.pull(archive, idmap_for=lambda _: SINGLE_ROOT)
    try:
        for number in range(10_000):
            with open(f"{directory}/fill{number}", "wb") as file:
                file.write(b"x" * 100_000)
    except OSError as error:
        full = str(error)
    remove.remove(small.store, image.name, force=False, used=())
    return [full, small.contents(), os.listdir(f"{small.root}/layers")]


@pytest.mark.parametrize("options", ["size=4m", "size=64m,nr_inodes=100"])
def test_removal_works_on_a_full_disk(tmp_path: Path, options: str) -> None:
    """No room for a lock file or a directory: deletion needs neither."""
    from tests.lib import images

    place = tmp_path / "small"
    place.mkdir()
    files = {"d": Dir(mode=0o500), "d/f": File(b"y" * 5000, mode=0), "g": "z"}
    archive = images.write_oci_archive(Image([layer(files)]), tmp_path / "a.tar")
    arguments = (str(place), f"oci-archive:{archive}", options)
    full, left, layers = call_in_userns(
        IdMap([(0, os.getuid(), 1)], [(0, os.getgid(), 1)], "single"), _fill_and_remove, *arguments
    )
    assert "No space left" in full
    assert left == {}
    assert layers == []


@pytest.mark.needs("ordinary user")
def test_read_only_store_is_reported_in_one_line(workshop: Workshop, image: StoredImage) -> None:
    os.chmod(f"{workshop.root}/images/names", 0o500)
    try:
        with pytest.raises(RlessError, match=r"cannot delete .*: Permission denied") as caught:
            rm(workshop, image.name)
        assert "\n" not in str(caught.value)
    finally:
        os.chmod(f"{workshop.root}/images/names", 0o700)
    assert workshop.store.lookup(image.name) is not None


def test_image_of_a_missing_archive_is_removed(workshop: Workshop, image: StoredImage) -> None:
    """It is listed by that name, so it is removed by it; a run would read the archive anew."""
    os.unlink(image.name.partition(":")[2])
    assert workshop.store.lookup(image.name) is None
    assert rm(workshop, image.name)[0] == f"Untagged: {image.name}"
    assert workshop.contents() == {}
