"""The six hooks of a config: programs that run at fixed points of a container's life.

    create  prestart, createRuntime   by the runtime, when the mounts are made; then
            createContainer           by init, in the container's namespaces, before pivot_root
    start   startContainer            by init, in the container's root, as the application will be
            (the program is executed)
            poststart                 by the runtime
    delete  poststop                  by the runtime, when all is cleaned up

A hook gets the state on its standard input. If a hook fails, or has not ended after its `timeout`,
the container ends; a `poststop` hook only causes a warning. Loaded only where a config has hooks,
as init can import nothing. Source: runtime-spec config.md, runtime.md.
"""

from __future__ import annotations

import os
import select

from rootless import jsontext
from rootless.errors import RlessError, SyscallError
from rootless.linux.process import pidfd_open, pidfd_send_signal
from rootless.linux.signals import signal
from rootless.log import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rootless.oci.runtime_spec import Hook, Spec, State


def of(spec: Spec, *kinds: str) -> list[tuple[str, Hook]]:
    """Return (kind, hook) of all hooks of these kinds, in their order."""
    hooks = spec.get("hooks", {})
    return [(kind, hook) for kind in kinds for hook in hooks.get(kind, ())]


def memory_of(state: State) -> int:
    """Return a descriptor that holds the state as JSON: a file, so that no reader is needed."""
    fd = os.memfd_create("state", os.MFD_CLOEXEC)
    os.write(fd, jsontext.dumps(state).encode())
    return fd


def run_all(
    hooks: Sequence[tuple[str, Hook]], state: State, environment: Mapping[str, str] = os.environ
) -> None:
    """Run hooks, one after the other, in the caller's namespaces.

    Args:
        environment: of those that name none.

    Raises:
        RlessError: one failed; the others are not run.
    """
    if not hooks:
        return
    fd = memory_of(state)
    try:
        for kind, hook in hooks:
            run(kind, hook, fd, environment)
    finally:
        os.close(fd)


def run_poststop(spec: Mapping[str, object], state: State) -> None:
    """Run the hooks `poststop`; what fails is warned of."""
    for hook in of(spec, "poststop"):  # type: ignore[arg-type]
        try:
            run_all([hook], state)
        except RlessError as error:
            warn(str(error))


def run(kind: str, hook: Hook, state_fd: int, environment: Mapping[str, str]) -> None:
    """Run one hook and wait for its end.

    Args:
        state_fd: of `memory_of`.
        environment: as for `run_all`.

    Raises:
        RlessError: it cannot be executed, ended with another code than 0, or was too slow.
    """
    name = f"{kind} hook {hook['path']}"
    env = dict(entry.split("=", 1) for entry in hook["env"]) if "env" in hook else environment
    os.lseek(state_fd, 0, os.SEEK_SET)
    try:
        pid = os.posix_spawn(
            hook["path"],
            hook.get("args") or [hook["path"]],
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, state_fd, 0)],
            setsigdef=[signal.SIGPIPE],
        )
    except OSError as error:
        raise RlessError(f"{name}: {error.strerror}", exit_code=1) from error
    if "timeout" in hook and not _ends(pid, hook["timeout"]):
        raise RlessError(f"{name} was killed: it took more than {hook['timeout']} s", exit_code=1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        raise RlessError(f"{kind} hook failed: signal {-code} ended {hook['path']}", exit_code=1)
    if code:
        raise RlessError(f"{kind} hook failed with exit code {code}: {hook['path']}", exit_code=1)


def _ends(pid: int, seconds: int) -> bool:
    """Wait so long for the end of a child; kill it after that."""
    pidfd = pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if poll.poll(min(seconds * 1000, 2**31 - 1)):
            return True
        try:
            pidfd_send_signal(pidfd, signal.SIGKILL)
        except SyscallError:
            pass  # it has just ended
        os.waitpid(pid, 0)
        return False
    finally:
        os.close(pidfd)
