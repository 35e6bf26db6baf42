"""The verb `exec`: one more process in a running container, from arguments or a process.json.

`runtime.host.exec` makes the process; this module describes it and waits for it.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError
from rootless.linux.caps import NUMBERS
from rootless.oci import validate
from rootless.runtime.host import exec as runtime
from rootless.runtime.host import lifecycle
from rootless.runtime.host.optional_features import OptionalFeatures
from rootless.runtime.host.state import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.oci.runtime_spec import Process, Spec

_HIGHEST_ID = 2**32 - 2


class Options:
    """The options of `exec`, beside the id.

    Attributes:
        process: path of an OCI `process` object; None: the container's own is changed.
        user: "UID[:GID]".
        terminal: None: as the process.json says.
    """

    __slots__ = (
        "apparmor",
        "args",
        "capabilities",
        "cgroup",
        "console_socket",
        "cwd",
        "detach",
        "env",
        "groups",
        "ignore_paused",
        "keep_fds",
        "label",
        "new_keyring",
        "no_new_privs",
        "pid_file",
        "pidfd_socket",
        "process",
        "terminal",
        "user",
    )

    def __init__(self, args: list[str]) -> None:
        self.args = args
        self.apparmor: str | None = None
        self.capabilities: list[str] = []
        self.cgroup: str | None = None
        self.console_socket: str | None = None
        self.cwd: str | None = None
        self.detach = False
        self.env: list[str] = []
        self.groups: list[str] = []
        self.ignore_paused = False
        self.keep_fds: tuple[int, ...] = ()
        self.label: str | None = None
        self.new_keyring = True
        self.no_new_privs = False
        self.pid_file: str | None = None
        self.pidfd_socket: str | None = None
        self.process: str | None = None
        self.terminal = False
        self.user: str | None = None


def execute(root: str, container_id: str, options: Options) -> int:
    """Start a process; return its exit code, 0 at once for a detached one.

    Raises:
        RlessError: the container does not run, or is paused; the program cannot be executed (exit
            code 126) or is not there (127).
    """
    record = Record(root, container_id)
    facts = record.read()
    state = record.state()
    paused = state["status"] == "paused" and options.ignore_paused
    if state["status"] != "running" and not paused:  # init that waits for its start lets nobody in
        raise RlessError(f"container {container_id} is {state['status']}, not running", exit_code=1)
    spec = record.read_spec()
    process = describe(spec, options)
    if options.pid_file:
        lifecycle.check_pid_file(options.pid_file)
    pidfd_channel = -1
    if options.pidfd_socket:
        pidfd_channel = lifecycle.connect(options.pidfd_socket, "--pidfd-socket")
    console = None
    console_fd = -1
    if process.get("terminal"):
        if options.console_socket is not None:
            console_fd = lifecycle.connect(options.console_socket)
        elif options.detach:
            raise RlessError(
                "a detached process with a terminal needs --console-socket", exit_code=1
            )
        else:
            from rootless.runtime.host.console import Console

            console = Console()
            console_fd = console.inner
    elif options.console_socket is not None:
        raise RlessError("--console-socket is for a process with a terminal", exit_code=1)
    optional = OptionalFeatures(spec, process, state)
    optional.new_keyring = options.new_keyring
    init = runtime.Init(facts["pid"], facts["start"])
    entrant = runtime.prepare(
        spec,
        process,
        init,
        cgroup=facts.get("cgroup"),
        below=_group_below(facts.get("cgroup"), options.cgroup),
        cache_dir=f"{root}/.seccomp",
        console_fd=console_fd,
        keep_fds=options.keep_fds,
        optional=optional,
    )
    started = entrant.start()
    init.close()
    if options.pid_file:
        lifecycle.write_pid_file(options.pid_file, started.pid)
    if pidfd_channel >= 0:
        lifecycle.send_pidfd(pidfd_channel, started.pidfd)
    if options.detach:
        return 0
    from rootless.runtime.host import foreground

    foreground.forward_signals(foreground.send_by(started.pidfd))
    try:
        if console is not None:
            console.take_over()
        foreground.attend(started.pidfd, started.pid, console, None)
    finally:
        if console is not None:
            console.close()
    return started.wait()


def _group_below(cgroup: str | None, path: str | None) -> str | None:
    """Return a path below the container's control group that exists; None: none was asked for.

    Raises:
        RlessError: there is no such group.
    """
    if path is None:
        return None
    below = os.path.normpath(f"/{path}").rstrip("/")
    if cgroup is None or ".." in path.split("/") or not os.path.isdir(cgroup + below):
        raise RlessError(f"--cgroup {path}: no such group below that of the container", exit_code=1)
    return below


def describe(spec: Spec, options: Options) -> Process:
    """Return the OCI `process` object.

    Raises:
        RlessError: an option, or the process.json, is wrong.
    """
    own = spec["process"]
    if options.process is not None:
        process = validate.check_process(lifecycle.read_json(options.process), options.process)
        if options.args:
            process["args"] = options.args
        if "capabilities" not in process and "capabilities" in own:
            process["capabilities"] = own["capabilities"]
        process["terminal"] = bool(process.get("terminal")) or options.terminal
    else:
        if not options.args:
            raise RlessError("exec needs a command, or --process", exit_code=1)
        process = {**own, "args": options.args, "terminal": options.terminal}
        process.pop("consoleSize", None)
    if options.env:
        process["env"] = [*process.get("env", []), *options.env]
    if options.cwd is not None:
        process["cwd"] = options.cwd
    if options.apparmor:
        process["apparmorProfile"] = options.apparmor
    if options.label:
        process["selinuxLabel"] = options.label
    if options.no_new_privs:
        process["noNewPrivileges"] = True
    if options.user is not None or options.groups:
        process["user"] = {**process.get("user", {})}
    if options.user is not None:
        uid, colon, gid = options.user.partition(":")
        process["user"]["uid"] = _id(uid, "--user")
        if colon:
            process["user"]["gid"] = _id(gid, "--user")
    if options.groups:
        process["user"]["additionalGids"] = [
            _id(gid, "--additional-gids") for gid in options.groups
        ]
    for name in options.capabilities:
        if name not in NUMBERS:
            raise RlessError(f"--cap {name}: unknown capability", exit_code=1)
    if options.capabilities:
        sets: Any = {**process.get("capabilities", {})}
        kinds = ["bounding", "effective", "permitted"]
        if sets.get("inheritable"):  # as runc: without it, nothing can be ambient
            kinds.append("ambient")
        for kind in kinds:
            sets[kind] = sorted({*sets.get(kind, ()), *options.capabilities})
        process["capabilities"] = sets
    checked: Process = validate.check_process(process, "exec")
    return checked


def _id(text: str, option: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= _HIGHEST_ID):
        raise RlessError(f"{option}: {text!r} is not the number of a user or group", exit_code=1)
    return int(text)
