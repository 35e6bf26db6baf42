"""Tests in the virtual machine of scripts/vm: each worker boots one, for all tests that it gets.

See tests/lib/guest.py for what scripts cost.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.machine import IMAGE, Machine, write_payload


@pytest.fixture(scope="session")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write what the machines unpack, once for all workers."""
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent
    path = directory / "payload.tar"
    with open(directory / "payload.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            write_payload(path)
    return path


@pytest.fixture(scope="session")
def machine(payload: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot the machine that all tests of a worker share."""
    with Machine(tmp_path_factory.mktemp("vm"), payload) as booted:
        jobs = [booted.start(f"rless pull -q {IMAGE}", user) for user in ("alice", "bob")]
        for job in jobs:
            booted.wait(job).expect()
        booted.users.clear()
        yield booted


@pytest.fixture(autouse=True)
def clean(machine: Machine) -> Iterator[None]:
    """Remove what a test has made; nothing of rless may be left then."""
    began = time.monotonic()
    yield
    if not machine.is_on:
        machine.boot()  # the test failed between two boots
    users = sorted(machine.users - {"root"} | {"alice"})
    tidy = [f"{without_session(user)} bash -c '{CLEAN}' || exit\n" for user in users]
    left = machine.run("".join(tidy) + LEFT, "root").expect()
    machine.users.clear()
    if log := os.environ.get("RLESS_VM_TIMES"):
        with open(log, "a") as file:
            file.write(f"{time.monotonic() - began:.1f} {os.environ['PYTEST_CURRENT_TEST']}\n")
    assert left.out == "", f"left behind:\n{left.out}"


def without_session(user: str) -> str:
    """Return the words that run a command as this user. PAM, of su, takes longer than rless."""
    number = {"alice": 1000, "bob": 1001}[user]
    return (
        f"HOME=/home/{user} XDG_RUNTIME_DIR=/run/user/{number}"
        f" setpriv --reuid {number} --regid {number} --init-groups"
    )


# What talks to systemd only where there is something to say.
CLEAN = r"""
cd ~/.config/systemd/user 2>/dev/null && for unit in *.service; do
    [ -e "$unit" ] || continue
    systemctl --user disable -q --now "$unit"; rm -f "$unit"; changed=1
done
[ -z "$changed" ] || { systemctl --user daemon-reload; systemctl --user reset-failed; }
ids=$(ls ~/.local/share/rless/containers)
[ -z "$ids" ] || rless rm -f -v $ids >/dev/null
[ -z "$(ls ~/.local/share/rless/volumes 2>/dev/null)" ] || rless volume prune -a -f >/dev/null
"""
# Processes, mounts, control groups, directories, units.
LEFT = rf"""
for try in 1 2 3 4 5 6 7 8 9 10; do
    left=$(
        pgrep -a 'rless|pasta'
        grep -E '/rless/containers/| rless-[0-9a-f]{{64}} ' /proc/*/mountinfo 2>/dev/null |
            head -n 5
        find /sys/fs/cgroup -name 'rless-*' -o -name supervisor
        find /home/*/.local/share/rless/{{containers,names,tmp,run/*/live}} -mindepth 1 \
            ! -name booted
        {without_session("alice")} \
            systemctl --user list-units --plain --no-legend --failed 'rless-*' 'container-*'
    )
    [ -n "$left" ] || exit 0
    sleep 0.5
done
printf '%s\n' "$left"
"""
