"""Namespaces: each new, by path, absent (runtime-spec, config-linux.md, Namespaces)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle
from tests.lib.compiled import ROOT

pytestmark = pytest.mark.needs("compiler", "user namespaces", "subordinate ids")

KINDS = {
    "pid": "pid",
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "mount": "mnt",
    "cgroup": "cgroup",
}


def test_listed_namespaces_are_new_and_others_shared(bundle: Bundle) -> None:
    """Compared with those of the process that runs the runtime, by a joined pid of each."""
    bundle.linux["namespaces"].append({"type": "cgroup"})
    mine = {kind: os.readlink(f"/proc/self/ns/{name}") for kind, name in KINDS.items()}
    facts = bundle.facts("ns")
    for kind, name in KINDS.items():
        assert facts[name] != mine[kind]
    assert facts["time"] == os.readlink("/proc/self/ns/time")


@pytest.mark.parametrize("kind", ["network", "ipc", "uts"])
def test_absent_namespace_is_the_callers(bundle: Bundle, kind: str) -> None:
    bundle.remove_namespace(kind)
    if kind == "uts":
        del bundle.spec["hostname"]
    if kind == "network":
        bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if m["type"] != "sysfs"]
    assert bundle.facts("ns")[KINDS[kind]] == os.readlink(f"/proc/self/ns/{KINDS[kind]}")


# Run inside the user namespace of the test: make namespaces, print them, run the runtime.
_JOIN = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from rootless.linux import ns
flags = {"network": ns.CLONE_NEWNET, "ipc": ns.CLONE_NEWIPC, "uts": ns.CLONE_NEWUTS}
reader, writer = os.pipe()
holder = os.fork()
if holder == 0:
    ns.unshare(sum(flags.values()))
    os.write(writer, b"x")
    signal.pause()
    os._exit(0)
os.read(reader, 1)
for name in ("net", "ipc", "uts"):
    print("want-" + name, os.readlink(f"/proc/{holder}/ns/{name}"), flush=True)
    os.symlink(f"/proc/{holder}/ns/{name}", f"{sys.argv[2]}/{name}")
child = os.fork()
if child == 0:
    os.execvp(sys.argv[3], sys.argv[3:])
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
os.kill(holder, 9)
sys.exit(code)
"""


def test_namespace_is_joined_by_path(bundle: Bundle, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for entry in bundle.linux["namespaces"]:
        if entry["type"] in ("network", "ipc", "uts"):
            entry["path"] = str(links / KINDS[entry["type"]])
    bundle.write("ns", ",", "hostname")
    command = bundle.command("run", "-b", str(bundle.path), bundle.id)
    start = [sys.executable, "-c", _JOIN, str(ROOT), str(links)]
    done = subprocess.run(
        [*command[:3], *start, *command[3:]], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    facts = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    for name in ("net", "ipc", "uts"):
        assert facts[name] == facts[f"want-{name}"]
    assert facts["hostname"] == "rless"


def test_init_is_pid_1_and_leads_its_session(bundle: Bundle) -> None:
    facts = bundle.facts("session", ",", "pids")
    assert facts == {"pid": "1", "ppid": "0", "pgid": "1", "sid": "1", "pids": "1"}


def test_loopback_is_up(bundle: Bundle) -> None:
    assert bundle.facts("connect", "127.0.0.1", "1") == {"connect": "ECONNREFUSED"}


def test_host_and_domain_name_are_set(bundle: Bundle) -> None:
    bundle.spec["hostname"] = "some.host-1"
    assert bundle.facts("hostname")["hostname"] == "some.host-1"


def test_namespace_of_another_kind_is_refused(bundle: Bundle) -> None:
    for entry in bundle.linux["namespaces"]:
        if entry["type"] == "network":
            entry["path"] = "/proc/self/ns/uts"
    bundle.fails("ns")


def test_missing_namespace_path_is_refused(bundle: Bundle) -> None:
    for entry in bundle.linux["namespaces"]:
        if entry["type"] == "ipc":
            entry["path"] = "/no/such/namespace"
    bundle.fails("ns")


def test_host_name_needs_a_uts_namespace(bundle: Bundle) -> None:
    bundle.remove_namespace("uts")
    bundle.fails("ns")
