"""Load: every form of archive, from files and pipes; hostile archives."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.layer import tarsplit
from rootless.image.registry.progress import Progress
from rootless.image.store.store import Image as StoredImage
from rootless.image.transfer.load import load
from rootless.image.transfer.remove import remove
from rootless.oci.image_spec import CONTAINERD_NAME, REF_NAME
from tests.lib import images
from tests.lib.image_store import Workshop, map_for
from tests.lib.images import Hard, Image, Link, layer

ROOT = Path(__file__).parents[3]


def loaded(
    workshop: Workshop, path: str | os.PathLike[str] | None, **options: Any
) -> list[tuple[StoredImage, list[str]]]:
    """Load an archive; return the images with the names that they have got."""
    found = load(
        None if path is None else os.fspath(path),
        workshop.store,
        idmap_for=map_for,
        progress=Progress(quiet=True),
        **options,
    )
    return [(image, [reference.canonical for reference in names]) for image, names in found]


@contextmanager
def standard_input(fd: int) -> Iterator[None]:
    kept = os.dup(0)
    os.dup2(fd, 0)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


MADE = {
    "made:1": Image([layer({"f": "one"})]),
    "quay.example/team/app:2": Image([layer({"f": "one"}), layer({"g": "two"})]),
}
NAMES = {"docker.io/library/made:1": MADE["made:1"].id}
NAMES["quay.example/team/app:2"] = MADE["quay.example/team/app:2"].id


@pytest.mark.parametrize("kind", ["docker", "oci"])
def test_every_image_of_an_archive_is_loaded(workshop: Workshop, tmp_path: Path, kind: str) -> None:
    write = images.write_docker_archive if kind == "docker" else images.write_oci_archive
    found = loaded(workshop, write(MADE, tmp_path / "a.tar"))
    assert {name: image.id for image, (name,) in found} == NAMES
    for name, identity in NAMES.items():
        image = workshop.store.lookup(name)
        assert image is not None and image.id == identity
    with tarsplit.open_layer(workshop.store, found[1][0], 1) as stream:
        assert stream.read() == layer({"g": "two"})


@pytest.mark.parametrize("form", ["plain", "gzip", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("how", ["file", "pipe", "redirected", "read before"])
def test_compressed_archives_load_from_files_and_pipes(
    workshop: Workshop, tmp_path: Path, form: str, how: str
) -> None:
    import zstandard

    data = Path(images.write_docker_archive(MADE, tmp_path / "a.tar")).read_bytes()
    pack = {
        "plain": bytes,
        "gzip": gzip.compress,
        "zstd": zstandard.ZstdCompressor().compress,
        "xz": lzma.compress,
        "bzip2": bz2.compress,
    }
    path = tmp_path / "packed"
    path.write_bytes(pack[form](data))
    if how == "file":
        found = loaded(workshop, path)
    elif how == "pipe":
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with standard_input(process.stdout.fileno()):
                found = loaded(workshop, None)
    else:
        before = b"" if how == "redirected" else b"a line\n"
        path.write_bytes(before + path.read_bytes())
        with open(path, "rb") as file:
            os.lseek(file.fileno(), len(before), os.SEEK_SET)
            with standard_input(file.fileno()):
                found = loaded(workshop, None)
    assert {name: image.id for image, (name,) in found} == NAMES
    assert os.listdir(f"{workshop.root}/tmp") == []


@pytest.mark.parametrize("form", ["xz", "bzip2"])
def test_layers_of_any_compression_load(workshop: Workshop, form: str) -> None:
    pack = {"xz": lzma.compress, "bzip2": bz2.compress}[form]
    made = Image([layer({"f": "text"})])
    made.blobs = [pack(data) for data in made.layers]
    made.manifest["layers"] = [images.descriptor(made.blobs[0], "application/x-tar")]
    assert workshop.tree(workshop.unpack(made))["f"]["text"] == "text"
    short = Image([layer({"g": "text"})])
    short.blobs = [pack(short.layers[0])[:-9]]
    short.manifest["layers"] = [images.descriptor(short.blobs[0], "application/x-tar")]
    with pytest.raises(RlessError, match=f"broken {form} data"):
        workshop.unpack(short)


def test_layout_directory_loads(workshop: Workshop, tmp_path: Path) -> None:
    (one,) = loaded(workshop, images.write_oci_layout(MADE["made:1"], tmp_path / "layout"))
    assert one[0].id == MADE["made:1"].id and one[1] == []


def test_unnamed_image_loads(workshop: Workshop, tmp_path: Path) -> None:
    path = images.write_docker_archive(MADE["made:1"], tmp_path / "a.tar")
    rewrite(Path(path), "manifest.json", lambda entries: [entries[0] | {"RepoTags": None}])
    ((image, names),) = loaded(workshop, path)
    assert names == [] and workshop.store.lookup(image.id) is not None
    assert workshop.store.records("names") == []


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        (["good:1", "UPPER"], "'UPPER' is no name of an image"),
        (
            ["good:1", "-rf", 5, "a\x1b[31m"],
            r"'-rf', a value, 'a\x1b[31m' are no names of an image",
        ),
    ],
)
def test_bad_names_of_an_archive_are_reported_in_one_line(
    workshop: Workshop,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    tags: list[object],
    says: str,
) -> None:
    path = images.write_docker_archive(MADE["made:1"], tmp_path / "a.tar")
    rewrite(Path(path), "manifest.json", lambda entries: [entries[0] | {"RepoTags": tags}])
    ((_, names),) = loaded(workshop, path)
    assert names == ["docker.io/library/good:1"]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("rless: warning: ") and str(path) in line
    assert says in line


def test_bad_names_of_a_layout_are_reported_in_one_line(
    workshop: Workshop, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A bare tag is no name, and a good name in one annotation does not hide a bad one."""
    path = Path(images.write_oci_layout(MADE["made:1"], tmp_path / "layout"))
    index = json.loads((path / "index.json").read_text())
    (entry,) = index["manifests"]
    index["manifests"] = [
        entry | {"annotations": dict(zip((CONTAINERD_NAME, REF_NAME), names, strict=False))}
        for names in (["a/UPPER:1", "good:1"], ["good:2", "1.0"], ["\x1b[31m:1"])
    ]
    (path / "index.json").write_text(json.dumps(index))
    found = [names for _, names in loaded(workshop, path)]
    assert found == [["docker.io/library/good:1"], ["docker.io/library/good:2"], []]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"rless: warning: {path}: 'a/UPPER:1', '\\x1b[31m:1' are no names")


@pytest.mark.parametrize("start", [b"#!/bin/sh\n" * 100, b"short", bytes(1 << 12)])
def test_pipe_without_an_archive_is_not_stored(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    """The first block tells; zeros are an empty archive, if they end soon."""

    def refuse(directory: str) -> int:
        raise AssertionError("it is being stored")

    monkeypatch.setattr("rootless.image.transfer.load.open_tmpfile", refuse)
    # A page: a pipe of a user who has many holds no more.
    monkeypatch.setattr("rootless.image.model.limits.TRAILING_BYTES", 1 << 10)
    reader, writer = os.pipe()
    with open(writer, "wb", closefd=True) as file, standard_input(reader):
        os.close(reader)
        os.set_blocking(writer, False)
        file.write(start)
        if start != b"short":
            file.flush()  # and it stays open: nobody waits for the end of an endless stream
        else:
            file.close()
        with pytest.raises(RlessError, match="standard input: broken tar archive at byte"):
            loaded(workshop, None)


def rewrite(path: Path, member: str, change: Any) -> None:
    """Change a JSON document in an archive."""
    files: dict[str, images.Value] = {}
    with tarfile.open(path) as tar:
        for info in tar:
            file = tar.extractfile(info)
            files[info.name] = file.read() if file else None
    files[member] = json.dumps(change(json.loads(files[member]))).encode()  # type: ignore[arg-type]
    path.write_bytes(layer(files))


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({"org.opencontainers.image.ref.name": "latest"}, None),
        ({"org.opencontainers.image.ref.name": "app:2"}, "docker.io/library/app:2"),
        ({"org.opencontainers.image.ref.name": "localhost/app"}, "localhost/app:latest"),
        (
            {
                "io.containerd.image.name": "docker.io/library/app:3",
                "org.opencontainers.image.ref.name": "3",
            },
            "docker.io/library/app:3",
        ),
        ({"io.containerd.image.name": "oci-archive:/etc/passwd:x"}, None),
        ({"io.containerd.image.name": "../../x:\x1b[2J"}, None),
        ({"io.containerd.image.name": 7}, None),
    ],
)
def test_names_in_layouts_are_used(
    workshop: Workshop, tmp_path: Path, annotations: dict[str, Any], name: str | None
) -> None:
    path = Path(images.write_oci_archive(MADE["made:1"], tmp_path / "a.tar"))

    def change(index: Any) -> Any:
        index["manifests"][0]["annotations"] = annotations
        return index

    rewrite(path, "index.json", change)
    ((_, names),) = loaded(workshop, path)
    assert names == ([name] if name else [])


def test_provenance_is_skipped(workshop: Workshop, tmp_path: Path) -> None:
    path = Path(images.write_oci_archive(MADE, tmp_path / "a.tar"))

    def change(index: Any) -> Any:
        index["manifests"][1]["platform"] = {"os": "unknown", "architecture": "unknown"}
        return index

    rewrite(path, "index.json", change)
    assert len(loaded(workshop, path)) == 1


def test_platform_is_selected(workshop: Workshop, tmp_path: Path) -> None:
    foreign = Image([layer({"f": "foreign"})], architecture="s390x")
    path = images.write_docker_archive(
        {"here:1": MADE["made:1"], "there:1": foreign}, tmp_path / "a.tar"
    )
    assert len(loaded(workshop, path)) == 2
    ((image, _),) = loaded(workshop, path, platform="linux/s390x")
    assert image.id == foreign.id
    with pytest.raises(RlessError, match="has no image for linux/ppc64le"):
        loaded(workshop, path, platform="linux/ppc64le")


# -- broken and hostile --------------------------------------------------------------------------


def refused(workshop: Workshop, path: str | os.PathLike[str], why: str) -> None:
    before = workshop.contents() if os.path.exists(workshop.root) else {}
    with pytest.raises(RlessError, match=why) as caught:
        loaded(workshop, path)
    assert "\n" not in caught.value.message
    assert workshop.contents() == before
    assert os.listdir(f"{workshop.root}/tmp") == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no archive of images"),
        (b"text" * 1000, "broken tar archive"),
        (layer({"etc/passwd": "x"}), "no archive of images"),
        (layer({"manifest.json": "[]"}), "has no image"),
        (layer({"manifest.json": "{"}), "manifest.json"),
        (layer({"manifest.json": "[" * 100_000}), "manifest.json"),
        (layer({"oci-layout": "{}", "index.json": "{}"}), "not an OCI layout"),
        (layer({"manifest.json": Link("/etc/passwd")}), "no archive of images"),
        (gzip.compress(b"x" * 100_000)[:-20], "broken gzip data"),
        (lzma.compress(b"x" * 100_000)[:-20], "broken xz data"),
        (bz2.compress(b"x" * 100_000)[:-20], "broken bzip2 data"),
    ],
)
def test_broken_archives_are_refused(
    workshop: Workshop, tmp_path: Path, data: bytes, why: str
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    refused(workshop, path, why)


@pytest.mark.parametrize("form", ["gzip", "zstd", "xz", "bzip2"])
def test_7_bombs_are_refused(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    import zstandard

    monkeypatch.setattr("rootless.image.model.limits.LAYER_BYTES", 1 << 20)
    pack = {
        "gzip": gzip.compress,
        "zstd": zstandard.ZstdCompressor().compress,
        "xz": lzma.compress,
        "bzip2": bz2.compress,
    }[form]
    path = tmp_path / "a.tar"
    path.write_bytes(pack(bytes(8 << 20)))
    refused(workshop, path, "too much")


def test_7_endless_pipe_is_cut(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootless.image.model.limits.BLOB_BYTES", 1 << 20)
    words = ["cat", images.write_docker_archive(MADE, tmp_path / "a.tar"), "/dev/zero"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with (
            standard_input(process.stdout.fileno()),
            pytest.raises(RlessError, match="larger than"),
        ):
            loaded(workshop, None)
        process.stdout.close()
    assert workshop.contents() == {}


@pytest.mark.parametrize("name", ["../../x", "x\x1b[2J", "-rf", "a" * 70_000, "UPPER", "x\ny", ""])
def test_20_invalid_names_are_refused(workshop: Workshop, tmp_path: Path, name: str) -> None:
    path = images.write_docker_archive({name: MADE["made:1"]}, tmp_path / "a.tar")
    ((_, names),) = loaded(workshop, path)
    assert names == []


def test_images_before_a_hostile_one_are_kept(workshop: Workshop, tmp_path: Path) -> None:
    hostile = Image([layer({"f": "x"}), layer({"../../x": "y"})])
    path = images.write_docker_archive(
        {"good:1": MADE["made:1"], "bad:1": hostile}, tmp_path / "a.tar"
    )
    with pytest.raises(RlessError, match="leaves the layer"):
        loaded(workshop, path)
    image = workshop.store.lookup("good:1")
    assert image is not None and workshop.store.lookup("bad:1") is None
    remove(workshop.store, "good:1", force=False, used=[])
    assert workshop.contents() == {}


@pytest.mark.parametrize(
    "entries",
    [
        [("a", Link("/etc")), ("a/x", "y"), ("a/../../b", "z")],
        [("h", Hard("/etc/passwd"))],
        [(".wh...", "")],
    ],
)
def test_1_to_4_hostile_layers_are_refused(
    workshop: Workshop, tmp_path: Path, entries: Any
) -> None:
    path = images.write_docker_archive(Image([layer(entries)]), tmp_path / "a.tar")
    refused(workshop, path, "layer")


def test_wrong_diff_id_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    other = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + 64 * "a"]}}
    made = Image([layer({"f": "x"})], document=other)
    refused(workshop, images.write_docker_archive(made, tmp_path / "a.tar"), "but the image says")


def test_19_load_causes_no_network_access(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = MADE["made:1"]
    path = Path(images.write_oci_archive(made, tmp_path / "a.tar"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was touched"))
    assert loaded(workshop, path)
    code = (
        "import sys; from rootless.image.transfer.load import load; "
        "sys.exit(bool({'urllib3', 'rootless.image.registry.client'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_terminal_as_input_is_refused(workshop: Workshop) -> None:
    import pty

    master, slave = pty.openpty()
    with standard_input(slave), pytest.raises(RlessError, match="not read from a terminal"):
        loaded(workshop, None)
    os.close(master)
    os.close(slave)


def test_memory_is_independent_of_layer_size(workshop: Workshop, tmp_path: Path) -> None:
    """One file of 300 MB: no process holds more than a few chunks of it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar, open("/dev/zero", "rb") as zero:
        info = tarfile.TarInfo("big")
        info.size = 300_000_000
        tar.addfile(info, zero)
    path = images.write_oci_archive(Image([archive.getvalue()]), tmp_path / "a.tar")
    del archive
    load_it = (
        "import sys\n"
        "from rootless.image.transfer.load import load\n"
        "from rootless.image.registry.progress import Progress\n"
        "from rootless.image.store.store import Store\n"
        "from tests.lib.image_store import map_for\n"
        "list(load(sys.argv[1], Store(sys.argv[2]), idmap_for=map_for,"
        " progress=Progress(quiet=True)))\n"
    )
    # What a process has had by way of its parent counts as its own: so by way of a small one.
    measure = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)\n"
    )
    command = [sys.executable, "-c", load_it, path, workshop.root]
    done = subprocess.run(
        [sys.executable, "-c", measure, *command],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert int(done.stdout) < 60
