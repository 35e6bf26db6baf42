"""Interfaces, routes and rules that `rootless.linux` makes, as pyroute2 sees them."""

from __future__ import annotations

import os
from typing import Any

import pytest

from rootless.errors import RlessError
from rootless.host import probe
from rootless.linux import idmap, ns
from rootless.linux.network import link, netlink, route
from rootless.network import firewall
from tests.lib.engine_namespace import make_map

pytestmark = pytest.mark.needs("user namespaces")


def inside(function: Any) -> Any:
    """Run a function in a new network namespace of our own; return what it returns."""
    both = ns.CLONE_NEWNS | ns.CLONE_NEWNET
    return idmap.call_in_userns(make_map("single"), function, namespaces=both)


def other_network() -> int:
    """Return a descriptor of another network namespace, and stay in this one."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    ns.unshare(ns.CLONE_NEWNET)
    other = os.open("/proc/self/ns/net", os.O_RDONLY)
    ns.setns(own, ns.CLONE_NEWNET)
    return other


def connect() -> dict[str, Any]:
    from pyroute2 import IPRoute

    other = other_network()
    netlink.loopback_up()
    mac = b"\x02\x42\x0a\x59\x00\x01"
    for _ in range(2):  # what is there already is no error
        netlink.call([link.bridge("br-test", mac, 1400)])
        number = link.index("br-test")
        netlink.call([link.address(number, b"\x0a\x59\x00\x01", 24)])
        netlink.call([link.address(number, b"\xfd" + bytes(14) + b"\x01", 64)])
    netlink.call([link.pair("v1", number, 1400, "eth0", other, mac[:5] + b"\x02")])
    with IPRoute() as ipr:
        bridge = ipr.link("get", ifname="br-test")[0]
        outside = ipr.link("get", ifname="v1")[0]
        bridge_addresses = sorted(
            f"{one.get('address')}/{one['prefixlen']}"
            for one in ipr.get_addr(index=number)
            if not one.get("address").startswith("fe80")
        )
    ns.setns(other, ns.CLONE_NEWNET)
    netlink.loopback_up()
    eth0 = link.index("eth0")
    requests = [link.up(eth0), link.address(eth0, b"\x0a\x59\x00\x02", 24)]
    netlink.call(
        [*requests, route.default(b"\x0a\x59\x00\x01"), route.default(b"\x0a\x59\x00\x01")]
    )
    with IPRoute() as ipr:
        member = ipr.link("get", ifname="eth0")[0]
        gateways = [one.get("gateway") for one in ipr.get_default_routes(family=2)]
    return {
        "kind": bridge.get_nested("linkinfo", "kind"),
        "master": outside.get("master") == number,
        "mtu": [bridge.get("mtu"), outside.get("mtu"), member.get("mtu")],
        "mac": [bridge.get("address"), member.get("address")],
        "bridge": bridge_addresses,
        "up": [bool(one["flags"] & 1) for one in (bridge, outside, member)],
        "gateways": gateways,
    }


def test_two_networks_can_be_connected() -> None:
    found = inside(connect)
    assert found == {
        "kind": "bridge",
        "master": True,
        "mtu": [1400, 1400, 1400],
        "mac": ["02:42:0a:59:00:01", "02:42:0a:59:00:02"],
        "bridge": ["10.89.0.1/24", "fd00::1/64"],
        "up": [True, True, True],
        "gateways": ["10.89.0.1"],
    }


def rules() -> dict[str, Any]:
    from pyroute2.nftables.main import NFTables

    netlink.loopback_up()
    firewall.install(transparent=True)
    firewall.deliver_to_transparent_sockets()
    with NFTables(nfgen_family=1) as nft:
        chains = {
            one.get("NFTA_CHAIN_NAME"): (
                one.get("NFTA_CHAIN_TYPE"),
                one.get("NFTA_CHAIN_POLICY"),
                one.get("NFTA_CHAIN_HOOK").get("NFTA_HOOK_HOOKNUM"),
            )
            for one in nft.get_chains()
        }
        counts: dict[str, int] = {}
        for one in nft.get_rules():
            name = one.get("NFTA_RULE_CHAIN")
            counts[name] = counts.get(name, 0) + 1
    return {"chains": chains, "counts": counts}


def test_rules_of_the_hub_are_installed() -> None:
    found = inside(rules)
    assert found["chains"] == {
        "first": ["filter", 1, 0],
        "input": ["filter", 0, 1],
        "forward": ["filter", 0, 2],
        "out": ["nat", 1, 4],
    }
    assert found["counts"] == {"first": 2, "input": 6, "forward": 5, "out": 1}


def refused() -> None:
    netlink.call([link.pair("v1", 12345, 1500, "eth0", 0, bytes(6))])


def test_error_names_the_request() -> None:
    with pytest.raises(RlessError, match=r"netlink\(veth eth0\)"):
        inside(refused)


def test_bridge_probe_succeeds() -> None:
    assert probe.bounded(probe.bridges).error == ""
