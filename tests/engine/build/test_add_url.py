"""ADD of URLs: what becomes of them, what is asked of servers, and what is refused (class 60)."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lib.registry_servers import Authority
from tests.lib.web_server import Page, WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lib.product import Product, Result

    Build = Callable[..., Result]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")
_TIME = "Thu, 01 Jan 2015 00:00:00 GMT"
_SECONDS = 1420070400


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as made:
        yield made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def build(rless: Product, tmp_path: Path, out: Path) -> Build:
    """Return a function that builds from scratch and writes the files to `out`."""

    def run(text: str, *words: str, **more: Any) -> Result:
        (tmp_path / "Dockerfile").write_text(f"FROM scratch\n{text}\n")
        (tmp_path / "context").mkdir(exist_ok=True)
        words = ("--progress=plain", "-f", str(tmp_path / "Dockerfile"), f"-o={out}", *words)
        return rless("build", *words, str(tmp_path / "context"), **more)

    return run


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_url_becomes_a_private_file_of_its_name_and_time(
    server: WebServer, build: Build, out: Path
) -> None:
    server.pages["/a/file%20one"] = Page(b"text\n", {"Last-Modified": _TIME})
    server.pages["/"] = Page(b"root\n")
    build(
        f"ADD {server.url('/a/file%20one')}?key=1#part {server.url('/')} /d/\n"
        f"ADD {server.url('/')} /name\n"
        f"ADD --chmod=640 {server.url('/')} /open"
    ).expect()
    file = out / "d/file one"
    assert file.read_bytes() == b"text\n"
    assert file.stat().st_mode & 0o7777 == 0o600 and file.stat().st_mtime == _SECONDS
    assert (out / "d/__unnamed__").read_bytes() == b"root\n"
    assert (out / "name").read_bytes() == b"root\n"
    assert (out / "open").stat().st_mode & 0o7777 == 0o640
    assert server.asked[0].path == "/a/file%20one?key=1"


def test_archive_behind_a_url_is_unpacked_only_if_asked_for(
    server: WebServer, build: Build, out: Path
) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        member = tarfile.TarInfo("inside")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"in\n"))
    server.pages["/a.tgz"] = Page(data.getvalue())
    url = server.url("/a.tgz")
    build(f"ADD {url} /kept/\nADD --unpack {url} /unpacked/").expect()
    assert (out / "kept/a.tgz").read_bytes() == data.getvalue()
    assert (out / "unpacked/inside").read_bytes() == b"in\n"


@pytest.mark.parametrize("answer", [404, 500])
def test_status_other_than_success_is_an_error(
    server: WebServer, build: Build, answer: int
) -> None:
    server.pages["/x"] = Page(b"", {"Retry-After": "0"}, answer)
    done = build(f"ADD {server.url('/x')} /x")
    assert done.code == 1 and str(answer) in done.err and "Traceback" not in done.err


def test_known_answer_is_asked_for_but_not_fetched_again(server: WebServer, build: Build) -> None:
    server.pages["/x"] = Page(os.urandom(16), {"ETag": '"1"'})
    text = f"ADD {server.url('/x')} /x"
    build(text).expect()
    assert "CACHED" in build(text).expect().err
    assert server.asked[-1].headers["If-None-Match"] == '"1"'
    server.pages["/x"] = Page(os.urandom(16), {"ETag": '"2"'})
    assert "CACHED" not in build(text).expect().err


def test_time_that_may_not_show_the_next_change_is_not_relied_on(
    server: WebServer, build: Build
) -> None:
    """A server's clock of whole seconds: changed twice in one, the file has one time."""
    now = {"Last-Modified": "Thu, 01 Jan 2099 00:00:00 GMT"}
    server.pages["/x"] = Page(os.urandom(16), now)
    build(f"ADD {server.url('/x')} /x").expect()
    build(f"ADD {server.url('/x')} /x").expect()
    assert all("If-Modified-Since" not in asked.headers for asked in server.asked)


def test_key_is_the_digest_of_the_bytes(server: WebServer, build: Build) -> None:
    data = os.urandom(16)
    server.pages["/1/x"] = server.pages["/2/x"] = Page(data)
    build(f"ADD {server.url('/1/x')} /x").expect()
    assert "CACHED" in build(f"ADD {server.url('/2/x')} /x").expect().err


def test_wrong_tag_of_a_server_places_nothing_under_the_old_key(
    server: WebServer, build: Build, rless: Product
) -> None:
    """It says "not modified", and then gives something else: its word counts for nothing."""
    server.pages["/x"] = Page(os.urandom(16), {"ETag": '"1"'})
    text = f"ADD {server.url('/x')} /x"
    build(text).expect()
    rless("builder", "prune", "-f").expect()  # -a would forget what the server has said
    server.pages["/x"] = Page(os.urandom(16), {"ETag": '"1"'})
    done = build(text)
    assert done.code == 1 and "changed meanwhile" in done.err
    build(text).expect()


def test_checksum_is_verified_before_anything_is_placed(
    server: WebServer, build: Build, out: Path
) -> None:
    data = os.urandom(16)
    server.pages["/x"] = Page(data)
    url = server.url("/x")
    done = build(f"ADD --checksum={sha256(b'other')} {url} /x")
    assert done.code == 1 and sha256(data) in done.err and not out.exists()
    build(f"ADD --checksum={sha256(data)} {url} /x").expect()
    asked = len(server.asked)
    assert "CACHED" in build(f"ADD --checksum={sha256(data)} {url} /x").expect().err
    assert len(server.asked) == asked  # known by its checksum: nobody has to be asked
    digest = hashlib.sha512(data).hexdigest()
    build(f"ADD --checksum=sha512:{digest} {url} /y").expect()
    for wrong in ("md5:" + "0" * 32, "sha256:0", "sha256:" + "g" * 64):
        assert build(f"ADD --checksum={wrong} {url} /x").code == 1


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("file:///etc/passwd", "only https is spoken"),
        ("file://127.0.0.1/etc/passwd", "only https is spoken"),
        ("ftp://127.0.0.1/x", "only https is spoken"),
        ("//[", "no URL"),
        ("loop", "more than 5 redirects"),
    ],
)
def test_redirect_to_anything_but_http_is_refused(
    server: WebServer, build: Build, target: str, said: str
) -> None:
    server.redirect("/x", server.url("/x") if target == "loop" else target)
    done = build(f"ADD {server.url('/x')} /x")
    assert done.code == 1 and said in done.err
    assert len(server.asked) <= 6


def test_redirect_never_leaves_https(build: Build, server: WebServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    server.pages["/x"] = Page(b"plain\n")
    with WebServer(authority.issue("server")) as secure:
        secure.pages["/ok"] = Page(b"secure\n")
        secure.redirect("/x", server.url("/x"))
        trust = {"SSL_CERT_FILE": str(authority.certificate)}
        build(f"ADD {secure.url('/ok')} /x", env=trust).expect()
        done = build(f"ADD {secure.url('/x')} /x", env=trust)
        untrusted = build(f"ADD {secure.url('/ok')}?2 /x")
    assert done.code == 1 and "away from https" in done.err
    assert untrusted.code == 1 and "certificate" in untrusted.err


def test_secret_is_sent_to_its_host_and_to_nobody_else(
    server: WebServer, build: Build, tmp_path: Path
) -> None:
    with WebServer() as other:
        other.pages["/x"] = Page(b"there\n")
        server.pages["/here"] = Page(b"here\n")
        server.redirect("/there", other.url("/x"))
        words = (f"--secret=id=HTTP_AUTH_TOKEN_{server.host},env=TOKEN",)
        env = {"TOKEN": "s3cret"}
        text = f"ADD {server.url('/here')} {server.url('/there')} {other.url('/x')} /d/"
        done = build(text, *words, env=env).expect()
        sent = [asked.headers.get("Authorization") for asked in server.asked]
        assert sent == ["Bearer s3cret"] * 2
        assert all("Authorization" not in asked.headers for asked in other.asked)
    assert "s3cret" not in done.err
    words = ("--secret=id=HTTP_AUTH_HEADER_127.0.0.1,env=TOKEN", "--no-cache")
    build(f"ADD {server.url('/here')} /x", *words, env={"TOKEN": "Basic abc"}).expect()
    assert server.asked[-1].headers["Authorization"] == "Basic abc"
    done = build("ADD http://203.0.113.1/x /x", "--secret=id=HTTP_AUTH_TOKEN_203.0.113.1,env=TOKEN",
                 env=env)  # fmt: skip
    assert done.code == 1 and "without TLS" in done.err and "s3cret" not in done.err


@pytest.mark.parametrize(
    "source",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "ext::sh%20-c%20id", "gopher://x/", "http://"],
)
def test_other_schemes_are_refused(build: Build, source: str) -> None:
    done = build(f"ADD {source} /x")
    assert done.code == 1 and "Traceback" not in done.err
    assert "only http" in done.err or "no URL" in done.err


def test_copy_takes_no_url(build: Build, server: WebServer) -> None:
    done = build(f"COPY {server.url('/x')} /x")
    assert done.code == 1 and "use ADD" in done.err and not server.asked


def test_no_network_means_no_url(server: WebServer, build: Build) -> None:
    server.pages["/x"] = Page(b"")
    done = build(f"ADD {server.url('/x')} /x", "--network=none")
    assert done.code == 1 and "--network=none" in done.err and not server.asked


def test_site_can_forbid_urls(server: WebServer, build: Build, rless: Product) -> None:
    server.pages["/Dockerfile"] = Page(b"FROM scratch\n")
    env = {"RLESS_BUILD_ADD_URL": "false"}
    for done in (
        build(f"ADD {server.url('/Dockerfile')} /x", env=env),
        build("", f"--build-context=n={server.url('/Dockerfile')}", env=env),
        rless("build", server.url("/Dockerfile"), env=env),
    ):
        assert done.code == 1 and "add-url" in done.err
    assert not server.asked


def test_proxy_of_the_environment_is_asked(server: WebServer, build: Build) -> None:
    server.pages["http://files.invalid/x"] = Page(b"by proxy\n")
    build("ADD http://files.invalid/x /x", env={"http_proxy": f"http://{server.host}"}).expect()
    assert server.asked[0].path == "http://files.invalid/x"


def test_body_that_breaks_off_or_is_endless_is_refused(
    server: WebServer, build: Build, out: Path
) -> None:
    server.pages["/x"] = Page(os.urandom(64 << 10))
    done = build(f"ADD {server.url('/x')} /x", env={"RLESS_IMAGES_LIMITS_BLOB_BYTES": "1000"})
    assert done.code == 1 and "larger than" in done.err and not out.exists()
