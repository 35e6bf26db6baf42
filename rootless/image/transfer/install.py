"""Install: bring the image of an open source into the store, and keep its layers for each map.

The order is: find the documents; see what is missing; lock it, so that another pull of the same
layers waits and then shares; fetch; decide the id map; unpack; write the record. For the id map, a
named USER has to be looked up in layers that are not unpacked yet. The record is written last, so
that an image that can be found is complete.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

from rootless import log
from rootless.errors import RlessError, escape
from rootless.image.layer import layers as layer_store
from rootless.image.layer import remap_owners
from rootless.image.layer.tarsplit import has_split
from rootless.image.model import limits
from rootless.image.model.platforms import host_platform, parse_platform
from rootless.image.model.reference import Reference, parse
from rootless.image.registry.progress import Progress
from rootless.image.store import records
from rootless.image.store.downloads import Downloads
from rootless.image.store.staging import LayerLocks, Staging, store_lock
from rootless.image.store.store import (
    RECORD_VERSION,
    Image,
    Store,
    layer_dir,
    name_path,
    record_name,
)
from rootless.image.transfer import additional_stores
from rootless.image.transfer.remove import collect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rootless.image.layer import parallel_unpack
    from rootless.image.layer.layers import LayerBlob
    from rootless.image.model.platforms import PlatformRequest
    from rootless.image.model.source import Found, LayerSource, Source
    from rootless.linux.idmap import IdMap

    MapFor = Callable[[Image], IdMap]


def ensure_layers(image: Image, idmap: IdMap, store: Store, *, quiet: bool = False) -> list[str]:
    """Return the directories of the image's layers for one more map, made if need be.

    Copies the layers of another map with the owners translated. Files that were unpacked
    under a map of a single id have lost their owners: then the image is pulled anew by its
    digest.

    Raises:
        RlessError: neither is possible.
    """
    found = image.layer_dirs(idmap.key)
    if found is not None:
        return found
    root = store.root
    with store_lock(root), Staging(root) as staging:
        if image.root != root:
            additional_stores.adopt(image, root, staging.path)
        additional_stores.provide(root, idmap, image.chain, staging.path)
        missing = [chain for chain in image.chain if not records.has_layer(root, idmap.key, chain)]
        source_key = remap_owners.find_source(root, missing, idmap) if missing else idmap.key
        if source_key is not None:
            if missing:
                convert_layers(root, idmap, source_key, missing, staging.path)
            _note_key(store, image, idmap.key, staging.path)
    if source_key is None:
        _pull_again(image, idmap, store, quiet)
    return [layer_dir(root, idmap.key, chain) for chain in image.chain]


def convert_layers(
    root: str, idmap: IdMap, source_key: str, chains: Sequence[str], scratch: str
) -> None:
    """Make layers of those of another map (`remap_owners.convert`), while nobody else does."""
    locks = LayerLocks(root)
    try:
        for chain in chains:
            locks.take(chain)
        remap_owners.convert(root, idmap, source_key, chains, scratch)
    finally:
        locks.release()


def _note_key(store: Store, image: Image, key: str, scratch: str) -> None:
    metas = [records.read_meta(store.root, key, chain) for chain in image.chain]
    records.sync(store.root)
    records.add_key(image, key, layer_store.whiteouts_of(filter(None, metas)), scratch)


def _pull_again(image: Image, idmap: IdMap, store: Store, quiet: bool) -> None:
    reference = parse(image.name) if not image.name.startswith("sha256:") else None
    if reference is None:
        raise RlessError(
            f"the layers of {image.id[7:19]} are not there for this user map",
            "run the image by its name, so that it is pulled again",
        )
    if reference.transport == "docker":
        if not image.digest:  # no registry has it: it was committed, imported or loaded
            raise RlessError(
                f"image {reference.familiar} was made under a map of a single id, which keeps no "
                "owners of files",
                "run it with --userns=single, or make it again without",
            )
        reference.digest = image.digest
    pinned = reference.canonical if reference.transport == "docker" else reference.text
    log.debug(f"{escape(pinned)}: its layers have no owners; pulled anew")
    progress = Progress(quiet=quiet)
    try:
        with store_lock(store.root), Staging(store.root) as staging:
            source = open_source(reference, staging.path)
            try:
                found = source.find(parse_platform(_platform_text(image.platform)))
                if found.id != image.id:
                    raise RlessError(
                        f"{escape(image.name)} is a different image now",
                        "pull it with --pull=always",
                    )
                make_layers(store, found, source, staging.path, lambda _: idmap, progress)
                _note_key(store, image, idmap.key, staging.path)
            finally:
                source.close()
    finally:
        progress.finish()


def _platform_text(platform: dict[str, str]) -> str | None:
    parts = (platform.get("os"), platform.get("architecture"), platform.get("variant"))
    return "/".join(part for part in parts if part) or None


def install(
    store: Store,
    source: Source,
    asked: PlatformRequest,
    names: Sequence[Reference] | None,
    *,
    platform: str | None = None,
    idmap_for: MapFor,
    progress: Progress,
    scratch: str,
    state: list[int] | None = None,
) -> Image:
    """Bring the image of an open source into the store and record it, last of all.

    Args:
        names: what it is recorded as, beside its id; empty: its id alone.
        platform: as typed, if the names are meant for that platform only.
        scratch: the directory of an `Staging`.
        state: what tells whether the source has changed since.

    Raises:
        RlessError: the image was refused. What it has brought so far is gone then; unless
            another pull is at work, which may rely on it.
    """
    chains: set[str] = set()
    try:
        with store_lock(store.root):
            found = source.find(asked)
            chains.update(layer.chain for layer in found.layers)
            metas, key = make_layers(store, found, source, scratch, idmap_for, progress)
            image = _record_image(store, found, metas, key, names, platform, state, scratch)
    except RlessError:
        with contextlib.suppress(RlessError, OSError):
            collect(store, chains)
        raise
    for meta in metas:
        lost = layer_store.describe(meta)
        if lost:
            progress.say(lost)
    final = idmap_for(image)
    if final.key != key:
        # What was unpacked says otherwise than what was guessed: convert.
        ensure_layers(image, final, store)
    return image


def _record_image(
    store: Store,
    found: Found,
    metas: Sequence[dict[str, Any]],
    key: str,
    names: Sequence[Reference] | None,
    platform: str | None,
    state: list[int] | None,
    scratch: str,
) -> Image:
    root = store.root
    record = _record(found, metas, found.id)
    record["keys"] = _known_keys(store, found.id) | {key: layer_store.whiteouts_of(metas)}
    if found.manifest:
        records.put_blob(root, found.digest, found.manifest, scratch)
        if found.signatures is not None:
            records.put_signatures(root, found.digest, found.signatures, scratch)
    records.put_blob(root, found.id, found.config_data, scratch)
    if names and all(
        store.read(name_path(root, reference, platform))
        == {
            **record,
            "version": RECORD_VERSION,
            "name": record_name(reference),
            "source": state,
        }
        for reference in names
    ):
        return Image(root, {**record, "name": record_name(names[-1])})  # as it was
    records.sync(root)
    if not names:
        records.write_json(f"{root}/images/ids/{found.id[7:]}.json", record, scratch)
    for reference in names or ():
        record = {**record, "name": record_name(reference), "source": state}
        records.save(root, record, reference, platform, scratch)
    return Image(root, record)


def open_source(reference: Reference, scratch: str) -> Source:
    """Return the registry, archive or layout that a reference names.

    Args:
        scratch: the directory of a `Staging`, for what an archive has to unpack.
    """
    if reference.transport == "docker":
        from rootless.image.registry.client import Registry

        return Registry(reference)
    from rootless.image.archive.read import DockerArchive, OciLayout

    if reference.transport == "docker-archive":
        return DockerArchive(reference, scratch)
    return OciLayout(reference, scratch)


def make_layers(
    store: Store,
    found: Found,
    source: LayerSource,
    scratch: str,
    idmap_for: MapFor,
    progress: Progress,
) -> tuple[list[dict[str, Any]], str]:
    """Fetch and unpack what is missing; return the layers' meta records and the map's key.

    Where it runs: on the host, under a `store_lock`; the caller must have no second thread.
    """
    root = store.root
    layers = found.layers
    draft = Image(root, _record(found, [], ""))
    idmap = _early_map(idmap_for, draft)
    additional_stores.provide(root, idmap, [layer.chain for layer in layers], scratch)
    locks = LayerLocks(root)
    try:
        with Downloads(root, scratch) as downloads:
            missing = [layer for layer in layers if _meta(root, idmap, layer.chain) is None]
            for layer in missing:
                if locks.take(layer.chain):
                    progress.say(f"{layer.short}: another pull was at it")
            missing = [layer for layer in missing if _meta(root, idmap, layer.chain) is None]
            for layer in layers:
                if layer not in missing:
                    progress.state(layer.short, "Already exists")
            if idmap is None:
                _fetch(source, missing, downloads, scratch, progress)
                known = [_meta(root, idmap, layer.chain) for layer in layers]
                draft.users = layer_store.scan_users(layers, known)
                idmap = idmap_for(draft)
            key = idmap.key
            others = [
                layer
                for layer in layers
                if layer not in missing and not layer_store.is_complete(root, key, layer.chain)
            ]
            if others:
                # There, but for another map: translated if that can be, else fetched after all.
                chains = [layer.chain for layer in others]
                source_key = remap_owners.find_source(root, chains, idmap)
                if source_key is not None:
                    remap_owners.convert(root, idmap, source_key, chains, scratch)
            _bring(source, root, idmap, layers, downloads, scratch, progress)
    finally:
        locks.release()
    metas = [records.read_meta(root, key, layer.chain) for layer in layers]
    if None in metas:
        raise RlessError("a layer was removed in the meantime", "run the pull again")
    return [meta for meta in metas if meta is not None], key


def _fetch(
    source: LayerSource,
    layers: Sequence[LayerBlob],
    downloads: Downloads,
    scratch: str,
    progress: Progress,
) -> None:
    wanted = [layer for layer in layers if layer.fd < 0]
    if wanted:
        downloads.open(wanted)
        source.fetch(wanted, scratch, progress)


def _bring(
    source: LayerSource,
    root: str,
    idmap: IdMap,
    layers: Sequence[LayerBlob],
    downloads: Downloads,
    scratch: str,
    progress: Progress,
) -> None:
    """Unpack the layers that are missing, and fetch meanwhile those that were not fetched yet."""
    from rootless.image.layer import parallel_unpack  # not needed to find out that all is there

    todo = [layer for layer in layers if not layer_store.is_complete(root, idmap.key, layer.chain)]
    wanted = [layer for layer in todo if layer.fd < 0]
    if not wanted:
        if todo:
            parallel_unpack.unpack(root, idmap, layers, scratch, progress)
        return
    downloads.open(wanted)
    with parallel_unpack.Arrivals(wanted) as arrivals:
        download = _Download(source, wanted, scratch, progress, arrivals)
        try:
            with parallel_unpack.Unpacking(root, idmap, layers, scratch, progress) as work:
                download.during(work)
        except RlessError:
            if not (download.is_complete and arrivals.has_restarted):
                raise
            # A mirror sent something else than the place that was asked after it, or what an
            # earlier pull had left was damaged, and some of that was unpacked. By now the blobs
            # are there, and verified.
            arrivals.all_are_there()
            again = f"{scratch}/again"
            os.mkdir(again, 0o700)
            parallel_unpack.unpack(root, idmap, layers, again, progress)


class _Download:
    """Fetches layers in a thread.

    Attributes:
        is_complete: all are there, and verified.
    """

    def __init__(
        self,
        source: LayerSource,
        layers: Sequence[LayerBlob],
        scratch: str,
        progress: Progress,
        arrivals: parallel_unpack.Arrivals,
    ) -> None:
        self._work = (source, layers, scratch, progress)
        # What an earlier pull left is unpacked at once, before the source has looked at it.
        self._goes_on = any(os.fstat(layer.fd).st_size for layer in layers)
        self._arrivals = arrivals
        self._failure: BaseException | None = None
        self.is_complete = False
        self._writer = -1

    def during(self, work: parallel_unpack.Unpacking) -> None:
        """Fetch while the layers are unpacked; return when both are done.

        Raises:
            RlessError: the failure of either. Where blobs may begin anew, all are there then.
        """
        # Made here: the children must not have the other end too.
        end, self._writer = os.pipe()
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            work.watch(end)
            if self._failure is None:
                try:
                    work.watch()
                    work.result()
                except RlessError:
                    if self._goes_on or self._work[0].may_restart():
                        thread.join()
                    if self._failure is None:
                        raise
            if self._failure is not None:
                raise self._failure
        finally:
            self._arrivals.give_up()
            # Who waits for a stalled server is left behind: it touches nothing any more.
            thread.join(limits.ABANDON_SECONDS)
            os.close(end)

    def _run(self) -> None:
        source, layers, scratch, progress = self._work
        try:
            source.fetch(layers, scratch, progress)
            self.is_complete = True
        except BaseException as error:
            self._failure = error
        finally:
            os.close(self._writer)  # its own: nobody else closes it


def _early_map(idmap_for: MapFor, draft: Image) -> IdMap | None:
    """Return the map if it can be known before the layers: root's, or that of a single id.

    Any other user's group is in the image's files. A wrong guess about root (whose passwd entry
    may say another group) is seen after unpacking, see `install`.
    """
    draft.users = {"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n"}
    try:
        idmap = idmap_for(draft)
    except RlessError:
        return None  # a name that only the layers know
    is_root = idmap.host_uid(0) == os.getuid() and idmap.host_gid(0) == os.getgid()
    return idmap if idmap.single or is_root else None


def _meta(root: str, idmap: IdMap | None, chain: str) -> dict[str, Any] | None:
    """Return the meta record of a layer that is there for this map or can be translated."""
    if not has_split(root, chain):
        return None  # unpacked by a version that kept no record of the tar: once more
    wants_single = idmap is not None and idmap.single
    for key in remap_owners.keys(root):
        if (key == "single") == wants_single and records.has_layer(root, key, chain):
            return records.read_meta(root, key, chain)
    return None


def _record(found: Found, metas: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return an image's record as `store.Image` reads it."""
    config = found.config
    platform = {
        "os": config.get("os") or "linux",
        "architecture": config.get("architecture") or host_platform().architecture,
        "variant": config.get("variant") or "",
    }
    return {
        "version": RECORD_VERSION,
        "name": name,
        "id": found.id,
        "digest": found.digest,
        "digests": found.digests,
        "config": config["config"],
        "platform": platform,
        "chain": [layer.chain for layer in found.layers],
        "users": layer_store.merge_users(metas),
        "keys": {},
        "size": sum(meta["size"] for meta in metas),
        "created": config.get("created") or "",
        "source": None,
    }


def _known_keys(store: Store, image_id: str) -> dict[str, str]:
    """Return for which maps the same image is unpacked already."""
    image = store.lookup(image_id)
    return image.keys if image is not None else {}
