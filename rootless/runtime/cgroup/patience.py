"""How long the user's systemd is waited for.

One that is there and says nothing, as behind a bus that hangs, would hold up every start. So it is
waited for in full once, with a warning. Then a file in the runtime directory says that it is mute,
and each start waits for a second, until it has answered again.
"""

from __future__ import annotations

import os

from rootless import log, paths
from rootless.errors import RlessError
from rootless.linux import dbus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.linux.dbus import Connection

SHORT = 1.0  # seconds


def _record() -> str:
    return f"{paths.runtime_root()}/systemd-is-mute"


def reach(sockets: Sequence[tuple[str, bool]]) -> Connection:
    """Connect as `dbus.reach` does, with the patience that there still is.

    Raises:
        DBusError: nobody is there.
    """
    return dbus.reach(sockets, SHORT if os.path.exists(_record()) else None)


def remember(error: RlessError) -> None:
    """Note that there was no answer, if the error says so; warn of the first time."""
    if not isinstance(error, dbus.NoAnswerError):
        return
    try:
        os.close(os.open(_record(), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except (OSError, RlessError):
        pass  # it is waited for in full again
    log.warn(
        f"your systemd does not answer (waited for {dbus.TIMEOUT:g} s): containers get their "
        f"control groups without it; until it answers, a start waits for {SHORT:g} s"
    )


def answered(connection: Connection) -> None:
    """Note that there is an answer again."""
    if connection.patience == SHORT:
        try:
            os.unlink(_record())
        except FileNotFoundError:
            pass
