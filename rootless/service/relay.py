"""Pass on the lines that a child process writes, as an answer that grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.errors import EXIT_TOOL, INVALID, NOT_BUILT, RlessError
from rootless.service.forms.progress import line

if TYPE_CHECKING:
    from typing import Any

    from rootless.service import children
    from rootless.service.http import Request


async def relay(request: Request, child: children.Piped, builds: bool = False) -> None:
    """Send what a child writes; stop when the client goes.

    An error before the first byte is a status of HTTP, and the last line after it.

    Args:
        builds: it is a build: its error is a line, with the exit code of what has failed, unless
            what was asked for is wrong.

    Raises:
        RlessError: of the child, before its first byte.
    """
    await request.connection.watch(_relay(request, child, builds))


async def _relay(request: Request, child: children.Piped, builds: bool) -> None:
    connection = request.connection
    async for data in child.output():
        if not connection.begun:
            await connection.begin("application/json")
        await connection.piece(data)
    last = b""
    try:
        await child.result()
    except RlessError as error:
        if not connection.begun and not (builds and error.kind not in (INVALID, NOT_BUILT)):
            raise
        detail: dict[str, Any] = {"message": str(error)}
        if builds:
            detail["code"] = 1 if error.exit_code == EXIT_TOOL else error.exit_code
        last = line({"errorDetail": detail, "error": str(error)})
    if not connection.begun:
        await connection.begin("application/json")
    if last:
        await connection.piece(last)
    await connection.finish()
