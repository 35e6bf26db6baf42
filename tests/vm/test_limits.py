"""Limits that the kernel holds, for users of a systemd that delegates.

alice has all controllers, bob what Debian delegates. What is asserted is what happens, never how
fast: the processor is emulated. Security class 41.
"""

from __future__ import annotations

import json

import pytest

from tests.lib.guest import script
from tests.lib.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.needs("virtual machine")]

PLACE = "/user.slice/user-1000.slice/user@1000.service/user.slice"


def words(lines: list[str]) -> dict[str, int]:
    """Return lines of `name number`."""
    return {name: int(value) for name, value in (line.split() for line in lines)}


def test_scope_has_the_requested_limits(machine: Machine) -> None:
    """What is asked for is what systemd shows, the kernel has, and the container sees."""
    text = r"""
        $RUN -d --name lim -m 64m --memory-reservation 32m --cpus 0.5 --cpu-shares 512 \
            --cpuset-cpus 1 --pids-limit 50 --device-write-bps /dev/vda:1mb \
            --cgroup-conf memory.high=60000000 $IMAGE sleep 600 >/dev/null
        systemctl --user show rless-$(rless inspect -f '{{.Id}}' lim).scope -p \
            Slice,Delegate,Description,CollectMode,MemoryMax,TasksMax,ControlGroup,ActiveState
        rless exec lim sh -c '
            cd /sys/fs/cgroup
            for file in memory.max memory.low memory.high memory.swap.max cpu.max cpuset.cpus \
                pids.max io.max cgroup.controllers; do echo "$file=$(cat $file)"; done
            echo nproc=$(nproc) $(grep Cpus_allowed_list /proc/self/status)
            echo own=$(cat /proc/self/cgroup)
            mkdir x'
        rless inspect -f '{{json .HostConfig}}' lim"""
    done = machine.run(script(text)).expect()
    *lines, host_config = done.lines()
    found = dict(line.split("=", 1) for line in lines)
    identity = found["ControlGroup"].rpartition("/rless-")[2].removesuffix(".scope")
    assert found["ControlGroup"] == f"{PLACE}/rless-{identity}.scope"
    assert (found["Slice"], found["Delegate"]) == ("user.slice", "yes")
    assert (found["ActiveState"], found["CollectMode"]) == ("active", "inactive-or-failed")
    assert found["Description"] == "container lim"
    assert int(found["MemoryMax"]) >= 64 << 20 and int(found["TasksMax"]) >= 50
    assert found["memory.max"] == found["memory.swap.max"] == str(64 << 20)
    assert found["memory.low"] == str(32 << 20)
    assert found["memory.high"] == str(60_000_000 // 4096 * 4096)
    assert (found["cpu.max"], found["cpuset.cpus"]) == ("50000 100000", "1")
    assert found["pids.max"] == "50"
    assert found["io.max"].startswith("254:0 ") and "wbps=1048576" in found["io.max"]
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(found["cgroup.controllers"].split())
    assert found["nproc"] == "1 Cpus_allowed_list: 1"
    assert found["own"] == "0::/"
    assert "Read-only file system" in done.err  # it is only for systemd to divide
    host = json.loads(host_config)
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 500_000_000, 50)
    assert host["CpusetCpus"] == "1"


def test_memory_limit_is_enforced(machine: Machine) -> None:
    text = r"""
        $RUN --name oom -m 64m --memory-swap 64m $IMAGE dd if=/dev/zero of=/dev/null bs=200M count=1
        echo $?
        $RUN --name fine -m 64m $IMAGE sh -c 'exit 137'; echo $?
        rless inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}} {{.State.Status}}' oom fine
        rless events --since 5m --until 0s --filter event=oom \
            --format '{{.Action}} {{.Actor.Attributes.name}}'"""
    done = machine.run(script(text))
    expected = ["137", "137", "true 137 exited", "false 137 exited", "oom oom"]
    assert done.lines() == expected, done


def test_limits_of_a_build_are_enforced(machine: Machine) -> None:
    """All RUNs are in a group of the build. What one may not have kills it, and the build fails."""
    text = r"""
        rless tag $IMAGE localhost/base; mkdir built; cd built
        build() {
            printf '%s\n' 'FROM localhost/base' "RUN $1" >Dockerfile
            rless build --progress=plain --network none -m 64m --memory-swap 64m --cpus 0.5 \
                --pids-limit 50 -t localhost/limited . 2>said
            echo code=$?
        }
        build 'dd if=/dev/zero of=/dev/null bs=200M count=1'
        grep -o 'exit code [0-9]*' said | sort -u; rless image exists localhost/limited || echo none
        build 'dd if=/dev/zero of=/dev/null bs=20M count=1 2>/dev/null && \
            cd /sys/fs/cgroup && cat memory.max memory.swap.max cpu.max pids.max >/limits'
        $RUN --rm localhost/limited cat /limits
        find /sys/fs/cgroup -name 'rless-build-*'; systemctl --user list-units 'rless-build-*' -q
        cat said >&2; cd; rm -r built; rless rmi localhost/limited >/dev/null"""
    done = machine.run(script(text))
    limits = [str(64 << 20), "0", "50000 100000", "50"]
    assert done.lines() == ["code=1", "exit code 137", "none", "code=0", *limits], done


def test_swap_limit_is_enforced(machine: Machine) -> None:
    """Memory and swap together: what does not fit into one goes to the other, or is killed for."""
    on = r"""[ -e /swap ] ||
        { dd if=/dev/zero of=/swap bs=1M count=128 2>&1 && chmod 600 /swap && mkswap /swap; }
        swapon /swap"""
    machine.run(on, "root").expect()
    text = r"""
        for most in 96m 32m; do
            $RUN --rm --shm-size 100m -m 32m --memory-swap $most $IMAGE sh -c '
                dd if=/dev/zero of=/dev/shm/x bs=1M count=48 2>/dev/null &&
                    cat /sys/fs/cgroup/memory.swap.current'
            echo $?
        done"""
    done = machine.run(script(text))
    machine.run("swapoff /swap", "root").expect()
    used, code, killed = done.lines()
    assert int(used) > 10 << 20
    assert (code, killed) == ("0", "137"), done


def test_cpu_limit_is_enforced(machine: Machine) -> None:
    """Two processes that never stop get half a processor of the guest's time."""
    text = r"""
        $RUN --rm --cpus 0.5 $IMAGE sh -c '
            for i in 1 2; do while :; do :; done & done
            look() { read up idle </proc/uptime; echo uptime $up; cat /sys/fs/cgroup/cpu.stat; }
            look; sleep 3; look'"""
    lines = machine.run(script(text)).expect().lines()
    middle = len(lines) // 2
    elapsed = float(lines[middle].split()[1]) - float(lines[0].split()[1])
    before, after = words(lines[1:middle]), words(lines[middle + 1 :])
    assert after["usage_usec"] - before["usage_usec"] < 0.75e6 * elapsed, lines
    assert after["nr_throttled"] > before["nr_throttled"]


def test_fork_bomb_is_contained(machine: Machine) -> None:
    text = r"""
        $RUN -d --name bomb --pids-limit 20 $IMAGE sh -c '
            (i=0; while [ $i -lt 60 ]; do sleep 600 & i=$((i + 1)); done); exec sleep 600
            ' >/dev/null
        g=$(group bomb); await 'grep -q "max [1-9]" $g/pids.events'; cat $g/pids.current
        $RUN --rm $IMAGE cat /sys/fs/cgroup/pids.max
        rless logs bomb 2>&1"""
    current, default, *said = machine.run(script(text)).expect().lines()
    assert int(current) <= 20
    assert default == "2048"
    assert "fork" in " ".join(said)


def test_disk_write_limit_is_enforced(machine: Machine) -> None:
    """3 MiB at 1 MiB a second take two seconds at least, however fast the disk is."""
    text = r"""
        mkdir d
        $RUN --rm -v ~/d:/d --device-write-bps /dev/vda:1mb $IMAGE sh -c '
            read began idle </proc/uptime
            dd if=/dev/zero of=/d/x bs=1M count=3 conv=fsync 2>/dev/null
            read ended idle </proc/uptime
            echo $began $ended'
        rm -r d"""
    began, ended = map(float, machine.run(script(text)).expect().out.split())
    assert ended - began > 1.7


def test_pause_freezes_all_processes(machine: Machine) -> None:
    """Frozen, not one more instruction is done, whatever came by exec included."""
    text = r"""
        $RUN -d --name pp $IMAGE sh -c 'while :; do :; done' >/dev/null
        rless exec -d pp sleep 601
        g=$(group pp); await '[ $(wc -l <$g/cgroup.procs) = 2 ]'
        rless pause pp; grep frozen $g/cgroup.events; rless ps --format '{{.Status}}'
        grep usage_usec $g/cpu.stat; sleep 1; grep usage_usec $g/cpu.stat
        rless unpause pp
        last=$(grep usage_usec $g/cpu.stat)
        await '[ "$last" != "$(grep usage_usec $g/cpu.stat)" ]'
        rless pause pp; rless kill pp; rless inspect -f '{{.State.ExitCode}}' pp
        pgrep -f 'sleep 601$'"""
    done = machine.run(script(text))
    lines = done.lines()
    assert lines[:2] == ["pp", "frozen 1"], done
    assert "(Paused)" in lines[2]
    assert lines[3] == lines[4]
    assert lines[5:] == ["pp", "pp", "pp", "137"], done


def test_thousand_processes_end_at_once(machine: Machine) -> None:
    text = r"""
        $RUN -d --name many $IMAGE sh -c '
            i=0; while [ $i -lt 1000 ]; do sleep 600 & i=$((i + 1)); done; wait' >/dev/null
        g=$(group many); await '[ $(cat $g/pids.current) -gt 1000 ]'; pgrep -c -f 'sleep 600$'
        rless rm -f many; pgrep -c -f 'sleep 600$'; ls -d $g"""
    done = machine.run(script(text))
    assert done.lines() == ["1000", "many", "0"], done


def test_update_and_stats_work(machine: Machine) -> None:
    text = r"""
        look() { rless exec up sh -c 'cd /sys/fs/cgroup; cat memory.max pids.max cpu.max'; }
        $RUN -d --name up -m 64m --pids-limit 30 $IMAGE sh -c '
            head -c 20000000 /dev/zero >/dev/shm/x; touch /go; sleep 600' >/dev/null
        await 'rless exec up test -e /go'; look
        rless update -m 128m --memory-swap 128m --pids-limit 40 --cpus 0.25 up; look
        rless stats --no-stream --format json up
        rless inspect -f '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}
            {{.HostConfig.NanoCpus}}' up | xargs
        systemctl --user show -p MemoryMax rless-$(rless inspect -f '{{.Id}}' up).scope
        rless restart -t 0 up >/dev/null; look"""
    done = machine.run(script(text)).expect()
    lines = done.lines()
    changed = [str(128 << 20), "40", "25000 100000"]
    assert lines[:3] == [str(64 << 20), "30", "max 100000"], done
    assert lines[3:7] == ["up", *changed], done
    used, most = json.loads(lines[7])["MemUsage"].split(" / ")
    assert most == "128MiB"
    assert used.endswith("MiB") and float(used[:-3]) > 18  # pages of a tmpfs are no process's
    assert lines[8] == f"{128 << 20} 40 250000000"
    assert int(lines[9].removeprefix("MemoryMax=")) >= 128 << 20
    assert lines[10:] == changed


# -- who asks, and from where ----------------------------------------------------------------------


def test_missing_delegation_is_refused_with_a_hint(machine: Machine) -> None:
    """bob: no cpuset. The refusal has what the administrator must write."""
    text = r"""
        $RUN --rm --cpuset-cpus 0 $IMAGE true; echo $?
        $RUN --rm -m 64m --pids-limit 9 $IMAGE sh -c 'cd /sys/fs/cgroup; cat memory.max pids.max'
        $RUN --rm --limits=try --cpuset-cpus 0 $IMAGE echo tried
        rless ps -aq"""
    done = machine.run(script(text), "bob")
    assert done.lines() == ["125", str(64 << 20), "9", "tried"], done
    refused, warned = done.err.splitlines()
    assert refused.startswith("rless: ") and "cpuset is not delegated" in refused
    assert "user@.service.d/delegate.conf: [Service] Delegate=cpu cpuset io memory pids" in refused
    assert "warning" in warned and "cpuset" in warned


def test_two_users_run_at_once(machine: Machine) -> None:
    text = r"""
        $RUN -d --name both -m $SIZE $IMAGE sleep 600 >/dev/null; sleep 2
        rless exec both cat /sys/fs/cgroup/memory.max; rless ps --format '{{.Names}}'
        rless rm -f both"""
    jobs = [
        (size, machine.start(script(text, SIZE=size << 20), user))
        for size, user in ((40, "alice"), (50, "bob"))
    ]
    for size, job in jobs:
        assert machine.wait(job).lines() == [str(size << 20), "both", "both"]


def test_delegated_scope_is_divided_without_a_bus(machine: Machine) -> None:
    """What was handed over to us is divided by us, and systemd makes no other scope."""
    text = r"""
        systemd-run --user --scope -q --unit ours -p Delegate=yes \
            env -u DBUS_SESSION_BUS_ADDRESS -u XDG_RUNTIME_DIR \
            $RUN --rm -m 64m --cpus 0.5 --explain $IMAGE \
            sh -c 'cd /sys/fs/cgroup; cat memory.max cpu.max'"""
    done = machine.run(script(text)).expect()
    assert done.lines() == [str(64 << 20), "50000 100000"]
    assert "manager: cgroupfs" in done.err and "/ours.scope/rless-" in done.err


def test_limit_without_delegation_is_refused(machine: Machine) -> None:
    """Neither a session nor a user manager: a limit is refused, and nothing else."""
    text = r"""
        loginctl terminate-user bob 2>/dev/null
        await '[ ! -e /run/user/1001 ]'
        cd /
        plainly() { runuser -u bob -- env -i HOME=/home/bob PATH=$PATH "$@"; }
        plainly $RUN --rm $IMAGE echo fine; plainly $RUN --rm -m 64m $IMAGE true; echo $?"""
    done = machine.run(script(text), "root")
    assert done.lines() == ["fine", "125"], done
    assert "memory" in done.err and done.err.count("\n") == 1
    assert "loginctl enable-linger" in done.err


def test_ssh_session_can_set_limits(machine: Machine) -> None:
    """A log-in by sshd and its PAM stack, which opens the session for alice."""
    text = r"""
        mkdir -p /run/sshd && systemd-run -q --unit sshd-test /usr/sbin/sshd -D
        remote() { ssh -q -i /root/key -o StrictHostKeyChecking=no "$@"; }
        await 'remote alice@localhost true'
        remote alice@localhost 'cat /proc/self/cgroup
            $RUN -d --name far -m 64m $IMAGE sleep 600 >/dev/null
            rless exec far cat /sys/fs/cgroup/memory.max'
        remote -tt alice@localhost '
            rless exec -t far cat /sys/fs/cgroup/memory.max; rless rm -f far'
        systemctl stop sshd-test"""
    done = machine.run(script(text), "root")
    session, first, second, removed = done.out.replace("\r", "").splitlines()
    assert session.startswith("0::/user.slice/user-1000.slice/session-")
    assert first == second == str(64 << 20)
    assert removed == "far"


def test_user_service_runs_a_container(machine: Machine) -> None:
    """rless in the foreground of a plain unit: its stop ends the container, and all is gone."""
    text = r"""
        systemd-run --user -q --unit plain /usr/local/bin/$RUN --rm --name svc -m 64m $IMAGE \
            sh -c "$OBEDIENT"
        await 'rless exec svc cat /sys/fs/cgroup/memory.max 2>/dev/null'
        systemctl --user stop plain; systemctl --user is-active plain; rless ps -aq"""
    done = machine.run(script(text))
    assert done.lines() == [str(64 << 20), "inactive"], done


# -- the end ---------------------------------------------------------------------------------------


def test_kill_leaves_nothing(machine: Machine) -> None:
    """systemd removes the scope by itself, before any command of rless has looked."""
    text = r"""
        monitor() { pgrep -f "^rless: monitor of $(echo $id | cut -c 1-12)"; }
        command() { echo $command; }
        init() { rless inspect -f '{{.State.Pid}}' dead; }
        for whom in monitor command init; do
            $RUN --name dead -m 64m $IMAGE sleep 600 2>/dev/null &
            command=$!
            await 'rless exec dead true 2>/dev/null'
            id=$(rless inspect -f '{{.Id}}' dead)
            kill -9 $($whom); wait
            await '! systemctl --user -q is-active rless-$id.scope'
            find /sys/fs/cgroup -name 'rless-*'; pgrep -f 'sleep 600$'
            rless inspect -f '{{.State.Status}} {{.State.ExitCode}}' dead; rless rm dead
        done"""
    done = machine.run(script(text))
    assert done.lines() == ["exited 137", "dead"] * 3, done


def test_logout_ends_containers_without_linger(machine: Machine) -> None:
    """Who lingers keeps containers, even where logind kills; who does not loses them, and all."""
    kill = r"""mkdir -p /etc/systemd/logind.conf.d &&
        printf '[Login]\nKillUserProcesses=yes\n' >/etc/systemd/logind.conf.d/test.conf &&
        systemctl restart systemd-logind"""
    machine.run(kill, "root").expect()
    text = r"""
        rless doctor | grep -A4 ' linger '
        $RUN -d --name out -m 64m $IMAGE sh -c "$OBEDIENT" >/dev/null"""
    try:
        jobs = {user: machine.start(script(text), user) for user in ("alice", "bob")}
        said = {user: " ".join(machine.wait(job).out.split()) for user, job in jobs.items()}
        gone = r"""
            await '[ ! -e /run/user/1001 ]'
            find /sys/fs/cgroup -path '*user-1001*' -name 'rless-*'; pgrep -u bob"""
        assert machine.run(script(gone), "root").out == ""
        assert said["alice"].startswith("ok linger alice lingers: containers outlive the login")
        assert "ends containers with the last session" in said["bob"]
        assert machine.state("out")["Status"] == "running"
        found = machine.state("out", "bob")
        assert (found["Status"], found["ExitCode"]) == ("exited", 0)  # TERM was obeyed
    finally:
        back = "rm /etc/systemd/logind.conf.d/test.conf; systemctl restart systemd-logind"
        machine.run(back, "root").expect()


def test_limits_of_workflow_engines_are_enforced(machine: Machine) -> None:
    """Under other names they are what is asked for, without a warning, where systemd delegates."""
    text = r"""
        rless tag $IMAGE localhost/box && rless alias install ~/links >/dev/null 2>&1
        cd ~/links || exit
        for name in docker podman; do
            for flags in '--cpu-shares 512' --limits=enforce; do
                ./$name run --rm --network none $flags -m 64m --memory-swap 64m --cpus 0.5 $IMAGE \
                    sh -c 'cd /sys/fs/cgroup; cat memory.max cpu.max pids.max; ulimit -d'
            done
            ./$name run --rm --network none -m 64m --memory-swap 64m $IMAGE \
                dd if=/dev/zero of=/dev/null bs=200M count=1; echo $?
        done
        look='cd /sys/fs/cgroup/$(sed s/^0::// /proc/self/cgroup)
            cat memory.max cpu.max pids.max; ulimit -d'
        set -- --memory 64m --memory-swap 64m --cpus 0.5 --pids-limit 40
        ./apptainer exec "$@" docker://localhost/box sh -c "$look"
        ./apptainer exec "$@" docker://localhost/box dd if=/dev/zero of=/dev/null bs=200M count=1
        echo $?
        ./apptainer -q instance start "$@" docker://localhost/box one
        ./apptainer exec instance://one sh -c "$look"
        ./apptainer -q instance stop one
        rless rmi localhost/box >/dev/null; rm -r ~/links"""
    done = machine.run(script(text))
    memory, limits = str(64 << 20), ["50000 100000"]
    docker = [memory, *limits, "2048", "unlimited"] * 2 + ["137"]
    apptainer = [memory, *limits, "40", "unlimited"]
    assert done.lines() == [*docker * 2, *apptainer, "137", *apptainer], done
    assert "warning" not in done.err.lower(), done


def test_limits_that_are_not_delegated_are_told(machine: Machine) -> None:
    """bob has no controller of block devices: the other limits hold, and a warning says so."""
    text = r"""
        rless alias install ~/links >/dev/null 2>&1; cd ~/links
        ./docker run --rm --network none -m 64m --blkio-weight 500 $IMAGE \
            cat /sys/fs/cgroup/memory.max; echo $?
        ./docker run --rm --network none -m 64m --blkio-weight 500 --limits=enforce $IMAGE true
        echo $?; rm -r ~/links"""
    done = machine.run(script(text), "bob")
    assert done.lines() == [str(64 << 20), "0", "125"], done
    told = [line for line in done.err.splitlines() if line.startswith("docker: ")]
    assert len(told) == 2 and all("io" in line for line in told), done
