"""The default filter, loaded in the kernel: what a hostile program meets
(security classes 32 and 40).

Each refusal is asked twice, with the filter and without, so that a test that would pass
without its defence fails.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.linux import prctl
from rootless.linux.seccomp import FLAG_LOG, FLAG_SPEC_ALLOW, load_filter
from rootless.runtime import seccomp
from tests.lib.compiled import static_program

pytestmark = [pytest.mark.needs("libseccomp"), pytest.mark.needs("compiler")]

CAPS = ("CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_KILL")

# What each attempt of probe meets, and whether this must differ without the filter: some the
# kernel refuses an ordinary user by itself, with the same error.
REFUSED = {
    "unshare-user": ("EPERM", True),
    "unshare-net": ("EPERM", False),
    "setns": ("EPERM", True),
    "clone-user": ("EPERM", True),
    "clone3": ("ENOSYS", True),
    "tiocsti": ("EIO", True),
    "tiocsti-high": ("EIO", True),
    "tioclinux": ("EIO", True),
    "keyctl": ("EPERM", True),
    "add_key": ("EPERM", True),
    "request_key": ("EPERM", True),
    "bpf": ("EPERM", False),
    "userfaultfd": ("EPERM", False),
    "io_uring": ("EPERM", False),
    "perf": ("EPERM", False),
    "vsock": ("EPERM", True),
    "vsock-high": ("EPERM", True),
    "alg": ("EPERM", True),
    "audit": ("EINVAL", True),
    "audit-high": ("EINVAL", True),
    "mount": ("EPERM", False),
    "kexec": ("EPERM", False),
    "open-by-handle": ("EPERM", False),
    "personality": ("EPERM", True),
    "unknown": ("ENOSYS", False),
    "x32-getpid": ("ENOSYS", False),
    "i386-unshare": ("EPERM", True),
    "i386-keyctl": ("EPERM", True),
    "i386-tiocsti": ("EIO", True),
    "i386-vsock": ("EPERM", True),
    "i386-audit": ("EINVAL", True),
    "i386-socketcall-vsock": ("ENOSYS", True),
    "i386-unknown": ("ENOSYS", False),
}
ALLOWED = ("ptrace", "socket", "netlink", "i386-getpid", "i386-socket")


def in_child(action: Callable[[], None], stdin: int | None = None) -> tuple[int, str]:
    """Run an action in a forked child; return its wait status and what it printed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(write, 1)
            os.dup2(write, 2)
            os.dup2(os.open("/dev/null", os.O_RDWR) if stdin is None else stdin, 0)
            os.closerange(3, 256)
            action()
            os._exit(0)
        except RlessError as error:
            os.write(1, f"{type(error).__name__} {getattr(error, 'errno', None)}".encode())
        except BaseException as error:
            os.write(1, repr(error).encode())
        finally:
            os._exit(9)
    os.close(write)
    with open(read, encoding="utf-8", errors="replace") as output:
        text = output.read()
    return os.waitpid(pid, 0)[1], text


def probe(bpf: bytes | None, *words: str, stdin: int | None = None) -> str:
    program = str(static_program("tests/lib/probe.c"))

    def action() -> None:
        if bpf is not None:
            prctl.set_no_new_privs()
            load_filter(bpf, FLAG_SPEC_ALLOW)
        os.execv(program, [program, *words])

    status, text = in_child(action, stdin)
    assert status == 0, (os.waitstatus_to_exitcode(status), text)
    return text


# By other tests: they depend on capabilities and on what the engine adds to the profile.
JUDGED_ELSEWHERE = {
    *("mknod", "packet", "packet-old", "packet-bypass", "raw", "xdp"),
    "i386-socketcall-setsockopt",
}


def attempts(bpf: bytes | None) -> dict[str, str]:
    lines = probe(bpf, "try-all").splitlines()
    return {name.removeprefix("try-"): said for name, said in (line.split() for line in lines)}


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return seccomp.default_filter(CAPS, str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def filtered(default: bytes) -> dict[str, str]:
    return attempts(default)


@pytest.fixture(scope="module")
def unfiltered() -> dict[str, str]:
    return attempts(None)


@pytest.mark.needs("ordinary user")
@pytest.mark.needs("x86_64")
@pytest.mark.parametrize("attempt", REFUSED)
def test_dangerous_calls_are_refused(
    filtered: dict[str, str], unfiltered: dict[str, str], attempt: str
) -> None:
    expected, must_differ = REFUSED[attempt]
    if attempt.startswith("i386-") and unfiltered["i386-getpid"] != "ok":
        return  # a kernel without 32-bit programs
    assert filtered[attempt] == expected
    if must_differ:
        assert unfiltered[attempt] != expected, "the kernel refuses it by itself"


@pytest.mark.needs("x86_64")
@pytest.mark.parametrize("attempt", ALLOWED)
def test_ordinary_calls_are_allowed(
    filtered: dict[str, str], unfiltered: dict[str, str], attempt: str
) -> None:
    assert filtered[attempt] == unfiltered[attempt]
    if not attempt.startswith("i386-"):
        assert filtered[attempt] == "ok"


def test_every_attempt_has_an_expected_result(unfiltered: dict[str, str]) -> None:
    assert set(unfiltered) == set(REFUSED) | set(ALLOWED) | JUDGED_ELSEWHERE


def test_filter_is_active(default: bytes) -> None:
    facts = probe(default, "seccomp", ",", "caps")
    assert "seccomp 2\n" in facts
    assert "no_new_privs 1\n" in facts
    assert "seccomp 0\n" in probe(None, "seccomp")


def test_ordinary_programs_work(default: bytes) -> None:
    """Start threads, pipes, a shell: what a container does all day."""
    script = "a=$(echo hello | cat); test $a = hello && sleep 0 && ls /proc/self/ >/dev/null"
    code = (
        "import threading, socket, subprocess, tempfile\n"
        "t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
        "socket.socketpair(); socket.socket(); tempfile.TemporaryFile()\n"
        f"subprocess.run(['/bin/sh', '-c', {script!r}], check=True)\n"
    )

    def action() -> None:
        prctl.set_no_new_privs()
        load_filter(default)
        os.execv("/usr/bin/python3", ["python3", "-I", "-c", code])

    assert in_child(action) == (0, "thread\n")


def test_typing_into_a_terminal_is_refused(default: bytes) -> None:
    """The real thing: a controlling terminal, where TIOCSTI would reach the user's shell."""
    program = str(static_program("tests/lib/probe.c"))
    if Path("/proc/sys/dev/tty/legacy_tiocsti").exists():
        open_door = Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip() == "1"
    else:
        open_door = True  # before Linux 6.2 there was no way to shut it

    def say(bpf: bytes | None) -> str:
        master, slave = pty.openpty()

        def action() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            if bpf is not None:
                prctl.set_no_new_privs()
                load_filter(bpf)
            os.execv(program, [program, "try-tiocsti", ",", "try-tiocsti-high"])

        status, text = in_child(action, slave)
        os.close(master)
        os.close(slave)
        assert status == 0
        return text

    assert say(default) == "try-tiocsti EIO\ntry-tiocsti-high EIO\n"
    if open_door:
        assert say(None) == "try-tiocsti ok\ntry-tiocsti-high ok\n"


@pytest.mark.needs("user namespaces")
@pytest.mark.needs("ordinary user")
def test_nested_user_namespaces_can_be_allowed(tmp_path: Path) -> None:
    nested = attempts(seccomp.default_filter(CAPS, str(tmp_path), allow_nested_userns=True))
    assert nested["unshare-user"] == nested["clone-user"] == nested["clone3"] == "ok"
    assert nested["keyctl"] == "EPERM"
    assert nested["tiocsti"] == "EIO"


@pytest.mark.needs("x86_64")
def test_socketcall_can_be_allowed_for_32_bit_programs(
    tmp_path: Path, unfiltered: dict[str, str]
) -> None:
    open_one = attempts(seccomp.default_filter(CAPS, str(tmp_path), socketcall=True))
    assert open_one["i386-socketcall-vsock"] == unfiltered["i386-socketcall-vsock"]
    assert open_one["i386-vsock"] in ("EPERM", unfiltered["i386-getpid"])


@pytest.mark.needs("ordinary user")
def test_filter_without_no_new_privs_is_an_error(default: bytes) -> None:
    status, text = in_child(lambda: load_filter(default))
    assert status != 0
    assert text == f"SyscallError {errno.EACCES}"


def test_bad_programs_and_flags_are_errors(default: bytes) -> None:
    def load(bpf: bytes, flags: int = 0) -> str:
        def action() -> None:
            prctl.set_no_new_privs()
            load_filter(bpf, flags)

        status, text = in_child(action)
        return text if status else "loaded"

    assert load(default) == load(default, FLAG_SPEC_ALLOW) == load(default, FLAG_LOG) == "loaded"
    assert load(b"") == load(default[:-1]) == load(b"\0" * 8 * 4097) == "RlessError None"
    assert load(b"\xff" * 8) == f"SyscallError {errno.EINVAL}"
    assert load(default[: 8 * 100]) == f"SyscallError {errno.EINVAL}"  # no return at its end
    assert load(default, 1 << 30) == f"SyscallError {errno.EINVAL}"


def test_loading_imports_nothing(default: bytes) -> None:
    """After the root has changed there are no modules to import."""

    def action() -> None:
        import sys

        prctl.set_no_new_privs()
        before = set(sys.modules)
        sys.path[:] = []
        sys.meta_path[:] = []
        load_filter(default, FLAG_SPEC_ALLOW)
        assert set(sys.modules) == before

    assert in_child(action) == (0, "")


def test_custom_profile_can_kill() -> None:
    bpf = seccomp.compile_filter(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_KILL_PROCESS"}],
        }
    )

    def action() -> None:
        prctl.set_no_new_privs()
        load_filter(bpf)
        os.getppid()

    status, _ = in_child(action)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == 31  # SIGSYS
