"""The reads that rless-serve asks of an image ahead of time (class 46).

With the program that serves the image stopped, only what the kernel knows already is answered.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import signal
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rootless.rootfs import prefetch, squashfs
from tests.kernel.test_serve import WAYS, begin, in_a_fork, instead
from tests.lib import flat as made
from tests.lib.compiled import sanitized_program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = [
    pytest.mark.needs("user namespaces", "fuse", "mksquashfs", "squashfuse"),
]
PAGE = mmap.PAGESIZE
SECONDS = 5.0
BIG = 3 << 20
READ = 2 << 20  # bytes of a file that are read ahead
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(autouse=True, params=["", "sanitized"])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have rless-serve built with sanitizers, too."""
    if request.param:
        instead(monkeypatch, sanitized_program("helpers/fuse_server"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return the root of an image with a program, its interpreter and its library."""
    root = tmp_path / "root"
    for name in ("usr/bin", "usr/lib/there", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "lib64").symlink_to("/usr/lib/there")
    (root / "usr/lib/there/loader.so").write_bytes(os.urandom(BIG))
    (root / "usr/lib/there/libc.so.6").write_bytes(os.urandom(BIG))
    (root / "usr/lib/there/other").write_bytes(os.urandom(BIG))
    program(root / "usr/bin/tool", b"/lib64/loader.so\0")
    return root


def program(
    path: Path,
    interpreter: bytes,
    *,
    at: int = 64,
    count: int = 1,
    length: int | None = None,
    kind: int = 3,
    size: int = BIG,
) -> None:
    """Write an ELF file whose first program header, at `at`, is of this kind."""
    place = 4096
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, at, 0, 0, 64, 56, count, 0, 0, 0)
    length = len(interpreter) if length is None else length
    part = struct.pack("<IIQQQQQQ", kind, 4, place, 0, 0, length, length, 1)
    data = (head.ljust(64, b"\0") + part).ljust(place, b"\0") + interpreter
    path.write_bytes(data + os.urandom(max(0, size - len(data))))
    path.chmod(0o755)


def resident(path: Path) -> int:
    """Return how many bytes of a file are in memory (mincore(2)), from its beginning on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        pages = (size + PAGE - 1) // PAGE
        known = (ctypes.c_ubyte * pages)()
        area = mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        place = (ctypes.c_char * size).from_buffer(area)
        assert libc.mincore(ctypes.byref(place), ctypes.c_size_t(size), known) == 0
    flags = [flag & 1 for flag in known]
    return (flags.index(0) if 0 in flags else pages) * PAGE


def words(name: str, path: str = "/nowhere:/usr/bin", *targets: str) -> bytes:
    spec: Any = {
        "process": {"args": [name], "env": [f"PATH={path}"], "cwd": "/"},
        "mounts": [{"destination": target} for target in targets],
    }
    return prefetch.words(spec)


def asked(
    image: Path,
    target: Path,
    told: bytes,
    look: Callable[[], Any],
    *,
    way: str = "outside",
    late: bool = False,
    stop: bool = False,
) -> Any:
    """Return what `look` sees of the image once all was asked that is `told`.

    Args:
        late: it is told after the mount was asked for.
        stop: who serves the image is stopped first, so that only the kernel can answer.
    """

    def make(holder: int) -> squashfs.Begun:
        fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        return squashfs.Begun(fd, 0, squashfs.find_server(), holder)

    def case() -> Any:
        # Who asks is nobody's child any more, and so comes to us.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        begun = begin(way, "single", make)
        if not late:
            begun.prefetch(told)
        begun.mount()
        if late:
            begun.prefetch(told)
        _, pid = begun.attach(str(target))
        ends = [os.waitpid(other, 0)[1] for other in askers() if other != pid]
        if stop:
            freeze(pid)
        try:
            return [ends, look()]
        finally:
            os.kill(pid, signal.SIGKILL)

    target.mkdir(exist_ok=True)
    ends, seen = in_a_fork(case)
    assert [status for status in ends if status] == []
    return seen


def least_read(image: Path, target: Path, told: bytes, files: Sequence[Path], **more: Any) -> int:
    """Return how much of each of some files is read; where the machine is busy, at a later try."""
    least = 0
    for _ in range(5):
        sizes = asked(image, target, told, lambda: [*map(resident, files)], **more)
        least = min(sizes)
        if least >= READ:
            # What is read beyond is the kernel's own reading ahead.
            assert max(sizes) < BIG
            break
    return least


def askers() -> list[int]:
    """Return our children, but for who holds the namespaces."""
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    pids = [int(word) for word in text.split()]
    return [pid for pid in pids if "userns" not in Path(f"/proc/{pid}/comm").read_text()]


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)


def answered(question: Callable[[], object], seconds: float = SECONDS) -> int:
    """Return whether a question is answered: by 0, or an error number; -1: not in this time."""
    pid = os.fork()
    if pid == 0:
        try:
            question()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return -1  # it ends with who serves
        time.sleep(0.005)


@pytest.mark.parametrize("late", [False, True], ids=["before the mount", "after it"])
@pytest.mark.parametrize("way", WAYS)
def test_program_and_its_interpreter_are_read(
    tree: Path, tmp_path: Path, way: str, late: bool
) -> None:
    image, target = made.mksquashfs(tree, tmp_path / "image"), tmp_path / "target"
    lib = target / "usr/lib/there"

    files = (target / "usr/bin/tool", lib / "loader.so", lib / "libc.so.6")
    assert least_read(image, target, words("tool"), files, way=way, late=late) >= READ


@pytest.mark.parametrize("way", WAYS)
def test_mount_targets_are_read(tree: Path, tmp_path: Path, way: str) -> None:
    image, target = made.mksquashfs(tree, tmp_path / "image"), tmp_path / "target"

    def look() -> list[int]:
        return [
            answered(lambda: os.stat(target / "etc")),
            answered(lambda: os.stat(target / "tmp"), 0.2),
        ]

    told = words("tool", "/bin", "/etc", "/missing", "/proc")
    assert asked(image, target, told, look, way=way, stop=True) == [0, -1]


def test_malformed_requests_are_survived(tree: Path, tmp_path: Path) -> None:
    image, target = made.mksquashfs(tree, tmp_path / "image"), tmp_path / "target"
    for told in (b"", b"\0\0", words("missing"), words("/etc"), b"no end", b"/usr/bin/tool"):
        assert asked(image, target, told, lambda: "alive") == "alive"


def hostile(tree: Path) -> dict[str, Path]:
    """Make programs that lead astray; return each with the file that is not to be read."""
    bins = tree / "usr/bin"
    loader = tree / "usr/lib/there/loader.so"
    inside = b"/lib64/loader.so\0"
    program(bins / "beyond", inside, at=1 << 62)
    program(bins / "at the end", inside, at=4096 - 55)
    program(bins / "many", b"", count=65535, kind=1)
    program(bins / "endless", inside, length=1 << 40)
    program(bins / "no end", inside.strip(b"\0") * 300, length=4095)
    program(bins / "short", inside, length=4000, size=0)
    program(bins / "32 bits", inside)
    with (bins / "32 bits").open("r+b") as file:
        file.seek(4)
        file.write(b"\x01")
    (bins / "empty").write_bytes(b"")
    (bins / "few").write_bytes(b"\x7fELF\x02")
    (bins / "script").write_text("#!/bin/sh\n")
    for name in ("empty", "few", "script"):
        (bins / name).chmod(0o755)
    os.mkfifo(bins / "pipe", 0o755)
    (bins / "circle").symlink_to("circle")
    (bins / "ourselves").symlink_to("/proc/self/exe")
    program(bins / "to itself", b"/bin/to itself\0")
    program(bins / "to a pipe", b"/bin/pipe\0")
    program(bins / "to a directory", b"/etc\0")
    return {path.name: loader for path in bins.iterdir() if path.name not in ("tool", "no end")}


def test_hostile_image_is_survived(tree: Path, tmp_path: Path) -> None:
    names = sorted(hostile(tree))
    assert len(names) >= 14
    image, target = made.mksquashfs(tree, tmp_path / "image"), tmp_path / "target"
    loader = target / "usr/lib/there/loader.so"
    for name in names:
        seen = asked(image, target, words(f"/usr/bin/{name}"), lambda: "alive")
        assert seen == "alive", name
    for name in ("beyond", "many", "endless", "32 bits"):
        told = words(f"/usr/bin/{name}", "", "/usr/lib/there/loader.so")
        assert asked(image, target, told, lambda: resident(loader)) == 0, name


def test_links_do_not_lead_out(tree: Path, tmp_path: Path) -> None:
    """The host's file of the same name is not what is read; that of the image is."""
    outside = tmp_path / "outside"
    outside.write_bytes(bytes(BIG))
    mine = tree / str(outside).lstrip("/")
    mine.parent.mkdir(parents=True)
    shutil.copy(tree / "usr/bin/tool", mine)
    (tree / "usr/bin/absolute").symlink_to(outside)
    (tree / "usr/bin/up").symlink_to("../../../../../../../../usr/bin/absolute")
    image, target = made.mksquashfs(tree, tmp_path / "image"), tmp_path / "target"
    there = target / str(outside).lstrip("/")
    for name in ("absolute", "up"):
        told = words(name, "/bin", f"{outside}")
        assert least_read(image, target, told, [there]) >= READ


def test_process_that_prefetches_is_confined(tree: Path, tmp_path: Path) -> None:
    image = made.mksquashfs(tree, tmp_path / "image")

    def make(holder: int) -> squashfs.Begun:
        fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        return squashfs.Begun(fd, 0, squashfs.find_server(), holder)

    def case() -> dict[str, str]:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        begun = begin("outside", "single", make)
        begun.mount()
        server = begun._server
        assert server is not None
        deadline = time.monotonic() + SECONDS
        while True:
            for other in askers():
                lines = Path(f"/proc/{other}/status").read_text().splitlines()
                seen = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
                if other != server.pid and seen["Seccomp"] == "2":
                    begun.close()
                    return seen
            assert time.monotonic() < deadline
            time.sleep(0.005)

    seen = in_a_fork(case)
    sets = [int(seen[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")]
    assert sets == [0, 0, 0, 0, 0]
    assert seen["NoNewPrivs"] == "1"


def test_prefetch_ends_with_its_server(tree: Path, tmp_path: Path) -> None:
    """Whatever of the two ends first: the program that serves, or who was to tell."""
    image = made.mksquashfs(tree, tmp_path / "image")

    def make(holder: int) -> squashfs.Begun:
        fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        return squashfs.Begun(fd, 0, squashfs.find_server(), holder)

    def case() -> list[int]:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        ends = []
        for told in (b"", words("tool")):
            begun = begin("outside", "single", make)
            begun.mount()
            server = begun._server
            assert server is not None
            while len(askers()) < 2:
                time.sleep(0.001)
            begun.prefetch(told)
            begun.close()
            ends += [os.waitpid(other, 0)[1] for other in askers()]
        return ends

    # Killed with the program it may be by nobody: it sees the end of what it waits for.
    ends = in_a_fork(case)
    assert set(ends) == {0}, ends
