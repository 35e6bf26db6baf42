"""Make an index: one name for the images of several platforms.

Source: OCI image-spec, image-index.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rootless.oci import image_spec as spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rootless.image.model.packing import Packing
    from rootless.image.store.store import Image

_FIELDS = ("mediaType", "digest", "size", "platform")


def platform_of(image: Image) -> dict[str, str]:
    """Return the platform of an image as a descriptor has it."""
    return {key: value for key, value in image.platform.items() if value}


def index_document(made: Sequence[Mapping[str, Any]], packing: Packing) -> dict[str, Any]:
    """Return the index of some manifests.

    Args:
        made: their descriptors, each with its platform; what else they have is left out.
    """
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": spec.DOCKER_LIST if packing.docker else spec.OCI_INDEX,
        "manifests": [{field: one[field] for field in _FIELDS} for one in made],
    }
    if packing.of_index:
        document["annotations"] = packing.of_index
    return document
