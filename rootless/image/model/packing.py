"""How an image is packed when it goes out, to a registry or an archive."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Packing:
    """How an image is packed; what is not said is as usual.

    Attributes:
        compression: of all layers, "gzip" or "zstd"; "": none. None: what they came with.
        level: of the compression.
        docker: with Docker's media types, which know gzip only.
        annotations: of the manifest, beside those that it has.
        of_index: annotations of an index.
    """

    __slots__ = ("annotations", "compression", "docker", "level", "of_index")

    def __init__(
        self,
        compression: str | None = None,
        *,
        level: int | None = None,
        docker: bool = False,
        annotations: Mapping[str, str] | None = None,
        of_index: Mapping[str, str] | None = None,
    ) -> None:
        self.compression = compression
        self.level = level
        self.docker = docker
        self.annotations = dict(annotations or {})
        self.of_index = dict(of_index or {})
