"""Images that come and go through the API: push, import, login; `df` and `stats` beside them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.lib import images
from tests.lib.product import wait_for
from tests.lib.registry_servers import Authority, token_server
from tests.lib.service import connect, read_head
from tests.service.test_life import body, image, make
from tests.service.test_things import archive

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lib.service import Service

__all__ = ["image"]
ME = {"username": "me", "password": "secret"}


def header(login: dict[str, Any]) -> dict[str, str]:
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}


@pytest.mark.needs("docker-registry")
def test_image_is_pushed_described_and_pulled(service: Service, image: str) -> None:
    with images.registry(users={"me": "secret"}) as host:
        name = f"{host}/team/app"
        assert service.ask("POST", f"/images/{image}/tag?repo={name}&tag=one")[0] == 201
        assert service.ask("POST", f"/images/{name}/push?tag=two")[0] == 404
        assert service.ask("POST", f"/images/{name}/push?tag=one")[0] == 401
        status, lines = service.ask("POST", f"/images/{name}/push?tag=one", headers=header(ME))
        assert status == 200
        assert lines[0] == {"status": f"The push refers to repository [{name}]"}
        assert {"status": "Pushed"}.items() <= next(
            one for one in lines if "id" in one
        ).items() or any(one.get("status") == "Pushed" for one in lines)
        aux = lines[-1]["aux"]
        assert (aux["Tag"], aux["Digest"][:7]) == ("one", "sha256:")
        target = f"/distribution/{name}:one/json"
        assert service.ask("GET", target)[0] == 401
        found = service.ask("GET", target, headers=header(ME))[1]
        assert (found["Descriptor"]["digest"], found["Descriptor"]["size"]) == (
            aux["Digest"],
            aux["Size"],
        )
        assert found["Platforms"][0]["os"] == "linux"
        # Sent without a tag, the repository goes with all of its tags.
        assert service.ask("POST", f"/images/{image}/tag?repo={name}&tag=two")[0] == 201
        lines = service.ask("POST", f"/images/{name}/push", headers=header(ME))[1]
        assert {one["aux"]["Tag"] for one in lines if "aux" in one} == {"one", "two"}
        for tag in ("one", "two"):
            assert service.ask("DELETE", f"/images/{name}:{tag}")[0] == 200
        wanted = f"/images/create?fromImage={name}&tag"
        assert service.ask("POST", f"{wanted}=three", headers=header(ME))[0] == 404
        status, lines = service.ask("POST", f"{wanted}=one", headers=header(ME))
        assert (status, lines[0]) == (200, {"status": "Pulling from team/app", "id": "one"})
        assert lines[-1]["status"].startswith("Status: ")
        assert service.ask("DELETE", f"/images/{name}:one")[0] == 200


@pytest.mark.needs("docker-registry")
def test_pull_tells_how_many_bytes_there_are(service: Service) -> None:
    noise = bytes(range(256)) * 4096
    with images.registry() as host:
        images.push(images.Image([images.layer({"noise": noise})]), f"{host}/large:one")
        lines = service.ask("POST", f"/images/create?fromImage={host}/large&tag=one")[1]
    told = [one["progressDetail"] for one in lines if one.get("status") == "Downloading"]
    assert told, lines
    assert told[-1]["current"] == told[-1]["total"] > 0
    assert [one["status"] for one in lines if "id" in one][-1] == "Pull complete"
    assert service.ask("DELETE", f"/images/{host}/large:one")[0] == 200


@pytest.mark.needs("docker-registry")
@pytest.mark.parametrize("kind", ["basic", "token"])
def test_login_asks_the_registry(service: Service, tmp_path: Path, kind: str) -> None:
    def login(**given: str) -> tuple[int, Any]:
        return service.ask("POST", "/auth", {"serveraddress": host, **given})

    def check() -> None:
        done = {"Status": "Login Succeeded", "IdentityToken": ""}
        assert login(**ME) == (200, done)
        status, found = login(username="me", password="wrong")
        assert status == 401
        assert "unauthorized: incorrect username or password (" in found["message"]
        assert "wrong" not in found["message"]
        assert login()[0] == 400

    if kind == "basic":
        with images.registry(users={"me": "secret"}) as host:
            check()
        status, found = login(**ME)
        assert status == 500, found  # nobody is there
        assert service.ask("POST", "/auth", {"serveraddress": "a b", **ME})[0] == 400
        return
    with (
        token_server(Authority(tmp_path), {"me": "secret"}) as (_, section),
        images.registry(token=section) as host,
    ):
        check()


def test_archive_is_imported_with_changes(service: Service) -> None:
    target = (
        "/images/create?fromSrc=-&repo=made/of&tag=files&changes=CMD%20echo%20x&changes=ENV%20A=b"
    )
    status, said = service.ask("POST", target, archive(file=b"text"))
    assert (status, said["status"][:7]) == (200, "sha256:")
    found = service.ask("GET", "/images/made/of:files/json")[1]
    assert found["Id"] == said["status"]
    assert found["Config"]["Cmd"] == ["/bin/sh", "-c", "echo x"]
    assert "A=b" in found["Config"]["Env"]
    assert service.ask("DELETE", "/images/made/of:files")[0] == 200
    assert service.ask("POST", "/images/create?fromSrc=/etc/passwd")[0] == 400
    assert service.ask("POST", f"{target}&changes=RUN%20x", archive(file=b"text"))[0] != 200
    assert service.ask("POST", "/images/create")[0] == 400


def test_df_has_all_kinds_or_those_that_are_asked_for(service: Service, image: str) -> None:
    identifier = make(service, "measured", body(image, "true", host={"Binds": ["kept:/data"]}))
    found = service.ask("GET", "/system/df")[1]
    (own,) = (one for one in found["Images"] if f"{image}:latest" in one["RepoTags"])
    assert own["Containers"] == 1
    assert 0 < own["Size"] <= found["LayersSize"]
    (container,) = found["Containers"]
    assert container["Id"] == identifier
    assert container["SizeRootFs"] > container["SizeRw"] > 0
    (volume,) = found["Volumes"]
    assert (volume["Name"], volume["UsageData"]["RefCount"]) == ("kept", 1)
    assert isinstance(found["BuildCache"], list)
    found = service.ask("GET", "/system/df?type=volume&type=image")[1]
    assert (found["Containers"], found["BuildCache"]) == (None, None)
    assert found["Volumes"]
    assert found["Images"]
    assert service.ask("GET", "/system/df?type=plugin")[0] == 400
    assert service.ask("DELETE", "/containers/measured?v=1")[0] == 204
    assert service.ask("DELETE", "/volumes/kept")[0] == 204


def test_stats_come_each_second_or_once(service: Service, image: str) -> None:
    script = "while :; do :; done"
    make(service, "busy", body(image, script))
    found = service.ask("GET", "/containers/busy/stats?stream=0")[1]
    assert (found["name"], found["memory_stats"]) == ("/busy", {})  # it does not run
    assert service.ask("POST", "/containers/busy/start")[0] == 204
    found = service.ask("GET", "/containers/busy/stats?stream=0")[1]
    now, before = found["cpu_stats"], found["precpu_stats"]
    assert now["cpu_usage"]["total_usage"] > before["cpu_usage"]["total_usage"] > 0
    assert now["system_cpu_usage"] > before["system_cpu_usage"] > 0
    assert now["online_cpus"] > 0
    assert 0 < found["memory_stats"]["usage"] <= found["memory_stats"]["limit"]
    assert found["pids_stats"]["current"] >= 1
    assert found["preread"] < found["read"]
    once = service.ask("GET", "/containers/busy/stats?stream=0&one-shot=1")[1]
    assert "system_cpu_usage" not in once["precpu_stats"]
    with connect(service.path) as client:
        client.sendall(b"GET /containers/busy/stats HTTP/1.1\r\nHost: d\r\n\r\n")
        read_head(client)
        with client.makefile("rb") as lines:
            seen = [json.loads(line) for line in _objects(lines, 2)]
        assert seen[1]["precpu_stats"] == seen[0]["cpu_stats"]
    assert service.ask("DELETE", "/containers/busy?force=1")[0] == 204


def _objects(lines: Any, count: int) -> list[bytes]:
    """Return the first objects of an answer in chunks."""
    found: list[bytes] = []
    while len(found) < count:
        line = lines.readline()
        assert line
        if line.startswith(b"{"):
            found.append(line)
    return found


def test_stats_has_the_interfaces_of_a_network(service: Service, image: str) -> None:
    make(service, "net", body(image, "sleep 1000", host={"NetworkMode": "bridge"}))
    assert service.ask("POST", "/containers/net/start")[0] == 204

    def counters() -> Any:
        found = service.ask("GET", "/containers/net/stats?stream=0&one-shot=1")[1]
        return found.get("networks")

    wait_for(lambda: counters() is not None, "an interface")
    (only,) = counters().values()
    assert {"rx_bytes", "tx_bytes", "rx_packets", "tx_dropped"} <= only.keys()
    assert service.ask("DELETE", "/containers/net?force=1")[0] == 204


@pytest.mark.needs("docker-registry")
def test_search_finds_repositories(service: Service) -> None:
    with images.registry() as host:
        name = f"{host}/team/tool"
        images.push(images.Image([images.layer({"f": "x"})]), f"{name}:1")
        query = f"/images/search?term={host}/team"
        status, found = service.ask("GET", query)
        assert status == 200, found
        assert [(one["name"], one["star_count"]) for one in found] == [(name, 0)]
        filters = quote(json.dumps({"stars": ["1"]}))
        assert service.ask("GET", f"{query}&filters={filters}") == (200, [])
    for wrong in ("term=", "term=x&limit=101", "term=x&filters=%7B%22stars%22:[%22x%22]%7D"):
        assert service.ask("GET", f"/images/search?{wrong}")[0] == 400
