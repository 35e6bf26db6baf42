"""The image `host:`: the host's programs, writable, without the user's own files."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from rootless import rootfs
from rootless.errors import RlessError, SyscallError
from rootless.linux import idmap as idmaps
from rootless.linux import mount as mounts
from rootless.linux.process import become_root
from rootless.rootfs import host, overlay, skeleton
from tests.lib import engine_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from rootless.linux.idmap import IdMap

pytestmark = pytest.mark.needs("user namespaces")
SUBORDINATE = pytest.mark.needs("subordinate ids")
MAPS = [
    pytest.param("host-root", marks=SUBORDINATE),
    pytest.param("u1000", marks=SUBORDINATE),
    pytest.param("single"),
    pytest.param("single-u1000"),
]


@pytest.fixture(params=["/var/tmp", "/dev/shm"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give a storage: below one of the directories that are shown, and elsewhere."""
    path = f"{request.param}/rless-test-host-{os.getpid()}"
    os.mkdir(path, 0o700)
    os.mkdir(f"{path}/home")
    monkeypatch.setenv("RLESS_STORAGE", f"{path}/storage")
    monkeypatch.setenv("HOME", f"{path}/home")
    # On a busy machine half a second is over before all that is written to here can be.
    monkeypatch.setattr(skeleton, "_SECONDS", 60.0)
    yield path
    map_name = "single"
    if os.path.exists(f"{path}/.map"):
        with open(f"{path}/.map") as file:
            map_name = file.read()
    engine_namespace.run(engine_namespace.make_map(map_name), rootfs.remove_workspace, path)


def run(storage: str, map_name: str, function: Callable[..., Any], *args: object) -> Any:
    with open(f"{storage}/.map", "w") as file:
        file.write(map_name)
    map_ = engine_namespace.make_map(map_name)
    return engine_namespace.run(map_, function, storage, map_, *args)


def mount(storage: str, map_: IdMap, name: str = "c", **options: Any) -> rootfs.Mounted:
    os.makedirs(f"{storage}/{name}", 0o700, exist_ok=True)
    return host.mount(f"{storage}/{name}", map_, f"{storage}/storage/host", **options)


def shell(mounted: rootfs.Mounted, script: str) -> list[str]:
    """Run the host's shell in the root as the container's root; return the lines it prints."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            become_root()
            os.chroot(mounted.path)
            os.chdir("/")
            os.execve("/bin/sh", ["sh", "-c", script], {"PATH": "/usr/bin:/bin"})
        finally:
            os._exit(127)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text.splitlines()


def skeletons(storage: str) -> list[str]:
    return sorted(os.listdir(f"{storage}/storage/host"))


@pytest.mark.parametrize("map_name", MAPS)
def test_host_programs_run_and_system_is_writable(storage: str, map_name: str) -> None:
    script = """
        set -e
        touch /etc/x /usr/local/lib/x /var/lib/x /opt/x /x /tmp/x /run/lock/x /var/tmp/x
        printf '#!/bin/sh\\necho it runs\\n' > /usr/local/bin/y
        chmod +x /usr/local/bin/y
        y
        sed -i '1s/^/# changed\\n/' /etc/passwd
        head -n 1 /etc/passwd
        rm /etc/group
        test ! -e /etc/group
        mkdir -p /etc/new/sub
        rm -r /etc/init.d 2>/dev/null || true
        test -w /root
    """

    def case(storage: str, map_: IdMap) -> list[str]:
        mounted = mount(storage, map_)
        lines = shell(mounted, f"PATH=/usr/local/bin:$PATH; {script}")
        rootfs.unmount(mounted)
        return lines

    before = os.stat("/etc").st_mtime_ns
    assert run(storage, map_name, case) == ["it runs", "# changed"]
    assert not os.path.exists("/etc/x")
    assert os.path.exists("/etc/group")
    assert os.stat("/etc").st_mtime_ns == before


@pytest.mark.parametrize("map_name", MAPS)
def test_private_files_of_the_user_are_hidden(storage: str, map_name: str) -> None:
    """What is shown is a list; the home, the storage, mail and /var/tmp are not on it."""

    def case(storage: str, map_: IdMap) -> dict[str, list[str]]:
        mounted = mount(storage, map_, exclude=["/usr/share/doc"])
        root = mounted.path
        found = {path: os.listdir(f"{root}/{path}") for path in ("", "home", "root", "run", "srv")}
        for path in ("mnt", "media", "tmp", "var/tmp", "usr/share/doc"):
            found[path] = os.listdir(f"{root}/{path}")
        if os.path.isdir("/var/mail"):
            found["var/mail"] = os.listdir(f"{root}/var/mail")
        found["modes"] = [
            oct(stat.S_IMODE(os.stat(f"{root}/{path}").st_mode)) for path in ("tmp", "root")
        ]
        found["resolv"] = [open_text(f"{root}/etc/{n}") for n in ("resolv.conf", "hosts")]
        rootfs.unmount(mounted)
        return found

    found = run(storage, map_name, case)
    shown = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt", "usr", "var"}
    made = {"dev", "home", "media", "mnt", "proc", "root", "run", "srv", "sys", "tmp"}
    assert set(found.pop("")) - {"nix", "gnu"} <= shown | made
    assert found.pop("run") == ["lock"]
    assert found.pop("modes") == ["0o1777", "0o700"]
    assert found.pop("resolv") == ["", ""]
    assert all(names == [] for names in found.values()), found


def open_text(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(fd) as file:
        return file.read()


def test_private_directory_below_a_hidden_one_stays_hidden(storage: str) -> None:
    """A directory that is not for everybody is empty, even where its parent is hidden too."""

    def case(storage: str, map_: IdMap) -> None:
        mounted = mount(storage, map_)
        for parent, directories, _ in os.walk("/etc"):
            for name in directories:
                path = f"{parent}/{name}"
                if os.lstat(path).st_mode & 0o005 != 0o005:
                    assert os.listdir(f"{mounted.path}{path}") == [], path
        rootfs.unmount(mounted)

    run(storage, "single", case)


def test_skeleton_is_rebuilt_only_after_changes(storage: str) -> None:
    def case(storage: str, map_: IdMap) -> None:
        first = mount(storage, map_, "1")
        one = skeletons(storage)
        second = mount(storage, map_, "2")
        assert skeletons(storage) == one
        assert len(one) == 1
        # Another list of what is hidden needs another one; the first is in use and stays.
        third = mount(storage, map_, "3", exclude=["/usr/share/doc"])
        assert len(skeletons(storage)) == 2
        assert os.path.exists(f"{first.path}/bin/sh")
        for mounted in (first, second):
            rootfs.unmount(mounted)
        fourth = mount(storage, map_, "4", exclude=["/usr/share/man"])
        assert len(skeletons(storage)) == 2
        assert one[0] not in skeletons(storage)
        for mounted in (third, fourth):
            rootfs.unmount(mounted)

    run(storage, "single", case)


def test_skeleton_is_built_once_by_concurrent_commands(storage: str) -> None:
    def case(storage: str, map_: IdMap) -> list[int]:
        pids = []
        for number in range(4):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    mount(storage, map_, str(number))
                    code = 0
                finally:
                    os._exit(code)
            pids.append(pid)
        return [os.waitpid(pid, 0)[1] for pid in pids]

    assert run(storage, "single", case) == [0, 0, 0, 0]
    assert len(skeletons(storage)) == 1


def test_incomplete_skeleton_is_removed(storage: str) -> None:
    def case(storage: str, map_: IdMap) -> list[str]:
        os.mkdir(f"{storage}/storage", 0o700)
        os.makedirs(f"{storage}/storage/host/.{map_.key}-dead/dirs/etc", 0o700)
        rootfs.unmount(mount(storage, map_))
        return skeletons(storage)

    names = run(storage, "single", case)
    assert len(names) == 1
    assert not names[0].startswith(".")


def test_restart_keeps_the_changes(storage: str) -> None:
    def case(storage: str, map_: IdMap) -> list[str]:
        mounted = mount(storage, map_)
        shell(mounted, "echo kept > /etc/x; echo kept > /x")
        rootfs.unmount(mounted)
        again = mount(storage, map_)
        lines = shell(again, "cat /etc/x /x")
        rootfs.unmount(again)
        return lines

    assert run(storage, "single", case) == ["kept", "kept"]


def test_directory_with_mounts_below_is_shown_in_parts(storage: str) -> None:
    """The kernel refuses a lower directory with mounts that another namespace has locked."""

    def case(storage: str, map_: IdMap) -> None:
        mounts.mount("tmpfs", "/usr/share", "tmpfs")
        with open("/usr/share/below-the-mount", "w") as file:
            file.write("seen\n")

        def inner() -> list[str]:
            mounted = mount(storage, map_)
            assert any(why.startswith("/usr: shown in parts") for why in mounted.why), mounted.why
            lines = shell(
                mounted, "cat /usr/share/below-the-mount; touch /usr/local/bin/x && echo written"
            )
            rootfs.unmount(mounted)
            return lines

        inside = idmaps.IdMap([(0, 0, 1)], [(0, 0, 1)], "single")
        assert idmaps.call_in_userns(inside, inner) == ["seen", "written"]

    run(storage, "single", case)


def test_closed_directory_is_empty_where_parts_are_shown(storage: str) -> None:
    """As /var/lib/munge of mode 0711 is, where something is mounted in /var/lib/containers."""

    def case(storage: str, map_: IdMap) -> None:
        mounts.mount("tmpfs", "/usr/share", "tmpfs")
        for name, mode in (("open", 0o755), ("closed", 0o711), ("inner", 0o755)):
            os.mkdir(f"/usr/share/{name}")
            os.close(os.open(f"/usr/share/{name}/file", os.O_CREAT | os.O_CLOEXEC))
            os.chmod(f"/usr/share/{name}", mode)
        mounts.mount("tmpfs", "/usr/share/inner", "tmpfs")

        def inner() -> list[str]:
            mounted = mount(storage, map_)
            lines = shell(mounted, "cd /usr/share; ls open closed; touch closed/x && ls closed")
            rootfs.unmount(mounted)
            return lines

        inside = idmaps.IdMap([(0, 0, 1)], [(0, 0, 1)], "single")
        assert idmaps.call_in_userns(inside, inner) == ["closed:", "", "open:", "file", "x"]

    run(storage, "single", case)


def refuse(*args: object, **options: object) -> str:
    raise SyscallError("mount(overlay)", 1)


@pytest.mark.needs("fuse", "fuse-overlayfs")
@pytest.mark.parametrize("map_name", MAPS)
def test_fuse_overlayfs_serves_it_where_overlay_is_refused(
    storage: str, map_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "mount", refuse)

    def case(storage: str, map_: IdMap) -> tuple[list[str], str, list[str]]:
        mounted = mount(storage, map_, exclude=["/usr/share/doc"])
        lines = shell(
            mounted,
            "echo x >> /etc/passwd && tail -n 1 /etc/passwd;"
            "echo > /usr/local/bin/y && ls /usr/local/bin/y; ls -A /usr/share/doc /home",
        )
        options = mounted.options
        rootfs.unmount(mounted)
        return lines, options, mounted.why

    lines, options, why = run(storage, map_name, case)
    assert lines == ["x", "/usr/local/bin/y", "/home:", "", "/usr/share/doc:"]
    assert options.startswith("fuse-overlayfs: ")
    assert any("overlay: mount(overlay): Operation not permitted" in line for line in why)


def test_host_image_is_read_only_without_a_union_driver(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rootless.linux import programs

    monkeypatch.setattr(overlay, "mount", refuse)
    find = programs.find
    monkeypatch.setattr(programs, "find", lambda name: None if "fuse" in name else find(name))

    def case(storage: str, map_: IdMap) -> tuple[list[str], str, list[str]]:
        mounted = mount(storage, map_, exclude=["/usr/share/doc"])
        lines = shell(
            mounted, "echo > /usr/x; echo > /x; ls /x; ls -A /usr/share/doc /var/tmp /home"
        )
        options, why = mounted.options, list(mounted.why)
        rootfs.unmount(mounted)
        assert not os.path.exists(f"{storage}/c/merged/usr/bin/env")
        return lines, options, why

    lines, options, why = run(storage, "single", case)
    assert "Read-only file system" in lines[0]
    assert lines[1:] == ["/x", "/home:", "", "/usr/share/doc:", "", "/var/tmp:"]
    assert options.startswith("bind,ro: ")
    assert any("not installed" in line for line in why)


@pytest.mark.parametrize(
    ("driver", "shown_by"),
    [
        ("overlay", "overlay: "),
        pytest.param(
            "fuse-overlayfs",
            "fuse-overlayfs: ",
            marks=pytest.mark.needs("fuse", "fuse-overlayfs"),
        ),
        ("copy", "bind,ro: "),
    ],
)
def test_requested_driver_is_used(storage: str, driver: str, shown_by: str) -> None:
    def case(storage: str, map_: IdMap) -> str:
        mounted = mount(storage, map_, driver=driver)
        rootfs.unmount(mounted)
        return mounted.options

    assert run(storage, "single", case).startswith(shown_by)


def test_full_disk_leaves_nothing_mounted(storage: str) -> None:
    def case(storage: str, map_: IdMap) -> tuple[str, bool]:
        os.mkdir(f"{storage}/c")
        # Room for the root directory, not for all that is mounted in it.
        mounts.mount("tmpfs", f"{storage}/c", "tmpfs", 0, "nr_inodes=9")
        with pytest.raises(RlessError) as caught:
            mount(storage, map_)
        with open("/proc/self/mountinfo") as file:
            left = "merged" in file.read()
        mounts.umount(f"{storage}/c")
        return str(caught.value), left

    said, left = run(storage, "single", case)
    assert "No space left" in said
    assert not left
