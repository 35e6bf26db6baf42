"""A first day with rless in the machine of scripts/vm: one list of steps, the same on each host.

`scripts/vm tour` prints what each step said, and a row for the table of docs/hosts.md.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.lib import hosts
from tests.lib.guest import script
from tests.lib.machine import IMAGE, Machine


class Step(NamedTuple):
    """What a user does, in a session of its own, and the lines that it prints then."""

    name: str
    text: str
    said: str
    user: str = "alice"


# pasta copies the addresses of an interface: this one leads nowhere.
_ROUTE = """modprobe -q dummy; ip link add ext0 type dummy && ip addr add 192.0.2.2/24 dev ext0 &&
ip link set ext0 up && ip route add default via 192.0.2.1"""
_TOOLS = r"""
web() {
    rless run -d -p 8080:80 --name web $IMAGE sh -c '
        hostname >/tmp/index.html; exec httpd -f -h /tmp'
}
get() {
    for i in $(seq 50); do busybox wget -qO- http://127.0.0.1:8080 && return; sleep 0.2; done
}
"""

STEPS = [
    Step("doctor", "rless doctor >said; code=$?; grep -A4 FAIL said; echo $code", "0"),
    Step("pull", f"rless pull -q {IMAGE} >/dev/null; rless images -q | wc -l", "1"),
    Step("run", "rless run --rm $IMAGE echo hello", "hello"),
    Step(
        "several users",
        """rless run --rm $IMAGE sh -c 'touch /tmp/mine && chown user /tmp/mine &&
            exec su user -c "id -u; stat -c %u /tmp/mine /home/user /root"'""",
        "1000 1000 1000 0",
    ),
    Step(
        "--user",
        "rless run --rm -u 1000:1000 $IMAGE sh -c 'id -u; echo x >~/x; cat ~/x'",
        "1000 x",
    ),
    Step(
        "build",
        r"""rless tag $IMAGE base; mkdir -p site
        printf '%s\n' 'FROM base' 'RUN chown user /home' \
            'USER user' >site/Dockerfile
        rless build -q -t site site >/dev/null
        rless run --rm site sh -c 'id -un; stat -c %U /home'""",
        "user user",
    ),
    Step("-p", "web >/dev/null; get | wc -w", "1"),
    Step("exec", "rless exec web cat /proc/1/comm; rless exec -u user web id -un", "httpd user"),
    Step("restart", "rless restart -t 0 web; get | wc -w", "web 1"),
    Step("log-out", "rless ps --format '{{.Names}} {{.State}}'", "web running"),
    Step(
        "the end of pasta",
        """rless rm -f web; pgrep -u alice pasta
        web >/dev/null; get | wc -w; rless rm -f web; pgrep -u alice pasta""",
        "web 1 web",
    ),
    Step(
        "-v FILE",
        "echo mine >mine; rless run --rm -v $PWD/mine:/m $IMAGE sh -c 'cat /m; stat -c %u /m'",
        "mine 0",
    ),
    Step(
        "networks",
        """rless network create net >/dev/null
        rless run -d --name one --network net $IMAGE httpd -f -h /etc >/dev/null
        rless run --rm --network net $IMAGE sh -c '
            until wget -qO- http://one/hostname; do sleep 0.2; done' | wc -w
        rless rm -f one; rless network rm net""",
        "1 one net",
    ),
    Step(
        "limits",
        """rless run --rm -m 64m --pids-limit 9 $IMAGE sh -c '
            cd /sys/fs/cgroup; cat memory.max pids.max'""",
        "67108864 9",
    ),
    Step(
        "--hpc FILE",
        """rless flatten $IMAGE box.sqsh >/dev/null
        rless run --hpc ./box.sqsh sh -c 'id -u; pwd'""",
        "1000 /home/alice",
    ),
    Step(
        "all gone",
        "rless ps -aq; rless system prune -a -f >/dev/null; rless images -q; pgrep -a pasta",
        "",
    ),
    Step(
        "no lingering",
        f"""rless pull -q {IMAGE} >/dev/null
        rless run --rm -m 64m --network none $IMAGE echo bob""",
        "bob",
        "bob",
    ),
]
_VERSIONS = r"""uname -r; python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])'
(. /etc/os-release; echo $PRETTY_NAME); dpkg-query -Wf '${Version}' passt"""


def main() -> int:
    """Take the tour, print the row; return 0 if all steps went well."""
    host = hosts.chosen()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rless-vm-") as name, Machine(Path(name)) as machine:
        machine.run(_ROUTE, "root").expect()
        kernel, python, system, pasta = machine.run(_VERSIONS, "root").lines()
        tools = _TOOLS
        if host.storage:
            _see_refusal(machine)
            tools += f"export RLESS_STORAGE={host.storage}\n"
        failed = [step.name for step in STEPS if not _take(machine, step, tools)]
        if host.seen:
            print(machine.run(host.seen, "root").out, file=sys.stderr)
    title = ", ".join(filter(None, (system, host.title)))
    versions = f"Linux {kernel}, Python {python}, pasta {pasta}"
    seen = f"{len(STEPS) - len(failed)} of {len(STEPS)}"
    minutes = (time.monotonic() - began) / 60
    cells = (title, versions, time.strftime("%Y-%m-%d"), seen, ", ".join(failed), f"{minutes:.1f}")
    print("|", " | ".join(cells), "|")
    return bool(failed)


def _see_refusal(machine: Machine) -> None:
    """See that a home that holds no foreign owners is refused in a line that says what to do."""
    refused = machine.run(script("rless run -q --rm $IMAGE true"))
    assert refused.code == 125 and refused.err.count("\n") == 1, refused
    assert "set RLESS_STORAGE to a local directory" in refused.err, refused
    print(refused.err, end="", file=sys.stderr, flush=True)


def _take(machine: Machine, step: Step, tools: str) -> bool:
    done = machine.run(script(tools + step.text), step.user, 600)
    well = done.out.split() == step.said.split()
    print(f"{'ok' if well else 'FAIL'}: {step.name}", file=sys.stderr)
    if not well or done.err:
        print(f"    {done.out!r}\n    {done.err}", file=sys.stderr)
    sys.stderr.flush()
    return well


if __name__ == "__main__":
    raise SystemExit(main())
