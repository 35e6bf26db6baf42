"""The plan: from a Dockerfile and what was asked for to the steps of the stages that are needed.

Everything but the base images is known from the text: which variables a step sees, who it runs as,
in which directory. So a plan is data, and making it is a pure function of the Dockerfile, the
request and the configs of the base images, which a callable gives. Base images can add instructions
(ONBUILD), and these can name more stages and images; so that is asked until nothing new comes.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from rootless.dockerfile import DockerfileError, check_syntax, checks, parse_trigger, scope
from rootless.dockerfile import instructions as form
from rootless.dockerfile.config import ImageConfig
from rootless.engine.build.steps import (
    ONBUILD,
    Base,
    CopyStep,
    History,
    Origin,
    Plan,
    RunStep,
    Stage,
    Step,
    WorkdirStep,
)
from rootless.frozen import replace
from rootless.image.model.platforms import parse_platform
from rootless.image.model.reference import is_path
from rootless.linux.process import signal_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from rootless.dockerfile import Dockerfile
    from rootless.dockerfile import Origin as NamedOrigin
    from rootless.dockerfile import Stage as TextStage
    from rootless.dockerfile.ignore import IgnoreRules
    from rootless.dockerfile.reader import Finding

    FindBase = Callable[[str, str], Base]

_COMMENT = "rless.build"


class Options:
    """What of the request changes a plan.

    Attributes:
        target: name of a stage, "" for the last one.
        build_args: of --build-arg.
        labels: of --label.
        platform: of --platform; "": the host's.
        predefined: the values of TARGETPLATFORM and so on.
        contexts: names of --build-context; the value is the name of an image, "" for files.
        ignored: what .dockerignore leaves out of the context.
    """

    def __init__(
        self,
        *,
        target: str = "",
        build_args: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        platform: str = "",
        predefined: Mapping[str, str] | None = None,
        contexts: Mapping[str, str] | None = None,
        ignored: IgnoreRules | None = None,
    ) -> None:
        self.target = target
        self.build_args = dict(build_args or {})
        self.labels = dict(labels or {})
        self.platform = platform
        self.predefined = dict(predefined or {})
        self.contexts = dict(contexts or {})
        self.ignored = ignored


def make(dockerfile: Dockerfile, options: Options, find_base: FindBase) -> Plan:
    """Return the plan for the target.

    Args:
        find_base: gives the base image of a name and a platform ("": the host's).

    Raises:
        DockerfileError: something in a stage that is needed is wrong.
        RlessError: of `find_base`; or BUILDKIT_SYNTAX is another frontend.
    """
    if "BUILDKIT_SYNTAX" in options.build_args:
        check_syntax(options.build_args["BUILDKIT_SYNTAX"])
    return _Planner(_with_check(dockerfile, options), options, find_base).plan()


def join(plans: Sequence[Plan]) -> Plan:
    """Return one plan of those for several platforms, in their order.

    A stage that is the same for two of them, as one `FROM --platform=$BUILDPLATFORM`, is there once.
    """
    stages: list[Stage] = []
    images: dict[str, Base] = {}
    targets: list[Stage] = []
    for plan in plans:
        places: dict[int, int] = {}
        for stage in plan.stages:
            moved = _moved(stage, places)
            same = (one for one in stages if replace(one, index=-1, platform="") == moved)
            found = next(same, None)
            if found is None:
                found = replace(moved, index=len(stages), platform=stage.platform)
                stages.append(found)
            places[stage.index] = found.index
        images |= plan.images
        targets += (stages[places[target.index]] for target in plan.targets)
    warnings = dict.fromkeys(line for plan in plans for line in plan.warnings)
    return Plan(tuple(stages), images, tuple(warnings), tuple(targets))


def _moved(stage: Stage, places: Mapping[int, int]) -> Stage:
    """Return a stage without its own place, and with others for the stages that it names."""

    def origin(old: Origin) -> Origin:
        return replace(old, stage=places[old.stage]) if old.kind == "stage" else old

    def moved(step: Step) -> Step:
        if isinstance(step, CopyStep):
            return replace(step, origin=origin(step.origin))
        if isinstance(step, RunStep):
            return replace(step, origins={key: origin(old) for key, old in step.origins.items()})
        return step

    return replace(
        stage,
        index=-1,
        platform="",
        base=places[stage.base] if isinstance(stage.base, int) else stage.base,
        steps=tuple(map(moved, stage.steps)),
        history=tuple(
            replace(entry, step=None if entry.step is None else moved(entry.step))
            for entry in stage.history
        ),
    )


def find(dockerfile: Dockerfile, options: Options) -> list[Finding]:
    """Return what Docker's checks find without any base image (`--check`).

    Raises:
        DockerfileError: a build argument is wrong, or there is no such target.
    """
    dockerfile = _with_check(dockerfile, options)
    dockerfile.target(options.target or None)
    found = checks.check(dockerfile, options.build_args, options.predefined)
    return checks.joined(found, checks.check_copied(dockerfile, options.ignored))


def _with_check(dockerfile: Dockerfile, options: Options) -> Dockerfile:
    given = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK")
    return dockerfile if given is None else dockerfile.with_check(given)


class _Planner:
    def __init__(self, dockerfile: Dockerfile, options: Options, find_base: FindBase) -> None:
        self.file = dockerfile
        self.options = options
        self.find_base = find_base
        target = dockerfile.target(options.target or None)
        predefined = {**options.predefined, "TARGETSTAGE": target.name or "default"}
        self.target = target
        self.globals = scope.global_scope(dockerfile.args, options.build_args, predefined)
        self.bases: dict[int, Base] = {}
        self.triggers: dict[int, list[form.Instruction]] = {}
        self.images: dict[str, Base] = {}
        self.places: dict[int, int] = {}  # index in the file -> in the plan
        self.scopes: dict[int, scope.StageScope] = {}
        self.configs: dict[int, ImageConfig] = {}

    def plan(self) -> Plan:
        """Return the plan."""
        stages = []
        for place, stage in enumerate(self._needed()):
            self.places[stage.index] = place
            stages.append(_StagePlanner(self, stage, place).plan())
        warnings = [
            f"--build-arg {name}: no ARG of the Dockerfile takes it"
            for name in scope.unused_build_args(self.file, self.options.build_args)
        ]
        return Plan(tuple(stages), self.images, (*self._findings(), *warnings), (stages[-1],))

    def _findings(self) -> list[str]:
        """Return what Docker's checks find, a line each.

        Raises:
            DockerfileError: there is something, and the Dockerfile says `check=error=true`.
        """
        options = self.options
        envs = {
            index: (base.config.get("config") or {}).get("Env") or ()
            for index, base in self.bases.items()
        }
        found = checks.check(self.file, options.build_args, options.predefined, envs)
        copied = checks.check_copied(self.file, options.ignored)
        found = checks.joined(found, copied, self._foreign())
        if self.file.directives.error and found:
            first = found[0]
            raise DockerfileError(
                f"{first.rule}: {first.message}", "see check=error=true", first.line, first.last
            )
        return [f"{one.rule}: {one.message} (line {one.line})" for one in found]

    def _foreign(self) -> list[Finding]:
        """Return which base images are for another platform than the one that was asked for."""
        found = []
        for index, base in self.bases.items():
            if base.platform and base.id:
                stage = self.file.stages[index]
                expected = stage.base.expanded(self.globals).platform or self.platform
                parts = (base.platform.get(key, "") for key in ("os", "architecture", "variant"))
                actual = "/".join(filter(None, parts))
                found += checks.check_platform(self.file, stage, expected, actual)
        return found

    @property
    def platform(self) -> str:
        """Return the platform that is built for."""
        return self.options.predefined.get("TARGETPLATFORM", "")

    def _needed(self) -> list[TextStage]:
        """Return the stages that are needed, with what the ONBUILD of their bases needs."""
        while True:
            stages = self.file.needed(
                self.target, self.globals, self.options.contexts, self.triggers
            )
            new = [stage for stage in stages if stage.index not in self.triggers]
            if not new:
                return stages
            for stage in new:
                self.triggers[stage.index] = self._triggers_of(stage)

    def _triggers_of(self, stage: TextStage) -> list[form.Instruction]:
        base = self._base_of(stage)
        if base is None:
            return []
        config = base.config.get("config") or {}
        node = stage.base.node
        return [parse_trigger(text, node.line, node.last) for text in config.get("OnBuild") or ()]

    def _base_of(self, stage: TextStage) -> Base | None:
        """Return the base image of a stage; None: it stands on another stage."""
        origin = self.origin_of_base(stage)
        if origin.kind == "stage":
            return None
        if stage.index not in self.bases:
            node = stage.base.node
            try:
                platform = stage.base.expanded(self.globals).platform or self.options.platform
                self.bases[stage.index] = self.image(origin, platform)
            except DockerfileError as error:
                raise error.at(node.line, node.last) from error
        return self.bases[stage.index]

    def origin_of_base(self, stage: TextStage) -> NamedOrigin:
        """Return what a stage is built on."""
        return self.file.base_of(stage, self.globals, self.options.contexts)

    def image(self, origin: NamedOrigin, platform: str) -> Base:
        """Return the image that an origin means."""
        if origin.kind == "scratch":
            wanted = parse_platform(platform)
            parts = {"os": wanted.os, "architecture": wanted.architecture}
            config = {"config": {"WorkingDir": "/"}}
            return Base("scratch", config=config, platform=parts | {"variant": wanted.variant})
        if origin.kind == "context":
            name = self.options.contexts[origin.name]
            if not name:
                raise DockerfileError(
                    f"FROM {origin.name}: that build context has files, and is no image",
                    "give it as docker-image://NAME",
                )
            return self.find_base(name, platform)
        if is_path(origin.name):
            raise DockerfileError(
                f"a Dockerfile cannot name what is on this host, as {origin.name}",
                "name it as you like, and give --build-context NAME=oci-layout://DIR",
            )
        return self.find_base(origin.name, platform)

    def source(self, stage: TextStage, name: str, numbers: bool) -> Origin:
        """Return what `--from=NAME` means in a stage; "" is the build's context."""
        if not name:
            return Origin("context")
        found = self.file.origin_of(stage, name, self.options.contexts, numbers)
        if found.kind == "stage":
            return Origin("stage", found.name, self.places[found.stage])
        if found.kind == "context" and not self.options.contexts[found.name]:
            return Origin("context", found.name)
        # One name can mean several images, where the build is for several platforms.
        name = f"{found.name} {self.options.platform}".rstrip()
        self.images[name] = self.image(found, self.options.platform)
        return Origin("image", name)


class _StagePlanner:
    """Goes through the instructions of one stage."""

    def __init__(self, planner: _Planner, stage: TextStage, place: int) -> None:
        self.planner = planner
        self.stage = stage
        self.place = place
        self.steps: list[Step] = []
        self.history: list[History] = []
        self.shown_before = ""  # of the text of a step
        self.base: Base | int
        origin = planner.origin_of_base(stage)
        if origin.kind == "stage":
            self.base = planner.places[origin.stage]
            before = planner.scopes[origin.stage]
            self.scope = scope.StageScope(planner.globals, planner.options.build_args, (), before)
            below = planner.configs[origin.stage]
            config, author = below.value, below.author
            self.triggers = planner.file.stage_triggers(origin.stage)
        else:
            self.base = planner.bases[stage.index]
            config = self.base.config.get("config") or {}
            env = config.get("Env") or ()
            self.scope = scope.StageScope(planner.globals, planner.options.build_args, env)
            author = self.base.config.get("author")
            self.triggers = planner.triggers[stage.index]
        planner.scopes[stage.index] = self.scope
        # The triggers of what is below have run; those of this stage are for others.
        kept = {name: value for name, value in config.items() if name != "OnBuild"}
        self.config = planner.configs[stage.index] = ImageConfig(kept, signal_number)
        self.config.author = author

    @property
    def user(self) -> str:
        """Return what USER says here."""
        return self.config.value.get("User") or ""

    @property
    def directory(self) -> str:
        """Return what WORKDIR says here."""
        return self.config.value.get("WorkingDir") or "/"

    def plan(self) -> Stage:
        """Return the stage."""
        for index, instruction in enumerate((*self.triggers, *self.stage.instructions)):
            self.shown_before = ONBUILD if index < len(self.triggers) else ""
            try:
                self._take(instruction)
            except DockerfileError as error:
                raise error.at(instruction.node.line, instruction.node.last) from error
        config = self.config.value
        config["Env"] = self.scope.entries()
        if self.stage.index == self.planner.target.index and self.planner.options.labels:
            config["Labels"] = {**(config.get("Labels") or {}), **self.planner.options.labels}
        return Stage(
            self.place,
            self.stage.title,
            self.base,
            tuple(self.steps),
            config,
            tuple(self.history),
            self.config.author or "",
            self.stage.base.expanded(self.planner.globals).platform or self.planner.platform,
        )

    def _take(self, written: form.Instruction) -> None:
        if isinstance(written, form.Arg):
            self.scope.declare(written)
            self._note(written, None)
            return
        instruction = written.expanded(self.scope.variables)
        step: Step | None = None
        if isinstance(instruction, form.Env):
            self.scope.set(instruction)
        elif isinstance(instruction, form.Run):
            step = self._run(instruction)
        elif isinstance(instruction, (form.Copy, form.Add)):
            step = self._copy(instruction)
        elif isinstance(instruction, form.Workdir):
            self.config.apply(instruction)
            step = WorkdirStep(
                directory=self.directory, user=self.user, **self._facts(instruction)
            )
        else:
            self.config.apply(instruction)
        if step is not None:
            self.steps.append(step)
        self._note(instruction, step)

    def _facts(self, instruction: form.Instruction, created_by: str = "") -> dict[str, Any]:
        node = instruction.node
        return {
            "number": len(self.steps) + 1,
            "text": self.shown_before + node.original.strip(),
            "created_by": created_by or node.original.strip(),
            "line": node.line,
            "end_line": node.last,
        }

    def _note(self, instruction: form.Instruction, step: Step | None) -> None:
        created_by = instruction.node.original.strip() if step is None else step.created_by
        self.history.append(History(created_by, _COMMENT, step))

    def _run(self, run: form.Run) -> RunStep:
        shell = self.config.shell
        script = run.script() or ""
        args = run.interpreter() if script else tuple(run.argv(list(shell)))
        shown = " ".join(args) if not script else run.node.original.strip().partition(" ")[2]
        origins = {
            index: self.planner.source(self.stage, mount.origin, False)
            for index, mount in enumerate(run.mounts)
            if mount.type == "bind" or (mount.type == "cache" and mount.origin)
        }
        return RunStep(
            args=args,
            script=script,
            env=tuple(f"{name}={value}" for name, value in self.scope.variables.items()),
            user=self.user,
            directory=self.directory,
            mounts=run.mounts,
            origins=origins,
            network=run.network,
            security=run.security,
            devices=run.devices,
            **self._facts(run, f"RUN {self.scope.history()}{shown} # buildkit"),
        )

    def _copy(self, copy: form.Copy | form.Add) -> CopyStep:
        destination = posixpath.normpath(
            posixpath.join("/", self.directory, copy.destination)
        )
        destination = "/" + destination.lstrip("/")
        ends = copy.destination
        if (ends.endswith(("/", "/.")) or ends in ("", ".")) and destination != "/":
            destination += "/"
        is_copy = isinstance(copy, form.Copy)
        return CopyStep(
            origin=self.planner.source(
                self.stage, copy.origin if isinstance(copy, form.Copy) else "", True
            ),
            sources=copy.sources,
            destination=destination,
            add=not is_copy,
            files=tuple((file.name, file.content.encode()) for file in copy.files),
            owner=copy.chown,
            mode=copy.chmod,
            link=copy.link,
            parents=isinstance(copy, form.Copy) and copy.parents,
            like_cp=isinstance(copy, form.Copy) and copy.like_cp,
            exclude=copy.excludes,
            checksum="" if isinstance(copy, form.Copy) else copy.checksum,
            keep_git_dir=not isinstance(copy, form.Copy) and bool(copy.keep_git_dir),
            unpack=None if isinstance(copy, form.Copy) else copy.unpack,
            **self._facts(copy),
        )
