"""The new image: its config and its history. All layers are there by now."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rootless.engine.build.steps import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.engine.build.steps import Plan, Stage


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
