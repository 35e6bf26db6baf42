"""The build backend of pyproject.toml: setuptools, which is brought a C compiler where none is.

An installation from source uses the compiler that is there (`find_compiler` of programs.py). Where
none makes static programs, the Python package ziglang becomes a requirement of the build: clang
with musl, some 80 MB to download, which pip removes again. Source: PEP 517, PEP 660.
"""

from __future__ import annotations

from programs import find_compiler
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - the hooks that stay as they are

# An extra that ziglang does not have, and pip then does without: if ziglang cannot be had, the name
# is in the line that pip says, which should tell what to do.
_ZIGLANG = "ziglang[or-install-a-C-compiler-with-a-static-libc]>=0.13"


def get_requires_for_build_wheel(config_settings: dict[str, str] | None = None) -> list[str]:
    """Return what pip installs for the build of a wheel."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *compiler_requirement()]


def get_requires_for_build_editable(config_settings: dict[str, str] | None = None) -> list[str]:
    """Return what pip installs for an editable installation."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *compiler_requirement()]


def compiler_requirement() -> list[str]:
    """Return the package that has a compiler, unless there is one."""
    return [] if find_compiler() else [_ZIGLANG]
