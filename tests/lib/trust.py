"""Signed images in tests: keys in homes of their own, a site's policy, and skopeo's verdict.

with gpg_home() as keys:
    keys.make("good"); message = keys.sign("good", payload(digest, name))
site = Site(tmp_path, monkeypatch)         # a home with a policy, and a lookaside directory
site.demand("127.0.0.1:5000", site.signed_by(keys, "good"))
site.put(name, digest, [message])
site.rless(name); site.skopeo(name)        # "" if the image is accepted, else why not
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rootless.engine.images import trust
from rootless.errors import RlessError
from rootless.image.trust.identity import parse_named

ACCEPT = {"type": "insecureAcceptAnything"}
REJECT = {"type": "reject"}


class Keys:
    """OpenPGP keys of one test module. Each is known by its name, and has no passphrase."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.fingerprints: dict[str, str] = {}

    def stop(self) -> None:
        """End the agent, which forgets all passphrases; the next command starts it again."""
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], capture_output=True)

    def gpg(self, *words: str, given: bytes | None = None) -> bytes:
        """Run gpg with these keys; return its output."""
        command = ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--quiet"]
        # An argument of the empty passphrase is no secret.
        command += ["--pinentry-mode", "loopback", "--passphrase", "", *words]
        done = subprocess.run(command, input=given, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def make(self, name: str, *options: str, usage: str = "sign", expires: str = "never") -> str:
        """Make a key; return its fingerprint."""
        who = f"{name}@example.org"
        self.gpg(*options, "--quick-gen-key", who, "ed25519", usage, expires)
        listed = self.gpg("--with-colons", "--list-keys", who).decode().splitlines()
        found = next(line.split(":")[9] for line in listed if line.startswith("fpr:"))
        self.fingerprints[name] = found
        return found

    def public(self, name: str, *options: str) -> Path:
        """Return a file with the public key."""
        path = self.home / f"{name}{len(options)}.pub"
        path.write_bytes(self.gpg(*options, "--export", self.fingerprints[name]))
        return path

    def revoke(self, name: str) -> None:
        """Revoke a key, by the certificate that was made with it."""
        fingerprint = self.fingerprints[name]
        certificate = (self.home / f"openpgp-revocs.d/{fingerprint}.rev").read_text()
        self.gpg("--import", given=certificate.replace(":-----BEGIN", "-----BEGIN").encode())

    def sign(self, name: str, document: bytes, *options: str) -> bytes:
        """Return a message with the document in it, signed by a key."""
        return self.gpg(
            *options, "--local-user", self.fingerprints.get(name, name), "--sign", given=document
        )


@contextlib.contextmanager
def gpg_home() -> Iterator[Keys]:
    """Yield an empty set of keys; its agent ends with it."""
    # Not below pytest's directory: the path of an agent's socket has at most 108 bytes.
    home = Path(tempfile.mkdtemp(prefix="gpg-"))
    keys = Keys(home)
    try:
        yield keys
    finally:
        keys.stop()
        shutil.rmtree(home, ignore_errors=True)


def payload(digest: str, name: str, **changes: Any) -> bytes:
    """Return what a simple signature signs.

    Args:
        changes: of the critical part.
    """
    critical = {
        "type": "atomic container signature",
        "image": {"docker-manifest-digest": digest},
        "identity": {"docker-reference": name},
        **changes,
    }
    optional = {"creator": "test", "timestamp": 1}
    return json.dumps({"critical": critical, "optional": optional}).encode()


class Site:
    """A home directory with a policy, registries.d, and a directory of signatures."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.lookaside = directory / "lookaside"
        self.containers = self.home / ".config/containers"
        (self.containers / "registries.d").mkdir(parents=True)
        self.lookaside.mkdir()
        monkeypatch.setenv("HOME", str(self.home))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        self.signatures_at(f"file://{self.lookaside}")

    def signatures_at(self, url: str, **more: Any) -> None:
        """Say where the signatures of all registries are."""
        entry = {"lookaside": url, "lookaside-staging": f"file://{self.lookaside}", **more}
        # JSON is YAML.
        text = json.dumps({"default-docker": entry})
        (self.containers / "registries.d/default.yaml").write_text(text)

    def demand(self, scope: str, *requirements: Any, transport: str = "docker") -> Path:
        """Write a policy that rejects all but this scope; return its file."""
        scopes = {transport: {scope: list(requirements)}}
        path = self.containers / "policy.json"
        path.write_text(json.dumps({"default": [REJECT], "transports": scopes}))
        return path

    def put(self, name: str, digest: str, signatures: Sequence[bytes]) -> Path:
        """Put signatures where the lookaside server has them; return their directory."""
        repository = parse_named(name).name.partition("/")[2]
        directory = self.lookaside / f"{repository}@{digest.replace(':', '=')}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for number, blob in enumerate(signatures, 1):
            (directory / f"signature-{number}").write_bytes(blob)
        return directory

    def rless(self, name: str) -> str:
        """Return why rless refuses an image, "" if it does not."""
        try:
            verdict = trust.check(name)
            verdict.demand()
        except RlessError as error:
            return str(error)
        return ""

    def skopeo(self, name: str) -> str:
        """Return why skopeo refuses an image, "" if it does not."""
        with tempfile.TemporaryDirectory() as scratch:
            source = name if ":/" in name else f"docker://{name}"
            done = subprocess.run(
                ["skopeo", "copy", "--src-tls-verify=false", source, f"dir:{scratch}/out"],
                capture_output=True,
                text=True,
                env={**os.environ, "HOME": str(self.home)},
            )
        assert done.returncode in (0, 1), done.stderr
        return "" if done.returncode == 0 else done.stderr


def signed_by(*paths: Path, **more: Any) -> dict[str, Any]:
    """Return a requirement; with several files, one of the keys is enough."""
    where: dict[str, Any] = {"keyPaths": list(map(str, paths))}
    if len(paths) == 1:
        where = {"keyPath": str(paths[0])}
    return {"type": "signedBy", "keyType": "GPGKeys", **where, **more}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def lookaside_server(directory: Path) -> Iterator[str]:
    """Serve a directory over HTTP on loopback; yield its URL."""
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
