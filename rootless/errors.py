"""Errors that a user can meet, and how untrusted text is made safe to print.

Every failure that can happen on a real host is an `RlessError`: what failed and why in
`message`, what to do in `hint`. It is raised low, given context at most once a layer, and
printed once, by the command line. Exit codes follow Docker: 125 the tool itself failed,
126 the command cannot be executed, 127 the command was not found.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_TOOL = 125
EXIT_CANNOT_EXECUTE = 126
EXIT_NOT_FOUND = 127

# What a line on standard error begins with, by its kind; a front has its own (cli/fronts).
voice = {"error": "rless: ", "warning": "rless: warning: "}
# How a front spells the commands in a text for people: it adds a function.
spellings: list[Callable[[str], str]] = []

# Kinds of errors, for a caller that is a program: a status of HTTP comes from them.
NOT_FOUND, CONFLICT, INVALID, UNCHANGED, FORBIDDEN, NOT_BUILT, UNAUTHORIZED = (
    "not found", "conflict", "invalid", "unchanged", "forbidden", "not built", "unauthorized",
)  # fmt: skip


class RlessError(Exception):
    """Report one failure: `message` is "what failed: why", `hint` is what to do.

    `kind` is one of the kinds above; "": none of them.
    """

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        exit_code: int = EXIT_TOOL,
        kind: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.kind = kind

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def within(self, context: str) -> RlessError:
        """Return the same failure told from one layer up: "context: message"."""
        return RlessError(f"{context}: {self.message}", self.hint, self.exit_code, self.kind)


class SyscallError(RlessError):
    """Report a system call that failed; keeps the call and its errno for the layers above.

    Args:
        call: the system call with the arguments that matter, as `mount(tmpfs, /dev)`.
        errno: the error number that the kernel gave.
    """

    def __init__(self, call: str, errno: int, hint: str | None = None) -> None:
        super().__init__(f"{call}: {os.strerror(errno)}", hint)
        self.call = call
        self.errno = errno


# module of the standard library -> what Python is built with for it
_BUILT_WITH = {"_ctypes": "libffi", "_ssl": "OpenSSL", "_hashlib": "OpenSSL", "zlib": "zlib",
               "_bz2": "bzip2", "_lzma": "xz"}  # fmt: skip


def lacks_module(error: ImportError) -> str | None:
    """Return what to say of a module that this Python or installation lacks; None: it is ours."""
    import sys

    name = error.name or ""
    python = f"Python {sys.version.split()[0]} ({escape(sys.executable or 'no path')})"
    if name in sys.stdlib_module_names:
        headers = f", or build it again with the headers of {_BUILT_WITH.get(name, 'its library')}"
        return (
            f"{python} was built without the module {name}; "
            f"install rless with the Python of the distribution{headers}"
        )
    if not name or name.partition(".")[0] == "rootless":
        return None
    return f"the package {name} is not installed for {python}; install rless again"


def escape(text: str) -> str:
    r"""Return `text` on one line with nothing in it that a terminal obeys.

    C0, DEL and C1 control characters and lone surrogates become \xNN or \uNNNN. Names from
    images and registries are hostile: an escape sequence in one could rewrite the screen.
    """
    if text.isprintable():
        return text
    # repr() and not the codec of that name: init can load no codec any more.
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def spoken(text: str) -> str:
    """Return a text for people, with its commands as they are typed under a front's name."""
    for spell in spellings:
        text = spell(text)
    return text


def describe(error: OSError) -> str:
    """Return what failed, why, and what to do, for an error of Python's own functions."""
    import errno

    where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    hint = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    if error.errno == errno.ENOENT and not where and _is_nowhere():
        where, hint = "getcwd: the working directory was removed: ", "; go to another one"
    return f"{where}{error.strerror}{hint}"


def _is_nowhere() -> bool:
    """Tell whether the working directory is gone: only getcwd(2) says ENOENT without a name."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
