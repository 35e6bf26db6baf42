"""Subnets, and the assignment of addresses."""

from __future__ import annotations

import threading
from collections.abc import Collection
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.network import addresses, interfaces
from rootless.network.addresses import subnet


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLESS_STORAGE", str(tmp_path / "s"))
    return tmp_path / "s"


@pytest.mark.parametrize(
    "text", ["10.89.0.0/24", "0.0.0.0/0", "192.0.2.4/30", "fd00:1::/64", "::/0"]
)
def test_subnet_is_formatted_as_read(text: str) -> None:
    assert str(subnet(text)) == text


@pytest.mark.parametrize("text", ["10.89.0.0", "10.89.0.0/33", "x/24", "10.89.0.0/-1", "fd::/129"])
def test_wrong_subnets_are_refused(text: str) -> None:
    with pytest.raises(RlessError, match="is not"):
        subnet(text)


def test_host_bits_in_a_subnet_are_refused() -> None:
    with pytest.raises(RlessError, match=r"do you mean 10\.89\.0\.0/24"):
        subnet("10.89.0.7/24")


def test_overlap_is_detected() -> None:
    assert subnet("10.0.0.0/8").overlaps(subnet("10.89.0.0/24"))
    assert subnet("10.89.0.0/24").overlaps(subnet("10.0.0.0/8"))
    assert not subnet("10.89.1.0/24").overlaps(subnet("10.89.0.0/24"))
    assert not subnet("::/0").overlaps(subnet("0.0.0.0/0"))


def test_automatic_subnets_avoid_others_and_the_routes_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interfaces, "host_routes", lambda: [("10.89.0.0", 23)])
    assert str(addresses.free_subnet([])) == "10.89.2.0/24"
    assert str(addresses.free_subnet([subnet("10.89.2.0/24")])) == "10.89.3.0/24"
    with pytest.raises(RlessError, match="no subnet"):
        addresses.free_subnet([subnet("10.0.0.0/8")])


def take(
    container: str,
    whole: str = "10.9.0.0/29",
    part: str | None = None,
    wanted: str | None = None,
    live: set[str] | None = None,
    exists: set[str] | None = None,
    reserved: Collection[str] = (),
) -> str:
    net = subnet(whole)
    asked = {net.size: addresses.number(wanted)[0]} if wanted else {}
    given = addresses.take(
        "n" * 64,
        container,
        [(net, subnet(part or whole), net.base + 1)],
        asked,
        (live if live is not None else {"a", "b", "c", "d", "e", "f"}).__contains__,
        (exists if exists is not None else {"a", "b", "c", "d", "e", "f"}).__contains__,
        reserved,
    )
    return addresses.show(given[net.size], net.size)


def test_addresses_are_distinct_until_none_is_left() -> None:
    found = [take(name) for name in "abcde"]
    assert found == [f"10.9.0.{last}" for last in range(2, 7)]
    with pytest.raises(RlessError, match="no address"):
        take("f")


def test_ended_container_frees_its_address() -> None:
    assert take("a") == "10.9.0.2"
    assert take("b", live={"b"}) == "10.9.0.2"


def test_addresses_stay_in_the_ip_range() -> None:
    assert take("a", "10.9.0.0/24", "10.9.0.128/25") == "10.9.0.128"


def test_reserved_address_is_only_for_who_asks() -> None:
    assert take("a", reserved={"10.9.0.2"}) == "10.9.0.3"
    assert take("b", wanted="10.9.0.2", reserved={"10.9.0.2"}) == "10.9.0.2"


def test_ipv6_addresses_are_assigned() -> None:
    assert take("a", "fd00::/64") == "fd00::2"


def test_requested_address_is_reserved_for_its_container() -> None:
    assert take("a", wanted="10.9.0.2") == "10.9.0.2"
    # It does not run, but nobody else gets it.
    assert take("b", live={"b"}) == "10.9.0.3"
    assert take("a", wanted="10.9.0.2", live={"b"}) == "10.9.0.2"
    with pytest.raises(RlessError, match="in use by container a"):
        take("c", wanted="10.9.0.2", live={"a"})


def test_requested_address_goes_to_the_next_who_asks_while_it_is_unused() -> None:
    """Compose makes a container anew beside the old one, which has stopped."""
    assert take("a", wanted="10.9.0.2") == "10.9.0.2"
    assert take("c", wanted="10.9.0.2", live=set()) == "10.9.0.2"
    assert take("b", live=set()) == "10.9.0.3"
    addresses.give_back("n" * 64, "a")
    assert take("b", live=set()) == "10.9.0.3"
    assert take("a", wanted="10.9.0.2", live=set(), exists=set()) == "10.9.0.2"


@pytest.mark.parametrize(
    ("wanted", "why"), [("10.9.1.5", "not in the network"), ("10.9.0.1", "gateway")]
)
def test_impossible_addresses_are_refused(wanted: str, why: str) -> None:
    with pytest.raises(RlessError, match=why):
        take("a", wanted=wanted)


def test_released_address_is_free() -> None:
    take("a", wanted="10.9.0.2")
    addresses.give_back("n" * 64, "a")
    assert take("b") == "10.9.0.2"


def test_thirty_concurrent_requests_get_distinct_addresses() -> None:
    names = {f"c{number}" for number in range(30)}
    found: list[str] = []

    def one(name: str) -> None:
        found.append(take(name, "10.9.0.0/24", live=names, exists=names))

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 30
