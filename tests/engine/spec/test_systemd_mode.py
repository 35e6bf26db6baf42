"""--systemd: a container in which systemd can run. systemd itself runs in tests/vm."""

from __future__ import annotations

import pytest

from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

# 37 is SIGRTMIN+3.
INIT = "trap 'echo bye; exit 3' 37; echo ready; while :; do sleep 0.1; done"


@pytest.mark.needs("delegated cgroup")
def test_cgroup_is_delegated_to_systemd(rless: Product) -> None:
    script = (
        "mkdir /sys/fs/cgroup/init.scope && echo 0 >/sys/fs/cgroup/init.scope/cgroup.procs"
        " && cat /proc/self/cgroup && touch /run/a /run/lock/b /tmp/c /var/log/journal/d"
        " && echo $container ${#container_uuid}"
    )
    done = rless.sh(script, "--systemd", "always")
    assert "0::/init.scope" in done.lines()
    assert done.lines()[-1] == "oci 32"
    rless.assert_clean()


@pytest.mark.needs("delegated cgroup")
def test_exec_joins_the_cgroup_of_the_first_process(rless: Product) -> None:
    """A group whose controllers go down takes no process any more."""
    script = "mkdir /sys/fs/cgroup/init.scope; echo 0 >/sys/fs/cgroup/init.scope/cgroup.procs"
    rless.detach("sd", "--systemd always", "sh", "-c", f"{script}; echo ready; exec sleep 600")
    wait_for(lambda: rless("logs", "sd").out == "ready\n", "its start")
    done = rless("exec", "sd", "cat", "/proc/self/cgroup").expect()
    assert "0::/init.scope" in done.lines()
    rless("rm", "-f", "sd").expect()


def test_cgroup_is_not_delegated_without_systemd_mode(rless: Product) -> None:
    done = rless.run("", "mkdir", "/sys/fs/cgroup/init.scope")
    assert done.code == 1


@pytest.mark.needs("delegated cgroup")
def test_stop_signal_suits_systemd(rless: Product) -> None:
    rless.detach("sd", "--systemd always", "sh", "-c", INIT)
    wait_for(lambda: rless("logs", "sd").out == "ready\n", "its start")
    rless("stop", "sd").expect()
    assert rless("logs", "sd").out == "ready\nbye\n"
    assert rless("inspect", "-f", "{{.State.ExitCode}}", "sd").out == "3\n"
    rless("start", "sd").expect()
    wait_for(lambda: rless("logs", "sd").out.count("ready") == 2, "its second start")
    rless("rm", "-f", "sd").expect()


def test_contradicting_flags_are_refused(rless: Product) -> None:
    done = rless.run("--systemd always --init", "true").expect(125)
    assert done.one_line_error().startswith("--systemd: systemd cannot run with --init; leave")
    assert "--systemd" in rless.run("--systemd maybe", "true").expect(125).one_line_error()
    assert rless.containers() == []
