"""The options that pasta is started with."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rootless.engine.request import Port
from rootless.errors import RlessError
from rootless.linux import processor, programs
from rootless.network import pasta, pasta_options, resolv

if TYPE_CHECKING:
    from collections.abc import Sequence

ALWAYS = "--config-net --quiet --foreground --pid /proc/self/fd/1 --no-netns-quit".split()


@pytest.fixture(autouse=True)
def usual_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(processor, "has_avx2", lambda: False)
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(pasta_options, "families", list)
    monkeypatch.setattr(resolv, "read_host", lambda: "nameserver 10.0.0.1\n")


def command(published: Sequence[Port] = (), options: Sequence[str] = ()) -> list[str]:
    path, *arguments = pasta_options.command(published, options)
    assert path == "/usr/bin/pasta"
    assert arguments[: len(ALWAYS)] == ALWAYS
    return arguments[len(ALWAYS) :]


def test_nothing_is_forwarded_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 38: each of the five, always."""
    monkeypatch.setattr(pasta_options, "_random_mac", lambda: "02:00:00:00:00:01")
    closed = "--no-map-gw -T none -U none -t none -u none"
    interface = "-I eth0 --ns-mac-addr 02:00:00:00:00:01 -M 9a:55:9a:55:9a:55"
    addresses = "-a 10.0.2.100 -n 24 -g 10.0.2.2 -a fd52:6c65:7373::100 -g fd52:6c65:7373::1"
    assert command() == f"{closed} {interface} {addresses}".split()


def test_published_ports_are_passed() -> None:
    published = [
        Port(None, 8080, 80, "tcp"),
        Port("127.0.0.1", 8443, 443, "tcp"),
        Port("::1", 53, 5353, "udp"),
    ]
    text = " ".join(command(published))
    assert "-t 8080:80 -t 127.0.0.1/8443:443 -u ::1/53:5353" in text
    assert "-t none" not in text
    assert "-u none" not in text
    assert "-T none -U none" in text


def test_adjacent_ports_become_one_range() -> None:
    """A command line has room for all ports."""
    published = [Port(None, 8000 + number, 80 + number, "tcp") for number in range(3)]
    published += [Port(None, 8003, 90, "tcp"), Port("::1", 8004, 91, "tcp")]
    assert "-t 8000-8002:80-82 -t 8003:90 -t ::1/8004:91 -u none" in " ".join(command(published))


def test_unused_protocol_is_disabled() -> None:
    assert "-t 80:80 -u none" in " ".join(command([Port(None, 80, 80, "tcp")]))
    assert "-t none -u 80:80" in " ".join(command([Port(None, 80, 80, "udp")]))


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        ("-T 5432", "-T 5432", "-T none"),
        ("--tcp-ns=5432", "--tcp-ns=5432", "-T none"),
        ("-U5432", "-U5432", "-U none"),
        ("-t auto", "-t auto", "-t none"),
        ("--udp-ports 5", "--udp-ports 5", "-u none"),
        ("-I tap0", "-I tap0", "-I eth0"),
        ("-M 02:00:00:00:00:01", "-M 02:00:00:00:00:01", "-M 9a"),
        ("--map-gw", "-T none", "map-gw"),
        ("--map-host-loopback 10.0.0.9", "--map-host-loopback 10.0.0.9", "--no-map-gw"),
    ],
)
def test_user_options_replace_defaults(options: str, present: str, absent: str) -> None:
    text = " ".join(command(options=options.split()))
    assert present in text
    assert absent not in text


def test_addresses_are_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    def addresses(families: list[str], **given: Any) -> str:
        monkeypatch.setattr(pasta_options, "families", lambda: families)
        return " ".join(pasta_options.command([], **given)).partition("9a:55:9a:55:9a:55 ")[2]

    own6 = " -a fd52:6c65:7373::100 -g fd52:6c65:7373::1"
    assert addresses([], ip="10.9.8.7") == f"-a 10.9.8.7 -n 24 -g 10.9.8.2{own6}"
    assert addresses(["-4"], ip="10.9.8.2") == "-4 -a 10.9.8.2 -n 24 -g 10.9.8.1"
    assert addresses([], ip6="fd12::7").endswith(" -g 10.0.2.2 -a fd12::7 -g fd12::1")
    assert addresses(["-6"], ip6="fd12::1") == "-6 -a fd12::1 -g fd12::2"
    assert addresses([]) == f"-a 10.0.2.100 -n 24 -g 10.0.2.2{own6}"
    assert addresses(["-4"]) == "-4 -a 10.0.2.100 -n 24 -g 10.0.2.2"
    assert addresses(["-6"]) == f"-6{own6}"
    offline = pasta_options._OFFLINE
    assert addresses(offline) == "-4 -i lo -a 10.0.2.100 -n 24 -g 10.0.2.2"
    assert addresses(offline, ip="10.9.8.7").startswith("-4 -i lo -a 10.9.8.7 ")
    for families, given in ((["-6"], {"ip": "10.9.8.7"}), (["-4"], {"ip6": "fd12::7"}),
                            (offline, {"ip6": "fd12::7"})):  # fmt: skip
        with pytest.raises(RlessError, match="this host has no way out by IPv"):
            addresses(families, **given)
    with pytest.raises(RlessError, match="and so does another flag"):
        pasta_options.command([], ["-4"], ip="10.9.8.7")
    mac = "02:42:ac:11:00:02"
    assert f"--ns-mac-addr {mac}" in " ".join(pasta_options.command([], mac=mac))


@pytest.mark.parametrize("option", ["-4", "-6", "--ipv4-only", "-a", "--address=10.0.0.2", "-i"])
def testfamilies_are_left_to_the_user(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    monkeypatch.setattr(pasta_options, "families", lambda: ["FAMILIES"])
    assert "FAMILIES" in command()
    assert "FAMILIES" not in command(options=[option, "x"])


@pytest.mark.parametrize(
    "option",
    [
        "-P",
        "--pid",
        "--pid=/x",
        "-P/x",
        "-f",
        "--netns",
        "--userns=/x",
        "--fd",
        "-h",
        "--net",
        "--pi=/x",
        "--runa",
        "--vhost-user",
        "-1",
    ],
)
def test_reserved_options_are_refused(option: str) -> None:
    with pytest.raises(RlessError, match=r"--network=pasta: .* is not supported"):
        command(options=[option])


def test_dns_forward_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only if it is needed: with it, answers of the real server get the wrong sender (2023)."""
    assert "--dns-forward" not in command()
    monkeypatch.setattr(resolv, "read_host", lambda: "nameserver 127.0.0.1\n")
    assert command()[-2:] == ["--dns-forward", "169.254.1.1"]
    given = command(options=["--dns-forward", "10.0.0.9"])
    assert given.count("--dns-forward") == 1


def test_interface_is_named() -> None:
    assert pasta_options.interface(command()) == "eth0"
    for options in (["-I", "tap0"], ["-Itap0"], ["--ns-ifname", "tap0"], ["--ns-ifname=tap0"]):
        assert pasta_options.interface(command(options=options)) == "tap0"


def test_hardware_address_is_unique() -> None:
    """Each container has its own, which is known before pasta begins."""
    found = {pasta_options.mac_address(command()) for _ in range(20)}
    assert len(found) == 20
    assert all(re.fullmatch("02(:[0-9a-f]{2}){5}", one) for one in found)
    given = "02:42:AC:11:00:02"
    assert pasta_options.mac_address(pasta_options.command([], mac=given)) == given
    for options in (["--ns-mac-addr", given], [f"--ns-mac-addr={given}"]):
        arguments = command(options=options)
        assert pasta_options.mac_address(arguments) == given
        assert sum(one.startswith("--ns-mac-addr") for one in arguments) == 1
    for wrong in ("", "02:42", "02:42:ac:11:00:0x", "2:42:ac:11:00:002", "02:42:ac:11:00:02:"):
        assert pasta_options.mac_address(command(options=[f"--ns-mac-addr={wrong}"])) == ""


def test_pasta_keeps_running_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--runas" not in command()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert command()[:2] == ["--runas", "0"]


def test_missing_pasta_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find_pasta", lambda: None)
    with pytest.raises(RlessError, match="needs pasta, which is not installed") as caught:
        pasta_options.command([])
    assert "--network=host or --network=none" in str(caught.value)


def test_missing_tun_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path != "/dev/net/tun")
    with pytest.raises(RlessError, match=r"/dev/net/tun: .* missing or closed") as caught:
        pasta_options.command([])
    assert "--network=host or --network=none" in str(caught.value)


ROUTE_HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
DEFAULT4 = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
LINK4 = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
REJECT4 = "*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n"
ZERO = "0" * 32
DEFAULT6 = f"{ZERO} 00 {ZERO} 00 fd{'0' * 29}1 00000400 00000002 00000000 00000003     eth0\n"
LINK6 = f"fd{'0' * 30} 40 {ZERO} 00 {ZERO} 00000100 00000001 00000000 00000001     eth0\n"
REJECT6 = f"{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo\n"


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "expected"),
    [
        (DEFAULT4 + LINK4, LINK6 + DEFAULT6 + REJECT6, []),
        (DEFAULT4, LINK6 + REJECT6, ["-4"]),
        (LINK4, DEFAULT6, ["-6"]),
        (REJECT4, DEFAULT6, ["-6"]),
        (DEFAULT4, None, ["-4"]),
        (LINK4, REJECT6, pasta_options._OFFLINE),
        ("", "", pasta_options._OFFLINE),
        (None, None, pasta_options._OFFLINE),
    ],
)
def testfamilies(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    ipv4: str | None,
    ipv6: str | None,
    expected: list[str],
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(pasta_options, "_ROUTES4", str(tmp_path / "route"))
    monkeypatch.setattr(pasta_options, "_ROUTES6", str(tmp_path / "ipv6_route"))
    if ipv4 is not None:
        (tmp_path / "route").write_text(ROUTE_HEAD + ipv4)
    if ipv6 is not None:
        (tmp_path / "ipv6_route").write_text(ipv6)
    assert pasta_options.families() == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Invalid port specifier x"], "Invalid port specifier x"),
        (
            [
                "1795507949.9908: Couldn't install signal handlers",
                "Failed to send 9 bytes to syslog",
            ],
            "Couldn't install signal handlers",
        ),
        (["Can't run AVX2 build, using non-AVX2 version: No such file"], "it ended without a word"),
        (["Failed to sandbox process, exiting", ""], "Failed to sandbox process"),
        ([], "it ended without a word"),
    ],
)
def test_last_message_is_the_reason(lines: list[str], expected: str) -> None:
    assert pasta.last_message(lines) == expected


def test_build_for_the_processor_is_chosen_safely(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What pasta would execute itself, if it is there, as safe as pasta, and can be run."""
    (tmp_path / "pasta").symlink_to("passt")
    (tmp_path / "passt").touch()
    monkeypatch.setattr(programs, "find", lambda name: f"{tmp_path}/{name}")
    safe = [f"{tmp_path}/passt.avx2"]
    monkeypatch.setattr(programs, "is_trusted", lambda path: path in safe)
    assert pasta_options.command([])[0] == f"{tmp_path}/pasta"
    monkeypatch.setattr(processor, "has_avx2", lambda: True)
    assert pasta_options.command([])[0] == f"{tmp_path}/passt.avx2"
    safe.clear()
    assert pasta_options.command([])[0] == f"{tmp_path}/pasta"


@pytest.mark.needs("x86_64")
def test_processor_features_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert processor.has_avx2() == (" avx2 " in Path("/proc/cpuinfo").read_text())
