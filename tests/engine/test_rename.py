"""`rename`: of running and ended containers, with names that are free."""

from __future__ import annotations

import os

import pytest

from tests.lib.life import facts, row
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def test_running_and_ended(rless: Product) -> None:
    made = rless.detach("before", "", "sleep", "600")
    assert rless("rename", "before", "after").expect().out == ""
    assert row(rless, "after")["State"] == "running"
    assert facts(rless, made)["name"] == "after"
    assert os.listdir(rless.storage / "names") == ["after"]
    rless("stop", "-t", "0", "after").expect()
    rless("rename", made[:12], "third").expect()
    assert "no such container" in rless("rm", "after").expect(1).err
    rless.detach("after", "", "true")  # the name is free
    rless("wait", "after").expect()
    rless("rm", "third", "after").expect()


def test_its_removal_at_the_end_gives_the_new_name_back(rless: Product) -> None:
    rless.detach("old", "--rm", "sleep", "600")
    rless("rename", "old", "new").expect()
    rless("kill", "new").expect()
    wait_for(lambda: not os.listdir(rless.storage / "names"), "the name")


def test_names_that_cannot_be(rless: Product) -> None:
    rless.detach("one", "", "sleep", "600")
    rless.detach("two", "", "sleep", "600")
    assert "already in use" in rless("rename", "one", "two").expect(1).one_line_error()
    for name in ("", "a/b", "x", "\x1b[2J"):
        rless("rename", "one", name).expect(1).one_line_error()
    assert "already" in rless("rename", "one", "one").expect(1).one_line_error()
    assert "no such container" in rless("rename", "none", "x1").expect(1).one_line_error()
    rless("rename", "one").expect(125).one_line_error()
    assert sorted(os.listdir(rless.storage / "names")) == ["one", "two"]
    rless("rm", "-f", "one", "two").expect()


def test_one_name_for_two(rless: Product) -> None:
    rless.detach("left", "", "sleep", "600")
    rless.detach("right", "", "sleep", "600")
    both = [rless.start("rename", name, "wanted") for name in ("left", "right")]
    assert sorted(process.wait(20) == 0 for process in both) == [False, True]
    assert len(os.listdir(rless.storage / "names")) == 2
    rless("rm", "-f", *rless.containers()).expect()
