"""Mounts, masks, devices and the root (runtime-spec, config.md and config-linux.md)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lib.bundle import Bundle

pytestmark = pytest.mark.needs("compiler", "user namespaces", "subordinate ids")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a directory of the host with a file in it."""
    path = tmp_path / "source"
    path.mkdir()
    (path / "file").write_text("host\n")
    return path


def options_of(mounts: str, path: str) -> set[str]:
    """Return the options of the topmost mount at a path, from mountinfo."""
    lines = [line.split() for line in mounts.splitlines()]
    return set([line for line in lines if line[4] == path][-1][5].split(","))


def test_bind_shows_the_source(bundle: Bundle, source: Path) -> None:
    bundle.bind(source, "/srv/data")
    assert bundle.run("read", "/srv/data/file").expect().out == "host\n"
    bundle.facts("write", "/srv/data/new", "x")
    assert (source / "new").read_text() == "x"


def test_bind_of_a_file_creates_its_target(bundle: Bundle, source: Path) -> None:
    bundle.bind(source / "file", "/etc/deep/name")
    assert bundle.run("read", "/etc/deep/name").expect().out == "host\n"
    assert (bundle.rootfs / "etc/deep/name").read_text() == ""


def test_relative_source_counts_from_the_bundle(bundle: Bundle) -> None:
    (bundle.path / "beside").write_text("beside\n")
    bundle.bind("beside", "/beside")
    assert bundle.run("read", "/beside", cwd="/").expect().out == "beside\n"


def test_read_only_bind_refuses_writes(bundle: Bundle, source: Path) -> None:
    bundle.bind(source, "/data", "ro")
    assert bundle.facts("write", "/data/file", "x") == {"write": "EROFS"}
    assert (source / "file").read_text() == "host\n"


@pytest.mark.parametrize("option", ["nosuid", "nodev", "noexec"])
def test_bind_flags_are_applied(bundle: Bundle, source: Path, option: str) -> None:
    bundle.bind(source, "/data", option)
    assert option in options_of(bundle.run("mounts").expect().out, "/data")


def test_tmpfs_options_are_applied(bundle: Bundle) -> None:
    bundle.mount("/scratch", "tmpfs", "tmpfs", "size=1m", "mode=1700", "noexec", "nosuid", "nodev")
    done = bundle.run("stat", "/scratch", ",", "mounts").expect()
    assert done.out.startswith("stat /scratch dir 1700 0 0 ")
    assert {"nosuid", "nodev", "noexec", "rw"} <= options_of(done.out, "/scratch")
    assert any(" /scratch " in line and "size=1024k" in line for line in done.lines())


def test_later_mounts_cover_earlier_ones(bundle: Bundle, source: Path) -> None:
    bundle.mount("/a", "tmpfs", "tmpfs")
    bundle.bind(source, "/a/b")
    assert bundle.run("read", "/a/b/file").expect().out == "host\n"
    bundle.mount("/a", "tmpfs", "tmpfs")
    assert bundle.run("ls", "/a").expect().out == ""


def test_links_of_the_image_do_not_lead_out(bundle: Bundle, source: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (bundle.rootfs / "absolute").symlink_to(outside)
    (bundle.rootfs / str(outside)[1:]).mkdir(parents=True)  # crun makes none for a link
    (bundle.rootfs / "outside").mkdir()
    (bundle.rootfs / "up").symlink_to("../../../../outside")
    bundle.bind(source, "/absolute/one")
    bundle.bind(source, "/up/two")
    bundle.bind(source / "file", "/up/three")
    out = bundle.run("ls", f"{outside}", ",", "read", "/outside/two/file").expect().lines()
    assert out == ["one", "host"]
    assert os.listdir(outside) == []


def test_dots_do_not_lead_out(bundle: Bundle, source: Path) -> None:
    bundle.bind(source, "/../../../data")
    assert bundle.run("read", "/data/file").expect().out == "host\n"


def test_missing_source_is_an_error(bundle: Bundle) -> None:
    bundle.bind("/no/such/source", "/data")
    bundle.fails("id")


def test_unknown_file_system_is_an_error(bundle: Bundle) -> None:
    bundle.mount("/data", "nofs", "nofs")
    bundle.fails("id")


def test_masked_and_read_only_paths_are_protected(bundle: Bundle) -> None:
    (bundle.rootfs / "etc").mkdir()
    for name in ("secret", "fixed"):
        (bundle.rootfs / "etc" / name).write_text(f"{name}\n")
        (bundle.rootfs / f"{name}s").mkdir()
        (bundle.rootfs / f"{name}s" / "one").write_text(f"{name}\n")
    bundle.linux["maskedPaths"] = ["/etc/secret", "/secrets", "/not/there"]
    bundle.linux["readonlyPaths"] = ["/etc/fixed", "/fixeds", "/not/there/either"]
    done = bundle.run(
        "stat", "/etc/secret", ",", "read", "/etc/secret", ",", "ls", "/secrets", ",",
        "read", "/etc/fixed", ",", "write", "/etc/fixed", "x", ",", "write", "/fixeds/one", "x",
    ).expect()  # fmt: skip
    first, *rest = done.lines()
    assert first.startswith("stat /etc/secret char 0666") and " 1:3 " in first
    assert rest == ["fixed", "write EROFS", "write EROFS"]
    assert bundle.facts("write", "/secrets/new", "x")["write"] == "EROFS"


def test_usual_masks_of_proc_are_applied(bundle: Bundle) -> None:
    facts = bundle.facts("write", "/proc/sys/kernel/hostname", "x")
    assert facts == {"write": "EROFS"}
    assert bundle.run("read", "/proc/keys").expect().out == ""
    assert bundle.run("ls", "/sys/firmware").expect().out == ""


def test_read_only_root_refuses_writes(bundle: Bundle, source: Path) -> None:
    bundle.spec["root"]["readonly"] = True
    bundle.bind(source, "/data")
    facts = bundle.facts("write", "/new", "x")
    assert facts == {"write": "EROFS"}
    assert bundle.facts("write", "/data/new", "x") == {"write": "ok"}
    assert bundle.facts("write", "/dev/new", "x") == {"write": "ok"}


def test_root_shows_nothing_of_the_host(bundle: Bundle) -> None:
    """Nothing of the host is left in the mount table, and the way up ends at the root."""
    out = bundle.run("mounts", ",", "stat", "/..", "/").expect().out
    places = [line.split()[4] for line in out.splitlines() if not line.startswith("stat")]
    assert places.count("/") == 1
    assert all(place == "/" or place.startswith(("/proc", "/sys", "/dev")) for place in places), (
        places
    )


def test_dev_has_the_standard_nodes_and_links(bundle: Bundle) -> None:
    nodes = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9"}
    nodes["tty"] = "5:0"
    names = [f"/dev/{name}" for name in nodes]
    lines = bundle.run("stat", *names).expect().lines()
    for line, number in zip(lines, nodes.values(), strict=True):
        assert " char 0666 " in line and f" {number} " in line, line
    for name, target in {
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
        "ptmx": "pts/ptmx",
    }.items():
        assert bundle.run("readlink", f"/dev/{name}").expect().out == f"readlink {target}\n"


def test_dev_nodes_work(bundle: Bundle) -> None:
    facts = bundle.facts("write", "/dev/null", "x", ",", "read", "/dev/null")
    assert facts == {"write": "ok"}
    assert bundle.facts("write", "/dev/full", "x") == {"write": "ENOSPC"}


def test_listed_devices_are_created(bundle: Bundle) -> None:
    bundle.linux["devices"] = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}
    ]
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    assert " char " in bundle.run("stat", "/dev/fuse").expect().out
    assert " 10:229 " in bundle.run("stat", "/dev/fuse").expect().out


def test_private_binds_do_not_propagate(bundle: Bundle, source: Path) -> None:
    bundle.bind(source, "/private", "rprivate")
    line = next(line for line in bundle.run("mounts").expect().lines() if " /private " in line)
    assert " shared:" not in line and " master:" not in line
