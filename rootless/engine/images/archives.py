"""Images to and from archives, for the command line: pull of all tags, save, load, import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rootless import paths
from rootless.engine import idmap_policy
from rootless.engine.state import events
from rootless.errors import NOT_FOUND, RlessError, escape
from rootless.image.config.user import resolve_user
from rootless.image.model.reference import familiar_repository, parse
from rootless.image.registry.progress import Progress
from rootless.image.store.store import Store
from rootless.image.trust.identity import parse_named
from rootless.linux.files import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rootless.image.model.packing import Packing
    from rootless.image.model.reference import Reference
    from rootless.image.store.store import Image
    from rootless.image.trust.signature import Signer
    from rootless.linux.idmap import IdMap


def map_chooser() -> Callable[[Image], IdMap]:
    """Return what tells the map that a plain `run` of an image takes.

    A USER whom the image does not know is refused by `run`, unless --user names another one; until
    then root will do.
    """
    subordinate = idmap_policy.Subordinate()

    def idmap_for(image: Image) -> IdMap:
        spec = image.config.get("User") or ""
        passwd, group = image.passwd(), image.group()
        try:
            user = resolve_user(spec, passwd=passwd, group=group)
        except RlessError:
            user = resolve_user("", passwd=passwd, group=group)
        return idmap_policy.choose("auto", user[:2], subordinate, (0, 0))

    return idmap_for


def all_tags(name: str) -> list[str]:
    """Return all tags of a repository of a registry as names to pull.

    Raises:
        RlessError: a tag or digest is given too, or the registry does not tell.
    """
    reference = parse(name)
    if reference.transport != "docker":
        raise RlessError("--all-tags: only a registry has tags", "name the image by its reference")
    last = name.rpartition("/")[2]
    if ":" in last or "@" in last:
        raise RlessError("--all-tags: the name has a tag already", "leave one of the two out", 1)
    from rootless.image.registry.client import Registry, resolve

    if reference.short:
        reference = resolve(reference, lambda _: None, Registry.has_tags)
    registry = Registry(reference)
    try:
        tags = registry.tags()
    finally:
        registry.close()
    if not tags:
        raise RlessError(f"{escape(name)}: the repository has no tags", exit_code=1)
    base = f"{reference.registry}/{reference.repository}"
    return [parse(f"{base}:{tag}").canonical for tag in tags]


# -- save --------------------------------------------------------------------------------------


def save(
    names: Sequence[str],
    output: str | None,
    *,
    form: str = "docker-archive",
    packing: Packing | None = None,
    platform: str | None = None,
    quiet: bool = False,
    signers: Sequence[Signer] = (),
    indexed: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Write images to a file, a directory or (None) standard output.

    Returns the descriptors of what an OCI archive names (`image.archive.write.save`).

    A repository without a tag means all its tags, as Docker has it.

    Args:
        signers: for a docker-dir, each adds a signature under the name that was asked for.
        indexed: ids of images, one a platform: the names are those of an index of them.

    Raises:
        RlessError: no such image; it cannot be restored or signed; no room.
    """
    from rootless.image.archive import write as saver
    from rootless.image.store.staging import Staging  # a pull of what is here needs none

    store = Store(paths.storage_root())
    images = _chosen(store, indexed or names, platform)
    if form == "docker-dir" and len(images) > 1:
        raise RlessError("--format docker-dir holds one image only", "use another format", 1)
    progress = Progress(quiet=quiet, lines=False)
    options: dict[str, Any] = {"form": form, "packing": packing, "progress": progress}
    if indexed:
        options["index_names"] = [parse(name).canonical for name in names if name not in indexed]
    if signers:
        options["sign"] = _signing(signers, *images[0])
    with Staging(store.root) as staging:
        if form in ("oci-dir", "docker-dir"):
            if output is None:
                raise RlessError(f"--format {form} is a directory", "name it by --output", 1)
            with saver.Directory(output) as made:
                target = saver.DirectoryTarget(made.path)
                written = saver.save(store, images, target, staging.path, **options)
        elif output is None:
            try:
                archive = saver.TarTarget(1)
                written = saver.save(store, images, archive, staging.path, **options)
                archive.end()
            except OSError as error:
                raise saver.no_room(error) from error
        else:
            try:
                with Output(output) as file:
                    archive = saver.TarTarget(file.fd)
                    written = saver.save(store, images, archive, staging.path, **options)
                    archive.end()
            except OSError as error:
                raise saver.not_written(error, output) from error
    for image, _ in images:
        events.record("save", "image", image.id, name=familiar_repository(image.name))
    return written


def _signing(
    signers: Sequence[Signer], image: Image, names: Sequence[str]
) -> Callable[[str], list[bytes]]:
    """Return what signs the manifest of a digest, under the name of the image."""
    if not names:
        hint = "give it one: rless tag ID HOST/NAME:TAG"
        raise RlessError(f"the image {image.id[7:19]} has no name to sign", hint)
    named = parse_named(names[0])
    return lambda digest: [sign(digest, named).blob() for sign in signers]


def _chosen(
    store: Store, names: Sequence[str], platform: str | None
) -> list[tuple[Image, list[str]]]:
    """Return the images, each once, with the names that were asked for."""
    found: dict[str, tuple[Image, list[str]]] = {}
    for name in names:
        for image, full in _meant(store, name, platform):
            entry = found.setdefault(image.id, (image, []))
            if full and full not in entry[1]:
                entry[1].append(full)
    return list(found.values())


def _meant(store: Store, name: str, platform: str | None) -> Iterator[tuple[Image, str]]:
    image = store.lookup(name, platform)
    last = name.rpartition("/")[2]
    if ":" not in last and "@" not in last and (image is None or image.name != image.id):
        tags = [] if platform else sorted(_tags(store, name))
        for full in tags:
            one = store.lookup(full)
            if one is not None:
                yield one, full
        if tags:
            return
    if image is None:
        what = f" for {platform}" if platform else ""
        raise RlessError(f"no such image{what}: {escape(name)[:300]}", exit_code=1, kind=NOT_FOUND)
    by_id = image.name == image.id or parse(image.name).transport != "docker"
    yield image, "" if by_id else image.name


def _tags(store: Store, name: str) -> set[str]:
    """Return the full names of all tags of a repository that the store has."""
    try:
        reference = parse(name)
    except RlessError:
        return set()  # an id
    base = f"{reference.registry}/{reference.repository}:"
    return {record["name"] for record in store.records("names") if record["name"].startswith(base)}


# -- load, import ------------------------------------------------------------------------------


def load(
    path: str | None,
    *,
    platform: str | None = None,
    quiet: bool = False,
    signature_policy: str | None = None,
) -> Iterator[tuple[Image, list[Reference]]]:
    """Yield each image of an archive with its names, once it is in the store.

    Args:
        path: None: standard input.
        signature_policy: the file that says what is accepted; None: the user's, the system's.
    """
    from rootless.image.transfer.load import load as loader

    progress = Progress(quiet=quiet, lines=False)
    store = Store(paths.storage_root())
    try:
        for image, references in loader(
            path,
            store,
            platform=platform,
            idmap_for=map_chooser(),
            progress=progress,
            signature_policy=signature_policy,
        ):
            name = references[0].familiar if references else image.id
            events.record("load", "image", image.id, name=name)
            yield image, references
    finally:
        progress.finish()


def import_archive(
    path: str,
    name: str | None,
    *,
    instructions: Sequence[str] = (),
    message: str | None = None,
    platform: str | None = None,
    quiet: bool = False,
) -> Image:
    """Make an image of a tar archive of files: a path, a URL, or "-" for standard input."""
    from rootless.image.transfer.import_ import import_tar

    progress = Progress(quiet=quiet, lines=False)
    image = import_tar(
        path,
        Store(paths.storage_root()),
        name=name,
        instructions=instructions,
        message=message,
        platform=platform,
        idmap_for=map_chooser(),
        progress=progress,
    )
    progress.finish()
    events.record("import", "image", image.id, name=familiar_repository(image.name))
    return image
