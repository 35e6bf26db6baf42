"""Where a container's root file system comes from, as plain data for container.json."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Source:
    """Where the root file system comes from.

    Attributes:
        kind: "layers", "host" or "directory".
        layers: directories of the image, bottom to top.
        whiteouts: their form.
        path: of --rootfs.
        driver: asked for by --storage-driver, or None.
        cache, hidden: for `host:`; the latter are directories to leave out, beside $HOME.
    """

    __slots__ = ("cache", "driver", "hidden", "kind", "layers", "path", "whiteouts")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.layers: list[str] = []
        self.whiteouts = "overlay"
        self.path = ""
        self.driver: str | None = None
        self.cache = ""
        self.hidden: list[str] = []

    def to_data(self) -> dict[str, Any]:
        """Return it as plain data, for container.json."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Source:
        """Return what `to_data` has given."""
        made = cls(data["kind"])
        for name, value in data.items():
            setattr(made, name, value)
        return made
