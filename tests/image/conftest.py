"""Fixtures of the image tests: a store of its own for each, one registry for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.image.store.ownership import delete_any
from tests.lib import images
from tests.lib.image_store import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    """Return an empty store; deleted as rless would, because pytest cannot."""
    made = Workshop(tmp_path)
    yield made
    delete_any(str(tmp_path), "store")


@pytest.fixture(scope="session")
def registry_host() -> Iterator[str]:
    """Run a registry for the whole session; tests use repositories of their own."""
    with images.registry() as host:
        yield host
