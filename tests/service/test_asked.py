"""HostConfig of a create -> the request -> `inspect`: what was asked for comes back as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.service.test_life import image, make

if TYPE_CHECKING:
    from tests.lib.service import Service

__all__ = ["image"]

ASKED: dict[str, Any] = {
    "Annotations": {"a": "b"},
    "Binds": ["/tmp:/a:ro", "/etc/passwd:/b", "kept:/c", "kept:/d:nocopy", "/tmp:/f:rw,z"],
    "CapAdd": ["NET_ADMIN", "CAP_CHOWN"],
    "CapDrop": ["ALL"],
    "ConsoleSize": [24, 80],
    "Devices": [
        {"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rw"}
    ],
    "Dns": ["1.1.1.1"],
    "DnsOptions": ["ndots:2"],
    "DnsSearch": ["a.b"],
    "ExtraHosts": ["h:1.2.3.4", "g:host-gateway"],
    "GroupAdd": ["10"],
    "Init": True,
    "IpcMode": "shareable",
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
    "Mounts": [
        {"Type": "bind", "Source": "/tmp", "Target": "/m1", "ReadOnly": True},
        {"Type": "tmpfs", "Target": "/m2", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 1023}},
    ],
    "NetworkMode": "none",
    "OomScoreAdj": 100,
    "ReadonlyRootfs": True,
    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
    "SecurityOpt": ["no-new-privileges:true", "label=disable"],
    "ShmSize": 32 << 20,
    "Sysctls": {"net.core.somaxconn": "1000"},
    "Tmpfs": {"/t": "size=1m,rw"},
    "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
}
PORTS = {
    "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18080"}],
    "81/tcp": [{"HostIp": "", "HostPort": ""}],
    "82/udp": [{"HostIp": "0.0.0.0", "HostPort": "18082"}],
    "83/tcp": [{"HostIp": "", "HostPort": "18090-18095"}],
}
LIMITS = {
    "CpuShares": 512,
    "Memory": 64 << 20,
    "MemorySwap": 128 << 20,
    "NanoCpus": 500_000_000,
    "PidsLimit": 100,
}


def host_config(service: Service, image: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked for as `inspect` of a new container shows it."""
    make(service, "asked", {"Image": image, "HostConfig": asked})
    found = service.ask("GET", "/containers/asked/json")[1]["HostConfig"]
    assert service.ask("DELETE", "/containers/asked?v=1")[0] == 204
    return {name: found.get(name) for name in asked}


def test_inspect_gives_back_what_was_asked_for(service: Service, image: str) -> None:
    assert host_config(service, image, ASKED) == ASKED
    assert service.ask("DELETE", "/volumes/kept")[0] == 204
    published = {"NetworkMode": "bridge", "PortBindings": PORTS}
    assert host_config(service, image, published) == published
    nothing = {"Binds": None, "Tmpfs": {}, "CapAdd": None, "NetworkMode": "none"}
    assert host_config(service, image, nothing) == nothing
    lower = {"capadd": ["CHOWN"], "networkmode": "none"}
    make(service, "lower", {"Image": image, "HostConfig": lower})
    found = service.ask("GET", "/containers/lower/json")[1]["HostConfig"]
    assert found["CapAdd"] == ["CHOWN"]
    assert "/proc/kcore" in found["MaskedPaths"]
    assert service.ask("DELETE", "/containers/lower")[0] == 204


def test_limits_are_read_and_shown_as_they_were_asked_for() -> None:
    """The same without a container: a test's control group may not be allowed to limit."""
    from rootless.engine.query import host_config as shown
    from rootless.service.forms import request

    body = {"Image": "probe", "HostConfig": {**LIMITS, "NetworkMode": "none"}}
    facts: Any = {"request": request.read(body, "", "", "").as_dict(), "rm": False}
    found = shown.host_config(facts, {}, {"driver": "local", "options": {}}, "none")
    assert {name: found[name] for name in LIMITS} == LIMITS
