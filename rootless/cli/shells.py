"""What bash, zsh and fish need for completion: their scripts, and what they send and get.

click has all of it but what follows from the way in which bash splits words. Like `click_app` this
is loaded for completion only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    split_arg_string,
)

if TYPE_CHECKING:
    from typing import Any

# Bash splits the line at `:` and `=` too, and replaces only what follows the last of them: $2. So
# it sends the line as it is.
_BASH = """\
%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
        dir) compopt -o dirnames ;;
        file) compopt -o default ;;
        plain) COMPREPLY+=("$value") ;;
        esac
    done <<<"$(
        COMP_LINE=${COMP_LINE:0:COMP_POINT} COMP_WORD=$2 %(complete_var)s=bash_complete "$1"
    )"
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Whole(ShellComplete):
    """Offers the whole word, where click offers the VALUE of --flag=VALUE only."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
        flag, equals, _ = incomplete.partition("=")
        items = super().get_completions(args, incomplete)
        if flag[:1] == "-" and equals:
            for item in items:
                item.value = f"{flag}={item.value}"
        return items


class Bash(_Whole, BashComplete):
    """Completes the last word of $COMP_LINE, of which bash replaces $COMP_WORD."""

    source_template = _BASH
    _kept = 0  # characters of the word that bash does not replace

    def source(self) -> str:
        """Return the script; click would start a bash to ask for its version."""
        return ShellComplete.source(self)

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the whole words, and the one to complete."""
        line, word = os.environ["COMP_LINE"], os.environ["COMP_WORD"]
        words = split_arg_string(line)
        incomplete = "" if line[-1:].isspace() else words.pop()
        if incomplete.endswith(word):
            self._kept = len(incomplete) - len(word)
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return the type, and what bash is to put in the place of its word."""
        return f"{item.type},{item.value[self._kept :]}"


class Zsh(_Whole, ZshComplete):
    """As click's."""


class Fish(_Whole, FishComplete):
    """As click's."""


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": Zsh, "fish": Fish}
