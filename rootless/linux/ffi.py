"""The parts of `ctypes` that the bindings need, taken from its C module.

`import ctypes` takes 3 ms of every start, for types and loaders that are not used here; `_ctypes`
takes none. Names and behaviour are those of `ctypes`. If an interpreter has a different C module,
`ctypes` itself is used. See docs/decisions/0003-hot-path.md.

What the kernel reads is packed by `Struct` (struct.Struct): a class of `ctypes.Structure` takes
0.4 ms to make for the first of them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import (
        PyDLL,
        addressof,
        c_char,
        c_char_p,
        c_int,
        c_long,
        c_size_t,
        c_uint32,
        c_ulong,
        c_void_p,
        create_string_buffer,
        get_errno,
    )
    from struct import Struct
else:
    # The C module that `struct` consists of: a file less to look for, 0.2 ms.
    from _struct import Struct

    try:
        from _ctypes import (
            FUNCFLAG_CDECL,
            FUNCFLAG_PYTHONAPI,
            FUNCFLAG_USE_ERRNO,
            CFuncPtr,
            _SimpleCData,
            addressof,
            dlopen,
            get_errno,
            sizeof,
        )

        class c_int(_SimpleCData):  # noqa: N801
            _type_ = "i"

        class c_uint32(_SimpleCData):  # noqa: N801
            _type_ = "I"

        class c_long(_SimpleCData):  # noqa: N801
            _type_ = "l"

        class c_ulong(_SimpleCData):  # noqa: N801
            _type_ = "L"

        class c_char_p(_SimpleCData):  # noqa: N801
            _type_ = "z"

        class c_void_p(_SimpleCData):  # noqa: N801
            _type_ = "P"

        class c_char(_SimpleCData):  # noqa: N801
            _type_ = "c"

        # Linux is LP64 wherever rless runs; the check below holds it to that.
        c_size_t = c_ulong

        class _Function(CFuncPtr):
            _flags_ = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI | FUNCFLAG_USE_ERRNO
            _restype_ = c_int

        class PyDLL:
            """A shared library whose functions are called with the interpreter's lock held."""

            def __init__(self, name, use_errno=True):
                self._handle = dlopen(name, 0)

            def __getattr__(self, name):
                function = self[name]
                setattr(self, name, function)
                return function

            def __getitem__(self, name):
                return _Function((name, self))

        def create_string_buffer(init, size=0):
            """Return a mutable buffer of `init`, or of that many zero bytes."""
            if isinstance(init, int):
                return (c_char * init)()
            buffer = (c_char * (size or len(init) + 1))()
            buffer.value = init
            return buffer

        if sizeof(c_ulong) != 8 or sizeof(c_uint32) != 4:
            raise ImportError("not LP64")
    except (ImportError, AttributeError, TypeError):
        from ctypes import (
            PyDLL,
            addressof,
            c_char,
            c_char_p,
            c_int,
            c_long,
            c_size_t,
            c_uint32,
            c_ulong,
            c_void_p,
            create_string_buffer,
            get_errno,
        )

__all__ = [
    "PyDLL",
    "Struct",
    "addressof",
    "c_char",
    "c_char_p",
    "c_int",
    "c_long",
    "c_size_t",
    "c_uint32",
    "c_ulong",
    "c_void_p",
    "create_string_buffer",
    "get_errno",
]
