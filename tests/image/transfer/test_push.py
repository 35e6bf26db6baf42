"""Pushes to the real docker-registry, read back by other tools."""

from __future__ import annotations

import http.server
import json
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.model.digest import sha256
from rootless.image.model.packing import Packing
from rootless.image.model.reference import parse
from rootless.image.registry import http as client
from rootless.image.registry.progress import Progress
from rootless.image.store import build_cache, records
from rootless.image.store.ownership import delete_any
from rootless.image.store.staging import Staging
from rootless.image.store.store import Image as StoredImage
from rootless.image.transfer import push as pusher
from rootless.image.transfer.push import push
from tests.lib import images
from tests.lib.image_store import Workshop
from tests.lib.images import DOCKER_MANIFEST, OCI_MANIFEST, Image, layer
from tests.lib.product import Product, own_rless, shared_product
from tests.lib.registry_servers import (
    Authority,
    Fault,
    FaultyProxy,
    manifest,
    tags,
    token_server,
)

__all__ = ["own_rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "docker-registry")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of this machine; no waiting."""
    (tmp_path / "registries.conf").write_text("")
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(client, "_pause", lambda attempt: 0.01)


@pytest.fixture
def proxy(registry_host: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(registry_host) as made:
        yield made


def send(
    workshop: Workshop, image: StoredImage, name: str, **options: Any
) -> tuple[str, list[str]]:
    """Push; return the manifest's digest and the lines of the progress."""
    if "compression" in options:
        options["packing"] = Packing(options.pop("compression"))
    reader, writer = os.pipe()
    try:
        with Staging(workshop.root) as staging:
            made = push(
                image, parse(name), workshop.store, staging.path, Progress(writer), **options
            )
    finally:
        os.close(writer)
        with open(reader) as file:
            lines = file.read().splitlines()
    assert os.listdir(f"{workshop.root}/tmp") == []
    return made["digest"], lines


def big_image(size: int = 9_000_000, **options: Any) -> Image:
    return Image([layer({"base": "x"}), layer({"big": os.urandom(size)})], **options)


def rless_layers(workshop: Workshop, image: StoredImage) -> list[str]:
    data = records.get_blob(workshop.root, image.id)
    assert data is not None
    return list(json.loads(data)["rootfs"]["diff_ids"])


# -- from the store to a registry and back -----------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_image_of_an_archive_is_pushed(
    workshop: Workshop, registry_host: str, compression: str, tmp_path: Path
) -> None:
    """It came without a manifest and is compressed anew; the config is the same to the byte."""
    made = images.busybox_image([layer({"a/b": images.File("x", uid=7, mode=0)})])
    path = images.write_docker_archive(made, tmp_path / "archive.tar")
    image = workshop.pull(f"docker-archive:{path}")
    tag = compression or "none"
    name = f"{registry_host}/archive:{tag}"
    digest, lines = send(workshop, image, name, compression=compression)
    data, kind = manifest(registry_host, "archive", tag)
    assert sha256(data) == digest and kind == OCI_MANIFEST
    document = json.loads(data)
    assert document["config"]["digest"] == made.id == image.id
    plain = "application/vnd.oci.image.layer.v1.tar"
    kinds = [one["mediaType"] for one in document["layers"]]
    assert kinds == [f"{plain}+{compression}" if compression else plain] * 2
    if not compression:
        tars = json.loads(made.config_data)["rootfs"]["diff_ids"]
        assert [one["digest"] for one in document["layers"]] == tars
    assert sum(line.endswith(": Pushed") for line in lines) == 2
    again = Workshop(tmp_path / "again")
    assert again.pull(name).id == image.id
    assert rless_layers(workshop, image) == rless_layers(again, again.pull(name))
    # The second time there is nothing to send, or to compress: it is known what came of it.
    known, lines = send(workshop, image, name, compression=compression)
    assert known == digest
    assert not any(line.endswith(": Compressing") for line in lines)
    assert sum(line.endswith(": Layer already exists") for line in lines) == 2
    # Where that is not known, the same tar gives the same blob.
    build_cache.forget_content(workshop.root, None)
    again_made, lines = send(workshop, image, name, compression=compression)
    assert again_made == digest
    assert sum(line.endswith(": Compressing") for line in lines) == 2


def test_blob_that_a_registry_has_lost_is_made_again(
    workshop: Workshop, registry_host: str, tmp_path: Path
) -> None:
    """What is remembered is a hint: another registry, a record that was cut short."""
    path = images.write_docker_archive(big_image(1000), tmp_path / "archive.tar")
    image = workshop.pull(f"docker-archive:{path}")
    digest, _ = send(workshop, image, f"{registry_host}/hint:1")
    assert send(workshop, image, f"{registry_host}/hint:zstd", compression="zstd")[0] != digest
    with images.registry() as other:
        assert send(workshop, image, f"{other}/hint:1")[0] == digest
    for hint in Path(f"{workshop.root}/build/content").glob("packed-*"):
        hint.write_text(hint.read_text()[:-3])
    _, lines = send(workshop, image, f"{registry_host}/hint:2")
    assert sum(line.endswith(": Compressing") for line in lines) == 2


def test_push_to_the_source_uploads_nothing(
    workshop: Workshop, registry_host: str, proxy: FaultyProxy
) -> None:
    """Nothing is uploaded, and the manifest is the same."""
    for number, media in enumerate((OCI_MANIFEST, DOCKER_MANIFEST)):
        made = Image([layer({"f": "x"}), layer({"g": f"y{number}"})])
        made.manifest["mediaType"] = media
        images.push(made, f"{registry_host}/back:{number}")
        image = workshop.pull(f"{proxy.host}/back:{number}")
        proxy.requests.clear()
        digest, lines = send(workshop, image, f"{proxy.host}/back:again-{number}")
        assert digest == image.digest == made.digest
        assert manifest(registry_host, "back", f"again-{number}") == (made.manifest_data, media)
        assert proxy.count("POST") == proxy.count("PATCH") == 0
        assert [line for line in proxy.requests if line.startswith("PUT")] == [
            f"PUT /v2/back/manifests/again-{number}"
        ]
        assert sum("Layer already exists" in line for line in lines) == 2


def test_push_to_another_repository_mounts_layers(
    workshop: Workshop, registry_host: str, proxy: FaultyProxy
) -> None:
    made = Image([layer({"f": os.urandom(1000)}), layer({"g": "y"})])
    images.push(made, f"{registry_host}/team/from:1")
    image = workshop.pull(f"{proxy.host}/team/from:1")
    proxy.requests.clear()
    digest, lines = send(workshop, image, f"{proxy.host}/other/to:1")
    assert digest == made.digest
    assert sum("Mounted from team/from" in line for line in lines) == 2
    assert proxy.count("POST", "mount=") == 2
    assert proxy.count("PATCH") == 0 and proxy.count("PUT", "/blobs/") == 1  # the config


def test_push_to_another_registry_recompresses_layers(
    workshop: Workshop, registry_host: str
) -> None:
    """The layers are made anew; a manifest of Docker stays one of Docker."""
    made = Image([layer({"f": os.urandom(100_000)}), layer({"f": "y"})])
    made.manifest["mediaType"] = DOCKER_MANIFEST
    made.manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"  # type: ignore[index]
    for one in made.manifest["layers"]:  # type: ignore[attr-defined]
        one["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    images.push(made, f"{registry_host}/move:1")
    image = workshop.pull(f"{registry_host}/move:1")
    with images.registry() as other:
        digest, _ = send(workshop, image, f"{other}/moved:2")
        data, kind = manifest(other, "moved", "2")
        assert kind == DOCKER_MANIFEST and sha256(data) == digest
        assert workshop.pull(f"{other}/moved:2").id == made.id
        # zstd is none of Docker's types: the manifest becomes one of OCI throughout.
        send(workshop, image, f"{other}/moved:zstd", compression="zstd")
        data, kind = manifest(other, "moved", "zstd")
        assert kind == OCI_MANIFEST and b"docker" not in data
        assert workshop.pull(f"{other}/moved:zstd").id == made.id


def test_repeated_layer_is_sent_once(
    workshop: Workshop, proxy: FaultyProxy, tmp_path: Path
) -> None:
    same = layer({"f": os.urandom(5000)})
    path = images.write_docker_archive(Image([same, layer({"g": "x"}), same]), tmp_path / "a.tar")
    image = workshop.pull(f"docker-archive:{path}")
    send(workshop, image, f"{proxy.host}/twice:1")
    assert proxy.count("PUT", "/blobs/") == 3  # two layers and the config
    assert workshop.pull(f"{proxy.host}/twice:1").id == image.id


def test_wrong_destinations_are_refused(workshop: Workshop, registry_host: str) -> None:
    image = workshop.unpack([layer({"f": "x"})])
    for name in ("oci:/x", "host:", f"{registry_host}/x@sha256:{'0' * 64}"):
        with pytest.raises(RlessError, match="cannot push to"):
            send(workshop, image, name)


def test_changed_store_pushes_nothing(
    workshop: Workshop, registry_host: str, tmp_path: Path
) -> None:
    path = images.write_docker_archive(Image([layer({"f": "right"})]), tmp_path / "a.tar")
    image = workshop.pull(f"docker-archive:{path}")
    (key,) = image.keys
    directory = (image.layer_dirs(key) or [""])[0]
    Path(directory, "f").write_text("wrong")
    with pytest.raises(RlessError, match="was changed"):
        send(workshop, image, f"{registry_host}/changed:1")
    assert tags(registry_host, "changed") == []


# -- a faulty line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PATCH", "/uploads/", cut_upload=5_000_000),
        Fault("PATCH", "/uploads/", cut_upload=0),
        Fault("PATCH", "/uploads/", lose=True),
        Fault("PATCH", "/uploads/", status=500),
        Fault("PATCH", "/uploads/", status=404),
        Fault("PUT", "/uploads/", lose=True),
        Fault("PUT", "/uploads/", status=503, headers={"Retry-After": "1"}),
        Fault("PUT", "/uploads/", cut_upload=100),
        Fault("POST", "/uploads/", status=429, headers={"Retry-After": "0"}),
        Fault("POST", "/uploads/", lose=True),
        Fault("HEAD", "/blobs/", status=502),
        Fault("HEAD", "/blobs/", slow=0.5),
        Fault("PUT", "/manifests/", status=429, headers={"Retry-After": "1"}),
        Fault("PUT", "/manifests/", lose=True),
    ],
    ids=lambda fault: f"{fault.method}-{fault.status or fault.cut_upload}-{fault.lose}",
)
def test_single_fault_is_overcome(workshop: Workshop, proxy: FaultyProxy, fault: Fault) -> None:
    made = big_image()
    image = workshop.unpack(made)
    proxy.faults.append(Fault(**vars(fault)))
    name = f"{proxy.host}/faults:{abs(hash(str(fault)))}"
    send(workshop, image, name)
    assert proxy.faults == []
    assert workshop.pull(name).id == made.id


@pytest.mark.parametrize("seed", range(12))
def test_random_faults_leave_both_sides_consistent(
    workshop: Workshop, proxy: FaultyProxy, registry_host: str, seed: int, tmp_path: Path
) -> None:
    """Whatever breaks on the way, both sides end with the same image, or the tag is not there."""
    chance = random.Random(seed)
    made = Image([layer({f"f{number}": chance.randbytes(300_000)}) for number in range(3)])

    def fault() -> Fault:
        how: dict[str, Any] = chance.choice(
            [
                {"status": chance.choice([429, 500, 502, 503, 504])},
                {"cut": chance.randrange(200_000)},
                {"cut_upload": chance.randrange(300_000)},
                {"lose": True},
                {"slow": 0.05},
            ]
        )
        return Fault(chance.choice(["", "GET", "HEAD", "POST", "PUT", "PATCH"]), "/x", **how)

    image = workshop.unpack(made)
    name = f"{proxy.host}/x/seed{seed}:1"
    proxy.faults = [fault() for _ in range(chance.randrange(1, 5))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "UPLOAD_WHOLE", 100_000)  # so that PATCH breaks too
        digest, _ = send(workshop, image, name)
    data, _ = manifest(registry_host, f"x/seed{seed}", "1")
    assert sha256(data) == digest
    proxy.faults = [fault() for _ in range(chance.randrange(1, 5))]
    other = Workshop(tmp_path / "other")
    found = other.pull(name)
    assert found.id == made.id and os.listdir(f"{other.root}/tmp") == []
    delete_any(str(tmp_path), "other")


def test_broken_connection_is_given_up(
    workshop: Workshop, proxy: FaultyProxy, registry_host: str
) -> None:
    image = workshop.unpack(big_image())
    proxy.faults = [Fault("PATCH", "", cut_upload=0) for _ in range(20)]
    with pytest.raises(RlessError, match="blobs/uploads") as caught:
        send(workshop, image, f"{proxy.host}/given-up:1")
    assert str(caught.value).isprintable()
    assert proxy.count("PATCH") == limits.ATTEMPTS
    assert tags(registry_host, "given-up") == []


def test_long_retry_after_is_not_waited_for(workshop: Workshop, proxy: FaultyProxy) -> None:
    image = workshop.unpack(big_image())
    proxy.faults = [Fault("PATCH", "", status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(RlessError, match="status 429"):
        send(workshop, image, f"{proxy.host}/hour:1")


def test_redirected_upload_sends_no_password(
    workshop: Workshop, proxy: FaultyProxy, registry_host: str, tmp_path: Path
) -> None:
    log_in(tmp_path / "auth.json", proxy.host, b"me:secret")
    image = workshop.unpack(big_image())
    with FaultyProxy(registry_host) as other:
        path = "/v2/redirected/blobs/uploads/"
        ask = {"WWW-Authenticate": 'Basic realm="x"'}
        proxy.faults = [Fault("HEAD", "/blobs/", status=401, headers=ask)]
        send(workshop, image, f"{proxy.host}/redirected:1")
        assert any("Authorization" in headers for headers in proxy.headers)
        fresh = workshop.unpack(big_image())
        target = {"Location": f"http://{other.host}{path}nowhere"}
        proxy.faults = [Fault("PATCH", "", status=307, headers=target)]
        send(workshop, fresh, f"{proxy.host}/redirected:2")
        assert other.requests == [f"PATCH {path}nowhere"]
        assert "Authorization" not in other.headers[0]


@pytest.mark.parametrize(
    "place",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://192.0.2.1/x", "http://a:b@127.0.0.1/x",
     "http://127.0.0.1:99999/x", "http://[::1/x", "gopher:x", "http:///x", "http://127.0.0.1@192.0.2.1/"],
)  # fmt: skip
def test_dangerous_upload_locations_are_refused(
    workshop: Workshop, proxy: FaultyProxy, tmp_path: Path, place: str
) -> None:
    log_in(tmp_path / "auth.json", proxy.host, b"me:secret")
    image = workshop.unpack(big_image(1000))
    proxy.faults = [Fault("POST", "", status=202, headers={"Location": place})] * 9
    with pytest.raises(RlessError) as caught:
        send(workshop, image, f"{proxy.host}/elsewhere:1")
    assert str(caught.value).isprintable()
    assert "secret" not in str(caught.value)


def test_upload_to_another_host_gets_no_password(
    workshop: Workshop, proxy: FaultyProxy, registry_host: str, tmp_path: Path
) -> None:
    """By the Location of the upload, not by a redirect."""
    log_in(tmp_path / "auth.json", proxy.host, b"me:secret")
    ask = {"WWW-Authenticate": 'Basic realm="x"'}
    image = workshop.unpack(big_image())
    with FaultyProxy(registry_host) as other:
        place = {"Location": f"//{other.host}/v2/stolen/blobs/uploads/nowhere"}
        proxy.faults = [Fault("HEAD", "/blobs/", status=401, headers=ask)]
        proxy.faults += [Fault("POST", "", status=202, headers=place)] * 9
        with pytest.raises(RlessError):
            send(workshop, image, f"{proxy.host}/stolen:1")
        assert other.requests
        assert not [headers for headers in other.headers if "Authorization" in headers]
    assert any("Authorization" in headers for headers in proxy.headers)


def test_single_failure_stops_the_other_layers(workshop: Workshop, proxy: FaultyProxy) -> None:
    """What would take long is given up at once."""
    image = workshop.unpack(Image([layer({f"f{number}": os.urandom(5000)}) for number in range(4)]))
    proxy.faults = [Fault("PUT", "", status=403)]
    with pytest.raises(RlessError, match="access denied"):
        send(workshop, image, f"{proxy.host}/stopped:1")
    assert os.listdir(f"{workshop.root}/tmp") == []


def test_full_store_is_reported_during_compression(
    workshop: Workshop, registry_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = workshop.unpack(big_image())
    monkeypatch.setattr(pusher, "open_tmpfile", lambda _: os.open("/dev/full", os.O_RDWR))
    with pytest.raises(RlessError, match=r"layer \w{12} cannot be stored: No space left") as caught:
        send(workshop, image, f"{registry_host}/full:1", compression="zstd")
    assert "RLESS_STORAGE" in (caught.value.hint or "")


@pytest.mark.parametrize("most", [1, 3])
def test_concurrent_uploads_are_limited(
    workshop: Workshop, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """`max-concurrent-uploads` of the configuration."""
    monkeypatch.setattr(limits, "CONCURRENT_UPLOADS", most)
    at_once: list[str] = []
    seen: list[int] = []
    real = pusher._Push._send

    def watched(self: Any, one: Any, stream: Any) -> None:
        at_once.append(one.short)
        time.sleep(0.05)
        seen.append(len(at_once))
        real(self, one, stream)
        at_once.remove(one.short)

    monkeypatch.setattr(pusher._Push, "_send", watched)
    image = workshop.unpack(Image([layer({f"f{number}": os.urandom(50)}) for number in range(7)]))
    send(workshop, image, f"{proxy.host}/at-once:{most}", compression="zstd")
    assert len(seen) == 7 and max(seen) == most


def test_interrupted_push_leaves_nothing(own_rless: Product, proxy: FaultyProxy) -> None:
    path = images.write_oci_archive(big_image(30_000_000), own_rless.base / "big.tar")
    own_rless("pull", "-q", f"oci-archive:{path}").expect()
    proxy.faults = [Fault("PATCH", "", slow=3.0)]
    process = own_rless.start("push", f"oci-archive:{path}", f"{proxy.host}/ended:1")
    deadline = time.monotonic() + 30
    while not proxy.count("PATCH"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err == b"", (out, err)
    assert os.listdir(own_rless.storage / "tmp") == []


class Resuming:
    """A registry that keeps what has arrived when the line is cut, as the specification wants.

    Attributes:
        patches: the Content-Range of each PATCH. data: what has arrived.
    """

    def __init__(self, cuts: list[int]) -> None:
        self.patches: list[str | None] = []
        self.data = b""
        self.blobs: dict[str, bytes] = {}
        self.manifest = b""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # the library's name
                length = int(self.headers.get("Content-Length") or 0)
                path = self.path.partition("?")[0]
                if self.command == "PATCH":
                    outer.patches.append(self.headers.get("Content-Range"))
                    most = cuts.pop(0) if cuts else length
                    outer.data += self.rfile.read(min(length, most))
                    if most < length:
                        self.close_connection = True
                        return
                    self._answer(202, Range=f"0-{len(outer.data) - 1}", Location="session")
                elif self.command == "GET" and path.endswith("/session"):
                    self._answer(204, Range=f"0-{len(outer.data) - 1}", Location="session")
                elif self.command == "POST":
                    outer.data = b""
                    self._answer(202, Location="/v2/x/blobs/uploads/session")
                elif self.command == "PUT" and "/manifests/" in path:
                    outer.manifest = self.rfile.read(length)
                    self._answer(201)
                elif self.command == "PUT":
                    data = outer.data + self.rfile.read(length)
                    outer.blobs[sha256(data)] = data
                    fits = f"digest={sha256(data)}".replace(":", "%3A") in self.path
                    self._answer(201 if fits else 400)
                elif path == "/v2/":
                    self._answer(200)
                else:
                    self._answer(200 if path.rpartition("/")[2] in outer.blobs else 404)

            do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

            def _answer(self, status: int, **headers: str) -> None:
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", "0")
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


def test_interrupted_upload_is_resumed(workshop: Workshop) -> None:
    cuts = [3_000_000, 2_500_000]
    registry = Resuming(list(cuts))
    try:
        image = workshop.unpack(Image([layer({"big": os.urandom(9_000_000)})]))
        send(workshop, image, f"{registry.host}/x:1")
    finally:
        registry.server.shutdown()
        registry.server.server_close()
    (descriptor,) = json.loads(registry.manifest)["layers"]
    last = descriptor["size"] - 1
    assert registry.patches == [None, f"3000000-{last}", f"5500000-{last}"]
    assert sha256(registry.blobs[descriptor["digest"]]) == descriptor["digest"]
    assert image.id in registry.blobs


# -- who may -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def log_in(path: Path, host: str, pair: bytes) -> None:
    import base64

    auths = {host: {"auth": base64.b64encode(pair).decode()}}
    path.write_text(json.dumps({"auths": auths}))
    path.chmod(0o600)


@pytest.mark.needs("openssl")
def test_push_works_with_a_token_server(
    workshop: Workshop, authority: Authority, tmp_path: Path
) -> None:
    image = workshop.unpack(Image([layer({"f": os.urandom(1000)})]))
    with (
        token_server(authority, {"me": "secret"}) as (asked, section),
        images.registry(token=section) as host,
    ):
        with pytest.raises(RlessError, match="access denied"):
            send(workshop, image, f"{host}/public/x:1")
        log_in(tmp_path / "auth.json", host, b"me:mistaken")
        with pytest.raises(RlessError, match="access denied") as caught:
            send(workshop, image, f"{host}/public/x:1")
        assert "mistaken" not in str(caught.value)
        log_in(tmp_path / "auth.json", host, b"me:secret")
        asked.clear()
        send(workshop, image, f"{host}/public/x:1")
        assert len(asked) == 1 and "repository%3Apublic%2Fx%3Apull%2Cpush" in asked[0]
        send(workshop, image, f"{host}/public/x:2")
        assert len(asked) == 1  # the token is kept for the process
        # Mounting needs the right to read the other repository.
        pulled = workshop.pull(f"{host}/public/x:1")
        _, lines = send(workshop, pulled, f"{host}/team/y:1")
        assert any("Mounted from public/x" in line for line in lines)
        assert "scope=repository%3Apublic%2Fx%3Apull" in asked[-1]
        # Without the password: what is public can be pulled, the rest cannot.
        (tmp_path / "auth.json").unlink()
        from rootless.image.registry import endpoint

        endpoint._TOKENS.clear()
        other = Workshop(tmp_path / "other")
        assert other.pull(f"{host}/public/x:1").id == image.id
        with pytest.raises(RlessError, match="access denied"):
            other.pull(f"{host}/team/y:1")


@pytest.mark.needs("openssl")
def test_expired_token_is_renewed(
    workshop: Workshop, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rootless.image.registry import endpoint

    image = workshop.unpack(Image([layer({"f": os.urandom(1000)})]))
    with (
        token_server(authority, {"me": "secret"}) as (asked, section),
        images.registry(token=section) as host,
    ):
        log_in(tmp_path / "auth.json", host, b"me:secret")
        send(workshop, image, f"{host}/x:1")
        # What a registry no longer takes is renewed once, by whoever meets it first.
        for key in endpoint._TOKENS:
            endpoint._TOKENS[key] = ("Bearer stale", endpoint._TOKENS[key][1])
        asked.clear()
        send(workshop, image, f"{host}/x:2")
        assert len(asked) == 1


def test_push_works_with_a_password(workshop: Workshop, tmp_path: Path) -> None:
    image = workshop.unpack(Image([layer({"f": "x"})]))
    with images.registry(users={"me": "secret"}) as host:
        with pytest.raises(RlessError, match="wants a name and password"):
            send(workshop, image, f"{host}/x:1")
        log_in(tmp_path / "auth.json", host, b"me:secret")
        send(workshop, image, f"{host}/x:1")
        assert workshop.pull(f"{host}/x:1").id == image.id


@pytest.mark.needs("openssl")
def test_push_works_with_tls_and_a_password(
    workshop: Workshop, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    image = workshop.unpack(big_image())
    with images.registry(tls=authority.tls(), users={"me": "secret"}) as host:
        log_in(tmp_path / "auth.json", host, b"me:secret")
        with pytest.raises(RlessError, match="certificate verify failed"):
            send(workshop, image, f"{host}/x:1")
        directory = tmp_path / ".config/containers/certs.d" / host
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
        send(workshop, image, f"{host}/x:1")
        assert workshop.pull(f"{host}/x:1").id == image.id


# -- what others read ------------------------------------------------------------------------------


@pytest.fixture
def pushed(workshop: Workshop, registry_host: str, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Push an image that has no manifest of its own; return its name and id."""
    made = images.busybox_image([layer({"srv/x": images.File("x", uid=3, gid=4, mode=0o4755)})])
    path = images.write_docker_archive(made, tmp_path / "made.tar")
    image = workshop.pull(f"docker-archive:{path}")
    for compression in ("gzip", "zstd"):
        send(workshop, image, f"{registry_host}/read:{compression}", compression=compression)
    yield f"{registry_host}/read", made.id


def tool(*words: str) -> str:
    ours = ("REGISTRY_AUTH_FILE", "CONTAINERS_REGISTRIES_CONF")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def storage() -> Iterator[list[str]]:
    """Return the options by which podman and buildah have a storage of their own.

    They take no long path for it.
    """
    base = tempfile.mkdtemp(prefix="rless-p")
    try:
        yield ["--root", f"{base}/root", "--runroot", f"{base}/run", "--storage-driver=vfs"]
    finally:
        subprocess.run(["buildah", "unshare", "rm", "-rf", base], check=False)


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_skopeo_reads_the_pushed_image(
    pushed: tuple[str, str], compression: str, tmp_path: Path
) -> None:
    name, image_id = pushed
    raw = tool("skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{name}:{compression}")
    assert json.loads(raw)["config"]["digest"] == image_id
    copy = ["skopeo", "copy", "--src-tls-verify=false", "--insecure-policy"]
    tool(*copy, f"docker://{name}:{compression}", f"oci:{tmp_path}/layout:x")
    assert (tmp_path / "layout/blobs/sha256" / image_id[7:]).exists()


@pytest.mark.needs("podman", "buildah")
def test_podman_pulls_the_pushed_image(pushed: tuple[str, str], storage: list[str]) -> None:
    name, image_id = pushed
    tool("podman", *storage, "pull", "--tls-verify=false", "-q", f"{name}:gzip")
    form = ["--format", "{{.Id}}"]
    out = tool("podman", *storage, "image", "inspect", *form, f"{name}:gzip")
    assert out.strip() == image_id[7:]


@pytest.mark.needs("buildah")
def test_buildah_starts_from_the_pushed_image(pushed: tuple[str, str], storage: list[str]) -> None:
    name, image_id = pushed
    made = tool("buildah", *storage, "from", "--tls-verify=false", f"{name}:gzip").strip()
    out = tool("buildah", *storage, "inspect", "--format", "{{.FromImageID}}", made)
    assert out.strip() == image_id[7:]


# -- the command ---------------------------------------------------------------------------------


def test_push_command_works(own_rless: Product, registry_host: str) -> None:
    rless = own_rless
    made = images.busybox_image([layer({"f": os.urandom(100)})])
    name = f"{registry_host}/command"
    for tag in ("1", "2"):
        images.push(made, f"{name}:{tag}")
        rless("pull", "-q", f"{name}:{tag}").expect()
    done = rless("push", f"{name}:1").expect()
    assert done.err == ""
    lines = done.lines()
    assert lines[0] == f"The push refers to repository [{name}]"
    assert lines[-1] == f"1: digest: {made.digest} size: {len(made.manifest_data)}"
    assert sum("Layer already exists" in line for line in lines) == 2
    assert rless("push", "-q", f"{name}:1").expect().out == f"{name}:1\n"
    assert rless("image", "push", "-q", f"{name}:1", f"{name}-too:7").expect().out == (
        f"{name}-too:7\n"
    )
    assert tags(registry_host, "command-too") == ["7"]
    done = rless("push", "-a", name).expect()
    assert [line[:10] for line in done.lines() if "digest:" in line] == ["1: digest:", "2: digest:"]
    options = ("--compression-format", "zstd")
    rless("push", "-q", *options, f"{name}:1", f"{name}:zstd").expect()
    assert b"zstd" in manifest(registry_host, "command", "zstd")[0]


@pytest.mark.needs("buildah")
def test_images_from_archives_and_commits_are_pushed(
    own_rless: Product, registry_host: str, storage: list[str], tmp_path: Path
) -> None:
    """One of an archive whose layers are there for a user's map; a commit on it; and both from
    an additional store. Another tool then finds each file with its owner."""
    rless = own_rless
    made = images.busybox_image(
        [layer({"home/user/f": images.File("text", mode=0o600, uid=1000, gid=1000),
                "other": images.File("x", uid=33, gid=44)})], User="user"
    )  # fmt: skip
    images.write_docker_archive(made, tmp_path / "a.tar", "made:1")
    rless("load", "-q", "-i", str(tmp_path / "a.tar")).expect()
    for user in ("user", "33:44"):  # two maps more
        flags = f"--device /dev/null --user {user}"
        assert rless.run(flags, "stat", "-c", "%u:%g", "/other", image="made:1").out == "33:44\n"
    assert len(list((rless.storage / "layers").iterdir())) >= 3
    script = "echo new >~/n; rm ~/f"
    rless("run", "--name=cc", "--network=none", "made:1", "sh", "-c", script).expect()
    rless("commit", "cc", "made:2").expect()
    rless("rm", "cc").expect()

    def check(name: str, image_id: str, files: list[str]) -> None:
        found = tool("buildah", *storage, "from", "--tls-verify=false", name).strip()
        shown = tool("buildah", *storage, "inspect", "--format", "{{.FromImageID}}", found)
        assert f"sha256:{shown.strip()}" == image_id
        script = "stat -c '%n %u:%g %a' /other /home/user/*"
        run = ["buildah", *storage, "run", "--isolation=chroot", found, "sh", "-c", script]
        assert tool(*run).splitlines() == ["/other 33:44 644", *files]
        tool("buildah", *storage, "rm", found)

    ids = [rless("inspect", "-f", "{{.Id}}", f"made:{n}").expect().out.strip() for n in (1, 2)]
    assert ids[0] == made.id
    files = [["/home/user/f 1000:1000 600"], ["/home/user/n 1000:1000 644"]]
    for number, compression in ((1, "gzip"), (2, "zstd")):
        name = f"{registry_host}/ours:{number}"
        rless("push", "-q", "--compression", compression, f"made:{number}", name).expect()
        check(name, ids[number - 1], files[number - 1])
    rless.storage.chmod(0o755)
    other = {"RLESS_STORAGE": str(rless.base / "other"),
             "RLESS_ADDITIONAL_STORES": str(rless.storage)}  # fmt: skip
    for number in (1, 2):
        name = f"{registry_host}/shared:{number}"
        rless("push", "-q", "--compression", "zstd", f"made:{number}", name, env=other).expect()
        check(name, ids[number - 1], files[number - 1])
    rless.storage.chmod(0o700)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("nothing:1",), "An image does not exist locally with the tag: nothing:1"),
        (("-a", "nothing"), "An image does not exist locally with the tag: nothing"),
        (("-a", "nothing:1"), "tag can't be used with --all-tags/-a"),
        (("--compression", "xz", "x"), "--compression"),
        (("--creds", "a:b", "x"), "--creds"),
        (("a", "b", "c"), "takes at most"),
    ],
)
def test_wrong_pushes_are_refused(own_rless: Product, words: tuple[str, ...], why: str) -> None:
    done = own_rless("push", *words)
    assert done.code == (125 if "--" in words[0] or len(words) > 2 else 1)
    assert why in done.one_line_error()
