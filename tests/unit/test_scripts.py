"""What the scripts of the tree do with the shell that starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).parents[2]


def ignore_keys() -> None:
    """Do what a shell without job control does for `COMMAND &`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)


def test_keys_are_not_ignored() -> None:
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert signal.getsignal(signal.SIGQUIT) == signal.SIG_DFL


def test_tests_in_the_background_do_not_ignore_keys() -> None:
    one = f"{__file__}::{test_keys_are_not_ignored.__name__}"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", one],
        cwd=TREE,
        preexec_fn=ignore_keys,
        check=True,
        capture_output=True,
    )


def test_programs_of_the_system_are_found() -> None:
    done = subprocess.run(
        ["bash", "-c", ". scripts/lib.sh; echo $PATH"],
        cwd=TREE,
        env={**os.environ, "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "/usr/sbin" in done.stdout.strip().split(":")


def test_installation_shows_what_it_installs() -> None:
    script = r"""
        . scripts/lib.sh
        printf '%s\n' noise "Collecting click>=8.1" "  Building wheel for rless: started" |
            progress "Collecting|Building wheel"
    """
    done = subprocess.run(["bash", "-c", script], cwd=TREE, capture_output=True, text=True)
    assert done.stderr == "    Collecting click>=8.1\n    Building wheel for rless: started\n"
