"""The files of /etc that belong to a network."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.errors import RlessError
from rootless.network import resolv

if TYPE_CHECKING:
    from pathlib import Path

HOST = (
    "# a comment\n"
    "nameserver 10.0.0.1\n"
    "nameserver 10.0.0.2\n"
    "search example.org corp\n"
    "options ndots:2\n"
)


def private(text: str, **values: list[str]) -> str:
    options = {"dns": [], "search": [], "options": [], **values}
    return resolv.resolv_text(text, **options, private_network=True)


def test_resolv_conf_of_the_host_is_copied() -> None:
    assert private(HOST) == (
        "nameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch example.org corp\noptions ndots:2\n"
    )


def test_host_network_keeps_the_file_unchanged() -> None:
    text = "nameserver 127.0.0.53\nsortlist 10.0.0.0/8\n"
    assert resolv.resolv_text(text, [], [], [], private_network=False) == text
    changed = resolv.resolv_text(text, [], ["a.org"], [], private_network=False)
    assert changed == "nameserver 127.0.0.53\nsearch a.org\n"


@pytest.mark.parametrize(
    "text",
    [
        "nameserver 127.0.0.1\n",
        "nameserver ::1\n",
        "nameserver 127.0.0.53\nnameserver ::1\n",
        "nameserver 0.0.0.0\n",
        "nameserver fe80::1%eth0\n",
        "",
        "search a.org\n",
    ],
)
def test_unreachable_resolvers_are_forwarded_to(text: str) -> None:
    assert resolv.needs_forward(text)
    assert private(text).splitlines()[0] == f"nameserver {resolv.FORWARD}"


def test_reachable_resolvers_are_kept() -> None:
    text = "nameserver 127.0.0.1\nnameserver 10.0.0.1\nnameserver 2001:db8::1 # x\n"
    assert not resolv.needs_forward(text)
    assert private(text) == "nameserver 10.0.0.1\nnameserver 2001:db8::1\n"


def test_flags_replace_entries() -> None:
    text = private(HOST, dns=["1.1.1.1", "::1"], search=["a.org", "b.org"], options=["rotate"])
    assert text == "nameserver 1.1.1.1\nnameserver ::1\nsearch a.org b.org\noptions rotate\n"


def test_search_can_be_emptied() -> None:
    assert "search" not in private(HOST, search=["."])


def test_domain_becomes_a_search_list() -> None:
    assert private("nameserver 10.0.0.1\ndomain a.org\n").endswith("search a.org\n")


def test_nameservers_are_limited_to_three() -> None:
    text = private("".join(f"nameserver 10.0.0.{number}\n" for number in range(1, 6)))
    assert text.count("nameserver") == 3


@pytest.mark.parametrize("bad", ["1.2.3", "example.org", "1.1.1.1\nx", "", "\x00", "1.1.1.1 ", "é"])
def test_wrong_dns_is_refused(bad: str) -> None:
    with pytest.raises(RlessError, match=r"--dns: .* is not an IP address"):
        private(HOST, dns=[bad])


@pytest.mark.parametrize("bad", ["", "a b", "a\nnameserver 6.6.6.6", "a\x1b[2J", "a#b", "a\u2028b"])
def test_wrong_words_are_refused(bad: str) -> None:
    with pytest.raises(RlessError, match="--dns-search"):
        private(HOST, search=[bad])
    with pytest.raises(RlessError, match="--dns-option"):
        private(HOST, options=[bad])
    with pytest.raises(RlessError, match="--add-host"):
        resolv.hosts_text("h", None, [(bad, "10.0.0.1")], ())
    with pytest.raises(RlessError, match="--hostname"):
        resolv.hostname_text(bad)


@settings(database=None)
@given(st.text(), st.text(), st.text())
def test_values_cannot_inject_lines(name: str, address: str, domain: str) -> None:
    """Class 29: what goes in comes out on one line, or not at all."""
    try:
        text = resolv.hosts_text("h", domain, [(name, address)], ())
    except RlessError as error:
        assert error.message.isprintable()
        return
    plain = resolv.hosts_text("h", None, [("n", "10.0.0.1")], ())
    assert text.count("\n") == plain.count("\n")
    assert len(text.splitlines()) == len(plain.splitlines())


def test_stub_of_systemd_resolved_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, behind = tmp_path / "stub", tmp_path / "behind"
    stub.write_text("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n")
    monkeypatch.setattr(resolv, "_HOST_FILE", str(stub))
    monkeypatch.setattr(resolv, "_RESOLVED_FILE", str(behind))
    assert resolv.needs_forward(resolv.read_host())
    behind.write_text("nameserver 10.0.0.1\n")
    assert resolv.read_host() == "nameserver 10.0.0.1\n"
    stub.write_text("nameserver 127.0.0.1\n")
    assert resolv.read_host() == "nameserver 127.0.0.1\n"


def test_any_host_file_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    monkeypatch.setattr(resolv, "_HOST_FILE", str(path))
    assert resolv.read_host() == ""
    os.mkfifo(path)
    assert resolv.read_host() == ""
    path.unlink()
    path.mkdir()
    assert resolv.read_host() == ""
    path.rmdir()
    path.write_bytes(b"nameserver \xff\x00\n\xff\n")
    resolv.needs_forward(resolv.read_host())


def test_hosts_are_generated() -> None:
    text = resolv.hosts_text("web", "example.org", [("db", "10.0.0.5"), ("db6", "2001:db8::5")], ())
    lines = text.splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[1].startswith("::1\tlocalhost ")
    assert lines[-3:] == [
        "10.0.0.5\tdb",
        "2001:db8::5\tdb6",
        "127.0.1.1\tweb.example.org web",
    ]
    assert resolv.hosts_text("web", None, [], ["192.0.2.2", "2001:db8::2"]).endswith(
        "192.0.2.2\tweb\n2001:db8::2\tweb\n"
    )
    assert resolv.hosts_text("web.a.org", "b.org", [], ()).endswith("\tweb.a.org\n")


def test_host_network_keeps_the_hosts() -> None:
    text = resolv.hosts_text("h", None, [("db", "10.0.0.5")], (), "127.0.0.1 localhost\n")
    assert text == "10.0.0.5\tdb\n127.0.0.1 localhost\n"


def test_host_gateway_must_be_resolved() -> None:
    """Who asks for `host-gateway` has to say what it is here."""
    with pytest.raises(RlessError, match=r"--add-host: 'host-gateway' is not an IP address"):
        resolv.hosts_text("h", None, [("h", "host-gateway")], ())


def test_hostname_is_written() -> None:
    assert resolv.hostname_text("web") == "web\n"
    resolv.hostname_text("h" * 64)
    with pytest.raises(RlessError, match="longer than 64 bytes"):
        resolv.hostname_text("h" * 65)
    with pytest.raises(RlessError, match="longer than 64 bytes"):
        resolv.hostname_text("é" * 33)
