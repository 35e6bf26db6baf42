"""Tests in a virtual machine: they run when asked for, by scripts/vm test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lib.machine import IMAGE, Machine

if "RLESS_VM_CACHE" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot the one machine that all tests share."""
    with Machine(tmp_path_factory.mktemp("vm")) as booted:
        for user in ("alice", "bob"):
            booted.run(f"rless pull -q {IMAGE}", user).expect()
        booted.run("loginctl enable-linger alice", "root").expect()
        yield booted


@pytest.fixture(autouse=True)
def clean(machine: Machine) -> Iterator[None]:
    """Remove what a test has made; nothing of rless may be left then."""
    yield
    if not machine.is_on:
        machine.boot()  # the test failed between two boots
    for user in ("alice", "bob"):
        machine.run(CLEAN, user).expect()
    left = machine.run(LEFT, "root").expect()
    assert left.out == "", f"left behind:\n{left.out}"


CLEAN = r"""
cd ~/.config/systemd/user 2>/dev/null && for unit in *.service; do
    [ -e "$unit" ] || continue
    systemctl --user disable -q --now "$unit"; rm -f "$unit"
done
systemctl --user daemon-reload; systemctl --user reset-failed
ids=$(rless ps -aq); [ -z "$ids" ] || rless rm -f -v $ids >/dev/null
rless volume prune -a -f >/dev/null
"""
# Processes, mounts, control groups, directories, units.
LEFT = r"""
for try in 1 2 3 4 5 6 7 8 9 10; do
    left=$(
        pgrep -a 'rless|pasta'
        grep -E '/rless/containers/' /proc/*/mountinfo 2>/dev/null | head -n 5
        find /sys/fs/cgroup -name 'rless-*' -o -name supervisor
        find /home/*/.local/share/rless/{containers,names,tmp,run/*/live} -mindepth 1 \
            ! -name booted
        for user in 1000 1001; do
            systemctl --user -M $user@ --failed --plain --no-legend 2>/dev/null
        done
    )
    [ -n "$left" ] || exit 0
    sleep 0.5
done
printf '%s\n' "$left"
"""
