"""`rless config show`: what is set, and by what; the defaults of the rest as comments."""

from __future__ import annotations

from rootless import config
from rootless.cli import streams
from rootless.cli.parse import Verb
from rootless.errors import RlessError

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
    """Print it as the TOML that would set the same; paths and templates are filled in.

    A key that is not set is a comment with its default.
    """
    lines = _variables() if values.get("variables") else _lines(values.get("origin", False), args)
    streams.write("".join(f"{line}\n" for line in lines))
    return 0


def _lines(with_origin: bool, wanted: list[str]) -> list[str]:
    lines: list[str] = []
    settings, defaults = config.sections(), _defaults()
    for section in sorted({*settings, *defaults}):
        if wanted and section not in wanted and section.partition(".")[0] not in wanted:
            continue
        lines += [*([""] if lines else []), f"[{section}]"]
        keys = settings.get(section, {})
        for key in sorted({*keys, *defaults.get(section, {})}):
            if key not in keys:
                value = defaults[section][key]
                lines.append(f"# {key} = {_toml(value)}" if value is not None else f"# {key}")
                continue
            line = f"{key} = {_toml(keys[key])}"
            lines.append(f"{line}  # {config.origin(section, key)}" if with_origin else line)
    return lines


def _defaults() -> dict[str, dict[str, Any]]:
    """Return what each key is where nothing sets it; None: nothing, or what works best here."""
    from rootless import paths
    from rootless.engine import defaults
    from rootless.engine.request import RunRequest
    from rootless.engine.spec import cdi
    from rootless.image.model import limits

    request = RunRequest()
    found: dict[str, dict[str, Any]] = {
        section: dict.fromkeys(keys)
        for section, keys in config.KEYS.items()
        if section != "modules.NAME"
    }
    found["storage"].update({"additional-stores": [], "image-path": []})
    try:
        found["storage"]["root"] = paths.default_root()
    except RlessError:
        pass  # without a home there is none
    found["images"]["max-concurrent-downloads"] = limits.CONCURRENT_DOWNLOADS
    found["images"]["max-concurrent-uploads"] = limits.CONCURRENT_UPLOADS
    for key in found["images.limits"]:
        found["images.limits"][key] = getattr(limits, key.upper().replace("-", "_"))
    found["build"]["add-url"] = True
    found["containers"] |= {
        "cgroup-manager": request.cgroup_manager,
        "limits": request.limits,
        "log-driver": defaults.LOG_DRIVER,
        "log-max-file": defaults.LOG_FILES,
        "log-max-size": defaults.LOG_SIZE,
        "network": "pasta",
        "pids-limit": defaults.PIDS_LIMIT,
        "stop-timeout": defaults.STOP_TIMEOUT,
        "userns": request.userns,
    }
    parts = ("home", "cwd", "tmp", "env-host", "fabric")
    found["front"] = {"limits": "try"}
    found["hpc"] = {"default": False, **dict.fromkeys(parts, True), "modules": [], "unset-env": []}
    found["gpus"]["cdi-directories"] = cdi.directories()
    return found


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
