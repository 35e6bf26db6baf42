"""Images for the command line: pull, list, show, tag, remove.

`list_images` reads one small file for each image and loads next to nothing; the other verbs import
what they need where they need it.
"""

from __future__ import annotations

import os

from rootless import log, paths
from rootless.engine import timestamps
from rootless.engine.state import events
from rootless.errors import NOT_FOUND, RlessError, escape
from rootless.image.model.reference import familiar_repository, parse
from rootless.image.store.store import Store, layer_dir, name_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any

    from rootless.image.registry.progress import Progress
    from rootless.image.store.store import Image

    Row = dict[str, Any]

LIST_FILTERS = (
    "before", "containers", "dangling", "id", "label", "label!", "readonly", "reference", "since",
    "until",
)  # fmt: skip
PRUNE_FILTERS = ("label", "label!", "until")


def pull(
    name: str,
    platform: str | None = None,
    quiet: bool = False,
    signature_policy: str | None = None,
    progress: Progress | None = None,
) -> Image:
    """Fetch an image, as its name means now, unpacked for the map that a plain `run` takes.

    Args:
        progress: told how it goes on, in place of standard output.
    """
    from rootless.engine.images.archives import map_chooser
    from rootless.image.transfer import pull as puller

    if progress is None:
        from rootless.image.registry.progress import Progress

        progress = Progress(1, quiet=quiet)

    image = puller.pull(
        name,
        Store(paths.storage_root()),
        platform=platform,
        policy="always",
        idmap_for=map_chooser(),
        progress=progress,
        signature_policy=signature_policy,
    )
    events.record("pull", "image", image.id, name=familiar_repository(image.name))
    return image


def find(name: str, platform: str | None = None) -> Image:
    """Return an image of the store or of an additional one.

    Raises:
        RlessError: there is none.
    """
    image = Store(paths.storage_root()).lookup(name, platform, stale=True)
    if image is None:
        what = f" for {platform}" if platform else ""
        raise RlessError(
            f"no such image{what}: {escape(name)[:300]}",
            "`rless images` lists them",
            1,
            kind=NOT_FOUND,
        )
    return image


# -- list ----------------------------------------------------------------------------------------


def list_images(
    given: Mapping[str, Sequence[str]] | None = None, *, digests: bool = False
) -> list[Row]:
    """Return one entry a name, and one for each image without a name; the newest first.

    Each has repository and tag ("" if there is none), name (in full, "" if there is none), id,
    digest ("" where the repository gave none), created (seconds since 1970, 0.0 if unknown),
    size (bytes of the unpacked files), labels, and read_only: it is in an additional store.

    Args:
        given: values of LIST_FILTERS by key.
        digests: of names too, for which each name's record has to be read.

    Raises:
        RlessError: a filter has a value that it cannot have.
    """
    found = _rows(paths.storage_root(), False, digests)
    known = {(row["name"], row["id"]) for row in found}
    for root, _ in paths.additional_stores():
        for row in _rows(root, True, digests):
            if (row["name"], row["id"]) not in known:
                known.add((row["name"], row["id"]))
                found.append(row)
    if any(row["read_only"] for row in found):
        named = {row["id"] for row in found if row["name"]}
        found = [row for row in found if row["name"] or row["id"] not in named]
    found.sort(key=lambda row: (-row["created"], row["repository"], row["tag"]))
    for test in _tests(given or {}):
        found = [row for row in found if test(row)]
    return found


def _rows(root: str, read_only: bool, digests: bool) -> list[Row]:
    from rootless.image.store import names

    store = Store(root)
    known: dict[str, Row] = {}
    rows = []
    for path, name, image_id in names.every(store):
        row = known.get(image_id)
        if row is None:
            record = store.read(f"{root}/images/ids/{image_id[7:]}.json") or store.read(path)
            if record is None:
                continue
            row = known[image_id] = _row(record, read_only)
        repository, tag = _split(name)
        row = {**row, "repository": repository, "tag": tag, "name": name}
        if digests:  # which are the name's own, as the registry of each has told
            row["digest"] = _digest(store.read(path))
        rows.append(row)
    try:
        ids = sorted(os.listdir(f"{root}/images/ids"))
    except OSError:
        ids = []
    for entry in ids:
        if f"sha256:{entry.removesuffix('.json')}" not in known:
            record = store.read(f"{root}/images/ids/{entry}")
            if record is not None:
                rows.append(_row(record, read_only))
    return rows


def _row(record: dict[str, Any], read_only: bool) -> Row:
    """Return the row of an image without a name."""
    return {
        "repository": "",
        "tag": "",
        "name": "",
        "id": record["id"],
        "digest": _digest(record),
        "created": seconds(record["created"]),
        "size": record["size"],
        "labels": record["config"].get("Labels") or {},
        "read_only": read_only,
    }


def _digest(record: dict[str, Any] | None) -> str:
    return str(record["digests"][0]) if record and record["digests"] else ""


def _split(name: str) -> tuple[str, str]:
    """Return repository and tag as Docker shows them; a digest or a path has no tag."""
    familiar = familiar_repository(name)
    if "@" in familiar:
        return familiar.partition("@")[0], ""
    head, colon, tag = familiar.rpartition(":")
    if not colon or "/" in tag:
        return familiar, ""
    return head, tag


def seconds(created: str) -> float:
    """Return an RFC 3339 time in seconds; 0.0 for what cannot be read or is Go's zero time."""
    return max(0.0, timestamps.rfc3339(created) or 0.0)


def _tests(given: Mapping[str, Sequence[str]]) -> list[Callable[[Row], bool]]:
    tests = [_test(key, values) for key, values in given.items() if key not in ("label", "label!")]
    if "label" in given or "label!" in given:
        from rootless.engine.query.filters import matches_labels

        tests.append(lambda row: matches_labels(row["labels"], given))
    return tests


def _test(key: str, values: Sequence[str]) -> Callable[[Row], bool]:
    """Return the test for one key; of a key that can have one value only, the last counts."""
    if key in ("dangling", "containers", "readonly"):
        wanted = _truth(key, values[-1])
        if key == "dangling":
            return lambda row: (not row["name"]) is wanted
        if key == "readonly":
            return lambda row: row["read_only"] is wanted
        used = containers_of_images()
        return lambda row: (row["id"] in used) is wanted
    if key in ("before", "since"):
        edge = seconds(find(values[-1]).created)
        if key == "before":
            return lambda row: float(row["created"]) < edge
        return lambda row: float(row["created"]) > edge
    if key == "until":
        end = min(timestamps.parse(value, "--filter until") for value in values)
        return lambda row: float(row["created"]) < end
    if key == "id":
        starts = tuple(value.removeprefix("sha256:") for value in values)
        return lambda row: str(row["id"])[7:].startswith(starts)
    return lambda row: any(_fits(row, text) for text in values)


def _truth(key: str, text: str) -> bool:
    if text not in ("true", "false", "1", "0"):
        raise RlessError(f"--filter {key}: {text!r} is neither true nor false")
    return text in ("true", "1")


def _fits(row: Row, pattern: str) -> bool:
    """Tell whether a name fits Docker's `reference`: Go's path.Match, where * stops at a slash.

    On the short name and on the full one, each with its tag and without.
    """
    if not row["name"]:
        return False
    full, short = row["name"], familiar_repository(row["name"])
    for name in (full, short):
        bare = name.partition("@")[0]
        head, colon, tag = bare.rpartition(":")
        if colon and "/" not in tag:
            bare = head
        if any(_match(pattern.split("/"), text.split("/")) for text in (name, bare)):
            return True
    return False


def _match(patterns: Sequence[str], parts: Sequence[str]) -> bool:
    from fnmatch import fnmatchcase

    return len(patterns) == len(parts) and all(map(fnmatchcase, parts, patterns))


def containers_of_images() -> dict[str, tuple[str, bool]]:
    """Return the ids of images that containers are made of: to (container's name, it runs)."""
    from rootless.engine.state.container import all_ids, load
    from rootless.engine.state.reconcile import reconcile

    reconcile()
    found: dict[str, tuple[str, bool]] = {}
    for container_id in all_ids():
        container = load(container_id)
        image_id = container.facts.get("image_id") if container is not None else None
        if container is None or not image_id:
            continue
        runs = container.status()[0] in ("running", "paused", "restarting")
        if runs or image_id not in found:
            found[image_id] = (container.facts["name"] or container_id[:12], runs)
    return found


# -- change --------------------------------------------------------------------------------------


def remove(name: str, force: bool = False) -> list[str]:
    """Remove an image's name, and the image with its last one.

    Returns:
        Lines as Docker prints them: "Untagged: …", "Deleted: …".

    Raises:
        RlessError: no such image, or a container needs it.
    """
    from rootless.image.transfer import remove as remover

    containers = containers_of_images()
    store = Store(paths.storage_root())
    before = {record["id"] for record in store.records("ids")}
    named = store.own(name, stale=True)
    lines = remover.remove(
        store,
        name,
        force=force,
        used={image: container for image, (container, _) in containers.items()},
        running={image: container for image, (container, runs) in containers.items() if runs},
    )
    gone = [line.partition(": ")[2] for line in lines if line.startswith("Deleted: ")]
    _record(named.id if named else gone[0] if gone else "", lines, before)
    return lines


def _record(image_id: str, lines: Sequence[str], images: Collection[str]) -> None:
    for line in lines:
        action, _, what = line.partition(": ")
        if action == "Untagged" and "@" not in what:
            events.record("untag", "image", image_id, name=what)
        elif what in images:
            events.record("delete", "image", what, name=what)


def tag(source: str, target: str) -> None:
    """Give an image a further name; another image that has it loses it.

    Raises:
        RlessError: no such image; the name is not the name of an image, or has a digest.
    """
    from rootless.image.store import records
    from rootless.image.store.staging import Staging, store_lock
    from rootless.image.transfer import additional_stores

    reference = parse(target)
    if reference.transport != "docker":
        raise RlessError(f"{escape(target)} is not the name of an image", "write NAME[:TAG]", 1)
    if reference.digest:
        raise RlessError("refusing to create a tag with a digest reference", exit_code=1)
    find(source)
    store = Store(paths.storage_root())
    records.make_frame(store.root)
    with store_lock(store.root), Staging(store.root) as staging:
        image = find(source)  # once more: nobody can delete its layers now
        if image.root != store.root:
            additional_stores.adopt(image, store.root, staging.path, named=False)
        record = additional_stores.record_of(image) | {"name": reference.canonical}
        if _repository(image.name) != _repository(reference.canonical):
            record["digests"] = []  # the other repository's registry has not told
        path = name_path(store.root, reference)
        records.write_name(store.root, path, record, staging.path)
    events.record("tag", "image", image.id, name=reference.familiar)


def _repository(name: str) -> str:
    return name.partition("@")[0] if "@" in name else name.rpartition(":")[0]


def prune(
    given: Mapping[str, Sequence[str]] | None = None, everything: bool = False
) -> tuple[list[str], int]:
    """Remove images without a name, or all, that no container is made of.

    Args:
        given: values of PRUNE_FILTERS by key.
        everything: those with names too.

    Returns:
        Lines as `remove` gives them, and how many bytes are free again.

    Raises:
        RlessError: a filter has a value that it cannot have.
    """
    from rootless.image.store import names
    from rootless.image.transfer import remove as remover

    store = Store(paths.storage_root())
    used = containers_of_images()
    tests = _tests(given or {})
    named: dict[str, list[Any]] = {}
    for entry in names.read_all(store):
        named.setdefault(entry[1]["id"], []).append(entry)
    lines: list[str] = []
    chains: dict[str, list[str]] = {}
    for record in store.records("ids"):
        image_id = record["id"]
        mine = named.get(image_id, [])
        if image_id in used or (mine and not everything):
            continue
        if not all(test(_row(record, False)) for test in tests):
            continue
        said = remover.forget(store.root, mine, mine)
        remover.forget_id(store, image_id)
        said.append(f"Deleted: {image_id}")
        chains[image_id] = record["chain"]
        _record(image_id, said, (image_id,))
        lines += said
    freed = remover.Freed()
    remover.collect_into(freed, store)
    if everything and not given:
        from rootless.image.store import image_files

        freed.bytes += image_files.clear(store.root)
    if freed.is_left:
        log.warn("a pull is at work: layers that nothing needs stay until the next prune")
    done: set[str] = set()
    for chain in chains.values():
        lines += remover.deleted([link for link in chain if link not in done], freed)
        done.update(chain)
    if lines or freed.bytes:
        events.record("prune", "image", "", reclaimed=freed.bytes)
    return lines, freed.bytes


# -- show ----------------------------------------------------------------------------------------


def _document(image: Image) -> dict[str, Any]:
    """Return the whole config of an image; {} if the store has lost it."""
    from rootless import jsontext
    from rootless.image.store import records

    data = records.get_blob(image.root, image.id)
    try:
        value = jsontext.loads(data) if data else {}
    except ValueError:
        value = {}
    return value if isinstance(value, dict) else {}


def _named(image: Image) -> list[tuple[str, str, list[str]]]:
    """Return (file, name, digests) of all names of an image, in all stores."""
    from rootless.image.store import names

    found: dict[str, tuple[str, str, list[str]]] = {}
    for root in (paths.storage_root(), *(path for path, _ in paths.additional_stores())):
        for path, record in names.records_of(Store(root), image.id):
            is_docker = parse(record["name"]).transport == "docker"
            known = (path if is_docker else "", record["name"], record["digests"])
            found.setdefault(record["name"], known)
    return list(found.values())


def inspect_image(name: str, platform: str | None = None) -> dict[str, Any]:
    """Return what Docker's `image inspect` shows of an image.

    Raises:
        RlessError: there is no such image.
    """
    image = find(name, platform)
    document = _document(image)
    tags, digests, stamps = [], [], []
    for path, full, known in _named(image):
        if not path:
            continue  # of an archive: no name that a registry could have
        familiar = familiar_repository(full)
        if "@" in familiar:
            digests.append(familiar)
        else:
            tags.append(familiar)
            repository = familiar_repository(_repository(full))
            digests += [f"{repository}@{digest}" for digest in known[:1]]
        try:
            stamps.append(os.stat(path).st_mtime)
        except OSError:
            pass
    data = {}
    for key in image.keys:
        layers = [layer_dir(image.root, key, chain) for chain in image.chain]
        if layers and os.path.isdir(layers[-1]):
            data = {"LowerDir": ":".join(reversed(layers[:-1])), "UpperDir": layers[-1]}
            break
    return {
        "Id": image.id,
        "RepoTags": tags,
        "RepoDigests": list(dict.fromkeys(digests)),
        "Parent": "",
        "Comment": str(_last_history(document).get("comment") or ""),
        "Created": image.created,
        "DockerVersion": str(document.get("docker_version") or ""),
        "Author": str(document.get("author") or ""),
        "Config": _config(image.config),
        "Architecture": image.platform["architecture"],
        "Variant": image.platform["variant"],
        "Os": image.platform["os"],
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {"Name": "overlay", "Data": data},
        "RootFS": {
            "Type": "layers",
            "Layers": list((document.get("rootfs") or {}).get("diff_ids") or ()),
        },
        "Metadata": {
            "LastTagTime": timestamps.show(max(stamps, default=0.0))
            if any(stamps)
            else "0001-01-01T00:00:00Z"
        },
        "ReadOnly": image.root != paths.storage_root(),
        "Signatures": _signatures(image),
    }


def _signatures(image: Image) -> list[dict[str, Any]]:
    """Return what the signatures say that were seen when the image was pulled."""
    from rootless.image.store import records

    blobs = records.get_signatures(image.root, image.digest)
    if not blobs:
        return []
    from rootless.image.trust.describe import describe

    return [describe(blob) for blob in blobs]


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return an image's config with the keys that scripts expect to be there."""
    usual: dict[str, Any] = {
        "Hostname": "", "Domainname": "", "User": "", "ExposedPorts": None, "Env": None,
        "Cmd": None, "Volumes": None, "WorkingDir": "", "Entrypoint": None, "OnBuild": None,
        "Labels": None,
    }  # fmt: skip
    return usual | dict(config)


def _history(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = document.get("history")
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def _last_history(document: Mapping[str, Any]) -> dict[str, Any]:
    entries = _history(document)
    return entries[-1] if entries else {}


def history(name: str, platform: str | None = None) -> list[Row]:
    """Return the steps that an image was made by, the last first.

    Each has id ("" but for the last: the image's own), created (seconds, 0.0 if unknown),
    created_at (as the image says it), created_by, size (bytes) and comment.

    Raises:
        RlessError: there is no such image.
    """
    image = find(name, platform)
    entries = _history(_document(image))
    sizes = _layer_sizes(image)
    filled = sum(not entry.get("empty_layer") for entry in entries)
    if filled < len(sizes):  # made by a tool that writes no history
        entries = [{} for _ in range(len(sizes) - filled)] + entries
    left = iter(sizes)
    rows = []
    for entry in entries:
        made = entry.get("created")
        rows.append(
            {
                "id": "",
                "created": seconds(made) if isinstance(made, str) else 0.0,
                "created_by": str(entry.get("created_by") or ""),
                "size": 0 if entry.get("empty_layer") else next(left, 0),
                "comment": str(entry.get("comment") or ""),
            }
        )
    rows.reverse()
    if rows:
        rows[0]["id"] = image.id
    return rows


def _layer_sizes(image: Image) -> list[int]:
    """Return the bytes of each layer's files, bottom first; 0 where nobody has counted."""
    from rootless.image.layer import remap_owners
    from rootless.image.store import records

    sizes = []
    for chain in image.chain:
        metas = (records.read_meta(image.root, key, chain) for key in remap_owners.keys(image.root))
        sizes.append(next((meta["size"] for meta in metas if meta), 0))
    return sizes
