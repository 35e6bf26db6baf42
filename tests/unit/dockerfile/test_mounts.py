"""RUN --mount: what a key may be, and that no other one passes (security class 54)."""

from __future__ import annotations

from typing import Any

import pytest

from rootless.dockerfile import DockerfileError
from rootless.dockerfile.mounts import Mount, parse_mount

_CACHE = "type=cache,target=/c,"


def bind(target: str, *, readonly: bool = True, **fields: Any) -> Mount:
    return Mount("bind", target, readonly=readonly, **fields)


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("target=/t", bind("/t")),
        ("TYPE=bind,Dst=/t,src=a,RW", bind("/t", source="a", readonly=False)),
        ('"target=/a,b",from=x', bind("/a,b", origin="x", given=frozenset({"from"}))),
        (f"{_CACHE}sharing=locked", Mount("cache", "/c", sharing="locked", mode=0o755)),
        ("type=tmpfs,target=/t,size=1k", Mount("tmpfs", "/t", size=1024)),
        ("type=secret,target=/a/k", Mount("secret", "/a/k", readonly=True, id="k", mode=0o400)),
        ("type=ssh", Mount("ssh", readonly=True, id="default", mode=0o600)),
    ],
)
def test_mount_has_its_keys(text: str, mount: Mount) -> None:
    assert parse_mount(text) == mount


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # CVE-2024-9407: options that a host's mount would take.
        ("target=/t,bind-propagation=shared", "no key 'bind-propagation'"),
        ("target=/t,rshared", "'rshared' is not KEY=VALUE"),
        ("target=/t,relabel=shared", "no key 'relabel'"),
        ("target=/t,options=dev", "no key 'options'"),
        ("target=/t,id=../x", "bind mount has no key 'id'"),
        ("type=tmpfs,target=/t,source=/", "tmpfs mount has no key 'source'"),
        ("type=secret,id=a,from=stage", "secret mount has no key 'from'"),
        ("type=secret,id=a,sharing=shared", "secret mount has no key 'sharing'"),
        ("type=ssh,env=A", "ssh mount has no key 'env'"),
        ("type=volume,target=/t", "type=volume is unknown"),
        (f"{_CACHE}sharing=all", "sharing=all is unknown"),
        (f"{_CACHE}mode=8", "mode"),
        (f"{_CACHE}mode=10000", "mode"),
        (f"{_CACHE}uid=-1", "uid"),
        (f"{_CACHE}gid=4294967296", "gid"),
        ("target=/t,from=$x", "no variables"),
        ("type=cache", "needs a target"),
        ("target=/../", "hide the whole root"),
        ("type=secret", "needs an id or a target"),
        ('"target=/t', "quote"),
    ],
)
def test_any_other_is_an_error(text: str, said: str) -> None:
    with pytest.raises(DockerfileError) as raised:
        parse_mount(text)
    assert said in raised.value.message
