"""Hints: what was found out once, and is asked or computed again where they are gone.

Each is a small JSON document among those of the build cache (`build_cache`), and goes with them.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from rootless import jsontext
from rootless.errors import RlessError
from rootless.image.model import limits
from rootless.linux import files
from rootless.paths import private_dir


def find(root: str, kind: str, about: str) -> dict[str, Any]:
    """Return what was noted; {} if that is nothing, or cannot be read.

    Args:
        root: of the store. kind: begins the file's name. about: what the hint is about.
    """
    try:
        with open(_path(root, kind, about), "rb") as file:
            found = jsontext.loads(file.read(limits.MIB))
    except (OSError, ValueError, RlessError):
        return {}
    return found if isinstance(found, dict) else {}


def note(root: str, kind: str, about: str, said: dict[str, Any]) -> None:
    """Keep a hint; where that fails, as on a full disk, it is found out again."""
    path = _path(root, kind, about)
    try:
        private_dir(os.path.dirname(path))
        files.write(path, jsontext.dumps(said).encode("utf-8", "replace"))
    except (OSError, RlessError):
        pass


def _path(root: str, kind: str, about: str) -> str:
    return f"{root}/build/content/{kind}-{hashlib.sha256(os.fsencode(about)).hexdigest()}"
