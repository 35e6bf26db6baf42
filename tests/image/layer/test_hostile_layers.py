"""Hostile layers: attack classes 1 to 11 of docs/security.md, each against real victims.

A victim lies outside of the store and is writable by the user who pulls. Every attack is either
refused with one line, and then the store has not one byte more, or defused: what it made lies
inside the layer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.layer import unpack
from rootless.image.model import limits
from rootless.image.store.ownership import delete_any, everything
from rootless.linux.idmap import call_in_userns
from tests.lib import images
from tests.lib.image_store import Workshop
from tests.lib.images import Dir, Fifo, File, Hard, Link, Value, layer
from tests.unit.image.layer.test_tar_reader import END, header, padded, pax

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


class Victim:
    """A directory outside of the store that must stay as it is."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "victim"
        self.path.mkdir()
        self.file = self.path / "file"
        self.file.write_text("untouched")
        self.file.chmod(0o640)
        os.utime(self.file, (1000, 1000))
        (self.path / "dir").mkdir(mode=0o750)
        os.utime(self.path / "dir", (1000, 1000))
        os.utime(self.path, (1000, 1000))
        self.before = self.state()

    def state(self) -> object:
        """Return everything that an attack could change."""
        found = []
        for path in (self.path, self.file, self.path / "dir"):
            status = os.lstat(path)
            facts = (status.st_mode, status.st_nlink, status.st_uid, status.st_mtime_ns)
            found.append((*facts, status.st_size, os.listxattr(path)))
        return found, sorted(os.listdir(self.path)), self.file.read_text()

    def check(self) -> None:
        """Fail if anything was changed."""
        assert self.state() == self.before


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path)


def refused(workshop: Workshop, layers: Sequence[bytes], why: str) -> None:
    """Check that an image is refused with one line, and that nothing of it is left."""
    before = workshop.contents() if os.path.exists(workshop.root) else {}
    with pytest.raises(RlessError, match=why) as caught:
        workshop.unpack(layers)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 600
    assert workshop.contents() == before


# -- 1: path traversal -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../" * 20 + "{victim}/evil",
        "a/../../../../../../../../../../../..{victim}/evil",
        "..",
        "a/..",
        "./../x",
        "a/./../../x",
        "/../x",
        ".//..//x",
    ],
)
@pytest.mark.parametrize("value", ["x", None])
def test_1_dotdot_is_refused(workshop: Workshop, victim: Victim, name: str, value: Value) -> None:
    refused(workshop, [layer({name.format(victim=victim.path): value})], "leaves the layer")
    victim.check()


def test_1_absolute_names_stay_in_the_layer(workshop: Workshop, victim: Victim) -> None:
    tree = workshop.tree(workshop.unpack([layer({f"{victim.file}": "evil", "//etc//x": "y"})]))
    assert tree[f"{victim.file}".strip("/")]["text"] == "evil"
    assert tree["etc/x"]["text"] == "y"
    victim.check()


# -- 2: a link, then something through it --------------------------------------------------------

THROUGH: list[tuple[str, Value]] = [
    ("file", "evil"),
    ("dir", Dir(mode=0o777, mtime=5, xattrs={"user.evil": b"x"})),
    ("dir/new", "evil"),
    ("new/deep/dir", None),
    ("file", Hard("bin/x")),
    ("evil", Link("/etc/passwd")),
    ("evil", Fifo()),
    (".wh.file", ""),
    (".wh..wh..opq", ""),
    ("", Dir(mode=0o777, mtime=5, uid=7)),
]


@pytest.mark.parametrize(("name", "value"), THROUGH)
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("same_layer", [True, False])
def test_2_links_do_not_lead_out(
    workshop: Workshop, victim: Victim, name: str, value: Value, absolute: bool, same_layer: bool
) -> None:
    target = str(victim.path) if absolute else "../" * 30 + str(victim.path).strip("/")
    first: dict[str, Value] = {"bin/x": "x", "in": Link(target)}
    then: dict[str, Value] = {f"in/{name}".rstrip("/"): value}
    if not name:
        then = {"in": value}
    layers = [layer(first | then)] if same_layer and name else [layer(first), layer(then)]
    if isinstance(value, Hard) and not same_layer:
        layers[1] = layer({"bin/x": "x"} | then)
    image = workshop.unpack(layers)
    victim.check()
    if name:
        inside = os.path.normpath(f"{victim.path}/{name}").strip("/").replace(".wh.", "")
        if name != ".wh..wh..opq":
            assert inside in workshop.tree(image)


def test_2_replacing_a_file_never_writes_through_it(workshop: Workshop, victim: Victim) -> None:
    pairs: list[tuple[str, Value]] = [
        ("l", Link(str(victim.file))),
        ("l", File("evil", mode=0o777, mtime=7, xattrs={"user.evil": b"x"})),
        ("d", Link(str(victim.path))),
        ("d", Dir(mode=0o777, mtime=7)),
        ("d/file", "evil"),
        ("p", Link(str(victim.path))),
        ("p", Fifo()),
    ]
    tree = workshop.tree(workshop.unpack([layer(pairs)]))
    assert tree["l"]["text"] == "evil" and tree["d/file"]["text"] == "evil"
    victim.check()


def test_2_times_and_modes_set_last_do_not_follow_a_late_link(
    workshop: Workshop, victim: Victim
) -> None:
    """A directory that is replaced by a link after its times were noted for the end."""
    pairs: list[tuple[str, Value]] = [
        ("a", None),
        ("a/dir", Dir(mode=0o6777, mtime=5)),
        ("a/x", ""),
        ("a", Link(str(victim.path))),
    ]
    workshop.unpack([layer(pairs)])
    victim.check()


def test_2_replaced_parent_leaves_the_cache(workshop: Workshop, victim: Victim) -> None:
    pairs: list[tuple[str, Value]] = [
        ("a/dir/one", "1"),
        ("a", Link(str(victim.path))),
        ("a/dir/two", "2"),
        ("c", Link("x")),
        ("c/one", "1"),
        ("c", Link(str(victim.path))),
        ("c/three", "3"),
    ]
    tree = workshop.tree(workshop.unpack([layer(pairs)]))
    inside = str(victim.path).strip("/")
    assert f"{inside}/dir/two" in tree and f"{inside}/three" in tree
    assert "x/one" in tree and "x/three" not in tree
    victim.check()


def test_2_circular_links_are_refused(workshop: Workshop) -> None:
    refused(workshop, [layer({"a": Link("b"), "b": Link("a"), "a/x": "y"})], "too many symbolic")
    refused(workshop, [layer({"a": Link("a/a"), "a/x": "y"})], "symbolic links")
    long = {f"l{n}": Link(f"l{n + 1}") for n in range(50)}
    refused(workshop, [layer(long | {"l50": None, "l0/x": "y"})], "too many symbolic")
    wide = {"w": Link("/".join(["w"] * 1000)), "w/x": "y"}
    refused(workshop, [layer(wide)], "too long|too many")


def test_2_file_is_not_used_as_directory(workshop: Workshop) -> None:
    refused(workshop, [layer({"f": "x", "f/g": "y"})], "f is not a directory")
    refused(workshop, [layer({"f": "x"}), layer({"f/g": "y"})], "f is not a directory")
    refused(workshop, [layer({"p": Fifo(), "p/g": "y"})], "p is not a directory")


# -- 3: hard links -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("../" * 20 + "{victim}/file", "leaves the layer"),
        ("{victim}/file", "does not exist"),
        ("in/file", "does not exist"),
        ("nowhere", "does not exist"),
        ("d", "not a regular file"),
        ("p", "not a regular file"),
        ("", "without a target"),
        ("/", "without a target"),
    ],
)
def test_3_hard_link_targets_outside_are_refused(
    workshop: Workshop, victim: Victim, target: str, why: str
) -> None:
    entries = {"in": Link(str(victim.path)), "d": None, "p": Fifo()}
    entries["h"] = Hard(target.format(victim=victim.path))
    refused(workshop, [layer(entries)], why)
    victim.check()


def test_3_later_write_does_not_reach_a_linked_file(workshop: Workshop, victim: Victim) -> None:
    """CVE class: link to a file of the host or of a lower layer, then write "over" it."""
    pairs: list[tuple[str, Value]] = [
        ("l", Link(str(victim.file))),
        ("h", Hard("l")),
        ("h", "evil"),
        ("low", Hard("f")),
        ("low", "new"),
    ]
    image = workshop.unpack([layer({"f": "old"}), layer(pairs)])
    victim.check()
    assert workshop.tree(image, 0)["f"]["text"] == "old"
    assert workshop.tree(image, 1)["low"]["text"] == "new"
    assert workshop.tree(image, 1)["f"]["text"] == "old"


def test_3_hard_link_to_itself_is_harmless(workshop: Workshop) -> None:
    refused(workshop, [layer([("d", None), ("d/f", "x"), ("d", Hard("d/f"))])], "cannot unpack d")
    tree = workshop.tree(workshop.unpack([layer([("f", "x"), ("f", Hard("f"))])]))
    assert tree["f"]["text"] == "x"


# -- 4: whiteouts --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."])
def test_4_wrong_whiteout_names_are_refused(workshop: Workshop, name: str) -> None:
    refused(workshop, [layer({"d/x": "y", name: ""})], "bad whiteout")


def test_4_meta_names_are_dropped(workshop: Workshop) -> None:
    names = [".wh..wh.plnk", ".wh..wh.aufs", "d/.wh..wh.orph", ".wh..wh.plnk/1.2", "d/.wh.x/y"]
    tree = workshop.tree(workshop.unpack([layer(dict.fromkeys(names, "x") | {"e": "f"})]))
    assert sorted(tree) == [".", "e"]


def test_4_not_every_dot_wh_is_a_whiteout(workshop: Workshop) -> None:
    tree = workshop.tree(workshop.unpack([layer({"a.wh.b": "x", "c/.whale": "y"})]))
    assert tree["a.wh.b"]["text"] == "x" and tree["c/.whale"]["text"] == "y"


def test_4_whiteout_deletes_nothing_outside(workshop: Workshop, victim: Victim) -> None:
    first = {"l": Link(str(victim.path)), "d": Link(".." + "/.." * 20)}
    second = {"l/.wh.file": "", "l/.wh.dir": "", "l/.wh..wh..opq": "", "d/.wh.etc": ""}
    workshop.unpack([layer(first), layer(second)])
    workshop.unpack([layer(first | second)])
    victim.check()


# -- 5: duplicates and names ---------------------------------------------------------------------


def test_5_last_duplicate_wins(workshop: Workshop) -> None:
    kinds: list[Value] = ["file", None, Link("target"), Fifo(), Hard("other")]
    for first in kinds:
        for second in kinds:
            if first is None and second is None:
                continue
            pairs: list[tuple[str, Value]] = [("other", "o"), ("x", first)]
            if first is None:
                pairs.append(("x/inside", "y"))
            pairs.append(("x", second))
            tree = workshop.tree(workshop.unpack([layer(pairs)]))
            expected = {str: "file", type(None): "directory", Link: "link", Fifo: "fifo"}
            assert tree["x"]["kind"] == expected.get(type(second), "file")
            assert "x/inside" not in tree
            if isinstance(second, str):
                assert tree["other"]["text"] == "o"


def test_5_names_are_bytes(workshop: Workshop) -> None:
    names = ["a\\b", "a\nb", "a\x1b[31mb", "É", "é", "e\u0301", "A", "a", "\udcff", " ", "-rf", "*"]
    tree = workshop.tree(workshop.unpack([layer({name: name for name in names})]))
    assert sorted(tree) == sorted([".", *names])


def test_5_too_long_names_are_refused(workshop: Workshop) -> None:
    refused(workshop, [layer({"n" * 300: "x"})], "File name too long")
    refused(workshop, [layer({"/".join(["n" * 200] * 25): "x"})], "a file name of")


# -- 6: two readings of one archive ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (header(b"f", 10) + b"short", "ends in the middle"),
        (header(b"f") + END + header(b"hidden") + END, "after the end"),
        (header(b"f", checksum=b"000000\0 ") + END, "checksum"),
        (pax({b"path": b"../evil"}) + header(b"good") + END, "leaves the layer"),
        (pax({b"path": b"a\0b"}) + header(b"good") + END, "NUL"),
        (b"not a tar at all" * 100, "broken tar"),
    ],
)
def test_6_broken_archives_are_refused(workshop: Workshop, data: bytes, why: str) -> None:
    refused(workshop, [data], why)


def test_6_digest_and_files_come_from_one_read(workshop: Workshop) -> None:
    inner = header(b"smuggled", 4) + padded(b"evil")
    data = pax({b"size": b"%d" % len(inner)}) + header(b"outer", 0) + inner + END
    tree = workshop.tree(workshop.unpack([data]))
    assert sorted(tree) == [".", "outer"]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_6_digest_covers_every_byte(workshop: Workshop, compression: str) -> None:
    """The padding after the archive is part of the diff_id too."""
    good = layer({"f": "x"})
    image = images.Image([good], compression=compression)
    other = images.compress(good + bytes(512), compression)
    image.blobs[0] = other
    image.manifest["layers"] = [images.descriptor(other, images._LAYER_TYPES[compression])]
    with pytest.raises(RlessError, match="but the image says"):
        workshop.unpack(image)
    assert not workshop.contents()


# -- 7: bombs ------------------------------------------------------------------------------------


def test_7_declared_sizes_are_checked_against_free_space(workshop: Workshop) -> None:
    room = os.statvfs(workshop.directory)
    size = room.f_bavail * room.f_frsize + (1 << 30)
    if size > limits.LAYER_BYTES:
        size = limits.LAYER_BYTES
        refused(workshop, [header(b"f", b"\x80" + (size + 1).to_bytes(11, "big"))], "a member of")
        return
    data = header(b"f", b"\x80" + size.to_bytes(11, "big")) + b"x" * 10_000
    refused(workshop, [data], "No space left on device")


def test_7_giant_sparse_file_is_refused(workshop: Workshop) -> None:
    size = b"%d" % (1 << 50)
    data = pax({b"GNU.sparse.size": size, b"GNU.sparse.map": b"0,0"}) + header(b"s") + END
    refused(workshop, [data], "a sparse file of")


def test_7_limits_are_enforced(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEMBERS", 100)
    refused(workshop, [layer({f"f{n}": "" for n in range(101)})], "more than 100 members")
    monkeypatch.setattr(limits, "LAYER_BYTES", 10_000)
    refused(workshop, [layer({"f": b"x" * 10_001})], "a member of 10001 bytes")
    refused(workshop, [layer({"f": b"x" * 6000, "g": b"x" * 6000})], "more than 10000 bytes")
    monkeypatch.setattr(limits, "TRAILING_BYTES", 100)
    refused(workshop, [layer({"f": "x"}) + bytes(1024)], "too much padding")


def test_7_directory_times_take_bounded_memory(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "_DEFERRED", 5)
    entries: dict[str, Value] = {f"d{n}": Dir(mtime=n, mode=0o2755) for n in range(20)}
    tree = workshop.tree(workshop.unpack([layer(entries)]))
    assert all(tree[f"d{n}"]["mtime"] == n * 10**9 for n in range(20))
    assert all(tree[f"d{n}"]["mode"] == 0o2755 for n in range(20))


def test_7_partial_layer_is_removed(workshop: Workshop) -> None:
    entries: dict[str, Value] = {f"d/{n}": Dir(mode=0, uid=n % 9) for n in range(200)}
    refused(workshop, [layer(entries)[:-5000] + b"junk" * 200], "broken tar")


# -- 8: devices and pipes --------------------------------------------------------------------------


def test_8_no_device_is_created(workshop: Workshop) -> None:
    entries = {
        "dev/sda": images.Device(block=True, major=8, minor=0, mode=0o666),
        "null": images.Device(mode=0o666),
        "whiteout": images.Device(major=0, minor=0),
    }
    tree = workshop.tree(workshop.unpack([layer(entries | {"f": "x"})]))
    assert [
        facts["kind"] for facts in tree.values() if facts["kind"] in ("character", "block")
    ] == []


def test_8_fifo_as_passwd_does_not_block(workshop: Workshop) -> None:
    image = workshop.unpack([layer({"etc/passwd": Fifo(), "etc/group": Fifo()})])
    assert image.users == {"passwd": "", "group": ""}


# -- 9: set-id bits on disk ------------------------------------------------------------------------


def test_9_store_is_private(workshop: Workshop) -> None:
    image = workshop.unpack([layer({"su": File("x", mode=0o6755)})])
    assert stat.S_IMODE(os.stat(workshop.root).st_mode) == 0o700
    for part in ("layers", "images", "blobs", "tmp"):
        assert os.stat(f"{workshop.root}/{part}").st_mode & 0o077 == 0, part
    for key in image.keys:
        assert os.stat(f"{workshop.root}/layers/{key}").st_mode & 0o077 == 0


def test_9_store_accessible_to_others_is_refused(workshop: Workshop) -> None:
    os.mkdir(workshop.root, 0o700)
    os.chmod(workshop.root, 0o755)
    with pytest.raises(RlessError, match="open to other users"):
        workshop.unpack([layer({"f": "x"})])


# -- 10: extended attributes -----------------------------------------------------------------------


def test_10_only_harmless_xattrs_are_kept(workshop: Workshop) -> None:
    hostile = {
        "user.overlay.opaque": b"y",
        "user.overlay.redirect": b"/etc",
        "user.overlay.metacopy": b"",
        "user.fuseoverlayfs.opaque": b"y",
        "user.fuseoverlayfs.override_stat": b"0:0:6755",
        "user.containers.override_stat": b"0:0:6755",
        "trusted.overlay.opaque": b"y",
        "security.ima": b"x",
        "system.posix_acl_access": b"x",
        "security.capability": b"too short",
    }
    entries = {
        "d": Dir(xattrs=hostile),
        "f": File("x", xattrs=hostile | {"user.good": b"1"}),
        "": Dir(xattrs=hostile),
        "v3": File("x", xattrs={"security.capability": b"\x01\0\0\x03" + bytes(16) + b"\1\0\0\0"}),
    }
    tree = workshop.tree(workshop.unpack([layer({"d/low": "x"}), layer(entries)]))
    assert tree["d"]["xattrs"] == {} and tree["."]["xattrs"] == {} and tree["v3"]["xattrs"] == {}
    assert tree["f"]["xattrs"] == {"user.good": "31"}


def test_10_refused_xattrs_are_tolerated(workshop: Workshop) -> None:
    many = {f"user.{n}": b"x" * 3000 for n in range(40)}
    image = workshop.unpack([layer({"f": File("text", xattrs=many)})])
    assert workshop.tree(image)["f"]["text"] == "text"


# -- 11: trees that cannot be deleted --------------------------------------------------------------


def test_11_any_tree_can_be_deleted(workshop: Workshop) -> None:
    deep = "/".join(["d"] * 1800)
    entries: dict[str, Value] = {
        "locked": Dir(mode=0, uid=4321),
        "locked/in": Dir(mode=0, uid=77, gid=88),
        "locked/in/f": File("x", mode=0, uid=99),
        deep: "x",
    }
    image = workshop.unpack([layer(entries)])
    (key,) = image.keys
    directory = f"{workshop.root}/layers/{key}"
    for name in os.listdir(directory):
        delete_any(directory, name)
    assert os.listdir(directory) == []


def test_11_killed_pull_of_a_hostile_tree_is_cleaned_up(workshop: Workshop) -> None:
    workshop.unpack([layer({"f": "x"})])
    left = f"{workshop.root}/tmp/1-abc"
    os.mkdir(left)
    call_in_userns(everything(), _make_locked, left)
    Path(f"{left}.lock").write_text("")
    workshop.unpack([layer({"g": "y"})])
    assert os.listdir(f"{workshop.root}/tmp") == []


def _make_locked(directory: str) -> None:
    os.makedirs(f"{directory}/a/b", 0o700)
    os.chown(f"{directory}/a/b", 5, 5)
    os.chmod(f"{directory}/a/b", 0)
    os.chown(f"{directory}/a", 6, 6)
    os.chmod(f"{directory}/a", 0)
