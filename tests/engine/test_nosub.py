"""A user without subordinate ids: everything that works with one id."""

from __future__ import annotations

import os
import tarfile
import time
from pathlib import Path

import pytest

from tests.lib import images
from tests.lib.product import Product, probe_image

pytestmark = [pytest.mark.nosub, pytest.mark.needs("user namespaces")]


def test_missing_subordinate_ids_are_reported_once_a_day(rless: Product) -> None:
    said = rless.live.parent / "said-one-id"
    said.unlink(missing_ok=True)
    words = ("run", "--rm", "--network=none", rless.image, "id", "-u")
    done = rless(*words).expect()
    assert done.out == "0\n"
    warning = done.one_line_error()
    assert "only your own id" in warning
    assert "doctor" in warning
    assert rless(*words).expect().err == ""
    assert said.parent.stat().st_mode & 0o777 == 0o700  # or the next command refuses it
    os.utime(said, (0, time.time() - 86401))
    assert rless(*words).expect().one_line_error() == warning
    assert rless(*words).expect().err == ""


def test_files_belong_to_the_single_id(rless: Product, tmp_path: Path) -> None:
    for user in ("0", "1000", "user"):
        flags = ["--user", user, "-v", f"{tmp_path}:/mnt/x"]
        rless.sh("echo x >/mnt/x/file; stat -c %u /mnt/x/file", *flags)
        assert (tmp_path / "file").stat().st_uid == os.getuid()
    maps = rless.sh("cat /proc/self/uid_map").out.split()
    assert maps == ["0", str(os.getuid()), "1"]
    assert rless.sh("chown 1000 /srv || echo no", "--fakeroot=false").out == "no\n"


def test_containers_work_with_one_id(rless: Product) -> None:
    script = "mount | grep -c ' on /proc '; echo $$; cat /data/seed; touch /data/x; rm -r /data"
    assert rless.sh(script).lines() == ["1", "1", "seed"]
    image = rless.add_image("volume", probe_image(Volumes={"/data": {}}, User="1000"))
    assert rless.sh("cat /data/seed; touch /data/x", image=image).out == "seed\n"
    assert rless.run("-t", "tty").expect().raw == b"/dev/pts/0\r\n"
    rless.detach("one", "--rm", "sleep", "60")
    rless("kill", "one").expect()


def test_root_may_be_listed_in_its_own_group(rless: Product) -> None:
    """As Alpine's /etc/group has it: the kernel denies setgroups where one id is mapped."""
    group = images.layer({"etc/group": "root:x:0:root\nwheel:x:10:root\n"})
    image = rless.add_image("root-in-root", images.busybox_image([group]))
    assert rless.sh("id -u; id -g", image=image).lines() == ["0", "0"]
    rless.detach("one", "--rm", "sleep", "60", image=image)
    for user in ((), ("-u", "0"), ("-u", "root")):
        assert rless("exec", *user, "one", "id", "-g").expect().out == "0\n"
    rless("rm", "-f", "one").expect()


def test_users_of_a_volume_are_one(rless: Product) -> None:
    """All files of a volume are the application's, whoever that is, and no further line says so."""
    for user in ("0", "1000", "33"):
        words = [
            "run",
            "--rm",
            "--network=none",
            "-u",
            user,
            "-v",
            "data:/d",
            rless.image,
            "sh",
            "-c",
        ]
        done = rless(*words, f"touch /d/{user}; stat -c %u /d /d/{user}").expect()
        assert done.lines() == [user, user]
        assert all("only your own id" in line for line in done.err.splitlines())
    rless("volume", "rm", "data").expect()


def test_modes_that_need_more_ids_are_refused(rless: Product) -> None:
    error = rless.run("--userns=nomap", "true").expect(125).one_line_error()
    assert "subordinate" in error


def test_set_id_bits_are_dropped(rless: Product) -> None:
    """Class 9: such a file would be set-id to the invoking user, for every user of the host."""
    found = rless("unshare", "find", str(rless.storage / "layers"), "-perm", "/6000").expect()
    assert found.out == ""


def test_owners_are_kept_as_data(rless: Product, tmp_path: Path) -> None:
    """All files are the one user's on disk; what leaves has the owners that it came with."""
    image = images.Image([images.layer({"f": images.File("x", uid=1000, gid=5, mode=0o4755)})])
    images.write_docker_archive(image, tmp_path / "in.tar", "owned:1")
    rless("load", "-q", "-i", str(tmp_path / "in.tar")).expect()
    rless("save", "-o", str(tmp_path / "out.tar"), "owned:1").expect()
    with tarfile.open(tmp_path / "out.tar") as archive:
        content = archive.extractfile(f"blobs/sha256/{images.digest(image.layers[0])[7:]}")
        assert content is not None
        assert content.read() == image.layers[0]
    rless("rmi", "owned:1").expect()


def test_unshare_works_with_one_id(rless: Product) -> None:
    assert rless("unshare", "id", "-u").expect().out == "0\n"


@pytest.mark.needs("tun", "pasta", "compiler", "default route")
def test_networks_work_with_one_id(rless: Product) -> None:
    rless("network", "create", "net").expect()
    rless.detach("web", "--network net", "sleep", "60")
    found = rless.sh("nslookup web; ping -c 1 -W 1 web", "--network", "net", "--cap-add", "NET_RAW")
    assert "10.89." in found.out
    rless("rm", "-f", "web").expect()
    rless("network", "rm", "net").expect()
    rless.assert_clean()


def test_build_keeps_owners_as_data(rless: Product, tmp_path: Path) -> None:
    """Nothing has to be switched on; the message about the one id is that of `run`."""
    rless("tag", rless.image, "localhost/base:1").expect()
    (tmp_path / "Dockerfile").write_text(
        "FROM localhost/base:1\n"
        "RUN echo joe:x:1000:1000::/:/bin/sh >>/etc/passwd"
        " && mkdir -p /srv/d && touch /srv/d/f && chown -R joe:7 /srv/d && mknod /null c 1 3\n"
        "USER joe\n"
        "RUN id -u >/tmp/uid\n"
    )
    rless("build", "-t", "localhost/owned:1", str(tmp_path)).expect()
    rless("save", "-q", "-o", str(tmp_path / "saved.tar"), "localhost/owned:1").expect()
    owned = images.saved_layers(tmp_path / "saved.tar")[-2]
    assert owned["srv/d"] == owned["srv/d/f"] == (1000, 7)
    assert owned["etc/passwd"] == (0, 0)
    flags = ("run", "--rm", "--network=none", "--user=0", "localhost/owned:1")
    assert rless(*flags, "cat", "/tmp/uid").expect().out == "1000\n"
