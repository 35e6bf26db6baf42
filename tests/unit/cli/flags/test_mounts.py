"""-v, --mount, --tmpfs and --device, read as Docker reads them."""

from __future__ import annotations

import os

import pytest

from rootless.cli.flags.mounts import device, gpus, mount, tmpfs, volume
from rootless.engine.request import Device, Mount
from rootless.errors import RlessError


def made(kind: str, source: str | None, target: str, **fields: object) -> Mount:
    return Mount(kind, source, target, **fields)


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("/a:/b", made("bind", "/a", "/b", create_source=True)),
        ("/a/:/b/", made("bind", "/a", "/b", create_source=True)),
        ("//a:/b/../c", made("bind", "/a", "/c", create_source=True)),
        ("/a:/b:ro", made("bind", "/a", "/b", create_source=True, read_only=True)),
        ("/a:/b:rw", made("bind", "/a", "/b", create_source=True)),
        (
            "/a:/b:ro,rslave,z,exec,cached",
            made("bind", "/a", "/b", create_source=True, read_only=True, propagation="rslave",
                 options=["exec"]),
        ),
        (
            "/a:/b:bind,nosuid",
            made("bind", "/a", "/b", create_source=True, recursive=False, options=["nosuid"]),
        ),
        ("data:/b", made("volume", "data", "/b")),
        ("data:/b:nocopy,ro", made("volume", "data", "/b", nocopy=True, read_only=True)),
        ("/b", made("volume", None, "/b")),
    ),
)  # fmt: skip
def test_volume_is_parsed(text: str, expected: Mount) -> None:
    assert volume(text) == expected


def test_selinux_option_is_refused_only_where_it_confines(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from rootless.host import facts

    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: "selinux" in path or exists(path))
    monkeypatch.setattr(facts, "selinux_type", lambda: "unconfined_t")
    assert volume("/a:/b:Z") == volume("/a:/b")
    assert "has no effect" in capfd.readouterr().err
    monkeypatch.setattr(facts, "selinux_type", lambda: "user_t")
    with pytest.raises(RlessError, match="user_t"):
        volume("/a:/b:Z")


def test_dot_is_the_working_directory() -> None:
    assert volume("./x:/b").source == f"{os.getcwd()}/x"
    assert volume("..:/b").source == os.path.dirname(os.getcwd())
    assert volume(".:/b").source == os.getcwd()
    assert mount("type=bind,src=.,dst=/b").source == os.getcwd()


@pytest.mark.parametrize(
    "text",
    ("", ":", ":/b", "/a:", "/a::ro", "/a:/b:ro:x", "/a:b", "/a:/", "/a:/..", "b", "a/b:/c",
     "x:/c", "~/a:/b", "/a:/b:wat", "/a:/b:ro,rw", "/a:/b:shared,private", "/a:/b:z,Z",
     "/a:/b:exec,noexec", "/a:/b:nocopy", "data:/b:rshared", "/a:/b:", "/a\0:/b"),
)  # fmt: skip
def test_wrong_volume_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|holds|starts) "):
        volume(text)


def test_overlay_is_for_a_directory_and_a_volume() -> None:
    assert volume("/a:/b:O").overlay
    assert volume("/a:/b:ro,O").read_only
    named = volume("data:/b:O")
    assert named.overlay
    assert named.nocopy  # nothing is written to the volume
    for options in ("O,rshared", "bind,O"):
        with pytest.raises(ValueError, match="has O"):
            volume(f"/a:/b:{options}")


@pytest.mark.parametrize("option", ("U", "dev", "idmap", "upperdir=/x", "O,workdir=/x"))
def test_unsupported_options_are_refused(option: str) -> None:
    with pytest.raises(RlessError, match="is not supported"):
        volume(f"/a:/b:{option}")


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("type=bind,source=/a,target=/b", made("bind", "/a", "/b")),
        ("type=bind,src=/a,dst=/b,readonly", made("bind", "/a", "/b", read_only=True)),
        ("TYPE=bind,src=/a,destination=/b,ro=1", made("bind", "/a", "/b", read_only=True)),
        ("type=bind,src=/a,dst=/b,readonly=false", made("bind", "/a", "/b")),
        (
            "type=bind,src=/a,dst=/b,bind-propagation=rshared,bind-nonrecursive,bind-create-src",
            made("bind", "/a", "/b", propagation="rshared", recursive=False, create_source=True),
        ),
        (
            "type=bind,src=/a,dst=/b,bind-recursive=disabled",
            made("bind", "/a", "/b", recursive=False),
        ),
        (
            "type=bind,src=/a,dst=/b,ro,bind-recursive=readonly",
            made("bind", "/a", "/b", read_only=True),
        ),
        ('type=bind,"src=/a,""b",dst=/b', made("bind", '/a,"b', "/b")),
        (
            "src=data,dst=/b,volume-subpath=./a//b/../c",
            made("volume", "data", "/b", subpath="a/c"),
        ),
        ("src=data,dst=/b,volume-subpath=.", made("volume", "data", "/b", subpath="")),
        ("src=data,dst=/b,volume-nocopy", made("volume", "data", "/b", nocopy=True)),
        ("type=volume,dst=/b", made("volume", None, "/b")),
        ("type=volume,dst=/b,volume-driver=local", made("volume", None, "/b")),
        (
            "type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1777,exec",
            made("tmpfs", None, "/t", tmpfs_size=64 << 20, tmpfs_mode=0o1777, options=["exec"]),
        ),
        ("type=bind,src=/a,dst=/b,consistency=cached", made("bind", "/a", "/b")),
    ),
)  # fmt: skip
def test_mount_is_parsed(text: str, expected: Mount) -> None:
    assert mount(text) == expected


@pytest.mark.parametrize(
    "text",
    ("", "type=bind", "type=bind,dst=/b", "type=bind,src=/a", "type=bind,src=a,dst=/b",
     "type=bind,src=/a,dst=b", "type=bind,src=/a,dst=/", "type=wat,dst=/b", "type=,dst=/b",
     "type=bind,src=/a,dst=/b,wat=1", "type=bind,src=/a,dst=/b,wat", "type=bind, src=/a,dst=/b",
     "type=bind,src=/a ,dst=/b", "type=bind,src=/a,dst=/b,ro=maybe", "type=bind,src=/a,dst=/b,ro=T",
     "type=tmpfs,src=/a,dst=/b", "type=tmpfs,dst=/b,tmpfs-size=x", "type=tmpfs,dst=/b,tmpfs-mode=8",
     "type=tmpfs,dst=/b,tmpfs-mode=17777", "type=tmpfs,dst=/b,bind-propagation=private",
     "src=a-b,dst=/b,volume-subpath=/c", "src=a-b,dst=/b,volume-subpath=c/../../d",
     "src=a-b,dst=/b,volume-subpath=", "src=a-b,dst=/b,volume-subpath=c\0d",
     "dst=/b,volume-subpath=c", "type=bind,src=/a,dst=/b,volume-subpath=c",
     "type=bind,src=/a,dst=/b,volume-nocopy", "type=bind,src=/a,dst=/b,tmpfs-size=1",
     "type=volume,src=/a,dst=/b", "type=bind,src=/a,dst=/b,bind-recursive=readonly",
     'type=bind,src="/a",dst=/b', 'type=bind,"src=/a,dst=/b', 'type=bind,"src=/a"x,dst=/b',
     "type=bind,src=/a,dst=/b\nx", "type=tmpfs,dst=/b,z", "type=bind,src=/a,dst=/b,ro,rw"),
)  # fmt: skip
def test_wrong_mount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|holds|mixes) "):
        mount(text)


@pytest.mark.parametrize(
    "text",
    ("type=image,src=x,dst=/b", "type=npipe,dst=/b", "type=volume,dst=/b,volume-opt=x",
     "type=volume,dst=/b,volume-driver=nfs", "type=bind,src=/a,dst=/b,ro,bind-recursive=writable"),
)  # fmt: skip
def test_unsupported_mount_is_refused(text: str) -> None:
    with pytest.raises(RlessError, match="is not supported"):
        mount(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("/run", made("tmpfs", None, "/run")),
        (
            "/run:rw,noexec,nosuid,size=65536k,mode=1777",
            made("tmpfs", None, "/run", tmpfs_size=64 << 20, tmpfs_mode=0o1777,
                 options=["noexec", "nosuid"]),
        ),
        ("/run:ro,size=50%", made("tmpfs", None, "/run", read_only=True, options=["size=50%"])),
        (
            "/run:uid=1000,gid=0,nr_inodes=1k",
            made("tmpfs", None, "/run", options=["uid=1000", "gid=0", "nr_inodes=1k"]),
        ),
    ),
)  # fmt: skip
def test_tmpfs_is_parsed(text: str, expected: Mount) -> None:
    assert tmpfs(text) == expected


@pytest.mark.parametrize(
    "text",
    ("", "run", "/", "/run:wat", "/run:size=x", "/run:mode=9", "/run:uid=x", "/run:exec,noexec",
     "/run:dev", "/run:shared", "/run:size", "/run:,"),
)  # fmt: skip
def test_wrong_tmpfs_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has) "):
        tmpfs(text)


def test_device_is_parsed() -> None:
    assert device("/dev/fuse") == Device("/dev/fuse", "/dev/fuse", "rwm")
    assert device("/dev/a:/dev/b") == Device("/dev/a", "/dev/b", "rwm")
    assert device("/dev/a:rw") == Device("/dev/a", "/dev/a", "rw")
    assert device("/dev/a:/dev/b:rw") == Device("/dev/a", "/dev/b", "rw")


@pytest.mark.parametrize(
    "text", ("", "fuse", "/dev/a:b", "/dev/a:/b:x", "/dev/a:/b:rr", "/a:/b:r:w")
)
def test_wrong_device_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has) "):
        device(text)


@pytest.mark.parametrize("text", ("/dev/a:r", "/dev/a:/dev/b:w", "/dev/a:/dev/b:rm"))
def test_unenforceable_device_mode_is_refused(text: str) -> None:
    with pytest.raises(RlessError, match="--device with the mode"):
        device(text)


def test_device_is_given_by_its_cdi_name() -> None:
    assert device("nvidia.com/gpu=all") == "nvidia.com/gpu=all"
    for text in ("nvidia.com/gpu=", "nvidia.com/=all", "a/b=c d", "1/b=c"):
        with pytest.raises(ValueError, match="neither"):
            device(text)


def test_gpus_take_dockers_form() -> None:
    for text, meant in {
        "all": "gpus=all",
        "2": "gpus=count:2",
        "device=0": "gpus=device:0",
        '"device=0,GPU-1"': "gpus=device:0,GPU-1",
        '"device=0,1","capabilities=compute,utility"': "gpus=device:0,1",
        "count=3,driver=amd": "gpus=count:3=amd",
        "count=all,capabilities=gpu": "gpus=all",
        "driver=nvidia": "gpus=all=nvidia",
    }.items():
        assert gpus(text) == meant
    for text in ("0", "-1", "some", "device=", "options=x", '"device=0', "count=x"):
        with pytest.raises(ValueError):
            gpus(text)
