"""Where the policy is asked: pull, load and what they are part of; and that nothing slips past.

Security classes 77, 78 and 81.
"""

from __future__ import annotations

import base64
import http.server
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.image.model.reference import parse
from rootless.image.registry.client import Registry
from rootless.image.registry.progress import Progress
from rootless.image.transfer.load import load
from rootless.image.trust import collect, lookaside, policy, registries_d
from rootless.image.trust.identity import parse_named
from rootless.image.trust.signature import SimpleSignature
from tests.lib import images
from tests.lib.image_store import Workshop, map_for
from tests.lib.trust import ACCEPT, REJECT, Keys, Site, payload, signed_by

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "docker-registry", "gpg")


def make(text: str) -> images.Image:
    return images.Image([images.layer({"f": text})])


@contextmanager
def serving(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Answer requests on loopback by a function; yield "HOST:PORT"."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            answer(self)

        do_GET = do_HEAD = do_PUT = handle_one  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def reply(request: http.server.BaseHTTPRequestHandler, data: bytes, **headers: str) -> None:
    request.send_response(200 if data else 404)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


# -- pull ------------------------------------------------------------------------------------


def test_refused_image_leaves_nothing(site: Site, workshop: Workshop, registry_host: str) -> None:
    name = f"{registry_host}/guard/refused:1"
    images.push(make("refused"), name)
    site.demand("other.example", ACCEPT)
    with pytest.raises(RlessError, match=r"refused by the policy .*, default: reject: no image"):
        workshop.pull(name)
    assert workshop.contents() == {}
    site.demand(
        registry_host, {"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}
    )
    with pytest.raises(RlessError, match="signedBaseLayer: it is not implemented"):
        workshop.pull(name)
    assert workshop.contents() == {}


def test_rejected_name_is_asked_of_nobody(site: Site, workshop: Workshop) -> None:
    asked: list[str] = []

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        reply(request, b"")

    with serving(answer) as host:
        site.demand(host, REJECT)
        with pytest.raises(RlessError, match="no image is accepted"):
            workshop.pull(f"{host}/a:1")
    assert asked == []


def test_image_that_is_up_to_date_is_judged_again(
    site: Site, workshop: Workshop, keys: Keys, registry_host: str
) -> None:
    name = f"{registry_host}/guard/again:1"
    digest = images.push(make("again"), name)
    site.demand(registry_host, ACCEPT)
    image = workshop.pull(name)
    site.demand(registry_host, signed_by(keys.public("good")))
    with pytest.raises(RlessError, match="the image has none"):
        workshop.pull(name)
    # What is here was judged when it came.
    assert workshop.pull(name, policy="missing").id == image.id
    site.put(name, digest, [keys.sign("good", payload(digest, name))])
    assert workshop.pull(name).id == image.id
    explicit = site.directory / "other.json"
    explicit.write_text(json.dumps({"default": [REJECT]}))
    with pytest.raises(RlessError, match=f"policy {explicit}, default: reject"):
        workshop.pull(name, signature_policy=str(explicit))


def test_tag_that_moves_meanwhile_changes_nothing(
    site: Site, workshop: Workshop, keys: Keys, registry_host: str
) -> None:
    name = f"{registry_host}/guard/moving:1"
    good, evil = make("good"), make("evil")
    images.push(good, name)
    message = keys.sign("good", payload(good.digest, name))

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        """Move the tag at the moment at which the policy asks for the signature."""
        images.push(evil, name)
        is_first = request.path.endswith("/signature-1")
        reply(request, message if is_first and good.digest[7:] in request.path else b"")

    site.demand(registry_host, signed_by(keys.public("good")))
    with serving(answer) as host:
        site.signatures_at(f"http://{host}/sigs")
        assert workshop.pull(name).id == good.id
        # By now the name means the other one, for which there is no signature.
        with pytest.raises(RlessError, match="the image has none"):
            workshop.pull(name)


def test_signature_does_not_bring_schema_1_back(site: Site, workshop: Workshop, keys: Keys) -> None:
    document = json.dumps({"schemaVersion": 1, "fsLayers": [], "history": []}).encode()
    kind = "application/vnd.docker.distribution.manifest.v1+json"

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        reply(request, document, Content_Type=kind)

    with serving(answer) as host:
        name = f"{host}/old:1"
        digest = images.digest(document)
        site.demand(host, signed_by(keys.public("good")))
        site.put(name, digest, [keys.sign("good", payload(digest, name))])
        with pytest.raises(RlessError, match="is of schema 1"):
            workshop.pull(name)
    assert workshop.contents() == {}


@pytest.mark.needs("skopeo")
def test_mirror_is_judged_under_the_name_that_was_asked_for(
    site: Site,
    workshop: Workshop,
    keys: Keys,
    registry_host: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = f"{registry_host}/guard/mirrored:1"
    digest = images.push(make("mirrored"), there)
    monkeypatch.delenv("CONTAINERS_REGISTRIES_CONF", raising=False)
    (site.containers / "registries.conf").write_text(
        '[[registry]]\nprefix = "asked.example"\nlocation = "asked.example"\n'
        f'[[registry.mirror]]\nlocation = "{registry_host}/guard"\ninsecure = true\n'
    )
    name = "asked.example/mirrored:1"
    site.demand("asked.example", signed_by(keys.public("good")))
    for place in there, name:
        site.put(place, digest, [keys.sign("good", payload(digest, there))])
        assert "for another name" in site.rless(name) and site.skopeo(name)
    good = [keys.sign("good", payload(digest, name))]
    # skopeo looks for signatures below the mirror's name only.
    site.put(there, digest, [])
    site.put(name, digest, good)
    assert site.rless(name) == "" and "no signature exists" in site.skopeo(name)
    site.put(name, digest, [])
    site.put(there, digest, good)
    assert site.rless(name) == site.skopeo(name) == ""
    assert workshop.pull(name).digest == digest
    site.demand(registry_host, ACCEPT)
    assert "default: reject" in site.rless(name) and site.skopeo(name)


# -- archives --------------------------------------------------------------------------------


def write_own_oci_archive(image: images.Image, path: Path) -> None:
    """Write an archive with members of this user: skopeo unpacks it, owners and all."""
    layout = path.with_suffix(".layout")
    images.write_oci_layout(image, layout)
    subprocess.run(["tar", "-C", layout, "-cf", path, "."], check=True)


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive", "oci"])
def test_archives_have_scopes_of_their_own(
    site: Site, workshop: Workshop, keys: Keys, transport: str
) -> None:
    made = make(transport)
    path = site.directory / "archives/image"
    path.parent.mkdir()
    write: Any = {
        "docker-archive": images.write_docker_archive,
        "oci-archive": write_own_oci_archive,
        "oci": images.write_oci_layout,
    }[transport]
    write(made, path)
    name = f"{transport}:{path}"
    scopes = [""] if transport == "docker-archive" else ["", str(path), str(path.parent)]
    for scope in scopes:
        for requirement, is_accepted in (
            (ACCEPT, True),
            (REJECT, False),
            (signed_by(keys.public("good")), False),
        ):
            site.demand(scope, requirement, transport=transport)
            assert (site.rless(name) == "") == is_accepted
            assert (site.skopeo(name) == "") == is_accepted
            options: dict[str, Any] = {"idmap_for": map_for, "progress": Progress(quiet=True)}
            loading = load(str(path), workshop.store, **options)
            if is_accepted:
                assert [image.id for image, _ in loading] == [made.id]
                assert workshop.pull(name).id == made.id
            else:
                with pytest.raises(RlessError, match="is refused by the policy"):
                    list(loading)
                with pytest.raises(RlessError, match="is refused by the policy"):
                    workshop.pull(name)
    site.demand("", ACCEPT, transport="docker")
    assert "default: reject" in site.rless(name)
    assert site.skopeo(name)


# -- the registry's extension ----------------------------------------------------------------


class Extension:
    """A registry in front of another one, which has signatures itself."""

    def __init__(self, behind: str) -> None:
        self.behind = behind
        self.entries: list[Any] = []

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length", 0))
        body = request.rfile.read(length)
        if not request.path.startswith("/extensions/v2/"):
            is_root = request.path == "/v2/"
            request.send_response(200 if is_root else 307)
            request.send_header("X-Registry-Supports-Signatures", "1")
            if not is_root:
                request.send_header("Location", f"http://{self.behind}{request.path}")
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif request.command == "PUT":
            self.entries.append(json.loads(body))
            request.send_response(201)
            request.send_header("Content-Length", "0")
            request.end_headers()
        else:
            reply(request, json.dumps({"signatures": self.entries}).encode())


def test_signatures_are_read_from_a_registry_that_has_them(
    site: Site, keys: Keys, registry_host: str
) -> None:
    image = make("extension")
    images.push(image, f"{registry_host}/guard/extension:1")
    extension = Extension(registry_host)
    with serving(extension.answer) as host:
        name = f"{host}/guard/extension:1"
        message = keys.sign("good", payload(image.digest, name))
        site.demand(host, signed_by(keys.public("good")))
        # The lookaside directory is not asked.
        site.put(name, image.digest, [message])
        assert "the image has none" in site.rless(name)
        with closing(Registry(parse(name))) as registry:
            for _ in range(2):
                where = collect.store(
                    registry.endpoint, parse_named(name), image.digest, [SimpleSignature(message)]
                )
        assert where == host and len(extension.entries) == 1
        assert extension.entries[0]["name"].startswith(f"{image.digest}@")
        assert site.rless(name) == ""
        extension.entries = [{"version": 2, "type": "atomic", "content": "?"}]
        assert "is not base64" in site.rless(name)
        extension.entries = [{"version": 3, "type": "new", "content": "?"}]
        assert "the image has none" in site.rless(name)
        encoded = base64.b64encode(b"\x88").decode()
        entry = {"version": 2, "type": "atomic", "content": encoded}
        extension.entries = [entry] * (limits.SIGNATURES + 1)
        assert "no list of at most 128" in site.rless(name)


# -- lookaside -------------------------------------------------------------------------------


def test_lookaside_server_that_fails_refuses(site: Site, keys: Keys, registry_host: str) -> None:
    name = f"{registry_host}/guard/failing:1"
    images.push(make("failing"), name)
    site.demand(registry_host, signed_by(keys.public("good")))

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(403)
        request.send_header("Content-Length", "0")
        request.end_headers()

    with serving(answer) as host:
        site.signatures_at(f"http://{host}")
        assert "the server answers 403" in site.rless(name)
    site.signatures_at("ftp://example.org/x")
    assert "is no place for signatures" in site.rless(name)


def test_new_signatures_take_the_place_of_old_ones(site: Site) -> None:
    named = parse_named("a.example/team/app:1")
    digest = "sha256:" + "0" * 64
    url = f"file://{site.lookaside}"
    lookaside.write(url, named, digest, [b"1", b"2", b"3"])
    where = lookaside.write(url, named, digest, [b"4"])
    assert where == f"{site.lookaside}/team/app@sha256={'0' * 64}"
    assert lookaside.read(url, named, digest) == [b"4"]
    assert [path.name for path in Path(where).iterdir()] == ["signature-1"]
    assert Path(where, "signature-1").stat().st_mode & 0o777 == 0o644
    with pytest.raises(RlessError, match=r"cannot be written to https://a\.example"):
        lookaside.write("https://a.example", named, digest, [b"5"])


# -- registries.d ----------------------------------------------------------------------------


def test_narrowest_entry_says_where_signatures_are(site: Site) -> None:
    directory = site.containers / "registries.d"
    (directory / "more.yaml").write_text(
        "docker:\n"
        "  a.example: {lookaside: https://host, use-sigstore-attachments: true}\n"
        "  a.example/team: {sigstore: https://team, sigstore-staging: 'file:///staging'}\n"
        "  '*.wild.example': {lookaside: https://wild}\n"
    )
    read = registries_d.load()
    team, other = parse_named("a.example/team/app:1"), parse_named("a.example/app:1")
    assert read.lookaside(team) == "https://team"
    assert read.lookaside(team, write=True) == "file:///staging"
    assert read.lookaside(other, write=True) == "https://host"
    assert read.uses_attachments(team) and read.uses_attachments(other)
    assert read.lookaside(parse_named("x.wild.example:5000/a")) == "https://wild"
    fallback = parse_named("busybox")
    assert read.lookaside(fallback) == f"file://{site.lookaside}"
    assert not read.uses_attachments(fallback)
    (directory / "default.yaml").unlink()
    (directory / "more.yaml").rename(directory / "more.yml")
    default = f"file://{site.home}/.local/share/containers/sigstore"
    assert registries_d.load().lookaside(team, write=True) == default


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("docker: [", "is no YAML"),
        ("- a", "is not a mapping"),
        ("docker: 5", "docker is not a mapping"),
        ("docker: {a: 5}", "docker: a is not a mapping"),
        ("docker: {a: {lookaside: 5}}", "something other than a URL"),
        ("docker: {a: {use-sigstore-attachments: maybe}}", "neither true nor false"),
        ("default-docker: {}", "default-docker is in another file too"),
    ],
)
def test_registries_d_that_is_not_right_refuses(site: Site, text: str, why: str) -> None:
    (site.containers / "registries.d/more.yaml").write_text(text)
    with pytest.raises(RlessError, match=why):
        registries_d.load()


def test_policy_of_the_system_applies_without_one_of_the_user(
    site: Site, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, registry_host: str
) -> None:
    name = f"{registry_host}/guard/system:1"
    images.push(make("system"), name)
    system = site.directory / "system.json"
    monkeypatch.setattr(policy, "SYSTEM", str(system))
    assert workshop.pull(name)
    system.write_text(json.dumps({"default": [REJECT]}))
    with pytest.raises(RlessError, match=r"system\.json, default: reject"):
        workshop.pull(name)
    system.write_text("{")
    with pytest.raises(RlessError, match="not valid JSON"):
        workshop.pull(name)
