"""Go's text/template, as far as Docker's `--format` needs it: what a user types after -f.

A template is text with actions in `{{ }}`: fields (`.State.Status`), variables, pipelines, calls of
functions, `if`, `range` and `with`. It is compiled to a tree of small nodes and then run over plain
data: dicts stand for Go's structs and maps, lists for slices, None for nil. As in Go, a `range`
over a map goes by sorted keys, a missing key of a map is `<no value>`, and a missing field of a
struct is an error. A dict may be either, so the spelling decides: fields of Go begin with a capital
letter, and the names of a row are always fields.

Text from the data is printed without control characters (see `Renderer`): an image's label must not
control the terminal.

Source: https://pkg.go.dev/text/template, https://docs.docker.com/engine/cli/formatting/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rootless.cli.template_functions import (
    FUNCTIONS,
    IN_HEADING,
    NO_VALUE,
    SHOWING,
    SYNTAX,
    Functions,
    Made,
    error,
    kind_of,
)
from rootless.cli.template_parser import Parser
from rootless.errors import escape

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Break(Exception):  # noqa: N818  a jump
    pass


class _Continue(Exception):  # noqa: N818  a jump
    pass


class Renderer:
    """Run one compiled template.

    Args:
        strict: show no line end or tab of the data either: for lists, where a line is a row.
        heading: run over the headings of a table, not over a row.
    """

    def __init__(self, nodes: list[Any], *, strict: bool = False, heading: bool = False) -> None:
        self.nodes = nodes
        self.strict = strict
        self.heading = heading
        self.functions = dict(FUNCTIONS)
        showing = Functions(self.show)
        for name in SHOWING:
            self.functions[name] = getattr(showing, name)
        if heading:
            for name in IN_HEADING:
                self.functions[name] = lambda value, *_: value

    def render(self, data: Any) -> str:
        """Return the text for `data`.

        Raises:
            RlessError: a field that is not there, a function that cannot take its values.
        """
        self.root = data
        self.scopes: list[dict[str, Any]] = [{"$": data}]
        out: list[str] = []
        try:
            self.block(self.nodes, data, out)
        except RecursionError:
            raise error("the template is nested too deeply") from None
        return "".join(out)

    def show(self, value: object, inner: bool = False) -> str:
        """Return a value as Go prints it."""
        if isinstance(value, Made):
            return value
        if isinstance(value, str):
            if self.strict or value.isprintable():
                return escape(value)
            return "".join(char if char in "\n\t" else escape(char) for char in value)
        if isinstance(value, bool):
            return "true" if value else "false"
        if value is None:
            return "<nil>"
        if value is NO_VALUE:
            return "<no value>"
        if isinstance(value, float):
            return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)
        if isinstance(value, dict):
            items = (f"{self.show(key)}:{self.show(value[key])}" for key in sorted(value))
            return f"map[{' '.join(items)}]"
        if isinstance(value, (list, tuple)):
            return f"[{' '.join(self.show(item) for item in value)}]"
        return escape(str(value))

    def block(self, nodes: list[Any], dot: Any, out: list[str]) -> None:
        for node in nodes:
            kind = node[0]
            if kind == "text":
                out.append(node[1])
            elif kind == "print":
                out.append(self.show(self.value(node[1], dot)))
            elif kind == "set":
                self.assign(node[1], self.value(node[3], dot), node[2])
            elif kind == "range":
                self.range(node, dot, out)
            elif kind == "break":
                raise _Break
            elif kind == "continue":
                raise _Continue
            else:
                _, names, pipeline, body, other = node
                self.scopes.append({})
                value = self.value(pipeline, dot)
                if names:
                    self.assign(names[0], value, True)
                if value:
                    self.block(body, value if kind == "with" else dot, out)
                else:
                    self.block(other, dot, out)
                self.scopes.pop()

    def range(self, node: Any, dot: Any, out: list[str]) -> None:
        _, names, pipeline, body, other = node
        value = self.value(pipeline, dot)
        pairs: Sequence[tuple[Any, Any]]
        if isinstance(value, dict):
            pairs = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, (list, tuple)):
            pairs = list(enumerate(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs = [(number, number) for number in range(min(value, 1 << 16))]
        elif value is None or value is NO_VALUE:
            pairs = ()
        else:
            raise error(f"range cannot go through a {kind_of(value)}")
        depth = len(self.scopes)
        try:
            for key, item in pairs:
                both = (key, item) if len(names) == 2 else (item,)
                self.scopes.append(dict(zip(names, both, strict=False)))
                try:
                    self.block(body, item, out)
                except _Continue:
                    pass
                del self.scopes[depth:]
        except _Break:
            del self.scopes[depth:]
        if not pairs:
            self.block(other, dot, out)

    def assign(self, name: str, value: Any, new: bool) -> None:
        if new:
            self.scopes[-1][name] = value
            return
        for scope in reversed(self.scopes):
            if name in scope:
                scope[name] = value
                return
        raise error(f"undefined variable {name}")

    def value(self, pipeline: Any, dot: Any) -> Any:
        """Return what a pipeline gives: each command's value is the next one's last argument."""
        last: list[Any] = []
        for command in pipeline[1]:
            last = [self.command(command, dot, last)]
        return last[0]

    def command(self, words: list[Any], dot: Any, last: list[Any]) -> Any:
        head = words[0]
        if head[0] == "call":
            return self.call(head[1], words[1:], dot, last)
        value = self.operand(head, dot)
        if callable(value):
            return value(*[self.operand(word, dot) for word in words[1:]], *last)
        if len(words) > 1 or last:
            raise error(f"{_path(head)} is not a function and takes no argument")
        return value

    def call(self, name: str, words: list[Any], dot: Any, last: list[Any]) -> Any:
        if name in ("and", "or"):
            value: Any = NO_VALUE
            for word in words:
                value = self.operand(word, dot)
                if bool(value) is (name == "or"):
                    return value
            return last[0] if last else value
        values = [self.operand(word, dot) for word in words] + last
        try:
            return self.functions[name](*values)
        except (TypeError, ValueError, OverflowError):
            shown = " ".join(kind_of(value) for value in values) or "no value"
            raise error(f"the function {name} cannot take {shown}", SYNTAX) from None

    def operand(self, node: Any, dot: Any) -> Any:
        kind = node[0]
        if kind == "value":
            return node[1]
        if kind == "field":
            return self.fields(dot, node[1], "")
        if kind == "chain":
            return self.fields(self.value(node[1], dot), node[2], "(…)")
        if kind == "call":
            return self.call(node[1], [], dot, [])
        for scope in reversed(self.scopes):
            if node[1] in scope:
                return self.fields(scope[node[1]], node[2], node[1])
        raise error(f"undefined variable {node[1]}")

    def fields(self, value: Any, names: list[str], path: str) -> Any:
        for name in names:
            if isinstance(value, dict):
                if name in value:
                    value = value[name]
                elif self.heading:
                    value = name.upper()
                elif value is self.root or name[:1].isupper():
                    where = f" in {path}" if path else ""
                    raise error(
                        f"there is no field {name!r}{where}", f"fields are {_fields(value)}"
                    )
                else:
                    value = NO_VALUE
            elif value is not NO_VALUE:
                what = "nothing (null)" if value is None else f"a {kind_of(value)}"
                raise error(f"there is no field {name!r}: {path or '.'} is {what}")
            path = f"{path}.{name}"
        return value


def _fields(value: dict[str, Any]) -> str:
    names = ", ".join(str(name) for name in value)
    return escape(names) if names else "none"


def _path(node: Any) -> str:
    if node[0] == "field":
        return "." + ".".join(node[1])
    return ".".join([node[1] if node[0] == "variable" else "(…)", *node[2]])


def compile_template(template: str, *, escapes: bool = False) -> list[Any]:
    r"""Return the nodes of a template, for `Renderer`.

    Args:
        escapes: read `\t` and `\n` in the text as tab and line end, as Docker does for lists.

    Raises:
        RlessError: it is no template.
    """
    try:
        return Parser(template, escapes).block()[0]
    except RecursionError:
        raise error("the template is nested too deeply") from None


def render(template: str, data: Any) -> str:
    """Return a template's text for one object: what `inspect --format` prints."""
    return Renderer(compile_template(template)).render(data)
