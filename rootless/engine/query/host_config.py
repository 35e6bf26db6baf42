"""The part HostConfig of Docker's `inspect`: how a container uses the host.

Source: https://docs.docker.com/reference/api/engine/ (ContainerInspect)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rootless.engine import defaults

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rootless.engine.state.records import ContainerRecord, LogSettings, RestartPolicy


def host_config(
    facts: ContainerRecord, spec: dict[str, Any], log: LogSettings, network_mode: str
) -> dict[str, Any]:
    """Return how a container uses the host, as it was asked for.

    What a client of the API has asked for comes back in the client's words.

    Args:
        facts: container.json. spec: config.json, {} before the first start.
    """
    request: dict[str, Any] = facts.get("request") or {}
    if not spec:
        spec = _expected(request)
    process: dict[str, Any] = spec.get("process") or {}
    restart: RestartPolicy = facts.get("restart") or {"name": "no", "max": 0}
    linux = spec.get("linux") or {}
    limits = linux.get("resources") or {}
    mounts = request.get("mounts") or ()
    found: dict[str, Any] = {
        "Binds": [_bind(mount) for mount in mounts if _is_bind(mount)] or None,
        "ContainerIDFile": request.get("cidfile") or "",
        "LogConfig": {
            "Type": log["driver"],
            "Config": {key: str(value) for key, value in log["options"].items()},
        },
        "NetworkMode": network_mode,
        "PortBindings": _bindings(request.get("publish") or ()),
        "RestartPolicy": {
            "Name": restart.get("name") or "no",
            "MaximumRetryCount": int(restart.get("max") or 0),
        },
        "AutoRemove": bool(facts["rm"]),
        "VolumeDriver": "",
        "VolumesFrom": request.get("volumes_from") or None,
        "ConsoleSize": [0, 0],
        "Annotations": dict(spec.get("annotations") or {}),
        "CapAdd": request.get("cap_add") or None,
        "CapDrop": request.get("cap_drop") or None,
        "CgroupnsMode": request.get("cgroupns") or "private",
        "Dns": request.get("dns") or [],
        "DnsOptions": request.get("dns_option") or [],
        "DnsSearch": request.get("dns_search") or [],
        "ExtraHosts": [":".join(pair) for pair in request.get("add_host") or ()] or None,
        "GroupAdd": request.get("group_add") or None,
        "IpcMode": request.get("ipc") or "private",
        "Cgroup": "",
        "Links": None,
        "OomScoreAdj": process.get("oomScoreAdj") or 0,
        "PidMode": _mode(request.get("pid")),
        "Privileged": bool(request.get("privileged")),
        "PublishAllPorts": bool(request.get("publish_all")),
        "ReadonlyRootfs": bool((spec.get("root") or {}).get("readonly")),
        "SecurityOpt": request.get("security_opt") or None,
        "Tmpfs": {
            mount["target"]: ",".join(mount["options"])
            for mount in mounts
            if mount["type"] == "tmpfs"
        },
        "UTSMode": _mode(request.get("uts")),
        "UsernsMode": request.get("userns") or "",
        "ShmSize": request.get("shm_size") or 64 << 20,
        "Sysctls": dict(linux.get("sysctl") or {}),
        "Runtime": "rless-oci",
        "Isolation": "",
        "CpuShares": request.get("cpu_shares") or 0,
        "Memory": request.get("memory") or 0,
        "NanoCpus": request.get("cpus") or 0,
        "CgroupParent": request.get("cgroup_parent") or "",
        "BlkioWeight": request.get("blkio_weight") or 0,
        "BlkioWeightDevice": _pairs(request.get("blkio_weight_device"), "Weight"),
        "BlkioDeviceReadBps": _pairs(request.get("device_read_bps"), "Rate"),
        "BlkioDeviceWriteBps": _pairs(request.get("device_write_bps"), "Rate"),
        "BlkioDeviceReadIOps": _pairs(request.get("device_read_iops"), "Rate"),
        "BlkioDeviceWriteIOps": _pairs(request.get("device_write_iops"), "Rate"),
        "CpuPeriod": request.get("cpu_period") or 0,
        "CpuQuota": request.get("cpu_quota") or 0,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": request.get("cpuset_cpus") or "",
        "CpusetMems": request.get("cpuset_mems") or "",
        "Devices": [
            {
                "PathOnHost": device["host"],
                "PathInContainer": device["container"],
                "CgroupPermissions": device["permissions"],
            }
            for device in request.get("devices") or ()
        ],
        "DeviceCgroupRules": None,
        "DeviceRequests": None,
        "MemoryReservation": request.get("memory_reservation") or 0,
        "MemorySwap": request.get("memory_swap") or 2 * (request.get("memory") or 0),
        "MemorySwappiness": None,
        "OomKillDisable": None,
        # As it was set: the default is only where it can be.
        "PidsLimit": request.get("pids_limit") or limits.get("pids", {}).get("limit"),
        "Ulimits": [
            {"Name": name, "Soft": soft, "Hard": hard}
            for name, soft, hard in request.get("ulimits") or ()
        ],
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "MaskedPaths": linux.get("maskedPaths") or [],
        "ReadonlyPaths": linux.get("readonlyPaths") or [],
        "Init": bool(request.get("init")),
    }
    return found | (request.get("asked") or {})


def _expected(request: dict[str, Any]) -> dict[str, Any]:
    """Return of a config that is not made yet what is known."""
    hidden = not request.get("privileged") and not any(
        text.startswith(("systempaths", "unmask")) for text in request.get("security_opt") or ()
    )
    return {
        "process": {"oomScoreAdj": request.get("oom_score_adj")},
        "root": {"readonly": request.get("read_only")},
        "annotations": request.get("annotations"),
        "linux": {
            "sysctl": request.get("sysctls"),
            "maskedPaths": list(defaults.MASKED_PATHS) if hidden else [],
            "readonlyPaths": list(defaults.READONLY_PATHS) if hidden else [],
        },
    }


def _bindings(publish: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """Return what -p asked for, by port of the container."""
    found: dict[str, list[dict[str, str]]] = {}
    for port in publish:
        number = str(port["host_port"] or "")
        if port.get("host_end"):
            number += f"-{port['host_end']}"
        binding = {"HostIp": port["host_ip"] or "", "HostPort": number}
        found.setdefault(f"{port['container_port']}/{port['protocol']}", []).append(binding)
    return found


def _is_bind(mount: dict[str, Any]) -> bool:
    return bool(mount["type"] in ("bind", "volume") and mount.get("source"))


def _bind(mount: dict[str, Any]) -> str:
    options = ["ro"] if mount.get("read_only") else []
    options += mount.get("options") or []
    text = f"{mount['source']}:{mount['target']}"
    return f"{text}:{','.join(options)}" if options else text


def _pairs(entries: list[Any] | None, name: str) -> list[dict[str, Any]] | None:
    return [{"Path": path, name: value} for path, value in entries or ()] or None


def _mode(value: str | None) -> str:
    return "" if value in (None, "private") else str(value)
