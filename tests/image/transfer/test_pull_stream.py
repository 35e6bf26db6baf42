"""Layers are unpacked in parallel while they arrive, with the same result in any order."""

from __future__ import annotations

import contextlib
import errno
import http.server
import os
import random
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.layer import tarsplit
from rootless.image.layer.parallel_unpack import Arrivals
from rootless.image.registry.progress import Progress
from tests.lib import images
from tests.lib.image_store import Workshop
from tests.lib.images import Dir, File, Hard, Image, Link, layer

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


class Slow(http.server.BaseHTTPRequestHandler):
    """A registry that sends blobs as the test says."""

    image: Image
    order: list[str] = []
    cut = 0  # bytes after which the first answers break off
    delay = 0.0  # seconds between two pieces
    wrong = False  # other bytes than asked for, of the same size
    lock = threading.Lock()
    asked: list[tuple[str, str]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Range", "")))
        blobs = self.image.all_blobs() | {self.image.digest: self.image.manifest_data}
        name = self.path.rpartition("/")[2]
        kind = images.OCI_MANIFEST if "/manifests/" in self.path else "application/octet-stream"
        data = self.image.manifest_data if "/manifests/" in self.path else blobs.get(name, b"")
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
        is_layer = name in {images.digest(blob) for blob in self.image.blobs}
        if is_layer and self.wrong:
            data = bytes(len(data))
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        end = min(len(data), start + self.cut) if is_layer and self.cut else len(data)
        with contextlib.suppress(OSError):
            for at in range(start, end, 10_000):
                self.wfile.write(data[at : min(end, at + 10_000)])
                if is_layer and self.delay:
                    time.sleep(self.delay)
        if end < len(data):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def slow(image: Image, **how: Any) -> Iterator[tuple[str, type[Slow]]]:
    handler = type("Handler", (Slow,), {"image": image, "asked": [], **how})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = False  # each is waited for
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}/slow:1", handler
        finally:
            server.shutdown()
            thread.join()


# Each needs what is below it: in another order than bottom first it would come out wrong.
DEPENDENT = [
    layer({"usr/lib": Dir(mode=0o711, uid=3), "lib": Link("usr/lib"), "usr/lib/a": "0"}),
    layer({"lib/b": "1", "usr/lib/b2": Hard("usr/lib/a")}),
    layer({"lib/sub/c": "2", ".wh.nothing": ""}),
    layer({"lib/sub/.wh..wh..opq": "", "lib/sub/d": Hard("usr/lib/b")}),
    layer({".": Dir(mode=0o750, uid=9)}),
    layer({"lib/e": "5"}),
    layer({"usr/.wh.lib": "", "usr/lib/f": "6"}),
]


def check_dependent(workshop: Workshop, image: Any) -> None:
    trees = [workshop.tree(image, number) for number in range(len(DEPENDENT))]
    assert "usr/lib/b" in trees[1] and trees[1]["usr/lib/b2"]["text"] == "0"
    assert trees[1]["usr/lib"]["mode"] == 0o711 and trees[1]["usr/lib"]["uid"] == 3
    assert trees[2]["usr/lib/sub/c"]["text"] == "2"
    assert trees[3]["usr/lib/sub/d"]["text"] == "1"
    assert [tree["."]["mode"] for tree in trees] == [0o755] * 4 + [0o750] * 3
    assert [tree["."]["uid"] for tree in trees] == [0] * 4 + [9] * 3
    assert trees[5]["usr/lib/e"]["text"] == "5"
    assert trees[6]["usr/lib"]["uid"] == 0
    for number, data in enumerate(DEPENDENT):
        with tarsplit.open_layer(workshop.store, image, number) as stream:
            assert stream.read() == data


@pytest.mark.parametrize("cores", [1, 2, 8])
def test_layers_may_depend_on_lower_ones(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    check_dependent(workshop, workshop.unpack(DEPENDENT))


def test_large_lower_layer_may_arrive_last(workshop: Workshop) -> None:
    """Upper layers are there long before the bottom one, and wait where they must."""
    bottom = layer({"etc": Dir(mode=0o700, uid=5), "big": os.urandom(400_000)})
    uppers = [layer({f"etc/{n}": str(n)}) for n in range(5)]
    made = Image([bottom, *uppers], compression="none")
    with slow(made, delay=0.01) as (name, _):
        image = workshop.pull(name)
    for number in range(1, 6):
        tree = workshop.tree(image, number)
        assert (tree["etc"]["mode"], tree["etc"]["uid"]) == (0o700, 5)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_interrupted_downloads_are_resumed(workshop: Workshop, compression: str) -> None:
    chance = random.Random(3)
    made = Image([layer({f"f{n}": chance.randbytes(9000) for n in range(30)})] * 2)
    made = Image([*made.layers, layer({"g": chance.randbytes(200_000)})], compression=compression)
    with slow(made, cut=60_000) as (name, handler):
        image = workshop.pull(name)
    assert any(ranges for _, ranges in handler.asked)
    for number, data in enumerate(made.layers):
        with tarsplit.open_layer(workshop.store, image, number) as stream:
            assert stream.read() == data


def test_wrong_bytes_never_become_a_layer(workshop: Workshop) -> None:
    made = Image([layer({"f": os.urandom(100_000)})], compression="none")
    with slow(made, wrong=True) as (name, _), pytest.raises(RlessError):
        workshop.pull(name)
    assert workshop.contents() == {}
    assert os.listdir(f"{workshop.root}/tmp") == []


def test_refused_layer_ends_the_downloads(workshop: Workshop) -> None:
    """The small one is hostile: nobody waits for the large one, which would take 40 seconds."""
    made = Image([layer({"../x": "y"}), layer({"big": os.urandom(2_000_000)})], compression="none")
    begin = time.monotonic()
    with slow(made, delay=0.2) as (name, _), pytest.raises(RlessError, match="leaves the layer"):
        workshop.pull(name)
    assert time.monotonic() - begin < 10
    assert workshop.contents() == {}


def test_wrong_bytes_of_a_mirror_are_replaced(workshop: Workshop, tmp_path: Path) -> None:
    """Its bytes were being unpacked when the digest proved wrong."""
    made = Image([layer({"f": os.urandom(300_000)}), layer({"g": "x"})], compression="gzip")
    with slow(made, wrong=True) as (bad, _), slow(made) as (good, _):
        conf = tmp_path / "registries.conf"
        conf.write_text(
            f'[[registry]]\nlocation = "{good.partition("/")[0]}"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{bad.partition("/")[0]}"\ninsecure = true\n'
        )
        code = (
            "import sys\n"
            "from rootless.image.transfer import pull\n"
            "from rootless.image.store.store import Store\n"
            "from tests.lib.image_store import map_for\n"
            "print(pull.pull(sys.argv[1], Store(sys.argv[2]), policy='always', quiet=True,"
            " idmap_for=map_for).id)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, good, workshop.root],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "CONTAINERS_REGISTRIES_CONF": str(conf)},
        )
    assert done.stdout.strip() == made.id, done.stderr
    image = workshop.store.lookup(good)
    assert image is not None
    for number, data in enumerate(made.layers):
        with tarsplit.open_layer(workshop.store, image, number) as stream:
            assert stream.read() == data


def test_progress_has_one_line_per_layer_on_a_terminal(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pty

    made = Image([layer({"f": os.urandom(3_000_000)}), layer({"g": "x"})], compression="none")
    master, slave = pty.openpty()
    text: list[bytes] = []

    def drain() -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(master, 65536):
                text.append(chunk)

    thread = threading.Thread(target=drain)
    with slow(made, delay=0.001) as (name, _):
        thread.start()
        monkeypatch.setenv("TERM", "xterm")
        workshop.pull(name, progress=Progress(slave))
    os.close(slave)
    thread.join()
    os.close(master)
    shown = b"".join(text).decode()
    short = images.digest(made.blobs[0])[7:19]
    assert re.search(rf"{short}: Downloading +\[=+> *\] [\d.]+[kM]B/3\.\d+MB", shown)
    assert f"{short}: Pull complete" in shown
    last = shown.rstrip().splitlines()[-2:]
    assert last[0].startswith("Digest: sha256:")
    assert last[1] == f"Status: Downloaded newer image for {name}"


def opened() -> tuple[list[str], int]:
    """Return what is open but sockets, and how many descriptors there are."""
    names, links = os.listdir("/proc/self/fd"), []
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # the listing itself
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(link for link in links if not link.startswith("socket:")), len(names)


def test_descriptors_are_closed(workshop: Workshop, registry_host: str) -> None:
    images.push(Image(DEPENDENT), f"{registry_host}/descriptors:1")
    workshop.pull(f"{registry_host}/descriptors:1")
    before, count = opened()
    # Several, because a server of the test before may close its sockets only now.
    for turn in range(4):
        workshop.unpack([layer({"f": f"{turn}"})] * 3)
        name = f"{registry_host}/descriptors:more-{turn}"
        images.push(Image([layer({"n": f"{turn}-{n}"}) for n in range(9)]), name)
        workshop.pull(name)
    after, later = opened()
    assert after == before
    assert later <= count


def test_unread_download_does_not_block_others() -> None:
    from rootless.image.layer.layers import LayerBlob

    blob = LayerBlob("sha256:" + 64 * "a", 10, "sha256:" + 64 * "b", "sha256:" + 64 * "c")
    with Arrivals([blob]) as arrivals:
        assert blob.arrival is not None
        for done in range(200_000):
            blob.arrival.note(done)
        assert not arrivals.has_restarted
        blob.arrival.note(5)
        assert arrivals.has_restarted
        arrivals.give_up()
        with pytest.raises(RlessError, match="given up"):
            blob.arrival.note(6)


# -- hosts that cannot ---------------------------------------------------------------------------


def test_pull_works_without_locks(
    workshop: Workshop, registry_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS may have no locks at all: ENOLCK."""

    def no_locks(fd: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    images.push(Image(DEPENDENT), f"{registry_host}/locks:1")
    check_dependent(workshop, workshop.pull(f"{registry_host}/locks:1"))


def test_pull_works_without_xattrs_and_whiteouts(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS has no user.* attributes, and its root squash refuses to make devices."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("os.setxattr", refuse)
    monkeypatch.setattr("os.mknod", refuse)
    image = workshop.unpack(
        [layer({"a": "x", "b": File("y", xattrs={"user.k": b"v"})}), layer({".wh.a": ""})]
    )
    assert image.whiteouts(next(iter(image.keys))) == "aufs"
    assert workshop.tree(image, 1)[".wh.a"]["kind"] == "file"


def test_root_squash_is_reported_in_one_line(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server of an NFS home takes no owners of subordinate ids."""

    def squash(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.fchown", squash)
    monkeypatch.setattr("os.chown", squash)
    with pytest.raises(RlessError, match="Operation not permitted") as caught:
        workshop.unpack([layer({"f": File("x", uid=5)})])
    assert "\n" not in str(caught.value)
    assert "RLESS_STORAGE" in (caught.value.hint or "")
    assert workshop.contents() == {}


def test_pull_works_with_few_descriptors(workshop: Workshop) -> None:
    """100 layers need hundreds; what the hard limit allows is taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        image = workshop.unpack([layer({f"d/{n}": str(n)}) for n in range(110)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert workshop.tree(image, 109)["d/109"]["text"] == "109"
