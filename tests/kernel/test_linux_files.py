"""Paths beneath a hostile root, and mounts by descriptor, on the real kernel."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from rootless.errors import SyscallError
from rootless.linux import files, idmap, mount, tree
from rootless.linux.idmap import IdMap
from rootless.linux.openat2 import (
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    make_dirs,
    make_file,
    openat2,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """Make <tmp>/root (returned as a descriptor) beside <tmp>/outside, with hostile links."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    inside = tmp_path / "root"
    (inside / "real" / "dir").mkdir(parents=True)
    (inside / "real" / "file").write_text("inside")
    links = {
        "absolute": str(outside),
        "relative": "../outside",
        "deep": "real/../../../../../../../../../../outside",
        "magic": f"/proc/self/fd/{os.open(outside, os.O_PATH)}",
        "loop": "loop",
        "to-real": "/real",
        "up": "..",
        "dangling": "made/later",
        "dangling-out": f"{outside}/made",
        "dangling-up": "../../outside/made",
    }
    for name, target in links.items():
        (inside / name).symlink_to(target)
    fd = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def where(fd: int) -> str:
    path = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    return path


# -- openat2 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["absolute/secret", "relative/secret", "deep/secret", "../outside/secret", "up/outside/secret"],
)
def test_nothing_outside_is_opened(root: int, path: str) -> None:
    """Classes 1 and 2."""
    for name in (path, path.encode(), f"/{path}"):
        with pytest.raises(SyscallError) as caught:
            openat2(root, name, os.O_RDONLY)
        assert caught.value.errno == errno.ENOENT
    with pytest.raises(SyscallError):
        openat2(root, path, os.O_WRONLY | os.O_CREAT, 0o600)


def test_magic_links_are_refused(root: int, tmp_path: Path) -> None:
    """A link to /proc/self/fd/N: in a container's own /proc it would lead out."""
    (tmp_path / "root" / "proc").mkdir()
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    for path in ("self/root", "self/cwd", "self/exe", "self/fd/0"):
        with pytest.raises(SyscallError) as caught:
            openat2(proc, path, os.O_PATH)
        assert caught.value.errno == errno.ELOOP
    os.close(proc)
    with pytest.raises(SyscallError):
        openat2(root, "magic/secret", os.O_RDONLY)


def test_links_inside_are_followed_inside(root: int, tmp_path: Path) -> None:
    assert where(openat2(root, "to-real/file", os.O_RDONLY)) == f"{tmp_path}/root/real/file"
    assert where(openat2(root, "/to-real/../../..", os.O_PATH)) == f"{tmp_path}/root"
    assert where(openat2(root, "up", os.O_PATH)) == f"{tmp_path}/root"
    with pytest.raises(SyscallError) as caught:
        openat2(root, "loop", os.O_PATH)
    assert caught.value.errno == errno.ELOOP


def test_resolve_flags_are_honoured(root: int) -> None:
    for resolve, path, number in (
        (RESOLVE_BENEATH, "../outside", errno.EXDEV),
        (RESOLVE_BENEATH, "/real", errno.EXDEV),
        (RESOLVE_NO_SYMLINKS, "to-real/file", errno.ELOOP),
    ):
        with pytest.raises(SyscallError) as caught:
            openat2(root, path, os.O_PATH, resolve=resolve)
        assert caught.value.errno == number
    slash = os.open("/", os.O_PATH | os.O_DIRECTORY)
    with pytest.raises(SyscallError) as caught:
        openat2(slash, "proc/self", os.O_PATH, resolve=RESOLVE_NO_XDEV)
    os.close(slash)
    assert caught.value.errno == errno.EXDEV


def test_descriptors_are_not_inherited(root: int) -> None:
    fd = openat2(root, "real", os.O_PATH)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_names_outside_utf8_are_opened(root: int, tmp_path: Path) -> None:
    name = b"\xff\xfe"
    os.close(openat2(root, name, os.O_WRONLY | os.O_CREAT, 0o600))
    assert name in os.listdir(os.fsencode(tmp_path / "root"))
    os.close(openat2(root, os.fsdecode(name), os.O_RDONLY))


def test_race_with_renames_opens_nothing_outside(root: int, tmp_path: Path) -> None:
    """Class 26: while `..` is resolved, the directory is moved out of the root and back."""
    inside, outside = tmp_path / "root" / "real" / "dir", tmp_path / "outside" / "dir"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(inside, outside)
            os.rename(outside, inside)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(2000):
            with contextlib.suppress(SyscallError):
                path = where(openat2(root, "real/dir/../../../secret", os.O_PATH))
                raise AssertionError(path)
    finally:
        stop.set()
        thread.join()


# -- make_dirs, make_file ------------------------------------------------------------------------


def test_make_dirs_creates_parents(root: int, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        fd = make_dirs(root, "/a/./b//c/", 0o750)
    finally:
        os.umask(before)
    assert where(fd) == f"{tmp_path}/root/a/b/c"
    assert stat.S_IMODE((tmp_path / "root" / "a").stat().st_mode) == 0o750
    assert where(make_dirs(root, b"a/b/c")) == f"{tmp_path}/root/a/b/c"
    assert where(make_dirs(root, "")) == f"{tmp_path}/root"
    assert where(make_dirs(root, "/../../..")) == f"{tmp_path}/root"


@pytest.mark.parametrize(
    "path",
    [
        "absolute/made",
        "relative/made",
        "deep/made",
        "../outside/made",
        "up/up/outside/made",
        "dangling-out",
        "dangling-up",
        "dangling-out/below",
        "magic/made",
    ],
)
def test_nothing_outside_is_created(root: int, tmp_path: Path, path: str) -> None:
    """Classes 1, 2 and 26: it is made inside the root, or not at all."""
    for make in (make_dirs, make_file):
        with contextlib.suppress(SyscallError):
            made = where(make(root, path))
            assert made.startswith(f"{tmp_path}/root/")
        assert os.listdir(tmp_path / "outside") == ["secret"]
        assert sorted(os.listdir(tmp_path)) == ["outside", "root"]


def test_dangling_links_are_resolved_inside(root: int, tmp_path: Path) -> None:
    assert where(make_dirs(root, "dangling/below")) == f"{tmp_path}/root/made/later/below"
    assert where(make_dirs(root, "dangling")) == f"{tmp_path}/root/made/later"


def test_make_dirs_reports_errors(root: int) -> None:
    for path, number in (("real/file/x", errno.ENOTDIR), ("loop/x", errno.ELOOP)):
        with pytest.raises(SyscallError) as caught:
            make_dirs(root, path)
        assert caught.value.errno == number
    with pytest.raises(SyscallError) as caught:
        make_dirs(root, "x" * 300)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_make_dirs_leaves_no_descriptor(root: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("a/b/c", "dangling/x", "real/file/x", "loop", "dangling-out/x"):
        with contextlib.suppress(SyscallError):
            os.close(make_dirs(root, path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_make_file_creates_a_file(root: int, tmp_path: Path) -> None:
    assert where(make_file(root, "new/file")) == f"{tmp_path}/root/new/file"
    assert (tmp_path / "root/new/file").read_text() == ""
    os.close(make_file(root, "real/file"))
    assert (tmp_path / "root/real/file").read_text() == "inside"


def test_make_file_does_not_open_a_fifo(root: int, tmp_path: Path) -> None:
    """Class 8: a FIFO of the image must not make us wait."""
    os.mkfifo(tmp_path / "root" / "fifo")
    with contextlib.suppress(SyscallError):
        os.close(make_file(root, "fifo"))


# -- mounts by descriptor ------------------------------------------------------------------------


def in_namespace(function: Any) -> Any:
    """Call a function in a new user and mount namespace."""
    own = IdMap([(0, os.getuid(), 1)], [(0, os.getgid(), 1)], "single")
    return idmap.call_in_userns(own, function)


def failing(function: Any, *args: Any, **keywords: Any) -> int:
    """Return the errno of a call that must fail."""
    try:
        function(*args, **keywords)
    except SyscallError as error:
        return error.errno
    except OSError as error:
        return error.errno or 0
    return 0


needs_userns = pytest.mark.needs("user namespaces", "ordinary user")


@needs_userns
def test_new_tmpfs_is_mounted_by_descriptor(tmp_path: Path) -> None:
    """It exists as a descriptor first, and is seen at its target after move_mount."""

    def inside() -> Any:
        attributes = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC
        fd = mount.new_mount("tmpfs", [("size", "64k"), ("mode", "0751")], attributes)
        os.close(os.open("detached", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        before = os.listdir(tmp_path)
        target = os.open(tmp_path, os.O_PATH)
        mount.move_mount(fd, target)
        found = os.statvfs(tmp_path)
        return (
            before,
            os.listdir(tmp_path),
            stat.S_IMODE(os.stat(tmp_path).st_mode),
            found.f_blocks * found.f_frsize,
            found.f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC),
        )

    before, after, mode, size, flags = in_namespace(inside)
    assert before == []
    assert after == ["detached"]
    assert mode == 0o751
    assert size == 65536
    assert flags == os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC


@needs_userns
def test_new_mount_reports_errors() -> None:
    def inside() -> Any:
        return [
            failing(mount.new_mount, "nofs"),
            failing(mount.new_mount, "tmpfs", [("size", "many")]),
            failing(mount.new_mount, "tmpfs", [("nonsense", None)]),
            failing(mount.new_mount, "ext4"),
            len(os.listdir("/proc/self/fd")),
        ]

    *numbers, count = in_namespace(inside)
    assert numbers[:3] == [errno.ENODEV, errno.EINVAL, errno.EINVAL]
    assert numbers[3] in (errno.EPERM, errno.ENODEV)
    assert count == in_namespace(lambda: len(os.listdir("/proc/self/fd")))


@needs_userns
def test_open_tree_clones_a_read_only_tree(tmp_path: Path) -> None:
    """mount_setattr makes the copy read-only, the mounts below it too, and only the copy."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "below").mkdir(parents=True)
    target.mkdir()

    def inside() -> Any:
        mount.mount("tmpfs", str(source / "below"), "tmpfs")
        root = os.open(tmp_path, os.O_PATH)
        fd = mount.open_tree(root, "source")
        mount.mount_setattr(fd, set_=mount.MOUNT_ATTR_RDONLY, recursive=True)
        mount.move_mount(fd, os.open(target, os.O_PATH))
        result = [
            failing((target / "file").touch),
            failing((target / "below" / "file").touch),
            failing((source / "file").touch),
            failing((source / "below" / "file").touch),
            failing(os.chmod, target, 0o700),
        ]
        # Without `recursive` only the top changes.
        mount.mount_setattr(os.open(target, os.O_PATH), clear=mount.MOUNT_ATTR_RDONLY)
        return [*result, failing((target / "two").touch), failing((target / "below/two").touch)]

    numbers = in_namespace(inside)
    assert numbers == [errno.EROFS, errno.EROFS, 0, 0, errno.EROFS, 0, errno.EROFS]


@needs_userns
def test_open_tree_takes_files_and_descriptors(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")

    def inside() -> Any:
        file = os.open(tmp_path / "a", os.O_PATH)
        fd = mount.open_tree(file, "", recursive=False)
        mount.move_mount(fd, os.open(tmp_path / "b", os.O_PATH))
        return (tmp_path / "b").read_text()

    assert in_namespace(inside) == "a"
    assert (tmp_path / "b").read_text() == "b"


@needs_userns
def test_locked_attributes_are_kept(tmp_path: Path) -> None:
    """What a parent user namespace made read-only, a child cannot make writable."""

    def outer() -> Any:
        mount.mount("tmpfs", str(tmp_path), "tmpfs", mount.MS_RDONLY)

        def inner() -> Any:
            fd = os.open(tmp_path, os.O_PATH)
            return [
                failing(mount.mount_setattr, fd, clear=mount.MOUNT_ATTR_RDONLY),
                failing(mount.umount, str(tmp_path)),
            ]

        nested = IdMap([(0, 0, 1)], [(0, 0, 1)], "nested")
        return idmap.call_in_userns(nested, inner)

    assert in_namespace(outer) == [errno.EPERM, errno.EINVAL]


@needs_userns
def test_move_mount_ignores_a_swapped_link(tmp_path: Path) -> None:
    """Class 26: the target is the descriptor, whatever its name has become."""
    (tmp_path / "target").mkdir()
    (tmp_path / "victim").mkdir()

    def inside() -> Any:
        target = os.open(tmp_path / "target", os.O_PATH)
        os.rename(tmp_path / "target", tmp_path / "moved")
        os.symlink("victim", tmp_path / "target")
        fd = mount.new_mount("tmpfs")
        mount.move_mount(fd, target)
        return [os.path.ismount(tmp_path / name) for name in ("moved", "victim", "target")]

    assert in_namespace(inside) == [True, False, False]


@needs_userns
def test_propagation_is_changed(tmp_path: Path) -> None:
    def inside() -> Any:
        mount.mount("tmpfs", str(tmp_path), "tmpfs")
        found = []
        for propagation in (mount.MS_SHARED, mount.MS_PRIVATE, mount.MS_UNBINDABLE):
            fd = os.open(tmp_path, os.O_PATH)
            mount.mount_setattr(fd, propagation=propagation)
            with open("/proc/self/mountinfo", encoding="utf-8") as file:
                line = next(line for line in file if line.split()[4] == str(tmp_path))
            found.append(line.split(" - ")[0].split()[6:])
        return found

    shared, private, unbindable = in_namespace(inside)
    assert shared[0].startswith("shared:")
    assert private == []
    assert unbindable == ["unbindable"]


@needs_userns
def test_pivot_root_changes_the_root(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()

    def inside() -> Any:
        new = str(tmp_path / "new")
        not_a_mount = failing(mount.pivot_root, new, new)
        mount.mount("tmpfs", new, "tmpfs")
        os.mkdir(f"{new}/here")
        os.chdir(new)
        mount.pivot_root(".", ".")
        mount.umount(".")
        return [not_a_mount, os.listdir("/"), os.path.exists(tmp_path)]

    assert in_namespace(inside) == [errno.EINVAL, ["here"], False]


@needs_userns
def test_umount_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    def inside() -> Any:
        mount.mount("tmpfs", str(tmp_path / "real"), "tmpfs")
        number = failing(mount.umount, str(tmp_path / "link"))
        still = os.path.ismount(tmp_path / "real")
        mount.umount(str(tmp_path / "real"))
        return [number, still, os.path.ismount(tmp_path / "real")]

    assert in_namespace(inside) == [errno.EINVAL, True, False]


@needs_userns
def test_error_names_the_system_call() -> None:
    def inside() -> Any:
        try:
            mount.fsopen("nofs")
        except SyscallError as error:
            return error.message
        return None

    assert in_namespace(inside) == "fsopen(nofs): No such device"
    with pytest.raises(SyscallError, match=r"umount\(/nothing\): "):
        mount.umount("/nothing")


def test_disk_usage_agrees_with_du(tmp_path: Path) -> None:
    """Holes, hard links, links, depth beyond PATH_MAX; each inode once, over several calls too."""
    tree_ = tmp_path / "tree"
    (tree_ / "sub").mkdir(parents=True)
    (tree_ / "full").write_bytes(bytes(100_000))
    os.link(tree_ / "full", tree_ / "sub" / "again")
    os.link(tree_ / "full", tmp_path / "outside")
    (tree_ / "link").symlink_to("/")
    with open(tree_ / "sparse", "wb") as file:
        file.truncate(1 << 30)
    deep = os.open(tree_, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(400):
        os.mkdir("d" * 20, dir_fd=deep)
        below = os.open("d" * 20, os.O_RDONLY | os.O_DIRECTORY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    done = subprocess.run(["du", "-sB1", str(tree_)], capture_output=True, text=True, check=True)
    expected = int(done.stdout.split()[0])
    dir_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        seen: set[tuple[int, int]] = set()
        assert tree.disk_usage(dir_fd, "tree", seen) == expected
        assert tree.disk_usage(dir_fd, "outside", seen) == 0
        assert tree.disk_usage(dir_fd, "outside", set()) > 0
        assert tree.disk_usage(dir_fd, "absent", seen) == 0
        assert tree.disk_usage(dir_fd, ".", set()) >= expected
    finally:
        tree.remove_tree(dir_fd, "tree")
        os.close(dir_fd)


def test_two_directories_change_places(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other" / "sub").mkdir(parents=True)
    before = (tmp_path / "one").stat().st_ino
    files.exchange(str(tmp_path / "one"), str(tmp_path / "other"))
    assert (tmp_path / "one" / "sub").is_dir()
    assert (tmp_path / "other").stat().st_ino == before
    for names in (("one", "nowhere"), ("nowhere", "one")):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            files.exchange(*(str(tmp_path / name) for name in names))
    assert (tmp_path / "one" / "sub").is_dir()


def test_two_directories_change_places_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_RENAME_EXCHANGE", 1 << 30)  # EINVAL, as on NFS
    test_two_directories_change_places(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["one", "other"]


def test_mapped_file_outlives_its_descriptor_and_name(tmp_path: Path) -> None:
    content = os.urandom(3 * 4096 + 17)
    path = tmp_path / "file"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    before = set(os.listdir("/proc/self/fd"))
    mapped = files.map_file(fd, len(content))
    assert set(os.listdir("/proc/self/fd")) <= before
    os.close(fd)
    path.unlink()
    assert bytes(mapped) == content
    assert bytes(mapped[4090:4100]) == content[4090:4100]
    assert mapped.readonly


def test_unmappable_file_is_an_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(SyscallError) as caught:
        files.map_file(fd, 1)
    assert caught.value.errno == errno.ENODEV
    os.close(fd)
