"""Mirrors, short names, relocated and blocked registries, TLS and proxies."""

from __future__ import annotations

import os
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.model import limits, registries_conf
from rootless.image.model.reference import parse
from rootless.image.registry import client as registry
from rootless.image.registry import http as client
from rootless.image.registry.progress import Progress
from tests.lib import images
from tests.lib.image_store import Workshop
from tests.lib.images import Image, layer
from tests.lib.registry_servers import Authority, Fault, FaultyProxy

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "docker-registry")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    for name in ("XDG_CONFIG_HOME", "RLESS_INSECURE_REGISTRIES", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(client, "_pause", lambda attempt: 0.01)
    (tmp_path / "registries.conf").write_text("")
    return tmp_path


def configure(home: Path, text: str) -> None:
    (home / "registries.conf").write_text(text)


def mirrored(own: str, *mirrors: str, more: str = "") -> str:
    text = f'[[registry]]\nprefix = "{own}"\nlocation = "{own}"\n{more}\n'
    return text + "".join(f'[[registry.mirror]]\nlocation = "{one}"\n' for one in mirrors)


def dead() -> str:
    return f"127.0.0.1:{images.free_port()}"


def make(size: int = 1000) -> Image:
    return Image([layer({"f": os.urandom(size)})])


@pytest.fixture
def own(registry_host: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(registry_host) as made:
        yield made


@pytest.fixture(scope="module")
def mirror_host() -> Iterator[str]:
    with images.registry() as host:
        yield host


@pytest.fixture
def mirror(mirror_host: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(mirror_host) as made:
        yield made


# -- mirrors -----------------------------------------------------------------------------------


def test_mirror_is_asked_instead_of_the_registry(
    workshop: Workshop, home: Path, own: FaultyProxy, mirror: FaultyProxy, mirror_host: str
) -> None:
    image = make()
    images.push(image, f"{mirror_host}/cache/team/x:1")
    configure(home, mirrored(own.host, dead(), f"{mirror.host}/cache"))
    found = workshop.pull(f"{own.host}/team/x:1")
    assert (found.id, found.name) == (image.id, f"{own.host}/team/x:1")
    assert own.requests == [] and mirror.count("GET", "/v2/cache/team/x/") == 3


def test_image_missing_on_mirrors_comes_from_the_registry(
    workshop: Workshop, home: Path, own: FaultyProxy, mirror: FaultyProxy, registry_host: str
) -> None:
    image = make()
    images.push(image, f"{registry_host}/fall/back:1")
    configure(home, mirrored(own.host, dead(), mirror.host))
    assert workshop.pull(f"{own.host}/fall/back:1").id == image.id
    assert mirror.count("GET", "/manifests/") == 1


def test_image_missing_everywhere_is_reported_by_the_registry(
    workshop: Workshop, home: Path, own: FaultyProxy, mirror: FaultyProxy
) -> None:
    configure(home, mirrored(own.host, mirror.host))
    with pytest.raises(RlessError, match=rf"{own.host} has no such image"):
        workshop.pull(f"{own.host}/nothing:1")


def test_interrupted_mirror_download_continues_at_the_registry(
    workshop: Workshop,
    home: Path,
    own: FaultyProxy,
    mirror: FaultyProxy,
    registry_host: str,
    mirror_host: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The registry gives the rest only: what the mirror sent was verified as far as it went."""
    monkeypatch.setattr(limits, "ATTEMPTS", 2)
    image = make(200_000)
    for host in (registry_host, mirror_host):
        images.push(image, f"{host}/broken:1")
    configure(home, mirrored(own.host, mirror.host))
    path = f"/blobs/{images.digest(image.blobs[0])}"
    mirror.faults = [Fault("GET", path, cut=50_000), Fault("GET", path, cut=0)]
    assert workshop.pull(f"{own.host}/broken:1").id == image.id
    ranges = [
        headers.get("Range")
        for line, headers in zip(own.requests, own.headers, strict=True)
        if path in line
    ]
    assert ranges == ["bytes=50000-"]


def test_22_wrong_bytes_of_a_mirror_are_detected(
    workshop: Workshop, home: Path, own: FaultyProxy, mirror: FaultyProxy, registry_host: str,
    mirror_host: str,
) -> None:  # fmt: skip
    right, wrong = make(), make()
    images.push(right, f"{registry_host}/lie:1")
    images.push(wrong, f"{mirror_host}/lie:1")
    configure(home, mirrored(own.host, mirror.host))
    # By digest a mirror cannot give anything else.
    assert workshop.pull(f"{own.host}/lie@{right.digest}").id == right.id
    # By tag it is believed, unless the file says otherwise.
    assert workshop.pull(f"{own.host}/lie:1").id == wrong.id
    configure(home, mirrored(own.host, mirror.host, more="mirror-by-digest-only = true"))
    mirror.requests.clear()
    assert workshop.pull(f"{own.host}/lie:1").id == right.id
    assert mirror.requests == []


def test_21_mirror_gets_only_its_own_credentials(
    workshop: Workshop, home: Path, own: FaultyProxy, mirror: FaultyProxy, registry_host: str
) -> None:
    image = make()
    images.push(image, f"{registry_host}/secret:1")
    auth = '{"auths":{"%s":{"username":"me","password":"secret"}}}'
    (home / "auth.json").write_text(auth % own.host)
    configure(home, mirrored(own.host, mirror.host))
    ask = {"WWW-Authenticate": 'Basic realm="x"'}
    mirror.faults = [Fault("GET", "/manifests/", status=401, headers=ask) for _ in range(3)]
    assert workshop.pull(f"{own.host}/secret:1").id == image.id
    assert not [headers for headers in mirror.headers if "Authorization" in headers]


def test_relocated_and_blocked_registries_are_honoured(
    workshop: Workshop, home: Path, mirror_host: str
) -> None:
    image = make()
    images.push(image, f"{mirror_host}/moved/library/x:1")
    configure(
        home,
        f'[[registry]]\nprefix = "docker.io"\nlocation = "{mirror_host}/moved"\n'
        '[[registry]]\nlocation = "evil.example"\nblocked = true\n',
    )
    found = workshop.pull("x:1")
    assert (found.id, found.name) == (image.id, "docker.io/library/x:1")
    with pytest.raises(RlessError, match=r"evil\.example is blocked"):
        workshop.pull("evil.example/x")


# -- short names -------------------------------------------------------------------------------


def test_first_registry_with_the_image_is_used(
    workshop: Workshop, home: Path, own: FaultyProxy, mirror: FaultyProxy, mirror_host: str
) -> None:
    image = make()
    images.push(image, f"{mirror_host}/short/name:1")
    configure(home, f'unqualified-search-registries = ["{own.host}", "{mirror.host}"]')
    reader, writer = os.pipe()
    found = workshop.pull("short/name:1", progress=Progress(writer))
    os.close(writer)
    with open(reader) as file:
        assert file.readline().startswith(f"short/name is {mirror.host}/short/name:1")
    assert (found.id, found.name) == (image.id, f"{mirror.host}/short/name:1")
    # The store finds it by the short name too, and asks nobody.
    mirror.requests.clear()
    assert workshop.pull("short/name:1", policy="missing").id == image.id
    assert workshop.pull("short/name:1", policy="never").id == image.id
    assert workshop.pull(f"short/name@{image.digest}", policy="never").id == image.id
    assert mirror.requests == []
    with pytest.raises(RlessError, match=f"none of {own.host}, {mirror.host} has"):
        workshop.pull("short/other")


def test_unreachable_registry_ends_the_search(
    workshop: Workshop, home: Path, mirror: FaultyProxy, mirror_host: str
) -> None:
    """Another registry may have something else under that name."""
    images.push(make(), f"{mirror_host}/short/other:1")
    configure(home, f'unqualified-search-registries = ["{dead()}", "{mirror.host}"]')
    with pytest.raises(RlessError, match="refused"):
        workshop.pull("short/other:1")
    assert mirror.requests == []


def test_all_tags_of_a_short_name_are_pulled(
    home: Path, own: FaultyProxy, mirror_host: str
) -> None:
    """Which registry is meant does not hang on a tag `latest`."""
    from rootless.engine.images.archives import all_tags

    images.push(make(), f"{mirror_host}/short/tags:7")
    configure(home, f'unqualified-search-registries = ["{own.host}", "{mirror_host}"]')
    assert all_tags("short/tags") == [f"{mirror_host}/short/tags:7"]


def test_alias_is_pulled(workshop: Workshop, home: Path, mirror_host: str) -> None:
    image = make()
    images.push(image, f"{mirror_host}/long/name:latest")
    configure(home, f'[aliases]\n"nick" = "{mirror_host}/long/name"')
    assert workshop.pull("nick").name == f"{mirror_host}/long/name:latest"
    assert workshop.pull("nick", policy="never").id == image.id


def test_stored_name_reads_no_settings(
    workshop: Workshop, home: Path, mirror_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make()
    images.push(image, f"{mirror_host}/library/there:1")
    configure(home, f'[[registry]]\nprefix = "docker.io"\nlocation = "{mirror_host}"')
    workshop.pull("there:1")

    def fail() -> registries_conf.Registries:
        raise AssertionError("registries.conf was read")

    monkeypatch.setattr(registries_conf, "load", fail)
    for name in ("there:1", "docker.io/library/there:1", image.id, image.id[7:19]):
        found = workshop.store.lookup(name)
        assert found is not None and found.id == image.id
    assert workshop.store.lookup("host.example/x") is None


# -- lists ---------------------------------------------------------------------------------------


def test_lists_are_paginated(own: FaultyProxy, registry_host: str) -> None:
    image = make()
    names = [f"paged/r{number}" for number in range(7)]
    for name in names:
        images.push(image, f"{registry_host}/{name}:1")
    asked = registry.Registry(parse(f"{own.host}/paged"))
    endpoint = asked._endpoints[0]
    url = f"{endpoint.origin}/v2/_catalog?n=3"
    pages = [page["repositories"] for page in registry.pages(endpoint, url, "catalog")]
    assert all(isinstance(page, list) and len(page) <= 3 for page in pages) and len(pages) >= 3
    found = [name for page in pages for name in page]  # type: ignore[attr-defined]
    assert sorted(set(found)) == sorted(found) and set(names) <= set(found)
    asked.close()


def test_tags_are_listed(own: FaultyProxy, registry_host: str) -> None:
    image = make()
    for tag in ("b", "a", "c"):
        images.push(image, f"{registry_host}/tagged:{tag}")
    asked = registry.Registry(parse(f"{own.host}/tagged"))
    assert sorted(asked.tags()) == ["a", "b", "c"]

    def answer(body: bytes, link: str = "") -> Fault:
        return Fault("GET", "tags", status=200, body=body, headers={"Link": link} if link else {})

    following = '</v2/tagged/tags/list?n=1000>; rel="next"'
    own.faults = [answer(b'{"tags":["z"]}', following)]
    assert sorted(asked.tags()) == ["a", "b", "c", "z"]
    own.faults = [answer(b'{"tags":null}')]
    assert asked.tags() == []
    for body, link, why in (
        (b'{"tags":[5]}', "", "malformed"),
        (b'{"tags":[]}', "<http://192.0.2.1/v2/x>; rel=next", "at another server: refused"),
        (b'{"tags":[]}', "<http://[>; rel=next", "no valid address"),
    ):
        own.faults = [answer(body, link)]
        with pytest.raises(RlessError, match=why):
            asked.tags()
    asked.close()


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ('</v2/x/tags/list?last=a&n=2>; rel="next"', "/v2/x/tags/list?last=a&n=2"),
        ("<y>; rel=next", "y"),
        ("<y>; rel=prev", ""),
        ("y; rel=next", ""),
        ("", ""),
    ],
)
def test_link_header_is_parsed(link: str, target: str) -> None:
    assert registry.next_page(link) == target


# -- certs.d -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def certs(home: Path, host: str) -> Path:
    path = home / ".config/containers/certs.d" / host
    path.mkdir(parents=True)
    return path


@pytest.mark.needs("openssl", "skopeo")
def test_ca_of_certs_d_is_trusted(workshop: Workshop, home: Path, authority: Authority) -> None:
    with images.registry(tls=authority.tls()) as host:
        source = images.write_oci_layout(make(), home / "layout")
        os.system(  # noqa: S605
            f"skopeo --insecure-policy copy -q --dest-tls-verify=false oci:{source}:latest "
            f"docker://{host}/x:1"
        )
        with pytest.raises(RlessError, match="certificate verify failed") as caught:
            workshop.pull(f"{host}/x:1")
        assert "certs.d" in (caught.value.hint or "")
        # Of another host's directory nothing is taken.
        (certs(home, "other.example") / "ca.crt").write_bytes(authority.certificate.read_bytes())
        with pytest.raises(RlessError, match="certificate verify failed"):
            workshop.pull(f"{host}/x:1")
        directory = certs(home, host)
        (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
        first = workshop.pull(f"{host}/x:1")
        (directory / "ca.crt").write_text("nonsense")
        with pytest.raises(RlessError, match=r"cannot use the certificate .*ca\.crt"):
            workshop.pull(f"{host}/x:1")
        (directory / "ca.crt").unlink()
        # insecure: TLS without a known authority.
        configure(home, f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        assert workshop.pull(f"{host}/x:1").id == first.id


@pytest.mark.needs("openssl")
def test_client_certificate_is_sent(workshop: Workshop, home: Path, authority: Authority) -> None:
    with images.registry(tls=authority.tls(clients=True)) as host:
        directory = certs(home, host)
        (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
        with pytest.raises(RlessError, match=r"certificate|handshake|alert|status|closed"):
            workshop.pull(f"{host}/x:1")
        certificate, key = authority.issue("client")
        (directory / "me.cert").write_bytes(certificate.read_bytes())
        with pytest.raises(RlessError, match=r"its key me\.key is missing"):
            workshop.pull(f"{host}/x:1")
        (directory / "me.key").write_bytes(key.read_bytes())
        with pytest.raises(RlessError, match="has no such image"):
            workshop.pull(f"{host}/x:1")
        (directory / "me.cert").unlink()
        with pytest.raises(RlessError, match=r"its certificate me\.cert is missing"):
            workshop.pull(f"{host}/x:1")


@pytest.mark.needs("openssl")
def test_insecure_host_redirecting_to_tls_is_refused(
    workshop: Workshop, home: Path, authority: Authority, own: FaultyProxy
) -> None:
    """The plain server is asked once, and nothing secret goes to it."""
    with images.registry(tls=authority.tls()) as host:
        configure(home, f'[[registry]]\nlocation = "{own.host}"\ninsecure = true\n')
        target = {"Location": f"https://{host}/v2/"}
        own.faults = [Fault("GET", "/v2/", status=301, headers=target)]
        with pytest.raises(RlessError, match=f"https://{own.host}/v2/"):
            workshop.pull(f"{own.host}/x:1")
        assert own.requests == ["GET /v2/"]


# -- proxies ---------------------------------------------------------------------------------------


class Forwarder:
    """A proxy of the environment: answers itself, and notes what it is asked."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                head = []
                while (line := self.rfile.readline().strip()) != b"":
                    head.append(line.decode())
                outer.lines += head
                self.wfile.write(
                    b"HTTP/1.1 404 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def forwarder() -> Iterator[Forwarder]:
    made = Forwarder()
    yield made
    made.close()


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY"])
def test_proxy_of_the_environment_is_used(
    workshop: Workshop, forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, f"http://me:pass%3Aword@{forwarder.host}")
    with pytest.raises(RlessError) as caught:
        workshop.pull("reg.invalid/x:1")
    assert forwarder.lines[0].startswith("CONNECT reg.invalid:443 HTTP/1.")
    assert "Proxy-Authorization: Basic bWU6cGFzczp3b3Jk" in (
        line.replace("proxy-authorization", "Proxy-Authorization") for line in forwarder.lines
    )
    assert "pass" not in str(caught.value) and "bWU6" not in str(caught.value)


def test_plain_host_uses_the_http_proxy(
    workshop: Workshop, home: Path, forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", forwarder.host)
    configure(home, '[[registry]]\nlocation = "reg.invalid"\ninsecure = true\n')
    with pytest.raises(RlessError, match="has no such image"):
        workshop.pull("reg.invalid/x:1")
    assert forwarder.lines[0] == "GET http://reg.invalid/v2/ HTTP/1.1"


@pytest.mark.parametrize(
    "no_proxy", ["reg.invalid", ".invalid", "invalid", "*", "a.example, reg.invalid"]
)
def test_no_proxy_is_honoured(
    workshop: Workshop, forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    monkeypatch.setenv("https_proxy", forwarder.host)
    monkeypatch.setenv("no_proxy", no_proxy)
    with pytest.raises(RlessError):
        workshop.pull("reg.invalid/x:1")
    assert forwarder.lines == []


def test_no_proxy_takes_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "10.0.0.0/8, 192.0.2.7,2001:db8::/32,x/y")
    assert client._bypasses_proxy("10.1.2.3:5000") and client._bypasses_proxy("192.0.2.7")
    assert client._bypasses_proxy("[2001:db8::1]:443")
    assert not client._bypasses_proxy("11.1.2.3") and not client._bypasses_proxy("x.example")


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1", "ftp://x", "http://[", "http://x:y"])
def test_invalid_proxy_is_refused(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("https_proxy", value)
    with pytest.raises(RlessError, match="proxy") as caught:
        workshop.pull("reg.invalid/x:1")
    assert str(caught.value).isprintable()


def test_loopback_uses_no_proxy(
    workshop: Workshop, registry_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", dead())
    image = make()
    images.push(image, f"{registry_host}/direct:1")
    assert workshop.pull(f"{registry_host}/direct:1").id == image.id


# -- connections -----------------------------------------------------------------------------


def test_restarting_server_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never answered is given up at once; one that did may be back soon."""
    monkeypatch.setattr(client, "_pause", lambda attempt: 0.3)
    asking = client.Client()
    url = "http://{}/v2/"
    nobody = dead()
    start = time.monotonic()
    with pytest.raises(client.TransferError, match="refused"):
        asking.get(url.format(nobody), {}, deadline=start + 30)
    assert time.monotonic() - start < 0.3

    def serve() -> socketserver.ThreadingTCPServer:
        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while self.rfile.readline().strip():
                    pass
                self.wfile.write(b"HTTP/1.1 204 ok\r\nConnection: close\r\n\r\n")

        made = Server(("127.0.0.1", int(nobody.rpartition(":")[2])), Handler)
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        return made

    def ask() -> int:
        response = asking.get(url.format(nobody), {}, deadline=start + 30)
        client.finish(response)
        return int(response.status)

    server = serve()
    assert ask() == 204
    server.shutdown()
    server.server_close()
    late: list[socketserver.ThreadingTCPServer] = []
    timer = threading.Timer(0.5, lambda: late.append(serve()))
    timer.start()
    assert ask() == 204
    timer.join()
    late[0].shutdown()
    late[0].server_close()
    asking.close()


# -- waiting -----------------------------------------------------------------------------------


def test_retry_after_may_be_a_date(
    workshop: Workshop, own: FaultyProxy, registry_host: str
) -> None:
    image = make()
    for tag in "12":
        images.push(image, f"{registry_host}/date:{tag}")
    past, far = "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2099 07:28:00 GMT"
    own.faults = [Fault("GET", "/manifests/", status=429, headers={"Retry-After": past})]
    assert workshop.pull(f"{own.host}/date:1").id == image.id
    own.faults = [Fault("GET", "/manifests/", status=429, headers={"Retry-After": far})]
    with pytest.raises(RlessError, match="try again later"):
        workshop.pull(f"{own.host}/date:2")


def test_long_download_may_be_interrupted_often(
    workshop: Workshop, own: FaultyProxy, registry_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts that brought something on don't count, those in vain do."""
    monkeypatch.setattr(limits, "PROGRESS_BYTES", 50_000)
    image = make(1_000_000)
    images.push(image, f"{registry_host}/often:1")
    path = f"/blobs/{images.digest(image.blobs[0])}"
    own.faults = [Fault("GET", path, cut=60_000) for _ in range(10)]
    assert workshop.pull(f"{own.host}/often:1").id == image.id
    other = make(1_000_000)
    images.push(other, f"{registry_host}/vain:1")
    own.faults = [
        Fault("GET", f"/blobs/{images.digest(other.blobs[0])}", cut=100) for _ in range(10)
    ]
    with pytest.raises(RlessError):
        workshop.pull(f"{own.host}/vain:1")
    assert len(own.faults) == 10 - limits.ATTEMPTS
