"""The new image: its config, its history, and its record in the store.

All layers are there by now. The record is written last, and a name moves to the image with it, so
an image that can be found is complete.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rootless.engine.build.steps import Result
from rootless.errors import RlessError
from rootless.image.config.manifest import parse_config
from rootless.image.layer.layers import merge_users
from rootless.image.model.digest import sha256
from rootless.image.store import records
from rootless.image.store.store import record_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rootless.engine.build.steps import Plan, Stage
    from rootless.image.model.reference import Reference
    from rootless.image.store.store import Store


def document(
    plan: Plan,
    target: Stage,
    results: Sequence[Result],
    metas: Sequence[dict[str, Any]],
    epoch: int | None,
) -> dict[str, Any]:
    """Return the config document of a target (image-spec, config.md).

    Times are those at which layers were made, in this build or an earlier one. So equal layers give
    equal documents, and the image of a build that the cache answers is the same image.

    Args:
        results: one a stage.
        metas: of all layers, bottom first.
        epoch: SOURCE_DATE_EPOCH, in seconds; None: the times of the layers.
    """
    base = plan.base_of(target)
    old = str(base.config.get("created") or _time(0))
    history = _history(plan, target, results, old, epoch)
    made: dict[str, Any] = {"created": history[-1]["created"] if history else old}
    author = target.author or base.config.get("author")
    if author:
        made["author"] = author
    made.update({field: base.platform[field] for field in ("architecture", "os", "variant")
                 if base.platform.get(field)})  # fmt: skip
    made["config"] = dict(target.config)
    made["rootfs"] = {"type": "layers", "diff_ids": [meta["diff_id"] for meta in metas]}
    made["history"] = [*(base.config.get("history") or ()), *history]
    return made


def squashed(
    plan: Plan, target: Stage, results: Sequence[Result], squashed: Result
) -> list[Result]:
    """Return what the stages have come to, where all their layers are one: that of the last step.

    Args:
        squashed: what the target has come to (`step_process.squash`).
    """
    found, created = list(results), squashed.layers.get(0)
    line = [target]
    while isinstance(line[-1].base, int):
        line.append(plan.stages[line[-1].base])
    for stage in line if created is not None else ():
        old = found[stage.index]
        layers = {max(old.layers): created} if old.layers and created is not None else {}
        found[stage.index] = Result(old.state, layers, old.keys)
        created = None if layers else created
    old = found[target.index]
    found[target.index] = Result(squashed.state, old.layers, old.keys)
    return found


def _time(seconds: float) -> str:
    """Return a time as RFC 3339 has it."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat().removesuffix("+00:00") + "Z"


def _history(
    plan: Plan, stage: Stage, results: Sequence[Result], old: str, epoch: int | None
) -> list[dict[str, Any]]:
    """Return the entries of a stage, after those of the stages below it.

    Args:
        old: when the base was made: the time of what stands before the first layer.
    """
    found: list[dict[str, Any]] = []
    if isinstance(stage.base, int):
        found = _history(plan, plan.stages[stage.base], results, old, epoch)
    last = found[-1]["created"] if found else old if epoch is None else _time(epoch)
    layers = results[stage.index].layers
    for entry in stage.history:
        created = layers.get(entry.step.number) if entry.step is not None else None
        if created is not None and epoch is None:
            last = _time(created)
        line: dict[str, Any] = {"created": last, "created_by": entry.created_by}
        if entry.comment:
            line["comment"] = entry.comment
        if created is None:
            line["empty_layer"] = True
        found.append(line)
    return found


def record(
    store: Store,
    key: str,
    made: Mapping[str, Any],
    metas: Sequence[dict[str, Any]],
    names: Sequence[Reference],
    scratch: str,
    platform: str | None = None,
) -> str:
    """Record the image; return its id.

    Args:
        key: of the map that its layers are there for.
        made: the config document.
        names: all that it gets; none: it has an id only.
        platform: the names are meant for that platform only.
        scratch: the directory of a `Staging`.

    Raises:
        RlessError: no room.
    """
    root = store.root
    text = json.dumps(made, separators=(",", ":")).encode("ascii")
    chain = [meta["chain"] for meta in metas]
    parsed = parse_config(text, "the new image's config", len(chain))
    identifier = sha256(text)
    forms = {meta["whiteouts"] for meta in metas}
    entry: dict[str, Any] = {
        "name": record_name(names[0]) if names else identifier,
        "id": identifier,
        "digest": "",
        "digests": [],
        "config": parsed["config"],
        "platform": {field: made.get(field) or "" for field in ("os", "architecture", "variant")},
        "chain": chain,
        "users": merge_users(list(metas)),
        "keys": {key: "aufs" if "aufs" in forms else "overlay"},
        "size": sum(meta["size"] for meta in metas),
        "created": made["created"],
        "source": None,
    }
    _keep_maps(store, entry)
    records.put_blob(root, identifier, text, scratch)
    records.sync(root)
    for name in names:
        records.save(root, {**entry, "name": record_name(name)}, name, platform, scratch)
    if not names:
        records.save_nameless(root, entry, scratch)
    return identifier


def _keep_maps(store: Store, entry: dict[str, Any]) -> None:
    """Keep what is known of other maps, where the same image is there already."""
    old = store.read(f"{store.root}/images/ids/{entry['id'][7:]}.json")
    if old is not None:
        entry["keys"] = {**old["keys"], **entry["keys"]}


def read_metas(root: str, key: str, chain: Sequence[str]) -> list[dict[str, Any]]:
    """Return the records of layers that were just made or found.

    Raises:
        RlessError: one was removed meanwhile.
    """
    metas = [records.read_meta(root, key, link) for link in chain]
    if None in metas:
        raise RlessError("a layer was removed in the meantime", "run the build again", 1)
    return [meta for meta in metas if meta is not None]

