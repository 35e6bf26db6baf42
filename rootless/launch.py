"""Start a command: what the launchers rless and rless-oci (helpers/launch.sh) import first.

The interpreter runs without `site`, which takes 3 ms, so sys.path holds the standard library and
the directory of this package only: all that `rless run` needs. The directories of third-party
packages are added when an import is first missed.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # without importing typing, which takes 7 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class SitePackages:
    """Find a missing top-level module in the interpreter's site-packages, once.

    The last entry of sys.meta_path. It does what `site` does at start, except for the user's
    site-packages, sitecustomize and usercustomize: nothing that is not a part of the
    installation is run.
    """

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec after the directories were added; None: there is none."""
        if path is not None:
            return None  # a submodule: its package was found, so sys.path has nothing to add
        sys.meta_path.remove(SitePackages)
        import site
        from importlib.machinery import PathFinder

        known = site.removeduppaths()
        site.addsitepackages(site.venv(known) or known)
        return PathFinder.find_spec(name)


def start(module: str) -> None:
    """Run `main()` of `module` and exit with the code that it returns.

    Without the interpreter's own end, which takes objects apart for 2 ms: there is nothing that
    the kernel does not close as well.
    """
    sys.meta_path.append(SitePackages)
    __import__(module)
    code = sys.modules[module].main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            code = code or 1  # closed or full: main has said so, if it could
    os._exit(code)
