"""Builds through the API, as Docker's classic builder has them."""

from __future__ import annotations

import base64
import gzip
import io
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest

from tests.lib import images
from tests.lib.product import wait_for
from tests.lib.service import PATIENCE, connect, read_head
from tests.service.test_life import image
from tests.service.test_things import archive

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lib.product import Product
    from tests.lib.service import Service

__all__ = ["image"]


def build(
    service: Service, dockerfile: str, query: str = "", **more: Any
) -> tuple[int, list[dict[str, Any]]]:
    """Build of a context; return the status and the lines."""
    data = archive(Dockerfile=dockerfile.encode(), **more.pop("files", {}))
    status, said = service.ask("POST", f"/build?{query}", more.pop("body", data), **more)
    return status, said if isinstance(said, list) else [said]


def streams(lines: list[dict[str, Any]]) -> str:
    return "".join(one.get("stream", "") for one in lines)


def test_build_tells_of_its_steps(service: Service, image: str) -> None:
    dockerfile = (
        f"FROM {image}\nARG WORD=none\nCOPY file /srv/file\n"
        "RUN cat /srv/file && echo $WORD && echo oops >&2\nENV A=b\n"
    )
    query = urlencode(
        {
            "t": "made/here:one",
            "buildargs": json.dumps({"WORD": "given", "OTHER": None}),
            "labels": json.dumps({"a": "b,c"}),
        }
    )
    status, lines = build(service, dockerfile, f"{query}&t=made/here:two", files={"file": b"in\n"})
    assert status == 200
    text = streams(lines)
    base = service.ask("GET", f"/images/{image}/json")[1]["Id"][7:19]
    assert text.startswith(
        f"Step 1/5 : FROM {image}\n ---> {base}\nStep 2/5 : ARG WORD=none\nStep 3/5 : COPY"
    )
    assert "Step 4/5 : RUN cat /srv/file && echo $WORD && echo oops >&2\n" in text
    assert "in\ngiven\n" in text
    assert {"stream": "\x1b[91moops\n\x1b[0m"} in lines
    (identifier,) = (one["aux"]["ID"] for one in lines if "aux" in one)
    assert text.endswith(
        f"Successfully built {identifier[7:19]}\n"
        "Successfully tagged made/here:one\nSuccessfully tagged made/here:two\n"
    )
    found = service.ask("GET", "/images/made/here:one/json")[1]
    assert (found["Id"], found["Config"]["Labels"]) == (identifier, {"a": "b,c"})
    lines = build(service, dockerfile, query, files={"file": b"in\n"})[1]
    assert streams(lines).count(" ---> Using cache\n") == 2
    status, lines = build(service, dockerfile, f"{query}&q=1", files={"file": b"in\n"})
    assert (status, lines) == (200, [{"stream": f"{identifier}\n"}])
    for tag in ("one", "two"):
        assert service.ask("DELETE", f"/images/made/here:{tag}")[0] == 200
    assert service.ask("POST", "/build/prune?all=1")[0] == 200


def test_stages_are_told_one_after_the_other(service: Service, image: str) -> None:
    dockerfile = (
        f"FROM {image} AS first\nRUN sleep 0.5; echo one > /x; echo first\n"
        f"FROM {image} AS second\nRUN echo second; echo two > /y\n"
        "COPY --from=first /x /x\n"
        "FROM second AS other\nRUN exit 1\n"
    )
    text = streams(build(service, dockerfile, "target=second&nocache=1")[1])
    order = ["Step 1/5", "Step 2/5", "first\nStep 3/5", "Step 4/5", "second\nStep 5/5", "built"]
    assert [word for word in order if word in text] == order
    places = [text.index(word) for word in order]
    assert places == sorted(places)
    text = streams(build(service, dockerfile, "target=first&nocache=1&q=1")[1])
    assert text.startswith("sha256:")
    assert service.ask("POST", "/images/prune")[0] == 200
    assert service.ask("POST", "/build/prune?all=1")[0] == 200


def test_failed_build_has_the_code_of_its_command(service: Service, image: str) -> None:
    status, lines = build(service, f"FROM {image}\nRUN echo before; exit 3\n")
    assert status == 200
    assert "before\n" in streams(lines)
    assert lines[-1]["errorDetail"]["code"] == 3
    assert lines[-1]["error"] == lines[-1]["errorDetail"]["message"]
    status, lines = build(service, f"FROM {image}\nRUN echo before; exit 3\n", "q=1")
    assert (status, "before\n" in streams(lines)) == (200, True)
    assert lines[-1]["errorDetail"]["code"] == 3
    status, lines = build(service, "FROM localhost:1/none\n")
    assert (status, list(lines[-1])) == (200, ["errorDetail", "error"])


@pytest.mark.parametrize(
    ("dockerfile", "query", "status", "message"),
    [
        ("FROM scratch\nFETCH x\n", "", 400, "FETCH"),
        ("FROM scratch\n", "target=none", 400, "none"),
        ("FROM scratch\n", "platform=foobar", 400, "foobar"),
        ("FROM scratch\n", "t=UPPER", 400, "UPPER"),
        ("FROM scratch\n", "version=2", 501, "DOCKER_BUILDKIT=0"),
        ("FROM scratch\n", "outputs=[{\"type\":\"local\"}]", 501, "BuildKit"),
        ("FROM scratch\n", "remote=/etc", 400, "remote"),
        ("FROM scratch\n", "dockerfile=http://127.0.0.1:1/x", 400, "not a path"),
        ("FROM scratch\n", "networkmode=container:x", 400, "network"),
        ("FROM scratch\n", "buildargs=[]", 400, "buildargs"),
        ("FROM scratch\n", "cpushares=x", 400, "cpu-shares"),
    ],
)  # fmt: skip
def test_build_refuses_by_name(
    service: Service, dockerfile: str, query: str, status: int, message: str
) -> None:
    found = build(service, dockerfile, quote(query, safe="=&"))
    assert (found[0], message in found[1][0]["message"]) == (status, True), found


def test_context_is_only_what_was_sent(service: Service, image: str) -> None:
    """The Dockerfile is one of the context, also where a body is none: never one of the host."""
    named = f"FROM {image}\nCOPY . /srv/\nRUN ls -A /srv\n".encode()
    ignored = b"Dockerfile*\n.dockerignore\nkept\n"
    files = {"Dockerfile.named": named, ".dockerignore": ignored, "kept": b"", "file": b""}
    body = gzip.compress(archive(**files))
    status, lines = build(service, "", "dockerfile=Dockerfile.named", body=body)
    assert status == 200, lines
    shown = streams(lines).partition("RUN ls -A /srv\n")[2].split(" --->")[0].split()
    assert sorted(shown) == ["file", "kept"]  # what else is ignored the client leaves out itself
    status, lines = build(service, "", "dockerfile=../../etc/passwd", body=body)
    assert "errorDetail" in lines[-1] or status != 200
    plain = f"FROM {image}\nENV FROM_THE=body\n".encode()
    status, lines = build(service, "", "dockerfile=/etc/passwd&t=plain", body=plain)
    assert "ENV FROM_THE=body" in streams(lines)
    assert service.ask("DELETE", "/images/plain")[0] == 200
    assert service.ask("POST", "/images/prune")[0] == 200
    assert service.ask("POST", "/build/prune?all=1")[0] == 200


def test_build_ends_with_its_client(service: Service, rless: Product, image: str) -> None:
    before = len(rless.processes())
    data = archive(Dockerfile=f"FROM {image}\nRUN echo begun; sleep 1000\n".encode())
    with connect(service.path) as client:
        head = f"POST /build?nocache=1 HTTP/1.1\r\nHost: d\r\nContent-Length: {len(data)}\r\n\r\n"
        client.sendall(head.encode() + data)
        told = read_head(client)[1]
        while b'"begun' not in told:
            chunk = client.recv(65536)
            assert chunk, told
            told += chunk
    wait_for(lambda: len(rless.processes()) <= before, "the end of the build", PATIENCE)
    assert service.ask("GET", "/_ping")[0] == 200


@pytest.mark.needs("docker-registry")
def test_build_logs_in_with_what_the_client_gives(service: Service) -> None:
    with images.registry(users={"me": "secret"}) as host:
        base = f"{host}/closed:one"
        images.push(images.Image([images.layer({"f": "x"})]), base, login=("me", "secret"))
        dockerfile = f"FROM {base}\nENV A=b\n"
        assert "error" in build(service, dockerfile)[1][-1]
        logins = json.dumps({host: {"username": "me", "password": "secret"}})
        header = {"X-Registry-Config": base64.urlsafe_b64encode(logins.encode()).decode()}
        lines = build(service, dockerfile, "t=built", headers=header)[1]
        assert "Successfully tagged built:latest\n" in streams(lines), lines
        assert build(service, dockerfile, headers={"X-Registry-Config": "%"})[0] == 400
    assert service.ask("DELETE", "/images/built")[0] == 200
    assert service.ask("DELETE", f"/images/{base}")[0] == 200


def test_docker_py_builds(service: Service, image: str, tmp_path: Path) -> None:
    docker = pytest.importorskip("docker")
    client = docker.DockerClient(base_url=f"unix://{service.path}", version="auto", timeout=60)
    try:
        text = io.BytesIO(f"FROM {image}\nCMD echo built\n".encode())
        made, _ = client.images.build(fileobj=text, tag="by/python", rm=True)
        assert made.tags == ["by/python:latest"]
        (tmp_path / "context").mkdir()
        (tmp_path / "outside").write_text(f"FROM {image}\n")  # its text comes in the query, too
        context = {"path": f"{tmp_path}/context", "dockerfile": f"{tmp_path}/outside"}
        assert client.images.build(**context, tag="by/python")[0].tags == ["by/python:latest"]
        with pytest.raises(docker.errors.BuildError, match="3"):
            client.images.build(fileobj=io.BytesIO(f"FROM {image}\nRUN exit 3\n".encode()))
        client.images.remove("by/python")
    finally:
        client.close()
