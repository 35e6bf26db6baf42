"""`container|image|volume|network exists`: the exit code is the answer, as in Podman."""

from __future__ import annotations

import pytest

from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def answer(rless: Product, kind: str, name: str) -> int:
    done = rless(kind, "exists", name)
    assert (done.out, done.err) == ("", "")
    return done.code


def test_exit_code_tells_whether_it_exists(rless: Product) -> None:
    rless("create", "--name", "here", "--network", "none", rless.image).expect()
    rless("volume", "create", "here").expect()
    rless("network", "create", "here").expect()
    for kind, name in (
        ("container", "here"),
        ("image", rless.image),
        ("volume", "here"),
        ("network", "here"),
        ("network", "bridge"),
    ):
        assert answer(rless, kind, name) == 0
        assert answer(rless, kind, "missing") == 1
    rless("rm", "here").expect()
    rless("network", "rm", "here").expect()
    for kind in ("container", "network"):
        assert answer(rless, kind, "here") == 1


def test_error_is_no_answer(rless: Product) -> None:
    """A script that creates what does not exist must not do so after an error."""
    for words in (("image", "exists", "A::B"), ("image", "exists"), ("volume", "exists", "a", "b")):
        rless(*words).expect(125).one_line_error()
    ids = [rless("create", rless.image).expect().out.strip() for _ in range(17)]
    shared = next(id_[0] for id_ in ids if sum(other[0] == id_[0] for other in ids) > 1)
    assert "container ids" in rless("container", "exists", shared).expect(125).one_line_error()
    rless("rm", *ids).expect()
