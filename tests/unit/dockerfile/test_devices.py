"""RUN --device: names of CDI have a = themselves."""

from __future__ import annotations

import pytest

from rootless.dockerfile import DockerfileError
from rootless.dockerfile.mounts import Device, parse_device


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("vendor.com/kind=one", Device("vendor.com/kind=one")),
        ("vendor.com/kind=one,required", Device("vendor.com/kind=one", True)),
        ("vendor.com/kind", Device("vendor.com/kind")),
        ("required=true,name=vendor.com/kind=*", Device("vendor.com/kind=*", True)),
        ("/dev/fuse,required=false", Device("/dev/fuse")),
    ],
)
def test_device_has_a_name_and_may_be_required(text: str, device: Device) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize("text", ["required", "one,two", "one,optional=1", ""])
def test_what_is_no_device_is_an_error(text: str) -> None:
    with pytest.raises(DockerfileError, match="--device"):
        parse_device(text)
