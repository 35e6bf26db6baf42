"""`run --replace` and `create --replace`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lib.images import free_port
from tests.lib.life import row
from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

QUIET = ("--network", "none")


@pytest.fixture(autouse=True)
def cleared(rless: Product) -> Iterator[None]:
    yield
    rless.clear()


def test_new_container_takes_the_place_of_the_old(rless: Product) -> None:
    """Running, created or ended: the name, and all else of it, is the new one's."""
    words = ("run", "-d", "--replace", "--name", "web", *QUIET, rless.image, "sleep", "600")
    ids = [rless(*words).expect().out.strip() for _ in range(2)]
    created = rless("create", *words[2:]).expect().out.strip()
    ids += [created, rless(*words).expect().out.strip()]
    rless("kill", "web").expect()
    ids.append(rless(*words).expect().out.strip())
    assert len(set(ids)) == 5
    assert rless("ps", "-aq", "--no-trunc").lines() == ids[-1:]
    assert row(rless, "web")["State"] == "running"


@pytest.mark.needs("tun", "pasta")
def test_published_port_of_the_old_is_free(rless: Product) -> None:
    port = free_port()
    words = ("run", "-d", "--replace", "--name", "web", "-p", f"127.0.0.1:{port}:80")
    for _ in range(2):
        rless(*words, rless.image, "sleep", "600").expect()
        assert rless("port", "web").out == f"80/tcp -> 127.0.0.1:{port}\n"


def test_old_container_stays_if_there_is_no_image(rless: Product) -> None:
    made = rless.detach("web", "", "sleep", "600")
    words = ("--replace", "--name", "web", "--pull", "never", "localhost/missing")
    for verb in ("run", "create"):
        assert "not in the local store" in rless(verb, *words).expect(125).one_line_error()
    assert row(rless, "web")["State"] == "running"
    assert made[:12] in rless("ps", "-q").out


def test_only_a_name_is_replaced(rless: Product) -> None:
    """A name that is the beginning of another container's id does not mean that one."""
    made = rless("create", *QUIET, rless.image).expect().out.strip()
    rless("create", "--replace", "--name", made[:12], *QUIET, rless.image).expect()
    assert len(rless("ps", "-aq").lines()) == 2
    assert "needs --name" in rless("create", "--replace", rless.image).expect(125).err
