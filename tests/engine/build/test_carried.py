"""Caches that are carried to another machine: what is found, and what is fetched; class 58."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lib import images
from tests.lib.builds import NAME, Builds, cached, seed
from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

EPOCH = ("--build-arg", "SOURCE_DATE_EPOCH=1600000000")


@pytest.fixture
def first(rless: Product, tmp_path: Path) -> Builds:
    return Builds(rless, tmp_path / "context")


@pytest.fixture
def second(own_rless: Product, tmp_path: Path) -> Builds:
    """Another machine, which has the base image and the same files."""
    own_rless("pull", "-q", own_rless.image).expect()
    return Builds(own_rless, tmp_path / "context")


def dockerfile() -> str:
    return (
        f"FROM localhost/base:1 AS made\n{seed()}"
        "COPY file /in\n"
        "RUN cat /in /in > /out; mkdir /large; cat /bin/busybox /bin/busybox > /large/file\n"
        "FROM localhost/base:1\n"
        "WORKDIR /srv\n"
        "COPY --from=made --chown=5:6 /out result\n"
        "RUN cat result > copy\n"
        "COPY --link file /last\n"
    )


@pytest.fixture
def text(first: Builds) -> str:
    (first.context / "file").write_text("x" * 5000)
    return dockerfile()


@pytest.fixture
def registry(rless: Product, own_rless: Product) -> Iterator[str]:
    with images.registry() as host:
        yield host


def layers_of(rless: Product) -> int:
    found = 0
    for key in os.listdir(rless.storage / "layers"):
        found += sum("." not in name for name in os.listdir(rless.storage / "layers" / key))
    return found


def test_local_cache_answers_all_on_another_machine(
    first: Builds, second: Builds, text: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    done = first(text, *EPOCH, "--cache-to", f"type=local,dest={cache},mode=max").expect()
    before = layers_of(second.rless)
    again = second(text, *EPOCH, "--cache-from", f"type=local,src={cache}").expect()
    assert cached(again) == 7
    assert "WARNING" not in again.err
    assert second.inspect()["Id"] == first.inspect()["Id"]
    assert second.run("stat", "-c", "%u:%g %s", "result", "copy") == "5:6 10000\n0:0 10000\n"
    # Nothing of the stage that was only copied from was fetched.
    assert layers_of(second.rless) == before + 3
    # What was fetched is in the cache of the second machine now.
    shutil.rmtree(cache)
    assert cached(second(text, *EPOCH).expect()) >= 4


def test_registry_cache_answers_all_on_another_machine(
    first: Builds, second: Builds, text: str, registry: str
) -> None:
    place = f"type=registry,ref={registry}/app/cache:main"
    first(text, "--cache-to", f"{place},mode=max").expect()
    again = second(text, "--cache-from", place).expect()
    assert cached(again) == 7
    assert second.inspect()["Id"] == first.inspect()["Id"]
    other = second(text.replace("cat result", "cat result result"), "--cache-from", place)
    assert cached(other.expect()) == 6
    assert second.run("wc", "-c", "copy") == "20000 copy\n"


def test_cache_that_the_policy_refuses_is_not_used(
    first: Builds, second: Builds, text: str, tmp_path: Path, registry: str
) -> None:
    cache, policy = tmp_path / "cache", tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "reject"}]}')
    far = f"type=registry,ref={registry}/app/refused:1"
    words = ("--cache-to", f"type=local,dest={cache}", "--cache-to", far)
    first(text, *words).expect()
    words = ("--cache-from", f"type=local,src={cache}", "--cache-from", far)
    done = second(text, *words, "--signature-policy", str(policy)).expect()
    assert cached(done) <= 1  # WORKDIR, by an earlier test
    assert done.err.count("reject: no image is accepted") == 2


def test_inline_cache_comes_with_the_image(
    first: Builds, second: Builds, text: str, registry: str
) -> None:
    name = f"{registry}/app/inline:1"
    words = ("--build-arg", "BUILDKIT_INLINE_CACHE=1", "--push")
    first(text, *words, tag=name).expect()
    again = second(text, "--cache-from", name, *words, tag=name).expect()
    assert cached(again) == 4 and "WARNING" not in again.err
    assert second.inspect(name)["Id"] == first.inspect(name)["Id"]
    first.rless("rmi", name).expect()


def test_min_has_what_the_image_is_made_of(
    first: Builds, second: Builds, text: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first(text, "--cache-to", f"type=local,dest={cache}").expect()
    done = second(text, "--cache-from", f"type=local,src={cache}").expect()
    assert cached(done) == 4  # the stage is done anew, and gives the same


def test_directory_that_is_there_needs_no_layer(
    first: Builds, second: Builds, tmp_path: Path
) -> None:
    """A stage that is only copied from has a WORKDIR: its layers are not fetched to look for it."""
    cache = tmp_path / "cache"
    (first.context / "file").write_text("x")
    text = (
        f"FROM localhost/base:1 AS made\n{seed()}RUN mkdir /work\n"
        "WORKDIR /work\nWORKDIR new\nRUN echo out > out\n"
        "FROM localhost/base:1\nCOPY --from=made /work/new/out /\n"
    )
    first(text, "--cache-to", f"type=local,dest={cache},mode=max").expect()
    before = layers_of(second.rless)
    assert cached(second(text, "--cache-from", f"type=local,src={cache}").expect()) == 6
    assert layers_of(second.rless) == before + 1
    assert second.run("cat", "/out") == "out\n"


def test_what_is_found_and_not_needed_is_exported_too(
    first: Builds, second: Builds, text: str, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    first(text, "--cache-to", f"type=local,dest={one},mode=max").expect()
    words = ("--cache-from", f"type=local,src={one}", "-o", "type=cacheonly")
    second(text, *words, "--cache-to", f"type=local,dest={two},mode=max", tag="").expect()
    assert sorted(os.listdir(one / "blobs/sha256")) == sorted(os.listdir(two / "blobs/sha256"))


def test_same_directory_is_kept_up_to_date(first: Builds, text: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    place = ("--cache-from", f"type=local,src={cache}")
    words = (*place, "--cache-to", f"type=local,dest={cache},mode=max")
    done = first(text, *words).expect()
    assert "WARNING: no cache from" in done.err  # there is none yet
    before = set(os.listdir(cache / "blobs/sha256"))
    first(text, *words).expect()
    assert set(os.listdir(cache / "blobs/sha256")) == before
    first(text.replace("> copy", "> other"), *words).expect()
    after = set(os.listdir(cache / "blobs/sha256"))
    assert len(after - before) == 3  # a layer, the table, the manifest
    assert len(after) == len(before)


def test_link_of_a_carried_cache_goes_on_another_base(
    first: Builds, second: Builds, tmp_path: Path
) -> None:
    cache, copy = tmp_path / "cache", "COPY --link file /last\n"
    (first.context / "file").write_text("linked")
    first(f"FROM localhost/base:1\n{seed()}{copy}", "--cache-to", f"type=local,dest={cache}")
    done = second(f"FROM localhost/base:1\n{seed()}{copy}", f"--cache-from=type=local,src={cache}")
    assert cached(done.expect()) == 1
    assert second.run("cat", "/last") == "linked"


def test_unreadable_cache_is_one_warning(second: Builds, registry: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    places = (f"type=local,src={tmp_path}/empty", f"{registry}/none:1", "127.0.0.1:1/none:1")
    done = second(f"FROM localhost/base:1\n{seed()}", *(f"--cache-from={one}" for one in places))
    assert done.expect().err.count("WARNING: no cache from") == 3


def test_cache_that_lies_is_not_believed(
    first: Builds, second: Builds, text: str, tmp_path: Path
) -> None:
    """Class 58: a layer with other bytes is not what the table names."""
    cache = tmp_path / "cache"
    first(text, "--cache-to", f"type=local,dest={cache},mode=max,compression=uncompressed")
    for blob in (cache / "blobs/sha256").iterdir():
        data = blob.read_bytes()
        if b"result" in data and data[:1] != b"{":
            blob.write_bytes(data.replace(b"xxx", b"yyy"))
    done = second(text, "--cache-from", f"type=local,src={cache}").expect()
    assert "without the caches that were brought" in done.err
    assert second.run("sh", "-c", "tr -d x < result | wc -c") == "0\n"


def test_cache_that_lies_of_what_its_blobs_hold_is_not_believed(
    first: Builds, second: Builds, text: str, tmp_path: Path
) -> None:
    """Class 58: each blob has its digest, but not what the table says of it."""
    cache = tmp_path / "cache"
    blobs = cache / "blobs/sha256"

    def put(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    first(text, "--cache-to", f"type=local,dest={cache},mode=max,compression=uncompressed")
    index = json.loads((cache / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    for layer in manifest["layers"]:
        layer |= put((blobs / layer["digest"][7:]).read_bytes().replace(b"xxx", b"yyy"))
    index["manifests"][0] |= put(json.dumps(manifest).encode())
    (cache / "index.json").write_text(json.dumps(index))
    done = second(text, "--cache-from", f"type=local,src={cache}").expect()
    assert "without the caches that were brought" in done.err
    assert second.run("sh", "-c", "tr -d x < result | wc -c") == "0\n"


def test_cache_that_vanishes_is_done_without(
    first: Builds, second: Builds, text: str, tmp_path: Path
) -> None:
    with images.registry() as host:
        place = f"type=registry,ref={host}/app:cache"
        first(text, "--cache-to", f"{place},mode=max").expect()
        export = tmp_path / "cache"
        first(text, "--cache-to", f"type=local,dest={export},mode=max").expect()
    document = json.loads((export / "index.json").read_text())["manifests"][0]
    manifest = json.loads((export / "blobs/sha256" / document["digest"][7:]).read_text())
    for layer in manifest["layers"]:
        path = export / "blobs/sha256" / layer["digest"][7:]
        path.write_bytes(b"\0" * layer["size"])
    done = second(text, "--cache-from", f"type=local,src={export}").expect()
    assert done.err.count("without the caches that were brought") == 1
    assert second.run("wc", "-c", "copy") == "10000 copy\n"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--cache-from=type=gha", "type=gha is not supported"),
        ("--cache-to=type=s3,bucket=x", "type=s3 is not supported"),
        ("--cache-to=type=azblob", "type=azblob is not supported"),
        ("--cache-to=type=local", "local needs dest="),
        ("--cache-to=type=inline,mode=max", "inline has mode=min only"),
        ("--cache-to=type=local,dest=x,mode=all", "neither min nor max"),
        ("--cache-to=type=registry,ref=x,compression=lzma", "compression=lzma is not supported"),
        ("--cache-to=type=local,dest=x,compression-level=40", "compression-level=40 is none"),
        ("--cache-from=type=local,src=x,dest=y", "no option 'dest'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(rless: Product, flag: str, said: str) -> None:
    assert said in rless("build", flag, ".").expect(125).one_line_error()


def test_cache_that_cannot_be_written_fails_the_build(first: Builds, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    text = f"FROM localhost/base:1\n{seed()}"
    place = f"--cache-to=type=local,dest={tmp_path}/file/cache"
    assert "cannot write the cache" in first(text, place).expect(1).err
    done = first(text, f"{place},ignore-error=true").expect()
    assert "WARNING: no cache to" in done.err
    assert first.inspect(NAME)["Id"]
