"""SIF files that rless writes, read by a second reader, made from the description of the format."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.lib import flat as made
from tests.lib import images
from tests.lib.product import Product, probe_image

pytestmark = pytest.mark.needs("mksquashfs", "user namespaces")
CONFIG: dict[str, Any] = {
    "Env": ["PATH=/bin", "A=it's}"],
    "Entrypoint": ["sh", "-c"],
    "Cmd": ['echo "$A"'],
    "Labels": {"who": "me"},
}


class Sif:
    """A SIF file, by the offsets in its description (sif.go of github.com/sylabs/sif).

    Attributes:
        header: the numbers of the header, from the number of unused descriptors on.
        objects: (type, name, offset, bytes, what is special of the type).
    """

    def __init__(self, path: Path) -> None:
        self.data = data = path.read_bytes()
        self.launch, self.magic = data[:32], data[32:42]
        self.version, self.architecture = data[42:45], data[45:48]
        self.identity = uuid.UUID(bytes=data[48:64])
        self.times = struct.unpack("<2q", data[64:80])
        self.header = struct.unpack("<6q", data[80:128])
        _, total, table, length, _, _ = self.header
        assert length == 585 * total
        self.objects = []
        for at in range(table, table + length, 585):
            kind, used = struct.unpack("<i?", data[at : at + 5])
            if not used:
                assert not any(data[at : at + 585])
                continue
            number, group, link = struct.unpack("<3I", data[at + 5 : at + 17])
            assert (number, group, link) == (len(self.objects) + 1, 0xF0000001, 0)
            offset, size, _ = struct.unpack("<3q", data[at + 17 : at + 41])
            assert not any(data[at + 41 : at + 73]), "a time, or an owner"
            name = data[at + 73 : at + 201].rstrip(b"\0").decode()
            self.objects.append((kind, name, offset, size, data[at + 201 : at + 585]))

    def content(self, number: int) -> bytes:
        _, _, offset, size, _ = self.objects[number]
        return self.data[offset : offset + size]

    def unpack(self, target: Path) -> Path:
        """Unpack the root file system."""
        squashfs = target.with_suffix(".s")
        squashfs.write_bytes(self.content(-1))
        argv = ["unsquashfs", "-no-progress", "-d", str(target), str(squashfs)]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        return target


def test_sif_file_is_laid_out_as_apptainer_does_it(rless: Product, tmp_path: Path) -> None:
    name = rless.add_image("sif", probe_image(**CONFIG))
    path, again = tmp_path / "x.sif", tmp_path / "again.sif"
    rless("flatten", name, str(path)).expect()
    rless("flatten", name, str(again)).expect()
    assert path.read_bytes() == again.read_bytes()
    assert os.access(path, os.X_OK)

    sif = Sif(path)
    assert sif.launch == b"#!/usr/bin/env run-singularity\n\0"
    assert (sif.magic, sif.version, sif.times) == (b"SIF_MAGIC\0", b"01\0", (0, 0))
    machine = b"02\0" if os.uname().machine == "x86_64" else b"04\0"
    assert sif.architecture == machine
    assert sif.identity.version == 8
    free, total, table, _, offset, length = sif.header
    assert (free, total, table, offset) == (44, 48, 4096, 32768)
    assert offset + length == path.stat().st_size
    assert [one[0] for one in sif.objects] == [0x4001, 0x4003, 0x4006, 0x4004]
    assert all(one[2] % 4096 == 0 and one[2] >= 32768 for one in sif.objects)
    assert sif.objects[-1][4][:11] == struct.pack("<ii", 1, 2) + machine
    assert sif.content(0).decode() == f"bootstrap: oci\nfrom: {name[4:]}\n"
    assert json.loads(sif.content(1))["who"] == "me"
    assert json.loads(sif.content(2))["config"]["Labels"] == {"who": "me"}
    assert sif.content(3)[:4] == b"hsqs"

    directory = sif.unpack(tmp_path / "root") / ".singularity.d"
    assert (directory / "labels.json").read_bytes() == sif.content(1)
    assert (directory / "Singularity").read_bytes() == sif.content(0)
    found = {str(file.relative_to(directory)) for file in directory.rglob("*")}
    assert found >= {"env/10-docker2singularity.sh", "env/90-environment.sh", "env/99-base.sh"}
    script = f". {directory}/env/10-docker2singularity.sh; PATH=/usr/bin:/bin {directory}/runscript"
    assert subprocess.check_output(["sh", "-c", script], text=True) == "it's}\n"
    assert {file.lstat().st_mtime for file in directory.rglob("*")} == {0}


@pytest.mark.needs("fuse", "squashfuse")
def test_sif_file_that_was_written_runs(rless: Product, tmp_path: Path) -> None:
    name = rless.add_image("sif-runs", probe_image(**CONFIG))
    path = tmp_path / "x.sif"
    rless("flatten", "--compression", "lz4", name, str(path)).expect()
    assert rless.run("", image=str(path)).expect().out == "it's}\n"


def test_image_cannot_turn_what_is_added_elsewhere(rless: Product, tmp_path: Path) -> None:
    """Links of an image are replaced; a script that it brings is its own."""
    layers = [
        images.layer({"victim/env/x": "1", "victim/runscript": "victim"}),
        images.layer({".singularity.d": images.Link("/victim")}),
    ]
    name = rless.add_image("sif-link", images.Image(layers=layers, config={}))
    rless("flatten", name, str(tmp_path / "a.sif")).expect()
    root = Sif(tmp_path / "a.sif").unpack(tmp_path / "a")
    assert not (root / ".singularity.d").is_symlink()
    assert sorted(str(file.relative_to(root)) for file in (root / "victim").rglob("*")) == [
        "victim/env",
        "victim/env/x",
        "victim/runscript",
    ]
    layers = [images.layer({".singularity.d/runscript": "mine", ".singularity.d/labels.json": "x"})]
    name = rless.add_image("sif-own", images.Image(layers=layers, config={}))
    rless("flatten", name, str(tmp_path / "b.sif")).expect()
    directory = Sif(tmp_path / "b.sif").unpack(tmp_path / "b") / ".singularity.d"
    assert (directory / "runscript").read_text() == "mine"
    assert "schema-version" in (directory / "labels.json").read_text()


def test_sif_file_is_written_around_a_squashfs_image(tmp_path: Path) -> None:
    from rootless.image.squashfs import sif, sif_writer

    tree = tmp_path / "tree"
    tree.mkdir()
    squashfs = made.mksquashfs(tree, tmp_path / "s")
    path = tmp_path / "x.sif"
    sif_writer.write(
        str(path), str(squashfs), architecture="arm64", labels={"é": "1"}, identity="sha256:0"
    )
    found = Sif(path)
    assert [one[0] for one in found.objects] == [0x4003, 0x4004]
    assert found.content(1) == squashfs.read_bytes()
    with path.open("rb") as file:
        offset, size, architecture = sif.find_partition(file.fileno(), "x")
    assert (offset, size, architecture) == (36864, squashfs.stat().st_size, "arm64")
