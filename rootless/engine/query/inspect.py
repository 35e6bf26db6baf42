"""All about a container, in the form of Docker's `inspect`.

It comes from container.json (what it is), config.json (what runs), and the run record, exit.json
and health.json (its state). A field that Docker has and rless has no use for has Docker's empty
value, so that programs find the fields that they expect.

Source: https://docs.docker.com/reference/api/engine/ (ContainerInspect)
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from rootless.engine import defaults, timestamps
from rootless.engine.exec.healthcheck import image_form
from rootless.engine.query.host_config import host_config
from rootless.engine.query.ps import LIVING, describe, sizes
from rootless.engine.request import as_words
from rootless.engine.state.container import find, read_json
from rootless.engine.state.reconcile import reconcile
from rootless.errors import RlessError

if TYPE_CHECKING:
    from rootless.engine.state.container import Container
    from rootless.engine.state.records import (
        HealthRecord,
        LogSettings,
        MemberRecord,
        MountRecord,
        RunRecord,
    )

NEVER = "0001-01-01T00:00:00Z"  # Go's zero time
_FILE_DRIVERS = ("local", "json-file")


def inspect_container(reference: str, size: bool = False) -> dict[str, Any]:
    """Return a container in Docker's shape.

    Args:
        size: count the bytes of its files, too: SizeRw, SizeRootFs.

    Raises:
        RlessError: there is no such container.
    """
    reconcile()
    container = find(reference)
    found = _Inspected(container).whole()
    if size:
        found["SizeRw"], found["SizeRootFs"] = sizes(container)
    return found


def networks_of(container: Container) -> tuple[dict[str, Any], str]:
    """Return a container's networks as a list shows them, and its network mode.

    The addresses that pasta has given are left out: to ask for them takes a process.
    """
    found = _Inspected(container)
    return found.network(ask=False)["Networks"], found.network_mode()


def _moment(seconds: float | None) -> str:
    return timestamps.show(seconds) if seconds else NEVER


class _Inspected:
    """One container while it is described."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.directory = container.directory
        self.facts = container.facts
        self.status, code = container.status()
        self.row = describe(container, self.status, code)
        self.run_record: RunRecord = container.run_record() if self.status in LIVING else {}
        self.ended = container.exit_record()
        self.checks: HealthRecord | None = read_json(f"{self.directory}/health.json")
        self.spec: dict[str, Any] = read_json(f"{self.directory}/config.json") or {}
        self.process: dict[str, Any] = self.spec.get("process") or {}
        self.request: dict[str, Any] = self.facts.get("request") or {}
        self.image: dict[str, Any] = self.facts.get("image_config") or {}
        self.log: LogSettings = self.facts.get("log") or {"driver": "local", "options": {}}

    def whole(self) -> dict[str, Any]:
        facts, directory = self.facts, self.directory
        path, *args = facts["command"] or [""]
        rootfs, ended = self.run_record.get("rootfs"), self.ended
        driver = (rootfs["driver"] if rootfs else None) or self.request.get("driver")
        restarts = self.run_record.get("restarts") or (ended.get("restarts") if ended else 0)
        return {
            "Id": facts["id"],
            "Created": _moment(facts["created"]),
            "Path": path,
            "Args": args,
            "State": self.state(),
            "Image": facts.get("image_id") or "",
            "ResolvConfPath": f"{directory}/resolv.conf",
            "HostnamePath": f"{directory}/hostname",
            "HostsPath": f"{directory}/hosts",
            "LogPath": f"{directory}/log" if self.log["driver"] in _FILE_DRIVERS else "",
            "Name": f"/{facts['name']}",
            "RestartCount": restarts or 0,
            "Driver": driver or "overlay",
            "Platform": "linux",
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": "",
            "ExecIDs": self.exec_ids(),
            "HostConfig": host_config(facts, self.spec, self.log, self.network_mode()),
            "GraphDriver": self.graph_driver(driver or "overlay"),
            "Mounts": [mount_point(mount) for mount in facts.get("mounts") or ()],
            "Config": self.config(),
            "NetworkSettings": self.network(),
        }

    def exec_ids(self) -> list[str] | None:
        """Return the ids of the processes of Docker's API that run; None: there is none."""
        from rootless.engine.exec import records

        return (records.running(self.container) or None) if self.status in LIVING else None

    def state(self) -> dict[str, Any]:
        row = self.row
        up = self.status in LIVING
        found: dict[str, Any] = {
            "Status": self.status,
            "Running": up,
            "Paused": self.status == "paused",
            "Restarting": self.status == "restarting",
            "OOMKilled": not up and self.ended is not None and bool(self.ended.get("oom")),
            "Dead": False,
            "Pid": row["pid"],
            "ExitCode": row["exit_code"] or 0,
            "Error": self.error(up),
            "StartedAt": _moment(row["started"]),
            "FinishedAt": _moment(row["finished"]),
        }
        if self.facts.get("health"):
            found["Health"] = {
                "Status": self.checks["status"] if self.checks else "starting",
                "FailingStreak": self.checks["failing_streak"] if self.checks else 0,
                "Log": [
                    {
                        "Start": _moment(result["start"]),
                        "End": _moment(result["end"]),
                        "ExitCode": result["exit_code"],
                        "Output": result["output"],
                    }
                    for result in (self.checks["log"] if self.checks else ())
                ],
            }
        return found

    def error(self, up: bool) -> str:
        if self.row["network_lost"]:
            return f"{self.row['network_lost']}; rless restart {self.facts['name']}"
        return (self.ended.get("error") or "") if self.ended and not up else ""

    def network_mode(self) -> str:
        """Return what --network says, without options."""
        return self.facts.get("network") or self.request.get("network") or "pasta"

    def environment(self) -> list[str]:
        """Return the environment; of one that was never started without what a start adds."""
        # A name alone is a variable of the image that the container does not have.
        removed: list[str] = self.request.get("env_remove") or []
        if self.process:
            return [*(self.process.get("env") or []), *removed]
        entries = [defaults.PATH, *(self.image.get("Env") or ()), *(self.request.get("env") or ())]
        merged = dict(entry.partition("=")[::2] for entry in entries)
        kept = [f"{name}={value}" for name, value in merged.items() if name not in removed]
        return [*kept, *removed]

    def graph_driver(self, driver: str) -> dict[str, Any]:
        rootfs = self.run_record.get("rootfs")
        lower = rootfs["layers"] if rootfs else []
        return {
            "Name": driver,
            "Data": {
                "LowerDir": ":".join(lower[::-1]),
                "MergedDir": f"{self.directory}/merged",
                "UpperDir": f"{self.directory}/upper",
                "WorkDir": f"{self.directory}/work",
            },
        }

    def config(self) -> dict[str, Any]:
        request, image, facts = self.request, self.image, self.facts
        entrypoint: list[str] | None = image.get("Entrypoint") or None
        command = request.get("command") or image.get("Cmd") or None
        if request.get("entrypoint") is not None:
            entrypoint = as_words(request["entrypoint"]) or None
            command = request.get("command") or None
        own = [mount["target"] for mount in facts.get("mounts") or () if mount["anonymous"]]
        attached = not facts["detach"]
        found: dict[str, Any] = {
            "Hostname": self.spec.get("hostname") or request.get("hostname") or facts["id"][:12],
            "Domainname": self.spec.get("domainname") or request.get("domainname") or "",
            "User": request.get("user") or image.get("User") or "",
            "AttachStdin": attached and bool(facts.get("stdin_open")),
            "AttachStdout": attached,
            "AttachStderr": attached,
            "ExposedPorts": {port: {} for port in self.exposed()},
            "Tty": bool(facts["tty"]),
            "OpenStdin": bool(facts.get("stdin_open")),
            "StdinOnce": bool(facts.get("stdin_once")),
            "Env": self.environment(),
            "Cmd": command,
            "Healthcheck": image_form(facts.get("health"), bool(request.get("no_healthcheck"))),
            "Image": facts["image"] or "",
            "Volumes": {**{target: {} for target in own}, **(image.get("Volumes") or {})} or None,
            "WorkingDir": self.process.get("cwd")
            or request.get("workdir")
            or image.get("WorkingDir")
            or "/",
            "Entrypoint": entrypoint,
            "Labels": facts["labels"] or {},
            "StopSignal": _signal_name(facts["stop_signal"]),
            "StopTimeout": facts["stop_timeout"],
        }
        if found["Healthcheck"] is None:
            del found["Healthcheck"]
        return found

    def exposed(self) -> list[str]:
        """Return the exposed ports and the published ones, as Docker does, with protocols."""
        ports = [_whole_port(port) for port in self.facts.get("exposed") or ()]
        return sorted({*ports, *_by_port(self.row["ports"])})

    def network(self, ask: bool = True) -> dict[str, Any]:
        """Return the part NetworkSettings.

        Args:
            ask: find out the addresses that pasta has given.
        """
        ports: dict[str, Any] = {}
        if self.status in LIVING:
            ports = {**dict.fromkeys(self.exposed()), **_by_port(self.row["ports"])}
        init = self.row["pid"]
        if self.row["networks"] or "networks" in self.run_record:
            return self.networks(ports)
        mode = self.network_mode()
        own = NO_ADDRESSES
        if mode == "pasta" and init and ask:
            own = {**addresses(init), "MacAddress": self.run_record.get("mac", "")}
        return {
            "Bridge": "",
            "SandboxID": _id_of(self.facts["id"], "sandbox") if init else "",
            "SandboxKey": f"/proc/{init}/ns/net" if init else "",
            "Ports": ports,
            # pasta's addresses: the container knows itself by them, nobody else reaches it there.
            # Docker's of a rootless daemon are no better.
            "EndpointID": "",
            **own,
            "Networks": {
                mode: {
                    "IPAMConfig": None,
                    "Links": None,
                    "Aliases": None,
                    "NetworkID": BUILT_IN.get(mode, ""),
                    "EndpointID": _id_of(self.facts["id"], mode) if init else "",
                    **own,
                    "DNSNames": None,
                }
            },
        }

    def networks(self, ports: dict[str, Any]) -> dict[str, Any]:
        """Return the same of a member of networks, by what is noted of it."""
        init = self.row["pid"]
        wanted = {one["name"]: one for one in self.request.get("networks", ())}
        places = {place["name"]: place for place in self.run_record.get("networks") or ()}
        found = {}
        for network in places or wanted:
            place, asked = places.get(network), wanted.get(network, {})
            names = (("ip", "IPv4Address"), ("ip6", "IPv6Address"))
            addresses = {name: asked[key] for key, name in names if asked.get(key)}
            called = [self.facts["name"], *asked.get("aliases", ()), self.facts["id"][:12]]
            found[network] = {
                "IPAMConfig": addresses or None,
                "Links": [":".join(link) for link in asked.get("links", ())] or None,
                "Aliases": list(asked.get("aliases", ())) or None,
                "NetworkID": place["id"] if place else _network_id(network),
                "EndpointID": _id_of(self.facts["id"], place["id"]) if place else "",
                **_place(place, asked.get("mac", "")),
                "DriverOpts": asked.get("driver_opts"),
                "DNSNames": list(dict.fromkeys(called)),
            }
        first = _place(next(iter(places.values()))) if len(places) == 1 else NO_ADDRESSES
        return {
            "Bridge": "",
            "SandboxID": _id_of(self.facts["id"], "sandbox") if init else "",
            "SandboxKey": f"/proc/{init}/ns/net" if init else "",
            "Ports": ports,
            "EndpointID": "",
            **first,
            "Networks": found,
        }


# Ids of the modes that Docker shows as networks; they stay the same.
BUILT_IN = {
    mode: blake2b(b"rless network " + mode.encode(), digest_size=32).hexdigest()
    for mode in ("host", "none", "pasta")
}


def _id_of(container_id: str, what: str) -> str:
    """Return the id of something that a container has: Docker's clients expect one."""
    return blake2b(f"{container_id}\0{what}".encode(), digest_size=32).hexdigest()


def _network_id(reference: str) -> str:
    """Return the id of a network; "": it is gone."""
    from rootless.engine.networks import store

    try:
        return store.find(reference).id
    except RlessError:
        return ""


def _place(place: MemberRecord | None, mac: str = "") -> dict[str, Any]:
    """Return the addresses of a place in a network; of one that is not taken `mac`."""
    if place is None:
        return {**NO_ADDRESSES, "MacAddress": mac}
    four, six = place["prefixes"].get("4", 0), place["prefixes"].get("16", 0)
    gateways = place["gateways"]
    return {
        "Gateway": next((one for one in gateways if ":" not in one), ""),
        "IPAddress": place["ip"],
        "IPPrefixLen": four if place["ip"] else 0,
        "IPv6Gateway": next((one for one in gateways if ":" in one), ""),
        "GlobalIPv6Address": place["ip6"],
        "GlobalIPv6PrefixLen": six if place["ip6"] else 0,
        "MacAddress": place["mac"],
    }


def inspect_network(reference: str) -> dict[str, Any]:
    """Return a network in Docker's shape.

    Raises:
        RlessError: there is none.
    """
    from rootless.engine.networks import store as networks

    reconcile()
    network = networks.find(reference)
    record = network.record
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": timestamps.show(record["created"]),
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": True,
        "EnableIPv6": any(whole.size == 16 for whole, _, _ in network.ranges),
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [
                {
                    "Subnet": one["subnet"],
                    **({"IPRange": one["range"]} if one["range"] else {}),
                    "Gateway": one["gateway"],
                    **({"AuxiliaryAddresses": aux} if (aux := one.get("reserved")) else {}),
                }
                for one in record["subnets"]
            ],
        },
        "Internal": network.internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            container_id: {
                "Name": name,
                "EndpointID": _id_of(container_id, network.id),
                "MacAddress": place["mac"],
                "IPv4Address": _with_prefix(place["ip"], place["prefixes"], "4"),
                "IPv6Address": _with_prefix(place["ip6"], place["prefixes"], "16"),
            }
            for container_id, (name, place) in networks.members(network).items()
        },
        "Options": record["options"],
        "Labels": record["labels"],
    }


def _with_prefix(address: str, prefixes: dict[str, int], size: str) -> str:
    return f"{address}/{prefixes[size]}" if address else ""


NO_ADDRESSES = {
    "Gateway": "",
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "MacAddress": "",
}


def addresses(pid: int) -> dict[str, Any]:
    """Return the addresses of a process's network namespace under Docker's names."""
    from rootless.network import interfaces

    own = interfaces.addresses(pid)
    found: dict[str, Any] = dict(NO_ADDRESSES)
    for address, prefix in own["addresses"]:
        key, size = (
            ("GlobalIPv6Address", "GlobalIPv6PrefixLen")
            if ":" in address
            else ("IPAddress", "IPPrefixLen")
        )
        found[key], found[size] = address, prefix
    for gateway in own["gateways"]:
        found["IPv6Gateway" if ":" in gateway else "Gateway"] = gateway
    return found


def split_port(text: str) -> tuple[str, str, str]:
    """Return (port with protocol, host address, host port) of a fact "0.0.0.0:8080->80/tcp"."""
    host, _, port = text.rpartition("->")
    address, _, number = host.rpartition(":")
    return port, address.strip("[]"), number


def _by_port(ports: list[str]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for text in ports:
        port, address, number = split_port(text)
        found.setdefault(port, []).append({"HostIp": address, "HostPort": number})
    return found


def _whole_port(port: str) -> str:
    return port if "/" in port else f"{port}/tcp"


def mount_point(mount: MountRecord) -> dict[str, Any]:
    """Return a mount of container.json in Docker's shape."""
    found: dict[str, Any] = {"Type": mount["type"]}
    if mount["type"] == "volume":
        found["Name"] = mount["name"] or ""
    found |= {
        "Source": mount["source"] or "",
        "Destination": mount["target"],
    }
    if mount["type"] == "volume":
        found["Driver"] = "local"
    return found | {
        "Mode": ",".join(mount["options"]),
        "RW": mount["rw"],
        "Propagation": mount["propagation"],
    }


def _signal_name(number: int | str) -> str:
    import signal

    try:
        return signal.Signals(int(number)).name
    except ValueError:
        return str(number)  # a real-time signal has no name
