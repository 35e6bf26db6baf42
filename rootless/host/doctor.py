"""`rless doctor`: check this host, and print each fact, what it means and how to change it.

It tries what matters and does not guess: it makes the namespaces, maps the ids, mounts the drivers.
`facts` reads, `probe` tries, `checks` judges.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import textwrap

from rootless import paths
from rootless.errors import RlessError, escape
from rootless.host import checks, facts, probe
from rootless.host.checks import FAIL, OK, WARN, Check
from rootless.linux import cgroup, process, programs, subid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def collect() -> list[Check]:
    """Make every check, in the order of the six steps of `run`."""
    found = list(_host())
    usable = not any(check.id == "userns" and check.status == FAIL for check in found)
    return found + list(_identity(usable)) + list(_storage(usable)) + list(_surroundings(usable))


def _host() -> Iterator[Check]:
    yield checks.check_python((sys.version_info[0], sys.version_info[1]), sys.executable)
    yield checks.check_kernel(os.uname().release)
    yield checks.check_confinement(_status())
    usable = probe.bounded(probe.user_namespace)
    yield checks.check_userns(usable)
    if usable:
        yield checks.check_kernel_mounts(probe.bounded(probe.kernel_mounts))


def _status() -> dict[str, str]:
    return facts.parse_status(facts.read("/proc/self/status") or "")


def _ranges(kind: str) -> list[tuple[int, int]]:
    outcome = probe.bounded(subid.ranges, kind)  # a directory service may hang
    return [(start, count) for start, count in outcome.result or []]


def _identity(usable: bool) -> Iterator[Check]:
    uid = os.getuid()
    name = facts.user_name(uid) or str(uid)
    complete = True
    needed = {"newuidmap": facts.CAP_SETUID, "newgidmap": facts.CAP_SETGID}
    found = {program: programs.find_privileged(program) for program in needed}
    for program, path in found.items() if uid else ():  # root writes the maps itself
        yield checks.check_idmap_program(program, needed[program], path, any(found.values()))
        complete = complete and path is not None
    library = facts.find_library("libsubid.so.5", "libsubid.so.4", "libsubid.so.3")
    uids, gids = _ranges("uid"), _ranges("gid")
    for kind, ranges in (("uid", uids), ("gid", gids)):
        text = facts.read(f"/etc/sub{kind}") or ""
        yield checks.check_subids(kind, ranges, name, text, has_libsubid=library is not None)
    if usable and uids and gids and complete:  # only without these `run` goes on with one id
        yield checks.check_full_map(probe.bounded(probe.full_map, uids, gids))


def _storage(usable: bool) -> Iterator[Check]:
    try:
        path = paths.storage_root()
    except RlessError as error:
        yield Check("storage", FAIL, error.message, "nothing can be stored", error.hint or "")
        return
    mount = facts.mount_of(os.path.realpath(path), facts.mounts())
    yield checks.check_storage(path, mount, probe.bounded(probe.space, path))
    if usable:
        yield from _drivers(path)
    try:
        os.rmdir(path)  # only if it is empty: then this run of doctor has made it
    except OSError:
        pass


def _drivers(path: str) -> Iterator[Check]:
    """Try what the storage at `path` can hold, in directories that are removed again."""
    made: list[str] = []

    def fresh() -> str:
        made.append(tempfile.mkdtemp(prefix=".doctor-", dir=path))
        return made[-1]

    try:
        xattr = probe.bounded(probe.user_xattr, fresh())
        uids, gids = _ranges("uid"), _ranges("gid")
        if uids and gids and probe.bounded(probe.full_map, uids, gids):
            yield checks.check_owners(probe.bounded(probe.foreign_owner, fresh(), uids, gids))
        yield checks.check_locks(probe.bounded(probe.locks, fresh()))
        overlay = checks.check_overlay(probe.bounded(probe.kernel_overlay, fresh()), xattr)
        program = programs.find("fuse-overlayfs")
        device = probe.bounded(probe.device, "/dev/fuse")
        tried = None
        if program and device:
            tried = probe.bounded(probe.fuse_overlay, fresh(), program)
        fuse = checks.check_fuse(program, device, tried)
        yield overlay
        yield fuse
        yield checks.check_driver(overlay, fuse)
        names = ("squashfuse_ll", "squashfuse", "unsquashfs", "mksquashfs")
        there = [name for name in names if programs.find(name)]
        yield checks.check_image_files(there, device)
    except OSError as error:
        yield Check("driver", FAIL, f"{path}: {error.strerror}", "nothing can be stored", "")
    finally:
        for directory in made:
            probe.remove(directory)


def _surroundings(usable: bool) -> Iterator[Check]:
    uid = os.getuid()
    name = facts.user_name(uid) or str(uid)
    yield checks.check_runtime_dir(os.environ.get("XDG_RUNTIME_DIR"), uid)
    try:
        pasta, why = programs.find_pasta(), "not installed"
    except RlessError as error:
        pasta, why = None, error.message
    said = probe.bounded(probe.version, pasta) if pasta else probe.Outcome(error=why)
    yield checks.check_network(pasta, said, probe.bounded(probe.device, "/dev/net/tun"))
    if usable:
        yield checks.check_bridges(probe.bounded(probe.bridges))
    yield checks.check_seccomp(facts.find_library("libseccomp.so.2"), _status())
    policies = (os.path.expanduser(paths.OWN_POLICY), paths.SYSTEM_POLICY)
    yield checks.check_policy(next(filter(os.path.exists, policies), None))
    kills = facts.ask_logind(name)
    groups = facts.cgroups()
    yield checks.check_cgroup(groups, cgroup.of_user_manager(uid))
    yield checks.check_linger(
        name,
        systemd=os.path.isdir("/run/systemd/system"),
        session=os.path.exists(f"/run/user/{uid}/systemd/private"),
        linger=os.path.exists(f"/var/lib/systemd/linger/{name}"),
        kills=facts.kills_user_processes() if kills is None else kills,
    )
    missing = [
        name for name in checks.PROGRAMS if not os.access(process.own_program(name), os.X_OK)
    ]
    yield checks.check_programs(missing)


def render(found: list[Check], width: int, colour: bool) -> str:
    """Return the checks as an aligned table, with the meaning and the fix where there are any."""
    paint = {OK: "\033[32m", WARN: "\033[33m", FAIL: "\033[31m"} if colour else {}
    column = max(len(check.id) for check in found) + 2
    indent = " " * (6 + column)
    lines = []
    for check in found:
        mark = f"{check.status:<4}"
        if colour:
            mark = f"{paint[check.status]}{mark}\033[0m"
        first = f"{mark}  {check.id:<{column}}"
        lines += _wrap(check.fact, width, first, indent, hidden=len(mark) - 4)
        if check.meaning:
            lines += _wrap(check.meaning, width, indent, indent)
        if check.fix:
            head, *rest = check.fix.split("\n")
            lines += _wrap(f"fix: {head}", width, indent, indent + "     ")
            lines += [f"{indent}  {line}".rstrip() for line in rest]  # a file: as it is
    return "\n".join(lines)


def _wrap(text: str, width: int, first: str, rest: str, hidden: int = 0) -> list[str]:
    """Break escaped text into lines; `hidden` characters of `first` take no place."""
    placeholder = first[hidden:] if hidden else first
    lines = textwrap.wrap(
        escape(text),
        max(width, len(rest) + 40),
        initial_indent=" " * len(placeholder),
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    head = lines[0][len(placeholder) :] if lines else ""
    return [first + head, *lines[1:]]


def summary(found: list[Check]) -> str:
    """Return the closing line."""
    failed = [check.id for check in found if check.status == FAIL]
    warned = sum(check.status == WARN for check in found)
    if failed:
        return f"rless run does not work here yet: {', '.join(failed)}"
    if warned:
        return f"rless run works here; {warned} of {len(found)} checks have a remark"
    return "rless run works here"


def main(json_output: bool = False) -> int:
    """Print the checks; return 0 if `rless run` would work, else 1."""
    found = collect()
    works = all(check.status != FAIL for check in found)
    if json_output:
        document = {
            "works": works,
            "summary": summary(found),
            "checks": [check._asdict() for check in found],
        }
        text = json.dumps(document, indent=2)
    else:
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size((100, 24)).columns if terminal else 100
        colour = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        text = f"{render(found, width, colour)}\n\n{summary(found)}"
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()
    return 0 if works else 1
