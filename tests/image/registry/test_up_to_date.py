"""A pull of a current image asks the registry only for its digest (security class 22)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.model.reference import parse
from rootless.image.registry.progress import Progress
from rootless.image.store.store import blob_path, layer_dir, name_path, split_path
from tests.lib import images
from tests.lib.image_store import Workshop, map_of
from tests.lib.images import Image, layer
from tests.lib.product import Product, own_rless, shared_product
from tests.lib.registry_servers import FaultyProxy

__all__ = ["own_rless", "shared_product"]

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "docker-registry")
IMAGE = Image([layer({"f": "1"}), layer({"g": "2"})], {"User": "3:4"})
QUESTION = "HEAD /v2/current/manifests/1"
MANIFEST = "GET /v2/current/manifests/1"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(limits, "CURRENT_SECONDS", 60.0)  # a busy machine is no slow registry
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in (
            "CONTAINERS_REGISTRIES_CONF", "RLESS_INSECURE_REGISTRIES", "XDG_CONFIG_HOME",
        ):  # fmt: skip
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def proxy(registry_host: str) -> Iterator[FaultyProxy]:
    images.push(IMAGE, f"{registry_host}/current:1")
    with FaultyProxy(registry_host) as made:
        yield made


def asked(workshop: Workshop, proxy: FaultyProxy, name: str, **options: Any) -> list[str]:
    """Pull, and return what the registry was asked about the image."""
    proxy.requests.clear()
    workshop.pull(name, **options)
    return [line for line in proxy.requests if line != "GET /v2/"]


def test_current_image_costs_one_request(
    workshop: Workshop, proxy: FaultyProxy, capfd: pytest.CaptureFixture[str]
) -> None:
    name = f"{proxy.host}/current:1"
    assert MANIFEST in asked(workshop, proxy, name)
    before = workshop.contents()
    capfd.readouterr()
    assert asked(workshop, proxy, name, quiet=False, progress=Progress()) == [QUESTION]
    assert capfd.readouterr().err == (
        f"1: Pulling from current\nDigest: {IMAGE.digest}\nStatus: Image is up to date for {name}\n"
    )
    assert workshop.contents() == before
    by_digest = f"{proxy.host}/current@{IMAGE.digest}"
    workshop.pull(by_digest)
    wanted = f"HEAD /v2/current/manifests/{IMAGE.digest}"
    assert asked(workshop, proxy, by_digest) == [wanted]


def test_moved_tag_is_pulled(workshop: Workshop, registry_host: str) -> None:
    name = f"{registry_host}/current/moves:1"
    images.push(Image([layer({"f": "old"})]), name)
    workshop.pull(name)
    new = Image([layer({"f": "new"})])
    images.push(new, name)
    assert workshop.pull(name).id == new.id
    # Of an index the digest is the index's own.
    both = images.push([Image([layer({"x": "1"})], architecture="s390x"), new], name)
    assert workshop.pull(name).digests[0] == both
    assert workshop.pull(name).digests[0] == both


@pytest.mark.parametrize("part", ["layer", "meta", "split", "manifest", "config", "map"])
def test_incomplete_image_is_pulled(workshop: Workshop, proxy: FaultyProxy, part: str) -> None:
    name = f"{proxy.host}/current:1"
    image = workshop.pull(name)
    assert asked(workshop, proxy, name) == [QUESTION]
    key = next(iter(image.keys))
    place = layer_dir(workshop.root, key, image.chain[0])
    options: dict[str, Any] = {}
    if part == "layer":
        os.rename(place, f"{place}.away")
    elif part == "meta":
        os.unlink(f"{place}.json")
    elif part == "split":
        os.unlink(split_path(workshop.root, image.chain[1]))
    elif part == "map":
        options["idmap_for"] = lambda _: map_of(7, 7)
    else:
        os.unlink(blob_path(workshop.root, IMAGE.digest if part == "manifest" else IMAGE.id))
    if part == "layer":
        os.rename(f"{place}.away", f"{place}.gone")
    requests = asked(workshop, proxy, name, **options)
    assert QUESTION not in requests
    assert MANIFEST in requests
    assert asked(workshop, proxy, name, **options) == [QUESTION]


def test_mirror_is_asked_first(workshop: Workshop, proxy: FaultyProxy, home: Path) -> None:
    images.push(IMAGE, f"{proxy.host}/current:1")
    path = home / ".config/containers/registries.conf"
    path.parent.mkdir(parents=True)
    path.write_text(
        '[[registry]]\nlocation = "registry.invalid"\n'
        f'[[registry.mirror]]\nlocation = "{proxy.host}"\n'
    )
    assert MANIFEST in asked(workshop, proxy, "registry.invalid/current:1")
    assert asked(workshop, proxy, "registry.invalid/current:1") == [QUESTION]


def test_private_image_is_asked_for_with_the_login(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    with images.registry(users={"me": "secret"}) as host, FaultyProxy(host) as proxy:
        images.push(IMAGE, f"{host}/current:1", login=("me", "secret"))
        auth = base64.b64encode(b"me:secret").decode()
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {proxy.host: {"auth": auth}}}))
        name = f"{proxy.host}/current:1"
        workshop.pull(name)
        assert set(asked(workshop, proxy, name)) == {QUESTION}
        (tmp_path / "auth.json").unlink()
        with pytest.raises(RlessError, match="wants a name and password"):
            workshop.pull(name)


# -- what may be answered ------------------------------------------------------------------------

GOOD = f"Docker-Content-Digest: {IMAGE.digest}"
ANSWERS = {
    "good": (f"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n{GOOD.lower()} \r\n\r\n", True),
    "no words": (f"HTTP/1.1 200\r\n{GOOD}\r\n\r\n", True),
    "denied": (f"HTTP/1.1 401 Unauthorized\r\n{GOOD}\r\n\r\n", False),
    "moved": (f"HTTP/1.1 307 x\r\nLocation: http://127.0.0.1:1/\r\n{GOOD}\r\n\r\n", False),
    "other": (f"HTTP/1.1 200 OK\r\nDocker-Content-Digest: sha256:{'0' * 64}\r\n\r\n", False),
    "none": ("HTTP/1.1 200 OK\r\n\r\n", False),
    "two": (f"HTTP/1.1 200 OK\r\n{GOOD}\r\n{GOOD}\r\n\r\n", False),
    "upper case": (f"HTTP/1.1 200 OK\r\n{GOOD.upper()}\r\n\r\n", False),
    "a path": ("HTTP/1.1 200 OK\r\nDocker-Content-Digest: sha256:../../x\r\n\r\n", False),
    "endless": (f"HTTP/1.1 200 OK\r\n{GOOD}\r\n" + "x: y\r\n" * 4000 + "\r\n", False),
    "nothing": ("", False),
    "not HTTP": (f"SSH-2.0-x\r\n{GOOD}\r\n\r\n", False),
    "HTTP/2": (f"HTTP/2 200 OK\r\n{GOOD}\r\n\r\n", False),
    "in the body": (f"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{GOOD}\r\n\r\n", False),
}


class RawServer:
    """A server that sends the same bytes whatever it is asked."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.answer = b""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            with line, contextlib.suppress(OSError):
                line.recv(65536)
                line.sendall(self.answer)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


@pytest.fixture
def raw() -> Iterator[RawServer]:
    made = RawServer()
    yield made
    made.close()


def as_if_from(workshop: Workshop, proxy: FaultyProxy, host: str) -> str:
    """Have the image in the store as if that host had given it; return its name."""
    workshop.pull(f"{proxy.host}/current:1")
    name = f"{host}/current:1"
    source, target = (
        Path(name_path(workshop.root, parse(one))) for one in (f"{proxy.host}/current:1", name)
    )
    target.write_text(source.read_text().replace(proxy.host, host))
    return name


@pytest.mark.parametrize("kind", ANSWERS)
def test_only_a_matching_digest_counts(
    workshop: Workshop,
    proxy: FaultyProxy,
    raw: RawServer,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "ATTEMPTS", 1)
    name = as_if_from(workshop, proxy, raw.host)
    text, counts = ANSWERS[kind]
    raw.answer = text.encode()
    if counts:
        assert workshop.pull(name).id == IMAGE.id
    else:
        with pytest.raises(RlessError):
            workshop.pull(name)


def test_unreachable_registry_is_reported(workshop: Workshop, proxy: FaultyProxy) -> None:
    name = as_if_from(workshop, proxy, f"127.0.0.1:{images.free_port()}")
    with pytest.raises(RlessError, match="check the network"):
        workshop.pull(name)


# -- the verb ------------------------------------------------------------------------------------


def test_pull_of_a_current_image_says_so(own_rless: Product, proxy: FaultyProxy) -> None:
    name = f"{proxy.host}/current:1"
    own_rless("pull", "-q", name).expect()
    proxy.requests.clear()
    again = own_rless("pull", name).expect()
    assert again.out == (
        f"1: Pulling from current\nDigest: {IMAGE.digest}\n"
        f"Status: Image is up to date for {name}\n{name}\n"
    )
    assert proxy.requests == ["GET /v2/", QUESTION]


def test_pull_of_a_name_that_was_only_tagged_asks_for_everything(
    own_rless: Product, proxy: FaultyProxy
) -> None:
    name, other = f"{proxy.host}/current:1", f"{proxy.host}/other:1"
    images.push(IMAGE, other)
    own_rless("pull", "-q", name).expect()
    own_rless("tag", name, other).expect()
    proxy.requests.clear()
    assert own_rless("pull", "-q", other).expect().out == f"{other}\n"
    assert "GET /v2/other/manifests/1" in proxy.requests
    proxy.requests.clear()
    own_rless("pull", "-q", other).expect()
    assert proxy.requests == ["GET /v2/", "HEAD /v2/other/manifests/1"]


def test_pull_of_a_current_image_loads_few_modules(
    workshop: Workshop, proxy: FaultyProxy, home: Path
) -> None:
    """The time of a repeated pull is that of what it loads: counted, because times flake."""
    name = f"{proxy.host}/current:1"
    workshop.pull(name, idmap_for=lambda _: map_of(0, 0))  # that of `pull`
    code = (
        "import sys\nfrom rootless.cli import main\n"
        f"assert main.main(['pull', '-q', {name!r}]) == 0\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    libraries = [path for path in sys.path if "site-packages" in path]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c",
         f"import sys; sys.path += {[str(ROOT), *libraries]!r}\n{code}"],
        env={
            "HOME": str(home),
            "PATH": "/usr/bin:/bin",
            "RLESS_STORAGE": workshop.root,
            "CONTAINERS_REGISTRIES_CONF": "/dev/null",
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    slow = {
        *("tomllib", "subprocess", "urllib.request", "concurrent.futures", "click", "isal"),
        *("rootless.image.transfer.install", "rootless.image.store.staging"),
        *("rootless.image.registry.auth", "urllib3"),
    }
    assert loaded & slow == set()
    assert not any(name.startswith("rootless.image.layer") for name in loaded)
