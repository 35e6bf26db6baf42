"""`rless-oci`: the OCI runtime command line, with the spellings of runc and crun.

No click here: Slurm and Podman call this many times, and a `state` must cost one start of the
interpreter and no more. Options may stand before or after the id.
"""

from __future__ import annotations

import os
import sys

from rootless import __version__, jsontext, log, paths
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.runtime import lifecycle

_USAGE = """\
usage: rless-oci [--root DIR] [--log FILE] [--log-format text|json] [--debug] COMMAND ...

  create [-b BUNDLE] [-f CONFIG] [--pid-file FILE] [--console-socket PATH] ID
  run    [-b BUNDLE] [-f CONFIG] [--pid-file FILE] [--console-socket PATH] ID
  start ID            let a created container run its program
  state ID            print its state as JSON
  kill [-a] ID [SIG]  send a signal, TERM by default
  delete [-f] ID      remove it
  list [-q] [--format table|json]
  spec                write a config.json for a user without root
  features            print what this runtime can do, as JSON
  --version
"""
# Options that take a value; all others are switches.
_GLOBAL = {"--root": True, "--log": True, "--log-format": True, "--cgroup-manager": True}
_GLOBAL |= {"--debug": False, "--systemd-cgroup": False, "--rootless": False}
_CREATE = {
    "--bundle": True,
    "-b": True,
    "--config": True,
    "-f": True,
    "--pid-file": True,
    "--console-socket": True,
    "--preserve-fds": True,
    "--no-pivot": False,
    "--no-new-keyring": False,
}
_VERBS: dict[str, dict[str, bool]] = {
    "create": _CREATE,
    "run": _CREATE,
    "start": {},
    "state": {},
    "kill": {"--all": False, "-a": False},
    "delete": {"--force": False, "-f": False},
    "list": {"--quiet": False, "-q": False, "--format": True, "-f": True},
    "spec": {"--rootless": False, "--bundle": True, "-b": True},
    "features": {},
}


class _Line:
    """A parsed command line: switches are "" if given."""

    __slots__ = ("arguments", "options", "verb")

    def __init__(self, argv: list[str]) -> None:
        self.options: dict[str, str] = {}
        self.arguments: list[str] = []
        self.verb = ""
        known = dict(_GLOBAL)
        words = iter(argv)
        for word in words:
            name, equals, value = word.partition("=")
            if word == "--":
                self.arguments += words
            elif name in known:
                if known[name] and not equals:
                    value = next(words, "")
                    if not value:
                        raise RlessError(f"{name} needs a value", exit_code=1)
                self.options[name] = value
            elif word.startswith("-") and len(word) > 1:
                raise RlessError(f"unknown option {word}", "see rless-oci --help", 1)
            elif not self.verb:
                self.verb = word
                known |= _VERBS.get(word, {})
            else:
                self.arguments.append(word)

    def get(self, *names: str) -> str | None:
        """Return the value of an option, by any of its names."""
        return next((self.options[name] for name in names if name in self.options), None)

    def has(self, *names: str) -> bool:
        """Tell whether a switch is given."""
        return any(name in self.options for name in names)

    def id(self) -> str:
        """Return the container id, the first argument."""
        if not self.arguments:
            raise RlessError(f"{self.verb} needs a container id", "see rless-oci --help", 1)
        return self.arguments[0]

    def root(self) -> str:
        """Return the state directory, made."""
        root = self.get("--root") or f"{paths.runtime_root()}/oci"
        root = os.path.abspath(root)
        paths.private_dir(root, "choose another with --root")
        return root


def main(argv: list[str] | None = None) -> int:
    """Run one command; print an error and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    line: _Line | None = None
    try:
        if not argv or argv[0] in ("--help", "-h", "help"):
            print(_USAGE, end="")
            return 0 if argv else 1
        if argv[0] in ("--version", "-v"):
            print(f"rless-oci version {__version__}\nspec: 1.2.0")
            return 0
        line = _Line(argv)
        log.enabled = line.has("--debug")
        _refuse_unbuilt(line)
        command = _COMMANDS.get(line.verb)
        if command is None:
            raise RlessError(f"unknown command {line.verb}", "see rless-oci --help", 1)
        return command(line)
    except RlessError as error:
        _complain(str(error), line)
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror}", line)
        return 125


def _refuse_unbuilt(line: _Line) -> None:
    if line.has("--no-new-keyring"):
        raise RlessError("--no-new-keyring is not supported: not built yet", exit_code=1)


def _complain(message: str, line: _Line | None) -> None:
    text = escape(message)
    path = line.get("--log") if line else None
    if path:
        if line and line.get("--log-format") == "json":
            entry = jsontext.dumps({"level": "error", "msg": text})
        else:
            entry = f"rless-oci: {text}"
        try:
            with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(entry + "\n")
        except OSError:
            pass  # standard error still tells
    sys.stderr.write(f"rless-oci: {text}\n")


def _options(line: _Line) -> tuple[str, str, lifecycle.Options]:
    from rootless.runtime import lifecycle

    options = lifecycle.Options()
    options.bundle = line.get("--bundle", "-b") or options.bundle
    options.config = line.get("--config", "-f")
    options.pid_file = line.get("--pid-file")
    options.console_socket = line.get("--console-socket")
    count = line.get("--preserve-fds") or "0"
    if not count.isdigit():
        raise RlessError(f"--preserve-fds: {count} is not a number", exit_code=1)
    options.preserve_fds = int(count)
    for fd in range(3, 3 + options.preserve_fds):
        try:
            os.fstat(fd)
        except OSError:
            # One of ours would get the number, and go to the application.
            raise RlessError(f"--preserve-fds {count}: {fd} is not open", exit_code=1) from None
    options.cgroup_manager = _cgroup_manager(line)
    options.use_pivot = not line.has("--no-pivot")
    return line.root(), line.id(), options


def _cgroup_manager(line: _Line) -> str | None:
    """Return the manager that is asked for; None: cgroupfs, where it can be."""
    name = line.get("--cgroup-manager")
    if name is None:
        return "systemd" if line.has("--systemd-cgroup") else None
    from rootless.runtime.cgroup.base import MANAGERS

    name = "none" if name == "disabled" else name  # crun's word
    if name not in MANAGERS:
        raise RlessError(f"--cgroup-manager: {name} is not {' or '.join(MANAGERS)}", exit_code=1)
    return name


def _create(line: _Line) -> int:
    from rootless.runtime import lifecycle

    root, container_id, options = _options(line)
    lifecycle.create(root, container_id, options)
    return 0


def _run(line: _Line) -> int:
    from rootless.runtime import lifecycle

    root, container_id, options = _options(line)
    return lifecycle.run(root, container_id, options)


def _start(line: _Line) -> int:
    from rootless.runtime.state import Record

    Record(line.root(), line.id()).open_start_gate()
    return 0


def _state(line: _Line) -> int:
    from rootless.runtime.state import Record

    print(jsontext.dumps(Record(line.root(), line.id()).state()))
    return 0


def _kill(line: _Line) -> int:
    from rootless.linux.process import signal_number
    from rootless.runtime import lifecycle

    name = line.arguments[1] if len(line.arguments) > 1 else "TERM"
    lifecycle.kill(line.root(), line.id(), signal_number(name), line.has("--all", "-a"))
    return 0


def _delete(line: _Line) -> int:
    from rootless.runtime import lifecycle

    lifecycle.delete(line.root(), line.id(), line.has("--force", "-f"))
    return 0


def _list(line: _Line) -> int:
    from rootless.runtime import lifecycle

    states = lifecycle.list_states(line.root())
    if line.has("--quiet", "-q"):
        for state in states:
            print(state["id"])
    elif line.get("--format", "-f") == "json":
        print(jsontext.dumps(states))
    else:
        print(f"{'ID':<30} {'PID':<8} {'STATUS':<9} BUNDLE")
        for state in states:
            pid, status = state["pid"], state["status"]
            print(f"{state['id']:<30} {pid:<8} {status:<9} {escape(state['bundle'])}")
    return 0


def _spec(line: _Line) -> int:
    import json

    from rootless.runtime import features

    path = f"{line.get('--bundle', '-b') or '.'}/config.json"
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(features.example_spec(), file, indent=4)
            file.write("\n")
    except FileExistsError:
        raise RlessError(f"{path} exists", "remove it first", 1) from None
    return 0


def _features(line: _Line) -> int:
    import json

    from rootless.runtime import features

    print(json.dumps(features.features(), indent=2))
    return 0


_COMMANDS: dict[str, Callable[[_Line], int]] = {
    "create": _create,
    "run": _run,
    "start": _start,
    "state": _state,
    "kill": _kill,
    "delete": _delete,
    "list": _list,
    "spec": _spec,
    "features": _features,
}
