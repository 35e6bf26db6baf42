"""Request + image + inputs -> config.json: a pure function, compared with Docker's rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.engine import defaults
from rootless.engine.request import Device, Mount, RunRequest
from rootless.engine.spec import generate
from rootless.errors import RlessError
from rootless.linux.caps import NAMES
from rootless.linux.idmap import IdMap
from rootless.oci.runtime_spec import Spec

MAP = IdMap([(0, 1000, 1), (1, 100_000, 65_536)], [(0, 1000, 1), (1, 100_000, 65_536)], "k")


def request(**changes: Any) -> RunRequest:
    return RunRequest(**{"image": "image", "command": ["true"], **changes})


def spec_of(
    made: RunRequest, image: dict[str, Any] | None = None, uid: int = 0, **found: Any
) -> Spec:
    inputs = generate.SpecInputs(MAP, uid, uid)
    for name, value in found.items():
        setattr(inputs, name, value)
    return generate.generate(made, image or {}, inputs)


def destinations(spec: Spec) -> list[str]:
    return [entry["destination"] for entry in spec["mounts"]]


def options(spec: Spec, destination: str) -> list[str]:
    found = [entry for entry in spec["mounts"] if entry["destination"] == destination]
    assert len(found) == 1, destination
    return found[0]["options"]


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "flag", "command", "expected"),
    [
        (None, ["c"], None, [], ["c"]),
        (None, ["c"], None, ["x", "y"], ["x", "y"]),
        (["e", "1"], ["c"], None, [], ["e", "1", "c"]),
        (["e"], ["c"], None, ["x"], ["e", "x"]),
        (["e"], ["c"], "f", [], ["f"]),
        (["e"], ["c"], "f", ["x"], ["f", "x"]),
        (["e"], ["c"], "", ["x"], ["x"]),
        ([], ["c"], None, [], ["c"]),
    ],
)
def test_command_is_composed_as_docker_does(
    entrypoint: Any, cmd: Any, flag: str | None, command: list[str], expected: list[str]
) -> None:
    made = request(entrypoint=flag, command=command)
    image = {"Entrypoint": entrypoint, "Cmd": cmd}
    assert generate.command(made, image, None) == expected
    assert generate.command(made, image, "/init") == [defaults.INIT_PATH, "--", *expected]


def test_missing_command_is_refused() -> None:
    for image, flag in (({}, None), ({"Entrypoint": ["e"], "Cmd": ["c"]}, "")):
        with pytest.raises(RlessError, match="no command"):
            generate.command(request(command=[], entrypoint=flag), image, None)


def test_layers_of_the_environment_are_in_order() -> None:
    """Each layer sets the names of itself and of all that lie above it, and so wins its own."""
    names = ["PATH", "HOST", "IMAGE", "START", "FLAG", "OVER"]
    layers = [[f"{name}={layer}" for name in names[index:]] for index, layer in enumerate(names)]
    host, image, start, flag, over = layers[1:]
    made = request(env_under=[*host, "PATH=HOST"], env=flag)
    spec = spec_of(made, {"Env": image}, env=start, env_over=over)
    found = dict(entry.partition("=")[::2] for entry in spec["process"]["env"])
    assert {name: found[name] for name in names[1:]} == {name: name for name in names[1:]}
    assert found["PATH"] == "HOST"


def test_inputs_of_the_start_are_merged() -> None:
    spec = spec_of(
        request(devices=[Device("/dev/a", "/dev/a")]),
        devices=[Device("/dev/b", "/dev/b")],
        mounts=[Mount("bind", "/y", "/y")],
        keep_groups=True,
    )
    assert {"/dev/a", "/dev/b", "/y"} <= set(destinations(spec))
    assert spec["annotations"] == {"run.oci.keep_original_groups": "1"}


def test_environment_is_merged() -> None:
    made = request(env=["A=flag", "N=a=b", "E="], env_remove=["GONE"], tty=True)
    image = {"Env": ["PATH=/image", "A=image", "B=image", "GONE=1", "BARE"]}
    spec = spec_of(made, image, hostname="box", home="/home/x")
    found = dict(entry.partition("=")[::2] for entry in spec["process"]["env"])
    assert found == {
        "PATH": "/image", "HOSTNAME": "box", "TERM": "xterm", "A": "flag", "B": "image",
        "BARE": "", "N": "a=b", "E": "", "HOME": "/home/x",
    }  # fmt: skip


def test_requested_home_is_kept() -> None:
    spec = spec_of(request(env=["HOME=/mine"]), home="/other")
    assert "HOME=/mine" in spec["process"]["env"]


names = st.lists(st.sampled_from([*NAMES, "ALL"]), max_size=5)


@given(names, names, st.booleans(), st.sampled_from([0, 1000]))
def test_capability_sets_are_computed(
    add: list[str], drop: list[str], privileged: bool, uid: int
) -> None:
    made = request(cap_add=add, cap_drop=drop, privileged=privileged)
    sets = generate.capabilities(made, uid, len(NAMES) - 1)
    bounding = set(sets["bounding"])
    assert sets["inheritable"] == sets["ambient"] == []
    assert sets["effective"] == sets["permitted"] == (sets["bounding"] if uid == 0 else [])
    if privileged:
        assert bounding == (set(add) if "ALL" in drop else set(NAMES)) - set(drop) - {"ALL"}
    else:
        # Class 31: never more than Docker's fourteen and what was asked for.
        allowed = set(NAMES) if "ALL" in add else set(defaults.CAPABILITIES) | set(add)
        assert bounding <= allowed
        assert not bounding & (set(drop) - {"ALL"})
        if "ALL" in drop and "ALL" not in add:
            assert bounding == set(add) - set(drop)


def test_unknown_capability_is_refused() -> None:
    with pytest.raises(RlessError, match="CAP_NOPE"):
        spec_of(request(cap_add=["CAP_NOPE"]))


def test_capabilities_unknown_to_the_kernel_are_dropped() -> None:
    assert len(generate.capabilities(request(privileged=True), 0, 37)["bounding"]) == 38


def test_namespaces_are_chosen() -> None:
    kinds = [entry["type"] for entry in spec_of(request())["linux"]["namespaces"]]
    assert kinds == ["mount", "pid", "ipc", "uts", "cgroup"]  # the network's is joined by path
    made = request(pid="host", ipc="host", uts="host", cgroupns="host")
    assert spec_of(made)["linux"]["namespaces"] == [{"type": "mount"}]
    spec = spec_of(request(), namespace_paths={"pid": "/proc/1/ns/pid"})
    assert {"type": "pid", "path": "/proc/1/ns/pid"} in spec["linux"]["namespaces"]


def test_masks_are_set() -> None:
    linux = spec_of(request())["linux"]
    assert linux["maskedPaths"] == list(defaults.MASKED_PATHS)
    assert linux["readonlyPaths"] == list(defaults.READONLY_PATHS)
    assert spec_of(request(privileged=True))["linux"]["maskedPaths"] == []
    opened = request(security_opt=["unmask=/proc/keys:/proc/sys"])
    assert "/proc/keys" not in spec_of(opened)["linux"]["maskedPaths"]
    assert "/proc/sys" not in spec_of(opened)["linux"]["readonlyPaths"]
    assert "/proc/kcore" in spec_of(opened)["linux"]["maskedPaths"]
    for option in ("unmask=ALL", "unmask=all", "systempaths=unconfined"):
        assert spec_of(request(security_opt=[option]))["linux"]["maskedPaths"] == []


def test_user_mount_replaces_a_default_one() -> None:
    shm = Mount("tmpfs", None, "/dev/shm", tmpfs_size=1)
    spec = spec_of(request(), mounts=[shm], files={"/etc/hosts": "/x/hosts"})
    assert destinations(spec).count("/dev/shm") == 1
    assert "size=1" in options(spec, "/dev/shm")
    hosts = Mount("bind", "/mine", "/etc/hosts")
    spec = spec_of(request(), mounts=[hosts], files={"/etc/hosts": "/x/hosts"})
    assert [m["source"] for m in spec["mounts"] if m["destination"] == "/etc/hosts"] == ["/mine"]


targets = st.lists(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda p: "/" + "/".join(p)),
    unique=True,
    max_size=6,
)


@given(targets)
def test_parents_are_mounted_first(paths: list[str]) -> None:
    mounts = [Mount("bind", "/src", path) for path in paths]
    order = [d for d in destinations(spec_of(request(), mounts=mounts)) if d in paths]
    assert sorted(order) == sorted(paths)
    for index, path in enumerate(order):
        assert not any(earlier.startswith(f"{path}/") for earlier in order[:index])


def test_bind_options_are_set() -> None:
    mount = Mount("bind", "/src", "/dst")
    assert options(spec_of(request(), mounts=[mount]), "/dst") == ["rbind", "nodev"]
    mount = mount.replace(read_only=True)
    assert "rro" in options(spec_of(request(), mounts=[mount]), "/dst")
    mount = mount.replace(recursive=False, propagation="rslave", options=["noexec", "nosuid"])
    found = options(spec_of(request(), mounts=[mount]), "/dst")
    assert found == ["bind", "ro", "nodev", "noexec", "nosuid", "rslave"]


def test_tmpfs_options_are_set() -> None:
    mount = Mount("tmpfs", None, "/t")
    assert set(options(spec_of(request(), mounts=[mount]), "/t")) == {
        "noexec", "nosuid", "nodev", "mode=1777",
    }  # fmt: skip
    mount = mount.replace(
        options=["exec", "uid=5", "rw"], tmpfs_mode=0o700, tmpfs_size=4096, read_only=True
    )
    found = options(spec_of(request(), mounts=[mount]), "/t")
    assert set(found) == {"nosuid", "nodev", "uid=5", "ro", "size=4096", "mode=700"}


def test_read_only_covers_generated_files_but_not_user_mounts() -> None:
    mount = Mount("bind", "/src", "/dst")
    spec = spec_of(request(read_only=True), mounts=[mount], files={"/etc/hosts": "/x"})
    assert spec["root"]["readonly"]
    assert "ro" in options(spec, "/etc/hosts")
    assert "ro" not in options(spec, "/dst")
    assert "rro" not in options(spec, "/dst")


def test_devices_are_added() -> None:
    spec = spec_of(
        request(devices=[Device("/dev/fuse", "/dev/f", "r"), Device("/dev/x", "/dev/x")])
    )
    assert "ro" in options(spec, "/dev/f")
    assert "ro" not in options(spec, "/dev/x")
    assert "dev" in options(spec, "/dev/x") or "nodev" not in options(spec, "/dev/x")


def test_ptmx_of_the_host_is_left_out() -> None:
    """It would cover the one of the container, whose terminals would be the host's."""
    spec = spec_of(
        request(devices=[Device("/dev/ptmx", "/dev/./ptmx"), Device("/dev/x", "/dev/x")])
    )
    places = [entry["destination"] for entry in spec["mounts"]]
    assert "/dev/x" in places
    assert not [place for place in places if place.endswith("ptmx")]


def test_every_mount_is_nosuid_or_nodev() -> None:
    """Class 8: a node that the image or a file system brings along is never a device."""
    mount = Mount("bind", "/src", "/dst")
    spec = spec_of(request(), mounts=[mount], files={"/etc/hosts": "/x"})
    for entry in spec["mounts"]:
        if entry["destination"] not in ("/dev", "/dev/pts"):
            assert {"nodev", "rnodev"} & set(entry["options"]), entry


def test_unmapped_tty_group_is_left_out() -> None:
    single = IdMap([(0, 1000, 1)], [(0, 1000, 1)], "single")
    assert "gid=5" in options(spec_of(request()), "/dev/pts")
    spec = generate.generate(request(), {}, generate.SpecInputs(single, 0, 0))
    assert not any(option.startswith("gid=") for option in options(spec, "/dev/pts"))


def test_limits_and_other_fields_are_set() -> None:
    made = request(
        ulimits=[("nofile", 5, -1)], oom_score_adj=0, sysctls={"net.a": "1"}, domainname="d",
        annotations={"a": "b"}, security_opt=["no-new-privileges=true"], workdir="/w",
    )  # fmt: skip
    spec = spec_of(made, {"WorkingDir": "/i"}, hostname="h", seccomp={"x": 1})
    process, linux = spec["process"], spec["linux"]
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 2**64 - 1}]
    assert process["oomScoreAdj"] == 0
    assert process["noNewPrivileges"]
    assert process["cwd"] == "/w"
    assert linux["sysctl"] == {"net.a": "1"}
    assert linux["seccomp"] == {"x": 1}
    assert (spec["hostname"], spec["domainname"]) == ("h", "d")
    assert spec["annotations"]["a"] == "b"
    assert spec_of(request(), {"WorkingDir": "/i"})["process"]["cwd"] == "/i"
    assert "oomScoreAdj" not in spec_of(request())["process"]


def test_inputs_are_not_changed() -> None:
    made = request(env=["A=1"], cap_add=["CAP_CHOWN"], annotations={"a": "b"})
    image = {"Env": ["B=2"], "Cmd": ["c"], "Labels": {"l": "1"}}
    before = (repr(made), repr(image))
    spec = spec_of(made, image)
    spec["process"]["env"].append("X=1")
    spec["process"]["args"].append("more")
    spec["annotations"]["x"] = "y"
    assert (repr(made), repr(image)) == before
