"""The rootfs drivers show the same files: each case runs with every driver, map and store."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from rootless import rootfs
from rootless.errors import RlessError
from rootless.linux import mount as mounts
from tests.lib import engine_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rootless.linux.idmap import IdMap

pytestmark = pytest.mark.needs("user namespaces")
FUSE = pytest.mark.needs("fuse", "fuse-overlayfs")
DRIVERS = [
    pytest.param("overlay"),
    pytest.param("fuse-overlayfs", marks=FUSE),
    pytest.param("copy"),
]
SUBORDINATE = pytest.mark.needs("subordinate ids")
MAPS = [
    pytest.param("host-root", marks=SUBORDINATE),
    pytest.param("u1000", marks=SUBORDINATE),
    pytest.param("single"),
    pytest.param("single-u1000"),
]
OLD = 1_000_000_007_123_456_789  # nanoseconds


@pytest.fixture(params=["/var/tmp", "/dev/shm"])
def storage(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give an empty directory on a disk and on a tmpfs."""
    path = f"{request.param}/rless-test-rootfs-{os.getpid()}"
    os.mkdir(path, 0o700)
    yield path
    name = read(f"{path}/.map") if os.path.exists(f"{path}/.map") else "single"
    engine_namespace.run(engine_namespace.make_map(name), rootfs.remove_workspace, path)
    assert not os.path.exists(path)


def run(storage: str, map_name: str, function, *args):  # type: ignore[no-untyped-def]
    """Run as the engine does, and note the map for the removal of the storage."""
    with open(f"{storage}/.map", "w") as file:
        file.write(map_name)
    idmap = engine_namespace.make_map(map_name)
    return engine_namespace.run(idmap, function, storage, idmap, *args)


def write(path: str, text: str = "", mode: int = 0o644) -> None:
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def layer(storage: str, name: str, *directories: str) -> str:
    """Make a layer as unpacking does: its root belongs to the container's root."""
    path = f"{storage}/{name}"
    os.mkdir(path, 0o755)
    for directory in directories:
        os.makedirs(f"{path}/{directory}")
    try:
        os.chown(path, 0, 0)
    except OSError:
        pass  # one id is mapped, and it is not 0
    return path


def workspace(storage: str, name: str = "c") -> str:
    path = f"{storage}/{name}"
    os.makedirs(path, 0o700, exist_ok=True)
    return path


def whiteout(path: str, form: str) -> None:
    if form == "overlay":
        os.mknod(path, stat.S_IFCHR, 0)
    else:
        directory, name = os.path.split(path)
        write(f"{directory}/.wh.{name}")


def opaque(path: str, form: str) -> None:
    if form == "overlay":
        os.setxattr(path, "user.overlay.opaque", b"y")
    else:
        write(f"{path}/.wh..wh..opq")


def tree(path: str) -> list[str]:
    """Return every path below `path`, sorted."""
    found = []
    for parent, directories, files in os.walk(path):
        found += [os.path.relpath(f"{parent}/{name}", path) for name in directories + files]
    return sorted(found)


@pytest.mark.parametrize("map_name", MAPS)
@pytest.mark.parametrize(
    ("driver", "form"),
    [
        pytest.param("overlay", "overlay"),
        pytest.param("fuse-overlayfs", "overlay", marks=FUSE),
        pytest.param("fuse-overlayfs", "aufs", marks=FUSE),
        pytest.param("copy", "overlay"),
        pytest.param("copy", "aufs"),
    ],
)
def test_whiteouts_and_opaque_directories_hide_files(
    storage: str, driver: str, map_name: str, form: str
) -> None:
    def case(storage: str, idmap: IdMap) -> list[str]:
        one = layer(storage, "1", "hidden/deep/er", "opaque/a", "kept/a", "file", "gone")
        for name in ("deleted", "replaced", "directory", "opaque/f", "kept/f", "kept/g"):
            write(f"{one}/{name}", "1")
        two = layer(storage, "2", "opaque/b", "kept", "directory")
        whiteout(f"{two}/deleted", form)
        whiteout(f"{two}/hidden", form)
        whiteout(f"{two}/kept/f", form)
        whiteout(f"{two}/never-was", form)
        opaque(f"{two}/opaque", form)
        write(f"{two}/replaced", "2")
        write(f"{two}/file", "a file now")
        whiteout(f"{two}/gone", form)
        three = layer(storage, "3", "hidden/again")
        if form == "overlay":
            opaque(f"{three}/hidden", form)
        mounted = rootfs.mount(
            [one, two, three], workspace(storage), idmap, driver=driver, whiteouts=form
        )
        assert read(f"{mounted.path}/replaced") == "2"
        assert os.path.isfile(f"{mounted.path}/file")
        assert os.path.isdir(f"{mounted.path}/directory")
        result = tree(mounted.path)
        rootfs.unmount(mounted)
        return result

    assert run(storage, map_name, case) == sorted(
        "directory file hidden hidden/again kept kept/a kept/g opaque opaque/b replaced".split()
    )


@pytest.mark.parametrize("map_name", MAPS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_attributes_survive(storage: str, driver: str, map_name: str) -> None:
    def case(storage: str, idmap: IdMap) -> None:
        one = layer(storage, "1", "dir/sub")
        os.chmod(one, 0o751)
        write(f"{one}/first", "linked")
        os.link(f"{one}/first", f"{one}/dir/second")
        os.link(f"{one}/first", f"{one}/dir/sub/third")
        os.symlink("../target", f"{one}/dir/link")
        write(f"{one}/set-id", "", 0o4755)
        os.mkfifo(f"{one}/fifo", 0o600)
        os.setxattr(f"{one}/first", "user.note", b"\0value")
        os.setxattr(f"{one}/dir", "user.note", b"of a directory")
        write(f"{one}/sparse")
        os.truncate(f"{one}/sparse", 1 << 30)
        with open(f"{one}/sparse", "r+b") as file:
            file.seek(1 << 29)
            file.write(b"middle")
        write(f"{one}/dir/unreadable", "secret", 0)
        write(f"{one}/caps", "", 0o755)
        # struct vfs_cap_data, version 2: cap_net_raw+ep
        capability = bytes.fromhex("0100000200200000000000000000000000000000")
        if idmap.host_uid(0) is not None:
            os.setxattr(f"{one}/caps", "security.capability", capability)
        owners = not idmap.single
        if owners:
            os.chown(f"{one}/dir/unreadable", 5, 6)
            os.chown(f"{one}/dir/link", 7, 8, follow_symlinks=False)
            os.chown(f"{one}/dir", 9, 10)
        for name in ("dir/link", "dir/second", "dir/sub", "dir", "fifo"):
            os.utime(f"{one}/{name}", ns=(OLD, OLD), follow_symlinks=False)
        mounted = rootfs.mount([one], workspace(storage), idmap, driver=driver)
        root = mounted.path
        names = ("first", "dir/second", "dir/sub/third")
        assert len({os.stat(f"{root}/{name}").st_ino for name in names}) == 1
        assert os.stat(f"{root}/first").st_nlink == 3
        assert os.readlink(f"{root}/dir/link") == "../target"
        assert stat.S_IMODE(os.stat(f"{root}/set-id").st_mode) == 0o4755
        assert stat.S_ISFIFO(os.stat(f"{root}/fifo").st_mode)
        assert os.getxattr(f"{root}/first", "user.note") == b"\0value"
        assert os.getxattr(f"{root}/dir", "user.note") == b"of a directory"
        if idmap.host_uid(0) is not None:
            assert os.getxattr(f"{root}/caps", "security.capability") == capability
        sparse = os.stat(f"{root}/sparse")
        assert (sparse.st_size, sparse.st_blocks < 2048) == (1 << 30, True)
        with open(f"{root}/sparse", "rb") as file:
            file.seek((1 << 29) - 1)
            assert file.read(8) == b"\0middle\0"
        assert stat.S_IMODE(os.stat(f"{root}/dir/unreadable").st_mode) == 0
        assert read(f"{root}/dir/unreadable") == "secret"  # we have CAP_DAC_OVERRIDE here
        if owners:
            assert owner(f"{root}/dir/unreadable") == (5, 6)
            assert owner(f"{root}/dir/link") == (7, 8)
            assert owner(f"{root}/dir") == (9, 10)
        for name in ("dir/link", "dir/second", "dir/sub", "dir", "fifo"):
            assert os.lstat(f"{root}/{name}").st_mtime_ns == OLD, name
        assert stat.S_IMODE(os.stat(root).st_mode) == 0o751
        expected = (0, 0) if idmap.host_uid(0) is not None else (1000, 1000)
        assert owner(root) == expected
        rootfs.unmount(mounted)

    run(storage, map_name, case)


def owner(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_uid, status.st_gid


@pytest.mark.parametrize("map_name", MAPS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_changes_stay_private_and_survive_a_restart(
    storage: str, driver: str, map_name: str
) -> None:
    def case(storage: str, idmap: IdMap) -> None:
        one = layer(storage, "1", "dir/sub", "other")
        for name in ("a", "b", "dir/f"):
            write(f"{one}/{name}", "old")
        before = tree(one)
        place = workspace(storage)
        mounted = rootfs.mount([one], place, idmap, driver=driver)
        root = mounted.path
        write(f"{root}/a", "new")
        os.unlink(f"{root}/b")
        os.unlink(f"{root}/dir/f")
        os.rmdir(f"{root}/dir/sub")
        os.rmdir(f"{root}/dir")
        os.mkdir(f"{root}/dir")
        write(f"{root}/dir/new", "new")
        os.rename(f"{root}/dir/new", f"{root}/other/moved")
        os.chmod(root, 0o700)
        if not idmap.single:
            os.chown(f"{root}/a", 33, 33)
        expected = tree(root)
        assert expected == ["a", "dir", "other", "other/moved"]
        rootfs.unmount(mounted)
        assert tree(one) == before
        assert read(f"{one}/a") == "old"
        again = rootfs.mount([one], place, idmap, driver=driver)
        assert tree(again.path) == expected
        assert read(f"{again.path}/a") == "new"
        assert stat.S_IMODE(os.stat(again.path).st_mode) == 0o700
        if not idmap.single:
            assert owner(f"{again.path}/a") == (33, 33)
        rootfs.unmount(again)

    run(storage, map_name, case)


@pytest.mark.parametrize("count", [0, 1, 110, 300, 499])
@pytest.mark.parametrize("driver", DRIVERS)
def test_many_layers_are_shown(storage: str, driver: str, count: int) -> None:
    def case(storage: str, idmap: IdMap) -> None:
        layers = []
        for number in range(count):
            path = layer(storage, f"{number:064x}", "common")
            write(f"{path}/{number}", str(number))
            write(f"{path}/common/top", str(number))
            layers.append(path)
        os.chdir(storage)
        descriptors = os.listdir("/proc/self/fd")
        mounted = rootfs.mount(layers, workspace(storage), idmap, driver=driver)
        assert os.getcwd() == storage
        assert os.listdir("/proc/self/fd") == descriptors
        names = set(os.listdir(mounted.path)) - {"common"}
        assert names == {str(number) for number in range(count)}
        if count:
            assert read(f"{mounted.path}/common/top") == str(count - 1)
        write(f"{mounted.path}/writable")
        rootfs.unmount(mounted)

    run(storage, "single", case)


@pytest.mark.needs("fuse", "fuse-overlayfs")
def test_layers_beyond_the_kernel_limit_are_shown(storage: str) -> None:
    def case(storage: str, idmap: IdMap) -> tuple[str, list[str]]:
        layers = [layer(storage, str(number)) for number in range(501)]
        mounted = rootfs.mount(layers, workspace(storage), idmap)
        rootfs.unmount(mounted)
        return mounted.driver, mounted.why

    driver, why = run(storage, "single", case)
    assert driver == "fuse-overlayfs"
    assert why[0].startswith("overlay: ")


@pytest.mark.parametrize("name", ["a:b", "a,b", "a\\b", "ä b", "a=b", "a\nb"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_odd_storage_paths_work(storage: str, driver: str, name: str) -> None:
    def case(storage: str, idmap: IdMap) -> None:
        os.mkdir(f"{storage}/{name}")
        one = layer(f"{storage}/{name}", "1", "x")
        two = layer(f"{storage}/{name}", "2", "y")
        place = workspace(f"{storage}/{name}")
        if driver == "fuse-overlayfs" and ":" in name:
            with pytest.raises(RlessError, match="colon"):
                rootfs.mount([one, two], place, idmap, driver=driver)
            return
        mounted = rootfs.mount([one, two], place, idmap, driver=driver)
        assert tree(mounted.path) == ["x", "y"]
        os.mkdir(f"{mounted.path}/z")
        rootfs.unmount(mounted)

    run(storage, "single", case)


def test_overlay_refuses_aufs_whiteouts(storage: str) -> None:
    def case(storage: str, idmap: IdMap) -> tuple[str, list[str]]:
        one = layer(storage, "1")
        mounted = rootfs.mount([one], workspace(storage), idmap, whiteouts="aufs")
        rootfs.unmount(mounted)
        return mounted.driver, mounted.why

    driver, why = run(storage, "single", case)
    assert driver != "overlay"
    assert ".wh." in why[0]


def test_volatile_overlay_can_be_mounted_again(storage: str) -> None:
    """The kernel leaves work/incompat/volatile behind and refuses every later mount."""

    def case(storage: str, idmap: IdMap) -> list[str]:
        one = layer(storage, "1")
        place = workspace(storage)
        options = []
        for volatile in (True, False, True, True):
            mounted = rootfs.mount([one], place, idmap, driver="overlay", volatile=volatile)
            options.append(mounted.options.rpartition(",")[2])
            rootfs.unmount(mounted)
        return options

    assert run(storage, "single", case)[:2] == ["volatile", "userxattr"]


def test_overlay_has_no_devices(storage: str) -> None:
    """Class 8: a device node of an image is never a device."""

    def case(storage: str, idmap: IdMap) -> str:
        mounted = rootfs.mount([layer(storage, "1")], workspace(storage), idmap)
        with open("/proc/self/mountinfo") as file:
            lines = [line.split() for line in file]
        rootfs.unmount(mounted)
        return next(line[5] for line in lines if line[4] == mounted.path)

    assert "nodev" in run(storage, "single", case).split(",")


def test_missing_layer_is_named(storage: str) -> None:
    def case(storage: str, idmap: IdMap) -> str:
        one = layer(storage, "1")
        with pytest.raises(RlessError) as caught:
            rootfs.mount([one, f"{storage}/absent"], workspace(storage), idmap)
        return str(caught.value)

    assert f"{storage}/absent" in run(storage, "single", case)


def test_full_disk_is_reported_at_once(storage: str) -> None:
    """Another driver would only fail later, after it has copied half of the image."""

    def case(storage: str, idmap: IdMap) -> str:
        place = workspace(storage)
        one = layer(storage, "1")
        mounts.mount("tmpfs", place, "tmpfs", 0, "size=4k,nr_inodes=3")
        write(f"{place}/filler")
        with pytest.raises(RlessError) as caught:
            rootfs.mount([one], place, idmap)
        mounts.umount(place)
        return str(caught.value)

    said = run(storage, "single", case)
    assert "No space left" in said
    assert "free some space" in said
    assert "fuse" not in said


def test_interrupted_copy_is_restarted(storage: str) -> None:
    def case(storage: str, idmap: IdMap) -> list[str]:
        one = layer(storage, "1", "x")
        place = workspace(storage)
        os.makedirs(f"{place}/merged/half/done")
        mounted = rootfs.mount([one], place, idmap, driver="copy")
        return tree(mounted.path)

    assert run(storage, "single", case) == ["x"]


def test_tree_deeper_than_path_max_is_copied(storage: str) -> None:
    def case(storage: str, idmap: IdMap) -> int:
        one = layer(storage, "1")
        name = "d" * 200
        fd = os.open(one, os.O_RDONLY)
        for _ in range(60):
            os.mkdir(name, dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        for end in ("a", "b"):
            os.close(os.open(end, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.link("a", "c", src_dir_fd=fd, dst_dir_fd=fd)
        os.close(fd)
        mounted = rootfs.mount([one], workspace(storage), idmap, driver="copy")
        os.chdir(mounted.path)
        for _ in range(60):
            os.chdir(name)
        names = os.listdir(".")
        os.chdir("/")
        return len(names)

    assert run(storage, "single", case) == 3


@pytest.mark.parametrize("map_name", MAPS)
def test_workspace_is_removed_whatever_is_in_it(storage: str, map_name: str) -> None:
    """Class 11; the mount is still there and holds a directory that is not ours to delete."""

    def case(storage: str, idmap: IdMap) -> None:
        one = layer(storage, "1", "kept")
        place = workspace(storage)
        mounted = rootfs.mount([one], place, idmap)
        root = mounted.path
        os.makedirs(f"{root}/locked/in/side")
        write(f"{root}/locked/in/file", "x", 0)
        if not idmap.single:
            os.chown(f"{root}/locked/in/file", 12345, 54321)
            os.chown(f"{root}/locked/in", 12345, 54321)
        os.chmod(f"{root}/locked/in", 0)
        os.chmod(f"{root}/locked", 0)
        os.mkdir(f"{storage}/volume")
        write(f"{storage}/volume/data")
        os.mkdir(f"{root}/v")
        mounts.mount(f"{storage}/volume", f"{root}/v", None, mounts.MS_BIND)
        rootfs.remove_workspace(place)
        assert not os.path.exists(place)
        assert os.path.exists(f"{storage}/volume/data")
        assert tree(one) == ["kept"]
        rootfs.unmount(mounted)

    run(storage, map_name, case)


def test_directory_is_used_itself_or_under_an_overlay(storage: str) -> None:
    def case(storage: str, idmap: IdMap) -> None:
        directory = layer(storage, "tree", "sub")
        place = workspace(storage)
        plain = rootfs.mount_directory(directory, place, idmap)
        assert (plain.path, plain.driver) == (directory, "directory")
        over = rootfs.mount_directory(f"{directory}:O", place, idmap)
        write(f"{over.path}/new")
        assert tree(over.path) == ["new", "sub"]
        assert tree(directory) == ["sub"]
        rootfs.unmount(over)
        rootfs.unmount(plain)
        for bad in ("absent", ".map"):
            with pytest.raises(RlessError, match="--rootfs"):
                rootfs.mount_directory(f"{storage}/{bad}", place, idmap)

    run(storage, "single", case)


def test_choosing_a_driver_leaves_nothing(storage: str) -> None:
    def case(storage: str, idmap: IdMap) -> list[dict[str, object]]:
        before = os.listdir(storage)
        answers = rootfs.choose(storage, idmap)
        assert os.listdir(storage) == before
        return answers

    answers = run(storage, "single", case)
    assert [answer["driver"] for answer in answers] == list(rootfs.DRIVERS)
    assert answers[-1] == {"driver": "copy", "works": True, "why": "copied"}
