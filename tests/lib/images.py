"""Make images in tests: layers from Python values, archives, layouts, and a loopback registry.

image = Image([layer({"etc/motd": "hello\n", "bin/sh": Link("busybox")})], {"Cmd": ["/bin/sh"]})
write_docker_archive(image, path); write_oci_archive(image, path); write_oci_layout(image, path)
with registry() as host:                  # "127.0.0.1:PORT"
    push(image, f"{host}/team/app:1.0")
busybox_image()                           # a real one, of the static busybox of this machine
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import gzip
import hashlib
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MTIME = 1_500_000_000
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LAYER_TYPES = {
    "none": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}


# -- layers ----------------------------------------------------------------------------------


@dataclass
class Entry:
    """One member of a layer; the subclasses say which kind."""

    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = MTIME
    xattrs: dict[str, bytes] = field(default_factory=dict)
    kind = tarfile.REGTYPE

    def fill(self, info: tarfile.TarInfo) -> bytes:
        """Set what only this kind has; return the data."""
        return b""


@dataclass
class File(Entry):
    """A regular file."""

    content: bytes | str = b""

    def __init__(self, content: bytes | str = b"", **attributes: Any) -> None:
        super().__init__(**attributes)
        self.content = content

    def fill(self, info: tarfile.TarInfo) -> bytes:
        """Return the content."""
        if isinstance(self.content, bytes):
            return self.content
        return self.content.encode("utf-8", "surrogateescape")


@dataclass
class Dir(Entry):
    """A directory."""

    mode: int = 0o755
    kind = tarfile.DIRTYPE


class _Link(Entry):
    def __init__(self, target: str, **attributes: Any) -> None:
        super().__init__(**({"mode": 0o777} | attributes))
        self.target = target

    def fill(self, info: tarfile.TarInfo) -> bytes:
        """Set the target."""
        info.linkname = self.target
        return b""


class Link(_Link):
    """A symbolic link."""

    kind = tarfile.SYMTYPE


class Hard(_Link):
    """A hard link to another member."""

    kind = tarfile.LNKTYPE


class Fifo(Entry):
    """A named pipe."""

    kind = tarfile.FIFOTYPE


@dataclass
class Device(Entry):
    """A character or block device."""

    major: int = 1
    minor: int = 3
    block: bool = False

    def fill(self, info: tarfile.TarInfo) -> bytes:
        """Set kind and numbers."""
        info.type = tarfile.BLKTYPE if self.block else tarfile.CHRTYPE
        info.devmajor, info.devminor = self.major, self.minor
        return b""


Value = Entry | bytes | str | None
Entries = Mapping[str, Value] | Sequence[tuple[str, Value]]


def layer(entries: Entries) -> bytes:
    """Return the tar of a layer.

    Args:
        entries: name -> what it is, in order; as pairs where a name comes twice. Text or bytes
            mean a file, None a directory. Names are taken as they are: hostile ones too.
    """
    buffer = io.BytesIO()
    pairs = entries.items() if isinstance(entries, Mapping) else entries
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, given in pairs:
            value = Dir() if given is None else given
            if isinstance(value, (bytes, str)):
                value = File(value)
            info = tarfile.TarInfo(name)
            info.type = value.kind
            info.mode, info.uid, info.gid = value.mode, value.uid, value.gid
            info.mtime = value.mtime  # type: ignore[assignment]
            for key, data in value.xattrs.items():
                text = data.decode("utf-8", "surrogateescape")
                info.pax_headers[f"SCHILY.xattr.{key}"] = text
            data = value.fill(info)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def whiteout(path: str) -> dict[str, bytes]:
    """Return the entry that deletes `path` of the layers below."""
    directory, name = os.path.split(path)
    return {os.path.join(directory, f".wh.{name}"): b""}


def opaque(directory: str) -> dict[str, bytes]:
    """Return the entry that hides all that the layers below have in a directory."""
    return {os.path.join(directory, ".wh..wh..opq"): b""}


# -- images ----------------------------------------------------------------------------------


class Image:
    """An image in memory.

    Args:
        layers: tars, bottom first, as `layer` makes them.
        config: the container config: Cmd, Env, User, ...
        compression: of the layers: "gzip", "zstd" or "none".
        document: overrides fields of the config document, as {"architecture": "arm64"}.
    """

    def __init__(
        self,
        layers: Sequence[bytes],
        config: Mapping[str, Any] | None = None,
        *,
        compression: str = "gzip",
        architecture: str | None = None,
        document: Mapping[str, Any] | None = None,
    ) -> None:
        self.layers = list(layers)
        self.blobs = [compress(data, compression) for data in self.layers]
        self.architecture = architecture or _host_architecture()
        self.config_data = json.dumps(
            {
                "architecture": self.architecture,
                "os": "linux",
                "created": "2017-07-14T02:40:00Z",
                "config": dict(config or {}),
                "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in self.layers]},
                "history": [{"created_by": f"layer {n}"} for n in range(len(self.layers))],
            }
            | dict(document or {})
        ).encode()
        self.manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(self.config_data, OCI_CONFIG),
            "layers": [descriptor(blob, _LAYER_TYPES[compression]) for blob in self.blobs],
        }

    @property
    def id(self) -> str:
        """Return the digest of the config."""
        return digest(self.config_data)

    @property
    def manifest_data(self) -> bytes:
        """Return the manifest; `manifest` may be changed before to make a hostile one."""
        return json.dumps(self.manifest).encode()

    @property
    def digest(self) -> str:
        """Return the digest of the manifest."""
        return digest(self.manifest_data)

    @property
    def platform(self) -> dict[str, str]:
        """Return the platform as an index has it."""
        return {"os": "linux", "architecture": self.architecture}

    def all_blobs(self) -> dict[str, bytes]:
        """Return config and layers by digest."""
        return {digest(data): data for data in (self.config_data, *self.blobs)}


def digest(data: bytes) -> str:
    """Return "sha256:…"."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    """Return the descriptor of a blob."""
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


def compress(data: bytes, compression: str) -> bytes:
    """Return a layer as a registry would have it."""
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    return data


def index(images: Sequence[Image], **more: Any) -> bytes:
    """Return the index of several images, each for its own platform."""
    children = [
        descriptor(image.manifest_data, OCI_MANIFEST, platform=image.platform) for image in images
    ]
    return json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children, **more}
    ).encode()


def _host_architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


@functools.cache
def busybox_layer(other: Path | None = None) -> bytes:
    """Return a layer with the static busybox and its links, users and a few directories.

    `other` is the same busybox for another processor.
    """
    program = next(path for path in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(path))
    listed = subprocess.run([program, "--list"], check=True, capture_output=True, text=True)
    entries: dict[str, Value] = {
        "bin": Dir(),
        "bin/busybox": File(Path(other or program).read_bytes(), mode=0o755),
        **{f"bin/{name}": Link("busybox") for name in listed.stdout.split() if name != "busybox"},
        "dev": Dir(),
        "etc": Dir(),
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        "user:x:1000:1000:user:/home/user:/bin/sh\n",
        "etc/group": "root:x:0:\nwheel:x:10:root,user\nnogroup:x:65534:\nuser:x:1000:\n",
        "home": Dir(),
        "home/user": Dir(uid=1000, gid=1000),
        "proc": Dir(),
        "root": Dir(mode=0o700),
        "sys": Dir(),
        "tmp": Dir(mode=0o1777),
        "usr": Dir(),
        "usr/bin": Dir(),
        "usr/bin/env": Link("/bin/busybox"),
        "var": Dir(),
    }
    return layer(entries)


def busybox_image(
    more_layers: Sequence[bytes] = (),
    *,
    compression: str = "gzip",
    other: tuple[str, Path] | None = None,
    **config: Any,
) -> Image:
    """Return an image that runs; `config` as `User="user"`, `Entrypoint=[…]`.

    `other` is another architecture, and its busybox.
    """
    architecture, program = other or (None, None)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    settings = {"Env": [f"PATH={path}"], "Cmd": ["/bin/sh"]} | config
    layers = [busybox_layer(program), *more_layers]
    return Image(layers, settings, compression=compression, architecture=architecture)


# -- files -----------------------------------------------------------------------------------


def write_oci_layout(
    image: Image | Mapping[str, Image], directory: str | os.PathLike[str], tag: str = "latest"
) -> str:
    """Write an OCI layout; several images as {tag: image}. Return the directory."""
    images = image if isinstance(image, Mapping) else {tag: image}
    for path, data in _layout_files(images).items():
        target = Path(directory, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return os.fspath(directory)


def write_oci_archive(
    image: Image | Mapping[str, Image], path: str | os.PathLike[str], tag: str = "latest"
) -> str:
    """Write an OCI layout as a tar, as `skopeo copy … oci-archive:` does. Return the path."""
    images = image if isinstance(image, Mapping) else {tag: image}
    Path(path).write_bytes(layer(_layout_files(images)))
    return os.fspath(path)


def _layout_files(images: Mapping[str, Image]) -> dict[str, bytes]:
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    children = []
    for tag, image in images.items():
        blobs = image.all_blobs() | {image.digest: image.manifest_data}
        files |= {f"blobs/sha256/{name[7:]}": data for name, data in blobs.items()}
        annotations = {"org.opencontainers.image.ref.name": tag}
        children.append(descriptor(image.manifest_data, OCI_MANIFEST, annotations=annotations))
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": children}).encode()
    return files


def saved_members(path: Path) -> list[dict[str, tarfile.TarInfo]]:
    """Return the members of each layer of an archive that `save` has written, by their names."""
    layers = []
    with tarfile.open(path) as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        (image,) = json.loads(read("manifest.json"))
        for name in image["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(read(name))) as layer:
                layers.append({one.name: one for one in layer})
    return layers


def saved_layers(path: Path) -> list[dict[str, tuple[int, int]]]:
    """Return uid and gid of the files in each layer of such an archive."""
    return [
        {name: (one.uid, one.gid) for name, one in layer.items()} for layer in saved_members(path)
    ]


def write_docker_archive(
    image: Image | Mapping[str, Image],
    path: str | os.PathLike[str],
    tag: str = "test:latest",
) -> str:
    """Write what `docker save` writes; several images as {tag: image}. Return the path."""
    images = image if isinstance(image, Mapping) else {tag: image}
    files: dict[str, bytes] = {}
    entries = []
    for name, one in images.items():
        names = [f"{digest(data)[7:]}/layer.tar" for data in one.layers]
        files |= dict(zip(names, one.layers, strict=True))
        files[f"{one.id[7:]}.json"] = one.config_data
        entries.append({"Config": f"{one.id[7:]}.json", "RepoTags": [name], "Layers": names})
    files["manifest.json"] = json.dumps(entries).encode()
    Path(path).write_bytes(layer(files))
    return os.fspath(path)


# -- a registry --------------------------------------------------------------------------------


def registries_conf(host: str, name: str) -> str:
    """Return a registries.conf that has a repository of docker.io in a registry of the test."""
    return (
        'unqualified-search-registries = ["docker.io"]\n'
        f'[[registry]]\nprefix = "docker.io/{name}"\n'
        f'location = "{host}/{name}"\ninsecure = true\n'
    )


@contextlib.contextmanager
def registry(
    *,
    users: Mapping[str, str] | None = None,
    tls: Mapping[str, Any] | None = None,
    token: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Run the distribution's docker-registry on a free loopback port; yield "127.0.0.1:PORT".

    Args:
        users: name -> password for basic authentication.
        tls, token: sections http.tls and auth.token of its configuration.
    """
    program = shutil.which("docker-registry") or "/usr/bin/docker-registry"
    with tempfile.TemporaryDirectory(prefix="rless-registry-") as directory:
        port = free_port()
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": f"{directory}/data"}},
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        if users:
            Path(directory, "htpasswd").write_text(
                "".join(f"{name}:{_bcrypt(password)}\n" for name, password in users.items())
            )
            config["auth"] = {"htpasswd": {"realm": "test", "path": f"{directory}/htpasswd"}}
        if tls:
            config["http"]["tls"] = tls
        if token:
            config["auth"] = {"token": token}
        Path(directory, "config.yml").write_text(json.dumps(config))  # JSON is YAML
        with open(f"{directory}/log", "wb") as log:
            process = subprocess.Popen(
                [program, "serve", f"{directory}/config.yml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # It would take REGISTRY_AUTH_FILE of a test for its own configuration.
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            )
        try:
            _wait_for(port, process, Path(directory, "log"))
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _bcrypt(password: str) -> str:
    """Return a bcrypt hash, the only kind that docker-registry takes, by libcrypt."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    made: bytes = library.crypt(password.encode(), b"$2b$05$abcdefghijklmnopqrstuu")
    return made.decode()


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"docker-registry did not start: {log.read_text()[-500:]}")


def push(image: Image | Sequence[Image], url: str, *, login: tuple[str, str] | None = None) -> str:
    """Push an image, or several as an index, to "HOST:PORT/NAME:TAG"; return the digest."""
    with contextlib.closing(http.client.HTTPConnection(url.partition("/")[0], timeout=30)) as link:
        return _push(image, url, login, link)


def _push(
    image: Image | Sequence[Image],
    url: str,
    login: tuple[str, str] | None,
    connection: http.client.HTTPConnection,
) -> str:
    host, _, rest = url.partition("/")
    name, _, tag = rest.rpartition(":")
    headers = {}
    if login:
        pair = base64.b64encode(":".join(login).encode()).decode()
        headers["Authorization"] = f"Basic {pair}"

    def send(method: str, path: str, body: bytes = b"", kind: str = "") -> str:
        more = {"Content-Type": kind} if kind else {}
        connection.request(method, path, body, headers | more)
        response = connection.getresponse()
        text = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {text!r}")
        return response.headers.get("Location", "")

    images = [image] if isinstance(image, Image) else list(image)
    for one in images:
        for blob_digest, data in one.all_blobs().items():
            place = send("POST", f"/v2/{name}/blobs/uploads/").removeprefix(f"http://{host}")
            mark = "&" if "?" in place else "?"
            send("PUT", f"{place}{mark}digest={blob_digest}", data, "application/octet-stream")
        target = tag if isinstance(image, Image) else one.digest
        kind = str(one.manifest.get("mediaType", OCI_MANIFEST))
        send("PUT", f"/v2/{name}/manifests/{target}", one.manifest_data, kind)
    if isinstance(image, Image):
        return image.digest
    data = index(images)
    send("PUT", f"/v2/{name}/manifests/{tag}", data, OCI_INDEX)
    return digest(data)
