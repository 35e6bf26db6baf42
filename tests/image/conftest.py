"""Fixtures of the image tests: a store of its own for each, one registry for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib import images
from tests.lib.image_store import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """Return an empty store."""
    return Workshop(tmp_path)


@pytest.fixture(scope="session")
def registry_host() -> Iterator[str]:
    """Run a registry for the whole session; tests use repositories of their own."""
    with images.registry() as host:
        yield host
