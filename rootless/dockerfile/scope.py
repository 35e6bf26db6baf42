"""Which value a variable has at a place: ARG, ENV and `--build-arg`.

    scope = global_scope(dockerfile.args, build_args, platform)      FROM lines see this
    stage = StageScope(scope, build_args, env_of_the_base)           or parent=scope_before
    stage.declare(arg); stage.set(env)                               instruction by instruction
    instruction.expanded(stage.variables)
    stage.variables, stage.history()                                 RUN's environment and history

Source: docs.docker.com/reference/dockerfile (ARG); BuildKit
frontend/dockerfile/dockerfile2llb/convert.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.dockerfile.instructions import Arg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rootless.dockerfile.instructions import Env
    from rootless.dockerfile.stages import Dockerfile

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
PLATFORM = (
    *("TARGETPLATFORM", "TARGETOS", "TARGETARCH", "TARGETVARIANT", "TARGETOSVERSION"),
    *("BUILDPLATFORM", "BUILDOS", "BUILDARCH", "BUILDVARIANT", "BUILDOSVERSION", "TARGETSTAGE"),
)
BUILDER = (
    *("SOURCE_DATE_EPOCH", "BUILDKIT_SYNTAX", "BUILDKIT_INLINE_CACHE", "BUILDKIT_MULTI_PLATFORM"),
    *("BUILDKIT_SANDBOX_HOSTNAME", "BUILDKIT_CONTEXT_KEEP_GIT_DIR", "BUILDKIT_CACHE_MOUNT_NS"),
    "BUILDKIT_DOCKERFILE_CHECK",
)


def is_predefined(name: str) -> bool:
    """Tell whether a build argument means something without an ARG."""
    return name in PLATFORM or name in BUILDER or name.upper() in PROXIES


def proxies(build_args: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy variables that RUN gets by `--build-arg` alone, in both spellings."""
    found: dict[str, str] = {}
    for name, value in build_args.items():
        if name.upper() in PROXIES:
            found.setdefault(name.upper(), value)
            found.setdefault(name.lower(), value)
    return found


def global_scope(
    args: Iterable[Arg],
    build_args: Mapping[str, str],
    predefined: Mapping[str, str],
    unset: set[str] | None = None,
) -> dict[str, str]:
    """Return the values that FROM lines see; a stage gets one by `ARG name` without a default.

    Args:
        predefined: values of `PLATFORM`; `--build-arg` comes before them.

    Raises:
        DockerfileError: a bad substitution in a default.
    """
    values = {name: build_args.get(name, value) for name, value in predefined.items()}
    for instruction in args:
        for key, value in _defaults(instruction, values, build_args, unset):
            if value is not None:
                values[key] = value
    return values


def _defaults(
    arg: Arg, values: Mapping[str, str], build_args: Mapping[str, str], unset: set[str] | None
) -> list[tuple[str, str | None]]:
    """Return names with values; a default is not looked at where there is a build argument."""
    kept = tuple((key, None if key in build_args else value) for key, value in arg.args)
    expanded = Arg(arg.node, kept).expanded(values, unset).args
    return [(key, build_args.get(key, value)) for key, value in expanded]


class StageScope:
    """The variables of one stage, instruction by instruction.

    Args:
        global_values: from `global_scope`.
        env: the base image's Env, as entries `NAME=value`.
        parent: the scope at the end of the stage that this one is built on, in place of `env`.
    """

    def __init__(
        self,
        global_values: Mapping[str, str],
        build_args: Mapping[str, str],
        env: Iterable[str] = (),
        parent: StageScope | None = None,
    ) -> None:
        self._global = global_values
        self._build_args = build_args
        # In order; ENV and ARG overwrite each other, and the later one holds.
        self.variables: dict[str, str] = dict(parent.variables) if parent else {}
        self.env: dict[str, str] = dict(parent.env) if parent else {}
        self._declared: dict[str, str] = dict(parent._declared) if parent else {}
        for entry in env:
            name, _, value = entry.partition("=")
            self.env[name] = self.variables[name] = value
        if "PATH" not in self.env:
            self.env["PATH"] = self.variables["PATH"] = DEFAULT_PATH

    def declare(self, arg: Arg, unset: set[str] | None = None) -> None:
        """Take an ARG, not expanded.

        Raises:
            DockerfileError: a bad substitution in a default.
        """
        for key, default in _defaults(arg, self.variables, self._build_args, unset):
            value = self._global.get(key) if default is None else default
            self._declared[key] = value or ""
            if value is not None:
                self.variables[key] = value

    def set(self, env: Env) -> None:
        """Take an ENV, already expanded with the values from before it."""
        for key, value in env.pairs:
            self.env[key] = self.variables[key] = value

    @property
    def declared(self) -> frozenset[str]:
        """The names of all ARGs so far, with a value or not."""
        return frozenset(self._declared)

    def entries(self) -> list[str]:
        """Return the image's Env: without ARGs."""
        return [f"{key}={value}" for key, value in self.env.items()]

    def history(self) -> str:
        """Return what stands before RUN's command in the history: `|2 A=1 B=2 `, or nothing."""
        if not self._declared:
            return ""
        args = [f"{key}={self.variables.get(key, value)}" for key, value in self._declared.items()]
        return f"|{len(args)} {' '.join(args)} "


def unused_build_args(dockerfile: Dockerfile, build_args: Iterable[str]) -> list[str]:
    """Return the build arguments that no ARG of the file declares and that mean nothing else."""
    declared: set[str] = set()
    instructions = [i for stage in dockerfile.stages for i in stage.instructions]
    for instruction in (*dockerfile.args, *instructions):
        if isinstance(instruction, Arg):
            declared |= {key for key, _ in instruction.args}
    return [name for name in build_args if name not in declared and not is_predefined(name)]
