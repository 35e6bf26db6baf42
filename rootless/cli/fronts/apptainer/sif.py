"""`sif header|list|dump` and `verify`: the parts of a SIF file, read only."""

from __future__ import annotations

import os
import sys

from rootless.cli import streams
from rootless.cli.fronts.apptainer import parse
from rootless.cli.fronts.apptainer.table import FrontVerb
from rootless.errors import RlessError, escape

_OPTIONS = ("Options", ())
VERBS = {
    "sif header": FrontVerb(
        "sif header", "FILE", "Show the header of a SIF file", _OPTIONS, least=1, most=1
    ),
    "sif list": FrontVerb(
        "sif list", "FILE", "List the parts of a SIF file", _OPTIONS, least=1, most=1
    ),
    "sif dump": FrontVerb(
        "sif dump", "ID FILE", "Write a part of a SIF file", _OPTIONS, least=2, most=2
    ),
    "verify": FrontVerb(
        "verify", "FILE", "Check the signatures of a SIF file", _OPTIONS, least=1, most=1
    ),
}
_KINDS = {
    0x4001: "Def.FILE",
    0x4002: "Env.Vars",
    0x4003: "JSON.Labels",
    0x4004: "FS",
    0x4005: "Signature",
    0x4006: "JSON.Generic",
    0x4007: "Generic/Raw",
}
_SIGNATURE = 0x4005


def main(verb: str, argv: list[str], quiet: bool) -> int:
    """Read the file."""
    if verb == "sif":
        word = argv[0] if argv else ""
        if f"sif {word}" not in VERBS:
            raise RlessError(
                f"sif {word} is not supported: SIF files are only read", "use header, list or dump"
            )
        verb, argv = f"sif {word}", argv[1:]
    _, args = parse.parse(VERBS[verb], argv)
    from rootless.image.squashfs import sif

    path = os.path.abspath(args[-1])
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise RlessError(f"cannot open {escape(path)}: {error.strerror}") from error
    with open(fd, "rb"):
        objects = sif.objects(fd, escape(path))
        if verb == "verify":
            return _verify(path, objects)
        if verb == "sif header":
            streams.write(_header(objects))
        elif verb == "sif list":
            streams.write(_list(objects))
        else:
            _dump(fd, args[0], objects)
    return 0


def _verify(path: str, objects: list[tuple[int, int, int, int]]) -> int:
    if any(kind == _SIGNATURE for _, kind, _, _ in objects):
        raise RlessError(
            f"{escape(path)}: signatures in SIF files are not checked", "use policy.json for images"
        )
    raise RlessError(f"{escape(path)}: integrity: no signature found")


def _header(objects: list[tuple[int, int, int, int]]) -> str:
    return (
        "Launch Script: #!/usr/bin/env run-singularity\n"
        "Version:       01\n"
        f"Descriptors:   {len(objects)}\n"
    )


def _list(objects: list[tuple[int, int, int, int]]) -> str:
    lines = ["ID   |SIF POSITION (start-end)  |TYPE", "-" * 54]
    for number, kind, offset, size in objects:
        place = f"{offset}-{offset + size}"
        lines.append(f"{number:<5}|{place:<27}|{_KINDS.get(kind, hex(kind))}")
    return "\n".join([*lines, ""])


def _dump(fd: int, number: str, objects: list[tuple[int, int, int, int]]) -> None:
    found = [(offset, size) for one, _, offset, size in objects if str(one) == number]
    if not found:
        raise RlessError(f"there is no part {number}", "see `apptainer sif list`")
    offset, size = found[0]
    while size > 0:
        block = os.pread(fd, min(size, 1 << 20), offset)
        if not block:
            raise RlessError("the file is cut short")
        sys.stdout.buffer.write(block)
        offset, size = offset + len(block), size - len(block)
    sys.stdout.buffer.flush()
