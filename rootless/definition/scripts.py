"""The files that sections become in the image, as Apptainer writes them.

Source: apptainer internal/pkg/build/metadata.go, stage.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.definition.errors import DefinitionError

if TYPE_CHECKING:
    from rootless.definition.parse import Script

_SHELL = ("/bin/sh", "-ex")


def shebang(script: Script) -> str:
    """Return %runscript, %startscript or %test as a file that can be executed."""
    first, text = "#!/bin/sh", script.text
    if text.lstrip().startswith("#!"):
        first, _, text = text.lstrip().partition("\n")
    arguments = script.arguments.partition("#")[0].strip()
    return f"{first.strip()}{' ' if arguments else ''}{arguments}\n\n{text}\n"


def environment(before: str, script: str) -> str:
    """Return a file of the environment: the one that the base has, and a section behind it."""
    return f"{before or '#!/bin/sh'}\n\n{script}\n"


def interpreter(script: Script) -> tuple[str, ...]:
    """Return the words before the name of the file that %post is.

    `%post -c SHELL [ARG...]` runs it by another shell.

    Raises:
        DefinitionError: -c without a shell.
    """
    words = script.arguments.partition("#")[0].split()
    if "-c" not in words:
        return (*_SHELL, *words)
    place = words.index("-c")
    shell = words[place + 1 :]
    if not shell:
        raise DefinitionError("%post -c needs a shell", "write %post -c /bin/bash", script.line)
    return (*_SHELL, *words[:place], "-c", f'{" ".join(shell)} "$0"')
