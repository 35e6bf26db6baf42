"""Scripts for the virtual machine of tests/vm.

A session costs 0.7 s there, a command of rless half a second: so a script does many things, and
what it prints is looked at afterwards.
"""

from __future__ import annotations

from tests.lib.machine import IMAGE

RUN = "rless run --network none"
# Ends by TERM, and says so.
OBEDIENT = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.2; done"
# Functions: the control group of a container; to wait for a condition; to write a unit.
_TOOLS = r"""
group() {
    dirname $(find /sys/fs/cgroup -path \
        "*/rless-$(rless inspect -f '{{.Id}}' $1).scope/container/cgroup.procs")
}
await() {
    for i in $(seq 100); do eval "$1" && return; sleep 0.2; done
    echo "in vain: $1"
}
unit() {
    mkdir -p ~/.config/systemd/user && cd ~/.config/systemd/user &&
        rless generate systemd --files "$@" >/dev/null && systemctl --user daemon-reload
}
"""


def script(text: str, **values: object) -> str:
    """Return a script: $RUN, $IMAGE, $OBEDIENT and the given names are replaced by their values."""
    for name, value in {"RUN": RUN, "IMAGE": IMAGE, "OBEDIENT": OBEDIENT, **values}.items():
        text = text.replace(f"${name}", str(value))
    return _TOOLS + text
