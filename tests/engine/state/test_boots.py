"""Run records of earlier boots: containers that were being created at a power cut."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def leave(rless: Product, boot: str, machine: str, container_id: str) -> tuple[Path, Path, Path]:
    """Leave what a boot has: its entry of a container whose facts were never written."""
    live = rless.storage / "run" / boot / "live"
    live.mkdir(parents=True, mode=0o700)
    (live / "booted").symlink_to(machine)
    (live / container_id).touch()
    directory = rless.storage / "containers" / container_id
    directory.mkdir()
    (directory / "container.json").touch()
    name = rless.storage / "names" / f"name-{container_id[:1]}"
    name.symlink_to(container_id)
    return live.parent, directory, name


def test_leftovers_of_an_earlier_boot_are_removed(rless: Product) -> None:
    rless("create", "--name", "whole", "--network=none", rless.image, "true").expect()
    ours = leave(rless, "1" * 36, os.uname().nodename, "a" * 64)
    others = leave(rless, "2" * 36, "another-machine", "b" * 64)
    (rless.live / "booted").unlink()
    rless("ps", "-a").expect()
    assert not [path for path in ours if os.path.lexists(path)]
    assert [path for path in others if os.path.lexists(path)] == list(others)
    rless("inspect", "whole").expect()
    # The name is free again.
    rless("create", "--name", "name-a", "--network=none", rless.image, "true").expect()
    rless("rm", "whole", "name-a").expect()
    for path in others[1:]:
        path.unlink() if path.is_symlink() else (path / "container.json").unlink()
    others[1].rmdir()
