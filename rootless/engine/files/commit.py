"""`commit`: make an image of a container and its changes.

The changes are written as a tar, with whiteouts. It goes through the same reader and unpacker as a
pulled layer (`image.layer.create`), so the new image is run, saved and pushed like any other. As in
Docker, the config is the image's with the options of `run`, and the `--change` instructions on top.
Volumes are not included. Nothing is in the store before the whole image is there.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rootless import paths
from rootless.engine.exec.healthcheck import image_form
from rootless.engine.files import rootfs_access
from rootless.engine.files.diff import parts_of
from rootless.engine.request import as_words
from rootless.engine.state.container import find
from rootless.engine.state.events import of_container
from rootless.errors import RlessError
from rootless.image.config.dockerfile_changes import apply
from rootless.image.layer import create
from rootless.image.layer.archiver import Archiver
from rootless.image.layer.changes import changes
from rootless.image.layer.tar_writer import TarWriter
from rootless.image.model.reference import parse_name
from rootless.image.registry.progress import Progress
from rootless.image.store import records
from rootless.image.store.staging import Staging, store_lock
from rootless.image.store.store import Store
from rootless.image.transfer import additional_stores
from rootless.image.transfer.record import read_metas, record
from rootless.image.transfer.remove import collect

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from rootless.engine.state.container import Container
    from rootless.image.model.reference import Reference
    from rootless.image.store.store import Image
    from rootless.rootfs.stored import Part


def commit(
    reference: str,
    name: str | None,
    *,
    author: str = "",
    message: str = "",
    change: Sequence[str] = (),
    pause: bool = True,
) -> str:
    """Make an image of a container; return its id.

    Args:
        name: what to call it; None: it gets an id only.
        change: instructions of a Dockerfile for the config.
        pause: halt a running container while its files are read.

    Raises:
        RlessError: no such container, one without an image, a bad change, no room.
    """
    container = find(reference)
    named = None if name is None else parse_name(name)
    kind = rootfs_access.source_kind(container)
    if kind != "layers":
        made_of = {"host": "host:", "squashfs": "a file"}.get(kind, "--rootfs")
        raise RlessError(
            f"container {container.facts['name']} has no image to commit on: it is made of "
            f"{made_of}",
            "`rless export` writes its files",
            1,
        )
    store = Store(paths.storage_root())
    image = store.lookup(container.facts["image_id"] or "")
    if image is None:
        raise RlessError(
            f"the image of container {container.facts['name']} is not there any more", None, 1
        )
    config = apply(_container_config(container, image), change)
    chains: set[str] = set()
    try:
        with _halted(container, pause), store_lock(store.root), Staging(store.root) as staging:
            records.make_frame(store.root)
            made = _make(store, image, container, staging.path, chains)
            history = {"created_by": _created_by(container), "comment": message, "author": author}
            return _record(store, image, container, named, made, config, history, staging.path)
    except RlessError:
        collect(store, chains)
        raise


class _halted:  # noqa: N801
    """Keeps a running container paused during a `with` block, if that is requested."""

    def __init__(self, container: Container, wanted: bool) -> None:
        self.container = container
        self.wanted = wanted and container.init() is not None

    def __enter__(self) -> None:
        if self.wanted:
            from rootless.engine.manage import pause

            if pause.is_paused(self.container):
                self.wanted = False
                return
            pause.pause(self.container)

    def __exit__(self, *_: object) -> None:
        if self.wanted and self.container.init() is not None:
            from rootless.engine.manage import pause

            pause.unpause(self.container)


# -- the layer -----------------------------------------------------------------------------------


def _make(
    store: Store, image: Image, container: Container, scratch: str, chains: set[str]
) -> dict[str, Any]:
    idmap = container.idmap()
    if image.root != store.root:
        additional_stores.adopt(image, store.root, scratch)
        additional_stores.provide(store.root, idmap, image.chain, scratch)
    layers, _ = rootfs_access.image_layers(container)
    find_parts, hidden = parts_of(container), rootfs_access.mount_targets(container)

    def write(out: int) -> None:
        _write(find_parts, hidden, out)

    progress = Progress(lines=False)
    name = container.facts["name"]

    def told(chunks: Iterable[bytes]) -> Iterator[bytes]:
        return progress.through(name, ("Committing", "Committed"), chunks)

    made = create.make(store.root, idmap, image.chain, layers, write, scratch, told)
    chains.add(made["chain"])
    return made


def _write(find_parts: Callable[[], list[Part]], hidden: Collection[bytes], out: int) -> None:
    """Write the changes of a container as the tar of a layer."""
    writer = TarWriter(out)
    archiver = Archiver(writer)
    for part in find_parts():
        archiver.changes(changes(part, hidden))
    writer.end()


# -- the config ----------------------------------------------------------------------------------


def _container_config(container: Container, image: Image) -> dict[str, Any]:
    """Return the image's config with what the container was made with."""
    config, facts = dict(image.config), container.facts
    request = facts.get("request") or {}
    environment = dict.fromkeys(config.get("Env") or ())
    for entry in request.get("env") or ():
        key = entry.partition("=")[0]
        environment = {old: None for old in environment if old.partition("=")[0] != key}
        environment[entry] = None
    removed = set(request.get("env_remove") or ())
    config["Env"] = [entry for entry in environment if entry.partition("=")[0] not in removed]
    if request.get("entrypoint") is not None:
        config["Entrypoint"] = as_words(request["entrypoint"]) or None
        config.pop("Cmd", None)
    if request.get("command"):
        config["Cmd"] = list(request["command"])
    for field, value in (
        ("User", request.get("user")),
        ("WorkingDir", request.get("workdir")),
        ("StopSignal", request.get("stop_signal")),
    ):
        if value:
            config[field] = value
    config["Labels"] = {**(config.get("Labels") or {}), **(request.get("labels") or {})}
    ports = [port.rpartition("->")[2] for port in facts["ports"]] + facts["exposed"]
    config["ExposedPorts"] = {port: {} for port in sorted(set(ports))}
    volumes = [mount["target"] for mount in facts["mounts"] if mount["anonymous"]]
    config["Volumes"] = {**{target: {} for target in volumes}, **(config.get("Volumes") or {})}
    if any(value for name, value in request.items() if name.startswith("health_")):
        config["Healthcheck"] = image_form(facts["health"])
    if request.get("no_healthcheck"):
        config["Healthcheck"] = image_form(None, refused=True)
    return {key: value for key, value in config.items() if value not in ({}, [])}


def _created_by(container: Container) -> str:
    return " ".join(container.facts["command"])


def _record(
    store: Store,
    image: Image,
    container: Container,
    name: Reference | None,
    made: dict[str, Any],
    config: dict[str, Any],
    history: dict[str, str],
    scratch: str,
) -> str:
    """Write the config and the records; return the image's id."""
    root, key = store.root, container.facts["idmap"]["key"]
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    data = records.get_blob(image.root, image.id)
    if data is None:
        raise RlessError(f"the config of image {image.id[7:19]} is gone", "pull it again", 1)
    old: dict[str, Any] = json.loads(data)
    step = {"created": now, **{field: value for field, value in history.items() if value}}
    document: dict[str, Any] = {
        "created": now,
        **{field: old[field] for field in ("architecture", "os", "variant") if field in old},
        "config": config,
        "rootfs": {
            "type": "layers",
            "diff_ids": [*old["rootfs"]["diff_ids"], made["diff_id"]],
        },
        "history": [*(old.get("history") or ()), step],
    }
    if history["author"]:
        document["author"] = history["author"]
    metas = read_metas(root, key, [*image.chain, made["chain"]])
    identifier = record(store, key, document, metas, [name] if name else [], scratch)
    shown = name.familiar if name is not None else ""
    of_container("commit", container, imageID=identifier, imageRef=shown)
    return identifier
