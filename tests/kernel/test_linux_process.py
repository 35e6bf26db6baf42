"""Capabilities, attributes and credentials of processes, read back from the kernel."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rootless.errors import RlessError, SyscallError
from rootless.linux import caps, idmap, ns, prctl, process, procfs, subid
from rootless.linux.idmap import IdMap
from rootless.linux.network import netlink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

needs_userns = pytest.mark.needs("user namespaces", "ordinary user")
ALL = (1 << 41) - 1


def in_child(function: Callable[[], Any]) -> Any:
    """Call a function in a forked child, which may change itself as it likes."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, json.dumps(function()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    assert text, "the child failed: see above"
    return json.loads(text)


def in_namespace(function: Callable[[], Any], namespaces: int = ns.CLONE_NEWNS) -> Any:
    """Call a function as root of a new user namespace with one id."""
    own = IdMap([(0, os.getuid(), 1)], [(0, os.getgid(), 1)], "single")
    return idmap.call_in_userns(own, function, namespaces=namespaces)


def status(key: str) -> str:
    """Return a field of /proc/self/status."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(line.split(":", 1)[1].strip() for line in file if line.startswith(key + ":"))


def sets() -> dict[str, int]:
    return {name: int(status(f"Cap{name}"), 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


def error_number(function: Callable[..., Any], *args: Any) -> int:
    try:
        function(*args)
    except SyscallError as error:
        return error.errno
    return 0


# -- capabilities --------------------------------------------------------------------------------


def test_capability_names_match_numbers() -> None:
    assert caps.NUMBERS["CAP_CHOWN"] == 0
    assert caps.NUMBERS["CAP_SYS_ADMIN"] == 21
    assert caps.NUMBERS["CAP_CHECKPOINT_RESTORE"] == 40
    assert caps.mask(["CAP_CHOWN", "CAP_SYS_ADMIN"]) == 1 | 1 << 21
    assert caps.mask([]) == 0
    with pytest.raises(KeyError):
        caps.mask(["CAP_NONSENSE"])


def test_last_capability_matches_the_kernel() -> None:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        assert caps.last_capability() == int(file.read())


@needs_userns
def test_capability_sets_are_set() -> None:
    """Each set as it was asked for: the high half (over 31) too."""
    wanted = caps.mask(["CAP_CHOWN", "CAP_SETPCAP", "CAP_SYSLOG", "CAP_BPF"])

    def inside() -> Any:
        caps.set_capabilities(wanted, wanted | 2, caps.mask(["CAP_BPF"]))
        return sets()

    found = in_namespace(inside)
    assert found["Eff"] == wanted
    assert found["Prm"] == wanted | 2
    assert found["Inh"] == caps.mask(["CAP_BPF"])


@needs_userns
def test_dropped_capabilities_cannot_be_regained() -> None:
    def inside() -> Any:
        caps.set_capabilities(0, 0, 0)
        return error_number(caps.set_capabilities, 1, 1, 0), sets()["Prm"]

    assert in_namespace(inside) == [errno.EPERM, 0]


@needs_userns
def test_bounding_set_is_reduced() -> None:
    net_raw = caps.NUMBERS["CAP_NET_RAW"]

    def inside() -> Any:
        before = prctl.read_bounding(net_raw)
        prctl.drop_bounding(net_raw)
        return before, prctl.read_bounding(net_raw), sets()["Bnd"] >> net_raw & 1

    assert in_namespace(inside) == [True, False, 0]
    assert error_number(prctl.read_bounding, 63) == errno.EINVAL
    assert error_number(prctl.drop_bounding, 5) in (errno.EPERM, 0)


@needs_userns
def test_ambient_set_is_set() -> None:
    chown = caps.NUMBERS["CAP_CHOWN"]

    def inside() -> Any:
        refused = error_number(prctl.raise_ambient, chown)  # it is not inheritable yet
        caps.set_capabilities(ALL & sets()["Prm"], sets()["Prm"], 1 << chown)
        prctl.raise_ambient(chown)
        raised = sets()["Amb"]
        prctl.clear_ambient()
        return refused, raised, sets()["Amb"]

    assert in_namespace(inside) == [errno.EPERM, 1 << chown, 0]


# -- prctl ---------------------------------------------------------------------------------------


def test_no_new_privs_is_set() -> None:
    def child() -> Any:
        before = prctl.has_no_new_privs(), status("NoNewPrivs")
        prctl.set_no_new_privs()
        return *before, prctl.has_no_new_privs(), status("NoNewPrivs")

    assert in_child(child) == [False, "0", True, "1"]
    assert not prctl.has_no_new_privs()


def test_dumpable_is_cleared() -> None:
    def child() -> Any:
        prctl.set_dumpable(False)
        hidden = os.stat("/proc/self/environ").st_uid
        before = prctl.get_dumpable()
        prctl.set_dumpable(True)
        return before, hidden, prctl.get_dumpable(), os.stat("/proc/self/environ").st_uid

    assert in_child(child) == [False, 0, True, os.getuid()]


def test_parent_death_signal_is_set() -> None:
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        if os.fork() == 0:
            prctl.set_parent_death_signal(signal.SIGKILL)
            os.write(writer, b"r")
            signal.pause()
            os._exit(0)
        signal.pause()
        os._exit(0)
    os.close(writer)
    assert os.read(reader, 1) == b"r"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(reader, 1) == b""  # the last writer is gone
    os.close(reader)


def test_child_subreaper_is_set() -> None:
    def child() -> Any:
        prctl.set_child_subreaper()
        reader, writer = os.pipe()
        middle = os.fork()
        if middle == 0:
            orphan = os.fork()
            if orphan == 0:
                os.read(reader, 1)
                os._exit(7)
            os.write(writer, orphan.to_bytes(4, "little"))
            os._exit(0)
        os.waitpid(middle, 0)
        os.write(writer, b"g")
        pid, code = os.waitpid(-1, 0)
        return pid > 0, os.waitstatus_to_exitcode(code)

    assert in_child(child) == [True, 7]


def test_keep_caps_is_set() -> None:
    def child() -> Any:
        prctl.set_keep_caps(True)
        return ctypes.CDLL(None).prctl(7, 0, 0, 0, 0)  # PR_GET_KEEPCAPS

    assert in_child(child) == 1


def test_session_keyring_is_new() -> None:
    """It works, or this kernel has no keys."""

    def child() -> Any:
        try:
            prctl.join_new_session_keyring()
        except SyscallError as error:
            return error.errno
        return 0

    assert in_child(child) in (0, errno.ENOSYS)


@needs_userns
def test_uts_names_are_set() -> None:
    def inside() -> Any:
        prctl.set_hostname("höst")
        prctl.set_domainname("example.org")
        with open("/proc/sys/kernel/domainname", encoding="ascii") as file:
            return (
                os.uname().nodename,
                file.read().strip(),
                error_number(prctl.set_hostname, "x" * 65),
            )

    result = in_namespace(inside, ns.CLONE_NEWNS | ns.CLONE_NEWUTS)
    assert result == ["höst", "example.org", errno.EINVAL]
    assert error_number(prctl.set_hostname, "x") == errno.EPERM


# -- credentials ---------------------------------------------------------------------------------


@pytest.mark.needs("user namespaces", "ordinary user", "subordinate ids", "newuidmap")
def test_set_ids_verifies_the_result() -> None:
    """Class 16: what was asked for is what came of it, and unmapped ids are refused."""
    uids, gids = subid.ranges("uid")[0], subid.ranges("gid")[0]
    full = IdMap(
        [(0, os.getuid(), 1), (1, uids[0], 100)], [(0, os.getgid(), 1), (1, gids[0], 100)], "full"
    )

    def inside() -> Any:
        refused = [
            error_number(process.set_ids, 101, 5, None),
            error_number(process.set_ids, 5, 101, None),
            error_number(process.set_ids, 5, 5, [101]),
        ]
        process.set_ids(5, 6, [7, 8])
        again = error_number(process.set_ids, 0, 0, None)
        return refused, os.getresuid(), os.getresgid(), sorted(os.getgroups()), again, sets()

    refused, uid, gid, groups, again, capabilities = idmap.call_in_userns(full, inside)
    assert refused == [errno.EINVAL] * 3
    assert uid == [5, 5, 5]
    assert gid == [6, 6, 6]
    assert groups == [7, 8]
    assert again == errno.EPERM
    assert capabilities["Eff"] == capabilities["Prm"] == 0


@needs_userns
def test_set_ids_can_leave_groups_alone() -> None:
    """With one id setgroups is denied: None leaves the groups alone."""

    def inside() -> Any:
        denied = error_number(process.set_ids, 0, 0, [0])
        process.set_ids(0, 0, None)
        return denied, os.getuid()

    assert in_namespace(inside) == [errno.EPERM, 0]


# -- processes and descriptors -------------------------------------------------------------------


def test_pidfd_signals_a_process() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    fd = process.pidfd_open(pid)
    assert not os.get_inheritable(fd)
    process.pidfd_send_signal(fd, 0)
    process.pidfd_send_signal(fd, signal.SIGTERM)
    assert os.waitpid(pid, 0)[1] == signal.SIGTERM
    assert error_number(process.pidfd_send_signal, fd, signal.SIGTERM) == errno.ESRCH
    os.close(fd)
    assert error_number(process.pidfd_open, pid) == errno.ESRCH


@pytest.mark.needs("ordinary user")
def test_pidfd_of_a_foreign_process_sends_no_signal() -> None:
    fd = process.pidfd_open(1)
    assert error_number(process.pidfd_send_signal, fd, 0) == errno.EPERM
    os.close(fd)


def test_start_time_distinguishes_recycled_pids() -> None:
    """Class 39: it tells two processes with the same number apart."""
    own = procfs.start_time(os.getpid())
    assert own is not None
    assert procfs.start_time(os.getpid()) == own
    now = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
    assert 0 < own <= now + 1
    time.sleep(0.03)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    child = procfs.start_time(pid)  # of a zombie too
    assert child is not None
    assert child > own
    os.waitpid(pid, 0)
    assert procfs.start_time(pid) is None


def test_start_time_survives_a_hostile_process_name(tmp_path: Path) -> None:
    def child() -> Any:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write(") R 1 2 3 (")
        return procfs.start_time(os.getpid())

    assert abs(in_child(child) - (procfs.start_time(os.getpid()) or 0)) < 10**6


def test_close_from_closes_descriptors() -> None:
    def child() -> Any:
        first = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        os.dup2(0, first, inheritable=True)
        os.dup2(0, first + 100, inheritable=True)
        process.close_from(first + 1)
        left = []
        for fd in (first, first + 100):
            try:
                os.fstat(fd)
                left.append(fd - first)
            except OSError:
                pass
        return left

    assert in_child(child) == [0]


def test_close_on_exec_from_marks_descriptors() -> None:
    """Class 25: what was inheritable is not any more, and still open until the exec."""

    def child() -> Any:
        first = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        for fd in (first, first + 1):
            os.dup2(0, fd, inheritable=True)
        process.close_on_exec_from(first + 1)
        return os.get_inheritable(first), os.get_inheritable(first + 1)

    assert in_child(child) == [True, False]


def test_getcwd_returns_the_directory(tmp_path: Path) -> None:
    def child() -> Any:
        os.chdir(tmp_path)
        return os.fsdecode(process.getcwd())

    assert in_child(child) == str(tmp_path)


def test_read_exactly_stops_at_the_end_of_file() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    os.write(writer, b"def")
    assert process.read_exactly(reader, 5) == b"abcde"
    os.close(writer)
    assert process.read_exactly(reader, 5) == b"f"
    os.close(reader)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("sigkill", 9),
        ("9", 9),
        ("RTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMIN", signal.SIGRTMIN),
        ("RTMIN+30", signal.SIGRTMAX),
    ],
)
def test_signal_number_accepts_names_and_numbers(name: str, number: int) -> None:
    assert process.signal_number(name) == number


@pytest.mark.parametrize(
    "name",
    [
        *"SIG 0 65 -9 NOPE _DFL DFL TERM+1 RTMIN+x RTMIN+ RTMIN+31 SIGSIGTERM".split(),
        *("", "9 ", "\u00b2", "RTMIN+\u00b2", "1" * 5000),
    ],
)
def test_unknown_signal_is_an_error(name: str) -> None:
    with pytest.raises(RlessError, match="is no signal"):
        process.signal_number(name)


# -- network -------------------------------------------------------------------------------------


def connects_to_itself(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as server, socket.socket(family) as client:
        try:
            server.bind(("::" if ":" in address else "0.0.0.0", 0))
            server.listen()
            client.settimeout(1)
            client.connect((address, server.getsockname()[1]))
        except OSError:
            return False
        return True


@needs_userns
def test_loopback_is_brought_up() -> None:
    def inside() -> Any:
        before = connects_to_itself("127.0.0.1")
        netlink.loopback_up()
        return before, connects_to_itself("127.0.0.1")

    assert in_namespace(inside, ns.CLONE_NEWNET) == [False, True]
    assert error_number(netlink.loopback_up) == errno.EPERM
