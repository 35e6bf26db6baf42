"""Registries for the command line: push, log in and out, search."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from rootless import paths
from rootless.engine.images.images import find as image_of
from rootless.engine.state import events
from rootless.errors import NOT_FOUND, UNAUTHORIZED, RlessError, escape
from rootless.image.config import manifest
from rootless.image.model import limits, registries_conf
from rootless.image.model.reference import DEFAULT_REGISTRY, Reference, is_registry, parse
from rootless.image.model.registries_conf import Location
from rootless.image.registry import auth, http
from rootless.image.registry.client import Registry, pages
from rootless.image.registry.credentials import Credentials
from rootless.image.registry.endpoint import AbsentError, Endpoint
from rootless.image.registry.http import Client, finish, read_body
from rootless.image.registry.progress import Progress
from rootless.image.store import records
from rootless.image.store.staging import Staging, clear_leftovers, store_lock
from rootless.image.store.store import Store
from rootless.image.transfer.push import push as push_image
from rootless.image.transfer.push import push_index, tags_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rootless.image.model.packing import Packing
    from rootless.image.trust.signature import Signer
    from rootless.oci.image_spec import Descriptor

_SEARCHED = 10_000  # repositories of a catalog that are looked through


# -- push ------------------------------------------------------------------------------------


def push(
    name: str,
    destination: str | None = None,
    *,
    packing: Packing | None = None,
    platform: str | None = None,
    quiet: bool = False,
    progress: Progress | None = None,
    signers: Sequence[Signer] = (),
    remove_signatures: bool = False,
    indexed: Sequence[str] = (),
) -> tuple[str, Descriptor]:
    """Send an image to its registry and tell how it goes on, as Docker does.

    Args:
        destination: where to, if not where its name says.
        packing: as usual, if it is None.
        progress: told how it goes on; None: standard output is.
        signers: each adds a signature.
        remove_signatures: those that the image came with are left out.
        indexed: ids of images, one a platform: these are sent, with an index of them.

    Returns:
        The full name it has there, and the descriptor of its manifest, or of the index.

    Raises:
        RlessError: no such image here, or the registry refuses it.
    """
    store = Store(paths.storage_root())
    image = store.lookup(name, platform)
    if image is None:
        raise RlessError(
            f"An image does not exist locally with the tag: {escape(name)}",
            "'rless images' lists them, 'rless tag' gives one a name",
            kind=NOT_FOUND,
        )
    target = _target(destination if destination is not None else image.name, name)
    progress = progress or Progress(1, quiet=quiet)
    try:
        progress.say(f"The push refers to repository [{target.registry}/{target.repository}]")
        records.make_frame(store.root)
        clear_leftovers(store.root)
        with store_lock(store.root), Staging(store.root) as staging:
            if indexed:
                images = [image_of(one) for one in indexed]
                options = packing or Packing()
                made = push_index(images, target, store, staging.path, progress, options)
            else:
                made = push_image(
                    image,
                    target,
                    store,
                    staging.path,
                    progress,
                    packing=packing,
                    signers=signers,
                    remove_signatures=remove_signatures,
                )
        progress.finish()
        progress.say(f"{target.tag}: digest: {made['digest']} size: {made['size']}")
    finally:
        progress.finish()
    events.record("push", "image", target.familiar, name=target.familiar)
    return target.canonical, made


def _target(text: str, name: str) -> Reference:
    """Return the reference that an image is pushed to."""
    if text.startswith("sha256:"):
        raise RlessError(
            f"{escape(name)} is an id, which does not say where to push to",
            "give the image a name: rless tag ID HOST/NAME:TAG",
        )
    target = parse(text)
    if target.transport != "docker" or target.digest:
        raise RlessError(
            f"cannot push to {escape(text)}",
            "name a repository and a tag, as HOST/NAME:TAG; 'rless save' writes archives",
        )
    return target


def names_of(repository: str) -> list[str]:
    """Return all names with a tag that the store has of a repository."""
    return tags_of(Store(paths.storage_root()), repository)


def describe(name: str) -> tuple[Descriptor, list[dict[str, Any]]]:
    """Return what a registry has under a name: the descriptor, and the platforms that it is for.

    Raises:
        RlessError: it has no such image, or cannot be asked.
    """
    registry = Registry(parse(name))
    try:
        return registry.describe()
    finally:
        registry.close()


# -- log in, log out -------------------------------------------------------------------------


def server_of(text: str) -> str:
    """Return the registry that the argument of login or logout means; docker.io by default.

    Raises:
        RlessError: it is not a registry.
    """
    name = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    if name in ("", "index.docker.io/v1", "index.docker.io", "registry-1.docker.io"):
        return DEFAULT_REGISTRY
    if not is_registry(name):
        raise RlessError(f"{escape(text)[:200]!r} is not a registry", "write HOST[:PORT]")
    return name


def existing(server: str) -> Credentials | None:
    """Return what the user is logged in to a registry with."""
    return auth.find(server, "")


def login(server: str, username: str, password: str) -> str:
    """Verify a name and password with the registry, then keep them.

    Returns:
        Where they are kept.

    Raises:
        RlessError: the registry says no, or cannot be asked; nothing is kept then.
    """
    credentials = Credentials(username, password)
    verify(server, credentials)
    return auth.save(server, credentials)


def verify(server: str, credentials: Credentials) -> None:
    """Ask a registry whether it knows a name and password.

    Raises:
        RlessError: it says no, or cannot be asked.
    """
    client = Client(http.insecure_registries())
    try:
        location = _location(server)
        endpoint = Endpoint(client, location, f"login to {server}", "", credentials)
        deadline = time.monotonic() + limits.DOCUMENT_SECONDS
        try:
            response = endpoint.ask(f"{endpoint.origin}/v2/", {}, deadline)
            if response.status == 404:
                raise RlessError(f"{server} is not a registry: it has no /v2/")
            endpoint.judge(response, "/v2/")
        except AbsentError as error:
            said = f" ({error.detail[2:]})" if error.detail else ""
            raise RlessError(
                f"login to {server} failed: unauthorized: incorrect username or password{said}",
                kind=UNAUTHORIZED,
            ) from error
        finish(response)
    finally:
        client.close()


def logout(server: str | None) -> list[str]:
    """Forget the credentials of a registry, or of all; return where there were any."""
    return auth.forget(server)


# -- search ----------------------------------------------------------------------------------


def search(
    term: str, limit: int, conditions: Iterable[tuple[str, int]] = ()
) -> list[dict[str, Any]]:
    """Return the repositories that a registry finds for a term.

    Docker Hub's search is asked, and of "HOST/TERM" that host: for its search if it has one,
    for its catalog otherwise. Each entry has name, description, star_count, is_official and
    is_automated.

    Args:
        limit: how many are asked for.
        conditions: which of them: the fewest "stars", "is-official", "is-automated".

    Raises:
        RlessError: the registry cannot be searched.
    """
    host, slash, rest = term.partition("/")
    is_host = bool(slash) and ("." in host or ":" in host or host == "localhost")
    server, word = (host, rest) if is_host else (DEFAULT_REGISTRY, term)
    if not is_registry(server):
        raise RlessError(f"{escape(server)[:200]!r} is not a registry")
    client = Client(http.insecure_registries())
    try:
        location = _location(server)
        hub = location.host == DEFAULT_REGISTRY
        asked = Location("index.docker.io", "") if hub else location
        endpoint = Endpoint(client, asked, f"search of {server}", "")
        found = _search_index(endpoint, word, limit)
        if found is None and hub:
            raise RlessError(f"{server} cannot be searched now: its search is not there")
        if found is None:
            found = _search_catalog(client, location, server, word, limit)
        prefix = "" if hub or not is_host else f"{server}/"
        named = [{**entry, "name": prefix + entry["name"]} for entry in found][:limit]
        return [entry for entry in named if all(_fulfils(entry, *one) for one in conditions)]
    finally:
        client.close()


def _fulfils(entry: dict[str, Any], key: str, wanted: int) -> bool:
    if key == "stars":
        return bool(entry["star_count"] >= wanted)
    return bool(entry[key.replace("-", "_")] == wanted)


def _search_index(endpoint: Endpoint, word: str, limit: int) -> list[dict[str, Any]] | None:
    """Ask for /v1/search, as Docker Hub has it; None: there is no such thing."""
    query = urlencode({"q": word, "n": limit})
    deadline = time.monotonic() + limits.DOCUMENT_SECONDS
    response = endpoint.ask(f"{endpoint.origin}/v1/search?{query}", {}, deadline)
    kind = response.headers.get("Content-Type", "").partition(";")[0]
    if response.status in (401, 403, 404, 405) or (response.status == 200 and "json" not in kind):
        response.close()
        return None
    endpoint.judge(response, "search")
    what = f"the search result of {endpoint.name}"
    data = read_body(response, limits.JSON_BYTES, deadline, what)
    results = manifest.read_object(data, what).get("results")
    if not isinstance(results, list) or not all(isinstance(entry, dict) for entry in results):
        raise RlessError(f"{what} is malformed")
    return [
        {
            "name": str(entry.get("name") or ""),
            "description": str(entry.get("description") or ""),
            "star_count": entry["star_count"] if isinstance(entry.get("star_count"), int) else 0,
            "is_official": entry.get("is_official") is True,
            "is_automated": entry.get("is_automated") is True,
        }
        for entry in results
    ]


def _search_catalog(
    client: Client, location: Location, server: str, word: str, limit: int
) -> list[dict[str, Any]]:
    endpoint = Endpoint(client, location, f"search of {server}", "catalog")
    found: list[dict[str, Any]] = []
    seen = 0
    try:
        for page in pages(
            endpoint, f"{endpoint.origin}/v2/_catalog?n=1000", f"catalog of {server}"
        ):
            names = page.get("repositories") or []
            if not isinstance(names, list):
                raise RlessError(f"the catalog of {server} is malformed")
            found += [
                {
                    "name": name,
                    "description": "",
                    "star_count": 0,
                    "is_official": False,
                    "is_automated": False,
                }
                for name in names
                if isinstance(name, str) and word in name
            ]
            seen += len(names)
            if len(found) >= limit or seen >= _SEARCHED:
                break
    except AbsentError as error:
        raise RlessError(
            f"{server} cannot be searched: it shows no list of its repositories to this user",
            f"use its web site, or log in: rless login {server}",
        ) from error
    return found


def _location(server: str) -> Location:
    """Return where a registry is, as registries.conf says for all of it."""
    return registries_conf.load().server(server)
