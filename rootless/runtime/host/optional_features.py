"""Optional OCI features of the application's process, for configs of other engines.

Of our engine only a build with one id uses one, so `rless run` loads nothing of this module.
Whatever can fail early is done when the object is made, on the host side; its methods run in the
process.
"""

from __future__ import annotations

import os
import stat

from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.oci.runtime_spec import Hook, Process, Spec, State
    from rootless.runtime.host.listener import Listener
    from rootless.runtime.inside.scheduling import Scheduling

# Of `process` and of `linux`.
_TREATED = ("scheduler", "ioPriority", "execCPUAffinity", "personality", "memoryPolicy")
_PASSWD_LIMIT = 1 << 20  # bytes of /etc/passwd that are read
_CREATE = ("prestart", "createRuntime", "createContainer")


class OptionalFeatures:
    """The optional features of one process.

    Attributes:
        scheduling: priorities, affinity, memory policy.
        new_keyring: leave the caller's session keyring.
        check_program: look for the program before the container counts as created.
        failure_fd: a file for a failure after `create` has ended; -1: standard error.
        hooks: (kind, hook), those of `create` and startContainer.
        state: what hooks get.
        label: (path of the attribute below /proc/self, text) of a security module.
        listener: the agent of the seccomp filter.
        pid: of the process, as the runtime sees it.
    """

    __slots__ = (
        "_home",
        "_label",
        "_label_fd",
        "check_program",
        "failure_fd",
        "hooks",
        "listener",
        "new_keyring",
        "pid",
        "scheduling",
        "state",
    )

    def __init__(self, spec: Spec, process: Process, state: State) -> None:
        """Check what the config asks.

        Raises:
            RlessError: it cannot be had, with its JSON path.
        """
        linux = spec.get("linux", {})
        self.scheduling: Scheduling | None = None
        if any(key in process for key in _TREATED) or any(key in linux for key in _TREATED):
            from rootless.runtime.inside.scheduling import Scheduling

            self.scheduling = Scheduling(process, linux)
        self.new_keyring = True
        self.check_program = False
        self.failure_fd = -1
        self.state = state
        self.hooks: list[tuple[str, Hook]] = []
        self.listener: Listener | None = None
        self.pid = 0
        homes = [entry for entry in process.get("env", ()) if entry.startswith("HOME=")]
        self._home = not homes or homes[-1] == "HOME="
        self._label = _label(process, linux.get("mountLabel"))
        self._label_fd = -1
        seccomp = linux.get("seccomp", {})
        if seccomp.get("listenerPath") and _notifies(seccomp):
            from rootless.runtime.host import listener

            self.listener = listener.connect(seccomp, state)

    def add_hooks(self, spec: Spec) -> None:
        """Have the hooks of `create` and startContainer run."""
        if spec.get("hooks"):
            from rootless.runtime.host import hooks

            self.hooks = hooks.of(spec, *_CREATE, "startContainer")

    @property
    def at_create(self) -> bool:
        """Tell whether there are hooks before pivot_root."""
        return any(kind in _CREATE for kind, _ in self.hooks)

    def fds(self) -> set[int]:
        """Return the descriptors that the process needs."""
        return {self.failure_fd, self.listener.fd if self.listener else -1}

    # -- in the process --------------------------------------------------------------------------

    def look_at_host(self) -> None:
        """Take from the host's /proc what is needed of it: our number there, our label's file."""
        self.pid = int(os.readlink("/proc/self"))
        if self._label:
            self._label_fd = os.open(f"/proc/self/{self._label[0]}", os.O_WRONLY | os.O_CLOEXEC)

    def run_hooks_before_pivot(self) -> None:
        """Run createContainer, in the container's namespaces, on the host's files."""
        from rootless.runtime.host import hooks  # loaded by the parent

        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.chdir(self.state["bundle"])
        own = [entry for entry in self.hooks if entry[0] == "createContainer"]
        hooks.run_all(own, {**self.state, "pid": os.getpid(), "status": "created"})
        os.fchdir(here)
        os.close(here)

    def run_start_hooks(self, environment: dict[str, str], own: tuple[int, int]) -> None:
        """Run startContainer, with the rights of the application."""
        starting = [entry for entry in self.hooks if entry[0] == "startContainer"]
        if not starting:
            return
        from rootless.runtime.host import hooks
        from rootless.runtime.inside import process

        for _, hook in starting:
            process.guard_image(hook["path"], environment, own)
        state: State = {**self.state, "pid": os.getpid(), "status": "created"}
        hooks.run_all(starting, state, environment)

    def complete(self, environment: dict[str, str], uid: int) -> None:
        """Give the application a home, as runc does where the config names none."""
        if self._home:
            environment["HOME"] = home_of(uid)

    def write_label(self) -> None:
        """Have the next execve change the label."""
        if self._label_fd < 0:
            return
        assert self._label is not None
        attribute, text = self._label
        try:
            os.write(self._label_fd, text.encode())
        except OSError as error:
            raise RlessError(
                f"cannot take the label {text} ({attribute}): {error.strerror}"
            ) from error
        os.close(self._label_fd)


def home_of(uid: int) -> str:
    """Return the home directory of a user by the container's /etc/passwd, "/" if it has none.

    Where it runs: inside the root. The file is the image's: read no more than a part of it, and
    wait for nothing.
    """
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return "/"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "/"
        text = os.read(fd, _PASSWD_LIMIT)
    except OSError:
        return "/"
    finally:
        os.close(fd)
    wanted = str(uid).encode()
    for line in text.split(b"\n"):
        fields = line.split(b":")
        if len(fields) > 5 and fields[2] == wanted and fields[5].startswith(b"/"):
            return os.fsdecode(fields[5])
    return "/"


def _notifies(seccomp: dict[str, Any]) -> bool:
    return any(
        isinstance(rule, dict) and rule.get("action") == "SCMP_ACT_NOTIFY"
        for rule in seccomp.get("syscalls") or ()
    )


def _label(process: Process, mount_label: str | None) -> tuple[str, str] | None:
    """Return the attribute and the text that set the label; None: there is none to set.

    Raises:
        RlessError: the security module is not active here, so that the label would not protect.
    """
    selinux, apparmor = process.get("selinuxLabel"), process.get("apparmorProfile")
    modules = _modules() if selinux or apparmor or mount_label else ()
    for where, value, module in (
        ("process.selinuxLabel", selinux, "selinux"),
        ("linux.mountLabel", mount_label, "selinux"),
        ("process.apparmorProfile", apparmor, "apparmor"),
    ):
        if value and module not in modules:
            raise RlessError(f"{where}: {module} is not active on this host", "leave it out")
    if mount_label:
        raise RlessError("linux.mountLabel: mounts of a user cannot be given a label")
    if selinux:
        return "attr/exec", selinux
    if apparmor:
        return "attr/exec", f"exec {apparmor}"
    return None


def _modules() -> list[str]:
    try:
        with open("/sys/kernel/security/lsm", encoding="ascii") as file:
            return file.read().strip().split(",")
    except OSError:
        return [
            name
            for name, path in (
                ("selinux", "/sys/fs/selinux/enforce"),
                ("apparmor", "/sys/module/apparmor/parameters/enabled"),
            )
            if os.path.exists(path)
        ]


def state_of(container_id: str, bundle: str, annotations: dict[str, Any]) -> State:
    """Return the state of a container that is being created, as hooks and agents get it."""
    return {
        "ociVersion": "1.2.0",
        "id": container_id,
        "status": "creating",
        "pid": 0,
        "bundle": bundle,
        "annotations": annotations,
    }
