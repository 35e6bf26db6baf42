"""`exec`: another process in a running container, and attacks of docs/security.md on it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rootless.linux import caps
from tests.engine.attach.test_terminal import Session
from tests.engine.test_attacks import READ_SECRET, join_keyring_with_a_key
from tests.lib.compiled import ROOT
from tests.lib.images import Fifo, File, Image, Link, busybox_layer, layer
from tests.lib.product import Product, Result, python_launcher, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


@pytest.fixture
def box(rless: Product) -> Iterator[Any]:
    """Give a function that runs a command in the container `box`; flags after `up`."""

    class Box:
        def up(self, flags: str = "", *command: str, image: str | None = None) -> str:
            return rless.detach("box", flags, *(command or ("sleep", "600")), image=image)

        def __call__(self, *words: str, **more: Any) -> Result:
            return rless("exec", *words, **more)

        def sh(self, script: str, *flags: str, **more: Any) -> Result:
            return self(*flags, "box", "sh", "-c", script, **more)

    yield Box()
    rless("rm", "-f", "box", "other")


def status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def sets(text: str) -> tuple[int, ...]:
    found = status(text)
    return tuple(int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd"))


def init_of(rless: Product, name: str) -> int:
    (entry,) = [
        json.loads((rless.live / one).read_text())
        for one in os.listdir(rless.live)
        if one != "booted" and name in (rless.storage / "containers" / one).joinpath(
            "container.json").read_text()
    ]  # fmt: skip
    return int(entry["init"][0])


# -- what it does --------------------------------------------------------------------------------


def test_exec_passes_on_streams_and_exit_codes(box: Any) -> None:
    box.up()
    done = box.sh("echo out; echo err >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, "out\n", "err\n")
    assert box.sh("cat", "-i", stdin=b"typed").out == "typed"
    assert box.sh("cat", stdin=b"typed").out == ""
    assert box.sh("kill -9 $$").code == 137
    assert box("box", "nosuch").expect(127).one_line_error() == (
        "cannot execute nosuch: executable file not found in $PATH"
    )
    assert "directory" in box("box", "/etc").expect(126).one_line_error()
    box("box", "/etc/passwd").expect(126)


def test_ignored_signals_of_the_caller_are_reset(box: Any, rless: Product) -> None:
    """Those that the caller ignores (nohup, a background job of a shell) are not ignored."""
    box.up()

    def ignore() -> None:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGRTMIN):
            signal.signal(number, signal.SIG_IGN)

    script = "exec grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status"
    for words in (("exec", "box"), ("run", "--rm", "--network", "none", rless.image)):
        process = rless.start(*words, "sh", "-c", script, preexec_fn=ignore)
        out, _ = process.communicate(timeout=20)
        assert [int(line.split()[1], 16) for line in out.splitlines()] == [0, 0, 0], words


def test_exec_refuses_containers_that_do_not_run(box: Any, rless: Product) -> None:
    assert "no such container" in box("box", "true").expect(1).one_line_error()
    box.up("", "true")
    wait_for(lambda: "Exited" in rless("ps", "-a").out, "its end")
    assert "box is not running" in box("box", "true").expect(1).one_line_error()
    box("box").expect(125).one_line_error()


def test_exec_refuses_a_paused_container(box: Any, rless: Product) -> None:
    box.up()
    rless("pause", "box").expect()
    error = box("box", "true").expect(1).one_line_error()
    assert error.startswith("container box is paused; unpause the container before exec")
    rless("unpause", "box").expect()
    box("box", "true").expect()


def test_exec_has_the_environment_of_the_container(box: Any, tmp_path: Path) -> None:
    """Class 34."""
    box.up("-e A=image -e B=run")
    file = tmp_path / "env"
    file.write_text("C=file\nPASSED\n")
    secrets = {"SSH_AUTH_SOCK": "/run/agent", "TOKEN": "secret", "PASSED": "yes", "D": "bare"}
    done = box("-e", "B=exec", "-e", "D", "-e", "A", "--env-file", str(file), "box", "env",
               env=secrets).expect()  # fmt: skip
    found = dict(line.split("=", 1) for line in done.lines())
    assert found["B"] == "exec"
    assert found["C"] == "file"
    assert found["D"] == "bare"
    assert found["PASSED"] == "yes"
    assert "A" not in found  # a bare name that is not set here is taken away, as in Docker
    assert not {"SSH_AUTH_SOCK", "TOKEN", "RLESS_STORAGE", "XDG_RUNTIME_DIR"} & set(found)
    assert found["HOME"] == "/root"
    assert found["PATH"].startswith("/usr/local/sbin:")


def test_exec_takes_user_and_working_directory(box: Any) -> None:
    box.up("-w /opt")
    assert box("box", "pwd").out == "/opt\n"
    assert box("-w", "/srv", "box", "pwd").out == "/srv\n"
    assert "No such file" in box("-w", "/none", "box", "pwd").expect(127).one_line_error()
    done = box.sh("id -u; id -g; id -G; echo $HOME", "-u", "user").expect()
    assert done.lines() == ["1000", "1000", "1000 10", "/home/user"]  # of the group file
    assert box.sh("id -u; id -g; echo $HOME", "-u", "1234:55").lines() == ["1234", "55", "/"]
    assert box.sh("echo $HOME", "-u", "user", "-e", "HOME=/mine").out == "/mine\n"
    assert "unable to find user nobody1" in box("-u", "nobody1", "box", "true").expect(126).err
    assert "id map" in box("-u", "2000000000", "box", "true").one_line_error()


def test_chosen_home_is_kept(box: Any) -> None:
    box.up("-u user")
    assert box.sh("id -u; echo $HOME").lines() == ["1000", "/home/user"]
    done = box.sh("id -u; echo $HOME; cat /proc/self/status", "-u", "root").expect()
    assert done.lines()[:2] == ["0", "/root"]
    # Root has what the container's bounding set has, though the container's user has nothing.
    inherited, permitted, effective, bounding = sets(done.out)
    assert inherited == 0
    assert permitted == effective == bounding != 0


def test_hundred_megabytes_pass_both_ways(box: Any) -> None:
    box.up()
    data = os.urandom(1 << 20) * 100
    done = box("-i", "box", "cat", stdin=data)
    assert hashlib.sha256(done.raw).digest() == hashlib.sha256(data).digest()


def test_closed_reader_ends_the_command_by_sigpipe(box: Any, rless: Product) -> None:
    box.up()
    process = rless.start("exec", "box", "yes")
    assert process.stdout
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(10) == 128 + signal.SIGPIPE


def test_detached_exec_runs_in_the_background(box: Any, rless: Product) -> None:
    box.up()
    done = box("-d", "box", "sh", "-c", "sleep 0.3; echo done > /tmp/done").expect()
    assert done.out == done.err == ""
    wait_for(lambda: box("box", "cat", "/tmp/done").out == "done\n", "the detached command")
    box("-d", "box", "nosuch").expect(127)
    box("-dt", "box", "sh", "-c", "tty > /tmp/tty; yes").expect()
    wait_for(lambda: box("box", "cat", "/tmp/tty").out.startswith("/dev/pts/"), "its terminal")
    time.sleep(0.2)
    assert "yes" in box("box", "ps").out  # nobody reads it, and it is not stopped by that


def test_signals_reach_the_executed_process(box: Any, rless: Product) -> None:
    box.up()
    process = rless.start("exec", "box", "sh", "-c", "trap 'echo got; exit 9' TERM; echo r; "
                          "while :; do sleep 0.05; done")  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == b"r\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == b"got\n"
    assert process.wait(10) == 9


def test_exec_records_events(box: Any, rless: Product) -> None:
    container = box.up()
    box.sh("exit 3").expect(3)
    lines = (rless.storage / "events").read_text().splitlines()
    found = [
        event
        for event in map(json.loads, lines)
        if event["id"] == container and event["action"].startswith("exec_")
    ]
    assert [event["action"] for event in found] == [
        "exec_create: sh -c exit 3", "exec_start: sh -c exit 3", "exec_die",
    ]  # fmt: skip
    assert found[-1]["attributes"]["exitCode"] == "3"
    assert found[-1]["attributes"]["name"] == "box"
    assert len({event["attributes"]["execID"] for event in found}) == 1


def test_killed_command_leaves_the_process_running(box: Any, rless: Product) -> None:
    box.up()
    process = rless.start("exec", "box", "sh", "-c", "echo r; sleep 0.4; touch /tmp/there")
    assert process.stdout
    assert process.stdout.readline() == b"r\n"
    process.kill()
    process.wait()
    wait_for(lambda: box("box", "cat", "/tmp/there").code == 0, "what was left to run")


# -- its end -------------------------------------------------------------------------------------


def test_process_ends_with_the_container(box: Any, rless: Product) -> None:
    box.up()
    process = rless.start("exec", "box", "sh", "-c", "echo r; sleep 600")
    assert process.stdout
    assert process.stdout.readline() == b"r\n"
    rless("rm", "-f", "box").expect()
    assert process.wait(10) == 137


def test_stopped_command_does_not_delay_the_end_of_the_container(box: Any, rless: Product) -> None:
    """A pid namespace ends when all in it were waited for: by the keeper, not by the command."""
    box.up()
    process = rless.start("exec", "box", "sh", "-c", "echo r; sleep 600")
    assert process.stdout
    assert process.stdout.readline() == b"r\n"
    process.send_signal(signal.SIGSTOP)
    rless("rm", "-f", "box", timeout=20).expect()
    process.send_signal(signal.SIGCONT)
    assert process.wait(10) == 137


@pytest.mark.parametrize("detached", [False, True])
def test_process_ends_with_a_container_in_the_hosts_pid_namespace(
    box: Any, rless: Product, detached: bool
) -> None:
    """No kernel object holds both together there: a keeper does."""
    box.up("--pid host")
    init = init_of(rless, "box")
    process = rless.start("exec", *(["-d"] if detached else []), "box", "sleep", "599")
    wait_for(lambda: "sleep 599" in rless("top", "box").out, "the command")
    os.kill(init, signal.SIGKILL)
    if not detached:
        assert process.wait(10) == 137
    wait_for(lambda: not any("'599'" in what for what in rless.processes().values()), "its end")


def test_detached_exec_keeps_no_python(box: Any, rless: Product) -> None:
    """The keeper and the holder of a terminal are no Python; the end is told as ever."""
    box.up("")
    known = set(rless.processes())
    rless("exec", "-d", "box", "sh", "-c", "sleep 4; exit 7").expect()
    rless("exec", "-dt", "box", "sh", "-c", "sleep 3; head -c 300000 /dev/zero; exit 8").expect()
    kept: list[int] = []

    def three() -> bool:
        kept[:] = [pid for pid, what in rless.processes().items()
                   if pid not in known and "keeper of an exec" in what]  # fmt: skip
        return len(kept) == 3

    wait_for(three, "the keepers and the holder")

    def memory(pid: int) -> int:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))

    wait_for(lambda: all(memory(pid) <= 200 for pid in kept), "their becoming small")
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in kept), "their ends")
    told = [json.loads(line) for line in (rless.storage / "events").read_text().splitlines()]
    codes = [one["attributes"]["exitCode"] for one in told if one["action"] == "exec_die"]
    assert sorted(codes[-2:]) == ["7", "8"]


def test_children_left_by_exec_end_with_the_container(box: Any, rless: Product) -> None:
    """As long as that runs it stays, as in a pid namespace of its own."""
    box.up("--pid host")
    rless("exec", "box", "sh", "-c", "setsid sleep 597 & echo begun").expect()
    rless("exec", "-d", "box", "sh", "-c", "setsid sleep 596 & sleep 0.1").expect()
    time.sleep(1.5)
    left = [what for what in rless.processes().values() if "'597'" in what or "'596'" in what]
    assert len(left) == 2
    rless("rm", "-f", "box").expect()
    rless.assert_clean()


# -- containers of all kinds ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        "--userns single",
        "--userns nomap",
        "--userns host-root",
        "--userns keep-id",
        "--network host",
        "--network pasta",
        "--pid host",
        "--ipc host --uts host --cgroupns host",
        "--read-only",
        "--init",
        "--privileged",
        "--security-opt no-new-privileges",
        "--security-opt seccomp=unconfined",
        "--user 1000:1000",
    ],
)
def test_exec_enters_all_namespaces_of_the_container(box: Any, rless: Product, flags: str) -> None:
    box.up(flags)
    init = init_of(rless, "box")
    done = box("box", "probe", "ns", ",", "id", ",", "caps").expect()
    facts = done.facts()
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        assert facts[f"ns-{kind}" if f"ns-{kind}" in facts else kind].endswith(
            os.readlink(f"/proc/{init}/ns/{kind}")
        ), (kind, facts)
    own = status(Path(f"/proc/{init}/status").read_text())
    mine = status(box("box", "cat", "/proc/self/status").out)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"):
        assert mine[name] == own[name], name


def test_exec_enters_joined_namespaces(box: Any, rless: Product) -> None:
    rless.detach("other", "", "sleep", "600")
    box.up("--pid container:other --network container:other")
    done = box("box", "ps").expect()
    assert done.out.count("sleep 600") == 2
    rless("rm", "-f", "box").expect()
    assert rless("exec", "other", "ps").out.count("sleep 600") == 1


# -- class 24 and 35: nobody looks into the one that enters --------------------------------------

# The entrant is held where it can be seen, for a second.
_HELD = """import sys, time
del sys.argv[0]
sys.path.append(sys.argv.pop(0))
import rootless.runtime.host.exec as runtime
step = runtime.Entrant.limit_process
runtime.Entrant.limit_process = lambda self: (time.sleep(1), step(self))
from rootless.launch import start
start("rootless.cli.main")"""
_SPY = """
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
    for p in /proc/[0-9]*; do
        case $(tr '\\0' ' ' < $p/cmdline 2>/dev/null) in
        *rles[s]:\\ monitor*) ;; # docs/privileged.md: SYS_PTRACE in the host's pid namespace
        *rles[s]:*)
            echo saw
            tr '\\0' '\\n' < $p/environ 2>/dev/null | grep RLESS
            tr '\\0' '\\n' < $p/cmdline 2>/dev/null | grep -i -e secret -e python
            readlink $p/exe; readlink $p/cwd | grep -v '^/$'; ls $p/fd 2>/dev/null
            head -c 1 $p/mem 2>/dev/null; cat $p/maps 2>/dev/null | grep python
            : 2>/dev/null < $p/exe && echo opened ;;
        esac
    done
    usleep 20000
done
"""


@pytest.mark.parametrize("flags", ["--cap-add=SYS_PTRACE", "--cap-add=SYS_PTRACE --pid host"])
def test_entering_process_cannot_be_inspected(box: Any, rless: Product, flags: str) -> None:
    """CVE-2016-9962: neither its program, nor its memory, descriptors, arguments, environment."""
    box.up(flags)
    spy = rless.start("exec", "box", "sh", "-c", _SPY)
    time.sleep(0.1)
    command = [sys.executable, "-I", "-S", "-B", "-c", _HELD, str(ROOT), "rless", "exec"]
    subprocess.run(
        [*command, "-e", "X=secret", "box", "true"], env=rless.environment(), check=True, timeout=30
    )
    out, _ = spy.communicate(timeout=60)
    seen = out.decode().split("\n")
    assert "saw" in seen  # the test looks at what it should
    allowed = {"saw", ""}
    if "--pid host" in flags:
        # The commands of this test are there too: what they show is their own, not the spy's.
        assert "opened" not in seen
        return
    assert set(seen) <= allowed, seen


def test_container_cannot_execute_the_interpreter(box: Any, rless: Product) -> None:
    """CVE-2019-5736."""
    image = rless.add_image("exec-exe", Image([busybox_layer(), layer({
        "script": File("#!/proc/self/exe\n", mode=0o755), "link": Link("/proc/self/exe"),
    })], {"Env": ["PATH=/bin"]}))  # fmt: skip
    box.up(image=image)
    for command in ("/proc/self/exe", "/script", "/link", "/proc/self/fd/3", "/proc/1/../self/exe"):
        done = box("box", command, "-c", "print('python ' * 2)")
        assert done.code in (126, 127), (command, done)
        assert "python python" not in done.out


def test_writable_python_of_the_user_is_protected(box: Any, rless: Product, tmp_path: Path) -> None:
    """What a container could write to is executed by descriptor: all commands still work."""
    own = tmp_path / "own" / "bin"
    own.mkdir(parents=True)
    shutil.copy2(os.path.realpath(sys.executable), own / "python3")
    base = Path(os.path.realpath(sys.executable)).parent
    (tmp_path / "own" / "pyvenv.cfg").write_text(f"home = {base}\n")
    box.up()
    box.sh("printf '#!/bin/sh -e\\necho $0 $*' > /tmp/s; chmod 755 /tmp/s; ln -s /tmp/s /bin/sx; "
           "printf '#!/proc/self/exe\\n' > /bin/bad; chmod 755 /bin/bad; "
           "ln -s /proc/self/exe /bin/self").expect()  # fmt: skip
    start = [str(own / "python3"), *python_launcher()[1:], "exec", "box"]

    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [*start, *words], env=rless.environment(), capture_output=True, text=True, timeout=30
        )
        return done.returncode, done.stdout

    assert run("echo", "a") == (0, "a\n")
    assert run("/bin/sh", "-c", "echo $0") == (0, "/bin/sh\n")
    assert run("sx", "b") == (0, "/bin/sx b\n")
    comm = ("sh", "-c", "read x < /proc/$$/comm; echo $x")  # tells by which way it was executed
    assert run(*comm) == (0, "busybox\n")
    assert box("box", *comm).out == "sh\n"
    assert run("/tmp/s", "c d") == (0, "/tmp/s c d\n")
    assert run("nosuch")[0] == 127
    assert run("/etc")[0] == 126
    for program in ("bad", "self", "/proc/self/exe"):
        code, out = run(program, "-c", "print('python ' * 2)")
        assert code in (126, 127)
        assert "python" not in out


# -- class 25 ------------------------------------------------------------------------------------


def test_no_descriptor_is_inherited(box: Any) -> None:
    box.up()
    with open("/etc/hostname") as leak:
        os.set_inheritable(leak.fileno(), True)
        done = box("box", "probe", "fds", pass_fds=[leak.fileno()]).expect()
    assert not [line for line in done.lines() if "hostname" in line]
    assert {line.split()[1] for line in done.lines() if line.startswith("fd ")} <= {"0", "1", "2"}


@pytest.mark.parametrize(
    "path",
    [f"/proc/self/fd/{number}" for number in range(3, 12)] + ["/proc/self/cwd", "/proc/1/root"],
)
def test_working_directory_in_proc_self_fd_is_refused(box: Any, path: str) -> None:
    """CVE-2024-21626."""
    box.up()
    done = box("-w", path, "box", "sh", "-c", "pwd; cat ../../../../etc/hostname")
    assert Path("/etc/hostname").read_text() not in done.out
    assert done.code in (126, 127)


# -- class 31, 32, 33, 34 ------------------------------------------------------------------------


def test_exec_has_the_capabilities_of_the_container(box: Any) -> None:
    box.up("--cap-drop ALL --cap-add CHOWN")
    chown = 1 << caps.NUMBERS["CAP_CHOWN"]
    text = box("box", "cat", "/proc/self/status").out
    assert sets(text) == (0, chown, chown, chown)
    assert sets(box("-u", "1000", "box", "cat", "/proc/self/status").out) == (0, 0, 0, chown)
    everything = (1 << caps.last_capability() + 1) - 1
    text = box("--privileged", "box", "cat", "/proc/self/status").out
    assert sets(text) == (0, everything, everything, everything)
    assert status(text)["Seccomp"] == "2"
    text = box("--privileged", "-u", "1000", "box", "cat", "/proc/self/status").out
    assert sets(text) == (0, 0, 0, everything)


def test_exec_has_the_seccomp_filter_of_the_container(box: Any, rless: Product) -> None:
    box.up()
    done = box("box", "probe", "try-unshare-user", ",", "try-keyctl", ",", "try-tiocsti").expect()
    assert done.facts()["try-unshare-user"] == "EPERM"
    assert done.facts() == rless.probe("try-unshare-user , try-keyctl , try-tiocsti").facts()


def test_exec_fails_without_its_seccomp_filter(box: Any, rless: Product) -> None:
    """A filter that cannot be made is no reason to go without."""
    box.up()
    config = rless.container() / "config.json"
    spec = json.loads(config.read_text())
    spec["linux"]["seccomp"]["syscalls"].append({"names": ["read"], "action": "NO_SUCH"})
    config.write_text(json.dumps(spec))
    assert "NO_SUCH" in box("box", "true").expect(125).one_line_error()


def test_groups_of_the_caller_are_dropped(box: Any) -> None:
    """Class 33."""
    box.up()
    groups = box("box", "cat", "/proc/self/status").out
    assert (
        status(groups)["Groups"].split()
        == status(box("-u", "root", "box", "cat", "/proc/self/status").out)["Groups"].split()
    )
    assert status(box("-u", "1234", "box", "cat", "/proc/self/status").out)["Groups"].split() == [
        "0"
    ]


def test_exec_has_limits_umask_and_oom_score_of_the_container(box: Any) -> None:
    box.up("--ulimit nofile=77:88 --oom-score-adj 300")
    done = box.sh("ulimit -n; ulimit -Hn; umask; cat /proc/self/oom_score_adj").expect()
    assert done.lines() == ["77", "88", "0022", "300"]


# -- class 17: files of the container ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "magic", "outside", "huge", "device"])
def test_hostile_passwd_does_not_lead_out(box: Any, rless: Product, kind: str) -> None:
    entry = {
        "fifo": Fifo(),
        "magic": Link("/proc/1/root/etc/passwd"),
        "outside": Link("../../../../../../../../etc/hostname"),
        "huge": File("x:x:1:1::/:\n" * 200_000 + "late:x:5:5::/:\n"),
        "device": Link("/dev/zero"),
    }[kind]
    image = rless.add_image(
        f"passwd-{kind}",
        Image([busybox_layer(), layer({"etc/passwd": entry})], {"Env": ["PATH=/bin"]}),
    )
    box.up("-u 0:0", image=image)
    done = box("-u", "late", "box", "true", timeout=20).expect(126)
    assert "unable to find user late" in done.one_line_error()
    box("-u", "77", "box", "true", timeout=20).expect()


# -- class 37 ------------------------------------------------------------------------------------


@pytest.fixture
def session(rless: Product) -> Iterator[Any]:
    made: list[Session] = []

    def start(*words: str) -> Session:
        made.append(Session(rless, "exec", *words))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        os.close(one.master)
        os.close(one.slave)


def test_exec_has_a_terminal_of_its_own(box: Any, session: Any) -> None:
    box.up()
    shell = session(
        "-it", "box", "sh", "-c", "tty; stty size; echo $TERM; read x; stty size; exit 5"
    )
    shell.expect(b"xterm")
    wait_for(shell.is_raw, "raw mode")
    shell.resize(40, 100)
    os.kill(shell.process.pid, signal.SIGWINCH)
    time.sleep(0.1)
    shell.type(b"\r")
    shell.expect(b"40 100")
    assert shell.wait() == 5
    assert shell.attributes() == shell.before


def test_detach_keys_leave_the_process_running(box: Any, session: Any) -> None:
    box.up()
    shell = session("-it", "box", "sh", "-c", "echo ready; read x; echo $x > /tmp/x; sleep 500")
    shell.expect(b"ready")
    wait_for(shell.is_raw, "raw mode")
    shell.type(b"a\x10b\r")  # ctrl-p alone goes through
    wait_for(lambda: box("box", "cat", "/tmp/x").out == "a\x10b\n", "the keys")
    shell.type(b"\x10")
    shell.type(b"\x11")
    assert shell.wait() == 0
    assert shell.attributes() == shell.before
    assert "sleep 500" in box("box", "ps").out


def test_detach_keys_can_be_chosen(box: Any, session: Any) -> None:
    box.up()
    shell = session("-it", "--detach-keys", "ctrl-x,q", "box", "sh", "-c", "echo ready; cat")
    shell.expect(b"ready")
    wait_for(shell.is_raw, "raw mode")
    shell.type(b"\x18q")
    assert shell.wait() == 0
    error = box("--detach-keys", "ctrl-pp", "box", "true").expect(125).one_line_error()
    assert "ctrl-pp" in error


def test_terminal_is_restored_after_a_kill_from_inside(
    box: Any, session: Any, rless: Product
) -> None:
    box.up()
    shell = session("-it", "box", "sh", "-c", "echo ready; sleep 600")
    shell.expect(b"ready")
    wait_for(shell.is_raw, "raw mode")
    rless("rm", "-f", "box").expect()
    assert shell.wait() == 137
    assert shell.attributes() == shell.before


@pytest.mark.parametrize("what", ["rm -f $p; mkfifo $p", "rm -f $p; ln -s /dev/zero $p",
                                  "umount -l /dev/pts; mkdir -p /dev/pts; : > $p"])  # fmt: skip
def test_hostile_ptmx_is_not_opened(box: Any, what: str) -> None:
    """Class 27: what lies at /dev/pts/ptmx is the container's to choose."""
    box.up("--privileged")
    box.sh(f"umount -l /dev/pts; mkdir -p /dev/pts; p=/dev/pts/ptmx; {what}").expect()
    done = box("-t", "box", "true", timeout=20).expect(125)
    assert "cannot make a terminal" in done.one_line_error()


# -- class 39 ------------------------------------------------------------------------------------


def test_recycled_pid_is_not_entered(box: Any, rless: Product) -> None:
    container = box.up()
    live = rless.live / container
    entry = json.loads(live.read_text())
    pid, start = entry["init"]
    live.write_text(json.dumps({**entry, "init": [pid, start + 1]}))
    assert "not running" in box("box", "true").expect(1).one_line_error()
    live.write_text(json.dumps({**entry, "init": [os.getpid(), start]}))
    assert "not running" in box("box", "true").expect(1).one_line_error()
    live.write_text(json.dumps(entry))
    box("box", "true").expect()


# -- each layer by itself: what is tested above holds by more than one ----------------------------


def patched(change: str) -> list[str]:
    """Return the start of a command line of `rless exec` with this change to the program."""
    text = (
        "import os, sys\ndel sys.argv[0]\nsys.path.append(sys.argv.pop(0))\n"
        "import rootless.engine.exec.exec as engine, rootless.runtime.host.exec as runtime\n"
        f"{change}\n"
        "from rootless.launch import start\nstart('rootless.cli.main')"
    )
    return [sys.executable, "-I", "-S", "-B", "-c", text, str(ROOT), "rless", "exec"]


def run_patched(rless: Product, change: str, *words: str, **more: Any) -> str:
    done = subprocess.run(
        [*patched(change), *words], env=rless.environment(), capture_output=True, text=True,
        timeout=30, check=True, **more,
    )  # fmt: skip
    return done.stdout


def test_runtime_closes_descriptors(box: Any, rless: Product) -> None:
    """Class 25, without the command's own care."""
    box.up()
    change = "engine.close_on_exec_from = lambda first: None"
    with open("/etc/hostname") as leak:
        os.set_inheritable(leak.fileno(), True)
        out = run_patched(rless, change, "box", "probe", "fds", pass_fds=[leak.fileno()])
    assert "hostname" not in out
    found = {line.split()[1] for line in out.splitlines() if line.startswith("fd ")}
    assert found and found <= {"0", "1", "2"}


def test_groups_are_always_set(box: Any, rless: Product) -> None:
    """Class 33: the tests' own user has no further group that could stay."""
    box.up()
    change = (
        "step = runtime.Entrant.limit_process\n"
        "runtime.Entrant.limit_process = lambda self: (os.setgroups([5, 6]), step(self))"
    )
    for user in ("0", "1000:1000"):
        found = set(run_patched(rless, change, "-u", user, "box", "id", "-G").split())
        assert found and not found & {"5", "6"}


@pytest.mark.needs("keyrings")
def test_session_keyring_is_not_inherited(box: Any) -> None:
    """Class 34; without filter and masks, which would hide it."""
    box.up("--security-opt=systempaths=unconfined --security-opt=seccomp=unconfined")
    name = f"rless-secret-{os.getpid()}-exec"
    script, join = READ_SECRET.replace("SECRET", name), partial(join_keyring_with_a_key, name)
    done = box.sh(script, preexec_fn=join)
    assert done.out.endswith(" EACCES\n"), done
