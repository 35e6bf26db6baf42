"""Tests that the numbers of system calls are those of the kernel's headers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

# The table that aarch64 and riscv64 share, and that of x86_64: of linux-libc-dev, or of another
# distribution's headers of the kernel.
HEADERS = {
    "aarch64": "asm-generic/unistd.h",
    "riscv64": "asm-generic/unistd.h",
    "x86_64": "asm/unistd_64.h",
}
_READ = """import json, os, sys
uname = os.uname()
os.uname = lambda: os.uname_result((*uname[:4], sys.argv[1]))
from rootless.linux import call, sched
names = ["personality", "set_mempolicy", "ioprio_set", "sched_setattr"]
print(json.dumps(call._LEGACY | dict(zip(names, sched._NUMBERS))))"""


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_headers(machine: str) -> None:
    found = list(Path("/usr/include").glob(f"**/{HEADERS[machine]}"))
    if not found:
        pytest.skip("needs headers of the kernel")
    lines = re.findall(r"#define __NR_(\w+) (\d+)$", found[0].read_text(), re.MULTILINE)
    wanted = {name: int(number) for name, number in lines}
    said = subprocess.run(
        [sys.executable, "-c", _READ, machine], check=True, capture_output=True, text=True
    )
    numbers = json.loads(said.stdout)
    assert len(numbers) == 11
    assert {name: wanted[name] for name in numbers} == numbers
