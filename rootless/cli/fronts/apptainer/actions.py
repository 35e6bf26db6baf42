"""`exec`, `run`, `shell` and `test`: turn a command line into a `RunRequest` of the engine."""

from __future__ import annotations

import os

from rootless import config, log
from rootless.cli.fronts.apptainer import table
from rootless.cli.fronts.apptainer.environment import Environment, of_host
from rootless.cli.fronts.apptainer.images import Image
from rootless.cli.fronts.apptainer.mounts import Places
from rootless.cli.fronts.apptainer.parse import commas, parse
from rootless.cli.fronts.apptainer.programs import SHELL, TEST, entry_shell, scripts_of
from rootless.cli.verbs.container import run as rless_run
from rootless.engine.defaults import INIT_PATH
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.request import RunRequest

VERBS = table.ACTION_VERBS
# What --containall and --compat stand for.
_CONTAINALL = dict.fromkeys(("contain", "pid", "ipc", "cleanenv"), True)
_COMPAT = dict.fromkeys(("containall", "no_init", "no_umask", "no_eval", "writable_tmpfs"), True)
# The fields of `rless run` that have the same name here.
_SAME = (
    *("memory", "memory_swap", "memory_reservation", "cpus", "cpu_shares", "cpuset_cpus"),
    *("cpuset_mems", "pids_limit", "blkio_weight"),
)
# An instance stays when its script ends, and gives it SIGTERM.
_START = (
    'if [ -e "$0" ]; then trap \'kill -TERM $p; wait $p; exit\' TERM; "$0" "$@" & p=$!; wait $p; '
    f"trap - TERM; fi; exec {INIT_PATH} --hold"
)


def main(verb: str, argv: list[str], quiet: bool) -> int:
    """Run a program in a container; return its exit code."""
    values, args = parse(VERBS[verb], argv)
    image, command = args[0], args[1:]
    if verb == "shell" and command:
        log.warn("arguments of a shell are ignored: use `exec`")
        command = []
    asks = bool(values.get("disable_cache"))
    found = Image(image, keep_open=True, asks=asks, quiet=quiet)
    request = request_of(verb, values, found, command, quiet=quiet)
    if values.get("sharens"):
        from rootless.engine.attach.foreground import of_launcher
        from rootless.engine.ranks.join import join

        if (launcher := of_launcher()) is not None:
            launcher.step_aside()
        join(request.replace(join=""))
    from rootless.engine.start.run import run

    return run(request, argument=found.argument)


def expand(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a command line with what --compat and --containall stand for."""
    if values.get("compat"):
        values = {**_COMPAT, **values}
    if values.get("containall"):
        values = {**_CONTAINALL, **values}
    if values.get("no_pid"):
        values = {**values, "pid": False}
    return values


def request_of(
    verb: str,
    values: dict[str, Any],
    image: Image,
    command: list[str],
    *,
    quiet: bool = False,
    detach: bool = False,
) -> RunRequest:
    """Return the request of a command line.

    Raises:
        RlessError: flags contradict each other, or this host has not what they ask for.
    """
    values = expand(values)
    places = Places(values)
    writable, above = _overlays(values)
    told = {
        "CONTAINER": image.shown,
        "NAME": os.path.basename(image.shown),
        "COMMAND": verb,
        "BIND": places.binds,
        "ENVIRONMENT": "/.singularity.d/env/91-environment.sh",
    }
    environment = Environment(values, told, places.home)
    terminal = not detach and all(os.isatty(fd) for fd in (0, 1, 2))
    if verb == "shell":
        environment.over.setdefault("PS1", "Apptainer> ")
    if terminal and "TERM" in os.environ:
        environment.over.setdefault("TERM", os.environ["TERM"])
    fields = _fields(values)
    fields.update(
        _image(values, image, writable), mounts=list(places.mounts.values()), tty=terminal
    )
    if detach:
        fields.update(detach=True, rm=True)
    words = ["-"] if "rootfs" in fields else [image.name]
    request = rless_run.as_typed(rless_run.build(fields, words))
    program = _program(verb, values, image, command, environment)
    return request.replace(
        **program,
        mounts=[mount for mount in request.mounts if places.has(mount.target)],
        image=None if image.tree else image.name,
        workdirs=places.workdirs,
        user_home=places.home,
        env_under=[*of_host(values), *(_env_of(image) if image.tree else ())],
        overlay=writable,
        above=above,
        ambient="add_caps" in values,
        quiet=quiet,
    )


def _env_of(image: Image) -> list[str]:
    return list(image.found.config.get("Env") or ()) if image.found is not None else []


def _program(
    verb: str, values: dict[str, Any], image: Image, command: list[str], environment: Environment
) -> dict[str, Any]:
    """Return what is run, and the variables for it."""
    app = environment.app
    scripts = scripts_of(app)
    entrypoint: tuple[str, ...] | None = ()
    if verb == "shell":
        shell = values.get("shell")
        command = [shell] if shell else SHELL
    elif verb == "start":
        hold = [INIT_PATH, "--hold"]
        command = (
            ["/bin/sh", "-c", _START, scripts["startscript"], *command]
            if app or image.is_apptainer
            else hold
        )
    elif verb == "test":
        command = [*TEST, scripts["test"], *command]
    elif verb == "run":
        config = image.found.config if image.found is not None else {}
        if app or image.is_apptainer:
            command = [scripts["runscript"], *command]
        elif image.tree:
            command = [
                *(config.get("Entrypoint") or ()),
                *(command or config.get("Cmd") or ["/bin/sh"]),
            ]
        else:
            entrypoint = None  # the image's own, with its Cmd
    if not app and not image.is_apptainer:
        over = [f"{name}={value}" for name, value in environment.over.items()]
        return {
            "entrypoint": entrypoint,
            "command": command,
            "env": over,
            "path_before": environment.before,
            "path_after": environment.after,
        }
    return {
        "entrypoint": entry_shell(),
        "command": command,
        "env": [f"RLESS_FRONT={environment.for_shell()}", f"HOME={environment.over['HOME']}"],
    }


def _image(values: dict[str, Any], image: Image, overlay: str | None) -> dict[str, Any]:
    """Return what the root file system is, and whether it can be written to."""
    writable = bool(values.get("writable"))
    if writable and not image.tree:
        raise RlessError(
            f"{image.shown} is not a directory: its files cannot be changed",
            "use --writable-tmpfs, or --overlay DIR, or build it as a sandbox",
        )
    if writable and values.get("overlay"):
        raise RlessError("--writable and --overlay contradict each other")
    changes = writable or values.get("writable_tmpfs") or overlay is not None
    found: dict[str, Any] = {"read_only": not changes}
    if image.tree:
        found["rootfs"] = image.tree if writable else f"{image.tree}:O"
    return found


def _overlays(values: dict[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """Return where changes are kept, and what is only read."""
    if not values.get("overlay"):
        return None, ()
    from rootless.cli.fronts.apptainer.overlays import Overlays

    found = Overlays(values["overlay"])
    return found.writable, tuple(found.above)


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values as `rless run --hpc` has them."""
    fields: dict[str, Any] = {name: values[name] for name in _SAME if name in values}
    fields.update(
        hpc=True,
        share_home=False,
        share_cwd=False,
        share_tmp=False,
        env_host=False,
        limits=config.sections().get("front", {}).get("limits", "try"),
    )
    if values.get("fakeroot"):
        fields["user"] = "0:0"
    if values.get("no_umask"):
        fields["umask"] = 0o022
    if values.get("pid"):
        fields.update(pid="private", init=not values.get("no_init"))
    if values.get("ipc"):
        fields["ipc"] = "private"
    if values.get("uts") or "hostname" in values:
        fields.update(uts="private", hostname=values.get("hostname"))
    if values.get("oom_kill_disable"):
        raise RlessError("--oom-kill-disable is not supported: the kernel has no such switch")
    if values.get("disable_cache"):
        fields["pull"] = "always"
    fields.update(_network(values))
    fields.update(_rights(values))
    fields.update(_devices(values))
    return fields


def _network(values: dict[str, Any]) -> dict[str, Any]:
    own = values.get("net") or "network" in values
    if not own and values.get("network_args"):
        raise RlessError("--network-args needs --net")
    if not own and "dns" not in values:
        return {}
    from rootless.cli.flags import network as flags

    if not own:
        return {"dns": [flags.dns(one) for one in commas(values["dns"])]}
    kind = values.get("network", "bridge")
    if kind in ("none", "host"):
        return {"network": [kind]}
    if kind not in ("bridge", "ptp", "fakeroot"):
        raise RlessError(
            f"--network: {kind} is not supported: a network of CNI needs root",
            "use none, host or bridge",
        )
    fields: dict[str, Any] = {"network": [None], "publish": []}
    for text in commas(values.get("network_args", [])):
        key, _, value = text.partition("=")
        if key != "portmap":
            raise RlessError(f"--network-args: {key} is not supported", "use portmap=")
        try:
            fields["publish"].append(flags.publish(value))
        except ValueError as error:
            raise RlessError(f"--network-args: {value} {error}") from None
    if "dns" in values:
        fields["dns"] = [flags.dns(one) for one in commas(values["dns"])]
    return fields


def _rights(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in (("add_caps", "cap_add"), ("drop_caps", "cap_drop")):
        if name in values:
            caps = [one.upper() for one in commas(values[name])]
            found[field] = [
                one if one.startswith("CAP_") or one == "ALL" else f"CAP_{one}" for one in caps
            ]
    options = []
    for text in commas(values.get("security", [])):
        kind, _, value = text.partition(":")
        if kind != "seccomp" or not value:
            raise RlessError(
                f"--security: {kind} is not supported: it needs root", "use seccomp:FILE"
            )
        options.append(f"seccomp={os.path.abspath(value)}")
    if options:
        found["security_opt"] = options
    return found


def _devices(values: dict[str, Any]) -> dict[str, Any]:
    """Return the devices: of CDI files, else those of a module of the site."""
    found: dict[str, Any] = {}
    if "device" in values:
        found["devices"] = values["device"]
    for flag, vendor in (("nv", "nvidia"), ("rocm", "amd")):
        if not values.get(flag):
            continue
        from rootless.engine.spec import cdi

        modules = config.modules()
        if cdi.has(vendor):
            found.setdefault("gpus", []).append(f"gpus=all={vendor}")
        elif name := next((one for one in (flag, vendor, "gpu") if one in modules), None):
            found.setdefault("modules", []).append(name)
        else:
            log.warn(f"could not find any {flag} files on this host")
    return found
