"""RUN: what the process sees, what is left of it, and what is not (security classes 55, 63-65)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rootless.dockerfile.mounts import Device
from rootless.engine.build import limits, run
from rootless.engine.build.network import Network
from rootless.engine.request import Device as HostDevice
from rootless.engine.request import RunRequest
from rootless.errors import RlessError
from tests.lib import images
from tests.lib.build_steps import DIRECTORY, WHITEOUT, Room
from tests.lib.needs import DRIVERS
from tests.lib.product import wait_for

pytestmark = pytest.mark.needs("user namespaces")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return Room(tmp_path_factory.mktemp("run"))


def test_output_and_exit_code_are_passed_on(room: Room) -> None:
    ran = room.run("echo out; echo err >&2; exit 3", network="none")
    assert (ran.code, ran.out, ran.err) == (3, "out\n", "err\n")


def test_signal_is_128_and_its_number(room: Room) -> None:
    assert room.run("deeper() { deeper; }; deeper", network="none").code == 139


def test_missing_program_is_an_error(room: Room) -> None:
    ran = room.run("/no/such", "program", network="none")
    assert ran.code == -1
    assert "/no/such" in ran.error


def test_last_line_needs_no_newline(room: Room) -> None:
    assert room.run("printf 'a\\nb'", network="none").out == "a\nb"


def test_long_line_and_long_output_arrive_whole(room: Room) -> None:
    ran = room.run("head -c 300000 /dev/zero | tr '\\0' x; seq 20000", network="none")
    expected = "x" * 300000 + "".join(f"{number}\n" for number in range(1, 20001))
    assert ran.out == expected


def test_run_that_writes_nothing_leaves_nothing(room: Room) -> None:
    ran = room.run("true", network="none")
    assert (ran.code, ran.written) == (0, {})


def test_only_what_is_written_stays(room: Room) -> None:
    ran = room.run("echo new >/etc/new; echo hosts >>/etc/hosts; : >/dev/gone", network="none")
    assert ran.code == 0
    assert ran.written == {"etc": DIRECTORY, "etc/new": "new\n"}


def test_deleted_file_leaves_a_whiteout(room: Room) -> None:
    ran = room.run("rm /etc/group", network="none")
    assert ran.written == {"etc": DIRECTORY, "etc/group": WHITEOUT}


def test_environment_is_that_of_the_step_alone(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_CALLER", "secret")
    env = ("PATH=/bin", "A=1 2")
    ran = room.run("env", env=env, proxies=("http_proxy=http://p:1",), network="none")
    lines = set(ran.out.splitlines()) - {"SHLVL=1", "PWD=/"}
    assert lines == {"PATH=/bin", "A=1 2", "http_proxy=http://p:1", "HOME=/root"}


def test_input_is_empty(room: Room) -> None:
    assert room.run("wc -c", network="none").out == "0\n"


def test_directory_and_host_name(room: Room) -> None:
    ran = room.run("pwd; hostname; cat /etc/hostname", directory="/tmp", network="none")
    assert ran.out == "/tmp\nrless-build\nrless-build\n"


def test_host_name_can_be_another(room: Room) -> None:
    assert room.run("hostname", hostname="other", network="none").out == "other\n"


@pytest.mark.needs("subordinate ids")
def test_user_is_looked_up_in_the_tree(room: Room) -> None:
    ran = room.run("id -u; id -g; echo $HOME; touch /tmp/mine", user="user", network="none")
    assert ran.out == "1000\n1000\n/home/user\n"
    assert set(ran.written) == {"tmp", "tmp/mine"}


def test_unknown_user_is_an_error(room: Room) -> None:
    assert "nosuchuser" in room.run("true", user="nosuchuser", network="none").error


def test_hosts_of_the_request_are_there(room: Room) -> None:
    settings = RunRequest(add_host=(("db", "192.0.2.7"),), network="none")
    assert "192.0.2.7\tdb" in room.run("cat /etc/hosts", settings=settings).out


def test_script_is_executed_as_a_file(room: Room) -> None:
    script = "#!/bin/cat\nits own text\n"
    ran = room.run(script=script, network="none")
    assert (ran.code, ran.out) == (0, script)
    assert ran.written == {}


def test_script_may_have_an_interpreter_of_its_own(room: Room) -> None:
    ran = room.run("/bin/cat", "-u", script="text\n", network="none")
    assert (ran.code, ran.out) == (0, "text\n")


# -- network -------------------------------------------------------------------------------------


def test_without_network_there_is_the_loopback(room: Room) -> None:
    ran = room.run("ip -o link | wc -l; ping -c 1 127.0.0.1 >/dev/null || ip addr", network="none")
    assert ran.out.splitlines()[0] == "1"


@pytest.mark.needs("tun", "pasta")
def test_default_network_has_an_interface_and_name_servers(room: Room) -> None:
    ran = room.run("ip -o link | wc -l; cat /etc/resolv.conf")
    assert ran.error == ""
    lines = ran.out.splitlines()
    assert lines[0] == "2"
    assert any(line.startswith("nameserver") for line in lines)


@pytest.mark.parametrize(
    "network", ["none", pytest.param("default", marks=pytest.mark.needs("tun", "pasta"))]
)
def test_group_may_send_pings(room: Room, network: str) -> None:
    ran = room.run("cat /proc/sys/net/ipv4/ping_group_range", network=network)
    first, last = map(int, ran.out.split())
    assert first == 0 <= last


@pytest.mark.needs("tun", "pasta")
def test_network_that_cannot_be_made_is_an_error(room: Room) -> None:
    settings = RunRequest(network="pasta:--no-such-option")
    ran = room.run("true", settings=settings)
    assert ran.error
    assert ran.written == {}


def test_network_of_other_containers_is_refused() -> None:
    with pytest.raises(RlessError, match="not supported for a build"):
        Network(RunRequest(network="container:other"))


def test_network_of_the_host_is_that_of_this_process(room: Room) -> None:
    settings = RunRequest(network="host")
    ran = room.run("readlink /proc/self/ns/net", settings=settings)
    assert ran.out.strip() == os.readlink("/proc/self/ns/net")


def test_network_of_the_host_must_be_allowed(room: Room) -> None:
    assert "not allowed" in room.run("true", network="host").error
    ran = room.run("true", network="host", allowed=frozenset({"network.host"}))
    assert ran.code == 0


def test_insecure_must_be_allowed(room: Room) -> None:
    ran = room.run("true", security="insecure", network="none")
    assert "security.insecure" in ran.hint


def test_device_must_be_allowed(room: Room) -> None:
    assert "not allowed" in room.run("true", devices=(Device("/dev/full"),), network="none").error
    ran = room.run(
        "cat /dev/full | head -c 1 | wc -c",
        devices=(Device("/dev/full"),),
        allowed=frozenset({"device"}),
        network="none",
    )
    assert (ran.error, ran.out) == ("", "1\n")


def test_what_is_no_device_is_refused(room: Room) -> None:
    allowed = frozenset({"device"})
    ran = room.run("true", devices=(Device("/etc/passwd", True),), allowed=allowed, network="none")
    assert ran.error == "device /etc/passwd: it is not a device"
    devices = (Device("no.such/thing=1", True),)
    ran = room.run("true", devices=devices, allowed=allowed, network="none")
    assert "no.such/thing" in ran.error


def test_device_that_is_not_there_is_left_out_unless_required(room: Room) -> None:
    devices = (Device("no.such/thing=1"), Device("/dev/no-such"))
    ran = room.run("true", devices=devices, allowed=frozenset({"device"}), network="none")
    assert (ran.code, ran.error) == (0, "")
    assert ["left out" in one["text"] for one in ran.messages] == [True, True]


@pytest.mark.parametrize(
    ("name", "seen"), [("a.com/kind=two", "2"), ("a.com/kind", "1"), ("a.com/kind=*", "1 2")]
)
def test_device_by_its_cdi_name(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, seen: str
) -> None:
    monkeypatch.setenv("RLESS_GPUS_CDI_DIRECTORIES", str(tmp_path))
    devices = [
        {"name": text, "containerEdits": {"env": [f"V{number}={number}"]}}
        for number, text in enumerate(("one", "two"), 1)
    ]
    spec = {"cdiVersion": "0.6.0", "kind": "a.com/kind", "devices": devices}
    (tmp_path / "a.json").write_text(json.dumps(spec))
    device = Device(name, True)
    ran = room.run(
        "echo $V1 $V2", devices=(device,), allowed=frozenset({f"device={name}"}), network="none"
    )
    assert (ran.error, ran.out) == ("", f"{seen}\n")


def test_devices_of_the_command_line_are_in_each_run(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLESS_GPUS_CDI_DIRECTORIES", str(tmp_path))
    device = {"name": "one", "containerEdits": {"env": ["V=1"]}}
    spec = {"cdiVersion": "0.6.0", "kind": "a.com/kind", "devices": [device]}
    (tmp_path / "a.json").write_text(json.dumps(spec))
    node = HostDevice("/dev/full", "/dev/other")
    settings = RunRequest(devices=[node], cdi=["a.com/kind=one"], network="none")
    ran = room.run("head -c 1 /dev/other | wc -c; echo $V", settings=settings)
    assert (ran.error, ran.out) == ("", "1\n1\n")
    settings = RunRequest(devices=[HostDevice("/dev/none", "/dev/none")], network="none")
    assert "/dev/none" in room.run("true", settings=settings).error


def test_run_that_takes_too_long_is_ended(room: Room) -> None:
    ran = room.run("echo begun; sleep 1000 & sleep 1000", timeout=0.5, network="none")
    assert (ran.code, ran.error) == (-1, "the process was ended after 0.5 s")
    assert room.run("echo quick", timeout=1000.0, network="none").out == "quick\n"


@pytest.mark.needs("delegated cgroup")
def test_limits_hold_for_each_run(room: Room) -> None:
    # A file that every group has, whatever was delegated.
    conf = {"cgroup.max.depth": "7"}
    settings = RunRequest(cgroup_conf=conf, network="none", cgroup_manager="cgroupfs")
    group = limits.make(settings)
    assert group is not None
    try:
        ran = room.run("cat /sys/fs/cgroup/cgroup.max.depth", settings=settings, cgroup=group)
        assert (ran.error, ran.out) == ("", "7\n")
    finally:
        group.destroy()


def test_best_effort_of_a_set_of_cpus_is_affinity(room: Room) -> None:
    before = os.sched_getaffinity(0)
    cpu = str(max(before))
    settings = RunRequest(limits="try", cpuset_cpus=cpu, network="none", cgroup_manager="none")
    try:
        group = limits.make(settings)
        assert group is not None
        ran = room.run("grep Cpus_allowed_list /proc/self/status", settings=settings, cgroup=group)
    finally:
        os.sched_setaffinity(0, before)
    assert (ran.error, ran.out.split()) == ("", ["Cpus_allowed_list:", cpu])


def test_without_limits_no_group_is_made() -> None:
    assert limits.make(RunRequest()) is None


def test_insecure_has_all_capabilities(room: Room) -> None:
    allowed = frozenset({"security.insecure"})
    command = "grep CapEff /proc/self/status; mount -t tmpfs none /tmp && echo mounted"
    ran = room.run(command, security="insecure", allowed=allowed, network="none")
    assert ran.out.endswith("mounted\n"), ran
    assert ran.written == {}
    ran = room.run(command, network="none")
    assert "mounted" not in ran.out


# -- one id ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return Room(tmp_path_factory.mktemp("single"), userns="single")


def test_with_one_id_root_is_faked(single: Room) -> None:
    command = "touch /f && chown 5:5 /f && stat -c %u /f; cat $APT_CONFIG"
    ran = single.run(command, network="none")
    assert (ran.code, ran.out) == (0, '0\nAPT::Sandbox::User "root";\n')
    assert ran.written == {"f": ""}


def test_with_one_id_another_user_is_that_one(single: Room) -> None:
    ran = single.run("id -u; id -g; touch /tmp/f", user="1234:77", network="none")
    assert (ran.error, ran.out) == ("", "1234\n77\n")
    assert set(ran.written) == {"tmp", "tmp/f"}


# -- stubs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", DRIVERS)
def test_no_driver_keeps_mount_points(bare: Room, driver: str) -> None:
    ran = bare.run("echo x >/new", driver=driver, network="none")
    assert ran.error == ""
    there = {path for path, what in ran.written.items() if what != WHITEOUT}
    assert not {"proc", "sys", "dev", "usr/etc/hosts"} & there
    assert "new" in there


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Room:
    """Return a room whose image has none of the mount points, and a link in place of one."""
    program = next(path for path in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(path))
    layer = images.layer(
        {
            "bin": images.Dir(),
            "bin/busybox": images.File(Path(program).read_bytes(), mode=0o755),
            "bin/sh": images.Link("busybox"),
            "etc": images.Link("usr/etc"),
            "usr": images.Dir(),
            "usr/etc": images.Dir(),
        }
    )
    return Room(tmp_path_factory.mktemp("bare"), images.Image([layer], {}))


def test_mount_points_are_gone_afterwards(bare: Room) -> None:
    ran = bare.run("/bin/busybox", "ls", "/proc/self/status", "/etc/hosts", network="none")
    assert (ran.code, ran.written) == (0, {})


def test_what_a_dangling_mount_point_leads_to_is_gone_too(tmp_path: Path) -> None:
    """As in images of distributions with systemd-resolved."""
    link = images.Link("../run/systemd/resolve/stub-resolv.conf")
    layers = [images.busybox_layer(), images.layer({"etc/resolv.conf": link})]
    room = Room(tmp_path, images.Image(layers, {}))
    settings = RunRequest(dns=("192.0.2.53",), network="none")
    ran = room.run("cat /run/systemd/resolve/stub-resolv.conf", settings=settings)
    assert (ran.error, ran.written) == ("", {})
    assert "192.0.2.53" in ran.out


def test_beside_a_mount_point_a_new_file_stays(bare: Room) -> None:
    ran = bare.run("echo x >/etc/kept", network="none")
    assert ran.written == {"usr": DIRECTORY, "usr/etc": DIRECTORY, "usr/etc/kept": "x\n"}


def test_changed_directory_of_a_mount_point_stays(bare: Room) -> None:
    ran = bare.run("/bin/busybox", "chmod", "700", "/usr/etc", network="none")
    assert ran.written == {"usr": DIRECTORY, "usr/etc": DIRECTORY}


# -- what a RUN must not be able to do -----------------------------------------------------------


def test_nothing_is_left_running(room: Room) -> None:
    """Class 64: it has a pid namespace, which ends with its first process."""
    mark = f"100{os.getpid()}.75"
    ran = room.run(f"setsid sleep {mark} & echo done", network="none")
    assert (ran.error, ran.code, ran.out) == ("", 0, "done\n")
    assert not _processes_with(mark)


def test_output_that_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 64: two files, of which the newer one has the end."""
    monkeypatch.setattr(run, "_KEPT", 1000)
    kept = run._Kept(str(tmp_path / "output"))
    for number in range(95):
        kept.write(b"%099d\n" % number)
    kept.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {"output": 500, "output.1": 1000}
    assert (tmp_path / "output").read_text().endswith("94\n")


def test_killed_step_takes_its_run_along(room: Room) -> None:
    """Class 64."""
    mark = f"100{os.getpid()}.25"
    room.run(f"echo begun; sleep {mark}", killed=True, network="none")
    wait_for(lambda: not _processes_with(mark), "the end of the RUN")


def _processes_with(word: str) -> list[str]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if word.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(name)
        except OSError:
            pass  # it has ended
    return found


def test_directories_of_the_host_are_not_there(room: Room) -> None:
    """Class 63: the host's files, the store and other steps are out of sight."""
    ran = room.run(f"ls -d {room.directory} 2>&1; cat /proc/self/mountinfo", network="none")
    assert "No such file" in ran.out
    assert str(room.directory) not in ran.out.partition("No such file")[2]


def test_device_nodes_cannot_be_made(room: Room) -> None:
    """Class 65."""
    ran = room.run("mknod /null c 1 3 2>/dev/null; ls /null 2>/dev/null; true", network="none")
    assert ran.out == ""
    assert ran.written == {}


def test_fifo_in_place_of_passwd_is_refused(tmp_path: Path) -> None:
    """Class 69: it is opened without waiting, and must be a regular file."""
    layers = [images.busybox_layer(), images.layer({"etc/passwd": images.Fifo()})]
    ran = Room(tmp_path, images.Image(layers, {})).run("true", user="user", network="none")
    assert ran.error == "/etc/passwd of the image is not a regular file"
