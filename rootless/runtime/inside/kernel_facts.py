"""Kernel facts of a container that is ready to start, for `--explain`.

The parent loads this only for `--explain`, as init can import nothing.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def read() -> dict[str, Any]:
    """Return facts of the calling process, as /proc of the container shows them.

    Where it runs: in init, inside the new root.
    """
    report: dict[str, Any] = {}
    for name in ("mountinfo", "cgroup"):
        try:
            with open(f"/proc/self/{name}", encoding="utf-8", errors="replace") as file:
                report[name] = file.read()
        except OSError as error:
            report[name] = f"({error.strerror})"
    report["namespaces"] = {}
    for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        try:
            report["namespaces"][name] = os.readlink(f"/proc/self/ns/{name}")
        except OSError as error:
            report["namespaces"][name] = f"({error.strerror})"
    report["hostname"] = os.uname().nodename
    return report
