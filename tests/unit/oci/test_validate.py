"""rootless/oci/validate.py: nothing of the wrong type gets through, nothing right is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.errors import RlessError
from rootless.oci import validate
from rootless.runtime.commands.features import example_spec

FULL: dict[str, Any] = {
    **example_spec(),
    "domainname": "example.org",
    "annotations": {"key": "value"},
    "process": {
        **example_spec()["process"],
        "consoleSize": {"height": 1, "width": 1},
        "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [1]},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 1}],
        "oomScoreAdj": 1,
    },
    "linux": {
        **example_spec()["linux"],
        "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 1}],
        "cgroupsPath": "x",
        "resources": {},
        "rootfsPropagation": "rslave",
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        "sysctl": {"net.ipv4.ip_forward": "1"},
    },
}


FULL = json.loads(json.dumps(FULL))  # no list is in two places


def check(document: Any) -> Any:
    return validate.check(copy.deepcopy(document), "config.json")


def refusal(document: Any) -> str:
    with pytest.raises(RlessError) as caught:
        check(document)
    assert caught.value.exit_code == 1
    assert caught.value.message.startswith("config.json: ")
    return caught.value.message.removeprefix("config.json: ")


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the paths of all values of a document."""
    yield path
    if isinstance(node, dict):
        for key, value in node.items():
            yield from places(value, (*path, key))
    elif isinstance(node, list) and node:
        yield from places(node[0], (*path, 0))


def put(path: tuple[Any, ...], value: Any) -> Any:
    """Return the full document with one value replaced."""
    if not path:
        return value
    document = copy.deepcopy(FULL)
    node: Any = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return document


def shown(path: tuple[Any, ...]) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".") or "the document"


def test_valid_config_passes() -> None:
    assert check(FULL) == FULL
    assert check(example_spec()) == example_spec()


# linux.resources and linux.seccomp are read by others, who check them.
PLACES = [path for path in places(FULL) if path[:2] != ("linux", "seccomp")]


@pytest.mark.parametrize("path", PLACES, ids=shown)
def test_every_wrong_type_is_refused(path: tuple[Any, ...]) -> None:
    right: Any = FULL
    for key in path:
        right = right[key]
    for wrong in ("text", 1, True, 1.5, [], {}, [None], [[]], [{}], {"": 0}, float("nan")):
        if type(wrong) is type(right) or (isinstance(wrong, str) and isinstance(right, str)):
            continue
        message = refusal(put(path, wrong))
        assert message.startswith(f"{shown(path)} is not "), message


REQUIRED = (
    "ociVersion root root.path process process.args process.cwd mounts[0].destination "
    "process.consoleSize.height process.rlimits[0].soft linux.uidMappings[0].size "
    "linux.namespaces[0].type linux.devices[0].path"
).split()
OPTIONAL = (
    "annotations mounts domainname process.env process.user process.user.uid process.rlimits "
    "process.capabilities process.capabilities.ambient process.oomScoreAdj linux.devices "
    "linux.seccomp linux.sysctl root.readonly mounts[0].options"
).split()


@pytest.mark.parametrize("path", PLACES, ids=shown)
def test_null_means_absent(path: tuple[Any, ...]) -> None:
    """As in Go."""
    document = put(path, None)
    if shown(path) in REQUIRED:
        assert refusal(document) == f"{shown(path)} is missing"
    elif shown(path) in OPTIONAL:
        check(document)


@given(
    st.sampled_from(PLACES),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
)
@settings(max_examples=400, deadline=None, database=None)
def test_any_input_gives_only_a_refusal(path: tuple[Any, ...], value: Any) -> None:
    try:
        check(put(path, value))
    except RlessError as error:
        assert error.message


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("process.args", [], "process.args is empty"),
        ("process.args", ["a\0b"], "process.args[0] holds a NUL"),
        ("process.args", ["\ud800"], "process.args[0] holds half of a surrogate pair"),
        ("process.cwd", "tmp", "process.cwd: tmp is not an absolute path"),
        ("process.cwd", "", "process.cwd:  is not an absolute path"),
        ("process.env", ["A"], "process.env[0]: A is not NAME=VALUE"),
        ("process.env", ["=x"], "process.env[0]: =x is not NAME=VALUE"),
        ("process.user.uid", -1, "process.user.uid is not between 0 and 4294967294"),
        ("process.user.uid", 2**32 - 1, "process.user.uid is not between"),
        ("process.user.uid", 2**32, "process.user.uid is not between"),
        ("process.user.gid", -1, "process.user.gid is not between"),
        ("process.user.additionalGids", [2**32], "process.user.additionalGids[0] is not between"),
        ("process.user.umask", 0o1000, "process.user.umask is not between 0 and 511"),
        ("process.oomScoreAdj", 1001, "process.oomScoreAdj is not between -1000 and 1000"),
        ("process.consoleSize.height", 65536, "process.consoleSize.height is not between"),
        ("process.rlimits", [{"type": "X", "soft": 2, "hard": 1}], "soft is above hard"),
        ("process.rlimits", [{"type": "X", "soft": 1, "hard": 1}] * 2, "X is there twice"),
        ("process.rlimits", [{"type": "X", "soft": -1, "hard": 1}], "soft is not between"),
        ("hostname", "x" * 65, "hostname is longer than 64 bytes"),
        ("hostname", "a\nb", "hostname: a\nb holds control characters"),
        ("domainname", "\udc80", "holds control characters"),
        ("linux.namespaces", [{"type": "mount"}, {"type": "uts"}] * 2, "mount is there twice"),
        ("linux.namespaces", [{"type": "mount"}], "hostname: the container shares the uts"),
        ("linux.rootfsPropagation", "pshared", "linux.rootfsPropagation: pshared is none"),
        ("linux.devices", [{"type": "c", "path": "dev/x"}], "devices[0].path is not absolute"),
        ("linux.sysctl", {"net.a\0b": "1"}, "linux.sysctl holds a NUL"),
        ("linux.uidMappings", [{"containerID": 0, "hostID": 0, "size": 0}], "size is not between"),
        ("mounts", [{"destination": "/a\0"}], "mounts[0].destination holds a NUL"),
        ("mounts", [{"destination": "/a", "type": "bind"}], "mounts[0].source is missing"),
        ("mounts", [{"destination": "/a", "type": "x", "options": ["rbind"]}], "source is missing"),
        ("mounts", [{"destination": "/a"}], "mounts[0].type is missing"),
        ("hooks", {"prestart": [{"path": "x"}]}, "hooks.prestart[0].path: x is not absolute"),
        ("hooks", {"poststop": [{"path": "/x", "timeout": 0}]}, "hooks.poststop[0].timeout"),
        ("hooks", {"poststop": [{"path": "/x", "env": ["x"]}]}, "hooks.poststop[0].env"),
        ("linux.timeOffsets", {"monotonic": {"secs": 1}}, "linux.timeOffsets: there is no"),
        ("linux.netDevices", {"eth0": {"name": "x"}}, "linux.netDevices is not supported"),
        ("linux.intelRdt", {"closID": "x"}, "linux.intelRdt is not supported"),
        ("vm", {"kernel": {"path": "/x"}}, "vm is not supported"),
    ],
)
def test_unsupported_features_are_refused(path: str, value: Any, says: str) -> None:
    assert says in refusal(put(tuple(path.split(".")), value))


def test_empty_requests_are_harmless() -> None:
    check({**FULL, "hooks": {"prestart": []}, "vm": None, "future": {"x": 1}})


def test_relative_destination_counts_from_the_root() -> None:
    mounts = [{"destination": "srv", "type": "tmpfs"}]
    assert check({**FULL, "mounts": mounts})["mounts"][0]["destination"] == "/srv"


def test_bytes_that_are_not_utf8_pass() -> None:
    assert json.loads(json.dumps(check(put(("process", "args"), ["\udcff"]))))


def test_zero_and_empty_limits_are_unset() -> None:
    """As in runc: `docker update` writes zeros for what shall stay."""
    zeros = {
        "memory": {"limit": 0, "reservation": 0, "swap": 0, "kernel": 0},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""},
        "blockIO": {"weight": 0, "leafWeight": 0},
    }
    assert validate.check_resources(zeros, "update") == {"memory": {}, "cpu": {}, "blockIO": {}}
    meant = {"cpu": {"burst": 0, "idle": 0}, "pids": {"limit": 0}}
    assert validate.check_resources(copy.deepcopy(meant), "update") == meant
    for wrong in (5, False):
        with pytest.raises(RlessError, match=r"blockIO\.weight is not"):
            validate.check_resources({"blockIO": {"weight": wrong}}, "update")
