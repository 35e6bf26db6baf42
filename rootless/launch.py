"""Start a command: what the launchers rless and rless-oci (helpers/launcher) import first.

The interpreter runs without `site`, which takes 3 ms, so sys.path holds the standard library and
the directory of this package only: all that `rless run` needs. The directories of third-party
packages are added when an import is first missed.

An installed package has the modules that a start may need compiled in one file, hot.bin, which
helpers/hot.py makes, this one among them. It is a part of the installation as the .pyc files are:
made with it and owned by who owns it. Unlike them it is not compared with the sources: remove it to
try an edit in an installation.
"""

# Without annotations from __future__: with hot.bin nothing else loads that module.

import os
import sys
from gc import set_threshold
from marshal import loads

TYPE_CHECKING = False  # without importing typing, which takes 7 ms
if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec, SourceFileLoader
    from types import CodeType, ModuleType

    MAGIC_NUMBER: bytes

    def _fix_co_filename(code: CodeType, path: str) -> None: ...

else:
    # `signal` loads `enum` to name its numbers: 1.5 ms.
    import _signal as signal

    # Where importlib.machinery has them from: they are in every interpreter from its start.
    from _frozen_importlib import ModuleSpec
    from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader
    from _imp import _fix_co_filename

# What the launcher has to tell us (helpers/launcher): header and first part of hot.bin, which it
# has read; the socket to it, if it is our foreground process (helpers/foreground/foreground.c); the
# namespace holder that it has begun for a run ("PID STATUS_FD RELEASE_FD"); the name that it was
# called by, if that is a front (cli/fronts).
hot: "tuple[bytes, bytes] | None" = globals().get("hot")
foreground_fd = -1
holder = ""
front = ""

_HEADER = 32  # magic number; start of the index, ends of the parts (4 bytes each); digest


class HotLoader(SourceFileLoader):
    """Load a module from code that is here already; all else is as from its source file."""

    code: "CodeType"

    def get_code(self, fullname: str) -> "CodeType":
        """Return the module's code."""
        return self.code


class HotModules:
    """Find the modules in hot.bin, as the first entry of sys.meta_path.

    The file is closed at once: a descriptor of it in a container would be a way to write into
    the installation. Whatever is wrong with it, the modules have their own files, too.
    """

    def __init__(self, package: str, read: "tuple[bytes, bytes] | None" = None) -> None:
        """Read the first part, which is enough for a command that has little to do.

        Args:
            read: its header and first part, where they were read already.

        Raises:
            Exception: there is no such file, or it is damaged, or for another interpreter.
        """
        self.directory = os.path.dirname(package)
        self.path = f"{package}/hot.bin"
        self.header = read[0] if read else b""
        self.parts = [memoryview(read[1]) if read else self._read(1)]
        self.index: dict[str, int]
        self.index = loads(self.parts[0][int.from_bytes(self.header[4:8], "little") :])

    def _read(self, part: int) -> memoryview:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = os.read(fd, _HEADER)
            if header[:4] != MAGIC_NUMBER or (self.header or header) != header:
                raise ValueError("for another interpreter, or replaced since the first part")
            self.header = header
            at = 4 + 4 * part  # where its end is told, after the end of the part before it
            start = _HEADER + int.from_bytes(header[at - 4 : at], "little") if part > 1 else _HEADER
            end = _HEADER + int.from_bytes(header[at : at + 4], "little")
            if os.fstat(fd).st_size < end:
                raise ValueError("a piece of it is missing")
            if part == 1:
                return memoryview(os.pread(fd, end - start, start))
            from rootless.linux.files import map_file

            return map_file(fd, end)[start:]
        finally:
            os.close(fd)

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the module's spec; None: it is to be found as usual. A reload is, too."""
        return self._find(name)

    def _find(self, name: str) -> "ModuleSpec | None":
        start = self.index.pop(name, None)
        if start is None:
            return None
        try:
            if start < 0 and len(self.parts) == 1:
                self.parts.append(self._read(2))
            relative, needed, code = loads(self.parts[start < 0][start:])
        except Exception:  # damaged, or not to be mapped: each module has a file of its own
            self.index.clear()
            return None
        for other in needed:
            if other in self.index:
                self._load(other)
        source = f"{self.directory}/{relative}"
        loader = HotLoader(name, source)
        loader.code = code
        _fix_co_filename(loader.code, source)
        spec = ModuleSpec(name, loader, origin=source)
        spec.cached = self.path
        spec.has_location = True  # so that the module has a __file__
        if relative.endswith("__init__.py"):
            spec.submodule_search_locations = [os.path.dirname(source)]
        return spec

    def _load(self, name: str) -> None:
        """Load what another module is certain to import, as the import system does.

        Without its locks and searches, which take as long as the code itself: nobody else is
        there, and where the module is, is known.
        """
        package, _, child = name.rpartition(".")
        if package in self.index:
            self._load(package)
        if package and package not in sys.modules:
            return  # it is just being loaded: the import statement comes back to this one
        spec = self._find(name)
        if spec is None:
            return  # the import statement finds its file
        sys.audit("import", name, None, None, None, None)
        module = _Module(name)
        module.__spec__, module.__loader__ = spec, spec.loader
        module.__file__ = spec.origin
        module.__cached__ = spec.cached  # type: ignore[attr-defined]
        module.__package__ = spec.parent
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        sys.modules[name] = module
        try:
            exec(spec.loader.code, module.__dict__)  # type: ignore[union-attr]  # noqa: S102
        except BaseException:
            del sys.modules[name]
            raise
        if package:
            setattr(sys.modules[package], child, module)


_Module = type(sys)


class SitePackages:
    """Find a missing top-level module in the interpreter's site-packages, once.

    The last entry of sys.meta_path. It does what `site` does at start, except for the user's
    site-packages, sitecustomize and usercustomize: nothing that is not a part of the
    installation is run.
    """

    @staticmethod
    def find_spec(
        name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the module's spec after the directories were added; None: there is none."""
        if path is not None:
            return None  # a submodule: its package was found, so sys.path has nothing to add
        sys.meta_path.remove(SitePackages)
        import site
        from importlib.machinery import PathFinder

        known = site.removeduppaths()
        site.addsitepackages(site.venv(known) or known)
        return PathFinder.find_spec(name)


def _end_by_key(unraisable: "sys.UnraisableHookArgs") -> None:
    """End by a key that came within a callback of the interpreter, which would forget it.

    The import system has such ones. As by a SIGKILL: what is left is found by the next command.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    sys.__unraisablehook__(unraisable)


def let_interrupts_in() -> None:
    """Let Ctrl-C in, which the launcher has blocked: from now on the caller handles it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))


def start(module: str) -> None:
    """Run `main()` of `module` and exit with the code that it returns.

    Without the interpreter's own end, which takes objects apart for 2 ms: there is nothing that
    the kernel does not close as well. And without looking for garbage, of which loading code
    makes none, 20 times in 1 ms.
    """
    set_threshold(50_000)
    sys.unraisablehook = _end_by_key
    try:
        sys.meta_path.insert(0, HotModules(os.path.dirname(__file__), hot))
    except Exception:
        pass  # an editable installation has none
    sys.meta_path.append(SitePackages)
    code = 130
    try:
        __import__(module)
        code = sys.modules[module].main()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                code = code or 1  # closed or full: main has said so, if it could
    except KeyboardInterrupt:
        pass  # `main` has been left already
    except ImportError as error:  # before `main`, which reports its own
        if error.name not in sys.stdlib_module_names:
            raise
        from rootless.errors import lacks_module

        os.write(2, f"rless: {lacks_module(error)}\n".encode())
        code = 125
    os._exit(code)
