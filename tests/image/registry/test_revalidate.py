"""A repeated pull asks one question (security class 22); all else is left to the real client."""

from __future__ import annotations

import _ssl
import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootless.image.model import limits
from rootless.image.model.reference import parse
from rootless.image.registry import revalidate
from rootless.image.registry.progress import Progress
from rootless.image.store.store import Image as StoredImage
from rootless.image.store.store import blob_path, layer_dir, name_path, split_path
from tests.lib import images
from tests.lib.image_store import Workshop, map_for, map_of
from tests.lib.images import Image, layer
from tests.lib.product import Product, own_rless, shared_product
from tests.lib.registry_servers import Authority, FaultyProxy

__all__ = ["own_rless", "shared_product"]

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "docker-registry")
IMAGE = Image([layer({"f": "1"}), layer({"g": "2"})], {"User": "3:4"})


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in (
            "CONTAINERS_REGISTRIES_CONF", "RLESS_INSECURE_REGISTRIES", "XDG_CONFIG_HOME",
            "SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF",
        ):  # fmt: skip
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def proxy(registry_host: str) -> Iterator[FaultyProxy]:
    images.push(IMAGE, f"{registry_host}/current:1")
    with FaultyProxy(registry_host) as made:
        yield made


def confirm(workshop: Workshop, name: str, **options: Any) -> StoredImage | None:
    options = {"progress": Progress(quiet=True), "idmap_for": map_for} | options
    return revalidate.confirm(name, workshop.store, **options)


def test_one_request_and_dockers_lines(
    workshop: Workshop, proxy: FaultyProxy, capfd: pytest.CaptureFixture[str]
) -> None:
    name = f"{proxy.host}/current:1"
    assert confirm(workshop, name) is None and proxy.requests == []
    pulled = workshop.pull(name)
    before = workshop.contents()
    proxy.requests.clear()
    proxy.headers.clear()
    image = confirm(workshop, name, progress=Progress())
    assert image is not None and (image.id, image.name) == (pulled.id, pulled.name)
    assert proxy.requests == ["HEAD /v2/current/manifests/1"]
    assert set(proxy.headers[0]) <= {
        "Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"
    }  # fmt: skip
    assert capfd.readouterr().err == (
        f"Pulling {name}\nDigest: {IMAGE.digest}\nStatus: Image is up to date for {name}\n"
    )
    assert workshop.contents() == before
    by_digest = f"{proxy.host}/current@{IMAGE.digest}"
    workshop.pull(by_digest)
    assert confirm(workshop, by_digest) is not None
    assert confirm(workshop, name, platform="linux/s390x") is None


def test_a_tag_that_has_moved(workshop: Workshop, registry_host: str) -> None:
    name = f"{registry_host}/current/moves:1"
    images.push(Image([layer({"f": "old"})]), name)
    workshop.pull(name)
    new = Image([layer({"f": "new"})])
    images.push(new, name)
    assert confirm(workshop, name) is None
    assert workshop.pull(name).id == new.id
    assert confirm(workshop, name) is not None
    # Of an index the digest is the index's own.
    both = images.push([Image([layer({"x": "1"})], architecture="s390x"), new], name)
    assert confirm(workshop, name) is None
    workshop.pull(name)
    found = confirm(workshop, name)
    assert found is not None and found.digests[0] == both


@pytest.mark.parametrize("part", ["layer", "meta", "split", "manifest", "config", "map"])
def test_what_is_not_whole_is_pulled(workshop: Workshop, proxy: FaultyProxy, part: str) -> None:
    name = f"{proxy.host}/current:1"
    image = workshop.pull(name)
    assert confirm(workshop, name) is not None
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
    proxy.requests.clear()
    assert confirm(workshop, name, **options) is None
    assert proxy.requests == []
    if part == "layer":
        os.rename(f"{place}.away", place)
    workshop.pull(name)
    assert confirm(workshop, name) is not None


MOVED = '[[registry]]\nprefix = "{host}"\nlocation = "{host}"\n'
CONFIGURED = {
    "the user's registries.conf": (".config/containers/registries.conf", MOVED),
    "a table inline": (".config/containers/registries.conf.d/x.conf", "registry = [{{}}]\n"),
    "a key in quotes": (".config/containers/registries.conf.d/x.conf", '[["registry"]]\n'),
    "after aliases": (
        ".config/containers/registries.conf.d/x.conf", '[aliases]\n"a" = "b.c/d"\n' + MOVED
    ),
    "in a text of many lines": (
        ".config/containers/registries.conf.d/x.conf", '[aliases]\n"a" = """\n"b" = "c"\n"""\n'
    ),
    "certs.d": (".config/containers/certs.d/{host}/ca.crt", ""),
}  # fmt: skip


@pytest.mark.parametrize("what", CONFIGURED)
def test_who_has_configured_something_gets_the_real_client(
    workshop: Workshop, proxy: FaultyProxy, home: Path, what: str
) -> None:
    name = f"{proxy.host}/current:1"
    workshop.pull(name)
    path, text = (one.format(host=proxy.host) for one in CONFIGURED[what])
    (home / path).parent.mkdir(parents=True)
    (home / path).write_text(text)
    proxy.requests.clear()
    assert confirm(workshop, name) is None
    assert proxy.requests == []


def test_aliases_as_distributions_ship_them_change_nothing(
    workshop: Workshop, proxy: FaultyProxy, home: Path
) -> None:
    name = f"{proxy.host}/current:1"
    workshop.pull(name)
    path = home / ".config/containers/registries.conf"
    path.parent.mkdir(parents=True)
    path.write_text(
        "# [[registry]]\nunqualified-search-registries = ['a.example', \"docker.io\"]\n"
        'short-name-mode = "enforcing"\n\n[aliases]\n  # x\n  "current" = "b.example/c"\n'
    )
    assert confirm(workshop, name) is not None
    assert confirm(workshop, "current:1") is None


@pytest.mark.parametrize("name", ["https_proxy", "HTTP_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_the_environment_is_left_to_the_real_client(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert not revalidate.is_configured("registry.example")
    monkeypatch.setenv(name, "/x")
    assert revalidate.is_configured("registry.example")
    assert not revalidate.is_configured("127.0.0.1:5000")
    monkeypatch.setenv("RLESS_INSECURE_REGISTRIES", "127.0.0.1:5000")
    assert revalidate.is_configured("127.0.0.1:5000")


def test_a_registry_that_wants_a_login_is_not_asked_in_vain(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    with images.registry(users={"me": "secret"}) as host, FaultyProxy(host) as proxy:
        images.push(IMAGE, f"{host}/private:1", login=("me", "secret"))
        auth = base64.b64encode(b"me:secret").decode()
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {proxy.host: {"auth": auth}}}))
        name = f"{proxy.host}/private:1"
        assert workshop.pull(name).origin == ""
        proxy.requests.clear()
        assert confirm(workshop, name) is None
        assert proxy.requests == []


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
    "no end": (f"HTTP/1.1 200 OK\r\n{GOOD}\r\n", False),
    "endless": (f"HTTP/1.1 200 OK\r\n{GOOD}\r\n" + "x: y\r\n" * 4000 + "\r\n", False),
    "nothing": ("", False),
    "not HTTP": (f"SSH-2.0-x\r\n{GOOD}\r\n\r\n", False),
    "HTTP/2": (f"HTTP/2 200 OK\r\n{GOOD}\r\n\r\n", False),
    "in the body": (f"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{GOOD}\r\n\r\n", False),
}


class Raw:
    """A server that sends bytes as they are, perhaps slowly, whatever it is asked."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.answer = b""
        self.pause = 0.0
        self.taken = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            self.taken += 1
            with line, contextlib.suppress(OSError):
                line.recv(65536)
                step = 1 if self.pause else len(self.answer) or 1
                for at in range(0, len(self.answer), step):
                    line.sendall(self.answer[at : at + step])
                    time.sleep(self.pause)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


@pytest.fixture
def raw() -> Iterator[Raw]:
    made = Raw()
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
def test_only_a_clean_yes_counts(
    workshop: Workshop, proxy: FaultyProxy, raw: Raw, kind: str
) -> None:
    name = as_if_from(workshop, proxy, raw.host)
    text, counts = ANSWERS[kind]
    raw.answer = text.encode()
    assert (confirm(workshop, name) is not None) is counts
    assert raw.taken == 1


def test_a_slow_drip_ends_at_the_deadline(
    workshop: Workshop, proxy: FaultyProxy, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = as_if_from(workshop, proxy, raw.host)
    monkeypatch.setattr(limits, "CURRENT_SECONDS", 0.5)
    raw.answer = ANSWERS["good"][0].encode()
    raw.pause = 0.05
    begin = time.monotonic()
    assert confirm(workshop, name) is None
    assert time.monotonic() - begin < 2
    raw.pause = 0.0
    raw.answer = b""
    assert confirm(workshop, name) is None


def test_nobody_listens(workshop: Workshop, proxy: FaultyProxy) -> None:
    name = as_if_from(workshop, proxy, f"127.0.0.1:{images.free_port()}")
    assert confirm(workshop, name) is None


# -- TLS -----------------------------------------------------------------------------------------


@pytest.mark.needs("openssl")
def test_tls_is_verified(
    workshop: Workshop, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    trusted: dict[str, list[str]] = {}
    for kind, one in (("good", authority), ("bad", other)):
        (tmp_path / kind).mkdir()
        shutil.copy(one.certificate, tmp_path / kind / "ca.pem")
        subprocess.run(["openssl", "rehash", str(tmp_path / kind)], check=True, capture_output=True)
        trusted[f"{kind} directory"] = ["", "/none", "", str(tmp_path / kind)]
    with images.registry() as plain, images.registry(tls=authority.tls()) as host:
        images.push(IMAGE, f"{plain}/current:1")
        with FaultyProxy(plain) as proxy:
            name = as_if_from(workshop, proxy, host)
        record = Path(name_path(workshop.root, parse(name)))
        record.write_text(record.read_text().replace("http://", "https://"))
        layout = images.write_oci_layout(IMAGE, home / "layout")
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false",
             f"oci:{layout}:latest", f"docker://{host}/current:1"],
            check=True,
        )  # fmt: skip
        for kind, trust in trusted.items():
            monkeypatch.setattr(_ssl, "get_default_verify_paths", lambda given=trust: given)
            assert (confirm(workshop, name) is not None) is (kind == "good directory"), kind
        # A good certificate, but for another name.
        monkeypatch.setattr(_ssl, "get_default_verify_paths", lambda: trusted["good directory"])
        elsewhere = f"localhost:{host.rpartition(':')[2]}"
        moved = Path(name_path(workshop.root, parse(f"{elsewhere}/current:1")))
        moved.write_text(record.read_text().replace(host, elsewhere))
        assert confirm(workshop, f"{elsewhere}/current:1") is None


def test_the_verb_uses_it(own_rless: Product, registry_host: str) -> None:
    name = f"{registry_host}/current/verb:1"
    images.push(IMAGE, name)
    with FaultyProxy(registry_host) as proxy:
        name = f"{proxy.host}/current/verb:1"
        own_rless("pull", "-q", name).expect()
        proxy.requests.clear()
        again = own_rless("pull", name).expect()
        assert again.out == (
            f"Pulling {name}\nDigest: {IMAGE.digest}\n"
            f"Status: Image is up to date for {name}\n{name}\n"
        )
        assert proxy.requests == ["HEAD /v2/current/verb/manifests/1"]


def test_the_question_loads_next_to_nothing(
    workshop: Workshop, proxy: FaultyProxy, home: Path
) -> None:
    """The time of a repeated pull is that of what it loads: counted, because times flake."""
    name = f"{proxy.host}/current:1"
    workshop.pull(name)
    code = (
        "import sys\nfrom rootless.cli import main\n"
        f"assert main.main(['pull', '-q', {name!r}]) == 0\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{code}"],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "RLESS_STORAGE": workshop.root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    slow = {"typing", "json", "re", "socket", "ssl", "threading", "urllib3", "urllib.parse",
            "http.client", "subprocess", "tomllib", "contextlib", "hashlib", "enum"}  # fmt: skip
    assert loaded & slow == set() and "rootless.image.transfer.pull" not in loaded
