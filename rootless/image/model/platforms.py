"""The platforms of images and of the host, in the words of OCI (Go's names)."""

from __future__ import annotations

import os

from rootless.errors import INVALID, RlessError, escape

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "ppc64": ("ppc64", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
    "mips64": ("mips64le", ""),
}
# Spellings that people type; containerd reads them alike.
_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "i386": ("386", ""),
}
_KNOWN = frozenset(architecture for architecture, _ in _MACHINES.values())


class PlatformRequest:
    """The requested platform; an empty variant accepts any that the host can run."""

    __slots__ = ("architecture", "explicit", "os", "variant")

    def __init__(self, os_name: str, architecture: str, variant: str, *, explicit: bool) -> None:
        self.os = os_name
        self.architecture = architecture
        self.variant = variant
        self.explicit = explicit

    def __str__(self) -> str:
        text = f"{self.os}/{self.architecture}"
        return f"{text}/{self.variant}" if self.variant else text

    def rank(self, os_name: str, architecture: str, variant: str) -> int | None:
        """Return how well a platform fits, 0 is best; None: it does not fit.

        A host of ARM v7 runs v6 and v5 too; a plain arm64 is v8. For x86-64 only the plain
        variant is taken unless another is asked for: the host may lack the instructions.
        """
        if (os_name, architecture) != (self.os, self.architecture):
            return None
        if architecture == "arm64":
            if (variant or "v8") == (self.variant or "v8"):
                return 0
            return 1 if not self.explicit and not variant else None
        if self.explicit and self.variant:
            return 0 if variant == self.variant else None
        if architecture == "arm":
            mine, theirs = _number(self.variant or "v7"), _number(variant or "v7")
            return mine - theirs if theirs <= mine else None
        if architecture == "amd64":
            return {"": 0, "v1": 1}.get(variant)
        return 0 if variant in ("", self.variant) else None


def _number(variant: str) -> int:
    digits = variant[1:]
    return int(digits) if digits.isdigit() and len(digits) < 3 else 99


def host_platform() -> PlatformRequest:
    """Return the platform of this machine."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return PlatformRequest("linux", architecture, variant, explicit=False)


def parse_platform(text: str | None) -> PlatformRequest:
    """Return what `--platform` says: OS/ARCH[/VARIANT], OS or ARCH; None means the host.

    Raises:
        RlessError: it cannot be a platform.
    """
    host = host_platform()
    if not text:
        return host
    parts = text.lower().split("/")
    plain = all(part and part.isascii() and part.replace("_", "").isalnum() for part in parts)
    if (not plain and text.lower() != "x86-64") or len(parts) > 3:
        raise RlessError(
            f"invalid platform '{escape(text)[:80]}'",
            "write OS/ARCH or OS/ARCH/VARIANT",
            kind=INVALID,
        )
    if len(parts) == 1 and parts[0] == "linux":
        return host
    if len(parts) == 1:
        if parts[0] not in _KNOWN and parts[0] not in _ALIASES:
            raise RlessError(
                f"invalid platform '{escape(text)[:80]}'",
                "write OS/ARCH, as linux/amd64",
                kind=INVALID,
            )
        parts = ["linux", parts[0]]
    architecture, variant = _ALIASES.get(parts[1], (parts[1], ""))
    variant = parts[2] if len(parts) == 3 else variant
    if (parts[0], architecture) == (host.os, host.architecture) and variant in ("", host.variant):
        return host
    return PlatformRequest(parts[0], architecture, variant, explicit=True)
