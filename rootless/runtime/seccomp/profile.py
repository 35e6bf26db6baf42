"""Read `--security-opt seccomp=FILE`: a profile in Docker's form or in OCI's.

Docker's form is a superset: `archMap` in place of `architectures`, `name` in place of `names`, and
on each rule `includes` and `excludes`, conditions on the container's capabilities, the machine and
the kernel. They are resolved here; the result is a plain OCI object. Off the hot path: this is
loaded only for a container with a profile of its own.
Source: moby profiles/seccomp/seccomp.go and seccomp_linux.go.
"""

from __future__ import annotations

import json
import os
import stat

from rootless.errors import RlessError
from rootless.runtime.seccomp.compiler import Profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

MAX_BYTES = 4 << 20

# uname -m -> (OCI name, what Docker's rules call it)
_MACHINES = {
    "x86_64": ("SCMP_ARCH_X86_64", "amd64"),
    "i686": ("SCMP_ARCH_X86", "x86"),
    "aarch64": ("SCMP_ARCH_AARCH64", "arm64"),
    "armv7l": ("SCMP_ARCH_ARM", "arm"),
    "riscv64": ("SCMP_ARCH_RISCV64", "riscv64"),
    "ppc64le": ("SCMP_ARCH_PPC64LE", "ppc64le"),
    "s390x": ("SCMP_ARCH_S390X", "s390x"),
    "loongarch64": ("SCMP_ARCH_LOONGARCH64", "loong64"),
}
_DOCKER_RULE_KEYS = ("name", "comment", "includes", "excludes")


def load_profile_file(
    path: str,
    capabilities: Collection[str] = (),
    kernel: tuple[int, int] | None = None,
    machine: str | None = None,
) -> dict[str, Any]:
    """Return the profile in a file as a checked OCI `linux.seccomp` object.

    Args:
        path: as the user wrote it; or the profile itself, which begins with a brace.
        capabilities: the container's bounding set, as CAP_ names.
        kernel: the kernel's version, as (6, 18); None: of this host.
        machine: as uname -m says; None: of this host.

    Raises:
        RlessError: no such file, too large, not JSON, or something in it is wrong. One line
            that begins with the path.
    """
    uname = os.uname()
    text, path = (path, "as given") if path[:1] == "{" else (None, path)
    try:
        raw = json.loads(_read(path) if text is None else text)
        profile = _resolve(
            raw,
            capabilities,
            kernel or kernel_version(uname.release),
            machine or uname.machine,
        )
        Profile(profile)
    except OSError as error:
        raise RlessError(f"seccomp profile {path}: {error.strerror}") from None
    except RlessError as error:
        raise error.within(f"seccomp profile {path}") from None
    except (ValueError, RecursionError) as error:
        # JSONDecodeError and UnicodeDecodeError are both ValueErrors, an int of 5,000 digits too.
        reason = str(error) or "nested too deeply"
        raise RlessError(f"seccomp profile {path}: not valid JSON: {reason}") from None
    return profile


def kernel_version(release: str) -> tuple[int, int]:
    """Return (6, 18) for "6.18.44-generic"; (0, 0) if it does not begin with two numbers."""
    numbers = release.split(".", 2)
    if len(numbers) < 2:
        return 0, 0
    minor = numbers[1]
    digits = minor[: len(minor) - len(minor.lstrip("0123456789"))]
    if not (numbers[0].isascii() and numbers[0].isdigit() and digits):
        return 0, 0
    return int(numbers[0]), int(digits)


def _read(path: str) -> bytes:
    # O_NONBLOCK: a FIFO must not hang us. What the path leads to is the user's own choice.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise RlessError("not a regular file")
        content = b""
        while chunk := os.read(fd, MAX_BYTES + 1 - len(content)):
            content += chunk
            if len(content) > MAX_BYTES:
                raise RlessError(f"larger than {MAX_BYTES >> 20} MiB")
        return content
    finally:
        os.close(fd)


def _resolve(
    raw: object, capabilities: Collection[str], kernel: tuple[int, int], machine: str
) -> dict[str, Any]:
    """Return the OCI object of a profile in either form; unknown keys are kept."""
    if not isinstance(raw, dict):
        raise RlessError("the profile is not a JSON object")
    profile = dict(raw)
    arch_map = profile.pop("archMap", None)
    oci_arch, docker_arch = _MACHINES.get(machine, ("", machine))
    if arch_map:
        if profile.get("architectures"):
            raise RlessError("it has both architectures and archMap")
        profile["architectures"] = _architectures(arch_map, oci_arch)
    rules = profile.get("syscalls") or []
    if not isinstance(rules, list):
        raise RlessError("syscalls is not a list")
    profile["syscalls"] = [
        _plain(rule) for rule in rules if _applies(rule, set(capabilities), kernel, docker_arch)
    ]
    return profile


def _architectures(arch_map: object, native: str) -> list[str]:
    if not isinstance(arch_map, list) or not all(isinstance(item, dict) for item in arch_map):
        raise RlessError("archMap is not a list of objects")
    for item in arch_map:
        if item.get("architecture") == native:
            below = item.get("subArchitectures") or []
            if not isinstance(below, list):
                raise RlessError("subArchitectures is not a list")
            return [native, *below]
    return []


def _plain(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a rule without what only Docker knows."""
    names = rule.get("names")
    if rule.get("name"):
        if names:
            raise RlessError("a rule has both name and names")
        names = [rule["name"]]
    plain = {key: value for key, value in rule.items() if key not in _DOCKER_RULE_KEYS}
    return {**plain, "names": names}


def _applies(rule: object, capabilities: set[str], kernel: tuple[int, int], arch: str) -> bool:
    """Tell whether a rule's conditions hold.

    `includes` wants all its capabilities and one of its machines, `excludes` is met by any.
    """
    if not isinstance(rule, dict):
        raise RlessError("a member of syscalls is not an object")
    caps, arches, least = _condition(rule, "excludes")
    if arch in arches or caps & capabilities or (least and kernel >= least):
        return False
    caps, arches, least = _condition(rule, "includes")
    return not (
        (arches and arch not in arches) or caps - capabilities or kernel < (least or (0, 0))
    )


def _condition(
    rule: dict[str, Any], key: str
) -> tuple[set[str], list[str], tuple[int, int] | None]:
    """Return the capabilities, the machines and the least kernel of one condition."""
    condition = rule.get(key) or {}
    if not isinstance(condition, dict):
        raise RlessError(f"{key} of a rule is not an object")
    lists: list[list[str]] = []
    for member in ("caps", "arches"):
        value = condition.get(member) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise RlessError(f"{key}.{member} of a rule is not a list of names")
        lists.append(value)
    least = condition.get("minKernel")
    if not least:
        return set(lists[0]), lists[1], None
    version = kernel_version(least) if isinstance(least, str) else (0, 0)
    if version == (0, 0):
        raise RlessError(f"minKernel of a rule is {least!r}, not a version as 5.11")
    return set(lists[0]), lists[1], version
