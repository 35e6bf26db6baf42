"""What a step costs, counted by strace: no clock, so nothing here flakes.

With a single id, because an ordinary user cannot trace newuidmap.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.lib.builds import Builds, seed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "strace")

CALLS = "mount,fsopen,open_tree,clone,clone3,fork,vfork,execve"
WORDS = ("build", "-q", "--userns=single", "--network=none")


def counted(rless: Product, log: Path, *words: str) -> Counter[str]:
    """Return how often a command and its children make some system calls with success."""
    strace = ["strace", "-ff", "-qq", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(log)]
    subprocess.run([*strace, *rless.argv(*words)], env=rless.env, check=True, capture_output=True)
    text = "".join(one.read_text() for one in log.parent.glob(f"{log.name}.*"))
    names = re.findall(r"^(\w+)\(.* = (?:0|[1-9]\d*)\b", text, re.MULTILINE)
    return Counter("fork" if name in ("clone", "clone3", "vfork") else name for name in names)


def test_a_step_takes_few_processes_and_mounts(rless: Product, tmp_path: Path) -> None:
    build = Builds(rless, tmp_path / "context")
    (build.context / "file").write_text("x")
    context = str(build.context)
    few = f"FROM localhost/base:1\n{seed()}RUN true\nCOPY file /a\n"
    (build.context / "Dockerfile").write_text(few)
    one = counted(rless, tmp_path / "one", *WORDS, context)
    again = counted(rless, tmp_path / "again", *WORDS, context)
    # The launcher's Python; the builder, and one process that looks for all COPYs.
    assert again["fork"] == 2, again
    # That one's own mount namespace is made private; no tree is mounted to find a COPY.
    assert (again["mount"], again["fsopen"], again["open_tree"]) == (1, 0, 0), again
    text = few.replace("RUN true\n", "RUN true\n" * 4).replace("localhost/base:1\n", "localhost/base:1\nRUN : 1\n")
    (build.context / "Dockerfile").write_text(text)
    more = counted(rless, tmp_path / "more", *WORDS, context)
    steps = 4
    # Each RUN: its init, and whoever notes changes of owners; its shell.
    assert more["fork"] - one["fork"] <= 2 * steps, (one, more)
    assert more["execve"] - one["execve"] == steps, (one, more)
