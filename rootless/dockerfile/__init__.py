"""The language of Dockerfiles: from text to stages of typed instructions, and nothing else.

Everything here is a pure function of its arguments; no file is opened. What a build does with an
instruction is the engine's business.

    from rootless.dockerfile import DockerfileError, parse, show_lines

    dockerfile = parse(data)                        bytes or str -> Dockerfile
    dockerfile.directives, .args, .stages           args: the ARGs before the first FROM
    dockerfile.target("name"), .target(None)        -> Stage
    dockerfile.needed(stage, variables, contexts)   -> the stages to build, in order
    dockerfile.base_of(stage, variables, contexts)  -> Origin: context, stage, scratch or image
    dockerfile.origin_of(stage, name, contexts)     -> the same for `--from` and a mount's `from`
    stage.base, stage.instructions                  From; a tuple of the types in `instructions.py`

    instruction.node.line, .last, .original         where it stands, and what was written
    instruction.expanded(variables)                 the same with values for variables
    run.expanded(variables).mounts                  typed `mounts.Mount`
    run.script(), run.argv(shell)                   what RUN executes
    cmd.command.words(shell)                        argument list of either form

    scope.global_scope(...), scope.StageScope(...)  ARG, ENV and build arguments, in order
    config.ImageConfig(...).apply(instruction)      CMD, ENV, USER, ... -> the image's config
    parse_trigger(text)                             a text of ONBUILD -> one instruction
    ignore.IgnoreRules.parse(data), ["*.pyc"]       .dockerignore; --exclude
    wildcards.Wildcard("a*").matches(name)          sources of COPY and ADD
    checks.check(dockerfile, ...)                   -> [Finding(rule, message, line, last)]
    check_syntax(value)                             of the build argument BUILDKIT_SYNTAX

Mistakes raise `DockerfileError`, with `line` and `last`; `show_lines(text, line, last)` shows the
lines around it. Its message names the line already.

Modules, from text to meaning: `reader` (lines, directives) and `heredocs`, `words` and `patterns`
(quotes, variables), `arguments`, `flags`, `mounts`, `durations` (what stands in an instruction),
`instructions` and `parse` (values), `stages` (the file), `scope` (which value a variable has),
`config` (the image), `checks`; `ignore` and `wildcards` are about names of files.
"""

from __future__ import annotations

from rootless.dockerfile.errors import DockerfileError, show_lines
from rootless.dockerfile.parse import parse_trigger
from rootless.dockerfile.reader import Finding, check_syntax
from rootless.dockerfile.stages import Dockerfile, Origin, Stage, parse

__all__ = [
    "Dockerfile",
    "DockerfileError",
    "Finding",
    "Origin",
    "Stage",
    "check_syntax",
    "parse",
    "parse_trigger",
    "show_lines",
]
