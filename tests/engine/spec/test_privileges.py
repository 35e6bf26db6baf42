"""Capabilities, no_new_privs, seccomp, resource limits and sysctls."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from rootless.engine import defaults
from rootless.linux import caps
from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
DEFAULT = {name: 1 << caps.NUMBERS[name] for name in defaults.CAPABILITIES}


def status(rless: Product, *flags: str) -> dict[str, str]:
    text = rless.sh("cat /proc/self/status", *flags).out
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def sets(rless: Product, *flags: str) -> tuple[int, ...]:
    found = status(rless, *flags)
    return tuple(int(found[name], 16) for name in SETS)


def everything() -> int:
    return (1 << caps.last_capability() + 1) - 1


def test_default_capabilities_are_docker_s_without_raw_sockets(rless: Product) -> None:
    mask = sum(DEFAULT.values())
    assert len(DEFAULT) == 13
    assert "CAP_NET_RAW" not in DEFAULT
    assert sets(rless) == (0, mask, mask, mask, 0)


def test_non_root_user_has_no_capabilities(rless: Product) -> None:
    assert sets(rless, "--user", "1000") == (0, 0, 0, sum(DEFAULT.values()), 0)
    added = sum(DEFAULT.values()) | 1 << caps.NUMBERS["CAP_SYS_ADMIN"]
    assert sets(rless, "--user", "1000", "--cap-add", "SYS_ADMIN") == (0, 0, 0, added, 0)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--cap-drop=ALL"], lambda: 0),
        (["--cap-drop=all", "--cap-add=chown"], lambda: DEFAULT["CAP_CHOWN"]),
        (["--cap-add=ALL"], everything),
        (["--cap-add=ALL", "--cap-drop=CHOWN"], lambda: everything() & ~DEFAULT["CAP_CHOWN"]),
        (["--cap-drop=CAP_KILL"], lambda: sum(DEFAULT.values()) & ~DEFAULT["CAP_KILL"]),
        (["--privileged"], everything),
    ],
)
def test_capabilities_are_added_and_dropped(
    rless: Product, flags: list[str], expected: object
) -> None:
    assert callable(expected)
    mask = expected()
    assert sets(rless, *flags) == (0, mask, mask, mask, 0)


def test_unknown_capability_is_refused(rless: Product) -> None:
    error = rless.run("--cap-add NO_SUCH", "true").expect(125).one_line_error()
    assert "NO_SUCH" in error


def test_no_new_privileges_is_set(rless: Product) -> None:
    assert status(rless)["NoNewPrivs"] == "0"
    for option in ("no-new-privileges", "no-new-privileges=true", "no-new-privileges:true"):
        assert status(rless, "--security-opt", option)["NoNewPrivs"] == "1", option
    assert status(rless, "--security-opt", "no-new-privileges=false")["NoNewPrivs"] == "0"


def test_seccomp_is_on_by_default_and_can_be_disabled(rless: Product) -> None:
    assert status(rless)["Seccomp"] == "2"
    assert status(rless, "--user", "1000")["Seccomp"] == "2"
    assert status(rless, "--security-opt", "no-new-privileges")["Seccomp"] == "2"
    assert status(rless, "--security-opt", "seccomp=unconfined")["Seccomp"] == "0"
    assert status(rless, "--privileged")["Seccomp"] == "0"
    assert status(rless, "--privileged", "--security-opt", "seccomp=builtin")["Seccomp"] == "2"


def test_default_filter_refuses_dangerous_calls(rless: Product) -> None:
    facts = rless.probe(
        "try-unshare-user , try-clone3 , try-tiocsti , try-keyctl , try-bpf , try-userfaultfd ,"
        " try-io_uring , try-perf , try-vsock , try-mount , try-unknown , try-kexec , try-socket"
    ).facts()
    assert facts["try-unshare-user"] == "EPERM"
    assert facts["try-clone3"] == "ENOSYS"
    assert facts["try-unknown"] == "ENOSYS"
    assert facts["try-socket"] == "ok"
    assert facts["try-tiocsti"] == "EIO"
    for name in ("keyctl", "bpf", "userfaultfd", "io_uring", "perf", "mount", "kexec"):
        assert facts[f"try-{name}"] in ("EPERM", "ENOSYS"), name
    assert facts["try-vsock"] != "ok"


def test_security_class_38_raw_sockets_only_on_request(rless: Product) -> None:
    """Class 38: nor do frames go past the interface's guard, where that cannot be removed."""
    names = ("raw", "packet", "packet-old", "xdp", "packet-bypass")

    def tried(*flags: str) -> dict[str, str]:
        return rless.probe(" , ".join(f"try-{name}" for name in names), *flags).facts()

    nothing = dict.fromkeys((f"try-{name}" for name in names), "EPERM")
    assert tried() == nothing | {"try-packet-bypass": "EBADF"}
    raw = dict.fromkeys(("try-raw", "try-packet", "try-packet-old"), "ok")
    assert tried("--cap-add", "NET_RAW") == nothing | raw
    both = tried("--cap-add", "NET_RAW", "--cap-add", "NET_ADMIN")
    assert both["try-packet"] == "ok"
    assert both["try-packet-bypass"] == "EBADF"
    assert both["try-xdp"] != "EPERM"


@pytest.mark.needs("x86_64")
def test_i386_programs_cannot_send_frames_past_the_guard(rless: Product) -> None:
    done = rless.probe("try-i386-socketcall-setsockopt", "--cap-add", "NET_RAW")
    assert done.facts()["try-i386-socketcall-setsockopt"] == "ENOSYS"


def test_nested_user_namespaces_need_a_flag(rless: Product) -> None:
    facts = rless.probe("try-unshare-user", "--security-opt", "nested-userns").facts()
    assert facts["try-unshare-user"] == "ok"


def test_seccomp_profile_is_read_from_a_file(rless: Product, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}],
    }))  # fmt: skip
    done = rless.run(["--security-opt", f"seccomp={profile}"], "mkdir", "/x")
    assert done.code == 1
    assert "Protocol error" in done.err
    profile.write_text("{")
    error = rless.run(["--security-opt", f"seccomp={profile}"], "true").expect(125)
    assert "profile.json" in error.one_line_error()
    error = rless.run(["--security-opt", f"seccomp={tmp_path}/none"], "true").expect(125)
    error.one_line_error()


def test_ulimit_sets_limits(rless: Product) -> None:
    done = rless.sh("ulimit -Sn; ulimit -Hn; ulimit -c", "--ulimit", "nofile=100:200",
                    "--ulimit", "core=0")  # fmt: skip
    assert done.lines() == ["100", "200", "0"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert rless.sh("ulimit -n", "--ulimit", f"nofile={hard}").lines() == [str(hard)]
    error = rless.run(f"--ulimit nofile={hard + 1}", "true").expect(125).one_line_error()
    assert str(hard) in error


def test_oom_score_adj_is_set(rless: Product) -> None:
    assert rless.sh("cat /proc/self/oom_score_adj", "--oom-score-adj", "500").out == "500\n"
    error = rless.run("--oom-score-adj -900", "true").expect(125).one_line_error()
    assert "OOM" in error
    assert rless.run("--oom-score-adj 1001", "true").expect(125).one_line_error()


def test_sysctl_is_set(rless: Product) -> None:
    flags = ["--sysctl", "net.ipv4.ip_unprivileged_port_start=7", "--sysctl", "kernel.msgmax=4096"]
    script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax"
    assert rless.sh(script, *flags).lines() == ["7", "4096"]
    for name in ("vm.swappiness=1", "kernel.panic=1", "net=1", "kernel.hostname=x"):
        rless.run(["--sysctl", name], "true").expect(125).one_line_error()
    error = rless.run("--network=host --sysctl net.core.somaxconn=9", "true").expect(125)
    assert "network" in error.one_line_error()
    error = rless.run("--ipc=host --sysctl kernel.msgmax=9", "true").expect(125)
    assert "ipc" in error.one_line_error()
    assert "no_such" in rless.run("--sysctl net.no_such=9", "true").expect(125).one_line_error()


def test_set_id_program_stays_within_the_bounding_set(rless: Product) -> None:
    """su from a user to root works without no_new_privs; root of the container is no more."""
    facts = rless.probe("setuid 0 , id", "--user", "1000").facts()
    assert facts["uid"].startswith("1000 1000 1000")
