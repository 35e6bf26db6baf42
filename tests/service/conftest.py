"""A service for the tests of a module, on the storage of its product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lib.product import own_rless, rless, shared_product
from tests.lib.service import Service, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lib.product import Product

__all__ = ["own_rless", "rless", "shared_product"]


@pytest.fixture
def service(rless: Product) -> Iterator[Service]:
    """Run a service for one test."""
    with serving(rless, rless.base / "service") as found:
        yield found
