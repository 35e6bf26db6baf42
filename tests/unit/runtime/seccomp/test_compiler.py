"""What a compiled filter answers, asked of a small BPF interpreter: every call, no kernel needed.

The kernel half is tests/kernel/test_seccomp.py. Here the whole number space is walked, on each
architecture, with arguments that only differ in the half that the kernel ignores.
"""

from __future__ import annotations

import struct

import pytest

from rootless.errors import RlessError
from rootless.linux import libseccomp as linux
from rootless.runtime.seccomp import compiler
from rootless.runtime.seccomp import default as default_profile
from rootless.runtime.seccomp.compiler import Profile, compile_filter

KILL, KILL_THREAD = linux.ACT_KILL_PROCESS, linux.ACT_KILL_THREAD
ALLOW = linux.ACT_ALLOW
X86_64, X86, X32 = linux.ARCH_X86_64, linux.ARCH_X86, linux.ARCH_X32
EPERM, EIO, EACCES, ENOSYS = 1, 5, 13, 38

pytestmark = [pytest.mark.needs("x86_64"), pytest.mark.needs("libseccomp")]


def errno(number: int) -> int:
    return linux.ACT_ERRNO | number


def ask(bpf: bytes, nr: int, *args: int, arch: int = X86_64) -> int:
    """Return what a program answers, by the rules of Documentation/networking/filter.rst."""
    data = struct.pack("=IIQ6Q", nr & 0xFFFFFFFF, arch, 0x1234, *(list(args) + [0] * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", bpf))
    accumulator, at = 0, 0
    memory = [0] * 16
    while True:
        op, yes, no, k = code[at]
        at += 1
        match op:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, k)[0]
            case 0x54:
                accumulator &= k
            case 0x05:
                at += k
            case 0x15:
                at += yes if accumulator == k else no
            case 0x25:
                at += yes if accumulator > k else no
            case 0x35:
                at += yes if accumulator >= k else no
            case 0x02:
                memory[k] = accumulator
            case 0x60:
                accumulator = memory[k]
            case 0x06:
                return k
            case _:
                raise AssertionError(f"instruction {op:#x}")


def allow(*names: str, **more: object) -> dict[str, object]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


def profile(*rules: dict[str, object], **more: object) -> dict[str, object]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(rules), **more}


def arg(index: int, op: str, value: int, second: int = 0) -> dict[str, object]:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": second}


DOCKER_CAPS = ("CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_MKNOD")


def default(caps: tuple[str, ...] = DOCKER_CAPS, **more: bool) -> dict[str, object]:
    return default_profile.default_profile(caps, (6, 18), "x86_64", **more)


@pytest.fixture(scope="module")
def filter_default() -> bytes:
    return compile_filter(default())


# --- the default profile -----------------------------------------------------------------


def test_every_call_answers_as_the_profile_says(filter_default: bytes) -> None:
    """Walk all numbers: allowed ones allowed, others EPERM, later ones ENOSYS; both ABIs."""
    names = {name for rule in default()["syscalls"] for name in rule["names"]}  # type: ignore
    special = {"clone", "clone3", "ioctl", "personality", "socket", "socketcall"}
    for arch in (X86_64, X86):
        table = linux.table(arch) | compiler._NEWER
        by_number = {number: name for name, number in table.items()}
        for nr in range(620):
            name = by_number.get(nr)
            if name in special:
                continue
            expected = errno(ENOSYS) if nr > 466 else ALLOW if name in names else errno(EPERM)
            assert ask(filter_default, nr, arch=arch) == expected, (hex(arch), nr, name)


@pytest.mark.parametrize("high", [0, 1 << 32, 0xFFFFFFFF << 32])
def test_terminal_injection_is_refused_whatever_the_high_half_says(
    filter_default: bytes, high: int
) -> None:
    for request in (0x5412, 0x541C):
        assert ask(filter_default, 16, 0, request | high) == errno(EIO)
        assert ask(filter_default, 54, 0, request, arch=X86) == errno(EIO)
    for request in (0x5401, 0x5413, 0x541B, 0x541D, 0x541, 0):
        assert ask(filter_default, 16, 0, request | high) == ALLOW
        assert ask(filter_default, 54, 0, request, arch=X86) == ALLOW


@pytest.mark.parametrize("high", [0, 1 << 32, 0xFFFFFFFF << 32])
def test_dangerous_socket_families_are_refused(filter_default: bytes, high: int) -> None:
    for family in range(70):
        expected = errno(EPERM) if family in (38, 40) or family > 63 else ALLOW
        assert ask(filter_default, 41, family | high) == expected, family
        assert ask(filter_default, 359, family, arch=X86) == expected, family


def test_socketcall_is_refused(filter_default: bytes) -> None:
    assert ask(filter_default, 102, 1, arch=X86) == errno(ENOSYS)
    for call in range(2, 21):
        assert ask(filter_default, 102, call, arch=X86) == ALLOW
    open_one = compile_filter(default(socketcall=True))
    assert ask(open_one, 102, 1, arch=X86) == ALLOW


def test_namespaces_need_a_capability_or_the_flag(filter_default: bytes) -> None:
    flags = [0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000]
    with_cap = compile_filter(default(("CAP_SYS_ADMIN",)))
    nested = compile_filter(default(allow_nested_userns=True))
    for arch, clone, unshare, setns in ((X86_64, 56, 272, 308), (X86, 120, 310, 346)):
        for flag in flags:
            assert ask(filter_default, clone, flag | 17, arch=arch) == errno(EPERM)
            assert ask(with_cap, clone, flag | 17, arch=arch) == ALLOW
            assert ask(nested, clone, flag | 17, arch=arch) == ALLOW
        assert ask(filter_default, clone, 0x3D0F00, arch=arch) == ALLOW  # a thread
        assert ask(filter_default, 435, arch=arch) == errno(ENOSYS)
        assert ask(with_cap, 435, arch=arch) == ALLOW
        assert ask(nested, 435, arch=arch) == ALLOW
        for nr in (unshare, setns):
            assert ask(filter_default, nr, arch=arch) == errno(EPERM)
            assert ask(nested, nr, arch=arch) == ALLOW
    assert ask(nested, 321) == errno(EPERM)  # bpf is not part of nesting
    assert ask(with_cap, 321) == ALLOW


def test_only_harmless_personalities_are_allowed(filter_default: bytes) -> None:
    for persona in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert ask(filter_default, 135, persona) == ALLOW
    for persona in (1, 0x40000, 0x0400000, 1 << 32):  # ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC
        assert ask(filter_default, 135, persona) == errno(EPERM)


def test_x32_and_unknown_numbers_give_enosys(filter_default: bytes) -> None:
    for nr in (0x40000000 + 39, 0x40000000 + 520, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        assert ask(filter_default, nr) == errno(ENOSYS)


def test_foreign_architecture_is_killed(filter_default: bytes) -> None:
    for arch in (linux.ARCH_AARCH64, linux.ARCH_ARM, 0):
        assert ask(filter_default, 0, arch=arch) == KILL


@pytest.mark.parametrize(
    ("capability", "nr"),
    [("CAP_SYS_PTRACE", 312), ("CAP_SYS_TIME", 227), ("CAP_SYS_MODULE", 313), ("CAP_BPF", 321)],
)
def test_capability_allows_its_calls(filter_default: bytes, capability: str, nr: int) -> None:
    assert ask(filter_default, nr) == errno(EPERM)
    assert ask(compile_filter(default((capability,))), nr) == ALLOW


def test_ptrace_needs_a_kernel_that_rechecks_calls() -> None:
    old = default_profile.default_profile((), (4, 7), "x86_64")
    assert ask(compile_filter(old), 101) == errno(EPERM)


def test_libseccomp_alone_gives_the_same_refusals() -> None:
    """Libseccomp alone, as crun uses it, must honour the refusals of the same object."""
    parsed = Profile(default())
    with linux.Builder(parsed.default) as builder:
        for arch in parsed.architectures:
            builder.add_arch(arch)
        for rule in parsed.rules:
            for name in rule.names:
                number = linux.resolve(name)
                if number is not None:
                    builder.rule(rule.action, number, rule.conditions, name)
        plain = builder.export()
    for high in (0, 1 << 32):
        assert ask(plain, 16, 0, 0x5412 | high) == errno(EIO)
        assert ask(plain, 16, 0, 0x5401 | high) == ALLOW
        assert ask(plain, 41, 40 | high) == errno(EPERM)
        assert ask(plain, 41, 2 | high) == ALLOW
    assert ask(plain, 435) == errno(ENOSYS)
    assert ask(plain, 56, 0x10000011) == errno(EPERM)


def test_aarch64_and_32_bit_arm_are_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libseccomp can write another machine's filter; only the native architecture is faked."""

    class Foreign(linux.Builder):
        __slots__ = ()

        def __init__(self, default_action: int) -> None:
            super().__init__(default_action)
            assert self.add_arch(linux.ARCH_AARCH64)
            self.remove_arch(X86_64)

    monkeypatch.setattr(linux, "Builder", Foreign)
    monkeypatch.setattr(linux, "native_arch", lambda: linux.ARCH_AARCH64)
    bpf = compile_filter(default_profile.default_profile(DOCKER_CAPS, (6, 18), "aarch64"))
    arm64, arm = linux.ARCH_AARCH64, linux.ARCH_ARM
    for arch, ioctl, socket, unshare, keyctl, clone, read in (
        (arm64, 29, 198, 97, 219, 220, 63),
        (arm, 54, 281, 337, 311, 120, 3),
    ):
        assert ask(bpf, read, arch=arch) == ALLOW
        assert ask(bpf, ioctl, 0, 0x5412, arch=arch) == errno(EIO)
        assert ask(bpf, ioctl, 0, 0x5401, arch=arch) == ALLOW
        assert ask(bpf, socket, 40, arch=arch) == errno(EPERM)
        assert ask(bpf, socket, 1, arch=arch) == ALLOW
        assert ask(bpf, unshare, arch=arch) == ask(bpf, keyctl, arch=arch) == errno(EPERM)
        assert ask(bpf, clone, 0x10000011, arch=arch) == errno(EPERM)
        assert ask(bpf, clone, 17, arch=arch) == ALLOW
        assert ask(bpf, 435, arch=arch) == errno(ENOSYS)
        assert ask(bpf, 466, arch=arch) == ALLOW
        assert ask(bpf, 467, arch=arch) == errno(ENOSYS)
    assert ask(bpf, 0, arch=X86_64) == KILL


# --- any profile -------------------------------------------------------------------------

EDGES = [0, 1, 5, 6, 7, (1 << 32) - 1, 1 << 32, (1 << 32) + 6, (6 << 32) + 6, (7 << 32), 2**64 - 1]
HOLDS = {
    "EQ": lambda a, v, _: a == v,
    "NE": lambda a, v, _: a != v,
    "LT": lambda a, v, _: a < v,
    "LE": lambda a, v, _: a <= v,
    "GT": lambda a, v, _: a > v,
    "GE": lambda a, v, _: a >= v,
    "MASKED_EQ": lambda a, v, w: a & v == w & v,
}


@pytest.mark.parametrize("op", sorted(HOLDS))
@pytest.mark.parametrize("value", [0, 6, (1 << 32) + 6, (6 << 32) + 6, 2**64 - 1])
def test_conditional_refusals_compare_64_bits(op: str, value: int) -> None:
    """Our own comparisons (the prologue) agree with arithmetic, and beat the permission."""
    bpf = compile_filter(
        profile(
            allow("ioctl", "read"),
            {
                "names": ["ioctl"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 13,
                "args": [arg(2, op, value, 6), arg(0, "NE", 9)],
            },
        )
    )
    for a in EDGES:
        expected = errno(EACCES) if HOLDS[op](a, value, 6) else ALLOW
        assert ask(bpf, 16, 0, 0, a) == expected, hex(a)
        assert ask(bpf, 16, 9, 0, a) == ALLOW  # the second condition fails
    assert ask(bpf, 0) == ALLOW


@pytest.mark.parametrize("op", sorted(HOLDS))
@pytest.mark.parametrize("value", [6, (6 << 32) + 6])
def test_conditional_permissions_compare_64_bits(op: str, value: int) -> None:
    """Libseccomp's comparisons agree too, so the numbers that we hand over are right."""
    bpf = compile_filter(profile(allow("ioctl", args=[arg(2, op, value, 6)])))
    for a in EDGES:
        expected = ALLOW if HOLDS[op](a, value, 6) else errno(EPERM)
        assert ask(bpf, 16, 0, 0, a) == expected, hex(a)


def test_repeated_condition_on_one_argument_means_either() -> None:
    bpf = compile_filter(profile(allow("ioctl", args=[arg(1, "EQ", 5), arg(1, "EQ", 7)])))
    assert [ask(bpf, 16, 0, value) for value in (5, 6, 7)] == [ALLOW, errno(EPERM), ALLOW]


def test_calls_unknown_to_libseccomp_are_filtered_by_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, table = linux.resolve, linux.table
    young = {"cachestat", "mseal", "futex_wait"}
    monkeypatch.setattr(linux, "resolve", lambda name: None if name in young else known(name))
    monkeypatch.setattr(
        linux, "table", lambda a: {k: v for k, v in table(a).items() if k not in young}
    )
    bpf = compile_filter(
        profile(
            allow("read", "cachestat"),
            allow("mseal", args=[arg(2, "EQ", 0)]),
            {"names": ["futex_wait"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
            architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        )
    )
    for arch, base in ((X86_64, 0), (X86, 0), (X86_64, 0x40000000)):
        assert ask(bpf, base + 451, arch=arch) == ALLOW
        assert ask(bpf, base + 452, arch=arch) == errno(EPERM)
        assert ask(bpf, base + 455, arch=arch) == errno(EACCES)
        assert ask(bpf, base + 462, arch=arch) == ALLOW
        assert ask(bpf, base + 462, 0, 0, 1, arch=arch) == errno(EPERM)
        assert ask(bpf, base + 463, arch=arch) == errno(ENOSYS)


def test_x32_is_allowed_on_request_of_the_profile() -> None:
    bpf = compile_filter(
        profile(allow("getpid", "readv"), architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"])
    )
    assert ask(bpf, 0x40000000 + 39) == ALLOW
    assert ask(bpf, 0x40000000 + 515) == ALLOW  # x32 has its own readv
    assert ask(bpf, 0x40000000 + 516) == errno(ENOSYS)
    assert ask(bpf, 0x40000000 + 1) == errno(EPERM)
    assert ask(bpf, 39) == ALLOW
    assert ask(bpf, 41) == errno(ENOSYS)


def test_unnamed_architecture_is_killed() -> None:
    bpf = compile_filter(profile(allow("getpid"), architectures=["SCMP_ARCH_X86_64"]))
    assert ask(bpf, 20, arch=X86) == KILL


@pytest.mark.parametrize("action", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"])
def test_deny_list_allows_new_calls(action: str) -> None:
    bpf = compile_filter(
        {
            "defaultAction": action,
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
        }
    )
    assert ask(bpf, 83) == errno(EACCES)
    assert ask(bpf, 599) == compiler.ACTIONS[action]


def test_default_errno_is_used() -> None:
    bpf = compile_filter(profile(allow("read"), allow("execveat"), defaultErrnoRet=38))
    assert ask(bpf, 1) == ask(bpf, 599) == errno(ENOSYS)
    assert ask(compile_filter(profile(defaultErrnoRet=13)), 599) == errno(EACCES)


@pytest.mark.parametrize(
    ("action", "value"),
    [
        ("SCMP_ACT_KILL", KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", KILL),
        ("SCMP_ACT_TRAP", linux.ACT_TRAP),
        ("SCMP_ACT_LOG", linux.ACT_LOG),
        ("SCMP_ACT_TRACE", linux.ACT_TRACE | 7),
    ],
)
def test_actions_are_compiled(action: str, value: int) -> None:
    rule = {"names": ["mkdir"], "action": action}
    if action == "SCMP_ACT_TRACE":
        rule["errnoRet"] = 7  # type: ignore[assignment]
    assert ask(compile_filter(profile(rule)), 83) == value


def test_unknown_names_are_ignored() -> None:
    bpf = compile_filter(profile(allow("read", "frobnicate", "\ud800", "a" * 10_000, "x\0y")))
    assert ask(bpf, 0) == ALLOW


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ([], "not a JSON object"),
        ({}, "defaultAction is missing"),
        ({"defaultAction": "SCMP_ACT_MAYBE"}, "unknown action 'SCMP_ACT_MAYBE'"),
        ({"defaultAction": 7}, "unknown action 7"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_NOTIFY cannot be the default"),
        (profile(defaultErrnoRet=4096), "errnoRet is 4096"),
        (profile(defaultErrnoRet="1"), "errnoRet is '1'"),
        (profile(architectures=["SCMP_ARCH_VAX"]), "unknown architecture 'SCMP_ARCH_VAX'"),
        (profile(architectures="SCMP_ARCH_X86"), "architectures is not a list"),
        (profile(architectures=[["SCMP_ARCH_X86"]]), "unknown architecture a list"),
        (profile(architectures=[{}]), "unknown architecture an object"),
        (profile(flags=[{}]), "unknown or unsupported seccomp flag an object"),
        (profile(allow("read", args=[{**arg(0, "EQ", 0), "op": []}])), "unknown operator a list"),
        (profile(allow("read", args=[{**arg(0, "EQ", 0), "op": {}}])), "operator an object for"),
        ({"defaultAction": []}, "unknown action a list"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": {}}, "errnoRet is an object"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": True}, "errnoRet is True"),
        (profile({"names": [["read"]], "action": "SCMP_ACT_ALLOW"}), "names of a rule is a list"),
        (profile(flags=["SECCOMP_FILTER_FLAG_FUN"]), "unknown or unsupported seccomp flag"),
        (profile({"names": [], "action": "SCMP_ACT_ALLOW"}), "names of a rule"),
        (profile({"names": [1], "action": "SCMP_ACT_ALLOW"}), "names of a rule"),
        (profile({"names": ["read"]}), "unknown action None"),
        (profile("read"), "a member of syscalls is not an object"),  # type: ignore[arg-type]
        (profile(allow("read", args=[arg(6, "EQ", 0)])), "argument index of read is 6"),
        (profile(allow("read", args=[arg(0, "XX", 0)])), "unknown operator 'SCMP_CMP_XX'"),
        (profile(allow("read", args=[arg(0, "EQ", -1)])), "value of read is -1"),
        (profile(allow("read", args=[arg(0, "EQ", 1 << 64)])), "value of read is"),
        (profile(allow("read", args=[7])), "an argument of read is not an object"),
    ],
)
def test_broken_profile_is_refused(broken: object, says: str) -> None:
    """In one line, whatever it has in place of a name or a number (security class 15)."""
    with pytest.raises(RlessError) as caught:
        compile_filter(broken)  # type: ignore[arg-type]
    assert caught.value.message.startswith("linux.seccomp: ")
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_overlong_filter_is_refused() -> None:
    args = [[arg(1, "EQ", value)] for value in range(3000)]
    with pytest.raises(RlessError, match="4096"):
        compile_filter(
            profile(
                allow("ioctl"),
                *({**allow("ioctl", args=a), "action": "SCMP_ACT_KILL"} for a in args),
            )
        )


def test_missing_libseccomp_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "_library", None)
    monkeypatch.setattr(linux, "SONAME", "libseccomp-not-here.so.9")
    with pytest.raises(RlessError, match="is not installed") as caught:
        compile_filter(default())
    assert caught.value.hint
