"""rless-zeros.so: a memset that writes no zeros over zeros, and is memset all the same."""

from __future__ import annotations

import runpy
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lib.compiled import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# One buffer in .bss, some of it written; what is seen of it after each way to set it.
_PROGRAM = r"""
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SIZE = 8 << 20, PAGE = 4096 };
static char buffer[SIZE + 3 * PAGE], other[SIZE];

static int resident(char *start)
{
    static unsigned char pages[SIZE / PAGE];
    int count = 0;

    mincore((char *)(((size_t)start + PAGE - 1) & -PAGE), SIZE - PAGE, pages);
    for (int i = 0; i < SIZE / PAGE - 1; i++)
        count += pages[i] & 1;
    return count;
}

static void look(const char *when, const char *at, char want, size_t size)
{
    size_t wrong = 0;

    for (size_t i = 0; i < size; i++)
        wrong += at[i] != want;
    printf("%s %zu\n", when, wrong);
}

int main(void)
{
    void *(*volatile set)(void *, int, size_t) = memset;
    char *heap = malloc(SIZE);

    set(other, 0, SIZE);
    printf("untouched %d\n", resident(other));
    other[5 * PAGE] = 'y'; /* after it was set: stays */
    for (size_t i = 12345; i < SIZE; i += SIZE / 7)
        buffer[i] = 'x';
    buffer[0] = buffer[SIZE + 4999] = 'x';
    if (set(buffer + 1, 0, SIZE + 4997 + 1) != buffer + 1)
        return 1;
    printf("written %d\n", resident(buffer));
    printf("edges %c\n", buffer[0]);
    buffer[0] = 0;
    look("zeros", buffer, 0, SIZE);
    set(buffer, 7, SIZE);
    look("sevens", buffer, 7, SIZE);
    set(buffer + 5, 0, 100);
    look("few", buffer + 5, 0, 100);
    set(heap, 'h', SIZE);
    set(heap, 0, SIZE);
    look("heap", heap, 0, SIZE);

    struct sock_filter code[] = { /* no more pread(2) */
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pread64, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = { 4, code };

    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
        return 2;
    printf("ready %d\n", resident(other));
    printf("kept %c\n", other[5 * PAGE]);
    other[5 * PAGE] = 0;
    look("others", other, 0, SIZE);
    set(buffer, 0, SIZE);
    look("sealed", buffer, 0, SIZE);
    printf("mode %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    return 0;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("zeros") / "rless-zeros.so"
    compile_helper = runpy.run_path(str(ROOT / "helpers/programs.py"))["compile_helper"]
    assert compile_helper(ROOT / "helpers/zeros.c", path) is None
    return str(path)


def test_it_is_memset_and_writes_zeros_late(library: str, tmp_path: Path) -> None:
    source, program = tmp_path / "set.c", tmp_path / "set"
    source.write_text(_PROGRAM)
    subprocess.run(["cc", "-O1", "-fno-builtin", "-o", program, source], check=True)
    facts = []
    for environment in ({}, {"LD_PRELOAD": library}):
        run = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
        assert run.stderr == ""
        facts.append(dict(line.split() for line in run.stdout.splitlines()))
    plain, spared = facts
    assert (plain.pop("untouched"), plain.pop("written")) == ("2047", "2047")
    assert int(spared.pop("untouched")) <= 2
    # Those of the eight that were written to, and what the kernel gives with them (large folios).
    assert int(spared.pop("written")) <= 9 * 16
    assert plain == spared
    assert plain == {
        "edges": "x", "zeros": "0", "sevens": "0", "few": "0", "heap": "0", "ready": "2047",
        "kept": "y", "others": "0", "sealed": "0", "mode": "1",
    }  # fmt: skip
