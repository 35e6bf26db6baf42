"""The prefetch request to rless-serve."""

from __future__ import annotations

from typing import Any

import pytest

from rootless.rootfs import prefetch


def spec(program: str, path: str = "/bin:/usr/bin", cwd: str = "/", *targets: str) -> Any:
    """Return so much of a config as counts."""
    return {
        "process": {"args": [program, "-c", "x"], "env": ["A=b", f"PATH={path}"], "cwd": cwd},
        "mounts": [{"destination": target} for target in targets],
    }


@pytest.mark.parametrize(
    ("program", "path", "cwd", "wanted"),
    [
        ("tool", "/bin:/usr/bin", "/", ["/bin/tool", "/usr/bin/tool"]),
        ("tool", "bin::/usr/bin:.", "/", ["/usr/bin/tool"]),
        ("tool", "", "/", []),
        ("/opt/tool", "/bin", "/", ["/opt/tool"]),
        ("bin/tool", "/bin", "/usr", ["/usr/bin/tool"]),
        ("./tool", "/bin", "/srv", ["/srv/./tool"]),
        ("b\udcff", "/bin", "/", ["/bin/b\udcff"]),
    ],
)
def test_program_is_searched_in_path(program: str, path: str, cwd: str, wanted: list[str]) -> None:
    text = prefetch.words(spec(program, path, cwd)).decode("utf-8", "surrogateescape")
    assert text == "".join(f"{word}\0" for word in (*wanted, "", ""))


def test_mount_targets_follow() -> None:
    targets = ("/proc", "/dev", "/dev/shm", "/proc/x", "/sys/fs/cgroup", "/etc/hosts", "/home/me")
    words = prefetch.words(spec("/a", "", "/", *targets))
    assert words == b"/a\0\0/proc\0/dev\0/etc/hosts\0/home/me\0\0"


def test_overlong_paths_are_left_out() -> None:
    assert len(prefetch.words(spec("/" + "x" * 16380))) == 16384
    assert prefetch.words(spec("/" + "x" * 16381)) == b""
