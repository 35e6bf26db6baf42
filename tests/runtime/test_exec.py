"""`runtime.host.exec`, apart from the product, which is tested in tests/engine."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rootless.engine.attach.detach_keys import Keys, parse
from rootless.errors import RlessError
from rootless.linux.cgroup import membership
from rootless.linux.procfs import start_time
from rootless.runtime.host import exec as runtime
from rootless.runtime.inside import process
from tests.lib.compiled import ROOT

# -- programs that are held (class 24) -----------------------------------------------------------


def program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def execute(held: process.Held) -> str:
    """Execute it in a child; return what it printed, or the name of the error."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writer, 1)
            held.execute({"PATH": "/bin:/usr/bin"})
        except OSError as error:
            os.write(writer, errno.errorcode[error.errno or 0].encode())
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return text


def test_scripts_and_links_are_executed(tmp_path: Path) -> None:
    script = program(tmp_path / "script", "#!/bin/sh -e\necho $0 $* $-\n")
    (tmp_path / "link").symlink_to("script")
    (tmp_path / "far").symlink_to(tmp_path / "link")
    assert execute(process.Held(script, [script, "a b"])).split()[:3] == [script, "a", "b"]
    far = str(tmp_path / "far")
    assert execute(process.Held(far, ["far"])).split()[0] == far
    second = program(tmp_path / "second", f"#!{script}  x y \n")
    assert execute(process.Held(second, ["second"])).split()[:4] == [script, "x", "y", second]
    assert execute(process.Held("/bin/echo", ["/bin/echo", "hello"])) == "hello\n"


def test_unusable_programs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="ymbolic") as caught:
        process.Held(str(tmp_path / "circle"), ["x"])
    assert caught.value.errno == errno.ELOOP
    loop = program(tmp_path / "loop", f"#!{tmp_path}/loop\n")
    with pytest.raises(OSError, match="ymbolic"):
        process.Held(loop, ["loop"])
    with pytest.raises(FileNotFoundError):
        process.Held(str(tmp_path / "none"), ["x"])


def test_program_exchanged_after_the_check_is_not_followed(tmp_path: Path) -> None:
    """The race of CVE-2019-5736 in a container that runs: link or script, nothing is followed."""
    path = tmp_path / "program"
    path.write_bytes(Path("/bin/echo").read_bytes())
    path.chmod(0o755)
    held = process.Held(str(path), ["program", "hello"])
    assert execute(held) == "hello\n"
    path.unlink()
    path.symlink_to("/proc/self/exe")
    assert execute(held) == "ELOOP"
    path.unlink()
    program(path, "#!/proc/self/exe\nprint('python')\n")
    assert execute(held) == "ENOENT"
    # By its path it would be the interpreter that runs this test.
    done = subprocess.run([str(path)], capture_output=True, text=True)
    assert done.stdout == "python\n"


def test_magic_link_is_read_as_text() -> None:
    target = os.readlink("/proc/self/exe")
    held = process.Held("/proc/self/exe", ["x"])
    assert (held.name, os.readlink(f"/proc/self/fd/{held.dir_fd}")) == (
        os.path.basename(os.path.realpath(target)),
        os.path.dirname(os.path.realpath(target)),
    )


# -- the container's first process (class 39) ----------------------------------------------------


def test_recycled_pid_is_refused() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        start = start_time(child.pid)
        assert start is not None
        with pytest.raises(RlessError, match="has ended") as caught:
            runtime.Init(child.pid, start + 1)
        assert caught.value.exit_code == 1
        # It is in our own namespaces: no container.
        with pytest.raises(RlessError, match="has ended"):
            runtime.Init(child.pid, start)
    finally:
        child.kill()
        child.wait()
    with pytest.raises(RlessError, match="has ended"):
        runtime.Init(child.pid, start)


def test_recycled_pid_in_other_namespaces_is_refused() -> None:
    """As a container's is: nothing else tells that its number was used again."""
    child = subprocess.Popen(["unshare", "--user", "sleep", "60"])
    try:
        start = start_time(child.pid)
        assert start is not None
        own = os.readlink("/proc/self/ns/user")
        while os.readlink(f"/proc/{child.pid}/ns/user") == own:
            assert child.poll() is None
        runtime.Init(child.pid, start).close()
        with pytest.raises(RlessError, match="has ended"):
            runtime.Init(child.pid, start + 1)
    finally:
        child.kill()
        child.wait()


# -- the import barrier --------------------------------------------------------------------------


def test_nothing_is_imported_after_the_fork() -> None:
    """Once inside, files on sys.path are the image's: every step has its modules already."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from rootless.runtime.host import exec as runtime
seen = []
class Watch:
    def find_spec(self, name, path=None, target=None):
        seen.append(name)
runtime.forbid_imports()
sys.meta_path.append(Watch())
class Init:
    pidfd, namespaces, shares_pids = -1, 0, False
entrant = runtime.Entrant({{"args": ["/bin/true"], "cwd": "/", "env": []}}, init=Init(),
    cgroup=None, limited=False, oom_score=None, complete=None, console_fd=-1,
    seccomp_filter=None, seccomp_flags=0, stdio=None, status_fd=-1, keep_fds=())
for step in (entrant.hide, entrant.enter_cgroup, entrant.become_known, entrant.make_terminal):
    step()
assert not seen, seen
"""
    subprocess.run([sys.executable, "-B", "-c", code], check=True, timeout=30)


# -- the keys to detach --------------------------------------------------------------------------


def test_detach_keys_are_parsed() -> None:
    assert parse("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse("ctrl-@,a,ctrl-_") == b"\0a\x1f"
    assert parse("") == b""
    for text in ("ctrl-1", "ab", "ctrl-", "a,,b", "ctrl-é"):
        with pytest.raises(RlessError, match="is not a key"):
            parse(text)


@pytest.mark.parametrize(
    ("typed", "passed", "detached"),
    [
        ([b"abc"], b"abc", False),
        ([b"a\x10\x11b"], b"a", True),
        ([b"a\x10", b"\x11"], b"a", True),
        ([b"\x10", b"x"], b"\x10x", False),
        ([b"\x10", b"\x10", b"\x11"], b"\x10", True),
        ([b"\x10\x10\x10x"], b"\x10\x10\x10x", False),
    ],
)
def test_detach_keys_are_held_back(typed: list[bytes], passed: bytes, detached: bool) -> None:
    keys = Keys(None)
    assert b"".join(map(keys.feed, typed)) == passed
    assert keys.typed is detached


# -- the control group ---------------------------------------------------------------------------


def entrant(cgroup: Path, limited: bool) -> runtime.Entrant:
    class Held:
        pidfd, namespaces, shares_pids = -1, 0, False

    return runtime.Entrant(
        {"args": ["/bin/true"], "cwd": "/", "env": []},
        init=Held(),  # type: ignore[arg-type]
        cgroup=str(cgroup),
        limited=limited,
        oom_score=None,
        complete=None,
        console_fd=-1,
        seccomp_filter=None,
        seccomp_flags=0,
        stdio=None,
        status_fd=-1,
        keep_fds=(),
    )


def where_born(one: runtime.Entrant) -> str:
    """Fork the joiner of an entrant; return the cgroup that it begins in."""
    reader, writer = os.pipe()
    pid = one.fork_joiner()
    if pid == 0:
        try:
            os.write(writer, membership().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as stream:
        found = stream.read()
    os.waitpid(pid, 0)
    return found


@pytest.mark.needs("delegated cgroup")
def test_joiner_is_born_in_the_cgroup() -> None:
    """A process that moves there waits for an RCU grace period."""
    group = Path(os.environ["RLESS_TEST_CGROUP"]) / f"born-{os.getpid()}"
    group.mkdir()
    try:
        one = entrant(group, limited=True)
        assert where_born(one).endswith(f"/{group.name}")
        # Then nobody moves: what would be written to is not there.
        one.cgroup = "/nowhere"
        one.enter_cgroup()
    finally:
        group.rmdir()


def test_joiner_moves_where_it_cannot_be_born(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("")
    one = entrant(tmp_path, limited=True)
    assert where_born(one) == membership()
    one.enter_cgroup()
    assert (tmp_path / "cgroup.procs").read_text() == "0"


def test_failed_cgroup_entry_is_an_error_only_with_limits(tmp_path: Path) -> None:
    """From a session that may not enter the group: no limit, no refusal."""
    entrant(tmp_path / "gone", limited=False).enter_cgroup()
    with pytest.raises(RlessError, match="control group: No such file"):
        entrant(tmp_path / "gone", limited=True).enter_cgroup()
