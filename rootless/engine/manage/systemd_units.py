"""systemd user units: one for a container, and one that starts containers again after a boot.

The unit of a container starts `rless`, and systemd watches the processes that remain. It has
Delegate=yes, so rless divides the unit's own cgroup (`runtime.cgroup`) and asks for no scope: the
monitor, in `supervisor`, and the container stay in the unit. With Type=notify the unit is up once
the container is, or once the application says so itself by sd_notify(3).

After a reboot nothing runs, and no daemon would start anything. `rless-restart.service` runs `rless
system start` once, when the user's systemd comes up (at boot, if the user lingers).
"""

from __future__ import annotations

import os
import time

from rootless import paths
from rootless.engine.manage.stop import stop
from rootless.engine.state.container import STOPPED, Container, all_ids, find, load
from rootless.errors import RlessError
from rootless.errors import escape as shown
from rootless.linux.cgroup import find_own, wait_until_empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

POLICIES = (
    "no", "always", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort",
)  # fmt: skip
RESTART_UNIT = "rless-restart.service"
_LAST_HELPER = 10.0  # seconds that one may outlive its container; TimeoutStopSec= is 90


class UnitOptions:
    """The flags of `generate systemd`; the defaults are those without any flag.

    Attributes:
        new: make a new container at each start, and remove it at the stop.
        by_name: name the unit by the container's name, not its id.
        policy: systemd's Restart=. timeout: of the stop, seconds; None: the container's.
        wants, after, requires: further units.
        program: absolute path of `rless`.
    """

    __slots__ = ("after", "by_name", "new", "policy", "program", "requires", "timeout", "wants")

    def __init__(self, program: str) -> None:
        self.new = False
        self.by_name = False
        self.policy = "on-failure"
        self.timeout: int | None = None
        self.wants: list[str] = []
        self.after: list[str] = []
        self.requires: list[str] = []
        self.program = program


def unit(reference: str, options: UnitOptions, arguments: Sequence[str] = ()) -> tuple[str, str]:
    """Return (file name, text) of the unit of a container.

    Args:
        arguments: for `new`: those of the `rless run` that makes such a container.

    Raises:
        RlessError: there is no such container, or it restarts by itself.
    """
    container = find(reference)
    facts = container.facts
    name = facts["name"]
    restart = container.restart_policy()
    if restart != "no" and not options.new:
        raise RlessError(
            f"container {name} has the restart policy {restart}: both would restart it",
            f"rless update --restart no {name}, or use --new",
            1,
        )
    request = facts.get("request") or {}
    if request.get("cgroup_manager") == "systemd" or request.get("cgroup_parent"):
        raise RlessError(
            f"container {name} is to have a scope of its own, where its unit would not find it",
            "make it without --cgroup-manager systemd and --cgroup-parent, or with --cgroups=split",
            1,
        )
    known = name if options.by_name else container.id
    title = f"container-{known}.service"
    timeout = facts["stop_timeout"] if options.timeout is None else options.timeout
    program = quote(options.program)
    storage = paths.storage_root()
    lines = [
        f"# {title}",
        f"# made by rless generate systemd for the container {name}",
        "",
        "[Unit]",
        f"Description=rless container {escape(name if options.by_name else container.id[:12])}",
        *[f"Wants={other}" for other in ("network-online.target", *options.wants)],
        *[f"After={other}" for other in ("network-online.target", *options.after)],
        *[f"Requires={other}" for other in options.requires],
        f"RequiresMountsFor={quote(storage, command=False)}",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=all",
        f"Environment={quote(f'RLESS_STORAGE={storage}', command=False)}",
        f"Restart={options.policy}",
        # systemd must not kill before the stop has.
        f"TimeoutStopSec={'infinity' if timeout < 0 else timeout + 60}",
        # The containers' own control groups lie below the unit's.
        "Delegate=yes",
        # Only the first process is asked to end, by rless stop; what is left is killed.
        "KillMode=mixed",
        # An application that TERM ended was stopped, as systemctl was asked for.
        "SuccessExitStatus=143",
    ]
    if options.new:
        # Where `run` was called: paths of its flags may be relative.
        lines.append(f"WorkingDirectory={_directory(facts['request']['cwd'])}")
        words = " ".join(quote(word) for word in arguments)
        lines += [
            f"ExecStartPre=-{program} rm -f -v {quote(name)}",
            f"ExecStart={program} {words}",
            f"ExecStop={program} stop -t {timeout} {quote(name)}",
            f"ExecStopPost=-{program} rm -f -v {quote(name)}",
        ]
    else:
        lines += [
            f"ExecStart={program} start {known}",
            f"ExecStop={program} stop -t {timeout} {known}",
        ]
    lines += ["", "[Install]", "WantedBy=default.target", ""]
    return title, "\n".join(lines)


def restart_unit(program: str) -> str:
    """Return the text of the unit that starts containers after a boot."""
    storage = paths.storage_root()
    return f"""# {RESTART_UNIT}
# starts the containers of rless that have the restart policy always or unless-stopped

[Unit]
Description=Start the containers of rless that are to be there always
Wants=network-online.target
After=network-online.target
RequiresMountsFor={quote(storage, command=False)}

[Service]
Type=oneshot
RemainAfterExit=yes
Environment={quote(f"RLESS_STORAGE={storage}", command=False)}
ExecStart={quote(program)} system start
ExecStop={quote(program)} system stop
Delegate=yes
KillMode=process

[Install]
WantedBy=default.target
"""


def escape(text: str) -> str:
    """Return `text` for a value of a unit file: % begins a specifier there (systemd.unit(5))."""
    return text.replace("%", "%%")


def _directory(path: str) -> str:
    """Return a path for WorkingDirectory=, which knows no quoting: a line of its own or none.

    Raises:
        RlessError: a control character, which could begin another line, or an end that is lost.
    """
    if not path.isprintable() or path != path.strip() or path.endswith("\\"):
        raise RlessError(
            f"the directory '{shown(path)}' cannot be written into a unit",
            "make the container in another directory",
            1,
        )
    return escape(path)


def quote(word: str, command: bool = True) -> str:
    """Return one word of a line of a unit file, quoted where it must be.

    Args:
        command: the line is a command, in which $ begins a variable.

    Raises:
        RlessError: it has a character that no unit file can hold.

    Source: systemd.syntax(7), "Quoting"; systemd.service(5), "Command lines".
    """
    if "\0" in word:
        raise RlessError("a NUL character cannot be written into a unit", exit_code=1)
    plain = word.replace("-", "a").translate(dict.fromkeys(map(ord, "_./:=,@+"), "a"))
    if plain.isascii() and plain.isalnum():
        return word
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    text = text.replace("$", "$$") if command else text
    for char, name in (("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        text = text.replace(char, name)
    text = "".join(
        char if ord(char) >= 32 and char != "\x7f" else f"\\x{ord(char):02x}" for char in text
    )
    # What is no UTF-8 is a byte.
    text = "".join(
        f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else char for char in text
    )
    return f'"{text}"'


# -- after a boot --------------------------------------------------------------------------------


def to_restart() -> list[Container]:
    """Return the containers that are to run and do not: for the user service.

    Those of the policy always and, if nobody has stopped them, unless-stopped: such a one ran
    until the machine went down, or until the service was stopped.
    """
    from rootless.engine.state.reconcile import reconcile

    reconcile()
    here = os.uname().nodename
    found = []
    for container_id in all_ids():
        container = load(container_id)
        if container is None or container.facts["host"] != here or container.facts["rm"]:
            continue
        policy = container.restart_policy()
        if policy not in ("always", "unless-stopped") or container.run_record():
            continue
        if not container.was_started():
            continue  # made, and never started: nobody has asked for it yet
        if policy == "unless-stopped" and os.path.exists(f"{container.directory}/{STOPPED}"):
            continue
        found.append(container)
    return sorted(found, key=lambda container: float(container.facts["created"]))


def stop_for_shutdown() -> Iterator[tuple[str, RlessError | None]]:
    """Stop what `restart_after_boot` would start again, when the machine or the service ends."""
    running = []
    for container_id in all_ids():
        container = load(container_id)
        policy = container.restart_policy() if container else "no"
        if container and policy in ("always", "unless-stopped") and container.run_record():
            running.append(container.facts["name"])
    yield from stop(running, by_user=False)
    _wait_for_helpers()


def _wait_for_helpers() -> None:
    """Wait, as ExecStop=, for monitors and their helpers, which outlive containers by a moment.

    systemd removes the group of a unit as that ends, and not later if somebody is in it still. It
    runs ExecStop= in a group `.control` beside them (https://systemd.io/CGROUP_DELEGATION/).
    """
    from rootless.runtime.cgroup.cgroupfs import SUPERVISOR

    unit, _, group = (find_own() or "").rpartition("/")
    if group == ".control":
        wait_until_empty(f"{unit}/{SUPERVISOR}", time.monotonic() + _LAST_HELPER)


def restart_after_boot() -> Iterator[tuple[str, RlessError | None]]:
    """Start all containers that are to run after a boot; yield (name, what went wrong)."""
    from rootless.engine.start.start import start

    for container in to_restart():
        try:
            start(container)
            yield container.facts["name"], None
        except RlessError as error:
            yield container.facts["name"], error
