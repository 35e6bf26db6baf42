"""`--security-opt seccomp=FILE`: Docker's form and OCI's, and files that are neither."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.runtime.seccomp.profile import MAX_BYTES, kernel_version, load_profile_file

ALLOW = "SCMP_ACT_ALLOW"
DOCKER = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": None},
    ],
    "syscalls": [
        {"names": ["read", "frobnicate"], "action": ALLOW, "comment": "x"},
        {"name": "write", "action": ALLOW, "args": None},
        {"names": ["mount"], "action": ALLOW, "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["bpf"], "action": ALLOW, "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}},
        {"names": ["clone"], "action": ALLOW, "excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_X"]}},
        {"names": ["arch_prctl"], "action": ALLOW, "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["set_tls"], "action": ALLOW, "includes": {"arches": ["arm", "arm64"]}},
        {"names": ["sync"], "action": ALLOW, "excludes": {"arches": ["amd64"]}},
        {"names": ["ptrace"], "action": ALLOW, "includes": {"minKernel": "4.8"}},
        {"names": ["tee"], "action": ALLOW, "excludes": {"minKernel": "5.0"}},
        {"names": ["dup"], "action": ALLOW, "includes": {}, "excludes": None},
    ],
}


def load(tmp_path: Path, content: object, *args: object) -> dict[str, object]:
    file = tmp_path / "profile.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return load_profile_file(str(file), *args)  # type: ignore[arg-type]


def names(profile: dict[str, object]) -> set[str]:
    return {name for rule in profile["syscalls"] for name in rule["names"]}  # type: ignore


def test_docker_form_is_converted(tmp_path: Path) -> None:
    common = {"read", "frobnicate", "write", "dup"}
    plain = load(tmp_path, DOCKER, (), (6, 18), "x86_64")
    assert names(plain) == common | {"clone", "arch_prctl", "ptrace"}
    assert plain["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert "archMap" not in plain
    assert all(
        not set(rule) & {"name", "comment", "includes", "excludes"}
        for rule in plain["syscalls"]  # type: ignore[attr-defined]
    )
    admin = load(tmp_path, DOCKER, ("CAP_SYS_ADMIN",), (6, 18), "x86_64")
    assert names(admin) == common | {"mount", "arch_prctl", "ptrace"}
    both = load(tmp_path, DOCKER, ("CAP_SYS_ADMIN", "CAP_BPF"), (6, 18), "x86_64")
    assert "bpf" in names(both)
    old_arm = load(tmp_path, DOCKER, (), (4, 7), "aarch64")
    assert names(old_arm) == common | {"clone", "set_tls", "sync", "tee"}
    assert old_arm["architectures"] == ["SCMP_ARCH_AARCH64"]
    assert load(tmp_path, DOCKER, (), (4, 7), "vax")["architectures"] == []


def test_oci_form_is_kept(tmp_path: Path) -> None:
    oci = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "x-unknown": 7,
        "syscalls": [
            {
                "names": ["ioctl"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 5,
                "args": [{"index": 1, "value": 21522, "op": "SCMP_CMP_EQ"}],
            }
        ],
    }
    assert load(tmp_path, oci) == oci


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("\udcff", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"defaultAction": ' + "1" * 5000 + "}", "not valid JSON"),
        ("{}", "defaultAction is missing"),
        ('{"defaultAction": "SCMP_ACT_X"}', "unknown action 'SCMP_ACT_X'"),
        ({"defaultAction": ALLOW, "syscalls": {}, "x": 1}, None),
        ({"defaultAction": ALLOW, "syscalls": {"a": 1}}, "syscalls is not a list"),
        ({"defaultAction": ALLOW, "syscalls": [7]}, "not an object"),
        ({"defaultAction": ALLOW, "syscalls": [{"action": ALLOW}]}, "names of a rule"),
        (
            {"defaultAction": ALLOW, "syscalls": [{"name": "a", "names": ["b"], "action": ALLOW}]},
            "both name and names",
        ),
        ({"defaultAction": ALLOW, "archMap": 7}, "archMap is not a list"),
        ({"defaultAction": ALLOW, "archMap": [7]}, "archMap is not a list"),
        (
            {
                "defaultAction": ALLOW,
                "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": 1}],
            },
            "subArchitectures is not a list",
        ),
        (
            {"defaultAction": ALLOW, "archMap": [{}], "architectures": ["SCMP_ARCH_X86"]},
            "both architectures and archMap",
        ),
        (
            {"defaultAction": ALLOW, "syscalls": [{"names": ["a"], "includes": 7}]},
            "includes of a rule is not an object",
        ),
        (
            {"defaultAction": ALLOW, "syscalls": [{"names": ["a"], "excludes": {"caps": "x"}}]},
            "excludes.caps of a rule is not a list",
        ),
        (
            {"defaultAction": ALLOW, "syscalls": [{"names": ["a"], "includes": {"minKernel": 5}}]},
            "minKernel of a rule is 5",
        ),
    ],
)
def test_wrong_content_is_refused(tmp_path: Path, content: object, says: str | None) -> None:
    if says is None:
        load(tmp_path, content, (), (6, 18), "x86_64")
        return
    file = tmp_path / "profile.json"
    raw = content if isinstance(content, str) else json.dumps(content)
    file.write_bytes(raw.encode("utf-8", "surrogateescape"))
    with pytest.raises(RlessError) as caught:
        load_profile_file(str(file), (), (6, 18), "x86_64")
    message = str(caught.value)
    assert message.startswith(f"seccomp profile {file}: ")
    assert says in message
    assert "\n" not in message


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    fifo, huge = tmp_path / "fifo", tmp_path / "huge"
    os.mkfifo(fifo)
    with open(huge, "wb") as file:
        file.truncate(MAX_BYTES + 1)
    for path, says in (
        (tmp_path / "absent", "No such file"),
        (tmp_path, "not a regular file"),
        (fifo, "not a regular file"),
        (huge, "larger than 4 MiB"),
        (tmp_path / ("x" * 300), "name too long"),
    ):
        with pytest.raises(RlessError) as caught:
            load_profile_file(str(path))
        assert says in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.44-generic", (6, 18)),
        ("5.14.0-427.el9.x86_64", (5, 14)),
        ("3.12-rc5", (3, 12)),
        ("4.8", (4, 8)),
        ("", (0, 0)),
        ("x.y", (0, 0)),
        ("5.x", (0, 0)),
        ("5", (0, 0)),
    ],
)
def test_kernel_versions_are_compared(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version
