"""Containers under a systemd that runs: units, log-out, reboot, power cut, control groups."""

from __future__ import annotations

import json

import pytest

from tests.lib.machine import IMAGE, Machine
from tests.lib.product import Result

pytestmark = [pytest.mark.vm, pytest.mark.needs("virtual machine")]

# Ends by TERM, and says so.
OBEDIENT = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.2; done"
UNITS = "mkdir -p ~/.config/systemd/user && cd ~/.config/systemd/user"
SLICE = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice"


def make_unit(machine: Machine, name: str, make: str, flags: str = "") -> Result:
    """Make a container and its unit; systemd must take it without a word."""
    return machine.run(
        f"{UNITS} && {make} >/dev/null && rless generate systemd -n -f {flags} {name} &&"
        f" systemd-analyze --user verify ./container-{name}.service 2>&1 &&"
        " systemctl --user daemon-reload"
    ).expect()


def create(name: str, script: str = OBEDIENT, flags: str = "") -> str:
    """Return the command that makes a container."""
    return f'rless create --name {name} --network none {flags} {IMAGE} sh -c "{script}"'


# -- units ---------------------------------------------------------------------------------------


def test_unit_of_a_container(machine: Machine) -> None:
    make_unit(machine, "web", create("web", flags="-m 64m"))
    machine.run("systemctl --user start container-web").expect()
    # It stays in the unit's control group, and has its limits there.
    done = machine.run(
        f"cd {SLICE}/container-web.service && cat rless-*/memory.max && cat rless-*/cgroup.procs |"
        " wc -l; cat supervisor/cgroup.procs | wc -l; cat cgroup.procs | wc -l;"
        " systemctl --user list-units --plain --no-legend 'rless-*.scope'"
    ).expect()
    memory, inside, supervisor, beside = done.lines()
    assert memory == str(64 << 20)
    assert (int(inside) > 0, supervisor, beside) == (True, "1", "0")
    shown = machine.show("container-web")
    assert (shown["ActiveState"], shown["SubState"], shown["Type"]) == (
        "active", "running", "notify",
    )  # fmt: skip
    title = machine.run(f"tr '\\0' ' ' </proc/{shown['MainPID']}/cmdline").out
    assert title.startswith("rless: monitor of")
    status = machine.run("systemctl --user status container-web").expect().out
    assert "active (running)" in status and "rless: monitor" in status
    assert machine.state("web")["Status"] == "running"

    # The container is killed: Restart=on-failure brings it back.
    machine.run("rless kill web").expect()
    machine.run(
        "for i in $(seq 100); do rless exec web true 2>/dev/null && break; sleep 0.2; done"
    ).expect()
    shown = machine.show("container-web")
    assert (shown["NRestarts"], shown["ActiveState"]) == ("1", "active")

    machine.run("systemctl --user stop container-web").expect()
    shown = machine.show("container-web")
    assert (shown["ActiveState"], shown["Result"]) == ("inactive", "success")
    assert machine.run("rless logs web").lines()[-1] == "bye"
    assert (machine.state("web")["Status"], machine.state("web")["ExitCode"]) == ("exited", 0)
    assert machine.run(f"ls -d {SLICE}/container-web.service").code == 2


def test_unit_that_makes_its_container(machine: Machine) -> None:
    strange = "a b%c\\$d"
    make = create("fresh", "echo \\$X; " + OBEDIENT, f'-e "X={strange}"')
    make_unit(machine, "fresh", make, "--new")
    machine.run("rless rm -f fresh && systemctl --user start container-fresh").expect()
    first = machine.run("rless ps -q --filter name=fresh").expect().out
    assert "a b%c$d" in machine.run("rless logs fresh").lines()
    machine.run("systemctl --user restart container-fresh").expect()
    second = machine.run("rless ps -q --filter name=fresh").expect().out
    assert first.strip() and second.strip() and first != second
    machine.run("systemctl --user stop container-fresh").expect()
    assert machine.show("container-fresh")["Result"] == "success"
    assert machine.run("rless ps -aq").out == ""


def test_the_application_says_that_it_is_ready(machine: Machine) -> None:
    script = "until [ -e /tmp/go ]; do sleep 0.2; done; systemd-notify --ready --status=hello"
    script += "; exec sleep 600"
    make = f"rless create --sdnotify container --name say --network none host: sh -c '{script}'"
    make_unit(machine, "say", make)
    machine.run(
        "systemctl --user start --no-block container-say;"
        " for i in $(seq 100); do rless exec say true 2>/dev/null && break; sleep 0.2; done"
    ).expect()
    shown = machine.show("container-say")
    assert shown["ActiveState"] == "activating"  # it runs, and is not ready yet
    machine.run("rless exec say touch /tmp/go && systemctl --user start container-say").expect()
    shown = machine.show("container-say")
    assert (shown["ActiveState"], shown["StatusText"]) == ("active", "hello")
    title = machine.run(f"tr '\\0' ' ' </proc/{shown['MainPID']}/cmdline").out
    assert title.startswith("rless: monitor of")


# -- reboot and power cut ------------------------------------------------------------------------


def test_reboot_and_power_cut(machine: Machine) -> None:
    make_unit(machine, "web", create("web"))
    machine.run("systemctl --user enable -q --now container-web").expect()
    for policy in ("always", "unless-stopped"):
        for name in ("on", "off"):
            machine.run(
                f"rless run -d --name {policy}-{name} --restart {policy} --network none {IMAGE}"
                f' sh -c "{OBEDIENT}"'
            ).expect()
        machine.run(f"rless stop {policy}-off").expect()
    plain = f'--network none {IMAGE} sh -c "{OBEDIENT}"'
    machine.run(f"rless run -d --name plain {plain}; rless run -d --rm --name rm {plain}").expect()
    machine.run(
        f"{UNITS} && rless generate systemd --restart --files && systemctl --user daemon-reload &&"
        " systemctl --user enable -q --now rless-restart"
    ).expect()
    assert machine.state("unless-stopped-off")["Status"] == "exited"
    machine.reboot()
    come_back(machine)
    assert machine.state("plain")["Status"] == "exited"
    assert machine.run("rless inspect rm").code == 1
    # What ran is known to have been ended by a power cut; what had ended keeps its code.
    run = "rless run -d --network none --name"
    machine.run(
        f"{run} young {IMAGE} sleep 600; {run} over {IMAGE} sh -c 'exit 7'; rless wait over;"
        f" {run} gone --rm {IMAGE} sleep 600; sync"
    ).expect()
    machine.run(create("made")).expect()
    machine.run(f"rless run -d --rm --name rm {plain}").expect()
    machine.cut()
    machine.boot()
    come_back(machine)
    assert machine.run("rless inspect rm").code == 1
    # Made a moment before the power went: either whole or not there, and its name free then.
    machine.run("rless inspect made >/dev/null || " + create("made")).expect()
    assert machine.state("made")["Status"] == "created"
    young, over = machine.state("young"), machine.state("over")
    assert (young["Status"], young["ExitCode"], young["Pid"]) == ("exited", 137, 0)
    assert young["Error"] == "the machine went down"
    assert (over["Status"], over["ExitCode"], over["Error"]) == ("exited", 7, "")
    assert machine.run("rless inspect gone").code == 1
    machine.run(f"rless start young && {run} gone {IMAGE} true").expect()
    # Of earlier boots nothing is kept.
    assert machine.run("ls ~/.local/share/rless/run | wc -l").out == "1\n"


def come_back(machine: Machine) -> None:
    """Wait for the units, and look at what they have started."""
    machine.run(
        "for unit in rless-restart container-web; do for i in $(seq 300); do"
        " systemctl --user is-active -q $unit && break; sleep 0.2; done; done"
    ).expect()
    for name in ("web", "always-on", "always-off", "unless-stopped-on"):
        assert machine.state(name)["Status"] == "running", name
    assert machine.state("unless-stopped-off")["Status"] == "exited"


# -- the journal ---------------------------------------------------------------------------------


def test_journal(machine: Machine) -> None:
    script = r"echo one; echo two >&2; printf 'bin\377\001\n\n  sp  \n'; sleep 3; printf part"
    machine.run(
        f'rless run -d --name jj --log-driver journald --network none {IMAGE} sh -c "{script}"'
    ).expect()
    follow = machine.start("rless logs -f jj")
    exact = b"one\nbin\xff\x01\n\n  sp  \npart"
    done = machine.wait(follow)
    assert (done.raw, done.err) == (exact, "two\n")
    done = machine.run("rless logs jj")
    assert (done.raw, done.err) == (exact, "two\n")
    assert machine.run("rless logs --since 2s -n 9 jj; rless logs -n 1 jj").out.endswith("part")
    later = "rless logs --since $(date -d '1 hour' +%s) jj"
    assert machine.run(f"{later}; rless logs --since 1h jj").raw == exact
    done = machine.run("journalctl -q -o json CONTAINER_NAME=jj").expect()
    entries = [json.loads(line) for line in done.lines()]
    assert len(entries) == 6
    short = machine.run("rless ps -aq --filter name=jj").out.strip()
    assert {entry["CONTAINER_ID"] for entry in entries} == {short}
    assert [e["PRIORITY"] for e in entries if e["MESSAGE"] == "two"] == ["3"]
    assert {e["PRIORITY"] for e in entries if e["MESSAGE"] != "two"} == {"6"}
    (part,) = (e for e in entries if e.get("CONTAINER_PARTIAL_MESSAGE") == "true")
    assert part["MESSAGE"] == "part"


def test_journal_loses_nothing(machine: Machine) -> None:
    """Faster than journald can take it."""
    script = "seq 20000; head -c 40000 /dev/zero | tr '\\0' x; echo; head -c 3000 /dev/urandom"
    machine.run(
        f'rless run --name fast --log-driver journald --network none {IMAGE} sh -c "{script}" >said'
        " && sleep 3 && rless logs fast >logged && cmp said logged"
    ).expect()


# -- many ----------------------------------------------------------------------------------------


def test_twenty_at_once(machine: Machine) -> None:
    """Each in a scope of its own; nothing is left of them, as `clean` finds after each test."""
    done = machine.run(
        f"for i in $(seq 20); do rless run -d --rm --name n$i --network none {IMAGE}"
        " sleep 600 >/dev/null & done; wait",
        timeout=900,
    )
    assert done.err == ""
    assert machine.run("rless ps -q | wc -l").out == "20\n"
    machine.run("rless rm -f $(rless ps -q) | wc -l", timeout=600).expect()
    assert machine.run("rless ps -aq").out == ""
    scopes = "systemctl --user list-units --type=scope --plain --no-legend 'rless-*'"
    assert machine.run(scopes).out == ""
