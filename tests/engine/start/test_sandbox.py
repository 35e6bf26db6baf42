"""The sandbox, which is prepared before the container is known: it leaves no trace."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lib import flat
from tests.lib.product import Product, rless, shared_product

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")
PASTA = pytest.mark.needs("pasta", "tun")

ROOT = Path(__file__).resolve().parents[3]
# Begin all, with a network or not, for an image that is a file or not, do something to it, and say
# how it went.
DRIVER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from rootless.engine import idmap_policy as userns
from rootless.engine.start.sandbox import Sandbox
from rootless.engine.request import RunRequest
request = RunRequest(image="none", network=sys.argv[2] or None)
file = None
if sys.argv[3]:
    from rootless.image.squashfs.image_file import ImageFile
    file = ImageFile(sys.argv[3], [])
    file.fd = os.open(sys.argv[3], os.O_RDONLY)
    file.offset = 0
sandbox = Sandbox(request, [], file=file)
mapping = userns.choose("auto", (0, 0), userns.Subordinate())
def pids():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        print(file.read(), flush=True)
def inside():
    sandbox.enter(mapping, 0)
    links = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "net")]
    print(*links, os.getuid(), open("/proc/self/uid_map").read().split(), flush=True)
def in_flight():
    # The mount is on its way, and the program runs.
    import select, time
    server = sandbox.server._server
    select.select([server._link], [], [], 20)
    while "squashfuse" not in os.readlink(f"/proc/{server.pid}/exe"):
        time.sleep(0.01)
def show():
    print(sandbox.server.attach(sys.argv[4])[0], os.listdir(sys.argv[4]), flush=True)
    sandbox.server.close()
def await_state(pid, letter):
    from rootless.linux.procfs import process_state
    while process_state(pid) != letter:
        pass
"""


def drive(network: str, code: str, *file: Path) -> subprocess.CompletedProcess[str]:
    """Run the driver with some code; `file`: the image, and where it may be shown."""
    image = map(str, file or ("", ""))
    return subprocess.run(
        [sys.executable, "-c", DRIVER + code, str(ROOT), network, *image],
        capture_output=True,
        text=True,
        timeout=60,
    )


def await_end(pids: Iterable[int]) -> None:
    """Wait until processes have ended; whoever adopts them may leave them as zombies."""
    deadline = time.monotonic() + 30
    for pid in pids:
        while os.path.exists(f"/proc/{pid}"):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state in "ZX":
                break
            assert time.monotonic() < deadline, pid
            time.sleep(0.01)


@pytest.mark.parametrize("network", ("none", pytest.param("", marks=PASTA)))
@pytest.mark.parametrize(
    "last_words",
    (
        "pids(); os.kill(os.getpid(), 9)",
        "sandbox.begin_maps(mapping); pids(); os.kill(os.getpid(), 9)",
        "sandbox.begin_maps(mapping); pids(); inside(); os.kill(os.getpid(), 9)",
    ),
    ids=("before the maps", "while it is mapped", "inside"),
)
def test_namespace_holder_ends_with_a_killed_command(network: str, last_words: str) -> None:
    done = drive(network, last_words)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(word) for word in done.stdout.splitlines()[0].split()]
    assert len(pids) >= (1 if network else 2)  # who holds the namespaces; pasta
    await_end(pids)


def test_abandoned_namespace_holder_is_reaped() -> None:
    done = drive(
        "", "sandbox.begin_maps(mapping); pids(); sandbox.close(); sandbox.close(); pids()"
    )
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.splitlines()
    left = [int(word) for word in after.split()]
    assert len(before.split()) >= 2
    await_end(left)  # pasta, which is nobody's to wait for


SINGLE = "mapping = userns.build_single(0, 0); sandbox.begin_maps(mapping); "
needs_squashfuse = pytest.mark.needs("fuse", "squashfuse", "mksquashfs")


@pytest.fixture(name="file")
def image_that_is_a_file(tmp_path: Path) -> tuple[Path, Path]:
    """Make an image with one file in it, and a directory where it may be shown."""
    tree, target = tmp_path / "tree", tmp_path / "target"
    tree.mkdir()
    target.mkdir()
    (tree / "inside").touch()
    return flat.mksquashfs(tree, tmp_path / "image"), target


MOMENTS = {
    "begun": "pids()",
    "while it is mapped": "sandbox.begin_maps(mapping); pids()",
    "mounted before its caller is inside": SINGLE + "pids(); in_flight()",
    "inside": "sandbox.begin_maps(mapping); pids(); inside()",
    "mounted": "sandbox.begin_maps(mapping); pids(); inside(); in_flight()",
    "shown": "sandbox.begin_maps(mapping); pids(); inside(); show()",
    "settled": "sandbox.begin_maps(mapping); pids(); inside(); show(); sandbox.settle()",
}


@needs_squashfuse
@pytest.mark.parametrize("code", MOMENTS.values(), ids=MOMENTS)
def test_file_server_ends_with_a_killed_command(code: str, file: tuple[Path, Path]) -> None:
    done = drive("none", f"{code}; os.kill(os.getpid(), 9)", *file)
    assert done.returncode == -signal.SIGKILL, done.stderr
    if "show" in code:
        assert "squashfuse" in done.stdout
        assert "['inside']" in done.stdout
    pids = [int(word) for word in done.stdout.splitlines()[0].split()]
    assert len(pids) >= 2
    await_end(pids)


@needs_squashfuse
@pytest.mark.parametrize("network", ("none", pytest.param("", marks=PASTA)))
@pytest.mark.parametrize("code", [MOMENTS[name] for name in list(MOMENTS)[:5]], ids=[*MOMENTS][:5])
def test_abandoned_file_server_is_reaped(code: str, network: str, file: tuple[Path, Path]) -> None:
    opened = 'print(len(os.listdir("/proc/self/fd")), flush=True)'
    code = f"{code}; sandbox.close(); sandbox.close(); pids(); {opened}"
    done = drive(network, code, *file)
    assert done.returncode == 0, done.stderr
    before, *_, after, count = done.stdout.splitlines()
    assert len(before.split()) >= 2
    assert "squashfuse" not in done.stdout
    await_end(int(word) for word in after.split())  # pasta, which is nobody's to wait for
    if network == "none":
        assert (after.strip(), count) == ("", "4")  # 0 to 2, and the directory itself


@needs_squashfuse
@pytest.mark.parametrize("maps", ("sandbox.begin_maps(mapping); ", SINGLE), ids=("many", "one"))
@pytest.mark.parametrize("network", ("none", pytest.param("", marks=PASTA)))
def test_image_file_is_mounted(maps: str, network: str, file: tuple[Path, Path]) -> None:
    code = maps + "inside(); show(); sandbox.settle(); pids()"
    done = drive(network, code, *file)
    assert done.returncode == 0, done.stderr
    _, shown, children = done.stdout.splitlines()
    assert shown.startswith("squashfuse")
    assert shown.endswith("['inside']")
    assert len(children.split()) >= 1


@needs_squashfuse
@pytest.mark.parametrize("maps", ("sandbox.begin_maps(mapping); ", SINGLE), ids=("many", "one"))
def test_slow_file_server_finds_the_namespaces(maps: str, file: tuple[Path, Path]) -> None:
    """The process that holds them must not have ended by then."""
    code = (
        "import time; server = sandbox.server._server; os.kill(server.pid, 19); "
        f"await_state(server.pid, 'T'); {maps} inside(); time.sleep(0.3); "
        "os.kill(server.pid, 18); show(); sandbox.settle(); pids()"
    )
    done = drive("none", code, *file)
    assert done.returncode == 0, done.stderr
    _, shown, children = done.stdout.splitlines()
    assert shown.endswith("['inside']")
    assert len(children.split()) == 1, "nobody holds them any more"


def test_namespaces_are_new_and_mapped() -> None:
    done = drive("none", "sandbox.begin_maps(mapping); inside(); sandbox.settle(); pids()")
    assert done.returncode == 0, done.stderr
    line, children = done.stdout.splitlines()
    user, mnt, net, uid, *id_map = line.split(maxsplit=4)
    ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "net")]
    assert not {user, mnt, net} & set(ours)
    assert int(uid) == 0  # the default map sends root to us
    assert len(id_map[0].split(",")) == 6, id_map
    assert children.strip() == "", "nobody holds them any more"


def test_single_id_is_mapped_without_a_helper() -> None:
    code = "mapping = userns.build_single(7, 7); sandbox.begin_maps(mapping); inside()"
    done = drive("none", code)
    assert "['7', " in done.stdout, done


def test_missing_user_namespaces_are_reported() -> None:
    """The error is that of unshare(2), with what to do about it."""
    limit = """
from rootless.errors import RlessError
from rootless.linux import idmap, ns
def body():
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
    sandbox = Sandbox(request, [])
    try:
        sandbox.begin_maps(mapping)
    except RlessError as error:
        print(error, flush=True)
    sandbox.close()
    os._exit(0)
sandbox.close()
child = idmap.spawn(userns.build_single(0, 0), ns.CLONE_NEWNS, body)
os.waitpid(child, 0)
"""
    done = drive("none", limit)
    assert "max_user_namespaces" in done.stdout, done


@pytest.mark.needs("pasta", "tun")
def test_failed_command_leaves_no_network(rless: Product) -> None:
    rless("create", "--name", "taken", rless.image).expect()
    try:
        flags = ("-p", "127.0.0.1:18931:80/tcp")
        failed = rless("run", *flags, "--name", "taken", rless.image, "true").expect(125)
        assert "already in use" in failed.err
    finally:
        rless("rm", "taken").expect()
    rless.assert_clean()


@pytest.mark.needs("strace")
@pytest.mark.parametrize(
    ("network", "programs"),
    [
        ("none", ["rless-userns-holder", "python"]),
        ("host", ["python", "rless-userns-holder"]),
        # What the launcher has begun is not what this one needs: it ends.
        ("container:other", ["rless-userns-holder", "python", "rless-userns-holder"]),
    ],
    ids=("none", "host", "container"),
)
def test_launcher_begins_the_namespaces(
    rless: Product, tmp_path: Path, network: str, programs: list[str]
) -> None:
    """While Python starts. With one id: newuidmap cannot be traced."""
    flags = ["--rm", "--network", network]
    if network.startswith("container:"):
        rless.detach("other", "--userns single --network none", "sleep", "600")
    else:
        flags += ["--userns", "single"]
        rless("run", *flags, rless.image, "true").expect()  # so that its layers are there
    log = tmp_path / "log"
    trace = ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", str(log)]
    try:
        argv = [*trace, *rless.argv("run", *flags, rless.image, "true")]
        subprocess.run(argv, env=rless.env, check=True, timeout=60)
    finally:
        if network.startswith("container:"):
            rless("rm", "-f", "other").expect()
    found = re.findall(r'execve\("[^"]*/(rless-userns-holder|python)', log.read_text())
    # The launcher of the tests executes Python by way of a script.
    assert [name for name, _ in itertools.groupby(found)] == programs
