"""Ask before a verb removes much, as Docker does."""

from __future__ import annotations

import os

from rootless.cli import streams


def confirmed(warning: str) -> bool:
    """Print a warning and a question; tell whether the answer on standard input is yes.

    No answer, as from /dev/null, is no.
    """
    streams.write(f"{warning}\nAre you sure you want to continue? [y/N] ")
    answer = b""
    while not answer.endswith(b"\n"):
        try:
            char = os.read(0, 1)
        except OSError:
            char = b""
        if not char:
            streams.write("\n")
            break
        answer += char
    return answer.strip().lower() in (b"y", b"yes")
