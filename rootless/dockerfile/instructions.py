"""The instructions of a Dockerfile as values.

`parse_instruction` (`parse.py`) makes them from nodes. Words in which variables may stand are kept
as they were written: `instruction.expanded(variables)` returns the same instruction with values for
them. What never has variables (RUN's command, CMD, SHELL) is the same afterwards.

Source: docs.docker.com/reference/dockerfile; BuildKit frontend/dockerfile/instructions/commands.go.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from rootless.dockerfile.errors import DockerfileError
from rootless.dockerfile.heredocs import parse_heredoc
from rootless.dockerfile.mounts import Device, Mount, mount_origin, parse_mount
from rootless.dockerfile.words import Expander
from rootless.frozen import Frozen, replace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeVar

    from rootless.dockerfile.reader import Node

    _Self = TypeVar("_Self", bound="Instruction")

_GIT = ("git@", "git://", "ssh://")
_WEB = ("http://", "https://")


class Instruction(Frozen):
    """What all instructions have: the node knows the name as written, the lines and the text."""

    _uncompared = ("node",)

    node: Node

    @property
    def name(self) -> str:
        """The name in capitals."""
        return self.node.name.upper()

    def expanded(self: _Self, variables: Mapping[str, str], unset: set[str] | None = None) -> _Self:
        """Return the instruction with values for its variables.

        Args:
            variables: the values at this place (`scope.StageScope.variables`).
            unset: gets the names that are used and have no value.

        Raises:
            DockerfileError: a bad substitution, or what comes out is no value for this place.
        """
        expander = Expander(variables, self.node.escape)
        try:
            return self._expanded(expander)
        except DockerfileError as error:
            raise error.at(self.node.line, self.node.last) from error
        finally:
            if unset is not None:
                unset |= expander.unset

    def _expanded(self: _Self, expander: Expander) -> _Self:
        return self


class Command(Frozen):
    """A command: `argv` of the JSON form, or the `text` of the shell form.

    `argv` is None in the shell form. In the JSON form `text` is the JSON as written.
    """

    text: str
    argv: tuple[str, ...] | None = None

    def words(self, shell: Sequence[str]) -> list[str]:
        """Return the argument list; `shell` is that of SHELL, used by the shell form."""
        return [*shell, self.text] if self.argv is None else list(self.argv)


class From(Instruction):
    """`FROM [--platform=P] IMAGE [AS NAME]`; only global ARGs are expanded in it.

    Attributes:
        stage: the stage's name in lower case, "" if it has none.
        stage_as_written, as_keyword: the same as written, for checks.
    """

    image: str
    platform: str = ""
    stage: str = ""
    stage_as_written: str = ""
    as_keyword: str = ""

    def _expanded(self, expander: Expander) -> From:
        image, platform = expander.word(self.image), expander.word(self.platform)
        if not image:
            raise DockerfileError(f"FROM {self.image}: this is no name of an image: it is empty")
        return replace(self, image=image, platform=platform)


class Run(Instruction):
    """`RUN`; its here-documents are those of the node.

    Attributes:
        mount_flags: the values of `--mount` as written.
        mounts: what they say, filled in by `expanded`.
        network: default, none or host.
        security: sandbox or insecure.
    """

    command: Command
    mount_flags: tuple[str, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[Device, ...] = ()
    mounts: tuple[Mount, ...] = ()

    def script(self) -> str | None:
        """Return the body to be executed as a file: the one here-document, alone, with `#!`."""
        body = self._lone_body()
        return body if body is not None and body.startswith("#!") else None

    def interpreter(self) -> tuple[str, ...]:
        """Return the words before the name of the file that `script` is."""
        return ()

    def argv(self, shell: Sequence[str]) -> list[str]:
        """Return the argument list of the step, unless `script` is to be run."""
        if self.command.argv is not None:
            return list(self.command.argv)
        text = self._lone_body()
        if text is None:
            # The shell reads its here-documents itself.
            bodies = (f"\n{doc.content}{doc.name}" for doc in self.node.heredocs)
            text = self.command.text + "".join(bodies)
        return [*shell, text]

    def origins(self) -> list[str]:
        """Return the values of `from` of its mounts: stages, contexts, images."""
        return [origin for origin in map(mount_origin, self.mount_flags) if origin]

    def _lone_body(self) -> str | None:
        heredocs = self.node.heredocs
        if len(heredocs) == 1 and parse_heredoc(self.command.text) is not None:
            return heredocs[0].body
        return None

    def _expanded(self, expander: Expander) -> Run:
        mounts = tuple(parse_mount(text, expander.word) for text in self.mount_flags)
        return replace(self, mounts=mounts)


class InlineFile(Frozen):
    """A file that COPY or ADD makes from a here-document."""

    name: str
    content: str
    expands: bool = True


class Copy(Instruction):
    """`COPY`; here-documents among the sources are `files`.

    Attributes:
        origin: the value of `--from`: a stage, its number, a context or an image; "" for the
            build's context.
        chown, chmod: as written, "" without the flag.
        like_cp: a directory goes into one that is there, as by `cp -r`; no flag says so.
    """

    sources: tuple[str, ...]
    destination: str
    files: tuple[InlineFile, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    excludes: tuple[str, ...] = ()
    origin: str = ""
    parents: bool = False
    like_cp: bool = False

    def _expanded(self, expander: Expander) -> Copy:
        done = _expanded_copy(self, expander)
        for source in done.sources:
            if source.startswith((*_WEB, *_GIT)):
                raise DockerfileError(f"COPY {source}: COPY takes no URLs", "use ADD")
        return done


class Add(Instruction):
    """`ADD`; see `Copy`. The switches are None where they were not written."""

    sources: tuple[str, ...]
    destination: str
    files: tuple[InlineFile, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    excludes: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None

    def _expanded(self, expander: Expander) -> Add:
        return replace(_expanded_copy(self, expander), checksum=expander.word(self.checksum))


class Pairs(Instruction):
    """ENV and LABEL: names with values; `is_legacy` is the form without `=`."""

    pairs: tuple[tuple[str, str], ...]
    is_legacy: bool = False

    def _expanded(self: _Pairs, expander: Expander) -> _Pairs:
        pairs = tuple((expander.word(key), expander.word(value)) for key, value in self.pairs)
        if not all(key for key, _ in pairs):
            raise DockerfileError(f"{self.name}: a name cannot be empty")
        return replace(self, pairs=pairs)


class Env(Pairs):
    """`ENV`."""


class Label(Pairs):
    """`LABEL`."""


class Arg(Instruction):
    """`ARG`: names with defaults, None for those without one."""

    args: tuple[tuple[str, str | None], ...]

    def _expanded(self, expander: Expander) -> Arg:
        args = []
        for key, value in self.args:
            args.append((expander.word(key), None if value is None else expander.word(value)))
        return replace(self, args=tuple(args))


class Cmd(Instruction):
    """`CMD`."""

    command: Command


class Entrypoint(Instruction):
    """`ENTRYPOINT`."""

    command: Command


class Shell(Instruction):
    """`SHELL`."""

    argv: tuple[str, ...]


class Expose(Instruction):
    """`EXPOSE`; once expanded, `ports` are words without blanks (`config.exposed`)."""

    ports: tuple[str, ...]

    def _expanded(self, expander: Expander) -> Expose:
        words = [word for port in self.ports for word in expander.words(port)]
        return replace(self, ports=tuple(words))


class Volume(Instruction):
    """`VOLUME`."""

    paths: tuple[str, ...]

    def _expanded(self, expander: Expander) -> Volume:
        paths = tuple(expander.word(path).strip() for path in self.paths)
        if not all(paths):
            raise DockerfileError("VOLUME: a path cannot be empty")
        return replace(self, paths=paths)


class User(Instruction):
    """`USER`; its value is not checked before a step needs it."""

    user: str

    def _expanded(self, expander: Expander) -> User:
        user = expander.word(self.user)
        if not user:
            raise DockerfileError("USER: the user cannot be empty")
        return replace(self, user=user)


class Workdir(Instruction):
    """`WORKDIR`; `below` gives the directory that it makes."""

    path: str

    def below(self, current: str) -> str:
        """Return the directory, absolute and cleaned; `current` is the one before."""
        joined = posixpath.normpath(posixpath.join("/", current or "/", self.path))
        return "/" + joined.lstrip("/")

    def _expanded(self, expander: Expander) -> Workdir:
        path = expander.word(self.path)
        if not path:
            raise DockerfileError("WORKDIR: the path cannot be empty")
        return replace(self, path=path)


class Healthcheck(Instruction):
    """`HEALTHCHECK`; `command` is None for NONE. Durations are in nanoseconds, 0 for none."""

    command: Command | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Stopsignal(Instruction):
    """`STOPSIGNAL`; its value is checked when the config is changed (`config.apply`)."""

    signal: str

    def _expanded(self, expander: Expander) -> Stopsignal:
        return replace(self, signal=expander.word(self.signal))


class Onbuild(Instruction):
    """`ONBUILD`.

    Attributes:
        trigger: what stands in the image's config: one instruction, with its here-documents.
        instruction: the same as a value; its lines are those of this file.
    """

    trigger: str
    instruction: Instruction


class Maintainer(Instruction):
    """`MAINTAINER`, deprecated."""

    author: str


def _expanded_copy(copy: _Copying, expander: Expander) -> _Copying:
    """Return COPY or ADD with values for what both have.

    In the body of a here-document quotes mean nothing, and the escape character is always `\\`.
    """
    bodies = Expander(expander.variables, quotes=False)
    files = []
    for file in copy.files:
        content = bodies.word(file.content) if file.expands else file.content
        files.append(replace(file, content=content))
    expander.unset |= bodies.unset
    return replace(
        copy,
        sources=tuple(expander.word(source) for source in copy.sources),
        destination=expander.word(copy.destination),
        files=tuple(files),
        chown=expander.word(copy.chown),
        chmod=expander.word(copy.chmod),
    )


if TYPE_CHECKING:
    _Pairs = TypeVar("_Pairs", bound=Pairs)
    _Copying = TypeVar("_Copying", Copy, Add)
