"""A bundle for rless-oci, started as its user does: an ordinary user, no namespaces yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Return a bundle with a user namespace that maps one id."""
    return Bundle(tmp_path)


@pytest.fixture
def live(bundle: Bundle) -> Iterator[Bundle]:
    """Return a bundle whose container is deleted at the end, by force."""
    with bundle.session():
        yield bundle
