"""Saved archives have the original bytes in every form, and other tools read them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.archive import write as saver
from rootless.image.model.packing import Packing
from rootless.image.registry.progress import Progress
from rootless.image.store.staging import Staging
from rootless.image.store.store import Image as StoredImage
from rootless.image.store.store import layer_dir
from rootless.linux.files import Output
from tests.lib import images
from tests.lib.image_store import Workshop
from tests.lib.images import Device, File, Image, layer

NAME = "docker.io/library/made:1"
OTHER = "quay.example/team/app:2"
LAYERS = [
    images.busybox_layer(),
    layer({"secret": File("x" * 100_000, mode=0, uid=7), "null": Device(), ".wh.bin": ""}),
]


def archive(
    workshop: Workshop,
    chosen: list[tuple[StoredImage, list[str]]],
    path: Path,
    form: str = "docker-archive",
    compression: str = "",
) -> Path:
    """Save as the command does."""
    with Staging(workshop.root) as staging:
        options: dict[str, Any] = {
            "form": form,
            "packing": Packing(compression),
            "progress": Progress(quiet=True),
        }
        if form.endswith("dir"):
            with saver.Directory(str(path)) as made:
                target = saver.DirectoryTarget(made.path)
                saver.save(workshop.store, chosen, target, staging.path, **options)
            return path
        try:
            with Output(str(path)) as file:
                tar = saver.TarTarget(file.fd)
                saver.save(workshop.store, chosen, tar, staging.path, **options)
                tar.end()
        except OSError as error:
            raise saver.not_written(error, str(path)) from error
    return path


@pytest.fixture
def made(workshop: Workshop) -> StoredImage:
    """Return an image of the store with what makes a layer hard to give back."""
    return workshop.unpack(Image(LAYERS, {"Cmd": ["/bin/sh"], "User": "0"}, compression="zstd"))


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        names = [info.name for info in tar]
        assert len(names) == len(set(names))
        return {
            info.name: file.read() for info in tar if (file := tar.extractfile(info)) is not None
        }


def test_docker_archive_is_also_an_oci_layout(workshop: Workshop, made: StoredImage) -> None:
    found = members(archive(workshop, [(made, [NAME])], workshop.directory / "a.tar"))
    (entry,) = json.loads(found["manifest.json"])
    assert entry["RepoTags"] == ["made:1"]
    assert [found[name] for name in entry["Layers"]] == LAYERS
    assert hashlib.sha256(found[entry["Config"]]).hexdigest() == made.id[7:]
    top = os.path.basename(entry["Layers"][-1])
    assert json.loads(found["repositories"]) == {"made": {"1": top}}
    (pointer,) = json.loads(found["index.json"])["manifests"]
    assert pointer["annotations"] == {
        "io.containerd.image.name": NAME,
        "org.opencontainers.image.ref.name": "1",
    }
    manifest = json.loads(found[f"blobs/sha256/{pointer['digest'][7:]}"])
    assert manifest["config"]["digest"] == made.id
    for name, data in found.items():
        if name.startswith("blobs/"):
            assert hashlib.sha256(data).hexdigest() == os.path.basename(name)
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_archives_are_reproducible(workshop: Workshop, made: StoredImage) -> None:
    one = archive(workshop, [(made, [NAME])], workshop.directory / "a.tar")
    two = archive(workshop, [(made, [NAME])], workshop.directory / "b.tar")
    assert one.read_bytes() == two.read_bytes()
    assert stat.S_IMODE(one.stat().st_mode) == 0o600


def test_images_share_layers(workshop: Workshop, made: StoredImage) -> None:
    second = workshop.unpack(Image([LAYERS[0]], {"Cmd": ["true"]}))
    chosen = [(made, [NAME, OTHER]), (second, [])]
    found = members(archive(workshop, chosen, workshop.directory / "a.tar"))
    first, last = json.loads(found["manifest.json"])
    assert first["RepoTags"] == ["made:1", OTHER] and last["RepoTags"] is None
    assert first["Layers"][:1] == last["Layers"]
    assert len(json.loads(found["index.json"])["manifests"]) == 3


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
@pytest.mark.parametrize("form", ["oci-archive", "oci-dir"])
def test_layouts_are_written(
    workshop: Workshop, made: StoredImage, form: str, compression: str
) -> None:
    place = workshop.directory / "made"
    archive(workshop, [(made, [NAME])], place, form, compression)
    transport = "oci" if form == "oci-dir" else form
    again = workshop.pull(f"{transport}:{place}:1")
    assert again.id == made.id


def test_compressed_layers_are_reproducible(workshop: Workshop, made: StoredImage) -> None:
    digests = []
    for number in range(2):
        place = workshop.directory / str(number)
        archive(workshop, [(made, [NAME])], place, "oci-dir", "gzip")
        digests.append(sorted(os.listdir(place / "blobs/sha256")))
    assert digests[0] == digests[1]


# -- other tools -------------------------------------------------------------------------------


def said(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs("skopeo")
def test_skopeo_reads_every_form(workshop: Workshop, made: StoredImage) -> None:
    forms = (
        ("docker-archive", "", "docker-archive:{}:made:1"),
        ("oci-archive", "zstd", "oci-archive:{}:1"),
        ("oci-dir", "gzip", "oci:{}:1"),
        ("docker-dir", "", "dir:{}"),
        ("docker-dir", "gzip", "dir:{}"),
    )
    for number, (form, compression, name) in enumerate(forms):
        place = workshop.directory / f"saved-{number}"
        archive(workshop, [(made, [NAME])], place, form, compression)
        source = name.format(place)
        config = said("skopeo", "inspect", "--config", "--raw", source)
        assert hashlib.sha256(config.encode()).hexdigest() == made.id[7:]
        # A copy verifies every blob, and that the layers are those of the config.
        target = workshop.directory / f"copy-{number}"
        copy = ("skopeo", "--insecure-policy", "--tmpdir", workshop.directory, "copy", "-q")
        said(*copy, source, f"dir:{target}")


@pytest.mark.needs("podman")
def test_archives_are_exchanged_with_podman(workshop: Workshop, made: StoredImage) -> None:
    place = archive(workshop, [(made, [OTHER])], workshop.directory / "a.tar")
    base = Path(tempfile.mkdtemp(prefix="rless-"))  # podman wants a short name
    # vfs: its layers need no mount, so this works in any container.
    podman = ["podman", "--root", base / "root", "--runroot", base / "run"]
    podman += ["--storage-driver", "vfs"]
    try:
        said(*podman, "load", "-q", "-i", place)
        shown = said(*podman, "images", "--no-trunc", "--format", "{{.Id}} {{.Repository}}")
        assert shown.split() == [made.id[7:], "quay.example/team/app"]
        back = workshop.directory / "b.tar"
        said(*podman, "save", "-q", "-o", back, OTHER)
    finally:
        subprocess.run([*podman, "unshare", "rm", "-rf", base], check=True)
    assert workshop.pull(f"docker-archive:{back}").id == made.id


@pytest.mark.needs("buildah")
def test_archives_are_exchanged_with_buildah(workshop: Workshop, made: StoredImage) -> None:
    place = archive(workshop, [(made, [OTHER])], workshop.directory / "a.tar", "oci-archive")
    base = workshop.directory / "buildah"
    buildah = ["buildah", "--root", base / "root", "--runroot", base / "run"]
    buildah += ["--storage-driver", "vfs"]
    try:
        assert said(*buildah, "pull", "-q", f"oci-archive:{place}").strip() == made.id[7:]
        back = workshop.directory / "b.tar"
        said(*buildah, "push", "-q", made.id[7:], f"oci-archive:{back}:x")
    finally:
        subprocess.run([*buildah, "unshare", "rm", "-rf", base], check=True)
    assert workshop.pull(f"oci-archive:{back}").id == made.id


@pytest.mark.needs("umoci")
def test_umoci_unpacks_the_layout(workshop: Workshop) -> None:
    made = workshop.unpack(Image([layer({"d/f": "text", "e": "x"})]))
    place = workshop.directory / "layout"
    archive(workshop, [(made, [NAME])], place, "oci-dir", "gzip")
    bundle = workshop.directory / "bundle"
    said("umoci", "--log", "error", "unpack", "--rootless", "--image", f"{place}:1", bundle)
    assert (bundle / "rootfs/d/f").read_text() == "text"


# -- what can go wrong -------------------------------------------------------------------------


def test_changed_layer_leaves_no_archive(workshop: Workshop) -> None:
    made = workshop.unpack(Image([layer({"f": "text"})]))
    Path(layer_dir(workshop.root, next(iter(made.keys)), made.chain[0]), "f").write_text("TEXT")
    target = workshop.directory / "a.tar"
    target.write_text("before")
    for form in ("docker-archive", "oci-archive", "oci-dir"):
        path = target if form != "oci-dir" else workshop.directory / "layout"
        with pytest.raises(RlessError, match="no longer has its digest"):
            archive(workshop, [(made, [NAME])], path, form)
    assert target.read_text() == "before"
    assert not [name for name in os.listdir(workshop.directory) if ".tmp" in name]
    assert not (workshop.directory / "layout").exists()


def test_changed_config_is_noticed(workshop: Workshop, made: StoredImage) -> None:
    path = Path(workshop.root, "blobs/sha256", made.id[7:])
    path.write_bytes(path.read_bytes().replace(b"/bin/sh", b"/bin/ls"))
    with pytest.raises(RlessError, match=r"config of image .* was changed"):
        archive(workshop, [(made, [NAME])], workshop.directory / "a.tar")


def test_wrong_target_is_refused(workshop: Workshop, made: StoredImage) -> None:
    full = Path("/dev/full")
    refusals: list[tuple[Path, str, str]] = [
        (workshop.directory, "docker-archive", "Is a directory"),
        (workshop.directory / "no/such", "docker-archive", "No such file"),
        (full, "docker-archive", "No space left"),
        (workshop.directory, "oci-dir", "File exists"),
    ]
    for path, form, why in refusals:
        with pytest.raises(RlessError, match=why) as caught:
            archive(workshop, [(made, [NAME])], path, form)
        assert caught.value.message.startswith(f"cannot write {path}")
    assert os.listdir(f"{workshop.root}/tmp") == []


def test_full_store_is_reported_during_compression(
    workshop: Workshop, made: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the store that is full, not where the archive goes."""
    monkeypatch.setattr(saver, "open_tmpfile", lambda _: os.open("/dev/full", os.O_RDWR))
    with pytest.raises(RlessError, match=r"^layer \w{12} cannot be compressed: No space") as caught:
        archive(workshop, [(made, [NAME])], workshop.directory / "a.tar", "oci-archive", "gzip")
    assert "RLESS_STORAGE" in (caught.value.hint or "")
    assert not (workshop.directory / "a.tar").exists()


def test_link_as_target_is_kept(workshop: Workshop, made: StoredImage) -> None:
    (workshop.directory / "real").write_text("")
    link = workshop.directory / "link"
    link.symlink_to("real")
    archive(workshop, [(made, [NAME])], link)
    assert link.is_symlink() and tarfile.is_tarfile(workshop.directory / "real")


def test_closed_pipe_is_an_error(workshop: Workshop, made: StoredImage) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with Staging(workshop.root) as staging, pytest.raises(OSError, match="Broken pipe"):
        tar = saver.TarTarget(writer)
        quiet = Progress(quiet=True)
        saver.save(workshop.store, [(made, [NAME])], tar, staging.path, progress=quiet)
        tar.end()
    os.close(writer)
    assert os.listdir(f"{workshop.root}/tmp") == []


def test_memory_is_independent_of_layer_size(workshop: Workshop) -> None:
    """300 MB in files of many sizes; holes in the heap once made it 11 % of that."""
    path = workshop.directory / "root.tar"
    with tarfile.open(path, "w") as tar, open("/dev/zero", "rb") as zero:
        for number in range(300):
            info = tarfile.TarInfo(f"f{number}")
            info.size = 50_000 + number * 6_000
            tar.addfile(info, zero)
    code = (
        "import sys\n"
        "from rootless.image.layer import tarsplit\n"
        "from rootless.image.transfer.import_ import import_tar\n"
        "from rootless.image.registry.progress import Progress\n"
        "from rootless.image.store.store import Store\n"
        "from tests.lib.image_store import map_for\n"
        "store = Store(sys.argv[2])\n"
        "image = import_tar(sys.argv[1], store, idmap_for=map_for, progress=Progress(quiet=True))\n"
        "with tarsplit.open_layer(store, image, 0) as stream:\n"
        "    for _ in stream:\n"
        "        pass\n"
    )
    measure = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)\n"
    )
    command = [sys.executable, "-c", code, path, workshop.root]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", measure, *command],
        check=True,
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert int(done.stdout) < 60
