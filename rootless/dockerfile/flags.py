"""Flags of instructions, as `COPY --from=x`: which there are, and of what kind.

Source: BuildKit frontend/dockerfile/instructions/bflag.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.dockerfile.errors import DockerfileError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT, SWITCH, LIST = "text", "switch", "list"

_PLACE = {"chown": TEXT, "chmod": TEXT, "link": SWITCH, "exclude": LIST}
KNOWN: Mapping[str, Mapping[str, str]] = {
    "FROM": {"platform": TEXT},
    "COPY": {**_PLACE, "from": TEXT, "parents": SWITCH},
    "ADD": {**_PLACE, "keep-git-dir": SWITCH, "checksum": TEXT, "unpack": SWITCH},
    "RUN": {"mount": LIST, "network": TEXT, "security": TEXT, "device": LIST},
    "HEALTHCHECK": {
        "interval": TEXT,
        "timeout": TEXT,
        "start-period": TEXT,
        "start-interval": TEXT,
        "retries": TEXT,
    },
}


class Flags:
    """The flags of one instruction."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._switches: dict[str, bool] = {}
        self._lists: dict[str, list[str]] = {}

    def text(self, name: str) -> str:
        """Return the value of a flag, empty if it is not there."""
        return self._texts.get(name, "")

    def switch(self, name: str) -> bool | None:
        """Return whether a switch is on; None if it is not there."""
        return self._switches.get(name)

    def list(self, name: str) -> tuple[str, ...]:
        """Return the values of a flag that may be there several times."""
        return tuple(self._lists.get(name, ()))

    def __bool__(self) -> bool:
        return bool(self._texts or self._switches or self._lists)

    def add(self, name: str, kind: str, value: str | None) -> None:
        """Take one more flag; `value` is None if it had no `=`."""
        if name in self._texts or name in self._switches:
            raise DockerfileError(f"the flag --{name} is there twice")
        if kind == SWITCH:
            text = "true" if value is None else value.lower()
            if text not in ("true", "false"):
                raise DockerfileError(f"--{name}={value}: it is true or false")
            self._switches[name] = text == "true"
        elif value is None:
            raise DockerfileError(f"the flag --{name} needs a value", f"write --{name}=VALUE")
        elif kind == LIST:
            self._lists.setdefault(name, []).append(value)
        else:
            self._texts[name] = value


def parse_flags(instruction: str, words: tuple[str, ...]) -> Flags:
    """Read the flags of an instruction, whose name is in capitals.

    Raises:
        DockerfileError: an unknown flag, one that is there twice, or a value of the wrong kind.
    """
    known = KNOWN.get(instruction, {})
    flags = Flags()
    for word in words:
        name, equals, value = word[2:].partition("=")
        kind = known.get(name)
        if kind is None:
            hint = nearest(f"--{name}", tuple(f"--{flag}" for flag in known))
            if hint is None and known:
                hint = f"it has {', '.join(f'--{flag}' for flag in known)}"
            raise DockerfileError(f"{instruction} has no flag --{name}", hint)
        flags.add(name, kind, value if equals else None)
    return flags
