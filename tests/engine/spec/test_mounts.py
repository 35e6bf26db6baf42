"""The mounts in the new root, and their flags."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.lib import images
from tests.lib.images import Dir, File, layer
from tests.lib.product import Product, probe_image

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def options(mount: str, path: str) -> set[str]:
    """Return the options of a mount point in the text of mountinfo."""
    for line in mount.splitlines():
        fields = line.split()
        if fields[4] == path:
            return set(fields[5].split(","))
    raise AssertionError(f"{path} is not mounted:\n{mount}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "file").write_text("host\n")
    return directory


@pytest.mark.parametrize("image", ["", "host:"])
def test_mountinfo_tells_nothing_of_the_home(rless: Product, image: str) -> None:
    """Class 34: neither by the options of overlayfs nor by the roots of the files in /etc."""
    flags = ("--init", "--hostname", "box", "--add-host", "one:10.1.2.3")
    script = "cat /proc/self/mountinfo /proc/mounts; grep one /etc/hosts"
    text = rless.sh(script, *flags, image=image or rless.image).out
    assert text.endswith("10.1.2.3\tone\n")
    assert " /etc/hosts " in text
    for private in (rless.base, rless.storage, rless.home, Path.home()):
        assert str(private) not in text


def test_files_in_etc_are_made_anew_by_each_start(rless: Product) -> None:
    script = "grep -c written /etc/hosts; echo written >>/etc/hosts; stat -c %a /etc/hosts"
    flags = ("--name", "twice", "--network", "none")
    rless("create", *flags, rless.image, "sh", "-c", script).expect()
    for _ in range(2):
        assert rless("start", "-a", "twice").expect().lines() == ["0", "644"]
    rless("rm", "twice").expect()


# -- -v ------------------------------------------------------------------------------------------


def test_bind_is_written_as_the_caller(rless: Product, data: Path) -> None:
    rless.sh("cat /mnt/x/file; echo new >/mnt/x/new; mkdir /mnt/x/d", "-v", f"{data}:/mnt/x")
    assert (data / "new").read_text() == "new\n"
    assert {path.stat().st_uid for path in data.iterdir()} == {os.getuid()}
    assert {path.stat().st_gid for path in data.iterdir()} == {os.getgid()}


def test_read_only_bind_refuses_writes(rless: Product, data: Path) -> None:
    done = rless.sh("cat /x/file; touch /x/new || echo no", "-v", f"{data}:/x:ro")
    assert done.lines() == ["host", "no"]
    assert "Read-only file system" in done.err


def test_read_only_bind_covers_submounts(rless: Product, data: Path) -> None:
    """A mount below the source: /dev/shm of the host below /dev."""
    done = rless.sh("touch /x/shm/rless-test || echo no", "-v", "/dev:/x:ro")
    assert done.lines() == ["no"]


def test_changes_to_an_overlay_are_the_containers_own(rless: Product, data: Path) -> None:
    """`O`: they are seen by it only, and gone at its next start; so for named volumes."""
    script = "cat /x/file; echo changed >/x/file; touch /x/new /v/new; ls /v; cat /x/file; ls /x"
    words = ("run", "--name", "over", "--network", "none", "-v", f"{data}:/x:O", "-v", "vol:/v:O",
             rless.image, "sh", "-c", script)  # fmt: skip
    for command in (words, ("start", "-a", "over")):
        assert rless(*command).expect().lines() == ["host", "new", "changed", "file", "new"]
        assert (data / "file").read_text() == "host\n"
        assert [path.name for path in data.iterdir()] == ["file"]
    assert rless.sh("ls /v", "-v", "vol:/v:nocopy").out == ""
    done = rless.sh("cat /x/file; touch /x/other; ls /x", "--volumes-from", "over")
    assert done.lines() == ["host", "file", "other"]
    (data / "one").write_text("")
    rless("cp", str(data / "one"), "over:/x/two").expect(1)  # it has ended, and its overlay too
    assert sorted(path.name for path in data.iterdir()) == ["file", "one"]
    rless("rm", "over").expect()
    rless("volume", "rm", "vol").expect()


def test_overlay_is_removed_with_its_container(rless: Product, data: Path) -> None:
    """Whoever removes it: the monitor of --rm, a start that fails, `rm -f` of one that runs."""
    flags = ("-v", f"{data}:/x:O")
    rless.sh("mkdir /x/d; touch /x/d/f; chmod 000 /x/d", *flags)
    rless.run(flags, "/missing").expect(127)
    rless("run", "-d", "--name", "over", "--network", "none", *flags, rless.image, "sleep",
          "600").expect()  # fmt: skip
    rless("rm", "-f", "over").expect()
    assert rless.containers() == []
    assert "not a directory" in rless.run(["-v", f"{data}/file:/x:O"], "true").expect(125).err


def test_single_file_is_mounted(rless: Product, data: Path) -> None:
    rless.sh("echo more >>/etc/one/file", "-v", f"{data}/file:/etc/one/file")
    assert (data / "file").read_text() == "host\nmore\n"


def test_nested_binds_are_independent_of_order(rless: Product, data: Path, tmp_path: Path) -> None:
    (data / "in").mkdir()
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "who").write_text("inner\n")
    for order in ((inner, "/x/in", data, "/x"), (data, "/x", inner, "/x/in")):
        flags = ["-v", f"{order[0]}:{order[1]}", "-v", f"{order[2]}:{order[3]}"]
        assert rless.sh("cat /x/file /x/in/who", *flags).lines() == ["host", "inner"]


def test_missing_source_is_created_by_v_and_refused_by_mount(
    rless: Product, tmp_path: Path
) -> None:
    source = tmp_path / "a" / "b"
    rless.sh("echo x >/x/file", "-v", f"{source}:/x")
    assert (source / "file").exists()
    other = tmp_path / "none"
    bind = f"type=bind,src={other},dst=/x"
    error = rless.run(["--mount", bind], "true").expect(125).one_line_error()
    assert str(other) in error
    assert not other.exists()
    rless.sh("echo x >/x/file", "--mount", f"{bind},bind-create-src=true")
    assert (other / "file").exists()


def test_refused_directory_onto_a_file_leaves_nothing(rless: Product, tmp_path: Path) -> None:
    """What was meant as a file would be a directory at each later try."""
    flags = ["--network", "none", "-v", "/srv/anonymous", "-v", f"{tmp_path}/a/b.conf:/etc/passwd"]
    why = f"cannot mount /etc/passwd: {tmp_path}/a/b.conf is a directory, and the target is a file"
    for _ in range(2):
        assert why in rless.run(flags, "true").expect(125).one_line_error()
        assert list(tmp_path.iterdir()) == []
    rless("create", "--name", "one", *flags, rless.image, "true").expect()
    assert why in rless("start", "one").expect(1).one_line_error()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.conf").write_text("root:x:0:0::/:/bin/sh\n")
    rless("start", "-a", "one").expect()
    rless("rm", "-v", "one").expect()
    assert rless("volume", "ls", "-q").expect().out == ""


def test_directory_onto_a_file_of_another_mount_leaves_nothing(
    rless: Product, data: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "new" / "missing"
    for above, target in ((f"{data}:/srv/a", "/srv/a/file"), ("/data", "/data/seed")):
        error = rless.run(["-v", above, "-v", f"{missing}:{target}"], "true").expect(125)
        assert f"cannot mount {target}: {missing} is a directory" in error.one_line_error()
        assert not missing.parent.exists()
    rless.run(["-v", f"{data}:/srv/a", "-v", f"{missing}:/srv/a/new"], "true").expect()
    assert missing.is_dir()


def test_refused_start_removes_the_sources_that_it_made(rless: Product, tmp_path: Path) -> None:
    (tmp_path / "a" / "kept").mkdir(parents=True)
    flags = ["-v", f"{tmp_path}/a/b/c:/srv/1", "-v", f"{tmp_path}/a/b/d:/srv/2"]
    rless.run([*flags, "--security-opt", "seccomp=/none"], "true").expect(125)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_file_onto_a_directory_is_explained(rless: Product, data: Path) -> None:
    error = rless.run(["-v", f"{data}/file:/srv"], "true").expect(125).one_line_error()
    assert f"cannot mount /srv: {data}/file is a file, and the target is a directory" in error
    error = rless.run(["-v", f"{data}:/etc/passwd"], "true").expect(125).one_line_error()
    assert f"cannot mount /etc/passwd: {data} is a directory, and the target is a file" in error


def test_target_is_created_in_the_root(rless: Product, data: Path) -> None:
    assert rless.sh("ls -d /no/such/dir", "-v", f"{data}:/no/such/dir").out == "/no/such/dir\n"


def test_bind_flags_are_applied(rless: Product, data: Path) -> None:
    program = data / "program"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    assert rless.sh("/x/program", "-v", f"{data}:/x").out == "ran\n"
    assert rless.run(["-v", f"{data}:/x:noexec"], "/x/program").code == 126
    mount = rless.sh("cat /proc/self/mountinfo", "-v", f"{data}:/x:nosuid,noexec").out
    assert options(mount, "/x") >= {"rw", "nosuid", "noexec", "nodev"}


# -- --mount -------------------------------------------------------------------------------------


def test_mount_flag_binds_directories(rless: Product, data: Path) -> None:
    spec = f"type=bind,source={data},target=/x,readonly"
    assert rless.sh("touch /x/y || echo no", "--mount", spec).out == "no\n"
    rless.sh("touch /x/y", "--mount", f"type=bind,src={data},dst=/x")
    assert (data / "y").exists()
    # The kernel lets nobody but root leave out the mounts below a source: that could uncover.
    spec = f"type=bind,src={data},dst=/x,bind-recursive=disabled"
    assert rless.sh("cat /x/file", "--mount", spec).out == "host\n"
    spec = "type=bind,src=/dev,dst=/x,bind-recursive=disabled"
    error = rless.run(["--mount", spec], "true").expect(125).one_line_error()
    assert "mounts below" in error


@pytest.mark.parametrize("mode", ["rprivate", "private", "rslave", "slave", "rshared", "shared"])
def test_mount_flag_sets_propagation(rless: Product, data: Path, mode: str) -> None:
    spec = f"type=bind,src={data},dst=/x,bind-propagation={mode}"
    mount = rless.sh("grep ' /x ' /proc/self/mountinfo", "--mount", spec).out
    assert ("shared:" in mount) == mode.endswith("shared")
    assert ("master:" in mount) == mode.endswith("slave") or "shared:" not in host_mount(data)


def host_mount(path: Path) -> str:
    """Return the line of the host's mount that `path` lies on."""
    best = ""
    with open("/proc/self/mountinfo") as stream:
        for line in stream:
            point = line.split()[4]
            if str(path).startswith(point) and len(point) >= len((best.split() + [""] * 5)[4]):
                best = line
    return best


def test_mount_flag_mounts_a_tmpfs(rless: Product) -> None:
    spec = "type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=700"
    done = rless.sh("df -k /x | tail -1; stat -c %a /x; cat /proc/self/mountinfo", "--mount", spec)
    assert done.lines()[0].split()[1] == "1024"
    assert done.lines()[1] == "700"
    assert options("\n".join(done.lines()[2:]), "/x") >= {"nosuid", "nodev", "noexec"}


def test_tmpfs_flag_mounts_a_tmpfs(rless: Product) -> None:
    script = "stat -c '%a %u' /x; df -k /x | tail -1; echo '#!/bin/sh' >/x/y; chmod +x /x/y; /x/y"
    done = rless.run(["--tmpfs", "/x"], "sh", "-c", script).expect(126)
    assert done.lines()[0] == "1777 0"
    flags = ["--tmpfs", "/x:exec,size=2m,mode=755,uid=1000"]
    done = rless.run(flags, "sh", "-c", script).expect()
    assert done.lines()[0] == "755 1000"
    assert done.lines()[1].split()[1] == "2048"
    assert rless.sh("touch /x/y || echo no", "--tmpfs", "/x:ro").out == "no\n"


def test_mount_flag_mounts_a_volume(rless: Product) -> None:
    rless.sh("echo kept >/x/file", "--mount", "type=volume,src=e2e-mount,dst=/x")
    spec = "type=volume,src=e2e-mount,dst=/x,readonly"
    assert rless.sh("cat /x/file; touch /x/y || echo no", "--mount", spec).out == "kept\nno\n"


# -- volumes -------------------------------------------------------------------------------------


def test_named_volume_persists_and_is_filled_once(rless: Product) -> None:
    done = rless.sh("cat /data/seed; stat -c '%a %u' /data/seed; echo >/data/x", "-v", "v1:/data")
    assert done.lines() == ["seed", "640 1000"]
    assert rless.sh("rm /data/seed; ls /data", "-v", "v1:/data").out == "x\n"
    assert rless.sh("ls /data", "-v", "v1:/data").out == "x\n"
    assert rless.sh("ls /data", "-v", "v2:/data:nocopy").out == ""


def test_image_volumes_are_anonymous_and_go_with_rm(rless: Product) -> None:
    image = rless.add_image("volume", probe_image(Volumes={"/data": {}, "/new": {}}))
    script = "cat /data/seed; touch /data/x /new/x; grep -c ' /data \\| /new ' /proc/self/mountinfo"
    assert rless.sh(script, image=image).lines() == ["seed", "2"]
    assert rless.sh("ls /new; ls /data", image=image).out == "seed\n"
    # Not removed, the container keeps them.
    rless("run", "--name", "keeper", "--network", "none", image, "touch", "/new/kept").expect()
    assert list((rless.storage / "volumes").rglob("kept"))
    rless("rm", "-v", "keeper").expect()
    assert not list((rless.storage / "volumes").rglob("kept"))
    # One of the user's in its place:
    flags = ["-v", "/data", "--tmpfs", "/new"]
    assert rless.sh("ls /data; grep -c ' /new .* tmpfs' /proc/self/mountinfo", *flags,
                    image=image).lines() == ["seed", "1"]  # fmt: skip


def test_anonymous_volume_is_created(rless: Product) -> None:
    script = "ls /data; grep -c ' /data ' /proc/self/mountinfo"
    assert rless.sh(script, "-v", "/data").lines() == ["seed", "1"]


def test_volume_is_writable_below_a_read_only_root(rless: Product) -> None:
    image = rless.add_image("volume", probe_image(Volumes={"/data": {}, "/new": {}}))
    script = "touch /data/x /new/x && touch /x || echo no"
    assert rless.sh(script, "--read-only", image=image).lines() == ["no"]


# -- the root, /dev, /proc, /sys -----------------------------------------------------------------


def test_read_only_root_refuses_writes(rless: Product) -> None:
    script = "for f in /x /etc/x /srv/x; do touch $f || echo no; done; touch /dev/shm/x /tmp/x"
    done = rless.sh(script, "--read-only", "--tmpfs", "/tmp")
    assert done.lines() == ["no"] * 3
    done = rless.sh("echo >>/etc/hosts || echo no", "--read-only")
    assert done.lines() == ["no"]


def test_dev_has_the_standard_devices(rless: Product) -> None:
    script = """
        for n in null zero full random urandom tty; do stat -c '%n %F %t:%T' /dev/$n; done
        for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done
        echo x >/dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c
        ls -d /dev/pts /dev/shm /dev/mqueue
        ls /dev
    """
    done = rless.sh(script).lines()
    numbers = [line.split()[-1] for line in done[:6]]
    assert numbers == ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0"]
    assert done[6:11] == [
        "/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx",
    ]  # fmt: skip
    assert done[11:16] == ["4", "4", "/dev/mqueue", "/dev/pts", "/dev/shm"]
    allowed = set(
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split()
    )
    assert set(done[16:]) <= allowed


@pytest.mark.needs("fuse")
def test_device_flag_adds_a_device(rless: Product) -> None:
    done = rless.sh("stat -c '%F %t:%T' /dev/fuse; exec 3<>/dev/fuse", "--device", "/dev/fuse")
    assert done.lines() == ["character special file a:e5"]
    done = rless.sh("stat -c %t:%T /dev/other", "--device", "/dev/fuse:/dev/other:rw")
    assert done.lines() == ["a:e5"]
    error = rless.run("--device /dev/null:/dev/other:r", "true").expect(125).one_line_error()
    assert "--device with the mode r" in error
    assert rless.run("", "ls", "/dev/fuse").code == 1
    error = rless.run("--device /dev/none", "true").expect(125).one_line_error()
    assert "/dev/none" in error
    error = rless.run("--device /etc/passwd", "true").expect(125).one_line_error()
    assert "not a device" in error


def test_paths_masked_by_docker_are_masked(rless: Product) -> None:
    masked = (
        "asound acpi interrupts kcore keys latency_stats timer_list timer_stats sched_debug scsi"
    )
    for name in masked.split():
        path = f"/proc/{name}"
        if not os.path.exists(path):
            continue
        script = f"[ -d {path} ] && ls {path} | wc -l || wc -c <{path}"
        assert rless.sh(script).lines() == ["0"], name
    assert rless.sh("ls -A /sys/firmware | wc -l").lines() == ["0"]


def test_paths_read_only_in_docker_are_read_only(rless: Product) -> None:
    mount = rless.sh("cat /proc/self/mountinfo").out
    for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"):
        if os.path.exists(f"/proc/{name}"):
            assert "ro" in options(mount, f"/proc/{name}"), name
    assert options(mount, "/proc") >= {"nosuid", "nodev", "noexec"}
    assert options(mount, "/sys") >= {"ro", "nosuid", "nodev", "noexec"}
    assert "ro" in options(mount, "/sys/fs/cgroup")
    script = "echo 1 >/proc/sys/kernel/panic || echo no; mount -o remount,rw /proc/sys || echo no"
    assert rless.sh(script).lines() == ["no", "no"]


def test_unmask_shows_paths(rless: Product) -> None:
    script = "cat /proc/self/mountinfo"
    mount = rless.sh(script, "--security-opt", "unmask=/proc/irq:/proc/keys").out
    assert " /proc/irq " not in mount
    assert " /proc/sys " in mount
    assert " /proc/sys " not in rless.sh(script, "--security-opt", "systempaths=unconfined").out
    assert " /proc/sys " not in rless.sh(script, "--privileged").out


def test_old_root_is_unmounted(rless: Product, tmp_path: Path) -> None:
    mount = rless.sh("cat /proc/self/mountinfo; ls -A /").out
    assert str(rless.base) not in "".join(
        line for line in mount.splitlines(keepends=True) if " overlay " not in line
        and "/containers/" not in line
    )  # fmt: skip
    roots = [
        line for line in mount.splitlines() if len(line.split()) > 5 and line.split()[4] == "/"
    ]
    assert len(roots) == 1


def test_mounts_do_not_propagate_out(rless: Product) -> None:
    with open("/proc/self/mountinfo") as stream:
        before = stream.read()
    rless.sh(
        "mount -t tmpfs x /mnt/y 2>/dev/null; mkdir /z; mount -t tmpfs x /z && ls / >/dev/null",
        "--cap-add=SYS_ADMIN",
        "--security-opt",
        "seccomp=unconfined",
    )
    with open("/proc/self/mountinfo") as stream:
        assert stream.read() == before


def test_workdir_is_created(rless: Product) -> None:
    assert rless.sh("pwd; stat -c '%u %a' .", "-w", "/no/such/place").lines() == [
        "/no/such/place", "0 755",
    ]  # fmt: skip
    image = rless.add_image("workdir", probe_image(WorkingDir="/opt/new", User="1000"))
    assert rless.sh("pwd", image=image).out == "/opt/new\n"
    assert rless.sh("pwd", "-w", "/srv", image=image).out == "/srv\n"


def test_umask_of_the_caller_is_not_inherited(rless: Product) -> None:
    before = os.umask(0o077)
    try:
        done = rless.sh(
            "pwd; stat -c %a /a /new /vol /named", "-w", "/a/b", "-v", "/vol",
            "-v", "umask:/named", "--tmpfs", "/new/tmp", "--user", "1000",
        )  # fmt: skip
    finally:
        os.umask(before)
    assert done.out.splitlines()[0] == "/a/b"
    assert done.out.splitlines()[1:] == ["755"] * 4


def test_umask_and_modes_of_the_root_are_standard(rless: Product) -> None:
    image = rless.add_image(
        "modes", images.Image([images.busybox_layer(), layer({"m": Dir(mode=0o2775, gid=5),
                                                              "t": File("", mode=0o4711)})],
                              {"Env": ["PATH=/bin"]})
    )  # fmt: skip
    done = rless.sh("umask; stat -c '%a %g' /m; stat -c %a /t /tmp", image=image)
    assert done.lines() == ["0022", "2775 5", "4711", "1777"]
    root = rless.sh("stat -c '%a %u %g' /", image=image).out
    assert root == "755 0 0\n"


def test_storage_is_private(rless: Product) -> None:
    assert stat.S_IMODE(os.stat(rless.storage).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(rless.live).st_mode) == 0o700
