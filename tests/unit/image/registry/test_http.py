"""Small decisions of the HTTP client; its behaviour is in tests/image/registry."""

from __future__ import annotations

import pytest

from rootless.image.model.netloc import is_loopback
from rootless.image.registry import http


@pytest.mark.parametrize(
    ("netloc", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.9.9.9:80", True),
        ("[::1]:5000", True),
        ("[::1]", True),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("127.evil.example:80", False),
        ("10.0.0.1", False),
        ("[::2]:5000", False),
        ("localhost@evil.example", False),
        ("evil.example", False),
    ],
)
def test_loopback_hosts_are_recognized(netloc: str, expected: bool) -> None:
    assert is_loopback(netloc) is expected


def test_insecure_hosts_are_named_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLESS_INSECURE_REGISTRIES", "a:5000, b.example")
    client = http.Client(http.insecure_registries())
    assert client.is_plain("a:5000") and client.is_plain("b.example")
    assert not client.is_plain("a") and not client.is_plain("c.example")
