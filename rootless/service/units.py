"""The service as units of the user's systemd: it listens, and starts the service on demand."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

from rootless import config, paths
from rootless.engine.manage.systemd_units import quote
from rootless.errors import RlessError
from rootless.linux import files

SOCKET, SERVICE = "rless.socket", "rless.service"
_PATIENCE = 60  # seconds


def socket_unit() -> str:
    """Return the text of the socket's unit."""
    return f"""# {SOCKET}
# made by rless service install

[Unit]
Description=Docker's API for the containers of rless
StartLimitIntervalSec=0

[Socket]
ListenStream=%t/rless/docker.sock
SocketMode=0600
DirectoryMode=0700

[Install]
WantedBy=sockets.target
"""


def service_unit(program: str) -> str:
    """Return the text of the service's unit.

    Without Delegate=: in a delegated unit no scope would be asked for, and containers would be in
    the group of the service. With KillMode=process: where no scope can be had, they are so all the
    same, and outlive the service. Without a limit of starts: a service that is killed five times
    would take the socket with it. What fails at once is stopped by the socket's TriggerLimitBurst=.
    """
    storage = paths.storage_root()
    return f"""# {SERVICE}
# made by rless service install

[Unit]
Description=Docker's API for the containers of rless
Requires={SOCKET}
After={SOCKET}
StartLimitIntervalSec=0
RequiresMountsFor={quote(storage, command=False)}

[Service]
Type=notify
Environment={quote(f"RLESS_STORAGE={storage}", command=False)}
ExecStart={quote(program)} service
KillMode=process
"""


def directory() -> str:
    """Return where the user's units are.

    Raises:
        RlessError: there is no home directory.
    """
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if base.startswith("/"):
        return f"{base}/systemd/user"
    home = config.home()
    if home is None:
        raise RlessError("there is no home directory for the units", "set HOME")
    return f"{home}/.config/systemd/user"


def is_installed() -> bool:
    """Tell whether the units are there."""
    return os.path.exists(f"{directory()}/{SOCKET}")


def start() -> bool:
    """Have systemd listen, if the units are installed; tell whether it does."""
    return is_installed() and _systemctl("start", SOCKET) is None


def install(program: str) -> None:
    """Write the units, and have systemd listen now and from its next start on.

    Raises:
        RlessError: there is no systemd of the user, or the units cannot be written.
    """
    place = directory()
    texts = {SOCKET: socket_unit(), SERVICE: service_unit(program)}
    if (reason := _systemctl("show-environment")) is not None:
        raise RlessError(
            f"the user's systemd cannot be reached: {reason}",
            "use `rless service start`, which needs none",
        )
    try:
        os.makedirs(place, exist_ok=True)
        for name, text in texts.items():
            files.write(f"{place}/{name}", text.encode(), mode=0o644)
    except OSError as error:
        raise RlessError(f"cannot write units to {place}: {error.strerror}") from error
    for words in (("daemon-reload",), ("enable", SOCKET), ("restart", SOCKET)):
        if (reason := _systemctl(*words)) is not None:
            raise RlessError(f"systemctl --user {' '.join(words)}: {reason}")


def uninstall() -> bool:
    """Stop and remove the units; False: there were none.

    Raises:
        RlessError: they cannot be removed.
    """
    found = is_installed()
    if found:
        _systemctl("disable", "--now", SOCKET)
        _systemctl("stop", SERVICE)
    for name in (SOCKET, SERVICE):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{directory()}/{name}")
    if found:
        _systemctl("daemon-reload")
    return found


def _systemctl(*words: str) -> str | None:
    """Ask the user's systemd; return None, or why it was not done."""
    program = shutil.which("systemctl")
    if program is None:
        return "there is no systemctl"
    try:
        done = subprocess.run(
            [program, "--user", "--quiet", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = done.stderr.split("\n")
    return lines[0].strip() or f"exit code {done.returncode}"


# -- the name that some clients look for ----------------------------------------------------------


def other_name() -> str:
    """Return the path of rootless Docker's socket, where act and testcontainers-go look.

    Raises:
        RlessError: there is no runtime directory.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if not base.startswith("/"):
        raise RlessError("--docker-socket needs a runtime directory", "set XDG_RUNTIME_DIR")
    return f"{base}/docker.sock"


def link(path: str) -> None:
    """Give a socket Docker's name too, if nothing has it.

    Raises:
        RlessError: something has it.
    """
    name = other_name()
    with contextlib.suppress(OSError):
        if os.readlink(name) == path:
            return
    try:
        os.symlink(path, name)
    except OSError as error:
        raise RlessError(
            f"cannot make {name}: {error.strerror}", "leave --docker-socket out"
        ) from error


def unlink(path: str) -> None:
    """Take Docker's name back, if it is ours."""
    with contextlib.suppress(OSError, RlessError):
        if os.readlink(other_name()) == path:
            os.unlink(other_name())
