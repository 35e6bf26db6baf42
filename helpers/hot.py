"""Write rootless/hot.bin: the modules that a start may load, compiled, in one file.

From a file of its own a module costs the import system nine file calls, each a round trip to
the server on a network file system, and 0.1 ms more. `rootless/launch.py` reads the file. Run by
setup.py when the package is built; by hand: `python -X no_debug_ranges helpers/hot.py DIRECTORY`,
the one that `rootless` lies in.

The file: a header (the interpreter's bytecode magic; the start of the index, the ends of both
parts, 4 bytes each; 16 bytes of the content's SHA-256), then the parts. The first one is read at
every start: the marshalled code of `rootless/launch.py`, which helpers/launcher/launch.c executes,
of the modules of `rless --version` and of what maps the second part, and the index (marshalled:
module -> where it begins in its part; negative: from the end of the second one). The second one has
all that commands may load. It is mapped when a module of it is wanted first, so that only what is
loaded costs. A module is (source below DIRECTORY, the modules that it is certain to import, code),
marshalled."""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib.util
import marshal
import os
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import CodeType

NAME = "hot.bin"
COMMANDS = ("rootless.cli.main", "rootless.runtime.commands.main")
MAPS = ("rootless.linux.files", "rootless.linux.call")  # what reaches the second part
# What scripts ask all the time does without the second part: the bindings that map it take 1 ms.
ASKED = ("rootless.cli.parse", "rootless.cli.verbs.container.ps", "rootless.engine.query.ps")
# Commands that only the launcher starts.
STARTED = ("rootless.cli.foreground", "rootless.cli.fronts.main")
FINDER = "rootless.launch"
VERBS = "rootless.cli.verbs"
VERB_TABLE = "rootless.cli.verb_table"
FLAGS = "rootless.cli.flags"

# Modules of the standard library that a start loads anyway, or that cost next to nothing. What
# loads others is slow by itself, so it and all that only it needs is left out.
CHEAP = frozenset(
    "__future__ _blake2 _ctypes _json _signal _socket _struct _thread array ctypes errno fcntl"
    " marshal os pwd resource select stat struct sys termios time".split()
)


class Module:
    """A module's source, and what it imports."""

    def __init__(self, name: str, source: Path, relative: str) -> None:
        self.name = name
        self.relative = relative
        self.tree = ast.parse(source.read_bytes(), relative)
        self.at_start = set(_imports(self.tree.body, at_start=True))
        self.ever = set(_imports(self.tree.body, at_start=False))
        # Tables name functions by strings: "network.publish" in rootless.cli.options; that of
        # the verbs names modules: "container.run".
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                module, dot, _ = node.value.partition(".")
                if dot and name == VERB_TABLE:
                    self.ever.add(f"{VERBS}.{node.value}")
                elif dot:
                    self.ever.add(f"{FLAGS}.{module}")  # those of a verb are in its own module

    def compile(self) -> CodeType:
        """Return the code of what is executed.

        Without columns, where it is run with `-X no_debug_ranges`: lines are enough for tracebacks.
        """
        tree = _Trim().visit(copy.deepcopy(self.tree))
        code: CodeType = compile(tree, self.relative, "exec", dont_inherit=True, optimize=0)
        return code


class _Trim(ast.NodeTransformer):
    """Leave out what is read by people and checkers only: a quarter of the code's size.

    That is docstrings, annotations, what is there for type checkers, and `__future__`, which
    without annotations has nothing to say. A class that is made of its annotations (a NamedTuple,
    a dataclass) needs a module that is slow, so `select` has left it out.
    """

    def visit_Module(self, node: ast.Module) -> ast.Module:
        """Trim a module."""
        self._trim_body(node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        """Trim a class."""
        self._trim_body(node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Trim a function."""
        node.returns = None
        self._trim_body(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        """Trim a parameter."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        """Make an annotated assignment a plain one; without a value nothing is assigned."""
        self.generic_visit(node)
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        """Leave `__future__` out."""
        return None if node.module == "__future__" else node

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        """Leave what is under TYPE_CHECKING out, not what is there instead of it."""
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse
        if not node.body:
            node.body = [ast.copy_location(ast.Pass(), node)]
        return node

    def _trim_body(self, node: ast.Module | ast.ClassDef | ast.FunctionDef) -> None:
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            del node.body[0]
        self.generic_visit(node)
        if not node.body and not isinstance(node, ast.Module):
            node.body = [ast.copy_location(ast.Pass(), node)]


def _imports(body: Iterable[ast.AST], at_start: bool) -> Iterator[str]:
    """Yield the names that statements import; at_start: not what functions do when called."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and any(
            word in ast.unparse(node.test) for word in ("TYPE_CHECKING", "__name__")
        ):
            yield from _imports(node.orelse, at_start)
        elif isinstance(node, ast.ExceptHandler):
            pass  # what replaces something that is missing here
        elif not (at_start and isinstance(node, ast.FunctionDef)):
            yield from _imports(ast.iter_child_nodes(node), at_start)


def read_modules(directory: Path) -> dict[str, Module]:
    """Return all modules of the package below `directory`."""
    modules = {}
    for source in sorted((directory / "rootless").rglob("*.py")):
        relative = source.relative_to(directory)
        parts = relative.with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = Module(name, source, str(relative))
    return modules


def closure(names: Iterable[str], modules: dict[str, Module]) -> list[str]:
    """Return the modules that importing `names` loads for certain, with them."""
    found = [name for name in names if name in modules]
    for name in found:
        wanted = {name.rpartition(".")[0], *modules[name].at_start}
        found += sorted(wanted & modules.keys() - set(found))
    return found


def select(modules: dict[str, Module]) -> tuple[list[str], list[str]]:
    """Return the modules that every start needs, and those that a command may load.

    Not those that load something slow, nor what can be reached through them only.
    """
    slow = {
        name
        for name, module in modules.items()
        if name != FINDER
        and any(
            top in sys.stdlib_module_names and top not in CHEAP
            for top in (other.partition(".")[0] for other in module.at_start)
        )
    }
    while more := {name for name in modules if modules[name].at_start & slow} - slow:
        slow |= more
    first = [name for name in closure((*COMMANDS, *MAPS, *ASKED), modules) if name not in slow]
    found: set[str] = set()
    queue = [*COMMANDS, *MAPS, *STARTED]
    while queue:
        name = queue.pop()
        if name in modules and name not in found | slow:
            found.add(name)
            queue += [name.rpartition(".")[0], *modules[name].ever]
    return first, sorted(found.difference(first))


def write(directory: Path) -> Path:
    """Write the file for the package below `directory`; return its path."""
    modules = read_modules(directory)
    indexes: list[dict[str, int]] = []
    parts = []
    chosen = select(modules)
    for names in chosen:
        # What finds the others comes first: the launcher executes it, and looks for no file.
        part = b"" if parts else marshal.dumps(modules[FINDER].compile())
        index = {}
        for name in names:
            if name == FINDER:
                continue
            module = modules[name]
            package = name.rpartition(".")[0]
            certain = {other for other in module.at_start if any(other in p for p in chosen)}
            needed = ([package] if package else []) + sorted(certain - {package, name, FINDER})
            index[name] = len(part)
            part += marshal.dumps((module.relative, tuple(needed), module.compile()))
        parts.append(part)
        indexes.append(index)
    of_second = {name: start - len(parts[1]) for name, start in indexes[1].items()}
    content = parts[0] + marshal.dumps(indexes[0] | of_second)
    places = (len(parts[0]), len(content), len(content) + len(parts[1]))
    content += parts[1]
    header = importlib.util.MAGIC_NUMBER + b"".join(n.to_bytes(4, "little") for n in places)
    header += hashlib.sha256(content).digest()[:16]
    target = directory / "rootless" / NAME
    fresh = target.with_name(f".{NAME}.{os.getpid()}")
    fresh.write_bytes(header + content)
    fresh.chmod(0o644)
    fresh.replace(target)  # never a half of it to somebody who starts just now
    return target


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
