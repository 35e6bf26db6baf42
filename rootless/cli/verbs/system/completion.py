"""`rless completion SHELL`: the script with which a shell completes verbs, flags and names."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.flags.values import choice
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("completion", "bash|zsh|fish", least=1, most=1)


def main(values: dict[str, Any], args: list[str]) -> int:
    """Print the script; the shell calls rless back for each completion."""
    from rootless.cli.click_app import completion_script

    try:
        shell = choice(args[0], "bash", "zsh", "fish")
    except ValueError as error:
        raise RlessError(f"{args[0]!r} {error}", "`rless completion bash`") from None
    streams.write(completion_script(shell))
    return 0
