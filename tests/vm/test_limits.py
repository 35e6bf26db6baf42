"""Limits that the kernel holds, for users of a systemd that delegates.

alice has all controllers, bob what Debian delegates. What is asserted is what happens, never how
fast: the processor is emulated.
"""

from __future__ import annotations

import json

import pytest

from tests.lib.machine import IMAGE, Machine

pytestmark = [pytest.mark.vm, pytest.mark.needs("virtual machine")]

RUN = "rless run --network none"
# The control group of a container, as the host sees it.
GROUP = (
    "group() { dirname $(find /sys/fs/cgroup -path"
    ' "*/rless-$(rless inspect -f {{.Id}} $1).scope/container/cgroup.procs"); }; '
)
WAIT = (
    'await() { for i in $(seq 100); do eval "$1" && return; sleep 0.2; done;'
    ' echo "in vain: $1"; return 1; }; '
)
PLACE = "/user.slice/user-1000.slice/user@1000.service/user.slice"


def words(text: str) -> dict[str, int]:
    """Return a file of lines `name number`."""
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def test_the_scope(machine: Machine) -> None:
    """What is asked for is what systemd shows, the kernel has, and the container sees."""
    limits = "-m 64m --memory-reservation 32m --cpus 0.5 --cpu-shares 512 --cpuset-cpus 1"
    limits += " --pids-limit 50 --device-write-bps /dev/vda:1mb --cgroup-conf memory.high=60000000"
    files = "memory.max memory.low memory.high memory.swap.max cpu.max cpuset.cpus pids.max io.max"
    script = (
        f"{RUN} -d --name lim {limits} {IMAGE} sleep 600 >/dev/null;"
        " id=$(rless inspect -f '{{.Id}}' lim); systemctl --user show rless-$id.scope"
        " -p Slice,Delegate,Description,CollectMode,MemoryMax,TasksMax,ControlGroup,ActiveState;"
        f" rless exec lim sh -c 'cd /sys/fs/cgroup && head -n 9 {files} cgroup.controllers; nproc;"
        " grep Cpus_allowed_list /proc/self/status; cat /proc/self/cgroup; mkdir x';"
        " rless inspect -f '{{json .HostConfig}}' lim"
    )
    done = machine.run(script)
    lines = done.lines()
    shown = dict(line.split("=", 1) for line in lines if "=" in line[:20])
    short = shown["ControlGroup"].rpartition("/rless-")[2].removesuffix(".scope")
    assert shown["ControlGroup"] == f"{PLACE}/rless-{short}.scope", done
    assert (shown["Slice"], shown["Delegate"], shown["ActiveState"]) == (
        "user.slice",
        "yes",
        "active",
    )
    assert (shown["CollectMode"], shown["Description"]) == ("inactive-or-failed", "container lim")
    assert (int(shown["MemoryMax"]) >= 64 << 20, int(shown["TasksMax"]) >= 50) == (True, True)
    found = {
        lines[at][4:-4]: lines[at + 1] for at, line in enumerate(lines) if line.startswith("==> ")
    }
    assert found["memory.max"] == str(64 << 20)
    assert found["memory.low"] == str(32 << 20)
    assert found["memory.swap.max"] == str(64 << 20)
    assert found["memory.high"] == str(60_000_000 // 4096 * 4096)
    assert (found["cpu.max"], found["cpuset.cpus"], found["pids.max"]) == (
        "50000 100000",
        "1",
        "50",
    )
    assert found["io.max"].startswith("254:0 ") and "wbps=1048576" in found["io.max"]
    assert set(found["cgroup.controllers"].split()) >= {"cpu", "cpuset", "io", "memory", "pids"}
    at = lines.index("Cpus_allowed_list:\t1")
    assert (lines[at - 1], lines[at + 1]) == ("1", "0::/")
    assert "Read-only file system" in done.err  # nobody divides it but systemd
    host = json.loads(lines[-1])
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 500_000_000, 50)
    assert host["CpusetCpus"] == "1"


def test_memory(machine: Machine) -> None:
    eat = "dd if=/dev/zero of=/dev/null bs=200M count=1"
    done = machine.run(
        f"{RUN} --name oom -m 64m --memory-swap 64m {IMAGE} {eat}; echo $?;"
        f" {RUN} --name fine -m 64m {IMAGE} sh -c 'exit 137'; echo $?;"
        " rless inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}} {{.State.Status}}' oom fine;"
        " rless events --since 5m --until 0s --filter event=oom --format '{{.Actor.Attributes.name}}'"
    )
    expected = ["137", "137", "true 137 exited", "false 137 exited", "oom"]
    assert done.lines() == expected, done


def test_swap(machine: Machine) -> None:
    """Memory and swap together: what does not fit into one goes to the other, or is killed for."""
    machine.run(
        "[ -e /swap ] || { dd if=/dev/zero of=/swap bs=1M count=128 2>&1 && chmod 600 /swap"
        " && mkswap /swap; } && swapon /swap",
        "root",
    ).expect()
    fill = "sh -c 'dd if=/dev/zero of=/dev/shm/x bs=1M count=48 2>/dev/null && cat"
    fill += " /sys/fs/cgroup/memory.swap.current'"
    limits = "--rm --shm-size 100m -m 32m --memory-swap"
    done = machine.run(
        f"{RUN} {limits} 96m {IMAGE} {fill}; echo $?; {RUN} {limits} 32m {IMAGE} {fill}; echo $?"
    )
    used, code, killed = done.lines()
    assert int(used) > 10 << 20
    assert (code, killed) == ("0", "137"), done
    machine.run("swapoff /swap", "root").expect()


def test_cpus(machine: Machine) -> None:
    """Two processes that never stop get half a processor of the guest's time."""
    script = (
        "for i in 1 2; do while :; do :; done & done; cd /sys/fs/cgroup;"
        " read a rest </proc/uptime; cat cpu.stat; sleep 3; read b rest </proc/uptime;"
        " echo began $a; echo ended $b; cat cpu.stat"
    )
    done = machine.run(f'{RUN} --rm --cpus 0.5 {IMAGE} sh -c "{script}"'.replace("$", "\\$"))
    lines = done.expect().lines()
    (at,) = (index for index, line in enumerate(lines) if line.startswith("began"))
    before, after = words("\n".join(lines[:at])), words("\n".join(lines[at + 2 :]))
    elapsed = 1e6 * (float(lines[at + 1].split()[1]) - float(lines[at].split()[1]))
    assert after["usage_usec"] - before["usage_usec"] < 0.75 * elapsed, done
    assert after["nr_throttled"] > before["nr_throttled"]


def test_a_fork_bomb(machine: Machine) -> None:
    script = "i=0; while [ $i -lt 60 ]; do sleep 600 & i=$((i + 1)); done"
    done = machine.run(
        f"{RUN} -d --name bomb --pids-limit 20 {IMAGE} sh -c '{script}; wait' >/dev/null; {WAIT}{GROUP}"
        " g=$(group bomb); await 'grep -q \"max [1-9]\" $g/pids.events'; cat $g/pids.current;"
        f" {RUN} --rm {IMAGE} cat /sys/fs/cgroup/pids.max; rless logs bomb 2>&1"
    )
    current, default, *said = done.expect().lines()
    assert int(current) <= 20
    assert default == "2048"
    assert "fork" in " ".join(said)


def test_writing_to_a_disk(machine: Machine) -> None:
    """4 MiB at 1 MiB a second take three seconds at least, however fast the disk is."""
    write = "dd if=/dev/zero of=/x bs=1M count=4 conv=fsync 2>/dev/null"
    script = f"read a r </proc/uptime; {write}; read b r </proc/uptime; echo $a $b"
    done = machine.run(
        f"{RUN} --rm --device-write-bps /dev/vda:1mb {IMAGE} sh -c '{script}'"
    ).expect()
    began, ended = map(float, done.out.split())
    assert ended - began > 2.5


def test_pause(machine: Machine) -> None:
    """Frozen, not one more instruction is done."""
    done = machine.run(
        f"{RUN} -d --name pp {IMAGE} sh -c 'while :; do :; done' >/dev/null; {WAIT}{GROUP}"
        " rless exec -d pp sleep 601; g=$(group pp); await '[ $(wc -l <$g/cgroup.procs) = 2 ]';"
        " rless pause pp; cat $g/cgroup.freeze; rless ps --format '{{.Status}}';"
        " grep usage_usec $g/cpu.stat; sleep 1; grep usage_usec $g/cpu.stat;"
        " ps -o s= -p $(pgrep -f 'sleep 601$'); rless unpause pp;"
        ' last=$(grep usage_usec $g/cpu.stat); await \'[ "$last" != "$(grep usage_usec $g/cpu.stat)" ]\';'
        " rless pause pp; rless kill pp; rless inspect -f '{{.State.ExitCode}}' pp; pgrep -f 'sleep 601$'"
    )
    lines = done.lines()
    assert lines[:2] == ["pp", "1"], done
    assert "(Paused)" in lines[2]
    assert lines[3] == lines[4]
    assert lines[5:] == ["S", "pp", "pp", "pp", "137"] or lines[5:] == [
        "D",
        "pp",
        "pp",
        "pp",
        "137",
    ]


def test_a_thousand_processes_end_at_once(machine: Machine) -> None:
    script = "i=0; while [ $i -lt 1000 ]; do sleep 600 & i=$((i + 1)); done; wait"
    done = machine.run(
        f"{RUN} -d --name many {IMAGE} sh -c '{script}' >/dev/null; {WAIT}{GROUP}"
        " g=$(group many); await '[ $(cat $g/pids.current) -gt 1000 ]'; pgrep -c -f 'sleep 600$';"
        " rless rm -f many; pgrep -c -f 'sleep 600$'; ls -d $g"
    )
    assert done.lines() == ["1000", "many", "0"], done


def test_update_and_stats(machine: Machine) -> None:
    look = "rless exec up sh -c 'cd /sys/fs/cgroup; cat memory.max pids.max cpu.max'"
    done = machine.run(
        f"{RUN} -d --name up -m 64m --pids-limit 30 {IMAGE} sh -c"
        " 'head -c 20000000 /dev/zero >/dev/shm/x; touch /go; sleep 600' >/dev/null;"
        f" {WAIT} await 'rless exec up test -e /go'; {look};"
        f" rless update -m 128m --memory-swap 128m --pids-limit 40 --cpus 0.25 up; {look};"
        " rless stats --no-stream --format json up;"
        " rless inspect -f '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.NanoCpus}}' up;"
        f" rless restart -t 0 up >/dev/null; {look}"
    ).expect()
    lines = done.lines()
    changed = [str(128 << 20), "40", "25000 100000"]
    assert lines[:3] == [str(64 << 20), "30", "max 100000"], done
    assert lines[3:7] == ["up", *changed], done
    row = json.loads(lines[7])
    used, most = row["MemUsage"].split(" / ")
    assert most == "128MiB"
    assert used.endswith("MiB") and float(used[:-3]) > 18  # pages of a tmpfs are no process's
    assert lines[8] == f"{128 << 20} 40 250000000"
    assert lines[9:] == changed


# -- who asks, and from where ----------------------------------------------------------------------


def test_what_debian_delegates(machine: Machine) -> None:
    """bob: memory and pids, no cpu. The refusal has what the administrator must write."""
    done = machine.run(
        f"{RUN} --rm --cpus 0.5 {IMAGE} true; echo $?; {RUN} --rm -m 64m --pids-limit 9 {IMAGE}"
        " cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max;"
        f" {RUN} --rm --limits=try --cpus 0.5 {IMAGE} echo tried; rless ps -aq",
        "bob",
    )
    assert done.lines() == ["125", str(64 << 20), "9", "tried"], done
    refused, warned = done.err.splitlines()
    assert refused.startswith("rless: ") and "cpu" in refused and "Delegate=" in refused
    assert "warning" in warned and "cpu" in warned


def test_two_users_at_once(machine: Machine) -> None:
    def script(size: int) -> str:
        return (
            f"{RUN} -d --name both -m {size}m {IMAGE} sleep 600 >/dev/null; sleep 3;"
            " rless exec both cat /sys/fs/cgroup/memory.max; rless ps --format '{{.Names}}';"
            " rless rm -f both"
        )

    jobs = [
        (size, machine.start(script(size), user)) for size, user in ((40, "alice"), (50, "bob"))
    ]
    for size, job in jobs:
        assert machine.wait(job).lines() == [str(size << 20), "both", "both"]


def test_in_a_scope_of_ours_without_a_bus(machine: Machine) -> None:
    """What was handed over to us is divided by us, and systemd is not needed."""
    done = machine.run(
        "systemd-run --user --scope -q -p Delegate=yes env -u DBUS_SESSION_BUS_ADDRESS"
        " -u XDG_RUNTIME_DIR sh -c '"
        f"{RUN} --name own -m 64m --cpus 0.5 --explain {IMAGE}"
        " cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; rless inspect own >/dev/null'"
    ).expect()
    assert done.lines() == [str(64 << 20), "50000 100000"]
    assert "cgroupfs" in done.err and "run-" in done.err


def test_where_nobody_delegates(machine: Machine) -> None:
    """Neither a session nor a user manager: a limit is refused, and nothing else."""
    call = f"runuser -u bob -- env -i HOME=/home/bob PATH=$PATH {RUN} --rm"
    done = machine.run(
        "loginctl terminate-user bob; for i in $(seq 60); do [ -e /run/user/1001 ] || break; sleep 0.5;"
        f" done; cd /; {call} {IMAGE} echo fine; {call} -m 64m {IMAGE} true; echo $?",
        "root",
    )
    assert done.lines() == ["fine", "125"], done
    assert "memory" in done.err and done.err.count("\n") == 1


def test_by_ssh(machine: Machine) -> None:
    """A log-in by sshd and its PAM stack, which opens the session for alice."""
    ssh = "ssh -q -i /root/key -o StrictHostKeyChecking=no alice@localhost"
    done = machine.run(
        "mkdir -p /run/sshd && systemd-run -q --unit sshd-test /usr/sbin/sshd -D;"
        f" for i in $(seq 50); do {ssh} true && break; sleep 0.2; done;"
        f" {ssh} 'cat /proc/self/cgroup; {RUN} -d --name far -m 64m {IMAGE} sleep 600 >/dev/null;"
        " rless exec far cat /sys/fs/cgroup/memory.max'; sleep 1;"
        f" {ssh} -tt 'rless exec -t far cat /sys/fs/cgroup/memory.max; rless rm -f far';"
        " systemctl stop sshd-test",
        "root",
    )
    session, first, second, removed = done.lines()
    assert session.startswith("0::/user.slice/user-1000.slice/session-")
    assert first == second.rstrip("\r") == str(64 << 20)
    assert removed.rstrip("\r") == "far"


def test_as_a_service_of_the_user(machine: Machine) -> None:
    """rless in the foreground of a plain unit: its stop ends the container, and all is gone."""
    done = machine.run(
        f"systemd-run --user -q --unit plain -p KillMode=mixed {RUN.replace('rless', '/usr/local/bin/rless')}"
        f" --rm --name svc -m 64m {IMAGE} sleep 600; {WAIT}"
        " await 'rless exec svc cat /sys/fs/cgroup/memory.max 2>/dev/null';"
        " systemctl --user stop plain; systemctl --user is-active plain; rless ps -aq"
    )
    assert done.lines() == [str(64 << 20), "inactive"], done


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("whom", ["monitor", "command", "init"])
def test_nothing_is_left_after_a_kill(machine: Machine, whom: str) -> None:
    """systemd removes the scope by itself, before any command of rless has looked."""
    pid = {
        "monitor": "$(pgrep -f '^rless: monitor of')",
        "command": "$(pgrep -f 'rless run' | head -n 1)",
        "init": "$(rless inspect -f '{{.State.Pid}}' dead)",
    }[whom]
    done = machine.run(
        f"{RUN} --name dead -m 64m {IMAGE} sleep 600 & {WAIT}"
        " await 'rless exec dead true 2>/dev/null'; scope=rless-$(rless inspect -f '{{.Id}}' dead).scope;"
        f" kill -9 {pid}; wait; await '! systemctl --user -q is-active $scope';"
        " find /sys/fs/cgroup -name 'rless-*'; pgrep -f 'sleep 600$';"
        " rless inspect -f '{{.State.Status}} {{.State.ExitCode}}' dead"
    )
    assert done.lines() == ["exited 137"], done
