"""Sources of images: what a pull needs of a registry, an archive or a layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rootless.errors import RlessError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.image.layer.layers import LayerBlob
    from rootless.image.model.platforms import PlatformRequest
    from rootless.image.registry.progress import Progress
    from rootless.oci.image_spec import ImageConfig


class TransferError(RlessError):
    """A server was not reached, or broke off.

    Attributes:
        pause: seconds that the server asks to wait before a retry; None if it did not say.
    """

    pause: float | None = None


class Found:
    """The verified documents of one image.

    Attributes:
        digest: of the manifest; "" if the source has none.
        digests: all digests by which the source knows the image, the index's first.
        manifest: the manifest's bytes; b"" if the source has none.
        config_data, config, id: the image config, its checked content and its digest.
        layers: bottom first; none is fetched yet.
        signatures: as they are stored; None: nobody has asked for them.
    """

    __slots__ = (
        "config",
        "config_data",
        "digest",
        "digests",
        "id",
        "layers",
        "manifest",
        "signatures",
    )

    def __init__(
        self,
        *,
        manifest: bytes,
        digests: list[str],
        config_data: bytes,
        config: ImageConfig,
        image_id: str,
        layers: list[LayerBlob],
    ) -> None:
        self.manifest = manifest
        self.digests = digests
        self.digest = digests[-1] if digests else ""
        self.config_data = config_data
        self.config = config
        self.id = image_id
        self.layers = layers
        self.signatures: list[bytes] | None = None


class LayerSource(Protocol):
    """A place, or several, that layers are fetched from."""

    def fetch(self, layers: Sequence[LayerBlob], scratch: str, progress: Progress) -> None:
        """Write the blobs of layers into their files, which may have the start of them already.

        A layer that has an `arrival` is being read meanwhile. An archive has nothing to do:
        its layers lie in files of it.

        Args:
            scratch: a directory of the file system of these files.
        """

    def may_restart(self) -> bool:
        """Tell whether bytes of a layer that did arrive may be replaced by others."""


class Source(LayerSource, Protocol):
    """One place that has an image."""

    def find(self, wanted: PlatformRequest) -> Found:
        """Return the image's documents for one platform, verified and checked."""

    def close(self) -> None:
        """Close connections and files."""
