"""Volumes: created, filled, shared, listed and removed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib import images
from tests.lib.images import Dir, File, layer
from tests.lib.life import facts
from tests.lib.product import Product, probe_layer

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


@pytest.fixture(autouse=True)
def no_volume_stays(rless: Product) -> Iterator[None]:
    yield
    rless.clear()
    rless("volume", "prune", "-a", "-f").expect()
    assert names(rless) == []


def names(rless: Product) -> list[str]:
    return rless("volume", "ls", "-q").expect().lines()


def run(rless: Product, name: str, *words: str) -> str:
    """Run a container to its end, which stays; return its id."""
    rless("run", "--name", name, "--network=none", *words).expect()
    found: str = json.loads(rless("ps", "-a", "--no-trunc", "--format", "json",
                                  "--filter", f"name=^{name}$").expect().out)["ID"]  # fmt: skip
    return found


# -- by themselves ---------------------------------------------------------------------------------


def test_volume_is_created_listed_inspected_and_removed(rless: Product) -> None:
    began = int(time.time())
    assert rless("volume", "create", "--label", "a=b", "-d", "local", "data").expect().out == (
        "data\n"
    )
    assert rless("volume", "create", "data").expect().out == "data\n"  # as Docker: it is there
    assert rless("volume", "ls").expect().out == "DRIVER   VOLUME NAME\nlocal    data\n"
    (found,) = json.loads(rless("volume", "inspect", "data").expect().out)
    assert time.mktime(time.strptime(found.pop("CreatedAt"), "%Y-%m-%dT%H:%M:%SZ")) >= began - 1
    assert found == {
        "Driver": "local",
        "Labels": {"a": "b"},
        "Mountpoint": str(rless.storage / "volumes/data/_data"),
        "Name": "data",
        "Options": None,
        "Scope": "local",
    }
    assert rless("volume", "inspect", "-f", "{{.Name}} {{.Labels.a}}", "data").out == "data b\n"
    assert rless("volume", "rm", "data").expect().out == "data\n"
    assert "no such volume" in rless("volume", "rm", "data").expect(1).one_line_error()
    assert rless("volume", "rm", "-f", "data").expect().out == "data\n"
    done = rless("volume", "inspect", "data").expect(1)
    assert done.out == "[]\n"
    assert "no such volume: data" in done.one_line_error()


def test_unnamed_volume_gets_a_random_name(rless: Product) -> None:
    name = rless("volume", "create").expect().out.strip()
    assert len(name) == 64
    assert set(name) <= set("0123456789abcdef")
    rless("volume", "create", "named").expect()
    out = rless("volume", "prune", "-f").expect().out
    assert out.startswith(f"Deleted Volumes:\n{name}\n\nTotal reclaimed space: ")
    assert names(rless) == ["named"]


@pytest.mark.parametrize("name", ["a", "a/b", "../x", ".x", "-x", "x y", "\x1b[2J", "x" * 300])
def test_names_follow_dockers_grammar(rless: Product, name: str) -> None:
    done = rless("volume", "create", "--", name).expect(1)
    done.one_line_error()
    rless("volume", "inspect", "--", name).expect(1).one_line_error()
    rless("volume", "rm", "--", name).expect(1).one_line_error()


def test_options_that_need_root_are_named(rless: Product) -> None:
    for words, text in (
        (["-o", "type=nfs", "-o", "device=:/x"], "type=nfs"),
        (["-o", "type=tmpfs", "-o", "device=tmpfs"], "type=tmpfs"),
        (["-o", "type=none", "-o", "o=size=1", "-o", "device=/x"], "o=size=1"),
        (["-o", "size=1g"], "size"),
        (["-o", "type=none", "-o", "o=bind"], "device"),
        (["-d", "nfs"], "volume driver nfs"),
    ):
        done = rless("volume", "create", *words, "some")
        assert done.code in (1, 125), done
        assert text in done.one_line_error()
    assert names(rless) == []


def test_volume_can_be_a_directory_of_the_host(rless: Product, tmp_path: os.PathLike[str]) -> None:
    (tmp_path / "file").write_text("host\n")  # type: ignore[operator]
    rless("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={tmp_path}",
          "bound").expect()  # fmt: skip
    assert rless.sh("cat /x/file; echo more >/x/new", "-v", "bound:/x").out == "host\n"
    assert (tmp_path / "new").read_text() == "more\n"  # type: ignore[operator]
    rless("volume", "rm", "bound").expect()
    assert (tmp_path / "file").exists()  # type: ignore[operator]


def test_volumes_can_be_filtered_and_formatted(rless: Product) -> None:
    rless("volume", "create", "--label", "k=v", "one").expect()
    rless("volume", "create", "two").expect()
    run(rless, "user", "-v", "two:/x", rless.image, "true")

    def chosen(*filters: str) -> list[str]:
        words = [word for text in filters for word in ("--filter", text)]
        return rless("volume", "ls", "-q", *words).expect().lines()

    assert chosen("dangling=true") == ["one"]
    assert chosen("dangling=0") == ["two"]
    assert chosen("label=k") == chosen("label=k=v") == ["one"]
    assert chosen("label=k=w") == []
    assert chosen("name=w") == ["two"]
    assert chosen("driver=local") == ["one", "two"]
    assert chosen("driver=nfs") == []
    assert "dangling" in rless("volume", "ls", "-f", "dangling=x").one_line_error()
    assert "no filter" in rless("volume", "ls", "-f", "size=1").one_line_error()
    out = rless("volume", "ls", "--format", '{{.Name}} {{.Label "k"}} {{.Driver}} {{.Links}}').out
    assert out == "one v local 0\ntwo  local 1\n"
    assert json.loads(rless("volume", "ls", "--format", "json").lines()[0])["Labels"] == "k=v"


# -- of containers ---------------------------------------------------------------------------------


def test_content_of_the_image_is_copied_up(rless: Product) -> None:
    done = rless.sh("stat -c '%u:%g %a' /data/seed; cat /data/seed", "-v", "data:/data")
    assert done.lines() == ["1000:1000 640", "seed"]
    rless.sh("rm /data/seed; echo mine >/data/own", "-v", "data:/data")
    assert rless.sh("ls /data", "-v", "data:/data").lines() == ["own"]
    assert rless.sh("ls /data", "-v", "bare:/data:nocopy").lines() == []
    mount = "type=volume,src=bare2,dst=/data,volume-nocopy,volume-label=a=b,volume-label=c"
    assert rless.sh("ls /data", "--mount", mount).lines() == []
    (found,) = json.loads(rless("volume", "inspect", "bare2").out)
    assert found["Labels"] == {"a": "b", "c": ""}


def test_cp_before_the_first_start_fills_volumes(rless: Product, tmp_path: Path) -> None:
    """As in Docker, which fills them at once: what the image has is not kept out by the copy."""
    (tmp_path / "own").write_text("own\n")
    script = ("sh", "-c", "stat -c '%n %u:%g %a' /data/*")
    rless("create", "--name", "box", "--network=none", "-v", "data:/data", rless.image,
          *script).expect()  # fmt: skip
    rless("cp", f"{tmp_path}/own", "box:/data/own").expect()
    assert rless("start", "-a", "box").expect().lines() == [
        "/data/own 0:0 644", "/data/seed 1000:1000 640",
    ]  # fmt: skip
    rless("create", "--name", "bare", "--network=none", "-v", "bare:/data:nocopy", rless.image,
          *script).expect()  # fmt: skip
    rless("cp", f"{tmp_path}/own", "bare:/data/own").expect()
    assert rless("start", "-a", "bare").expect().lines() == ["/data/own 0:0 644"]
    # Later it is the container's own: what was emptied stays so.
    rless("run", "--name", "emptied", "--network=none", "-v", "gone:/data", rless.image,
          "rm", "/data/seed").expect()  # fmt: skip
    assert rless("cp", "emptied:/data/seed", "-").expect(1).out == ""


def test_part_of_a_volume_is_mounted(rless: Product, tmp_path: Path) -> None:
    rless.sh("mkdir -p /v/a/b; echo in >/v/a/b/f; echo top >/v/f; ln -s a/b /v/l", "-v", "vol:/v")
    whole = "type=volume,src=vol,dst=/data,volume-subpath="
    for part in ("a/b", "l", "./a//b"):
        assert rless.sh("cat /data/f; ls /data", "--mount", f"{whole}{part}").lines() == ["in", "f"]
    one = "type=volume,src=vol,dst=/one,volume-subpath=a/b/f"
    assert rless.sh("cat /one", "--mount", one).lines() == ["in"]
    refused = rless.run(("--mount", f"{whole}a/b,ro"), "sh", "-c", "echo x >/data/f")
    assert "Read-only" in refused.expect(1).err
    missing = rless.run(("--mount", f"{whole}none"), "true").expect(125).one_line_error()
    assert missing.endswith("No such file or directory; make it in the volume first")
    # Before the first start, from another container, and after the end.
    rless("create", "--name", "box", "--network=none", "--mount", f"{whole}a/b", rless.image,
          "cat", "/data/own").expect()  # fmt: skip
    (tmp_path / "own").write_text("own\n")
    rless("cp", f"{tmp_path}/own", "box:/data/own").expect()
    assert rless("start", "-a", "box").expect().lines() == ["own"]
    assert rless.sh("ls /data", "--volumes-from", "box").lines() == ["f", "own"]
    assert rless.sh("ls /v", "-v", "vol:/v").lines() == ["a", "f", "l"]
    assert "remove the containers first" in rless("volume", "rm", "vol").expect(1).err
    rless("rm", "box").expect()


@pytest.mark.parametrize("link", ["/", "/etc", "../..", "/proc/self/root/etc"])
def test_link_in_a_volume_does_not_lead_out_of_its_part(rless: Product, link: str) -> None:
    """Class 18: a container that has the volume exchanges what another one mounts of it."""
    rless.sh(f"mkdir /v/a; ln -s {link} /v/bad; ln -s {link} /v/a/bad", "-v", "vol:/v")
    for part in ("bad", "a/bad", "bad/hostname"):
        mount = f"type=volume,src=vol,dst=/data,volume-subpath={part}"
        done = rless.run(("--mount", mount), "ls", "/data").expect(125)
        assert "it leads out of the volume" in done.one_line_error()
        rless("create", "--name", "box", "--network=none", "--mount", mount, rless.image).expect()
        assert "it leads out of the volume" in rless("cp", "box:/data", "-").expect(125).err
        rless("rm", "box").expect()


def test_exchange_of_a_part_while_it_is_mounted_leads_nowhere(rless: Product) -> None:
    rless.sh("mkdir /v/part /v/x; echo in >/v/part/f; ln -s / /v/link", "-v", "vol:/v")
    swap = "while :; do mv -T /v/part /v/x/was; mv -T /v/link /v/part; mv -T /v/part /v/link;"
    rless.detach("evil", "-v vol:/v", "sh", "-c", f"{swap} mv -T /v/x/was /v/part; done")
    mount = "type=volume,src=vol,dst=/data,volume-subpath=part"
    for _ in range(20):
        done = rless.run(("--mount", mount), "ls", "/data")
        assert done.lines() == ["f"] or done.expect(125).one_line_error()
    rless("rm", "-f", "evil").expect()


def test_volume_events_are_recorded_once(rless: Product) -> None:
    """Made by hand or at the first use, removed by hand or with the container: told once."""
    since = f"{time.time():.9f}"
    rless("volume", "create", "hand").expect()
    rless("volume", "create", "hand").expect()
    for _ in range(2):
        rless.sh("true", "-v", "hand:/a", "-v", "use:/b")
    rless.sh("true", "-v", "/anon")
    rless("volume", "rm", "hand", "use").expect()
    done = rless("events", "--since", since, "--until", "now", "--filter", "type=volume",
                 "--format", "{{.Action}} {{.Actor.ID}}").expect()  # fmt: skip
    found = [line.split() for line in done.lines()]
    anonymous = found[2][1]
    assert len(anonymous) == 64
    assert found == [
        ["create", "hand"], ["create", "use"], ["create", anonymous], ["destroy", anonymous],
        ["destroy", "hand"], ["destroy", "use"],
    ]  # fmt: skip


def test_killed_copy_up_is_repeated(rless: Product) -> None:
    rless("volume", "create", "half").expect()
    directory = rless.storage / "volumes/half"
    (directory / "_data/part").mkdir()
    (directory / "_data/part/of").write_text("it")
    (directory / "filling").write_text("1")
    assert rless.sh("ls /data", "-v", "half:/data").lines() == ["seed"]
    assert (directory / "filling").read_text() == ""
    rless.sh("rm /data/seed; touch /data/own", "-v", "half:/data")
    assert rless.sh("ls /data", "-v", "half:/data").lines() == ["own"]


def test_volume_owned_by_another_id_is_usable(rless: Product) -> None:
    """Whether it is empty is asked by who may look."""
    rless.sh("chown 33 /v; chmod 700 /v", "-v", "closed:/v")
    assert rless.sh("ls -ldn /v", "-v", "closed:/v").out.split()[2] == "33"


def test_volume_in_use_is_not_removed(rless: Product) -> None:
    run(rless, "user", "-v", "used:/x", rless.image, "true")
    run(rless, "user2", "-v", "used:/x", rless.image, "true")
    error = rless("volume", "rm", "used").expect(1).one_line_error()
    assert "volume is in use by user, user2" in error
    assert rless("volume", "prune", "-a", "-f").expect().out == "Total reclaimed space: 0B\n"
    rless("rm", "user", "user2").expect()
    assert names(rless) == ["used"]
    rless("volume", "rm", "used").expect()


def anonymous_image(rless: Product) -> str:
    image = images.busybox_image(
        [probe_layer(), layer({"var/x": Dir()})], compression="none", Volumes={"/var/x": {}}
    )
    return rless.add_image("with-volume", image)


def test_anonymous_volumes_are_removed_only_by_rm_v(rless: Product) -> None:
    image = anonymous_image(rless)
    for words, left in ((("rm",), 2), (("rm", "-v"), 0), (("rm", "-fv"), 0)):
        made = run(rless, "owner", "-v", "/other", image, "sh", "-c", "echo x >/var/x/file")
        mounts = facts(rless, made)["mounts"]
        assert [(mount["type"], mount["target"], mount["anonymous"]) for mount in mounts] == [
            ("volume", "/other", True),
            ("volume", "/var/x", True),
        ]
        assert sorted(mount["name"] for mount in mounts) == names(rless)
        assert (rless.storage / "volumes" / mounts[1]["name"] / "_data/file").read_text() == "x\n"
        rless(*words, "owner").expect()
        assert len(names(rless)) == left
        rless("volume", "prune", "-f").expect()
        assert names(rless) == []


def test_anonymous_volumes_are_removed_with_rm_containers(rless: Product) -> None:
    image = anonymous_image(rless)
    rless("run", "--rm", "--network=none", "-v", "/other", "-v", "named:/named", image,
          "true").expect()  # fmt: skip
    assert names(rless) == ["named"]
    rless("run", "-d", "--rm", "--name", "detached", "--network=none", "-v", "/other", image,
          "sleep", "600").expect()  # fmt: skip
    assert len(names(rless)) == 3
    rless("stop", "-t", "0", "detached").expect()
    rless.assert_clean()
    assert names(rless) == ["named"]


def test_anonymous_volume_survives_a_restart(rless: Product) -> None:
    run(rless, "again", "-v", "/x", rless.image, "sh", "-c", "echo more >>/x/file; wc -l </x/file")
    rless("start", "again").expect()
    rless("wait", "again").expect()
    assert rless("logs", "again").expect().lines() == ["1", "2"]
    assert len(names(rless)) == 1


def test_files_of_other_ids_are_removed(rless: Product) -> None:
    rless.sh("mkdir /x/d; chown 1000:1000 /x/d; chmod 700 /x/d; touch /x/d/f", "-v", "foreign:/x")
    rless("volume", "rm", "foreign").expect()
    assert os.listdir(rless.storage / "volumes") == [".lock"]


def test_volumes_from_shares_volumes(rless: Product, tmp_path: os.PathLike[str]) -> None:
    run(rless, "source", "-v", "data:/data", "-v", "/anonymous", "-v", f"{tmp_path}:/host",
        "--tmpfs", "/tmp/x", rless.image, "sh", "-c", "echo a >/anonymous/file")  # fmt: skip
    script = "cat /anonymous/file; touch /host/new; ls /data; [ -d /tmp/x ] || echo none"
    done = rless.sh(script, "--volumes-from", "source")
    assert done.lines() == ["a", "seed", "none"]
    assert (tmp_path / "new").exists()  # type: ignore[operator]
    done = rless.sh("touch /host/no || echo ro", "--volumes-from", "source:ro")
    assert done.lines() == ["ro"]
    # A mount of one's own comes before; of two sources the first.
    assert rless.sh("ls /data", "-v", "mine:/data:nocopy", "--volumes-from", "source").out == ""
    for wrong in ("none", "source:rx", ""):
        rless.run(["--volumes-from", wrong], "true").expect(125).one_line_error()
    # Who came by it keeps it, and removes it as its last user.
    run(rless, "joiner", "--volumes-from", "source", rless.image, "true")
    rless("rm", "-v", "source").expect()
    assert len(names(rless)) == 3
    rless("rm", "-v", "joiner").expect()
    assert names(rless) == ["data", "mine"]


def test_shared_anonymous_volume_goes_with_its_last_user(rless: Product) -> None:
    run(rless, "source", "-v", "/anonymous", rless.image, "true")
    run(rless, "joiner", "--volumes-from", "source", rless.image, "true")
    rless("rm", "-v", "source", "joiner").expect()
    assert names(rless) == []
    for _ in range(3):  # at one moment, as `docker-compose down -v` does it
        run(rless, "source", "-v", "/anonymous", rless.image, "true")
        run(rless, "joiner", "--volumes-from", "source", rless.image, "true")
        for removing in [rless.start("rm", "-v", name) for name in ("source", "joiner")]:
            assert removing.wait(60) == 0, removing.communicate()
        assert names(rless) == []


def test_concurrent_runs_create_one_volume(rless: Product) -> None:
    """One fills it, and no other sees half of it."""
    files = {f"full/{number:03}": File(f"{number:03}") for number in range(200)}
    image = rless.add_image("full", images.busybox_image([layer(files)]))
    rless("pull", "-q", image).expect()
    words = ("run", "--rm", "-q", "--network=none", "-v", "common:/full", image, "sh", "-c",
             "cat /full/*")  # fmt: skip
    whole = "".join(f"{number:03}" for number in range(200)).encode()
    for _ in range(3):
        runs = [rless.start(*words) for _ in range(6)]
        assert [process.communicate(timeout=60) for process in runs] == [(whole, b"")] * 6
        assert names(rless) == ["common"]
        rless("volume", "rm", "common").expect()


def test_volume_removal_races_with_new_uses(rless: Product) -> None:
    """Never a container whose volume is gone under it: one of them comes first."""
    for _ in range(6):
        using = rless.start("run", "--rm", "--network=none", "-v", "race:/data", rless.image, "cat",
                            "/data/seed")  # fmt: skip
        rless("volume", "rm", "race")
        out, err = using.communicate(timeout=30)
        assert (using.returncode, out) == (0, b"seed\n"), err
        rless("volume", "rm", "-f", "race").expect()
