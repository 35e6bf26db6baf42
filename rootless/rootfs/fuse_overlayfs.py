"""The driver `fuse-overlayfs`: the same union as an overlay, served by a program (`fuse`).

It is for kernels before 5.11, and for file systems that overlayfs refuses as its upper layer.
"""

from __future__ import annotations

import errno
import os

from rootless.errors import RlessError, SyscallError
from rootless.linux import programs
from rootless.rootfs import fuse, overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "fuse-overlayfs"
_LOG = "fuse-overlayfs.log"


def mount(
    layers: Sequence[str],
    workspace: str,
    target: str,
    *,
    volatile: bool = False,
    squash: tuple[int, int] | None = None,
    flags: int = 0,
) -> tuple[str, int]:
    """Serve `layers` (bottom to top) under `workspace`/upper at `target`.

    Args:
        squash: show every file as owned by this (uid, gid): lower layers whose owners have no
            mapping can be changed then.
        flags: more MOUNT_ATTR_*, which are the same numbers as MS_*; nodev is always there.

    Returns:
        The program's options, and its pid: a child of the caller's.

    Raises:
        RlessError: the program or /dev/fuse is missing, or it ended; what it said.
        SyscallError: EPERM: the workspace lies on fuse-overlayfs itself.
    """
    program = programs.find(PROGRAM)
    if program is None:
        raise RlessError(f"{PROGRAM} is not installed")
    if not layers:
        layers = [f"{workspace}/empty"]
        os.makedirs(layers[0], 0o700, exist_ok=True)
    try:
        overlay.check_attributes(f"{workspace}/work")
    except SyscallError as error:
        if error.errno == errno.EPERM:  # upon itself; it needs no attributes elsewhere
            raise
    lower = ":".join(_quote(layer) for layer in reversed(layers))
    options = (
        f"lowerdir={lower},upperdir={_quote(workspace)}/upper,workdir={_quote(workspace)}/work"
    )
    if volatile:
        options += ",volatile"
    if squash is not None:
        options += f",squash_to_uid={squash[0]},squash_to_gid={squash[1]}"
    log_flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    log_fd = os.open(f"{workspace}/{_LOG}", log_flags, 0o600)
    server = fuse.Server(program, ("-f", "-o", options), log_fd, flags=flags, privileged=True)
    server.attach(target)
    return options, server.pid


def _quote(path: str) -> str:
    r"""Return a path with the separators of fuse-overlayfs and of libfuse escaped.

    libfuse splits at commas and takes one level of backslashes off; the program then splits
    the lower directories at colons, and has no escape for them.

    Raises:
        RlessError: there is a colon in the path.
    """
    if ":" in path:
        raise RlessError(f"{PROGRAM} cannot take a path with a colon in it: {path}")
    return path.replace("\\", "\\\\").replace(",", "\\,")
