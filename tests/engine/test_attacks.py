"""Hostile images and containers against the whole product: docs/security.md.

Security classes 15, 18, 20, 24 to 29, 34, 35, 37, 39 and 42 to 45.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.lib.compiled import static_program
from tests.lib.images import Entry, Fifo, File, Image, Link, busybox_layer, layer
from tests.lib.product import Product, probe_image, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def hostile(rless: Product, name: str, entries: dict[str, Entry | str], **config: object) -> str:
    """Return the reference of busybox with a hostile layer on top."""
    return rless.add_image(
        name, Image([busybox_layer(), layer(entries)], {"Env": ["PATH=/bin"], **config})
    )


# -- 24: the interpreter of the host -------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "/proc/self/exe",
        "/script",
        "/link",
        "/proc/1/exe",
        "/proc/self/fd/3",
        "/proc/thread-self/exe",
    ],
)
def test_container_cannot_execute_the_interpreter(rless: Product, command: str) -> None:
    """CVE-2019-5736: the program of the runtime itself as the entry point."""
    image = hostile(rless, "exe", {
        "script": File("#!/proc/self/exe\n", mode=0o755), "link": Link("/proc/self/exe"),
    })  # fmt: skip
    done = rless.run("", command, "-c", "print('python ' * 2)", image=image)
    assert done.code in (126, 127), done
    assert "python python" not in done.out


def test_host_image_cannot_execute_the_interpreter(rless: Product, tmp_path: Path) -> None:
    """In `host:` it would find its loader and its modules."""
    script = tmp_path / "script"
    script.write_text("#!/proc/self/exe\nprint('python ' * 2)\n")
    script.chmod(0o755)
    (tmp_path / "link").symlink_to("/proc/self/exe")
    for command in (["/proc/self/exe", "-c", "print('python ' * 2)"], ["/mnt/script"],
                    ["/mnt/link", "-c", "print('python ' * 2)"]):  # fmt: skip
        done = rless.run(["-v", f"{tmp_path}:/mnt"], *command, image="host:").expect(126)
        assert "leads to the program" in done.one_line_error()
        assert not done.out


def test_container_processes_show_no_program_of_the_host(rless: Product) -> None:
    rless.detach("watch", "--cap-add=SYS_PTRACE", "sleep", "60")
    script = "for p in /proc/[0-9]*; do readlink $p/exe; done"
    done = rless.sh(script, "--pid=container:watch", "--cap-add=SYS_PTRACE")
    assert set(done.lines()) == {"/bin/busybox"}
    rless("rm", "-f", "watch").expect()


def test_joining_process_cannot_be_inspected(rless: Product) -> None:
    """Class 35: the init of a second container in the pid namespace of a hostile first one."""
    spy = """
        while :; do for p in /proc/[0-9]*; do
            case $(cat $p/cmdline 2>/dev/null | tr '\\0' ' ') in *rootle[s]s*|*[r]less:*init*)
                cat $p/environ 2>/dev/null | tr '\\0' '\\n' | grep RLESS
                readlink $p/exe | grep -i python; readlink $p/cwd | grep -v '^/$'
                ls -l $p/fd 2>/dev/null | grep -o '> .*'
                echo saw ;; esac; done; done
    """
    rless.detach("spy", "--cap-add=SYS_PTRACE", "sh", "-c", spy)
    for _ in range(5):
        rless.sh("true", "--pid=container:spy", "-e", "TOKEN=rootless")
    seen = set(rless("logs", "spy").expect().lines())
    # Within execve, from when it has the new memory until it has closed them, the kernel shows who
    # has CAP_SYS_PTRACE the descriptors of init: 0 to 2, and the pipes by which it has started.
    harmless = ("> pipe:[", "> /dev/null")
    assert {line for line in seen if not line.startswith(harmless)} <= {"saw"}, seen
    rless("rm", "-f", "spy").expect()


# -- 25: descriptors and the working directory ---------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [f"/proc/self/fd/{number}" for number in range(3, 12)] + ["/proc/self/cwd", "/proc/1/root"],
)
def test_workdir_through_proc_does_not_lead_out(rless: Product, path: str) -> None:
    """CVE-2024-21626."""
    done = rless.run(["-w", path], "sh", "-c", "pwd; cat ../../../../etc/hostname")
    host = Path("/etc/hostname").read_text()
    assert host not in done.out
    if done.code == 0:
        assert done.lines()[0].startswith("/")
    image = hostile(rless, "fd", {"w": Link(path)}, WorkingDir="/w")
    done = rless.run("", "sh", "-c", "pwd; cat ../../../../etc/hostname", image=image)
    assert host not in done.out


# -- 26: targets through links -------------------------------------------------------------------


def test_mount_targets_do_not_follow_links_out(rless: Product, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("data\n")
    image = hostile(rless, "targets", {
        "absolute": Link(str(outside)),
        "dotdot": Link("../../../../../../../../../.." + str(outside)),
        "magic": Link("/proc/self/root/" + str(outside)),
    })  # fmt: skip
    for name in ("absolute", "dotdot"):
        done = rless.sh(f"cat {outside}/sub/file", "-v", f"{data}:/{name}/sub", image=image)
        assert done.out == "data\n", name
        assert not list(outside.iterdir())
    rless.run(["-v", f"{data}:/magic/sub"], "true", image=image).expect(125)
    assert not list(outside.iterdir())


def test_mounts_into_proc_and_sys_are_refused(rless: Product, tmp_path: Path) -> None:
    image = hostile(rless, "procs", {"p": Link("/proc"), "s": Link("/proc/self/attr")})
    for target in ("/proc/self/attr", "/proc/sys", "/p/sys/kernel", "/proc/1", "/s"):
        done = rless.run(["-v", f"{tmp_path}:{target}"], "true", image=image)
        assert done.code == 125, (target, done)
        done.one_line_error()


# -- 27: /dev ------------------------------------------------------------------------------------


def test_dev_of_the_image_is_not_used(rless: Product, tmp_path: Path) -> None:
    image = hostile(rless, "dev", {"dev": Link("/etc"), "proc": Link("/tmp"), "sys": Link("/root")})
    done = rless.run(
        "", "sh", "-c", "stat -c '%F' /dev/null; mount | grep -c ' /proc'", image=image
    )
    # Refused, or mounted where the link leads inside: never a device or a file of the image.
    if done.code == 0:
        assert done.lines()[0] == "character special file"
    image = hostile(
        rless,
        "null",
        {
            "dev/null": File("mine"),
            "dev/pts": Link("/etc"),
            "dev/console": Link("/etc/passwd"),
            "dev/ptmx": Fifo(),
        },
    )
    done = rless.run(
        "-t", "sh", "-c", "stat -c '%t:%T' /dev/null; tty; wc -c </proc/keys", image=image
    )
    assert done.expect().lines() == ["1:3", "/dev/pts/0", "0"]


# -- 29: the files that we write -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["absolute", "dotdot", "dangling", "fifo", "directory link"])
def test_generated_files_do_not_follow_links_out(rless: Product, tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched\n")
    if kind == "directory link":
        entries: dict[str, Entry | str] = {"etc": Link(str(tmp_path))}
    else:
        target: Entry = Fifo()
        if kind != "fifo":
            target = Link({"absolute": str(victim), "dangling": str(tmp_path / "new"),
                           "dotdot": "../../../../../../.." + str(victim)}[kind])  # fmt: skip
        entries = {f"etc/{name}": target for name in ("hosts", "hostname", "resolv.conf", "mtab")}
    # A layer of its own at the bottom, so that no etc of busybox is in the way.
    image = rless.add_image(
        f"etc-{kind.replace(' ', '-')}",
        Image([busybox_layer(), layer({".wh.etc": ""}), layer(entries)], {"Env": ["PATH=/bin"]}),
    )
    done = rless.run("--add-host evil:1.2.3.4", "cat", "/etc/hosts", image=image)
    assert victim.read_text() == "untouched\n"
    assert sorted(os.listdir(tmp_path)) == ["victim"]
    if done.code == 0:
        assert "localhost" in done.out


def test_names_cannot_inject_lines(rless: Product) -> None:
    for flags in (["--hostname", "a\nb"], ["--add-host", "a\nb:1.2.3.4"], ["--dns", "1.1.1.1\nx"],
                  ["--dns-search", "a\nb"], ["-e", "A=\0"]):  # fmt: skip
        if "\0" in flags[1]:
            continue  # execve cannot even pass that
        done = rless.run(flags, "true").expect(125)
        done.one_line_error()


# -- 18: volumes of the image --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["absolute", "dotdot", "parent", "magic"])
def test_volume_copies_nothing_of_the_host(rless: Product, tmp_path: Path, how: str) -> None:
    """CVE-2022-23648."""
    (tmp_path / "secret").write_text("secret\n")
    link, target = {
        "absolute": (str(tmp_path), "/v"),
        "dotdot": (f"../../../../../../../..{tmp_path}", "/v"),
        "parent": (str(tmp_path.parent), f"/v/{tmp_path.name}"),
        "magic": (f"/proc/self/root{tmp_path}", "/v"),
    }[how]
    image = hostile(rless, f"volume-{how}", {"v": Link(link)}, Volumes={target: {}})
    done = rless.run("", "ls", f"{target}/", image=image)
    assert "secret" not in done.out
    assert done.code == (125 if how == "magic" else 0)
    assert os.listdir(tmp_path) == ["secret"]


@pytest.mark.parametrize(
    "target",
    ["/", "/proc", "/sys", "/dev", "/proc/sys", "relative", "/a/../proc", "//", "/x/../.."],
)
def test_image_volume_on_a_reserved_path_is_refused(rless: Product, target: str) -> None:
    image = hostile(rless, "bad-volume", {}, Volumes={target: {}})
    done = rless.run("", "true", image=image).expect(125)
    assert "volume" in done.one_line_error()


# -- 12, 15, 20: metadata ------------------------------------------------------------------------


def test_image_metadata_of_wrong_types_is_refused(rless: Product, tmp_path: Path) -> None:
    configs: list[dict[str, object]] = [
        {"Env": "PATH=/bin"},
        {"Env": [1]},
        {"Cmd": {"a": 1}},
        {"Cmd": [None]},
        {"User": 7},
        {"WorkingDir": ["x"]},
        {"Labels": ["x"]},
        {"Entrypoint": [["x"]]},
        {"Volumes": ["/x"]},
        {"StopSignal": 9},
        {"User": "\x1b[2J"},
        {"StopSignal": "NO\nSUCH"},
        {"StopSignal": "\u00b2"},
        {"WorkingDir": "a\0b"},
    ]
    for number, config in enumerate(configs):
        image = Image([busybox_layer()], {"Cmd": ["/bin/true"], **config})
        done = rless.run("", image=rless.add_image(f"type-{number}", image))
        if done.code:
            assert done.code in (125, 126, 127), (config, done)
            assert "internal error" not in done.one_line_error(), (config, done)
        assert "\x1b" not in done.err


def test_control_characters_of_an_image_are_escaped(rless: Product) -> None:
    image = hostile(rless, "escape", {}, Cmd=["/bin/\x1b[2Jno\x9b\nmore"], Labels={"a": "\x1b[2J"})
    done = rless.run("", image=image).expect(127)
    assert "\\x1b" in done.one_line_error()
    rless(
        "run", "-d", "--name", "esc", "--network=none", image, "sh", "-c", ": \x1b[2J; sleep 60"
    ).expect()
    assert "\x1b" not in rless("ps", "--no-trunc").expect().out
    rless("rm", "-f", "esc").expect()


# -- 34, 43: secrets -----------------------------------------------------------------------------


def test_secrets_are_in_no_command_line(rless: Product, tmp_path: Path) -> None:
    """Class 43: -e by name, by file, and as it was typed, for as long as rless stays."""
    env_file = tmp_path / "env"
    env_file.write_text("FILE_SECRET=hunter3\n")
    process = rless.start(
        "run",
        "--rm",
        "--name=shown",
        "--network=none",
        "-e",
        "SECRET",
        "-e",
        "TYPED=hunter5",
        "--env=LONG=hunter6",
        "-eSHORT=hunter7",
        "--env-file",
        str(env_file),
        rless.image,
        "sh",
        "-c",
        "echo $SECRET $TYPED $LONG $SHORT; sleep 60",
        env={"SECRET": "hunter2"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"hunter2 hunter5 hunter6 hunter7\n"
    words = ("-e", "TYPED=hunter8", "shown", "sh", "-c", "echo $TYPED; sleep 60")
    other = rless.start("exec", *words)
    assert other.stdout is not None
    assert other.stdout.readline() == b"hunter8\n"
    # A container that outlives its command keeps nothing of the command line either.
    rless.detach("monitored", "-e TYPED=hunter4", "sleep", "60")
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            assert b"hunter" not in line, line
    assert "rless: monitor of" in str(rless.processes())
    # Else they are as they were typed.
    begin = (
        b"run\0--rm\0--name=\0--network=\0-e\0SECRET\0-e\0TYPED=\0--env=\0-eSHORT=\0--env-file\0"
    )
    assert begin in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    begin = b"rless\0exec\0-e\0TYPED=\0shown\0sh\0-c\0echo $TYPED; sleep 60\0"
    assert Path(f"/proc/{other.pid}/cmdline").read_bytes().startswith(begin)
    rless("rm", "-f", *rless.containers()).expect()
    for one in (process, other):
        one.wait(10)


def test_secrets_on_disk_are_private(rless: Product) -> None:
    rless.detach("secret", "-e SECRET=hunter2", "sleep", "60")
    config = rless.container() / "config.json"
    assert config.stat().st_mode & 0o077 == 0
    assert rless.storage.stat().st_mode & 0o077 == 0
    rless("rm", "-f", "secret").expect()


# keyctl(2), add_key(2)
_KEYCTL, _ADD_KEY = {"x86_64": (250, 248), "aarch64": (219, 217)}.get(os.uname().machine, (0, 0))
READ_SECRET = f"""
    id=$(grep SECRET /proc/keys | head -n 1 | cut -d ' ' -f 1)
    probe syscall {_KEYCTL} 11 0x$id 0 0
"""


def join_keyring_with_a_key(name: str = "rless-secret") -> None:
    """Join a new session keyring that has a key; in a child of the tests."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(_KEYCTL, 1, b"rless-test") > 0  # KEYCTL_JOIN_SESSION_KEYRING
    session = -3  # KEY_SPEC_SESSION_KEYRING
    assert libc.syscall(_ADD_KEY, b"user", name.encode(), b"hunter2", 7, session) > 0


@pytest.mark.needs("keyrings")
def test_session_keyring_is_not_inherited(rless: Product) -> None:
    """Class 34: the description of a key is seen by its owner anywhere; read it is by a session.

    Without a filter and masks; with them, even the description is out of reach.
    """
    program = static_program("tests/lib/probe.c")
    flags = ("--security-opt=systempaths=unconfined", "--security-opt=seccomp=unconfined")
    for number, more in enumerate((None, (), ("--user=1000", "--device=/dev/null"))):
        # Keys of sessions that have ended are still seen for a while.
        name = f"rless-secret-{os.getpid()}-{number}"
        script, join = READ_SECRET.replace("SECRET", name), partial(join_keyring_with_a_key, name)
        if more is None:
            words = ["sh", "-c", script.replace("probe", str(program))]
            mine = subprocess.run(words, preexec_fn=join, capture_output=True, text=True)
            assert mine.stdout.endswith(" ok\n"), mine  # the caller can read it
        else:
            done = rless.sh(script, *flags, *more, preexec_fn=join)
            assert done.out.endswith(" EACCES\n"), done
    assert "rless" not in rless.sh("cat /proc/keys", preexec_fn=join_keyring_with_a_key).out


# -- 39: recycled pids ---------------------------------------------------------------------------


def test_recycled_pid_is_not_signalled(rless: Product) -> None:
    """The entry names a process of ours that started at another time: it must survive."""
    rless.detach("reuse", "", "sleep", "60")
    live = rless.live / rless.containers()[0]
    entry = json.loads(live.read_text())
    real = dict(entry)
    victim = subprocess.Popen(["sleep", "60"])
    try:
        start = int(Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()[19])
        recycled = [victim.pid, start + 1]
        unheld = dict.fromkeys(("owner", "monitor", "init"), recycled)
        live.write_text(json.dumps({**entry, **unheld}))
        assert "not running" in rless("kill", "reuse").expect(1).one_line_error()
        rless("stop", "-t", "0", "reuse").expect()
        # Reconciling, too: all owners are said to be dead.
        dead = dict.fromkeys(("owner", "monitor", "init", "pasta"), recycled)
        live.write_text(json.dumps({**entry, **dead}))
        rless("ps", "-a").expect()
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
    for process in (real["init"], real["monitor"]):
        try:
            os.kill(process[0], 9)
        except (ProcessLookupError, PermissionError):
            pass
    wait_for(lambda: not rless.processes(), "the end")
    rless("rm", "-f", "reuse")


# -- 42: planted directories ---------------------------------------------------------------------


def test_planted_directories_are_refused(own_rless: Product, tmp_path: Path) -> None:
    rless = own_rless
    cases = []
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    cases.append({"RLESS_STORAGE": str(tmp_path / "open")})
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cases.append({"RLESS_STORAGE": str(tmp_path / "link")})
    (tmp_path / "file").touch()
    cases.append({"RLESS_STORAGE": str(tmp_path / "file")})
    cases.append({"RLESS_STORAGE": "/root/rless"})
    cases.append({"RLESS_STORAGE": "/usr"})
    for env in cases:
        done = rless.run("", "true", env=env).expect(125)
        assert env["RLESS_STORAGE"] in done.one_line_error()


def test_unsafe_state_directory_is_refused(own_rless: Product, tmp_path: Path) -> None:
    rless = own_rless
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide").chmod(0o777)
    for value in (None, "", "/nonexistent", str(tmp_path / "wide"), "/usr", "relative"):
        rless.run("", "true", env={"XDG_RUNTIME_DIR": value}).expect()
    assert os.listdir(tmp_path / "wide") == []
    # Ours, but something is planted where our directory goes:
    rless.live.rename(tmp_path / "old")
    rless.live.symlink_to(tmp_path / "wide")
    error = rless.run("", "true").expect(125).one_line_error()
    assert str(rless.live) in error
    rless.live.unlink()


def test_newuidmap_in_path_is_not_run(rless: Product, tmp_path: Path) -> None:
    """Class 44."""
    for name in ("newuidmap", "newgidmap", "fuse-overlayfs", "pasta"):
        planted = tmp_path / name
        planted.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        planted.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    rless.run("", "true", env=env).expect()
    assert not (tmp_path / "ran").exists()


def test_python_imports_nothing_from_the_callers_directory(rless: Product, tmp_path: Path) -> None:
    """Class 45."""
    for name in ("json.py", "site.py", "sitecustomize.py", "os.py", "rootless.py", "click.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    env = {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "site.py"),
           "PYTHONHOME": None, "LD_PRELOAD": None}  # fmt: skip
    rless.run("", "true", env=env, cwd=tmp_path).expect()
    rless("--help", env=env, cwd=tmp_path).expect()
    assert not (tmp_path / "ran").exists()
    image = probe_image(Env=["LD_PRELOAD=/evil.so", "PYTHONPATH=/evil", "PATH=/bin"])
    rless.run("", "true", image=rless.add_image("preload", image)).expect()
    assert sys.executable
