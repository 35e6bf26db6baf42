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

    code: int = run(request)
    return code


def as_typed(request: RunRequest) -> RunRequest:
    """Note how and where it was typed, for `generate systemd --new`."""
    request.argv, request.cwd = sys.argv[1:], os.getcwd()
    return request


def build(values: dict[str, Any], args: list[str], verb: Verb = VERB) -> RunRequest:
    """Return the request of a parsed command line.

    Raises:
        RlessError: flags contradict each other, or a file named by one cannot be read.
    """
    request = RunRequest()
    if config.sections() or "hpc" in values:
        from rootless.cli.flags import defaults

        values = defaults.add(VERB, profile(values, verb))
    if values.get("modules") or "gpus" in values:
        from rootless.cli.flags import modules

        values = modules.add(VERB, values)
    for dest, value in values.items():
        if dest not in _SPECIAL:
            setattr(request, dest, value)
    if request.rootfs is None:
        if not args or not args[0]:
            raise RlessError(f"'rless {verb.name}' needs an image", verb.see_help())
        request.image, request.command = args[0], args[1:]
        if request.command[:1] == ["--"] and (request.hpc or request.image.endswith(FILE_SUFFIXES)):
            del request.command[0]  # as the launchers of batch systems write it
    else:
        request.command = args
    request.env = values.get("module_env", [])
    if "env" in values or "env_file" in values:
        from rootless.cli.flags.kvfile import environment

        environment(request, values)
    if "keep-groups" in request.group_add:  # as Podman
        request.group_add.remove("keep-groups")
        request.keep_groups = True
    labels: dict[str, str] = {}
    for path in values.get("label_file", ()):
        from rootless.cli.flags.kvfile import read

        labels.update(line.partition("=")[::2] for line in read("--label-file", path, None))
    request.labels = {**labels, **values.get("labels", {})}
    request.ulimits = list({limit[0]: limit for limit in values.get("ulimits", ())}.values())
    _networks(request, values)
    request.publish = [port for ports in values.get("publish", ()) for port in ports]
    for device in values.get("devices", ()):  # a text is the name of one that CDI describes
        (request.cdi if isinstance(device, str) else request.devices).append(device)
    request.attach = _streams(request, values.get("attach", []))
    _log_options(request, values.get("log_options", {}))
    if any(values.get(name) for name in _SHARED):
        from rootless.engine.spec.hpc import expand

        expand(request)
    _check_conflicts(request)
    return request


def profile(values: dict[str, Any], verb: Verb) -> dict[str, Any]:
    """Return the values with those of --hpc, where that or the configuration asks for it."""
    if not values.get("hpc") and not config.get("hpc", "default"):
        return values
    from rootless.engine.spec.hpc import complete

    return complete(values, verb.name)


def _networks(request: RunRequest, values: dict[str, Any]) -> None:
    """Take the network mode, or the networks with what is wished of them."""
    given = values.get("network", [])
    networks = [dict(one) for one in given if isinstance(one, dict)]
    aliases = values.get("aliases", [])
    if not networks:
        if len(given) > 1:
            raise RlessError("--network is given twice: only networks of several containers can be")
        request.network = given[0] if given else None
        for flag, wanted in (("--link", request.links), ("--network-alias", aliases)):
            if wanted:
                raise RlessError(f"{flag} needs --network NETWORK", "`--network bridge` is there")
        return
    names = [one["name"] for one in networks]
    if len(names) < len(given) or len(set(names)) < len(names):
        raise RlessError("--network: one is given twice, or together with another mode")
    wishes = {"ip": request.ip, "ip6": request.ip6, "mac": request.mac_address}
    if any(wishes.values()):
        if len(names) > 1:
            raise RlessError(
                "--ip, --ip6 and --mac-address are for one network",
                "give them with each: --network NAME:ip=...,mac=...",
            )
        networks[0].update({key: value for key, value in wishes.items() if value})
        request.ip = request.ip6 = request.mac_address = None
    for one in networks:
        one["aliases"] = [*one.get("aliases", ()), *aliases]
    request.networks, request.network = networks, names[0]


def _streams(request: RunRequest, streams: list[str]) -> list[str]:
    """Return the streams to attach, in order; [] for all."""
    if streams and request.detach:
        raise RlessError("--attach and --detach contradict each other")
    if "stdin" in streams and not request.interactive:
        raise RlessError("--attach stdin needs --interactive")
    return [name for name in ("stdin", "stdout", "stderr") if name in streams]


def _log_options(request: RunRequest, given: dict[str, str]) -> None:
    """Check --log-opt by the driver that it is for."""
    if given:
        from rootless.cli.flags import logging

        request.log_options = logging.options(request.log_driver or "local", given)


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
