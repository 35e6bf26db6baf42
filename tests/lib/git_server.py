"""Git repositories of a test, and a server of them: smart HTTP by `git http-backend`.

with GitServer(directory) as server:
    repository = server.make("r", {"file": "text\\n"})   # with one commit on main
    repository.commit({"file": "more\\n"}, tag="v1")
    ... server.url("/r.git") ...
    assert server.asked[0].path == "/r.git/info/refs?service=git-upload-pack"
"""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
from pathlib import Path
from types import TracebackType

from tests.lib.web_server import Asked

_TIME = "1420070400 +0000"


def git(*words: str, cwd: Path) -> str:
    """Run git with no configuration; return its output."""
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_NAME": "test" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "test@invalid" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_DATE": _TIME for who in ("AUTHOR", "COMMITTER")},
    }
    done = subprocess.run(["git", *words], cwd=cwd, env=env, check=True, capture_output=True)
    return done.stdout.decode().strip()


class Repository:
    """A repository with a work tree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        git("init", "-q", "-b", "main", cwd=path)
        git("config", "http.receivepack", "false", cwd=path)

    def commit(self, files: dict[str, str], tag: str = "") -> str:
        """Add files to a new commit; return it."""
        for name, text in files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text)
        git("add", "-A", cwd=self.path)
        git("commit", "-q", "--allow-empty", "-m", "change", cwd=self.path)
        if tag:
            git("tag", "-a", "-m", tag, tag, cwd=self.path)
        return self.head()

    def head(self) -> str:
        """Return the last commit."""
        return git("rev-parse", "HEAD", cwd=self.path)

    def link(self, path: str, commit: str, url: str) -> str:
        """Add a submodule by hand, whatever its URL; return the commit."""
        modules = self.path / ".gitmodules"
        before = modules.read_text() if modules.exists() else ""
        modules.write_text(f'{before}[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n')
        git("add", ".gitmodules", cwd=self.path)
        git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}", cwd=self.path)
        git("commit", "-q", "-m", "link", cwd=self.path)
        return self.head()


class GitServer:
    """Serves the repositories that it made; with a password, only to who sends that."""

    def __init__(self, directory: Path, password: str = "") -> None:
        self.directory = directory
        self.password = password  # the value of Authorization
        self.asked: list[Asked] = []
        self.redirects: dict[str, str] = {}  # prefix of a path -> of a URL
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def make(self, name: str, files: dict[str, str]) -> Repository:
        """Make a repository, which is served as /NAME.git."""
        made = Repository(self.directory / "work" / name)
        (self.directory / "served").mkdir(exist_ok=True)
        (self.directory / "served" / f"{name}.git").symlink_to(made.path / ".git")
        made.commit(files)
        return made

    def url(self, path: str) -> str:
        """Return the URL of a repository."""
        return f"http://{self.host}{path}"

    def __enter__(self) -> GitServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the library's name
                self._answer(b"")

            def do_POST(self) -> None:  # the library's name
                length = self.headers.get("Content-Length")
                self._answer(self.rfile.read(int(length)) if length else self._chunks())

            def _chunks(self) -> bytes:
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data

            def _answer(self, body: bytes) -> None:
                server.asked.append(Asked(self.path, dict(self.headers.items())))
                for prefix, target in server.redirects.items():
                    if self.path.startswith(prefix):
                        self.send_response(302)
                        self.send_header("Location", target + self.path.removeprefix(prefix))
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                if server.password and self.headers.get("Authorization") != server.password:
                    self.send_response(401)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                head, _, data = self._backend(body).partition(b"\r\n\r\n")
                status, headers = 200, []
                for line in head.decode().split("\r\n"):
                    name, _, value = line.partition(": ")
                    if name == "Status":
                        status = int(value.split()[0])
                    elif name:
                        headers.append((name, value))
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _backend(self, body: bytes) -> bytes:
                path, _, query = self.path.partition("?")
                env = {
                    "PATH": "/usr/bin:/bin",
                    "GIT_CONFIG_NOSYSTEM": "1",
                    "GIT_PROJECT_ROOT": str(server.directory / "served"),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "REQUEST_METHOD": self.command,
                    "PATH_INFO": path,
                    "QUERY_STRING": query,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "CONTENT_LENGTH": str(len(body)),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "REMOTE_ADDR": "127.0.0.1",
                    "HOME": os.devnull,
                }
                command = ["git", "http-backend"]
                done = subprocess.run(
                    command, input=body, env=env, capture_output=True, check=False
                )
                return done.stdout

            def log_message(self, *_: object) -> None:
                pass

        return Handler
