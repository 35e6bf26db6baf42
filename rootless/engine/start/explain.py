"""`--explain`: what happened, step by step, read back from the kernel.

It does not repeat what was asked for. Maps, namespaces, mounts, cgroup, capabilities and filter are
read from /proc for the container's first process. Init reads its own entries once its root is
entered. Its parent reads /proc/PID/status after execve, before anybody may reap init. What has ids
in it is read by a process that stays on the host: the kernel shows ids in the reader's user
namespace.
"""

from __future__ import annotations

import json
import os

from rootless.errors import escape
from rootless.linux import prctl
from rootless.linux.caps import NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.engine.start.create import StartContext
    from rootless.network.pasta import Pasta

_NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
# Steps of init -> the section that shows their time.
_STEPS = {
    "wait_for_maps": "namespaces",
    "detach": "namespaces",
    "join_namespaces": "namespaces",
    "open_host_side": "new root",
    "become_root": "namespaces",
    "write_sysctls": "namespaces",
    "name_host": "namespaces",
    "populate_root": "new root",
    "make_terminal": "application",
    "mask_paths": "new root",
    "make_directory": "new root",
    "enter_root": "new root",
    "limit_process": "application",
    "change_user": "capabilities",
}


def note_outside(context: StartContext) -> None:
    """Note the namespaces of the host, which this process is about to leave."""
    context.outside = Outside()


class Outside:
    """A view from the host, for a process that leaves it.

    Attributes:
        uid: of the invoking user.
        namespaces: the link of each namespace of the host, by its name in /proc/PID/ns.
    """

    def __init__(self) -> None:
        """Fork the process that will read; it ends when asked, or with this one.

        Where it runs: on the host; the caller must have no second thread.
        """
        self.uid = os.getuid()
        self.namespaces = {name: os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES}
        asked, self._ask_fd = os.pipe()
        self._answer_fd, answer = os.pipe()
        self._reader = os.fork()
        if self._reader == 0:
            try:
                prctl.set_parent_death_signal(9)
                os.dup2(asked, 0)
                os.dup2(answer, 1)
                os.closerange(2, os.sysconf("SC_OPEN_MAX"))  # pipes that others wait for
                if pid := os.read(0, 16):
                    os.write(1, json.dumps(_read_ids(int(pid))).encode())
            finally:
                os._exit(0)
        os.close(asked)
        os.close(answer)

    def read(self, pid: int) -> dict[str, str]:
        """Return uid_map, gid_map and status of a process as the host sees them, once."""
        os.write(self._ask_fd, b"%d" % pid)
        os.close(self._ask_fd)
        with open(self._answer_fd, encoding="utf-8") as answer:
            found: dict[str, str] = json.loads(answer.read() or "{}")
        os.waitpid(self._reader, 0)
        return found


def _read_ids(pid: int) -> dict[str, str]:
    found = {}
    for name in ("uid_map", "gid_map", "status"):
        with open(f"/proc/{pid}/{name}", encoding="ascii", errors="replace") as file:
            found[name] = file.read()
    return found


def show(context: StartContext, made: dict[str, Any], pasta: Pasta | None) -> None:
    """Print the account on standard error, as text or as one JSON object."""
    sections = account(context, made, pasta)
    if context.request.explain == "json":
        text = json.dumps({"container": context.container.id, "steps": sections}, indent=2)
    else:
        text = "\n".join(line for section in sections for line in _as_text(section))
    os.write(2, (text + "\n").encode("utf-8", "backslashreplace"))


def account(
    context: StartContext, made: dict[str, Any], pasta: Pasta | None
) -> list[dict[str, Any]]:
    """Return the sections in the order of execution; each has a name, facts, milliseconds."""
    report, pid = made["report"], made["init"]
    outside = context.outside
    assert outside is not None  # `note_outside`
    ids = outside.read(pid)
    spent: dict[str, float] = {}
    for step, seconds in report["times"]:
        name = _STEPS.get(step, "application")
        spent[name] = spent.get(name, 0.0) + 1000 * seconds
    ours = {step: 1000 * seconds for step, seconds in context.times}
    return [
        _section("image", _image(context), ours.get("image", 0)),
        _section("user namespace", _maps(context, ids, outside.uid), ours.get("user namespace", 0)),
        _section("root filesystem", _rootfs(made), ours.get("root filesystem", 0)),
        _section("namespaces", _namespaces(outside, report), spent.get("namespaces", 0)),
        _section("new root", _new_root(report), spent.get("new root", 0)),
        _section("control group", _cgroup(made, report), ours.get("control group", 0)),
        _section("network", _network(context, pasta), ours.get("network", 0)),
        _section("capabilities", _privileges(pid), spent.get("capabilities", 0)),
        _section("application", _application(context, pid, ids), ours.get("started", 0)),
    ]


def _section(name: str, facts: list[tuple[str, Any]], ms: float) -> dict[str, Any]:
    return {"step": name, "facts": dict(facts), "ms": round(ms, 2)}


def _image(context: StartContext) -> list[tuple[str, Any]]:
    if context.image is None:
        what = "the host's own programs, under a private copy-on-write view"
        if context.source.kind == "directory":
            what = "a directory"
        elif context.source.kind == "squashfs":
            what = f"a squashfs image in a file, from byte {context.source.offset} on"
        return [("source", f"{context.request.image or context.source.path} ({what})")]
    return [
        ("name", context.image.name),
        ("id", context.image.id),
        ("manifest", context.image.digest),
        ("layers", context.source.layers),
    ]


def _maps(context: StartContext, ids: dict[str, str], me: int) -> list[tuple[str, Any]]:
    how = "written by newuidmap and newgidmap"
    if context.member is not None:
        how = "written in the user namespace of the networks, which has all of your ids"
    if context.idmap.single:
        how = f"one id, written directly: {context.subordinate.why_none or 'as was asked'}"
    uids, gids = _extents(ids.get("uid_map", "")), _extents(ids.get("gid_map", ""))
    mine = [first + me - host for first, host, count in uids if host <= me < host + count]
    return [
        ("uid map", list(map(_shown, uids))),
        ("gid map", list(map(_shown, gids))),
        ("how", how),
        ("you are", f"uid {mine[0]} of the container" if mine else "no user of the container"),
    ]


def _extents(text: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, line.split())) for line in text.splitlines()]


def _shown(extent: tuple[int, ...]) -> str:
    first, host, count = extent
    if count == 1:
        return f"{first} -> {host}"
    return f"{first}..{first + count - 1} -> {host}..{host + count - 1}"


def _rootfs(made: dict[str, Any]) -> list[tuple[str, Any]]:
    rootfs = made["rootfs"]
    return [
        ("driver", rootfs["driver"]),
        ("options", rootfs["options"]),
        ("mounted at", rootfs["path"]),
        ("why", rootfs["why"] or [f"{rootfs['driver']} works, and nothing was tried before it"]),
    ]


def _namespaces(outside: Outside, report: dict[str, Any]) -> list[tuple[str, Any]]:
    facts: list[tuple[str, Any]] = []
    for name, before in outside.namespaces.items():
        after = report["namespaces"][name]
        facts.append((name, "the host's" if before == after else f"{before} -> {after}"))
    facts.append(("hostname", report["hostname"]))
    return facts


def _new_root(report: dict[str, Any]) -> list[tuple[str, Any]]:
    mounts = []
    for line in report["mountinfo"].splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) >= 6 and len(kind) >= 2:
            mounts.append(f"{fields[4]} {kind[0]} {fields[5]} ({fields[3]} of {kind[1]})")
    return [("mounts", mounts)]


def _cgroup(made: dict[str, Any], report: dict[str, Any]) -> list[tuple[str, Any]]:
    manager, path, why = made["cgroup"]
    own = [line for line in report["cgroup"].splitlines() if line.startswith("0::")]
    return [
        ("manager", manager),
        ("directory", path or "the caller's"),
        ("why", why),
        ("seen inside as", own[0][3:] if own else "nothing: no unified hierarchy"),
        ("limits", _limits(path)),
    ]


_LIMITS = (
    *("memory.max", "memory.swap.max", "memory.low", "pids.max", "cpu.max", "cpu.weight"),
    *("cpuset.cpus", "cpuset.mems", "io.max", "io.weight", "io.bfq.weight"),
)


def _limits(path: str | None) -> list[str]:
    """Return the limits that the kernel has for this cgroup; "max" is none."""
    found = []
    for name in _LIMITS:
        try:
            with open(f"{path}/{name}", encoding="ascii") as file:
                lines = file.read().strip().splitlines()
        except OSError:
            continue  # that controller is not delegated, or there is no cgroup of our own
        if lines:
            found.append(f"{name}: {'; '.join(lines)}")
    return found


def _network(context: StartContext, pasta: Pasta | None) -> list[tuple[str, Any]]:
    mode = context.request.network or "pasta"
    facts: list[tuple[str, Any]] = [("mode", mode)]
    if pasta is not None:
        facts += [("pasta", f"pid {pasta.pid}"), ("published", pasta.ports)]
    if context.member is not None:
        for place in context.member.places:
            own = " ".join(filter(None, (place["ip"], place["ip6"], place["mac"])))
            facts.append((place["name"], f"{place['interface']}: {own}"))
        facts.append(("published", context.member.ports))
    return facts


def _privileges(pid: int) -> list[tuple[str, Any]]:
    status = _status(pid)
    facts: list[tuple[str, Any]] = []
    for field, name in (
        ("CapBnd", "bounding"),
        ("CapEff", "effective"),
        ("CapPrm", "permitted"),
        ("CapInh", "inheritable"),
        ("CapAmb", "ambient"),
    ):
        bits = int(status.get(field, "0"), 16)
        names = [NAMES[number] for number in range(len(NAMES)) if bits & 1 << number]
        facts.append((name, " ".join(entry[4:].lower() for entry in names) or "none"))
    modes = {"0": "none", "1": "strict", "2": "a filter"}
    filters = status.get("Seccomp_filters", "1")
    facts.append(("no_new_privs", {"0": "off", "1": "on"}.get(status.get("NoNewPrivs", ""), "?")))
    mode = status.get("Seccomp", "0")
    facts.append(("seccomp", f"{modes.get(mode, mode)}" + (f" ({filters})" if mode == "2" else "")))
    return facts


def _application(context: StartContext, pid: int, ids: dict[str, str]) -> list[tuple[str, Any]]:
    status = _fields(ids.get("status", ""))
    process = context.spec["process"]
    groups = status.get("Groups", "?")
    return [
        ("argv", process["args"]),
        ("working directory", process["cwd"]),
        ("uid", status.get("Uid", "?").split("\t")[0] + " on the host"),
        ("groups", f"{groups} on the host" if groups else "none"),
        ("pid", " -> ".join(_status(pid).get("NSpid", str(pid)).split()) + " (host -> container)"),
        ("environment", [entry.partition("=")[0] for entry in process["env"]]),
    ]


def _status(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            return _fields(file.read())
    except OSError:
        return {}


def _fields(status: str) -> dict[str, str]:
    lines = (line.partition(":") for line in status.splitlines())
    return {name: value.strip() for name, _, value in lines}


def _as_text(section: dict[str, Any]) -> list[str]:
    lines = [f"{section['step']}  ({section['ms']} ms)"]
    for name, value in section["facts"].items():
        if isinstance(value, list) and name not in ("argv", "environment"):
            lines.append(f"    {name}:" if value else f"    {name}: none")
            lines += [f"        {escape(str(item))}" for item in value]
        elif isinstance(value, list):
            lines.append(f"    {name}: {escape(' '.join(value))}")
        else:
            lines.append(f"    {name}: {escape(str(value))}")
    return lines
