"""Documents from outside: hostile JSON, two documents in one, digests that are paths."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import RlessError
from rootless.image.config import manifest
from rootless.image.config.manifest import ManifestError
from rootless.image.model import limits
from rootless.image.model.digest import chain_ids, is_digest, sha256
from rootless.image.model.platforms import PlatformRequest
from rootless.oci import image_spec as spec
from tests.lib import images

AMD64 = PlatformRequest("linux", "amd64", "", explicit=False)
EMPTY = {"mediaType": spec.OCI_CONFIG, "digest": sha256(b"{}"), "size": 2}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[" * 200_000, "nested"),  # class 15
        (b'{"a":' * 200_000, "nested"),
        (b"[" + b"1" * 5000 + b"]", "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": -Infinity}', "not valid JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'"\x1b[31m', "not valid JSON"),
        (b" " * (limits.JSON_BYTES + 1), "larger than"),
    ],
)
def test_bad_json_is_one_line(data: bytes, why: str) -> None:
    with pytest.raises(ManifestError) as caught:
        manifest.read_object(data, "thing")
    assert why in caught.value.message
    assert caught.value.message.isprintable() and len(caught.value.message) < 300


@pytest.mark.parametrize(
    "value",
    [
        "sha256:../../../../etc/passwd",  # class 12
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "a" * 32 + "/" + "a" * 31,
        "sha512:" + "a" * 128,
        "md5:" + "a" * 32,
        "a" * 64,
        "sha256:" + "é" * 64,
        "",
        None,
        5,
        ["sha256:" + "a" * 64],
    ],
)
def test_digest_is_checked_before_use(value: object) -> None:
    assert not is_digest(value)
    with pytest.raises(ManifestError, match="bad digest"):
        manifest.check_descriptor({**EMPTY, "digest": value}, "thing", 100)


@pytest.mark.parametrize("size", [-1, 101, True, 1.5, "1", None, 1 << 80])
def test_size_is_checked(size: object) -> None:
    with pytest.raises(ManifestError, match=r"size|bytes"):
        manifest.check_descriptor({**EMPTY, "size": size}, "thing", 100)


@pytest.mark.parametrize(
    ("document", "declared", "why"),
    [
        ({"manifests": [], "layers": []}, "", "in one"),  # class 14, CVE-2021-41190
        ({"manifests": [], "config": EMPTY}, spec.OCI_INDEX, "in one"),
        ({"layers": [], "mediaType": spec.OCI_MANIFEST}, spec.OCI_INDEX, "announced"),
        ({"layers": [], "mediaType": spec.DOCKER_MANIFEST}, spec.OCI_MANIFEST, "announced"),
        ({"layers": []}, spec.OCI_INDEX, "fields of its type"),
        ({"manifests": []}, spec.OCI_MANIFEST, "fields of its type"),
        ({"schemaVersion": 1, "fsLayers": []}, "", "schema 1"),
        ({"layers": []}, spec.SCHEMA_1[1], "schema 1"),
        ({"mediaType": "application/x-evil\x1b"}, "", "unknown type"),
        ({"mediaType": 5}, "", "not a string"),
    ],
)
def test_ambiguous_document_is_refused(document: dict[str, Any], declared: str, why: str) -> None:
    with pytest.raises(ManifestError) as caught:
        manifest.media_type(document, declared, "thing")
    assert why in caught.value.message
    assert caught.value.message.isprintable()


def test_undeclared_type_is_found_from_the_body() -> None:
    for declared in ("", "application/json", "text/plain"):
        assert manifest.media_type({"layers": []}, declared, "x") == spec.OCI_MANIFEST
        assert manifest.media_type({"manifests": []}, declared, "x") == spec.OCI_INDEX


def nested(depth: int) -> tuple[bytes, dict[str, bytes]]:
    """Return an index of an index of … of a manifest, and all documents by digest."""
    image = images.Image([images.layer({"a": "b"})])
    data, kind = image.manifest_data, images.OCI_MANIFEST
    documents = {sha256(data): data}
    for _ in range(depth):
        child = images.descriptor(data, kind, platform={"os": "linux", "architecture": "amd64"})
        data = json.dumps(
            {"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": [child]}
        ).encode()
        kind = images.OCI_INDEX
        documents[sha256(data)] = data
    return data, documents


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_index_leads_to_a_manifest(depth: int) -> None:
    data, documents = nested(depth)
    found, _ = manifest.resolve(data, "", AMD64, lambda child, _: documents[child["digest"]], "x")
    assert json.loads(found)["layers"]


def test_nested_indexes_are_limited() -> None:
    data, documents = nested(3)
    with pytest.raises(ManifestError, match="nested too deeply"):
        manifest.resolve(data, "", AMD64, lambda child, _: documents[child["digest"]], "x")


def test_huge_index_is_refused() -> None:
    with pytest.raises(ManifestError, match="lists 1001"):
        manifest.parse_index({"manifests": [EMPTY] * 1001}, "x")


def test_missing_platform_lists_available_ones() -> None:
    index = json.loads(images.index([images.Image([], architecture="arm64")]))
    index["manifests"].append({**EMPTY, "platform": {"os": "unknown", "architecture": "unknown"}})
    with pytest.raises(ManifestError, match="not there for linux/amd64") as caught:
        manifest.choose(manifest.parse_index(index, "x"), AMD64, "x")
    assert caught.value.hint == "use --platform with one of: linux/arm64"


def config(**fields: Any) -> bytes:
    """Return an image config with one layer."""
    rootfs = {"type": "layers", "diff_ids": [sha256(b"x")]}
    document = {"os": "linux", "architecture": "amd64", "rootfs": rootfs, "config": {}}
    return json.dumps(document | fields).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"rootfs": None},
        {"rootfs": {"diff_ids": "x"}},
        {"rootfs": {"diff_ids": ["sha256:../x"]}},
        {"rootfs": {"diff_ids": [sha256(b"x")] * 2}},
        {"config": []},
        {"config": {"Env": {"a": "b"}}},
        {"config": {"Env": ["=x"]}},
        {"config": {"Env": ["A=\0"]}},
        {"config": {"Env": ["A=\ud800"]}},
        {"config": {"Cmd": [1]}},
        {"config": {"Cmd": {"a": 1}}},
        {"config": {"User": 0}},
        {"config": {"User": "a\0b"}},
        {"config": {"Volumes": ["/x"]}},
        {"config": {"Labels": {"a": 1}}},
        {"config": {"StopTimeout": "1"}},
        {"config": {"Healthcheck": {"Test": "x"}}},
        {"config": {"Healthcheck": {"Interval": 1 << 70}}},
        {"os": 5},
        {"history": "x"},
    ],
)
def test_configs_are_checked_once(fields: dict[str, Any]) -> None:
    with pytest.raises(ManifestError) as caught:
        manifest.parse_config(config(**fields), "config", 1)
    assert caught.value.message.isprintable()


def test_loose_spellings_are_normalized() -> None:
    found = manifest.parse_config(
        config(config={"Entrypoint": "/bin/x", "Cmd": None, "User": None}), "config", 1
    )
    assert found["config"]["Entrypoint"] == ["/bin/x"]
    assert "User" not in found["config"]
    assert manifest.parse_config(config(config=None), "config", 1)["config"] == {}


def test_other_platform_is_refused_with_a_hint() -> None:
    found = manifest.parse_config(config(architecture="arm64"), "config", 1)
    with pytest.raises(ManifestError, match="is for linux/arm64, not for linux/amd64") as caught:
        manifest.check_platform(found, AMD64, "x")
    assert "--platform linux/arm64" in (caught.value.hint or "")


def test_artifacts_and_encrypted_layers_are_no_images() -> None:
    document = {"config": {**EMPTY, "mediaType": "application/vnd.cncf.helm.config.v1+json"}}
    with pytest.raises(ManifestError, match="artifact"):
        manifest.parse_manifest({**document, "layers": []}, "x")
    layer = {**EMPTY, "mediaType": f"{spec.OCI_LAYER_GZIP}+encrypted"}
    with pytest.raises(ManifestError, match="encrypted"):
        manifest.parse_manifest({"config": EMPTY, "layers": [layer]}, "x")


def test_chain_ids_match_the_specification() -> None:
    a, b = sha256(b"a"), sha256(b"b")
    assert chain_ids([]) == []
    assert chain_ids([a, b]) == [a, sha256(f"{a} {b}".encode())]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["config", "layers", "manifests", "rootfs", "diff_ids", "Env", "digest", "size"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(JSON)
def test_wrong_types_anywhere_are_one_line(value: object) -> None:
    data = json.dumps(value).encode()
    for function in (
        lambda: manifest.resolve(data, "", AMD64, lambda *_: b"{}", "thing"),
        lambda: manifest.parse_config(data, "thing", 1),
    ):
        try:
            function()
        except RlessError as error:
            assert error.message.isprintable()
