"""A container's life through the API: create, attach, start, wait, exec, logs, events, remove."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lib.product import wait_for
from tests.lib.service import PATIENCE, connect, read_all, read_head, serving

if TYPE_CHECKING:
    from tests.lib.product import Product
    from tests.lib.service import Service

UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"


@pytest.fixture
def image(rless: Product) -> str:
    """Give the image a name that the API knows."""
    rless("tag", rless.image, "docker.io/library/probe").expect()
    return "probe"


def body(image: str, script: str, **more: Any) -> dict[str, Any]:
    """Return the body of a create, as the docker command sends it."""
    host = {
        "NetworkMode": "none",
        "MemorySwappiness": -1,
        "OomKillDisable": False,
        "PidsLimit": 0,
        "MaskedPaths": None,
        "Init": None,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        **more.pop("host", {}),
    }
    return {"Image": image, "Cmd": ["sh", "-c", script], "HostConfig": host, **more}


def make(service: Service, name: str, wanted: dict[str, Any]) -> str:
    """Create a container; return its id."""
    status, found = service.ask("POST", f"/containers/create?name={name}", wanted)
    assert status == 201, found
    assert found["Warnings"] == []
    return str(found["Id"])


def take_over(
    service: Service, target: str, data: bytes = b"", head: str = UPGRADE
) -> socket.socket:
    """Send a request that takes the connection over; return it."""
    client = connect(service.path)
    length = f"Content-Length: {len(data)}\r\nContent-Type: application/json\r\n" if data else ""
    client.sendall(f"POST {target} HTTP/1.1\r\nHost: d\r\n{head}{length}\r\n".encode() + data)
    return client


def split(data: bytes) -> dict[int, bytes]:
    """Return what frames say, by stream."""
    found = {1: b"", 2: b""}
    while data:
        size = int.from_bytes(data[4:8], "big")
        assert data[1:4] == bytes(3)
        found[data[0]] += data[8 : 8 + size]
        data = data[8 + size :]
    return found


def run(service: Service, name: str, wanted: dict[str, Any], stdin: bytes = b"") -> tuple[Any, Any]:
    """Do what `docker run` does, in its order; return the streams and the answer of the wait."""
    identifier = make(service, name, wanted)
    query = "stream=1&stdout=1&stderr=1&stdin=1"
    with (
        take_over(service, f"/containers/{identifier}/attach?{query}") as stream,
        connect(service.path) as waiting,
    ):
        head, rest = read_head(stream)
        assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
        assert b"multiplexed-stream" in head
        condition = "removed" if wanted["HostConfig"].get("AutoRemove") else "next-exit"
        target = f"/containers/{identifier}/wait?condition={condition}"
        waiting.sendall(f"POST {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n".encode())
        read_head(waiting)  # comes before the start, or the docker command waits for ever
        assert service.ask("POST", f"/containers/{identifier}/start")[0] == 204
        stream.sendall(stdin)
        stream.shutdown(socket.SHUT_WR)
        said = split(rest + read_all(stream))
        raw = read_all(waiting)
        return said, json.loads(raw[raw.index(b"{") : raw.rindex(b"}") + 1])


def test_run_gives_output_and_exit_code(service: Service, image: str) -> None:
    said, code = run(service, "one", body(image, "echo out; echo err >&2; exit 3"))
    assert said == {1: b"out\n", 2: b"err\n"}
    assert code == {"StatusCode": 3}
    status, found = service.ask("GET", "/containers/one/json")
    assert (status, found["State"]["Status"], found["State"]["ExitCode"]) == (200, "exited", 3)
    assert service.ask("POST", "/containers/one/wait") == (200, {"StatusCode": 3})
    assert service.ask("DELETE", "/containers/one") == (204, b"")


def test_exit_code_survives_the_removal(service: Service, image: str) -> None:
    said, code = run(service, "gone", body(image, "echo x; exit 7", host={"AutoRemove": True}))
    assert (said[1], code) == (b"x\n", {"StatusCode": 7})
    assert service.ask("GET", "/containers/gone/json")[0] == 404


def test_end_of_input_is_passed_on_and_output_goes_on(service: Service, image: str) -> None:
    text = b"x" * 300_000
    wanted = body(image, "wc -c; echo end", OpenStdin=True, StdinOnce=True, AttachStdin=True)
    said, code = run(
        service, "cat", {**wanted, "HostConfig": {**wanted["HostConfig"], "AutoRemove": True}}, text
    )
    assert said[1].split() == [b"300000", b"end"]
    assert code == {"StatusCode": 0}


def test_terminal_is_a_raw_stream(service: Service, image: str) -> None:
    wanted = body(image, "tty; stty size", Tty=True, host={"ConsoleSize": [33, 77]})
    identifier = make(service, "term", wanted)
    target = f"/containers/{identifier}/attach?stream=1&stdout=1"
    with take_over(service, target, head="") as stream:
        head, rest = read_head(stream)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"raw-stream" in head
        assert b"chunked" not in head
        assert service.ask("POST", f"/containers/{identifier}/start")[0] == 204
        assert rest + read_all(stream) == b"/dev/pts/0\r\n33 77\r\n"
    assert service.ask("DELETE", "/containers/term?force=1")[0] == 204


def test_head_of_a_stream_is_read_alone(service: Service, image: str) -> None:
    """docker-py loses what its HTTP library reads behind the head."""
    run(service, "said", body(image, "echo before"))
    target = "/containers/said/attach?logs=1&stdout=1&stderr=1"
    with take_over(service, target) as stream:
        waiting = select.poll()
        waiting.register(stream, select.POLLRDHUP)
        assert waiting.poll(PATIENCE * 1000)  # all is there
        assert stream.recv(65536).endswith(b"\r\n\r\n")
        assert split(read_all(stream)) == {1: b"before\n", 2: b""}
    assert service.ask("DELETE", "/containers/said")[0] == 204


def test_client_that_leaves_does_not_end_the_container(service: Service, image: str) -> None:
    identifier = make(service, "stays", body(image, "while :; do echo tick; sleep 0.1; done"))
    with take_over(service, "/containers/stays/attach?stream=1&stdout=1") as stream:
        read_head(stream)
        assert service.ask("POST", "/containers/stays/start")[0] == 204
        assert stream.recv(8)
    with take_over(service, f"/containers/{identifier[:12]}/attach?stream=1&stdout=1") as stream:
        read_head(stream)
        assert stream.recv(8)
    found = service.ask("GET", "/containers/json")[1]
    assert [(one["Names"], one["State"]) for one in found] == [(["/stays"], "running")]
    assert service.ask("POST", "/containers/stays/start")[0] == 304
    assert service.ask("DELETE", "/containers/stays")[0] == 409
    assert service.ask("POST", "/containers/stays/stop?t=0")[0] == 204
    assert service.ask("POST", "/containers/stays/stop")[0] == 304
    assert service.ask("POST", "/containers/stays/kill")[0] == 409
    assert service.ask("DELETE", "/containers/stays")[0] == 204


def test_all_but_streams_outlives_a_killed_service(
    service: Service, rless: Product, image: str
) -> None:
    """A container, and a process of exec with a terminal, whose code the next service tells."""
    make(service, "outlives", body(image, "sleep 1000"))
    assert service.ask("POST", "/containers/outlives/start")[0] == 204
    script = "trap 'exit 9' HUP; echo up; until [ -e /go ]; do sleep 0.05; done; exit 6"
    wanted = {"AttachStdout": True, "Tty": True, "Cmd": ["sh", "-c", script]}
    status, found = service.ask(
        "POST", "/containers/outlives/exec", {**wanted, "DetachKeys": "ctrl-"}
    )
    assert (status, "'ctrl-' is not a key" in found["message"]) == (400, True)
    target = "/containers/outlives/attach?stream=1&detachKeys=ctrl-"
    assert service.ask("POST", target)[0] == 400
    found = service.ask("POST", "/containers/outlives/exec", wanted)[1]
    with take_over(service, f"/exec/{found['Id']}/start", b'{"Tty":true}') as stream:
        rest = read_head(stream)[1]
        # The docker command asks for the size at once: the process may not have started yet.
        assert service.ask("POST", f"/exec/{found['Id']}/resize?h=20&w=30")[0] == 200
        while not rest:
            rest = stream.recv(100)
        assert rest == b"up\r\n"
        service.process.kill()
        service.process.wait(PATIENCE)
    assert rless("ps", "--format", "{{.Names}} {{.State}}").expect().out == "outlives running\n"
    with serving(rless, rless.base / "service") as second:
        target = f"/exec/{found['Id']}/json"
        assert second.ask("GET", target)[1]["Running"]
        rless("exec", "outlives", "touch", "/go").expect()
        wait_for(lambda: not second.ask("GET", target)[1]["Running"], "its end", PATIENCE)
        assert second.ask("GET", target)[1]["ExitCode"] == 6
    rless("rm", "-f", "outlives").expect()


def test_exec_gives_streams_and_its_code_is_there_at_their_end(
    service: Service, image: str
) -> None:
    make(service, "host", body(image, "sleep 1000"))
    wanted = {
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Cmd": ["sh", "-c", "cat; echo $X >&2; exit 9"],
        "Env": ["X=y"],
    }
    assert service.ask("POST", "/containers/host/exec", wanted)[0] == 409  # it does not run
    assert service.ask("POST", "/containers/host/start")[0] == 204
    status, found = service.ask("POST", "/containers/host/exec", wanted)
    assert status == 201
    identifier = found["Id"]
    with take_over(service, f"/exec/{identifier}/start", b'{"Detach":false}') as stream:
        head, rest = read_head(stream)
        assert head.startswith(b"HTTP/1.1 101")
        wait_for(
            lambda: service.ask("GET", "/containers/host/json")[1]["ExecIDs"] == [identifier],
            "the process",
            PATIENCE,
        )
        stream.sendall(b"in\n")
        stream.shutdown(socket.SHUT_WR)
        assert split(rest + read_all(stream)) == {1: b"in\n", 2: b"y\n"}
        state = service.ask("GET", f"/exec/{identifier}/json")[1]
        assert (state["Running"], state["ExitCode"]) == (False, 9)
    assert service.ask("POST", f"/exec/{identifier}/start", {})[0] == 409
    # Whether there is a terminal is said at the create, and here whether output is in frames.
    found = service.ask("POST", "/containers/host/exec", {**wanted, "Cmd": ["tty"], "Tty": True})[1]
    with take_over(service, f"/exec/{found['Id']}/start", b'{"Tty":false}') as stream:
        rest = read_head(stream)[1]
        assert split(rest + read_all(stream))[1].startswith(b"/dev/pts/")
    assert service.ask("GET", f"/exec/{64 * '0'}/json")[0] == 404
    assert service.ask("DELETE", "/containers/host?force=1")[0] == 204


def test_exec_leaves_no_descriptors_in_the_service(service: Service, image: str) -> None:
    make(service, "many", body(image, "sleep 1000"))
    assert service.ask("POST", "/containers/many/start")[0] == 204
    wanted = {"AttachStdout": True, "Cmd": ["echo", "x"]}

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{service.process.pid}/fd"))

    def run_one() -> None:
        found = service.ask("POST", "/containers/many/exec", wanted)[1]
        with take_over(service, f"/exec/{found['Id']}/start", b"{}") as stream:
            assert split(read_head(stream)[1] + read_all(stream)) == {1: b"x\n", 2: b""}

    run_one()
    before = descriptors()
    for _ in range(5):
        run_one()
    # It closes its side of the last connection in its own time.
    wait_for(lambda: descriptors() <= before, "its descriptors", PATIENCE)
    assert service.ask("DELETE", "/containers/many?force=1")[0] == 204


@pytest.mark.needs("delegated cgroup")
def test_keeper_of_an_exec_is_in_the_group_of_the_monitor(
    service: Service, rless: Product, image: str
) -> None:
    """Where the monitor is a unit of systemd's; here the group is made by hand."""
    container = make(service, "kept", body(image, "sleep 1000"))
    assert service.ask("POST", "/containers/kept/start")[0] == 204
    group = Path(json.loads((rless.live / container).read_text())["cgroup"]).parent / "supervisor"
    made = not group.exists()
    group.mkdir(exist_ok=True)
    wanted = {"Cmd": ["sh", "-c", "until [ -e /go ]; do sleep 0.05; done; exit 3"]}
    found = service.ask("POST", "/containers/kept/exec", wanted)[1]
    assert service.ask("POST", f"/exec/{found['Id']}/start", {"Detach": True})[0] == 200
    record = rless.storage / "containers" / container / "execs" / f"{found['Id']}.json"
    keeper = json.loads(record.read_text())["keeper"][0]
    assert str(keeper) in (group / "cgroup.procs").read_text().split()
    rless("exec", "kept", "touch", "/go").expect()
    target = f"/exec/{found['Id']}/json"
    wait_for(lambda: service.ask("GET", target)[1]["ExitCode"] == 3, "its exit code", PATIENCE)
    assert service.ask("DELETE", "/containers/kept?force=1")[0] == 204
    if made:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "the keeper's end", PATIENCE)
        group.rmdir()


def test_detached_exec_runs_on_and_its_code_is_recorded(
    service: Service, rless: Product, image: str
) -> None:
    container = make(service, "host", body(image, "sleep 1000"))
    assert service.ask("POST", "/containers/host/start")[0] == 204
    found = service.ask("POST", "/containers/host/exec", {"Cmd": ["sh", "-c", "exit 4"]})[1]
    assert service.ask("POST", f"/exec/{found['Id']}/start", {"Detach": True})[0] == 200
    wait_for(
        lambda: service.ask("GET", f"/exec/{found['Id']}/json")[1]["ExitCode"] == 4,
        "its exit code",
        PATIENCE,
    )
    ended = rless.storage / "containers" / container / "execs" / f"{found['Id']}.end"
    os.utime(ended, (0, 0))  # long ago: its record goes when the next is made
    old, found = found, service.ask("POST", "/containers/host/exec", {"Cmd": ["nothing"]})[1]
    assert service.ask("GET", f"/exec/{old['Id']}/json")[0] == 404
    assert {path.name.partition(".")[0] for path in ended.parent.iterdir()} == {found["Id"]}
    status, error = service.ask("POST", f"/exec/{found['Id']}/start", {"Detach": True})
    assert status == 400
    assert "not found" in error["message"]
    assert service.ask("DELETE", "/containers/host?force=1")[0] == 204


def test_logs_are_frames_with_times(service: Service, image: str) -> None:
    run(service, "logged", body(image, "echo one; echo two >&2; echo three"))
    assert service.ask("GET", "/containers/logged/logs")[0] == 400
    status, data = service.ask("GET", "/containers/logged/logs?stdout=1&stderr=1")
    assert (status, split(data)) == (200, {1: b"one\nthree\n", 2: b"two\n"})
    data = service.ask("GET", "/containers/logged/logs?stdout=1&timestamps=1&tail=3")[1]
    stamp, _, text = split(data)[1].partition(b" ")
    assert text.startswith(b"one\n")
    assert len(stamp.partition(b".")[2]) == len("123456789Z")
    data = service.ask("GET", "/containers/logged/logs?stdout=1&follow=1")[1]  # it has ended
    assert split(data)[1] == b"one\nthree\n"
    assert service.ask("DELETE", "/containers/logged")[0] == 204


def test_events_are_not_polled_for(service: Service, rless: Product) -> None:
    """Without a change the file is looked at once a second only."""
    event = {"type": "volume", "action": "create", "attributes": {}}
    with connect(service.path) as client:
        client.sendall(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
        read_head(client)
        begun = time.monotonic()
        for number in range(20):
            line = json.dumps({**event, "time": time.time_ns(), "id": f"v{number}"})
            with (rless.storage / "events").open("a") as file:
                file.write(f"{line}\n")
            said = b""
            while f'"v{number}"'.encode() not in said:
                said += client.recv(65536)
        assert time.monotonic() - begun < 10


def test_events_come_as_they_happen(service: Service, image: str) -> None:
    seen: list[dict[str, Any]] = []
    with connect(service.path) as client:
        filters = '{"label":{"mine=yes":true},"type":["container"]}'.replace('"', "%22")
        client.sendall(f"GET /events?filters={filters} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        read_head(client)  # at once, before anything happens

        def listen() -> None:
            with client.makefile("rb") as lines:
                for line in lines:
                    if line.startswith(b"{"):
                        seen.append(json.loads(line))
                        if seen[-1]["Action"] == "destroy":
                            return

        listener = threading.Thread(target=listen)
        listener.start()
        labels = {"mine": "yes", "odd": '{"a":[1,2]}, b'}
        run(service, "event", body(image, "exit 2", Labels=labels))
        assert service.ask("DELETE", "/containers/event")[0] == 204
        listener.join(PATIENCE)
        assert not listener.is_alive()
    assert [one["Action"] for one in seen] == ["create", "attach", "start", "die", "destroy"]
    attributes = seen[3]["Actor"]["Attributes"]
    assert attributes["exitCode"] == "2"
    assert {name: attributes[name] for name in labels} == labels
    assert seen[3]["status"] == "die"
    assert seen[3]["from"] == image


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Image": "missing"}, "No such image"),
        ({"Image": "/etc/passwd"}, "not the name of an image"),
        ({"Image": "host:"}, "not the name of an image"),
        ({"HostConfig": {"Binds": ["relative:/x"]}}, ""),
        ({"HostConfig": {"Binds": ["./x:/x"]}}, "not an absolute path"),
        ({"HostConfig": {"CpuRealtimeRuntime": 1}}, "CpuRealtimeRuntime"),
        ({"HostConfig": {"Runtime": "kata"}}, "runtime"),
        ({"HostConfig": {"NetworkMode": "ns:/proc/1/ns/net"}}, "refused"),
        ({"HostConfig": {"SecurityOpt": ["seccomp=/etc/passwd"]}}, "seccomp"),
        ({"HostConfig": {"CapAdd": [7]}}, "list of texts"),
        ({"HostConfig": {"Memory": "7"}}, "a number"),
        ({"HostConfig": {"LogConfig": {"Type": "syslog"}}}, "no log driver named 'syslog'"),
        ({"Env": ["=x"]}, "without a name"),
    ],
)
def test_create_refuses_by_name(
    service: Service, image: str, change: dict[str, Any], message: str
) -> None:
    wanted = {**body(image, "true"), **change}
    status, found = service.ask("POST", "/containers/create?name=refused", wanted)
    if not message:  # a name of a volume
        assert status == 201
        assert service.ask("DELETE", "/containers/refused?v=1")[0] == 204
        return
    assert status == (404 if message == "No such image" else 400), found
    assert message in found["message"]


def test_create_understands_names_in_any_case(service: Service, image: str) -> None:
    wanted = {
        "image": image,
        "CMD": ["true"],
        "entrypoint": ["/bin/sh", "-c"],
        "hostconfig": {"networkmode": "none", "MEMORY": 0, "Binds": None},
        "labels": {"Kept": "As It Is"},
    }
    make(service, "cases", wanted)
    found = service.ask("GET", "/containers/cases/json")[1]
    assert found["Config"]["Labels"]["Kept"] == "As It Is"
    assert found["Config"]["Entrypoint"] == ["/bin/sh", "-c"]
    assert found["Config"]["Cmd"] == ["true"]
    assert found["HostConfig"]["LogConfig"]["Type"] == "json-file"
    assert found["State"]["Status"] == "created"
    assert service.ask("POST", "/containers/create?name=cases", wanted)[0] == 409
    assert service.ask("DELETE", "/containers/cases")[0] == 204


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [("/no/such", 127, "no such file or directory"), ("/etc/passwd", 126, "permission denied")],
)
def test_start_that_fails_says_why(
    service: Service, image: str, program: str, code: int, words: str
) -> None:
    """The docker command makes its exit code of these words."""
    make(service, "fails", {**body(image, ""), "Cmd": [program]})
    status, found = service.ask("POST", "/containers/fails/start")
    assert status == 400
    assert f"{program}: {words}" in found["message"]
    state = service.ask("GET", "/containers/fails/json")[1]["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", code)
    assert service.ask("DELETE", "/containers/fails")[0] == 204
    assert "No such container: fails" in service.ask("DELETE", "/containers/fails")[1]["message"]


def test_ping_is_answered_while_containers_are_made(service: Service, image: str) -> None:
    names = [f"many{number}" for number in range(20)]
    threads = [
        threading.Thread(target=make, args=(service, name, body(image, "true"))) for name in names
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert service.ask("GET", "/_ping") == (200, b"OK")
    assert service.ask("POST", f"/containers/{names[0]}/rename?name={names[1]}")[0] == 409
    for name in names:
        assert service.ask("DELETE", f"/containers/{name}")[0] == 204
