"""Plain values: references, digests, platforms, limits."""
