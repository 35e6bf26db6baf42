"""The body of a create -> the request of the engine.

Each value goes through the grammar of the flag that means the same, so the API and the command line
take and refuse the same things. What Docker knows and rless cannot do is refused by name.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from rootless import log
from rootless.cli.flags.logging import DRIVERS
from rootless.cli.options import CREATE
from rootless.cli.parse import convert, gather
from rootless.cli.verbs.container.run import build
from rootless.engine.request import FILE_SUFFIXES, HOST_IMAGE, RunRequest
from rootless.engine.resources import UPDATABLE
from rootless.errors import INVALID, RlessError
from rootless.image.model.reference import parse
from rootless.service.http import HttpError
from rootless.service.inputs import get, has, mapping, objects, pairs, texts, words

if TYPE_CHECKING:
    from rootless.cli.parse import Found

DOCKER_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
_DEFAULT_NETWORK = "bridge"
_RUNTIMES = ("", "runc", "io.containerd.runc.v2", "rless-oci")
_NANO = 10**9
_INDEX = CREATE.index()
# What cannot be done: field of HostConfig -> why.
_REFUSED = {
    "CpuRealtimePeriod": "real-time scheduling of groups needs root",
    "CpuRealtimeRuntime": "real-time scheduling of groups needs root",
    "StorageOpt": "a size limit of the root filesystem needs root",
    "CpuCount": "it exists on Windows only",
    "CpuPercent": "it exists on Windows only",
    "IOMaximumIOps": "it exists on Windows only",
    "IOMaximumBandwidth": "it exists on Windows only",
}
# What Docker leaves out with a warning on control groups v2, and rless does, too.
_LEFT_OUT = (
    ("KernelMemory", 0, "neither the kernel nor Docker has this limit any more"),
    ("MemorySwappiness", -1, "control groups v2 have no swappiness"),
    ("OomKillDisable", False, "control groups v2 cannot turn it off"),
)
_DEVICE_RULE = r"[acb] (\d+|\*):(\d+|\*) [rwm]{1,3}"
# Texts and numbers that are a flag's value as they are; an empty one is the default.
_OF_CONFIG = (
    ("Hostname", "--hostname"),
    ("Domainname", "--domainname"),
    ("User", "--user"),
    ("WorkingDir", "--workdir"),
    ("StopSignal", "--stop-signal"),
    ("MacAddress", "--mac-address"),
)
_OF_HOST = (
    ("PidMode", "--pid"),
    ("IpcMode", "--ipc"),
    ("UTSMode", "--uts"),
    ("UsernsMode", "--userns"),
    ("CgroupnsMode", "--cgroupns"),
    ("CgroupParent", "--cgroup-parent"),
    ("CpusetCpus", "--cpuset-cpus"),
    ("CpusetMems", "--cpuset-mems"),
    ("Isolation", "--isolation"),
    ("VolumeDriver", "--volume-driver"),
)
_NUMBERS = (
    ("Memory", "--memory"),
    ("MemorySwap", "--memory-swap"),
    ("MemoryReservation", "--memory-reservation"),
    ("CpuShares", "--cpu-shares"),
    ("CpuPeriod", "--cpu-period"),
    ("CpuQuota", "--cpu-quota"),
    ("PidsLimit", "--pids-limit"),
    ("BlkioWeight", "--blkio-weight"),
    ("OomScoreAdj", "--oom-score-adj"),
    ("ShmSize", "--shm-size"),
)
_LISTS = (
    ("CapAdd", "--cap-add"),
    ("CapDrop", "--cap-drop"),
    ("Dns", "--dns"),
    ("DnsSearch", "--dns-search"),
    ("DnsOptions", "--dns-option"),
    ("ExtraHosts", "--add-host"),
    ("GroupAdd", "--group-add"),
    ("VolumesFrom", "--volumes-from"),
    ("Links", "--link"),
)
# Fields of HostConfig whose form is lost in the request.
_ASKED = (
    *("Annotations", "Binds", "CapAdd", "CapDrop", "ConsoleSize", "DeviceCgroupRules"),
    *("DeviceRequests", "Devices", "ExtraHosts", "IpcMode", "Isolation", "Links", "LogConfig"),
    *("Mounts", "SecurityOpt", "Tmpfs", "VolumeDriver"),
)
_DEVICE_LIMITS = (
    ("BlkioWeightDevice", "Weight", "--blkio-weight-device"),
    ("BlkioDeviceReadBps", "Rate", "--device-read-bps"),
    ("BlkioDeviceWriteBps", "Rate", "--device-write-bps"),
    ("BlkioDeviceReadIOps", "Rate", "--device-read-iops"),
    ("BlkioDeviceWriteIOps", "Rate", "--device-write-iops"),
)


def read(body: dict[str, Any], name: str, platform: str, socket: str) -> RunRequest:
    """Return the request of a create.

    Args:
        name: of the container; "": a random one.
        socket: the service's own, for containers that ask for Docker's.

    Raises:
        HttpError, RlessError: something in it is wrong, or cannot be done.
    """
    try:
        return _Reader(body, socket).request(name, platform)
    except RlessError as error:
        raise RlessError(
            error.message, error.hint, error.exit_code, error.kind or INVALID
        ) from error


class _Reader:
    """One body while it is read: the flags that it amounts to."""

    def __init__(self, body: dict[str, Any], socket: str) -> None:
        self.body = body
        self.host = mapping(body, "HostConfig")
        self.socket = socket
        self.found: list[Found] = []
        self.seccomp: list[str] = []

    def flag(self, name: str, value: object) -> None:
        """Add a flag with its value."""
        row = _INDEX[name]
        assert len(row) == 6
        self.found.append((row, name, str(value)))

    def request(self, name: str, platform: str) -> RunRequest:
        """Return the whole request."""
        image = _image(get(self.body, "Image", ""))
        self.refuse()
        self.simple()
        if name:
            self.flag("--name", name)
        if platform:
            self.flag("--platform", platform)
        self.process()
        self.logging()
        self.files()
        self.ports()
        networks = self.networks()
        values = gather(self.found)
        values["network"] = networks
        if nano := get(self.host, "NanoCpus", 0):
            values["cpus"] = nano
        if "network" in values and values["network"] == [None]:
            del values["network"]
        command = words(self.body, "Cmd") or []
        request = build(values, [image, *command], CREATE)
        request = request.replace(pull="never", quiet=True, **self.environment())
        request = request.replace(**self.health(), stdin_once=get(self.body, "StdinOnce", False))
        attached = any(
            get(self.body, f"Attach{one}", False) for one in ("Stdin", "Stdout", "Stderr")
        )
        request = request.replace(
            detach=not attached, security_opt=[*request.security_opt, *self.seccomp]
        )
        size: list[Any] = get(self.host, "ConsoleSize", [])
        if len(size) == 2 and all(type(one) is int and 0 < one < 65536 for one in size):
            request = request.replace(console_size=tuple(size))
        entrypoint = words(self.body, "Entrypoint")
        if entrypoint is not None and entrypoint != []:
            request = request.replace(entrypoint=[] if entrypoint == [""] else entrypoint)
        return request.replace(asked=self.asked())

    def runtime(self) -> str:
        """Return the runtime that is asked for; docker-py has it beside HostConfig."""
        return get(self.host, "Runtime", "") or get(self.body, "Runtime", "")

    def asked(self) -> dict[str, Any]:
        """Return what `inspect` gives back as it came: the request has it in another form."""
        given = {key.lower(): value for key, value in self.host.items()}
        found = {name: given[name.lower()] for name in _ASKED if given.get(name.lower())}
        if runtime := self.runtime():
            found["Runtime"] = runtime
        found.setdefault("Binds", None)
        found.setdefault("Tmpfs", {})
        if "LogConfig" in found:
            settings = mapping(self.host, "LogConfig")
            driver = get(settings, "Type", "") or "json-file"
            found["LogConfig"] = {"Type": driver, "Config": pairs(settings, "Config")}
        return found

    def refuse(self) -> None:
        """Refuse what cannot be done, if it is asked for."""
        for field, why in _REFUSED.items():
            value = next(
                (self.host[key] for key in self.host if key.lower() == field.lower()), None
            )
            if value:
                raise HttpError(400, f"{field} is not supported: {why}")
        for field, default, why in _LEFT_OUT:
            if get(self.host, field, default) != default:
                log.warn(f"{field} is left out: {why}")
        rules = texts(self.host, "DeviceCgroupRules")
        if wrong := [rule for rule in rules if not re.fullmatch(_DEVICE_RULE, rule, re.ASCII)]:
            raise HttpError(400, f"DeviceCgroupRules: {wrong[0]!r} is no rule")
        if rules:
            log.warn("DeviceCgroupRules allow nothing more here: a device's permissions decide")
        if (runtime := self.runtime()) not in _RUNTIMES:
            raise HttpError(400, f"unknown or invalid runtime name: {runtime}")
        if get(self.host, "MaskedPaths", [""]) != [""] and get(self.host, "MaskedPaths", []):
            raise HttpError(400, "MaskedPaths: only an empty list is supported, for none at all")

    def simple(self) -> None:
        """Add the values that are those of a flag as they are."""
        for field, flag in _OF_CONFIG:
            if text := get(self.body, field, ""):
                self.flag(flag, text)
        for field, flag in _OF_HOST:
            if text := get(self.host, field, ""):
                self.flag(flag, text)
        for field, flag in _NUMBERS:
            if number := get(self.host, field, 0):
                self.flag(flag, number)
        for field, flag in _LISTS:
            for text in texts(self.host, field):
                self.flag(flag, text)
        for field, flag in (
            ("Privileged", "--privileged"),
            ("ReadonlyRootfs", "--read-only"),
            ("PublishAllPorts", "--publish-all"),
            ("AutoRemove", "--rm"),
            ("Init", "--init"),
        ):
            if get(self.host, field, False):
                self.flag(flag, "true")
        for field, key, flag in _DEVICE_LIMITS:
            for one in objects(self.host, field):
                self.flag(flag, f"{get(one, 'Path', '')}:{get(one, key, 0)}")
        for key, text in pairs(self.host, "Sysctls").items():
            self.flag("--sysctl", f"{key}={text}")
        for key, text in pairs(self.host, "Annotations").items():
            self.flag("--annotation", f"{key}={text}")
        for one in objects(self.host, "Ulimits"):
            limits = f"{get(one, 'Soft', 0)}:{get(one, 'Hard', 0)}"
            self.flag("--ulimit", f"{get(one, 'Name', '')}={limits}")

    def process(self) -> None:
        """Add what is about the application and its rights."""
        if get(self.body, "Tty", False):
            self.flag("--tty", "true")
        if get(self.body, "OpenStdin", False):
            self.flag("--interactive", "true")
        for key, text in pairs(self.body, "Labels").items():
            self.flag("--label", f"{key}={text}")
        if has(self.body, "StopTimeout"):
            self.flag("--stop-timeout", get(self.body, "StopTimeout", 10))
        for text in texts(self.host, "SecurityOpt"):
            # A client sends the profile, not the path of its file.
            if text.startswith(("seccomp={", "seccomp:{")):
                self.seccomp = [f"seccomp={text[8:]}"]
            elif text.startswith("seccomp") and text[8:] not in ("unconfined", "builtin"):
                raise HttpError(400, "SecurityOpt: seccomp is neither a profile nor unconfined")
            else:
                self.flag("--security-opt", text)
        if has(self.host, "MaskedPaths") and not get(self.host, "MaskedPaths", []):
            self.flag("--security-opt", "systempaths=unconfined")
        policy = mapping(self.host, "RestartPolicy")
        if restart := get(policy, "Name", ""):
            most = get(policy, "MaximumRetryCount", 0)
            self.flag("--restart", f"{restart}:{most}" if most else restart)

    def environment(self) -> dict[str, Any]:
        """Return the variables; a name alone takes the image's away."""
        given = texts(self.body, "Env")
        if any(entry[:1] in ("", "=") for entry in given):
            raise HttpError(400, "Env has an entry without a name")
        return {
            "env": [entry for entry in given if "=" in entry],
            "env_remove": [entry for entry in given if "=" not in entry],
        }

    def health(self) -> dict[str, Any]:
        """Return the health check's fields."""
        check = mapping(self.body, "Healthcheck")
        found: dict[str, Any] = {}
        test = texts(check, "Test")
        if test[:1] == ["NONE"]:
            return {"no_healthcheck": True}
        if test[:1] == ["CMD-SHELL"]:
            found["health_cmd"] = " ".join(test[1:])
        elif test:
            found["health_cmd"] = test[1:] if test[0] == "CMD" else test
        for field, name in (
            ("Interval", "interval"),
            ("Timeout", "timeout"),
            ("StartPeriod", "start_period"),
            ("StartInterval", "start_interval"),
        ):
            if number := get(check, field, 0):
                if number < 10**6:
                    raise HttpError(400, f"Healthcheck.{field} is shorter than a millisecond")
                found[f"health_{name}"] = number / _NANO
        if retries := get(check, "Retries", 0):
            found["health_retries"] = retries
        return found

    def logging(self) -> None:
        """Add the log driver: json-file, unless another one is asked for."""
        settings = mapping(self.host, "LogConfig")
        driver = get(settings, "Type", "") or "json-file"
        if driver not in DRIVERS:
            raise HttpError(400, f"logger: no log driver named '{driver}' is registered")
        self.flag("--log-driver", driver)
        for key, text in pairs(settings, "Config").items():
            self.flag("--log-opt", f"{key}={text}")

    # -- mounts ----------------------------------------------------------------------------------

    def files(self) -> None:
        """Add mounts and devices."""
        targets = set()
        for bind in texts(self.host, "Binds"):
            source, colon, rest = bind.partition(":")
            if colon and source[:1] in "~.":
                raise HttpError(400, f"Binds: {source!r} is not an absolute path")
            if colon:
                targets.add(rest.partition(":")[0].rstrip("/"))
            self.flag("--volume", f"{self.source(source)}:{rest}" if colon else bind)
        for mount in objects(self.host, "Mounts"):
            targets.add(get(mount, "Target", "").rstrip("/"))
            self.flag("--mount", self.mount(mount))
        for target, options in pairs(self.host, "Tmpfs").items():
            targets.add(target.rstrip("/"))
            self.flag("--tmpfs", f"{target}:{options}" if options else target)
        for target in mapping(self.body, "Volumes"):
            if target.rstrip("/") not in targets:
                self.flag("--volume", target)
        for device in objects(self.host, "Devices"):
            host = get(device, "PathOnHost", "")
            inside = get(device, "PathInContainer", "") or host
            mode = get(device, "CgroupPermissions", "") or "rwm"
            self.flag("--device", f"{host}:{inside}:{mode}")
        for wanted in objects(self.host, "DeviceRequests"):
            self.device_request(wanted)

    def source(self, path: str) -> str:
        """Return a bind's source: our own socket in place of a Docker's that is not ours."""
        if path in DOCKER_SOCKETS and not os.access(path, os.R_OK | os.W_OK):
            log.warn(f"{path} is {self.socket} of rless: that container can do what you can")
            return self.socket
        if path == self.socket:
            log.warn("the socket of rless is mounted: that container can do what you can")
        return path

    def mount(self, mount: dict[str, Any]) -> str:
        """Return an entry of Mounts in the words of --mount."""
        kind, source = get(mount, "Type", "") or "volume", get(mount, "Source", "")
        fields = [f"type={kind}", f"dst={get(mount, 'Target', '')}"]
        if source:
            if kind == "bind":
                if not source.startswith("/"):
                    raise HttpError(400, f"Mounts: {source!r} is not an absolute path")
                source = self.source(source)
            fields.append(f"src={source}")
        if get(mount, "ReadOnly", False):
            fields.append("readonly")
        bind = mapping(mount, "BindOptions")
        if propagation := get(bind, "Propagation", ""):
            fields.append(f"bind-propagation={propagation}")
        if get(bind, "NonRecursive", False):
            fields.append("bind-nonrecursive")
        if get(bind, "CreateMountpoint", False):
            fields.append("bind-create-src")
        volume = mapping(mount, "VolumeOptions")
        if get(volume, "NoCopy", False):
            fields.append("volume-nocopy")
        if subpath := get(volume, "Subpath", ""):
            fields.append(f"volume-subpath={subpath}")
        fields += [f"volume-label={key}={text}" for key, text in pairs(volume, "Labels").items()]
        driver = mapping(volume, "DriverConfig")
        if name := get(driver, "Name", ""):
            fields.append(f"volume-driver={name}")
        if pairs(driver, "Options"):
            raise HttpError(
                400, "Mounts: options of a volume's driver are for a volume that is made before"
            )
        tmpfs = mapping(mount, "TmpfsOptions")
        if size := get(tmpfs, "SizeBytes", 0):
            fields.append(f"tmpfs-size={size}")
        if mode := get(tmpfs, "Mode", 0):
            fields.append(f"tmpfs-mode={mode:o}")
        return ",".join(_quoted(field) for field in fields)

    def device_request(self, wanted: dict[str, Any]) -> None:
        """Add the GPUs that an entry of DeviceRequests asks for, or its CDI devices."""
        driver, ids = get(wanted, "Driver", ""), texts(wanted, "DeviceIDs")
        if driver == "cdi":
            for name in ids:
                self.flag("--device", name)
            return
        asked = [f"driver={driver}"] if driver else []
        if ids:
            asked.append(_quoted(f"device={','.join(ids)}"))
        else:
            count = get(wanted, "Count", 0)
            asked.append("count=all" if count == -1 else f"count={count or 1}")
        self.flag("--gpus", ",".join(asked))

    # -- network ---------------------------------------------------------------------------------

    def ports(self) -> None:
        """Add published and exposed ports."""
        for port in mapping(self.body, "ExposedPorts"):
            self.flag("--expose", port)
        for port, bindings in mapping(self.host, "PortBindings").items():
            for binding in bindings or ():
                address = get(binding, "HostIp", "")
                number = get(binding, "HostPort", "")
                if ":" in address:
                    address = f"[{address}]"
                text = f"{number if number != '0' else ''}:{port}"
                self.flag("--publish", f"{address}:{text}" if address else text.lstrip(":"))

    def networks(self) -> list[Any]:
        """Return the network mode, or the networks with what is asked of each."""
        mode = get(self.host, "NetworkMode", "")
        given = mapping(mapping(self.body, "NetworkingConfig"), "EndpointsConfig")
        endpoints = {
            _DEFAULT_NETWORK if name in ("", "default") else name: one or {}
            for name, one in given.items()
        }
        if mode in ("none", "host", "pasta") or mode.startswith(("container:", "ns:")):
            if mode.startswith("ns:"):
                raise HttpError(400, "NetworkMode: a network namespace by its path is refused")
            return [_value("--network", mode)]
        first = _DEFAULT_NETWORK if mode in ("", "default") else mode
        order = [first, *(name for name in endpoints if name != first)]
        return [_named(name, endpoints.get(name, {})) for name in order]


def _named(name: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return a network with what is asked of the container's place in it."""
    from rootless.engine.networks import store

    try:
        found = store.find(name).name
    except RlessError as error:
        # Not as what is not found: clients would pull the image then.
        raise HttpError(400, str(error)) from error
    return {"name": found, **endpoint(wanted)}


def endpoint(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked of a container's place in a network, as the engine notes it.

    Raises:
        HttpError, RlessError: something in it is wrong, or cannot be done.
    """
    found: dict[str, Any] = {}
    addresses = mapping(wanted, "IPAMConfig")
    if texts(addresses, "LinkLocalIPs"):
        raise HttpError(400, "LinkLocalIPs: the network assigns these addresses itself")
    for field, key, flag in (("IPv4Address", "ip", "--ip"), ("IPv6Address", "ip6", "--ip6")):
        if text := get(addresses, field, ""):
            found[key] = _value(flag, text)
    if text := get(wanted, "MacAddress", ""):
        found["mac"] = _value("--mac-address", text)
    if aliases := [_value("--network-alias", text) for text in texts(wanted, "Aliases")]:
        found["aliases"] = list(dict.fromkeys(aliases))
    if links := [_value("--link", text) for text in texts(wanted, "Links")]:
        found["links"] = links
    if options := pairs(wanted, "DriverOpts"):
        found["driver_opts"] = options  # for other drivers; clients want to see them again
    return found


def _value(flag: str, text: str) -> Any:
    """Return the value of one flag."""
    row = _INDEX[flag]
    assert len(row) == 6
    return convert(row, flag, text)


def _image(name: str) -> str:
    """Return the name of an image; a file, an archive and the host itself are none here."""
    if not name:
        raise HttpError(400, "no image is given")
    if name == HOST_IMAGE or name[:1] in "/." or name.endswith(FILE_SUFFIXES):
        raise HttpError(400, f"{name!r} is not the name of an image")
    if not _is_id(name) and parse(name).transport != "docker":
        raise HttpError(400, f"{name!r} is not the name of an image")
    return name


def _is_id(name: str) -> bool:
    bare = name.removeprefix("sha256:")
    return bare.isalnum() and not set(bare) - set("0123456789abcdef")


def _quoted(field: str) -> str:
    """Quote a field of CSV."""
    if not set(field) & set(',"'):
        return field
    escaped = field.replace('"', '""')
    return f'"{escaped}"'


def changes(body: dict[str, Any]) -> dict[str, Any]:
    """Return what an update changes: fields of the request.

    Raises:
        HttpError, RlessError: something in it is wrong, or cannot be done.
    """
    reader = _Reader({"HostConfig": body}, "")
    reader.refuse()
    for field, flag in (*_NUMBERS, *_OF_HOST):
        if _INDEX[flag][3] in UPDATABLE and has(body, field):
            value = next(body[key] for key in body if key.lower() == field.lower())
            if value:
                reader.flag(flag, value)
    policy = mapping(body, "RestartPolicy")
    if restart := get(policy, "Name", ""):
        most = get(policy, "MaximumRetryCount", 0)
        reader.flag("--restart", f"{restart}:{most}" if most else restart)
    found = gather(reader.found)
    if nano := get(body, "NanoCpus", 0):
        found["cpus"] = nano
    return found
