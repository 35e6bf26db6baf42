"""Execute the monitor, the program that stays with a container (helpers/monitor).

The program gets an empty environment, its config in a memfd (`config`), and the descriptors that
the config names.
"""

from __future__ import annotations

import os

from rootless.errors import EXIT_TOOL, RlessError
from rootless.linux.process import open_own_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from rootless.engine.monitor.config import (
        InitConfig,
        KeeperConfig,
        MonitorConfig,
        SandboxConfig,
    )

_PROGRAM = "rless-monitor"
# What the interpreter is told when one of our programs starts it: sealed as by the launcher.
_START = """import sys
del sys.argv[0]
sys.path.append(sys.argv.pop(0))
from rootless.launch import start
start("{module}")"""


def interpreter(module: str = "rootless.engine.start.monitor_callbacks") -> list[str]:
    """Return the words that start Python for one of our programs, less those of the verb.

    Args:
        module: whose `main` runs; for the monitor, what it calls back.
    """
    import sys

    package = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    # The launcher's words, without those that a test or a debugger has added.
    return [
        sys.executable,
        "-I",
        "-S",
        "-c",
        _START.format(module=module),
        os.path.dirname(package),
        "rless",
    ]


def open_interpreter() -> int:
    """Return a descriptor to execute the interpreter by, if the caller could write to it; else -1.

    It runs in the container's user namespace then, for which the container's root may have
    CAP_SYS_PTRACE: /proc/PID/exe would be a way to the file (CVE-2019-5736). What is executed is
    a mount of it that is read-only, in no namespace, and so nobody's to change.

    Where it runs: with CAP_SYS_ADMIN over the mount namespace.
    """
    import sys

    from rootless.linux import mount
    from rootless.runtime.inside.process import is_own_image_writable

    if not is_own_image_writable():
        return -1
    tree_fd = mount.open_tree(-1, os.path.realpath(sys.executable), recursive=False)
    try:
        mount.mount_setattr(tree_fd, set_=mount.MOUNT_ATTR_RDONLY)
        return os.open(f"/proc/self/fd/{tree_fd}", os.O_PATH | os.O_CLOEXEC)
    finally:
        os.close(tree_fd)  # unmounted by this, for good


def encode(config: SandboxConfig | MonitorConfig | KeeperConfig) -> int:
    """Return a memfd with a config; the descriptors in it stay open over execve."""
    fd = os.memfd_create("rless-config", os.MFD_CLOEXEC)
    _add(fd, config)
    return fd


def add(config_fd: int, config: InitConfig) -> None:
    """Add what is known of init to the config of a monitor."""
    _add(config_fd, config)


def _add(config_fd: int, config: SandboxConfig | InitConfig | KeeperConfig) -> None:
    words = []
    value: Any
    for key, value in config.items():
        for one in value if isinstance(value, list) else (value,):
            if key.endswith(("_fd", "_fds")) and one >= 0:
                os.set_inheritable(one, True)
            words += [key, str(int(one) if isinstance(one, bool) else one)]
    text = "".join(f"{word}\0" for word in words)
    os.write(config_fd, text.encode("utf-8", "surrogateescape"))


def open_program() -> int:
    """Return the program, open, for `exec_monitor` and `exec_keeper`.

    It is opened before a process is started that the program is to stay with.

    Raises:
        RlessError: the installation is broken.
    """
    return open_own_program(_PROGRAM)


def decode(config_fd: int) -> MonitorConfig:
    """Return the config of a monitor.

    Raises:
        RlessError: a key is missing or unknown, as another version has it.
    """
    from typing import get_type_hints

    from rootless.engine.monitor.config import MonitorConfig

    size = os.fstat(config_fd).st_size
    words = os.pread(config_fd, size, 0).decode("utf-8", "surrogateescape").split("\0")[:-1]
    kinds = get_type_hints(MonitorConfig)
    lists = {key for key, kind in kinds.items() if kind in (list[str], list[int])}
    found: dict[str, Any] = {key: [] for key in lists}
    for key, text in zip(words[::2], words[1::2], strict=True):
        kind = kinds.get(key)
        if key in lists:
            found[key].append(int(text) if kind == list[int] else text)
        elif kind is not None:
            found[key] = text if kind is str else kind(int(text))
        else:
            raise RlessError(f"the monitor's config has an unknown key: {key}")
    if missing := kinds.keys() - found.keys():
        raise RlessError(f"the monitor's config lacks {', '.join(sorted(missing))}")
    config: MonitorConfig = found  # type: ignore[assignment]
    return config


def exec_monitor(program_fd: int, config_fd: int, container_id: str) -> NoReturn:
    """Stay with the container to its end, as the monitor; never return.

    Args:
        program_fd: of `open_program`. config_fd: of `encode`.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)  # a reader of the caller's streams must see their end
    os.chdir("/")
    try:
        from rootless.linux import caps

        caps.keep_over_exec()
        _execute(program_fd, config_fd, f"rless: monitor of {container_id[:12]}")
    finally:
        os._exit(EXIT_TOOL)  # init ends with us, and whoever waits for the container reports it


def exec_keeper(program_fd: int, config: KeeperConfig) -> NoReturn:
    """Become the program, as the keeper of a process of `exec`; never return."""
    try:
        _execute(program_fd, encode(config), "rless: keeper of an exec")
    finally:
        os._exit(EXIT_TOOL)


def _execute(program_fd: int, config_fd: int, title: str) -> NoReturn:
    os.set_inheritable(config_fd, True)
    os.execve(program_fd, [title, str(config_fd)], {})
