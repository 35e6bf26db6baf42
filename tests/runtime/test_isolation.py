"""What of the caller reaches the application: nothing that the config does not name.

Security classes 24, 25, 31 to 34, 35 and 37.
"""

from __future__ import annotations

import ctypes
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rootless.linux import ns
from rootless.runtime.cgroup.none import NoCgroup
from rootless.runtime.host import lifecycle, parent
from tests.lib import engine_namespace
from tests.lib.bundle import ENVIRONMENT, INSIDE, Bundle
from tests.lib.compiled import ROOT

pytestmark = pytest.mark.needs("compiler", "user namespaces")


def has_keyrings() -> bool:
    """Tell whether the caller has a session keyring that it can read."""
    return bool(ctypes.CDLL(None).syscall(250, 0, -3, 1) > 0)


def test_no_descriptor_is_inherited(bundle: Bundle, tmp_path: Path) -> None:
    """Class 25: files, directories and pipes, at low and high numbers."""
    low = [os.open(tmp_path, os.O_RDONLY) for _ in range(20)]
    high = os.dup2(low[0], 900)
    try:
        done = bundle.run("fds", pass_fds=(*low, high))
    finally:
        for fd in (*low, high):
            os.close(fd)
    assert [line.split()[1] for line in done.expect().lines()] == ["0", "1", "2"]


def test_waiting_init_cannot_be_inspected(live: Bundle) -> None:
    """Class 24: its exe is the host's interpreter, its environment and files are the host's."""
    live.create("caps")
    pid = live.pid()
    for name in ("exe", "cwd", "root", "fd/0"):
        with pytest.raises(PermissionError):
            os.readlink(f"/proc/{pid}/{name}")
    for name in ("environ", "mem", "maps", "exe"):
        with pytest.raises(PermissionError):
            Path(f"/proc/{pid}/{name}").read_bytes()
    live.call("start", live.id).expect()
    assert "dumpable 1" in live.wait_output("dumpable")


def _look_at_child(bundle: str) -> list[str]:
    """Create a container in another one's pids, as the engine does; return what can be seen."""
    seen = []

    def started(pid: int) -> None:
        try:
            seen.append(os.readlink(f"/proc/{pid}/exe"))
        except PermissionError:
            seen.append("closed")

    other, _ = ns.clone3(ns.CLONE_NEWPID)
    if other == 0:
        signal.pause()
    fifo, _ = os.pipe()
    spec = lifecycle.load(bundle)
    spec["linux"]["namespaces"].append({"type": "pid", "path": f"/proc/{other}/ns/pid"})
    try:
        created = parent.begin(
            spec,
            lambda: NoCgroup("test"),
            cache_dir="/nonexistent",
            start_fifo=fifo,
            started=started,
        )
        created.wait_ready()
        created.end()
    finally:
        os.kill(other, signal.SIGKILL)
    return seen


def test_init_cannot_be_inspected_from_its_first_moment(tmp_path: Path) -> None:
    """Class 35: in a shared pid namespace others see it before it has run a single step."""
    bundle = Bundle(tmp_path, inside=True)
    bundle.remove_namespace("pid")
    bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if m["type"] != "proc"]
    bundle.write("id")
    assert engine_namespace.run(
        engine_namespace.make_map("single"), _look_at_child, str(bundle.path)
    ) == ["closed"]


@pytest.mark.needs("strace")
def test_nothing_is_loaded_after_the_change_of_root(bundle: Bundle, tmp_path: Path) -> None:
    """Modules, codecs and libraries would be the image's (class 24)."""
    trace = tmp_path / "trace"
    bundle.process["args"] = ["/no\x1b-such-\u4e16-program"]
    bundle.process["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    bundle.write()
    command = bundle.command("run", "-b", str(bundle.path), bundle.id)
    start = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2,pivot_root", "-o", str(trace)]
    done = subprocess.run([*start, *command], capture_output=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 127
    lines = trace.read_text().splitlines()
    (pivot,) = [index for index, line in enumerate(lines) if " pivot_root(" in line]
    init = lines[pivot].split()[0]
    later = [line for line in lines[pivot + 1 :] if line.startswith(init) and '"' in line]
    opened = [line.split('"')[1] for line in later]
    assert set(opened) <= {"/", "/no\\33-such-\\344\\270\\226-program"}, opened


def test_imports_fail_after_the_barrier() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from rootless.runtime.inside import init
init.forbid_imports()
import os  # loaded
for load in (lambda: __import__("wave"), lambda: "x".encode("punycode")):
    try:
        load()
    except (ImportError, LookupError):
        continue
    sys.exit("it was loaded")
"""
    subprocess.run([sys.executable, "-c", code, str(ROOT)], check=True, timeout=30)


# Give the session keyring a key, as a login does; then become the command.
_WITH_KEY = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
assert libc.syscall(250, 1, None) > 0
assert libc.syscall(248, b"user", b"probe", b"secret", 6, -3) > 0
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.needs("x86_64")
def test_session_keyring_is_not_inherited(bundle: Bundle) -> None:
    """Class 34: keys of the login (Kerberos, fscrypt, ecryptfs)."""
    if not has_keyrings():
        pytest.skip("needs keyrings")
    start = [sys.executable, "-c", _WITH_KEY]
    probe = str(bundle.rootfs / "probe")
    seen = subprocess.run([*start, probe, "try-request_key"], capture_output=True, text=True)
    assert seen.stdout == "try-request_key ok\n"
    bundle.write("try-request_key")
    command = bundle.command("run", "-b", str(bundle.path), bundle.id)
    done = subprocess.run([*start, *command], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout == "try-request_key ENOKEY\n", done.stderr


@pytest.mark.needs("subordinate ids")
def test_groups_of_the_caller_are_dropped(tmp_path: Path) -> None:
    """Class 33: project groups of a cluster."""
    bundle = Bundle(tmp_path, inside=True)
    bundle.write("id")
    command = bundle.command("run", "-b", str(bundle.path), bundle.id)[len(INSIDE) :]
    code = "import os, sys; os.setgroups([7, 8]); os.execvp(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(
        [*INSIDE, sys.executable, "-c", code, *command],
        capture_output=True, text=True, env=ENVIRONMENT, check=True,
    )  # fmt: skip
    assert "groups\n" in done.stdout


def on_terminal(command: list[str]) -> str:
    """Run a command whose streams are its controlling terminal; return what it prints."""
    pid, master = pty.fork()
    if pid == 0:
        try:
            os.execvpe(command[0], command, ENVIRONMENT)
        finally:
            os._exit(99)
    out = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            break  # EIO: the last one has closed it
        if not data:
            break
        out += data
    os.waitpid(pid, 0)
    os.close(master)
    return out.decode()


def test_terminal_of_the_caller_is_not_controlled(bundle: Bundle) -> None:
    """Class 37: input faked by TIOCSTI would be run by the caller's shell."""
    probe = str(bundle.rootfs / "probe")
    assert "controlling ok" in on_terminal([probe, "tty"])
    bundle.write("tty", ",", "try-tiocsti")
    out = on_terminal(bundle.command("run", "-b", str(bundle.path), bundle.id))
    assert "isatty 1 1 1" in out
    assert "controlling ENXIO" in out
    assert "try-tiocsti EPERM" in out or "try-tiocsti EIO" in out


@pytest.mark.needs("libseccomp")
@pytest.mark.parametrize("no_new_privs", [True, False])
@pytest.mark.parametrize("uid", [0, pytest.param(7, marks=pytest.mark.needs("subordinate ids"))])
def test_seccomp_filter_is_loaded(bundle: Bundle, no_new_privs: bool, uid: int) -> None:
    """Class 32: with no_new_privs, and without it and CAP_SYS_ADMIN."""
    if uid:
        bundle.map_many_ids()
        bundle.process["user"] = {"uid": uid, "gid": uid}
    bundle.process["noNewPrivileges"] = no_new_privs
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    facts = bundle.facts("seccomp", ",", "mkdir", "/x", ",", "caps")
    assert facts["seccomp"] == "2"
    assert facts["mkdir"] == "EOPNOTSUPP"
    assert facts["no_new_privs"] == str(int(no_new_privs))
    assert int(facts["effective"], 16) == (0 if uid else 0x20000420)


@pytest.mark.needs("libseccomp")
def test_failed_seccomp_filter_prevents_the_start(bundle: Bundle) -> None:
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_NONE"}
    assert "SCMP_ACT_NONE" in bundle.fails("id")


def test_capabilities_beyond_the_config_are_gone(bundle: Bundle) -> None:
    """Class 31: also from the bounding set, so that nothing gives them back."""
    bundle.process["capabilities"] = {}
    facts = bundle.facts("caps")
    for name in ("effective", "permitted", "inheritable", "bounding", "ambient"):
        assert int(facts[name], 16) == 0


@pytest.mark.needs("subordinate ids")
def test_setuid_program_gives_no_root_privileges(bundle: Bundle) -> None:
    bundle.map_many_ids()
    bundle.process["user"] = {"uid": 7, "gid": 7}
    assert bundle.facts("setuid", "0") == {"setuid": "EPERM"}
