"""Devices by their CDI names, with device nodes of every host (security class 48)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces")


def write(directory: Path, kind: str, devices: Any, edits: Any = None, **more: Any) -> Path:
    """Write a CDI file."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {"cdiVersion": "0.6.0", "kind": kind, "devices": devices, **more}
    if edits is not None:
        document["containerEdits"] = edits
    path = directory / f"{kind.replace('/', '-')}.json"
    path.write_text(json.dumps(document))
    path.chmod(0o644)
    return path


def node(name: str, path: str = "/dev/zero") -> dict[str, Any]:
    return {
        "name": name,
        "containerEdits": {"deviceNodes": [{"path": f"/dev/gpu{name}", "hostPath": path}]},
    }


@pytest.fixture
def cdi(rless: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have one directory of CDI files, of the test's own."""
    directory = tmp_path / "cdi"
    directory.mkdir()
    monkeypatch.setitem(rless.env, "RLESS_GPUS_CDI_DIRECTORIES", str(directory))
    return directory


def test_edits_of_a_device_are_applied(rless: Product, cdi: Path, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libgpu.so.1").write_text("driver")
    hook = {"hookName": "createContainer", "path": "/usr/bin/nvidia-ctk"}
    common = {
        "env": ["GPU_DRIVER=1"],
        "mounts": [
            {
                "hostPath": f"{tmp_path}/lib/libgpu.so.1",
                "containerPath": "/usr/lib/gpu/libgpu.so.1",
                "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"],
            }
        ],
        "hooks": [
            {**hook, "args": ["nvidia-ctk", "hook", "create-symlinks",
                              "--link", "libgpu.so.1::/usr/lib/gpu/libgpu.so"]},
            {**hook, "args": ["nvidia-ctk", "hook", "update-ldcache", "--folder=/usr/lib/gpu"]},
            {**hook, "args": ["nvidia-ctk", "hook", "chmod", "--mode", "755", "--path", "/dev/d"]},
        ],
    }  # fmt: skip
    write(cdi, "vendor.com/gpu", [node("0"), node("1"), node("all")], common)
    script = (
        "ls /dev | grep gpu; cat /usr/lib/gpu/libgpu.so; echo :$GPU_DRIVER:$LD_LIBRARY_PATH;"
        " touch /usr/lib/gpu/libgpu.so.1 2>/dev/null || echo ro; head -c 2 /dev/gpu0 | wc -c"
    )
    done = rless.sh(script, "--device", "vendor.com/gpu=0")
    assert done.lines() == ["gpu0", "driver:1:/usr/lib/gpu", "ro", "2"]
    for flags, there in {
        "--gpus all": ["gpuall"],
        "--gpus 2": ["gpu0", "gpu1"],
        "--gpus 1": ["gpu0"],
        "--gpus device=1": ["gpu1"],
        "--device vendor.com/gpu=0 --device vendor.com/gpu=1": ["gpu0", "gpu1"],
    }.items():
        assert rless.sh("ls /dev | grep gpu", *flags.split()).lines() == there
    error = rless.run("--gpus 3", "true").expect(125).one_line_error()
    assert "there are 2" in error
    # It is looked up at each start.
    rless(
        "create", "--name", "gpu", "--gpus=1", rless.image, "sh", "-c", "ls /dev | grep gpu"
    ).expect()
    write(cdi, "vendor.com/gpu", [node("5")])
    assert rless("start", "-a", "gpu").expect().out == "gpu5\n"
    rless("rm", "gpu").expect()


def test_yaml_specs_and_later_directories_count(
    rless: Product, cdi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cdi / "a.yaml").write_text(
        "---\ncdiVersion: 0.5.0\nkind: vendor.com/net\ndevices:\n- name: '0'\n  containerEdits:\n"
        "    deviceNodes:\n    - path: /dev/zero\n    env: [WHICH=first]\n"
    )
    assert rless.sh("echo $WHICH", "--device", "vendor.com/net=0").out == "first\n"
    write(
        tmp_path / "later",
        "vendor.com/net",
        [{"name": "0", "containerEdits": {"env": ["WHICH=later"]}}],
    )
    later = {"RLESS_GPUS_CDI_DIRECTORIES": f"{cdi}:{tmp_path}/later:{tmp_path}/none"}
    assert rless.sh("echo $WHICH", "--device", "vendor.com/net=0", env=later).out == "later\n"
    # A user's own, where the administrator has none.
    write(rless.home / ".config/cdi", "own.com/thing", [node("x")])
    monkeypatch.delitem(rless.env, "RLESS_GPUS_CDI_DIRECTORIES")
    rless.sh("test -c /dev/gpux", "--device", "own.com/thing=x")
    (rless.home / ".config/cdi/own.com-thing.json").unlink()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not valid"),
        ("[]", "is not an object"),
        ("{}", "cdiVersion"),
        ('{"cdiVersion": "9.0.0", "kind": "a/b"}', "9.0.0"),
        ('{"cdiVersion": "0.6.0", "kind": "ab"}', "vendor.com/class"),
        ('{"cdiVersion": "0.6.0", "kind": "a/b", "devices": {}}', "not a list"),
        ('{"cdiVersion": "0.6.0", "kind": "a/b", "devices": [{"name": "a b"}]}', "proper name"),
    ],
)
def test_wrong_spec_file_is_named(rless: Product, cdi: Path, text: str, why: str) -> None:
    (cdi / "x.json").write_text(text)
    error = rless.run("--device a/b=c", "true").expect(125).one_line_error()
    assert why in error
    assert str(cdi) in error or why == "not valid"


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        ({"env": "A=1"}, "not a list"),
        ({"env": ["A"]}, "NAME=VALUE"),
        ({"devices": []}, "unknown: devices"),
        ({"deviceNodes": [{"path": "zero"}]}, "absolute"),
        ({"deviceNodes": [{"path": "/dev/zero", "hostPath": 5}]}, "absolute"),
        ({"deviceNodes": [{"path": "/dev/none-such"}]}, "/dev/none-such"),
        ({"deviceNodes": [{"path": "/dev/x", "hostPath": "/etc/passwd"}]}, "not a device"),
        ({"mounts": [{"hostPath": "/none-such", "containerPath": "/x"}]}, "/none-such"),
        ({"mounts": [{"hostPath": "/etc", "containerPath": "/.."}]}, "over the root"),
        ({"hooks": [{"hookName": "prestart", "path": "/usr/bin/evil"}]}, "/usr/bin/evil"),
        (
            {"hooks": [{"hookName": "x", "path": "/a/nvidia-ctk", "args": ["n", "hook", "zz"]}]},
            "zz",
        ),
        ({"additionalGids": ["video"]}, "numbers"),
        ({"intelRdt": {"closID": "x"}}, "intelRdt"),
        ({"netDevices": [{"hostInterfaceName": "eth0", "name": "x"}]}, "netDevices"),
    ],
)
def test_unsupported_edit_is_named(rless: Product, cdi: Path, edits: Any, why: str) -> None:
    write(cdi, "a.com/b", [{"name": "c", "containerEdits": edits}])
    error = rless.run("--device a.com/b=c", "true").expect(125).one_line_error()
    assert why in error


def test_missing_device_is_reported(rless: Product, cdi: Path) -> None:
    error = rless.run("--gpus all", "true").expect(125).one_line_error()
    assert "no CDI file describes a GPU" in error
    write(cdi, "vendor.com/gpu", [])
    error = rless.run("--device vendor.com/gpu=7", "true").expect(125).one_line_error()
    assert "there are none" in error
    write(cdi, "vendor.com/gpu", [node("0")])
    error = rless.run("--device vendor.com/gpu=7", "true").expect(125).one_line_error()
    assert "there are 0" in error
    error = rless.run("--device other.com/gpu=7", "true").expect(125).one_line_error()
    assert "vendor.com/gpu" in error
    error = rless.run(["--gpus", "driver=nvidia"], "true").expect(125).one_line_error()
    assert "nvidia.com/gpu" in error


def test_world_writable_spec_is_not_trusted(rless: Product, cdi: Path) -> None:
    write(cdi, "vendor.com/gpu", [node("0")]).chmod(0o666)
    assert "not trusted" in rless.run("--gpus all", "true").expect(125).one_line_error()
    (cdi / "vendor.com-gpu.json").unlink()
    os.mkfifo(cdi / "x.json")
    rless.run("--gpus all", "true").expect(125).one_line_error()


def test_links_in_the_image_do_not_lead_out(rless: Product, cdi: Path, tmp_path: Path) -> None:
    """The image's own links lead the hook nowhere."""
    hook = {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook"}
    link = ["nvidia-cdi-hook", "create-symlinks", "--link", f"x::/srv/out{tmp_path}/planted"]
    write(cdi, "a.com/b", [{"name": "c", "containerEdits": {"hooks": [{**hook, "args": link}]}}])
    rless.detach("linker", "", "sleep", "100")
    rless("exec", "linker", "ln", "-s", "/", "/srv/out").expect()
    rless("commit", "linker", "linked").expect()
    rless("rm", "-f", "linker").expect()
    rless.sh(f"readlink {tmp_path}/planted", "--device", "a.com/b=c", image="linked")
    assert not os.path.lexists(tmp_path / "planted")
    rless("rmi", "linked").expect()


def test_groups_of_a_node_are_kept(rless: Product, cdi: Path) -> None:
    write(cdi, "a.com/b", [{"name": "c", "containerEdits": {"additionalGids": [44]}}])
    script = "grep Groups /proc/self/status"
    assert len(rless.sh(script, "--device", "a.com/b=c").out.split()) == 1 + len(os.getgroups())


def test_cdi_is_loaded_only_when_needed() -> None:
    modules = "rootless.engine.start.run, rootless.cli.verbs.container.run"
    code = f"import sys, {modules}; print('yaml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n"
