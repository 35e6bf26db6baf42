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
    "94-appsbase.sh",
)
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
        ("--all", "", "flag", "all", "boolean", "Show everything, as JSON"),
        ("--json -j", "", "flag", "json", "boolean", "Print JSON"),
    ),
)  # fmt: skip
_REFUSED = (
    ("--app", "NAME", "applications of an image are not inspected", "read /scif/apps in it"),
    ("--list-apps", "", "applications of an image are not inspected", "list /scif/apps in it"),
)
VERBS = {
    "inspect": FrontVerb(
        "inspect",
        "[OPTIONS] IMAGE",
        "Show what an image says of itself",
        _OPTIONS,
        refused=_REFUSED,
        least=1,
        most=1,
    ),
    "run-help": FrontVerb(
        "run-help", "IMAGE", "Show the help text of an image", ("Options", ()), least=1, most=1
    ),
}
# attribute -> its file
_TEXTS = {
    "runscript": f"{_TOP}/runscript",
    "startscript": f"{_TOP}/startscript",
    "deffile": f"{_TOP}/Singularity",
    "test": f"{_TOP}/test",
    "helpfile": f"{_TOP}/runscript.help",
}


def main(verb: str, argv: list[str], quiet: bool) -> int:
    """Print it."""
    values, args = parse.parse(VERBS[verb], argv)
    image = Image(args[0])
    if image.found is None:
        raise RlessError(f"{args[0]} is neither a file nor a directory", "pull it first")
    with _Content(image) as content:
        if verb == "run-help":
            text = content.text(_TEXTS["helpfile"])
            streams.write(_safe(text) or "No help sections were defined for this image\n")
            return 0
        every = bool(values.get("all"))
        wanted = [name for name in ("labels", *_TEXTS, "environment") if values.get(name) or every]
        attributes = content.attributes(wanted or ["labels"])
    if values.get("json") or every:
        document = {"data": {"attributes": attributes}, "type": "container"}
        streams.write(json.dumps(document, indent="\t") + "\n")
        return 0
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
    """The files of an image."""

    def __init__(self, image: Image) -> None:
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

    def __enter__(self) -> _Content:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        else:
            self._files.__exit__(None, None, None)  # type: ignore[union-attr]

    def text(self, path: str) -> str:
        """Return the text of a file; "": there is none."""
        return (self._files.read(path, _MOST) or b"").decode("utf-8", "backslashreplace")

    def attributes(self, wanted: list[str]) -> dict[str, Any]:
        """Return what is wanted, by its name in Apptainer's JSON."""
        found: dict[str, Any] = {}
        for name in wanted:
            if name == "labels":
                found[name] = self._labels()
            elif name == "environment":
                paths = [f"{_TOP}/env/{file}" for file in _ENVIRONMENT]
                found[name] = {path: self.text(path) for path in paths if self._files.exists(path)}
            else:
                found[name] = self.text(_TEXTS[name])
        return found

    def _labels(self) -> dict[str, str]:
        text = self.text(f"{_TOP}/labels.json")
        if not text:
            return dict(self._config.get("Labels") or {})
        try:
            return {str(name): str(value) for name, value in json.loads(text).items()}
        except (ValueError, AttributeError):
            raise RlessError("the labels of the image are not an object of strings") from None
