"""How long a start takes: of a container that does nothing, of the program itself."""

from __future__ import annotations

import os

from benchmarks.peers import IMAGE, Peers
from benchmarks.table import Case, Group

PUBLISH = ["-p", "127.0.0.1:28080:80"]
BRIDGE = ["--network", "bench"]
MEMBER = "bench-member"


def groups(peers: Peers, runs: int) -> list[Group]:
    """Return what is measured."""
    return [*_starts(peers, runs), *_fronts(peers, runs), *_scopes(peers, runs)]


def _scopes(peers: Peers, runs: int) -> list[Group]:
    """Return what a scope costs, where the user has a systemd (see scripts/systemd-rig)."""
    if not os.path.exists(f"/run/user/{os.getuid()}/systemd/private"):
        return []
    rless = [peers.rless, "run", "--rm", "--network", "none"]
    what = [peers.image, "true"]
    rest = [["sleep", "0.05"]]  # systemd takes note of the end
    limits = ["--memory", "64m", "--pids-limit", "100"]
    return [
        Group(
            "scope of systemd: run --rm --network none",
            2 * runs,
            [
                Case("no group", [[*rless, "--cgroup-manager", "none", *what]], after=rest),
                Case("scope", [[*rless, *what]], after=rest, more=5.0),
                Case("scope, two limits", [[*rless, *limits, *what]], after=rest, more=5.0),
            ],
        )
    ]


def _fronts(peers: Peers, runs: int) -> list[Group]:
    """Return what a workflow engine waits for: the command apptainer beside `run --hpc`."""
    apptainer, file = f"{peers.work}/apptainer", f"{peers.work}/image.sif"

    def link() -> None:
        if not os.path.lexists(apptainer):
            os.symlink(peers.rless, apptainer)

    flatten = [peers.rless, "flatten", "-f", peers.image, file]
    reference = Case("rless run --hpc", [[peers.rless, "run", "--hpc", file, "true"]])
    inside = [[apptainer, "exec", "instance://bench", "true"]]
    return [
        Group(
            "fronts: apptainer exec FILE.sif true",
            runs,
            [
                reference,
                Case("apptainer exec", [[apptainer, "exec", file, "true"]], more=1.0),
                Case("apptainer exec instance://", inside, target=0.5),
            ],
            first=[flatten, [apptainer, "instance", "start", file, "bench"]],
            last=[[apptainer, "instance", "stop", "bench"]],
            prepare=link,
        ),
        Group(
            "fronts: apptainer --version",
            2 * runs,
            [
                Case("sh -c :", [["/bin/sh", "-c", ":"]]),
                Case("apptainer", [[apptainer, "--version"]], most=3.0),
            ],
            prepare=link,
        ),
    ]


def _starts(peers: Peers, runs: int) -> list[Group]:
    quiet = ["--network", "none"]
    podman = ["podman", "run", "--rm"]
    rless = [peers.rless, "run", "--rm"]
    bwrap = "bwrap --unshare-all --proc /proc --dev /dev --bind".split()
    file = f"{peers.work}/image.sqsh"
    flatten = [peers.rless, "flatten", "-f", peers.image, file]
    floor = ["python3", "-I", "-S", f"{peers.work}/floor.pyc"]

    def compile_floor() -> None:
        source = os.path.join(os.path.dirname(__file__), "floor.py")
        code = "import py_compile, sys; py_compile.compile(*sys.argv[1:], doraise=True)"
        peers.check(["python3", "-I", "-c", code, source, floor[-1]])

    quiet_podman = Case("podman", [[*podman, *quiet, IMAGE, "true"]])
    quiet_rless = [[*rless, *quiet, peers.image, "true"]]
    make = [[program, "network", "create", "bench"] for program in ("podman", peers.rless)]
    remove = [[program, "network", "rm", "bench"] for program in ("podman", peers.rless)]
    return [
        Group(
            "run --rm --network none IMAGE true",
            runs,
            [
                quiet_podman,
                Case("rless", quiet_rless, target=0.30),
                Case("crun run", [["crun", "run", "-b", f"{peers.work}/bundle", "NAME"]]),
                Case("bwrap", [[*bwrap, f"{peers.work}/rootfs", "/", "true"]]),
                Case(
                    "floor in Python",
                    [[*floor, f"{peers.work}/rootfs", f"{peers.work}/NAME", "true"]],
                ),
            ],
            prepare=compile_floor,
        ),
        Group(
            "run --rm IMAGE true (default network)",
            runs,
            [
                Case("podman", [[*podman, IMAGE, "true"]]),
                Case("rless", [[*rless, peers.image, "true"]], target=0.30),
            ],
        ),
        Group(
            "run --rm -p IMAGE true",
            runs,
            [
                Case("podman", [[*podman, *PUBLISH, IMAGE, "true"]]),
                Case("rless", [[*rless, *PUBLISH, peers.image, "true"]], target=0.30),
            ],
        ),
        Group(
            "run --rm --network NET IMAGE true, the first in it",
            runs,
            [
                Case("podman", [[*podman, *BRIDGE, IMAGE, "true"]]),
                Case("rless", [[*rless, *BRIDGE, peers.image, "true"]], target=0.50),
            ],
            first=make,
            last=remove,
        ),
        Group(
            "run --rm --network NET IMAGE true, beside another",
            runs,
            [
                Case("podman", [[*podman, *BRIDGE, IMAGE, "true"]]),
                Case("rless", [[*rless, *BRIDGE, peers.image, "true"]], target=0.50),
                Case("rless, --network none", quiet_rless),
            ],
            first=[
                *make,
                ["podman", "run", "-d", "--name", MEMBER, *BRIDGE, IMAGE, "sleep", "600"],
                [peers.rless, "run", "-d", "--name", MEMBER, *BRIDGE, peers.image, "sleep", "600"],
            ],
            last=[["podman", "rm", "-f", MEMBER], [peers.rless, "rm", "-f", MEMBER], *remove],
        ),
        Group(
            "run --hpc FILE.sqsh true, podman run",
            runs,
            [
                Case("podman", [[*podman, "--network", "host", IMAGE, "true"]]),
                Case("rless", [[peers.rless, "run", "--hpc", file, "true"]], target=0.35),
            ],
            first=[flatten],
        ),
        Group(
            "run --hpc FILE.sqsh true, a Python that does nothing",
            runs,
            [
                Case("python3 -I -c pass", [["/usr/bin/python3", "-I", "-c", "pass"]]),
                Case("rless", [[peers.rless, "run", "--hpc", file, "true"]], target=5.0),
                Case("ch-run FILE.sqsh", [["ch-run", file, "--", "/bin/true"]]),
                Case("bwrap, a directory", [[*bwrap, f"{peers.work}/rootfs", "/", "true"]]),
            ],
            first=[flatten],
        ),
        Group(
            "50 runs, 8 at a time, --network none",
            max(3, runs // 5),
            [quiet_podman, Case("rless", quiet_rless, target=0.20)],
            repeat=50,
        ),
        Group(
            "run of a bundle",
            runs,
            [
                Case("crun run", [["crun", "run", "-b", f"{peers.work}/bundle", "NAME"]]),
                Case(
                    "rless-oci run",
                    [[peers.oci, "run", "-b", f"{peers.work}/bundle", "NAME"]],
                    target=3.0,
                ),
            ],
        ),
        Group(
            "state of a container",
            2 * runs,
            [
                Case("python3 -I -c pass", [["/usr/bin/python3", "-I", "-c", "pass"]]),
                Case("rless-oci state", [[peers.oci, "state", "bench"]], most=20.0),
            ],
            first=[[peers.oci, "run", "-d", "-b", f"{peers.work}/bundle", "bench"]],
            last=[[peers.oci, "delete", "-f", "bench"]],
        ),
        Group(
            "64 ranks at once, --join",
            max(3, runs // 5),
            [
                Case("python3 -I -c pass", [["/usr/bin/python3", "-I", "-c", "pass"]]),
                Case(
                    "rless",
                    [[peers.rless, "run", "--join=bench", *quiet, peers.image, "true"]],
                    target=4.0,
                ),
            ],
            repeat=64,
            at_once=64,
        ),
        Group(
            "start of the program",
            2 * runs,
            [
                Case("python3 -I -c pass", [["/usr/bin/python3", "-I", "-c", "pass"]]),
                Case("rless --version", [[peers.rless, "--version"]], target=2.5),
                Case("rless --help", [[peers.rless, "--help"]], target=2.5),
                Case("podman --version", [["podman", "--version"]]),
            ],
        ),
    ]
