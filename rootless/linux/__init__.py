"""The kernel, one area a file: thin, typed bindings of system calls by ctypes.

Only this package uses ctypes. A function here is one system call (or one small kernel
protocol), takes descriptors and numbers, raises `SyscallError` with the call and its errno,
and decides nothing.
"""
