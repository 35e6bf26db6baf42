"""Step 4, the control group: the container's place in it, if the host allows one, and its limits.

There are three managers: `systemd` makes a scope below the user's own systemd, `cgroupfs` a
directory in a delegated part of the hierarchy, `none` nothing. By default rless stays in a unit
that was delegated to it (Delegate=yes), else asks systemd, else looks for a group that it can
write. If a limit cannot be set, nothing starts, unless best effort is requested.
"""

from __future__ import annotations

import os

from rootless import log
from rootless.errors import RlessError
from rootless.linux.cgroup import find_own, of_user_manager, read_words, sockets
from rootless.runtime.cgroup import cgroupfs
from rootless.runtime.cgroup.base import CgroupRequest
from rootless.runtime.cgroup.none import NoCgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

    from rootless.linux.dbus import Connection
    from rootless.runtime.cgroup.base import Cgroup
    from rootless.runtime.cgroup.systemd import Scope

    Note: TypeAlias = Callable[[str, str], None]

CONTAINER = "container"  # the group of the container, in its scope


def survey() -> tuple[str, list[str]]:
    """Return the manager that is chosen where none is asked for, and the controllers it has."""
    if (reachable := sockets()) and not _stays(reachable, [os.getppid()]):
        found = of_user_manager(os.getuid())
        return "systemd", read_words(f"{found}/cgroup.controllers") if found else []
    group = cgroupfs.find_delegated()
    if isinstance(group, str):
        return "none", []
    return "cgroupfs", read_words(f"{group.directory}/cgroup.controllers")


class PendingCgroup:
    """A cgroup that is made in parts, so that systemd works in parallel with the start.

    `begin` and `ask` run on the host's side of the user namespace, `finish` when the cgroup is
    needed. Only `finish` raises; it reports what went wrong before.
    """

    __slots__ = ("_connection", "_error", "_request", "_scope")

    def __init__(self) -> None:
        self._request = CgroupRequest("")
        self._connection: Connection | None = None
        self._scope: Scope | None = None
        self._error: RlessError | None = None

    def begin(
        self,
        manager: str,
        parent: str | None = None,
        others: Sequence[int] = (),
    ) -> None:
        """Connect to systemd, if there is to be a scope.

        Args:
            manager, parent: of the request that follows.
            others: processes that belong to us, besides children.
        """
        if manager not in ("auto", "systemd"):
            return
        reachable = sockets()
        if manager == "auto":
            if parent is not None and parent.startswith("/"):
                return
            if not reachable or (parent is None and _stays(reachable, others)):
                return
        from rootless.runtime.cgroup import patience

        try:
            self._connection = patience.reach(reachable)
        except RlessError as error:
            self._error = error
            return
        import rootless.runtime.cgroup.systemd  # noqa: F401  # systemd lets us in meanwhile

    def ask(self, request: CgroupRequest, pids: Sequence[int]) -> None:
        """Say what is wanted: systemd is asked for it, if there is to be a scope.

        Args:
            pids: of the process that looks after the container, this one or a child.
        """
        self._request = request
        if self._connection is None:
            return
        from rootless.runtime.cgroup import patience
        from rootless.runtime.cgroup.systemd import Scope

        try:
            self._scope = Scope(self._connection, request, pids)
            self._scope.ask()
        except RlessError as error:
            patience.remember(error)
            self._error = error
            self.close()

    def update(self, resources: dict[str, Any]) -> None:
        """Say which limits there are in the end: `linux.resources` of the config."""
        self._request.resources = resources

    def close(self) -> None:
        """Have no more to do with systemd."""
        self._scope = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def finish(self, helpers: Sequence[int] = (), note: Note | None = None) -> Cgroup:
        """Return the container's cgroup, made, with its limits.

        Args:
            helpers: other children that look after the container, and go with us.
            note: told the manager and the directory ("" for none) before that is made, so that
                there is a witness of it whatever happens to us.

        Raises:
            RlessError: a limit that cannot be set, or the manager that was asked for does not work.
        """
        request = self._request
        if self._error is not None and _is_about_limits(self._error):
            raise self._error
        if self._scope is not None and self._connection is not None:
            from rootless.runtime.cgroup import patience

            try:
                group = cgroupfs.Group(self._scope.finish(), f"systemd made {self._scope.unit}")
                patience.answered(self._connection)
                if helpers:
                    self._scope.adopt(helpers)
                members = read_words(f"{group.directory}/cgroup.procs")
                group.move_down(members)
                group.enable(read_words(f"{group.directory}/cgroup.controllers"))
                return _limit(_make(group, CONTAINER, "systemd", note), request)
            except OSError as error:
                self._error = RlessError(f"{error.filename}: {error.strerror}")
            except RlessError as error:
                if _is_about_limits(error):
                    raise
                patience.remember(error)
                self._error = error
            finally:
                self.close()
        if request.manager == "systemd":
            why = self._error or RlessError("the user has no systemd here")
            raise RlessError(
                f"the control group manager systemd: {why.message}",
                why.hint or "leave --cgroup-manager out, or use cgroupfs or none",
            )
        if request.manager == "none":
            if note is not None:
                note("none", "")
            return _limit(NoCgroup("no control group was asked for"), request)
        made = self._by_hand(note)
        if made.path is None and note is not None:
            note(made.manager, "")
        return _limit(made, request)

    def _by_hand(self, note: Note | None) -> Cgroup:
        """Make a directory in a group that is ours, or say why there is none."""
        request, why = self._request, ""
        if self._error is not None:
            why = f"; systemd: {self._error.message}"
        if request.parent is not None and request.parent.startswith("/"):
            group: cgroupfs.Group | str = cgroupfs.parent_group(request.parent)
        elif request.parent is not None:
            raise self._error or RlessError(
                f"--cgroup-parent {request.parent}: a slice is systemd's, "
                "and the user has none here",
                "log in by a way that starts a systemd user session, or leave it out",
            )
        else:
            group = cgroupfs.find_delegated()
        if isinstance(group, str):
            if request.required:
                raise RlessError(
                    f"the control group manager cgroupfs: {group}", "see `rless doctor`"
                )
            return NoCgroup(group + why)
        if request.hand_down or request.resources:
            for one in group.line() if request.parent is not None else [group]:
                one.hand_down(everybody=bool(request.resources))
        try:
            group.why += why
            return _make(group, request.name, "cgroupfs", note)
        except OSError as error:
            if request.required:
                raise RlessError(f"cannot make {error.filename}: {error.strerror}") from error
            return NoCgroup(f"{error.filename}: {error.strerror}{why}")


def _make(group: cgroupfs.Group, name: str, manager: str, note: Note | None) -> Cgroup:
    path = group.place(name)
    if note is not None:
        note(manager, path)
    try:
        os.mkdir(path, 0o755)
    except OSError:
        if note is not None:
            note(manager, "")  # what is there may be somebody's
        raise
    return cgroupfs.CgroupfsCgroup(path, group.why, manager)


def _stays(reachable: Sequence[tuple[str, bool]], others: Sequence[int]) -> bool:
    """Tell whether the group is made in the unit that we are in: it is for us alone to divide.

    That is the unit of a service that starts a container, or of `systemd-run -p Delegate=yes`; not
    one with a shell in it, which would be in the way of controllers.
    """
    own = find_own()
    if own is None or not cgroupfs.is_writable(own):
        return False
    if os.path.basename(own) == cgroupfs.SUPERVISOR:
        return True
    if not cgroupfs.has_only_us(own, others):
        return False
    if cgroupfs.is_handed_over(own):
        return True
    from rootless.runtime.cgroup import systemd

    return systemd.is_delegated(own, reachable)


def _is_about_limits(error: RlessError) -> bool:
    from rootless.runtime.cgroup.resources import LimitError

    return isinstance(error, LimitError)


def _limit(made: Cgroup, request: CgroupRequest) -> Cgroup:
    """Set the limits of a cgroup that was made.

    Raises:
        RlessError: one cannot be set. Nothing is left then.
    """
    resources = request.resources
    if made.path is None and not resources:
        return made
    offered = set(read_words(f"{made.path}/cgroup.controllers")) if made.path else set()
    if request.default_pids is not None and "pids" in offered and "pids" not in resources:
        resources = {**resources, "pids": {"limit": request.default_pids}}
    if not resources:
        return made
    from rootless.runtime.cgroup import resources as limits

    try:
        if missing := limits.missing(resources, offered):
            from rootless.runtime.cgroup import refusal

            if not request.best_effort:
                raise refusal.explain(missing, made)
            made.rlimits, made.cpus, words = refusal.replace(resources, missing)
            log.warn(f"{words}: {refusal.reason(missing, made)}")
            resources = limits.without(resources, missing)
        if made.path is not None:
            limits.apply(made.path, resources)
    except RlessError:
        try:
            made.destroy()
        except OSError:
            pass  # `reconcile` finds it
        raise
    made.resources = resources
    return made


def shelter(name: str, description: str, pid: int) -> None:
    """Give a helper that outlives its session a scope of its own, with its children.

    Best effort: where there is no systemd, nothing ends it at the end of a session either, as a
    rule.
    """
    if not (reachable := sockets()):
        return
    from rootless.runtime.cgroup import patience
    from rootless.runtime.cgroup.systemd import Scope

    request = CgroupRequest(name, "systemd")
    request.description = description
    children = read_words(f"/proc/{pid}/task/{pid}/children")
    try:
        connection = patience.reach(reachable)
        try:
            scope = Scope(connection, request, [pid, *map(int, children)])
            scope.ask()
            scope.wait()
        finally:
            connection.close()
    except RlessError as error:
        log.debug(f"{name}: no scope: {error.message}")


def choose(request: CgroupRequest, note: Note | None = None) -> Cgroup:
    """Make the cgroup for a container, for a caller with nothing to do meanwhile.

    Args:
        note: as for `PendingCgroup.finish`.

    Raises:
        RlessError: as `PendingCgroup.finish`.
    """
    pending = PendingCgroup()
    pending.begin(request.manager, request.parent, [os.getppid()])
    pending.ask(request, [os.getpid()])
    return pending.finish(note=note)


def change(
    path: str | None,
    manager: str,
    resources: dict[str, Any],
    lifted: dict[str, str],
    best_effort: bool,
) -> dict[str, Any]:
    """Change the limits of a container that runs; return those that are set.

    Args:
        path: of its cgroup; manager: who has made it.
        resources: all that it shall have.
        lifted: files of what it shall have no more, and their values.

    Raises:
        RlessError: one cannot be set.
    """
    from rootless.runtime.cgroup import refusal
    from rootless.runtime.cgroup import resources as limits

    offered = set(read_words(f"{path}/cgroup.controllers")) if path else set()
    if missing := limits.missing(resources, offered):
        made: Cgroup = NoCgroup("the container has no control group")
        if path:
            made = cgroupfs.CgroupfsCgroup(path, "", manager)
        if not best_effort:
            raise refusal.explain(missing, made)
        log.warn(f"there is no limit of {refusal.of(missing)}: {refusal.reason(missing, made)}")
        resources = limits.without(resources, missing)
    if path:
        gone = {name: value for name, value in lifted.items() if os.path.exists(f"{path}/{name}")}
        whole = {**resources, "unified": {**gone, **resources.get("unified", {})}}
        limits.apply(path, whole)
        if manager == "systemd":
            from rootless.runtime.cgroup import systemd

            systemd.change(path, whole, sockets())
    return resources
