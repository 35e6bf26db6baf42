"""Which names an image has: found without the others, true after older versions and SIGKILL."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

from rootless.image.model.reference import parse
from rootless.image.store import names, records
from rootless.image.store.staging import Staging
from rootless.image.store.store import Store, name_path
from rootless.image.transfer import remove
from rootless.image.transfer.additional_stores import record_of
from tests.lib import images
from tests.lib.image_store import Workshop

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


class Stock:
    """A store with two images, which get names."""

    def __init__(self, workshop: Workshop) -> None:
        self.root, self.store = workshop.root, workshop.store
        self.one, self.two = (
            workshop.unpack([images.layer({"f": text})]) for text in ("one", "two")
        )
        for image in (self.one, self.two):
            remove.forget(self.root, names.records_of(self.store, image.id), [])
        names.tidy(self.root, [])

    def record(self, image: Any, name: str) -> tuple[str, dict[str, Any]]:
        reference = parse(name)
        return name_path(self.root, reference), record_of(image) | {"name": reference.canonical}

    def tag(self, image: Any, *given: str) -> None:
        with Staging(self.root) as staging:
            for name in given:
                records.write_name(self.root, *self.record(image, name), staging.path)

    def tag_as_before(self, image: Any, name: str) -> None:
        """Write a record as a version does that knows no entries."""
        with Staging(self.root) as staging:
            records.write_json(*self.record(image, name), staging.path)

    def of(self, image: Any) -> list[str]:
        return sorted(
            record["name"].rpartition("/")[2]
            for _, record in names.records_of(self.store, image.id)
        )

    def check(self) -> None:
        """Compare the entries with the records."""
        there = [
            (path, record["name"], record["id"]) for path, record in names.read_all(self.store)
        ]
        assert names.every(self.store) == there
        for image in (self.one, self.two):
            mine = [name.rpartition("/")[2] for _, name, owner in there if owner == image.id]
            assert self.of(image) == sorted(mine)


@pytest.fixture
def stock(workshop: Workshop) -> Stock:
    return Stock(workshop)


def test_names_of_one_image_are_found_without_the_others(
    stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock.tag(stock.one, "a:1", "a:2")
    stock.tag(stock.two, *(f"b:{number}" for number in range(20)))
    read: list[str] = []
    there = Store.read

    def reading(store: Store, path: str) -> dict[str, Any] | None:
        read.append(path)
        return there(store, path)

    monkeypatch.setattr(Store, "read", reading)
    assert stock.of(stock.one) == ["a:1", "a:2"]
    assert len(read) == 2
    assert len(names.every(stock.store)) == 22
    assert len(read) == 2


def test_store_of_the_version_before_is_completed_once(stock: Stock) -> None:
    stock.tag(stock.one, "a:1", "a:2")
    stock.tag(stock.two, "b:1")
    shutil.rmtree(f"{stock.root}/images/named")
    assert stock.of(stock.one) == ["a:1", "a:2"]
    assert names.is_complete(stock.root)
    stock.check()


def test_names_that_the_version_before_writes_later_are_noticed(stock: Stock) -> None:
    stock.tag(stock.one, "a:1")
    assert names.is_complete(stock.root)
    stock.tag_as_before(stock.two, "b:1")
    assert stock.of(stock.two) == ["b:1"]
    stock.tag_as_before(stock.two, "a:1")
    assert (stock.of(stock.one), stock.of(stock.two)) == ([], ["a:1", "b:1"])
    stock.tag_as_before(stock.one, "c:1")
    stock.tag(stock.one, "c:2")  # by this version, which does not hide the other's
    assert stock.of(stock.one) == ["c:1", "c:2"]
    stock.check()


def test_moved_and_removed_names_are_not_shown(stock: Stock) -> None:
    stock.tag(stock.one, "a:1", "a:2")
    stock.tag(stock.two, "a:1")
    assert (stock.of(stock.one), stock.of(stock.two)) == (["a:2"], ["a:1"])
    stock.tag(stock.one, "a:1")
    stock.check()
    remove.forget(stock.root, names.records_of(stock.store, stock.one.id), [])
    assert names.is_complete(stock.root)
    assert stock.of(stock.one) == []
    stock.check()
    remove.collect(stock.store)
    assert os.listdir(f"{stock.root}/images/named") == [".complete"]
    stock.tag(stock.one, "a:1")
    stock.check()


def test_name_that_is_too_long_for_a_link_is_shown(stock: Stock) -> None:
    path = "/".join(["n" * 200] * 21)
    stock.tag(stock.one, f"oci:/{path}:x", "a:1")
    assert any(len(name) > 4096 for _, name, _ in names.every(stock.store))
    stock.check()


def test_fifty_at_once_leave_all_entries(stock: Stock) -> None:
    stock.tag(stock.one, "a:1")
    pids = []
    for number in range(50):
        pid = os.fork()
        if pid == 0:
            try:
                stock.tag(stock.two if number % 2 else stock.one, f"b:{number}", "a:1")
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
    assert names.is_complete(stock.root)
    assert len(names.every(stock.store)) == 51
    stock.check()


def test_write_that_was_cut_short_leaves_what_is_true(
    stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock.tag(stock.one, "a:1")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            stock.tag(stock.two, "a:1")  # the entry is there, the record is not
    stock.check()
    with monkeypatch.context() as patch:
        patch.setattr(names, "_mark", killed)
        with pytest.raises(KeyboardInterrupt):
            stock.tag(stock.two, "a:2")  # the record is there, and nobody has said so
    stock.check()


def test_store_that_cannot_be_written_is_read(stock: Stock) -> None:
    stock.tag(stock.one, "a:1")
    shutil.rmtree(f"{stock.root}/images/named")
    os.chmod(f"{stock.root}/images", 0o500)
    try:
        assert stock.of(stock.one) == ["a:1"]
        stock.check()
        assert not os.path.exists(f"{stock.root}/images/named")
    finally:
        os.chmod(f"{stock.root}/images", 0o700)
