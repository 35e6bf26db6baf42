"""What `exec` finds out before it starts: the container's process, its config, the new process.

The container's record and the request become an OCI `process` object. It has what the container was
started with: capabilities, no_new_privs, limits, environment. Nothing comes from the caller.
"""

from __future__ import annotations

import os
import stat

from rootless import jsontext
from rootless.engine.state import container as containers
from rootless.errors import CONFLICT, EXIT_CANNOT_EXECUTE, RlessError, SyscallError
from rootless.linux.caps import NAMES, last_capability
from rootless.linux.openat2 import openat2
from rootless.runtime.host import exec as runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.engine.exec.exec import ExecRequest
    from rootless.engine.state.container import Container
    from rootless.engine.state.records import RunRecord
    from rootless.oci.runtime_spec import Capabilities, Process, Spec

_USERS_LIMIT = 1 << 20  # bytes of /etc/passwd or /etc/group that are read


def check(container: Container) -> RunRecord:
    """Return the run record of a container that runs and is not paused.

    Raises:
        RlessError: it does not, with Docker's words and exit code.
    """
    name = container.facts["name"]
    record = container.run_record()
    if not containers.is_alive(record.get("init")):
        raise RlessError(
            f"container {name} is not running",
            f"start it first (rless start {name})",
            1,
            kind=CONFLICT,
        )
    if containers.is_paused(record):
        raise RlessError(
            f"container {name} is paused",
            f"unpause the container before exec (rless unpause {name})",
            1,
            kind=CONFLICT,
        )
    return record


def hold(container: Container) -> tuple[runtime.Init, str | None]:
    """Hold the first process of a container that `check` lets pass; return its cgroup, too.

    Raises:
        RlessError: as `check`; it has just ended.
    """
    record = check(container)
    return runtime.Init(*record["init"]), record.get("cgroup") or None


def supervisor(record: RunRecord) -> str:
    """Return the control group of the container's monitor; "": there is none.

    For who outlives the caller: a unit of systemd may end with all that is in its group.
    """
    from rootless.runtime.cgroup.cgroupfs import SUPERVISOR

    cgroup = record.get("cgroup")
    return f"{os.path.dirname(cgroup)}/{SUPERVISOR}" if cgroup else ""


def load_spec(container: Container) -> Spec:
    """Return the config that the container was started with.

    Raises:
        RlessError: it cannot be read.
    """
    path = f"{container.directory}/config.json"
    try:
        with open(path, "rb") as file:
            spec: Spec = jsontext.loads(file.read())
    except (OSError, ValueError) as error:
        raise RlessError(f"cannot read {path}: {error}") from error
    return spec


def describe(
    request: ExecRequest, container: Container, spec: Spec
) -> tuple[Process, Callable[[Process], None] | None]:
    """Return the `process` object, and what completes it inside, where only there it is known."""
    own = spec["process"]
    environment = dict(entry.partition("=")[::2] for entry in own.get("env", []))
    if request.tty:
        environment.setdefault("TERM", "xterm")
    for name in request.env_remove:
        environment.pop(name, None)
    asked = dict(entry.partition("=")[::2] for entry in request.env)
    environment.update(asked)
    user = dict(own.get("user", {}))
    description: Process = {
        "terminal": request.tty,
        "user": user,  # type: ignore[typeddict-item]
        "args": request.command,
        "env": _list(environment),
        "cwd": request.workdir or own.get("cwd", "/"),
        "rlimits": own.get("rlimits", []),
        "capabilities": capabilities(own, user.get("uid", 0), request.privileged),  # type: ignore[arg-type]
    }
    if request.user is None:
        return description, None
    from rootless.image.config.user import resolve_user

    wanted = request.user
    has_home = "HOME" in asked or _chose_home(container)
    has_group = _mapped_groups(container, spec)

    def complete(description: Process) -> None:
        try:
            uid, gid, groups, home = resolve_user(
                wanted, passwd=_read("/etc/passwd"), group=_read("/etc/group")
            )
        except RlessError as error:
            raise RlessError(error.message, error.hint, EXIT_CANNOT_EXECUTE) from error
        user.update(uid=uid, gid=gid, additionalGids=[one for one in groups if has_group(one)])
        if not has_home:
            environment["HOME"] = home
        description["env"] = _list(environment)
        description["capabilities"] = capabilities(own, uid, request.privileged)

    return description, complete


def _list(environment: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environment.items()]


def capabilities(own: Process, uid: int, privileged: bool) -> Capabilities:
    """Return the five sets: the container's bounding set, or all that there are.

    Root has what is in the bounding set, others have nothing, whoever the container runs as.
    """
    bounding = list(own.get("capabilities", {}).get("bounding", []))
    if privileged:
        bounding = list(NAMES[: last_capability() + 1])
    held = bounding if uid == 0 else []
    return {
        "bounding": bounding,
        "effective": held,
        "permitted": held,
        "inheritable": [],
        "ambient": [],
    }


def _chose_home(container: Container) -> bool:
    """Tell whether the image or the user set HOME; else it is that of the container's user."""
    image = (container.facts.get("image_config") or {}).get("Env") or []
    request = (container.facts.get("request") or {}).get("env") or []
    return any(entry.startswith("HOME=") for entry in (*image, *request))


def _mapped_groups(container: Container, spec: Spec) -> Callable[[int], bool]:
    """Return what tells whether a group of the image is in the map; others are lost, as in run."""
    extents = [
        (entry["containerID"], entry["size"])
        for entry in spec.get("linux", {}).get("gidMappings", [])
    ] or [(first, size) for first, _, size in container.idmap().gids]

    def is_mapped(gid: int) -> bool:
        return any(first <= gid < first + size for first, size in extents)

    return is_mapped


def _read(path: str) -> bytes:
    """Return the start of a file beneath "/" that may be anything; b"" for what is no file.

    Where it runs: in the container's namespaces, as its root (security class 17).
    """
    root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    fd = -1
    try:
        # Looked at before it is opened: to open a device or a FIFO can have effects.
        handle = openat2(root_fd, path, os.O_PATH)
        regular = stat.S_ISREG(os.fstat(handle).st_mode)
        os.close(handle)
        if not regular:
            return b""
        fd = openat2(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        data = b""
        while len(data) < _USERS_LIMIT and (
            chunk := os.read(fd, min(65536, _USERS_LIMIT - len(data)))
        ):
            data += chunk
        return data
    except (SyscallError, OSError):
        return b""
    finally:
        os.close(root_fd)
        if fd >= 0:
            os.close(fd)
