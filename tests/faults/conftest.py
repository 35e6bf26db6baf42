"""The product for the tests of this directory."""

from __future__ import annotations

from tests.lib.product import own_rless, rless, shared_product

__all__ = ["own_rless", "rless", "shared_product"]
