"""What the program in a container of the front finds in its environment.

From below to above: the caller's variables, those of the image, those that tell where the program
is, APPTAINERENV_NAME and SINGULARITYENV_NAME, --env-file, --env. PATH and LD_LIBRARY_PATH are the
image's, and HOME is where the home is mounted.
"""

from __future__ import annotations

import os

from rootless import log
from rootless.cli.fronts.apptainer.parse import commas
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

FAILURE = 255  # of the tool
_APP = "APPTAINER_APPNAME"
_PREFIXES = ("SINGULARITYENV_", "APPTAINERENV_")  # the latter wins
_OURS = ("APPTAINER", "SINGULARITY", "RLESS_")  # of the front and of rless itself
# What --cleanenv lets through.
_CLEAN = frozenset(
    "TERM http_proxy https_proxy no_proxy all_proxy ftp_proxy"
    " HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY FTP_PROXY".split()
)
_READ_FILE = 'set -a; . "$1" >&2 || exit; exec /bin/cat /proc/self/environ'
_OF_SHELL = frozenset(("PWD", "OLDPWD", "SHLVL", "_"))
# What evaluates it, in a shell of the image, once the image's own files were read.
EVALUATE = 'eval "$RLESS_FRONT"; unset RLESS_FRONT; '


class Environment:
    """The variables of one container.

    Attributes:
        over: above those of the image.
        before, after: directories around those of PATH.
        app: the application that is entered; "": none.
    """

    def __init__(self, values: dict[str, Any], told: dict[str, str], home: str) -> None:
        """Gather them.

        Args:
            values: of the command line.
            told: what the program is told of its container.
            home: where the home is inside.

        Raises:
            RlessError: --env is no pair, or --env-file cannot be read.
        """
        self.over = {
            f"{prefix}_{name}": value
            for prefix in ("APPTAINER", "SINGULARITY")
            for name, value in told.items()
        }
        self.before: list[str] = []
        self.after: list[str] = []
        self.app: str = values.get("app", "")
        names = [name for name in os.environ if name.startswith(_PREFIXES)]
        for prefix in _PREFIXES if names else ():
            for name in names:
                if name.startswith(prefix):
                    self._take(name[len(prefix) :], os.environ[name])
        for path in values.get("env_file", ()):
            for name, value in _of_file(path).items():
                self._take(name, value)
        for entry in _pairs(values.get("env", [])):
            name, equals, value = entry.partition("=")
            if not equals or not name:
                raise RlessError(f"--env: {entry!r} is not NAME=VALUE")
            self._take(name, value)
        self.over["HOME"] = home

    def _take(self, name: str, value: str) -> None:
        if name == "HOME":
            log.warn("the variable HOME cannot be set: use --home")
        elif name in ("PREPEND_PATH", "APPEND_PATH"):
            parts = [part for part in value.split(":") if part]
            if name == "PREPEND_PATH":
                self.before = parts
            else:
                self.after = parts
        elif name and name.replace("_", "a").isalnum() and name.isascii():
            self.over[name] = value

    def for_shell(self) -> str:
        """Return the commands by which a shell of the image sets what wins over the image."""
        found = [f"export {name}={_quoted(value)}" for name, value in self.over.items()]
        if self.app:
            from rootless.definition import apps

            found.insert(0, f"{_APP}={_quoted(self.app)}\n{apps.choose('FATAL:   ', FAILURE)}")
        before, after = ":".join(self.before), ":".join(self.after)
        if before:
            found.append(f'export PATH={_quoted(before)}"${{PATH:+:$PATH}}"')
        if after:
            found.append(f'export PATH="${{PATH:+$PATH:}}"{_quoted(after)}')
        return "\n".join(found)


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def _pairs(texts: list[str]) -> list[str]:
    """Return the variables of `A=1,B=2`; a part without a name continues the value before it."""
    found: list[str] = []
    for text in texts:
        first = True
        for part in commas([text]):
            name = part.partition("=")[0]
            if first or ("=" in part and name.replace("_", "a").isalnum()):
                found.append(part)
            else:
                found[-1] += f",{part}"
            first = False
    return found


def of_host(values: dict[str, Any]) -> list[str]:
    """Return the caller's variables that are passed on, below those of the image."""
    from rootless.engine.spec.hpc import host_environment

    dropped = set(commas(values.get("no_env", [])))
    found = []
    for entry in host_environment():
        name = entry.partition("=")[0]
        if name.startswith(_OURS) or name in dropped or name == "HOME":
            continue
        if not values.get("cleanenv") or name in _CLEAN:
            found.append(entry)
    return [*found, "LANG=C"] if values.get("cleanenv") else found


def _of_file(path: str) -> dict[str, str]:
    """Return the variables that a shell of the host has set when it has read a file.

    Raises:
        RlessError: it cannot be read, or fails.
    """
    import subprocess

    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise RlessError(f"--env-file: {path}: there is no such file")
    done = subprocess.run(
        ["/bin/sh", "-c", _READ_FILE, "sh", path], env={}, capture_output=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise RlessError(f"--env-file: {path}: {said[-1] if said else 'it failed'}")
    pairs: Iterable[str] = done.stdout.decode("utf-8", "surrogateescape").split("\0")
    found = dict(pair.partition("=")[::2] for pair in pairs if "=" in pair)
    return {name: value for name, value in found.items() if name not in _OF_SHELL}
