"""The language of Apptainer's definition files: text in, values out. Nothing is read or run here.

    definition = parse(data, build_args)       bytes -> Definition; raises DefinitionError
    definition.stages[0].header["bootstrap"]   what a stage begins with
    definition.stages[0].files                 its %files, in their order
    definition.stages[0].scripts["post"]       its other sections, as written
    scripts.shebang(script)                    the file that a section becomes in the image

What a stage does is the same as in a Dockerfile, so it is done by the same builder: see
`engine.build.definition`.

Source: apptainer.org/docs/user/latest/definition_files.html; apptainer pkg/build/types/parser.
"""

from __future__ import annotations

from rootless.definition.errors import DefinitionError
from rootless.definition.parse import (
    SECTIONS,
    SIZE_LIMIT,
    Definition,
    Files,
    Script,
    Stage,
    parse,
    read_args,
)

__all__ = [
    "SECTIONS",
    "SIZE_LIMIT",
    "Definition",
    "DefinitionError",
    "Files",
    "Script",
    "Stage",
    "parse",
    "read_args",
]
