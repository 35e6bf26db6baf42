"""Write to standard output and error: whole, unbuffered, with every failure seen.

Python's own buffers would report a full disk or a closed pipe only at exit, as a traceback.
"""

from __future__ import annotations

import os
import sys

from rootless.errors import RlessError, describe, escape, lacks_module, spoken, voice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_BROKEN_PIPE = 128 + 13  # what a shell shows for a program that SIGPIPE ended


def guard() -> None:
    """Open /dev/null in place of standard descriptors that the caller closed.

    Otherwise the next file opened (a lock, a log) would become standard output. `sys.stdout`
    stays None then, by which `write` knows.
    """
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        fd = os.open("/dev/null", os.O_RDWR)
        while fd < 3:
            os.set_inheritable(fd, True)
            fd = os.dup(fd)
        os.close(fd)


def write(text: str, fd: int = 1) -> None:
    """Write all of `text`.

    Raises:
        BrokenPipeError: nobody reads it any more.
        RlessError: it cannot be written: a full disk, a closed descriptor.
    """
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    try:
        if fd == 1 and sys.stdout is None:
            import errno

            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:  # somebody made the terminal or pipe non-blocking
                import select

                select.select((), (fd,), ())
    except BrokenPipeError:
        raise
    except OSError as error:
        name = "standard output" if fd == 1 else "standard error"
        raise RlessError(f"cannot write to {name}: {error.strerror}") from error


def _complain(line: str) -> None:
    try:
        write(f"{voice['error']}{escape(spoken(line))}\n", 2)
    except (OSError, RlessError):
        pass  # there is no other place to say it


def report(error: BaseException, debug: bool = False) -> int:
    """Print what went wrong on one line and return the exit code.

    Args:
        debug: print the traceback of an internal error.
    """
    if isinstance(error, RlessError):
        _complain(str(error))
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, BrokenPipeError):
        return _BROKEN_PIPE
    if debug:
        import traceback

        for line in traceback.format_exception(error):
            try:
                write(line, 2)
            except (OSError, RlessError):
                break
    if isinstance(error, OSError) and error.strerror:
        _complain(describe(error) + _remedy(error))
    elif isinstance(error, ImportError) and (lacking := lacks_module(error)):
        _complain(lacking)
    else:
        hint = "" if debug else "; run with --debug and report it"
        _complain(f"internal error: {type(error).__name__}: {error}{hint}")
    return 125


def _remedy(error: OSError) -> str:
    """Return what to do where a server that has the storage refused something, else ""."""
    import errno

    from rootless import paths
    from rootless.image.model import limits

    if not error.filename or error.errno not in (errno.EACCES, errno.EPERM):
        return ""
    try:
        inside = os.fsdecode(error.filename).startswith(f"{paths.storage_root()}/")
    except RlessError:
        return ""
    hint = limits.hint(error.errno)
    return f"; {hint}" if inside and hint != limits.NOT_WRITABLE else ""


def each(names: Iterable[str], action: Callable[[str], object]) -> int:
    """Do `action` for every name, as Docker does: report a failure and go on.

    Returns:
        0, or the exit code of the last failure.
    """
    code = 0
    for name in names:
        try:
            action(name)
        except BrokenPipeError:
            raise
        except (OSError, RlessError) as error:
            code = report(error)
    return code


def outcomes(
    results: Iterable[tuple[str, RlessError | None]], *, missing_is_fine: bool = False
) -> int:
    """Print the name of each container that a verb has done its work on, else why not.

    Args:
        missing_is_fine: as Docker's `rm --force`: one that is not there is told, and no failure.

    Returns:
        0, or the exit code of the last failure.
    """
    code = 0
    for name, error in results:
        if error is None:
            write(f"{escape(name)}\n")
        else:
            failed = report(error)
            if not (missing_is_fine and error.message.startswith("no such container")):
                code = failed
    return code
