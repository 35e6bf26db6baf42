"""Fixtures of signed images: keys, and a site with a policy of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.trust import Keys, Site, gpg_home


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return a home with a policy, and a directory of signatures."""
    return Site(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def keys() -> Iterator[Keys]:
    """Yield keys of several kinds; "good" is the one to trust."""
    with gpg_home() as made:
        for name in ("good", "other", "revoked"):
            made.make(name)
        made.make("expired", "--faked-system-time", "20200101T000000", expires="2d")
        made.make("owner", usage="cert")
        made.gpg("--quick-add-key", made.fingerprints["owner"], "ed25519", "sign", "never")
        yield made
