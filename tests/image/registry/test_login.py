"""`rless login`, `logout` and `search` against real registries."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pty
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootless import errors
from tests.lib import images
from tests.lib.images import Image, layer
from tests.lib.product import Product, own_rless, shared_product
from tests.lib.registry_servers import Authority, token_server

__all__ = ["own_rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "docker-registry")


@pytest.fixture(autouse=True)
def settings(own_rless: Product) -> None:
    """Have no settings of this machine."""
    path = own_rless.base / "registries.conf"
    path.write_text("")
    own_rless.env["CONTAINERS_REGISTRIES_CONF"] = str(path)


@pytest.fixture(scope="module")
def private() -> Iterator[str]:
    with images.registry(users={"me": "pass:word"}) as host:
        yield host


def auth_file(rless: Product) -> Path:
    return rless.home / ".config/containers/auth.json"


def test_login_and_logout_work(own_rless: Product, private: str) -> None:
    rless = own_rless
    made = Image([layer({"f": "x"})])
    images.push(made, f"{private}/x:1", login=("me", "pass:word"))
    assert "rless login" in rless("pull", f"{private}/x:1").err
    done = rless("login", "-u", "me", "--password-stdin", private, stdin=b"pass:word\n").expect()
    assert done.out == "Login Succeeded\n"
    assert "stored unencrypted" in done.err and done.err.count("\n") == 1
    assert stat.S_IMODE(auth_file(rless).stat().st_mode) == 0o600
    rless("pull", "-q", f"{private}/x:1").expect()
    rless("push", "-q", f"{private}/x:1", f"{private}/y:1").expect()
    again = rless("login", private).expect()
    assert again.out == "Authenticating with existing credentials...\nLogin Succeeded\n"
    assert rless("logout", private).expect().out == f"Removing login credentials for {private}\n"
    assert rless("logout", private).expect().out == f"Not logged in to {private}\n"
    assert rless("pull", "-q", f"{private}/x:1").code != 0


def test_wrong_credentials_are_not_stored(own_rless: Product, private: str) -> None:
    done = own_rless("--debug", "login", "-u", "me", "--password-stdin", private, stdin=b"mistaken")
    assert done.code == 1
    assert "unauthorized: incorrect username or password" in done.err
    assert "mistaken" not in done.err + done.out
    assert "bWU6bWlzdGFrZW4" not in done.err + done.out
    assert not auth_file(own_rless).exists()


def test_23_password_in_argv_is_refused(own_rless: Product, private: str) -> None:
    for words in (
        ("-p", "secret"),
        ("--password", "secret"),
        ("--password=secret",),
        ("-psecret",),
    ):
        done = own_rless("login", "-u", "me", *words, private)
        assert done.code == errors.EXIT_TOOL
        error = done.one_line_error()
        assert "--password-stdin" in error and "secret" not in error


@pytest.mark.parametrize(
    ("words", "stdin", "why"),
    [
        (("--password-stdin",), b"x", "Must provide --username with --password-stdin"),
        (("-u", "me"), b"", "Cannot perform an interactive login from a non TTY device"),
        ((), b"", "Cannot perform an interactive login from a non TTY device"),
        (("-u", "me", "--password-stdin"), b"", "not empty"),
        (("-u", "me", "--password-stdin"), b"\xff", "not UTF-8"),
        (("-u", "a:b", "--password-stdin"), b"x", "colon"),
    ],
)
def test_wrong_logins_are_refused(
    own_rless: Product, private: str, words: tuple[str, ...], stdin: bytes, why: str
) -> None:
    done = own_rless("login", *words, private, stdin=stdin)
    assert done.code == 1 and why in done.one_line_error()


def test_host_that_is_no_registry_is_refused(own_rless: Product) -> None:
    free = f"127.0.0.1:{images.free_port()}"
    flags = ("-u", "me", "--password-stdin")
    assert "refused" in own_rless("login", *flags, free, stdin=b"x").one_line_error()
    assert "is not a registry" in own_rless("login", *flags, "a b", stdin=b"x").one_line_error()
    assert "is not a registry" in own_rless("logout", "x/y").one_line_error()


def test_password_is_not_echoed_on_a_terminal(own_rless: Product, private: str) -> None:
    leader, follower = pty.openpty()
    process = own_rless.start("login", private, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""

    def until(text: bytes) -> None:
        nonlocal shown
        deadline = time.monotonic() + 30
        while text not in shown:
            assert time.monotonic() < deadline, shown
            shown += os.read(leader, 1000)

    try:
        until(b"Username: ")
        os.write(leader, b"me\n")
        until(b"Password: ")
        os.write(leader, b"pass:word\n")
        until(b"Login Succeeded")
        assert process.wait(20) == 0
    finally:
        os.close(leader)
    assert b"pass:word" not in shown
    assert private in auth_file(own_rless).read_text()


@pytest.mark.needs("openssl")
def test_login_works_with_a_token_server(own_rless: Product, tmp_path: Path) -> None:
    with (
        token_server(Authority(tmp_path / "ca"), {"me": "secret"}) as (asked, section),
        images.registry(token=section) as host,
    ):
        flags = ("login", "-u", "me", "--password-stdin", host)
        assert "incorrect username" in own_rless(*flags, stdin=b"mistaken").one_line_error()
        assert own_rless(*flags, stdin=b"secret").expect().out == "Login Succeeded\n"
        assert "scope" not in asked[-1] and "account=me" in asked[-1]
    assert json.loads(auth_file(own_rless).read_text())["auths"].keys() == {host}


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("kind", ["password", "token"])
def test_login_push_pull_search_and_logout_work_by_tls(
    own_rless: Product, tmp_path: Path, kind: str
) -> None:
    """An authority of one's own, log-in, push, another store's pull, search, log-out."""
    rless, authority = own_rless, Authority(tmp_path / "ca")
    with contextlib.ExitStack() as stack:
        access: dict[str, Any] = {"users": {"me": "secret"}}
        if kind == "token":
            tokens = token_server(authority, access["users"], tls=True)
            access = {"token": stack.enter_context(tokens)[1]}
        servers = [access["token"]["realm"].split("/")[2]] if kind == "token" else []
        host = stack.enter_context(images.registry(tls=authority.tls(), **access))
        login = ("login", "-u", "me", "--password-stdin", host)
        assert "certificate verify failed" in rless(*login, stdin=b"secret").one_line_error()
        for server in (host, *servers):
            directory = rless.home / ".config/containers/certs.d" / server
            directory.mkdir(parents=True)
            (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
        assert rless(*login, stdin=b"secret").expect().out == "Login Succeeded\n"
        name = f"{host}/team/app:1"
        made = images.busybox_image([layer({"f": "x"})])
        images.write_docker_archive(made, tmp_path / "a.tar", name)
        rless("load", "-q", "-i", str(tmp_path / "a.tar")).expect()
        rless("push", name).expect()
        rless("push", "-q", name, f"{host}/other/app:2").expect()
        other = {"RLESS_STORAGE": str(rless.base / "other")}
        assert rless("pull", "-q", f"{host}/other/app:2", env=other).expect().out
        shown = rless("inspect", "-f", "{{.Id}}", f"{host}/other/app:2", env=other).expect().out
        assert shown == f"{made.id}\n"
        if kind == "password":
            assert "team/app" in rless("search", f"{host}/team").expect().out
        rless("logout", host).expect()
        said = rless("pull", "-q", name).expect(1).one_line_error()
        assert "rless login" in said


def test_login_stores_in_a_helper(own_rless: Product, private: str) -> None:
    programs = own_rless.base / "bin"
    programs.mkdir()
    helper = programs / "docker-credential-file"
    helper.write_text(
        f"#!/bin/sh\n[ $1 = get ] && exec cat {programs}/kept\ncat >{programs}/kept\n"
    )
    helper.chmod(0o755)
    config = own_rless.home / ".docker/config.json"
    config.parent.mkdir()
    config.write_text('{"credsStore":"file"}')
    env = {"PATH": f"{programs}:/usr/bin:/bin"}
    flags = ("login", "-u", "me", "--password-stdin", private)
    done = own_rless(*flags, stdin=b"pass:word", env=env).expect()
    assert done.err == "" and json.loads((programs / "kept").read_text())["Secret"] == "pass:word"
    assert not auth_file(own_rless).exists()
    assert "existing credentials" in own_rless("login", private, env=env).expect().out


# -- search ------------------------------------------------------------------------------------


def test_search_reads_the_catalog_of_a_registry(own_rless: Product, registry_host: str) -> None:
    for name in ("tools/zig", "tools/zag", "other"):
        images.push(Image([layer({"f": "x"})]), f"{registry_host}/search-{name}:1")
    done = own_rless("search", f"{registry_host}/search-tools").expect()
    assert [line.split()[0] for line in done.lines()] == [
        "NAME", f"{registry_host}/search-tools/zag", f"{registry_host}/search-tools/zig"
    ]  # fmt: skip
    done = own_rless("search", "--limit", "1", "--format", "{{.Name}}", f"{registry_host}/search-")
    assert len(done.expect().lines()) == 1


def test_registry_without_a_catalog_is_reported(own_rless: Product, private: str) -> None:
    assert "cannot be searched" in own_rless("search", f"{private}/x").one_line_error()


def test_search_uses_the_api_of_docker_hub(own_rless: Product) -> None:
    """docker.io is moved to a server of the test by registries.conf."""
    results = [
        {
            "name": name,
            "description": text,
            "star_count": stars,
            "is_official": official,
            "is_automated": False,
        }
        for name, text, stars, official in (
            ("busybox", "Busybox base image.", 3000, True),
            ("me/busybox", "evil \x1b[2J\n" + "long " * 30, 2, False),
        )
    ]
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            asked.append(self.path)
            body = json.dumps({"results": results}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        place = f"127.0.0.1:{server.server_address[1]}"
        moved = f'[[registry]]\nprefix = "docker.io"\nlocation = "{place}"\n'
        (own_rless.base / "registries.conf").write_text(moved)
        done = own_rless("search", "--limit", "7", "busybox").expect()
        assert "/v1/search?q=busybox&n=7" in asked
        lines = done.lines()
        assert lines[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
        assert lines[1].split() == ["busybox", "Busybox", "base", "image.", "3000", "[OK]"]
        assert lines[2].startswith("me/busybox   evil \\x1b[2J long") and "…" in lines[2]

        def names(*flags: str) -> list[str]:
            form = ("--format", "{{.Name}} {{.StarCount}}")
            return own_rless("search", *form, *flags, "busybox").expect().lines()

        assert names("--filter", "stars=3") == ["busybox 3000"]
        assert names("-f", "is-official=false") == ["me/busybox 2"]
        whole = own_rless("search", "--no-trunc", "busybox").expect().out
        assert "long " * 29 in whole
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "words",
    [
        ("--limit", "0", "x"),
        ("--limit", "101", "x"),
        ("-f", "x=1", "y"),
        ("-f", "stars=x", "y"),
        ("/",),
    ],
)
def test_wrong_searches_are_refused(own_rless: Product, words: tuple[Any, ...]) -> None:
    done = own_rless("search", *words)
    assert done.code == (1 if words == ("/",) else errors.EXIT_TOOL) and done.one_line_error()
