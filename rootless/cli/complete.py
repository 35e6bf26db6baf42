"""Complete names in a shell (of containers, images, networks and volumes) and values of flags.

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


# flag -> the values that it has beside those of a user; `container:` stands for each container
_VALUES = {
    "--attach": "stdin stdout stderr",
    "--cgroup-manager": "auto systemd cgroupfs none",
    "--cgroupns": "private host container:",
    "--cgroups": "enabled disabled split",
    "--ipc": "private shareable host none container:",
    "--log-driver": "local json-file journald none",
    "--network": "pasta none host bridge container:",
    "--pid": "private host container:",
    "--pull": "always missing never",
    "--restart": "no on-failure always unless-stopped",
    "--sdnotify": "conmon container ignore",
    "--security-opt": (
        "no-new-privileges seccomp=unconfined seccomp=builtin systempaths=unconfined "
        "apparmor=unconfined label=disable unmask=ALL nested-userns"
    ),
    "--storage-driver": "overlay fuse-overlayfs copy",
    "--systemd": "auto true always false",
    "--userns": "auto host-root keep-id nomap single container:",
    "--uts": "private host container:",
}


def values(flag: str) -> list[str]:
    """Return the values that a flag is known to have; [] if that is for its metavar to tell."""
    if flag in ("--cap-add", "--cap-drop"):
        from rootless.linux.caps import NAMES

        return ["ALL", *sorted(name.removeprefix("CAP_") for name in NAMES)]
    found = _VALUES.get(flag, "").split()
    if "container:" in found:
        found.remove("container:")
        found += [f"container:{name}" for name in names("container")]
    return list(dict.fromkeys(found + names("network"))) if flag == "--network" else found
