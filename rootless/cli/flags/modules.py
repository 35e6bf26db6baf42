"""--module and --gpus, read as the flags that they stand for.

    [modules.mpich]
    mounts = ["/opt/cray/pe/mpich:/opt/site/mpich:ro"]
    env = ["LD_LIBRARY_PATH=/opt/site/mpich/lib", "MPICH_*"]
    unset-env = ["I_MPI_*"]
    devices = ["/dev/xpmem", "nvidia.com/gpu=all"]

The administrator writes them (docs/hpc.md), in the words of -v, -e, --unset-env and --device.
"""

from __future__ import annotations

import os

from rootless import config
from rootless.cli.parse import Verb, convert
from rootless.engine.request import Device
from rootless.engine.spec import hpc
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def add(verb: Verb, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a command line, with what its modules and --gpus have under them.

    What a flag says comes before a module, and a later module before an earlier one.

    Raises:
        RlessError: there is no such module, or it has a value that the flag would refuse.
    """
    found = dict(values)
    found["devices"] = [*values.get("devices", ()), *values.get("gpus", ())]
    mounts: dict[str, Any] = {}
    env: list[str] = []
    unset = list(values.get("env_unset", ()))
    for name, module in _named(values.get("modules", ())):
        for mount in _converted(verb, name, "--volume", "mounts", module):
            # What the administrator names is there, or is missed.
            mounts[mount.target] = mount.replace(create_source=False)
        for entry in module.get("env", ()):
            env += [entry] if "=" in entry else hpc.matching([entry])
        unset += module.get("unset-env", ())
        found["devices"] += [
            device
            for device in _converted(verb, name, "--device", "devices", module)
            # A node without that hardware.
            if not isinstance(device, Device) or os.path.exists(device.host)
        ]
    given = values.get("mounts", [])
    for mount in given:
        mounts.pop(mount.target, None)
    found.update(mounts=[*mounts.values(), *given], module_env=env, env_unset=unset)
    return found


def _named(lists: list[str]) -> list[tuple[str, dict[str, Any]]]:
    known = config.modules()
    found = {}
    for text in lists:
        for name in text.split(","):
            if name not in known:
                there = ", ".join(sorted(known)) or "no modules"
                raise RlessError(
                    f"--module: there is no module {escape(name)[:100]!r}",
                    f"the configuration has {there}; see `rless config show`",
                )
            found[name] = known[name]
    return list(found.items())


def _converted(verb: Verb, name: str, flag: str, key: str, module: dict[str, Any]) -> list[Any]:
    row = verb.index()[flag]
    assert len(row) == 6
    try:
        return [convert(row, flag, text) for text in module.get(key, ())]
    except RlessError as error:
        where = config.origin(f"modules.{name}", key)
        raise error.within(f"the configuration {where}: {key} in [modules.{name}]") from error
