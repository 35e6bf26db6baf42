"""Parse image names by Docker's grammar, by hand.

This is on the path of every run, so there are no regular expressions (their module costs 6 ms). The
grammar is that of distribution/reference, with its defaults: no registry means docker.io, no tag
and no digest means latest, docker.io/x means docker.io/library/x. Other sources have a transport:
`docker-archive:PATH[:REFERENCE]`, `oci-archive:PATH[:TAG]`, `oci:PATH[:TAG]`, `docker://NAME`, and
`host:` for the programs of the host.
"""

from __future__ import annotations

import os

from rootless.errors import RlessError, escape
from rootless.image.model.digest import is_digest, is_hex

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
_ARCHIVES = ("docker-archive", "oci-archive", "oci")
_NAME_LIMIT = 255
_TAG_LIMIT = 128

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ALNUM = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TAG_FIRST = _ALNUM | {"_"}
_TAG_REST = _TAG_FIRST | {".", "-"}
_HEX = frozenset("0123456789abcdefABCDEF:")


class Reference:
    """The name of one image at one place.

    Attributes:
        transport: "docker" (a registry), "docker-archive", "oci-archive", "oci" or "host".
        registry, repository: set for "docker", as "docker.io" and "library/busybox".
        tag: without the colon; for archives what follows the path; None if there is none.
        digest: "sha256:…" or None.
        path: absolute path of an archive or layout, else "".
        short: the repository as typed if no registry was, as "busybox"; else "". registries.conf
            says what such a name means; docker.io is the default.
        text: what the user typed.
    """

    __slots__ = ("digest", "path", "registry", "repository", "short", "tag", "text", "transport")

    def __init__(
        self,
        text: str,
        transport: str,
        registry: str = "",
        repository: str = "",
        tag: str | None = None,
        digest: str | None = None,
        path: str = "",
        short: str = "",
    ) -> None:
        self.text = text
        self.transport = transport
        self.registry = registry
        self.repository = repository
        self.tag = tag
        self.digest = digest
        self.path = path
        self.short = short

    @property
    def canonical(self) -> str:
        """Return the one full spelling; two names of the same thing give the same text."""
        if self.transport == "host":
            return "host:"
        if self.transport != "docker":
            return f"{self.transport}:{self.path}" + (f":{self.tag}" if self.tag else "")
        return f"{self.registry}/{self.repository}{self.suffix()}"

    @property
    def familiar(self) -> str:
        """Return the short spelling that Docker shows, as "busybox:latest"."""
        if self.transport != "docker":
            return self.canonical
        return familiar_repository(f"{self.registry}/{self.repository}") + self.suffix()

    def suffix(self) -> str:
        """Return the tag and digest with their marks, as ":1@sha256:…"."""
        tag = f":{self.tag}" if self.tag else ""
        return tag + (f"@{self.digest}" if self.digest else "")

    def __repr__(self) -> str:
        return f"Reference({self.canonical!r})"


def familiar_repository(name: str) -> str:
    """Return "registry/repository" without the parts that Docker leaves out."""
    return name.removeprefix("docker.io/library/").removeprefix("docker.io/")


def parse(text: str) -> Reference:
    """Return what `text` names.

    Raises:
        RlessError: it is no reference; the message says which rule it breaks.
    """
    if text == "host:":
        return Reference(text, "host")
    transport, colon, rest = text.partition(":")
    if colon:
        if transport == "docker" and rest.startswith("//"):
            named = _parse_registry(text, rest[2:])
            named.short = ""
            return named
        if transport in _ARCHIVES:
            return _parse_archive(text, transport, rest)
    return _parse_registry(text, text)


def is_path(text: str) -> bool:
    """Tell whether `text` names an archive, a layout or the programs of this host."""
    return text == "host:" or (":" in text and text.partition(":")[0] in _ARCHIVES)


def parse_name(text: str) -> Reference:
    """Return the name that a new image gets: of a repository, with a tag.

    Raises:
        RlessError: it is none.
    """
    reference = parse(text)
    if reference.transport != "docker" or reference.digest:
        raise RlessError(f"{escape(text)} is not a name for an image", "use REPOSITORY[:TAG]", 1)
    return reference


def _parse_archive(text: str, transport: str, rest: str) -> Reference:
    path, _, tag = rest.partition(":")
    if not path or "\0" in path:
        raise RlessError(f"invalid reference {_quote(text)}: {transport}: needs a path")
    if tag and transport == "docker-archive" and not tag.startswith("@"):
        tag = _parse_registry(text, tag).canonical
    elif tag and not _is_archive_tag(tag):
        raise RlessError(f"invalid reference {_quote(text)}: bad tag {_quote(tag)}")
    return Reference(text, transport, tag=tag or None, path=os.path.abspath(path))


def _is_archive_tag(tag: str) -> bool:
    """Tell whether an OCI layout may name an image so (image-spec: annotations, ref.name).

    skopeo and umoci write plain tags, buildah whole references.
    """
    return len(tag) <= 512 and all(char in _TAG_REST or char in "/:@+" for char in tag)


def _parse_registry(text: str, name: str) -> Reference:
    if not name:
        raise RlessError(f"invalid reference {_quote(text)}: it is empty")
    if is_hex(name, 64):
        raise RlessError(
            f"invalid reference {_quote(text)}: a repository cannot be named by 64 hex digits"
        )
    rest, at, digest = name.partition("@")
    if at and not is_digest(digest):
        raise RlessError(
            f"invalid reference {_quote(text)}: bad digest {_quote(digest)}",
            "a digest is sha256: and 64 lower-case hexadecimal digits",
        )
    # A colon after the last slash starts the tag; one before it is a port.
    tag: str | None = None
    head, colon, tail = rest.rpartition(":")
    if colon and "/" not in tail:
        rest, tag = head, tail
        if not _is_tag(tag):
            raise RlessError(
                f"invalid reference {_quote(text)}: bad tag {_quote(tag)}",
                "a tag has at most 128 letters, digits, '_', '.', '-' "
                "and starts with none of the last two",
            )
    registry, repository = _split(rest)
    short = "" if rest.startswith((f"{registry}/", "index.docker.io/")) else rest
    if not is_registry(registry):
        raise RlessError(f"invalid reference {_quote(text)}: bad registry {_quote(registry)}")
    if not is_repository(repository):
        if is_repository(repository.lower()):
            raise RlessError(f"invalid reference {_quote(text)}: repository name must be lowercase")
        raise RlessError(
            f"invalid reference {_quote(text)}: bad repository {_quote(repository)}",
            "its parts are lower-case letters and digits, joined by '.', '_', '__' or dashes",
        )
    if len(registry) + 1 + len(repository) > _NAME_LIMIT:
        raise RlessError(
            f"invalid reference {_quote(text)}: the name is longer than {_NAME_LIMIT} characters"
        )
    if tag is None and not digest:
        tag = DEFAULT_TAG
    return Reference(text, "docker", registry, repository, tag, digest or None, short=short)


def _split(name: str) -> tuple[str, str]:
    """Split into registry and repository, with Docker's rule of what looks like a host."""
    first, slash, rest = name.partition("/")
    is_host = slash and (
        "." in first or ":" in first or first == "localhost" or first.lower() != first
    )
    registry, repository = (first, rest) if is_host else (DEFAULT_REGISTRY, name)
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _is_tag(tag: str) -> bool:
    return 0 < len(tag) <= _TAG_LIMIT and tag[0] in _TAG_FIRST and _TAG_REST.issuperset(tag)


def is_registry(registry: str) -> bool:
    """Tell whether `registry` is a host name or address, with or without a port."""
    if registry.startswith("["):
        address, bracket, port = registry[1:].partition("]")
        if not (bracket and address and _HEX.issuperset(address)):
            return False
        if port and not port.startswith(":"):
            return False
        port = port[1:] if port else "0"
    else:
        host, colon, port = registry.partition(":")
        port = port if colon else "0"
        for label in host.split("."):
            if not label or label[0] == "-" or label[-1] == "-":
                return False
            if not all(char in _ALNUM or char == "-" for char in label):
                return False
    return port.isascii() and port.isdigit() and int(port[:6]) <= 65535


def is_repository(repository: str) -> bool:
    """Tell whether `repository` is a path of a registry, as "library/busybox"."""
    return all(_is_component(component) for component in repository.split("/"))


def _is_component(component: str) -> bool:
    """Match alnum (separator alnum)*, where a separator is '.', '_', '__' or any dashes."""
    separator = ""
    for char in component:
        if char in _LOWER:
            if separator not in ("", ".", "_", "__") and separator.strip("-"):
                return False
            separator = ""
        elif char in "._-":
            separator += char
        else:
            return False
    return bool(component) and not separator and component[0] in _LOWER


def _quote(text: str) -> str:
    shown = escape(text)
    return f"'{shown}'" if len(shown) <= 200 else f"'{shown[:200]}…'"
