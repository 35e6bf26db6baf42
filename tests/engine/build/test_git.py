"""Git repositories as sources of ADD and as contexts, and what a hostile one may not (class 61)."""

from __future__ import annotations

import base64
import os
import socketserver
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rootless.engine.build.remote import git as checkout
from rootless.engine.build.remote import walls
from rootless.engine.idmap_policy import build_single
from rootless.errors import RlessError
from rootless.linux.idmap import call_in_userns
from tests.lib.git_server import GitServer, git
from tests.lib.web_server import Page, WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lib.product import Product, Result

    Build = Callable[..., Result]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")
_SECONDS = 1420070400
_HIDDEN = {"home": "HOME", "run": "XDG_RUNTIME_DIR", "store": "RLESS_STORAGE"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    (tmp_path / "git").mkdir()
    with GitServer(tmp_path / "git") as made:
        yield made


@pytest.fixture
def seen() -> Iterator[Path]:
    """Return a directory that git would see, were there no walls: /tmp is its work directory."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as path:
        yield Path(path)


@pytest.fixture
def seen_server(seen: Path) -> Iterator[GitServer]:
    (seen / "git").mkdir()
    with GitServer(seen / "git") as made:
        yield made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def build(rless: Product, tmp_path: Path, out: Path) -> Build:
    """Return a function that builds from scratch and writes the files to `out`."""

    def run(text: str, *words: str, context: str = "", **more: Any) -> Result:
        words = ("--progress=plain", f"-o=type=local,dest={out},mode=delete", *words)
        if text:
            (tmp_path / "Dockerfile").write_text(f"FROM scratch\n{text}\n")
            words = ("-f", str(tmp_path / "Dockerfile"), *words)
        (tmp_path / "context").mkdir(exist_ok=True)
        return rless("build", *words, context or str(tmp_path / "context"), **more)

    return run


def test_repository_is_added_without_its_git_directory(
    server: GitServer, build: Build, out: Path
) -> None:
    repository = server.make("r", {"file": "one\n", "d/run": "#!\n"})
    (repository.path / "d/run").chmod(0o755)
    (repository.path / "link").symlink_to("file")
    repository.commit({"file": "two\n"}, tag="v1")
    repository.commit({"file": "three\n"})
    url = server.url("/r.git")
    build(f"ADD {url} /head/\nADD {url}#v1 /tag\nADD {url}#main:d /sub\n").expect()
    assert (out / "head/file").read_text() == "three\n"
    assert (out / "tag/file").read_text() == "two\n"
    assert os.readlink(out / "tag/link") == "file"
    assert [path.name for path in (out / "sub").iterdir()] == ["run"]
    assert (out / "sub/run").stat().st_mode & 0o7777 == 0o755
    assert (out / "tag/file").stat().st_mode & 0o7777 == 0o644
    assert (out / "tag/file").stat().st_mtime == _SECONDS
    assert not (out / "head/.git").exists()


def test_query_says_what_is_wanted(server: GitServer, build: Build, out: Path) -> None:
    repository = server.make("r", {"d/file": "one\n"})
    first = repository.head()
    git("branch", "same", cwd=repository.path)
    git("update-ref", "refs/pull/7/head", first, cwd=repository.path)
    last = repository.commit({"d/file": "two\n"})
    git("tag", "same", cwd=repository.path)
    url = server.url("/r.git")
    build(
        f"ADD {url}?branch=same /branch\nADD {url}?tag=same&subdir=d /tag\n"
        f"ADD {url}?ref=pull/7/head /ref\nADD {url}#{first} /commit\n"
        f"ADD {url}?checksum={last[:12]} /checked\nADD --checksum={first} {url}#same /flag\n"
        f"ADD {url}#{first[:9]} /short\nADD {url}?commit={first} /pinned\n"
    ).expect()
    for name in ("branch", "ref", "commit", "flag", "short", "pinned"):
        assert (out / name / "d/file").read_text() == "one\n", name
    assert (out / "tag/file").read_text() == (out / "checked/d/file").read_text() == "two\n"


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("#none", "no branch or tag none"),
        ("#:none", "no directory none"),
        ("?checksum=0000000", "not 0000000"),
        ("?unknown=1", "unknown"),
        ("#--upload-pack=touch", "no name of a branch"),
    ],
)
def test_what_is_not_there_is_an_error(
    server: GitServer, build: Build, rest: str, said: str
) -> None:
    server.make("r", {"file": ""})
    done = build(f"ADD {server.url('/r.git')}{rest} /x")
    assert done.code == 1 and said in done.err and "Traceback" not in done.err


def test_step_is_known_by_its_commit(server: GitServer, build: Build) -> None:
    repository = server.make("r", {"file": os.urandom(8).hex()})
    url = server.url("/r.git")
    build(f"ADD {url} /x").expect()
    asked = len(server.asked)
    assert "CACHED" in build(f"ADD {url} /x").expect().err
    assert all("upload-pack" not in one.path.partition("?")[0] or one.path.endswith("upload-pack")
               for one in server.asked[asked:])  # fmt: skip
    asked = len(server.asked)
    assert "CACHED" in build(f"ADD {url}#{repository.head()} /x").expect().err
    assert len(server.asked) == asked  # a commit is what it is: nobody has to be asked
    repository.commit({"file": "new"})
    assert "CACHED" not in build(f"ADD {url} /x").expect().err


def test_git_directory_is_kept_if_asked_for(server: GitServer, build: Build, out: Path) -> None:
    repository = server.make("r", {"file": "one\n"})
    commit = repository.commit({"file": "two\n"}, tag="v1")
    url = server.url("/r.git")
    build(f"ADD --keep-git-dir {url}#v1 /a\nADD {url}?keep-git-dir=1 /b").expect()
    for name in ("a", "b"):
        assert git("rev-parse", "HEAD", cwd=out / name) == commit
        assert git("status", "--porcelain", cwd=out / name) == ""
        assert git("config", "remote.origin.url", cwd=out / name) == url
        assert not list((out / name / ".git/hooks").glob("*"))
    assert git("describe", "--tags", cwd=out / "a") == "v1"


def test_submodules_come_along(server: GitServer, build: Build, out: Path) -> None:
    deep = server.make("deep", {"deep": "deep\n"})
    below = server.make("below", {"below": "below\n"})
    below.link("deep", deep.head(), "./../deep.git")
    top = server.make("top", {"top": "top\n"})
    top.link("mods/below", below.head(), server.url("/below.git"))
    url = server.url("/top.git")
    build(f"ADD {url} /all\nADD {url}?submodules=false /one").expect()
    assert (out / "all/mods/below/below").read_text() == "below\n"
    assert (out / "all/mods/below/deep/deep").read_text() == "deep\n"
    assert not list((out / "all").rglob(".git"))
    assert not (out / "one/mods/below/below").exists()


def test_repository_is_a_context(server: GitServer, build: Build, out: Path) -> None:
    repository = server.make(
        "r",
        {
            "Dockerfile": "FROM scratch\nCOPY . /\n",
            "d/Dockerfile": "FROM scratch\nCOPY --from=more file /\n",
            "d/.dockerignore": "*",
            "d/file": "sub\n",
        },
    )
    url = server.url("/r.git")
    build("", context=url).expect()
    assert (out / "d/file").exists() and not (out / ".git").exists()
    build("", f"--build-context=more={url}#main:d", context=f"{url}#main:d").expect()
    assert (out / "file").read_text() == "sub\n"
    build("", "--build-arg=BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", context=url).expect()
    assert git("rev-parse", "HEAD", cwd=out) == repository.head()
    build("", "-f", "d/Dockerfile", f"--build-context=more={url}#:d", context=url).expect()
    assert "no branch or tag none" in build("", context=f"{url}#none").err


def test_time_of_the_commit_is_that_of_the_build(
    server: GitServer, build: Build, out: Path, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/new").write_text("")
    text = "ARG SOURCE_DATE_EPOCH=context\nFROM scratch\nCOPY --from=more new /\n"
    server.make("r", {"Dockerfile": text})
    build("", f"--build-context=more={tmp_path}/more", context=server.url("/r.git")).expect()
    assert (out / "new").stat().st_mtime == _SECONDS
    done = build("WORKDIR /new", "--build-arg=SOURCE_DATE_EPOCH=context")
    assert done.code == 1 and "no git repository" in done.one_line_error()


class _Daemon(socketserver.ThreadingTCPServer):
    """git-daemon(1), started for each connection."""

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.command = ["git", "daemon", "--inetd", "--export-all", f"--base-path={directory}"]

    def finish_request(self, request: Any, client_address: Any) -> None:
        subprocess.run(self.command, stdin=request, stdout=request, check=False)


def test_repository_over_the_protocol_of_git(
    server: GitServer, build: Build, out: Path, tmp_path: Path
) -> None:
    repository = server.make("r", {"d/file": "one\n"})
    first = repository.head()
    repository.commit({"d/file": "two\n"}, tag="v2")
    with _Daemon(tmp_path / "git/work") as daemon:
        threading.Thread(target=daemon.serve_forever, daemon=True).start()
        url = f"git://127.0.0.1:{daemon.server_address[1]}/r"
        try:
            build(f"ADD {url} /head/\nADD {url}#v2:d /tag\nADD {url}#{first} /commit\n").expect()
            done = build(f"ADD {url}x /x\n")
        finally:
            daemon.shutdown()
    assert (out / "head/d/file").read_text() == (out / "tag/file").read_text() == "two\n"
    assert (out / "commit/d/file").read_text() == "one\n"
    assert done.code == 1 and "git ls-remote" in done.err.splitlines()[-1]


def test_dumb_server_is_enough(build: Build, tmp_path: Path, out: Path, server: GitServer) -> None:
    """A plain web server: no shallow fetch, no commit by its digest."""
    repository = server.make("r", {"file": "one\n"})
    first = repository.head()
    repository.commit({"file": "two\n"})
    git("update-server-info", cwd=repository.path)
    with WebServer() as web:
        for path in (repository.path / ".git").rglob("*"):
            if path.is_file():
                name = path.relative_to(repository.path / ".git")
                web.pages[f"/r.git/{name}"] = Page(path.read_bytes())
        build(f"ADD {web.url('/r.git')} /a\nADD {web.url('/r.git')}#{first} /b").expect()
    assert (out / "a/file").read_text() == "two\n" and (out / "b/file").read_text() == "one\n"


def test_secret_goes_to_its_server_and_to_nobody_else(
    server: GitServer, build: Build, tmp_path: Path
) -> None:
    token = base64.b64encode(b"x-access-token:s3cret").decode()
    server.password = f"Basic {token}"
    server.make("r", {"file": ""})
    (tmp_path / "other").mkdir()
    with GitServer(tmp_path / "other") as other:
        theirs = other.make("theirs", {"file": ""})
        mine = server.make("mine", {"file": ""})
        mine.link("theirs", theirs.head(), other.url("/theirs.git"))
        secret = ("--secret=id=GIT_AUTH_TOKEN,env=TOKEN", "--no-cache")
        env = {"TOKEN": "s3cret"}
        done = build(f"ADD {server.url('/mine.git')} /x", *secret, env=env).expect()
        server.redirects["/moved.git"] = other.url("/theirs.git")
        moved = build(f"ADD {server.url('/moved.git')} /x", *secret, env=env)
        assert other.asked and all("Authorization" not in one.headers for one in other.asked)
        assert "s3cret" not in done.err + moved.err and token not in done.err + moved.err
        moved.expect()
        kept = build(f"ADD --keep-git-dir {server.url('/r.git')} /x", *secret, env=env).expect()
        assert kept.code == 0
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert b"s3cret" not in path.read_bytes() and token.encode() not in path.read_bytes()
    refused = build(f"ADD {server.url('/r.git')} /x", "--no-cache")
    assert refused.code == 1 and "401" in refused.err and "GIT_AUTH_TOKEN" in refused.err
    header = f"--secret=id=GIT_AUTH_HEADER.{server.host},env=HEADER"
    build(f"ADD {server.url('/r.git')} /x", header, env={"HEADER": server.password}).expect()


@pytest.mark.parametrize(
    "url",
    ["file://{tmp}/git/work/r/.git", "{tmp}/git/work/r/.git", "ext::sh -c touch% {tmp}/pwned",
     "-u./evil", "ssh://-oProxyCommand=touch%20{tmp}/pwned/x"],
)  # fmt: skip
def test_submodule_cannot_name_anything_but_servers(
    seen_server: GitServer, build: Build, seen: Path, url: str
) -> None:
    repository = seen_server.make("r", {"file": ""})
    commit = repository.head()
    repository.link("sub", commit, url.format(tmp=seen))
    done = build(f"ADD {seen_server.url('/r.git')} /x")
    assert done.code == 1 and "submodule sub" in done.err
    assert not (seen / "pwned").exists()


def test_submodule_is_never_behind_a_link(tmp_path: Path) -> None:
    """Git makes no such tree, of what entries ever; a later one of it might."""
    (tmp_path / "root").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path)
    for path in ("link/sub", "link", "none"):
        with pytest.raises(RlessError):
            checkout._check_directory(str(tmp_path / "root"), path)


def test_nothing_of_the_repository_or_the_user_is_run(
    seen_server: GitServer, build: Build, seen: Path, out: Path
) -> None:
    """Filters, hooks, drivers: of the tree, of the user's and the system's configuration."""
    touch = f"touch {seen}/pwned; cat"
    (seen / "home").mkdir()
    (seen / "home/.gitconfig").write_text(
        f'[filter "lfs"]\n\tsmudge = {touch}\n\tprocess = {touch}\n\trequired = true\n'
        f"[core]\n\thooksPath = {seen}/hooks\n\tfsmonitor = {touch}\n\tsshCommand = {touch}\n"
        f'[url "file://{seen}/git/work/other/.git"]\n\tinsteadOf = http://\n'
        f"[credential]\n\thelper = !{touch}\n"
    )
    (seen / "hooks").mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (seen / "hooks" / name).write_text(f"#!/bin/sh\n{touch}\n")
        (seen / "hooks" / name).chmod(0o755)
    seen_server.make("other", {"file": "other\n"})
    seen_server.make("r", {".gitattributes": "* filter=lfs\n", "file": "pointer\n"})
    build(f"ADD {seen_server.url('/r.git')} /x", env={"HOME": f"{seen}/home"}).expect()
    assert (out / "x/file").read_text() == "pointer\n"
    assert not (seen / "pwned").exists()


def test_links_of_a_repository_lead_nowhere(
    server: GitServer, build: Build, tmp_path: Path, out: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /was-read\n")
    repository = server.make("r", {"file": ""})
    (repository.path / "up").symlink_to(tmp_path / "outside")
    repository.commit({})
    url = server.url("/r.git")
    done = build(f"ADD {url}#:up /x")
    assert done.code == 1 and "no directory up" in done.err
    assert build("", context=f"{url}#:up").code == 1
    assert build("", "-f", "up/Dockerfile", context=url).code == 1
    build(f"ADD {url} /x").expect()
    assert (out / "x/up").is_symlink()


def test_redirect_of_a_repository_leads_to_servers_only(server: GitServer, build: Build) -> None:
    server.make("r", {"file": ""})
    server.redirects["/moved.git"] = "file:///etc"
    server.redirects["/loop.git"] = server.url("/loop.git")
    for name in ("moved", "loop"):
        done = build(f"ADD {server.url(f'/{name}.git')} /x")
        assert done.code == 1 and ("redirects" in done.err or "is spoken" in done.err)


def test_git_has_no_home_no_storage_and_no_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not in /tmp, which is the work directory to git.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as above:
        for name, variable in _HIDDEN.items():
            os.makedirs(f"{above}/{name}/work")
            os.chmod(f"{above}/{name}", 0o700)
            monkeypatch.setenv(variable, f"{above}/{name}")
        monkeypatch.setenv("TOKEN", "s3cret")
        idmap = build_single(0, 0)
        said = call_in_userns(idmap, _look_around, f"{above}/store/work", above)
    assert said.split() == [
        "CapEff:",
        "0" * 16,
        "NoNewPrivs:",
        "1",
        "token:",
        *(f"{name}:" for name in _HIDDEN),
    ]


def _look_around(work: str, above: str) -> str:
    probe = (
        "!grep -e CapEff -e NoNewPrivs /proc/self/status; echo token:$TOKEN;"
        f"for name in home run store; do echo $name:; ls -A {above}/$name; done"
    )
    return walls.Git(work, False)("-c", f"alias.probe={probe}", "probe").decode()


def test_tree_that_repeats_itself_is_refused(server: GitServer, build: Build) -> None:
    """Ten trees of ten times the same make ten thousand million files."""
    repository = server.make("r", {"file": ""})
    blob = git("hash-object", "-w", "file", cwd=repository.path)
    tree = _tree(repository.path, "100644 blob", blob)
    for _ in range(9):
        tree = _tree(repository.path, "040000 tree", tree)
    commit = git("commit-tree", "-m", "bomb", tree, cwd=repository.path)
    git("update-ref", "refs/heads/bomb", commit, cwd=repository.path)
    done = build(f"ADD {server.url('/r.git')}#bomb /x", timeout=120)
    assert done.code == 1 and "more than 1000000 files" in done.err


def test_files_that_do_not_fit_are_not_written(
    server: GitServer, build: Build, out: Path
) -> None:
    server.make("r", {"file": "x" * 2000})
    done = build(f"ADD {server.url('/r.git')} /x", env={"RLESS_IMAGES_LIMITS_LAYER_BYTES": "1000"})
    assert done.code == 1 and "no room for its files" in done.err and not out.exists()


def _tree(path: Path, kind: str, digest: str) -> str:
    lines = "".join(f"{kind} {digest}\tf{number}\n" for number in range(10))
    done = subprocess.run(
        ["git", "mktree"], input=lines.encode(), cwd=path, check=True, capture_output=True
    )
    return done.stdout.decode().strip()


def test_missing_git_names_the_package(
    server: GitServer, build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rootless.engine.build.remote.places import Repository
    from rootless.linux import programs

    monkeypatch.setattr(programs, "find", lambda name: None)
    with pytest.raises(RlessError) as raised:
        checkout.Checkout(Repository("https://h/r.git"), str(tmp_path / "git"), {}).find()
    assert "git is not installed" in raised.value.message
    assert raised.value.hint == "install the package git"


def test_network_of_none_and_the_site_forbid_it(server: GitServer, build: Build) -> None:
    server.make("r", {"Dockerfile": "FROM scratch\n"})
    url = server.url("/r.git")
    env = {"RLESS_BUILD_ADD_URL": "false"}
    for done in (
        build(f"ADD {url} /x", "--network=none"),
        build(f"ADD {url} /x", env=env),
        build("", context=url, env=env),
    ):
        assert done.code == 1
    assert not server.asked
