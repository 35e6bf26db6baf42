"""What a create asks for in ways of its own, and what is left out of it with a warning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.lib.service import connect, read_all, read_head
from tests.service.test_life import body, image, make
from tests.service.test_things import archive

if TYPE_CHECKING:
    from tests.lib.service import Service

__all__ = ["image"]


def inspected(service: Service, name: str, wanted: dict[str, Any]) -> tuple[list[str], Any]:
    """Create a container and remove it; return the warnings, and what `inspect` has shown."""
    status, made = service.ask("POST", f"/containers/create?name={name}", wanted)
    assert status == 201, made
    found = service.ask("GET", f"/containers/{name}/json")[1]
    assert service.ask("DELETE", f"/containers/{name}")[0] == 204
    return made["Warnings"], found


def test_what_docker_leaves_out_too_is_left_out_with_a_warning(
    service: Service, image: str
) -> None:
    for field, value in (
        ("MemorySwappiness", 40),
        ("OomKillDisable", True),
        ("KernelMemory", 1 << 28),
    ):
        warnings, found = inspected(service, "left", body(image, "true", host={field: value}))
        assert [field in one for one in warnings] == [True]
        assert not found["HostConfig"].get(field)


def test_device_rules_come_back_and_allow_nothing_more(service: Service, image: str) -> None:
    asked = {"DeviceCgroupRules": ["c 7:128 rwm", "a *:* r"]}
    warnings, found = inspected(service, "rules", body(image, "true", host=asked))
    assert len(warnings) == 1
    assert found["HostConfig"]["DeviceCgroupRules"] == asked["DeviceCgroupRules"]
    wrong = body(image, "true", host={"DeviceCgroupRules": ["c 7:128"]})
    assert service.ask("POST", "/containers/create", wrong)[0] == 400


def test_isolation_and_runtime_come_back(service: Service, image: str) -> None:
    wanted = body(image, "true", Runtime="runc", host={"Isolation": "default"})
    found = inspected(service, "back", wanted)[1]["HostConfig"]
    assert (found["Isolation"], found["Runtime"]) == ("default", "runc")
    assert service.ask("POST", "/containers/create", {**wanted, "Runtime": "kata"})[0] == 400


def test_variable_without_a_value_is_shown_and_taken_away(service: Service, image: str) -> None:
    make(service, "env", body(image, "test -z ${GONE+x}", Env=["GONE", "OTHER=one"]))
    shown = service.ask("GET", "/containers/env/json")[1]["Config"]["Env"]
    assert {"GONE", "OTHER=one"} <= set(shown)
    assert service.ask("POST", "/containers/env/start")[0] == 204
    assert service.ask("POST", "/containers/env/wait") == (200, {"StatusCode": 0})
    assert "GONE" in service.ask("GET", "/containers/env/json")[1]["Config"]["Env"]
    assert service.ask("DELETE", "/containers/env")[0] == 204


@pytest.mark.parametrize("condition", ["removed", "next-exit"])
def test_wait_tells_why_a_container_that_removes_itself_did_not_start(
    service: Service, image: str, condition: str
) -> None:
    wanted = {**body(image, "", host={"AutoRemove": True}), "Cmd": ["/none"]}
    identifier = make(service, "never", wanted)
    target = f"/containers/{identifier}/wait?condition={condition}"
    with connect(service.path) as client:
        client.sendall(f"POST {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n".encode())
        _, rest = read_head(client)
        assert service.ask("POST", f"/containers/{identifier}/start")[0] == 400
        assert b'{"StatusCode": 127}' in rest + read_all(client)
    assert service.ask("GET", f"/containers/{identifier}/json")[0] == 404


def test_junk_to_load_is_told_in_a_line(service: Service) -> None:
    status, said = service.ask("POST", "/images/load", b"abc")
    assert (status, bool(said["error"])) == (200, True)


def test_link_finds_a_container_that_starts_later(service: Service, image: str) -> None:
    assert service.ask("POST", "/networks/create", {"Name": "test 01"})[0] == 201
    wanted = body(
        image,
        "until nslookup bar; do sleep 0.1; done; exec sleep 1000",
        host={"NetworkMode": "test 01"},
        NetworkingConfig={"EndpointsConfig": {"test 01": {"Links": ["later:bar"]}}},
        Healthcheck={"Test": ["NONE"]},
    )
    make(service, "before", wanted)
    other = body(image, "exec sleep 1000", host={"NetworkMode": "test 01"})
    for name in ("later", "third"):
        make(service, name, other)
    assert service.ask("POST", "/containers/before/start")[0] == 204
    for name in ("later", "third"):
        assert service.ask("POST", f"/containers/{name}/start")[0] == 204

    def finds(name: str, host: str) -> int:
        asked = {"Cmd": ["nslookup", host], "AttachStdout": True}
        made = service.ask("POST", f"/containers/{name}/exec", asked)[1]["Id"]
        assert service.ask("POST", f"/exec/{made}/start", {})[0] == 200
        return int(service.ask("GET", f"/exec/{made}/json")[1]["ExitCode"])

    assert finds("before", "bar") == 0
    assert finds("third", "bar") != 0  # it is a name for that one alone
    assert finds("before", "bar>later") != 0
    for name in ("before", "later", "third"):
        assert service.ask("DELETE", f"/containers/{name}?force=1")[0] == 204
    assert service.ask("DELETE", "/networks/test%2001")[0] == 204


def test_part_of_a_volume_is_mounted(service: Service, image: str) -> None:
    """And is shown as it was asked for."""
    shared = {"Binds": ["parts:/v"]}
    make(service, "fills", body(image, "mkdir -p /v/a; echo in >/v/a/f", host=shared))
    assert service.ask("POST", "/containers/fills/start")[0] == 204
    assert service.ask("POST", "/containers/fills/wait") == (200, {"StatusCode": 0})
    mount = {"Type": "volume", "Source": "parts", "Target": "/p", "VolumeOptions": {"Subpath": "a"}}
    make(service, "part", body(image, "test $(cat /p/f) = in", host={"Mounts": [mount]}))
    assert service.ask("GET", "/containers/part/json")[1]["HostConfig"]["Mounts"] == [mount]
    assert service.ask("POST", "/containers/part/start")[0] == 204
    assert service.ask("POST", "/containers/part/wait") == (200, {"StatusCode": 0})
    for wrong in ("../x", "/a"):
        asked = {**mount, "VolumeOptions": {"Subpath": wrong}}
        refused = body(image, "true", host={"Mounts": [asked]})
        assert service.ask("POST", "/containers/create", refused)[0] == 400
    for name in ("fills", "part"):
        assert service.ask("DELETE", f"/containers/{name}")[0] == 204
    assert service.ask("DELETE", "/volumes/parts")[0] == 204


@pytest.mark.parametrize(
    "wanted",
    [
        {"Aliases": ["a>b"]},
        {"Aliases": ["a b"]},
        {"Links": ["later:a>b"]},
        {"Links": ["later>x:a"]},
        {"Links": ["later,other:a"]},
        {"Links": ["later\n:a"]},
        {"Links": ["later\0:a"]},
        {"Links": [":a"]},
    ],
)
def test_names_that_would_mean_something_to_the_hub_are_refused(
    service: Service, image: str, wanted: dict[str, Any]
) -> None:
    endpoints = {"EndpointsConfig": {"bridge": wanted}}
    asked = body(image, "true", host={"NetworkMode": "bridge"}, NetworkingConfig=endpoints)
    assert service.ask("POST", "/containers/create", asked)[0] == 400


def test_hardware_address_is_the_same_after_a_new_connection(service: Service, image: str) -> None:
    """Compose 1.29 connects each container anew between its create and its start."""
    mac = "02:42:ac:11:65:43"
    for name in ("one", "two"):
        assert service.ask("POST", "/networks/create", {"Name": name})[0] == 201
    wanted = body(image, f"ip link | grep -q {mac}", host={"NetworkMode": "one"}, MacAddress=mac)
    make(service, "anew", wanted)
    asked = {"Container": "anew"}
    assert service.ask("POST", "/networks/one/disconnect", asked)[0] == 200
    assert service.ask("POST", "/networks/two/connect", asked)[0] == 200
    assert service.ask("POST", "/networks/one/connect", asked)[0] == 200
    places = service.ask("GET", "/containers/anew/json")[1]["NetworkSettings"]["Networks"]
    assert {name: place["MacAddress"] == mac for name, place in places.items()} == {
        "one": True,
        "two": False,
    }
    assert service.ask("POST", "/containers/anew/start")[0] == 204
    assert service.ask("POST", "/containers/anew/wait") == (200, {"StatusCode": 0})
    assert service.ask("DELETE", "/containers/anew")[0] == 204
    for name in ("one", "two"):
        assert service.ask("DELETE", f"/networks/{name}")[0] == 204


def test_more_names_than_a_network_takes_are_refused_at_the_start(
    service: Service, image: str
) -> None:
    endpoints = {"EndpointsConfig": {"bridge": {"Links": [f"c{one}:l{one}" for one in range(60)]}}}
    wanted = body(image, "true", host={"NetworkMode": "bridge"}, NetworkingConfig=endpoints)
    make(service, "many", wanted)
    status, said = service.ask("POST", "/containers/many/start")
    assert (status, "too many names in network bridge" in said["message"]) == (400, True), said
    assert service.ask("DELETE", "/containers/many")[0] == 204


def test_options_of_a_bridge_that_change_nothing_are_taken(service: Service) -> None:
    prefix = "com.docker.network.bridge"
    options = {f"{prefix}.name": "br-mine", f"{prefix}.enable_icc": "true"}
    status, made = service.ask("POST", "/networks/create", {"Name": "opts", "Options": options})
    assert (status, "names it itself" in made["Warning"]) == (201, True)
    assert service.ask("GET", "/networks/opts")[1]["Options"] == options
    assert service.ask("DELETE", "/networks/opts")[0] == 204
    options = {f"{prefix}.enable_icc": "false"}
    refused = service.ask("POST", "/networks/create", {"Name": "opts", "Options": options})
    assert refused[0] == 400


def test_import_takes_a_user_whom_the_image_does_not_know(service: Service) -> None:
    target = "/images/create?fromSrc=-&repo=made/user&tag=one&changes=USER%20nobody-here"
    status, said = service.ask("POST", target, archive(f=b"x"))
    assert (status, "status" in said) == (200, True), said
    found = service.ask("GET", "/images/made/user:one/json")[1]
    assert found["Config"]["User"] == "nobody-here"
    refused = service.ask("POST", "/containers/create", {"Image": "made/user:one", "Cmd": ["/f"]})
    assert "nobody-here" in refused[1]["message"]
    assert service.ask("DELETE", "/images/made/user:one")[0] == 200
