"""What an image argument of the front is: a URI, else a path that is there, else an error."""

from __future__ import annotations

import os

from rootless import paths
from rootless.cli.fronts.apptainer.parse import NO_HTTPS, variable
from rootless.cli.fronts.apptainer.table import FILE_SCHEMES, REFUSED_SCHEMES, SCHEMES
from rootless.engine.start.image_argument import ImageArgument
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.image.squashfs.image_file import ImageFile


_INSECURE = "RLESS_INSECURE_REGISTRIES"


class Image:
    """An image argument.

    Attributes:
        name: what the engine is asked for: a reference, or the absolute path of a file.
        tree: the absolute path of a directory; "": it is none.
        shown: as the program is told of it.
        found: what is known of an image that is a file or a directory.
        argument: for the engine, of a file that is open.
    """

    __slots__ = ("argument", "found", "name", "shown", "tree")

    def __init__(
        self, text: str, *, keep_open: bool = False, asks: bool = False, quiet: bool = False
    ) -> None:
        """Find it.

        Args:
            keep_open: a file is opened for the engine.
            asks: ask again for a file that was fetched before.
            quiet: show no progress.

        Raises:
            RlessError: it is neither, or cannot be read.
        """
        self.name = self.shown = text
        self.tree = ""
        self.found: ImageFile | None = None
        self.argument: ImageArgument | None = None
        scheme, colon, rest = text.partition(":")
        if not os.path.exists(text):
            if colon and scheme in SCHEMES:
                self.name = reference(scheme, rest)
                if scheme == "docker":
                    log_in(self.name)
                return
            if colon and scheme in REFUSED_SCHEMES:
                why, use = REFUSED_SCHEMES[scheme]
                raise RlessError(f"{text}: {scheme}:// is not supported: {why}", use)
            if not colon or scheme not in FILE_SCHEMES:
                raise RlessError(
                    f"could not open image {os.path.abspath(text)}: there is no such file or "
                    "directory"
                )
            text = fetched(text, asks=asks, quiet=quiet)
        path = self.name = self.shown = os.path.abspath(text)
        if os.path.isdir(path):
            from rootless.image.squashfs.image_file import read_tree

            self.tree = path
            self.found = read_tree(path)
            return
        self.argument = ImageArgument("file", path)
        self.found = self.argument.read(paths.storage_root(), keep_open=keep_open)

    @property
    def is_apptainer(self) -> bool:
        """Tell whether a shell in it sets its environment, by files in /.singularity.d."""
        return (
            self.found is not None
            and self.found.made_by == "apptainer"
            and "Entrypoint" in self.found.config
        )


def fetched(uri: str, target: str = "", *, quiet: bool = False, **more: Any) -> str:
    """Return the path of an image file that a URI names, or write it to a target.

    Args:
        more: see `engine.build.remote.image_files`.
    """
    from rootless.engine.build.remote import image_files

    if uri.startswith("oras:"):
        log_in(uri.removeprefix("oras://"))
    if not target:
        return image_files.held(uri, quiet=quiet, **more)
    image_files.copy(uri, target, quiet=quiet, **more)
    return target


def log_in(name: str) -> None:
    """Take how to speak to the registry of an image.

    Name and password are in APPTAINER_DOCKER_USERNAME, …; with --no-https it may be without TLS.
    """
    if os.environ.get(NO_HTTPS) == "1":
        from rootless.image.model.reference import parse as parse_name

        host = parse_name(name).registry
        before = os.environ.get(_INSECURE, "")
        os.environ[_INSECURE] = f"{before},{host}" if before else host
    user, password = (
        variable(f"DOCKER_{word}") or os.environ.get(f"DOCKER_{word}")
        for word in ("USERNAME", "PASSWORD")
    )
    if user and password:
        from rootless.image.model.reference import parse
        from rootless.image.registry import auth
        from rootless.image.registry.credentials import Credentials

        auth.give(parse(name).registry, Credentials(user, password))


def reference(scheme: str, rest: str) -> str:
    """Return a URI as the engine has it: archives have no slashes of their own."""
    return f"{scheme}:{rest if scheme == 'docker' else rest.removeprefix('//')}"
