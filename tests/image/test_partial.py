"""Ctrl-C while layers arrive: the store is whole, and the next pull goes on where it was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.image import partial, remove
from rootless.image.inflight import InFlight, clear_leftovers
from rootless.image.progress import Progress
from tests.lib import images
from tests.lib.image_store import Workshop
from tests.lib.images import Image, layer
from tests.lib.product import Product, own_rless, shared_product
from tests.lib.registry_servers import FaultyProxy

__all__ = ["own_rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "docker-registry")

SIZE = 6_000_000


class Impatient(Progress):
    """Press Ctrl-C once so much of a layer has come."""

    def __init__(self, bytes_of_one: int) -> None:
        super().__init__(-1)
        self.most = bytes_of_one

    def advance(self, layer: str, done: int, state: str = "", total: int = 0) -> None:
        if not state and done >= self.most:
            self.most = 1 << 60
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)


@pytest.fixture
def proxy(registry_host: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(registry_host) as made:
        yield made


def interrupted(workshop: Workshop, name: str, after: int = 3_000_000) -> list[Path]:
    """Begin a pull; return what it leaves of blobs."""
    with pytest.raises(KeyboardInterrupt):
        workshop.pull(name, progress=Impatient(after))
    assert os.listdir(f"{workshop.root}/tmp") == os.listdir(f"{workshop.root}/locks") == []
    assert workshop.store.lookup(name) is None
    return sorted(Path(workshop.root, "partial").iterdir())


def ranges(proxy: FaultyProxy, digest: str) -> list[str]:
    """Return what was asked for of a blob: the Range of each request."""
    asked = zip(proxy.requests, proxy.headers, strict=True)
    return [headers.get("Range", "") for line, headers in asked if line.endswith(digest)]


@pytest.mark.parametrize("user", ["", "user"])
def test_it_goes_on(workshop: Workshop, proxy: FaultyProxy, user: str) -> None:
    """A named user's layers are fetched before any is unpacked."""
    big = layer({"big": os.urandom(SIZE)})
    made = images.busybox_image([big], compression="none", User=user)
    name = f"{proxy.host}/goes-on:{user}1"
    images.push(made, name)
    kept = interrupted(workshop, name)
    digest = images.digest(big)
    file = Path(workshop.root, "partial", digest[7:])
    assert file in kept
    size = file.stat().st_size
    assert 3_000_000 <= size < SIZE and big.startswith(file.read_bytes())
    kept = interrupted(workshop, name, 4_500_000)
    more = file.stat().st_size
    assert more >= 4_500_000
    proxy.requests.clear()
    proxy.headers.clear()
    image = workshop.pull(name)
    assert image.id == made.id and ranges(proxy, digest) == [f"bytes={more}-"]
    assert list(Path(workshop.root, "partial").iterdir()) == []
    assert workshop.tree(image)["big"]["size"] == SIZE


@pytest.mark.parametrize("user", ["", "user"])
@pytest.mark.parametrize("end", [False, True])
def test_what_was_left_is_wrong(
    workshop: Workshop, proxy: FaultyProxy, user: str, end: bool
) -> None:
    """Its digest says so; then the blob is fetched from its beginning."""
    big = layer({"big": os.urandom(SIZE)})
    made = images.busybox_image([big], compression="none", User=user)
    name = f"{proxy.host}/wrong:{user}{end}"
    images.push(made, name)
    interrupted(workshop, name)
    digest = images.digest(big)
    file = Path(workshop.root, "partial", digest[7:])
    data = bytearray(file.read_bytes())
    data[0 if not end else -1] ^= 1
    file.write_bytes(data)
    proxy.requests.clear()
    proxy.headers.clear()
    image = workshop.pull(name)
    assert ranges(proxy, digest) == [f"bytes={len(data)}-", ""]
    assert workshop.tree(image)["big"]["size"] == SIZE


def test_longer_than_the_blob(workshop: Workshop, proxy: FaultyProxy) -> None:
    big = layer({"big": os.urandom(SIZE)})
    name = f"{proxy.host}/longer:1"
    images.push(Image([big], compression="none"), name)
    interrupted(workshop, name)
    file = Path(workshop.root, "partial", images.digest(big)[7:])
    file.write_bytes(big + b"and more")
    proxy.requests.clear()
    assert workshop.pull(name).id
    assert not [line for line in proxy.requests if line.endswith(images.digest(big))]


def test_what_nobody_needs(own_rless: Product, workshop: Workshop, proxy: FaultyProxy) -> None:
    """`system df` tells of it, `image prune` deletes it, and so does a pull after a day."""
    name = f"{proxy.host}/left:1"
    images.push(Image([layer({"big": os.urandom(SIZE)})]), name)
    file = interrupted(workshop, name)[0]
    with InFlight(workshop.root) as flight:
        fd = partial.open_blob(flight.path, f"sha256:{file.name}")
        size = os.fstat(fd).st_size
        assert not file.exists() and size >= 2_000_000
        partial.keep(flight.path, f"sha256:{file.name}", fd, size)
        os.close(fd)
    assert file.stat().st_size == size
    clear_leftovers(workshop.root)
    assert file.exists()
    os.utime(file, (time.time() - 90_000,) * 2)
    clear_leftovers(workshop.root)
    assert not file.exists()
    (file.parent / file.name).write_bytes(b"x" * 5000)
    freed = remove.Freed()
    remove.collect_into(freed, workshop.store, set())
    assert file.exists()  # rmi leaves it
    left = own_rless.storage / "partial"
    own_rless("images").expect()
    left.mkdir(parents=True)
    own_rless.storage.chmod(0o700)
    (left / file.name).write_bytes(b"x" * 5000)
    rows = own_rless("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Reclaimable}}")
    assert "In Flight 1 8.192kB" in rows.expect().out
    assert "5kB" in own_rless("image", "prune", "-f").expect().out
    assert list(left.iterdir()) == []
