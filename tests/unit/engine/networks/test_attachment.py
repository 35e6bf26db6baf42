"""The names of a container in a network."""

from __future__ import annotations

from typing import Any, cast

import pytest

from rootless.engine.networks import attachment
from rootless.engine.state.container import Container
from rootless.errors import RlessError


class _Named:
    id = "0123456789ab" + "c" * 52
    facts = {"name": "web"}


def names(hostname: str = "", *, aliases: tuple[str, ...] = (), links: Any = ()) -> list[str]:
    place = cast(Any, {"name": "net", "aliases": aliases, "links": links})
    return attachment.names_of(cast(Container, _Named()), place, hostname)


def test_links_come_behind_names_and_an_id_is_cut_to_what_is_a_name() -> None:
    links = [["db", "data"], ["f" * 64, "other"]]
    found = names("host", aliases=("www", "web"), links=links)
    assert found == ["web", "www", "0123456789ab", "host", "data>db", "other>" + "f" * 12]


def test_place_of_an_older_release_has_no_links() -> None:
    place = cast(Any, {"name": "net", "aliases": ["www"]})
    assert attachment.names_of(cast(Container, _Named()), place, "", "new")[:2] == ["new", "www"]


@pytest.mark.parametrize(
    ("aliases", "links"),
    [
        (("x" * 254,), ()),
        ((), [["d" * 127, "é" * 63]]),
        (tuple(f"a{number}" for number in range(49)), ()),
        (tuple(f"{number}" * 250 for number in range(4)), [["d", "a"]]),
    ],
)
def test_more_names_than_the_hub_takes_are_refused(aliases: tuple[str, ...], links: Any) -> None:
    with pytest.raises(RlessError, match="too many names in network net"):
        names(aliases=aliases, links=links)
