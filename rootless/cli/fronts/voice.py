"""The words of a front: its version, and what its lines on standard error begin with."""

from __future__ import annotations

import os

from rootless.errors import (
    EXIT_CANNOT_EXECUTE,
    EXIT_NOT_FOUND,
    EXIT_TOOL,
    RlessError,
    spellings,
    voice,
)

_NOT_OF_FRONTS = {"alias", "config", "service"}  # verbs of Docker's that mean something else
HPC = ("apptainer", "singularity", "run-singularity")
FAILURE = 255  # Apptainer's exit code of each failure of the tool
_OF_RLESS = (1, EXIT_TOOL, EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND)
# What `runtime.inside.process` says of a program that is not there; clients search the second.
_EXECUTE, _MISSING = "cannot execute ", "executable file not found in $PATH"
# front -> what a line on standard error begins with: of an error, of a warning
VOICES = {
    "apptainer": ("FATAL:   ", "WARNING: "),
    "singularity": ("FATAL:   ", "WARNING: "),
    "run-singularity": ("FATAL:   ", "WARNING: "),
    "docker": ("docker: ", "docker: warning: "),
    "podman": ("Error: ", "podman: warning: "),
}


def take_voice(front: str) -> None:
    """Print errors and warnings as the front does, from now on."""
    voice["error"], voice["warning"] = VOICES[front]
    spellings[:] = [lambda text: _spell(text, front)]


def _spell(text: str, front: str) -> str:
    """Return a text with the commands in it under the name of the front, which has them too."""
    if "rless " not in text and front != "singularity":
        return text
    import re

    if front not in HPC:
        from rootless.cli.verb_table import ALIASES, VERBS

        verbs = {verb.split()[0] for group in VERBS.values() for verb in group} | {*ALIASES}
        words = "|".join(sorted(map(re.escape, (verbs - _NOT_OF_FRONTS) | {"VERB", "--help"})))
        return re.sub(rf"(?<![\w/.-])rless (?=(?:{words})(?![\w-]))", f"{front} ", text)
    name = "apptainer" if front == "apptainer" else "singularity"
    text = re.sub(
        r"\brless login( (?=[\w.\[]))?",
        lambda found: f"{name} registry login{' docker://' if found[1] else ''}",
        text,
    )
    return re.sub(r"(?<=[`'])apptainer (?=\w)", f"{name} ", text)


def failure(error: BaseException) -> tuple[BaseException, int | None]:
    """Return an error in the words of Apptainer, and its exit code; None: what the error has.

    255 is every failure of the tool; a program that is not there is one.
    """
    if not isinstance(error, RlessError):
        return error, None if isinstance(error, KeyboardInterrupt | BrokenPipeError) else FAILURE
    start, found, program = error.message.partition(_EXECUTE)
    program, missing, _ = program.partition(f": {_MISSING}")
    if found and missing and not start:
        error = RlessError(f'"{program}": {_MISSING}', error.hint, error.exit_code)
    return error, FAILURE if error.exit_code in _OF_RLESS else error.exit_code


def version(front: str) -> str:
    """Return the number that the front says as its version."""
    from rootless import __version__
    from rootless.cli.fronts.versions import NUMBERS

    chosen = os.environ.get("RLESS_FRONT_VERSION")
    return chosen or NUMBERS[front].format(release=__version__)


def version_line(front: str) -> str:
    """Return what the front answers to --version."""
    from rootless import __version__
    from rootless.cli.fronts.versions import LINES

    return LINES[front].format(version(front), release=__version__) + "\n"
