"""Run a function as the engine's middle process does: all capabilities, the caller's own id.

`idmap.call_in_userns` becomes root of the namespace first; the engine's P1 doesn't, and is uid
1000 in there for an image with USER 1000. Code of P1 is tested in the same state.
"""

from __future__ import annotations

import json
import os
import traceback
from typing import TYPE_CHECKING

from rootless.linux import idmap, ns, subid

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

MAPS = ("host-root", "u1000", "single", "single-u1000")


def make_map(name: str) -> idmap.IdMap:
    """Return one of MAPS for the user that runs the tests."""
    if name.startswith("single"):
        inside = 1000 if name == "single-u1000" else 0
        return idmap.IdMap([(inside, os.getuid(), 1)], [(inside, os.getgid(), 1)], name)
    inside = 1000 if name == "u1000" else 0
    return idmap.IdMap(
        _extents(inside, os.getuid(), subid.ranges("uid")[0]),
        _extents(inside, os.getgid(), subid.ranges("gid")[0]),
        f"u{inside}g{inside}",
    )


def _extents(inside: int, me: int, subordinate: tuple[int, int]) -> list[tuple[int, int, int]]:
    start, count = subordinate
    before = [(0, start, inside)] if inside else []
    return [*before, (inside, me, 1), (inside + 1, start + inside, count - inside)]


def run(map_: idmap.IdMap, function: Callable[..., Any], *args: object) -> Any:
    """Return what `function(*args)` returns there; AssertionError with its traceback."""
    reader, writer = os.pipe()

    def body() -> NoReturn:
        try:
            os.close(reader)
            try:
                answer = {"result": function(*args)}
            except BaseException:
                answer = {"failed": traceback.format_exc()}
            with open(writer, "w") as stream:
                json.dump(answer, stream)
        finally:
            os._exit(0)

    pid = idmap.spawn(map_, ns.CLONE_NEWNS, body)
    os.close(writer)
    with open(reader) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    answer = json.loads(text)
    assert "failed" not in answer, answer["failed"]
    return answer["result"]
