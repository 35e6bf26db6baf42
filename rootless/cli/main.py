"""The command `rless`: find the verb, run it, print the one error line, pick the exit code.

Nothing is imported before it is needed: `--version` and `--help` load this module, `errors`
and `streams`; a verb loads its own module; click is loaded for help of verbs, for completion
and for errors in the spelling of flags.
"""

from __future__ import annotations

import os
import sys

from rootless import launch
from rootless.cli import streams
from rootless.errors import EXIT_TOOL, RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import ModuleType
else:
    # The module `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal

# verb -> (module of rootless.cli.verbs, what it does), by the headings of the help text; a
# verb of two words is found through ALIASES only
VERBS: dict[str, dict[str, tuple[str, str]]] = {
    "Containers": {
        "run": ("container.run", "Create and run a new container from an image"),
        "create": ("container.create", "Create a container without starting it"),
        "start": ("container.start", "Start containers that are not running"),
        "exec": ("container.exec", "Run a command in a running container"),
        "attach": ("container.attach", "Connect this terminal to a running container"),
        "ps": ("container.ps", "List containers"),
        "logs": ("container.logs", "Show what a container wrote"),
        "stop": ("container.stop", "Ask containers to end, then kill them"),
        "restart": ("container.restart", "Stop containers and start them again"),
        "kill": ("container.kill", "Send a signal to containers"),
        "pause": ("container.pause", "Halt all processes of containers"),
        "unpause": ("container.unpause", "Let paused containers go on"),
        "wait": ("container.wait", "Wait until containers end and print their exit codes"),
        "rm": ("container.rm", "Remove containers"),
        "rename": ("container.rename", "Give a container another name"),
        "update": ("container.update", "Change the options of containers"),
        "inspect": (
            "system.inspect",
            "Show all about containers, images, networks or volumes as JSON",
        ),
        "top": ("container.top", "Show the processes of a container"),
        "stats": ("container.stats", "Show what containers use, live"),
        "port": ("container.port", "Show the published ports of a container"),
        "diff": ("container.diff", "Show what a container changed in its files"),
        "cp": ("container.cp", "Copy files between a container and here"),
        "export": ("container.export", "Write the files of a container as a tar archive"),
        "commit": ("container.commit", "Make an image of what a container changed"),
        "container prune": ("container.prune", "Remove all containers that have ended"),
        "container inspect": ("container.inspect", "Show all about containers as JSON"),
    },
    "Images": {
        "pull": ("image.pull", "Fetch an image from a registry or an archive"),
        "push": ("image.push", "Send an image to a registry"),
        "images": ("image.images", "List images"),
        "rmi": ("image.rmi", "Remove images"),
        "tag": ("image.tag", "Give an image a further name"),
        "history": ("image.history", "Show the layers of an image"),
        "save": ("image.save", "Write images to an archive"),
        "load": ("image.load", "Read images from an archive"),
        "import": ("image.import_", "Make an image of a tar archive of files"),
        "flatten": ("image.flatten", "Write an image as one squashfs file, to be run as it is"),
        "search": ("image.search", "Search a registry"),
        "login": ("image.login", "Log in to a registry"),
        "logout": ("image.logout", "Forget the log-in of a registry"),
        "image inspect": ("image.inspect", "Show all about images as JSON"),
        "image prune": ("image.prune", "Remove images that nothing needs"),
    },
    "Volumes": {
        "volume create": ("volume.create", "Create a volume"),
        "volume ls": ("volume.ls", "List volumes"),
        "volume inspect": ("volume.inspect", "Show all about volumes as JSON"),
        "volume rm": ("volume.rm", "Remove volumes"),
        "volume prune": ("volume.prune", "Remove volumes that no container uses"),
    },
    "Networks": {
        "network create": ("network.create", "Create a network of several containers"),
        "network ls": ("network.ls", "List networks"),
        "network inspect": ("network.inspect", "Show all about networks as JSON"),
        "network rm": ("network.rm", "Remove networks"),
        "network prune": ("network.prune", "Remove networks that no container uses"),
        "network connect": ("network.connect", "Put a container into a network"),
        "network disconnect": ("network.disconnect", "Take a container out of a network"),
    },
    "Host": {
        "info": ("system.info", "Show the state of rless and of this host"),
        "events": ("system.events", "Show what happens to containers, images and volumes"),
        "system df": ("system.df", "Show what images, containers and volumes take on disk"),
        "system prune": ("system.prune", "Remove all that nothing uses"),
        "system start": ("system.start", "Start the containers that restart after a boot"),
        "system stop": ("system.stop", "Stop the containers that restart after a boot"),
        "config show": ("system.config_show", "Show the configuration, and where each key is set"),
        "doctor": ("system.doctor", "Check this host: what works, what does not, how to fix it"),
        "unshare": ("system.unshare", "Run a command in the user namespace of containers"),
        "generate systemd": (
            "system.generate_systemd",
            "Write a systemd user unit for a container",
        ),
        "slurm-config": ("system.slurm_config", "Print an oci.conf by which Slurm runs containers"),
        "completion": ("system.completion", "Print the completion script of a shell"),
        "version": ("system.version", "Show the version of rless, Python and the kernel"),
        "help": ("system.help", "Show the help of a verb"),
    },
}
ALIASES: dict[str, dict[str, str]] = {
    "container": {
        **{
            verb: verb
            for verb in (
                "run create start exec attach ps logs stop restart kill pause unpause wait rm"
                " rename update top stats port diff cp export commit"
            ).split()
        },
        "inspect": "container inspect",
        "prune": "container prune",
        "ls": "ps",
        "list": "ps",
        "remove": "rm",
    },
    "image": {
        **{verb: verb for verb in "pull push tag history save load import flatten search".split()},
        "inspect": "image inspect",
        "prune": "image prune",
        "ls": "images",
        "list": "images",
        "rm": "rmi",
        "remove": "rmi",
    },
    "volume": {
        **{verb: f"volume {verb}" for verb in "create ls inspect rm prune".split()},
        "list": "volume ls",
        "remove": "volume rm",
    },
    "network": {
        **{
            verb: f"network {verb}"
            for verb in "create ls inspect rm prune connect disconnect".split()
        },
        "list": "network ls",
        "remove": "network rm",
    },
    "system": {
        "df": "system df",
        "prune": "system prune",
        "start": "system start",
        "stop": "system stop",
        "info": "info",
        "events": "events",
    },
    "generate": {"systemd": "generate systemd"},
    "config": {"show": "config show"},
}
# verbs of Docker that are known to be missing
_LATER = "build builder buildx compose plugin swarm"


def help_text() -> str:
    """Return the help of `rless` itself."""
    usage = "Usage: rless [--debug] [--storage DIR] [--cgroup-manager MANAGER] VERB ..."
    lines = [usage, "", "Run containers without root."]
    for heading, verbs in VERBS.items():
        lines += ["", f"{heading}:"]
        lines += [f"  {verb:<20}{summary}" for verb, (_, summary) in verbs.items()]
    lines += [
        "",
        "Options:",
        "  --debug        Print the time line, and tracebacks of internal errors",
        "  --storage DIR  Keep images and containers there (RLESS_STORAGE)",
        "  --cgroup-manager MANAGER",
        "                 systemd, cgroupfs or none (RLESS_CONTAINERS_CGROUP_MANAGER)",
        "  -v, --version  Print the version",
        "  --help         Print this text",
        "",
        "'rless container', 'rless image', 'rless network', 'rless volume' and 'rless system'",
        "group the verbs as Docker does: 'rless container ls' is 'rless ps'.",
        "'rless VERB --help' tells more about a verb.",
        "",
    ]
    return "\n".join(lines)


def group_help(group: str) -> str:
    """Return the help of a first word that has verbs of its own."""
    summaries = {verb: row[1] for verbs in VERBS.values() for verb, row in verbs.items()}
    lines = [f"Usage: rless {group} VERB ...", "", "Verbs:"]
    lines += [f"  {name:<18}{summaries[verb]}" for name, verb in ALIASES[group].items()]
    return "\n".join([*lines, "", f"'rless {group} VERB --help' tells more about a verb.", ""])


def find(words: list[str]) -> tuple[str, list[str]]:
    """Return the verb that `words` begin with, and the rest; aliases are resolved.

    Raises:
        RlessError: there is no such verb.
    """
    word, rest = words[0], words[1:]
    if word in ALIASES:
        names = ", ".join(ALIASES[word])
        if not rest or rest[0] not in ALIASES[word]:
            what = f"{word} {rest[0]}" if rest else word
            raise RlessError(f"no such verb: {what}", f"'rless {word}' takes {names}")
        return ALIASES[word][rest[0]], rest[1:]
    if " " not in word and any(word in verbs for verbs in VERBS.values()):
        return word, rest
    if word in _LATER.split():
        raise RlessError(f"the verb {word} is not supported: not built yet", "see 'rless --help'")
    raise RlessError(f"no such verb: {word}", "see 'rless --help'")


def load(verb: str) -> ModuleType:
    """Import and return the module of a verb."""
    module = next(verbs[verb][0] for verbs in VERBS.values() if verb in verbs)
    name = f"rootless.cli.verbs.{module}"
    __import__(name)
    return sys.modules[name]


def run_verb(verb: str, args: list[str]) -> int:
    """Parse `args` by the table of `verb` and run it."""
    from rootless.cli.parse import HelpWanted, parse

    module = load(verb)
    try:
        values, rest = parse(module.VERB, args)
    except HelpWanted:
        from rootless.cli.click_app import help_of

        streams.write(help_of(verb))
        return 0
    try:
        code: int = module.main(values, rest)
    except RlessError as error:
        if error.exit_code == EXIT_TOOL:
            error.exit_code = module.VERB.failure
        raise
    return code


def _dispatch(args: list[str]) -> int:
    """Take the flags that stand before the verb, then run the verb."""
    while args and args[0].startswith("-"):
        flag, equals, value = args.pop(0).partition("=")
        if flag in ("--help", "-h") and not equals:
            streams.write(help_text())
            return 0
        if flag in ("--version", "-v") and not equals:
            from rootless import __version__

            streams.write(f"rless {__version__}\n")
            return 0
        if flag == "--debug" and not equals:
            os.environ["RLESS_DEBUG"] = "1"
            from rootless import log

            log.enabled = True
        elif flag in ("--storage", "--cgroup-manager"):
            if not equals:
                if not args:
                    raise RlessError(f"flag needs a value: {flag}", "see 'rless --help'")
                value = args.pop(0)
            if not value:
                raise RlessError(f"{flag}: the value is empty", "see 'rless --help'")
            if flag == "--storage":
                os.environ["RLESS_STORAGE"] = os.path.abspath(value)
            else:
                os.environ["RLESS_CONTAINERS_CGROUP_MANAGER"] = (
                    value  # as Podman's; `run` judges it
                )
        else:
            raise RlessError(f"unknown flag: {flag}", "see 'rless --help'")
    if not args:
        streams.write(help_text())
        return 0
    if args[0] in ALIASES and args[1:] in ([], ["--help"], ["-h"]):
        streams.write(group_help(args[0]))
        return 0
    return run_verb(*find(args))


def main(argv: list[str] | None = None) -> int:
    """Run `rless` with the arguments `argv` (without the program's name); return its exit code."""
    try:
        streams.guard()
        if launch.front >= 0:  # who is in front has blocked it until now
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
        if "_RLESS_COMPLETE" in os.environ:
            from rootless.cli.click_app import complete

            return complete()
        if os.environ.get("RLESS_DEBUG") == "1":
            from rootless import log

            log.enabled = True
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        code = streams.report(error, debug=os.environ.get("RLESS_DEBUG") == "1")
        _drop_output()
        return code


def _drop_output() -> None:
    """Keep the interpreter from failing a second time when it flushes a stream at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
