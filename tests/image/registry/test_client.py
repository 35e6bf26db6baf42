"""Pulls from the real docker-registry on the loopback address."""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.registry.progress import Progress
from rootless.image.store import records
from tests.lib import images
from tests.lib.image_store import Workshop, map_of
from tests.lib.images import Image, layer

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "docker-registry")


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_image_is_pulled_by_tag_and_digest(
    workshop: Workshop, registry_host: str, compression: str
) -> None:
    image = Image(
        [layer({"f": os.urandom(3_000_000)}), layer({"g": "two"})],
        {"Env": ["A=b"]},
        compression=compression,
    )
    name = f"{registry_host}/forms/{compression}"
    assert images.push(image, f"{name}:1") == image.digest
    found = workshop.pull(f"{name}:1")
    assert (found.id, found.digest, found.name) == (image.id, image.digest, f"{name}:1")
    assert workshop.tree(found, 1)["g"]["text"] == "two"
    assert records.get_blob(workshop.root, image.digest) == image.manifest_data
    assert records.get_blob(workshop.root, image.id) == image.config_data
    by_digest = workshop.store.lookup(f"{name}@{image.digest}")
    assert by_digest is not None and by_digest.id == image.id
    again = workshop.pull(f"{name}@{image.digest}")
    assert again.name == f"{name}@{image.digest}"
    assert workshop.pull(f"{name}:1@{image.digest}").id == image.id


def test_index_gives_the_requested_platform(workshop: Workshop, registry_host: str) -> None:
    mine = Image([layer({"f": "mine"})])
    other = Image([layer({"f": "other"})], architecture="s390x")
    digest = images.push([other, mine], f"{registry_host}/multi:1")
    name = f"{registry_host}/multi:1"
    found = workshop.pull(name)
    assert found.id == mine.id and found.digests == [digest, mine.digest]
    theirs = workshop.pull(name, platform="linux/s390x")
    assert theirs.id == other.id
    with pytest.raises(RlessError, match="not there for linux/ppc64le") as caught:
        workshop.pull(name, platform="linux/ppc64le")
    assert "linux/s390x" in (caught.value.hint or "")
    # Both stay: the host's is the one without a platform.
    assert workshop.store.lookup(name).id == mine.id  # type: ignore[union-attr]
    assert workshop.store.lookup(name, "linux/s390x").id == other.id  # type: ignore[union-attr]
    assert workshop.store.lookup(f"{registry_host}/multi@{digest}") is not None


def test_missing_image_is_reported(workshop: Workshop, registry_host: str) -> None:
    for name in (f"{registry_host}/nothing", f"{registry_host}/nothing@sha256:{'0' * 64}"):
        with pytest.raises(RlessError, match="has no such image"):
            workshop.pull(name)
    free = images.free_port()
    with pytest.raises(
        RlessError, match=rf"https://127.0.0.1:{free}/v2/x/manifests/latest: .*refused"
    ):
        workshop.pull(f"127.0.0.1:{free}/x")


def test_pull_policies_are_followed(workshop: Workshop, registry_host: str) -> None:
    name = f"{registry_host}/policies:1"
    with pytest.raises(RlessError, match="no such image here"):
        workshop.pull(name, policy="never")
    first, second = Image([layer({"f": "1"})]), Image([layer({"f": "2"})])
    images.push(first, name)
    assert workshop.pull(name, policy="missing").id == first.id
    images.push(second, name)
    assert workshop.pull(name, policy="missing").id == first.id
    assert workshop.pull(name, policy="never").id == first.id
    assert workshop.pull(name, policy="always").id == second.id
    # The first one has lost its name and is still there by id.
    assert workshop.store.lookup(first.id).id == first.id  # type: ignore[union-attr]
    assert workshop.store.lookup(first.id[7:15]).id == first.id  # type: ignore[union-attr]


def test_layers_are_shared(workshop: Workshop, registry_host: str) -> None:
    base = layer({"base": "x"})
    images.push(Image([base, layer({"a": "1"})]), f"{registry_host}/shared-a:1")
    images.push(Image([base, layer({"b": "2"})]), f"{registry_host}/shared-b:1")
    a = workshop.pull(f"{registry_host}/shared-a:1")
    b = workshop.pull(f"{registry_host}/shared-b:1")
    assert a.chain[0] == b.chain[0] and a.chain[1] != b.chain[1]
    (key,) = a.keys
    assert len(os.listdir(f"{workshop.root}/layers/{key}")) == 2 * 3


def test_named_user_decides_the_map_before_unpacking(
    workshop: Workshop, registry_host: str
) -> None:
    passwd = layer({"etc/passwd": "app:x:77:78::/app:/bin/sh\n", "etc/group": "g:x:9:app\n"})
    top = layer({"more": "x"})
    image = images.busybox_image([passwd, top], User="app")
    images.push(image, f"{registry_host}/user:1")
    found = workshop.pull(f"{registry_host}/user:1")
    assert [key.partition("-")[0] for key in found.keys] == ["u77g78"]
    assert found.passwd().startswith(b"app:x:77")
    # With the base there already for root, only the new layers are fetched, then translated.
    images.push(images.busybox_image(), f"{registry_host}/base:1")
    images.push(images.busybox_image([layer({"t": "u"})], User="user"), f"{registry_host}/u:2")
    workshop.pull(f"{registry_host}/base:1")
    found = workshop.pull(f"{registry_host}/u:2")
    assert workshop.tree(found, 0)["home/user"]["uid"] == 1000
    assert workshop.tree(found, 1)["t"]["uid"] == 0


@pytest.mark.parametrize(
    "hide",
    [
        {"etc/.wh.passwd": ""},
        {"etc/.wh..wh..opq": ""},
        {".wh.etc": ""},
        {"etc": images.Link("/usr/etc")},
        {"etc/passwd": images.Link("/usr/passwd")},
        {"etc/passwd": images.Link("/etc/passwd")},
        {"etc/passwd": images.Fifo()},
        {"etc/passwd": "a" * ((1 << 20) + 1)},
        {"etc/passwd": None},
    ],
)
def test_17_only_a_regular_file_of_the_image_names_users(
    workshop: Workshop, registry_host: str, hide: dict[str, Any]
) -> None:
    """passwd that is hidden, a link, a pipe or huge names nobody; the pull itself still works."""
    secret = {"usr/passwd": "user:x:0:0::/:/bin/sh\n", "usr/etc/passwd": "user:x:0:0::/:\n"}
    name = f"{registry_host}/hidden:{abs(hash(json.dumps(sorted(hide))))}"
    images.push(images.busybox_image([layer(secret), layer(hide)], User="user"), name)
    with pytest.raises(RlessError, match="unable to find user user"):
        workshop.pull(name)
    images.push(images.busybox_image([layer(secret), layer(hide)]), name)
    assert workshop.pull(name).users["passwd"] == ""


def test_progress_in_a_pipe_is_plain_lines(workshop: Workshop, registry_host: str) -> None:
    reader, writer = os.pipe()
    for tag in "12":
        images.push(Image([layer({"f": "x"})]), f"{registry_host}/progress:{tag}")
        workshop.pull(f"{registry_host}/progress:{tag}", progress=Progress(writer))
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "1: Pulling from progress"
    # That it is downloading, and extracted meanwhile, is for bars: as Docker.
    assert [line.partition(": ")[2] for line in lines[1:4]] == [
        "Pulling fs layer",
        "Download complete",
        "Pull complete",
    ]
    assert "Already exists" in text and text.count("Digest: sha256:") == 2


def test_concurrent_pulls_fetch_each_layer_once(workshop: Workshop, registry_host: str) -> None:
    """Both end with the image; each layer is fetched by one of them only."""
    layers = [layer({f"f{n}": os.urandom(500_000)}) for n in range(5)]
    images.push(Image(layers), f"{registry_host}/twice:1")
    lines: list[str] = []
    children = []
    reader, writer = os.pipe()
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                workshop.pull(f"{registry_host}/twice:1", progress=Progress(writer), quiet=False)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    os.close(writer)

    def drain() -> None:
        with open(reader) as file:
            lines.extend(file)

    thread = threading.Thread(target=drain)
    thread.start()
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    thread.join()
    assert codes == [0, 0, 0]
    text = "".join(lines)
    assert text.count(": Download complete") == 5
    assert text.count(": Pull complete") == 5
    assert os.listdir(f"{workshop.root}/tmp") == []
    assert os.listdir(f"{workshop.root}/locks") == []


def test_wrong_guess_about_the_root_user_is_corrected(
    workshop: Workshop, registry_host: str
) -> None:
    """root with another group: seen only after unpacking, then translated."""
    odd = layer({"etc/passwd": "root:x:0:5:root:/root:/bin/sh\n", "f": images.File("x", gid=5)})
    images.push(Image([odd]), f"{registry_host}/odd:1")
    found = workshop.pull(f"{registry_host}/odd:1")
    key = map_of(0, 5).key
    directories = found.layer_dirs(key)
    assert directories is not None
    assert os.stat(f"{directories[0]}/f").st_gid == os.getgid()


def test_basic_authentication_works(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with images.registry(users={"me": "secret:word"}) as host:
        image = Image([layer({"f": "x"})])
        images.push(image, f"{host}/private:1", login=("me", "secret:word"))
        with pytest.raises(RlessError, match="wants a name and password"):
            workshop.pull(f"{host}/private:1")
        for password, works in (("incorrect", False), ("secret:word", True)):
            auth = base64.b64encode(f"me:{password}".encode()).decode()
            (tmp_path / "auth.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
            if works:
                assert workshop.pull(f"{host}/private:1").id == image.id
            else:
                with pytest.raises(RlessError, match="access denied") as caught:
                    workshop.pull(f"{host}/private:1")
                assert "incorrect" not in str(caught.value) and auth not in str(caught.value)
