"""SIGKILL at any moment of pull, load, import, save or rmi: nothing broken, nothing lost sight of.

80 kills at seeded moments, each while it is at work. After each, every image that can be found
gives its layers back with their digests; at the end prune leaves nothing but what images need,
and a whole run works.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from rootless.image.archive import write as saver
from rootless.image.layer import tarsplit
from rootless.image.registry.progress import Progress
from rootless.image.store import names
from rootless.image.store.staging import Staging
from rootless.image.transfer import pull
from rootless.image.transfer.import_ import import_tar
from rootless.image.transfer.load import load
from rootless.image.transfer.remove import collect, remove
from rootless.linux.files import Output
from tests.lib import images
from tests.lib.image_store import Workshop, map_for
from tests.lib.images import File, Image, layer
from tests.lib.kills import Moments, forked

VERBS = ("pull", "load", "import_", "save", "rmi")
KILLS = 16  # of each that hit it at work
QUIET = Progress(quiet=True)


def made_layer(number: int) -> bytes:
    files = {f"d{n % 5}/f{n}": File(f"{number}-{n}" * 20, uid=n % 7, mode=0o600) for n in range(40)}
    return layer({f"l{number}": None} | files)


class Acts:
    """The five verbs on one store."""

    def __init__(self, workshop: Workshop, host: str) -> None:
        self.workshop = workshop
        self.store = workshop.store
        layers = [made_layer(number) for number in range(3)]
        self.name = f"{host}/killed:1"
        images.push(Image(layers, {"User": "3:4"}), self.name)
        self.archive = workshop.directory / "archive.tar"
        two = {"loaded:1": Image(layers[:2]), "loaded:2": Image(layers, compression="none")}
        images.write_docker_archive(two, self.archive)
        self.root = workshop.directory / "root.tar"
        self.root.write_bytes(made_layer(9))
        self.saved = workshop.directory / "saved.tar"

    def pull(self) -> None:
        pull.pull(self.name, self.store, policy="always", quiet=True, idmap_for=map_for)

    def load(self) -> None:
        for _ in load(str(self.archive), self.store, idmap_for=map_for, progress=QUIET):
            pass

    def import_(self) -> None:
        import_tar(str(self.root), self.store, name="imported:1", idmap_for=map_for, progress=QUIET)

    def save(self) -> None:
        image = self.store.lookup(self.name)
        assert image is not None
        with Staging(self.store.root) as staging, Output(str(self.saved)) as file:
            target = saver.TarTarget(file.fd)
            saver.save(self.store, [(image, [image.name])], target, staging.path, progress=QUIET)
            target.end()

    def rmi(self) -> None:
        for name in self.names():
            remove(self.store, name, force=True, used=[])

    def names(self) -> list[str]:
        return [record["name"] for record in self.store.records("names")]


def whole(acts: Acts, *, thorough: bool) -> None:
    """Check that every image that can be found is whole, and that every name is listed."""
    named = [(path, record["name"], record["id"]) for path, record in names.read_all(acts.store)]
    assert names.every(acts.store) == named
    for record in acts.store.records("ids") + acts.store.records("names"):
        image = acts.store.lookup(record["id"])
        if image is None:
            continue  # a name whose id was being removed: it has no image any more
        for key in image.keys:
            directories = image.layer_dirs(key)
            assert directories is not None
            assert all(os.path.isdir(path) for path in directories)
        if thorough:
            for number in range(len(image.chain)):
                with tarsplit.open_layer(acts.store, image, number) as stream:
                    stream.read()


@pytest.mark.timeout(300)
def test_eighty_kills_leave_a_whole_store(workshop: Workshop, registry_host: str) -> None:
    acts = Acts(workshop, registry_host)
    moments = Moments(seed=7)
    acts.pull()
    acts.save()
    expected = hashlib.sha256(acts.saved.read_bytes()).hexdigest()
    for name in ("rmi", "pull", "save", "load", "import_", "rmi"):
        begin = time.monotonic()
        getattr(acts, name)()
        moments.measured(name, time.monotonic() - begin)
    assert workshop.contents() == {}
    number = 0
    while min(moments.hits[name] for name in VERBS) < KILLS:
        number += 1
        for name in VERBS:
            if moments.hits[name] >= KILLS:
                continue
            if name == "save":
                acts.pull()
                acts.saved.unlink(missing_ok=True)
            if name == "rmi":
                acts.load()
            moments.kill(name, forked(getattr(acts, name)))
            whole(acts, thorough=number % 10 == 0)
            if name == "save" and acts.saved.exists():
                assert hashlib.sha256(acts.saved.read_bytes()).hexdigest() == expected
    assert sum(moments.hits.values()) >= 80
    assert not list(Path(workshop.directory).glob("saved.tar?*"))
    deadline = time.monotonic() + 30  # those that the killed had forked are dying
    while True:
        collect(acts.store)
        left = os.listdir(f"{workshop.root}/tmp")
        if not left:
            break
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    acts.pull()
    acts.load()
    acts.import_()
    whole(acts, thorough=True)
    acts.rmi()
    for record in acts.store.records("ids"):
        remove(acts.store, record["id"], force=True, used=[])
    collect(acts.store)
    assert workshop.contents() == {}
