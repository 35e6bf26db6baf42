"""--systemd: when the mode applies, and what it adds."""

from __future__ import annotations

import io
from typing import Any

import pytest

from rootless.engine.request import Mount, RunRequest
from rootless.engine.spec import generate, systemd_mode
from rootless.errors import RlessError
from rootless.linux.idmap import IdMap
from rootless.runtime.cgroup.none import NoCgroup

MAP = IdMap([(0, 1000, 1)], [(0, 1000, 1)], "k")


def request(**changes: Any) -> RunRequest:
    return RunRequest(**{"image": "image", "command": ["/sbin/init"], **changes})


def spec_of(made: RunRequest, *mounts: Mount) -> Any:
    inputs = generate.SpecInputs(MAP, 0, 0)
    inputs.mounts += mounts
    inputs.systemd = "0123456789abcdef" * 4
    return generate.generate(made, {"Env": ["A=b"]}, inputs)


@pytest.mark.parametrize(
    ("command", "looks"),
    [
        ("/sbin/init", True),
        ("/usr/sbin/init", True),
        ("/usr/local/sbin/init", True),
        ("systemd", True),
        ("/lib/systemd/systemd", True),
        ("/usr/lib/systemd/systemd", True),
        ("init", False),
        ("/bin/init", False),
        ("/usr/bin/systemd-run", False),
        ("/bin/sh", False),
    ],
)
def test_systemd_is_recognized_by_its_command(command: str, looks: bool) -> None:
    for mode, expected in (
        ("auto", "tried" if looks else ""),
        ("true", "required" if looks else ""),
        ("always", "required"),
        ("false", ""),
    ):
        assert systemd_mode.wanted(request(systemd=mode), [command]) == expected


@pytest.mark.parametrize(
    "other", [{"init": True}, {"pid": "host"}, {"cgroupns": "host"}, {"pid": "container:x"}]
)
def test_contradicting_flags_are_refused(other: dict[str, Any]) -> None:
    assert systemd_mode.wanted(request(**other), ["/sbin/init"]) == ""
    for mode in ("true", "always"):
        with pytest.raises(RlessError, match="systemd cannot run with --"):
            systemd_mode.wanted(request(systemd=mode, **other), ["/sbin/init"])


def test_environment_and_mounts_are_added() -> None:
    spec = spec_of(request())
    assert "container=oci" in spec["process"]["env"]
    assert "container_uuid=0123456789abcdef0123456789abcdef" in spec["process"]["env"]
    kinds = {entry["destination"]: entry["type"] for entry in spec["mounts"]}
    for path in ("/run", "/run/lock", "/tmp", "/var/log/journal"):
        assert kinds[path] == "tmpfs"
    order = [entry["destination"] for entry in spec["mounts"]]
    assert order.index("/run") < order.index("/run/lock")


def test_user_mounts_and_variables_take_precedence() -> None:
    volume = Mount("bind", "/srv", "/run")
    spec = spec_of(request(env=["container=lxc"]), volume)
    (found,) = (entry for entry in spec["mounts"] if entry["destination"] == "/run")
    assert found["source"] == "/srv"
    assert "container=lxc" in spec["process"]["env"]


class Group(NoCgroup):
    """One that is there."""

    def __init__(self) -> None:
        super().__init__("")
        self.path = "/sys/fs/cgroup/x"


@pytest.mark.parametrize("network", ["none", "host"])
def test_cgroup_is_writable(network: str) -> None:
    spec = spec_of(request(network=network))
    systemd_mode.open_cgroup(spec, Group(), "tried")
    order = [entry["destination"] for entry in spec["mounts"]]
    (found,) = (entry for entry in spec["mounts"] if entry["destination"] == "/sys/fs/cgroup")
    assert found["type"] == "cgroup"
    assert "ro" not in found["options"]
    assert order.index("/sys") < order.index("/sys/fs/cgroup")
    (system,) = (entry for entry in spec["mounts"] if entry["destination"] == "/sys")
    assert {"ro", "rro"}.intersection(system["options"])


def test_cgroup_of_the_caller_stays_read_only(capfd: pytest.CaptureFixture[str]) -> None:
    spec = spec_of(request())
    systemd_mode.open_cgroup(spec, NoCgroup("nobody delegates"), "tried")
    (found,) = (entry for entry in spec["mounts"] if entry["destination"] == "/sys/fs/cgroup")
    assert "ro" in found["options"]
    assert "warning" in capfd.readouterr().err
    with pytest.raises(RlessError, match="nobody delegates"):
        systemd_mode.open_cgroup(spec, NoCgroup("nobody delegates"), "required")


def test_removable_limits_keep_the_cgroup_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `nsdelegate` keeps the root of a cgroup namespace from its own limits."""
    group = Group()
    group.resources = {"pids": {"limit": 5}}
    for flags, closed in (("rw", True), ("rw,nsdelegate", False)):
        line = f"30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 {flags}\n".encode()
        monkeypatch.setattr("builtins.open", lambda *_, line=line: io.BytesIO(line))
        spec = spec_of(request())
        if closed:
            with pytest.raises(RlessError, match="could lift its own limits"):
                systemd_mode.open_cgroup(spec, group, "required")
        else:
            systemd_mode.open_cgroup(spec, group, "required")
