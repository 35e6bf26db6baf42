"""Build an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.errors import RlessError
from rootless.image.model.reference import parse
from rootless.image.registry import auth
from rootless.service import children
from rootless.service.endpoints.registry import logins_of
from rootless.service.relay import relay

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rootless.image.registry.credentials import Credentials
    from rootless.service.http import Request


async def build(request: Request) -> None:
    """Build an image of a context that the client sends, and tell how it goes on."""
    logins = logins_of(request)
    async with children.slot("pull"):
        child = children.Piped(_build, request.query, request.flag("q"), logins)
        try:
            await child.give(request.connection.chunks())
            await relay(request, child, builds=True)
        finally:
            child.close()


def _build(
    query: Mapping[str, list[str]], is_quiet: bool, logins: Mapping[str, Credentials]
) -> None:
    from rootless.engine.build.build import build as engine
    from rootless.service.forms import build as forms
    from rootless.service.forms.progress import Lines

    wanted = forms.read(query)
    for server, login in logins.items():
        auth.give(server, login)
    lines = Lines(keep=is_quiet)
    try:
        identifier = engine(wanted, forms.Classic(lines), lines)
    except RlessError:
        if is_quiet:
            lines.release()
        raise
    if is_quiet:
        lines.forget()
        lines.tell({"stream": f"{identifier}\n"})
        return
    short = identifier[7:19]
    lines.tell({"stream": f" ---> {short}\n"})
    lines.tell({"aux": {"ID": identifier}})
    lines.tell({"stream": f"Successfully built {short}\n"})
    for tag in wanted.tags:
        lines.tell({"stream": f"Successfully tagged {parse(tag).familiar}\n"})
