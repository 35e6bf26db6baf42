"""rootless/runtime/inside/devices.py: device nodes are the host's real ones (class 27)."""

from __future__ import annotations

import pytest

from rootless.errors import RlessError
from rootless.runtime.inside import devices
from tests.lib.bundle import Bundle

pytestmark = pytest.mark.needs("compiler", "user namespaces")


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ({"path": "/dev/no-such", "type": "c", "major": 1, "minor": 3}, "No such file"),
        ({"path": "/dev/full", "type": "c", "major": 1, "minor": 3}, None),  # a standard one
        ({"path": "/etc/passwd", "type": "c", "major": 1, "minor": 3}, "is not the character"),
        ({"path": "/dev/pts/ptmx", "type": "c", "major": 1, "minor": 3}, "is not the character"),
        ({"path": "/dev/pts/ptmx", "type": "b", "major": 5, "minor": 2}, "is not the block"),
        ({"path": "/dev/pts/ptmx", "type": "p"}, "is not a device"),
    ],
)
def test_other_devices_are_refused(
    bundle: Bundle, device: dict[str, object], says: str | None
) -> None:
    bundle.linux["devices"] = [device]
    if says is None:
        bundle.run("id").expect()
    else:
        assert says in bundle.fails("id")


@pytest.mark.parametrize("path", ["/dev/ptmx", "/dev/./ptmx"])
def test_terminals_stay_those_of_the_container(bundle: Bundle, path: str) -> None:
    """The node of the host would open a pty that is not in the container's devpts."""
    bundle.linux["devices"] = [{"path": path, "type": "c", "major": 5, "minor": 2}]
    assert bundle.run("readlink", "/dev/ptmx").expect().out == "readlink pts/ptmx\n"


def test_mask_is_the_real_dev_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(devices.STANDARD, "/dev/null", (1, 5))
    with pytest.raises(RlessError, match="is not the character device 1:5"):
        devices.open_null()
