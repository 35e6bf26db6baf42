"""The program that serves an image has no privileges, however it is started (class 46).

rless-serve (helpers/fuse_server) is begun in the user namespace that the mount is made in, or
before its caller has entered that.
"""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rootless.errors import RlessError, SyscallError
from rootless.linux import mount, procfs, programs
from rootless.linux.call import libc
from rootless.linux.namespace_holder import Holder
from rootless.rootfs import fuse, squashfs
from tests.lib import engine_namespace
from tests.lib import flat as made
from tests.lib.compiled import sanitized_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

pytestmark = pytest.mark.needs("user namespaces", "fuse")
PYTHON = os.path.realpath(sys.executable)
SECONDS = 5.0
WAYS = ["inside", "outside"]

# In the program: `tried` gets the error of each call, 0 for none.
LOOK = """
import ctypes, errno, fcntl, json, os, resource, signal, socket, sys, threading
given = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
tried = {}

def attempt(name, function, *arguments):
    try:
        function(*arguments)
        tried[name] = 0
    except OSError as error:
        tried[name] = error.errno

def call(name, *arguments):
    ctypes.set_errno(0)
    arguments = (ctypes.c_long(x) if isinstance(x, int) else x for x in arguments)
    result = getattr(libc, name)(*arguments)
    tried[name] = ctypes.get_errno() if result in (-1, 0xFFFFFFFF) else 0

def ends_by(function):
    pid = os.fork()
    if pid == 0:
        function()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

ABOUT = """
def connect():
    with socket.socket() as client:
        client.connect(("127.0.0.1", given["port"]))

attempt("connect", connect)
lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
print(json.dumps({
    "connect": tried["connect"],
    "sets": [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "nnp": status["NoNewPrivs"],
    "seccomp": status["Seccomp"],
    "leader": os.getsid(0) == os.getpid(),
    "mnt": os.readlink("/proc/self/ns/mnt"),
    "shows it": "fuse." in open("/proc/self/mountinfo").read(),
    "files": [os.readlink(name) for name in (f"/proc/self/fd/{fd}" for fd in range(1024))
              if os.path.lexists(name)],
    "environment": sorted(os.environ),
    "directory": os.getcwd(),
    "processors": sorted(os.sched_getaffinity(0)),
    "ignored": int(status["SigIgn"], 16) >> signal.SIGTERM - 1 & 1,
    "blocked": int(status["SigBlk"], 16),
    "said": sys.argv[2:],
}))
"""

REFUSED = """
here, parent = given["place"], os.getppid()
old = here + "/old"
attempt("socket", socket.socket)
attempt("socketpair", socket.socketpair)
call("shmget", 0, 4096, 0o1600)
call("semget", 0, 1, 0o1600)
call("msgget", 0, 0o1600)
call("mq_open", b"/rless-test", os.O_CREAT | os.O_RDWR, 0o600, 0)
call("ptrace", 16, parent, 0, 0)
call("process_vm_readv", parent, 0, 0, 0, 0, 0)
call("process_vm_writev", parent, 0, 0, 0, 0, 0)
attempt("kill", os.kill, parent, 0)
call("tgkill", parent, parent, 0)
attempt("prlimit", resource.prlimit, parent, resource.RLIMIT_CORE)
attempt("sched_setaffinity", os.sched_setaffinity, parent, os.sched_getaffinity(0))
attempt("setpriority", os.setpriority, os.PRIO_PROCESS, parent, 5)
attempt("fcntl", fcntl.fcntl, 0, fcntl.F_SETOWN, parent)
call("unshare", 0x10000000)
call("setns", 0, 0)
clone = {"x86_64": 56}.get(os.uname().machine, 220)
call("syscall", clone, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
call("mount", 0, b"/", 0, 0x44000, 0)
call("chroot", b"/")
call("personality", 0x0040000)
call("inotify_init1", 0)
call("memfd_create", b"x", 0)
call("timerfd_create", 0, 0)
call("sethostname", b"x", 1)
call("prctl", 36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
call("ioctl", 0, 0x5412, b"x")  # TIOCSTI
attempt("write", os.open, old, os.O_WRONLY)
attempt("read and write", os.open, old, os.O_RDWR)
attempt("truncate and read", os.open, old, os.O_RDONLY | os.O_TRUNC)
attempt("create", os.open, here + "/new", os.O_RDONLY | os.O_CREAT, 0o600)
call("creat", (here + "/new").encode(), 0o600)
attempt("truncate", os.truncate, old, 0)
attempt("mkdir", os.mkdir, here + "/new")
attempt("mkfifo", os.mkfifo, here + "/new")
attempt("symlink", os.symlink, "old", here + "/new")
attempt("link", os.link, old, here + "/new")
attempt("rename", os.rename, old, here + "/new")
attempt("unlink", os.unlink, old)
attempt("chmod", os.chmod, old, 0o600)
attempt("chown", os.chown, old, os.getuid(), -1)
attempt("utime", os.utime, old)
attempt("setxattr", os.setxattr, old, "user.a", b"b")
attempt("removexattr", os.removexattr, old, "user.a")
attempt("memory", os.open, f"/proc/{parent}/mem", os.O_RDWR)
newer = {name: libc.syscall(number, 0, 0, 0, 0) and ctypes.get_errno() for name, number in
         dict(pidfd_open=434, clone3=435, io_uring_setup=425, openat2=437, pidfd_getfd=438,
              mount_setattr=442, fchmodat2=452, setxattrat=463, future=600).items()}
print(json.dumps([tried, newer]))
"""

READ = """
parent = os.getppid()
other = open(f"/proc/{parent}/task/{parent}/children").read().split()[-1]
assert open(f"/proc/{other}/comm").read().strip() == "sleep"
for name in ("mem", "environ", "root/etc/passwd"):
    attempt(name, os.open, f"/proc/{other}/{name}", os.O_RDONLY)
print(json.dumps(tried))
"""

FILES = """
for name in given["paths"]:
    attempt(name, os.open, name, os.O_RDONLY)
print(json.dumps(tried))
"""

ALLOWED = """
thread = threading.Thread(target=lambda: tried.update(thread=0))
thread.start()
thread.join()
attempt("read", lambda: open("/usr/bin/env", "rb").read())
attempt("list", os.listdir, "/usr/bin")
attempt("what was given", lambda: open("/dev/fd/" + given["kept"]).read())
attempt("signal", lambda: signal.raise_signal(signal.SIGURG))
tried["fork"] = ends_by(lambda: None)
print(json.dumps(tried))
"""

FOREIGN = """
import mmap

def run(code):
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(code)
    ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()

print(json.dumps([
    ends_by(lambda: run(bytes.fromhex("b814000000cd80c3"))),  # getpid of i386
    ends_by(lambda: libc.syscall(0x40000000 | 39)),           # getpid of x32
]))
"""


@pytest.fixture
def place(tmp_path: Path) -> str:
    (tmp_path / "old").write_text("there")
    return str(tmp_path)


def in_a_fork(function: Callable[[], Any]) -> Any:
    """Return what the function returns there; AssertionError with its traceback."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = {"result": function()}
        except BaseException:
            answer = {"failed": traceback.format_exc()}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as stream:
        answer = json.load(stream)
    os.waitpid(pid, 0)
    assert "failed" not in answer, answer["failed"]
    return answer["result"]


def begin(way: str, map_: str, make: Callable[[int], Any]) -> Any:
    """Enter new namespaces; return what `make` makes before that, or in there: of a pid or -1."""
    holder = Holder(0)
    made = make(holder.pid) if way == "outside" else None
    holder.begin_maps(engine_namespace.make_map(map_))
    holder.enter()
    return made or make(-1)


def serve(script: str, given: dict[str, object], way: str, kept: str = "/etc/hostname") -> Any:
    """Begin Python as a server that is given the descriptor of `kept`: what it may read.

    Beside it there is a program in the same user namespace that has no right either.

    Returns:
        What the script has printed.
    """
    log_fd = os.memfd_create("log")
    log = os.dup(log_fd)

    def make(holder: int) -> fuse.Server:
        image = os.open(kept, os.O_RDONLY | os.O_CLOEXEC)
        words = json.dumps({**given, "kept": str(image)})
        arguments = ["-I", "-S", "-c", LOOK + script, words]
        return fuse.Server(
            PYTHON, arguments, log_fd, privileged=False, keep_fd=image, holder=holder
        )

    def case() -> str:
        server = begin(way, "single-u1000", make)
        beside = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        try:
            server.attach("/tmp")  # in our own mount namespace
        except RlessError:
            pass  # it serves nothing
        finally:
            os.kill(beside, signal.SIGKILL)
        return os.pread(log, 65536, 0).decode()

    os.environ["SECRET"] = "x"
    stray = os.open("/etc/group", os.O_RDONLY)
    os.set_inheritable(stray, True)
    try:
        text = in_a_fork(case)
    finally:
        for fd in (stray, log_fd, log):
            os.close(fd)
        del os.environ["SECRET"]
    try:
        return json.loads(text)
    except ValueError:
        raise AssertionError(text) from None


@pytest.mark.parametrize("way", WAYS)
def test_file_server_has_no_privileges(way: str, place: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = serve(ABOUT, {"port": listener.getsockname()[1]}, way, "/proc")
    assert found["connect"] != 0
    assert found["sets"] == [0, 0, 0, 0, 0]
    assert found["nnp"] == "1"
    assert found["seccomp"] == "2"
    assert found["leader"] is True
    assert found["mnt"] != os.readlink("/proc/self/ns/mnt")
    assert found["shows it"] is False
    allowed = ("/dev/fuse", "/dev/null", "/memfd:log", "/proc")
    assert all(path.startswith(allowed) for path in found["files"]), found["files"]
    variables = [name for name in found["environment"] if not name.startswith("MALLOC_")]
    assert variables == ["LC_ALL", "PATH"]
    assert found["directory"] == "/"
    assert found["processors"] == sorted(os.sched_getaffinity(0))
    assert (found["ignored"], found["blocked"]) == (0, 0)
    assert found["said"][0].startswith("/dev/fd/")


def test_sanitized_file_server_has_no_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, sanitized_program("helpers/fuse_server"))
    found = serve(ABOUT, {"port": 1}, "outside", "/proc")
    assert (found["sets"], found["nnp"], found["seccomp"]) == ([0, 0, 0, 0, 0], "1", "2")


def instead(monkeypatch: pytest.MonkeyPatch, program: Path) -> None:
    """Have another program in the place of rless-serve."""
    monkeypatch.setattr(fuse, "own_program", lambda name: str(program))


@pytest.mark.parametrize("way", WAYS)
def test_dangerous_calls_are_refused(place: str, way: str) -> None:
    tried, newer = serve(REFUSED, {"place": place}, way)
    assert set(tried.values()) == {1}, tried  # EPERM
    assert set(newer.values()) == {38}, newer  # ENOSYS
    assert os.listdir(place) == ["old"]
    assert Path(place, "old").read_text() == "there"


def landlock() -> bool:
    """Tell whether this kernel has it (landlock_create_ruleset(2), asked for its version)."""
    return int(libc.syscall(444, None, 0, 1)) > 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.skipif(not landlock(), reason="a kernel without Landlock")
def test_other_processes_are_not_read(place: str, way: str) -> None:
    tried = serve(READ, {}, way, "/proc")
    assert set(tried.values()) <= {1, 13}, tried  # EPERM, EACCES


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.skipif(not landlock(), reason="a kernel without Landlock")
def test_files_of_the_user_are_not_read(place: str, way: str) -> None:
    paths = [place, f"{place}/old", "/etc/passwd", "/proc/self/status", "/", "/tmp", "/dev/null"]
    tried = serve(FILES, {"paths": paths}, way)
    assert tried == dict.fromkeys(paths, errno.EACCES)


@pytest.mark.parametrize("way", WAYS)
def test_needed_calls_are_allowed(way: str) -> None:
    """Threads, memory, reading its own files: programs differ in what they need of that."""
    tried = serve(ALLOWED, {}, way)
    assert set(tried.values()) == {0}, tried


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="what other processors cannot do")
def test_calls_of_another_architecture_kill_it(place: str) -> None:
    assert serve(FOREIGN, {}, "outside") == [-31, -31]  # SIGSYS


WAIT_FOR_THE_END = """
import os, sys
try:
    while True:
        os.read(int(sys.argv[1].rpartition("/")[2]), 1 << 17)
except OSError as error:
    print(error.errno)
"""


@pytest.mark.parametrize("moment", ["at once", "before the word", "in flight", "stopped"])
def test_file_server_ends_with_its_parent(moment: str) -> None:
    """Whoever was to show the mount is killed before."""
    reader, writer = os.pipe()
    log_fd = os.memfd_create("log")
    parent = os.fork()
    if parent == 0:
        holder = Holder(0)
        arguments = ["-I", "-S", "-c", WAIT_FOR_THE_END]
        server = fuse.Server(PYTHON, arguments, log_fd, privileged=False, holder=holder.pid)
        os.write(writer, f"{server.pid} {holder.pid} ".encode())
        if moment != "at once":
            holder.begin_maps(engine_namespace.make_map("single"))
            holder.enter()
        if moment == "stopped":
            os.kill(server.pid, signal.SIGSTOP)
        if moment in ("in flight", "stopped"):
            server.mount()
        if moment == "in flight":
            select.select([server._link], [], [], SECONDS)
            deadline = time.monotonic() + SECONDS
            while os.path.realpath(f"/proc/{server.pid}/exe") != PYTHON:
                if time.monotonic() > deadline:
                    os._exit(1)
                time.sleep(0.01)
        os.write(writer, b"+")
        time.sleep(60)
        os._exit(0)
    os.close(writer)
    text = b""
    while not text.endswith(b"+") and (chunk := os.read(reader, 20)):
        text += chunk
    os.close(reader)
    assert text.endswith(b"+"), os.pread(log_fd, 4096, 0)
    pids = [int(word) for word in text[:-1].split()]
    assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    if moment == "stopped":
        os.kill(pids[0], signal.SIGCONT)
    await_end(pids)
    said = os.pread(log_fd, 4096, 0).decode()
    os.close(log_fd)
    if moment == "in flight":
        assert said == "19\n"  # ENODEV


def await_end(pids: list[int]) -> None:
    """Wait until processes have ended; whoever adopts them may leave them as zombies."""
    deadline = time.monotonic() + SECONDS
    for pid in pids:
        while procfs.process_state(pid) not in ("", "Z", "X"):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("tree") / "root"
    path.mkdir()
    (path / "file").write_bytes(bytes(range(256)) * 4000)
    yield path


@pytest.mark.needs("mksquashfs", "squashfuse")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("compression", ["zstd", "gzip", "xz", "lz4"])
@pytest.mark.parametrize("program", squashfs.PROGRAMS)
@pytest.mark.parametrize("map_", ["single", "single-u1000"])
def test_squashfuse_serves_below_the_filter(
    tree: Path, tmp_path: Path, compression: str, program: str, map_: str, way: str
) -> None:
    found = programs.find(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    image = made.mksquashfs(tree, tmp_path / "image", "-comp", compression)
    target = tmp_path / "target"
    target.mkdir()

    def make(holder: int) -> squashfs.Begun:
        return squashfs.Begun(os.open(image, os.O_RDONLY | os.O_CLOEXEC), 0, found, holder)

    def case() -> list[object]:
        begun = begin(way, map_, make)
        begun.mount()
        name, pid = begun.attach(str(target))
        status = Path(f"/proc/{pid}/status").read_text()
        same = (target / "file").read_bytes() == (tree / "file").read_bytes()
        mount.umount(str(target))
        fuse.wait(pid)
        return [name, "Seccomp:\t2" in status, same]

    assert in_a_fork(case) == [program, True, True]


@pytest.mark.needs("mksquashfs", "squashfuse")
def test_squashfuse_of_another_prefix_serves(tree: Path, tmp_path: Path) -> None:
    """A link in /usr may lead to where a site has its programs."""
    found = squashfs.find_server()
    assert found is not None
    prefix = tmp_path / "site"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy(found, prefix / "bin/served")
    (tmp_path / "squashfuse").symlink_to(prefix / "bin/served")
    image = made.mksquashfs(tree, tmp_path / "image")
    target = tmp_path / "target"
    target.mkdir()

    def make(holder: int) -> squashfs.Begun:
        fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        return squashfs.Begun(fd, 0, str(tmp_path / "squashfuse"), holder)

    def case() -> bool:
        begun = begin("outside", "single", make)
        _, pid = begun.attach(str(target))
        same = (target / "file").read_bytes() == (tree / "file").read_bytes()
        mount.umount(str(target))
        fuse.wait(pid)
        return same

    assert in_a_fork(case) is True


def told(way: str, place: str, before: Callable[[fuse.Server], None]) -> list[str]:
    """Return the error of a server, its type and its text."""

    def make(holder: int) -> fuse.Server:
        log_fd = os.memfd_create("log")
        return fuse.Server(PYTHON, ["-c", ""], log_fd, privileged=False, holder=holder)

    def case() -> list[str]:
        server = begin(way, "single", make)
        before(server)
        with pytest.raises(RlessError) as caught:
            server.attach(place)
        assert server.pid == 0
        return [type(caught.value).__name__, str(caught.value)]

    found: list[str] = in_a_fork(case)
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moment", ["before the word", "at any time"])
def test_failed_file_server_is_reported(
    monkeypatch: pytest.MonkeyPatch, place: str, moment: str, way: str
) -> None:
    """As on a kernel that takes no filter: the image is unpacked then, with that as the reason."""
    there = Path(place, "rless-serve")
    there.write_text("#!/bin/sh\necho cannot >&2\nexit 1\n")
    there.chmod(0o755)
    instead(monkeypatch, there)

    def before(server: fuse.Server) -> None:
        if moment == "before the word":
            os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)

    assert told(way, place, before)[1].endswith("ended: cannot")


@pytest.mark.parametrize("way", WAYS)
def test_killed_file_server_is_reported(place: str, way: str) -> None:
    _, text = told(way, place, lambda server: os.kill(server.pid, signal.SIGKILL))
    assert "rless-serve ended" in text


@pytest.mark.parametrize(
    ("by", "call", "why"),
    [
        ("/etc/hosts", "open(/dev/fuse)", "Permission denied"),
        ("/dev/null", "fsconfig(", "Invalid argument"),
    ],
)
def test_missing_fuse_is_reported(place: str, by: str, call: str, why: str) -> None:
    kind, text = told("inside", place, lambda _: mount.mount(by, "/dev/fuse", None, mount.MS_BIND))
    assert kind == SyscallError.__name__
    assert text.startswith(call)
    assert text.endswith(why)


def test_parent_passes_on_no_privileges() -> None:
    """What is executed later has none of those that rless-serve needs."""

    def case() -> str:
        server = fuse.Server(PYTHON, [], os.memfd_create("log"), privileged=False)
        status = Path("/proc/self/status").read_text()
        server.end()
        return status

    status = engine_namespace.run(engine_namespace.make_map("single-u1000"), case)
    for name in ("CapInh", "CapAmb"):
        assert f"{name}:\t{0:016x}" in status
    assert f"CapEff:\t{0:016x}" not in status
