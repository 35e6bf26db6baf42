"""`commit`: an image of a container's changes, which runs and is saved like any other."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import tarfile
from pathlib import Path

import pytest

from tests.engine.test_bad_hosts import on_a_host_where
from tests.lib import images
from tests.lib.images import Image, Link, busybox_layer, layer, registry
from tests.lib.needs import DRIVERS
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

CHANGE = """
echo new > /new; mkdir -p /made/deep; echo x > /made/deep/file; ln -s x /made/link
ln /made/deep/file /made/hard; chown 5:6 /made/deep/file; chmod 4755 /made/deep/file
echo more >> /a/changed; rm /a/gone; rm -r /dir; mkdir /dir; echo x > /dir/other; rm -r /whole
chmod 711 /; rm /link; mkdir /link; echo x > /link/x; rm -r /replaced; echo f > /replaced
chmod 700 /mode
echo vol > /vol/file; touch /a/.wh.changed; mkfifo /fifo; echo done > /tmp/done
"""

LOOK = """
cat /new /made/deep/file /made/link /a/changed /dir/other /link/x /replaced 2>&1
for d in /a /dir /vol /whole; do echo $d: $(ls -A $d 2>&1); done
stat -c '%u:%g %a %h' /made/deep/file /made/hard
stat -c '%u:%g %a' /mode /link /fifo /
"""

EXPECTED = """new
x
cat: can't open '/made/link': No such file or directory
a
more
x
x
f
/a: changed
/dir: other
/vol:
/whole: ls: /whole: No such file or directory
5:6 4755 2
5:6 4755 2
0:0 700
0:0 755
0:0 644
0:0 711
"""


def base(rless: Product) -> str:
    lower = layer({
        "a/changed": "a\n", "a/gone": "a", "dir/inner": "x", "dir/sub/deep": "x", "dir/other": "y",
        "whole/x": "x", "link": Link("b"), "replaced/x": "x", "mode/x": "x", "vol/image": "",
    })  # fmt: skip
    second = layer({"vol/.wh.image": ""})
    return rless.add_image(
        "commit",
        Image([busybox_layer(), lower, second], {"Env": ["PATH=/bin", "A=1"], "Cmd": ["ls"]}),
    )


def image_ids(rless: Product) -> set[str]:
    return set(os.listdir(rless.storage / "images/ids"))


def config(rless: Product, identifier: str) -> dict[str, object]:
    path = rless.storage / "blobs/sha256" / identifier.removeprefix("sha256:")
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == identifier.removeprefix("sha256:")
    found: dict[str, object] = json.loads(data)
    return found


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("state", ["running", "stopped"])
def test_image_contains_the_changes(
    rless: Product, driver: str, state: str, tmp_path: Path
) -> None:
    words = ["--name", "box", "--network", "none", "--storage-driver", driver,
             "-v", "commit-test:/vol"]  # fmt: skip
    if state == "running":
        rless("run", "-d", *words, base(rless), "sh", "-c", CHANGE + "sleep 1000").expect()
        wait_for(lambda: rless("cp", "box:/tmp/done", "-").code == 0, "the changes")
    else:
        rless("run", *words, base(rless), "sh", "-c", CHANGE).expect()
    done = rless("commit", "box", "commit/made:1").expect()
    identifier = done.out.strip()
    if driver != "fuse-overlayfs":  # which refuses such a name
        assert "left out" in done.err  # .wh.changed would delete a file
    for again in ("commit/made:1", identifier, identifier[7:19]):
        found = rless("run", "--rm", "--network", "none", again, "sh", "-c", LOOK).expect()
        assert found.out == EXPECTED
    assert rless("exec", "box", "true").code == (0 if state == "running" else 1)  # not paused still
    check_saved(rless, "commit/made:1", tmp_path)
    rless("rm", "-f", "box").expect()
    rless("rmi", identifier).expect()


def check_saved(rless: Product, name: str, directory: Path) -> None:
    """The saved layers have the digests of the config, and whiteouts of the archive's form."""
    target = directory / "saved.tar"
    rless("save", "-o", str(target), name).expect()
    with tarfile.open(target) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        document = json.load(archive.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        data = [archive.extractfile(path).read() for path in manifest["Layers"]]  # type: ignore[union-attr]
    digests = [f"sha256:{hashlib.sha256(piece).hexdigest()}" for piece in data]
    assert digests == document["rootfs"]["diff_ids"]
    with tarfile.open(fileobj=io.BytesIO(data[-1])) as top:
        names = top.getnames()
    assert {"a/.wh.gone", ".wh.whole", "dir/.wh.inner", "dir/.wh.sub"} <= set(names)
    assert not any(name.startswith("vol") or "etc/hosts" in name for name in names)
    assert "a/.wh.changed" not in names


def test_changes_to_the_config_are_applied(rless: Product) -> None:
    rless("run", "--name", "box", "--network", "none", base(rless), "true").expect()
    done = rless(
        "commit", "-a", "Ada <a@example.org>", "-m", "why", "-c", 'CMD ["echo", "hello"]',
        "--change=ENV B=${A}2 C=3", "-c", "LABEL k=v", "-c", "EXPOSE 80", "-c", "USER 5:6",
        "-c", "WORKDIR /made", "-c", "VOLUME /v", "-c", "STOPSIGNAL INT", "box", "commit/made",
    ).expect()  # fmt: skip
    identifier = done.out.strip()
    made = config(rless, identifier)
    assert made["author"] == "Ada <a@example.org>"
    assert made["config"] == {
        "Env": ["PATH=/bin", "A=1", "B=12", "C=3"],
        "Cmd": ["echo", "hello"],
        "Labels": {"k": "v"},
        "ExposedPorts": {"80/tcp": {}},
        "User": "5:6",
        "WorkingDir": "/made",
        "Volumes": {"/v": {}},
        "StopSignal": "INT",
    }
    history = made["history"][-1]  # type: ignore[index]
    assert history["comment"] == "why"
    assert history["author"] == "Ada <a@example.org>"
    assert history["created_by"] == "true"
    assert len(made["rootfs"]["diff_ids"]) == 4  # type: ignore[index]
    run = rless("run", "--rm", "--network", "none", "commit/made").expect()
    assert run.out == "hello\n"
    found = rless("run", "--rm", "--network", "none", "commit/made", "sh", "-c",
                  "id -u; pwd; echo $B").expect()  # fmt: skip
    assert found.lines() == ["5", "/made", "12"]
    rless("rm", "box").expect()
    rless("rmi", "commit/made").expect()


def test_commits_can_be_stacked_and_empty(rless: Product) -> None:
    name = base(rless)
    made = []
    for number in range(3):
        rless("run", "--name", "box", "--network", "none", name, "sh", "-c",
              f"echo {number} >> /log").expect()  # fmt: skip
        made.append(rless("commit", "box", f"commit/step:{number}").expect().out.strip())
        rless("rm", "box").expect()
        name = f"commit/step:{number}"
    done = rless("run", "--rm", "--network", "none", name, "cat", "/log").expect()
    assert done.lines() == ["0", "1", "2"]
    rless("run", "--name", "box", "--network", "none", name, "true").expect()
    made.append(rless("commit", "box").expect().out.strip())
    rless("rm", "box").expect()
    done = rless("run", "--rm", "--network", "none", made[-1], "cat", "/log").expect()
    assert done.lines() == ["0", "1", "2"]
    for identifier in made:
        rless("rmi", "-f", identifier).expect()


def test_commit_refuses_wrong_requests(rless: Product, tmp_path: Path) -> None:
    rless("run", "--name", "box", "--network", "none", rless.image, "true").expect()
    before = image_ids(rless)
    for words, message in (
        (["none", "x"], "no such container"),
        (["box", "UPPER"], "UPPER"),
        (["box", "a@sha256:" + "0" * 64], "is not a name"),
        (["box", "oci:x"], "is not a name"),
        (["-c", "RUN true", "box"], "not a valid change command"),
        (["-c", "EXPOSE x", "box"], "is not a port"),
    ):
        done = rless("commit", *words)
        assert done.code in (1, 125), done
        assert message in done.one_line_error()
    rless("rm", "box").expect()
    rless("run", "--name", "box", "--network", "none", "host:", "true").expect()
    assert "no image to commit on" in rless("commit", "box").expect(1).one_line_error()
    rless("rm", "box").expect()
    assert image_ids(rless) == before


def test_running_container_is_paused_during_commit(rless: Product) -> None:
    """Two files that are written one after the other are never seen apart."""
    script = "i=0; while :; do i=$((i+1)); echo $i > /x; mv /x /one; echo $i > /x; mv /x /two; done"
    rless("run", "-d", "--name", "box", "--network", "none", rless.image, "sh", "-c",
          script).expect()  # fmt: skip
    wait_for(lambda: rless("cp", "box:/two", "-").code == 0, "the files")
    identifier = rless("commit", "box").expect().out.strip()
    done = rless("run", "--rm", "--network", "none", identifier, "sh", "-c",
                 "cat /one /two").expect()  # fmt: skip
    first, second = map(int, done.lines())
    assert first - second in (0, 1)
    rless("rm", "-f", "box").expect()
    rless("rmi", identifier).expect()


@pytest.fixture
def layout(own_rless: Product) -> str:
    return own_rless.add_image("full", images.busybox_image(Env=["PATH=/bin"]))


_FULL = """
import subprocess
storage = {storage!r}
os.makedirs(storage, 0o700, exist_ok=True)
tmpfs(storage, "32m")
tmpfs({runtime!r}, "4m")
name = {layout!r}
run = command[:-2]
assert subprocess.run(run + ["run", "--name", "box", "--network", "none", "-q", name, "sh", "-c",
    "head -c 3000000 /dev/urandom > /big; mkdir /many; for i in $(seq 99); do echo > /many/$i; done"
]).returncode == 0
def look(storage=storage, os=os):
    found = []
    for directory, names, files in os.walk(storage):
        if "/containers/" not in directory and "/run/" not in directory:
            found += [os.path.join(directory, name) for name in names + files]
    return sorted(path for path in found if not path.endswith(("filler", "/lock", "/events")))
subprocess.run(run + ["rmi", "none"], stderr=subprocess.DEVNULL)
subprocess.run(run + ["export", "-o", "/dev/null", "box"])
before = look()
with open(storage + "/filler", "wb", buffering=0) as stream:
    try:
        while True:
            stream.write(bytes(4096))
    except OSError:
        pass
os.truncate(storage + "/filler", os.path.getsize(storage + "/filler") - {spare})
done = subprocess.run(command)
after = look()
if done.returncode and before != after:
    print("left behind:", sorted(set(after) - set(before)))
os.unlink(storage + "/filler")
assert subprocess.run(run + ["commit", "box"], stdout=subprocess.DEVNULL).returncode == 0
os._exit(done.returncode)
"""


@pytest.mark.parametrize("spare", [0, 8192, 65536, 1 << 20, 3 << 20, 3150000, 8 << 20])
def test_full_disk_leaves_nothing(own_rless: Product, layout: str, spare: int) -> None:
    arrangement = _FULL.format(
        storage=str(own_rless.storage),
        runtime=str(own_rless.runtime),
        layout=layout,
        spare=spare,
    )
    done = on_a_host_where(own_rless, arrangement, "commit", "box")
    assert "left behind" not in done.out, done
    if spare >= 8 << 20:
        done.expect()
    else:
        done.expect(125 if done.code == 125 else 1)
        assert "No space left on device" in done.err.splitlines()[-1], done


def test_random_changes_are_reproduced_in_the_image(rless: Product, tmp_path: Path) -> None:
    """What the container shows and what a container of its image shows, by seeded changes."""
    dice = random.Random(5)
    names = ["a", "b", "c", "d/e", "d/f", "d/g/h", "i/j"]
    lines = []
    for _ in range(60):
        path, other = (f"/w/{dice.choice(names)}" for _ in range(2))
        lines.append(
            dice.choice((
                f"rm -rf {path}",
                f"mkdir -p {path}",
                f"mkdir -p $(dirname {path}); echo {dice.random()} > {path}",
                f"mv {path} {other}",
                f"ln -sfn {other} {path}",
                f"ln {path} {other}",
                f"chmod {dice.choice(('700', '4755', '1777', '600'))} {path}",
                f"chown {dice.randrange(9)}:{dice.randrange(9)} {path}",
                f"cp -a {path} {other}",
            ))
        )  # fmt: skip
    half = len(lines) // 2
    image = rless.image
    made = []
    for part in (lines[:half], lines[half:]):
        script = "; ".join(f"({line}) 2>/dev/null" for line in ["mkdir /w", *part])
        rless(
            "run", "--name", "box", "--network", "none", image, "sh", "-c", f"{script}; true"
        ).expect()
        before = listing(rless, "box")
        made.append(rless("commit", "box").expect().out.strip())
        rless("rm", "box").expect()
        image = made[-1]
        rless("run", "--name", "box", "--network", "none", image, "true").expect()
        assert listing(rless, "box") == before
        rless("rm", "box").expect()
    for identifier in reversed(made):
        rless("rmi", identifier).expect()


def listing(rless: Product, name: str) -> list[tuple[object, ...]]:
    done = rless("export", name).expect()
    with tarfile.open(fileobj=io.BytesIO(done.raw)) as archive:
        return [
            (
                member.name, member.type, member.mode, member.uid, member.gid, member.linkname,
                member.mtime if not member.isdir() else 0,
                archive.extractfile(member).read() if member.isreg() else b"",  # type: ignore[union-attr]
            )
            for member in archive
            if not member.name.startswith("etc")
        ]  # fmt: skip


def test_flags_of_run_are_kept_in_the_config(rless: Product) -> None:
    """Each flag that says how the container runs is in the image, which then runs so by itself."""
    flags = [
        "-e", "Q=7", "-w", "/made", "--user", "5:6", "--entrypoint", "/bin/sh", "--label", "l=m",
        "--expose", "123/udp", "-p", f"127.0.0.1:{images.free_port()}:81",
        "-v", "/anon", "--stop-signal", "INT",
        "--health-cmd", "true", "--health-retries", "2",
    ]  # fmt: skip
    words = ["-c", "id -u; pwd; echo $Q"]
    done = rless("run", "--name", "box", *flags, base(rless), *words).expect()
    assert done.lines() == ["5", "/made", "7"]
    identifier = rless("commit", "box", "commit/told").expect().out.strip()
    assert config(rless, identifier)["config"] == {
        "Env": ["PATH=/bin", "A=1", "Q=7"], "Cmd": words, "Entrypoint": ["/bin/sh"],
        "User": "5:6", "WorkingDir": "/made", "Labels": {"l": "m"}, "StopSignal": "SIGINT",
        "ExposedPorts": {"123/udp": {}, "81/tcp": {}}, "Volumes": {"/anon": {}},
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 30 * 10**9,
                        "Timeout": 30 * 10**9, "StartPeriod": 0, "StartInterval": 5 * 10**9,
                        "Retries": 2},
    }  # fmt: skip
    found = rless("run", "--name", "again", "--network", "none", "commit/told").expect()
    assert found.out == done.out
    rless("run", "--name", "off", "--network", "none", "--no-healthcheck", "commit/told").expect()
    off = rless("commit", "off").expect().out.strip()
    assert config(rless, off)["config"]["Healthcheck"] == {"Test": ["NONE"]}  # type: ignore[index]
    rless("rm", "-v", "box", "again", "off").expect()
    for name in (off, "commit/told"):
        rless("rmi", name).expect()


def test_committed_image_survives_push_and_pull(rless: Product) -> None:
    rless("run", "--name", "box", "--network", "none", base(rless), "sh", "-c",
          "echo made > /made; rm /a/gone").expect()  # fmt: skip
    with registry() as host:
        name = f"{host}/team/made:1"
        first = rless("commit", "-c", 'CMD ["cat", "/made"]', "box", name).expect().out.strip()
        rless("rm", "box").expect()
        rless("push", "-q", name).expect()
        rless("rmi", name).expect()
        rless("pull", "-q", name).expect()
        assert rless("images", "-q", "--no-trunc", name).expect().out.strip() == first
        assert rless("run", "--rm", "--network", "none", name).expect().out == "made\n"
        assert rless("run", "--rm", "--network", "none", name, "ls", "/a").lines() == ["changed"]
        rless("rmi", name).expect()


def test_single_id_commit_keeps_no_owners(rless: Product) -> None:
    """No registry is asked for an image that only this storage has."""
    flags = ("--network", "none", "--userns", "single")
    rless("run", "--name", "box", *flags, base(rless), "sh", "-c", "echo made > /made").expect()
    rless("commit", "box", "commit/single").expect()
    rless("rm", "box").expect()
    done = rless("run", "--rm", *flags, "commit/single", "cat", "/made").expect()
    assert done.out == "made\n"
    done = rless("run", "--rm", "--network", "none", "commit/single", "cat", "/made").expect(125)
    assert "commit/single:latest was made under a map of a single id" in done.one_line_error()
    rless("rmi", "commit/single").expect()
