"""What the image argument of `run` and `create` means.

Only this module decides it, in this order:

    --rootfs DIR     a directory of the host
    host:            the host's own programs
    a path           an image file: it begins with /, ./ or ../, or has the suffix of an image file
    a name           an image of the store, unless --pull=always asks to look the name up again
    a name           an image file in a directory of `image-path`
    anything else    an image to be pulled: from a registry, or from the archive that
                     docker-archive:, oci-archive: or oci: names
"""

from __future__ import annotations

from rootless.engine.request import FILE_SUFFIXES, HOST_IMAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.engine.request import RunRequest
    from rootless.image.squashfs.image_file import ImageFile
    from rootless.image.store.store import Image


class ImageArgument:
    """A resolved image argument.

    Attributes:
        kind: "directory", "host", "file", "image" (in the store), or "absent" (to be pulled).
        path: the directory or file.
        image: the image in the store.
        file: the image in the file, once it has been read.
    """

    __slots__ = ("file", "image", "kind", "path")

    def __init__(self, kind: str, path: str = "", image: Image | None = None) -> None:
        self.kind = kind
        self.path = path
        self.image = image
        self.file: ImageFile | None = None

    @property
    def is_ready(self) -> bool:
        """Tell whether nothing has to be fetched: some map has all layers of it."""
        return self.kind != "absent" if self.image is None else bool(self.image.keys)

    def read(self, storage: str, *, keep_open: bool = False) -> ImageFile:
        """Return the image in the file, read once.

        Args:
            storage: where what was found in it is kept for the next time.
            keep_open: its descriptor is the caller's to close.

        Raises:
            RlessError: it cannot be read, or is no image.
        """
        if self.file is None:
            from rootless.image.squashfs import image_file

            self.file = image_file.read(self.path, storage, keep_open=keep_open)
        return self.file


def resolve(request: RunRequest, storage: str) -> ImageArgument:
    """Return what the image of a request is.

    Args:
        storage: the directory of the image store.

    Raises:
        RlessError: the argument is a path where no file is, or a file that others can replace.
    """
    if request.rootfs is not None:
        return ImageArgument("directory", request.rootfs)
    name = request.image or ""
    if name == HOST_IMAGE:
        return ImageArgument("host")
    if name[:1] in "/." or name.endswith(FILE_SUFFIXES):
        from rootless.image.squashfs import image_file

        if path := image_file.named(name):
            return ImageArgument("file", path)
    if request.pull != "always":
        from rootless.image.store.store import Store

        image = Store(storage).lookup(name, request.platform)
        if image is not None:
            return ImageArgument("image", image=image)
    from rootless.image.squashfs import image_file

    if path := image_file.search(name):
        return ImageArgument("file", path)
    return ImageArgument("absent")
