"""`rless-oci`: the OCI runtime command line, with the spellings of runc and crun.

No click here: Slurm and Podman call this many times, and a `state` must cost one start of the
interpreter and no more. Options may stand before or after the id.
"""

from __future__ import annotations

import os
import sys

from rootless import __version__, jsontext, launch, log, paths
from rootless.errors import RlessError, describe, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rootless.runtime.host import lifecycle

_USAGE = """\
usage: rless-oci [OPTION...] COMMAND ...

  create ID           make a container from a bundle; its program waits for start
  run ID              create, start, wait for its end, delete
  start ID            let a created container run its program
  exec ID COMMAND...  run one more process in it
  state ID            print its state as JSON
  list                print all containers
  ps ID               print the pids of its processes
  kill ID [SIGNAL]    send a signal, TERM by default
  pause ID, resume ID halt all its processes, let them go on
  update ID           change its limits
  events ID           print what it uses, as JSON
  delete ID           remove it
  spec                write a config.json for a user without root
  features            print what this runtime can do, as JSON

options before or after COMMAND:
  --root DIR                  where the state of containers is
  --log FILE                  where errors go, too
  --log-format text|json      how they are written
  --cgroup-manager MANAGER    cgroupfs, systemd or disabled
  --systemd-cgroup            the same as --cgroup-manager systemd
  --rootless true|false|auto  accepted: this runtime never needs root
  --debug                     tell what is done, and when
  --version, --help

rless-oci COMMAND --help tells what a command takes.
"""
# Names of one option, which takes a value if the last one says what. All others are switches.
_GLOBAL = (
    "--root DIR",
    "--log FILE",
    "--log-format FORMAT",
    "--log-level LEVEL",
    "--cgroup-manager MANAGER",
    "--debug",
    "--systemd-cgroup",
    "--rootless",
)
_CREATE = (
    "-b --bundle DIR",
    "-f --config FILE",
    "--pid-file FILE",
    "--console-socket PATH",
    "--pidfd-socket PATH",
    "--preserve-fds N",
    "--no-pivot",
    "--no-new-keyring",
)
_VERBS: dict[str, tuple[str, tuple[str, ...]]] = {
    "create": ("ID", _CREATE),
    "run": ("ID", (*_CREATE, "-d --detach", "--keep", "--no-subreaper")),
    "start": ("ID", ()),
    "exec": (
        "ID [COMMAND...]",
        (
            "-p --process FILE",
            "-d --detach",
            "-t --tty",
            "-e --env NAME=VALUE",
            "-u --user UID[:GID]",
            "-g --additional-gids GID",
            "-c --cap CAPABILITY",
            "--cwd DIR",
            "--cgroup PATH",
            "--pid-file FILE",
            "--console-socket PATH",
            "--pidfd-socket PATH",
            "--preserve-fds N",
            "--ignore-paused",
            "--no-new-privs",
            "--no-new-keyring",
            "--apparmor PROFILE",
            "--process-label LABEL",
        ),
    ),
    "state": ("ID", ()),
    "list": ("", ("-q --quiet", "-f --format table|json")),
    "ps": ("ID", ("-f --format table|json",)),
    "kill": ("ID [SIGNAL]", ("-a --all", "-s --signal SIGNAL")),
    "pause": ("ID", ()),
    "resume": ("ID", ()),
    "update": (
        "ID",
        (
            "-r --resources FILE",
            "--memory BYTES",
            "--memory-swap BYTES",
            "--memory-reservation BYTES",
            "--cpu-period USEC",
            "--cpu-quota USEC",
            "--cpu-burst USEC",
            "--cpu-share --cpu-shares N",
            "--cpu-idle 0|1",
            "--cpu-rt-period USEC",
            "--cpu-rt-runtime USEC",
            "--cpuset-cpus LIST",
            "--cpuset-mems LIST",
            "--blkio-weight N",
            "--pids-limit N",
        ),
    ),
    "events": ("ID", ("--stats", "--interval DURATION")),
    "delete": ("ID", ("-f --force", "-r --regex")),
    "spec": ("", ("--rootless", "-b --bundle DIR", "-f --config FILE")),
    "features": ("", ()),
}
_SEVERAL = frozenset({"--env", "--cap", "--additional-gids"})
_VERBATIM = frozenset({"exec"})  # after the id and the first word that is no option
_ABOUT = {"--help": "--help", "-h": "--help", "--version": "--version", "-v": "--version"}
# Podman shows it; the last line is crun's, by whose words other programs know what there is.
_VERSION = f"rless-oci version {__version__}\nspec: 1.2.0\n+SYSTEMD +SECCOMP +CAP\n"
_ROOTLESS = ("true", "false", "auto")


class _Line:
    """A parsed command line: switches are [""] if given."""

    __slots__ = ("_known", "arguments", "options", "verb")

    def __init__(self, argv: list[str]) -> None:
        self.options: dict[str, list[str]] = {}
        self.arguments: list[str] = []
        self.verb = ""
        self._known = _table(_GLOBAL)
        words = iter(argv)
        while (word := next(words, None)) is not None:
            name, equals, value = word.partition("=")
            if word == "--":
                self.arguments += words
            elif self.verb in _VERBATIM and len(self.arguments) > 1:
                self.arguments += [word, *words]
            elif word in _ABOUT:
                self.options[_ABOUT[word]] = [""]
            elif name == "--rootless" and not self.verb:
                words = self._skip_rootless(equals, value, words)
            elif name in self._known:
                self._add(name, value if equals else None, words)
            elif word.startswith("-") and len(word) > 1:
                self._add_short(word, words)
            elif not self.verb:
                self.verb = word
                self._known |= _table(_VERBS.get(word, ("", ()))[1])
            else:
                self.arguments.append(word)

    def _skip_rootless(self, equals: str, value: str, words: Iterator[str]) -> Iterator[str]:
        """Take the value of runc's --rootless, which may be a word of its own."""
        rest = list(words)
        if not equals and rest and rest[0] in _ROOTLESS:
            value = rest.pop(0)
        if value and value not in _ROOTLESS:
            raise RlessError(f"--rootless {value}: true, false or auto", exit_code=1)
        return iter(rest)

    def _add(self, name: str, value: str | None, words: Iterator[str]) -> None:
        long, takes_value = self._known[name]
        if takes_value and value is None:
            value = next(words, None)
            if value is None:
                raise RlessError(f"{name} needs a value", exit_code=1)
        if long not in _SEVERAL:
            self.options.pop(long, None)
        self.options.setdefault(long, []).append(value or "")

    def _add_short(self, word: str, words: Iterator[str]) -> None:
        """Take switches that share a dash; a value may follow the last one at once, as in -uID."""
        letters = word[1:]
        while letters and not word.startswith("--"):
            name, letters = f"-{letters[0]}", letters[1:]
            if name not in self._known:
                break
            if self._known[name][1]:
                self._add(name, letters or None, words)
                return
            self._add(name, None, words)
            if not letters:
                return
        raise RlessError(f"unknown option {word}", "see rless-oci --help", 1)

    def get(self, name: str) -> str | None:
        """Return the value of an option."""
        return self.options[name][-1] if name in self.options else None

    def all(self, name: str) -> list[str]:
        """Return all values of an option."""
        return self.options.get(name, [])

    def has(self, name: str) -> bool:
        """Tell whether a switch is given; `--name=false` is Go's way to say no."""
        return self.options.get(name, ["false"])[-1] not in ("false", "0")

    def id(self, more: int = 0) -> str:
        """Return the container id, the first argument.

        Args:
            more: how many arguments may follow.
        """
        if not self.arguments:
            raise RlessError(f"{self.verb} needs a container ID", "see rless-oci --help", 1)
        if len(self.arguments) > 1 + more:
            extra = self.arguments[1 + more]
            raise RlessError(f"{self.verb}: unexpected argument {extra}", "see rless-oci --help", 1)
        return self.arguments[0]

    def root(self) -> str:
        """Return the state directory, made."""
        root = self.get("--root")
        if root is None:
            root = f"{paths.runtime_root()}/oci"
        root = os.path.abspath(root)
        # Others may look into it: what is in it is closed to them.
        paths.private_dir(root, "choose another with --root", 0o022)
        return root

    def format(self) -> str:
        """Return table or json, as --format says."""
        value = self.get("--format") or "table"
        if value not in ("table", "json"):
            raise RlessError(f"--format {value}: table or json", exit_code=1)
        return value


def _table(rows: tuple[str, ...]) -> dict[str, tuple[str, bool]]:
    """Return name -> (its long name, whether it takes a value) of rows as in `_VERBS`."""
    table = {}
    for row in rows:
        words = row.split()
        names = [word for word in words if word.startswith("-")]
        for name in names:
            table[name] = (names[-1], len(words) > len(names))
    return table


def main(argv: list[str] | None = None) -> int:
    """Run one command; print an error and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    line: _Line | None = None
    try:
        launch.let_interrupts_in()
        line = _Line(argv)
        log.enabled = line.has("--debug")
        _check_log(line)
        if line.has("--version"):
            print(_VERSION, end="")
            return 0
        if line.verb == "exec":
            from rootless.linux.process import hide_values

            hide_values(["rless-oci", *argv])  # --env NAME=VALUE may be a secret
        if line.verb in _COMMANDS and not line.has("--help"):
            return _COMMANDS[line.verb](line)
        if line.verb in _COMMANDS:
            print(_help(line.verb), end="")
        elif line.has("--help") or line.verb == "help":
            print(_USAGE, end="")
        else:
            what = f"unknown command {line.verb}" if line.verb else "no command"
            raise RlessError(what, "see rless-oci --help", 1)
        return 0
    except RlessError as error:
        _complain(str(error), line)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        _complain(describe(error), line)
        return 125


def _help(verb: str) -> str:
    arguments, options = _VERBS[verb]
    lines = [f"usage: rless-oci [OPTION...] {verb} {arguments}".rstrip()]
    if options:
        lines += ["", *(f"  {row}" for row in options)]
    return "\n".join(lines) + "\n"


def _check_log(line: _Line) -> None:
    style = line.get("--log-format")
    if style not in (None, "text", "json"):
        line.options.pop("--log-format")
        raise RlessError(f"--log-format {style}: text or json", exit_code=1)
    path = line.get("--log")
    if not path:
        return
    kind, colon, rest = path.partition(":")
    if colon and "/" not in kind:  # crun's file:PATH, journald:ID, syslog:ID
        line.options.pop("--log")
        if kind != "file":
            raise RlessError(f"--log {path}: only files are supported", "name a file", 1)
        path = rest
    path = os.path.abspath(path)
    line.options["--log"] = [path]
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644))
    except OSError as error:
        line.options.pop("--log")
        raise RlessError(f"--log {path}: {error.strerror}", exit_code=1) from error


def _complain(message: str, line: _Line | None) -> None:
    """Tell what failed: on standard error, and in the log."""
    text = escape(message)
    plain = f"rless-oci: {text}\n"
    entry = plain
    if line is not None and line.get("--log-format") == "json":
        import time

        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = jsontext.dumps({"msg": text, "level": "error", "time": now}) + "\n"
    path = line.get("--log") if line else None
    if path:
        try:
            with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(entry)
        except OSError:
            pass  # standard error still tells
        entry = plain
    sys.stderr.write(entry)


def _manager(line: _Line) -> str | None:
    """Return the cgroup manager that is asked for; None: cgroupfs, where it can be."""
    manager = line.get("--cgroup-manager")
    if line.has("--systemd-cgroup"):
        manager = "systemd"
    if manager is None:
        return None
    from rootless.runtime.cgroup.base import MANAGERS

    if manager == "disabled":
        manager = "none"
    if manager not in MANAGERS:
        raise RlessError(f"--cgroup-manager {manager}: cgroupfs, systemd or disabled", exit_code=1)
    return manager


def _kept_fds(line: _Line) -> tuple[int, ...]:
    """Return the descriptors of --preserve-fds, as far as they are open.

    One that is not must not be kept either: one of ours could get its number.
    """
    count = line.get("--preserve-fds") or "0"
    if not (count.isascii() and count.isdigit() and len(count) < 6):
        raise RlessError(f"--preserve-fds: {count} is not a number", exit_code=1)
    return tuple(fd for fd in range(3, 3 + int(count)) if _is_open(fd))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _options(line: _Line) -> tuple[str, str, lifecycle.Options]:
    from rootless.runtime.host import lifecycle

    options = lifecycle.Options()
    options.bundle = line.get("--bundle") or options.bundle
    options.cgroup_manager = _manager(line)
    options.config = line.get("--config")
    options.pid_file = line.get("--pid-file")
    options.pidfd_socket = line.get("--pidfd-socket")
    options.console_socket = line.get("--console-socket")
    options.keep_fds = _kept_fds(line)
    options.listen_fds = _listen_fds()
    if options.listen_fds:
        first = 3 + len(options.keep_fds)
        more = range(first, first + options.listen_fds)
        options.keep_fds += tuple(fd for fd in more if _is_open(fd))
    options.notify_socket = _notify_socket()
    options.use_pivot = not line.has("--no-pivot")
    options.new_keyring = not line.has("--no-new-keyring")
    options.detach = line.has("--detach")
    options.keep = line.has("--keep")
    return line.root(), line.id(), options


def _listen_fds() -> int:
    """Return how many sockets a service manager has opened for the container (sd_listen_fds(3))."""
    count, pid = os.environ.get("LISTEN_FDS", ""), os.environ.get("LISTEN_PID")
    if not (count.isascii() and count.isdigit() and len(count) < 4):
        return 0
    return int(count) if pid in (None, str(os.getpid())) else 0


def _notify_socket() -> str | None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    # One in the abstract namespace has no place to be bound at.
    return path if path.startswith("/") else None


def _create(line: _Line) -> int:
    from rootless.runtime.host import lifecycle

    root, container_id, options = _options(line)
    lifecycle.create(root, container_id, options)
    return 0


def _run(line: _Line) -> int:
    from rootless.runtime.host import lifecycle

    root, container_id, options = _options(line)
    return lifecycle.run(root, container_id, options)


def _start(line: _Line) -> int:
    from rootless.runtime.host import lifecycle

    lifecycle.start(line.root(), line.id())
    return 0


def _exec(line: _Line) -> int:
    from rootless.runtime.commands import exec as exec_verb

    options = exec_verb.Options(line.arguments[1:])
    options.apparmor = line.get("--apparmor")
    options.capabilities = line.all("--cap")
    options.cgroup = line.get("--cgroup")
    options.console_socket = line.get("--console-socket")
    options.cwd = line.get("--cwd")
    options.detach = line.has("--detach")
    options.env = line.all("--env")
    options.groups = line.all("--additional-gids")
    options.ignore_paused = line.has("--ignore-paused")
    options.keep_fds = _kept_fds(line)
    options.label = line.get("--process-label")
    options.new_keyring = not line.has("--no-new-keyring")
    options.no_new_privs = line.has("--no-new-privs")
    options.pid_file = line.get("--pid-file")
    options.pidfd_socket = line.get("--pidfd-socket")
    options.process = line.get("--process")
    options.terminal = line.has("--tty")
    options.user = line.get("--user")
    container_id = line.id(more=len(line.arguments))
    return exec_verb.execute(line.root(), container_id, options)


def _state(line: _Line) -> int:
    from rootless.runtime.host.state import Record

    print(jsontext.dumps(Record(line.root(), line.id()).state(wait=True)))
    return 0


def _kill(line: _Line) -> int:
    from rootless.linux.process import signal_number
    from rootless.runtime.host import lifecycle

    container_id = line.id(more=1)
    name = line.arguments[1] if len(line.arguments) > 1 else line.get("--signal") or "TERM"
    number = 0 if name == "0" else signal_number(name)
    lifecycle.kill(line.root(), container_id, number, line.has("--all"))
    return 0


def _delete(line: _Line) -> int:
    from rootless.runtime.host import lifecycle

    ids = [line.id()]
    if line.has("--regex"):
        from rootless.runtime.commands import containers

        ids = containers.matching(line.root(), ids[0])
    for container_id in ids:
        lifecycle.delete(line.root(), container_id, line.has("--force"))
    return 0


def _list(line: _Line) -> int:
    from rootless.runtime.commands import containers

    style = line.format()
    containers.print_all(line.root(), "quiet" if line.has("--quiet") else style)
    return 0


def _ps(line: _Line) -> int:
    from rootless.runtime.commands import control

    style = line.format()
    pids = control.ps(line.root(), line.id())
    if style == "json":
        print(jsontext.dumps(pids))
    else:
        print("PID", *pids, sep="\n")
    return 0


def _pause(line: _Line) -> int:
    from rootless.runtime.commands import control

    control.pause(line.root(), line.id())
    return 0


def _resume(line: _Line) -> int:
    from rootless.runtime.commands import control

    control.resume(line.root(), line.id())
    return 0


def _update(line: _Line) -> int:
    from rootless.runtime.commands import update

    limits = {name: value for name, (value, *_) in line.options.items() if name in update.LIMITS}
    update.update(line.root(), line.id(), line.get("--resources"), limits)
    return 0


def _events(line: _Line) -> int:
    from rootless.runtime.commands import control

    seconds = None if line.has("--stats") else _seconds(line.get("--interval") or "5s")
    control.print_stats(line.root(), line.id(), seconds)
    return 0


def _seconds(text: str) -> float:
    """Return the seconds of a duration as Go writes it, of one unit: 5s, 500ms, 1m."""
    for unit, factor in (("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600)):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * factor
    raise RlessError(f"--interval {text}: a duration as 5s", exit_code=1)


def _spec(line: _Line) -> int:
    import json

    from rootless.runtime.commands import features

    directory = line.get("--bundle") or "."
    path = os.path.join(directory, line.get("--config") or "config.json")
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(features.usual_spec(), file, indent=4)
            file.write("\n")
    except FileExistsError:
        raise RlessError(f"{path} exists", "remove it first", 1) from None
    return 0


def _features(line: _Line) -> int:
    import json

    from rootless.runtime.commands import features

    print(json.dumps(features.features(), indent=2))
    return 0


_COMMANDS: dict[str, Callable[[_Line], int]] = {
    "create": _create,
    "run": _run,
    "start": _start,
    "exec": _exec,
    "state": _state,
    "list": _list,
    "ps": _ps,
    "kill": _kill,
    "pause": _pause,
    "resume": _resume,
    "update": _update,
    "events": _events,
    "delete": _delete,
    "spec": _spec,
    "features": _features,
}
