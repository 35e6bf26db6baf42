"""What the service and this host are: `_ping`, `version`, `info`."""

from __future__ import annotations

import os
from typing import Any

from rootless import __version__
from rootless.image.model import platforms
from rootless.service import children
from rootless.service.forms import disk_usage as forms
from rootless.service.http import (
    API_VERSION,
    MINIMUM_VERSION,
    HttpError,
    Request,
    Response,
    version_text,
)

# Several clients refuse an engine by the number that they find here: it is of the Docker whose API
# this is.
SERVER_VERSION = f"26.1.0-rless.{__version__}"
_NO_CACHE = {
    "Builder-Version": "1",
    "Swarm": "inactive",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
}


async def ping(request: Request) -> Response:
    """Say that the service is there; no file is touched."""
    return Response(b"OK", headers=_NO_CACHE)


async def version(request: Request) -> Response:
    """Say what is spoken here."""
    host = os.uname()
    facts = {
        "ApiVersion": version_text(API_VERSION),
        "MinAPIVersion": version_text(MINIMUM_VERSION),
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": platforms.host_platform().architecture,
        "KernelVersion": host.release,
        "BuildTime": "",
    }
    return Response(
        {
            "Platform": {"Name": "rless"},
            "Components": [
                {
                    "Name": "Engine",
                    "Version": SERVER_VERSION,
                    "Details": {**facts, "Experimental": "false"},
                },
                {"Name": "rless", "Version": __version__, "Details": {}},
            ],
            "Version": SERVER_VERSION,
            **facts,
        }
    )


async def info(request: Request) -> Response:
    """Describe this host, as `rless info` does."""
    result = await children.call(_facts, kill=True)
    return Response(result.value)


def _facts() -> dict[str, Any]:
    from rootless import paths
    from rootless.engine.query.info import collect

    found = collect()
    unused: dict[str, Any] = {
        "SystemStatus": None,
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "none"],
            "Authorization": None,
            "Log": ["json-file", "local", "journald", "none"],
        },
        "IPv4Forwarding": True,
        "BridgeNfIptables": False,
        "BridgeNfIp6tables": False,
        "Debug": False,
        "NFd": 0,
        "NGoroutines": 0,
        "NEventsListener": 0,
        "SystemTime": _now(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "AllowNondistributableArtifactsCIDRs": None,
            "AllowNondistributableArtifactsHostnames": None,
            "InsecureRegistryCIDRs": [],
            "IndexConfigs": {
                "docker.io": {"Name": "docker.io", "Mirrors": [], "Secure": True, "Official": True}
            },
            "Mirrors": [],
        },
        "GenericResources": None,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Labels": [],
        "ExperimentalBuild": False,
        "Runtimes": {"rless-oci": {"path": "rless-oci"}, "runc": {"path": "rless-oci"}},
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "rless-init",
        "ContainerdCommit": {"ID": "", "Expected": ""},
        "RuncCommit": {"ID": "", "Expected": ""},
        "InitCommit": {"ID": "", "Expected": ""},
        "CDISpecDirs": None,
        "OSVersion": "",
    }
    return {
        **unused,
        **found,
        "ID": _identity(paths.storage_root()),
        "LoggingDriver": "json-file",
        "DriverStatus": [*found["DriverStatus"], ["rless", __version__]],
        "ServerVersion": SERVER_VERSION,
    }


def _identity(storage: str) -> str:
    """Return an id of this storage that stays."""
    import uuid

    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{os.uname().nodename}:{os.getuid()}:{storage}"))


def _now() -> str:
    import time

    from rootless.engine import timestamps

    return timestamps.show(time.time())


async def plugins(request: Request) -> Response:
    """List the plugins: there are none."""
    return Response([])


async def disk_usage(request: Request) -> Response:
    """Show what images, containers, volumes and the build cache take on disk."""
    kinds = request.query.get("type") or list(forms.KINDS)
    for kind in kinds:
        if kind not in forms.KINDS:
            raise HttpError(400, f"unknown object type: {kind}")
    return Response((await children.call(forms.measured, kinds, request.version, kill=True)).value)
