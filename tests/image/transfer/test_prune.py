"""Prune: unneeded objects are removed, needed ones are kept."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from rootless import paths
from rootless.engine.images import images as engine
from rootless.errors import RlessError
from rootless.image.layer.tarsplit import has_split
from rootless.image.store import records
from rootless.image.store.names import read_all
from rootless.image.store.staging import Staging, store_lock
from rootless.image.store.store import Store, layer_dir
from rootless.image.transfer import additional_stores
from tests.lib import images
from tests.lib.image_store import Workshop, map_of
from tests.lib.images import Dir, File, Image, layer

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


@pytest.fixture
def store(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Have the workshop's store as the user's own."""
    monkeypatch.setattr(paths, "_storage", {})
    monkeypatch.setenv("RLESS_STORAGE", workshop.root)
    return workshop


def contents(store: Workshop) -> dict[str, int]:
    """Return what there is of images."""
    others = ("events", "run", "containers")
    return {
        path: size
        for path, size in store.contents().items()
        if path.partition("/")[0] not in others
    }


def check(root: str) -> None:
    """Check that all that records name is there."""
    store = Store(root)
    ids = {record["id"] for record in store.records("ids")}
    for record in store.records("names") + store.records("ids"):
        assert record["id"] in ids
        for digest in (record["id"], record["digest"]):
            assert not digest or records.get_blob(root, digest) is not None
        for key in record["keys"]:
            for chain in record["chain"]:
                assert records.has_layer(root, key, chain)
                assert has_split(root, chain)


@pytest.mark.parametrize("seed", range(6))
def test_prune_keeps_needed_objects_after_any_sequence(store: Workshop, seed: int) -> None:
    chance = random.Random(seed)
    bases = [layer({f"base{n}": File("x" * n, uid=n), "d": Dir(mode=0)}) for n in range(3)]
    archives = []
    for number in range(5):
        layers = [*chance.sample(bases, chance.randint(0, 2)), layer({f"own{number}": "y"})]
        path = images.write_oci_archive(Image(layers), store.directory / f"{seed}-{number}.tar")
        archives.append(f"oci-archive:{path}")
    names = [f"name:{n}" for n in range(4)]
    for _ in range(30):
        known = [row["name"] or row["id"] for row in engine.list_images()]
        step = chance.choice(("pull", "pull", "tag", "rmi", "rmi", "prune", "map", "change"))
        if step == "pull":
            store.pull(chance.choice(archives))
        elif step == "map" and known:
            store.pull(chance.choice(known), policy="missing", idmap_for=lambda _: map_of(5, 5))
        elif step == "change":
            position = chance.randrange(len(archives))
            made = Image([*chance.sample(bases, 1), layer({"z": str(chance.random())})])
            images.write_oci_archive(made, Path(archives[position].partition(":")[2]))
        elif step == "tag" and known:
            engine.tag(chance.choice(known), chance.choice(names))
        elif step == "rmi" and known:
            text = chance.choice(known)
            try:
                engine.remove(text, force=chance.random() < 0.5)
            except RlessError as error:
                assert "names" in error.message or "no such image" in error.message
        elif step == "prune":
            engine.prune(None, chance.random() < 0.2)
            assert all(row["name"] for row in engine.list_images())
        check(store.root)
        assert not os.path.exists(f"{store.root}/tmp") or os.listdir(f"{store.root}/tmp") == []
    engine.prune(None, True)
    assert contents(store) == {}


def test_every_kind_of_garbage_is_removed(store: Workshop) -> None:
    kept = store.unpack([layer({"kept": "x"})])
    (key,) = kept.keys
    before = contents(store)
    dead = store.unpack([layer({"gone": File("y" * 5000, uid=3)})])
    for path, record in read_all(store.store):
        if record["id"] == dead.id:
            os.unlink(path)
    os.unlink(f"{store.root}/images/ids/{dead.id[7:]}.json")
    layers = f"{store.root}/layers/{key}"
    Path(layers, "c" * 24 + ".json").write_text("{}")  # a layer whose directory never came
    Path(layers, "d" * 24).mkdir()  # one whose record has gone
    Path(layers, "e" * 24 + ".gone").mkdir()  # one whose deletion was cut short
    os.symlink("/none", f"{layers}/{'f' * 24}")
    os.makedirs(f"{store.root}/layers/empty")
    Path(f"{store.root}/blobs/sha256/{'a' * 64}").write_text("blob")
    Path(f"{store.root}/splits/{'b' * 24}").write_text("split")
    pid = os.fork()
    if pid == 0:
        staging = Staging(store.root)
        staging.__enter__()
        Path(staging.path, "half").write_text("z")
        os._exit(0)
    os.waitpid(pid, 0)
    Path(f"{store.root}/locks").mkdir(mode=0o700, exist_ok=True)
    Path(f"{store.root}/locks/{'9' * 64}").touch(0o600)
    lines, freed = engine.prune()
    assert lines == []
    assert freed >= 5000
    assert contents(store) == before
    assert os.listdir(f"{store.root}/tmp") == os.listdir(f"{store.root}/locks") == []
    assert not os.path.exists(f"{store.root}/layers/empty")


def test_only_untagged_images_go_without_all(store: Workshop) -> None:
    first = store.unpack([layer({"a": "1"})])
    second = store.unpack([layer({"b": "2" * 1000})])
    engine.tag(first.id, "app:1")
    engine.tag(second.id, "app:1")  # moves: `first` still has its archive's name
    engine.tag(second.id, "app:2")
    engine.remove(first.name, True)
    third = store.unpack([layer({"c": "3"})])
    for path, record in read_all(store.store):
        if record["id"] == third.id:
            os.unlink(path)
    lines, _ = engine.prune()
    assert lines == [f"Deleted: {third.id}", f"Deleted: {third.chain[0]}"]
    lines, freed = engine.prune({"label": ["none"]}, True)
    assert (lines, freed) == ([], 0)
    lines, freed = engine.prune(None, True)
    assert {"Untagged: app:1", "Untagged: app:2", f"Deleted: {second.id}"} <= set(lines)
    assert freed >= 1000
    assert not engine.list_images()


def test_until_and_labels_select_images(store: Workshop) -> None:
    old = store.unpack(Image([layer({"a": "1"})], {"Labels": {"keep": "yes"}},
                             document={"created": "2020-01-01T00:00:00Z"}))  # fmt: skip
    new = store.unpack(Image([layer({"b": "1"})], document={"created": "2025-01-01T00:00:00Z"}))
    assert engine.prune({"until": ["2019-01-01"]}, True)[0] == []
    assert engine.prune({"until": ["2021-01-01"], "label!": ["keep"]}, True)[0] == []
    lines, _ = engine.prune({"until": ["2021-01-01"], "label": ["keep=yes"]}, True)
    assert f"Deleted: {old.id}" in lines
    assert [row["id"] for row in engine.list_images()] == [new.id]
    with pytest.raises(RlessError, match="is not a time"):
        engine.prune({"until": ["nonsense"]}, True)


def test_layers_of_a_running_pull_are_kept(
    store: Workshop, capfd: pytest.CaptureFixture[str]
) -> None:
    image = store.unpack([layer({"a": "1"})])
    (key,) = image.keys
    with store_lock(store.root):
        lines, freed = engine.prune(None, True)
    assert f"Deleted: {image.id}" in lines and freed == 0
    assert os.path.isdir(layer_dir(store.root, key, image.chain[0]))
    assert "a pull is at work" in capfd.readouterr().err
    assert engine.prune()[1] > 0


def test_record_matches_what_was_saved(store: Workshop) -> None:
    image = store.unpack([layer({"a": "1"})])
    record = additional_stores.record_of(image)
    (saved,) = store.store.records("names")
    assert record | {"source": None} == saved | {"source": None}
