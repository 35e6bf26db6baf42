"""A plugin of `pytest --collect-only`: print what the collected tests want, for scripts/test.

wanted: parts nosub main vm        the runs that have a test (see scripts/test)
wanted: files of vm tests/vm/...   where the tests of a run are, of nosub and vm
wanted: packages crun strace ...   of Debian, for the facts that the tests need
wanted: slurm                      a Slurm must be started
wanted: tests 42                   how many there are
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

# A fact (tests/lib/needs.py) -> the packages that bring it. Facts of the kernel have none.
PACKAGES: dict[str, str] = {
    "buildah": "buildah",
    "busybox": "busybox-static",
    "ch-run": "charliecloud",
    "compiler": "gcc",
    "conmon": "conmon",
    "crun": "crun",
    "curl": "curl",
    "docker": "docker-cli",
    "docker-compose": "docker-compose",
    "docker-registry": "docker-registry",
    "javac": "default-jdk-headless",
    "gpg": "gnupg",
    "jlink": "default-jdk-headless",
    "mksquashfs": "squashfs-tools",
    "mpicc": "libopenmpi-dev openmpi-bin",
    "mpirun": "openmpi-bin",
    "openssl": "openssl",
    "podman": "podman",
    "runc": "runc",
    "skopeo": "skopeo",
    "slurm": "munge slurm-client slurm-wlm-basic-plugins slurmctld slurmd",
    "squashfuse": "squashfuse",
    "ssh-agent": "openssh-client",
    "strace": "strace",
    "tini-static": "tini",
    "umoci": "umoci",
    "unsquashfs": "squashfs-tools",
    "virtual machine": "qemu-system-x86 qemu-utils mmdebstrap e2fsprogs",
}
# What tests that start containers use without a word; those of tests/unit say all that they need.
_COMMON = "attr busybox-static iproute2 libzstd1 procps zstd"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Print what the tests want that pytest's arguments have chosen."""
    facts: set[str] = set()
    parts: dict[str, set[str]] = {}
    packages: set[str] = set()
    for item in session.items:
        facts.update(fact for mark in item.iter_markers("needs") for fact in mark.args)
        marks = {mark.name for mark in item.iter_markers()}
        part = "nosub" if "nosub" in marks else "vm" if "vm" in marks else "main"
        parts.setdefault(part, set()).add(item.nodeid.partition("::")[0])
        if not item.nodeid.startswith("tests/unit/"):
            packages.update(_COMMON.split())
    for fact in facts:
        packages.update(PACKAGES.get(fact, "").split())
    print("wanted: parts", *sorted(parts))
    for part in parts.keys() - {"main"}:
        print(f"wanted: files of {part}", *sorted(parts[part]))
    print("wanted: packages", *sorted(packages))
    print(f"wanted: tests {len(session.items)}")
    if "slurm" in facts:
        print("wanted: slurm")
