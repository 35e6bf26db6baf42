"""The oci.conf with which Slurm runs containers by rless, for one version of Slurm.

Slurm runs each command as `/bin/sh -c "PATTERN"`, with the environment of slurmd. It runs `run` as
the user, and the other commands at times as root, for whom the user's containers do not exist. The
word before the runtime in a pattern decides which process gets the signals of `scancel`: without
`exec` that is a shell, which ends and leaves the container behind.

Source: oci.conf(5) and src/common/oci_config.c of Slurm 22.05 to 26.05. An unknown key is fatal for
every step, so each version gets only the keys that it has.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError
from rootless.linux import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    Version = tuple[int, int]

_OLDEST = (22, 5)  # the first one that passes the environment into config.json as we need it
_RENEWED = (23, 2)  # EnvExclude, IgnoreFileConfigJson, CreateEnvFile=newline, %p, --container for N
# These four name a container of one user. A user's name may have what an id cannot have.
_ID = "%n.%j.%s.%t"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-./")
# Root, as whom Slurm calls some of them, becomes the job's user.
_AS_USER = "[ $(id -u) != 0 ] || set -- runuser -u %u --;"
# Slurm's own parser leaves no quote and no backslash: this says {"status":"stopped"}.
_STOPPED = "echo eyJzdGF0dXMiOiJzdG9wcGVkIn0= | base64 -d"
# The job's processes find slurm.conf as those outside do, or not at all.
_EXCLUDE = "^(SLURM_CONF|SLURM_CONF_SERVER)="


def installed_version() -> Version:
    """Return (year, month) of the installed Slurm, as its programs tell it.

    Raises:
        RlessError: there is none, or it does not say.
    """
    import subprocess

    # The commands of users say nothing where there is no slurm.conf yet.
    for name in ("slurmd", "srun"):
        program = programs.find_in_path(name, "/usr/sbin:/sbin")
        if program is None:
            continue
        try:
            done = subprocess.run(
                [program, "--version"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=30,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        words = done.stdout.decode("utf-8", "replace").split()
        if done.returncode == 0 and len(words) == 2:  # "slurm 23.11.4", "slurm-wlm 22.05.8"
            return parse_version(words[1])
    raise RlessError(
        "neither slurmd nor srun shows its version here",
        "run this on a node of the cluster, or give the version: --slurm 23.11",
    )


def parse_version(text: str) -> Version:
    """Return (year, month) of a version such as 23.11 or 23.11.4.

    Raises:
        RlessError: it is none, or older than what rless works with.
    """
    parts = text.partition("-")[0].split(".")
    if len(parts) < 2 or not all(part.isascii() and part.isdigit() for part in parts[:2]):
        raise RlessError(f"{text!r} is not a version of Slurm", "such as 23.11")
    version = (int(parts[0]), int(parts[1]))
    if version < _OLDEST:
        raise RlessError(
            f"Slurm {text} is too old: its containers need 22.05 or later",
            "`srun rless run` works with any version",
        )
    return version


def oci_conf(version: Version, programs: str, *, images: bool) -> str:
    """Return the text of oci.conf.

    Args:
        version: of Slurm, (year, month).
        programs: the directory with rless and rless-oci.
        images: `--container` names an image of rless in place of a bundle.

    Raises:
        RlessError: that version cannot do it, or the directory's name does not fit a pattern.
    """
    if not programs.startswith("/") or not _PLAIN.issuperset(programs):
        raise RlessError(
            f"{programs}: Slurm's patterns allow no such directory name",
            "install rless where the path has letters, digits and -_+. only",
        )
    renewed = version >= _RENEWED
    if images and not renewed:
        raise RlessError(
            f"Slurm {version[0]}.{version[1]:02} can name no image by --container: 23.02 or later",
            "use `srun rless run`, or leave --images out and name bundles",
        )
    lines = [
        f"# oci.conf for Slurm {version[0]}.{version[1]:02}, beside slurm.conf on every node;",
        "# made by rless slurm-config.",
    ]
    if images:
        lines += _images(programs)
    else:
        lines += _bundles(programs)
    if renewed:
        lines += [f'EnvExclude="{_EXCLUDE}"', f'RunTimeEnvExclude="{_EXCLUDE}"']
    return "\n".join(lines) + "\n"


def _bundles(programs: str) -> list[str]:
    runtime = f"{programs}/rless-oci"
    return [
        f'RunTimeRun="exec {runtime} run --bundle %b {_ID}"',
        # Slurm asks for the state of what has ended, too, takes each word for JSON, and writes
        # into the job's output that the question has failed.
        f'RunTimeQuery="{_AS_USER} $@ {runtime} state {_ID} 2>/dev/null || {_STOPPED}"',
        f'RunTimeKill="{_AS_USER} exec $@ {runtime} kill -a {_ID}"',
        f'RunTimeDelete="{_AS_USER} exec $@ {runtime} delete --force {_ID}"',
    ]


def _images(programs: str) -> list[str]:
    return [
        "IgnoreFileConfigJson=true",
        "CreateEnvFile=newline",
        # The tasks of a step on a node share a container: MPI needs that.
        f'RunTimeRun="exec {programs}/rless run --hpc --join=%j.%s --env-file %e %r -- %@"',
        'RunTimeKill="kill -s SIGTERM %p"',
        'RunTimeDelete="kill -s SIGKILL %p"',
    ]


def is_for_all(programs: str) -> bool:
    """Tell whether every user can run what lies in a directory."""
    path = programs
    while True:
        try:
            if not os.stat(path).st_mode & 0o001:
                return False
        except OSError:
            return False
        if path == "/":
            return True
        path = os.path.dirname(path)
