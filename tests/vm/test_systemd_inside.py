"""systemd as the first process of a container: --systemd. Its limits hold (security class 41)."""

from __future__ import annotations

import pytest

from tests.lib.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.needs("virtual machine")]

# /opt/systemd is a Debian whose files are alice's (scripts/vm-guest).
RUN = "rless run -d --name inner --network none --stop-timeout 60"
# By short ones: an exec that comes before systemd has divided its group is in the way of that.
UP = (
    "until rless exec inner test -S /run/systemd/private; do sleep 0.3; done;"
    " rless exec inner systemctl is-system-running --wait"
)
INIT = "--rootfs /opt/systemd /lib/systemd/systemd"


def test_systemd_runs(machine: Machine) -> None:
    inside = (
        "cat /proc/1/comm; echo $container;"
        " systemctl is-active systemd-journald dbus; journalctl -q -o cat -u dbus"
        " | grep -m 1 Started;"
        " cat /sys/fs/cgroup/cgroup.controllers; cat /proc/1/cgroup;"
        " systemd-run -q --wait -P -p MemoryMax=20M -p TasksMax=7"
        " sh -c 'cd /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup); cat memory.max pids.max';"
        " echo max >/sys/fs/cgroup/memory.max; cat /sys/fs/cgroup/memory.max"
    )
    done = machine.run(
        f"{RUN} -m 300m {INIT} >/dev/null; {UP}; rless exec inner sh -c {quoted(inside)};"
        " rless top inner -o comm; rless stop inner;"
        " rless inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' inner"
    )
    lines = done.lines()
    assert lines[0] in ("running", "degraded"), done
    assert lines[1:5] == ["systemd", "oci", "active", "active"], done
    assert "D-Bus System Message Bus" in lines[5]
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(lines[6].split())
    assert lines[7] == "0::/init.scope"
    assert lines[8:10] == [str(20 << 20), "7"], done
    # What the user has limited the container cannot open.
    assert lines[10] == str(300 << 20), done
    assert "systemd-journal" in done.out
    assert lines[-2:] == ["inner", "exited 0 false"], done


def test_systemd_container_can_be_restarted_and_paused(machine: Machine) -> None:
    """A second start finds no trace of the first one; a pause halts all groups below."""
    done = machine.run(
        f"{RUN} {INIT} >/dev/null; {UP};"
        " rless pause inner; rless ps --format '{{.Status}}'; rless unpause inner;"
        f" rless restart inner; {UP};"
        " rless exec inner find /sys/fs/cgroup -name '*.service' -path '*dbus*'; rless rm -f inner;"
        " find /sys/fs/cgroup -name 'rless-*'; pgrep -c systemd-journal"
    )
    lines = done.lines()
    assert lines[0] in ("running", "degraded"), done
    assert "(Paused)" in lines[2]
    assert lines[5] in ("running", "degraded"), done
    assert lines[-2:] == ["inner", "1"], done


def quoted(script: str) -> str:
    """Return one word of a shell."""
    return "'" + script.replace("'", "'\\''") + "'"
