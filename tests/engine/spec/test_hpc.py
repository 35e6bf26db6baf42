"""--hpc and its parts, --fakeroot, --keep-groups and modules."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib import flat as made
from tests.lib.product import Product, probe_image

pytestmark = pytest.mark.needs("user namespaces")
ROOT = Path(__file__).resolve().parents[3]
fuse = pytest.mark.needs("fuse", "squashfuse", "mksquashfs")


@pytest.fixture(scope="module")
def file(shared_product: Product) -> Iterator[Path]:
    """Make one flattened image for all tests."""
    path = shared_product.base / "hpc.sqsh"
    shared_product("flatten", "-f", shared_product.image, str(path)).expect()
    yield path
    path.unlink()


@fuse
def test_hpc_shows_home_directory_and_environment(
    rless: Product, file: Path, tmp_path: Path
) -> None:
    (rless.home / "mine").write_text("")
    script = (
        "id -u; id -un; pwd; echo $HOME $MINE $PATH; ls ~; hostname; readlink /proc/self/ns/net;"
        " readlink /proc/self/ns/ipc; touch new; cat"
    )
    work = tmp_path / "work"
    work.mkdir()
    done = rless(
        "run", "--hpc", str(file), "--", "sh", "-c", script,
        stdin=b"from here", cwd=str(work), env={"MINE": "1"},
    ).expect()  # fmt: skip
    assert done.lines() == [
        str(os.getuid()),
        subprocess.check_output(["id", "-un"], text=True).strip(),
        str(work),
        f"{rless.home} 1 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "mine",
        os.uname().nodename,
        os.readlink("/proc/self/ns/net"),
        os.readlink("/proc/self/ns/ipc"),
        "from here",
    ]
    assert (work / "new").stat().st_uid == os.getuid()
    assert rless.containers() == []  # it goes by itself


@fuse
def test_each_part_of_hpc_can_be_disabled(rless: Product, file: Path, tmp_path: Path) -> None:
    """What a flag says comes before the profile."""
    flags = [
        "--hpc", "--home=false", "--cwd=false", "--host-tmp=false", "--env-host=false",
        "--network=none", "--uts=private", "--pid=private", "--ipc=private",
    ]  # fmt: skip
    script = "pwd; ls -A /tmp; echo $MINE $SLURM_JOB_ID; hostname; echo $$; ls -A /home"
    done = rless(
        "run", *flags, str(file), "sh", "-c", script, cwd=str(tmp_path),
        env={"MINE": "1", "SLURM_JOB_ID": "7"},
    ).expect()  # fmt: skip
    lines = done.lines()
    assert lines[:2] == ["/", "7"]  # what a launcher says is passed on still
    assert lines[2] != os.uname().nodename
    assert lines[3:] == ["1", "user"]


def test_each_part_of_hpc_works_alone(rless: Product, tmp_path: Path) -> None:
    (rless.home / "mine").write_text("")
    assert "mine" in rless.sh("ls ~", "--home").out
    done = rless.run("--cwd", "pwd", cwd=str(tmp_path)).expect()
    assert done.out == f"{tmp_path}\n"
    done = rless.run("--cwd -w /srv", "sh", "-c", f"pwd; ls -d {tmp_path}", cwd=str(tmp_path))
    assert done.expect().lines() == ["/srv", str(tmp_path)]
    with tempfile.NamedTemporaryFile(dir="/tmp") as seen:  # of the host
        rless.run("--host-tmp", "ls", seen.name).expect()
    assert rless.run("--env-host", "env", env={"MINE": "1"}).expect().lines().count("MINE=1") == 1
    rless.run("--fabric", "true").expect()
    error = rless.run("--home", "true", env={"HOME": "/nowhere"}).expect(125).one_line_error()
    assert "/nowhere" in error


def test_variables_are_selected_by_pattern(rless: Product, tmp_path: Path) -> None:
    env = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURMX": "3", "OTHER": "4", "PMI_FD": "5"}
    lines = rless.run(["-e", "SLURM_*", "-e", "?MI_FD"], "env", env=env).expect().lines()
    assert {"SLURM_JOB_ID=7", "SLURM_NTASKS=2", "PMI_FD=5"} <= set(lines)
    assert not any(line.startswith(("SLURMX", "OTHER")) for line in lines)
    image = rless.add_image("env", probe_image(Env=["PATH=/bin", "A_1=x", "A_2=y", "B=z"]))
    flags = ["--unset-env", "A_*", "-e", "A_2=mine"]
    lines = rless.run(flags, "env", image=image).expect().lines()
    assert "A_2=mine" in lines
    assert "B=z" in lines
    assert "A_1=x" not in lines
    # What the image says is stronger than what comes from the host, what is typed than both.
    flags = ["--env-host", "-e", "A_2=typed"]
    lines = rless.run(flags, "env", image=image, env={"A_1": "host", "A_2": "h"}).expect().lines()
    assert {"A_1=x", "A_2=typed", "PATH=/bin"} <= set(lines)


def test_nul_separated_variables_are_read(rless: Product, tmp_path: Path) -> None:
    """As Slurm writes it: a shell's exported function has lines."""
    file = tmp_path / "env"
    file.write_bytes(b"A=1\0F%%=() {  echo a b\n}\0B=\0")
    lines = rless.run(["--env-file", str(file)], "env").expect().out
    assert "A=1\n" in lines
    assert "F%%=() {  echo a b\n}\n" in lines
    file.write_bytes(b"A=1\0B\0")
    error = rless.run(["--env-file", str(file)], "env").expect(125).one_line_error()
    assert "record 2" in error


# -- fakeroot ----------------------------------------------------------------------------------


def test_fakeroot_pretends_to_change_owners(rless: Product) -> None:
    script = (
        "cd /srv; touch a; chown 5:6 a; chgrp 7 a; stat -c %u:%g a; mknod p p; test -p p;"
        " mknod d c 1 3; ls; cat $APT_CONFIG; su user -c 'id -u'"
    )
    lines = rless.sh(script, "--userns=single", "--fakeroot").lines()
    assert lines == ["0:0", "a", "p", 'APT::Sandbox::User "root";', "0"]
    # For root of a single id it is so by itself; nobody else is lied to.
    script = "touch /tmp/a; chown 5 /tmp/a && echo yes || echo no"
    assert rless.sh(script, "--userns=single").out == "yes\n"
    assert rless.sh(script, "--userns=single", "--fakeroot=false").out == "no\n"
    assert rless.sh(script, "--userns=single", "-u", "user").out == "no\n"
    assert rless.sh(script, "--userns=single", "--privileged").out == "yes\n"
    rless.detach("fake", "--rm --userns=single", "sleep", "100")
    assert rless("exec", "fake", "sh", "-c", script).expect().out == "yes\n"
    rless("rm", "-f", "fake").expect()


@pytest.mark.needs("subordinate ids")
def test_fakeroot_is_not_used_with_many_ids(rless: Product) -> None:
    script = "touch /srv/a; chown 5:6 /srv/a; stat -c %u:%g /srv/a; echo -$APT_CONFIG-"
    assert rless.sh(script).lines() == ["5:6", "--"]
    assert rless.sh(script, "--fakeroot").lines() == ["0:0", "-/dev/.rless-apt.conf-"]


def test_groups_are_kept_on_request(rless: Product) -> None:
    """Those without a mapping show as the overflow group, as often as there are such."""
    mine = [group for group in os.getgroups() if group != os.getgid()]
    for flags in (["--keep-groups"], ["--group-add", "keep-groups"]):
        shown = rless.sh("id -G", *flags).out
        assert len(shown.split()) >= (2 if mine else 1)
    error = rless.run("--keep-groups --group-add 5", "true").expect(125).one_line_error()
    assert "contradict" in error


# -- modules -----------------------------------------------------------------------------------


def configured(rless: Product, text: str) -> dict[str, str | None]:
    file = rless.base / "rless.toml"
    file.write_text(text)
    return {"RLESS_CONFIG": str(file)}


def test_module_adds_mounts_variables_and_devices(rless: Product, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libmpi.so").write_text("")
    env = configured(
        rless,
        f"""
        [modules.mpich]
        about = "the site's MPI"
        mounts = ["{tmp_path}/lib:/opt/mpi:ro"]
        env = ["LD_LIBRARY_PATH=/opt/mpi", "A=module", "MPICH_*", "WHO={{user}}"]
        unset-env = ["SEED"]
        devices = ["/dev/zero", "/dev/none-such"]
        [modules.other]
        env = ["A=other"]
        """,
    )
    env |= {"MPICH_X": "1", "USER": "me"}
    script = "ls /opt/mpi; echo $LD_LIBRARY_PATH $A $MPICH_X; test -c /dev/zero"
    assert rless.sh(script, "--module", "mpich", env=env).lines() == [
        "libmpi.so",
        "/opt/mpi module 1",
    ]
    flags = ["--module", "mpich,other", "-e", "MPICH_X=2"]
    assert rless.sh(script, *flags, env=env).lines()[1] == "/opt/mpi other 2"
    error = rless.run("--module nccl", "true", env=env).expect(125).one_line_error()
    assert "mpich, other" in error
    env = configured(rless, '[modules.bad]\nmounts = ["relative:/x:zz"]\n')
    error = rless.run("--module bad", "true", env=env).expect(125).one_line_error()
    assert "mounts in [modules.bad]" in error


def test_site_configures_the_hpc_profile(rless: Product, tmp_path: Path) -> None:
    env = configured(
        rless,
        """
        [hpc]
        default = true
        home = false
        unset-env = ["SECRET*"]
        modules = ["site"]
        [modules.site]
        env = ["SITE=here"]
        """,
    )
    env |= {"SECRET_A": "x", "MINE": "1"}
    lines = rless("run", rless.image, "env", env=env).expect().lines()
    assert {"SITE=here", "MINE=1"} <= set(lines)
    assert not any(line.startswith("SECRET") for line in lines)
    lines = rless.run("--hpc=false", "env", env=env).expect().lines()
    assert "MINE=1" not in lines


# -- the lines that others type ------------------------------------------------------------------


def table() -> list[str]:
    """Return the rless lines of the table in docs/hpc.md."""
    text = (ROOT / "docs/hpc.md").read_text(encoding="utf-8")
    rows = text.partition("## What you type elsewhere")[2].partition("\n## ")[0].splitlines()
    cells = [row.split(" | ") for row in rows if row.startswith("| `")]
    assert len(cells) >= 10
    return [cell.rstrip(" |").strip("`") for row in cells for cell in row[1:2]]


@fuse
@pytest.mark.parametrize("line", table())
def test_each_documented_line_runs(rless: Product, file: Path, tmp_path: Path, line: str) -> None:
    """With small images, and directories of the test, in place of those in the table."""
    for name in ("scratch", "data", "raid", "images"):
        (tmp_path / name).mkdir()
        line = line.replace(f"/{name}", f"{tmp_path}/{name}")
    (tmp_path / "FILE").write_text("FROM_FILE=1\n")
    (tmp_path / "t.py").write_text("#!/bin/sh\n")
    (tmp_path / "a.out").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "a.out").chmod(0o755)
    for name in ("ubuntu.sqsh", "foo.sqfs"):
        os.link(file, tmp_path / name)
    made.write_sif(file, tmp_path / "x.sif")
    env = configured(rless, "[modules.mpich]\nenv = ['A=1']\n[modules.gpu]\nenv = ['A=1']\n") | {
        "SCRATCH": str(tmp_path / "scratch"),
        "RLESS_IMAGE_PATH": str(tmp_path),
    }
    for command in line.split("; "):
        words = [
            os.path.expandvars(word.replace("$SCRATCH", env["SCRATCH"] or ""))
            for word in shlex.split(command)
        ]
        while words[0] != "rless":
            words.pop(0)  # srun and its flags
        if words[1] == "flatten":
            words[2:] = ["-f", rless.image, words[-1]]
        done = rless(*words[1:], cwd=str(tmp_path), env=env, stdin=b"")
        done.expect()
