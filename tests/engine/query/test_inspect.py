"""`inspect`, `container inspect` and `port`: Docker's shape, and missing objects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rootless.cli.main import main
from rootless.engine.query import inspect
from rootless.network import interfaces
from tests.lib.records import Records

HEALTH = {
    "test": ["CMD-SHELL", "true"], "interval": 30.0, "timeout": 1.5, "start_period": 0.0,
    "start_interval": 5.0, "retries": 3,
}  # fmt: skip
REQUEST = {
    "image": "busybox", "rootfs": None, "command": ["-c", "sleep 1"], "entrypoint": "/bin/sh",
    "user": "1000", "cap_add": ["CAP_NET_ADMIN"], "cap_drop": ["ALL"], "dns": ["9.9.9.9"],
    "privileged": False, "read_only": True, "security_opt": ["no-new-privileges"],
    "shm_size": 1024, "init": True, "pid": "host", "ipc": "private", "uts": "private",
    "publish": [
        {"host_ip": "::1", "host_port": 8080, "host_end": 8090, "container_port": 80,
         "protocol": "tcp"},
        {"host_ip": None, "host_port": 8443, "container_port": 80, "protocol": "tcp"},
        {"host_ip": None, "host_port": None, "container_port": 53, "protocol": "udp"},
    ],
    "userns": "auto", "cgroupns": "private", "add_host": [["a", "1.2.3.4"]],
    "ulimits": [["nofile", 10, 20]], "cidfile": "/c", "driver": None,
    "devices": [{"host": "/dev/fuse", "container": "/dev/fuse", "permissions": "rwm"}],
    "mounts": [
        {"type": "bind", "source": "/srv", "target": "/in", "read_only": True, "options": []},
        {"type": "volume", "source": "data", "target": "/data", "read_only": False, "options": []},
        {"type": "tmpfs", "source": None, "target": "/t", "read_only": False, "options": ["exec"]},
    ],
}  # fmt: skip
CONFIG = {
    "hostname": "h",
    "root": {"path": "", "readonly": True},
    "process": {"env": ["PATH=/bin", "A=1"], "cwd": "/srv", "oomScoreAdj": 5, "args": []},
    "linux": {"sysctl": {"a.b": "1"}, "maskedPaths": ["/proc/kcore"], "readonlyPaths": []},
}


@pytest.fixture
def show(capfd: pytest.CaptureFixture[str]) -> Any:
    """Run rless with these words; return (code, output, errors)."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        return code, *capfd.readouterr()

    return run


def one(show: Any, *words: str) -> dict[str, Any]:
    code, out, err = show("inspect", *words)
    assert (code, err) == (0, "")
    found: list[dict[str, Any]] = json.loads(out)
    assert len(found) == 1
    return found[0]


@pytest.fixture
def full(records: Records) -> Records:
    path = records.directory(
        records.add(
            "web",
            state="running",
            created=1_700_000_000.25,
            command=["/bin/sh", "-c", "sleep 1"],
            labels={"tier": "front"},
            ports=["127.0.0.1:8080->80/tcp", "[::1]:8080->80/tcp", "0.0.0.0:53->53/udp"],
            exposed=["80/tcp", "443/tcp"],
            request=REQUEST,
            image_config={"Volumes": {"/data": {}}, "User": "x", "Cmd": ["ignored"]},
            config=CONFIG,
            health=HEALTH,
            restart={"name": "on-failure", "max": 4},
            stdin_open=True,
            tty=True,
            log={"driver": "json-file", "options": {"max-size": 1000, "max-file": 2}},
            mounts=[
                {"type": "volume", "name": "data", "source": "/s/data", "target": "/data",
                 "rw": True, "options": [], "propagation": "", "anonymous": False},
                {"type": "bind", "name": None, "source": "/srv", "target": "/in", "rw": False,
                 "options": ["ro"], "propagation": "rprivate", "anonymous": False},
            ],
            live={"restarts": 2, "started": 1_700_000_001.5,
                  "rootfs": {"driver": "overlay", "layers": ["/l/1", "/l/2"]}},
        )
    )  # fmt: skip
    log = [{"start": 1_700_000_002.0, "end": 1_700_000_003.0, "exit_code": 0, "output": "ok\n"}]
    (path / "health.json").write_text(
        json.dumps({"status": "healthy", "failing_streak": 0, "log": log})
    )
    return records


def test_inspect_identifies_the_container(full: Records, show: Any) -> None:
    found = one(show, "web")
    path = full.directory(found["Id"])
    assert found["Created"] == "2023-11-14T22:13:20.25Z"
    assert (found["Path"], found["Args"]) == ("/bin/sh", ["-c", "sleep 1"])
    assert found["Name"] == "/web"
    assert found["Image"] == "sha256:" + "1" * 64
    assert found["LogPath"] == f"{path}/log"
    assert found["RestartCount"] == 2
    assert (found["Driver"], found["Platform"]) == ("overlay", "linux")
    assert found["GraphDriver"]["Data"]["LowerDir"] == "/l/2:/l/1"
    assert found["Mounts"] == [
        {"Type": "volume", "Name": "data", "Source": "/s/data", "Destination": "/data",
         "Driver": "local", "Mode": "", "RW": True, "Propagation": ""},
        {"Type": "bind", "Source": "/srv", "Destination": "/in", "Mode": "ro", "RW": False,
         "Propagation": "rprivate"},
    ]  # fmt: skip
    for name in ("MountLabel", "ProcessLabel", "AppArmorProfile", "ExecIDs", "HostsPath"):
        assert name in found


def test_state_of_a_running_container(full: Records, show: Any) -> None:
    state = one(show, "web")["State"]
    assert state.pop("Pid") > 0
    assert state == {
        "Status": "running", "Running": True, "Paused": False, "Restarting": False,
        "OOMKilled": False, "Dead": False, "ExitCode": 0, "Error": "",
        "StartedAt": "2023-11-14T22:13:21.5Z", "FinishedAt": "0001-01-01T00:00:00Z",
        "Health": {"Status": "healthy", "FailingStreak": 0, "Log": [
            {"Start": "2023-11-14T22:13:22Z", "End": "2023-11-14T22:13:23Z", "ExitCode": 0,
             "Output": "ok\n"}]},
    }  # fmt: skip


def test_state_of_an_ended_container(records: Records, show: Any) -> None:
    exit_record = {"code": 9, "started": 1.0, "finished": 2.5, "error": "why", "oom": True}
    records.add("over", exit=exit_record | {"restarts": 3})
    found = one(show, "over")
    assert found["State"] == {
        "Status": "exited", "Running": False, "Paused": False, "Restarting": False,
        "OOMKilled": True, "Dead": False, "Pid": 0, "ExitCode": 9, "Error": "why",
        "StartedAt": "1970-01-01T00:00:01Z", "FinishedAt": "1970-01-01T00:00:02.5Z",
    }  # fmt: skip
    assert found["RestartCount"] == 3
    assert found["NetworkSettings"]["Ports"] == {}


def test_host_config_shows_the_request(full: Records, show: Any) -> None:
    found = one(show, "web")["HostConfig"]
    expected = {
        "Binds": ["/srv:/in:ro", "data:/data"],
        "ContainerIDFile": "/c",
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1000", "max-file": "2"}},
        "NetworkMode": "pasta",
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 4},
        "AutoRemove": False, "CapAdd": ["CAP_NET_ADMIN"], "CapDrop": ["ALL"],
        "Dns": ["9.9.9.9"], "ExtraHosts": ["a:1.2.3.4"], "Privileged": False,
        "ReadonlyRootfs": True, "SecurityOpt": ["no-new-privileges"], "ShmSize": 1024,
        "Tmpfs": {"/t": "exec"}, "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
        "Init": True, "PidMode": "host", "IpcMode": "private", "UTSMode": "",
        "UsernsMode": "auto", "CgroupnsMode": "private", "OomScoreAdj": 5,
        "Sysctls": {"a.b": "1"}, "MaskedPaths": ["/proc/kcore"],
        "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse",
                     "CgroupPermissions": "rwm"}],
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert found["PortBindings"] == {
        "80/tcp": [
            {"HostIp": "::1", "HostPort": "8080-8090"}, {"HostIp": "", "HostPort": "8443"},
        ],
        "53/udp": [{"HostIp": "", "HostPort": ""}],
    }  # fmt: skip
    assert all(found[name] == 0 for name in ("Memory", "NanoCpus", "CpuShares", "MemorySwap"))


def test_config_is_shown(full: Records, show: Any) -> None:
    found = one(show, "web")["Config"]
    assert found == {
        "Hostname": "h", "Domainname": "", "User": "1000", "AttachStdin": False,
        "AttachStdout": False, "AttachStderr": False,
        "ExposedPorts": {"443/tcp": {}, "53/udp": {}, "80/tcp": {}}, "Tty": True, "OpenStdin": True,
        "StdinOnce": False, "Env": ["PATH=/bin", "A=1"], "Cmd": ["-c", "sleep 1"],
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 30 * 10**9,
                        "Timeout": 15 * 10**8, "StartPeriod": 0, "StartInterval": 5 * 10**9,
                        "Retries": 3},
        "Image": "busybox:latest", "Volumes": {"/data": {}}, "WorkingDir": "/srv",
        "Entrypoint": ["/bin/sh"], "Labels": {"tier": "front"}, "StopSignal": "SIGTERM",
        "StopTimeout": 10,
    }  # fmt: skip


def test_command_defaults_to_that_of_the_image(records: Records, show: Any) -> None:
    image = {"Entrypoint": ["/entry"], "Cmd": ["one"]}
    records.add("a", image_config=image, request={"command": [], "entrypoint": None})
    records.add("b", image_config=image, request={"command": ["two"], "entrypoint": None})
    records.add("c", image_config=image, request={"command": [], "entrypoint": ""})
    shown = [(one(show, name)["Config"]["Entrypoint"], one(show, name)["Config"]["Cmd"])
             for name in "abc"]  # fmt: skip
    assert shown == [(["/entry"], ["one"]), (["/entry"], ["two"]), (None, None)]


# Templates as Docker's documentation and its users write them.
TEMPLATES = (
    ("{{.State.Status}}", "running"),
    ("{{.Name}}", "/web"),
    ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "healthy"),
    ("{{eq .ID .Id}} {{.SizeRw}} {{json .HostConfig.Mounts}}", "true <nil> null"),
    ("{{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}", "pasta"),
    ("{{.State.Health.Status}}", "healthy"),
    ("{{json .State.Paused}}", "false"),
    ("{{index .Config.Env 0}}", "PATH=/bin"),
    ("{{range .Config.Env}}{{println .}}{{end}}", "PATH=/bin\nA=1\n"),
    ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
    (
        "{{range $p, $conf := .NetworkSettings.Ports}}"
        "{{if $conf}} {{$p}} -> {{(index $conf 0).HostPort}}{{end}}{{end}}",
        " 53/udp -> 53 80/tcp -> 8080",
    ),
    ('{{index .Config.Labels "tier"}}', "front"),
    ('{{index .Config.Labels "none"}}', ""),
    ("{{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}}",
     "on-failure:4"),
    ("{{.State.ExitCode}} {{.State.Running}} {{.RestartCount}}", "0 true 2"),
    ("{{json .HostConfig.CapAdd}}", '["CAP_NET_ADMIN"]'),
    ("{{range .Mounts}}{{.Type}}={{.Destination}};{{end}}", "volume=/data;bind=/in;"),
    ("{{range .Mounts}}{{if eq .Type \"bind\"}}{{.Source}}{{end}}{{end}}", "/srv"),
    ("{{.LogPath | len | lt 4}}", "true"),
    ("{{.Config.Cmd}}", "[-c sleep 1]"),
    ("{{.Path}} {{join .Args \" \"}}", "/bin/sh -c sleep 1"),
    ("{{.HostConfig.LogConfig.Type}}", "json-file"),
    ("{{with .State.Health}}{{range .Log}}{{.ExitCode}}{{end}}{{else}}none{{end}}", "0"),
)  # fmt: skip


def test_omitted_fields_are_nil_in_templates(records: Records, show: Any) -> None:
    """The structs of Docker have the field, and scripts ask whether there is a health check."""
    records.add("web")
    template = "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}"
    assert show("inspect", "-f", template, "web") == (0, "none\n", "")
    assert show("inspect", "-f", "{{json .Config.Healthcheck}}", "web") == (0, "null\n", "")
    code, out, _ = show("inspect", "-f", "{{json .State}}", "web")
    assert code == 0
    assert "Health" not in json.loads(out)
    assert "ID" not in json.loads(show("inspect", "-f", "{{json .}}", "web")[1])
    assert show("inspect", "-f", "{{.State.Health.Status}}", "web")[0] == 1


def test_config_has_requested_ports_and_volumes(records: Records, show: Any) -> None:
    mount = {"type": "volume", "name": "f" * 64, "source": "/s", "target": "/anon", "rw": True,
             "options": [], "propagation": "", "anonymous": True}  # fmt: skip
    records.add(
        "web",
        state="running",
        ports=["0.0.0.0:8080->80/tcp"],
        exposed=["53/udp", "99"],
        network="none",
        mounts=[mount],
        image_config={"Volumes": {"/data": {}}},
    )
    found = one(show, "web")
    assert found["Config"]["ExposedPorts"] == {"53/udp": {}, "80/tcp": {}, "99/tcp": {}}
    assert found["Config"]["Volumes"] == {"/anon": {}, "/data": {}}
    assert found["NetworkSettings"]["Ports"] == {
        "53/udp": None, "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "99/tcp": None,
    }  # fmt: skip
    assert found["NetworkSettings"]["IPAddress"] == ""


def test_addresses_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        "addresses": [["192.0.2.2", 24], ["fd00::2", 64]],
        "gateways": ["192.0.2.1", "fd00::1"],
    }
    monkeypatch.setattr(interfaces, "addresses", lambda _: own)
    assert inspect.addresses(1) == {
        "Gateway": "192.0.2.1", "IPAddress": "192.0.2.2", "IPPrefixLen": 24,
        "IPv6Gateway": "fd00::1", "GlobalIPv6Address": "fd00::2", "GlobalIPv6PrefixLen": 64,
        "MacAddress": "",
    }  # fmt: skip
    monkeypatch.undo()
    assert inspect.addresses(1 << 30) == inspect.NO_ADDRESSES  # it has ended


@pytest.mark.parametrize(("template", "expected"), TEMPLATES)
def test_templates_are_rendered(full: Records, show: Any, template: str, expected: str) -> None:
    assert show("inspect", "-f", template, "web") == (0, expected + "\n", "")
    assert show("container", "inspect", "--format", template, "web") == (0, expected + "\n", "")


def test_existing_objects_are_shown_and_missing_ones_reported(records: Records, show: Any) -> None:
    records.add("a")
    records.add("b")
    code, out, err = show("inspect", "a", "gone", "b")
    assert code == 1
    assert [item["Name"] for item in json.loads(out)] == ["/a", "/b"]
    assert err == "rless: no such object: gone\n"
    assert show("inspect", "gone") == (1, "[]\n", "rless: no such object: gone\n")
    code, out, err = show("inspect", "--type", "container", "gone")
    assert (code, out) == (1, "[]\n")
    assert err.startswith("rless: no such container: gone")
    assert show("inspect", "-f", "{{.Name}}", "gone", "a") == (
        1, "/a\n", "rless: no such object: gone\n",
    )  # fmt: skip
    for kind in ("image", "volume"):
        code, out, err = show("inspect", "--type", kind, "gone")
        assert (code, out) == (1, "[]\n")
        assert err.startswith(f"rless: no such {kind}: gone")
    assert show("inspect", "A B/\x1b")[2] == "rless: no such object: A B/\\x1b\n"


def test_compact_json_on_request(records: Records, show: Any) -> None:
    records.add("a", labels={"evil": "\x1b[2J\x9b\x7f é"})
    code, out, _ = show("inspect", "--format", "json", "a")
    assert code == 0
    assert out.count("\n") == 1
    assert json.loads(out)[0]["Config"]["Labels"] == {"evil": "\x1b[2J\x9b\x7f é"}
    for text in (out, show("inspect", "a")[1], show("inspect", "-f", "{{.Config.Labels}}", "a")[1]):
        assert text.replace("\n", "").isprintable()
    assert "é" in out


def test_missing_field_is_named(full: Records, show: Any) -> None:
    code, out, err = show("inspect", "-f", "{{.State.Stat}}", "web")
    assert (code, out) == (1, "")
    assert err.startswith(
        "rless: --format: there is no field 'Stat' in .State; fields are Status, Running"
    )


def test_size_is_shown_on_request(records: Records, show: Any) -> None:
    path = records.directory(records.add("a"))
    (path / "upper").mkdir()
    (path / "upper/file").write_bytes(b"x" * 10)
    found = one(show, "-s", "a")
    assert (found["SizeRw"], found["SizeRootFs"]) == (10, 10)
    assert "SizeRw" not in one(show, "a")


def test_port_lists_mappings(full: Records, show: Any) -> None:
    assert show("port", "web") == (
        0, "53/udp -> 0.0.0.0:53\n80/tcp -> 127.0.0.1:8080\n80/tcp -> [::1]:8080\n", "",
    )  # fmt: skip
    assert show("port", "web", "80") == (0, "127.0.0.1:8080\n[::1]:8080\n", "")
    assert show("port", "web", "53/udp") == (0, "0.0.0.0:53\n", "")
    assert show("port", "web", "53") == (
        1, "", "rless: no public port 53/tcp published for web\n",
    )  # fmt: skip
    assert show("port", "web", "x")[0] == 1
    assert show("port", "gone")[0] == 1


def test_port_of_an_ended_container(records: Records, show: Any) -> None:
    records.add("over", ports=["0.0.0.0:80->80/tcp"])
    assert show("port", "over") == (0, "", "")
