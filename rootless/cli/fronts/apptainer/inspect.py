"""`inspect` and `run-help`: what an image says of itself."""

from __future__ import annotations

import json
import os

from rootless.cli import streams
from rootless.cli.fronts.apptainer import parse
from rootless.cli.fronts.apptainer.images import Image
from rootless.cli.fronts.apptainer.table import FrontVerb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.cli.parse import Group
    from rootless.image.squashfs.reader import Squashfs
    from rootless.image.squashfs.tree import Tree

_MOST = 4 << 20  # bytes of a file
_TOP = "/.singularity.d"
_ENVIRONMENT = (
    *("10-docker2singularity.sh", "10-docker.sh", "90-environment.sh", "91-environment.sh"),
    *("94-appsbase.sh", "01-base.sh"),  # the latter of an application
)
_LIST = "see `apptainer inspect --list-apps`"
_OPTIONS: Group = (
    "Options",
    (
        ("--labels -l", "", "flag", "labels", "boolean", "Show the labels (the default)"),
        ("--runscript -r", "", "flag", "runscript", "boolean", "Show the script of `run`"),
        ("--startscript -s", "", "flag", "startscript", "boolean",
         "Show the script of `instance start`"),
        ("--deffile -d", "", "flag", "deffile", "boolean", "Show the definition file"),
        ("--environment -e", "", "flag", "environment", "boolean",
         "Show the scripts of the environment"),
        ("--test -t", "", "flag", "test", "boolean", "Show the script of `test`"),
        ("--helpfile -H", "", "flag", "helpfile", "boolean", "Show the help text"),
        ("--app", "NAME", "value", "app", "required", "Show that of an application (SCIF)"),
        ("--list-apps", "", "flag", "list_apps", "boolean", "List the applications"),
        ("--all", "", "flag", "all", "boolean", "Show everything, as JSON"),
        ("--json -j", "", "flag", "json", "boolean", "Print JSON"),
    ),
)  # fmt: skip
VERBS = {
    "inspect": FrontVerb(
        "inspect",
        "[OPTIONS] IMAGE",
        "Show what an image says of itself",
        _OPTIONS,
        least=1,
        most=1,
    ),
    "run-help": FrontVerb(
        "run-help",
        "[OPTIONS] IMAGE",
        "Show the help text of an image",
        ("Options", (("--app", "NAME", "value", "app", "required", "That of an application"),)),
        least=1,
        most=1,
    ),
}
_APPS = "/scif/apps"
# attribute -> its file in the directory of the image, or of an application
_TEXTS = {
    "runscript": "runscript",
    "startscript": "startscript",
    "deffile": "Singularity",
    "test": "test",
    "helpfile": "runscript.help",
}


def main(verb: str, argv: list[str], quiet: bool) -> int:
    """Print it."""
    values, args = parse.parse(VERBS[verb], argv)
    image = Image(args[0])
    if image.found is None:
        raise RlessError(f"{args[0]} is neither a file nor a directory", "pull it first")
    app: str | None = values.get("app")
    every = bool(values.get("all"))
    with _Content(image, app) as content:
        if verb == "run-help":
            text = content.text("runscript.help")
            streams.write(_safe(text) or "No help sections were defined for this image\n")
            return 0
        wanted = [name for name in ("labels", *_TEXTS, "environment") if values.get(name) or every]
        lists = bool(values.get("list_apps")) or (every and app is None)
        attributes = content.attributes(wanted or ([] if lists else ["labels"]))
        apps = content.apps() if lists else []
    if values.get("json") or every:
        own = {name: {} for name in apps} if app is None else {app: attributes}
        shown = {**(attributes if app is None else {}), **({"apps": own} if own else {})}
        document = {"data": {"attributes": shown}, "type": "container"}
        streams.write(json.dumps(document, indent="\t") + "\n")
        return 0
    streams.write("".join(f"{escape(name)}\n" for name in apps))
    for value in attributes.values():
        streams.write(_shown(value))
    return 0


def _shown(value: str | dict[str, str]) -> str:
    if isinstance(value, str):
        return _safe(value)
    if any(name.startswith("/") for name in value):
        return "".join(f"=== {name} ===\n{_safe(text)}\n" for name, text in value.items())
    return "".join(f"{escape(name)}: {escape(text)}\n" for name, text in sorted(value.items()))


def _safe(text: str) -> str:
    """Return a text of an image with nothing in it that a terminal obeys but lines and tabs."""
    lines = text.splitlines()
    return "".join("\t".join(map(escape, line.split("\t"))) + "\n" for line in lines)


class _Content:
    """The files of an image, or of an application in it, which say what it is."""

    def __init__(self, image: Image, app: str | None) -> None:
        from rootless.image.squashfs.reader import Squashfs
        from rootless.image.squashfs.tree import Tree

        assert image.found is not None
        self._config: dict[str, Any] = image.found.config
        self._fd = -1
        self._files: Squashfs | Tree
        if image.tree:
            self._files = Tree(image.tree)
        else:
            self._fd = os.open(image.name, os.O_RDONLY | os.O_CLOEXEC)
            self._files = Squashfs(self._fd, escape(image.name), image.found.offset, None)
        self._top = _TOP if app is None else f"{_APPS}/{app}/scif"
        if app is not None and app not in self.apps():
            self.__exit__()
            raise RlessError(f"{escape(image.name)} has no application {escape(app)}", _LIST)

    def __enter__(self) -> _Content:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        else:
            self._files.__exit__(None, None, None)  # type: ignore[union-attr]

    def text(self, name: str) -> str:
        """Return the text of a file of that directory; "": there is none."""
        found = self._files.read(f"{self._top}/{name}", _MOST)
        return (found or b"").decode("utf-8", "backslashreplace")

    def apps(self) -> list[str]:
        """Return the names of the applications."""
        return sorted(
            name for name in self._files.names(_APPS) if self._files.exists(f"{_APPS}/{name}/scif")
        )

    def attributes(self, wanted: list[str]) -> dict[str, Any]:
        """Return what is wanted, by its name in Apptainer's JSON."""
        found: dict[str, Any] = {}
        for name in wanted:
            if name == "labels":
                found[name] = self._labels()
            elif name == "environment":
                paths = {file: f"{self._top}/env/{file}" for file in _ENVIRONMENT}
                found[name] = {
                    path: self.text(f"env/{file}")
                    for file, path in paths.items()
                    if self._files.exists(path)
                }
            else:
                found[name] = self.text(_TEXTS[name])
        return found

    def _labels(self) -> dict[str, str]:
        text = self.text("labels.json")
        if not text:
            return dict(self._config.get("Labels") or {})
        try:
            return {str(name): str(value) for name, value in json.loads(text).items()}
        except (ValueError, AttributeError):
            raise RlessError("the labels of the image are not an object of strings") from None
