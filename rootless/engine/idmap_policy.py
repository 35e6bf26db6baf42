"""The id map policy: which user of the container is the invoking user.

Where the container gets files of the host, the map sends the user that the application runs as to
the invoking user, whoever that is in the image. So the invoking user owns what the application
writes to a bind mount, without a flag. Elsewhere root is the invoking user, as in Podman, and all
containers have one map. A volume keeps the map that it was first written in. All other ids map to
subordinate ids, in order. See docs/decisions/0002-id-maps.md and 0020-maps-of-volumes.md.
"""

from __future__ import annotations

import os
import time

from rootless import log, paths
from rootless.errors import RlessError, SyscallError, escape
from rootless.linux import idmap, ns, process, programs
from rootless.linux.idmap import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    Extent = tuple[int, int, int]
    Owner = tuple[int, int]  # uid and gid in a container

_MAX_ID = 2**31 - 1
_DAY = 24 * 60 * 60.0


class Subordinate:
    """The subordinate ids of the caller; they are looked up when an attribute is first read.

    Attributes:
        uids, gids: (start, count) ranges on the host.
        why_none: why no subordinate ids can be used, and what is lost without them; else None.
        remedy: what to do about that.
    """

    __slots__ = ("gids", "remedy", "uids", "why_none")

    uids: list[tuple[int, int]]
    gids: list[tuple[int, int]]
    why_none: str | None
    remedy: str

    def __getattr__(self, name: str) -> Any:
        """Look them up; only what has no value yet comes here."""
        if name not in self.__slots__:
            raise AttributeError(name)
        from rootless.linux import subid

        self.uids = subid.ranges("uid")
        self.gids = subid.ranges("gid")
        self.why_none, self.remedy = None, "`rless doctor` tells how to get a range"
        if not self.uids or not self.gids:
            missing = "subuid" if not self.uids else "subgid"
            self.why_none = f"you have no range in /etc/{missing}"
        elif os.geteuid() != 0:
            for program in ("newuidmap", "newgidmap"):
                path = programs.find_privileged(program)
                if path is None:
                    self.why_none = f"{program} is not installed"
                    self.remedy = "`rless doctor` names the package"
                elif why := idmap.why_powerless(path):
                    self.why_none, self.remedy = why, "`rless doctor` tells what to do"
        if self.why_none:
            self.uids, self.gids = [], []
        return getattr(self, name)


def build(uid: int, gid: int, ids: Subordinate, include_me: bool = True) -> IdMap:
    """Return the map that sends (uid, gid) of the container to the caller.

    The other ids from 0 up are the subordinate ones in their order; as many as there are.

    Args:
        include_me: False leaves the caller out.
    """
    if not ids.uids:
        return build_single(uid, gid)
    # The first range is in the name: where an administrator changes it, owners on disk differ.
    key = f"u{uid}g{gid}-{ids.uids[0][0]}-{ids.gids[0][0]}"
    if not include_me:
        return IdMap(_fill(ids.uids, None, 0), _fill(ids.gids, None, 0), key)
    return IdMap(_fill(ids.uids, uid, os.getuid()), _fill(ids.gids, gid, os.getgid()), key)


def identity(ids: Subordinate) -> IdMap:
    """Return the map in which all of the caller's ids are themselves: that of the networks."""
    maps = [
        [(me, me, 1), *((first, first, count) for first, count in ranges)]
        for me, ranges in ((os.getuid(), ids.uids), (os.getgid(), ids.gids))
    ]
    return IdMap(sorted(maps[0]), sorted(maps[1]), "identity")


def build_single(uid: int, gid: int) -> IdMap:
    """Return the map of one id, for which the kernel asks nobody."""
    return IdMap([(uid, os.getuid(), 1)], [(gid, os.getgid(), 1)], "single")


def _fill(ranges: Sequence[tuple[int, int]], mine: int | None, me: int) -> list[Extent]:
    """Lay the ranges side by side from container id 0 on, leaving out `mine`, which is `me`."""
    extents = []
    container_id = 0
    for first, length in ranges:
        host_id, end = first, first + length
        while host_id < end:
            if container_id == mine:
                container_id += 1
            size = end - host_id
            if mine is not None and container_id < mine:
                size = min(size, mine - container_id)
            extents.append((container_id, host_id, size))
            container_id += size
            host_id += size
    if mine is not None:
        extents.append((mine, me, 1))
    return sorted(extents)


def count(ids: Subordinate) -> int:
    """Return how many ids of both kinds the caller has beside her own."""
    return min(sum(length for _, length in ids.uids), sum(length for _, length in ids.gids))


def choose(mode: str, user: Owner, ids: Subordinate, caller: Owner | None = None) -> IdMap:
    """Return the map for a --userns mode.

    Args:
        mode: auto, host-root, nomap, single, keep-id[:uid=N,gid=N].
        user: (uid, gid) that the application runs as.
        caller: (uid, gid) that the caller should be with `auto`; None: the same. It is the same,
            too, where the user would not be in the map otherwise.

    Raises:
        RlessError: the mode needs subordinate ids and there are none.
    """
    uid, gid = user
    if uid > _MAX_ID or gid > _MAX_ID:
        raise RlessError(f"user {uid}:{gid} is out of range", f"ids go up to {_MAX_ID}")
    if mode == "auto":
        if caller is not None and ids.uids:
            mapping = build(*caller, ids)
            if mapping.host_uid(uid) is not None and mapping.host_gid(gid) is not None:
                return mapping
        return build(uid, gid, ids)
    if mode == "host-root":
        return build(0, 0, ids)
    if mode == "single":
        return build_single(uid, gid)
    if mode == "nomap":
        if not ids.uids:
            raise RlessError(
                f"--userns=nomap needs subordinate ids: {ids.why_none}",
                "use --userns=auto, which uses your own id only",
            )
        # Beyond the last subordinate id: the engine needs the caller's id to reach the storage;
        # the container gets a user namespace of its own without it.
        return build(count(ids), count(ids), ids)
    return build(*keep_id(mode), ids)


def keep_id(mode: str) -> tuple[int, int]:
    """Return the (uid, gid) inside that keep-id[:uid=N,gid=N] means; the caller's by default."""
    uid, gid = os.getuid(), os.getgid()
    for option in mode.partition(":")[2].split(","):
        name, _, value = option.partition("=")
        if name == "uid" and value.isdigit():
            uid = int(value)
        elif name == "gid" and value.isdigit():
            gid = int(value)
        elif option:
            raise RlessError(f"--userns={mode}: {option!r} is not uid=N or gid=N")
    return uid, gid


def warn_single(ids: Subordinate) -> None:
    """Say in one line what is lost without subordinate ids, once a day."""
    said = f"{paths.boot_root()}/said-one-id"
    try:
        if 0 <= time.time() - os.stat(said).st_mtime < _DAY:
            return
    except OSError:
        pass  # it was never said, or before the last boot
    log.warn(
        f"{ids.why_none}: only your own id exists in the container (other users of the image "
        f"do not; no file can be given to them; your supplementary groups stay); {ids.remedy}"
    )
    try:
        paths.private_dir(paths.boot_root())
        os.close(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.utime(said)
    except (OSError, RlessError):
        pass  # a full disk: it is said again


def warn_owners(
    mode: str, user: Owner, caller: Owner, volumes: Mapping[str, Owner], bound: bool
) -> None:
    """Say what cannot hold: the numbers in a volume, or that bind mounts are the application's.

    Args:
        mode: of --userns.
        user: whom the application runs as. caller: whom the map makes the caller.
        volumes: name -> whom the caller is in that volume.
        bound: whether there is a bind mount.
    """
    others = [name for name, owner in volumes.items() if owner != caller]
    kept = [name for name in volumes if name not in others]
    if others:
        by = f"--userns={mode}" if mode != "auto" else f"volume {kept[0]}" if kept else "--user"
        there, here = (":".join(map(str, owner)) for owner in (volumes[others[0]], caller))
        log.warn(
            f"volume {', '.join(others)} shows its files with other owners here: in it user "
            f"{there} is you, but in this container {'nobody' if mode == 'nomap' else here} is, "
            f"because of {by}"
        )
    if bound and kept and mode == "auto" and caller != user:
        mine, runs = (":".join(map(str, owner)) for owner in (caller, user))
        log.warn(
            f"the application runs as user {runs}, which does not have your rights on bind mounts: "
            f"in volume {kept[0]} user {mine} is you; "
            f"--userns=keep-id:uid={user[0]},gid={user[1]} puts the bind mounts first"
        )


def explain_failure(error: SyscallError) -> RlessError:
    """Turn the errno of unshare into a reason and a hint that the user can act on."""
    from rootless.host.hints import hint_for_userns_failure

    why, hint = hint_for_userns_failure(error.errno)
    return RlessError(f"cannot make a user namespace: {why}", hint)


def unshare(command: list[str]) -> int:
    """Run a command in the default map, as root of it; return its exit code.

    To look at, or delete, files of subordinate ids.
    """
    import pwd

    mapping = build(0, 0, Subordinate())
    if not command:
        try:
            shell = pwd.getpwuid(os.getuid()).pw_shell
        except KeyError:
            shell = ""
        command = [os.environ.get("SHELL") or shell or "/bin/sh"]

    def body() -> NoReturn:
        process.become_root()
        try:
            os.execvp(command[0], command)
        except FileNotFoundError:
            code = 127
        except OSError:
            code = 126
        os.write(2, f"rless: cannot execute {escape(command[0])}\n".encode())
        os._exit(code)

    try:
        pid = idmap.spawn(mapping, ns.CLONE_NEWNS, body)
    except SyscallError as error:
        raise explain_failure(error) from error
    return _wait_like_a_shell(pid)


def _wait_like_a_shell(pid: int) -> int:
    import signal

    # The terminal's signals are for the command; we only wait.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
