"""What lies on the image: a directory that keeps changes, and layers that are only read."""

from __future__ import annotations

import os

from rootless.cli.fronts.apptainer.parse import commas
from rootless.errors import RlessError, escape

_EXT_MAGIC_AT, _EXT_MAGIC = 1080, b"\x53\xef"


class Overlays:
    """The values of --overlay.

    Attributes:
        writable: the directory that changes go to; None: there is none.
        above: directories and image files that are only read, the last one on top.
    """

    __slots__ = ("above", "writable")

    def __init__(self, texts: list[str]) -> None:
        """Find out what they are, and make a directory that is missing.

        Raises:
            RlessError: there are two writable ones, or one cannot be used.
        """
        self.writable: str | None = None
        self.above: list[str] = []
        for text in commas(texts) if texts else ():
            name, colon, mode = text.rpartition(":")
            if not colon or mode not in ("ro", "rw"):
                name, mode = text, ""
            path = os.path.abspath(name)
            if mode == "ro" or (os.path.exists(path) and not os.path.isdir(path)):
                _check(text, path, mode)
                self.above.append(path)
            elif self.writable is not None:
                raise RlessError(
                    f"--overlay: {self.writable} and {path} cannot both be written to",
                    "add :ro to the others",
                )
            else:
                self.writable = _make(path)


def _make(path: str) -> str:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise RlessError(f"--overlay: cannot make {escape(path)}: {error.strerror}") from error
    return path


def _check(text: str, path: str, mode: str) -> None:
    """Refuse what cannot be a layer that is only read.

    Raises:
        RlessError: it is not there, or an image that nothing mounts, or is to be written to.
    """
    if os.path.isdir(path):
        return
    try:
        with open(path, "rb") as file:
            head = file.read(_EXT_MAGIC_AT + len(_EXT_MAGIC))
    except OSError as error:
        raise RlessError(f"--overlay: cannot open {escape(path)}: {error.strerror}") from error
    if head[_EXT_MAGIC_AT:] == _EXT_MAGIC:
        raise RlessError(
            f"--overlay: {escape(path)} is an ext3 image, which only root can mount",
            f"unpack it: mkdir DIR; debugfs -R 'rdump / DIR' {escape(os.path.basename(path))}",
        )
    if mode == "rw":
        raise RlessError(
            f"--overlay: {escape(text)}: an image file is only read",
            "name a directory for what is changed",
        )
