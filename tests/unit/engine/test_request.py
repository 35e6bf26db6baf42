"""A request is immutable and complete."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rootless.engine.request import Device, Limits, Mount, Port, Requested, RunRequest


def test_every_field_refuses_to_be_set_or_deleted() -> None:
    made = RunRequest(image="i")
    for name in RunRequest.fields:
        with pytest.raises(AttributeError, match="RunRequest cannot change"):
            setattr(made, name, "other")
        with pytest.raises(AttributeError, match="RunRequest cannot change"):
            delattr(made, name)
    assert made == RunRequest(image="i")


@pytest.mark.parametrize("made", [RunRequest(), Mount("bind", "/a", "/b"), Device("/a", "/b")])
def test_new_attribute_is_refused(made: Requested) -> None:
    with pytest.raises(AttributeError):
        made.memroy = 5  # type: ignore[misc]


def test_lists_and_mappings_are_immutable() -> None:
    labels, env = {"a": "b"}, ["A=1"]
    made = RunRequest(labels=labels, env=env, networks=[{"name": "n", "aliases": ["x"]}])
    values: Any = made
    with pytest.raises(TypeError):
        values.labels["c"] = "d"
    with pytest.raises(TypeError):
        RunRequest().labels["c"] = "d"  # type: ignore[index]  # the default is shared
    with pytest.raises(AttributeError):
        values.env.append("B=2")
    with pytest.raises(TypeError):
        values.networks[0]["ip"] = "10.0.0.1"
    with pytest.raises(AttributeError):
        values.networks[0]["aliases"].append("y")
    labels["c"], env[0] = "d", "A=2"  # what it was made of is not its own
    assert (dict(made.labels), made.env) == ({"a": "b"}, ("A=1",))


def test_unknown_field_is_an_error() -> None:
    for wrong in ("memroy", "fields", "replace", "__dict__"):
        with pytest.raises(TypeError, match="has no field"):
            RunRequest(**{wrong: 1})


def test_replace_keeps_the_original() -> None:
    first = RunRequest(image="i", labels={"a": "b"}, mounts=[Mount("bind", "/a", "/b")])
    second = first.replace(pid="host", image="j")
    assert (first.pid, first.image, second.pid, second.image) == ("private", "i", "host", "j")
    assert (second.labels, second.mounts) == (first.labels, first.mounts)
    assert second.replace(pid="private", image="i") == first


def test_field_belongs_to_one_group() -> None:
    assert len(set(RunRequest.fields)) == len(RunRequest.fields)
    assert "memory" in Limits.fields
    assert "image" not in Limits.fields


def test_every_field_survives_serialization() -> None:
    """Whatever the type of its default, each field comes back as it was."""
    other: dict[str, Any] = {
        "mounts": [Mount("tmpfs", None, "/t", tmpfs_size=5, options=["uid=1"], read_only=True)],
        "devices": [Device("/dev/a", "/dev/b", "rw")],
        "publish": [Port("::1", 1, 2, "udp", 3)],
        "networks": [{"name": "n", "aliases": ["x"]}],
    }
    for name in RunRequest.fields:
        default = getattr(RunRequest, name)
        kinds = {bool: not default, int: 7, float: 7.5, str: "x", tuple: [("x", 1)]}
        value = other.get(name, kinds.get(type(default), {"x": "y"}))
        made = RunRequest(**{name: value})
        data = json.loads(json.dumps(made.to_data()))
        assert set(data) == {name}
        assert RunRequest.from_data(data) == made != RunRequest()


def test_request_of_the_previous_version_is_read() -> None:
    """It had every field of a mount, lists for tuples, and fields that are gone."""
    mount = {
        "create_source": True, "labels": {}, "nocopy": False, "options": [], "propagation": None,
        "read_only": True, "recursive": True, "source": "/a", "target": "/b", "tmpfs_mode": None,
        "tmpfs_size": None, "type": "bind",
    }  # fmt: skip
    port = {"container_port": 80, "host_end": None, "host_ip": None, "host_port": 8080}
    made = RunRequest.from_data(
        {
            "image": "i",
            "mounts": [mount],
            "publish": [{**port, "protocol": "tcp"}],
            "ulimits": [["nofile", 3, 4]],
            "restart": {"name": "always", "max": 0},
            "gone": 1,
        }
    )
    expected = Mount("bind", "/a", "/b", read_only=True, create_source=True)
    assert made.mounts == (expected,)
    assert made.publish == (Port(None, 8080, 80, "tcp"),)
    assert made.ulimits == (("nofile", 3, 4),)
    assert dict(made.restart or {}) == {"name": "always", "max": 0}


def test_any_limit_requests_a_cgroup() -> None:
    assert not RunRequest(limits="try", image="i").asks_limits()
    for name, value in (("memory", 1), ("cgroups", "split"), ("cgroup_conf", {"a": "b"})):
        assert RunRequest(**{name: value}).asks_limits()
    assert not RunRequest(no_healthcheck=True).asks_health()
    assert RunRequest(health_retries=1).asks_health()
