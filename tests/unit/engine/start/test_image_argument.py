"""One function decides what an image argument is, in one order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rootless.engine.request import RunRequest
from rootless.engine.start.image_argument import ImageArgument, resolve
from rootless.errors import RlessError
from rootless.image.model.reference import parse
from rootless.image.store.store import RECORD_VERSION, name_path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a store that has the image `both`; a directory of `image-path` has it as a file."""
    files = tmp_path / "files"
    files.mkdir()
    for name in ("both.sqsh", "only_1.sif"):
        (files / name).write_bytes(b"")
    monkeypatch.setenv("RLESS_IMAGE_PATH", str(files))
    monkeypatch.setenv("RLESS_ADDITIONAL_STORES", "")
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", "/dev/null")
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "store"
    path = Path(name_path(str(root), parse("both"), None))
    path.parent.mkdir(parents=True)
    record = {
        "version": RECORD_VERSION, "name": "docker.io/library/both:latest", "id": "sha256:1",
        "digest": "", "digests": [], "config": {}, "platform": {}, "chain": [], "users": {},
        "keys": {"0": "overlay"}, "size": 0, "created": "", "source": None,
    }  # fmt: skip
    path.write_text(json.dumps(record))
    return root


def ask(store: Path, image: str | None, **more: Any) -> ImageArgument:
    return resolve(RunRequest(image=image, **more), str(store))


def test_image_argument_is_resolved_in_order(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "here.sqsh"
    file.write_bytes(b"")
    assert ask(store, None, rootfs="/x").path == "/x"
    assert ask(store, "host:").kind == "host"
    for name in ("here.sqsh", "./here.sqsh", str(file)):
        found = ask(store, name)
        assert (found.kind, found.path) == ("file", str(file))
    found = ask(store, "both")
    assert found.kind == "image"
    assert found.image is not None
    assert found.image.id == "sha256:1"
    assert ask(store, "only:1").path == f"{tmp_path}/files/only_1.sif"
    for name in ("neither", "oci-archive:x.tar"):
        assert ask(store, name).kind == "absent"


def test_pull_always_ignores_stored_images(store: Path, tmp_path: Path) -> None:
    assert ask(store, "both", pull="always").path == f"{tmp_path}/files/both.sqsh"
    assert ask(store, "neither", pull="always").kind == "absent"


def test_path_without_a_file_is_an_error(store: Path, tmp_path: Path) -> None:
    with pytest.raises(RlessError, match="there is no such file"):
        ask(store, "./none.sqsh")
    with pytest.raises(RlessError, match="is a directory, not an image"):
        ask(store, str(tmp_path))


def test_start_begins_early_only_with_a_known_source(store: Path) -> None:
    assert ask(store, "host:").is_ready
    assert ask(store, "only:1").is_ready
    assert not ask(store, "neither").is_ready
    image = ask(store, "both")
    assert image.is_ready
    assert image.image is not None
    image.image.keys.clear()
    assert not image.is_ready
