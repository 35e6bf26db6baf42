"""What commands take in a store that is full: the slope from one image to thousands.

Three stores: with one image, with a tenth, and full. Podman takes no part: to fill its store takes
many minutes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile

from benchmarks.peers import IMAGE, Peers, digest
from benchmarks.table import Case, Command, Group

NAME = "growth"
# Label -> images of one layer of their own each, and containers; ten tags for each image.
SIZES = {"one": 0, "a tenth": 100, "full": 1000}
TAGS = 10


def groups(peers: Peers, runs: int) -> list[Group]:
    """Return what is measured; the first of them fills the stores."""
    rless = {label: [peers.rless, "--storage", store(peers, label)] for label in SIZES}
    few = max(3, runs // 4)

    def group(
        name: str,
        samples: int,
        command: Command,
        *,
        target: float | None = None,
        most: float | None = None,
        linear: bool = False,
        before: Command | None = None,
    ) -> Group:
        """Return a group; `linear` compares with a tenth, which must not take a tenth less."""
        cases = [
            Case(
                label,
                [[*program, *command]],
                [[*program, *before]] if before else (),
                target=(10.0 if linear else target) if label == "full" else None,
                most=most if label == "full" else None,
            )
            for label, program in rless.items()
            if not (linear and label == "one")
        ]
        return Group(
            f"{NAME}: {name}", samples, cases, first=fill(peers), prepare=lambda: write_all(peers)
        )

    return [
        group("run", runs, ["run", "--rm", "--network", "none", IMAGE, "true"], target=1.15),
        group("tag", runs, ["tag", IMAGE, "localhost/rless-bench:NAME"], target=1.15),
        group("image inspect", runs, ["image", "inspect", IMAGE], target=1.15),
        group("ps -a", runs, ["ps", "-a"], most=100),
        group("images", runs, ["images"], most=300),
        group(
            "rmi", few, ["rmi", "localhost/removed:1"], linear=True,
            before=["load", "-q", "-i", archive(peers, "removed")],
        ),
        group("image prune", few, ["image", "prune", "-f"], linear=True),
        group("system df", few, ["system", "df"], linear=True),
    ]  # fmt: skip


def store(peers: Peers, label: str) -> str:
    """Return the storage; that of the version before is named by `Peers.twin`."""
    return f"{peers.environment['RLESS_STORAGE']}-{label.replace(' ', '-')}"


def archive(peers: Peers, label: str) -> str:
    return f"{peers.work}/{NAME}-{label.replace(' ', '-')}.tar"


def write_all(peers: Peers) -> None:
    """Write the archives that the stores are filled from, if they are not there."""
    write(archive(peers, "removed"), "localhost/removed:{tag}", 1, 1)
    for label, count in SIZES.items():
        write(archive(peers, label), "localhost/growth/{image}:{tag}", count, TAGS)


def fill(peers: Peers) -> list[Command]:
    """Return the commands that fill the stores, unless they are full."""
    commands = []
    for label, count in SIZES.items():
        rless = f"{peers.rless} --storage {store(peers, label)}"
        script = f"{rless} load -q -i {peers.archive}"
        if count:
            script += f" && {rless} load -q -i {archive(peers, label)} && seq {count} |"
            script += f" xargs -P 2 -I N {rless} create --name growth-N --network none {IMAGE} true"
        commands.append(["sh", "-c", f"[ -d {store(peers, label)} ] || {{ {script}; }}"])
    return commands


def write(path: str, name: str, count: int, tags: int) -> None:
    """Write an archive of many small images with names of a pattern, if it is not there."""
    if os.path.exists(path):
        return
    manifest = []
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            layer = tar_of(f"{path} {number}")
            config = {
                "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, ""),
                "os": "linux",
                "created": "2026-01-01T00:00:00Z",
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}"]},
            }
            text = json.dumps(config).encode()
            manifest.append(
                {
                    "Config": f"{digest(text)}.json",
                    "RepoTags": [name.format(image=number, tag=tag + 1) for tag in range(tags)],
                    "Layers": [f"{number}.tar"],
                }
            )
            add(tar, f"{digest(text)}.json", text)
            add(tar, f"{number}.tar", layer)
        add(tar, "manifest.json", json.dumps(manifest).encode())


def tar_of(text: str) -> bytes:
    """Return a layer with one file."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        add(tar, "file", text.encode())
    return layer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
