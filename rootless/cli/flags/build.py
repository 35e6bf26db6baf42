"""Read the values of flags of `build`."""

from __future__ import annotations

import os

from rootless.cli.flags.values import boolean, choice, line, platform, refuse, text
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.engine.build.request import Agent, Secret

PROGRESS = ("auto", "tty", "plain", "quiet", "rawjson")
_NAME = frozenset("-._")  # of an id, beside letters and digits


def tag(value: str) -> str:
    """Return a name for an image, checked."""
    from rootless.image.model.reference import parse_name

    try:
        parse_name(value)
    except RlessError as error:
        error.exit_code = 125  # a flag is wrong
        raise
    return value


def build_arg(value: str) -> tuple[str, str | None]:
    """Return name and value; None: of the environment."""
    name, equals, content = text(value).partition("=")
    if not name or any(char.isspace() for char in name):
        raise ValueError("has no name")
    return name, content if equals else None


def build_context(value: str) -> tuple[str, str]:
    """Return the name of a context (in lower case, as stages' are), and what it is."""
    name, equals, source = text(value).partition("=")
    if not name or not equals or not source:
        raise ValueError("is not NAME=SOURCE")
    return name.lower(), source


def platforms(value: str) -> list[str]:
    """Return platforms, which commas separate."""
    return list(filter(None, map(platform, words(value))))


def words(value: str) -> list[str]:
    """Return what commas separate."""
    return [word for word in line(value).split(",") if word]


def allow(value: str) -> list[str]:
    """Return entitlements."""
    return [
        word
        if word.startswith("device=")
        else choice(word, "network.host", "security.insecure", "device")
        for word in words(value)
    ]


def network(value: str) -> str | None:
    """Return the network mode of RUN: None for the default (pasta), none, host, pasta:OPTIONS."""
    from rootless.cli.flags.network import network as mode_of

    mode = mode_of(value)
    if mode is None or mode in ("none", "host"):
        return mode
    if isinstance(mode, str) and mode.startswith("pasta:"):
        return mode
    raise refuse(f"--network {value}", "a build has a network of its own", "default, none or host")


def userns(value: str) -> str:
    """Return the id map policy: root of the build is always the caller."""
    return choice("host-root" if value == "host" else value, "auto", "host-root", "single")


def progress(value: str) -> str:
    """Return a form of progress."""
    return choice(value, *PROGRESS)


def secret(value: str) -> Secret:
    """Return a secret of `id=ID[,src=FILE|,env=NAME][,type=file|env]`, which must be there."""
    fields = _fields(value, ("id", "src", "env", "type"), {"source": "src"})
    identifier = fields.get("id", "")
    if not identifier:
        raise ValueError("has no id=")
    kind = choice(fields.get("type", "file"), "file", "env")
    path, env = fields.get("src", ""), fields.get("env", "")
    if path and env:
        raise ValueError("has both src= and env=")
    if kind == "env" and not env:
        path, env = "", path or identifier
    elif "type" not in fields and not path and not env and identifier in os.environ:
        env = identifier
    from rootless.engine.build.request import Secret

    if env:
        if env not in os.environ:
            raise RlessError(
                f"--secret id={escape(identifier)}: the variable {escape(env)} is not set"
            )
        return Secret(identifier, env=env)
    path = os.path.abspath(path or identifier)
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        raise RlessError(
            f"--secret id={escape(identifier)}: {escape(path)} is no file that you can read",
            "name another by src=FILE, or a variable by env=NAME",
        )
    return Secret(identifier, path)


def ssh(value: str) -> Agent:
    """Return an agent of `default` or `ID[=SOCKET|KEY[,KEY...]]`."""
    from rootless.engine.build.request import Agent

    name, equals, rest = line(value).partition("=")
    name = name or "default"
    if not all(char.isalnum() or char in _NAME for char in name):
        raise ValueError("has no id")
    paths = tuple(os.path.abspath(os.path.expanduser(path)) for path in rest.split(",") if path)
    if equals and not paths:
        raise ValueError("names no socket and no key")
    for path in paths:
        if not os.path.exists(path):
            raise RlessError(f"--ssh {escape(name)}: {escape(path)} is not there")
    if not paths and not os.environ.get("SSH_AUTH_SOCK"):
        raise RlessError(
            f"--ssh {escape(name)}: no agent runs: SSH_AUTH_SOCK is not set",
            "start one with ssh-agent, or name a key: --ssh default=FILE",
        )
    return Agent(name, paths)


def provenance(value: str) -> None:
    """Accept "false": there is none."""
    if value.lower() not in ("false", "0"):
        raise refuse(f"--provenance={value}", "not built yet", "--provenance=false")


def sbom(value: str) -> None:
    """Accept "false": there is none."""
    if value.lower() not in ("false", "0"):
        raise refuse(
            "--sbom", "rless does not look into packages", "use syft on the image: rless save IMAGE"
        )


def call(value: str) -> tuple[str, str]:
    """Return method and format of `METHOD[,format=json]`; no method: a build."""
    method, *options = words(value)
    choice(method, "build", "check", "outline", "targets")
    form = ""
    for option in options:
        key, _, form = option.partition("=")
        if key != "format":
            raise ValueError(f"has {option!r}, which is not format=json")
        choice(form, "json", "text", "default")
    return "" if method == "build" else method, "json" if form == "json" else ""


def jobs(value: str) -> int:
    """Return a number of steps, 1 or more."""
    if not (value.isascii() and value.isdecimal()) or not 0 < int(value[:9]) < 10_000:
        raise ValueError("is not a number from 1 to 9999")
    return int(value)


def remove(value: str) -> None:
    """Accept true: a step leaves no container."""
    if not boolean(value):
        raise refuse("--rm=false", "a step has no container that could be kept")


def _fields(value: str, known: tuple[str, ...], same: dict[str, str]) -> dict[str, str]:
    """Return KEY=VALUE of a record with commas."""
    from rootless.dockerfile.mounts import split_csv

    found: dict[str, str] = {}
    for field in split_csv(line(value)):
        key, equals, content = field.partition("=")
        key = same.get(key.lower(), key.lower())
        if not equals:
            raise ValueError(f"has {field!r}, which is not KEY=VALUE")
        if key not in known:
            raise ValueError(f"has the unknown key {key!r}; it takes {', '.join(known)}")
        found[key] = content
    return found
