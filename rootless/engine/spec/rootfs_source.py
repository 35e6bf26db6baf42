"""Where a container's root file system comes from, as plain data for container.json."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class RootfsSource:
    """Where the root file system comes from.

    Attributes:
        kind: "layers", "host", "squashfs" or "directory".
        layers: directories of the image, bottom to top.
        whiteouts: their form.
        path: of --rootfs, or of the file with a squashfs image.
        offset, identity: where the image is in the file, and what identifies the file.
        driver: the value of --storage-driver, or None.
        cache: of what `host:` and squashfs images need.
        hidden: for `host:`: directories to leave out, beside $HOME.
    """

    __slots__ = (
        *("cache", "driver", "hidden", "identity", "kind", "layers", "offset", "path"),
        "whiteouts",
    )

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.layers: list[str] = []
        self.whiteouts = "overlay"
        self.path = ""
        self.driver: str | None = None
        self.cache = ""
        self.hidden: list[str] = []
        self.offset = 0
        self.identity: list[int] = []

    def to_data(self) -> dict[str, Any]:
        """Return it as plain data, for container.json."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> RootfsSource:
        """Return what `to_data` has given, of this version or an older one."""
        made = cls(data["kind"])
        for name, value in data.items():
            if name in cls.__slots__:
                setattr(made, name, value)
        return made
