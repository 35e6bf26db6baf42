"""Files, images, volumes and networks through the API."""

from __future__ import annotations

import base64
import io
import json
import stat
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.lib import images
from tests.service.test_life import body, image, make, run

if TYPE_CHECKING:
    from tests.lib.product import Product
    from tests.lib.service import Service

__all__ = ["image"]


def archive(**files: bytes) -> bytes:
    """Return a tar archive."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return output.getvalue()


def test_archive_goes_into_a_created_container_and_back(service: Service, image: str) -> None:
    make(service, "files", body(image, "cat /srv/config"))
    target = "/containers/files/archive?path=/srv"
    assert service.ask("PUT", target, archive(config=b"value\n"))[0] == 200
    status, data = service.ask("GET", "/containers/files/archive?path=/srv/config")
    assert status == 200
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["config"]
    assert service.ask("HEAD", target)[0] == 200
    facts = json.loads(base64.b64decode(service.headers["x-docker-container-path-stat"]))
    assert (facts["name"], bool(facts["mode"] & 1 << 31)) == ("srv", True)
    assert service.ask("GET", "/containers/files/archive?path=/nothing")[0] == 404
    assert service.ask("PUT", "/containers/files/archive?path=/nothing", archive(a=b""))[0] == 404
    assert service.ask("PUT", f"{target}/config", archive(a=b""))[0] == 400
    assert service.ask("GET", "/containers/files/changes")[1] == [
        {"Path": "/srv", "Kind": 0},
        {"Path": "/srv/config", "Kind": 1},
    ]
    assert service.ask("DELETE", "/containers/files")[0] == 204


def test_hostile_archive_stays_in_the_container(
    service: Service, rless: Product, image: str
) -> None:
    """Class 36: links and names that lead out are resolved beneath the container's root."""
    make(service, "hostile", body(image, "true"))
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(rless.base)
        tar.addfile(link)
        member = tarfile.TarInfo("out/escaped")
        tar.addfile(member, io.BytesIO(b""))
        tar.addfile(tarfile.TarInfo("../../../../escaped"), io.BytesIO(b""))
    service.ask("PUT", "/containers/hostile/archive?path=/srv", output.getvalue())
    assert not (rless.base / "escaped").exists()
    assert not (rless.base.parent / "escaped").exists()
    assert service.ask("DELETE", "/containers/hostile")[0] == 204


def test_go_modes_have_the_bits_of_go() -> None:
    from rootless.service.endpoints.files import go_mode

    assert go_mode(stat.S_IFDIR | 0o755) == 1 << 31 | 0o755
    assert go_mode(stat.S_IFLNK | 0o777) == 1 << 27 | 0o777
    assert go_mode(stat.S_IFREG | 0o4711) == 1 << 23 | 0o711
    assert go_mode(stat.S_IFDIR | 0o1777) == 1 << 31 | 1 << 20 | 0o777
    assert go_mode(stat.S_IFCHR | 0o666) == 1 << 26 | 1 << 21 | 0o666


def test_image_is_named_saved_loaded_and_removed(service: Service, image: str) -> None:
    assert service.ask("POST", f"/images/{image}/tag?repo=other/name&tag=two")[0] == 201
    found = service.ask("GET", "/images/other/name:two/json")[1]
    assert "other/name:two" in found["RepoTags"]
    status, data = service.ask("GET", "/images/get?names=other/name:two")
    assert status == 200
    removed = service.ask("DELETE", "/images/other/name:two")
    assert removed == (200, [{"Untagged": "other/name:two"}])
    status, said = service.ask("POST", "/images/load?quiet=1", data)
    assert (status, said) == (200, {"stream": "Loaded image: other/name:two\n"})
    assert service.ask("DELETE", "/images/other/name:two")[0] == 200
    assert service.ask("DELETE", "/images/other/name:two")[0] == 404
    status, error = service.ask("POST", "/images/create?fromImage=localhost:1/none&tag=x")
    assert status == 500, error  # nobody is there: it is not known whether there is such an image
    assert service.ask("POST", "/images/create?fromImage=/etc/passwd")[0] == 400


@pytest.mark.needs("docker-registry")
def test_pull_logs_in_with_what_the_client_gives(service: Service) -> None:
    """It is used for this pull alone."""

    def pull(given: Any) -> tuple[int, Any]:
        data = given if isinstance(given, bytes) else json.dumps(given).encode()
        header = {"X-Registry-Auth": base64.urlsafe_b64encode(data).decode().rstrip("=")}
        target = f"/images/create?fromImage={host}/closed&tag=one"
        return service.ask("POST", target, headers=header)

    with images.registry(users={"me": "secret"}) as host:
        images.push(
            images.Image([images.layer({"f": "x"})]), f"{host}/closed:one", login=("me", "secret")
        )
        assert pull({})[0] == 401
        assert pull({"username": "me", "password": "wrong"})[0] == 401
        status, said = pull({"username": "me", "password": "secret", "serveraddress": host})
        assert (status, said[-1]["status"].partition(":")[0]) == (200, "Status"), said
        assert service.ask("DELETE", f"/images/{host}/closed:one")[0] == 200
        assert pull({})[0] != 200
        assert pull(b"no JSON")[0] == 400
        assert pull({"username": 1})[0] == 400
        assert pull({"registrytoken": "x"})[0] == 501


def test_commit_makes_an_image(service: Service, image: str) -> None:
    run(service, "changed", body(image, "echo x > /srv/new"))
    target = "/commit?container=changed&repo=made/here&tag=one&changes=LABEL%20a=b"
    status, made = service.ask("POST", target)
    assert (status, made["Id"][:7]) == (201, "sha256:")
    found = service.ask("GET", "/images/made/here:one/json")[1]
    assert (found["Id"], found["Config"]["Labels"]["a"]) == (made["Id"], "b")
    assert service.ask("DELETE", "/containers/changed")[0] == 204
    assert service.ask("DELETE", "/images/made/here:one")[0] == 200
    assert service.ask("POST", "/commit?container=changed")[0] == 404


def test_volume_is_made_once_and_kept_while_it_is_used(service: Service, image: str) -> None:
    wanted: dict[str, Any] = {"Name": "kept", "Labels": {"a": "b"}}
    assert service.ask("POST", "/volumes/create", wanted)[0] == 201
    assert service.ask("POST", "/volumes/create", {"Name": "kept"})[1]["Labels"] == {"a": "b"}
    make(service, "user", body(image, "true", host={"Binds": ["kept:/data"]}))
    assert service.ask("DELETE", "/volumes/kept")[0] == 409
    mounts = service.ask("GET", "/containers/json?all=1")[1][0]["Mounts"]
    assert [(one["Type"], one["Name"]) for one in mounts] == [("volume", "kept")]
    assert service.ask("DELETE", "/containers/user")[0] == 204
    pruned = service.ask("POST", "/volumes/prune")[1]  # one with a name stays
    assert pruned["VolumesDeleted"] is None
    assert service.ask("DELETE", "/volumes/kept")[0] == 204
    assert service.ask("DELETE", "/volumes/kept")[0] == 404
    assert service.ask("POST", "/volumes/create", {"Name": "x1", "Driver": "nfs"})[0] == 400
    nfs = {"type": "nfs", "o": "addr=host", "device": ":/x"}
    assert service.ask("POST", "/volumes/create", {"Name": "x2", "DriverOpts": nfs})[0] == 400


def test_network_has_an_id_that_stopped_containers_show(service: Service, image: str) -> None:
    wanted = {
        "Name": "apart",
        "Labels": {"k": "v"},
        "IPAM": {"Config": [{"Subnet": "10.97.5.0/24", "AuxiliaryAddresses": {"a": "10.97.5.2"}}]},
    }
    status, made = service.ask("POST", "/networks/create", wanted)
    assert status == 201
    assert service.ask("POST", "/networks/create", wanted)[0] == 409
    found = service.ask("GET", "/networks?filters=%7B%22type%22:[%22custom%22]%7D")[1]
    assert [(one["Name"], one["Id"]) for one in found] == [("apart", made["Id"])]
    assert {"bridge", "host", "none"} <= {one["Name"] for one in service.ask("GET", "/networks")[1]}
    container = body(image, "true", host={"NetworkMode": "apart"})
    asked: dict[str, Any] = {"Aliases": ["db"], "MacAddress": "02:42:00:00:00:05"}
    given = {
        "DriverOpts": {"some.option": "on"},
        "Links": ["later:other"],
    }  # not there at the start
    container["NetworkingConfig"] = {"EndpointsConfig": {"apart": {**asked, **given}}}
    make(service, "member", container)
    for shown in (
        service.ask("GET", "/containers/json?all=1")[1][0],
        service.ask("GET", "/containers/member/json")[1],
    ):
        place = shown["NetworkSettings"]["Networks"]["apart"]
        assert place["NetworkID"] == made["Id"]
        assert {name: place[name] for name in (*asked, *given)} == {**asked, **given}
    with_ipam = service.ask("GET", "/networks/apart")[1]["IPAM"]
    assert with_ipam["Config"] == [{**wanted["IPAM"]["Config"][0], "Gateway": "10.97.5.1"}]
    assert service.ask("POST", "/containers/member/start")[0] == 204
    gone = {"Container": "member", "Force": True}
    assert service.ask("POST", "/networks/apart/disconnect", gone)[0] == 200
    assert service.ask("POST", "/networks/apart/disconnect", gone)[0] != 200
    wrong = {"Container": "member", "EndpointConfig": {"MacAddress": "x"}}
    assert service.ask("POST", "/networks/apart/connect", wrong)[0] == 400
    assert service.ask("DELETE", "/containers/member")[0] == 204
    assert service.ask("DELETE", f"/networks/{made['Id'][:12]}")[0] == 204
    for name in ("bridge", "host", "none"):
        assert service.ask("DELETE", f"/networks/{name}")[0] == 403
    status, error = service.ask("POST", "/networks/create", {"Name": "x3", "Driver": "overlay"})
    assert (status, "overlay" in error["message"]) == (400, True)


def test_prune_removes_containers_that_have_ended(service: Service, image: str) -> None:
    run(service, "ended", body(image, "true"))
    identifier = service.ask("GET", "/containers/ended/json")[1]["Id"]
    pruned = service.ask("POST", "/containers/prune")[1]
    assert pruned["ContainersDeleted"] == [identifier]


@pytest.mark.parametrize("version", ["1.24", "1.41", "1.45"])
def test_docker_py_runs_a_container(service: Service, image: str, version: str) -> None:
    docker = pytest.importorskip("docker")
    client = docker.DockerClient(base_url=f"unix://{service.path}", version=version, timeout=60)
    try:
        said = client.containers.run(image, ["echo", "hello"], network_mode="none", remove=True)
        assert said == b"hello\n"
        container = client.containers.create(image, ["sleep", "1000"], network_mode="none")
        container.start()
        assert container.exec_run(["sh", "-c", "echo x; exit 3"]) == (3, b"x\n")
        container.remove(force=True)
        with pytest.raises(docker.errors.NotFound):
            client.containers.get(container.id)
    finally:
        client.close()
