"""The disk usage of the storage: what it costs, not what it finds (tests/engine/manage)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.engine.query import disk_usage
from rootless.image.store.records import make_frame
from rootless.linux import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest


class Sizes(dict[str, int]):
    """Sizes that count how often somebody goes through all of them."""

    passes = 0

    def __iter__(self) -> Iterator[str]:
        self.passes += 1
        return super().__iter__()

    def items(self):  # type: ignore[no-untyped-def]
        self.passes += 1
        return super().items()


def passes(root: str, count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many passes a storage with so many images takes."""
    make_frame(root)
    sizes = Sizes()
    for number in range(count):
        digest = f"{number:064x}"[::-1]
        record = (
            f'{{"version":1,"name":"sha256:{digest}","id":"sha256:{digest}","digest":"",'
            f'"chain":["sha256:{digest}"],"created":""}}'
        )
        files.write(f"{root}/images/ids/{digest}.json", record.encode())
        sizes |= {f"layers/key/{digest[:24]}": 10, f"layers/key/{digest[:24]}.json": 1}
        sizes |= {f"images/ids/{digest}.json": 1, f"blobs/sha256/{digest}": 1}
    monkeypatch.setenv("RLESS_STORAGE", root)
    monkeypatch.setattr(disk_usage, "call_in_userns", lambda *_: sizes)
    usage = disk_usage.measure()
    assert [image["size"] for image in usage.images] == [13] * count
    assert usage.shares["Images"].size == 13 * count
    return sizes.passes


def test_passes_do_not_grow_with_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = passes(str(tmp_path / "few"), 2, monkeypatch)
    assert passes(str(tmp_path / "many"), 20, monkeypatch) == few
