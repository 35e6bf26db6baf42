"""The language of Apptainer's definition files: text in, values out. Nothing is read or run here.

    definition = parse(data, build_args)       bytes -> Definition; raises DefinitionError
    definition.stages[0].header["bootstrap"]   what a stage begins with
    definition.stages[0].files                 its %files, in their order
    definition.stages[0].scripts["post"]       its other sections, as written
    definition.stages[0].apps["name"]          its applications
    scripts.shebang(script)                    the file that a section becomes in the image
    apps.files(name, app, does)                those that an application has there

What a stage does is the same as in a Dockerfile, so it is done by the same builder: see
`engine.build.definition`.

Source: apptainer.org/docs/user/latest/definition_files.html; apptainer pkg/build/types/parser.
"""

from __future__ import annotations

from rootless.definition.errors import DefinitionError
from rootless.definition.parse import (
    SECTIONS,
    SIZE_LIMIT,
    App,
    Definition,
    Files,
    Script,
    Stage,
    labels_of,
    parse,
    read_args,
)

__all__ = [
    "SECTIONS",
    "SIZE_LIMIT",
    "App",
    "Definition",
    "DefinitionError",
    "Files",
    "Script",
    "Stage",
    "labels_of",
    "parse",
    "read_args",
]
