"""rootless/runtime/inside/mounts.py: what each option means."""

from __future__ import annotations

import pytest

from rootless.errors import RlessError
from rootless.linux import mount as api
from rootless.runtime.inside.mounts import Options, is_bind, option_names


def test_last_of_opposite_options_wins() -> None:
    options = Options(["ro", "rw", "nosuid", "suid", "nosuid"])
    assert options.set == api.MOUNT_ATTR_NOSUID
    assert options.clear == api.MOUNT_ATTR_RDONLY
    options = Options(["rw", "ro"])
    assert (options.set, options.clear) == (api.MOUNT_ATTR_RDONLY, 0)


def test_atime_options_exclude_each_other() -> None:
    options = Options(["noatime", "strictatime"])
    assert options.set == api.MOUNT_ATTR_STRICTATIME
    assert options.clear == api.MOUNT_ATTR_ATIME_MASK
    assert Options(["strictatime", "relatime"]).set == 0


def test_recursive_options_are_separate() -> None:
    options = Options(["rbind", "ro", "rnosuid", "rro"])
    assert options.set == api.MOUNT_ATTR_RDONLY
    assert options.recursive_set == api.MOUNT_ATTR_NOSUID | api.MOUNT_ATTR_RDONLY
    assert options.bind and options.recursive


def test_unknown_options_are_passed_to_the_file_system() -> None:
    options = Options(["size=1m", "mode=700", "sync", "defaults", "rshared"])
    assert options.data == [("size", "1m"), ("mode", "700"), ("sync", None)]
    assert options.propagation == [(api.MS_SHARED, True)]


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_unsupported_options_are_refused(option: str) -> None:
    with pytest.raises(RlessError):
        Options([option])


@pytest.mark.parametrize("option", option_names())
def test_all_listed_options_are_understood(option: str) -> None:
    assert Options([option]).data == []


@pytest.mark.parametrize(
    ("entry", "bind"),
    [
        ({"type": "bind"}, True),
        ({"type": "none", "options": ["rbind"]}, True),
        ({"options": ["bind"]}, True),
        ({"type": "tmpfs", "options": ["ro"]}, False),
        ({}, False),
    ],
)
def test_bind_is_recognized(entry: dict[str, object], bind: bool) -> None:
    assert is_bind(entry) == bind  # type: ignore[arg-type]
