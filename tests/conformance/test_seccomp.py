"""linux.seccomp: what a filter answers (config-linux.md, Seccomp)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lib.bundle import Bundle

pytestmark = pytest.mark.needs("compiler", "user namespaces", "subordinate ids", "libseccomp")


def rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def allow_all_but(bundle: Bundle, *rules: dict[str, Any]) -> None:
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": list(rules)}


def test_filter_is_active(bundle: Bundle) -> None:
    assert bundle.facts("seccomp")["seccomp"] == "0"
    allow_all_but(bundle, rule("SCMP_ACT_ERRNO", "swapon"))
    assert bundle.facts("seccomp")["seccomp"] == "2"


@pytest.mark.parametrize(("number", "name"), [(None, "EPERM"), (2, "ENOENT"), (38, "ENOSYS")])
def test_errno_is_returned(bundle: Bundle, number: int | None, name: str) -> None:
    more = {} if number is None else {"errnoRet": number}
    allow_all_but(bundle, rule("SCMP_ACT_ERRNO", "mkdir", "mkdirat", **more))
    assert bundle.facts("mkdir", "/x")["mkdir"] == name


def test_filter_can_kill(bundle: Bundle) -> None:
    allow_all_but(bundle, rule("SCMP_ACT_KILL_PROCESS", "mkdir", "mkdirat"))
    assert bundle.run("mkdir", "/x").code == 128 + 31


def test_filter_can_test_an_argument(bundle: Bundle) -> None:
    allow_all_but(
        bundle,
        rule("SCMP_ACT_ERRNO", "umask", args=[{"index": 0, "value": 0o700, "op": "SCMP_CMP_EQ"}]),
    )
    assert bundle.run("umask").expect().out == "umask 0022\n"


def test_unknown_names_are_ignored(bundle: Bundle) -> None:
    allow_all_but(bundle, rule("SCMP_ACT_ERRNO", "no_such_call", "mkdir", "mkdirat"))
    assert bundle.facts("mkdir", "/x")["mkdir"] == "EPERM"


@pytest.mark.parametrize(
    "seccomp",
    [
        {"defaultAction": "SCMP_ACT_X"},
        {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X"]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("SCMP_ACT_X", "mkdir")]},
    ],
)
def test_unknown_actions_are_refused(bundle: Bundle, seccomp: dict[str, Any]) -> None:
    bundle.linux["seccomp"] = seccomp
    bundle.fails("id")
