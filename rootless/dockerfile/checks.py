"""What Docker's checks find in a Dockerfile: `build --check`, and the warnings of a build.

    check(dockerfile, build_args, platform, envs)      all that the text alone tells
    check_copied(dockerfile, rules)                    sources that .dockerignore leaves out
    check_platform(stage, expected, actual)            a base image of another platform

`# check=skip=...` is already taken into account. The names of the rules are Docker's, but for
ArgOverridesEnv and ChownAfterCopy, which are ours.

Source: docs.docker.com/reference/build-checks; BuildKit frontend/dockerfile/linter/ruleset.go,
dockerfile2llb/validations.go.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from rootless.dockerfile import instructions as form
from rootless.dockerfile.config import exposed
from rootless.dockerfile.errors import DockerfileError, nearest
from rootless.dockerfile.reader import Finding
from rootless.dockerfile.scope import StageScope, global_scope, is_predefined

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rootless.dockerfile.ignore import IgnoreRules
    from rootless.dockerfile.reader import Directives, Node
    from rootless.dockerfile.stages import Dockerfile, Stage

EXPERIMENTAL = frozenset({"InvalidDefinitionDescription"})

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[a-z0-9]+:[0-9a-fA-F]{32,})?"
)
_CHOWN = re.compile(
    r"\bchown\s+(?:-[A-Za-z]*R[A-Za-z]*|--recursive)\s+(?:-\S+\s+)*\S+\s+([^;&|\n]+)"
)
_RESERVED = ("context", "scratch")
_ONCE = (form.Cmd, form.Entrypoint, form.Healthcheck)


def looks_secret(name: str) -> bool:
    """Tell whether a variable of this name may hold a secret."""
    return bool(_SECRET.search(name)) and not _NO_SECRET.search(name)


def check(
    dockerfile: Dockerfile,
    build_args: Mapping[str, str] | None = None,
    platform: Mapping[str, str] | None = None,
    envs: Mapping[int, Iterable[str]] | None = None,
) -> list[Finding]:
    """Return what the checks find, in the order of the lines.

    Args:
        platform: values of `scope.PLATFORM`.
        envs: by a stage's index, the Env of its base image. In a stage whose base is not known,
            variables that are not set are not reported: the image may set them.
    """
    found = [*dockerfile.warnings, *_names(dockerfile), *_casing(dockerfile)]
    found += _Walk(dockerfile, build_args or {}, platform or {}, envs or {}).findings()
    return _wanted(found, dockerfile.directives)


def joined(*lists: list[Finding]) -> list[Finding]:
    """Return what several checks have found, in the order of the lines."""
    return sorted((one for some in lists for one in some), key=lambda one: (one.line, one.rule))


def check_copied(dockerfile: Dockerfile, rules: IgnoreRules | None) -> list[Finding]:
    """Return the sources of COPY and ADD, without variables, that a .dockerignore leaves out."""
    found: list[Finding] = []
    if rules is None:
        return found
    for instruction in (i for stage in dockerfile.stages for i in stage.instructions):
        if not isinstance(instruction, (form.Copy, form.Add)) or rules.has_negated:
            continue
        if isinstance(instruction, form.Copy) and instruction.origin:
            continue
        for source in instruction.sources:
            path = posixpath.normpath("/" + source).lstrip("/")
            if path and "$" not in path and ":" not in path and rules.excludes(path):
                verb = instruction.name.capitalize()
                message = f"Attempting to {verb} file {path!r} that is excluded by .dockerignore"
                found.append(_finding("CopyIgnoredFile", message, instruction.node))
    return _wanted(found, dockerfile.directives)


def check_platform(
    dockerfile: Dockerfile, stage: Stage, expected: str, actual: str
) -> list[Finding]:
    """Return that a base image is for another platform; platforms are like linux/arm64/v8."""
    if not expected or expected.split("/")[:2] == actual.split("/")[:2]:
        return []
    message = (
        f"Base image {stage.base.image} was pulled with platform {actual!r}, "
        f"expected {expected!r} for current build"
    )
    found = [_finding("InvalidBaseImagePlatform", message, stage.base.node)]
    return _wanted(found, dockerfile.directives)


def _wanted(found: list[Finding], directives: Directives) -> list[Finding]:
    """Return the findings that the file's `check` directive does not skip, each once."""
    if "all" in directives.skipped:
        return []
    kept: dict[Finding, None] = {}
    for finding in sorted(found, key=lambda finding: (finding.line, finding.rule)):
        hidden = finding.rule in EXPERIMENTAL and not (
            {finding.rule, "all"} & directives.experimental
        )
        if not hidden and finding.rule not in directives.skipped:
            kept[finding] = None
    return list(kept)


def _finding(rule: str, message: str, node: Node) -> Finding:
    return Finding(rule, message, node.line, node.last)


def _names(dockerfile: Dockerfile) -> Iterator[Finding]:
    """Check the names of stages, and the comments that describe them."""
    seen: set[str] = set()
    for stage in dockerfile.stages:
        base, node = stage.base, stage.base.node
        if base.stage_as_written != base.stage:
            message = f"Stage name '{base.stage_as_written}' should be lowercase"
            yield _finding("StageNameCasing", message, node)
        keyword = base.as_keyword
        expected = keyword.lower() if node.name.islower() else keyword.upper()
        if keyword != expected and (node.name.islower() or node.name.isupper()):
            message = f"'{keyword}' and '{node.name}' keywords' casing do not match"
            yield _finding("FromAsCasing", message, node)
        if stage.name in _RESERVED:
            message = f"Stage name should not use the same name as reserved stage {stage.name!r}"
            yield _finding("ReservedStageName", message, node)
        if stage.name and stage.name in seen:
            message = f"Duplicate stage name {stage.name!r}, stage names should be unique"
            yield _finding("DuplicateStageName", message, node)
        seen.add(stage.name)
        yield from _description(node, [stage.name] if stage.name else [])


def _description(node: Node, names: list[str]) -> Iterator[Finding]:
    if names and node.comments and node.comments[-1].split(" ")[0] not in names:
        name = names[0] if len(names) == 1 else "<arg_key>"
        message = f"Comment for {node.name} should follow the format: `# {name} <description>`"
        yield _finding("InvalidDefinitionDescription", message, node)


def _casing(dockerfile: Dockerfile) -> Iterator[Finding]:
    """Check that all names of instructions are written in the same way."""
    nodes = [
        instruction.node
        for stage in dockerfile.stages
        for instruction in (stage.base, *stage.instructions)
    ]
    lower = sum(node.name.islower() for node in nodes)
    upper = sum(node.name.isupper() for node in nodes)
    for node in nodes:
        if not (node.name.islower() if lower > upper else node.name.isupper()):
            case = "lowercase" if lower > upper else "uppercase"
            message = (
                f"Command '{node.name}' should match the case of the command majority ({case})"
            )
            yield _finding("ConsistentInstructionCasing", message, node)


class _StageState:
    """What the checks remember of a stage, for those built on it."""

    def __init__(self, scope: StageScope, parent: _StageState | None, is_known: bool) -> None:
        self.scope = scope
        self.is_known: bool = parent.is_known if parent else is_known
        self.has_shell: bool = parent.has_shell if parent else False
        self.has_workdir: bool = parent.has_workdir if parent else False
        self.from_env: set[str] = set(parent.from_env) if parent else set()
        self.directory: str = parent.directory if parent else ""
        self.copied: list[str] = []  # where COPY and ADD of this stage have put what is root's


class _Walk:
    """Goes through the instructions with the values that variables have there."""

    def __init__(
        self,
        dockerfile: Dockerfile,
        build_args: Mapping[str, str],
        platform: Mapping[str, str],
        envs: Mapping[int, Iterable[str]],
    ) -> None:
        self._dockerfile = dockerfile
        self._build_args = build_args
        self._platform = platform
        self._envs = envs
        self._found: list[Finding] = []
        self._states: dict[int, _StageState] = {}

    def findings(self) -> list[Finding]:
        """Return what was found."""
        for arg in self._dockerfile.args:
            self._found += _description(arg.node, [key for key, _ in arg.args])
        values = self._globals(self._build_args)
        defaults = self._globals({})
        for stage in self._dockerfile.stages:
            self._check_from(stage, values, defaults)
            self._check_stage(stage, values)
        return self._found

    def _add(self, rule: str, message: str, node: Node) -> None:
        self._found.append(_finding(rule, message, node))

    def _globals(self, build_args: Mapping[str, str]) -> dict[str, str]:
        try:
            return global_scope(self._dockerfile.args, build_args, self._platform)
        except DockerfileError:
            return dict(self._platform)  # the build itself reports it

    def _check_from(
        self, stage: Stage, values: Mapping[str, str], defaults: Mapping[str, str]
    ) -> None:
        base, node = stage.base, stage.base.node
        unset: set[str] = set()
        try:
            base.expanded(values, unset)
        except DockerfileError:
            pass  # the build itself reports it
        declared = {key for arg in self._dockerfile.args for key, _ in arg.args}
        for name in sorted(unset - declared - {*self._platform}):
            near = nearest(name, sorted({*declared, *self._platform}))
            message = f"FROM argument '{name}' is not declared" + _suggested(near)
            self._add("UndefinedArgInFrom", message, node)
        if "$" in base.image:
            try:
                image = base.expanded(defaults).image
            except DockerfileError:
                image = ""
            if not _REFERENCE.fullmatch(image):
                message = (
                    f"Default value for ARG {base.image} results in empty or invalid base "
                    "image name"
                )
                self._add("InvalidDefaultArgInFrom", message, node)
        if base.platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
            message = (
                f"Setting platform to predefined {base.platform} in FROM is redundant "
                "as this is the default behavior"
            )
            self._add("RedundantTargetPlatform", message, node)
        elif base.platform and "$" not in base.platform:
            parts = base.platform.split("/")[:2]
            if not any(part in stage.name for part in parts):
                message = f"FROM --platform flag should not use constant value {base.platform!r}"
                self._add("FromPlatformFlagConstDisallowed", message, node)

    def _check_stage(self, stage: Stage, values: Mapping[str, str]) -> None:
        try:
            origin = self._dockerfile.base_of(stage, values)
        except DockerfileError:
            origin = None
        parent = self._states.get(origin.stage) if origin else None
        env = self._envs.get(stage.index, ())
        scope = StageScope(values, self._build_args, env, parent.scope if parent else None)
        is_known = stage.index in self._envs or bool(origin and origin.kind == "scratch")
        state = self._states[stage.index] = _StageState(scope, parent, is_known)
        once: dict[type[form.Instruction], Node] = {}
        for instruction in stage.instructions:
            kind = type(instruction)
            if kind in once:
                message = (
                    f"Multiple {instruction.name} instructions should not be used in the same "
                    "stage because only the last one will be used"
                )
                self._add("MultipleInstructionsDisallowed", message, once[kind])
            if isinstance(instruction, _ONCE):
                once[kind] = instruction.node
            self._check_instruction(instruction, state)

    def _check_instruction(self, instruction: form.Instruction, state: _StageState) -> None:
        node = instruction.node
        unset: set[str] = set()
        if isinstance(instruction, form.Arg):
            self._check_arg(instruction, state, unset)
        else:
            try:
                instruction = instruction.expanded(state.scope.variables, unset)
            except DockerfileError:
                return  # the build itself reports it
        if state.is_known:
            names = unset - state.scope.declared
            for name in sorted(name for name in names if not is_predefined(name)):
                near = nearest(name, sorted(state.scope.variables))
                message = f"Usage of undefined variable '${name}'" + _suggested(near, "$")
                self._add("UndefinedVar", message, node)
        if isinstance(instruction, form.Pairs):
            self._check_pairs(instruction, state)
        elif isinstance(instruction, (form.Cmd, form.Entrypoint)):
            if instruction.command.argv is None and not state.has_shell:
                message = (
                    f"JSON arguments recommended for {instruction.name} to prevent unintended "
                    "behavior related to OS signals"
                )
                self._add("JSONArgsRecommended", message, node)
        elif isinstance(instruction, form.Shell):
            state.has_shell = True
        elif isinstance(instruction, form.Workdir):
            if not state.has_workdir and not instruction.path.startswith("/"):
                message = (
                    f"Relative workdir {instruction.path!r} can have unexpected results "
                    "if the base image changes"
                )
                self._add("WorkdirRelativePath", message, node)
            state.has_workdir = True
            state.directory = posixpath.join(state.directory, instruction.path)
        elif isinstance(instruction, (form.Copy, form.Add)):
            if not instruction.chown:
                state.copied.append(_joined(state, instruction.destination))
        elif isinstance(instruction, form.Run):
            self._check_chown(instruction, state)
        elif isinstance(instruction, form.Expose):
            self._check_expose(instruction)
        elif isinstance(instruction, form.Maintainer):
            message = "Maintainer instruction is deprecated in favor of using label"
            self._add("MaintainerDeprecated", message, node)

    def _check_arg(self, arg: form.Arg, state: _StageState, unset: set[str]) -> None:
        before = dict(state.scope.variables)
        try:
            state.scope.declare(arg, unset)
        except DockerfileError:
            return
        names = [key for key, _ in arg.args]
        for key in names:
            self._check_secret("ARG", key, arg.node)
            if key in state.from_env and before.get(key) != state.scope.variables.get(key):
                message = f"ARG {key} stands after ENV {key} and hides its value in the build"
                self._add("ArgOverridesEnv", message, arg.node)
        self._found += _description(arg.node, names)

    def _check_pairs(self, pairs: form.Pairs, state: _StageState) -> None:
        if pairs.is_legacy:
            message = (
                f'"{pairs.name} key=value" should be used instead of legacy '
                f'"{pairs.name} key value" format'
            )
            self._add("LegacyKeyValueFormat", message, pairs.node)
        if isinstance(pairs, form.Env):
            state.scope.set(pairs)
            for key, _ in pairs.pairs:
                state.from_env.add(key)
                self._check_secret("ENV", key, pairs.node)

    def _check_secret(self, name: str, key: str, node: Node) -> None:
        if looks_secret(key):
            message = f"Do not use ARG or ENV instructions for sensitive data ({name} {key!r})"
            self._add("SecretsUsedInArgOrEnv", message, node)

    def _check_chown(self, run: form.Run, state: _StageState) -> None:
        for match in _CHOWN.finditer(run.command.text):
            for path in (_joined(state, word) for word in match[1].split()):
                if any(copied == path or copied.startswith(f"{path}/") for copied in state.copied):
                    message = f"chown of {path!r} stores copied files twice; use COPY --chown"
                    self._add("ChownAfterCopy", message, run.node)
                    return

    def _check_expose(self, expose: form.Expose) -> None:
        for word in expose.ports:
            try:
                exposed(word)
            except DockerfileError:
                continue
            protocol = word.partition("/")[2]
            if protocol != protocol.lower():
                message = f"Defined protocol '{word}' in EXPOSE instruction should be lowercase"
                self._add("ExposeProtoCasing", message, expose.node)
            if ":" in word:
                message = (
                    "EXPOSE instruction should not define an IP address or host-port mapping, "
                    f"found '{word}'"
                )
                self._add("ExposeInvalidFormat", message, expose.node)


def _joined(state: _StageState, path: str) -> str:
    return posixpath.normpath(posixpath.join(state.directory, path)).rstrip("/")


def _suggested(hint: str | None, mark: str = "") -> str:
    """Return Docker's form of the nearest name."""
    return f" ({hint.replace('did you mean ', 'did you mean ' + mark)})" if hint else ""
