"""The process: arguments, environment, directory, limits, ids, exit code, streams."""

from __future__ import annotations

import hashlib
import resource
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle

pytestmark = pytest.mark.needs("compiler", "user namespaces", "subordinate ids")


def test_arguments_pass_as_they_are(bundle: Bundle) -> None:
    words = ["a b", "", "-x", "é\u4e16", "$HOME", "a\nb"]
    bundle.process["args"] = ["/probe", "args", *words]
    assert bundle.run().expect().out == "".join(f"arg {i} {w}\n" for i, w in enumerate(words))


def test_environment_is_that_of_the_config(bundle: Bundle) -> None:
    bundle.process["env"] = ["B=2", "A=x y=z", "EMPTY="]
    lines = bundle.run("env", env={"LEAK": "1", "PATH": "/usr/bin:/usr/sbin"}).expect().lines()
    # runc adds HOME
    assert [line for line in lines if not line.startswith("HOME=")] == ["B=2", "A=x y=z", "EMPTY="]


def test_last_duplicate_variable_wins(bundle: Bundle) -> None:
    bundle.process["env"] = ["A=1", "B=2", "A=3"]
    assert "A=3" in bundle.run("env").expect().lines()[:3]


def test_program_is_found_in_the_containers_path(bundle: Bundle) -> None:
    (bundle.rootfs / "opt").mkdir()
    (bundle.rootfs / "probe").rename(bundle.rootfs / "opt/own")
    bundle.process["env"] = ["PATH=/nothing:/opt"]
    bundle.process["args"] = ["own", "exit", "3"]
    assert bundle.run().code == 3


@pytest.mark.parametrize("code", [0, 1, 125, 127, 255])
def test_exit_code_of_the_program_is_passed_on(bundle: Bundle, code: int) -> None:
    assert bundle.run("exit", str(code)).code == code


@pytest.mark.parametrize("number", [9, 11])
def test_death_by_signal_exits_128_plus_its_number(bundle: Bundle, number: int) -> None:
    """As pid 1 of a namespace it cannot kill itself: so it shares the caller's pids."""
    bundle.remove_namespace("pid")
    bundle.spec["mounts"][0] = {
        "destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]
    }  # fmt: skip
    assert bundle.run("kill-self", str(number)).code == 128 + number


def test_working_directory_is_created(bundle: Bundle) -> None:
    bundle.process["cwd"] = "/srv/new/deep"
    assert bundle.facts("cwd", ",", "stat", "/srv/new")["cwd"] == "/srv/new/deep"
    assert (bundle.rootfs / "srv/new/deep").is_dir()


def test_file_as_working_directory_is_refused(bundle: Bundle) -> None:
    bundle.process["cwd"] = "/probe"
    bundle.fails("cwd")


def test_limits_are_set(bundle: Bundle) -> None:
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    bundle.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 111, "hard": min(222, files)},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
        {"type": "RLIMIT_FSIZE", "soft": 2**64 - 1, "hard": 2**64 - 1},
    ]
    facts = bundle.facts("rlimits")
    assert facts["nofile"] == f"111 {min(222, files)}"
    assert facts["core"] == "0 4096"
    assert facts["fsize"] == "-1 -1"


def test_unknown_limit_is_refused(bundle: Bundle) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]
    bundle.fails("id")


@pytest.mark.parametrize("umask", [0, 0o77])
def test_umask_is_set(bundle: Bundle, umask: int) -> None:
    bundle.process["user"]["umask"] = umask
    assert bundle.facts("umask") == {"umask": f"{umask:04o}"}


def test_user_and_groups_are_set(bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [7, 5, 1002]}
    facts = bundle.facts("id")
    assert facts["uid"] == "1000 1000 1000 1000"
    assert facts["gid"] == "1001 1001 1001 1001"
    assert set(facts["groups"].split()) - {"1001"} == {"5", "7", "1002"}


def test_only_requested_groups_are_set(bundle: Bundle) -> None:
    assert bundle.facts("id")["groups"] in ("", "0")


def test_unmapped_user_is_refused(bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 70000, "gid": 0}
    bundle.fails("id")


def test_oom_score_is_set(bundle: Bundle) -> None:
    bundle.process["oomScoreAdj"] = 333
    assert bundle.run("oom_score_adj").expect().out == "333\n"


def test_signals_have_default_actions(bundle: Bundle) -> None:
    assert bundle.run("signals").expect().lines() == ["ignored", "blocked"]


def test_streams_are_exact(bundle: Bundle) -> None:
    data = bytes(range(256)) * 4096 + b"no newline at the end"
    assert bundle.run("cat", input=data).expect().raw == data
    size = 3_000_001
    out = bundle.run("emit", str(size)).expect().raw
    expected = b"".join(
        bytes((i * 31 + block) % 256 for i in range(256)) * 256
        for block in range(size // 65536 + 1)
    )[:size]
    assert hashlib.sha256(out).digest() == hashlib.sha256(expected).digest()


def test_output_and_errors_do_not_mix(bundle: Bundle) -> None:
    done = bundle.run("stderr", "wrong", ",", "args", "right").expect()
    assert (done.out, done.err) == ("arg 0 right\n", "wrong\n")


@pytest.mark.parametrize("case", ["missing", "not on path", "directory", "no permission", "loader"])
def test_unusable_programs_are_reported(bundle: Bundle, case: str) -> None:
    """The code differs among the runtimes: see tests/runtime/test_process.py for ours."""
    (bundle.rootfs / "directory").mkdir()
    (bundle.rootfs / "plain").write_text("x")
    (bundle.rootfs / "script").write_text("#!/no/such/interpreter\n")
    (bundle.rootfs / "script").chmod(0o755)
    programs = {
        "missing": "/nothing",
        "not on path": "nothing",
        "directory": "/directory",
        "no permission": "/plain",
        "loader": "/script",
    }
    bundle.process["args"] = [programs[case]]
    bundle.fails()


def test_sysctls_of_own_namespaces_are_set(bundle: Bundle) -> None:
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmni": "123"}
    bundle.linux["readonlyPaths"] = []
    out = bundle.run("sysctl", "net.ipv4.ip_forward", ",", "sysctl", "kernel.shmmni").expect().out
    assert out.split() == ["1", "123"]


@pytest.mark.parametrize("name", ["vm.swappiness", "kernel.panic", "kernel.pid_max"])
def test_sysctls_of_the_host_are_refused(bundle: Bundle, name: str) -> None:
    bundle.linux["sysctl"] = {name: "1"}
    bundle.fails("id")


def test_sysctl_of_a_shared_namespace_is_refused(bundle: Bundle) -> None:
    bundle.remove_namespace("ipc")
    bundle.linux["sysctl"] = {"kernel.shmmni": "123"}
    bundle.fails("id")


def test_no_new_privileges_is_set(bundle: Bundle) -> None:
    bundle.process["noNewPrivileges"] = True
    assert bundle.facts("caps")["no_new_privs"] == "1"
    bundle.process["noNewPrivileges"] = False
    assert bundle.facts("caps")["no_new_privs"] == "0"


def test_pid_file_is_written(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    bundle.run("id", options=["--pid-file", str(path)]).expect()
    assert path.read_text().isdigit()
