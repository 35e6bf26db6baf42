"""What a container shares of the host for batch jobs: --hpc and its single switches.

When the container is made, each switch is translated into mounts, variables and devices; later
steps see only those. What the user sets by a flag of its own (a mount of the same target, -e, -w,
-u) takes precedence.
"""

from __future__ import annotations

import os

from rootless import config
from rootless.engine.request import Device, Mount
from rootless.errors import RlessError
from rootless.linux.files import umask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from rootless.engine.request import RunRequest

# The fields of a request that --hpc sets where no flag does.
PROFILE: dict[str, Any] = {
    "share_home": True,
    "share_cwd": True,
    "share_tmp": True,
    "env_host": True,
    "fabric": True,
    "add_user": True,
    "localtime": True,
    "keep_groups": True,
    "network": ["host"],
    "ipc": "host",
    "pid": "host",
    "uts": "host",
    "cgroupns": "host",
}
# ... and those of a `run` that stays in the foreground.
FOREGROUND: dict[str, Any] = {"rm": True, "interactive": True, "log_driver": "none"}
# What the launchers of parallel programs tell them, also where the environment is not passed on.
ALWAYS_PASSED = (
    "SLURM_* PMI_* PMIX_* PALS_* OMPI_* PRTE_* FLUX_* PBS_* LSB_* CUDA_VISIBLE_DEVICES ROCR_*"
    " HIP_VISIBLE_DEVICES GPU_DEVICE_ORDINAL ZE_AFFINITY_MASK OMP_*"
).split()
# Of the host's programs, its directories, or this very process: no use in another root.
_NEVER = frozenset(
    "PATH LD_LIBRARY_PATH LD_PRELOAD LD_AUDIT LD_DEBUG PWD OLDPWD SHLVL _ HOSTNAME".split()
)
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  # of the host, on request
# In /dev: InfiniBand, Slingshot, Omni-Path; memory of other processes.
_FABRIC = ("infiniband", "cxi", "hfi1", "ipath", "xpmem", "knem", "gdrdrv")
_LAUNCHER_DIRECTORIES = ("PMIX_SERVER_TMPDIR", "TMPDIR")
# Never bound as the working directory: the container's own would be hidden.
SYSTEM = frozenset(
    "/ /bin /boot /dev /etc /lib /lib64 /opt /proc /root /run /sbin /srv /sys /usr /var".split()
)


def complete(values: dict[str, Any], verb: str) -> dict[str, Any]:
    """Return the values of a command line with those of --hpc under them.

    Raises:
        RlessError: the configuration has a value of the wrong kind.
    """
    site = config.sections().get("hpc", {})
    if not values.get("hpc", site.get("default", False)):
        return values
    under = {**PROFILE, "hpc": True}
    if verb == "run" and not values.get("detach"):
        under.update(FOREGROUND)
    for key, field in (
        ("home", "share_home"),
        ("cwd", "share_cwd"),
        ("tmp", "share_tmp"),
        ("env-host", "env_host"),
        ("fabric", "fabric"),
    ):
        if key in site:
            under[field] = site[key]
    if "userns" not in values:
        under["userns"] = "single"
        if "user" not in values and not values.get("fakeroot"):
            under["user"] = f"{os.getuid()}:{os.getgid()}"
    under["umask"] = umask()
    found = {**under, **values}
    found["modules"] = [*site.get("modules", ()), *values.get("modules", ())]
    found["env_unset"] = [*site.get("unset-env", ()), *values.get("env_unset", ())]
    return found


def expand(request: RunRequest) -> RunRequest:
    """Return a request with what its switches stand for written down.

    Raises:
        RlessError: there is no home or working directory.
    """
    mounts, env, env_under = list(request.mounts), request.env, list(request.env_under)
    workdir, devices = request.workdir, list(request.devices)
    if request.share_home:
        home = config.home()
        if not home or not os.path.isdir(home):
            raise RlessError(
                f"--home: {home or 'you have no home directory'}{' is not there' if home else ''}",
                "--home=false goes on without it",
            )
        _bind(mounts, home)
        if not any(entry.startswith("HOME=") for entry in env):
            env = (f"HOME={home}", *env)
    if request.share_tmp:
        for path in _TEMPORARY:
            if os.path.isdir(path):
                _bind(mounts, path)
    if request.hpc:
        _share_launcher(mounts)
    if request.share_cwd:
        shared = _share_working_directory(mounts)
        workdir = workdir or shared
    if request.env_host:
        env_under += host_environment()
    elif request.hpc:
        env_under += matching(ALWAYS_PASSED)
    if request.fabric:
        for name in sorted(os.listdir("/dev")):
            if name.startswith(_FABRIC):
                devices.append(Device(f"/dev/{name}", f"/dev/{name}"))
    return request.replace(
        mounts=mounts, env=env, env_under=env_under, workdir=workdir, devices=devices
    )


def _bind(mounts: list[Mount], path: str) -> None:
    if all(mount.target != path for mount in mounts):
        mounts.append(Mount("bind", path, path))


def _share_launcher(mounts: list[Mount]) -> None:
    """Bind the directories by which a PMIx server speaks to ranks, where it has any."""
    shared = [mount.target for mount in mounts]
    for name in _LAUNCHER_DIRECTORIES:
        path = os.path.normpath(os.environ.get(name) or "/")
        inside = any(f"{path}/".startswith(f"{target}/") for target in shared)
        if path.startswith("/") and path not in SYSTEM and not inside and os.path.isdir(path):
            _bind(mounts, path)


def _share_working_directory(mounts: list[Mount]) -> str | None:
    """Bind the working directory; return it, or None where the container has one of its own."""
    try:
        path = os.getcwd()
    except FileNotFoundError:
        raise RlessError(
            "--cwd: the working directory is gone", "go to another one, or use --cwd=false"
        ) from None
    shared = [mount.target for mount in mounts if mount.source == mount.target]
    if not any(f"{path}/".startswith(f"{target}/") for target in shared):
        if path in SYSTEM or path.startswith(("/proc/", "/sys/", "/dev/", "/usr/", "/etc/")):
            return None
        _bind(mounts, path)
    return path


def launcher_fds(environment: Iterable[str]) -> tuple[int, ...]:
    """Return the open descriptors that a launcher has left for a program of this environment.

    That of PMI-1 and PMI-2, to which the variable PMI_FD leads.
    """
    for entry in environment:
        name, _, number = entry.partition("=")
        if name == "PMI_FD" and number.isascii() and number.isdigit() and int(number) > 2:
            try:
                os.fstat(int(number))
            except OSError:
                continue
            return (int(number),)
    return ()


def host_environment() -> list[str]:
    """Return the caller's environment, without what means something on the host only."""
    return [
        f"{name}={value}"
        for name, value in os.environ.items()
        # A name that is none is of a shell: its exported functions.
        if name not in _NEVER and name.replace("_", "a").isalnum() and name.isascii()
    ]


def matching(patterns: Iterable[str]) -> list[str]:
    """Return the caller's variables whose names match one of the patterns, as NAME=VALUE."""
    matches = matcher(patterns)
    return [f"{name}={os.environ[name]}" for name in os.environ if matches(name)]


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return what tells whether a name matches a pattern: a shell's, with `*`, `?` and `[…]`."""
    names, starts, others = set(), [], []
    for pattern in patterns:
        start = pattern.removesuffix("*")
        if "*" in start or "?" in start or "[" in start:
            others.append(pattern)
        elif start != pattern:
            starts.append(start)
        else:
            names.add(pattern)
    begin = tuple(starts)  # asked for each variable of the caller, who may have hundreds

    def matches(name: str) -> bool:
        if name in names or name.startswith(begin):
            return True
        if not others:
            return False
        from fnmatch import fnmatchcase  # loads `re`: only for patterns of another form

        return any(fnmatchcase(name, pattern) for pattern in others)

    return matches
