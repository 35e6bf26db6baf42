"""The owners in a volume have the same numbers in every container, whoever each runs as."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.linux import subid
from tests.lib.product import Product, probe_image

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

_LOOK = "stat -c %u:%g /d/app"


@pytest.fixture
def data(rless: Product) -> str:
    """Make a volume as entry points do: root has made a directory for user 1000."""
    made = "mkdir /d/app; chown 1000:1000 /d/app; chmod 700 /d/app"
    rless.sh(made, "-v", "data:/d")
    return "data:/d"


@pytest.fixture
def app(rless: Product) -> str:
    return rless.add_image("user-1000", probe_image(User="1000"))


@pytest.fixture(autouse=True)
def no_volume_stays(rless: Product) -> Iterator[None]:
    yield
    rless.clear()
    rless("volume", "prune", "-a", "-f").expect()


def caller(rless: Product, name: str) -> str:
    return rless("volume", "inspect", "-f", "{{.Status.Caller}}", name).expect().out.strip()


def run(rless: Product, script: str, *flags: str) -> tuple[list[str], str]:
    """Run a shell script, not quietly; return its lines and the warnings."""
    words = ["run", "--rm", "--network", "none", *flags, rless.image, "sh", "-c", script]
    done = rless(*words).expect()
    return done.lines(), done.err


def test_volume_of_root_is_the_same_for_a_user(rless: Product, data: str, app: str) -> None:
    script = f"{_LOOK}; touch /d/app/new; stat -c %u:%g /d/app/new"
    for flags, image in ((["-u", "1000"], rless.image), ([], app), (["-u", "user"], rless.image)):
        assert rless.sh(script, "-v", data, *flags, image=image).lines() == ["1000:1000"] * 2
    assert rless.sh(f"{_LOOK} /d/app/new", "-v", data).lines() == ["1000:1000"] * 2
    assert caller(rless, "data") == "0:0"


def test_volume_of_a_user_is_the_same_for_root(rless: Product, tmp_path: Path) -> None:
    """With a bind mount the user is the caller, so the volume is first written in that map."""
    flags = ["-u", "1000:1000", "-v", "data:/d", "-v", f"{tmp_path}:/mnt/bound"]
    script = "mkdir -m 700 /mnt/bound/app; stat -c %u:%g /d"
    assert rless.sh(script, *flags).out == "1000:1000\n"
    assert (tmp_path / "app").stat().st_uid == os.getuid()
    assert caller(rless, "data") == "1000:1000"
    rless.sh("mkdir -m 700 /d/app; chown 1000:1000 /d/app", "-v", "data:/d")
    lines, warning = run(rless, _LOOK, *flags)
    assert (lines, warning) == (["1000:1000"], "")
    assert rless.sh(_LOOK, "-v", "data:/d", "-u", "1000").out == "1000:1000\n"


def test_volumes_of_another_container_are_the_same(
    rless: Product, data: str, app: str, tmp_path: Path
) -> None:
    made = "mkdir -m 700 /own/app; chown 1000:1000 /own/app"
    flags = ["--network", "none", "-v", data, "-v", "/own"]
    rless("run", "--name", "first", *flags, rless.image, "sh", "-c", made).expect()
    look = "stat -c %u:%g /d/app /own/app && touch /own/app/x"
    flags = ["--volumes-from", "first"]
    assert rless.sh(look, *flags, image=app).lines() == ["1000:1000"] * 2
    lines, warning = run(rless, look, *flags, "-u", "1000", "-v", f"{tmp_path}:/mnt/bound")
    assert lines == ["1000:1000"] * 2
    assert "does not have your rights on bind mounts" in warning


def test_volumes_of_images_are_the_same(rless: Product) -> None:
    image = rless.add_image("volume", probe_image(Volumes={"/opt/user": {}}, User="1000:1000"))
    rless("run", "--name", "first", "--network", "none", image, "touch", "/opt/user/x").expect()
    look = "stat -c %u:%g /opt/user /opt/user/x"
    assert rless.sh(look, "--volumes-from", "first").lines() == ["1000:1000"] * 2


def test_new_volume_is_given_to_its_first_user(rless: Product) -> None:
    """The image has nothing there that would say whose it is."""
    for flags in (["-u", "1000:1000"], ["-u", "33:33"], []):
        look = "stat -c %u:%g /d /e"
        assert rless.sh(look, "-v", "data:/d", "-v", "/e", *flags).lines()[0] == "1000:1000", flags
    rless.sh("touch /d/x /e/x", "-v", "data:/d", "-v", "/e", "-u", "1000:1000")
    # What the image has there says whose it is.
    assert rless.sh("stat -c %u:%g /srv", "-v", "srv:/srv", "-u", "1000:1000").out == "0:0\n"


def test_bind_mount_gives_way_to_a_volume_with_a_line(
    rless: Product, data: str, tmp_path: Path
) -> None:
    flags = ["-v", data, "-v", f"{tmp_path}:/mnt/bound", "-u", "1000:1000"]
    lines, warning = run(rless, _LOOK, *flags)
    assert lines == ["1000:1000"]
    assert warning == (
        "rless: warning: the application runs as user 1000:1000, which does not have your rights "
        "on bind mounts: in volume data user 0:0 is you; --userns=keep-id:uid=1000,gid=1000 puts "
        "the bind mounts first\n"
    )
    lines, warning = run(rless, "touch /mnt/bound/x", *flags, "--userns=keep-id:uid=1000,gid=1000")
    assert (tmp_path / "x").stat().st_uid == os.getuid()
    assert "volume data shows its files with other owners here" in warning


@pytest.mark.parametrize(
    ("mode", "here"),
    [("keep-id:uid=7,gid=7", "7:7"), ("nomap", "nobody"), ("single", "1000:1000")],
)
def test_other_maps_are_told(rless: Product, data: str, mode: str, here: str) -> None:
    _, warning = run(rless, "true", "-v", data, "-u", "1000:1000", "--userns", mode)
    assert warning == (
        "rless: warning: volume data shows its files with other owners here: in it user 0:0 is "
        f"you, but in this container {here} is, because of --userns={mode}\n"
    )


def test_volumes_in_two_maps_are_told(rless: Product, data: str, tmp_path: Path) -> None:
    rless.sh("touch /e/x", "-v", "other:/e", "-v", f"{tmp_path}:/mnt/bound", "-u", "5:5")
    lines, warning = run(rless, _LOOK, "-v", data, "-v", "other:/e")
    assert lines == ["1000:1000"]
    assert warning == (
        "rless: warning: volume other shows its files with other owners here: in it user 5:5 is "
        "you, but in this container 0:0 is, because of volume data\n"
    )


def test_maps_that_agree_are_not_told(rless: Product, data: str, tmp_path: Path) -> None:
    flags = ["-v", data, "-v", f"{tmp_path}:/mnt/bound"]
    for more in ([], ["--userns=host-root"], ["--userns=keep-id:uid=0,gid=0", "-u", "0"]):
        assert run(rless, _LOOK, *flags, *more) == (["1000:1000"], "")
    assert run(rless, _LOOK, "-v", data, "--userns=host-root", "-u", "1000") == (["1000:1000"], "")


def test_user_beyond_the_subordinate_ids_runs(rless: Product, data: str) -> None:
    user = str(sum(count for _, count in subid.ranges("uid")) + 5)
    assert rless.sh("id -u", "-u", user).out == f"{user}\n"
    lines, warning = run(rless, "id -u", "-v", data, "-u", user)
    assert lines == [user]
    assert warning.endswith(f"but in this container {user}:0 is, because of --user\n")


def test_volume_of_before_takes_the_map_of_its_oldest_container(
    rless: Product, data: str, tmp_path: Path
) -> None:
    record = rless.storage / "volumes/data/volume.json"
    flags = ["--network", "none", "-v", data, "-v", f"{tmp_path}:/mnt/bound", "-u", "1000:1000"]
    mode = "--userns=keep-id:uid=1000,gid=1000"
    rless("create", "--name", "old", mode, *flags, rless.image, "true").expect()
    rless(
        "create", "--name", "young", "--network", "none", "-v", data, rless.image, "true"
    ).expect()

    def forget() -> None:
        found = json.loads(record.read_text())
        del found["caller"]
        record.write_text(json.dumps(found))

    forget()
    rless.sh("true", "-v", data)
    assert caller(rless, "data") == "1000:1000"
    forget()
    rless("rm", "old").expect()
    rless("start", "young").expect()
    assert caller(rless, "data") == "0:0"


def test_map_of_an_unused_volume_is_open(rless: Product, tmp_path: Path) -> None:
    rless("volume", "create", "data").expect()
    (found,) = json.loads(rless("volume", "inspect", "data").expect().out)
    assert "Status" not in found
    rless.sh("true", "-v", "data:/d", "-v", f"{tmp_path}:/mnt/bound", "-u", "33:33")
    assert caller(rless, "data") == "33:33"


def test_directory_of_the_host_as_a_volume_is_the_users(rless: Product, tmp_path: Path) -> None:
    rless("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={tmp_path}",
          "bound").expect()  # fmt: skip
    rless.sh("touch /d/x", "-v", "bound:/d", "-u", "33:33")
    assert (tmp_path / "x").stat().st_uid == os.getuid()
    assert rless.sh("stat -c %u /d/x", "-v", "bound:/d").out == "33\n"


# -- the map without volumes -----------------------------------------------------------------------


def test_map_follows_the_user_only_to_files_of_the_host(
    own_rless: Product, app: str, tmp_path: Path
) -> None:
    rless = own_rless
    first, me = subid.ranges("uid")[0][0], os.getuid()

    def inside(*flags: str) -> str:
        return rless.sh("head -n1 /proc/self/uid_map", *flags, image=app).out.split()[1]

    assert inside() == str(me)
    assert inside("-v", "data:/d") == str(me)
    assert inside("-u", "33", "-v", "/d") == str(me)
    rless("pull", "-q", app).expect()
    assert len(os.listdir(rless.storage / "layers")) == 1  # of all these users
    assert inside("-v", f"{tmp_path}:/mnt/bound") == str(first)
    assert inside("--device", "/dev/null:/dev/other") == str(first)
