"""Run tests of this tree in the machine of scripts/vm, which may have another processor.

    scripts/vm within tests/conformance tests/unit/runtime/seccomp

The tests run as alice, below a control group that is delegated to her.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from tests.lib import machine
from tests.lib.compiled import ROOT

_OWN = """chown -R alice: /opt/tree && mkdir -p /run/rless-tests && chown alice: /run/rless-tests"""
_RUN = """cd /opt/tree && exec systemd-run --user --scope --quiet -p Delegate=yes sh -c '
    group=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
    mkdir $group/tests && echo $$ >$group/tests/cgroup.procs
    for name in cpu cpuset io memory pids; do echo +$name; done | while read -r one; do
        echo "$one" >$group/cgroup.subtree_control; done 2>/dev/null
    export RLESS_TEST_CGROUP=$group
    exec .venv/bin/python3 -m pytest -p no:cacheprovider --timeout=900 "$@"' - """
# What they have said after SEEN bytes: waits a while for it, so that nothing is asked in vain.
_NEWS = """for try in $(seq 25); do
    [ ! -e /tmp/code ] && [ "$(stat -c %s /tmp/said)" = SEEN ] || break; sleep 0.2; done
    tail -c +$((SEEN + 1)) /tmp/said"""


def main() -> int:
    """Run the tests that the arguments of pytest choose, and return its exit code."""
    with tempfile.TemporaryDirectory(prefix="rless-vm-") as name:
        machine.write_payload(Path(name, "payload.tar"), _add_tests)
        with machine.Machine(Path(name)) as booted:
            booted.run(_OWN, "root").expect()
            return _follow(booted, _RUN + shlex.join(sys.argv[1:]))


def _follow(booted: machine.Machine, script: str) -> int:
    """Run a script as alice, write what it says while it does so, and return its exit code."""
    booted.run("install -o alice /dev/null /tmp/said", "root").expect()
    booted.start(f"({script}) >/tmp/said 2>&1; echo $? >/tmp/code")
    seen = 0
    while True:
        code = booted.run("cat /tmp/code 2>/dev/null", "root").out  # nothing is said after it
        news = booted.run(_NEWS.replace("SEEN", str(seen)), "root").expect().raw
        seen += len(news)
        sys.stdout.buffer.write(news)
        sys.stdout.flush()
        if code.strip():
            return int(code)


def _add_tests(payload: Path) -> None:
    """Add this tree, with what its tests need, to a payload that has it installed."""
    tree = payload / "opt/tree"
    left = (".git", ".venv", "bin", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(*left))
    (installed,) = payload.glob("opt/rless/lib/*/site-packages/rootless/bin")
    # With the compiled modules: hundreds of tests start a Python that would compile them each time.
    shutil.copytree(installed.parent, tree / "rootless", dirs_exist_ok=True)
    environment = tree / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python3").symlink_to("/usr/bin/python3")
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\n")
    packages = environment / installed.parents[1].relative_to(payload / "opt/rless")
    shutil.copytree(installed.parents[1], packages, ignore=shutil.ignore_patterns("rootless"))
    machine.install(packages, "pytest", "pytest-timeout", "hypothesis")


if __name__ == "__main__":
    raise SystemExit(main())
