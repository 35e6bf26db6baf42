"""Tests in the virtual machine of scripts/vm: one boot for all of them, in this order.

See tests/lib/guest.py for what scripts cost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.lib.machine import IMAGE, Machine


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot the one machine that all tests share."""
    with Machine(tmp_path_factory.mktemp("vm")) as booted:
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
    for user in sorted(machine.users - {"root"} | {"alice"}):
        number = {"alice": 1000, "bob": 1001}[user]
        environment = f"XDG_RUNTIME_DIR=/run/user/{number}"
        machine.run(
            f"runuser -u {user} -- env HOME=/home/{user} {environment} bash -c '{CLEAN}'", "root"
        ).expect()
    left = machine.run(LEFT, "root").expect()
    machine.users.clear()
    if log := os.environ.get("RLESS_VM_TIMES"):
        with open(log, "a") as file:
            file.write(f"{time.monotonic() - began:.1f} {os.environ['PYTEST_CURRENT_TEST']}\n")
    assert left.out == "", f"left behind:\n{left.out}"


# Without a session, and what talks to systemd only where there is something to say.
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
LEFT = r"""
for try in 1 2 3 4 5 6 7 8 9 10; do
    left=$(
        pgrep -a 'rless|pasta'
        grep -E '/rless/containers/| rless-[0-9a-f]{64} ' /proc/*/mountinfo 2>/dev/null | head -n 5
        find /sys/fs/cgroup -name 'rless-*' -o -name supervisor
        find /home/*/.local/share/rless/{containers,names,tmp,run/*/live} -mindepth 1 \
            ! -name booted
        XDG_RUNTIME_DIR=/run/user/1000 runuser -u alice -- \
            systemctl --user list-units --plain --no-legend --failed 'rless-*' 'container-*'
    )
    [ -n "$left" ] || exit 0
    sleep 0.5
done
printf '%s\n' "$left"
"""
