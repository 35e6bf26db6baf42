"""`rless config show`: what is set, and by what."""

from __future__ import annotations

from rootless import config
from rootless.cli import streams
from rootless.cli.parse import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "config show",
    "[OPTIONS] [SECTION...]",
    (
        (
            "Options",
            (
                ("--origin", "", "flag", "origin", "boolean",
                 "Show which file or variable sets each key"),
                ("--variables", "", "flag", "variables", "boolean",
                 "List the variables that set the keys"),
            ),
        ),
    ),
    failure=1,
)  # fmt: skip


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print it as the TOML that would set the same; paths and templates are filled in."""
    lines = _variables() if values.get("variables") else _lines(values.get("origin", False), args)
    streams.write("".join(f"{line}\n" for line in lines))
    return 0


def _lines(with_origin: bool, wanted: list[str]) -> list[str]:
    lines: list[str] = []
    for section, keys in sorted(config.sections().items()):
        if wanted and section not in wanted and section.partition(".")[0] not in wanted:
            continue
        lines += [*([""] if lines else []), f"[{section}]"]
        for key, value in sorted(keys.items()):
            line = f"{key} = {_toml(value)}"
            lines.append(f"{line}  # {config.origin(section, key)}" if with_origin else line)
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def _variables() -> list[str]:
    return [
        f"{config.variable_of(section, key)}"
        for section, keys in config.KEYS.items()
        if section != "modules.NAME"
        for key in keys
    ]
