"""Compile an OCI `linux.seccomp` object to the BPF program that the kernel takes.

This runs only when the cache has no program (`runtime.seccomp`). libseccomp makes the body of the
program. Before the body there is a prologue of our own, for what libseccomp cannot express:

1. A call newer than the profile returns ENOSYS and not the default EPERM, so that programs fall
   back as on an older kernel (runc does the same; glibc gives up on EPERM). A call is newer if its
   number is above every number that the profile names on that architecture.
2. A conditional refusal (TIOCSTI) comes before the permission of the same call (ioctl). libseccomp
   lets the unconditional rule win, or sorts both by rules that differ between its versions.
3. Calls that this libseccomp is too old to know by name get their numbers from `_NEWER`.

The program has one block for each architecture:

    ld arch; jeq ARCH  ->  ld nr; jgt HIGHEST -> ret ENOSYS; (jeq NR; tests -> ret ACTION)*; ja body
    body: what libseccomp exported, unchanged (jumps of BPF are relative)

Source: seccomp(2), Linux Documentation/networking/filter.rst, runtime-spec config-linux.md,
runc libcontainer/seccomp for the meaning of what the specification leaves open.
"""

from __future__ import annotations

import struct
import sys

from rootless.errors import RlessError
from rootless.linux import libseccomp
from rootless.linux import seccomp as linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Condition = tuple[int, int, int, int]  # argument index, CMP_*, value, second value
    Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant

ACTIONS = {
    "SCMP_ACT_KILL": libseccomp.ACT_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": libseccomp.ACT_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": libseccomp.ACT_KILL_PROCESS,
    "SCMP_ACT_TRAP": libseccomp.ACT_TRAP,
    "SCMP_ACT_ERRNO": libseccomp.ACT_ERRNO,
    "SCMP_ACT_TRACE": libseccomp.ACT_TRACE,
    "SCMP_ACT_NOTIFY": libseccomp.ACT_NOTIFY,
    "SCMP_ACT_LOG": libseccomp.ACT_LOG,
    "SCMP_ACT_ALLOW": libseccomp.ACT_ALLOW,
}
OPERATORS = {
    "SCMP_CMP_NE": libseccomp.CMP_NE,
    "SCMP_CMP_LT": libseccomp.CMP_LT,
    "SCMP_CMP_LE": libseccomp.CMP_LE,
    "SCMP_CMP_EQ": libseccomp.CMP_EQ,
    "SCMP_CMP_GE": libseccomp.CMP_GE,
    "SCMP_CMP_GT": libseccomp.CMP_GT,
    "SCMP_CMP_MASKED_EQ": libseccomp.CMP_MASKED_EQ,
}
# linux/audit.h; the tokens are libseccomp's (x32 is its own).
ARCHITECTURES = {
    "SCMP_ARCH_X86": libseccomp.ARCH_X86,
    "SCMP_ARCH_X86_64": libseccomp.ARCH_X86_64,
    "SCMP_ARCH_X32": libseccomp.ARCH_X32,
    "SCMP_ARCH_ARM": libseccomp.ARCH_ARM,
    "SCMP_ARCH_AARCH64": libseccomp.ARCH_AARCH64,
    "SCMP_ARCH_MIPS": 0x00000008,
    "SCMP_ARCH_MIPS64": 0x80000008,
    "SCMP_ARCH_MIPS64N32": 0xA0000008,
    "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008,
    "SCMP_ARCH_MIPSEL64N32": 0xE0000008,
    "SCMP_ARCH_PPC": 0x00000014,
    "SCMP_ARCH_PPC64": 0x80000015,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390": 0x00000016,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_PARISC": 0x0000000F,
    "SCMP_ARCH_PARISC64": 0x8000000F,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
    "SCMP_ARCH_LOONGARCH64": 0xC0000102,
}
KNOWN_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": linux.FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": linux.FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": linux.FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": linux.FLAG_WAIT_KILLABLE_RECV,
}

# Since Linux 5.1 a new call has one number on every architecture (x32 adds its bit; MIPS, which
# is not supported, its offsets). Source: scripts/syscall.tbl of Linux 7.1.
_NEWER = {
    "futex_waitv": 449,
    "set_mempolicy_home_node": 450,
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
    "listns": 470,
    "rseq_slice_yield": 471,
}

_EPERM, _ENOSYS, _MAX_ERRNO = 1, 38, 4095
_ACTION_BITS = 0xFFFF0000
_ARGUMENTS = 6
_MAX_RULES = 10_000
_MAX_PROGRAM = 4096 * 8


class Rule:
    """The action for some calls, under conditions that must all hold."""

    __slots__ = ("action", "conditions", "names")

    def __init__(self, names: list[str], action: int, conditions: list[Condition]) -> None:
        self.names = names
        self.action = action
        self.conditions = conditions


class Profile:
    """A checked OCI `linux.seccomp` object, in libseccomp's numbers."""

    __slots__ = ("architectures", "default", "flags", "rules")

    def __init__(self, seccomp: Mapping[str, Any]) -> None:
        """Check an object.

        Raises:
            RlessError: one thing in it is wrong; the message names it.
        """
        if not isinstance(seccomp, dict):
            raise RlessError("the profile is not a JSON object")
        if "defaultAction" not in seccomp:
            raise RlessError("defaultAction is missing")
        self.default = _action(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
        self.flags = load_flags(seccomp)
        self.architectures = []
        for name in _list(seccomp, "architectures"):
            self.architectures.append(_named(name, ARCHITECTURES, "unknown architecture"))
        self.rules: list[Rule] = []
        for item in _list(seccomp, "syscalls"):
            self.rules += _rules(item)
        self._check_notifications(seccomp)
        if len(self.rules) > _MAX_RULES:
            raise RlessError(f"{len(self.rules)} rules are more than the {_MAX_RULES} allowed")

    def _check_notifications(self, seccomp: Mapping[str, Any]) -> None:
        """Refuse notifications that nobody would answer, or that init itself would wait for."""
        if self.default == libseccomp.ACT_NOTIFY:
            raise RlessError("SCMP_ACT_NOTIFY cannot be the default action")
        for rule in self.rules:
            if rule.action != libseccomp.ACT_NOTIFY:
                continue
            if not isinstance(seccomp.get("listenerPath") or None, str):
                raise RlessError("SCMP_ACT_NOTIFY needs listenerPath")
            if "write" in rule.names:
                raise RlessError("SCMP_ACT_NOTIFY is not possible for write")


def _permits(action: int) -> bool:
    """Tell whether an action lets the call be made; a tracer is trusted to know new calls."""
    return action & _ACTION_BITS in (libseccomp.ACT_ALLOW, libseccomp.ACT_LOG, libseccomp.ACT_TRACE)


def _show(value: object) -> str:
    if isinstance(value, (list, dict)):  # as deep as repr() does not go
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."


def _list(parent: Mapping[str, Any], key: str) -> list[Any]:
    """Return a member that is a list, absent or null."""
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise RlessError(f"{key} is not a list")
    return value


def _number(value: object, what: str, limit: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise RlessError(f"{what} is {_show(value)}, not a number from 0 to {limit}")
    return value


def _action(name: object, errno_ret: object) -> int:
    """Return an action's value, with its errno (or the tracer's message) in the low 16 bits."""
    action = _named(name, ACTIONS, "unknown action")
    errno = _EPERM if errno_ret is None else _number(errno_ret, "errnoRet", _MAX_ERRNO)
    if action in (libseccomp.ACT_ERRNO, libseccomp.ACT_TRACE):
        action |= errno
    return action


def _named(name: object, table: Mapping[str, int], wrong: str, of: str = "") -> int:
    """Return what a name of the specification means; anything else is an error."""
    if not isinstance(name, str) or name not in table:
        raise RlessError(f"{wrong} {_show(name)}{of}")
    return table[name]


def _rules(item: object) -> list[Rule]:
    """Check one member of `syscalls`; it is several rules if it tests an argument twice."""
    if not isinstance(item, dict):
        raise RlessError("a member of syscalls is not an object")
    names = _list(item, "names")
    if not names or not all(isinstance(name, str) for name in names):
        raise RlessError(f"names of a rule is {_show(names)}, not a list of system call names")
    action = _action(item.get("action"), item.get("errnoRet"))
    conditions: list[Condition] = []
    for arg in _list(item, "args"):
        if not isinstance(arg, dict):
            raise RlessError(f"an argument of {names[0]} is not an object")
        conditions.append(
            (
                _number(arg.get("index"), f"argument index of {names[0]}", _ARGUMENTS - 1),
                _named(arg.get("op"), OPERATORS, "unknown operator", f" for {names[0]}"),
                _number(arg.get("value", 0), f"value of {names[0]}", 2**64 - 1),
                _number(arg.get("valueTwo") or 0, f"valueTwo of {names[0]}", 2**64 - 1),
            )
        )
    if len({condition[0] for condition in conditions}) < len(conditions):
        # libseccomp takes an argument once a rule. runc and crun then make each condition a
        # rule of its own ("or"), and profiles count on it.
        return [Rule(names, action, [condition]) for condition in conditions]
    return [Rule(names, action, conditions)]


def load_flags(seccomp: Mapping[str, Any]) -> int:
    """Return the flags for `load_filter`.

    None given means SPEC_ALLOW, as in runc and crun: without it a kernel before 5.16 turns
    speculative stores off for the container, which costs much and guards against one thing.
    TSYNC is left out: the init has one thread.
    """
    flags = seccomp.get("flags")
    if flags is None:
        return linux.FLAG_SPEC_ALLOW
    value = 0
    for name in _list(seccomp, "flags"):
        value |= _named(name, KNOWN_FLAGS, "unknown or unsupported seccomp flag")
    return value & ~linux.FLAG_TSYNC


# --- the program -------------------------------------------------------------------------


def compile_filter(seccomp: Mapping[str, Any]) -> bytes:
    """Return the BPF program of an OCI `linux.seccomp` object.

    System call names that nobody knows are ignored, as every runtime does: profiles name calls
    of other architectures and of kernels to come.

    Raises:
        RlessError: libseccomp is missing, or the object is wrong, or the program too large.

    Where: on the host side, before the root changes. Takes some 20 ms.
    """
    try:
        profile = Profile(seccomp)
    except RlessError as error:
        raise error.within("linux.seccomp") from None
    native = libseccomp.native_arch()
    with libseccomp.Builder(profile.default) as builder:
        architectures = [native]
        for arch in profile.architectures:
            # One of another byte order cannot be combined, and its programs cannot run here.
            if arch not in architectures and builder.add_arch(arch):
                architectures.append(arch)
        early: list[Rule] = []
        late: list[Rule] = []
        for rule in profile.rules:
            if rule.conditions and not (_permits(rule.action) or _permits(profile.default)):
                early.append(rule)
                continue
            if rule.action == profile.default:
                continue  # says nothing new; libseccomp refuses it with EACCES
            unknown = []
            for name in rule.names:
                number = libseccomp.resolve(name)
                if number is not None:
                    builder.rule(rule.action, number, rule.conditions, name)
                elif name in _NEWER:
                    unknown.append(name)
            if unknown:
                late.append(Rule(unknown, rule.action, rule.conditions))
        body = builder.export()
    # Conditional before unconditional: the first match of the prologue decides.
    late.sort(key=lambda rule: not rule.conditions)
    prologue = _prologue(profile, architectures, early + late)
    program = b"".join(struct.pack("=HBBI", *one) for one in prologue) + body
    if len(program) > _MAX_PROGRAM:
        raise RlessError(f"the profile needs {len(program) // 8} instructions, the limit is 4096")
    return program


# Classic BPF (linux/bpf_common.h): what the prologue uses.
_LD, _AND, _JA, _RET = 0x20, 0x54, 0x05, 0x06
_JEQ, _JGT, _JGE = 0x15, 0x25, 0x35
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16  # struct seccomp_data
_PASS, _FAIL = -1, -2  # jump targets that `_test` fills in


def _prologue(profile: Profile, architectures: list[int], rules: list[Rule]) -> list[Instruction]:
    """Return the instructions in front of libseccomp's program."""
    known = {arch: libseccomp.table(arch) for arch in architectures}
    blocks: list[tuple[int, list[Instruction]]] = []
    for arch in architectures:
        if arch == libseccomp.ARCH_X32:
            continue
        block = _block(profile, arch, known[arch], rules)
        if libseccomp.ARCH_X32 in known and arch == libseccomp.ARCH_X86_64:
            # The kernel calls both x86_64; the numbers are apart, by one bit.
            x32 = _block(profile, libseccomp.ARCH_X32, known[libseccomp.ARCH_X32], rules)
            split: list[Instruction] = [
                (_LD, 0, 0, _OFFSET_NR),
                (_JGE, 1, 0, libseccomp.X32_BIT),
                (_JA, 0, 0, len(x32) + 1),
            ]
            # A block may end in the middle of the prologue, so each one ends in a jump.
            block = [*split, *x32, (_JA, 0, 0, len(block)), *block]
        blocks.append((arch, block))
    total = 1 + sum(len(block) + 3 for _, block in blocks)
    out: list[Instruction] = [(_LD, 0, 0, _OFFSET_ARCH)]
    for arch, block in blocks:
        # Conditional jumps reach 255 instructions; `ja` reaches all.
        out += [(_JEQ, 1, 0, arch), (_JA, 0, 0, len(block) + 1), *block]
        out.append((_JA, 0, 0, total - len(out) - 1))
    return out


def _block(
    profile: Profile, arch: int, known: Mapping[str, int], rules: list[Rule]
) -> list[Instruction]:
    """Return what is asked of one architecture's calls; it falls through to the body."""
    base = libseccomp.X32_BIT if arch == libseccomp.ARCH_X32 else 0

    def number(name: str) -> int | None:
        newer = _NEWER.get(name)
        return known.get(name, None if newer is None else newer + base)

    out: list[Instruction] = [(_LD, 0, 0, _OFFSET_NR)]
    if not _permits(profile.default) and profile.default != libseccomp.ACT_ERRNO | _ENOSYS:
        named = [number(name) for rule in profile.rules for name in rule.names]
        highest = max((nr for nr in named if nr is not None), default=None)
        if highest is not None:
            out += [(_JGT, 0, 1, highest), (_RET, 0, 0, libseccomp.ACT_ERRNO | _ENOSYS)]
    for rule in rules:
        tests = [step for condition in rule.conditions for step in _test(*condition)]
        for name in rule.names:
            nr = number(name)
            if nr is None:
                continue
            steps: list[Instruction] = [(_JEQ, 0, _FAIL, nr), *tests, (_RET, 0, 0, rule.action)]
            for at, (code, yes, no, constant) in enumerate(steps):
                left = len(steps) - at - 1
                out.append(
                    (code, left if yes == _FAIL else yes, left if no == _FAIL else no, constant)
                )
            if tests:
                out.append((_LD, 0, 0, _OFFSET_NR))  # the tests have taken its place
    return out


def _test(index: int, operator: int, value: int, second: int) -> list[Instruction]:
    """Return instructions that go on after themselves if a condition holds, else to `_FAIL`.

    Arguments are 64 bits wide, BPF's registers 32: the high half decides, then the low one.
    """
    low = _OFFSET_ARGS + 8 * index
    high = low + 4
    if sys.byteorder == "big":
        low, high = high, low
    top, bottom = value >> 32, value & 0xFFFFFFFF
    if operator == libseccomp.CMP_MASKED_EQ:
        out: list[Instruction] = []
        if bottom:
            wanted = second & bottom
            out += [(_LD, 0, 0, low), (_AND, 0, 0, bottom), (_JEQ, 0, _FAIL, wanted)]
        if top:
            wanted = second >> 32 & top
            out += [(_LD, 0, 0, high), (_AND, 0, 0, top), (_JEQ, 0, _FAIL, wanted)]
        return out
    first: list[Instruction]
    match operator:
        case libseccomp.CMP_EQ:
            first, last = [(_JEQ, 0, _FAIL, top)], (_JEQ, 0, _FAIL, bottom)
        case libseccomp.CMP_NE:
            first, last = [(_JEQ, 0, _PASS, top)], (_JEQ, _FAIL, 0, bottom)
        case libseccomp.CMP_GT:
            first = [(_JGT, _PASS, 0, top), (_JEQ, 0, _FAIL, top)]
            last = (_JGT, 0, _FAIL, bottom)
        case libseccomp.CMP_GE:
            first = [(_JGT, _PASS, 0, top), (_JEQ, 0, _FAIL, top)]
            last = (_JGE, 0, _FAIL, bottom)
        case libseccomp.CMP_LT:
            first = [(_JGT, _FAIL, 0, top), (_JEQ, 0, _PASS, top)]
            last = (_JGE, _FAIL, 0, bottom)
        case _:  # CMP_LE
            first = [(_JGT, _FAIL, 0, top), (_JEQ, 0, _PASS, top)]
            last = (_JGT, _FAIL, 0, bottom)
    out = [(_LD, 0, 0, high), *first, (_LD, 0, 0, low), last]
    for at, (code, yes, no, constant) in enumerate(out):
        left = len(out) - at - 1
        out[at] = (code, left if yes == _PASS else yes, left if no == _PASS else no, constant)
    return out
