"""Facts of this machine that a test may need: `@pytest.mark.needs("name")`.

A test without its fact is skipped by the name of the fact. .ci/run fails when more tests are
skipped than tests/allowed-skips says.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rootless.host import facts, probe
from rootless.linux import subid

if TYPE_CHECKING:
    from collections.abc import Callable


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


def _delegated_cgroup() -> bool:
    path = os.environ.get("RLESS_TEST_CGROUP")
    return path is not None and facts.is_delegated(path)


def _sanitizers() -> bool:
    compiler = os.environ.get("CC", "cc").split()
    command = [*compiler, "-fsanitize=address,undefined", "-x", "c", "-o", "/dev/null", "-"]
    try:
        given = b"int main(void) { return 0; }"
        done = subprocess.run(command, input=given, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def _virtual_machine() -> bool:
    cache = os.environ.get("RLESS_VM_CACHE", "")
    return os.path.exists(f"{cache}/disk") and shutil.which("qemu-system-x86_64") is not None


def _default_route() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return False
    return True


def _package_index() -> bool:
    if "CI" not in os.environ:  # 80 MB are too much for each run of a developer
        return False
    command = [sys.executable, "-m", "pip", "index", "versions", "ziglang"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


FACTS: dict[str, Callable[[], bool]] = {
    "compiler": lambda: any(shutil.which(name) for name in ("cc", "gcc", "clang")),
    "default route": _default_route,
    "delegated cgroup": _delegated_cgroup,
    "fuse": lambda: bool(probe.bounded(probe.device, "/dev/fuse")),
    "glibc": lambda: platform.libc_ver()[0] == "glibc",
    "keyrings": lambda: os.path.exists("/proc/keys"),
    "libseccomp": lambda: facts.find_library("libseccomp.so.2") is not None,
    "nfs directory": lambda: os.path.isdir(os.environ.get("RLESS_TEST_NFS", "")),
    "no subordinate ids": lambda: os.getuid() != 0 and not subid.ranges("uid"),
    "ordinary user": lambda: os.getuid() != 0,
    "package index": _package_index,
    "root": lambda: os.getuid() == 0,
    "sanitizers": _sanitizers,
    "slurm": lambda: "RLESS_TEST_SLURM" in os.environ,
    "subordinate ids": lambda: bool(subid.ranges("uid") and subid.ranges("gid")),
    "tun": lambda: bool(probe.bounded(probe.device, "/dev/net/tun")),
    "user namespaces": lambda: bool(probe.bounded(probe.user_namespace)),
    "virtual machine": _virtual_machine,
    "x86_64": lambda: os.uname().machine == "x86_64",
}


@functools.cache
def has(fact: str) -> bool:
    """Tell whether this machine has a fact; a name that is not in FACTS is a program's name."""
    return FACTS.get(fact, _program(fact))()


# The drivers of the root file system, for `parametrize`.
DRIVERS = [
    "overlay",
    pytest.param("fuse-overlayfs", marks=pytest.mark.needs("fuse", "fuse-overlayfs")),
    "copy",
]
