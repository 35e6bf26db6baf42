"""RUN --mount: what is there for one RUN, and nothing of it afterwards (classes 52-54, 56, 57)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from rootless.dockerfile.ignore import IgnoreRules
from rootless.engine.build import caches, mounts
from rootless.engine.build.request import Agent
from rootless.engine.build.ssh_agent import Proxy, open_agents
from rootless.engine.idmap_policy import build_single
from rootless.errors import RlessError
from rootless.image.store import build_cache
from rootless.linux import mount as api
from rootless.linux.idmap import call_in_userns
from tests.lib import images
from tests.lib.build_steps import DIRECTORY, Room
from tests.lib.product import wait_for

pytestmark = pytest.mark.needs("user namespaces")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    made = Room(tmp_path_factory.mktemp("mounts"))
    (made.context / "dir").mkdir()
    (made.context / "dir" / "file").write_text("of the context\n")
    (made.context / "out").symlink_to("/etc/passwd")
    return made


# -- bind ----------------------------------------------------------------------------------------


def test_bind_shows_the_context_read_only(room: Room) -> None:
    ran = room.run(
        "cat /src/dir/file; echo x 2>&1 >/src/new", mounts=["target=/src"], network="none"
    )
    assert ran.error == ""
    assert ran.out.startswith("of the context\n")
    assert "Read-only" in ran.out + ran.err
    assert ran.written == {}
    assert not (room.context / "new").exists()


def test_bind_of_one_file(room: Room) -> None:
    ran = room.run("cat f", mounts=["source=dir/file,target=f"], directory="/tmp", network="none")
    assert (ran.out, ran.written) == ("of the context\n", {})


def test_bind_of_an_image(room: Room) -> None:
    mounts = ["from=image,source=/etc,target=/other"]
    assert "user:" in room.run("cat /other/passwd", mounts=mounts, network="none").out


def test_what_is_written_to_a_bind_is_thrown_away(room: Room) -> None:
    command = "echo x >/src/dir/file; echo y >/one; cat /src/dir/file /one"
    mounts = ["target=/src,rw", "target=/one,source=dir/file,rw"]
    ran = room.run(command, mounts=mounts, network="none")
    assert (ran.code, ran.out) == (0, "x\ny\n")
    assert (room.context / "dir" / "file").read_text() == "of the context\n"
    assert ran.written == {}


def test_source_that_is_missing_is_an_error(room: Room) -> None:
    ran = room.run("true", mounts=["source=nothing,target=/src"], network="none")
    assert "nothing: No such file" in ran.error


def test_link_of_a_source_stays_in_its_root(room: Room) -> None:
    """Class 53: in the context there is no /etc/passwd, whatever the host has."""
    ran = room.run("true", mounts=["source=out,target=/src"], network="none")
    assert "out: No such file" in ran.error


@pytest.mark.parametrize("target", ["{}", "../../../../../../../../../..{}"])
def test_target_behind_a_link_stays_in_the_image(tmp_path: Path, target: str) -> None:
    """Class 52: /run leads to where only the host has something."""
    outside = tmp_path / "outside"
    (outside / "secrets").mkdir(parents=True)
    link = images.layer({"run": images.Link(target.format(outside))})
    (tmp_path / "room").mkdir()
    room = Room(tmp_path / "room", images.busybox_image([link]))
    (room.context / "file").write_text("of the context\n")
    mounts = [
        *("type=secret,id=key", "target=/run/bound/new", "type=tmpfs,target=/run/tmp/new"),
        *("type=cache,target=/run/cache/new", "source=file,target=/run/secrets/file"),
    ]
    command = "cd /run && cat secrets/key bound/new/file secrets/file && touch tmp/new/x cache/new/x"
    ran = room.run(command, mounts=mounts, secrets={"key": b"value\n"}, network="none")
    assert (ran.error, ran.err) == ("", "")
    assert ran.out == "value\nof the context\nof the context\n"
    assert ran.written == {}
    assert os.listdir(outside) == ["secrets"] and os.listdir(outside / "secrets") == []


def test_source_that_was_exchanged_is_not_mounted(tmp_path: Path) -> None:
    """Class 53: in this mount namespace the path of what was found leads to something else."""
    (tmp_path / "found").mkdir()
    found = os.open(tmp_path / "found", os.O_PATH | os.O_DIRECTORY)

    def clone() -> str:
        api.mount("tmpfs", str(tmp_path), "tmpfs")
        (tmp_path / "found").mkdir()
        try:
            os.close(mounts._clone(found))
        except RlessError as error:
            return error.message
        return "mounted"

    try:
        said = call_in_userns(build_single(0, 0), clone)
    finally:
        os.close(found)
    assert said == "the source was moved while it was looked up"


def test_ignored_files_of_the_context_are_not_there(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    room = Room(tmp_path_factory.mktemp("ignored"))
    for name in ("dir", "private", "half"):
        (room.context / name).mkdir()
        (room.context / name / "secret").write_text("1")
        (room.context / name / "kept").write_text("2")
    rules = IgnoreRules(["dir/secret", "private", "half", "!half/kept", "!half/secret"])
    options = {"find_ignored": lambda _: rules, "network": "none"}
    ran = room.run("cd /src; echo *; echo *//*", mounts=["target=/src"], **options)
    assert ran.error == ""
    assert ran.out == "dir half\ndir//kept half//kept half//secret\n"
    ran = room.run("echo /src/*", mounts=["target=/src,source=dir,rw"], **options)
    assert ran.out == "/src/kept\n"
    ran = room.run("true", mounts=["target=/src,source=private"], **options)
    assert "source private is excluded by .dockerignore" in ran.error


# -- cache ---------------------------------------------------------------------------------------


def test_cache_lives_on_and_is_in_no_layer(room: Room) -> None:
    mounts = ["type=cache,target=/cache,id=lives"]
    ran = room.run("echo kept >/cache/f; stat -c %a:%u /cache", mounts=mounts, network="none")
    assert (ran.out, ran.written) == ("755:0\n", {})
    ran = room.run("cat /other/f", mounts=["type=cache,id=lives,target=/other"], network="none")
    assert ran.out == "kept\n"


def test_cache_is_named_by_its_target(room: Room) -> None:
    room.run("echo 1 >/a/f", mounts=["type=cache,target=/a"], network="none")
    assert room.run("cat /a/f", mounts=["type=cache,target=/b/../a/"], network="none").out == "1\n"
    assert room.run("ls /c", mounts=["type=cache,target=/c"], network="none").out == ""


# Of one cache, and then with another map, id, mode, user, group.
_IDENTITIES = [
    ("map", "id", 0o755, 0, 0),
    ("other", "id", 0o755, 0, 0),
    ("map", "other", 0o755, 0, 0),
    ("map", "id", 0o700, 0, 0),
    ("map", "id", 0o755, 1, 0),
    ("map", "id", 0o755, 0, 1),
]


def test_mode_and_owner_are_part_of_a_cache(room: Room) -> None:
    room.run("echo 1 >/m/f", mounts=["type=cache,target=/m"], network="none")
    ran = room.run("ls /m; stat -c %a /m", mounts=["type=cache,target=/m,mode=700"], network="none")
    assert ran.out == "700\n"
    names = {caches.name(*identity) for identity in _IDENTITIES}
    assert len(names) == len(_IDENTITIES)


def test_cache_begins_with_what_from_has(room: Room) -> None:
    mounts = ["type=cache,target=/seeded,from=image,source=/etc"]
    ran = room.run("echo more >>/seeded/group; tail -n 1 /seeded/group", mounts=mounts,
                   network="none")  # fmt: skip
    assert ran.out == "more\n"
    ran = room.run("tail -n 1 /seeded/group", mounts=mounts, network="none")
    assert ran.out == "more\n"


def test_without_the_cache_a_cache_with_options_is_begun_anew_once(
    room: Room, tmp_path: Path
) -> None:
    with_mode, plain = ["type=cache,target=/n,mode=700"], ["type=cache,target=/n"]
    for mounts in (with_mode, plain):
        room.run("echo 1 >/n/f", mounts=mounts, network="none")
    anew = {"emptied": str(tmp_path), "network": "none"}
    assert room.run("ls /n", mounts=plain, **anew).out == "f\n"
    assert room.run("ls /n; echo 2 >/n/g", mounts=with_mode, **anew).out == ""
    assert room.run("ls /n", mounts=with_mode, **anew).out == "g\n"  # of the same build


def test_id_of_a_cache_is_no_path(room: Room) -> None:
    """Class 54: it is a part of a digest."""
    mounts = ["type=cache,target=/x,id=../../../context"]
    ran = room.run("ls /x; echo 1 >/x/mark", mounts=mounts, network="none")
    assert ran.out == ""
    assert not (room.context / "mark").exists()
    names = {name for name in os.listdir(room.directory / "store/build/mounts") if name != "locks"}
    assert all(len(name.partition(".")[0]) == 64 for name in names)


def test_prune_removes_caches_that_no_run_has(room: Room) -> None:
    mounts = ["type=cache,target=/pruned,mode=750,uid=0"]
    assert room.run("echo 1 >/pruned/f", mounts=mounts, network="none").code == 0
    name = caches.name(room.idmap.key, "/pruned", 0o750, 0, 0)
    store = str(room.directory / "store")
    assert build_cache.mounts(store)[name] > 0
    cache = caches.Cache(f"{store}/build/mounts", name)
    cache.take("shared", lambda: None)
    assert not build_cache.remove_mount(store, name)
    cache.close()
    assert build_cache.remove_mount(store, name)
    assert name not in build_cache.mounts(store)


def test_private_caches_in_use_are_others(tmp_path: Path) -> None:
    def wait() -> None:
        raise AssertionError("a private one is not waited for")

    first, second, third = (caches.Cache(str(tmp_path), "name") for _ in range(3))
    first.take("private", wait)
    second.take("private", wait)
    assert first.path != second.path
    first.close()
    third.take("private", wait)
    assert third.path == first.path
    for one in (second, third):
        one.close()


def test_locked_cache_is_waited_for(tmp_path: Path) -> None:
    waits: list[str] = []

    def wait() -> None:
        waits.append("second")
        first.close()

    first, second = (caches.Cache(str(tmp_path), "name") for _ in range(2))
    first.take("locked", lambda: waits.append("first"))
    second.take("locked", wait)
    assert waits == ["second"]
    second.close()


def test_shared_cache_that_others_use_is_not_emptied(tmp_path: Path) -> None:
    first, second = (caches.Cache(str(tmp_path), "name") for _ in range(2))
    for one in (first, second):
        one.take("shared", lambda: None)
    owner = (os.getuid(), os.getgid())
    first.make(0o755, owner, -1, str(tmp_path / "new"), single=False)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    second.empty_once(str(tmp_path / "one"))
    assert first.exists()
    first.close()
    second.empty_once(str(tmp_path / "one"))
    assert second.exists()
    second.empty_once(str(tmp_path / "two"))
    assert not second.exists()
    second.close()


# -- tmpfs ---------------------------------------------------------------------------------------


def test_tmpfs_is_gone_afterwards(room: Room) -> None:
    command = "echo x >/t/f; df -k /t | tail -n 1 | awk '{print $2}'"
    ran = room.run(command, mounts=["type=tmpfs,target=/t,size=64k"], network="none")
    assert (ran.out, ran.written) == ("64\n", {})


# -- secret --------------------------------------------------------------------------------------


def test_secret_is_a_file_of_one_run(room: Room) -> None:
    """Classes 56 and 57."""
    command = "cat /run/secrets/key; stat -c %a:%u /run/secrets/key; cat /proc/self/mountinfo"
    secrets = {"key": b"qZ81-hidden\n"}
    ran = room.run(command, mounts=["type=secret,id=key"], secrets=secrets, network="none")
    assert ran.out.startswith("qZ81-hidden\n400:0\n")
    assert ran.written == {}
    assert ran.left == []
    ran = room.run("ls /run/secrets", secrets=secrets, network="none")
    assert ran.code != 0
    found = [
        path for path in room.directory.rglob("*")
        if path.is_file() and os.access(path, os.R_OK) and path.name != "output"
        and b"qZ81-hidden" in path.read_bytes()
    ]  # fmt: skip
    assert found == []


def test_secret_as_a_variable_is_no_file(room: Room) -> None:
    command = "echo $TOKEN; ls /run/secrets 2>/dev/null"
    mounts = ["type=secret,id=key,env=TOKEN"]
    ran = room.run(command, mounts=mounts, secrets={"key": b"qZ81-hidden"}, network="none")
    assert ran.out == "qZ81-hidden\n"


def test_secret_has_the_mode_that_is_asked_for(room: Room) -> None:
    mounts = ["type=secret,id=key,target=/etc/key,mode=0444"]
    ran = room.run("stat -c %a /etc/key", mounts=mounts, secrets={"key": b"1"}, network="none")
    assert (ran.out, ran.written) == ("444\n", {})


def test_missing_secret_is_left_out_unless_it_is_required(room: Room) -> None:
    assert room.run("ls /run", mounts=["type=secret,id=none"], network="none").written == {}
    ran = room.run("true", mounts=["type=secret,id=none,required"], network="none")
    assert "secret none is required" in ran.error


# -- ssh -----------------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    """Return the socket of an agent that answers everything, and the kinds of its requests."""
    path, seen = str(tmp_path / "agent"), []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                while head := client.recv(4):
                    body = client.recv(struct.unpack(">I", head)[0])
                    seen.append(body[0])
                    client.sendall(struct.pack(">IBI", 5, 12, 0))

    thread = Thread(target=serve, daemon=True)
    thread.start()
    yield path, seen
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_agent_is_asked_to_list_and_sign_only(agent: tuple[str, list[int]], tmp_path: Path) -> None:
    """Class 57: 17 would add a key, 19 remove all."""
    path, seen = agent
    proxy = Proxy(str(tmp_path / "proxy"), path)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "proxy"))
            answers = []
            for kind in (11, 17, 19, 13):
                client.sendall(struct.pack(">IB", 1, kind))
                (length,) = struct.unpack(">I", client.recv(4, socket.MSG_WAITALL))
                answers.append(client.recv(length, socket.MSG_WAITALL)[0])
    finally:
        proxy.close()
    assert answers == [12, 5, 5, 12]
    assert seen == [11, 13]


def test_agent_of_one_run_has_a_socket(room: Room, agent: tuple[str, list[int]]) -> None:
    command = "test -S $SSH_AUTH_SOCK && stat -c %a:%u $SSH_AUTH_SOCK"
    ran = room.run(command, mounts=["type=ssh"], agents={"default": agent[0]}, network="none")
    assert (ran.error, ran.out, ran.written) == ("", "600:0\n", {})
    assert ran.left == []


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Return a new private key, which others may read."""
    path = tmp_path / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of the test", "-f", str(path)]
    subprocess.run(command, check=True)
    path.chmod(0o644)
    return path


@pytest.mark.needs("ssh-agent")
def test_keys_are_listed_and_sign_but_cannot_be_changed(key: Path, tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 40)
    directory.mkdir()

    def ask(*command: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "SSH_AUTH_SOCK": str(tmp_path / "proxy")}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    with contextlib.ExitStack() as opened:
        agents = open_agents([Agent("mine", (str(key),))], str(directory), opened)
        proxy = Proxy(str(tmp_path / "proxy"), agents["mine"])
        opened.callback(proxy.close)
        assert "of the test" in ask("ssh-add", "-l").stdout
        assert ask("ssh-add", "-T", f"{key}.pub").returncode == 0  # has it sign, and verifies
        assert ask("ssh-add", "-D").returncode != 0
        assert "of the test" in ask("ssh-add", "-l").stdout
    with pytest.raises(RlessError, match="does not answer"):
        Proxy(str(tmp_path / "proxy2"), agents["mine"])


@pytest.mark.needs("ssh-agent")
def test_agent_of_ours_ends_with_the_build(key: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            open_agents([Agent("a", (str(key),))], str(tmp_path), contextlib.ExitStack())
            os.write(writer, b"begun")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    begun = os.read(reader, 5)
    os.close(reader)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert begun == b"begun"
    directory = os.open(tmp_path / "ssh0", os.O_PATH | os.O_DIRECTORY)

    def is_gone() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(f"/proc/self/fd/{directory}/agent") != 0

    wait_for(is_gone, "the agent to end")
    os.close(directory)


@pytest.mark.needs("ssh-agent")
def test_wrong_keys_are_refused_in_one_line(key: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key\n")
    locked = tmp_path / "locked"
    locked.write_bytes(key.read_bytes())
    locked.chmod(0o600)
    change = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "a passphrase", "-f", str(locked)]
    subprocess.run(change, check=True, stdout=subprocess.DEVNULL)
    for number, (path, why) in enumerate(
        (
            (str(tmp_path / "text"), "no private key"),
            (str(locked), "passphrase"),
            (str(tmp_path), "not a file"),
            (str(tmp_path / "none"), "No such file"),
        )
    ):
        (tmp_path / str(number)).mkdir()
        with contextlib.ExitStack() as opened, pytest.raises(RlessError, match=why):
            open_agents([Agent("a", (path,))], str(tmp_path / str(number)), opened)


def test_socket_and_key_contradict_each_other(agent: tuple[str, list[int]], tmp_path: Path) -> None:
    asked = [Agent("a", (agent[0], agent[0]))]
    with contextlib.ExitStack() as opened, pytest.raises(RlessError, match="several sockets"):
        open_agents(asked, str(tmp_path), opened)


def test_missing_agent_is_left_out_unless_it_is_required(room: Room) -> None:
    assert room.run("echo $SSH_AUTH_SOCK", mounts=["type=ssh"], network="none").out == "\n"
    ran = room.run("true", mounts=["type=ssh,required"], network="none")
    assert "ssh agent default is required" in ran.error


def test_mounts_lie_in_the_working_directory_and_leave_no_place(room: Room) -> None:
    mounts = ["type=tmpfs,target=deep/er"]
    ran = room.run("pwd; ls", directory="/home", mounts=mounts, network="none")
    assert (ran.out, ran.written) == ("/home\ndeep\nuser\n", {})
    assert DIRECTORY not in ran.written.values()


def test_namespace_sets_cache_mounts_apart(room: Room) -> None:
    mounts = ("type=cache,id=apart,target=/c",)
    room.run("echo 1 >/c/f", mounts=mounts, cache_namespace="one", network="none")
    assert room.run("ls /c", mounts=mounts, network="none").out == ""
    ran = room.run("ls /c", mounts=mounts, cache_namespace="one", network="none")
    assert ran.out == "f\n"
