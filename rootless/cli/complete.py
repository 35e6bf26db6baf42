"""Complete names in a shell: of containers, images, networks and volumes.

The names come from directory listings only, without a lock, a clean-up or a namespace, because this
happens at each press of the tab key. If anything goes wrong, there are no names.
"""

from __future__ import annotations

import os

from rootless import paths
from rootless.errors import RlessError


def names(kind: str) -> list[str]:
    """Return the names of all objects of a kind: "container", "image", "volume", "network"."""
    try:
        return sorted(name for name in _READERS[kind]() if name.isprintable())
    except (OSError, RlessError):
        return []


def _containers() -> list[str]:
    return os.listdir(f"{paths.storage_root()}/names")


def _volumes() -> list[str]:
    from rootless.engine.state.volumes import all_names

    return all_names()


def _networks() -> list[str]:
    from rootless.engine.networks import store

    return [network.name for network in store.every()]


def _images() -> list[str]:
    from rootless.engine.images.images import list_images

    return [
        f"{image['repository']}:{image['tag']}" if image["tag"] else image["repository"]
        for image in list_images()
        if image["repository"]
    ]


_READERS = {"container": _containers, "image": _images, "volume": _volumes, "network": _networks}
