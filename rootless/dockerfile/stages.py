"""A whole Dockerfile: its global ARGs and its stages, and what the names in it mean.

Source: docs.docker.com/build/building/multi-stage; BuildKit
frontend/dockerfile/dockerfile2llb/convert.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rootless.dockerfile.errors import DockerfileError, nearest
from rootless.dockerfile.instructions import Arg, Copy, From, Instruction, Onbuild, Run
from rootless.dockerfile.parse import parse_instruction
from rootless.dockerfile.reader import Directives, Finding, read, with_check
from rootless.frozen import Frozen, replace

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

STAGE_LIMIT = 500


class Stage(Frozen):
    """A FROM and what follows it, in the order of the file; the first stage has the index 0."""

    index: int
    base: From
    instructions: tuple[Instruction, ...] = ()

    @property
    def name(self) -> str:
        """Its name in lower case, "" if it has none."""
        return self.base.stage

    @property
    def title(self) -> str:
        """How it is called where it is shown: by its name, or stage-N."""
        return self.name or f"stage-{self.index}"


class Origin(Frozen):
    """What a name in FROM, `--from` or a mount's `from` means.

    Attributes:
        name: as it was written, expanded; that of a context is its key in the contexts.
        stage: the stage's index, -1 if it is none.
    """

    kind: Literal["context", "stage", "scratch", "image"]
    name: str
    stage: int = -1


class Dockerfile(Frozen):
    """A parsed file.

    Attributes:
        text: the file, decoded.
        args: the ARGs before the first FROM.
        warnings: what the reader found (the other checks: `checks.check`).
    """

    text: str
    directives: Directives
    args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    warnings: tuple[Finding, ...] = ()

    def with_check(self, text: str) -> Dockerfile:
        """Return the file with another `check` directive (BUILDKIT_DOCKERFILE_CHECK).

        Raises:
            DockerfileError: something is wrong in it.
        """
        return replace(self, directives=with_check(self.directives, text))

    def target(self, name: str | None = None) -> Stage:
        """Return the stage of `--target`, or the last one.

        Raises:
            DockerfileError: there is none of this name.
        """
        if name is None:
            return self.stages[-1]
        stage = self._named(name, len(self.stages))
        if stage is None:
            names = [stage.name for stage in self.stages if stage.name]
            hint = nearest(name.lower(), names)
            if hint is None and names:
                hint = f"its stages are {', '.join(dict.fromkeys(names))}"
            raise DockerfileError(f"the Dockerfile has no stage {name!r}", hint)
        return stage

    def base_of(
        self, stage: Stage, variables: Mapping[str, str], contexts: Collection[str] = ()
    ) -> Origin:
        """Return what a stage is built on.

        Args:
            variables: the global ARGs (`scope.GlobalScope.variables`).
            contexts: names of `--build-context`; they come before stages and images.

        Raises:
            DockerfileError: the name is empty after expansion, or wrong.
        """
        name = stage.base.expanded(variables).image
        context = _context(name, contexts)
        if context is not None:
            return Origin("context", context)
        earlier = self._named(name, stage.index)
        if earlier is not None:
            return Origin("stage", name, earlier.index)
        return Origin("scratch" if name == "scratch" else "image", name)

    def origin_of(
        self, stage: Stage, name: str, contexts: Collection[str] = (), numbers: bool = False
    ) -> Origin:
        """Return what `COPY --from=NAME` or a mount's `from=NAME` means in a stage.

        Args:
            numbers: a number is a stage's index, as it is for COPY.

        Raises:
            DockerfileError: a stage that does not stand before this one.
        """
        context = _context(name, contexts)
        if context is not None:
            return Origin("context", context)
        if numbers and name.isascii() and name.isdigit():
            index = int(name[:9])
            if index >= stage.index:
                raise DockerfileError(f"--from={name}: stage {name} is not before this one")
            return Origin("stage", name, index)
        earlier = self._named(name, stage.index)
        if earlier is not None:
            return Origin("stage", name, earlier.index)
        if self._named(name, len(self.stages)) is not None:
            raise DockerfileError(
                f"from={name}: the stage needs to be defined before the current stage"
            )
        return Origin("scratch" if name == "scratch" else "image", name)

    def origins_of(
        self,
        stage: Stage,
        contexts: Collection[str] = (),
        triggers: Collection[Instruction] = (),
    ) -> list[Origin]:
        """Return what a stage's COPYs and mounts take files from, without the build's context.

        Args:
            triggers: instructions of its base's ONBUILD.

        Raises:
            DockerfileError: as `origin_of`, with the lines of the instruction.
        """
        found = []
        for instruction in (*triggers, *stage.instructions):
            for name, numbers in _names(instruction):
                try:
                    found.append(self.origin_of(stage, name, contexts, numbers))
                except DockerfileError as error:
                    node = instruction.node
                    raise error.at(node.line, node.last) from error
        return found

    def needed(
        self,
        target: Stage,
        variables: Mapping[str, str],
        contexts: Collection[str] = (),
        triggers: Mapping[int, Collection[Instruction]] | None = None,
    ) -> list[Stage]:
        """Return the stages that a target needs, with itself, in the order of the file.

        Stages need only earlier ones, so in this order each one's needs come first.

        Args:
            triggers: by a stage's index the instructions of the ONBUILD of its base image. Those of
                a stage of this file are known. They can name more stages: ask again with them.

        Raises:
            DockerfileError: a name in a needed stage means no stage that can be used there.
        """
        found: set[int] = set()
        waiting = [target.index]
        while waiting:
            index = waiting.pop()
            if index in found:
                continue
            found.add(index)
            stage = self.stages[index]
            base = self.base_of(stage, variables, contexts)
            own = [*(triggers or {}).get(index, ())]
            if base.stage >= 0:
                own += self.stage_triggers(base.stage)
            for origin in (base, *self.origins_of(stage, contexts, own)):
                if origin.stage >= 0:
                    waiting.append(origin.stage)
        return [self.stages[index] for index in sorted(found)]

    def stage_triggers(self, index: int) -> list[Instruction]:
        """Return the instructions of the ONBUILD of a stage, for the stages built on it."""
        return [
            instruction.instruction
            for instruction in self.stages[index].instructions
            if isinstance(instruction, Onbuild)
        ]

    def _named(self, name: str, before: int) -> Stage | None:
        """Return the last stage of a name whose index is below `before`."""
        for stage in reversed(self.stages[:before]):
            if stage.name and stage.name == name.lower():
                return stage
        return None


def parse(data: bytes | str) -> Dockerfile:
    """Parse a Dockerfile.

    Raises:
        DockerfileError: it is wrong, with the lines (`errors.show_lines` shows them).
    """
    source = read(data)
    args: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    for node in source.nodes:
        instruction = parse_instruction(node)
        if isinstance(instruction, From):
            stages.append((instruction, []))
            if len(stages) > STAGE_LIMIT:
                raise DockerfileError(f"more than {STAGE_LIMIT} stages", None, node.line)
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            args.append(instruction)
        else:
            raise DockerfileError(
                f"{instruction.name} stands before the first FROM",
                "only ARG can",
                node.line,
                node.last,
            )
    if not stages:
        raise DockerfileError("the Dockerfile has no FROM", "begin the build with FROM IMAGE")
    return Dockerfile(
        source.text,
        source.directives,
        tuple(args),
        tuple(Stage(index, base, tuple(own)) for index, (base, own) in enumerate(stages)),
        source.warnings,
    )


def _context(name: str, contexts: Collection[str]) -> str | None:
    """Return the context that a name means; names of stages and contexts have no case."""
    return next((context for context in contexts if context.lower() == name.lower()), None)


def _names(instruction: Instruction) -> Iterator[tuple[str, bool]]:
    """Yield the names in `from`, and whether they can be numbers."""
    if isinstance(instruction, Copy) and instruction.origin:
        yield instruction.origin, True
    elif isinstance(instruction, Run):
        for name in instruction.origins():
            yield name, False
