"""Import: an image from a tar archive of files."""

from __future__ import annotations

import bz2
import gzip
import http.server
import io
import json
import lzma
import os
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.layer import tarsplit
from rootless.image.registry.progress import Progress
from rootless.image.store.records import get_blob
from rootless.image.store.store import Image as StoredImage
from rootless.image.transfer.import_ import import_tar
from tests.lib.image_store import Workshop, map_for
from tests.lib.images import Device, Fifo, Hard, Link, layer

FILES = layer({"etc/passwd": "app:x:7:8::/:/bin/sh\n", "etc/group": "app:x:8:\n", "p": Fifo()})


def made(workshop: Workshop, path: str | os.PathLike[str], **options: Any) -> StoredImage:
    return import_tar(
        os.fspath(path), workshop.store, idmap_for=map_for, progress=Progress(quiet=True), **options
    )


def config(image: StoredImage) -> dict[str, Any]:
    data = get_blob(image.root, image.id)
    assert data is not None
    found: dict[str, Any] = json.loads(data)
    return found


@pytest.mark.parametrize("form", ["plain", "gzip", "zstd", "xz", "bzip2"])
def test_files_become_the_layer(workshop: Workshop, tmp_path: Path, form: str) -> None:
    import zstandard

    pack = {
        "plain": bytes,
        "gzip": gzip.compress,
        "zstd": zstandard.ZstdCompressor().compress,
        "xz": lzma.compress,
        "bzip2": bz2.compress,
    }
    path = tmp_path / "root.tar"
    path.write_bytes(pack[form](FILES))
    image = made(workshop, path)
    tree = workshop.tree(image)
    assert tree["etc/passwd"]["text"].startswith("app:") and tree["p"]["kind"] == "fifo"
    with tarsplit.open_layer(workshop.store, image, 0) as stream:
        assert stream.read() == FILES
    assert workshop.store.lookup(image.id) is not None
    assert workshop.store.records("names") == []


def test_config_is_set(workshop: Workshop, tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(FILES)
    image = made(
        workshop,
        path,
        name="made:2",
        instructions=['CMD ["/bin/sh"]', "ENV A=b", "USER app"],
        message="by hand",
        platform="linux/arm64/v8",
    )
    document = config(image)
    assert document["config"] == {"Cmd": ["/bin/sh"], "Env": ["A=b"], "User": "app"}
    assert (document["os"], document["architecture"]) == ("linux", "arm64")
    (history,) = document["history"]
    assert history["comment"] == "by hand" and history["created"] == document["created"]
    found = workshop.store.lookup("made:2")
    assert found is not None and found.id == image.id
    # The user is known by name only to the layer: the map is his all the same.
    assert map_for(image).host_uid(7) == os.getuid()
    assert map_for(image).key in image.keys


def test_message_is_set(workshop: Workshop, tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(FILES)
    assert config(made(workshop, path))["history"][0]["comment"] == f"Imported from {path}"


def test_archive_is_read_from_standard_input(workshop: Workshop, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    kept = os.dup(0)
    os.dup2(reader, 0)
    thread = threading.Thread(target=lambda: (os.write(writer, FILES), os.close(writer)))
    try:
        thread.start()
        thread.join()
        image = made(workshop, "-")
    finally:
        os.dup2(kept, 0)
        for fd in (kept, reader):
            os.close(fd)
    assert workshop.tree(image)["etc/group"]["kind"] == "file"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/root.tar"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(FILES if found else b"no")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def serve(server: http.server.HTTPServer, count: int) -> threading.Thread:
    thread = threading.Thread(target=lambda: [server.handle_request() for _ in range(count)])
    thread.start()
    return thread


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_archive_is_fetched_from_a_url(workshop: Workshop) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Handler) as server:
        base = f"http://127.0.0.1:{server.server_port}"
        thread = serve(server, 2)
        image = made(workshop, f"{base}/root.tar")
        with pytest.raises(RlessError, match="answers 404"):
            made(workshop, f"{base}/other.tar")
        thread.join()
    assert workshop.tree(image)["etc/passwd"]["kind"] == "file"
    assert os.listdir(f"{workshop.root}/tmp") == []


def with_name(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", None),
        (b"no tar" * 200, "broken tar archive"),
        (with_name("../x"), "leaves the layer"),
        (layer([("l", Link("/etc")), ("l/passwd", "x"), ("h", Hard("../../x"))]), "leaves"),
        (layer({".wh..": ""}), "bad whiteout"),
        (gzip.compress(FILES)[:-30], "broken gzip data"),
        (FILES[:520], "ends in the middle"),
    ],
)
def test_hostile_archives_are_refused(
    workshop: Workshop, tmp_path: Path, data: bytes, why: str | None
) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(data)
    if why is None:
        assert list(workshop.tree(made(workshop, path))) == ["."]
        return
    with pytest.raises(RlessError, match=why):
        made(workshop, path, name="bad:1")
    assert workshop.contents() == {} and os.listdir(f"{workshop.root}/tmp") == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"name": "UPPER"}, "must be lowercase"),
        ({"name": "a@sha256:" + 64 * "a"}, "is not a name for an image"),
        ({"name": "oci:x"}, "is not a name for an image"),
        ({"instructions": ["RUN true"]}, "not a valid change command"),
        ({"platform": "a/b/c/d"}, "invalid platform"),
    ],
)
def test_wrong_options_are_refused_first(
    workshop: Workshop, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(RlessError, match=why):
        made(workshop, "/no/such/file", **options)
    assert not os.path.exists(workshop.root)


def test_devices_are_skipped(workshop: Workshop, tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(layer({"null": Device(), "f": "x"}))
    image = made(workshop, path)
    assert "null" not in workshop.tree(image)
    with tarsplit.open_layer(workshop.store, image, 0) as stream:
        assert stream.read() == layer({"null": Device(), "f": "x"})
