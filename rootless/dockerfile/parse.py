"""From nodes to instructions.

Source: BuildKit frontend/dockerfile/instructions/parse.go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rootless.dockerfile import instructions as form
from rootless.dockerfile.arguments import (
    blank_words,
    command_words,
    health_words,
    json_words,
    list_words,
    pairs,
)
from rootless.dockerfile.durations import parse_duration
from rootless.dockerfile.errors import DockerfileError, nearest
from rootless.dockerfile.flags import Flags, parse_flags
from rootless.dockerfile.heredocs import parse_heredoc
from rootless.dockerfile.mounts import mount_origin, parse_device, parse_mount
from rootless.dockerfile.reader import read, split_node
from rootless.dockerfile.words import split
from rootless.frozen import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.dockerfile.reader import Node

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_NO_TRIGGERS = ("ONBUILD", "FROM", "MAINTAINER")


def parse_instruction(node: Node) -> form.Instruction:
    """Return the instruction that a node is.

    Raises:
        DockerfileError: an unknown name, or something wrong after it; with its lines.
    """
    name = node.name.upper()
    parser = _PARSERS.get(name)
    try:
        if parser is None:
            raise DockerfileError(
                f"{node.name[:40]} is no instruction", nearest(name, tuple(_PARSERS))
            )
        return parser(node, parse_flags(name, node.flags))
    except DockerfileError as error:
        raise error.at(node.line, node.last) from error


def parse_trigger(text: str, line: int = 0, last: int = 0) -> form.Instruction:
    """Return the instruction of a text of ONBUILD, as it stands in an image's config.

    Args:
        line, last: the lines of the FROM that names the image: the text has none of its own.

    Raises:
        DockerfileError: it is not exactly one instruction, or one that is no trigger.
    """
    nodes = read(text).nodes
    if len(nodes) != 1:
        raise DockerfileError(
            f"ONBUILD {text[:80]!r}: this is more than one instruction", None, line, last
        )
    if nodes[0].name.upper() in _NO_TRIGGERS:
        raise DockerfileError(
            f"ONBUILD: {nodes[0].name.upper()} cannot be a trigger", None, line, last
        )
    return parse_instruction(replace(nodes[0], line=line, last=last))


def _command(node: Node) -> form.Command:
    words, is_json = command_words(node.rest)
    return form.Command(node.rest, tuple(words) if is_json else None)


def _one_word(node: Node) -> str:
    if not node.rest:
        raise DockerfileError(f"{node.name.upper()} needs an argument")
    return node.rest


def _from(node: Node, flags: Flags) -> form.From:
    words = blank_words(node.rest)
    if len(words) == 1:
        return form.From(node, words[0], flags.text("platform"))
    if len(words) != 3 or words[1].upper() != "AS":
        raise DockerfileError("FROM takes one name, or one and a stage", "write FROM IMAGE AS NAME")
    stage = words[2].lower()
    if not _STAGE_NAME.fullmatch(stage):
        raise DockerfileError(
            f"{words[2]!r} is no name of a stage", "use a letter, then letters, digits, - _ ."
        )
    return form.From(node, words[0], flags.text("platform"), stage, words[2], words[1])


def _run(node: Node, flags: Flags) -> form.Run:
    network = flags.text("network") or "default"
    if network not in ("default", "none", "host"):
        raise DockerfileError(f"--network={network}: it is default, none or host")
    security = flags.text("security") or "sandbox"
    if security not in ("sandbox", "insecure"):
        raise DockerfileError(f"--security={security}: it is sandbox or insecure")
    command = _command(node)
    if not command.text or command.argv == ():
        raise DockerfileError("RUN needs a command")
    mounts = flags.list("mount")
    for text in mounts:
        if "$" in text:
            mount_origin(text)
        else:
            parse_mount(text)
    devices = tuple(map(parse_device, flags.list("device")))
    return form.Run(node, command, mounts, network, security, devices)


def _places(node: Node) -> tuple[tuple[str, ...], str, tuple[form.InlineFile, ...]]:
    """Return sources, destination and files of COPY or ADD."""
    name = node.name.upper()
    words = list_words(node.rest)
    if len(words) < 2:
        raise DockerfileError(f"{name} needs a source and a destination")
    destination = words.pop()
    if parse_heredoc(destination) is not None:
        raise DockerfileError(f"{name}: a here-document cannot be the destination")
    bodies = {heredoc.name: heredoc for heredoc in node.heredocs}
    sources, files = [], []
    for word in words:
        heredoc = parse_heredoc(word) if bodies else None
        if heredoc is None:
            sources.append(word)
        else:
            heredoc = bodies.get(heredoc.name, heredoc)
            files.append(form.InlineFile(heredoc.name, heredoc.body, heredoc.expands))
    return tuple(sources), destination, tuple(files)


def _copy(node: Node, flags: Flags) -> form.Copy:
    origin = flags.text("from")
    if "$" in origin:
        raise DockerfileError(
            f"--from={origin}: there are no variables in it",
            "define a stage by FROM, and name that",
        )
    return form.Copy(
        node,
        *_places(node),
        flags.text("chown"),
        flags.text("chmod"),
        bool(flags.switch("link")),
        flags.list("exclude"),
        origin,
        bool(flags.switch("parents")),
    )


def _add(node: Node, flags: Flags) -> form.Add:
    return form.Add(
        node,
        *_places(node),
        flags.text("chown"),
        flags.text("chmod"),
        bool(flags.switch("link")),
        flags.list("exclude"),
        flags.text("checksum"),
        flags.switch("keep-git-dir"),
        flags.switch("unpack"),
    )


def _pairs(node: Node) -> tuple[tuple[tuple[str, str], ...], bool]:
    _one_word(node)
    found, is_legacy = pairs(node.name.upper(), node.rest, node.escape)
    return tuple(found), is_legacy


def _env(node: Node, flags: Flags) -> form.Env:
    return form.Env(node, *_pairs(node))


def _label(node: Node, flags: Flags) -> form.Label:
    return form.Label(node, *_pairs(node))


def _arg(node: Node, flags: Flags) -> form.Arg:
    args = []
    for word in split(_one_word(node), node.escape):
        key, equals, value = word.partition("=")
        if not key:
            raise DockerfileError("ARG: a name cannot be empty")
        args.append((key, value if equals else None))
    return form.Arg(node, tuple(args))


def _cmd(node: Node, flags: Flags) -> form.Cmd:
    _one_word(node)
    return form.Cmd(node, _command(node))


def _entrypoint(node: Node, flags: Flags) -> form.Entrypoint:
    _one_word(node)
    return form.Entrypoint(node, _command(node))


def _shell(node: Node, flags: Flags) -> form.Shell:
    words = json_words(_one_word(node))
    if not words:
        raise DockerfileError(
            "SHELL takes the JSON form, with one word at least", 'write SHELL ["/bin/sh", "-c"]'
        )
    return form.Shell(node, tuple(words))


def _expose(node: Node, flags: Flags) -> form.Expose:
    return form.Expose(node, tuple(split(_one_word(node), node.escape)))


def _volume(node: Node, flags: Flags) -> form.Volume:
    paths = list_words(_one_word(node))
    if not paths or not all(path.strip() for path in paths):
        raise DockerfileError("VOLUME: a path cannot be empty")
    return form.Volume(node, tuple(paths))


def _user(node: Node, flags: Flags) -> form.User:
    words = split(_one_word(node), node.escape)
    if len(words) != 1:
        raise DockerfileError("USER takes one argument")
    return form.User(node, node.rest)


def _workdir(node: Node, flags: Flags) -> form.Workdir:
    return form.Workdir(node, _one_word(node))


def _healthcheck(node: Node, flags: Flags) -> form.Healthcheck:
    words, is_json = health_words(_one_word(node))
    kind, command = words[0].upper(), words[1:]
    if kind == "NONE" and not command and not flags:
        return form.Healthcheck(node, None)
    if kind != "CMD" or not command:
        raise DockerfileError(
            "HEALTHCHECK takes NONE alone, or flags and CMD with a command",
            nearest(kind, ("CMD", "NONE")),
        )
    retries = flags.text("retries") or "0"
    if len(retries) > 9 or not (retries.isascii() and retries.isdigit()):
        raise DockerfileError(f"--retries={retries}: this is no number of retries")

    def time(name: str) -> int:
        return parse_duration(name, flags.text(name)) if flags.text(name) else 0

    return form.Healthcheck(
        node,
        form.Command(command[0], tuple(command) if is_json else None),
        time("interval"),
        time("timeout"),
        time("start-period"),
        time("start-interval"),
        int(retries),
    )


def _stopsignal(node: Node, flags: Flags) -> form.Stopsignal:
    return form.Stopsignal(node, _one_word(node))


def _onbuild(node: Node, flags: Flags) -> form.Onbuild:
    name, words, rest = split_node(_one_word(node), node.escape)
    if name.upper() in _NO_TRIGGERS:
        raise DockerfileError(f"ONBUILD: {name.upper()} cannot be a trigger")
    inner = replace(node, name=name, flags=words, rest=rest, original=node.rest, comments=())
    bodies = "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in node.heredocs)
    return form.Onbuild(node, node.rest + bodies, parse_instruction(inner))


def _maintainer(node: Node, flags: Flags) -> form.Maintainer:
    return form.Maintainer(node, _one_word(node))


_PARSERS: dict[str, Callable[[Node, Flags], form.Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
