"""Docker's grammar of names, and the transports beside it (security class 20)."""

from __future__ import annotations

import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import RlessError
from rootless.image.model.reference import Reference, parse

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("jenkins/jenkins", "docker.io/jenkins/jenkins:latest", "jenkins/jenkins:latest"),
        ("docker://quay.io/a/b", "quay.io/a/b:latest", "quay.io/a/b:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
        ("host:5000", "docker.io/library/host:5000", "host:5000"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("UPPER.example/x", "UPPER.example/x:latest", "UPPER.example/x:latest"),
        ("Upper/x", "Upper/x:latest", "Upper/x:latest"),
        ("a/b/c/d:_tag.-1", "docker.io/a/b/c/d:_tag.-1", "a/b/c/d:_tag.-1"),
        ("a.b_c__d---e/f", "docker.io/a.b_c__d---e/f:latest", None),
        (f"x@{DIGEST}", f"docker.io/library/x@{DIGEST}", f"x@{DIGEST}"),
        (f"x:1@{DIGEST}", f"docker.io/library/x:1@{DIGEST}", f"x:1@{DIGEST}"),
    ],
)
def test_names_are_parsed(text: str, canonical: str, familiar: str | None) -> None:
    if text == "a.b_c__d---e/f":  # the dot makes the first part a host
        text = f"docker.io/{text}"
    reference = parse(text)
    assert reference.canonical == canonical
    assert familiar is None or reference.familiar == familiar
    assert parse(canonical).canonical == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("Busybox", "lowercase"),
        ("library/Busybox", "lowercase"),
        ("x:", "bad tag"),
        ("x:-a", "bad tag"),
        ("x:.a", "bad tag"),
        ("x:" + "a" * 129, "bad tag"),
        ("x:a\n", "bad tag"),
        ("x:é", "bad tag"),
        ("x@sha256:abc", "bad digest"),
        (f"x@sha256:{HEX.upper()}", "bad digest"),
        (f"x@sha512:{HEX * 2}", "bad digest"),
        (f"x@{DIGEST}@{DIGEST}", "bad digest"),
        ("x@sha256:../../../../etc/passwd", "bad digest"),
        (HEX, "64 hex digits"),
        ("a//b", "bad repository"),
        ("/b", "bad repository"),
        ("a/", "bad repository"),
        ("-a", "bad repository"),
        ("a-", "bad repository"),
        ("a..b", "bad repository"),
        ("a___b", "bad repository"),
        ("a._b", "bad repository"),
        ("a b", "bad repository"),
        ("../etc", "bad registry"),
        ("x/../y", "bad repository"),
        ("-host.example/x", "bad registry"),
        ("host-.example/x", "bad registry"),
        ("host..example/x", "bad registry"),
        ("host.example:port/x", "bad registry"),
        ("host.example:99999/x", "bad registry"),
        ("[::1/x", "bad registry"),
        ("[xyz:]/x", "bad registry"),
        ("user:pass@host.example/x", "bad digest"),
        ("https://host.example/x", "bad re"),
        ("a" * 256, "longer than 255"),
        ("x\x1b[31m", "bad repository"),
        ("docker-archive:", "needs a path"),
        ("oci:a:b c", "bad tag"),
        ("docker-archive:a:B:C", "lowercase"),
    ],
)
def test_wrong_names_are_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(RlessError) as caught:
        parse(text)
    assert why in caught.value.message
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("text", "transport", "path", "tag"),
    [
        ("docker-archive:/a/b.tar", "docker-archive", "/a/b.tar", None),
        ("docker-archive:b.tar:x:1", "docker-archive", "b.tar", "docker.io/library/x:1"),
        ("docker-archive:/b.tar:@2", "docker-archive", "/b.tar", "@2"),
        ("oci-archive:/a.tar:v1", "oci-archive", "/a.tar", "v1"),
        ("oci-archive:/a.tar:quay.io/x/y:v1", "oci-archive", "/a.tar", "quay.io/x/y:v1"),
        ("oci:../dir", "oci", "../dir", None),
    ],
)
def test_transports_are_parsed(text: str, transport: str, path: str, tag: str | None) -> None:
    reference = parse(text)
    assert reference.transport == transport
    assert reference.path == os.path.abspath(path)
    assert reference.tag == tag


def test_host_image_is_parsed() -> None:
    assert parse("host:").transport == "host"
    assert parse("host:latest").repository == "library/host"


@given(st.text(alphabet=string.ascii_letters + string.digits + "._-/:@[]\x00\n é", max_size=80))
def test_any_text_is_a_reference_or_one_error_line(text: str) -> None:
    try:
        reference = parse(text)
    except RlessError as error:
        assert error.message.isprintable()
        return
    assert isinstance(reference, Reference)
    assert parse(reference.canonical).canonical == reference.canonical
