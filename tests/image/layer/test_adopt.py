"""What a step of a build has written becomes a layer: the same as a pull of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootless import rootfs
from rootless.errors import RlessError
from rootless.image.layer import create, tarsplit
from rootless.image.layer.later import Sealing
from rootless.image.layer.tar_writer import TarWriter
from rootless.image.store.ownership import delete_any
from rootless.image.store.staging import Staging
from rootless.image.store.store import Image as StoredImage
from rootless.image.store.store import layer_dir, split_path
from rootless.image.transfer.remove import collect, layers_on_disk
from rootless.linux import prctl
from rootless.linux.idmap import IdMap, call_in_userns
from rootless.rootfs import stored
from tests.lib.image_store import SINGLE, Tree, Workshop, look, map_for
from tests.lib.images import Dir, File, Link, layer
from tests.lib.kills import Moments, forked
from tests.lib.needs import DRIVERS

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

LAYERS = [
    layer({
        "kept/file": "x", "changed": "a", "gone": "x", "whole/a": "x", "dir/inner": "x",
        "dir/sub/deep": "x", "link": Link("kept"), "replaced/x": "x", "mode/x": "x", "idle/x": "x",
        "owned": File("x", uid=7, gid=8, mode=0o640),
    }),
    layer({"second": Dir(mode=0o751, uid=3), "etc/passwd": "root:x:0:0::/:/bin/sh\n"}),
]  # fmt: skip


def change(root: str) -> None:
    """Do to a mounted root what a RUN may do."""
    os.chdir(root)
    Path("new").write_text("new")
    os.makedirs("made/deep")
    Path("made/deep/file").write_bytes(b"z" * 300_000)
    os.chown("made/deep/file", 5, 6)
    os.chmod("made/deep/file", 0o4755)
    os.link("made/deep/file", "made/hard")
    os.symlink("x", "made/link")
    os.mkfifo("made/fifo", 0o640)
    Path("made/empty").touch()
    Path("made/none").write_text("secret")
    os.chmod("made/none", 0)
    os.setxattr("made/empty", "user.mine", b"1")
    with open("changed", "a") as file:
        file.write("more")
    os.utime("changed", ns=(0, 1_500_000_000_123_456_789))
    os.unlink("gone")
    os.unlink("whole/a")
    os.rmdir("whole")
    os.unlink("link")
    os.mkdir("link")
    Path("link/x").write_text("x")
    os.unlink("replaced/x")
    os.rmdir("replaced")
    Path("replaced").write_text("f")
    os.chmod("mode", 0o700)
    os.chown("owned", 9, 9)
    Path("idle/tmp").touch()
    os.unlink("idle/tmp")  # the directory was copied up for nothing
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("made/socket")
    with open("etc/passwd", "a") as file:
        file.write("app:x:5:5::/:/bin/sh\n")


def hide(root: str) -> None:
    """Make a directory that hides the one below."""
    os.chdir(root)
    os.unlink("dir/inner")
    os.unlink("dir/sub/deep")
    os.rmdir("dir/sub")
    os.rmdir("dir")
    os.mkdir("dir")
    Path("dir/other").write_text("x")


class Bench:
    """A store with a base image, and steps on top of it."""

    def __init__(self, workshop: Workshop, idmap: IdMap | None = None) -> None:
        self.root = workshop.root
        self.workshop = workshop
        self.image = workshop.unpack(LAYERS, idmap_for=lambda image: idmap or map_for(image))
        self.idmap = idmap or map_for(self.image)
        lowers = self.image.layer_dirs(self.idmap.key)
        assert lowers is not None
        self.lowers = lowers

    def step(
        self, act: Callable[[str], None], driver: str = "overlay", **options: Any
    ) -> dict[str, Any]:
        """Return the meta record of the layer that `act` makes, and its diff_id by `commit`.

        With `most` it is sealed in a process of its own; see `_seal_later` for `meanwhile`.
        """
        with Staging(self.root) as staging:
            os.mkdir(f"{staging.path}/work")
            os.mkdir(f"{staging.path}/scratch")
            found: dict[str, Any] = call_in_userns(
                self.idmap, self._step, act, driver, staging.path, options
            )
            return found

    def _step(
        self, act: Callable[[str], None], driver: str, place: str, options: dict[str, Any]
    ) -> dict[str, Any]:
        prctl.set_parent_death_signal(signal.SIGKILL)
        os.umask(0o022)
        mounted = rootfs.mount(self.lowers, f"{place}/work", self.idmap, driver=driver)
        act(mounted.path)
        os.chdir("/")
        rootfs.unmount(mounted)
        os.umask(0)
        (part,) = stored.parts(f"{place}/work", self.lowers)
        meanwhile = options.pop("meanwhile", None)
        hashed = self._committed(part, options)
        made = create.adopt(
            self.root, self.idmap, self.image.chain[-1], self.lowers, part, f"{place}/scratch",
            **options,
        )  # fmt: skip
        assert isinstance(made, dict) == ("most" not in options)
        if not isinstance(made, dict):
            made = self._seal_later(made, f"{place}/meta", meanwhile)
        return {**made, "committed": hashed}

    def _seal_later(
        self, made: create.Unsealed, record: str, meanwhile: Callable[[Sealing], None] | None
    ) -> dict[str, Any]:
        """Seal a layer; with `meanwhile` it gets no further before that was called."""
        reader, writer = os.pipe()

        def keep(meta: dict[str, Any]) -> None:
            os.close(writer)
            os.read(reader, 1)
            Path(record).write_text(json.dumps(meta))

        sealing = Sealing(made, self.image.chain[-1], "RUN x", keep)
        inode = os.stat(sealing.directory).st_ino
        if meanwhile is not None:
            meanwhile(sealing)
        os.close(writer)
        chain = sealing.result()
        assert os.stat(layer_dir(self.root, self.idmap.key, chain)).st_ino == inode
        meta: dict[str, Any] = json.loads(Path(record).read_text())
        assert meta["chain"] == chain
        return meta

    def _committed(self, part: stored.Part, options: dict[str, Any]) -> str:
        import hashlib

        from rootless.image.layer.archiver import Archiver
        from rootless.image.layer.changes import changes

        digest = hashlib.sha256()
        writer = TarWriter(digest.update)
        TarWriter.newest = options.get("newest")
        Archiver(writer).changes(changes(part, options.get("hidden", ())))
        writer.end()
        TarWriter.newest = None
        return f"sha256:{digest.hexdigest()}"

    def tar(self, made: dict[str, Any]) -> bytes:
        """Return the tar of a layer, proven by its digest."""
        directory = layer_dir(self.root, self.idmap.key, made["chain"])
        split = split_path(self.root, made["chain"])
        with open(split, "rb") as file:
            size = int.from_bytes(file.read(24)[16:], "little")
        with tarsplit.LayerStream(directory, split, size, made["diff_id"]) as stream:
            return stream.read()

    def pulled(self, made: dict[str, Any], other: Workshop) -> StoredImage:
        """Return the image with the layer, pulled into another store."""
        layers = [*LAYERS, self.tar(made)]
        image = other.unpack(layers, idmap_for=lambda image: self.idmap)
        assert image.chain[-1] == made["chain"]
        return image

    def tree(self, made: dict[str, Any]) -> Tree:
        return look(layer_dir(self.root, self.idmap.key, made["chain"]), self.idmap)

    def merged(self, lowers: list[str]) -> Tree:
        """Return what a container sees."""
        with Staging(self.root) as staging:
            found: dict[str, Any] = call_in_userns(
                self.idmap, _merged, lowers, staging.path, self.idmap
            )
        return Tree(found)


def _merged(lowers: list[str], place: str, idmap: Any) -> dict[str, Any]:
    from tests.lib.image_store import _walk

    mounted = rootfs.mount(lowers, place, idmap, driver="overlay")
    found = _walk(mounted.path)
    rootfs.unmount(mounted)
    return found


def plain(tree: Tree) -> dict[str, dict[str, Any]]:
    """Leave out what no archive keeps, and the root's time, of which these say nothing."""
    return {
        path: {
            key: value
            for key, value in facts.items()
            if key not in ("inode", "blocks")
            and not (key in ("links", "size") and facts["kind"] == "directory")
            and not (key in ("links", "mtime") and facts["kind"] == "character")
            and not (key == "mtime" and path == ".")
        }
        for path, facts in tree.items()
    }


@pytest.fixture
def bench(workshop: Workshop) -> Bench:
    return Bench(workshop)


@pytest.fixture
def other(tmp_path: Path) -> Any:
    made = Workshop(tmp_path / "other")
    made.directory.mkdir()
    yield made
    delete_any(str(made.directory), "store")


@pytest.mark.parametrize("how", [*DRIVERS, "later"])
def test_the_layer_equals_a_pull_of_itself(bench: Bench, other: Workshop, how: str) -> None:
    made = bench.step(change, most=1000) if how == "later" else bench.step(change, how)
    assert made["diff_id"] == made["committed"]
    image = bench.pulled(made, other)
    mine, theirs = plain(bench.tree(made)), plain(other.tree(image))
    # Of a directory in place of a link the kernel says that it is opaque; it makes no difference.
    assert mine["link"]["xattrs"].pop("user.overlay.opaque", None) in (None, b"y".hex())
    assert mine == theirs
    assert mine["gone"]["kind"] == "character"
    assert mine["made/deep/file"]["mode"] == 0o4755
    assert mine["made/empty"]["xattrs"] == {"user.mine": b"1".hex()}
    assert mine["changed"]["mtime"] == 1_500_000_000 * 10**9
    assert "idle" not in mine
    assert "made/socket" not in mine
    assert "app" in made["users"]["passwd"]


def test_a_directory_that_hides_others_looks_the_same(bench: Bench, other: Workshop) -> None:
    made = bench.step(hide)
    assert made["diff_id"] == made["committed"]
    assert bench.tree(made)["dir"]["xattrs"] == {"user.overlay.opaque": b"y".hex()}
    image = bench.pulled(made, other)
    theirs = image.layer_dirs(bench.idmap.key)
    assert theirs is not None
    mine = bench.merged([*bench.lowers, layer_dir(bench.root, bench.idmap.key, made["chain"])])
    assert plain(mine) == plain(bench.merged(theirs))
    assert {path for path in mine if path.startswith("dir")} == {"dir", "dir/other"}


def test_nothing_is_written_again(bench: Bench) -> None:
    inodes: list[int] = []

    def act(root: str) -> None:
        Path(f"{root}/big").write_bytes(os.urandom(1 << 20))
        inodes.append(os.stat(f"{root}/big").st_ino)
        Path(f"{root}/inode").write_text(str(inodes[0]))

    made = bench.step(act)
    tree = bench.tree(made)
    assert str(tree["big"]["inode"]) == tree["inode"]["text"]


def test_no_later_time_is_kept(bench: Bench, other: Workshop) -> None:
    made = bench.step(change, newest=1_000_000_000)
    assert made["diff_id"] == made["committed"]
    mine = plain(bench.tree(made))
    mine["link"]["xattrs"].clear()
    assert mine == plain(other.tree(bench.pulled(made, other)))
    assert max(facts["mtime"] for facts in mine.values() if facts["kind"] == "file") == 10**18


def test_a_layer_that_is_written_here_has_no_later_time(bench: Bench) -> None:
    def write(out: int) -> None:
        writer = TarWriter(out)
        writer.add(b"old", 0o644, mtime=5 * 10**9)
        writer.add(b"new", 0o644, mtime=int(time.time()) * 10**9)
        writer.end()

    def act() -> dict[str, Any]:
        os.umask(0)
        return create.make_here(
            bench.root, bench.idmap, bench.image.chain[-1], bench.lowers, write, place, newest=10
        )

    with Staging(bench.root) as staging:
        place = staging.path
        made = call_in_userns(bench.idmap, act)
    tree = bench.tree(made)
    assert (tree["old"]["mtime"], tree["new"]["mtime"]) == (5 * 10**9, 10 * 10**9)
    assert os.stat(split_path(bench.root, made["chain"])).st_uid == os.getuid()


def test_what_was_made_for_a_mount_goes(bench: Bench) -> None:
    def act(root: str) -> None:
        os.makedirs(f"{root}/mnt/deep/point")
        Path(f"{root}/secret").touch()
        Path(f"{root}/new").touch()

    made = bench.step(act, hidden=(b"mnt/deep/point", b"secret"))
    assert made["diff_id"] == made["committed"]
    assert set(bench.tree(made)) == {".", "new"}


def test_a_name_that_would_delete_a_file_is_left_out(bench: Bench, other: Workshop) -> None:
    def act(root: str) -> None:
        Path(f"{root}/kept/.wh.file").touch()
        os.mkdir(f"{root}/.wh.kept")
        Path(f"{root}/.wh.kept/x").touch()

    made = bench.step(act)
    assert made["diff_id"] == made["committed"]
    tree = bench.tree(made)
    assert not [path for path in tree if ".wh." in path]
    assert plain(tree) == plain(other.tree(bench.pulled(made, other)))


def test_a_step_that_changes_nothing_gives_an_empty_layer(bench: Bench) -> None:
    made = bench.step(lambda root: None)
    assert made["diff_id"] == made["committed"]
    assert set(bench.tree(made)) == {"."}
    assert made["size"] == 0


def test_the_same_files_give_the_same_layer_once(bench: Bench) -> None:
    def act(root: str) -> None:
        Path(f"{root}/new").write_text("x")
        os.utime(f"{root}/new", (1, 1))

    first = bench.step(act)
    inode = bench.tree(first)["new"]["inode"]
    second = bench.step(act)
    assert first["chain"] == second["chain"]
    assert bench.tree(second)["new"]["inode"] == inode


def test_a_name_that_no_layer_can_have_is_refused(bench: Bench) -> None:
    def act(root: str) -> None:
        os.chdir(root)
        for _ in range(21):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)

    before = set(os.listdir(f"{bench.root}/splits"))
    with pytest.raises(RlessError, match="cannot keep the layer: a file name of"):
        bench.step(act)
    assert set(os.listdir(f"{bench.root}/splits")) == before


def test_one_id_is_enough(workshop: Workshop, other: Workshop) -> None:
    bench = Bench(workshop, SINGLE)

    def act(root: str) -> None:
        os.chdir(root)
        Path("new").write_text("x")
        os.unlink("gone")
        os.chmod("mode", 0o700)
        with open("changed", "a") as file:
            file.write("more")

    made = bench.step(act)
    assert made["diff_id"] == made["committed"]
    image = bench.pulled(made, other)
    assert plain(bench.tree(made)) == plain(other.tree(image, key="single"))


def test_sigkill_leaves_whole_layers(bench: Bench) -> None:
    """SIGKILL at any moment: a layer that is in its place has its records, and all its files."""

    def act(root: str) -> None:
        for number in range(200):
            Path(f"{root}/{number}").write_text(f"{os.getpid()}" * 50)

    def step() -> None:
        bench.step(act)

    moments = Moments(seed=5)
    begin = time.monotonic()
    step()
    moments.measured("adopt", time.monotonic() - begin)
    while moments.hits["adopt"] < 20:
        moments.kill("adopt", forked(step))
    directory = f"{bench.root}/layers/{bench.idmap.key}"
    names = [name for name in os.listdir(directory) if not name.endswith(".json")]
    for name in names:
        with open(f"{directory}/{name}.json") as file:
            made = json.load(file)
        assert bench.tar(made)
    deadline = time.monotonic() + 30  # those that the killed had forked are dying
    while True:
        collect(bench.workshop.store)
        if not os.listdir(f"{bench.root}/tmp"):
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(layers_on_disk(bench.root)) == len(LAYERS)


def test_a_layer_that_cannot_be_read_later_is_one_line(bench: Bench) -> None:
    def act(root: str) -> None:
        Path(f"{root}/new").write_text("x" * 2000)

    whole = create.Unsealed.seal

    def seal(made: create.Unsealed, below: str | None) -> dict[str, Any]:
        os.unlink(f"{made.directory}/new")
        return whole(made, below)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create.Unsealed, "seal", seal)
        with pytest.raises(RlessError) as raised:
            bench.step(act, most=1000)
    assert raised.value.message == ("RUN x: cannot keep the layer: new: No such file or directory")


def test_a_process_that_dies_while_it_seals_is_one_line(bench: Bench) -> None:
    def act(root: str) -> None:
        Path(f"{root}/new").write_text("x" * 2000)

    def kill(sealing: Sealing) -> None:
        os.kill(sealing.pid, signal.SIGKILL)

    with pytest.raises(RlessError) as raised:
        bench.step(act, most=1000, meanwhile=kill)
    assert raised.value.message == (
        "RUN x: cannot keep the layer: the process that reads it was killed (signal 9)"
    )
