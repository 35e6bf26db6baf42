"""The flags that --join excludes: the program takes the place of this process."""

from __future__ import annotations

from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.engine.request import RunRequest


def check(request: RunRequest) -> None:
    """Refuse flags about what stays beside a program, or about a container of its own.

    Raises:
        RlessError: there is one.
    """
    for flag, given in (
        ("--attach", request.attach),
        ("--cidfile", request.cidfile),
        ("--detach", request.detach),
        ("--explain", request.explain),
        ("--health-cmd", request.asks_health()),
        ("--init", request.init),
        ("--log-driver", request.log_driver not in (None, "none") or request.log_options),
        ("--name", request.name),
        (f"--pid {request.pid}", request.pid not in ("private", "host")),
        ("--restart", request.restart),
        ("--sdnotify", request.sdnotify),
        ("--tty", request.tty),
    ):
        if given:
            raise RlessError(
                f"{flag} and --join contradict each other",
                "a joined program has the streams, signals and process number of this command",
            )
