"""The id map policy, observed on files in bind mounts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.linux import subid
from tests.lib.images import Dir, File, Image, busybox_image, busybox_layer, layer
from tests.lib.product import Product, probe_image, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

# By id, by a name of the image, and with a group of its own.
USERS = ["", "1000", "user", "user:wheel", "65534", "1"]


def write(rless: Product, image: str, data: Path, *flags: str) -> os.stat_result:
    """Return what the host sees of a file that the application writes to a bind mount."""
    data.mkdir(exist_ok=True)
    rless.sh("echo x >/mnt/bound/file", "-v", f"{data}:/mnt/bound", *flags, image=image)
    status = (data / "file").stat()
    (data / "file").unlink()
    return status


@pytest.mark.parametrize("user", USERS)
def test_files_of_the_application_belong_to_the_caller(
    rless: Product, tmp_path: Path, user: str
) -> None:
    """No flag: the promise of the default map. Root of the image is another one then."""
    image = rless.add_image(f"user-{user}".replace(":", "-"), probe_image(User=user))
    status = write(rless, image, tmp_path / "data")
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
    # With --user the same, whatever the image says.
    status = write(rless, rless.image, tmp_path / "data", "--user", user or "0")
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())


def test_default_map_is_right(rless: Product, tmp_path: Path) -> None:
    first = subid.ranges("uid")[0][0]
    facts = rless.probe("idmap", "--user", "1000:10", "-v", f"{tmp_path}:/mnt/bound").out
    assert f"0 {first} 1000" in " ".join(facts.split())
    assert f"1000 {os.getuid()} 1" in " ".join(facts.split())
    facts = rless.probe("idmap", "--user", "1000:10").out
    assert f"0 {os.getuid()} 1" in " ".join(facts.split())
    assert f"1 {first} " in " ".join(facts.split())


def test_files_of_the_image_keep_their_owners(rless: Product) -> None:
    for user in ("0", "1000", "33"):
        done = rless.sh("stat -c '%u %g' /data/seed /opt/user /bin/busybox", "--user", user)
        assert done.lines() == ["1000 1000", "1000 1000", "0 0"], user


def test_host_root_maps_root_to_the_caller(rless: Product, tmp_path: Path) -> None:
    image = rless.add_image("user-1000", probe_image(User="1000"))
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    first = subid.ranges("uid")[0][0]
    assert write(rless, image, data, "--userns=host-root").st_uid == first + 999
    assert write(rless, image, data, "--userns=host-root", "--user=0").st_uid == os.getuid()
    assert write(rless, image, data, "--userns=host", "--user=0").st_uid == os.getuid()


def test_keep_id_maps_the_caller_to_itself(rless: Product, tmp_path: Path) -> None:
    me = f"{os.getuid()} {os.getgid()}"
    assert rless.sh("echo $(id -u) $(id -g)", "--userns=keep-id").out == f"{me}\n"
    assert write(rless, rless.image, tmp_path / "data", "--userns=keep-id").st_uid == os.getuid()
    done = rless.sh("echo $(id -u) $(id -g)", "--userns=keep-id:uid=1000,gid=50")
    assert done.out == "1000 50\n"
    status = write(rless, rless.image, tmp_path / "data", "--userns=keep-id:uid=1000,gid=50")
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
    # --user decides who runs; the map stays.
    done = rless.sh("id -u; stat -c %u /mnt", "--userns=keep-id:uid=1000", "--user=0", "-v",
                    f"{tmp_path}:/mnt")  # fmt: skip
    assert done.lines() == ["0", "1000"]


def test_nomap_leaves_out_the_caller(rless: Product, tmp_path: Path) -> None:
    """The container has no user that is me: it cannot write what only I may write."""
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    (data / "mine").touch()
    done = rless.sh("id -u; stat -c %u /mnt/bound/mine; touch /mnt/bound/x || echo no",
                    "--userns=nomap", "-v", f"{data}:/mnt/bound")  # fmt: skip
    assert done.lines() == ["0", "65534", "no"]
    maps = rless.sh("cat /proc/self/uid_map", "--userns=nomap").out.split()
    assert maps[0] == "0"
    data.chmod(0o777)
    assert write(rless, rless.image, data, "--userns=nomap").st_uid == subid.ranges("uid")[0][0]
    assert rless.sh("cat /data/seed; stat -c %u /data/seed", "--userns=nomap").out == "seed\n1000\n"


def test_keep_id_names_the_user_that_root_becomes(rless: Product, tmp_path: Path) -> None:
    """Images that start as root and become another: keep-id names the one that shall be me."""
    script = "su user -s /bin/sh -c 'echo x >/mnt/bound/file' && chown user /mnt/bound/file"
    rless.sh(
        script, "--userns=keep-id:uid=1000,gid=1000", "--user=0", "-v", f"{tmp_path}:/mnt/bound"
    )
    assert (tmp_path / "file").stat().st_uid == os.getuid()


def test_root_may_be_listed_in_its_own_group(rless: Product) -> None:
    """As Alpine's /etc/group has it: the kernel denies setgroups where one id is mapped."""
    group = layer({"etc/group": "root:x:0:root\nwheel:x:10:root\n"})
    image = rless.add_image("root-in-root", busybox_image([group]))
    assert rless.sh("id -g", "--userns=single", image=image).out == "0\n"
    rless.detach("one", "--userns=single", "sleep", "60", image=image)
    assert rless("exec", "one", "id", "-g").expect().out == "0\n"
    assert rless("exec", "-u", "root", "one", "id", "-g").expect().out == "0\n"
    rless("rm", "-f", "one").expect()


def test_container_can_chown_and_add_users(rless: Product) -> None:
    script = "touch /x; chown 1000:10 /x; stat -c '%u %g' /x; chown 65535 /x && stat -c %u /x"
    assert rless.sh(script).lines() == ["1000 10", "65535"]
    assert rless.sh("su user -s /bin/sh -c 'id -u'").out == "1000\n"


def test_layers_of_a_second_map_are_cached(own_rless: Product, tmp_path: Path) -> None:
    rless = own_rless
    image = rless.add_image("maps", probe_image())
    script = "stat -c '%u %g' /data/seed"

    def layers() -> list[str]:
        return sorted(str(path) for path in (rless.storage / "layers").glob("*/*")) + sorted(
            os.listdir(rless.storage / "layers")
        )

    assert rless.sh(script, image=image).out == "1000 1000\n"
    first = layers()
    assert rless.sh(script, "--user=1000", image=image).out == "1000 1000\n"
    assert layers() == first
    bound = ("-v", f"{tmp_path}:/mnt/bound")
    assert rless.sh(script, "--user=1000", *bound, image=image).out == "1000 1000\n"
    second = layers()
    assert second != first
    for user in ("0", "1000", "1000"):
        assert rless.sh(script, "--user", user, *bound, image=image).out == "1000 1000\n"
    assert layers() == second


def test_special_files_survive_a_second_map(own_rless: Product) -> None:
    content = {
        "d": Dir(mode=0o1777, uid=5, gid=6),
        "d/suid": File("x", mode=0o4755, uid=1000, gid=1000),
        "d/mine": File("x", mode=0o600, uid=33, gid=33, xattrs={"user.a": b"b"}),
    }
    image = own_rless.add_image(
        "special", Image([busybox_layer(), layer(content)], {"Env": ["PATH=/bin"]})
    )
    script = "cd /d; stat -c '%n %a %u %g' . suid mine; cat mine || true"
    expected = [". 1777 5 6", "suid 4755 1000 1000", "mine 600 33 33"]
    assert own_rless.sh(script, image=image).lines() == [*expected, "x"]
    # Read as root: cat of a file with mode 600 of another user.
    second = own_rless.sh(script, "--userns=keep-id:uid=33,gid=33", "--user=0", image=image)
    assert [line for line in second.lines() if line != "x"] == expected


def test_unshare_runs_in_the_user_namespace(rless: Product, tmp_path: Path) -> None:
    assert rless("unshare", "id", "-u").expect().out == "0\n"
    (tmp_path / "mine").touch()
    done = rless("unshare", "stat", "-c", "%u", str(tmp_path / "mine")).expect()
    assert done.out == "0\n"
    assert rless("unshare", "sh", "-c", "exit 9").code == 9
    assert rless("unshare", "/no/such").code == 127
    assert rless("unshare", "/etc/passwd").code == 126
    # Files of subordinate ids, which the user herself can neither read nor delete:
    rless.sh("mkdir /mnt/x/d; chown 33 /mnt/x/d; chmod 700 /mnt/x/d", "-v", f"{tmp_path}:/mnt/x")
    with pytest.raises(PermissionError):
        os.listdir(tmp_path / "d")
    rless("unshare", "rm", "-r", str(tmp_path / "d")).expect()
    assert not (tmp_path / "d").exists()


def test_process_has_the_mapped_ids_on_the_host(rless: Product) -> None:
    rless.detach("ids", "--user 1000 --device /dev/null", "sleep", "60")
    pid = wait_for(lambda: [pid for pid, what in rless.processes().items() if "b'sleep'" in what],
                   "the process")[0]  # fmt: skip
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == [str(os.getuid())] * 4
    assert fields["Gid"].split() == [str(os.getgid())] * 4
    rless("rm", "-f", "ids").expect()
