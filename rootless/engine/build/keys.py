"""The keys of the build cache: what the result of a step depends on, as one digest.

A key covers all inputs of a step and nothing else. The state before is one of them, by its own key,
so a change anywhere invalidates what comes after it. Instructions that change only the config have
no key: they change what later keys contain. So a label never invalidates, and an ARG only a RUN.

Never part of a key are times, secrets, the sockets of agents, what a cache mount holds, proxies,
and addresses of hosts.

A key is sha256 of canonical JSON, 64 hexadecimal digits. It begins with a version: a key of another
version of this text is never found.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VERSION = 1
_BASE_FIELDS = ("Env", "User", "WorkingDir", "Shell")
_PROXIES = frozenset(
    name
    for scheme in ("http", "https", "ftp", "no", "all")
    for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper())
)


def base(chain: Sequence[str], config: Mapping[str, Any], platform: Mapping[str, str]) -> str:
    """Return the key of a base image, the state that a stage begins with.

    Args:
        chain: chain ids of its layers, bottom first. config: its `config` object.
        platform: os, architecture, variant.
    """
    return _key(
        "base",
        layers=chain[-1] if chain else "",
        config={field: config.get(field) or None for field in _BASE_FIELDS},
        platform=dict(platform),
    )


def run(
    before: str,
    *,
    args: Sequence[str],
    env: Sequence[str],
    declared: Iterable[str] = (),
    user: str = "",
    directory: str = "/",
    script: str = "",
    mounts: Sequence[Mapping[str, Any]] = (),
    network: str = "default",
    security: str = "sandbox",
    devices: Sequence[str] = (),
    hosts: Iterable[str] = (),
    hostname: str = "",
) -> str:
    """Return the key of the state after a RUN.

    Args:
        before: key of the state before; it has the platform.
        args: the argv, with the shell. script: the body of a here-document that is executed.
        env: NAME=VALUE in the order in which the process sees them.
        declared: names of proxies that ARG or ENV declares: these count like any variable.
        mounts: for each, its options (type, target, id...) and, for a bind, `digest`: of the
            content that is mounted. A secret's value is none of it, nor what a cache holds.
        devices: of --device.
        hosts: of --add-host, NAME:ADDRESS; only the names count.
    """
    kept = frozenset(declared)
    return _key(
        "run",
        before=before,
        args=list(args),
        env=[entry for entry in env if not _is_proxy(entry) or _name(entry) in kept],
        user=user,
        directory=directory,
        script=script,
        mounts=[dict(mount) for mount in mounts],
        network=network,
        security=security,
        devices=list(devices),
        hosts=sorted({host.partition("=")[0].partition(":")[0] for host in hosts}),
        hostname=hostname,
    )


def copy(
    before: str,
    *,
    destination: str,
    digest: str,
    owner: tuple[int, int] | None = None,
    mode: str = "",
    link: bool = False,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Return the key of the state after a COPY or ADD.

    With `link` the layer does not depend on the state before. Its key is then that of the layer,
    and `after` makes the key of the state.

    Args:
        destination: absolute; it ends in a slash if it must be a directory.
        digest: of the content that was selected: of files, an archive's or a URL's bytes, a commit.
        owner: as numbers, looked up; None: as the sources have it.
        mode: of --chmod, expanded.
        options: the other flags that change the result (parents, unpack, keep_git_dir).
    """
    return _key(
        "copy",
        before="" if link else before,
        destination=destination,
        digest=digest,
        owner=owner if owner is None else list(owner),
        mode=mode,
        link=link,
        options=dict(options or {}),
    )


def after(before: str, layer: str) -> str:
    """Return the key of the state that a layer of its own key gives on top of another."""
    return _key("after", before=before, layer=layer)


def defined(before: str, origins: Sequence[str], step: Mapping[str, Any]) -> str:
    """Return a second key of the state after a step, for which no file has to be looked at.

    It is good for steps that take files from images and stages only. Their layers say what the
    files are, so the tree of a stage that is not wanted for more is never made.

    Args:
        origins: chain ids of the topmost layers of what it takes files from.
        step: the step itself.
    """
    return _key("defined", before=before, origins=list(origins), step=dict(step))


def workdir(before: str, directory: str, user: str) -> str:
    """Return the key of the state after a WORKDIR, for which no file has to be looked at.

    Args:
        user: whose directory it is made, as typed. Who that is, and whether there is something to
            make, the layers before say, on which a result in the cache must be.
    """
    return _key("workdir", before=before, directory=directory, user=user)


def _name(entry: str) -> str:
    return entry.partition("=")[0]


def _is_proxy(entry: str) -> bool:
    return _name(entry) in _PROXIES


def _key(kind: str, **parts: Any) -> str:
    # ASCII, so that bytes that are not UTF-8 (surrogates) have a form too.
    text = json.dumps([VERSION, kind, parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
