"""The least that a container costs in Python: one file, which asks the kernel and checks nothing.

    python3 -I -S floor.py LAYER DIRECTORY COMMAND...

All ids of the user, six namespaces, an overlay on LAYER, /proc, /sys, /dev, masks, pivot_root,
default capabilities, a seccomp filter, exec, wait, clean-up. There is no image, store, record,
option, limit, terminal, monitor, log, nor a check of anything; what rless takes more is for these.
DIRECTORY is made and removed. `scripts/bench` measures it beside the others, so that a change of
the kernel or the interpreter is told from one of rless. For x86_64; never use it for more.
"""

import os
import sys
from _ctypes import CFuncPtr, _SimpleCData, dlopen, dlsym
from _struct import pack

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
MS_PRIVATE, MNT_DETACH = 1 << 18, 2
NAMESPACES = 0x10000000 | 0x20000 | 0x40000000 | 0x20000000 | 0x08000000 | 0x04000000 | 0x02000000
CAPABILITIES = 0xA80405FB  # Docker's, without NET_RAW
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
MASKED = ("kcore", "keys", "latency_stats", "timer_list", "sched_debug")
READ_ONLY = ("bus", "fs", "irq", "sys")


class Long(_SimpleCData):
    _type_ = "l"


class Bytes(_SimpleCData):
    _type_ = "z"


class Call(CFuncPtr):
    _flags_ = 1 | 4
    _restype_ = Long


LIBC = dlopen(None, 0)


def function(name: str, *types: type) -> CFuncPtr:
    found = Call(dlsym(LIBC, name))
    found.argtypes = types
    return found


unshare = function("unshare", Long)
mount_ = function("mount", Bytes, Bytes, Bytes, Long, Bytes)
umount2 = function("umount2", Bytes, Long)
prctl = function("prctl", Long, Long, Long, Long, Long)
pivot_root = function("syscall", Long, Bytes, Bytes)
two = function("syscall", Long, Bytes, Bytes)


def check(result: int) -> None:
    if result < 0:
        raise OSError(f"a system call failed: {result}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    words = [word.encode() for word in (source, target, kind)]
    if mount_(*words, flags, data.encode()) < 0:
        raise OSError(f"mount {source} {target} {kind} {flags}")


def map_ids(pid: int) -> None:
    """Write the maps of a process's namespace, both at a time."""
    uid, gid = os.getuid(), os.getgid()
    begun = []
    for kind, own in (("u", uid), ("g", gid)):
        first, count = subordinate(f"/etc/sub{kind}id", uid)
        program = f"/usr/bin/new{kind}idmap"
        argv = [program, str(pid), "0", str(own), "1", "1", first, count]
        begun.append(os.posix_spawn(program, argv, {}))
    for process in begun:
        check(-os.waitpid(process, 0)[1])


def subordinate(path: str, uid: int) -> list[str]:
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    with open("/etc/passwd", encoding="utf-8") as file:
        names = [line.split(":", 3)[0] for line in file if line.split(":", 3)[2] == str(uid)]
    return next(words[1:] for words in (line.split(":") for line in lines) if words[0] in names)


def enter_root(layer: str, directory: str) -> None:
    root = f"{directory}/root"
    for name in ("root", "upper", "work"):
        os.mkdir(f"{directory}/{name}")
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    layers = f"lowerdir={layer},upperdir={directory}/upper,workdir={directory}/work"
    mount("overlay", root, "overlay", 0, f"{layers},userxattr")
    quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC
    for name in ("proc", "sys", "dev"):
        if not os.path.isdir(f"{root}/{name}"):
            os.mkdir(f"{root}/{name}")
    mount("proc", f"{root}/proc", "proc", quiet)
    mount("sysfs", f"{root}/sys", "sysfs", quiet | MS_RDONLY)
    mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID, "mode=755,size=64k")
    for name in DEVICES:
        os.close(os.open(f"{root}/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o600))
        mount(f"/dev/{name}", f"{root}/dev/{name}", "", MS_BIND)
    for name, kind, data in (
        ("pts", "devpts", "newinstance,ptmxmode=0666,mode=620"),
        ("shm", "tmpfs", "mode=1777,size=64m"),
        ("mqueue", "mqueue", ""),
    ):
        os.mkdir(f"{root}/dev/{name}")
        mount(kind, f"{root}/dev/{name}", kind, quiet & ~MS_NODEV, data)
    for name in MASKED:
        if os.path.exists(f"{root}/proc/{name}"):
            mount("/dev/null", f"{root}/proc/{name}", "", MS_BIND)
    for name in READ_ONLY:
        mount(f"{root}/proc/{name}", f"{root}/proc/{name}", "", MS_BIND | MS_REC)
        flags = MS_BIND | MS_REMOUNT | MS_RDONLY | quiet
        mount(f"{root}/proc/{name}", f"{root}/proc/{name}", "", flags)
    os.chdir(root)
    check(pivot_root(155, b".", b"."))
    check(umount2(b".", MNT_DETACH))


def confine() -> None:
    for number in range(41):
        if not CAPABILITIES >> number & 1:
            prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP
    low, high = CAPABILITIES & 0xFFFFFFFF, CAPABILITIES >> 32
    check(two(126, pack("Ii", 0x20080522, 0), pack("6I", low, low, 0, high, high, 0)))
    check(prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    # Load the number, compare it with 300 others as a real filter of that size does, allow.
    program = pack("HBBI", 0x20, 0, 0, 0)
    program += b"".join(pack("HBBI", 0x15, 0, 0, 1000 + at) for at in range(300))
    program += pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    room = function("malloc", Long)(len(program))
    function("memcpy", Long, Bytes, Long)(room, program, len(program))
    filters = pack("HxxxxxxQ", len(program) // 8, room)
    check(function("syscall", Long, Long, Long, Bytes)(317, 1, 0, filters))


def init(words: "list[str]", layer: str, directory: str) -> None:
    enter_root(layer, directory)
    confine()
    path = f"/bin/{words[0]}" if "/" not in words[0] else words[0]
    os.execve(path, words, {"PATH": "/usr/bin:/bin", "HOME": "/root"})


def inside(ready: int, mapped: int, layer: str, directory: str, words: "list[str]") -> int:
    check(unshare(NAMESPACES))
    os.write(ready, b"x")
    if os.read(mapped, 1) != b"x":
        return 1
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    pid = os.fork()
    if pid == 0:
        init(words, layer, directory)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(layer: str, directory: str, *words: str) -> int:
    os.mkdir(directory, 0o700)
    ready, mapped = os.pipe(), os.pipe()
    pid = os.fork()  # as early as it goes: little is copied
    if pid == 0:
        os.close(mapped[1])
        os._exit(inside(ready[1], mapped[0], layer, directory, list(words)))
    os.close(ready[1])
    if os.read(ready[0], 1) == b"x":
        map_ids(pid)
        os.write(mapped[1], b"x")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for name in ("work/work", "work", "upper", "root", ""):
        os.rmdir(f"{directory}/{name}")
    return code


if __name__ == "__main__":
    code = 1
    try:
        code = main(*sys.argv[1:])
    except OSError as error:
        os.write(2, f"floor: {error}\n".encode())
    os._exit(code)
