"""The product for the tests of this directory."""

from __future__ import annotations

from tests.lib.product import own_rless, rless, shared_product
from tests.lib.records import records

__all__ = ["own_rless", "records", "rless", "shared_product"]
