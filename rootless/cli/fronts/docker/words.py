"""`version` and `info` as programs read them that were written for Docker or for Podman."""

from __future__ import annotations

import os

from rootless import __version__
from rootless.cli import streams
from rootless.cli.fronts.versions import API
from rootless.cli.fronts.voice import version
from rootless.cli.verbs.system import info
from rootless.cli.verbs.system.version import VERB
from rootless.errors import spoken
from rootless.image.model import platforms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MINIMUM = "1.24"  # of Docker's API


def main(verb: str, args: list[str], name: str) -> int:
    """Print what the front says of itself; return 0."""
    from rootless.cli.parse import HelpWanted, parse

    try:
        values, _ = parse(info.VERB if verb == "info" else VERB, args)
    except HelpWanted:
        from rootless.cli.click_app import help_of

        streams.write(spoken(help_of(verb)))
        return 0
    template = values.get("format")
    if verb == "info" and name == "docker":
        return info.show(docker_info(), template)
    if verb == "info":
        data, text = podman_info(), ""
        template = template or "json"
    elif name == "docker":
        data = docker_version()
        text = _docker_text(data)
    else:
        data = podman_version()
        text = _podman_text(data["Client"])
    if not template:
        streams.write(text)
        return 0
    from rootless.cli.template import render

    if template == "json":
        data, template = (_as_json(data) if verb == "info" else data), "{{json .}}"
    streams.write(render(template, data) + "\n")
    return 0


def docker_version() -> dict[str, Any]:
    """Return what `docker version` says, as the JSON of Docker; the server is this program too."""
    facts = {"GitCommit": "", "GoVersion": "", **_platform(), "BuildTime": ""}
    number = version("docker")
    server = {
        "ApiVersion": API, "MinAPIVersion": _MINIMUM, **facts, "KernelVersion": os.uname().release,
    }  # fmt: skip
    return {
        "Client": {
            "Platform": {"Name": "rless"},
            "Version": number,
            "ApiVersion": API,
            "DefaultAPIVersion": API,
            **facts,
            "Context": "default",
        },
        "Server": {
            "Platform": {"Name": "rless"},
            "Components": [
                {"Name": "Engine", "Version": number, "Details": server},
                {"Name": "rless", "Version": __version__, "Details": {}},
            ],
            "Version": number,
            **server,
        },
    }


def podman_version() -> dict[str, Any]:
    """Return what `podman version` says, as the JSON of Podman."""
    number = version("podman")
    system = _platform()
    return {
        "Client": {
            "APIVersion": number.partition("+")[0],
            "Version": number,
            "GoVersion": "",
            "GitCommit": "",
            "BuiltTime": "",
            "Built": 0,
            "OsArch": f"{system['Os']}/{system['Arch']}",
            "Os": system["Os"],
        }
    }


def docker_info() -> dict[str, Any]:
    """Return what `docker info` says."""
    from rootless.engine.query.info import collect

    number = version("docker")
    client = {"Version": number, "Context": "default", "Plugins": []}
    return {**collect(), "ServerVersion": number, "ClientInfo": client}


def podman_info() -> dict[str, Any]:
    """Return what `podman info` says, by the names that its templates have."""
    from rootless.engine.query.info import collect

    found = collect()
    security = [option.removeprefix("name=") for option in found["SecurityOptions"]]
    return {
        "Host": {
            "Arch": platforms.host_platform().architecture,
            "CgroupManager": found["CgroupDriver"],
            "CgroupsVersion": f"v{found['CgroupVersion']}",
            "CPUs": found["NCPU"],
            "Distribution": {"Distribution": found["OperatingSystem"]},
            "Hostname": found["Name"],
            "Kernel": found["KernelVersion"],
            "LogDriver": found["LoggingDriver"],
            "MemTotal": found["MemTotal"],
            "NetworkBackend": found["NetworkDriver"],
            "OCIRuntime": {"Name": found["DefaultRuntime"], "Version": __version__},
            "OS": "linux",
            "Security": {
                "AppArmorEnabled": "apparmor" in security,
                "Rootless": True,
                "SECCOMPEnabled": any(one.startswith("seccomp") for one in security),
                "SELinuxEnabled": "selinux" in security,
            },
            "ServiceIsRemote": False,
        },
        "Store": {
            "ContainerStore": {
                "Number": found["Containers"],
                "Paused": found["ContainersPaused"],
                "Running": found["ContainersRunning"],
                "Stopped": found["ContainersStopped"],
            },
            "GraphDriverName": found["Driver"],
            "GraphRoot": found["RlessRootDir"],
            "ImageStore": {"Number": found["Images"]},
        },
        "Version": podman_version()["Client"],
    }


def _platform() -> dict[str, str]:
    return {"Os": "linux", "Arch": platforms.host_platform().architecture}


# Names in Podman's JSON that are not those of its templates with a small first letter.
_JSON = {
    "CgroupsVersion": "cgroupVersion",
    "CPUs": "cpus",
    "OCIRuntime": "ociRuntime",
    "OS": "os",
    "SECCOMPEnabled": "seccompEnabled",
    "AppArmorEnabled": "apparmorEnabled",
    "SELinuxEnabled": "selinuxEnabled",
}


def _as_json(data: dict[str, Any]) -> dict[str, Any]:
    """Return the value by the names that Podman's JSON has; those of a version stay."""
    return {
        _JSON.get(name, name[0].lower() + name[1:]): (
            _as_json(value) if isinstance(value, dict) and name != "Version" else value
        )
        for name, value in data.items()
    }


def _docker_text(data: dict[str, Any]) -> str:
    client, server = data["Client"], data["Server"]
    system = f"{client['Os']}/{client['Arch']}"
    lowest = f"{API} (minimum version {_MINIMUM})"
    return (
        f"Client: rless\n Version:           {client['Version']}\n API version:       {API}\n"
        f" OS/Arch:           {system}\n Context:           default\n\n"
        f"Server: rless\n Engine:\n  Version:          {server['Version']}\n"
        f"  API version:      {lowest}\n  OS/Arch:          {system}\n"
        f" rless:\n  Version:          {__version__}\n"
    )


def _podman_text(client: dict[str, Any]) -> str:
    return (
        f"Client:       Podman Engine (rless)\nVersion:      {client['Version']}\n"
        f"API Version:  {client['APIVersion']}\nOS/Arch:      {client['OsArch']}\n"
    )
