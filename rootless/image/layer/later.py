"""Seal a layer in a process of its own, while the caller goes on with its files."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from rootless.errors import RlessError
from rootless.image.layer import create
from rootless.linux import idmap, prctl
from rootless.linux.process import describe_end

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


class Sealing:
    """A layer whose digest is being computed.

    Attributes:
        directory: of its files; it stays the same where the layer is moved to.
        pid: of the process; not to be waited for by others.
    """

    def __init__(
        self,
        made: create.Unsealed,
        below: str | None,
        what: str,
        keep: Callable[[dict[str, Any]], object],
    ) -> None:
        """Begin.

        Args:
            below: chain id of the layer below, None at the bottom.
            what: has made it, for errors.
            keep: called in the process, with the meta record of the layer that is in the store.

        Where it runs: as `create.make_here`; the process ends with the caller.
        """
        self._what = what
        self._fd = os.open(made.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.directory = f"/proc/self/fd/{self._fd}"
        self._reader, writer = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _seal(made, below, keep, writer, parent)
        os.close(writer)

    def result(self) -> str:
        """Wait for it; return the chain id of the layer. Call it once.

        Raises:
            RlessError: what failed, or that the process died.
        """
        os.close(self._fd)
        with open(self._reader, encoding="utf-8") as stream:
            text = stream.read()
        _, status = os.waitpid(self.pid, 0)
        try:
            if not text:
                how = describe_end(status)
                raise RlessError(f"cannot keep the layer: the process that reads it {how}")
            return str(idmap.take_answer(text, status))
        except RlessError as error:
            raise error.within(self._what) from error


def _seal(
    made: create.Unsealed,
    below: str | None,
    keep: Callable[[dict[str, Any]], object],
    writer: int,
    parent: int,
) -> NoReturn:
    def work() -> str:
        prctl.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(137)
        with create.telling():
            meta = made.seal(below)
            keep(meta)
        return str(meta["chain"])

    idmap.answer(writer, work)
