"""`pull`: fetch an image and write it as a SIF file, whole or not at all."""

from __future__ import annotations

import os

from rootless.cli import streams
from rootless.cli.fronts.apptainer import parse, table
from rootless.cli.fronts.apptainer.images import fetched, log_in, reference
from rootless.cli.fronts.apptainer.table import FrontVerb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.cli.parse import Group

_OPTIONS: Group = (
    "Options",
    (
        ("--name", "FILE", "value", "name", "required", "The name of the file"),
        ("--dir", "DIR", "value", "dir", "required", "Where to write it"),
        ("--force -F", "", "flag", "force", "boolean", "Replace a file"),
        *table.REGISTRY,
        ("--arch", "ARCH", "value", "arch", "required", "For another processor"),
        ("--disable-cache", "", "flag", "disable_cache", "boolean",
         "Accepted: the layers are kept in the storage in any case"),
        ("--allow-unsigned -U --allow-unauthenticated", "", "flag", "unsigned", "boolean",
         "Accepted: policy.json says what has to be signed"),
    ),
)  # fmt: skip
_REFUSED = (
    *table.LOG_IN,
    ("--library", "URI", "there is no library", "use docker://"),
)
VERBS = {
    "pull": FrontVerb(
        "pull",
        "[OPTIONS] [FILE] URI",
        "Fetch an image and write it as a SIF file",
        _OPTIONS,
        refused=_REFUSED,
        least=1,
        most=2,
    )
}


def main(verb: str, argv: list[str], quiet: bool) -> int:
    """Write the file."""
    values, args = parse.parse(VERBS[verb], argv)
    uri = args[-1]
    is_file = uri.partition(":")[0] in table.FILE_SCHEMES
    name = "" if is_file else engine_name(uri)
    file = args[0] if len(args) > 1 else values.get("name") or default_name(uri)
    directory = values.get("dir") or parse.variable("PULLFOLDER")
    path = os.path.abspath(os.path.join(directory, file) if directory else file)
    if os.path.lexists(path) and not values.get("force"):
        raise RlessError(f"{escape(path)} already exists: it is not replaced", "use --force")
    platform = f"linux/{values['arch']}" if "arch" in values else None
    if is_file:
        from rootless.engine.build.remote.image_files import shown

        inform(f"Downloading {shown(uri)}", quiet)
        fetched(uri, path, platform=platform, quiet=quiet)
        return 0
    from rootless.engine.images.flatten import flatten

    inform(f"Converting {uri} to a SIF file", quiet)
    flatten(name, path, sif=True, force=True, shared=True, platform=platform, quiet=quiet)
    return 0


def inform(text: str, quiet: bool) -> None:
    """Say what is done, on standard error."""
    if not quiet:
        streams.write(f"INFO:    {escape(text)}\n", 2)


def engine_name(uri: str) -> str:
    """Return what the engine is asked for.

    Raises:
        RlessError: it is no URI of an image that can be fetched.
    """
    scheme, colon, rest = uri.partition(":")
    if colon and scheme in table.REFUSED_SCHEMES:
        why, use = table.REFUSED_SCHEMES[scheme]
        raise RlessError(f"{uri}: {scheme}:// is not supported: {why}", use)
    if not colon or scheme not in table.SCHEMES:
        raise RlessError(f"{uri} has no scheme that is known", "write docker://NAME")
    if scheme != "docker":
        return reference(scheme, rest)
    log_in(uri)
    return rest.removeprefix("//")


def default_name(uri: str) -> str:
    """Return name_tag.sif, as Apptainer names the file of an image."""
    scheme, _, rest = uri.partition(":")
    last = rest.removeprefix("//").partition("?")[0].rpartition("/")[2].partition("@")[0]
    if scheme in ("http", "https"):
        return last or "image.sif"
    name, _, tag = last.partition(":")
    if scheme not in ("docker", "oras"):
        name = name.removesuffix(".tar")
    return f"{name}_{tag or 'latest'}.sif"
