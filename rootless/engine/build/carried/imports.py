"""The caches of --cache-from: their tables are read at once, their layers once they are needed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rootless.engine.build.carried import table
from rootless.errors import RlessError, escape
from rootless.image.config import manifest
from rootless.image.layer import remap_owners
from rootless.image.layer.layers import LayerBlob
from rootless.image.model.reference import Reference, parse
from rootless.image.store import records
from rootless.image.trust.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.engine.build.carried.places import Place
    from rootless.image.archive.read import OciLayout
    from rootless.image.model.platforms import PlatformRequest
    from rootless.image.registry.client import Registry
    from rootless.image.registry.progress import Progress
    from rootless.image.store.build_cache import Entry
    from rootless.linux.idmap import IdMap

_KINDS = (*manifest.IMAGES, table.MEDIA_TYPE)


class Imports:
    """The caches of one build, which is a `LayerSource`.

    Args:
        root: of the store. idmap: of the build.

    Attributes:
        entries: by their keys.
        blobs, media_types: of the layers that can be fetched, by their diff_ids.
        diff_ids: of the layers of all entries, by their chain ids.
    """

    def __init__(self, root: str, idmap: IdMap) -> None:
        self._root = root
        self._idmap = idmap
        self._within = remap_owners.namespace(idmap)
        self._sources: list[Registry | OciLayout] = []
        self._source_of: dict[str, Registry | OciLayout] = {}
        self.entries: dict[str, Entry] = {}
        self.blobs: dict[str, LayerBlob] = {}
        self.media_types: dict[str, str] = {}
        self.diff_ids: dict[str, str] = {}

    def add(
        self, place: Place, asked: PlatformRequest, signature_policy: str | None = None
    ) -> None:
        """Read the table of a cache, if the policy accepts what it comes from.

        Args:
            asked: the platform, where the place has images for several.
            signature_policy: the file of the policy, if not the user's or the system's.

        Raises:
            RlessError: it cannot be read.
        """
        reference = _reference(place)
        guard = Guard(reference, signature_policy)
        guard.refuse_early()
        source, what = _open(reference)
        try:
            found = source.find(asked, _KINDS)
            if guard.asks:
                guard.verdict(source, found).demand()
            entries = table.read(found.config, what)
        except BaseException:
            source.close()
            raise
        self._sources.append(source)
        descriptors = manifest.read_object(found.manifest, what)["layers"]
        for layer, descriptor in zip(found.layers, descriptors, strict=True):
            if layer.diff_id not in self.blobs:
                self.blobs[layer.diff_id] = layer
                self.media_types[layer.diff_id] = descriptor["mediaType"]
                self._source_of[layer.diff_id] = source
        for key, entry in entries.items():
            # Owners that a map of one id has lost are not made up.
            if entry.map != table.SINGLE or self._idmap.single:
                self.entries.setdefault(key, entry)
                self.diff_ids.update(zip(entry.chain, entry.diff_ids, strict=True))

    def can_bring(self, missing: Sequence[str]) -> bool:
        """Tell whether layers can be had for the map: fetched, or made of those of another map.

        Where it runs: on the host, and in the namespaces of the build.
        """
        others = [chain for chain in missing if self.diff_ids.get(chain) not in self.blobs]
        return not others or (
            remap_owners.find_source(self._root, others, self._idmap, self._within) is not None
        )

    def layers(self, chain: Sequence[tuple[str, str]]) -> list[LayerBlob]:
        """Return the layers of (chain id, diff_id); "": that of an entry or of the store."""
        found = []
        for name, diff_id in chain:
            known = diff_id or self.diff_ids.get(name) or self._recorded(name)
            blob = self.blobs.get(known)
            if blob is None:
                layer = LayerBlob(None, 0, known, name)
            else:
                layer = LayerBlob(blob.digest, blob.size, known, name)
                layer.fd, layer.offset = blob.fd, blob.offset
            found.append(layer)
        return found

    def _recorded(self, chain: str) -> str:
        for key in remap_owners.keys(self._root):
            meta = records.read_meta(self._root, key, chain)
            if meta is not None and meta["chain"] == chain:
                return str(meta["diff_id"])
        raise RlessError(f"layer {chain[7:19]} is no longer in the store")

    # -- LayerSource ------------------------------------------------------------------------------

    def fetch(self, layers: Sequence[LayerBlob], scratch: str, progress: Progress) -> None:
        """Fetch layers from the caches that have them.

        Raises:
            RlessError: none has one of them, or it cannot be fetched.
        """
        of_source: dict[int, list[LayerBlob]] = {}
        for layer in layers:
            source = self._source_of.get(layer.diff_id)
            if source is None:
                raise RlessError(f"layer {layer.short} is in none of the caches")
            of_source.setdefault(self._sources.index(source), []).append(layer)
        for number, some in of_source.items():
            self._sources[number].fetch(some, scratch, progress)

    def may_restart(self) -> bool:
        """Tell whether bytes of a layer that did arrive may be replaced by others."""
        return any(source.may_restart() for source in self._sources)

    def close(self) -> None:
        """Close connections and files."""
        for source in self._sources:
            with contextlib.suppress(RlessError, OSError):
                source.close()


def _reference(place: Place) -> Reference:
    if place.kind == "registry":
        return parse(place.where)
    return Reference(f"oci:{place.where}", "oci", tag=place.tag, path=place.where)


def _open(reference: Reference) -> tuple[Registry | OciLayout, str]:
    if reference.transport == "docker":
        from rootless.image.registry.client import Registry

        return Registry(reference), escape(reference.familiar)
    from rootless.image.archive.read import OciLayout

    return OciLayout(reference, ""), escape(reference.text)
