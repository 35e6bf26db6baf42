"""Step 1: a root filesystem from every source of images, by every driver."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.lib import images
from tests.lib.images import Dir, File, Hard, Link, busybox_layer, layer, opaque, whiteout
from tests.lib.needs import DRIVERS
from tests.lib.product import Product, probe_image

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def test_oci_layout_runs(own_rless: Product) -> None:
    image = own_rless.add_image("layout", probe_image(Env=["WHO=layout"]))
    assert own_rless.sh("echo $WHO", image=image).out == "layout\n"


def test_archives_run(rless: Product, tmp_path: Path) -> None:
    first = images.write_oci_archive(probe_image(Env=["WHO=oci"]), tmp_path / "oci.tar")
    second = images.write_docker_archive(probe_image(Env=["WHO=docker"]), tmp_path / "docker.tar")
    assert rless.sh("echo $WHO", image=f"oci-archive:{first}").out == "oci\n"
    assert rless.sh("echo $WHO", image=f"docker-archive:{second}").out == "docker\n"
    # An archive that has changed is read again.
    images.write_docker_archive(probe_image(Env=["WHO=changed"]), tmp_path / "docker.tar")
    assert rless.sh("echo $WHO", image=f"docker-archive:{second}").out == "changed\n"


def test_image_in_an_archive_is_selected_by_name(rless: Product, tmp_path: Path) -> None:
    both = {name: probe_image(Env=[f"WHO={name}"]) for name in ("one", "two")}
    path = images.write_oci_archive(both, tmp_path / "both.tar")
    for name in both:
        assert rless.sh("echo $WHO", image=f"oci-archive:{path}:{name}").out == f"{name}\n"


@pytest.mark.needs("docker-registry")
def test_image_is_pulled_by_tag_and_digest(own_rless: Product) -> None:
    rless = own_rless
    with images.registry() as host:
        digest = images.push(probe_image(Env=["WHO=tag"]), f"{host}/team/app:1.0")
        other = images.Image([b"\0" * 1024], {}, architecture="s390x")
        zstd = images.busybox_image(compression="zstd", Env=["WHO=zstd", "PATH=/bin"])
        images.push([other, zstd], f"{host}/team/multi:2")
        assert rless.sh("echo $WHO", image=f"{host}/team/app:1.0").out == "tag\n"
        assert rless.sh("echo $WHO", image=f"{host}/team/app@{digest}").out == "tag\n"
        assert rless.sh("echo $WHO", image=f"{host}/team/multi:2").out == "zstd\n"
        wrong = rless.run("", "true", image=f"{host}/team/app:none").expect(125)
        assert "none" in wrong.one_line_error()
    # Cached: the registry is gone, and not asked.
    assert rless.sh("echo $WHO", image=f"{host}/team/app:1.0").out == "tag\n"
    never = rless.run("--pull never", "true", image=f"{host}/team/app:1.0").expect()
    assert not never.err


def test_pull_never_refuses_a_missing_image(rless: Product) -> None:
    error = rless.run("--pull never", "true", image="127.0.0.1:9/a/b:c").expect(125)
    assert "--pull never" in error.one_line_error()


def test_host_image_runs(rless: Product) -> None:
    script = "id -u; ls -d /usr/bin/env; echo mine >/usr/local/written; cat /usr/local/written"
    assert rless.sh(script, image="host:").lines() == ["0", "/usr/bin/env", "mine"]
    assert not os.path.exists("/usr/local/written")
    assert rless.run("", "ls", "/usr/local/written", image="host:").code != 0
    # The user's home is left out, and no_new_privs is on.
    assert rless.run("", "ls", str(Path.home() / ".profile"), image="host:").code != 0
    status = rless.sh("grep NoNewPrivs /proc/self/status", image="host:")
    assert status.out.split() == ["NoNewPrivs:", "1"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Make a root filesystem by hand."""
    root = tmp_path / "rootfs"
    (root / "bin").mkdir(parents=True)
    program = next(path for path in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(path))
    (root / "bin" / "busybox").write_bytes(Path(program).read_bytes())
    (root / "bin" / "busybox").chmod(0o755)
    (root / "bin" / "sh").symlink_to("busybox")
    return root


def test_rootfs_directory_is_modified(rless: Product, directory: Path) -> None:
    rless.run(["--rootfs", str(directory)], "sh", "-c", "echo new >/file", image="").expect()
    assert (directory / "file").read_text() == "new\n"
    assert (directory / "file").stat().st_uid == os.getuid()


def test_rootfs_directory_under_an_overlay_is_unchanged(rless: Product, directory: Path) -> None:
    before = sorted(path.name for path in directory.rglob("*"))
    script = "echo new >/file; cat /file"
    done = rless.run(["--rootfs", f"{directory}:O"], "sh", "-c", script, image="").expect()
    assert done.out == "new\n"
    assert sorted(path.name for path in directory.rglob("*")) == before


def test_invalid_rootfs_is_refused(rless: Product, tmp_path: Path) -> None:
    error = rless.run(["--rootfs", str(tmp_path / "none")], "true", image="").expect(125)
    assert "does not exist" in error.one_line_error()
    (tmp_path / "file").touch()
    error = rless.run(["--rootfs", str(tmp_path / "file")], "true", image="").expect(125)
    assert "file: Not a directory" in error.one_line_error()


@pytest.fixture(scope="module")
def layered() -> images.Image:
    """Make an image whose layers delete, replace and link."""
    below = layer(
        {
            "d": Dir(),
            "d/gone": "gone\n",
            "d/kept": File("kept\n", mtime=1_234_567_890, xattrs={"user.note": b"hello"}),
            "d/hard": Hard("d/kept"),
            "opaque": Dir(),
            "opaque/old": "old\n",
            "becomes-dir": "file\n",
            "becomes-file": Dir(),
            "becomes-file/in": "in\n",
            "setuid": File("x", mode=0o4755),
            "owned": File("x", uid=1000, gid=1000),
        }
    )
    above = layer(
        {
            **whiteout("d/gone"),
            **opaque("opaque"),
            "opaque/new": "new\n",
            "becomes-dir": Dir(),
            "becomes-dir/in": "in\n",
            "becomes-file": "file\n",
            "link": Link("d/kept"),
        }
    )
    return images.Image([busybox_layer(), below, above], {"Env": ["PATH=/bin"]})


@pytest.mark.parametrize("driver", DRIVERS)
def test_layers_are_applied_by_each_driver(
    rless: Product, layered: images.Image, driver: str
) -> None:
    image = rless.add_image("layered", layered)
    script = """
        ls d opaque becomes-dir; cat becomes-file link
        stat -c '%h %Y' d/kept; stat -c %a setuid; stat -c '%u %g' owned
        [ $(stat -c %i d/kept) = $(stat -c %i d/hard) ] && echo linked
        rm -r d && mkdir d && ls d && echo x >opaque/x && ls opaque
        rm opaque/new && ls opaque && mv opaque moved && ls moved
    """
    done = rless.sh(script, "--storage-driver", driver, image=image)
    assert (
        done.out.split()
        == (
            "becomes-dir: in d: hard kept opaque: new file kept 2 1234567890 4755 1000 1000 linked "
            "new x x x"
        ).split()
    )


@pytest.mark.parametrize("driver", DRIVERS)
def test_requested_driver_is_used(rless: Product, driver: str) -> None:
    done = rless.sh("cat /data/seed", "--storage-driver", driver, "--explain=json")
    assert done.out == "seed\n"
    step = next(s for s in json.loads(done.err)["steps"] if s["step"] == "root filesystem")
    assert step["facts"]["driver"] == driver


def test_image_with_over_a_hundred_layers_runs(own_rless: Product) -> None:
    many = [layer({f"many/{number}": f"{number}\n", "top": f"{number}\n"}) for number in range(130)]
    image = own_rless.add_image("many", probe_image())
    many_image = images.Image([busybox_layer(), *many], {"Env": ["PATH=/bin"]}, compression="none")
    image = own_rless.add_image("many", many_image)
    done = own_rless.sh("ls /many | wc -l; cat /top", image=image)
    assert done.lines() == ["130", "129"]


def test_images_share_layers(own_rless: Product) -> None:
    first = own_rless.add_image("first", probe_image(Env=["A=1", "PATH=/bin"]))
    second = own_rless.add_image("second", probe_image(Env=["A=2", "PATH=/bin"]))
    assert own_rless.sh("echo $A", image=first).out == "1\n"
    before = sorted(os.listdir(own_rless.storage / "layers"))
    assert own_rless.sh("echo $A", image=second).out == "2\n"
    assert sorted(os.listdir(own_rless.storage / "layers")) == before


@pytest.mark.parametrize("what", ["layer", "diff_id", "config"])
def test_every_digest_is_verified(own_rless: Product, tmp_path: Path, what: str) -> None:
    image = probe_image()
    if what == "diff_id":
        document = {"rootfs": {"type": "layers", "diff_ids": [f"sha256:{'0' * 64}"] * 2}}
        image = images.Image(image.layers, {"Cmd": ["true"]}, document=document)
    path = Path(images.write_oci_layout(image, tmp_path / "layout"))
    if what != "diff_id":
        name = images.digest(image.blobs[0]) if what == "layer" else image.id
        blob = path / "blobs" / "sha256" / name[7:]
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 1
        blob.write_bytes(data)
    error = own_rless.run("", "true", image=f"oci:{path}").expect(125).one_line_error()
    assert "sha256" in error or "digest" in error
    assert not own_rless("images", "-q").expect().out


def test_other_platform_can_be_requested(rless: Product) -> None:
    image = images.Image([busybox_layer()], {"Cmd": ["true"]}, architecture="s390x")
    error = rless.run("", "true", image=rless.add_image("s390x", image)).expect(125)
    assert "s390x" in error.one_line_error()
