"""Pull: from a name to an image whose layers are on disk for the map that it will run under.

An image that is here, and that its registry still has under the name, is left as it is: that
takes one request, and none of the modules that fetch and unpack. `install` does the rest.
"""

from __future__ import annotations

import os

from rootless.errors import NOT_FOUND, RlessError, escape
from rootless.image.model.reference import Reference, parse
from rootless.image.registry.progress import Progress
from rootless.image.store.store import (
    Image,
    Store,
    blob_path,
    layer_dir,
    name_path,
    source_state,
    split_path,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.transfer.install import MapFor
    from rootless.image.trust.guard import Guard


def pull(
    name: str,
    store: Store,
    *,
    platform: str | None = None,
    policy: str = "missing",
    quiet: bool = False,
    idmap_for: MapFor,
    progress: Progress | None = None,
    signature_policy: str | None = None,
) -> Image:
    """Return the image of that name with its layers on disk for `idmap_for(image)`.

    Args:
        policy: "missing" asks the source only if the store does not have the image, "always"
            asks for what the name means now, "never" asks nobody.
        signature_policy: the file that says which images are accepted, if not the user's or the
            system's. An image of the store was judged when it came.

    Raises:
        RlessError: no such image, refused, unreachable, no room. The store is then as before,
            apart from layers that were complete.

    Where it runs: on the host; the caller must have no second thread (layers are unpacked in
    a new user namespace).
    """
    if policy != "always":
        image = store.lookup(name, platform)
        if image is not None:
            from rootless.image.transfer.install import ensure_layers

            ensure_layers(image, idmap_for(image), store, quiet=quiet)
            return image
    if policy == "never":
        raise RlessError(
            f"no such image here: {escape(name)}", "pull it, or use --pull=missing", kind=NOT_FOUND
        )
    reference = parse(name)
    if reference.transport == "host":
        raise RlessError(
            "host: is not an image that can be pulled", "run it: it is made of the host's programs"
        )
    progress = progress or Progress(quiet=quiet)
    from rootless.image.trust.guard import Guard  # not for what is there

    try:
        if reference.short:
            from rootless.image.registry.client import resolve

            reference = resolve(reference, progress.say)
        guard = Guard(reference, signature_policy)
        guard.refuse_early()
        return _pull(reference, store, platform, idmap_for, progress, guard)
    finally:
        progress.finish()


def _pull(
    reference: Reference,
    store: Store,
    platform: str | None,
    idmap_for: MapFor,
    progress: Progress,
    guard: Guard,
) -> Image:
    before = store.read(name_path(store.root, reference, platform))
    if before is not None and reference.transport == "docker" and not guard.asks:
        image = Image(store.root, before)
        # Not one that was tagged, committed, imported or loaded: no registry has given it.
        if image.digests and _is_whole(image, idmap_for) and _is_current(image, reference):
            progress.say(_headline(reference))
            return _tell(image, reference, progress, is_old=True)
    from rootless.image.model.platforms import parse_platform
    from rootless.image.store import downloads, records
    from rootless.image.store.staging import Staging, clear_leftovers
    from rootless.image.transfer.install import install, open_source

    records.make_frame(store.root)
    clear_leftovers(store.root)
    downloads.clear(store.root)
    with Staging(store.root) as staging:
        state = source_state(reference)
        source = open_source(reference, staging.path)
        try:
            progress.say(_headline(reference))
            image = install(
                store,
                guard.watch(source),
                parse_platform(platform),
                [reference],
                platform=platform,
                idmap_for=idmap_for,
                progress=progress,
                scratch=staging.path,
                state=state,
            )
        finally:
            source.close()
    is_old = before is not None and before["id"] == image.id
    return _tell(image, reference, progress, is_old=is_old)


def _is_whole(image: Image, idmap_for: MapFor) -> bool:
    """Tell whether all that a pull would make is there."""
    try:
        key = idmap_for(image).key
    except RlessError:
        return False
    if key not in image.keys:
        return False
    paths = [blob_path(image.root, digest) for digest in (image.id, image.digest)]
    for chain in image.chain:
        layer = layer_dir(image.root, key, chain)
        paths += (layer, f"{layer}.json", split_path(image.root, chain))
    return all(map(os.path.exists, paths))


def _is_current(image: Image, reference: Reference) -> bool:
    """Tell whether the registry has, under this name, the image that is here."""
    from rootless.image.registry.client import Registry

    source = Registry(reference)
    try:
        return source.current_digest() == (reference.digest or image.digests[0])
    finally:
        source.close()


def _tell(image: Image, reference: Reference, progress: Progress, *, is_old: bool) -> Image:
    """Print how a pull ended, as Docker does; return the image."""
    progress.finish()
    progress.say(f"Digest: {image.digests[0] if image.digests else image.id}")
    status = "Image is up to date" if is_old else "Downloaded newer image"
    progress.say(f"Status: {status} for {reference.familiar}")
    return image


def _headline(reference: Reference) -> str:
    """Return the first line, for what a registry has as Docker."""
    if reference.transport != "docker":
        return f"Pulling {reference.familiar}"
    wanted = reference.digest or reference.tag or "latest"
    return f"{wanted}: Pulling from {reference.repository}"
