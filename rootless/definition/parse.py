"""From the text of a definition file to its stages.

A stage begins with a line `Bootstrap:`, and a section with a word that begins with `%`. A section
that is there twice goes on where it ended. `{{ name }}` stands for a build argument, line by line,
so that no value makes a section of its own.

Source: apptainer pkg/build/types/parser/deffile.go, internal/pkg/build/args/reader.go.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from rootless.definition.errors import DefinitionError
from rootless.frozen import NOTHING, Frozen, replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SIZE_LIMIT = 1 << 20  # bytes of a file
STAGE_LIMIT = 100
VALUE_LIMIT = 64 << 10  # characters of a line after its build arguments are in it
SECTIONS = (
    *("arguments", "pre", "setup", "files", "post", "environment", "runscript", "startscript"),
    *("test", "labels", "help"),
)
APP_SECTIONS = (
    *("appinstall", "appfiles", "appenv", "apprun", "appstart", "applabels", "apphelp", "apptest"),
)
# `include1` and so on have a number behind them.
_HEADER = (
    *("bootstrap", "from", "stage", "registry", "namespace", "library", "fingerprints"),
    *("mirrorurl", "updateurl", "osversion", "include", "includecmd", "confurl", "setopt"),
    *("product", "user", "regcode", "productpgp", "registerurl", "modules", "otherurl"),
)
_STAGE = re.compile(r"bootstrap:", re.IGNORECASE)
_SECTION = re.compile(r"\s*%(\S+)[ \t]*(.*)")
_ARGUMENT = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_COMMENT = re.compile(r"#[^!]")
_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"[^"]*"|'[^']*')+""")
_PART = re.compile(r"""\\(.)|"([^"]*)"|'([^']*)'|([^"'\\]+)""")


class Line(NamedTuple):
    """A line of the file, with its number from 1."""

    number: int
    text: str


class Script(Frozen):
    """A section.

    Attributes:
        text: what stands in it. arguments: what stands behind its name.
        line: of its name, last: the last one of its text.
    """

    text: str
    arguments: str = ""
    line: int = 0
    last: int = 0


class Files(Frozen):
    """A line of %files.

    Attributes:
        source: as written; wildcards are not expanded. target: "": the same as the source.
        origin: the name of the stage that it comes from; "": the host.
    """

    source: str
    target: str = ""
    origin: str = ""
    line: int = 0


class App(Frozen):
    """An application: its sections.

    Attributes:
        scripts: name of a section, with `app` -> what it says; without %appfiles and %applabels.
    """

    files: tuple[Files, ...] = ()
    labels: Mapping[str, str] = NOTHING
    scripts: Mapping[str, Script] = NOTHING


class Stage(Frozen):
    """What begins with a line `Bootstrap:`.

    Attributes:
        name: of `Stage:`, "" without one.
        header: keys in lower case -> values.
        scripts: name of a section -> what it says; without %files, %labels and %arguments.
        apps: by their names, in the order of the file.
    """

    name: str
    line: int
    header: Mapping[str, str]
    files: tuple[Files, ...] = ()
    labels: Mapping[str, str] = NOTHING
    scripts: Mapping[str, Script] = NOTHING
    apps: Mapping[str, App] = NOTHING

    def script(self, name: str) -> str:
        """Return the text of a section, "" if there is nothing in it."""
        found = self.scripts.get(name)
        return found.text if found is not None and found.text.strip() else ""


class Definition(Frozen):
    """A definition file.

    Attributes:
        text: as written.
        stages: in the order of the file; the last one is the image.
        unused: names of build arguments that were given, and that no line uses.
    """

    text: str
    stages: tuple[Stage, ...]
    unused: tuple[str, ...] = ()


def parse(data: bytes, build_args: Mapping[str, str] = NOTHING) -> Definition:
    """Return what a definition file says.

    Args:
        build_args: of --build-arg; they come before %arguments.

    Raises:
        DefinitionError: it is no text, too large, or wrong, with the line.
    """
    if len(data) > SIZE_LIMIT:
        raise DefinitionError(f"it is larger than {SIZE_LIMIT >> 10} KiB")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise DefinitionError("it is not in UTF-8") from None
    if "\0" in text:
        raise DefinitionError("it has a NUL character, and is no text")
    written = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    lines = [Line(*one) for one in enumerate(written, 1)]
    stages: list[Stage] = []
    used: set[str] = set()
    for part in _parts(lines):
        stage = _stage(part, build_args, used)
        if stage.name and stage.name in (one.name for one in stages):
            raise DefinitionError(f"two stages are named {stage.name}", None, stage.line)
        earlier = {one.name for one in stages} - {""}
        for one in (*stage.files, *(one for app in stage.apps.values() for one in app.files)):
            if one.origin and one.origin not in earlier:
                hint = f"earlier stages are {', '.join(sorted(earlier))}" if earlier else None
                raise DefinitionError(
                    f"%files from {one.origin}: there is no such stage before this one",
                    hint,
                    one.line,
                )
        stages.append(stage)
    unused = tuple(name for name in build_args if name not in used)
    return Definition(text, tuple(stages), unused)


def read_args(text: str, where: str) -> dict[str, str]:
    """Return the build arguments of a file: NAME=VALUE, a line each.

    Args:
        where: as messages name it.

    Raises:
        DefinitionError: a line is none.
    """
    lines = [Line(*one) for one in enumerate(text.split("\n"), 1)]
    try:
        return _arguments(lines)
    except DefinitionError as error:
        raise DefinitionError(f"{where} line {error.line}: this is not NAME=VALUE") from None


def _parts(lines: list[Line]) -> Iterator[list[Line]]:
    """Yield the lines of each stage."""
    starts = [place for place, line in enumerate(lines) if _STAGE.match(line.text)]
    if not starts:
        raise DefinitionError("it has no Bootstrap:", "begin with Bootstrap: docker, and From:")
    if len(starts) > STAGE_LIMIT:
        raise DefinitionError(f"it has more than {STAGE_LIMIT} stages")
    for line in lines[: starts[0]]:
        if not _is_comment(line.text):
            starts[0] = 0  # `From:` may stand first
            break
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start:end]


def _stage(lines: list[Line], build_args: Mapping[str, str], used: set[str]) -> Stage:
    defaults: dict[str, str] = {}
    for name, _, body in _sections(lines)[1]:
        if name == "arguments":
            defaults |= _arguments(body)
    fill = _Replace(build_args, defaults, used)
    header_lines, sections = _sections([fill(line) for line in lines])
    header = _header(header_lines)
    first = lines[0].number
    if "bootstrap" not in header:
        raise DefinitionError("a stage has no Bootstrap:", "write Bootstrap: docker", first)
    files: list[Files] = []
    labels: dict[str, str] = {}
    scripts: dict[str, Script] = {}
    apps: dict[str, App] = {}
    for name, title, body in sections:
        if name == "files":
            files += _files(title, body)
        elif name == "labels":
            labels |= labels_of(_text(body))
        elif name in APP_SECTIONS:
            app, _, rest = title.text.partition(" ")
            _check_app(app, name, title.number)
            behind = title._replace(text=rest.partition("#")[0].strip())
            apps[app] = _with_section(apps.get(app, App()), name, behind, body)
        elif name in SECTIONS:
            _extend(scripts, name, title, body)
        else:
            near = get_close_matches(name, [*SECTIONS, *APP_SECTIONS], 1)
            hint = f"did you mean %{near[0]}?" if near else f"it is one of {', '.join(SECTIONS)}"
            raise DefinitionError(f"%{name}: there is no such section", hint, title.number)
    scripts.pop("arguments", None)
    stage = header.get("stage", "")
    return Stage(stage, first, header, tuple(files), labels, scripts, apps)


def _with_section(app: App, name: str, title: Line, body: list[Line]) -> App:
    if name == "appfiles":
        return replace(app, files=(*app.files, *_files(title, body)))
    if title.text:
        raise DefinitionError(
            f"%{name}: {title.text} stands behind the name of the application",
            "write the name alone",
            title.number,
        )
    if name == "applabels":
        return replace(app, labels={**app.labels, **labels_of(_text(body))})
    scripts = dict(app.scripts)
    _extend(scripts, name, title, body)
    return replace(app, scripts=scripts)


def _text(body: list[Line]) -> str:
    return "".join(f"{line.text}\n" for line in body)


def _extend(found: dict[str, Script], name: str, title: Line, body: list[Line]) -> None:
    before = found.get(name)
    text = _text(body)
    arguments = title.text or (before.arguments if before else "")
    found[name] = Script(
        (before.text if before else "") + text,
        arguments,
        before.line if before else title.number,
        body[-1].number if body else title.number,
    )


def _sections(lines: Sequence[Line]) -> tuple[list[Line], list[tuple[str, Line, list[Line]]]]:
    """Return the lines of the header, and the sections: name, what stands behind it, lines."""
    header: list[Line] = []
    found: list[tuple[str, Line, list[Line]]] = []
    for line in lines:
        match = _SECTION.fullmatch(line.text)
        if match is not None:
            found.append((match[1].lower(), Line(line.number, match[2].strip()), []))
        elif found:
            found[-1][2].append(line)
        else:
            header.append(line)
    return header, found


def _header(lines: list[Line]) -> dict[str, str]:
    found: dict[str, str] = {}
    key = ""  # of a value that goes on
    for line in lines:
        if _is_comment(line.text):
            key = ""
            continue
        text = line.text.partition("#")[0].strip()
        if key:
            value = found[key] + text
        else:
            key, colon, value = (part.strip() for part in text.partition(":"))
            key = key.lower()
            if not colon:
                raise DefinitionError(f"{text}: this is not KEY: VALUE", None, line.number)
            if re.sub(r"\d+$", "", key) not in _HEADER:
                near = get_close_matches(key, _HEADER, 1)
                raise DefinitionError(
                    f"{key}: there is no such key",
                    f"did you mean {near[0]}:?" if near else None,
                    line.number,
                )
        goes_on = value.endswith("\\")
        found[key] = value.removesuffix("\\").replace("\\n", "\n") if goes_on else value
        key = key if goes_on else ""
    return found


def _files(title: Line, body: list[Line]) -> Iterator[Files]:
    words = title.text.partition("#")[0].split()
    if words and (len(words) != 2 or words[0] != "from"):
        raise DefinitionError(f"%files {title.text}: write %files from STAGE", None, title.number)
    origin = words[1] if words else ""
    for line in body:
        if _is_comment(line.text):
            continue
        found = [_unquoted(word) for word in _WORD.findall(line.text)]
        if not found or "".join(_WORD.sub("", line.text).split()):
            raise DefinitionError("a quote is not closed", None, line.number)
        if len(found) > 2 and not found[2].startswith("#"):
            raise DefinitionError(
                "%files has one source and one target a line", "put blanks in quotes", line.number
            )
        target = found[1] if len(found) > 1 and not found[1].startswith("#") else ""
        yield Files(found[0], target, origin, line.number)


def _unquoted(word: str) -> str:
    """Return a word without its quotes; what they protect from being a wildcard stays so."""
    parts = []
    for escaped, double, single, plain in _PART.findall(word):
        literal = escaped or double or single
        parts.append(re.sub(r"([*?\[\\])", r"\\\1", literal) if literal else plain)
    return "".join(parts)


def labels_of(text: str) -> dict[str, str]:
    """Return the labels of %labels, and of a file that $APPTAINER_LABELS names."""
    found = {}
    for line in text.split("\n"):
        if not _is_comment(line):
            name, _, value = line.strip().partition(" ")
            found[name] = value.strip()
    return found


def _arguments(lines: Sequence[Line]) -> dict[str, str]:
    found = {}
    for line in lines:
        if _is_comment(line.text):
            continue
        name, equals, value = line.text.partition("=")
        if not equals or not re.fullmatch(r"\w+", name.strip()):
            raise DefinitionError("this is not NAME=VALUE", None, line.number)
        found[name.strip()] = value.strip()
    return found


class _Replace:
    """Puts the values of build arguments into lines; a comment stays as it is."""

    def __init__(
        self, given: Mapping[str, str], defaults: Mapping[str, str], used: set[str]
    ) -> None:
        self._values = {**defaults, **given}
        self._used = used

    def __call__(self, line: Line) -> Line:
        parts: list[str] = []
        size = at = 0
        comment = _COMMENT.search(line.text)
        for match in _ARGUMENT.finditer(line.text):
            if comment is not None and comment.end() <= match.start():
                break
            value = self._value(match[1], line.number)
            # A default may name others, once.
            value = _ARGUMENT.sub(lambda inner: self._value(inner[1], line.number), value)
            parts += (line.text[at : match.start()], value)
            at = match.end()
            size += len(value)
            if size > VALUE_LIMIT:
                raise DefinitionError("its build arguments make it too long", None, line.number)
        return line._replace(text="".join(parts) + line.text[at:])

    def _value(self, name: str, line: int) -> str:
        self._used.add(name)
        if name not in self._values:
            raise DefinitionError(
                f"the build argument {name} has no value",
                f"give --build-arg {name}=VALUE, or a default in %arguments",
                line,
            )
        return self._values[name]


def _check_app(name: str, section: str, line: int) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][\w.+-]*", name, re.ASCII):
        raise DefinitionError(f"%{section}: {name!r} is no name of an application", None, line)


def _is_comment(text: str) -> bool:
    return not text.strip() or text.lstrip().startswith("#")
