"""Images that are files: flatten, run, SIF, a directory of them, no FUSE.

Security classes 46 and 47.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.manage.test_kill import clear_and_check
from tests.lib import flat as made
from tests.lib import images
from tests.lib.product import Product, probe_image, wait_for

pytestmark = pytest.mark.needs("mksquashfs", "user namespaces")
fuse = pytest.mark.needs("fuse", "squashfuse")
ROOT = pytest.param("0:0", id="root")
USERS = [ROOT, pytest.param("1000:1000", id="user")]


@pytest.fixture(scope="module")
def file(shared_product: Product) -> Iterator[Path]:
    """Make one flattened image for all tests."""
    path = shared_product.base / "probe.sqsh"
    shared_product("flatten", "-f", shared_product.image, str(path)).expect()
    yield path
    path.unlink()


def tree(directory: Path, files: dict[str, str]) -> Path:
    """Write busybox and some files in a directory."""
    subprocess.run(["tar", "-x", "-C", directory], input=images.busybox_layer(), check=True)
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return directory


def squashfuse_of(rless: Product) -> list[str]:
    return [what for what in rless.processes().values() if "squashfuse" in what]


# -- flatten -------------------------------------------------------------------------------------


def test_flatten_is_reproducible(own_rless: Product, tmp_path: Path) -> None:
    layers = [
        images.layer({"deep/er/file": "1", "gone": "x", "etc/motd": "a"}),
        images.layer(images.whiteout("gone")),
    ]
    name = own_rless.add_image(
        "two", images.Image([images.busybox_layer(), *layers], {"User": "user"})
    )
    files = []
    for number in range(2):
        (tmp_path / f"p{number}").mkdir()
        other = Product(tmp_path / f"p{number}")
        out = tmp_path / f"{number}.sqsh"
        other("flatten", name, str(out)).expect()
        other.remove()
        time.sleep(1.1 - number)  # the format counts seconds
        files.append(out.read_bytes())
    assert files[0] == files[1]


def test_flatten_writes_the_file_atomically(rless: Product, tmp_path: Path, file: Path) -> None:
    out = tmp_path / "x.sqsh"
    out.write_text("mine")
    error = rless("flatten", rless.image, str(out)).expect(1).one_line_error()
    assert "exists" in error
    assert out.read_text() == "mine"
    rless("flatten", "--force", rless.image, str(out)).expect()
    assert out.read_bytes() == file.read_bytes()
    assert out.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    assert os.listdir(tmp_path) == ["x.sqsh"]
    assert (
        "name" in rless("flatten", rless.image, str(tmp_path / "x.img")).expect(1).one_line_error()
    )
    error = rless("flatten", rless.image, "/proc/x.sqsh").expect(1).one_line_error()
    assert "/proc/x.sqsh: " in error
    error = rless("flatten", "oci:/nowhere", str(tmp_path / "y.sqsh")).expect(1).one_line_error()
    assert os.listdir(tmp_path) == ["x.sqsh"]


def current_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@fuse
def test_image_file_can_be_flattened_again(rless: Product, tmp_path: Path, file: Path) -> None:
    """What was flattened has its config in it, once, however often that is done."""
    text = rless.run("", "cat", "/.rless/config.json", image=str(file)).expect().out
    assert json.loads(text)["config"]["Cmd"] == ["/bin/sh"]


@fuse
@pytest.mark.needs("subordinate ids")
def test_owners_are_kept_on_request(rless: Product, tmp_path: Path) -> None:
    out = tmp_path / "x.sqsh"
    rless("flatten", "--keep-owners", rless.image, str(out)).expect()
    script = "stat -c %u /data/seed /opt/user; echo x >>/opt/user/f"
    assert rless.sh(script, "-u", "user", image=str(out)).lines() == ["1000", "1000"]


@pytest.mark.nosub
def test_keeping_owners_needs_subordinate_ids(rless: Product, tmp_path: Path) -> None:
    error = rless("flatten", "--keep-owners", rless.image, str(tmp_path / "x.sqsh"))
    assert "subordinate" in error.expect(1).one_line_error()


@fuse
@pytest.mark.needs("ch-run")
def test_other_programs_can_run_an_image_file(rless: Product, file: Path) -> None:
    done = subprocess.run(
        ["ch-run", str(file), "--", "/bin/sh", "-c", "echo there"],
        env={"PATH": "/usr/bin:/bin", "USER": "me", "HOME": "/"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "there\n", done.stderr


# -- run -----------------------------------------------------------------------------------------


@fuse
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("mode", ["auto", "single"])
def test_container_of_an_image_file_is_writable(
    rless: Product, file: Path, user: str, mode: str
) -> None:
    flags = ["-u", user, "--userns", mode]
    script = "id -u; cat /proc/self/uid_map | wc -l; cat /etc/passwd | head -n1"
    lines = rless.sh(script, *flags, image=str(file)).lines()
    assert lines[0] == user.partition(":")[0]
    assert lines[2].startswith("root:")
    if user == "0:0" or mode == "single":  # one id: every file is that user's
        script = "echo more >>/etc/passwd; rm -r /data; mkdir /data; ls -A /data; stat -c %u /data"
        assert rless.sh(script, *flags, image=str(file)).lines() == [user.partition(":")[0]]
    # The file is as it was.
    assert rless.sh("ls /data", *flags, image=str(file)).out == "seed\n"


@fuse
@pytest.mark.parametrize("mode", ["auto", "single"])
def test_mount_points_are_created_deep_inside(
    rless: Product, file: Path, tmp_path: Path, mode: str
) -> None:
    (tmp_path / "here").write_text("x")
    flags = ["-u", "1000", "--userns", mode, "-v", f"{tmp_path}:/usr/a/b/c", "-w", "/usr/a/b/c"]
    assert rless.sh("ls; touch new", *flags, image=str(file)).out == "here\n"
    assert (tmp_path / "new").stat().st_uid == os.getuid()


@fuse
def test_config_of_the_image_file_is_applied(rless: Product, tmp_path: Path) -> None:
    settings = {"Env": ["PATH=/bin", "A=1"], "WorkingDir": "/w", "User": "user"}
    image = rless.add_image("configured", probe_image(**settings, Entrypoint=["sh", "-c"]))
    out = tmp_path / "x.sqsh"
    rless("flatten", image, str(out)).expect()
    assert rless.run("", "id -un; pwd; echo $A", image=str(out)).expect().lines() == [
        "user",
        "/w",
        "1",
    ]


@fuse
def test_container_of_an_image_file_supports_all_verbs(
    rless: Product, file: Path, tmp_path: Path
) -> None:
    rless.detach("file", "", "sleep", "100", image=str(file))
    wait_for(lambda: len(squashfuse_of(rless)) == 1, "one server alone: who prefetches ends soon")
    rless("exec", "file", "sh", "-c", "echo new >/etc/new; rm /data/seed").expect()
    assert rless("diff", "file").expect().lines() == [
        "C /data",
        "D /data/seed",
        "C /etc",
        "A /etc/new",
    ]
    assert str(file) in rless("ps").expect().out
    rless("kill", "file").expect()
    rless("wait", "file").expect()
    assert rless("diff", "file").expect().lines() == [
        "C /data",
        "D /data/seed",
        "C /etc",
        "A /etc/new",
    ]
    rless("cp", "file:/etc/new", str(tmp_path)).expect()
    assert (tmp_path / "new").read_text() == "new\n"
    rless("start", "file").expect()
    assert rless("exec", "file", "cat", "/etc/new").expect().out == "new\n"
    error = rless("commit", "file").expect(1).one_line_error()
    assert "file" in error
    rless("rm", "-f", "file").expect()


@fuse
def test_file_server_ends_with_its_container(rless: Product, file: Path) -> None:
    for victim in ("monitor", "init"):
        rless.detach("file", "--rm", "sleep", "100", image=str(file))
        (name,) = [name for name in os.listdir(rless.live) if name != "booted"]
        entry = json.loads((rless.live / name).read_text())
        os.kill(entry[victim][0], 9)
        clear_and_check(rless)
    starting = rless.start("run", "--rm", "--network=none", str(file), "sleep", "100")
    deadline = time.monotonic() + 30
    while not squashfuse_of(rless):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    starting.kill()
    starting.wait()
    clear_and_check(rless)


@fuse
def test_file_server_runs_at_every_start(own_rless: Product, file: Path) -> None:
    """Also where ids are not mapped yet when it begins: nobody's programs look like ours then."""
    for _ in range(10):
        done = own_rless("run", "--hpc", "--home=false", str(file), "true").expect()
        assert done.err == ""
        own_rless("run", "--rm", "--network=none", str(file), "true").expect()
    assert all(path.is_file() for path in (own_rless.storage / "flat").iterdir())


@fuse
def test_file_server_has_ended_when_the_command_returns(rless: Product, file: Path) -> None:
    for _ in range(20):
        rless("run", "--hpc", "--home=false", str(file), "true").expect()
        assert squashfuse_of(rless) == []


@fuse
def test_killed_command_leaves_no_file_server(rless: Product, file: Path) -> None:
    for milliseconds in range(0, 60, 3):
        starting = rless.start("run", "--hpc", "--home=false", str(file), "sleep", "100")
        time.sleep(milliseconds / 1000)
        starting.kill()
        starting.wait()
        # Who makes the container is ended by the kernel, a moment later.
        wait_for(lambda: not rless.processes(), "the processes to end")
        wait_for(lambda: not rless("ps", "-qa").out, "the next command to clear up")
        rless.assert_clean()


@fuse
def test_early_failure_leaves_no_file_server(rless: Product, file: Path) -> None:
    rless.detach("taken", "--rm", "sleep", "100", image=str(file))
    failed = rless("run", "--name", "taken", "--network=none", str(file), "true").expect(125)
    assert "already in use" in failed.err
    wait_for(lambda: len(squashfuse_of(rless)) == 1, "one server alone: who prefetches ends soon")
    rless("rm", "-f", "taken").expect()
    rless.assert_clean()


@fuse
def test_program_is_prefetched_before_its_start(rless: Product, file: Path) -> None:
    """Whatever the program is: by its name, a path, a link, missing, or no program at all."""
    for words, code in (
        (["true"], 0),
        (["/bin/true"], 0),
        (["bin/true"], 0),
        (["nothing-such"], 127),
        (["/etc"], 126),
    ):
        rless("run", "--hpc", "--home=false", "--cwd=false", str(file), *words).expect(code)


@fuse
def test_file_server_has_no_privileges(rless: Product, file: Path) -> None:
    """It reads what a stranger has made: no capability, no other process, no other descriptor."""
    rless.detach("file", "--rm", "sleep", "100", image=str(file))
    (pid,) = [pid for pid, what in rless.processes().items() if "squashfuse" in what]
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    allowed = (str(file), "/dev/fuse", "/dev/null", "squashfuse.log")
    assert all(any(name in path for name in allowed) for path in opened), opened
    rless("rm", "-f", "file").expect()


@fuse
def test_replaced_image_file_is_not_used(rless: Product, file: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.sqsh"
    shutil.copy(file, mine)
    rless.detach("file", "", "sleep", "100", image=str(mine))
    rless("kill", "file").expect()
    rless("wait", "file").expect()
    shutil.copy(file, tmp_path / "other")
    os.rename(tmp_path / "other", mine)
    assert "a different file" in rless("start", "file").expect(1).one_line_error()
    mine.unlink()
    assert "No such file" in rless("start", "file").expect(1).one_line_error()
    rless("rm", "file").expect()


def test_file_that_is_no_image_is_refused(rless: Product, file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.sqsh"
    whole = file.read_bytes()
    for data in (b"", b"x" * 9000, whole[:40], whole[:20_000], whole[:96] + bytes(len(whole))):
        broken.write_bytes(data)
        rless.run("", "true", image=str(broken)).expect(125).one_line_error()
    (tmp_path / "broken.sif").write_bytes(made.sif())
    rless.run("", "true", image=str(tmp_path / "broken.sif")).expect(125).one_line_error()
    for name in (str(tmp_path), "./nowhere", "nowhere.sif", "/dev/null", "/etc/shadow"):
        rless.run("", "true", image=name).expect(125).one_line_error()
    fifo = tmp_path / "fifo.sqsh"
    os.mkfifo(fifo)
    assert "regular" in rless.run("", "true", image=str(fifo)).expect(125).one_line_error()


@fuse
def test_damaged_content_does_not_affect_other_containers(
    rless: Product, file: Path, tmp_path: Path
) -> None:
    """The tables are right, so it starts; the data is not."""
    data = bytearray(file.read_bytes())
    data[200 : len(data) // 2] = bytes(len(data) // 2 - 200)
    broken = tmp_path / "broken.sqsh"
    broken.write_bytes(data)
    done = rless.run("", "/bin/busybox", "true", image=str(broken))
    assert done.code in (126, 127)
    assert "cannot execute" in done.one_line_error()


# -- SIF -----------------------------------------------------------------------------------------


@fuse
def test_sif_file_runs(rless: Product, tmp_path: Path) -> None:
    files = {
        ".singularity.d/runscript": '#!/bin/sh\necho "run: $A $B" "$@"\n',
        ".singularity.d/env/10-docker2singularity.sh": 'export A="${A:-"from the image"}"\n',
        ".singularity.d/env/90-environment.sh": "export B=two\n",
    }
    (tmp_path / "root").mkdir()
    root = tree(tmp_path / "root", files)
    image = made.write_sif(made.mksquashfs(root, tmp_path / "s"), tmp_path / "x.sif")
    run = rless.run("", image=str(image)).expect()
    assert run.out == "run: from the image two\n"
    assert rless.run("-e A=mine", image=str(image)).expect().out == "run: mine two\n"
    assert rless.run("", "sh", "-c", "echo $B $APPTAINER_NAME", image=str(image)).expect().out == (
        "two x.sif\n"
    )
    foreign = made.write_sif(tmp_path / "s", tmp_path / "f.sif", architecture=b"11")
    error = rless.run("", "true", image=str(foreign)).expect(125).one_line_error()
    assert "s390x" in error
    assert rless.run("--platform linux/s390x", "sh", "-c", "true", image=str(foreign)).code == 0


# -- a directory of files --------------------------------------------------------------------------


@fuse
def test_directory_of_image_files_is_a_store(rless: Product, file: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    (shelf / "lab").mkdir(parents=True)
    for name in ("tool.sqsh", "ubuntu_24.04.sqsh", "lab/own.sqsh", "team+x+1.sqsh"):
        os.link(file, shelf / name)
    before = sorted(path.stat().st_mtime_ns for path in shelf.rglob("*"))
    shelf.chmod(0o555)
    env: dict[str, str | None] = {"RLESS_IMAGE_PATH": str(shelf)}
    for name in ("tool", "tool:latest", "ubuntu:24.04", "lab/own", "team/x:1"):
        assert (
            rless.run("--pull=never", "echo", name, image=name, env=env).expect().out == f"{name}\n"
        )
    error = rless.run("--pull=never", "true", image="ubuntu:22.04", env=env)
    assert "not in the local store" in error.expect(125).one_line_error()
    assert before == sorted(path.stat().st_mtime_ns for path in shelf.rglob("*"))
    shelf.chmod(0o777)
    error = rless.run("--pull=never", "true", image="tool", env=env)
    assert "can be written by others" in error.expect(125).one_line_error()


@pytest.mark.needs("user namespaces", "subordinate ids")
@pytest.mark.parametrize("foreign", ["lab", "lab/tool.sqsh", "link.sqsh"])
def test_what_belongs_to_others_is_not_used(rless: Product, tmp_path: Path, foreign: str) -> None:
    """Class 47: whoever owns the file, a directory or a link on the way could replace it."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/tool.sqsh").write_bytes(b"")
    (tmp_path / "link.sqsh").symlink_to("lab/tool.sqsh")
    for path in (tmp_path, tmp_path / "lab", tmp_path / "lab/tool.sqsh"):
        path.chmod(0o755)
    rless("unshare", "chown", "-h", "1:1", str(tmp_path / foreign)).expect()
    name = "link" if foreign.startswith("link") else "lab/tool"
    env: dict[str, str | None] = {"RLESS_IMAGE_PATH": str(tmp_path)}
    error = rless.run("--pull=never", "true", image=name, env=env).expect(125).one_line_error()
    owner = (tmp_path / foreign).lstat().st_uid
    assert f"{tmp_path}/{foreign} belongs to uid {owner}, neither to you nor to root" in error
    rless("unshare", "chown", "-h", "0:0", str(tmp_path / foreign)).expect()
    error = rless.run("--pull=never", "true", image=name, env=env).expect(125).one_line_error()
    assert "neither a squashfs image nor a SIF file" in error


# -- without FUSE ----------------------------------------------------------------------------------


def without_fuse(rless: Product, *words: str) -> list[str]:
    """Return the command line of rless in a mount namespace where /dev/fuse cannot be opened."""
    script = 'mount --bind /etc/hosts /dev/fuse; exec "$@"'
    return ["unshare", "-rm", "sh", "-c", script, "sh", *rless.argv(*words)]


@pytest.mark.needs("unsquashfs")
def test_image_file_is_unpacked_once_without_fuse(own_rless: Product, tmp_path: Path) -> None:
    rless = own_rless
    file = tmp_path / "x.sqsh"
    rless("flatten", rless.image, str(file)).expect()
    words = ("run", "--rm", "--network=none", "--userns=single", str(file), "cat", "/data/seed")
    first = subprocess.run(
        without_fuse(rless, *words), env=rless.environment(), capture_output=True, text=True
    )
    assert first.stdout == "seed\n", first.stderr
    assert "unpacked" in first.stderr
    second = subprocess.run(
        without_fuse(rless, *words), env=rless.environment(), capture_output=True, text=True
    )
    assert (second.stdout, second.stderr) == ("seed\n", "")
    env = rless.environment()
    shutil.rmtree(rless.storage / "flat")
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen(without_fuse(rless, *words), env=env, stdout=pipe, stderr=pipe, text=True)
        for _ in range(5)
    ]
    said = [process.communicate() for process in running]
    assert [out for out, _ in said] == ["seed\n"] * 5, said
    # One whose making was killed is cleared by the next.
    left = rless.storage / "flat" / ".single-left"
    left.mkdir()
    for path in (rless.storage / "flat").iterdir():
        if path.is_dir() and path != left:
            shutil.rmtree(path)
    again = subprocess.run(without_fuse(rless, *words), env=env, capture_output=True, text=True)
    assert again.stdout == "seed\n"
    assert not left.exists()
    sizes = [path for path in (rless.storage / "flat").iterdir() if path.is_dir()]
    assert len(sizes) == 1
    rless("system", "prune", "-a", "-f").expect()
    assert not (rless.storage / "flat").exists() or not list((rless.storage / "flat").iterdir())
