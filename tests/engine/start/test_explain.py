"""`--explain` agrees with the kernel, as the application sees it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rootless.engine.start import explain
from rootless.linux.caps import NAMES
from rootless.runtime.inside.init import Init
from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

STEPS = [
    "image", "user namespace", "root filesystem", "namespaces", "new root", "control group",
    "network", "capabilities", "application",
]  # fmt: skip
KINDS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
SCRIPT = """
    for n in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done
    echo --; cat /proc/self/mountinfo; echo --; cat /proc/1/status; echo --; pwd; hostname
    echo --; tr '\\0' '\\n' </proc/1/cmdline
"""


def explained(
    rless: Product, *flags: str, **more: Any
) -> tuple[dict[str, dict[str, Any]], list[list[str]]]:
    """Return the account by step, and what the application saw."""
    done = rless.sh(SCRIPT, "--explain=json", *flags, **more)
    account = json.loads(done.err)
    assert [step["step"] for step in account["steps"]] == STEPS
    assert all(step["ms"] >= 0 for step in account["steps"])
    facts = {step["step"]: step["facts"] for step in account["steps"]}
    return facts, [part.strip("\n").split("\n") for part in done.out.split("--\n")]


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--user", "1000"),
        ("--pid=host", "--network=host", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
        ("--privileged", "--userns=keep-id"),
        ("--userns=nomap", "--read-only", "--tmpfs", "/run"),
    ],
)
def test_facts_match_the_kernel(rless: Product, flags: tuple[str, ...]) -> None:
    facts, seen = explained(rless, *flags, "-w", "/srv", "--hostname=told")
    namespaces, mountinfo, status_lines, names, argv = seen
    for kind, link in zip(KINDS, namespaces, strict=True):
        before = os.readlink(f"/proc/self/ns/{kind}")
        told = facts["namespaces"][kind]
        assert told == ("the host's" if link == before else f"{before} -> {link}"), kind
    points = [line.split()[4] for line in mountinfo]
    told_mounts = [mount.split()[0] for mount in facts["new root"]["mounts"]]
    assert sorted(told_mounts) == sorted(points)
    for line in mountinfo:
        fields, kind_fields = line.split(" - ")[0].split(), line.split(" - ")[1].split()
        wanted = f"{fields[4]} {kind_fields[0]} {fields[5]} "
        assert any(told.startswith(wanted) for told in facts["new root"]["mounts"]), wanted
    told_caps = facts["capabilities"]
    if "--pid=host" not in flags:  # process 1 is another one there
        status = dict(line.split(":\t", 1) for line in status_lines if ":\t" in line)
        for field, name in (("CapBnd", "bounding"), ("CapEff", "effective"),
                            ("CapPrm", "permitted"), ("CapInh", "inheritable"),
                            ("CapAmb", "ambient")):  # fmt: skip
            assert told_caps[name] == capability_names(int(status[field], 16)), name
        assert told_caps["no_new_privs"] == {"0": "off", "1": "on"}[status["NoNewPrivs"]]
        assert ("filter" in told_caps["seccomp"]) == (status["Seccomp"] == "2")
        assert "\n".join(facts["application"]["argv"]).strip("\n") == "\n".join(argv)
    assert names == [facts["application"]["working directory"], "told"]
    assert facts["namespaces"]["hostname"] == "told"


@pytest.mark.parametrize(
    ("flags", "mine"),
    [
        ("", "uid 0 of the container"),
        ("-u 1000", "uid 0 of the container"),
        ("-u 1000 --device=/dev/null", "uid 1000 of the container"),
        ("-u 1000 --userns=host", "uid 0 of the container"),
        ("-u 1000 --userns=nomap", "no user of the container"),
        ("-u 1000 --userns=single", "uid 1000 of the container"),
        ("-u 1000 --device=/dev/null --network=bridge", "uid 1000 of the container"),
    ],
)
def test_ids_are_those_of_the_host(rless: Product, flags: str, mine: str) -> None:
    done = rless("run", "-d", "--explain=json", *flags.split(), rless.image, "sleep", "1000")
    facts = {step["step"]: step["facts"] for step in json.loads(done.expect().err)["steps"]}
    application = facts["application"]
    pid = application["pid"].split(" -> ")[0]
    for kind in ("uid", "gid"):
        lines = Path(f"/proc/{pid}/{kind}_map").read_text().splitlines()
        assert facts["user namespace"][f"{kind} map"] == [show(line) for line in lines]
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in status)
    rless("rm", "-f", done.out.strip()).expect()
    assert application["uid"] == fields["Uid"].split()[0] + " on the host"
    groups = fields["Groups"].strip()
    assert application["groups"] == (f"{groups} on the host" if groups else "none")
    assert facts["user namespace"]["you are"] == mine
    if mine.startswith("uid 1000"):
        assert application["uid"] == f"{os.getuid()} on the host"


def show(line: str) -> str:
    inside, outside, count = (int(field) for field in line.split())
    if count == 1:
        return f"{inside} -> {outside}"
    return f"{inside}..{inside + count - 1} -> {outside}..{outside + count - 1}"


def capability_names(bits: int) -> str:
    names = [NAMES[number][4:].lower() for number in range(len(NAMES)) if bits & 1 << number]
    return " ".join(names) or "none"


def test_root_filesystem_is_explained(rless: Product) -> None:
    facts, _ = explained(rless)
    assert facts["root filesystem"]["driver"] == "overlay"
    layers = facts["image"]["layers"]
    assert all(os.path.isdir(path) for path in layers)
    lower = facts["root filesystem"]["options"].partition("lowerdir=")[2].partition(",")[0]
    assert set(lower.split(":")) == set(layers) or "lowerdir" not in facts["root filesystem"]
    facts, _ = explained(rless, "--storage-driver=copy")
    assert facts["root filesystem"]["driver"] == "copy"


def test_network_is_explained(rless: Product) -> None:
    facts, _ = explained(rless, "--network=none")
    assert facts["network"] == {"mode": "none"}
    facts, _ = explained(rless, "--network=private")
    assert facts["network"]["mode"] == "pasta"
    assert facts["network"]["pasta"].startswith("pid ")


def test_host_image_is_explained(rless: Product) -> None:
    facts, _ = explained(rless, image="host:")
    assert "host:" in facts["image"]["source"]
    assert facts["capabilities"]["no_new_privs"] == "on"


def test_explanation_is_readable_text(rless: Product) -> None:
    done = rless.sh("echo out", "--explain", "-e", "A\x1b[2J=\x1b[2J", "-e", "SECRET=hunter2")
    assert done.out == "out\n"
    titles = [line.partition("  (")[0] for line in done.err.splitlines() if line[:1] != " "]
    assert titles == STEPS
    assert "\x1b" not in done.err
    assert "hunter2" not in done.err  # names of variables, never their values
    assert "SECRET" in done.err


def test_short_lived_application_is_explained(rless: Product) -> None:
    for _ in range(5):
        done = rless.run("--explain=json", "true").expect()
        steps = {step["step"]: step["facts"] for step in json.loads(done.err)["steps"]}
        assert steps["application"]["pid"].endswith("-> 1 (host -> container)")
        assert steps["capabilities"]["bounding"] != "none"


def test_detached_run_is_explained(rless: Product) -> None:
    done = rless("run", "-d", "--rm", "--explain=json", "--network=none", rless.image, "true")
    assert len(done.expect().out) == 65
    assert json.loads(done.err)["container"] == done.out.strip()


def test_steps_match_those_of_init() -> None:
    assert [step for step in explain._STEPS if not hasattr(Init, step)] == []
