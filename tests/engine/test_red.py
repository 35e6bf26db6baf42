"""Hostile containers against what the monitor has done for it: health checks, restarts."""

from __future__ import annotations

import time

import pytest

from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

# What a process with CAP_SYS_PTRACE sees of the processes that run a program of the host.
_SPY = """
while :; do for p in /proc/[0-9]*; do
    exe=$(readlink $p/exe) && case $exe in *python*)
        echo saw; grep -e CapPrm -e CapEff -e Seccomp: $p/status; ls -l $p/fd ;;
    esac
done 2>/dev/null; done
"""


@pytest.mark.parametrize("user", ["0", "1000"])
def test_a_health_check_has_nothing_to_steal(rless: Product, user: str) -> None:
    """Class 35: the monitor runs it in the container's own user namespace."""
    flags = ["--cap-add=SYS_PTRACE", "--health-cmd=true", "--health-interval=100ms", "-u", user]
    done = rless("run", "-d", "--network=none", "--name=spied", *flags, rless.image, "sleep", "600")
    done.expect()
    spy = rless.start("exec", "-u", "0", "spied", "sh", "-c", _SPY)
    own = rless("exec", "-u", "0", "spied", "grep", "CapPrm", "/proc/self/status").expect().out
    time.sleep(6)
    wait_for(lambda: "(healthy)" in rless("ps").out, "healthy", 20)
    rless("rm", "-f", "spied").expect()
    seen = spy.communicate(timeout=30)[0].decode().splitlines()
    assert "saw" in seen  # else the test looked at nothing
    limit = int(own.split()[1], 16)
    sets = [int(line.split()[1], 16) for line in seen if line.startswith("Cap")]
    assert sets
    assert not [mask for mask in sets if mask & ~limit]
    assert {line for line in seen if line.startswith("Seccomp:")} == {"Seccomp:\t2"}
    assert not [line for line in seen if "->" in line and "rless-product" in line]
