"""Containers under a systemd that runs: units, reboot, power cut, the journal."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.lib.guest import script
from tests.lib.machine import IMAGE, Machine

pytestmark = [pytest.mark.vm, pytest.mark.needs("virtual machine")]

SLICE = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice"


# -- units ---------------------------------------------------------------------------------------


def test_unit_manages_its_container(machine: Machine) -> None:
    """systemd starts it, finds it in the unit's control group, restarts and stops it."""
    text = r"""
        look() { systemctl --user show container-web --value -p "$1"; }
        rless create --name web --network none -m 64m $IMAGE sh -c "$OBEDIENT" >/dev/null
        unit -n web; systemd-analyze --user verify ./container-web.service 2>&1
        systemctl --user start container-web
        look ActiveState; look SubState; look Type
        tr '\0' ' ' </proc/$(look MainPID)/cmdline; echo
        rless inspect -f '{{.State.Status}}' web
        cd $SLICE/container-web.service
        cat rless-*/memory.max cgroup.procs; wc -l <supervisor/cgroup.procs
        systemctl --user list-units --plain --no-legend 'rless-*.scope'
        rless kill web
        await '[ $(look NRestarts) = 1 ] && [ $(look ActiveState) = active ]'
        cd /; systemctl --user stop container-web
        look ActiveState; look Result; rless logs web | tail -n 1
        rless inspect -f '{{.State.Status}} {{.State.ExitCode}}' web
        ls -d $SLICE/container-web.service"""
    done = machine.run(script(text, SLICE=SLICE))
    lines = done.lines()
    assert lines[:3] == ["active", "running", "notify"], done
    assert lines[3].startswith("rless: monitor of")
    # In the unit's own control group, with the monitor beside it, and no scope.
    assert lines[4:7] == ["running", str(64 << 20), "1"], done
    # It was killed, and Restart=on-failure has brought it back; the stop was obeyed.
    assert lines[7:] == ["web", "inactive", "success", "bye", "exited 0"], done


def test_unit_can_create_its_container(machine: Machine) -> None:
    text = r"""
        X='a b%c$d'; export X
        rless create --name fresh --network none -e "X=$X" $IMAGE \
            sh -c 'echo $X; exec sleep 600' --stop-timeout 0 >/dev/null
        unit -n --new -t 1 fresh; rless rm -f fresh >/dev/null
        systemctl --user start container-fresh
        first=$(rless ps -q); rless logs fresh
        systemctl --user restart container-fresh
        second=$(rless ps -q); [ -n "$first" ] && [ -n "$second" ] && [ $first != $second ]; echo $?
        systemctl --user stop container-fresh; rless ps -aq"""
    done = machine.run(script(text))
    assert done.lines() == ["a b%c$d", "0"], done


def test_application_notifies_readiness(machine: Machine) -> None:
    text = r"""
        look() { systemctl --user show container-say --value -p "$1"; }
        rless create --sdnotify container --name say --network none host: sh -c '
            until [ -e /tmp/go ]; do sleep 0.2; done
            systemd-notify --ready --status=hello; exec sleep 600' >/dev/null
        unit -n -t 1 say; systemctl --user start --no-block container-say
        await 'rless exec say true 2>/dev/null'; look ActiveState
        rless exec say touch /tmp/go; systemctl --user start container-say
        look ActiveState; look StatusText; tr '\0' ' ' </proc/$(look MainPID)/cmdline"""
    done = machine.run(script(text))
    # It runs, and is not ready yet; then it says so.
    waits, active, status, title = done.lines()
    assert (waits, active, status) == ("activating", "active", "hello"), done
    assert title.startswith("rless: monitor of")


# -- reboot and power cut ------------------------------------------------------------------------

STATES = "-f '{{.Name}} {{.State.Status}} {{.State.ExitCode}}'"
COME_BACK = rf"""
    for unit in rless-restart container-web; do
        await "systemctl --user is-active -q $unit"
    done
    rless inspect {STATES} web always-on always-off unless-stopped-on unless-stopped-off"""
# A helper that stays for two seconds after all others of its group.
LATE = r"""
    echo $$ >"$1"; others=1
    while [ "$others" ]; do
        sleep 0.1; others=
        while read pid; do [ $pid = $$ ] || others=1; done <"$1"
    done
    sleep 2"""
BACK = [
    "/web running 0",
    "/always-on running 0",
    "/always-off running 0",
    "/unless-stopped-on running 0",
    "/unless-stopped-off exited 0",
]


@pytest.mark.timeout(900)
def test_containers_come_back_after_reboot_and_power_cut(machine: Machine) -> None:
    """Those come back that are to; what a power cut has ended is known to have been ended."""
    text = r"""
        rless create --name web --network none $IMAGE sh -c "$OBEDIENT" >/dev/null
        for policy in always unless-stopped; do
            for name in on off; do
                $RUN -d --name $policy-$name --restart $policy $IMAGE sh -c "$OBEDIENT"
            done
            rless stop $policy-off
        done >/dev/null
        $RUN -d --name plain $IMAGE sh -c "$OBEDIENT" >/dev/null
        $RUN -d --name rm --rm $IMAGE sh -c "$OBEDIENT" >/dev/null
        unit -n web; unit --restart
        systemctl --user enable -q --now container-web rless-restart"""
    assert machine.run(script(text)).expect().out == ""
    machine.reboot()
    text = (
        COME_BACK
        + r"""
        rless inspect -f '{{.State.Status}}' plain; rless inspect rm >/dev/null; echo $?
        $RUN -d --name young $IMAGE sleep 600 >/dev/null
        $RUN --name over $IMAGE sh -c 'exit 7'; $RUN -d --rm --name gone $IMAGE sleep 600 >/dev/null
        sync; rless create --name made --network none $IMAGE true >/dev/null
        $RUN -d --rm --name rm $IMAGE sleep 600 >/dev/null"""
    )
    done = machine.run(script(text))
    assert done.lines() == [*BACK, "exited", "1"], done
    machine.cut()
    machine.boot()
    # `made` came a moment before the power went: whole or not there, and its name is free then.
    text = (
        COME_BACK
        + r"""
        for name in rm gone; do rless inspect $name >/dev/null; echo $?; done
        rless inspect made >/dev/null ||
            rless create --name made --network none $IMAGE true >/dev/null
        rless inspect $STATES made young over; rless inspect -f '{{.State.Error}}' young
        rless start young; $RUN --name gone $IMAGE echo here
        ls ~/.local/share/rless/run | wc -l
        members=$SLICE/rless-restart.service/supervisor/cgroup.procs; before=$(wc -l <$members)
        printf %s $LATE >/tmp/late; systemd-run --user -q sh /tmp/late $members
        await '[ $(wc -l <$members) -gt $before ]'
        systemctl --user stop rless-restart; ls -d $SLICE/rless-restart.service"""
    )
    done = machine.run(script(text, STATES=STATES, SLICE=SLICE, LATE=shlex.quote(LATE)))
    # The last line prints nothing: no group of the unit is left behind by a helper that is late.
    ends = ["/made created 0", "/young exited 137", "/over exited 7", "the machine went down"]
    assert done.lines() == [*BACK, "1", "1", *ends, "young", "here", "1"], done


# -- the journal ---------------------------------------------------------------------------------


def test_journal_gets_the_output(machine: Machine) -> None:
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
    script = "seq 6000; head -c 40000 /dev/zero | tr '\\0' x; echo; head -c 3000 /dev/urandom"
    machine.run(
        f'rless run --name fast --log-driver journald --network none {IMAGE} sh -c "{script}" >said'
        " && sleep 3 && rless logs fast >logged && cmp said logged"
    ).expect()


# -- many ----------------------------------------------------------------------------------------


def test_sixteen_containers_run_at_once(machine: Machine) -> None:
    """Each in a scope of its own; nothing is left of them, as `clean` finds after each test."""
    text = r"""
        for i in $(seq 16); do $RUN -d --rm --name n$i $IMAGE sleep 600 >/dev/null & done; wait
        rless ps -q | wc -l; find /sys/fs/cgroup -path '*/rless-*.scope/container' | wc -l
        rless rm -f $(rless ps -q) | wc -l; rless ps -aq
        systemctl --user list-units --type=scope --plain --no-legend 'rless-*'"""
    done = machine.run(script(text))
    assert (done.lines(), done.err) == (["16", "16", "16"], "")
