"""Pass on the lines that a child process writes, as an answer that grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.errors import RlessError
from rootless.service.forms.progress import line

if TYPE_CHECKING:
    from typing import Any

    from rootless.service import children
    from rootless.service.http import Request


async def relay(request: Request, child: children.Piped, with_code: bool = False) -> None:
    """Send what a child writes; end the child when the client goes.

    An error before the first byte is a status of HTTP, and the last line after it.

    Args:
        with_code: the line of an error has the exit code of what has failed.

    Raises:
        RlessError: of the child, before its first byte.
    """
    await request.connection.watch(_relay(request, child, with_code))


async def _relay(request: Request, child: children.Piped, with_code: bool) -> None:
    connection = request.connection
    async for data in child.output():
        if not connection.begun:
            await connection.begin("application/json")
        await connection.piece(data)
    try:
        await child.result()
    except RlessError as error:
        if not connection.begun:
            raise
        detail: dict[str, Any] = {"message": str(error)}
        if with_code:
            detail["code"] = error.exit_code
        await connection.piece(line({"errorDetail": detail, "error": str(error)}))
    if not connection.begun:
        await connection.begin("application/json")
    await connection.finish()
