"""Read `dir:` as skopeo and Podman write it: one image and its signatures as plain files.

    version                 "Directory Transport Version: 1.1"
    manifest.json           a manifest, or an index; then HEX.manifest.json are the manifests below
    HEX                     config and layers by their digests
    signature-1, ...        signatures of manifest.json
    HEX.signature-1, ...    signatures of HEX.manifest.json

Source: containers/image, directory/directory_transport.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.errors import escape
from rootless.image.archive.read import place, read_document
from rootless.image.config import manifest
from rootless.image.layer.layers import LayerBlob
from rootless.image.model import limits
from rootless.image.model.digest import chain_ids, sha256
from rootless.image.model.source import Found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.image.archive.read import DirectoryFiles
    from rootless.image.model.platforms import PlatformRequest
    from rootless.image.registry.progress import Progress
    from rootless.oci.image_spec import Descriptor


def is_one(files: DirectoryFiles) -> bool:
    """Tell whether a directory is of this form, and no OCI layout."""
    return files.open("index.json") is None and files.open("manifest.json") is not None


class DirectoryImage:
    """Find the image in a `dir:`.

    Args:
        path: how errors name it.
        files: the directory; it is left open.
    """

    def __init__(self, path: str, files: DirectoryFiles) -> None:
        self._what = escape(path)
        self._files = files
        self._top = ""

    def find(self, wanted: PlatformRequest) -> Found:
        """Return the image that is there, for one platform if it is there for several."""
        what = self._what
        first = read_document(self._files, "manifest.json", what)
        self._top = sha256(first)
        data, content = manifest.resolve(first, "", wanted, self._member, what)
        config_what = f"{what}: image config"
        config_data = manifest.verify(
            read_document(self._files, content["config"]["digest"][7:], what),
            content["config"],
            config_what,
        )
        config = manifest.parse_config(config_data, config_what, len(content["layers"]))
        manifest.check_platform(config, wanted, what)
        diff_ids = config["rootfs"]["diff_ids"]
        layers = []
        for descriptor, diff_id, chain in zip(
            content["layers"], diff_ids, chain_ids(diff_ids), strict=True
        ):
            layer = LayerBlob(descriptor["digest"], descriptor["size"], diff_id, chain)
            place(layer, self._files.open(descriptor["digest"][7:]), what)
            layers.append(layer)
        return Found(
            manifest=data,
            digests=list(dict.fromkeys([self._top, sha256(data)])),
            config_data=config_data,
            config=config,
            image_id=content["config"]["digest"],
            layers=layers,
        )

    def _member(self, descriptor: Descriptor, what: str) -> bytes:
        name = f"{descriptor['digest'][7:]}.manifest.json"
        return manifest.verify(read_document(self._files, name, self._what), descriptor, what)

    def signatures(self, digest: str) -> list[bytes]:
        """Return the stored signatures of a manifest that `find` has returned.

        Raises:
            RlessError: there are too many, or one is too large.
        """
        prefix = "" if digest == self._top else f"{digest[7:]}."
        found: list[bytes] = []
        while len(found) <= limits.SIGNATURES:
            name = f"{prefix}signature-{len(found) + 1}"
            if self._files.open(name) is None:
                return found
            found.append(read_document(self._files, name, self._what))
        raise manifest.ManifestError(f"{self._what} has more than {limits.SIGNATURES} signatures")

    def fetch(self, layers: Sequence[LayerBlob], scratch: str, progress: Progress) -> None:
        """Do nothing: `find` has pointed each layer to where it lies."""

    def may_restart(self) -> bool:
        """Tell that files do not change their mind."""
        return False

    def close(self) -> None:
        """Do nothing: who has opened the directory closes it."""
