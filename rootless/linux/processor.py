"""Features of the processor, as the C library has detected them at its start."""

from __future__ import annotations

from rootless.linux import ffi
from rootless.linux.call import libc

_LEAF_7 = 1  # sys/platform/x86.h, CPUID_INDEX_7
_AVX2 = 1 << 5  # of EBX


def has_avx2() -> bool:
    """Tell whether programs may use AVX2: the processor has it, and the kernel saves its state.

    False where the C library does not tell: other processors, glibc before 2.33, musl.
    """
    try:
        leaf = libc.__getattr__("__x86_get_cpuid_feature_leaf")
    except AttributeError:
        return False
    leaf.restype = ffi.c_ulong
    place = leaf(_LEAF_7)
    # struct cpuid_feature: EAX, EBX, ECX, EDX as CPUID gives them, then those that can be used.
    return bool((ffi.c_uint32 * 8).from_address(place)[5] & _AVX2)
