"""`cache list|clean`: images of the storage, which is the only cache."""

from __future__ import annotations

from rootless.cli import output, streams
from rootless.cli.fronts.apptainer import parse
from rootless.cli.fronts.apptainer.table import FrontVerb
from rootless.errors import RlessError

VERBS = {
    "cache list": FrontVerb(
        "cache list",
        "[OPTIONS]",
        "List the images that are kept",
        (
            "Options",
            (
                ("--verbose -v", "", "flag", "verbose", "boolean", "Show each of them"),
                ("--all -a", "", "flag", "all", "boolean", "Accepted: all are listed"),
            ),
        ),
        most=0,
    ),
    "cache clean": FrontVerb(
        "cache clean",
        "[OPTIONS]",
        "Remove images that no container uses",
        (
            "Options",
            (
                ("--force -f", "", "flag", "force", "boolean", "Do not ask"),
                ("--dry-run -n", "", "flag", "dry", "boolean", "Remove nothing"),
                ("--days -D", "N", "value", "days", "count", "Only those older than N days"),
            ),
        ),
        refused=(("--type -T", "TYPE", "there is one kind of images only", "leave it out"),),
        most=0,
    ),
}  # fmt: skip


def main(verb: str, argv: list[str], quiet: bool) -> int:
    """List them, or remove them."""
    word = argv[0] if argv else ""
    if f"cache {word}" not in VERBS:
        raise RlessError(f"cache {word} is not known", "use list or clean")
    values, _ = parse.parse(VERBS[f"cache {word}"], argv[1:])
    from rootless import paths
    from rootless.engine.images import images
    from rootless.image.store import image_files

    if word == "list" or values.get("dry"):
        sizes = [(row["name"] or row["id"], row["size"]) for row in images.list_images()]
        sizes += image_files.sizes(paths.storage_root()).items()
        if values.get("verbose"):
            streams.write("".join(f"{name}\n" for name, _ in sizes))
        size = output.human_size(sum(size for _, size in sizes))
        streams.write(f"There are {len(sizes)} images using {size} of space\n")
        return 0
    if not values.get("force"):
        from rootless.cli.confirm import confirmed

        if not confirmed("This will remove all images that no container uses."):
            return 0
    given = {"until": [f"{24 * values['days']}h"]} if values.get("days") else {}
    lines, freed = images.prune(given, True)
    streams.write(f"Removed {len(lines)} images and layers, {output.human_size(freed)}\n")
    return 0
