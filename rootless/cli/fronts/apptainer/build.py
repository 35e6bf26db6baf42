"""`build`: write an image as a SIF file or as a directory."""

from __future__ import annotations

import os

from rootless.cli.fronts.apptainer import parse
from rootless.cli.fronts.apptainer.images import Image
from rootless.cli.fronts.apptainer.pull import engine_name, inform
from rootless.cli.fronts.apptainer.table import SCHEMES, FrontVerb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.cli.parse import Group

_OPTIONS: Group = (
    "Options",
    (
        ("--sandbox -s", "", "flag", "sandbox", "boolean", "Write a directory"),
        ("--force -F", "", "flag", "force", "boolean", "Replace a file"),
        ("--fakeroot -f", "", "flag", "fakeroot", "boolean",
         "Accepted: an image is always made without root"),
        ("--notest -T", "", "flag", "notest", "boolean", "Accepted: nothing is tested"),
        ("--arch", "ARCH", "value", "arch", "required", "For another processor"),
        ("--disable-cache", "", "flag", "disable_cache", "boolean",
         "Accepted: the layers are kept in the storage in any case"),
    ),
)  # fmt: skip
_REFUSED = (
    ("--update -u", "", "a directory is not built upon", "build it anew"),
    ("--section", "NAME", "definition files are not built yet", "use `rless build`"),
    ("--build-arg", "NAME=VALUE", "definition files are not built yet", "use `rless build`"),
    ("--build-arg-file", "FILE", "definition files are not built yet", "use `rless build`"),
    ("--no-https --nohttps", "", "TLS is a matter of the registry", "see docs/registries.md"),
    ("--docker-login", "", "a password is not asked for here", "use `rless login`"),
    ("--encrypt -e", "", "encrypted images need a set-uid program", "leave it out"),
    ("--remote -r", "", "there is no remote builder", "leave it out"),
    ("--bind -B", "TEXT", "definition files are not built yet", "use `rless build`"),
    ("--nv", "", "definition files are not built yet", "use `rless build`"),
)
VERBS = {
    "build": FrontVerb(
        "build",
        "[OPTIONS] TARGET SOURCE",
        "Write an image, a file of one or a directory as a SIF file or a directory",
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
    sandbox = bool(values.get("sandbox"))
    if os.path.lexists(path) and not (values.get("force") and not os.path.isdir(path)):
        raise RlessError(
            f"build target {escape(path)} already exists",
            "remove it" if os.path.isdir(path) else "use --force",
        )
    from rootless.engine.images import sandbox as engine

    platform = f"linux/{values['arch']}" if "arch" in values else None
    if not os.path.exists(source) and source.partition(":")[0] in SCHEMES:
        from rootless.engine.images.flatten import flatten

        name = engine_name(source)
        inform(f"Building {target} of {source}", quiet)
        if sandbox:
            engine.of_name(name, path, platform, quiet)
        else:
            flatten(name, path, sif=True, force=True, platform=platform, quiet=quiet)
        return 0
    if os.path.isfile(source) and _is_definition(source):
        raise RlessError(
            f"{source}: definition files are not built yet",
            "write a Dockerfile, and use `rless build` and `rless flatten`",
        )
    image = Image(source)
    inform(f"Building {target} of {source}", quiet)
    if image.tree:
        if sandbox:
            raise RlessError(f"{source} is a directory already", "copy it")
        engine.pack(image.tree, path)
    elif image.found is not None and sandbox:
        engine.unpack(image.found, path)
    else:
        raise RlessError(f"{source} is an image file already", "copy it, or use --sandbox")
    return 0


def _is_definition(path: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(4096)
    return b"\0" not in head and b"bootstrap:" in head.lower()
