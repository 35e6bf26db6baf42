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
WORDS = ("build", "--userns=single", "--network=none")


def counted(rless: Product, log: Path, *words: str) -> Counter[str]:
    """Return how often a command and its children make some system calls with success."""
    strace = ["strace", "-ff", "-qq", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(log)]
    done = subprocess.run([*strace, *rless.argv(*words)], env=rless.env, capture_output=True)
    assert not done.returncode, done.stderr.decode()
    text = "".join(one.read_text() for one in log.parent.glob(f"{log.name}.*"))
    names = re.findall(r"^(\w+)\(.* = (?:0|[1-9]\d*)\b", text, re.MULTILINE)
    return Counter("fork" if name in ("clone", "clone3", "vfork") else name for name in names)


def test_a_step_takes_few_processes_and_mounts(rless: Product, tmp_path: Path) -> None:
    build = Builds(rless, tmp_path / "context")
    (build.context / "file").write_text("x")
    context = str(build.context)
    head = f"FROM localhost/base:1\n{seed()}"
    build(head, *WORDS[1:]).expect()  # the base is copied for one id, by newuidmap
    few = f"{head}RUN : 1\nCOPY file /a\n"
    (build.context / "Dockerfile").write_text(few)
    one = counted(rless, tmp_path / "one", *WORDS, context)
    again = counted(rless, tmp_path / "again", *WORDS, context)
    (build.context / "Dockerfile").write_text(f"{few}WORKDIR /etc\nWORKDIR /new\n")
    build.rless(*WORDS, context).expect()
    places = counted(rless, tmp_path / "places", *WORDS, context)
    # The builder, and one process that looks at the files of all COPYs.
    assert again["fork"] == 2, again
    # Their own namespaces are made private; no tree is mounted to find a COPY.
    assert (again["mount"], again["fsopen"], again["open_tree"]) == (2, 0, 0), again
    # Nor to know that a WORKDIR is there, or was made.
    assert places == again
    steps = 4
    runs = "".join(f"RUN : {2 + number}\n" for number in range(steps))
    (build.context / "Dockerfile").write_text(f"{head}RUN : 0\n{runs}COPY file /a\n")
    more = counted(rless, tmp_path / "more", *WORDS, context)
    # Each RUN has an init, and two processes that note changes of owners.
    assert more["fork"] - one["fork"] == 3 * steps, (one, more)
    assert more["execve"] - one["execve"] == steps, (one, more)


def test_a_run_with_a_secret_is_the_last_of_its_process(rless: Product, tmp_path: Path) -> None:
    """Class 57: what it had ends with its mount namespace."""
    build = Builds(rless, tmp_path / "context")
    head = f"FROM localhost/base:1\n{seed()}"
    build(head, *WORDS[1:]).expect()
    forks = {}
    for kind in ("tmpfs", "secret,id=none"):
        text = f"{head}RUN --mount=type={kind},target=/m : first\nRUN : second\n"
        (build.context / "Dockerfile").write_text(text)
        log = tmp_path / kind
        forks[kind] = counted(rless, log, *WORDS, "--no-cache", str(build.context))["fork"]
    assert forks["secret,id=none"] == forks["tmpfs"] + 1, forks
