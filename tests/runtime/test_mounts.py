"""rootless/runtime/inside/mounts.py against hostile images (security classes 26, 27, 29, 30)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rootless.linux import idmap, ns
from rootless.linux import mount as api
from tests.lib.bundle import ENVIRONMENT, INSIDE, Bundle
from tests.lib.compiled import ROOT
from tests.lib.engine_namespace import make_map

pytestmark = pytest.mark.needs("compiler", "user namespaces")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a directory of the host with a file in it."""
    path = tmp_path / "source"
    path.mkdir()
    (path / "file").write_text("host\n")
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a directory of the host that nothing may reach."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "null").write_text("precious")
    return path


def untouched(outside: Path) -> bool:
    return os.listdir(outside) == ["null"] and (outside / "null").read_text() == "precious"


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("/dev", "/etc"),
        ("/dev", "{outside}"),
        ("/dev", "../../outside"),
        ("/dev", "/proc/self/fd"),
        ("/proc", "{outside}"),
        ("/proc", "/tmp"),
        ("/sys", "{outside}"),
    ],
)
def test_proc_and_sys_need_a_real_directory(
    bundle: Bundle, outside: Path, link: str, target: str
) -> None:
    (bundle.rootfs / "etc").mkdir()
    (bundle.rootfs / "tmp").mkdir()
    (bundle.rootfs / link[1:]).symlink_to(target.format(outside=outside))
    assert f"cannot mount {link}: the image has a symbolic link there" in bundle.fails("id")
    assert untouched(outside)
    assert os.listdir(bundle.rootfs / "etc") == []


def test_links_in_the_images_dev_are_covered(bundle: Bundle, outside: Path) -> None:
    """/dev is a fresh tmpfs: what the image has there is never looked at."""
    dev = bundle.rootfs / "dev"
    dev.mkdir()
    for name in ("null", "pts", "shm", "console", "ptmx", "fd", "zero"):
        (dev / name).symlink_to(outside / "null")
    bundle.linux["maskedPaths"].append("/probe-not-there")
    lines = bundle.run("stat", "/dev/null", "/dev/pts", "/dev/ptmx").expect().lines()
    assert " char 0666 " in lines[0] and " 1:3 " in lines[0]
    assert " dir 0755 " in lines[1]
    assert " link " in lines[2]
    assert untouched(outside)


def test_device_nodes_stay_inside_without_a_dev_mount(bundle: Bundle, outside: Path) -> None:
    """The config has no /dev: nodes are bound in the image's own, whatever links are there."""
    bundle.spec["mounts"] = bundle.spec["mounts"][:1]
    dev = bundle.rootfs / "dev"
    dev.mkdir()
    (dev / "null").symlink_to(outside / "null")
    (dev / "zero").symlink_to("../../../outside/null")
    (dev / "fd").symlink_to(outside)
    bundle.run("id")
    assert untouched(outside)


def test_dev_null_of_the_image_is_no_mask(bundle: Bundle) -> None:
    """CVE-2025-31133: the mask is the host's /dev/null, opened before the image is looked at."""
    bundle.spec["mounts"] = bundle.spec["mounts"][:1]
    (bundle.rootfs / "dev").mkdir()
    (bundle.rootfs / "dev/null").symlink_to("/proc/sysrq-trigger")
    (bundle.rootfs / "secret").write_text("x")
    bundle.linux["maskedPaths"] = ["/secret"]
    bundle.fails("id")  # the node null can't be put there
    (bundle.rootfs / "dev/null").unlink()
    (bundle.rootfs / "dev/null").symlink_to("/plain")
    (bundle.rootfs / "plain").write_text("plain")
    assert " 1:3 " in bundle.run("stat", "/secret").expect().out


def test_dev_pts_as_a_link_is_not_followed(bundle: Bundle, outside: Path) -> None:
    bundle.spec["mounts"] = [
        entry for entry in bundle.spec["mounts"] if entry["destination"] != "/dev"
    ]
    (bundle.rootfs / "dev").mkdir()
    (bundle.rootfs / "dev/pts").symlink_to(outside)
    assert "symbolic link" in bundle.fails("id")
    assert untouched(outside)


@pytest.mark.parametrize(
    "link", ["{outside}/null", "../../outside/null", "/run/missing/deep/file", "run/../missing"]
)
def test_etc_files_behind_links_stay_inside(
    bundle: Bundle, source: Path, outside: Path, link: str
) -> None:
    """resolv.conf is a link, that dangles or leads out: it is one inside (class 29)."""
    (bundle.rootfs / "etc").mkdir()
    (bundle.rootfs / "etc/resolv.conf").symlink_to(link.format(outside=outside))
    bundle.bind(source / "file", "/etc/resolv.conf", "ro")
    assert bundle.run("read", "/etc/resolv.conf").expect().out == "host\n"
    assert untouched(outside)
    assert (source / "file").read_text() == "host\n"


def test_dangling_directory_link_is_resolved_inside(
    bundle: Bundle, source: Path, outside: Path
) -> None:
    (bundle.rootfs / "var").mkdir()
    (bundle.rootfs / "var/run").symlink_to("/run/deep")
    (bundle.rootfs / "var/lib").symlink_to(f"{outside}/lib")
    bundle.bind(source, "/var/run/data")
    bundle.bind(source, "/var/lib/data")
    out = bundle.run("read", "/run/deep/data/file", ",", "read", "/var/lib/data/file").expect().out
    assert out == "host\nhost\n"
    assert untouched(outside)


def test_circular_links_are_refused(bundle: Bundle, source: Path) -> None:
    (bundle.rootfs / "a").symlink_to("b")
    (bundle.rootfs / "b").symlink_to("a")
    bundle.bind(source, "/a/x")
    assert "Too many levels of symbolic links" in bundle.fails("id")


@pytest.mark.parametrize(
    "place", ["/proc/self/fd", "/proc/sys/kernel", "/proc/1", "/alias/sys", "/proc/self/exe"]
)
def test_mounts_over_proc_are_refused(bundle: Bundle, source: Path, place: str) -> None:
    (bundle.rootfs / "alias").symlink_to("/proc")
    bundle.bind(source / "file" if place.endswith("exe") else source, place)
    assert f"cannot mount {place}: " in bundle.fails("id")


@pytest.mark.parametrize("place", ["/proc/self/root/data", "/proc/self/cwd/data", "/magic/data"])
def test_magic_links_are_not_followed(bundle: Bundle, source: Path, place: str) -> None:
    (bundle.rootfs / "magic").symlink_to("/proc/self/cwd")
    bundle.bind(source, place)
    assert f"cannot mount {place}: " in bundle.fails("id")
    assert os.listdir(source) == ["file"]


def test_lxcfs_files_in_proc_are_allowed(bundle: Bundle, source: Path) -> None:
    bundle.bind(source / "file", "/proc/uptime")
    assert bundle.run("read", "/proc/uptime").expect().out == "host\n"


def test_mount_type_mismatch_is_refused(bundle: Bundle, source: Path) -> None:
    (bundle.rootfs / "dir").mkdir()
    bundle.bind(source / "file", "/dir")
    assert bundle.fails("id").startswith("cannot mount /dir: ")
    bundle.spec["mounts"].pop()
    bundle.bind(source, "/probe")
    assert bundle.fails("id").startswith("cannot mount /probe: ")


def _with_submount(source: str, command: list[str]) -> int:
    """Mount a tmpfs below the source, then run the command; return its exit code."""
    api.mount("tmpfs", f"{source}/below", "tmpfs")
    with open(f"{source}/below/file", "w"):
        pass
    pid = os.fork()
    if pid == 0:
        os.execvp(command[0], command)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.needs("subordinate ids")
@pytest.mark.parametrize(("option", "below"), [("ro", "ok"), ("rro", "EROFS")])
def test_read_only_covers_submounts(tmp_path: Path, source: Path, option: str, below: str) -> None:
    bundle = Bundle(tmp_path, inside=True)
    (source / "below").mkdir()
    (source / "out").mkdir()
    bundle.bind(source, "/data", option)
    bundle.bind(source / "out", "/out")
    bundle.write("write", "/data/below/file", "x", ",", "write", "/data/file", "x")
    bundle.inside = False  # we are that already
    report = source / "out/report"
    command = ["sh", "-c", 'exec "$@" >"$0"', str(report)]
    command += bundle.command("run", "-b", str(bundle.path), bundle.id)
    code = idmap.call_in_userns(
        make_map("host-root"), _with_submount, str(source), command, namespaces=ns.CLONE_NEWNS
    )
    assert code == 0
    assert report.read_text() == f"write {below}\nwrite EROFS\n"


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("idmap", "real root"),
    ],
)
def test_unsupported_options_are_refused(
    bundle: Bundle, source: Path, option: str, says: str
) -> None:
    bundle.bind(source, "/data", option)
    message = bundle.fails("id")
    assert message.startswith("cannot mount /data: ") and says in message


def test_unknown_file_system_options_are_reported(bundle: Bundle) -> None:
    bundle.mount("/data", "tmpfs", "tmpfs", "bogus=1")
    assert "bogus=1" in bundle.fails("id")


def mount_line(bundle: Bundle, path: str) -> str:
    lines = bundle.run("mounts").expect().lines()
    return next(line for line in lines if line.split()[4] == path)


@pytest.mark.parametrize("option", ["rshared", "rprivate", "nosuid"])
def test_bind_propagation_is_set(bundle: Bundle, source: Path, option: str) -> None:
    """A bind is private if nothing else is asked for."""
    bundle.bind(source, "/data", option)
    line = mount_line(bundle, "/data")
    assert (" shared:" in line) == (option == "rshared")
    assert " master:" not in line


@pytest.mark.parametrize("value", ["shared", "rshared", "private", "unbindable", ""])
def test_root_propagation_is_set(bundle: Bundle, value: str) -> None:
    bundle.linux["rootfsPropagation"] = value
    root = mount_line(bundle, "/")
    assert (" shared:" in root) == ("shared" in value)
    assert (" unbindable" in root) == (value == "unbindable")


# Share all mounts, as systemd does; run a container; say what has changed.
_SHARED = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from rootless.linux import mount
mount.mount(None, "/", None, mount.MS_REC | mount.MS_SHARED)
def table():
    with open("/proc/self/mountinfo") as file:
        return file.read()
before = table()
subprocess.run(sys.argv[2:], check=True)
sys.exit(table() != before)
"""


@pytest.mark.needs("subordinate ids")
@pytest.mark.parametrize("options", [(), ("--no-pivot",)])
def test_mounts_do_not_propagate(tmp_path: Path, source: Path, options: tuple[str, ...]) -> None:
    """Where mounts are shared, neither ours go out nor later ones of the host come in."""
    bundle = Bundle(tmp_path, inside=True)
    bundle.mount("/scratch", "tmpfs", "tmpfs")
    bundle.bind(source, "/data")
    bundle.linux["maskedPaths"].append("/dev/zero")
    bundle.write("mounts")
    command = bundle.command("run", *options, "-b", str(bundle.path), bundle.id)[len(INSIDE) :]
    done = subprocess.run(
        [*INSIDE, sys.executable, "-c", _SHARED, str(ROOT), *command],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    assert " master:" not in done.stdout and " shared:" not in done.stdout


def test_bound_dev_is_left_unchanged(bundle: Bundle) -> None:
    bundle.spec["mounts"] = [
        entry for entry in bundle.spec["mounts"] if not entry["destination"].startswith("/dev")
    ]
    bundle.bind("/dev", "/dev")
    assert " 1:3 " in bundle.run("stat", "/dev/null").expect().out


def test_host_cgroups_are_shown_read_only(bundle: Bundle) -> None:
    """Without a cgroup namespace the host's hierarchy is shown, read-only."""
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev")
    shown = set(bundle.run("ls", "/sys/fs/cgroup").expect().lines())
    assert shown == set(os.listdir("/sys/fs/cgroup"))
    assert bundle.facts("mkdir", "/sys/fs/cgroup/x")["mkdir"] in ("EROFS", "EACCES")


def test_own_cgroup_is_shown(bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "cgroup"})
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev")
    assert "cgroup.controllers" in bundle.run("ls", "/sys/fs/cgroup").expect().lines()


@pytest.mark.parametrize("path", ["/etc/secret", "/secrets"])
def test_masks_cover_the_targets_of_links(bundle: Bundle, outside: Path, path: str) -> None:
    """A masked path that is a link in the image is covered where it leads, inside."""
    (bundle.rootfs / "etc").mkdir()
    (bundle.rootfs / path[1:]).symlink_to(outside / "null")
    bundle.linux["maskedPaths"] = [path]
    bundle.linux["readonlyPaths"] = [path]
    bundle.run("id").expect()
    assert untouched(outside)


def test_masked_directories_share_one_file_system(bundle: Bundle) -> None:
    for name in ("a", "b"):
        (bundle.rootfs / name).mkdir()
    bundle.linux["maskedPaths"] = ["/a", "/b", "/a"]
    rows = [line.split() for line in bundle.run("mounts").expect().lines()]
    devices = [row[2] for row in rows if row[4] in ("/a", "/b")]
    assert len(devices) == 2 and len(set(devices)) == 1


def test_failed_mask_is_an_error(bundle: Bundle) -> None:
    (bundle.rootfs / "a").symlink_to("a")
    bundle.linux["maskedPaths"] = ["/a"]
    assert "Too many levels" in bundle.fails("id")
    bundle.linux["maskedPaths"] = []
    bundle.linux["readonlyPaths"] = ["/a"]
    assert "Too many levels" in bundle.fails("id")


def test_no_pivot_moves_the_root(bundle: Bundle) -> None:
    """On an initramfs, which cannot be pivoted away, the root is moved over it."""
    done = bundle.run("ls", "/", ",", "cwd", options=["--no-pivot"]).expect()
    assert done.lines()[-1] == "cwd /"
    assert set(done.lines()[:-1]) == {"dev", "probe", "proc", "sys"}


ALL_OPTIONS = """
async atime defaults dev diratime dirsync exec iversion lazytime loud mand
noatime nodev nodiratime noexec noiversion nolazytime nomand norelatime
nostrictatime nosuid nosymfollow relatime rw ro silent strictatime suid
symfollow sync rdev rdiratime rexec rnoatime rnodiratime rnoexec rnosuid
rnosymfollow rrelatime rro rrw rstrictatime rsuid rsymfollow
"""


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_all_options_of_the_specification_are_taken(bundle: Bundle, kind: str) -> None:
    """config.md, Linux mount options; the times of a mount of the host may be locked."""
    for option in ALL_OPTIONS.split():
        if kind == "tmpfs":
            bundle.mount(f"/t/{option}", "tmpfs", "tmpfs", option)
        else:
            bundle.bind(bundle.base, f"/t/{option}", option)
    bundle.run("exit", "0").expect()


@pytest.mark.needs("delegated cgroup")
def test_options_of_cgroup2_reach_the_kernel(bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "cgroup"})
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "nsdelegate", "no-such-option")
    assert "fsconfig(no-such-option=None): Invalid argument" in bundle.fails("id")
    bundle.spec["mounts"][-1]["options"] = ["nsdelegate"]
    assert "cgroup.procs" in bundle.run("ls", "/sys/fs/cgroup").expect().lines()
