"""Interrupted pulls: the store stays whole, and the next pull resumes."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.store import downloads
from rootless.image.transfer.remove import collect
from tests.lib import images
from tests.lib.image_store import Workshop, map_of
from tests.lib.images import Image, layer
from tests.lib.product import Product, own_rless, shared_product, wait_for
from tests.lib.registry_servers import Fault, FaultyProxy

__all__ = ["own_rless", "shared_product"]
pytestmark = [
    pytest.mark.needs("user namespaces", "subordinate ids", "docker-registry"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
SIZE = 4_000_000
CUT = 2_500_000
BIG = Image([layer({"small": "x"}), layer({"big": os.urandom(SIZE)})], compression="none")
BLOB = images.digest(BIG.blobs[1])[7:]
PATH = f"/blobs/sha256:{BLOB}"


@pytest.fixture
def proxy(registry_host: str) -> Iterator[FaultyProxy]:
    images.push(BIG, f"{registry_host}/big:1")
    with FaultyProxy(registry_host) as made:
        yield made


@pytest.fixture(autouse=True)
def from_one_mebibyte_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESUME_BYTES", 1 << 20)
    monkeypatch.setattr("rootless.image.registry.http._pause", lambda attempt: 0.01)


def ranges(proxy: FaultyProxy) -> list[str]:
    """Return the Range of each request for the big blob, "" where it has none."""
    return [
        headers.get("Range", "")
        for line, headers in zip(proxy.requests, proxy.headers, strict=True)
        if PATH in line
    ]


def check(workshop: Workshop, image: Any) -> None:
    assert workshop.tree(image, 1)["big"]["size"] == SIZE
    assert not os.path.exists(f"{workshop.root}/partial")


def interrupt(workshop: Workshop, proxy: FaultyProxy) -> Path:
    """Have a pull fail by a line that is cut again and again; return what it leaves."""
    proxy.faults = [
        Fault("GET", PATH, cut=CUT),
        *(Fault("GET", PATH, status=503) for _ in range(limits.ATTEMPTS)),
    ]
    with pytest.raises(RlessError, match="status 503"):
        workshop.pull(f"{proxy.host}/big:1")
    proxy.faults, proxy.requests, proxy.headers = [], [], []
    left = Path(workshop.root, "partial", BLOB)
    assert left.stat().st_size == CUT
    return left


def test_interrupted_download_is_resumed(workshop: Workshop, proxy: FaultyProxy) -> None:
    left = interrupt(workshop, proxy)
    assert left.read_bytes() == BIG.blobs[1][:CUT]
    assert left.stat().st_mode & 0o777 == 0o600
    # The other layer is there already, and no image: nothing points at half of one.
    assert workshop.store.records("names") == [] == workshop.store.records("ids")
    check(workshop, workshop.pull(f"{proxy.host}/big:1"))
    assert ranges(proxy) == [f"bytes={CUT}-"]


def test_complete_partial_download_is_used(workshop: Workshop, proxy: FaultyProxy) -> None:
    interrupt(workshop, proxy).write_bytes(BIG.blobs[1])
    check(workshop, workshop.pull(f"{proxy.host}/big:1"))
    assert ranges(proxy) == []


@pytest.mark.parametrize("what", ["start", "middle", "zeros", "too long", "all"])
def test_partial_download_is_verified(workshop: Workshop, proxy: FaultyProxy, what: str) -> None:
    """A power cut, or another registry that said that this is the blob of that digest."""
    left = interrupt(workshop, proxy)
    good = BIG.blobs[1]
    left.write_bytes(
        {
            "start": b"x" * CUT,
            "middle": good[:600_000] + b"x" + good[600_001:CUT],
            "zeros": good[:CUT] + bytes(10_000),
            "too long": good + b"x",
            "all": good[:-1] + b"x",
        }[what]
    )
    check(workshop, workshop.pull(f"{proxy.host}/big:1"))
    assert ranges(proxy)[-1] == ""


def test_server_without_ranges_restarts_the_download(
    workshop: Workshop, proxy: FaultyProxy
) -> None:
    interrupt(workshop, proxy)
    proxy.faults = [
        Fault("GET", PATH, status=200, body=BIG.blobs[1]),
    ]
    check(workshop, workshop.pull(f"{proxy.host}/big:1"))
    assert ranges(proxy) == [f"bytes={CUT}-"]


def test_pull_for_a_named_user_is_resumed(workshop: Workshop, registry_host: str) -> None:
    """Its layers are all fetched before the first is unpacked."""
    passwd = layer({"etc/passwd": "me:x:5:6::/:/bin/sh\n", "etc/group": "us:x:6:\n"})
    image = Image([passwd, layer({"big": os.urandom(SIZE)})], {"User": "me"}, compression="none")
    images.push(image, f"{registry_host}/big/named:1")
    path = f"/blobs/{images.digest(image.blobs[1])}"
    with FaultyProxy(registry_host) as proxy:
        proxy.faults = [
            Fault("GET", path, cut=CUT),
            *(Fault("GET", path, status=503) for _ in range(limits.ATTEMPTS)),
        ]
        with pytest.raises(RlessError, match="status 503"):
            workshop.pull(f"{proxy.host}/big/named:1")
        proxy.headers.clear()
        found = workshop.pull(f"{proxy.host}/big/named:1")
        check(workshop, found)
        assert f"bytes={CUT}-" in [headers.get("Range") for headers in proxy.headers]
        assert map_of(5, 6).key in found.keys


def test_refused_image_leaves_nothing(workshop: Workshop, registry_host: str) -> None:
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{'1' * 64}"]}
    blob = layer({"big": os.urandom(SIZE)})
    bad = Image([blob], compression="none", document={"rootfs": rootfs})
    images.push(bad, f"{registry_host}/big/bad:1")
    workshop.pull(images_name(registry_host))
    before = workshop.contents()
    with pytest.raises(RlessError, match="unpacks to"):
        workshop.pull(f"{registry_host}/big/bad:1")
    assert workshop.contents() == before


def images_name(host: str) -> str:
    images.push(Image([layer({"a": "b"})]), f"{host}/big/other:1")
    return f"{host}/big/other:1"


def test_small_blob_is_not_kept(
    workshop: Workshop, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RESUME_BYTES", CUT + 1)
    proxy.faults = [
        Fault("GET", PATH, cut=CUT),
        *(Fault("GET", PATH, status=503) for _ in range(limits.ATTEMPTS)),
    ]
    with pytest.raises(RlessError, match="status 503"):
        workshop.pull(f"{proxy.host}/big:1")
    assert not os.path.exists(f"{workshop.root}/partial")


def test_old_partial_downloads_are_pruned(workshop: Workshop, proxy: FaultyProxy) -> None:
    left = interrupt(workshop, proxy)
    downloads.clear(workshop.root)
    assert left.exists()
    then = time.time() - limits.RESUME_SECONDS - 1
    os.utime(left, (then, then))
    workshop.pull(images_name(proxy.host))  # any pull sees it
    assert not left.exists()
    left = interrupt(workshop, proxy)
    fd = os.open(left, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    collect(workshop.store)
    assert left.exists()  # somebody is at it
    os.close(fd)
    collect(workshop.store)
    assert not left.parent.exists()


def test_partial_download_of_another_pull_is_left_alone(
    workshop: Workshop, proxy: FaultyProxy
) -> None:
    left = interrupt(workshop, proxy)
    fd = os.open(left, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    image = workshop.pull(f"{proxy.host}/big:1")
    assert workshop.tree(image, 1)["big"]["size"] == SIZE
    assert left.stat().st_size == CUT and ranges(proxy) == [""]
    os.close(fd)


# -- the product ---------------------------------------------------------------------------------


@pytest.fixture
def rless(own_rless: Product) -> Product:
    config = own_rless.home / ".config/rless/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[images.limits]\nresume-bytes = "1MiB"\n')
    return own_rless


def start_and_wait(rless: Product, proxy: FaultyProxy, name: str) -> subprocess.Popen[bytes]:
    """Start a pull whose server stalls; return once it has got all that there was."""
    proxy.faults = [Fault("GET", PATH, cut=CUT, stall=30)]
    process = rless.start("pull", name)
    left = rless.storage / "partial" / BLOB
    deadline = time.monotonic() + 30
    while not (left.exists() and left.stat().st_size == CUT):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_next_pull_resumes(rless: Product, proxy: FaultyProxy, number: signal.Signals) -> None:
    name = f"{proxy.host}/big:1"
    process = start_and_wait(rless, proxy, name)
    begin = time.monotonic()
    process.send_signal(number)
    process.wait(20)
    assert time.monotonic() - begin < 5  # the server would have stalled for 30
    wait_for(lambda: not rless.processes(), "the end of its children")
    left = rless.storage / "partial" / BLOB
    assert left.stat().st_size == CUT
    assert rless("images", "-q").expect().out == ""
    df = rless("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}}").expect().lines()
    flight = next(line for line in df if line.startswith("In Flight"))
    assert flight.split()[2] == "1" and flight.split()[3].startswith("2.5")
    proxy.requests.clear()
    proxy.headers.clear()
    rless("pull", "-q", name).expect()
    assert ranges(proxy) == [f"bytes={CUT}-"]
    assert not left.parent.exists()
    assert os.listdir(rless.storage / "tmp") == []


def is_free(path: Path) -> bool:
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_prune_removes_partial_downloads(rless: Product, proxy: FaultyProxy) -> None:
    for words in (["image", "prune", "-f"], ["system", "prune", "-f"]):
        process = start_and_wait(rless, proxy, f"{proxy.host}/big:1")
        process.kill()
        process.wait()
        wait_for(lambda: is_free(rless.storage / "partial" / BLOB), "the end of its children")
        said = rless(*words).expect().out
        freed = re.search(r"Total reclaimed space: ([\d.]+)MB", said)
        assert freed is not None and float(freed[1]) >= CUT / 1e6, said
        assert not (rless.storage / "partial").exists()


@pytest.mark.parametrize("where", ["answer", "document"])
def test_interrupt_ends_a_stalled_pull(rless: Product, proxy: FaultyProxy, where: str) -> None:
    path = PATH if where == "answer" else "/manifests/"
    proxy.faults = [Fault("GET", path, slow=30)]
    process = rless.start("pull", f"{proxy.host}/big:1")
    deadline = time.monotonic() + 30
    while not any(path in line for line in proxy.requests):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - begin < 5
    assert process.returncode == 130 and b"Traceback" not in err
    assert os.listdir(rless.storage / "tmp") == []
