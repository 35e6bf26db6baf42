"""Loading a bundle's config (rootless/runtime/host/lifecycle.py), and the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rootless.linux import idmap
from rootless.linux import mount as api
from tests.lib.bundle import ENVIRONMENT, Bundle, complaint
from tests.lib.engine_namespace import make_map

pytestmark = pytest.mark.needs("compiler", "user namespaces")


def run_file(bundle: Bundle, content: bytes) -> str:
    (bundle.path / "config.json").write_bytes(content)
    done = bundle.call("run", "-b", str(bundle.path), bundle.id)
    assert done.code == 1, repr(done)
    assert bundle.containers() == []
    return complaint(done)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"nul",
        b'{"a": }',
        b'{"a": "\x00"}',
        b"\xff\xfe\xfd",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"linux": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"a": "\\ud800',
        b"{} {}",
    ],
    ids=range(12),
)
def test_malformed_json_is_refused(bundle: Bundle, content: bytes) -> None:
    assert "is not JSON" in run_file(bundle, content) or content.startswith(b'{"linux"')


@pytest.mark.parametrize("content", [b"1", b'"x"', b"null", b"[]", b"true", b"1.5", b"NaN"])
def test_json_without_an_object_is_refused(bundle: Bundle, content: bytes) -> None:
    assert "the document is not an object" in run_file(bundle, content)


def test_overlarge_config_is_refused(bundle: Bundle) -> None:
    assert "is larger than 16 MiB" in run_file(bundle, b'{"a": "' + b"x" * (17 << 20) + b'"}')


def test_missing_config_is_reported(bundle: Bundle) -> None:
    done = bundle.call("run", "-b", str(bundle.path), bundle.id)
    assert "config.json: No such file" in complaint(done)
    done = bundle.call("run", "-b", "/no/such\x1b/bundle", bundle.id)
    assert "cannot read /no/such\\x1b/bundle/config.json: No such file" in complaint(done)
    (bundle.path / "config.json").mkdir()
    assert "Is a directory" in complaint(bundle.call("run", "-b", str(bundle.path), bundle.id))


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("annotations", {"a": nested(300)}),
        ("annotations", {"a": 1}),
        ("hostname", 1),
        ("mounts", {}),
        ("mounts", ["x"]),
        ("process", []),
        ("root", "rootfs"),
        ("linux", [1]),
        ("ociVersion", 1.0),
    ],
)
def test_wrong_types_are_refused(bundle: Bundle, place: str, value: Any) -> None:
    bundle.spec[place] = value
    content = json.dumps(bundle.spec).encode()
    assert place in run_file(bundle, content)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("namespaces", [{"type": "mount"}, {"type": "x"}], "'x' is not supported"),
        ("namespaces", [{"type": "user"}, {"type": "uts"}], "a new mount namespace is needed"),
        (
            "namespaces",
            [{"type": "mount", "path": "/proc/self/ns/mnt"}, {"type": "uts"}],
            "by path",
        ),
        (
            "namespaces",
            [{"type": "mount"}, {"type": "uts"}, {"type": "pid", "path": "/etc"}],
            "is no",
        ),
        ("seccomp", {"defaultAction": 1}, "seccomp"),
        ("seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": nested(300)}, "seccomp"),
    ],
)
def test_wrong_linux_sections_are_refused(bundle: Bundle, name: str, value: Any, says: str) -> None:
    del bundle.spec["hostname"]
    bundle.linux[name] = value
    assert says in bundle.fails("id")


def test_missing_root_and_file_as_root_are_refused(bundle: Bundle) -> None:
    bundle.spec["root"]["path"] = "missing"
    assert "root file system" in bundle.fails("id")
    bundle.spec["root"]["path"] = "rootfs/probe"
    assert "Not a directory" in bundle.fails("id")


def test_config_may_lie_beside_the_bundle(bundle: Bundle) -> None:
    bundle.write("exit", "5")
    config = bundle.base / "other.json"
    (bundle.path / "config.json").rename(config)
    assert bundle.call("run", "-f", str(config), "-b", str(bundle.path), bundle.id).code == 5


def test_bundle_defaults_to_the_current_directory(bundle: Bundle) -> None:
    bundle.write("exit", "6")
    assert bundle.call("run", bundle.id, cwd=bundle.path).code == 6


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing"], "unknown command nothing"),
        (["state", "--bogus", "x"], "unknown option --bogus"),
        (["state"], "state needs a container ID"),
        (["run", "-b"], "-b needs a value"),
        (["--cgroup-manager", "x", "run", "y"], "cgroupfs, systemd or disabled"),
        (["--log-format", "x", "list"], "text or json"),
        (["--log", "journald:x", "list"], "only files"),
        (["--log", "/no/such/file", "list"], "No such file"),
        (["--rootless=x", "list"], "true, false or auto"),
        (["exec", "-x", "y"], "unknown option -x"),
        (["exec", "y"], "does not exist"),
        (["state", "x", "y"], "unexpected argument y"),
        (["list", "-f", "x"], "table or json"),
        (["events", "x", "--interval", "5x"], "a duration"),
        (["delete", "--regex", "["], "--regex ["),
    ],
)
def test_command_lines_are_parsed(bundle: Bundle, words: list[str], says: str) -> None:
    done = bundle.call(words[0], *words[1:])
    assert done.code == 1
    assert says in complaint(done)


def test_log_file_gets_errors(bundle: Bundle) -> None:
    log = bundle.base / "log"
    done = bundle.call("--log", str(log), "--log-format", "json", "state", "unknown")
    assert done.code == 1
    entry = json.loads(log.read_text())
    assert datetime.fromisoformat(entry.pop("time").replace("Z", "+00:00"))
    assert entry == {"level": "error", "msg": "container unknown does not exist"}
    assert complaint(done) == "container unknown does not exist"


def test_json_log_goes_to_stderr_without_a_file(bundle: Bundle) -> None:
    done = bundle.call("--log-format=json", "state", "unknown")
    assert json.loads(done.err)["msg"] == "container unknown does not exist"
    assert done.err.count("\n") == 1


def test_spec_writes_a_config_that_runs(bundle: Bundle) -> None:
    bundle.call("spec", "-b", str(bundle.path)).expect()
    spec = json.loads((bundle.path / "config.json").read_text())
    assert spec["process"].pop("terminal")
    spec["process"]["args"] = ["/probe", "exit", "3"]
    (bundle.path / "config.json").write_text(json.dumps(spec))
    assert bundle.call("run", "-b", str(bundle.path), bundle.id).code == 3
    assert "exists" in complaint(bundle.call("spec", "-b", str(bundle.path)))


def test_features_are_printed(bundle: Bundle) -> None:
    features = json.loads(bundle.call("features").expect().out)
    assert features["ociVersionMin"] == "1.0.0"
    assert "rro" in features["mountOptions"]
    assert features["linux"]["seccomp"]["enabled"]


# -- places that are not as they should be ---------------------------------------------------------


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda bundle: (bundle.path / "config.json").unlink(), "config.json: No such file"),
        (lambda bundle: shutil.rmtree(bundle.rootfs), "root file system"),
        (lambda bundle: (bundle.path / "config.json").chmod(0), "Permission denied"),
    ],
)
@pytest.mark.needs("ordinary user")
def test_incomplete_bundle_is_reported(
    bundle: Bundle, prepare: Callable[[Bundle], object], says: str
) -> None:
    bundle.write("id")
    prepare(bundle)
    for verb in ("run", "create"):
        done = bundle.call(verb, "-b", str(bundle.path), bundle.id)
        assert done.code in (1, 125)
        assert says in complaint(done)
        assert bundle.id not in bundle.containers()


@pytest.mark.needs("ordinary user")
@pytest.mark.parametrize("verb", ["run", "state", "list", "delete"])
def test_foreign_state_directory_is_refused(bundle: Bundle, verb: str) -> None:
    bundle.write("id")
    command = bundle.command(verb, *([] if verb == "list" else [bundle.id]))
    command[command.index("--root") + 1] = "/usr"
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert (
        done.stderr == "rless-oci: /usr belongs to uid 0, not to you; choose another with --root\n"
    )


def test_config_flag_counts_from_the_bundle(bundle: Bundle) -> None:
    """--config counts from the bundle, as in crun."""
    bundle.write("exit", "9")
    (bundle.path / "sub").mkdir()
    (bundle.path / "config.json").rename(bundle.path / "sub/other.json")
    words = ["-b", str(bundle.path), "--config", "sub/other.json", bundle.id]
    assert bundle.call("run", *words).code == 9


def _on_a_full_disk(state: str, command: list[str], report: str) -> int:
    """Run the command with its state on a tmpfs that has nothing left; return its exit code."""
    os.makedirs(state, 0o700, exist_ok=True)
    api.mount("tmpfs", state, "tmpfs", 0, "size=16k,mode=700")
    with open(f"{state}/.full", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    with open(report, "wb") as errors:
        done = subprocess.run(command, stderr=errors, env=ENVIRONMENT, check=False)
    assert os.listdir(state) == [".full"], os.listdir(state)
    return done.returncode


@pytest.mark.needs("subordinate ids")
def test_full_disk_leaves_nothing(bundle: Bundle, tmp_path: Path) -> None:
    """One line, and nothing is left."""
    bundle.remove_namespace("user")
    del bundle.linux["uidMappings"], bundle.linux["gidMappings"]
    bundle.write("id")
    command = bundle.command("run", "-b", str(bundle.path), bundle.id)
    report = tmp_path / "report"
    arguments = (str(bundle.state), command, str(report))
    code = idmap.call_in_userns(make_map("host-root"), _on_a_full_disk, *arguments)
    assert code == 125
    text = report.read_text()
    assert text.startswith("rless-oci: ")
    assert text.endswith("No space left on device; free some space\n")
    assert text.count("\n") == 1


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_configs_cause_no_internal_error(bundle: Bundle, data: st.DataObject) -> None:
    """Whatever a value is replaced by: it runs, or one line says why not."""
    spec = json.loads(json.dumps(bundle.spec))
    spec["process"]["args"] = ["/probe", "exit", "0"]
    node: Any = spec
    while isinstance(node, (dict, list)) and node:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], (dict, list)) or data.draw(st.booleans()):
            values = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats())
            node[key] = data.draw(st.one_of(values, st.lists(values, max_size=2)))
            break
        node = node[key]
    (bundle.path / "config.json").write_text(json.dumps(spec))
    done = bundle.call("run", "-b", str(bundle.path), bundle.id)
    if done.code and done.err:
        complaint(done)
    assert bundle.id not in bundle.containers()
