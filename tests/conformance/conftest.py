"""The same container on every runtime: `bundle` is made for each of rless-oci, crun and runc.

What is asserted here holds for all three; a case in which they differ is none of conformance and
lives in tests/runtime.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lib.bundle import Bundle


@pytest.fixture(
    params=[
        "rless-oci",
        pytest.param("crun", marks=pytest.mark.needs("crun")),
        pytest.param("runc", marks=pytest.mark.needs("runc")),
    ]
)
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    """Return a bundle for one of the runtimes, run as root of a user namespace."""
    return Bundle(tmp_path, request.param, inside=True)
