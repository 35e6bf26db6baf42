"""`rless run`: turn the command line into a `RunRequest` and hand it to the engine."""

from __future__ import annotations

import os
import sys

from rootless import config
from rootless.cli.options import RUN as VERB
from rootless.engine.request import FILE_SUFFIXES, RunRequest
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.cli.parse import Verb

# Values that need more than being copied to the field of the same name.
_SPECIAL = (
    *(
        "accepted",
        "aliases",
        "attach",
        "devices",
        "env",
        "env_file",
        "gpus",
        "label_file",
        "labels",
    ),
    *("log_options", "module_env", "network", "publish", "ulimits"),
)
# What `engine.spec.hpc` writes down.
_SHARED = ("hpc", "share_home", "share_cwd", "share_tmp", "env_host", "fabric")


def main(values: dict[str, Any], args: list[str]) -> int:
    """Run a container; return its exit status."""
    request = as_typed(build(values, args))
    if request.debug:
        from rootless import log

        log.enabled = True
    if request.tty and request.interactive and not request.detach and not os.isatty(0):
        raise RlessError("standard input is not a terminal", "leave -t out")
    if request.join is not None:
        from rootless.engine.attach.foreground import of_launcher
        from rootless.engine.ranks.join import join

        if (launcher := of_launcher()) is not None:
            launcher.step_aside()
        join(request)
    from rootless.engine.start.run import run

    code: int = run(request, room_for(request))
    return code


def room_for(request: RunRequest) -> Callable[[], None] | None:
    """Return what --replace does before the container is made; None without it."""
    if not request.replaces:
        return None
    from rootless.engine.manage.replace import remove_namesake

    name = request.name or ""
    return lambda: remove_namesake(name)


def as_typed(request: RunRequest) -> RunRequest:
    """Note how and where it was typed, for `generate systemd --new`."""
    return request.replace(argv=sys.argv[1:], cwd=os.getcwd())


def build(values: dict[str, Any], args: list[str], verb: Verb = VERB) -> RunRequest:
    """Return the request of a parsed command line.

    Raises:
        RlessError: flags contradict each other, or a file named by one cannot be read.
    """
    if config.sections() or "hpc" in values:
        from rootless.cli.flags import defaults

        values = defaults.add(VERB, profile(values, verb))
    if values.get("modules") or "gpus" in values:
        from rootless.cli.flags import modules

        values = modules.add(VERB, values)
    fields = {dest: value for dest, value in values.items() if dest not in _SPECIAL}
    fields.update(_program(values, args, verb))
    fields["env"] = list(values.get("module_env", ()))
    if "env" in values or "env_file" in values:
        from rootless.cli.flags.kvfile import environment

        env, fields["env_remove"] = environment(values)
        fields["env"] += env
    if "keep-groups" in fields.get("group_add", ()):  # as Podman
        fields["group_add"] = [name for name in fields["group_add"] if name != "keep-groups"]
        fields["keep_groups"] = True
    labels: dict[str, str] = {}
    for path in values.get("label_file", ()):
        from rootless.cli.flags.kvfile import read

        labels.update(line.partition("=")[::2] for line in read("--label-file", path, None))
    fields["labels"] = {**labels, **values.get("labels", {})}
    fields["ulimits"] = list({limit[0]: limit for limit in values.get("ulimits", ())}.values())
    fields.update(_networks(values))
    fields["publish"] = [port for ports in values.get("publish", ()) for port in ports]
    devices = values.get("devices", ())  # a text is the name of one that CDI describes
    fields["devices"] = [device for device in devices if not isinstance(device, str)]
    fields["cdi"] = [device for device in devices if isinstance(device, str)]
    fields["attach"] = _streams(values)
    fields["log_options"] = _log_options(values)
    request = RunRequest(**fields)
    if any(values.get(name) for name in _SHARED):
        from rootless.engine.spec.hpc import expand

        request = expand(request)
    _check_conflicts(request)
    return request


def _program(values: dict[str, Any], args: list[str], verb: Verb) -> dict[str, Any]:
    """Return what is to be run: all words, or those after the image's."""
    if values.get("rootfs") is not None:
        return {"command": args}
    if not args or not args[0]:
        raise RlessError(f"'rless {verb.name}' needs an image", verb.see_help())
    image, command = args[0], args[1:]
    if command[:1] == ["--"] and (values.get("hpc") or image.endswith(FILE_SUFFIXES)):
        del command[0]  # as the launchers of batch systems write it
    return {"image": image, "command": command}


def profile(values: dict[str, Any], verb: Verb) -> dict[str, Any]:
    """Return the values with those of --hpc, where that or the configuration asks for it."""
    if not values.get("hpc") and not config.get("hpc", "default"):
        return values
    from rootless.engine.spec.hpc import complete

    return complete(values, verb.name)


def _networks(values: dict[str, Any]) -> dict[str, Any]:
    """Return the network mode, or the networks with what is asked of each."""
    given = values.get("network", [])
    networks = [dict(one) for one in given if isinstance(one, dict)]
    aliases = values.get("aliases", [])
    if not networks:
        if len(given) > 1:
            raise RlessError("--network is given twice: only networks of several containers can be")
        for flag, wanted in (("--link", values.get("links")), ("--network-alias", aliases)):
            if wanted:
                raise RlessError(f"{flag} needs --network NETWORK", "`--network bridge` is there")
        return {"network": given[0] if given else None}
    names = [one["name"] for one in networks]
    if len(names) < len(given) or len(set(names)) < len(names):
        raise RlessError("--network: one is given twice, or together with another mode")
    asked = {"ip": "ip", "ip6": "ip6", "mac": "mac_address"}
    found = {key: values[field] for key, field in asked.items() if values.get(field)}
    if found and len(names) > 1:
        raise RlessError(
            "--ip, --ip6 and --mac-address are for one network",
            "give them with each: --network NAME:ip=...,mac=...",
        )
    networks[0].update(found)
    for one in networks:
        one["aliases"] = [*one.get("aliases", ()), *aliases]
    return {"networks": networks, "network": names[0], **dict.fromkeys(asked.values())}


def _streams(values: dict[str, Any]) -> list[str]:
    """Return the streams to attach, in order; [] for all."""
    streams = values.get("attach", [])
    if streams and values.get("detach"):
        raise RlessError("--attach and --detach contradict each other")
    if "stdin" in streams and not values.get("interactive"):
        raise RlessError("--attach stdin needs --interactive")
    return [name for name in ("stdin", "stdout", "stderr") if name in streams]


def _log_options(values: dict[str, Any]) -> dict[str, Any]:
    """Check --log-opt by the driver that it is for."""
    given = values.get("log_options")
    if not given:
        return {}
    from rootless.cli.flags import logging

    return logging.options(values.get("log_driver") or "local", given)


def _check_conflicts(request: RunRequest) -> None:
    """Refuse what Docker refuses too: options of a namespace that the container does not own."""
    network = request.network or ""
    borrowed = network.startswith("container:")
    if request.uts != "private" and (request.hostname or request.domainname):
        raise RlessError(f"--hostname and --uts {request.uts} contradict each other")
    if borrowed:
        for flag, given in (
            ("--hostname", request.hostname),
            ("--publish", request.publish or request.publish_all),
            ("--expose", request.expose),
            ("--add-host", request.add_host),
            ("--dns", request.dns or request.dns_search or request.dns_option),
        ):
            if given:
                raise RlessError(f"{flag} and --network {network} contradict each other")
    if network.startswith(("none", "host", "ns:", "container:")):
        for flag, address in (
            ("--ip", request.ip),
            ("--ip6", request.ip6),
            ("--mac-address", request.mac_address),
        ):
            if address:
                raise RlessError(f"{flag} and --network {network} contradict each other")
    if (request.publish or request.publish_all) and network.startswith(("none", "host", "ns:")):
        from rootless import log

        log.warn(f"published ports have no meaning with --network {network}")
    if request.restart and request.restart["name"] != "no" and request.rm:
        raise RlessError("--restart and --rm contradict each other")
    if request.replaces and not request.name:
        raise RlessError("--replace needs --name NAME")
    if request.keep_groups and request.group_add:
        raise RlessError("--keep-groups and --group-add contradict each other")
    if request.no_hosts and request.add_host:
        raise RlessError("--no-hosts and --add-host contradict each other")
    if request.ipc == "none" and request.shm_size is not None:
        raise RlessError("--shm-size and --ipc none contradict each other")
    if request.join is not None:
        from rootless.cli.flags import join

        join.check(request)
    targets: set[str] = set()
    for mount in request.mounts:
        if mount.target in targets:
            raise RlessError(f"two mounts have the target {mount.target}")
        targets.add(mount.target)
