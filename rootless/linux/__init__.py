"""Thin, typed bindings of system calls by ctypes, one file for each area of the kernel.

Only this package uses ctypes. A function here is one system call (or one small kernel protocol). It
takes descriptors and numbers, raises `SyscallError` with the call and its errno, and makes no
decisions.
"""
