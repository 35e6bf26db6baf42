"""The verbs of `rless` in two tables: the name of each, its module, and what it does.

The command line, its help, completion and docs/cli.md read them. The module of a verb is imported
only when the verb is used.
"""

from __future__ import annotations

import sys

from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

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
        "logs": ("container.logs", "Show the output of a container"),
        "stop": ("container.stop", "Stop containers: send a signal, then kill them"),
        "restart": ("container.restart", "Stop containers and start them again"),
        "kill": ("container.kill", "Send a signal to containers"),
        "pause": ("container.pause", "Pause all processes of containers"),
        "unpause": ("container.unpause", "Resume paused containers"),
        "wait": ("container.wait", "Wait until containers end and print their exit codes"),
        "rm": ("container.rm", "Remove containers"),
        "rename": ("container.rename", "Rename a container"),
        "update": ("container.update", "Change options of containers"),
        "inspect": (
            "system.inspect",
            "Show details of containers, images, networks or volumes as JSON",
        ),
        "top": ("container.top", "Show the processes of a container"),
        "stats": ("container.stats", "Show the resource usage of containers, live"),
        "port": ("container.port", "Show the published ports of a container"),
        "diff": ("container.diff", "Show changes to the files of a container"),
        "cp": ("container.cp", "Copy files between a container and the host"),
        "export": ("container.export", "Write the files of a container as a tar archive"),
        "commit": ("container.commit", "Make an image of a container's changes"),
        "container prune": ("container.prune", "Remove all containers that have ended"),
        "container inspect": ("container.inspect", "Show details of containers as JSON"),
        "container exists": (
            "container.exists",
            "Exit with 0 if there is such a container, else 1",
        ),
        "healthcheck run": ("container.healthcheck_run", "Run the health check of a container now"),
    },
    "Images": {
        "build": ("image.build", "Build an image from a Dockerfile"),
        "pull": ("image.pull", "Fetch an image from a registry or an archive"),
        "push": ("image.push", "Push an image to a registry"),
        "images": ("image.images", "List images"),
        "rmi": ("image.rmi", "Remove images"),
        "tag": ("image.tag", "Give an image another name"),
        "history": ("image.history", "Show the layers of an image"),
        "save": ("image.save", "Write images to an archive"),
        "load": ("image.load", "Read images from an archive"),
        "import": ("image.import_", "Make an image from a tar archive of files"),
        "flatten": (
            "image.flatten",
            "Write an image to one squashfs or SIF file, which can be run",
        ),
        "search": ("image.search", "Search a registry"),
        "login": ("image.login", "Log in to a registry"),
        "logout": ("image.logout", "Log out of a registry"),
        "image inspect": ("image.inspect", "Show details of images as JSON"),
        "image trust": ("image.trust", "Show and change which images are accepted, and tell why"),
        "image prune": ("image.prune", "Remove unused images"),
        "builder prune": ("image.builder_prune", "Remove the build cache"),
        "image exists": ("image.exists", "Exit with 0 if there is such an image, else 1"),
    },
    "Volumes": {
        "volume create": ("volume.create", "Create a volume"),
        "volume ls": ("volume.ls", "List volumes"),
        "volume inspect": ("volume.inspect", "Show details of volumes as JSON"),
        "volume rm": ("volume.rm", "Remove volumes"),
        "volume prune": ("volume.prune", "Remove volumes that no container uses"),
        "volume exists": ("volume.exists", "Exit with 0 if there is such a volume, else 1"),
    },
    "Networks": {
        "network create": ("network.create", "Create a network for several containers"),
        "network ls": ("network.ls", "List networks"),
        "network inspect": ("network.inspect", "Show details of networks as JSON"),
        "network rm": ("network.rm", "Remove networks"),
        "network prune": ("network.prune", "Remove networks that no container uses"),
        "network connect": ("network.connect", "Connect a container to a network"),
        "network disconnect": ("network.disconnect", "Disconnect a container from a network"),
        "network exists": ("network.exists", "Exit with 0 if there is such a network, else 1"),
    },
    "Host": {
        "info": ("system.info", "Show the state of rless and of this host"),
        "events": ("system.events", "Show events of containers, images, networks and volumes"),
        "system df": ("system.df", "Show the disk usage of images, containers and volumes"),
        "system prune": ("system.prune", "Remove everything that is not used"),
        "system reset": ("system.reset", "Remove all containers, images, networks and volumes"),
        "system start": ("system.start", "Start the containers that a boot restarts"),
        "system stop": ("system.stop", "Stop the containers that restart after a boot"),
        "config show": ("system.config_show", "Show the configuration"),
        "doctor": ("system.doctor", "Check this host, and show what to fix"),
        "unshare": ("system.unshare", "Run a command as root of your user namespace"),
        "service": ("service.serve", "Serve Docker's API on a unix socket"),
        "service start": ("service.start", "Have the service start when a client connects"),
        "service stop": ("service.stop", "End the service, and what starts it"),
        "service env": ("service.env", "Print the variables by which clients find the service"),
        "service run": ("service.run", "Run a command with these variables"),
        "service install": ("service.install", "Have the user's systemd start the service"),
        "service uninstall": ("service.uninstall", "Remove the units of the service"),
        "system dial-stdio": (
            "service.dial_stdio",
            "Connect standard input and output to the service, for DOCKER_HOST=ssh://",
        ),
        "generate systemd": (
            "system.generate_systemd",
            "Write a systemd user unit for a container",
        ),
        "slurm-config": ("system.slurm_config", "Print an oci.conf for Slurm"),
        "alias install": (
            "alias.install",
            "Make the commands apptainer, docker and others of rless",
        ),
        "alias ls": ("alias.ls", "List the commands that `alias install` has made"),
        "alias rm": ("alias.rm", "Remove commands that `alias install` has made"),
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
        "exists": "container exists",
        "prune": "container prune",
        "ls": "ps",
        "list": "ps",
        "remove": "rm",
    },
    "image": {
        **{
            verb: verb
            for verb in "build pull push tag history save load import flatten search".split()
        },
        "inspect": "image inspect",
        "exists": "image exists",
        "prune": "image prune",
        "trust": "image trust",
        "ls": "images",
        "list": "images",
        "rm": "rmi",
        "remove": "rmi",
    },
    "volume": {
        **{verb: f"volume {verb}" for verb in "create ls inspect exists rm prune".split()},
        "list": "volume ls",
        "remove": "volume rm",
    },
    "network": {
        **{
            verb: f"network {verb}"
            for verb in "create ls inspect exists rm prune connect disconnect".split()
        },
        "list": "network ls",
        "remove": "network rm",
    },
    "system": {
        "df": "system df",
        "prune": "system prune",
        "reset": "system reset",
        "start": "system start",
        "stop": "system stop",
        "info": "info",
        "events": "events",
        "service": "service",
        "dial-stdio": "system dial-stdio",
    },
    "builder": {"build": "build", "prune": "builder prune"},
    "buildx": {"build": "build", "prune": "builder prune"},
    "healthcheck": {"run": "healthcheck run"},
    "generate": {"systemd": "generate systemd"},
    "config": {"show": "config show"},
    "alias": {"install": "alias install", "ls": "alias ls", "list": "alias ls", "rm": "alias rm"},
}
# verbs of Docker and Podman that are known to be missing -> what to use meanwhile
_SERVICES = "use `rless network create`, and `rless run --network` for each service"
_LATER = {
    "compose": _SERVICES,
    "pod": "use `rless run --network container:NAME`",
    "plugin": "see 'rless --help'",
}
# Verbs of Docker's swarm. Those of its services would be the paths of a socket here.
_SWARM = ("swarm", "node", "stack")
_SWARM_SERVICE = "create inspect logs ls list ps remove rm rollback scale update".split()


def help_text() -> str:
    """Return the help of `rless` itself."""
    usage = "Usage: rless [--debug] [--storage DIR] [--cgroup-manager MANAGER] VERB ..."
    lines = [
        usage,
        "",
        "Run containers without root.",
        verbs_text(),
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


def verbs_text() -> str:
    """Return the verbs and what each does, by their headings, between empty lines."""
    lines = []
    for heading, verbs in VERBS.items():
        lines += ["", f"{heading}:"]
        lines += [f"  {verb:<20}{summary}" for verb, (_, summary) in verbs.items()]
    return "\n".join([*lines, ""])


def group_help(group: str) -> str:
    """Return the help of a first word that has verbs of its own."""
    summaries = {verb: row[1] for verbs in VERBS.values() for verb, row in verbs.items()}
    lines = [f"Usage: rless {group} VERB ...", "", "Verbs:"]
    lines += [f"  {name:<18}{summaries[verb]}" for name, verb in ALIASES[group].items()]
    return "\n".join([*lines, "", f"'rless {group} VERB --help' tells more about a verb.", ""])


def aliases_of(verb: str) -> list[str]:
    """Return the command lines that are the same as `rless VERB`."""
    return [
        f"rless {group} {word}"
        for group, words in ALIASES.items()
        for word, target in words.items()
        if target == verb and f"{group} {word}" != verb
    ]


def find(words: list[str]) -> tuple[str, list[str]]:
    """Return the verb that `words` begin with, and the rest; aliases are resolved.

    Raises:
        RlessError: there is no such verb.
    """
    word, rest = words[0], words[1:]
    if word in ALIASES:
        names = ", ".join(ALIASES[word])
        if not rest or rest[0] not in ALIASES[word]:
            what = f"{word} {rest[0]}{_near(rest[0], ALIASES[word])}" if rest else word
            raise RlessError(f"no such verb: {what}", f"'rless {word}' takes {names}")
        return _longer(ALIASES[word][rest[0]], rest[1:])
    if " " not in word and any(word in verbs for verbs in VERBS.values()):
        return _longer(word, rest)
    if word in _LATER:
        raise RlessError(f"the verb {word} is not supported: not built yet", _LATER[word])
    if word in _SWARM:
        raise _of_swarm(word)
    known = [verb for verbs in VERBS.values() for verb in verbs if " " not in verb]
    near = _near(word, [*known, *ALIASES, *_LATER])
    raise RlessError(f"no such verb: {word}{near}", "see 'rless --help'")


def _longer(verb: str, rest: list[str]) -> tuple[str, list[str]]:
    """Return the verb of one word more, if there is one: `service env`.

    Raises:
        RlessError: it is one of swarm's.
    """
    if verb == "service" and rest and any(f"{verb} {rest[0]}" in verbs for verbs in VERBS.values()):
        return f"{verb} {rest[0]}", rest[1:]
    if verb == "service" and rest and rest[0] in _SWARM_SERVICE:
        raise _of_swarm(f"{verb} {rest[0]}")
    return verb, rest


def _of_swarm(verb: str) -> RlessError:
    return RlessError(
        f"the verb {verb} is not supported: it is one of swarm, and rless has no cluster",
        "for services of this host use docker compose, see docs/service.md",
    )


def _near(word: str, known: Iterable[str]) -> str:
    from rootless.cli.parse import did_you_mean

    return did_you_mean(word, list(known))


def load(verb: str) -> ModuleType:
    """Import and return the module of a verb."""
    module = next(verbs[verb][0] for verbs in VERBS.values() if verb in verbs)
    name = f"rootless.cli.verbs.{module}"
    __import__(name)
    return sys.modules[name]
