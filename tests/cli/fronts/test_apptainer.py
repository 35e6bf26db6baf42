"""apptainer as people and engines type it, on images that are files and directories."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pty
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib import flat as made
from tests.lib import images
from tests.lib.fronts import Front
from tests.lib.product import Product, own_rless, rless, shared_product, wait_for
from tests.lib.registry_servers import Authority
from tests.lib.web_server import Page, WebServer

__all__ = ["own_rless", "rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "compiler", "mksquashfs", "fuse", "squashfuse")
FILES = {
    ".singularity.d/runscript": '#!/bin/sh\necho "run: $*"\n',
    ".singularity.d/env/10-docker2singularity.sh": (
        'export PATH="/bin:/image"\nexport SET="${SET:-image}"\nexport WINS=image\n'
    ),
    "etc/localtime/readme": "a directory in the place of a file\n",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make images: of Apptainer's in a tree and in a file, a plain one, one of version 2."""
    base = tmp_path_factory.mktemp("images")
    for name, files in (("tree", FILES), ("plain", {"etc/passwd": "root:x:0:0::/root:/bin/sh\n"})):
        root = base / name
        root.mkdir()
        subprocess.run(["tar", "-x", "-C", root], input=images.busybox_layer(), check=True)
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
            (root / path).chmod(0o755)
    made.mksquashfs(base / "tree", base / "tool:1")
    made.mksquashfs(base / "plain", base / "plain.img")
    (base / "empty").mkdir()
    old = made.mksquashfs(base / "empty", base / "empty.sqsh").read_bytes()
    (base / "hello.simg").write_bytes(b"#!/usr/bin/env run-singularity\n" + old)
    return base


@pytest.fixture
def apptainer(rless: Product) -> Front:
    return Front(rless, "apptainer")


def test_exec_is_the_caller_in_her_directory(
    apptainer: Front, pictures: Path, tmp_path: Path
) -> None:
    script = (
        'umask; id -u; pwd; echo "$HOME"; grep "^[^:]*:x:$(id -u):" /etc/passwd | cut -d: -f6; cat'
    )
    done = apptainer.sh(
        'umask 027; echo typed | apptainer exec "$1" sh -c "$2"',
        *(str(pictures / "plain.img"), script),
        cwd=tmp_path,
    ).expect()
    uid, home = str(os.getuid()), str(apptainer.product.home)
    assert done.lines()[:4] == ["0027", uid, str(tmp_path), home]
    assert done.lines()[-1] == "typed"
    assert done.err == ""


def test_sif_file_is_a_program(apptainer: Front, rless: Product, tmp_path: Path) -> None:
    """Its first line calls run-singularity, which `alias install` makes too."""
    archive = images.write_docker_archive(
        images.Image([images.busybox_layer()], {"Entrypoint": ["echo", "ran"]}),
        tmp_path / "own.tar",
    )
    apptainer("pull", "own.sif", f"docker-archive:{archive}", cwd=tmp_path).expect()
    assert apptainer.sh('"$1/own.sif" it', str(tmp_path)).expect().out == "ran it\n"
    done = apptainer.sh("run-singularity nosuch.sif").expect(255)
    assert done.err.startswith("FATAL:   could not open image ")


def test_root_is_read_only_unless_asked(apptainer: Front, pictures: Path, tmp_path: Path) -> None:
    image, place = str(pictures / "tool:1"), tmp_path / "changes"
    assert "Read-only" in apptainer("exec", image, "touch", "/x").expect(1).err
    apptainer("exec", "--writable-tmpfs", image, "touch", "/x").expect()
    apptainer("exec", "--overlay", str(place), image, "sh", "-c", "echo kept >/x").expect()
    assert apptainer("exec", "-o", str(place), image, "cat", "/x").expect().out == "kept\n"
    script = "echo in; read line"
    running = apptainer.start(
        *("exec", "-o", str(place), image, "sh", "-c", script), stdin=subprocess.PIPE
    )
    assert running.stdout is not None and running.stdout.read(3) == b"in\n"
    done = apptainer("exec", "-o", str(place), image, "true").expect(255)
    assert "is the writable layer of a container that runs" in done.err
    running.communicate()
    tree = str(pictures / "tree")
    assert "Read-only" in apptainer("exec", tree, "touch", "/x").expect(1).err
    assert not (pictures / "tree" / "x").exists()
    apptainer("exec", "-w", tree, "touch", "/x").expect()
    (pictures / "tree" / "x").unlink()
    assert "is not a directory" in apptainer("exec", "-w", image, "true").expect(255).err


def test_overlays_lie_on_each_other(apptainer: Front, pictures: Path, tmp_path: Path) -> None:
    """Directories that were written to, a squashfs image, and one for what is changed, at once."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(f"{name}\n")
        (tmp_path / name / name).write_text("")
    made.mksquashfs(tmp_path / "two", tmp_path / "two.sqsh")
    for image in (str(pictures / "plain.img"), str(pictures / "plain")):
        kept = tmp_path / f"kept{len(image)}"
        words = ("-o", str(kept), image, "sh", "-c")
        apptainer("exec", *words, "rm /bin/cp; echo changed > /changed").expect()
        words = ("-o", f"{tmp_path}/one:ro,{tmp_path}/two.sqsh", "-o", f"{kept}:ro", image)
        script = "cat /which /changed; ls /one /two /bin/sh; ls /bin/cp; touch /no"
        done = apptainer("exec", *words, "sh", "-c", script).expect(1)
        assert done.lines() == ["two", "changed", "/bin/sh", "/one", "/two"]
        assert "/bin/cp: No such file" in done.err and "/no: Read-only" in done.err
        words = ("-o", f"{tmp_path}/three:ro", "-o", str(tmp_path / "own"), *words[2:])
        apptainer("exec", *words, "sh", "-c", "test -f /three && touch /yes").expect()
        assert (tmp_path / "own" / "upper" / "yes").exists()
        assert sorted(os.listdir(tmp_path / "three")) == ["three", "which"]


def test_overlays_that_cannot_be(apptainer: Front, pictures: Path, tmp_path: Path) -> None:
    image, one, two = str(pictures / "plain.img"), str(tmp_path / "one"), str(tmp_path / "two")
    (tmp_path / "ext3").write_bytes(bytes(1080) + b"\x53\xef" + bytes(3000))
    for words, said in (
        (("-o", one, "-o", two), "cannot both be written to; add :ro to the others"),
        (("-o", f"{tmp_path}/no:ro"), "no: No such file"),
        (("-o", f"{tmp_path}/ext3"), "is an ext3 image, which only root can mount; unpack it"),
        (("-o", f"{image}:rw"), "an image file is only read"),
    ):
        done = apptainer("exec", *words, image, "true").expect(255)
        assert said in done.err and done.err.count("\n") == 1, done
    running = apptainer.start("exec", "-o", one, image, "sh", "-c", "echo in; read line",
                              stdin=subprocess.PIPE)  # fmt: skip
    assert running.stdout is not None and running.stdout.read(3) == b"in\n"
    done = apptainer("exec", "-o", f"{one}:ro", image, "true").expect(255)
    assert "is the writable layer of a container that runs" in done.err
    running.communicate()


@pytest.mark.needs("squashfuse")
def test_overlay_of_an_image_that_only_its_owner_enters(
    apptainer: Front, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir(0o700)
    subprocess.run(
        ["mksquashfs", tmp_path / "mine", tmp_path / "mine.sqsh", "-no-progress", "-quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    done = apptainer(
        "exec", "-o", f"{tmp_path}/mine.sqsh", str(pictures / "plain.img"), "true"
    ).expect(255)
    assert "mine.sqsh is for its owner only" in done.err and "-all-root" in done.err


@pytest.mark.needs("unsquashfs")
def test_overlay_over_an_unpacked_image_locks_both(
    apptainer: Front, pictures: Path, tmp_path: Path
) -> None:
    """Without FUSE neither the unpacked image may be removed, nor the overlay be shared."""
    script = 'mount --bind /etc/hosts /dev/fuse; exec apptainer exec -o "$@"'
    words = ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path / "changes")]
    words += [str(pictures / "tool:1"), "sh", "-c", "echo in; read line"]
    pipe = subprocess.PIPE
    running = subprocess.Popen(words, stdin=pipe, stdout=pipe, env=apptainer.env)
    assert running.stdout is not None and running.stdout.read(3) == b"in\n"
    inode = (pictures / "tool:1").stat().st_ino
    unpacked = [*(apptainer.product.storage / "flat").glob(f"single-*.{inode}.*/")]
    for path in (tmp_path / "changes", *unpacked):
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
    assert len(unpacked) == 1
    running.communicate()


def test_environment_in_its_order(apptainer: Front, pictures: Path) -> None:
    changes = {
        "SET": "host",
        "WINS": "host",
        "LD_LIBRARY_PATH": "/host",
        "APPTAINER_CONTAINER": "another",
        "SINGULARITYENV_PREPEND_PATH": "/first",
        "APPTAINERENV_APPEND_PATH": "/last",
        "APPTAINERENV_QUOTED": "it's",
        "SINGULARITYENV_HOME": "/no",
    }
    for image in ("tool:1", "tree"):
        path = str(pictures / image)
        done = apptainer(
            "exec", "--env", "A=1,B=2,3", "-B", "/etc:/deep/er:ro", path, "env", env=changes
        ).expect()
        found = dict(line.partition("=")[::2] for line in done.lines())
        expected = {
            "SET": "host",
            "WINS": "image",
            "A": "1",
            "B": "2,3",
            "QUOTED": "it's",
            "PATH": "/first:/bin:/image:/last",
            "HOME": str(apptainer.product.home),
            "APPTAINER_CONTAINER": path,
            "SINGULARITY_NAME": image,
            "APPTAINER_BIND": "/etc:/deep/er:ro",
            "APPTAINER_COMMAND": "exec",
        }
        assert {name: found.get(name) for name in expected} == expected
        assert not {"LD_LIBRARY_PATH", "RLESS_FRONT", "SINGULARITYENV_HOME"} & found.keys()
        assert done.err == "WARNING: the variable HOME cannot be set: use --home\n"


def test_variables_stand_for_flags(apptainer: Front, pictures: Path, tmp_path: Path) -> None:
    env = {"SINGULARITY_CLEANENV": "1", "APPTAINER_BIND": f"{tmp_path}:/mine", "HIDDEN": "x"}
    words = ("exec", str(pictures / "plain.img"), "sh", "-c", "echo $HIDDEN; ls -d /mine")
    assert apptainer(*words, env=env).expect().out == "\n/mine\n"


def test_what_a_job_and_a_site_add(apptainer: Front, pictures: Path, tmp_path: Path) -> None:
    """The directory of a job for temporary files, libraries of the host, a capability."""
    job, library = tmp_path / "job", tmp_path / "libx.so.1"
    job.mkdir()
    library.write_text("library\n")
    words = ("--containlibs", str(library), "--add-caps", "net_raw")
    script = (
        "touch $TMPDIR/made && cat /.singularity.d/libs/*; grep CapEff /proc/self/status; id -u"
    )
    image = str(pictures / "tool:1")
    done = apptainer("exec", *words, image, "sh", "-c", script, env={"TMPDIR": str(job)})
    assert done.expect().out.split() == ["library", "CapEff:", f"{1 << 13:016x}", str(os.getuid())]
    assert (job / "made").exists()
    done = apptainer("exec", "-c", image, "ls", str(job), env={"TMPDIR": str(job)}).expect(1)
    assert "No such file" in done.err


def test_env_file_is_read_by_a_shell(apptainer: Front, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "vars").write_text('A="one two"\nexport B="$A three"\n')
    words = ("--env-file", str(tmp_path / "vars"), str(pictures / "plain.img"))
    done = apptainer("exec", *words, "sh", "-c", "echo $A, $B").expect()
    assert done.out == "one two, one two three\n"


def test_contained_as_cwltool_and_miniwdl_ask(
    apptainer: Front, pictures: Path, tmp_path: Path
) -> None:
    """Their binds win over /tmp and home of --contain, into places that the image has not."""
    data = tmp_path / "a:b,c"
    data.write_text("data\n")
    mount = f'type=bind,"source={data}",target=/var/lib/cwl/stg1/x,readonly'
    done = apptainer(
        *("--quiet", "run", "--contain", "--ipc", "--cleanenv", "--no-eval", "--userns"),
        *("--home", f"{tmp_path}:/abc123", "--mount", mount, "--pwd", "/abc123"),
        *("--net", "--network", "none", str(pictures / "tool:1"), "$HOME", "'"),
    ).expect()
    assert done.out == "run: $HOME '\n"
    (tmp_path / "work").mkdir()
    done = apptainer(
        *("exec", "--pwd", "/mnt/work", "--containall", "--no-mount", "hostfs", "--fakeroot"),
        *("--bind", f"{tmp_path}/work:/mnt/work", "--bind", f"{tmp_path}/work:/tmp"),
        *(
            "--bind",
            f"{data}:/mnt/inputs/x:ro".replace("a:b,c", r"a\:b\,c"),
        ),
        *(str(pictures / "plain.img"), "sh", "-c"),
        "id -u; pwd; cat /mnt/inputs/x; echo $HOME $$; touch /tmp/made ~/x; ! ls /var/tmp/*",
    ).expect()
    uid, where, text, home = done.lines()
    assert (uid, where, text, home.split()[0]) == ("0", "/mnt/work", "data", "/root")
    assert int(home.split()[1]) < 10  # a process namespace of its own
    assert (tmp_path / "work" / "made").stat().st_uid == os.getuid()


def test_failures_are_told_as_apptainer_does(apptainer: Front, pictures: Path) -> None:
    image = str(pictures / "tool:1")
    for words, code, said in (
        (("exec", str(pictures / "hello.simg"), "true"), 255, _missing("true")),
        (("exec", image, "nosuch"), 255, _missing("nosuch")),
        (("exec", str(pictures / "plain.img"), "nosuch"), 255, _missing("nosuch")),
        (("exec", "nosuch.sif", "true"), 255, "FATAL:   could not open image "),
        (("exec", "library://x", "true"), 255, "FATAL:   library://x: library:// is not"),
        (("exec", "-B", "/nosuch", image, "true"), 255, "FATAL:   --bind: /nosuch: there is no"),
        (("exec", "--pwd", "/nosuch", image, "true"), 255, "FATAL:   cannot enter the working"),
        (("exec", "--bogus", image, "true"), 1, 'Error for command "exec": unknown flag'),
        (("--bogus",), 1, "Error: unknown flag: --bogus; see 'apptainer --help'"),
        (("exec", "--nvccli", image, "true"), 255, "FATAL:   --nvccli is not supported"),
        (("sign", image), 255, "FATAL:   apptainer sign is not supported"),
    ):
        done = apptainer(*words).expect(code)
        assert done.err.startswith(said), done
        assert done.err.count("\n") == 1, done


def _missing(program: str) -> str:
    return f'FATAL:   "{program}": executable file not found in $PATH\n'


def test_codes_and_signals_come_back(apptainer: Front, pictures: Path, tmp_path: Path) -> None:
    image = str(pictures / "plain.img")
    apptainer("exec", image, "sh", "-c", "exit 7").expect(7)
    apptainer("test", image).expect()
    assert "run: a" in apptainer("run", str(pictures / "tool:1"), "a").expect().out
    for words in ((), ("--pid",)):
        flag = tmp_path / f"ready{len(words)}"
        script = f"trap 'exit 9' TERM; touch {flag}; while :; do sleep 1; done"
        running = apptainer.start("exec", *words, "-B", str(tmp_path), image, "sh", "-c", script)
        wait_for(flag.exists, "the program to run")
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 9
        running.communicate()


def test_nextflow_has_an_empty_environment(
    apptainer: Front, pictures: Path, tmp_path: Path
) -> None:
    """No HOME, a blank in a path, a limit that cannot be set, a writable place in a closed one."""
    work = tmp_path / "a b"
    work.mkdir()
    (work / ".command.sh").write_text('echo "$TMPDIR $K"; pwd; touch made\n')
    done = apptainer.sh(
        'env - PATH="$PATH" RLESS_STORAGE="$RLESS_STORAGE" RLESS_CONTAINERS_CGROUP_MANAGER=none'
        ' SINGULARITYENV_TMPDIR=/tmp SINGULARITYENV_K="a  value" singularity exec --no-home --pid'
        ' --cpus 1 --memory 100m -B "$1":/data:ro -B "$2" "$3" /bin/sh -c "cd \\"$2\\";'
        ' /bin/sh -ue .command.sh"',
        *(str(pictures), str(work), str(pictures / "plain.img")),
    ).expect()
    assert done.lines() == ["/tmp a  value", str(work)]
    assert (work / "made").stat().st_uid == os.getuid()
    assert done.err.startswith("WARNING: each process has at most 104857600 bytes")
    assert done.err.count("\n") == 1


def test_galaxy_and_snakemake(apptainer: Front, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    done = apptainer(
        *("-s", "exec", "--contain", "--pwd", str(tmp_path), "--cleanenv", "--ipc", "--pid"),
        *("--no-mount", "tmp", "-B", f"{tmp_path}:{tmp_path}:rw", "-B", f"{tmp_path}/tmp:/tmp:rw"),
        *("--home", f"{tmp_path}:{tmp_path}", str(pictures / "tool:1")),
        *("sh", "-c", "echo $GALAXY_SLOTS; pwd; touch /tmp/made; echo $HOME"),
        env={"SINGULARITYENV_GALAXY_SLOTS": "2", "SINGULARITYENV_HOME": "/no"},
    ).expect()
    assert (done.lines(), done.err) == (["2", str(tmp_path), str(tmp_path)], "")
    assert (tmp_path / "tmp" / "made").exists()
    done = apptainer.sh(
        'apptainer exec --home "$1" --bind "$2":/mnt/snakemake "$3"'
        ' sh -c "cd /mnt/snakemake; echo m*; cd -"',
        *(str(tmp_path), str(tmp_path / "tmp"), str(pictures / "plain.img")),
        cwd=tmp_path,
    ).expect()
    assert done.lines() == ["made", str(tmp_path)]


# -- images and instances ------------------------------------------------------------------------


def test_images_are_made_and_inspected(apptainer: Front, rless: Product, tmp_path: Path) -> None:
    """One archive becomes a SIF file, that a directory, and that a file again."""
    archive = images.write_docker_archive(
        images.Image(
            [images.busybox_layer()],
            {
                "Entrypoint": ["echo", "ran"],
                "Labels": {"by": "us", "evil": "\x1b[2J"},
                "Env": ["FOO=bar"],
            },
        ),
        tmp_path / "own.tar",
    )
    apptainer("pull", f"docker-archive:{archive}", cwd=tmp_path).expect()
    file = tmp_path / "own_latest.sif"
    assert file.stat().st_mode & 0o111
    again = apptainer("pull", f"docker-archive:{archive}", cwd=tmp_path).expect(255)
    assert "already exists" in again.err
    quiet = ("-q", "pull", "--force", "--name", "own_latest.sif")
    assert apptainer(*quiet, f"docker-archive:{archive}", cwd=tmp_path).expect().err == ""
    apptainer("build", "--sandbox", "tree", str(file), cwd=tmp_path).expect()
    apptainer("build", "--fakeroot", "third", "tree", cwd=tmp_path).expect()
    for name in ("own_latest.sif", "tree", "third"):
        done = apptainer("run", name, "it", cwd=tmp_path).expect()
        assert (done.out, done.err) == ("ran it\n", "")
    found = json.loads(apptainer("inspect", "--json", "-l", "-r", "third", cwd=tmp_path).out)
    attributes = found["data"]["attributes"]
    assert attributes["labels"]["by"] == "us"
    assert attributes["runscript"].startswith("#!/bin/sh")
    assert found["type"] == "container"
    shown = apptainer("inspect", "-l", "-r", "-e", "third", cwd=tmp_path).expect().out
    assert "by: us\n" in shown and "\x1b" not in shown
    assert "FS" in apptainer("sif", "list", str(file)).expect().out
    assert "bootstrap: docker-archive" in apptainer("sif", "dump", "1", str(file)).expect().out
    assert "no signature" in apptainer("verify", str(file)).expect(255).err
    assert sorted(os.listdir(tmp_path)) == ["own.tar", "own_latest.sif", "third", "tree"]


def test_second_file_of_an_image_is_no_second_copy(apptainer: Front, tmp_path: Path) -> None:
    """It shares the first one's bytes, unless somebody has changed that, or could have."""
    archive = images.write_docker_archive(
        images.Image([images.busybox_layer()], {"Cmd": ["echo", "ran"]}), tmp_path / "own.tar"
    )
    uri = f"docker-archive:{archive}"
    one, two = tmp_path / "one.sif", tmp_path / "two.sif"
    apptainer("pull", str(one), uri).expect()
    content = one.read_bytes()
    for _ in range(2):
        apptainer("pull", "--force", str(two), uri).expect()
        assert two.read_bytes() == content
        assert sorted(os.listdir(tmp_path)) == ["one.sif", "own.tar", "two.sif"]
    shares = two.stat().st_ino == one.stat().st_ino
    apptainer("pull", "--force", str(one), uri).expect()
    assert one.read_bytes() == content and apptainer("run", str(one)).expect().out == "ran\n"
    if shares:  # else the file system has shared the blocks
        two.unlink()
        one.chmod(0o777)
        apptainer("pull", str(two), uri).expect()
        assert two.stat().st_ino != one.stat().st_ino
        one.chmod(0o755)
    one.write_bytes(b"something else")
    two.unlink()
    apptainer("pull", str(two), uri).expect()
    assert two.read_bytes() == content


def test_files_that_are_pulled_at_once_are_one(apptainer: Front, tmp_path: Path) -> None:
    """The tasks of a job array: mksquashfs runs once, and the others share its file."""
    archive = images.write_docker_archive(
        images.Image([images.busybox_layer(), images.layer({"data": os.urandom(8 << 20)})], {}),
        tmp_path / "own.tar",
    )
    apptainer("exec", f"docker-archive:{archive}", "true").expect()  # it is unpacked already
    files = [tmp_path / f"{number}.sif" for number in range(4)]
    pulls = [apptainer.start("pull", str(file), f"docker-archive:{archive}") for file in files]
    for pull in pulls:
        _, said = pull.communicate(timeout=60)
        assert pull.returncode == 0, said
    assert len({file.read_bytes() for file in files}) == 1
    again = tmp_path / "again.sif"
    apptainer("pull", str(again), f"docker-archive:{archive}").expect()
    if again.stat().st_nlink > 1:  # else the file system has shared the blocks
        assert len({file.stat().st_ino for file in files}) == 1
    assert not os.listdir(apptainer.product.storage / "locks")


def test_cache_lies_where_the_user_says(apptainer: Front, rless: Product, tmp_path: Path) -> None:
    archive = images.write_docker_archive(
        images.Image([images.busybox_layer()], {}), tmp_path / "own.tar"
    )
    env = {"RLESS_STORAGE": None, "APPTAINER_CACHEDIR": str(tmp_path / "cache")}
    words = ("exec", f"docker-archive:{archive}", "echo", "ran")
    assert apptainer(*words, env=env).expect().out == "ran\n"
    assert (tmp_path / "cache" / "rless" / "images").is_dir()
    assert not (rless.home / ".local").exists()
    assert "There are 1 images" in apptainer("cache", "list", env=env).expect().out
    apptainer("cache", "clean", "--force", env=env).expect()
    assert "There are 0 images" in apptainer("cache", "list", env=env).expect().out


def test_instance_lives_and_its_name_is_free_again(apptainer: Front, pictures: Path) -> None:
    image = str(pictures / "tool:1")
    try:
        started = apptainer("instance", "start", image, "web").expect()
        assert (started.out, started.err) == ("", "INFO:    instance started successfully\n")
        assert "already exists" in apptainer("instance", "start", image, "web").expect(255).err
        listed = json.loads(apptainer("instance", "list", "--json", "w*").expect().out)
        (one,) = listed["instances"]
        assert (one["instance"], one["img"]) == ("web", image)
        words = ("--env", "A=own", "instance://web", "sh", "-c", "echo $A $WINS; exit 3")
        assert apptainer("exec", *words).expect(3).out == "own image\n"
        assert apptainer("exec", "instance://web", "nosuch").expect(255).err == _missing("nosuch")
        os.kill(one["pid"], signal.SIGKILL)
        wait_for(lambda: not os.path.exists(f"/proc/{one['pid']}"), "the end of the instance")
        apptainer("-q", "instance", "start", image, "web").expect()
        apptainer("instance", "stop", "web").expect()
        assert json.loads(apptainer("instance", "list", "--json").out) == {"instances": []}
        assert "no instance found" in apptainer("exec", "instance://web", "true").expect(255).err
    finally:
        apptainer("instance", "stop", "--all", "--force")


# -- files from elsewhere ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    with images.registry() as host:
        yield host


@pytest.mark.needs("docker-registry")
def test_registry_with_a_certificate_of_its_own(
    apptainer: Front, pictures: Path, tmp_path: Path
) -> None:
    """--no-https speaks to it, by flag and by variable; --authfile has the log-in."""
    authority = Authority(tmp_path / "authority")
    key = base64.b64encode(b"me:secret").decode()
    with images.registry(users={"me": "secret"}, tls=authority.tls()) as host:
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {host: {"auth": key}}}))
        uri, login = f"oras://{host}/tool:1", ("--authfile", str(tmp_path / "auth.json"))
        image = str(pictures / "tool:1")
        assert "certificate" in apptainer("push", *login, image, uri).expect(255).err
        apptainer("push", "--no-https", *login, image, uri).expect()
        env = {"SINGULARITY_NOHTTPS": "true"}
        assert "wants a name" in apptainer("pull", uri, env=env, cwd=tmp_path).expect(255).err
        apptainer("pull", *login, uri, env=env, cwd=tmp_path).expect()
        enter = 'printf secret | apptainer registry login -u me --password-stdin "oras://$1"'
        done = apptainer.sh(enter, host, env={"RLESS_INSECURE_REGISTRIES": host}).expect()
        assert done.err.startswith("WARNING: your password is stored unencrypted")
        apptainer("pull", "--force", uri, env=env, cwd=tmp_path).expect()
        apptainer("registry", "logout", f"docker://{host}").expect()
        done = apptainer("pull", "--force", uri, env=env, cwd=tmp_path).expect(255)
        assert done.err.endswith(f"log in: apptainer registry login docker://{host}\n")
        assert apptainer("run", "tool_1.sif", "a", cwd=tmp_path).expect().out == "run: a\n"


@pytest.mark.needs("docker-registry")
def test_file_goes_to_a_registry_and_comes_back(
    apptainer: Front, rless: Product, pictures: Path, registry: str, tmp_path: Path
) -> None:
    """push and pull of oras://, exec without the network afterwards, a tag that moves."""
    uri = f"oras://{registry}/lab/tool:1"
    apptainer("push", str(pictures / "tool:1"), uri).expect()
    address = f"http://{registry}/v2/lab/tool/manifests/1"
    wanted = urllib.request.Request(
        address, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"}
    )
    with urllib.request.urlopen(wanted) as answer:
        document = json.load(answer)
    assert document["layers"][0]["mediaType"] == "application/vnd.sylabs.sif.layer.v1.sif"
    assert apptainer("run", uri, "a").expect().out == "run: a\n"
    apptainer("pull", uri, cwd=tmp_path).expect()
    assert (tmp_path / "tool_1.sif").read_bytes() == (pictures / "tool:1").read_bytes()
    assert (tmp_path / "tool_1.sif").stat().st_mode & 0o111
    apptainer("push", str(pictures / "plain.img"), uri).expect()
    assert apptainer("run", uri, "a").expect().out == "run: a\n"  # as it was fetched
    apptainer("pull", "--force", uri, cwd=tmp_path).expect()
    assert (tmp_path / "tool_1.sif").read_bytes() == (pictures / "plain.img").read_bytes()
    (tmp_path / "x.def").write_text(f"Bootstrap: oras\nFrom: {uri}\n%post\n echo made > /made\n")
    apptainer("build", "x.sif", "x.def", cwd=tmp_path).expect()
    assert apptainer("exec", "x.sif", "cat", "/made", cwd=tmp_path).expect().out == "made\n"
    done = apptainer("exec", f"oras://{registry}/lab/none:1", "true").expect(255)
    assert done.err.startswith("FATAL:   ") and "has no such image" in done.err
    assert done.err.count("\n") == 1
    rless("push", rless.image, f"{registry}/image:1").expect()
    done = apptainer("exec", f"oras://{registry}/image:1", "true").expect(255)
    assert "is no SIF file" in done.err and "docker://" in done.err
    assert len(list((rless.storage / "files").glob("*.sif"))) == 2
    apptainer("cache", "clean", "-f").expect()
    assert not list((rless.storage / "files").iterdir())


def test_file_of_a_web_server(apptainer: Front, pictures: Path, tmp_path: Path) -> None:
    with WebServer() as server:
        server.pages["/tool.sif"] = Page((pictures / "tool:1").read_bytes(), {"ETag": '"1"'})
        server.pages["/page.sif"] = Page(b"<html>")
        uri = server.url("/tool.sif")
        running = [apptainer.start("run", uri, str(count)) for count in range(3)]
        said = [process.communicate() for process in running]
        assert [out for out, _ in said] == [b"run: 0\n", b"run: 1\n", b"run: 2\n"], said
        assert len(server.asked) == 1
        apptainer("pull", "--dir", str(tmp_path), uri).expect()
        assert server.asked[-1].headers["If-None-Match"] == '"1"'
        assert (tmp_path / "tool.sif").read_bytes() == (pictures / "tool:1").read_bytes()
        private = uri.replace("http://", "http://me:secret@")
        done = apptainer("pull", "-F", "--dir", str(tmp_path), f"{private}?key=secret").expect()
        assert "tool.sif" in done.err and "secret" not in done.err
        for path, said_of in (("/page.sif", "is no image file"), ("/no.sif", "answers 404")):
            done = apptainer("exec", server.url(path), "true").expect(255)
            assert said_of in done.err and done.err.count("\n") == 1, done
        done = apptainer("pull", "no.sif", server.url("/no.sif"), cwd=tmp_path).expect(255)
        assert os.listdir(tmp_path) == ["tool.sif"]


@pytest.mark.parametrize("pid", [False, True])
def test_key_ends_a_shell_and_its_program(
    apptainer: Front, pictures: Path, tmp_path: Path, pid: bool
) -> None:
    """Ctrl-C is for both, as without a container, although the output is no terminal.

    In a pid namespace the shell is process 1, which has it alone.
    """
    script = "trap 'echo key >key; exit 3' INT; echo >begun; sleep 60; echo none >none"
    flags = ["--pid", "--no-init"] if pid else []
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.dup2(os.open("out", os.O_WRONLY | os.O_CREAT), 1)
        words = ["apptainer", "exec", *flags, str(pictures / "plain.img"), "sh", "-c", script]
        os.execve(apptainer.links / "apptainer", words, apptainer.env)
    try:
        wait_for((tmp_path / "begun").exists, "the program to run")
        os.write(terminal, b"\3")
        if not pid:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
            assert (tmp_path / "key").exists() and not (tmp_path / "none").exists()
            return
        time.sleep(0.3)
        assert os.waitpid(child, os.WNOHANG) == (0, 0) and not (tmp_path / "key").exists()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    finally:
        os.close(terminal)
