"""`rless info`, also `rless system info`: the state of rless and of this host."""

from __future__ import annotations

import sys
from typing import Any

from rootless.cli import output, streams
from rootless.cli.parse import Verb
from rootless.errors import escape

VERB = Verb(
    "info",
    "[OPTIONS]",
    (
        (
            "Options",
            (
                ("--format -f", "FORMAT", "value", "format", "text",
                 "json, or a template such as '{{.Driver}}'"),
            ),
        ),
    ),
    most=0,
)  # fmt: skip

_LINES = (
    (0, "Containers", "Containers"),
    (1, "Running", "ContainersRunning"),
    (1, "Paused", "ContainersPaused"),
    (1, "Stopped", "ContainersStopped"),
    (0, "Images", "Images"),
    (0, "Version", "ServerVersion"),
    (0, "Storage Driver", "Driver"),
    (1, "Backing Filesystem", ""),
    (0, "Logging Driver", "LoggingDriver"),
    (0, "Network Driver", "NetworkDriver"),
    (0, "Cgroup Driver", "CgroupDriver"),
    (0, "Cgroup Version", "CgroupVersion"),
    (0, "Default Runtime", "DefaultRuntime"),
    (0, "Security Options", "SecurityOptions"),
    (0, "Kernel Version", "KernelVersion"),
    (0, "Operating System", "OperatingSystem"),
    (0, "OSType", "OSType"),
    (0, "Architecture", "Architecture"),
    (0, "CPUs", "NCPU"),
    (0, "Total Memory", "MemTotal"),
    (0, "Name", "Name"),
    (0, "Root Dir", "RlessRootDir"),
    (0, "Python Version", "PythonVersion"),
)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the facts; `doctor` says what they mean."""
    from rootless.engine.query.info import collect

    return show(collect(), values.get("format"))


def show(found: dict[str, Any], template: str | None) -> int:
    """Print facts that `collect` has found, by a template if there is one; return 0."""
    if template:
        from rootless.cli.template import render

        template = "{{json .}}" if template == "json" else template
        streams.write(render(template, found) + "\n")
        return 0
    text = ""
    for depth, label, key in _LINES:
        value = found[key] if key else found["DriverStatus"][0][1]
        if key == "MemTotal":
            value = output.binary_size(value)
        if key == "SecurityOptions":
            text += f"{label}:\n" + "".join(
                f"  {option.split(',')[0].removeprefix('name=')}\n" for option in value
            )
            continue
        text += f"{' ' * depth}{label}: {escape(str(value))}\n"
    streams.write(text)
    for warning in found["Warnings"]:
        print(warning, file=sys.stderr)
    return 0
