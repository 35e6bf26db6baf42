"""`rless alias rm`: remove commands that `rless alias install` has made."""

from __future__ import annotations

import os

from rootless.cli import streams
from rootless.cli.fronts import aliases
from rootless.cli.parse import Verb
from rootless.cli.verbs.alias.install import NAMES
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("alias rm", "[OPTIONS] DIR", (("Options", (NAMES,)),), least=1, most=1)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Remove them, and print the path of each; other files stay."""
    directory = os.path.abspath(args[0])
    removed = aliases.remove(directory, values.get("names", aliases.NAMES))
    if not removed:
        raise RlessError(f"{directory} has no such alias of rless", "see 'rless alias ls'")
    streams.write("".join(f"{path}\n" for path in removed))
    return 0
