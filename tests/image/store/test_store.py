"""The store: lookup, removal, concurrency, and SIGKILL at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.store import staging
from rootless.image.store.staging import LayerLocks, Staging, clear_leftovers
from rootless.image.store.store import Store
from rootless.image.transfer import remove
from rootless.linux import mount
from rootless.linux.idmap import IdMap, call_in_userns
from tests.lib import images
from tests.lib.image_store import SINGLE, Workshop, map_for
from tests.lib.images import Dir, File, Image, layer
from tests.lib.kills import Moments
from tests.lib.product import wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

ROOT = Path(__file__).resolve().parents[3]


# -- the hot path --------------------------------------------------------------------------------


def test_lookup_takes_one_read_and_few_modules(workshop: Workshop) -> None:
    image = workshop.unpack(images.busybox_image())
    (key,) = image.keys
    code = f"""
import sys
before = set(sys.modules)
from rootless.image.store.store import Store
from rootless.image.config.user import resolve_user
image = Store({workshop.root!r}).lookup({image.name!r})
assert image.layer_dirs({key!r})
resolve_user("user", passwd=image.passwd(), group=image.group())
print(*sorted(set(sys.modules) - before))
"""
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r})" + code,
    ]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    others = {name for name in loaded if not name.startswith("rootless")}
    allowed = {"_blake2", "_json", "__future__", "errno", "os", "stat", "_stat"}
    assert others <= allowed | {"_collections_abc", "genericpath", "os.path", "posixpath"}


def test_images_are_found_by_name_and_id(workshop: Workshop) -> None:
    image = workshop.unpack([layer({"f": "x"})])
    store = workshop.store
    for name in (image.name, image.id, image.id[7:], image.id[7:19], image.id[7:10]):
        found = store.lookup(name)
        assert found is not None and found.id == image.id
    assert store.lookup("nothing") is None
    assert store.lookup("f" * 64) is None
    assert Store(workshop.root + "/nowhere").lookup("x") is None
    with pytest.raises(RlessError, match="invalid reference"):
        store.lookup("UPPER")
    path = Path(f"{workshop.root}/images/ids/{image.id[7:]}.json")
    path.with_name(f"{image.id[7:19]}{'0' * 52}.json").write_bytes(path.read_bytes())
    with pytest.raises(RlessError, match="several image ids"):
        store.lookup(image.id[7:10])


def test_damaged_record_is_ignored(workshop: Workshop) -> None:
    image = workshop.unpack([layer({"f": "x"})])
    for directory in ("names", "ids"):
        for entry in os.listdir(f"{workshop.root}/images/{directory}"):
            Path(f"{workshop.root}/images/{directory}/{entry}").write_bytes(b"")
    assert workshop.store.lookup(image.name) is None
    assert workshop.pull(image.name, policy="missing").id == image.id


def test_manually_deleted_layer_is_noticed(workshop: Workshop) -> None:
    image = workshop.unpack([layer({"f": "x"})])
    (key,) = image.keys
    directories = image.layer_dirs(key)
    assert directories is not None
    subprocess.run(["rm", "-rf", *directories], check=True)
    assert image.layer_dirs(key) is None
    assert workshop.pull(image.name).layer_dirs(key) is not None


def test_similar_chain_ids_are_not_confused(workshop: Workshop) -> None:
    image = workshop.unpack([layer({"f": "x"})])
    (key,) = image.keys
    path = Path(f"{workshop.root}/layers/{key}/{image.chain[0][7:31]}.json")
    path.write_text(path.read_text().replace(image.chain[0], image.chain[0][:-1] + "z"))
    with pytest.raises(RlessError, match="cannot be told from"):
        workshop.pull(image.name)


# -- removal -------------------------------------------------------------------------------------


def rm(
    workshop: Workshop, name: str, *, force: bool = False, used: tuple[str, ...] = ()
) -> list[str]:
    return remove.remove(workshop.store, name, force=force, used=used)


def test_removing_the_last_image_leaves_nothing(workshop: Workshop) -> None:
    hard: dict[str, images.Value] = {"locked": Dir(mode=0, uid=9), "locked/f": File("x", uid=8)}
    image = workshop.unpack([layer(hard)])
    lines = rm(workshop, image.name)
    assert lines == [
        f"Untagged: {image.name}", f"Deleted: {image.id}", f"Deleted: {image.chain[0]}"
    ]  # fmt: skip
    assert workshop.contents() == {}
    with pytest.raises(RlessError, match="no such image"):
        rm(workshop, image.name)


def test_shared_layers_are_kept(workshop: Workshop) -> None:
    base = layer({"base": "x"})
    first = workshop.unpack([base, layer({"a": "1"})])
    second = workshop.unpack([base, layer({"b": "2"})])
    (key,) = first.keys
    rm(workshop, first.name)
    assert second.layer_dirs(key) is not None
    assert workshop.tree(second, 0)["base"]["text"] == "x"
    assert len(os.listdir(f"{workshop.root}/layers/{key}")) == 2 * 2
    rm(workshop, second.id)
    assert workshop.contents() == {}


def test_image_in_use_is_kept(workshop: Workshop) -> None:
    image = workshop.unpack([layer({"f": "x"})])
    with pytest.raises(RlessError, match="used by a container"):
        rm(workshop, image.name, used=(image.id,))
    assert rm(workshop, image.name, used=(image.id,), force=True) == [f"Untagged: {image.name}"]
    left = workshop.store.lookup(image.id)
    assert left is not None and left.layer_dirs(next(iter(image.keys))) is not None
    assert rm(workshop, image.id)[0] == f"Deleted: {image.id}"
    assert workshop.contents() == {}


def test_removal_of_an_id_with_several_names_needs_force(workshop: Workshop) -> None:
    made = Image([layer({"f": "x"})])
    image = workshop.unpack(made)
    workshop.unpack(made)
    with pytest.raises(RlessError, match="has 2 names"):
        rm(workshop, image.id)
    assert len(rm(workshop, image.name)) == 1
    assert workshop.store.lookup(image.id) is not None
    workshop.unpack(made)
    assert len(rm(workshop, image.id, force=True)) == 4  # two names, the image, its layer
    assert workshop.contents() == {}


def test_layers_used_by_a_pull_are_not_deleted(workshop: Workshop) -> None:
    image = workshop.unpack([layer({"f": "x"})])
    with staging.store_lock(workshop.root):
        rm(workshop, image.name)
    (key,) = image.keys
    assert image.layer_dirs(key) is not None  # left to the next prune
    assert remove.collect(workshop.store) == 1
    assert workshop.contents() == {}


# -- in flight -----------------------------------------------------------------------------------


def test_live_staging_is_kept(workshop: Workshop) -> None:
    os.mkdir(workshop.root, 0o700)
    with Staging(workshop.root) as staged:
        Path(staged.path, "f").write_text("x")
        assert clear_leftovers(workshop.root) == 0
        assert os.path.exists(f"{staged.path}/f")
        pid = os.fork()
        if pid == 0:
            os._exit(clear_leftovers(workshop.root))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert os.path.exists(f"{staged.path}/f")
    assert os.listdir(f"{workshop.root}/tmp") == []


@pytest.mark.parametrize("locks", [True, False])
def test_abandoned_staging_is_removed(
    workshop: Workshop, locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With locks, and on a file system that has none by pid, start time and boot id."""
    os.mkdir(workshop.root, 0o700)
    if not locks:
        monkeypatch.setattr(staging, "lock", lambda fd, **_: None)
    pid = os.fork()
    if pid == 0:
        Staging(workshop.root).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with Staging(workshop.root) as alive:
        assert clear_leftovers(workshop.root) == 1
        assert len(os.listdir(f"{workshop.root}/tmp")) == 2
        assert os.path.isdir(alive.path)


def test_locks_block_and_leave_no_files(workshop: Workshop) -> None:
    os.mkdir(workshop.root, 0o700)
    chain = "sha256:" + "a" * 64
    locks = LayerLocks(workshop.root)
    assert locks.take(chain) is False
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        other = LayerLocks(workshop.root)
        os.write(writer, b"1" if other.take(chain) else b"0")
        other.release()
        os._exit(0)
    time.sleep(0.2)
    assert os.get_blocking(reader)
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    os.set_blocking(reader, True)
    locks.release()
    assert os.read(reader, 1) == b"1"
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    assert os.listdir(f"{workshop.root}/locks") == []


def test_without_locks_the_first_rename_wins(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "lock", lambda fd, **_: None)
    path = images.write_oci_archive(
        Image([layer({f"f{n}": "x" * 1000}) for n in range(8)]), workshop.directory / "a.tar"
    )
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                workshop.pull(f"oci-archive:{path}")
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    image = workshop.store.lookup(f"oci-archive:{path}")
    assert image is not None and workshop.tree(image)["f7"]["size"] == 1000
    assert os.listdir(f"{workshop.root}/tmp") == []


# -- no room, Ctrl-C -----------------------------------------------------------------------------


def _pull_into_small_store(directory: str, name: str, size: str, options: str) -> list[object]:
    """Pull into a tmpfs of that size, in a mount namespace of its own."""
    mount.mount("tmpfs", directory, "tmpfs", 0, f"size={size},mode=0700{options}")
    small = Workshop(Path(directory))
    try:
        small.pull(name, idmap_for=lambda image: SINGLE_ROOT)
    except RlessError as error:
        return [error.message, error.hint, list(small.contents())]
    return ["", None, []]


SINGLE_ROOT = IdMap([(0, 0, 1)], [(0, 0, 1)], "single")


@pytest.mark.parametrize(
    ("size", "options", "files"),
    [
        ("1m", "", {"f": b"x" * 3_000_000}),
        ("64k", "", {f"f{n}": b"x" * 1000 for n in range(50)}),
        ("9m", ",nr_inodes=60", {f"f{n}": "x" for n in range(100)}),
        ("4k", "", {"f": "x"}),
        ("200k", "", {"f": b"y" * 190_000, "g": "z"}),
    ],
)
def test_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, size: str, options: str, files: dict[str, images.Value]
) -> None:
    place = tmp_path / "small"
    place.mkdir()
    archive = images.write_oci_archive(
        Image([layer(files)], compression="none"), tmp_path / "a.tar"
    )
    message, hint, left = call_in_userns(
        SINGLE, _pull_into_small_store, str(place), f"oci-archive:{archive}", size, options
    )
    assert "No space left on device" in message or "no room" in message
    assert "RLESS_STORAGE" in (hint or "")
    assert left == []


def test_unwritable_store_is_reported(workshop: Workshop) -> None:
    os.mkdir(workshop.root, 0o500)
    with pytest.raises(RlessError, match="Permission denied"):
        workshop.unpack([layer({"f": "x"})])


def test_interrupt_leaves_a_whole_store(workshop: Workshop) -> None:
    entries = {f"d{n}/f{n}": File("x" * 100, uid=n % 9) for n in range(4000)}
    archive = images.write_oci_archive(Image([layer(entries)]), workshop.directory / "a.tar")
    name = f"oci-archive:{archive}"
    command = [sys.executable, "-c", PULL.format(root=str(ROOT), name=name, store=workshop.root)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = list(Path(workshop.root, "tmp").glob("*/layer-0/d*"))
        if len(found) > 20:
            break
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode != 0 and b"could not be deleted" not in said
    assert os.listdir(f"{workshop.root}/tmp") == []
    assert workshop.store.lookup(name) is None
    assert workshop.pull(name).id


# -- SIGKILL -------------------------------------------------------------------------------------

PULL = """
import sys
sys.path.insert(0, {root!r})
from rootless.image.transfer import pull
from rootless.image.store.store import Store
from tests.lib.image_store import map_for
pull.pull({name!r}, Store({store!r}), policy="always", quiet=True, idmap_for=map_for)
"""


def test_sigkill_at_any_moment_leaves_a_whole_store(workshop: Workshop) -> None:
    """What can be found is whole; the next pull clears the rest and ends well."""
    entries: dict[str, images.Value] = {}
    for number in range(300):
        entries[f"d{number % 30}/f{number}"] = File("x" * 500, uid=number % 40, mode=0o600)
    layers = [
        layer({f"l{depth}/{name}": value for name, value in entries.items()}) for depth in range(4)
    ]
    made = Image(layers, {"User": "5:6"})
    name = f"oci-archive:{images.write_oci_archive(made, workshop.directory / 'a.tar')}"
    code = PULL.format(root=str(ROOT), name=name, store=workshop.root)
    command = [sys.executable, "-c", code]
    start = time.monotonic()
    subprocess.run(command, check=True)
    duration = time.monotonic() - start
    expected = set(workshop.contents())
    rm(workshop, name)
    assert workshop.contents() == {}
    moments = Moments(seed=20)
    moments.measured("pull", duration)
    while moments.hits["pull"] < 20:
        devnull = (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=[devnull])
        moments.kill("pull", pid)
        image = workshop.store.lookup(name)
        if image is not None:
            for key in image.keys:
                assert image.layer_dirs(key) is not None
            for number in range(4):
                tree = workshop.tree(image, number)
                assert len(tree) == 1 + 1 + 30 + 300
                assert all(
                    facts["size"] == 500 for facts in tree.values() if facts["kind"] == "file"
                )
            rm(workshop, name)
    subprocess.run(command, check=True)
    # A child of the last one that was killed may end, with its lock, a moment after its parent.
    wait_for(
        lambda: clear_leftovers(workshop.root) >= 0 and set(workshop.contents()) == expected,
        "the last leftovers to be cleared",
    )
    assert os.listdir(f"{workshop.root}/tmp") == []
    image = workshop.store.lookup(name)
    assert image is not None and map_for(image).key in image.keys
    rm(workshop, name)
    # A layer whose pull was killed may have stayed without an image; prune finds it.
    remove.collect(workshop.store)
    assert workshop.contents() == {}
