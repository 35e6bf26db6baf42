"""Keys of the build cache: what invalidates a step, and what does not; class 58."""

from __future__ import annotations

from typing import Any

import pytest

from rootless.engine.build import keys

BEFORE = "b" * 64
RUN: dict[str, Any] = {
    "args": ("/bin/sh", "-c", "make"),
    "env": ("PATH=/bin", "A=1"),
    "user": "app",
    "directory": "/src",
    "mounts": ({"type": "bind", "target": "/in", "digest": "sha256:1"},),
}
COPY: dict[str, Any] = {"destination": "/app/", "digest": "sha256:1", "owner": (0, 0)}


def test_a_key_is_a_digest_and_the_same_each_time() -> None:
    key = keys.run(BEFORE, **RUN)
    assert key == keys.run(BEFORE, **RUN)
    assert len(key) == 64
    assert int(key, 16)


@pytest.mark.parametrize(
    "changed",
    [
        {"args": ("/bin/sh", "-c", "make all")},
        {"env": ("A=1", "PATH=/bin")},
        {"env": ("PATH=/bin", "A=2")},
        {"env": ("PATH=/bin", "A=1", "B=")},
        {"user": "root"},
        {"directory": "/"},
        {"script": "#!/bin/sh\n"},
        {"mounts": ({"type": "bind", "target": "/in", "digest": "sha256:2"},)},
        {"mounts": ()},
        {"network": "none"},
        {"security": "insecure"},
        {"devices": ("vendor.com/gpu=0",)},
        {"hosts": ("db:10.0.0.1",)},
        {"hostname": "other"},
    ],
    ids=lambda changed: "-".join(changed),
)
def test_each_input_of_a_run_invalidates_it(changed: dict[str, Any]) -> None:
    assert keys.run(BEFORE, **{**RUN, **changed}) != keys.run(BEFORE, **RUN)


def test_the_state_before_invalidates_a_step() -> None:
    assert keys.run("c" * 64, **RUN) != keys.run(BEFORE, **RUN)
    assert keys.copy("c" * 64, **COPY) != keys.copy(BEFORE, **COPY)
    assert keys.workdir("c" * 64, "/a", "") != keys.workdir(BEFORE, "/a", "")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "NO_PROXY", "all_proxy"])
def test_a_proxy_counts_only_if_it_is_declared(name: str) -> None:
    one = {**RUN, "env": (*RUN["env"], f"{name}=http://a")}
    two = {**RUN, "env": (*RUN["env"], f"{name}=http://b")}
    assert keys.run(BEFORE, **one) == keys.run(BEFORE, **two) == keys.run(BEFORE, **RUN)
    assert keys.run(BEFORE, **one, declared=[name]) != keys.run(BEFORE, **two, declared=[name])


def test_addresses_of_hosts_do_not_count() -> None:
    one = keys.run(BEFORE, **RUN, hosts=["db:10.0.0.1", "web:10.0.0.2"])
    assert one == keys.run(BEFORE, **RUN, hosts=["web=10.0.0.9", "db:::1"])


@pytest.mark.parametrize(
    "changed",
    [
        {"destination": "/app"},
        {"digest": "sha256:2"},
        {"owner": (1, 0)},
        {"owner": None},
        {"mode": "755"},
        {"link": True},
        {"options": {"parents": True}},
    ],
    ids=lambda changed: "-".join(changed),
)
def test_each_input_of_a_copy_invalidates_it(changed: dict[str, Any]) -> None:
    assert keys.copy(BEFORE, **{**COPY, **changed}) != keys.copy(BEFORE, **COPY)


def test_a_linked_copy_does_not_depend_on_what_is_below() -> None:
    assert keys.copy("c" * 64, **COPY, link=True) == keys.copy(BEFORE, **COPY, link=True)
    layer = keys.copy(BEFORE, **COPY, link=True)
    assert keys.after(BEFORE, layer) != keys.after("c" * 64, layer)


def test_a_base_counts_by_its_layers_and_by_what_steps_see_of_its_config() -> None:
    amd64 = {"os": "linux", "architecture": "amd64"}
    key = keys.base(["sha256:1"], {"Env": ["A=1"], "Labels": {"a": "b"}}, amd64)
    assert key == keys.base(["sha256:1"], {"Env": ["A=1"], "Cmd": ["x"], "User": ""}, amd64)
    assert key != keys.base(["sha256:2"], {"Env": ["A=1"]}, amd64)
    assert key != keys.base(["sha256:1"], {"Env": ["A=2"]}, amd64)
    assert key != keys.base(["sha256:1"], {"Env": ["A=1"]}, {**amd64, "architecture": "arm64"})
    assert keys.base([], {}, {}) != key


def test_bytes_that_are_no_text_are_part_of_a_key() -> None:
    one, two = (keys.workdir(BEFORE, f"/{name}", "") for name in ("\udcff", "\udcfe"))
    assert one != two


def test_kinds_of_steps_never_share_a_key() -> None:
    made = {
        keys.base([], {}, {}),
        keys.run(BEFORE, **RUN),
        keys.copy(BEFORE, **COPY),
        keys.after(BEFORE, BEFORE),
        keys.workdir(BEFORE, "/", ""),
    }
    assert len(made) == 5
