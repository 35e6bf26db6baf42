"""The table of a carried cache: what is written is read; what is malformed is refused; class 58."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rootless.engine.build.carried import table
from rootless.image.config.manifest import ManifestError
from rootless.image.model.digest import chain_ids
from rootless.image.store.build_cache import Entry

DIFF_IDS = [f"sha256:{number:064x}" for number in range(4)]
CHAIN = chain_ids(DIFF_IDS)
KEYS = [f"{number:064x}" for number in range(10, 14)]


def made(**more: Any) -> dict[str, Any]:
    entries = {
        KEYS[0]: Entry(CHAIN[:3], "u0", created=5.0, text="RUN x"),
        KEYS[1]: Entry(CHAIN, "single", created=6.0, keys=KEYS[1:3], early=KEYS[3]),
    }
    carried = DIFF_IDS[2:]
    made = table.make(entries, dict(zip(CHAIN, DIFF_IDS, strict=True)), carried, **more)
    document = {"rootfs": {"type": "layers", "diff_ids": carried}, table.FIELD: made}
    found: dict[str, Any] = json.loads(json.dumps(document))
    return found


def test_what_is_written_is_read() -> None:
    found = table.read(made(), "it")
    assert list(found) == KEYS
    first, second = found[KEYS[0]], found[KEYS[1]]
    assert (first.chain, first.map) == (tuple(CHAIN[:3]), "")
    assert (first.created, first.text) == (5.0, "RUN x")
    assert (second.chain, second.map, second.diff_ids) == (tuple(CHAIN), "single", tuple(DIFF_IDS))
    assert found[KEYS[2]] is found[KEYS[3]] is second


def test_times_and_early_keys_are_left_out() -> None:
    found = table.read(made(created=1.0, early=False), "it")
    assert list(found) == KEYS[:3]
    assert {entry.created for entry in found.values()} == {1.0}


def test_document_without_a_table_has_no_cache() -> None:
    with pytest.raises(ManifestError, match="no build cache"):
        table.read({"rootfs": {"diff_ids": []}, "moby.buildkit.cache.v0": "x"}, "it")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keys", []), ("keys", "x"), ("keys", ["../../x"]), ("keys", [1]), ("keys", KEYS * 3),
        ("early", "x"), ("early", ["x"]),
        ("layers", []), ("layers", [4]), ("layers", [-1]), ("layers", [True]), ("layers", "0"),
        ("layers", [0] * 1000), ("layers", [0.0]),
        ("created", "1"), ("created", -1), ("created", 1e400), ("created", 1 << 40),
        ("text", 1), ("text", None),
    ],
)  # fmt: skip
def test_malformed_row_is_refused(field: str, value: object) -> None:
    document = made()
    document[table.FIELD]["entries"][0][field] = value
    with pytest.raises(ManifestError, match="malformed"):
        table.read(document, "it")


@pytest.mark.parametrize("value", [[], {}, {"below": ["x"], "entries": []}, {"below": [], "entries": 1}])
def test_malformed_table_is_refused(value: object) -> None:
    document = made()
    document[table.FIELD] = value
    with pytest.raises(ManifestError, match="malformed"):
        table.read(document, "it")
