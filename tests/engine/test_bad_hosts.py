"""Hosts that lack something: the errors, what still works, and what is left behind.

Each case is real: the file is covered, the disk is full, the kernel refuses. A user may arrange
that in a user and mount namespace of her own. In there her one id is mapped to itself, so
newuidmap has no power, and containers have that one id (`--userns=single`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lib import images
from tests.lib.compiled import ROOT
from tests.lib.product import Product, Result, probe_image, python_launcher

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

_DRIVER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from rootless.linux import idmap, mount, ns
arrangement, command = sys.argv[2], sys.argv[3:]
def bind(source, target):
    mount.mount(source, target, None, mount.MS_BIND)
def tmpfs(target, size):
    mount.mount("tmpfs", target, "tmpfs", 0, f"size={size},mode=700")
def read_only(target):
    bind(target, target)
    mount.mount(None, target, None, mount.MS_BIND | mount.MS_REMOUNT | mount.MS_RDONLY)
def write(path, text):
    with open(path, "w") as stream:
        stream.write(text)
def body():
    try:
        exec(arrangement)
        os.execv(command[0], command)
    finally:
        os._exit(99)
me = idmap.IdMap([(os.getuid(), os.getuid(), 1)], [(os.getgid(), os.getgid(), 1)], "single")
status = os.waitpid(idmap.spawn(me, ns.CLONE_NEWNS, body), 0)[1]
sys.exit(os.waitstatus_to_exitcode(status))
"""


def on_a_host_where(rless: Product, arrangement: str, *words: str, **env: str | None) -> Result:
    """Run rless where `arrangement`, Python lines that use the functions above, was made."""
    driver = [sys.executable, "-c", _DRIVER, str(ROOT), arrangement]
    done = subprocess.run(
        [*driver, *rless.argv(*words)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=rless.environment(env),
        timeout=60,
    )
    assert done.returncode != 99, done.stderr.decode()
    return Result(words, done.returncode, done.stdout, done.stderr)


def run(rless: Product, arrangement: str, *words: str, **env: str | None) -> Result:
    """Run a container there, with one id and without network."""
    flags = ("--rm", "-q", "--userns=single", "--network=none")
    return on_a_host_where(rless, arrangement, "run", *flags, *words, **env)


@pytest.fixture(name="rless")
def rless_with_layers(rless: Product) -> Product:
    """Have the layers unpacked for one id: a broken host is to be met by the run itself."""
    run(rless, "", rless.image, "true").expect()
    return rless


def test_simulated_host_itself_changes_nothing(rless: Product) -> None:
    assert run(rless, "", rless.image, "id", "-u").expect().out == "0\n"


def test_missing_newuidmap_falls_back_to_one_id(rless: Product) -> None:
    """In a namespace without uid 0 these programs belong to nobody, and are not trusted either."""
    hide = "bind('/dev/null', '/usr/bin/newuidmap'); bind('/dev/null', '/usr/bin/newgidmap')"
    words = ("run", "--rm", "--network=none", rless.image, "id", "-u")
    done = on_a_host_where(rless, hide, *words).expect()
    assert done.out == "0\n"
    assert "is not installed" in done.one_line_error()
    assert "only your own id" in done.err


def test_missing_subuid_range_falls_back_to_one_id(rless: Product, tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    for text in ("", "somebody:100000:65536\n", "garbage\n::\nx:y:z\n"):
        file.write_text(text)
        hide = f"bind({str(file)!r}, '/etc/subuid')"
        words = ("run", "--rm", "--network=none", rless.image, "id", "-u")
        (rless.live.parent / "said-one-id").unlink(missing_ok=True)  # it is said once a day
        done = on_a_host_where(rless, hide, *words).expect()
        assert done.out == "0\n"
        assert "/etc/subuid" in done.one_line_error()


def test_exhausted_user_namespaces_are_reported(rless: Product) -> None:
    limit = "write('/proc/sys/user/max_user_namespaces', '0')"
    done = run(rless, limit, rless.image, "true").expect(125)
    assert "max_user_namespaces" in done.one_line_error()
    done = run(rless, limit.replace("_user_", "_pid_"), rless.image, "true").expect(125)
    assert "max_*_namespaces" in done.one_line_error()
    done = run(rless, limit.replace("_user_", "_mnt_"), rless.image, "true").expect(125)
    assert "(user.max_mnt_namespaces)" in done.one_line_error()


@pytest.mark.needs("pasta")
def test_missing_pasta_is_reported(rless: Product) -> None:
    hide = "bind('/dev/null', '/usr/bin/pasta')"
    words = ("run", "--rm", "-q", "--userns=single", rless.image, "true")
    error = on_a_host_where(rless, hide, *words).expect(125).one_line_error()
    assert "pasta" in error
    assert "--network" in error
    run(rless, hide, rless.image, "true").expect()


@pytest.mark.needs("fuse")
def test_missing_fuse_falls_back(rless: Product) -> None:
    hide = "bind('/dev/null', '/dev/fuse')"
    run(rless, hide, rless.image, "true").expect()
    error = run(rless, hide, "--storage-driver=fuse-overlayfs", rless.image, "true").expect(125)
    assert "fuse" in error.one_line_error()


def test_missing_libseccomp_needs_a_cached_filter(rless: Product) -> None:
    """A filter that was compiled before still serves; a new one cannot be made: no container."""
    run(rless, "", rless.image, "true").expect()
    found = "/usr/lib/x86_64-linux-gnu/libseccomp.so.2"
    if not os.path.exists(found):
        return
    hide = f"bind('/dev/null', os.path.realpath({found!r}))"
    run(rless, hide, rless.image, "true").expect()
    error = run(rless, hide, "--cap-add=SYS_TIME", rless.image, "true").expect(125)
    assert "seccomp" in error.one_line_error()


def test_missing_tun_device_fails_only_the_default_network(rless: Product) -> None:
    """The default network needs it; a job's does not."""
    hide = "bind('/dev/null', '/dev/net/tun')"
    words = ("run", "--rm", "-q", "--userns=single", rless.image, "true")
    error = on_a_host_where(rless, hide, *words).expect(125).one_line_error()
    assert "/dev/net/tun" in error
    assert "--network host" in error
    on_a_host_where(rless, hide, "run", "--hpc", rless.image, "true").expect()


def test_missing_session_is_no_obstacle(rless: Product, tmp_path: Path) -> None:
    """As in a batch job: no runtime directory, or one that is gone, or somebody else's; no bus."""
    for runtime in (None, "", "/run/user/none-such", "relative", "/tmp", "/"):
        env = {"XDG_RUNTIME_DIR": runtime, "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere"}
        done = rless("run", "--hpc", rless.image, "echo", "ran", env=env).expect()
        assert (done.out, done.err) == ("ran\n", "")
    rless.detach("job", "--rm", "sleep", "100")
    env = {"XDG_RUNTIME_DIR": None}
    assert "job" in rless("ps", env=env).expect().out  # the same one, from another session
    # The runtime is called by Slurm: its state lies beside that of rless, which came first.
    runtime = [str(Path(sys.executable).parent / "rless-oci"), "list", "-q"]
    listed = subprocess.run(runtime, env=rless.environment(env), capture_output=True, check=False)
    assert (listed.returncode, listed.stdout, listed.stderr) == (0, b"", b"")
    rless("rm", "-f", "job", env=env).expect()


def test_full_tmp_is_no_obstacle(rless: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of rless is in /tmp, however full or closed it is; but there is our launcher."""
    monkeypatch.setattr(rless, "argv", lambda *words: [*python_launcher(), *words])
    base = str(rless.base)
    flags = "mount.MS_REMOUNT | mount.MS_BIND | mount.MS_RDONLY"
    for more in (
        "try:\n    open('/tmp/full', 'w').write('x' * 100000)\nexcept OSError:\n    pass",
        f"mount.mount(None, '/tmp', None, {flags})",
    ):
        arrangement = (
            f"tmpfs('/mnt', '1m'); os.mkdir('/mnt/keep'); bind({base!r}, '/mnt/keep')\n"
            f"tmpfs('/tmp', '16k'); os.makedirs({base!r}, exist_ok=True)\n"
            f"bind('/mnt/keep', {base!r})\n{more}\n"
        )
        assert run(rless, arrangement, rless.image, "echo", "ran").expect().out == "ran\n"


def test_storage_without_xattrs_works(own_rless: Product) -> None:
    """As on a network file system: no user attributes, so the kernel's overlay is no way."""
    rless = own_rless
    os.makedirs(rless.storage, mode=0o700)
    poor = f"mount.mount('ramfs', {str(rless.storage)!r}, 'ramfs', 0, 'mode=700')\n"
    script = "echo x >/etc/new; rm -r /data; mkdir /data; ls -A /data; cat /etc/new"
    for driver in ([], ["--storage-driver=copy"]):
        done = run(rless, poor, *driver, rless.image, "sh", "-c", script).expect()
        assert done.out == "x\n"
    error = run(rless, poor, "--storage-driver=overlay", rless.image, "true").expect(125)
    assert "overlay: " in error.one_line_error()
    said = on_a_host_where(rless, poor, "doctor").out
    assert "the kernel's overlayfs does not work on the storage" in " ".join(said.split())


@pytest.mark.needs("mksquashfs", "squashfuse", "fuse")
def test_changes_are_kept_in_memory_on_a_poor_storage(own_rless: Product) -> None:
    """A home on a network file system is not filled with a copy of the image."""
    rless = own_rless
    file = rless.base / "x.sqsh"
    rless("flatten", rless.image, str(file)).expect()
    poor = f"mount.mount('ramfs', {str(rless.storage)!r}, 'ramfs', 0, 'mode=700')\n"
    script = (
        "rm -r /data; mkdir /data; echo x >/data/new; ls /data; grep -c ' / overlay' /proc/mounts"
    )
    flags = ["--explain=json", str(file), "sh", "-c", script]
    done = run(rless, poor, *flags).expect()
    assert done.lines() == ["new", "1"]
    assert "overlay with its layer in the storage: setxattr" in done.err
    kept = "run", "--name", "kept", "-q", "--userns=single", "--network=none", str(file)
    done = on_a_host_where(rless, poor, *kept, "sh", "-c", "rm -r /data; ls /data")
    assert "No such file" in done.err


@pytest.mark.needs("mksquashfs", "squashfuse", "fuse")
def test_shared_images_need_no_lock_and_no_write(own_rless: Product) -> None:
    """Files and a store on a read-only mount; the own storage is elsewhere, and poor."""
    rless = own_rless
    shared = rless.base / "shared"
    shared.mkdir()
    # A store for users of one id, as the administrator makes it.
    env = {"RLESS_STORAGE": str(shared / "store")}
    run(rless, "", rless.image, "true", **env).expect()
    rless("tag", rless.image, "tool:1", env=env).expect()
    rless("flatten", "tool:1", str(shared / "own.sqsh"), env=env).expect()
    (shared / "store").chmod(0o755)
    os.makedirs(rless.storage, mode=0o700, exist_ok=True)
    arrangement = f"read_only({str(shared)!r})\n"
    poor = f"mount.mount('ramfs', {str(rless.storage)!r}, 'ramfs', 0, 'mode=700')\n"
    env = {"RLESS_ADDITIONAL_STORES": str(shared / "store"), "RLESS_IMAGE_PATH": str(shared)}
    for more in ("", poor):
        for name in ("tool:1", "own"):
            done = run(rless, arrangement + more, "--pull=never", name, "cat", "/data/seed", **env)
            assert done.expect().out == "seed\n", name


def test_read_only_storage_is_reported(rless: Product) -> None:
    run(rless, "", rless.image, "true").expect()
    arrangement = f"read_only({str(rless.storage)!r})"
    done = run(rless, arrangement, rless.image, "true").expect(125)
    error = done.one_line_error()
    assert "Read-only file system" in error
    assert "set RLESS_STORAGE" in error
    fresh = rless.add_image("read-only", probe_image(Env=["NEW=1"]))
    done = run(rless, arrangement, fresh, "true").expect(125)
    assert "Read-only file system" in done.one_line_error()


def test_noexec_storage_fails_only_where_programs_are_copied(own_rless: Product) -> None:
    """The container's files may be executed, as of an overlay; a copy of ours may not."""
    rless = own_rless
    os.makedirs(rless.storage, mode=0o700)
    barred = f"mount.mount('t', {str(rless.storage)!r}, 'tmpfs', os.ST_NOEXEC, 'mode=700')"
    run(rless, barred, rless.image, "true").expect()
    for flags in (["--init"], ["--join=noexec", "--pid=host"]):
        error = run(rless, barred, *flags, rless.image, "true").expect(125).one_line_error()
        assert "noexec" in error
        assert "RLESS_STORAGE" in error


# -- full disks ----------------------------------------------------------------------------------


@pytest.fixture
def layout(own_rless: Product) -> str:
    """Return an image that is not in the storage."""
    os.makedirs(own_rless.storage, mode=0o700, exist_ok=True)
    return own_rless.add_image("full", images.busybox_image(Env=["PATH=/bin"]))


@pytest.mark.needs("mksquashfs")
def test_disk_full_on_any_file_write_is_reported(rless: Product, tmp_path: Path) -> None:
    out = tmp_path / "x.sqsh"
    done = on_a_host_where(
        rless, f"tmpfs({str(tmp_path)!r}, '64k')", "flatten", rless.image, str(out)
    )
    error = done.expect(1).one_line_error()
    assert f"{out}: No space left on device" in error
    assert "RLESS_STORAGE" not in error


@pytest.mark.parametrize("size", ["4k", "8k", "16k", "64k", "500k", "1m"])
def test_disk_full_during_image_storage_is_reported(
    own_rless: Product, layout: str, size: str
) -> None:
    """At each of these sizes another step is the one that does not fit."""
    arrangement = f"tmpfs({str(own_rless.storage)!r}, {size!r})"
    done = run(own_rless, arrangement, layout, "true").expect(125)
    assert "No space left on device" in done.one_line_error()


# After the image is there, fill up the disk, try again, and say what was left behind.
_FILL = """
import subprocess
storage = {storage!r}
tmpfs(storage, "24m")
tmpfs({runtime!r}, "4m")
first = subprocess.run(command[:-2] + ["true"])
assert first.returncode == 0
before = sorted(os.listdir(storage + "/containers")) + sorted(os.listdir(storage + "/names"))
with open(storage + "/filler", "wb", buffering=0) as stream:
    try:
        while True:
            stream.write(bytes(4096))
    except OSError:
        pass
if {spare}:
    os.truncate(storage + "/filler", os.path.getsize(storage + "/filler") - {spare})
done = subprocess.run(command)
after = sorted(os.listdir(storage + "/containers")) + sorted(os.listdir(storage + "/names"))
if before != after:
    print("left behind:", after)
os._exit(done.returncode)
"""


@pytest.mark.parametrize("spare", [0, 4096, 8192, 16384, 32768, 65536])
def test_disk_full_during_creation_is_reported(own_rless: Product, layout: str, spare: int) -> None:
    arrangement = _FILL.format(
        storage=str(own_rless.storage), runtime=str(own_rless.runtime), spare=spare
    )
    done = run(own_rless, arrangement, layout, "echo", "ran")
    assert "left behind" not in done.out
    if done.code == 0:
        assert done.out == "ran\n"
        assert spare >= 16384
    else:
        assert done.code == 125
        assert "No space left on device" in done.one_line_error()


def test_disk_full_during_the_run_is_survived(own_rless: Product, layout: str) -> None:
    """It is the application's to handle; the end of the container needs no space."""
    arrangement = _FILL.format(
        storage=str(own_rless.storage), runtime=str(own_rless.runtime), spare=1 << 20
    ).replace("command[:-2]", "command[:-3]")
    script = "head -c 3000000 /dev/zero >/file || echo told"
    done = run(own_rless, arrangement, layout, "sh", "-c", script)
    assert done.code == 0, done
    assert done.out == "told\n"


# A container has filled the disk by its log; then each verb that writes is asked.
_FULL_LIFE = """
tmpfs({storage!r}, "16m")
at = command.index("run")
def rless(*words):
    import json, subprocess
    done = subprocess.run(
        command[: command.index("run")] + list(words), capture_output=True, text=True
    )
    print(json.dumps([words[0], done.returncode, done.stdout, done.stderr]), flush=True)
rless("create", "--userns=single", "--network=none", "--name", "chatty",
             "--log-opt", "max-size=1g", *command[at + 1:])
rless("start", "chatty")
rless("wait", "chatty")
rless("logs", "-n", "1", "chatty")
with open({storage!r} + "/filler", "wb", buffering=0) as stream:
    try:
        while True:
            stream.write(bytes(4096))
    except OSError:
        pass
rless("ps", "-a", "--format", "{{{{.Names}}}} {{{{.Status}}}}")
rless("commit", "chatty", "saved")
rless("start", "chatty")
rless("rename", "chatty", "other")
rless("update", "--restart", "always", "chatty")
shown = "{{{{.Name}}}} {{{{.HostConfig.RestartPolicy.Name}}}} {{{{.State.Status}}}}"
rless("inspect", "-f", shown, "chatty")
rless("rm", "chatty")
rless("create", "--userns=single", "--network=none", "--name", "next", *command[at + 1:])
rless("rm", "next")
left = [os.listdir({storage!r} + "/" + name) for name in ("containers", "names", "tmp")]
import json
print(json.dumps(["left", 0, left, ""]), flush=True)
os._exit(0)
"""


def test_all_verbs_survive_a_full_disk(own_rless: Product, layout: str) -> None:
    """Each verb says in one line what it cannot do, and no state is lost or made up."""
    arrangement = _FULL_LIFE.format(storage=str(own_rless.storage))
    script = "head -c 20000000 /dev/zero; echo the end; exit 5"
    done = on_a_host_where(own_rless, arrangement, "run", layout, "sh", "-c", script).expect()
    told = [json.loads(line) for line in done.lines()]
    assert [verb for verb, *_ in told] == (
        "create start wait logs ps commit start rename update inspect rm create rm left"
    ).split()
    assert [code for _, code, *_ in told] == [0, 0, 0, 0, 0, 125, 1, 1, 1, 0, 0, 0, 0, 0], told
    assert told[2][2] == "5\n"
    assert told[4][2].startswith("chatty Exited (5)")
    for verb, _, out, err in told[5:9]:
        assert out == "", verb
        assert "No space left on device" in err, verb
        assert err.startswith(("rless: cannot ", "rless: /")), err
        assert err.count("\n") == 1, err
    assert told[9][2] == "/chatty no exited\n"
    assert told[-1][2] == [[], [], []]


# Builds with less and less room; then there is room again.
_FULL_BUILDS = """
storage = {storage!r}
tmpfs(storage, "32m")
def rless(*words):
    import json, subprocess
    start = command[: command.index("build")]
    done = subprocess.run([*start, *words], capture_output=True, text=True)
    print(json.dumps([words[0], done.returncode, done.stdout, done.stderr]), flush=True)
build = ("build", "-q", "--userns=single", "--network=none", "-t", "built", {context!r})
rless("pull", "-q", {image!r})
rless("tag", {image!r}, "localhost/base")
rless(*build)
rless("images", "-q", "built")
rless("system", "df")
filler = storage + "/filler"
with open(filler, "wb", buffering=0) as stream:
    try:
        while True:
            stream.write(bytes(4096))
    except OSError:
        pass
for spare in (0, 4096, 16384, 65536, 300000):
    os.truncate(filler, os.path.getsize(filler) - spare)
    rless(*build[:-1], "--no-cache", "--build-arg", "K=%d" % spare, build[-1])
rless("images", "-q", "built")
rless("system", "df")
os.unlink(filler)
rless(*build)
rless("run", "--rm", "--userns=single", "--network=none", "built", "wc", "-c", "/made")
left = [os.listdir({storage!r} + "/" + name) for name in ("names", "tmp", "build/locks")]
import json
print(json.dumps(["left", 0, left, ""]), flush=True)
os._exit(0)
"""


def test_disk_full_during_a_build_is_reported(own_rless: Product, layout: str) -> None:
    """Names and the cache are as they were, and nothing is left."""
    context = own_rless.base / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM localhost/base\nARG K\nWORKDIR /new\n"
        "RUN dd if=/dev/zero of=/made bs=1000 count=2000\n"
    )
    arrangement = _FULL_BUILDS.format(
        storage=str(own_rless.storage), image=layout, context=str(context)
    )
    done = on_a_host_where(own_rless, arrangement, "build").expect()
    told = [json.loads(line) for line in done.lines()]
    assert [code for _, code, *_ in told[:5]] == [0] * 5, told
    for _, code, out, err in told[5:10]:
        assert (code, out) == (1, ""), err
        assert "No space left on device" in err, err
    assert told[10] == told[3]
    cached = [[line for line in told[at][2].splitlines() if "Cache " in line] for at in (4, 11)]
    assert cached[0] == cached[1] and len(cached[0]) == 1, cached
    assert told[12][1] == 0, told[12]
    assert told[13][1:3] == [0, "2000000 /made\n"], told[13]
    assert told[-1][2] == [[], [], []]


def test_disk_full_during_layer_copy_is_reported(own_rless: Product, layout: str) -> None:
    arrangement = _FILL.format(
        storage=str(own_rless.storage), runtime=str(own_rless.runtime), spare=100_000
    )
    done = run(own_rless, arrangement, "--storage-driver=copy", layout, "echo", "ran").expect(125)
    assert "No space left on device" in done.one_line_error()
    assert "left behind" not in done.out


# -- homes ---------------------------------------------------------------------------------------


def test_unset_home_is_looked_up(rless: Product) -> None:
    """As in a job of Slurm: the password database knows."""
    import pwd

    home = pwd.getpwuid(os.getuid()).pw_dir
    env = {"HOME": None, "RLESS_STORAGE": None, "XDG_DATA_HOME": None}
    # Not over the whole home: the tests themselves may lie there.
    share = f"{home}/.local/share"
    os.makedirs(share, exist_ok=True)
    arrangement = f"tmpfs({share!r}, '1m')"
    script = f"{arrangement}\nimport subprocess\ncode = subprocess.run(command).returncode\n"
    script += f"print(os.listdir({share!r}))\nsys.stdout.flush()\nos._exit(code)"
    done = on_a_host_where(rless, script, "ps", "-q", **env)
    assert done.code == 0, done
    assert done.out == "['rless']\n"


def test_unwritable_home_is_reported(rless: Product) -> None:
    env = {"HOME": "/proc/none", "RLESS_STORAGE": None, "XDG_DATA_HOME": None}
    done = rless("run", "--rm", "host:", "true", env=env).expect(125)
    error = done.one_line_error()
    assert "/proc/none/.local/share/rless" in error
    assert "RLESS_STORAGE" in error


@pytest.mark.parametrize("version", ["4.18", "5.10", "5.11"])
def test_old_kernel_is_named(rless: Product, version: str) -> None:
    """By the call that is missing, with what is needed and who has it."""
    become = f"import tests.lib.old_kernel\ntests.lib.old_kernel.become({version!r})"
    for words in (("--network=none", "host:"), ("--network=none", "--userns=single", "host:")):
        done = on_a_host_where(rless, become, "run", "--rm", *words, "true").expect(125)
        error = done.err.splitlines()[-1]
        assert "rless needs 5.12 or later, as in Debian 12" in error, error
        assert "Function not implemented" in error, error
    assert rless("ps", "-aq").expect().out == ""


def test_filter_that_hides_a_call_is_named(rless: Product) -> None:
    become = (
        "import tests.lib.old_kernel as old\n"
        "old._UNAME26 = 0\n"
        "old.CALLS = {'close_range': (436, (9, 9))}\n"
        "old.become('9.0')"
    )
    done = on_a_host_where(rless, become, "run", "--network=none", "host:", "true").expect(125)
    assert "a seccomp filter around this process hides it" in done.one_line_error()


def test_filter_of_an_outer_container_is_named(rless: Product) -> None:
    """Podman's own lets nobody set the host name without the capability on its host."""
    number = {"x86_64": 170, "aarch64": 161}[os.uname().machine]
    become = (
        "import tests.lib.old_kernel as old\n"
        f"old.CALLS = {{'sethostname': ({number}, (9, 9))}}\n"
        "old.become('6.0', 1)"
    )
    done = on_a_host_where(rless, become, "run", "--network=none", "host:", "true").expect(125)
    error = done.err.splitlines()[-1]
    assert "sethostname" in error
    assert "start the outer container with --security-opt seccomp=unconfined" in error
