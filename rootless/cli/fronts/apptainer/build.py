"""`build`: write an image as a SIF file or as a directory."""

from __future__ import annotations

import os
from contextlib import nullcontext

from rootless import log
from rootless.cli.fronts.apptainer import parse
from rootless.cli.fronts.apptainer.images import Image, fetched, log_in
from rootless.cli.fronts.apptainer.pull import engine_name, inform
from rootless.cli.fronts.apptainer.table import FILE_SCHEMES, LOG_IN, REGISTRY, SCHEMES, FrontVerb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.cli.parse import Group

_HEAD = 4096  # bytes

_OPTIONS: Group = (
    "Options",
    (
        ("--sandbox -s", "", "flag", "sandbox", "boolean", "Write a directory"),
        ("--force -F", "", "flag", "force", "boolean",
         "Replace a file, or a directory that is an image"),
        ("--update -u", "", "flag", "update", "boolean",
         "Build on the directory that is there, not on what the header names"),
        ("--build-arg", "NAME=VALUE", "list", "build_args", "required",
         "Give a value for {{ NAME }} in a definition file"),
        ("--build-arg-file", "FILE", "value", "build_arg_file", "required",
         "Read such values from a file, a line each"),
        ("--section", "NAME[,...]", "list", "sections", "required",
         "Do these sections only: files, post, environment, test, labels, ..., or none"),
        ("--notest -T", "", "flag", "notest", "boolean", "Do not run %test"),
        *REGISTRY,
        ("--arch", "ARCH", "value", "arch", "required", "For another processor"),
        ("--disable-cache", "", "flag", "disable_cache", "boolean",
         "Ask the registry again, and do each step again"),
        ("--fakeroot -f", "", "flag", "fakeroot", "boolean",
         "Accepted: %post is always run by a root who has no rights on the host"),
        ("--no-cleanup", "", "flag", "no_cleanup", "boolean",
         "Accepted: the steps before one that fails are in the cache"),
    ),
)  # fmt: skip
_REFUSED = (
    *LOG_IN,
    ("--encrypt -e", "", "encrypted images need a set-uid program", "leave it out"),
    ("--remote -r", "", "there is no remote builder", "leave it out"),
    ("--bind -B", "TEXT", "%post sees no files of the host", "use %files"),
    ("--nv", "", "%post sees no devices of the host", "use it to run the image"),
    ("--rocm", "", "%post sees no devices of the host", "use it to run the image"),
)
VERBS = {
    "build": FrontVerb(
        "build",
        "[OPTIONS] TARGET SOURCE",
        "Make a SIF file or a directory of a definition file, an image, or a directory",
        _OPTIONS,
        refused=_REFUSED,
        least=2,
        most=2,
    )
}


def main(verb: str, argv: list[str], quiet: bool) -> int:
    """Write the target."""
    values, (target, source) = parse.parse(VERBS[verb], argv)
    path = os.path.abspath(target)
    _check_target(path, values)
    if os.path.isfile(source) and _is_definition(source):
        _of_definition(source, path, values, quiet)
    else:
        for flag in ("update", "build_args", "build_arg_file", "sections"):
            if values.get(flag):
                name = flag.removesuffix("s").replace("_", "-")
                raise RlessError(f"--{name} is for a definition file, and {source} is none")
        _of_image(source, path, values, quiet)
    inform(f"Build complete: {target}", quiet)
    return 0


def _check_target(path: str, values: dict[str, Any]) -> None:
    """Refuse a target that is there, unless it is to be replaced.

    Raises:
        RlessError: it is there.
    """
    is_directory = os.path.isdir(path)
    if values.get("update"):
        if not is_directory:
            raise RlessError(
                f"--update: {escape(path)} is no directory", "build it first: --sandbox"
            )
        values["sandbox"] = True
        return
    if not os.path.lexists(path):
        return
    if not values.get("force"):
        raise RlessError(f"build target {escape(path)} already exists", "use --force")
    if is_directory and (
        not values.get("sandbox")
        or (os.listdir(path) and not os.path.isdir(f"{path}/.singularity.d"))
    ):
        raise RlessError(
            f"build target {escape(path)} is a directory, and no image that --force replaces",
            "remove it, or name another target",
        )


def _of_definition(source: str, target: str, values: dict[str, Any], quiet: bool) -> None:
    from rootless import definition
    from rootless.engine.build import described
    from rootless.engine.build.definition import registry_name

    with open(source, "rb") as file:
        data = file.read(definition.SIZE_LIMIT + 1)
    given: dict[str, str] = {}
    if "build_arg_file" in values:
        where = values["build_arg_file"]
        try:
            with open(where, encoding="utf-8") as lines:
                given |= definition.read_args(lines.read(definition.SIZE_LIMIT), escape(where))
        except (OSError, UnicodeDecodeError) as error:
            raise RlessError(f"--build-arg-file: cannot read {escape(where)}: {error}") from error
    for text in values.get("build_args", ()):
        name, equals, value = text.partition("=")
        if not equals:
            raise RlessError(f"--build-arg {text}: it has no value", "write NAME=VALUE")
        given[name] = value
    found = definition.parse(data, given)
    for name in found.unused:
        log.warn(f"--build-arg {name}: nothing in {source} uses it")
    for stage in found.stages:
        if stage.header["bootstrap"].lower() in ("docker", "oras") and stage.header.get("from"):
            log_in(registry_name(stage))
    sections = parse.commas(values.get("sections", []))
    for one in sections:
        if one not in (*definition.SECTIONS, "all", "none"):
            known = ", ".join(definition.SECTIONS)
            raise RlessError(f"--section: there is no section {one}", f"name one of {known}")
    inform(f"Building {target} of {source}", quiet)
    described.make(
        found,
        described.Wanted(
            target=target,
            sandbox=bool(values.get("sandbox")),
            update=bool(values.get("update")),
            sections=tuple(sections),
            test=not values.get("notest"),
            platform=f"linux/{values['arch']}" if "arch" in values else "",
            fresh=bool(values.get("disable_cache")),
            scratch=parse.variable("TMPDIR") or "",
            quiet=quiet,
        ),
    )


def _of_image(source: str, target: str, values: dict[str, Any], quiet: bool) -> None:
    from rootless.engine.images import sandbox as engine

    sandbox = bool(values.get("sandbox"))
    platform = f"linux/{values['arch']}" if "arch" in values else None
    inform(f"Building {target} of {source}", quiet)
    with engine.in_place_of(target) if sandbox else nullcontext(target) as path:
        if not os.path.exists(source) and source.partition(":")[0] in SCHEMES:
            from rootless.engine.images.flatten import flatten

            name = engine_name(source)
            if sandbox:
                engine.of_name(name, path, platform, quiet)
            else:
                flatten(
                    name, path, sif=True, force=True, shared=True, platform=platform, quiet=quiet
                )
            return
        if not os.path.exists(source) and source.partition(":")[0] in FILE_SCHEMES:
            if not sandbox:
                fetched(source, path, platform=platform, quiet=quiet)
                return
            source = fetched(source, asks=True, platform=platform, quiet=quiet)
        image = Image(source)
        if image.tree:
            if sandbox:
                raise RlessError(f"{source} is a directory already", "copy it")
            engine.pack(image.tree, path)
        elif image.found is not None and sandbox:
            engine.unpack(image.found, path)
        else:
            raise RlessError(f"{source} is an image file already", "copy it, or use --sandbox")


def _is_definition(path: str) -> bool:
    """Tell whether it is text: all such files are read as definitions, which says what is wrong."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    return b"\0" not in head
