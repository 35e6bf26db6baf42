"""Malformed messages to rless-networks are refused."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.network import hub
from tests.lib.hub import Member, only_member

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids", "compiler")


@pytest.fixture
def member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Member]:
    monkeypatch.setenv("RLESS_STORAGE", str(tmp_path / "s"))
    with only_member("in-three") as made:
        yield made


@pytest.fixture
def other(member: Member) -> Iterator[hub.Hub]:
    """A connection that has joined no network."""
    connection = hub.connect()
    assert connection is not None
    yield connection
    connection.close()


def descriptors(pid: int) -> int:
    """Return how many it has; it may still be closing one of who made the member."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_port_for_a_nonmember_is_refused(other: hub.Hub) -> None:
    """It would have stayed bound when the connection had ended."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        before = descriptors(other.pid)
        for _ in range(3):
            assert other.call("P", "80", fds=[bound.fileno()]) == errno.EINVAL
        assert descriptors(other.pid) <= before


def test_unexpected_descriptor_is_closed(other: hub.Hub) -> None:
    before = descriptors(other.pid)
    for _ in range(3):
        with open(os.devnull) as file:
            other._ask(("W",), [file.fileno()])
    assert descriptors(other.pid) <= before


def test_prefix_longer_than_an_address_is_refused(other: hub.Hub) -> None:
    identifier = f"{6:064x}"
    network = ("br-wide", identifier, "wide", "1", "v4-6")
    gateways = ("0a090401/200", "")
    assert other.call("J", identifier, *network, *gateways, "0a090406", "", "name") != 0
    gateways = ("0a090401/24", "")
    assert other.call("J", identifier, *network, *gateways, "0a090406", "", "name") == 0


def test_names_beyond_the_limits_change_nothing(other: hub.Hub) -> None:
    """They were cut, and a name that came before the cut stayed."""
    identifier = f"{6:064x}"
    network = ("br-wide", identifier, "wide", "1", "v4-6")
    addresses = ("0a090401/24", "", "0a090406", "")
    full = [f"{number:x}" * 253 for number in range(4)]  # 1016 of 1024 bytes, with NULs
    assert other.call("J", identifier, *network, *addresses, *full) == 0
    for names in (["n" * 254], [*full, "more-12"], [f"n{one}" for one in range(62)]):
        assert other.call("N", identifier, network[0], *names) != 0
    assert other.call("N", identifier, network[0], *full) == 0
