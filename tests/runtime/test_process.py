"""rootless/runtime/inside/process.py: directory, limits, program (security classes 24 and 25)."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lib.bundle import ENVIRONMENT, Bundle

pytestmark = pytest.mark.needs("compiler", "user namespaces")


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("/nothing", 127, "no such file or directory in the container"),
        ("nothing", 127, "executable file not found in $PATH"),
        ("/probe/x", 127, "no such file or directory in the container"),
        ("", 127, "the command is empty"),
        ("/directory", 126, "it is a directory"),
        ("/", 126, "it is a directory"),
        ("/plain", 126, "permission denied"),
        ("plain", 126, "permission denied"),
        ("/script", 127, "its interpreter or loader is not in the image"),
        ("/dynamic", 127, "its interpreter or loader is not in the image"),
        ("/text", 126, "Exec format error"),
        ("/circle", 126, "Too many levels of symbolic links"),
        ("/" + "x" * 300, 126, "File name too long"),
        ("/\x1b[31mred", 127, "\\x1b[31mred: no such file"),
    ],
)
def test_unusable_programs_are_reported(bundle: Bundle, program: str, code: int, says: str) -> None:
    (bundle.rootfs / "bin").mkdir()
    (bundle.rootfs / "directory").mkdir()
    for name in ("plain", "bin/plain"):
        (bundle.rootfs / name).write_text("x")
    (bundle.rootfs / "script").write_text("#!/no/such/interpreter\n")
    (bundle.rootfs / "text").write_text("neither script nor program\n")
    shutil.copy("/bin/sleep", bundle.rootfs / "dynamic")
    for name in ("script", "text", "dynamic"):
        (bundle.rootfs / name).chmod(0o755)
    (bundle.rootfs / "circle").symlink_to("circle")
    bundle.process["args"] = [program]
    assert says in bundle.fails(code=code)


def test_directory_on_the_path_is_skipped(bundle: Bundle) -> None:
    (bundle.rootfs / "one/own").mkdir(parents=True)
    (bundle.rootfs / "two").mkdir()
    (bundle.rootfs / "probe").rename(bundle.rootfs / "two/own")
    bundle.process["env"] = ["PATH=/one:/two"]
    bundle.process["args"] = ["own", "exit", "3"]
    assert bundle.run().code == 3


def test_execute_only_programs_run(bundle: Bundle) -> None:
    (bundle.rootfs / "probe").chmod(0o111)
    bundle.run("id").expect()


def test_overlong_arguments_are_reported(bundle: Bundle) -> None:
    bundle.process["args"] = ["/probe", "args", "x" * 200_000]
    assert "Argument list too long" in bundle.fails(code=126)


@pytest.mark.parametrize(
    "entry",
    [
        "/proc/self/exe",
        "/proc/1/exe",
        "/proc/thread-self/exe",
        "/proc/self/task/1/exe",
        "/proc/self/root/proc/self/exe",
        "/link",
        "/bin/name",
        "name",
        "../proc/self/exe",
        "/script",
        "/script-of-script",
        "/unreadable",
    ],
)
def test_program_cannot_lead_to_the_hosts_interpreter(bundle: Bundle, entry: str) -> None:
    """CVE-2019-5736: nothing that an image names as its program leads to ours."""
    root = bundle.rootfs
    (root / "bin").mkdir()
    (root / "link").symlink_to("/proc/self/exe")
    (root / "bin/name").symlink_to("../link")
    (root / "script").write_text("#! /proc/self/exe -c\nimport os\n")
    (root / "script-of-script").write_text("#!/script\n")
    (root / "unreadable").write_text("#!/link\n")
    (root / "script").chmod(0o755)
    (root / "script-of-script").chmod(0o755)
    (root / "unreadable").chmod(0o111)
    bundle.process["args"] = [entry, "-c", "print('the interpreter of the host')"]
    bundle.process["cwd"] = "/bin"
    message = bundle.fails(code=126)
    assert "it leads to the program that starts the container" in message


def test_other_paths_through_proc_run(bundle: Bundle) -> None:
    bundle.process["args"] = ["/proc/self/root/probe", "exit", "4"]
    assert bundle.run().code == 4


def test_interpreter_on_a_user_mount_may_run(bundle: Bundle) -> None:
    python = os.path.realpath(sys.executable)
    bundle.bind(python, "/python")
    bundle.process["args"] = ["/python"]
    assert "its interpreter or loader is not in the image" in bundle.fails(code=127)


@pytest.mark.parametrize(
    "link",
    ["/proc/self/fd/7", "/proc/self/fd", "/proc/self/cwd", "/proc/self/root", "/proc/1/fd/9"],
)
def test_working_directory_cannot_leak_a_descriptor(
    bundle: Bundle, tmp_path: Path, link: str
) -> None:
    """CVE-2024-21626: a WORKDIR that is a link to a descriptor of the host."""
    (bundle.rootfs / "work").symlink_to(link)
    for cwd in (link, "/work"):
        bundle.process["cwd"] = cwd
        done = bundle.run("cwd", ",", "ls", "..")
        if done.code == 0:
            assert done.lines()[0].startswith("cwd /")
            assert "bundle" not in done.lines()
        else:
            assert "cannot" in done.err


def test_working_directory_cannot_use_a_preserved_descriptor(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Even one that is kept on purpose leads nowhere."""
    bundle.process["cwd"] = "/proc/self/fd/3"
    bundle.write("cwd")
    command = bundle.command("run", "--preserve-fds", "1", "-b", str(bundle.path), bundle.id)
    done = subprocess.run(
        ["bash", "-c", 'exec 3<"$0"; exec "$@"', str(tmp_path), *command],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode != 0
    assert "cannot make the working directory" in done.stderr


def test_working_directory_is_entered_as_the_user(bundle: Bundle) -> None:
    """As root first; what root may not enter (a private file system), the user may."""
    (bundle.rootfs / "home").mkdir(mode=0o700)
    bundle.process["cwd"] = "/home"
    assert bundle.facts("cwd") == {"cwd": "/home"}


def test_low_limits_do_not_prevent_the_start(bundle: Bundle) -> None:
    bundle.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 3, "hard": 3},
        {"type": "RLIMIT_AS", "soft": 8 << 20, "hard": 8 << 20},
        {"type": "RLIMIT_DATA", "soft": 1 << 20, "hard": 1 << 20},
        {"type": "RLIMIT_FSIZE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    facts = bundle.facts("rlimits")
    assert facts["nofile"] == "3 3"
    assert facts["as"] == f"{8 << 20} {8 << 20}"
    assert facts["fsize"] == "0 0"


def test_limit_above_the_hard_limit_is_refused(bundle: Bundle) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("needs a limit of open files")
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": hard + 1}]
    assert f"the hard limit of your session is {hard}" in bundle.fails("id")


def test_lower_oom_score_is_refused(bundle: Bundle) -> None:
    bundle.process["oomScoreAdj"] = -500
    assert "cannot set the OOM score to -500" in bundle.fails("id")


def test_environment_is_built_from_nothing(bundle: Bundle) -> None:
    bundle.process["env"] = ["A=1", "B=x=y", "A=2", "EMPTY="]
    secret = {"TOKEN": "secret", "SSH_AUTH_SOCK": "/x", "HTTP_PROXY": "u:p@h", "PATH": "/usr/bin"}
    done = bundle.run("env", ",", "read", "/proc/1/environ", env=secret).expect()
    assert done.out == "A=2\nB=x=y\nEMPTY=\nHOME=/\nA=2\0B=x=y\0EMPTY=\0HOME=/\0"


@pytest.mark.needs("subordinate ids")
def test_users_and_groups_are_set(bundle: Bundle) -> None:
    bundle.map_many_ids()
    bundle.process["user"] = {"uid": 5, "gid": 6, "additionalGids": [9, 8, 8]}
    facts = bundle.facts("id", ",", "idmap")
    assert facts["uid"] == "5 5 5 5"
    assert facts["gid"] == "6 6 6 6"
    assert facts["groups"] == "8 9"


@pytest.mark.parametrize("user", [{"uid": 1}, {"gid": 1}, {"additionalGids": [1]}])
def test_unmapped_ids_are_refused(bundle: Bundle, user: dict[str, object]) -> None:
    bundle.process["user"] = user
    assert "not in the container's id map" in bundle.fails("id")


def test_refused_id_map_is_reported(bundle: Bundle) -> None:
    bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1}]
    assert "map" in bundle.fails("id")


def test_impossible_capability_sets_are_handled(bundle: Bundle) -> None:
    """What contradicts itself is not given; what nobody knows is refused."""
    names = ["CAP_KILL"]
    bundle.process["capabilities"] = {"effective": names}
    assert int(bundle.facts("caps")["effective"], 16) == 0
    bundle.process["capabilities"] = {"permitted": names, "ambient": names, "bounding": names}
    facts = bundle.facts("caps")
    assert int(facts["ambient"], 16) == 0
    bundle.process["capabilities"] = {"bounding": ["CAP_NONE"]}
    assert "unknown capability CAP_NONE" in bundle.fails("id")


@pytest.mark.parametrize(
    "name",
    [
        "kernel.panic",
        "vm.swappiness",
        "net./../kernel/hostname",
        "net/../kernel/panic",
        "net..kernel",
        ".net",
        "",
        "../net",
    ],
)
def test_sysctls_of_the_host_are_refused(bundle: Bundle, name: str) -> None:
    bundle.linux["sysctl"] = {name: "1"}
    assert bundle.fails("id").startswith(f"sysctl {name}: ")


def test_sysctl_refused_by_the_kernel_is_reported(bundle: Bundle) -> None:
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "x"}
    assert "cannot set sysctl net.ipv4.ip_forward to x" in bundle.fails("id")
    bundle.linux["sysctl"] = {"net.no.such": "1"}
    assert "No such file" in bundle.fails("id")


def test_hundred_megabytes_pass_through_the_streams(bundle: Bundle) -> None:
    size = 100_000_000
    assert len(bundle.run("emit", str(size)).expect().raw) == size
