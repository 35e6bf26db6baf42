"""Names: the image that was asked for, and which name in a signature stands for it.

A signature names an image. `signedIdentity` in a policy says which names it may have for an image
that was asked for under a name of its own.

Source: containers-policy.json(5), "signedIdentity".
"""

from __future__ import annotations

import os

from rootless.errors import RlessError, escape
from rootless.image.model.reference import is_registry, is_repository, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.model.reference import Reference

MATCH_EXACT = "matchExact"
MATCH_REPO_DIGEST_OR_EXACT = "matchRepoDigestOrExact"
MATCH_REPOSITORY = "matchRepository"
EXACT_REFERENCE = "exactReference"
EXACT_REPOSITORY = "exactRepository"
REMAP_IDENTITY = "remapIdentity"


class Named:
    """A full name of an image, without a tag where none was written.

    Attributes:
        name: "docker.io/library/busybox". tag, digest: None if not written.
    """

    __slots__ = ("digest", "name", "tag")

    def __init__(self, name: str, tag: str | None, digest: str | None) -> None:
        self.name = name
        self.tag = tag
        self.digest = digest

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return self.name + tag + (f"@{self.digest}" if self.digest else "")

    @property
    def is_bare(self) -> bool:
        """Tell whether it has neither tag nor digest."""
        return self.tag is None and self.digest is None


def parse_named(text: str) -> Named:
    """Return the name that `text` is, with docker.io/library/ added where Docker adds it.

    Raises:
        RlessError: it is no name.
    """
    found = parse(f"docker://{text}")
    has_tag = ":" in text.partition("@")[0].rpartition("/")[2]
    name = f"{found.registry}/{found.repository}"
    return Named(name, found.tag if has_tag else None, found.digest)


class Subject:
    """The image that is judged.

    Attributes:
        transport: as in a reference: "docker", "docker-archive", "oci", "oci-archive", "dir".
        named: the name that was asked for, None for a file. With a digest it has no tag.
        path: of an archive or a directory, links resolved; "": there is none, as of a pipe.
        manifest: the bytes of the image's own manifest, of its platform; b"" if it has none.
        digest: of the manifest.
    """

    __slots__ = ("digest", "manifest", "named", "path", "transport")

    def __init__(
        self,
        transport: str,
        named: Named | None = None,
        path: str = "",
        manifest: bytes = b"",
        digest: str = "",
    ) -> None:
        self.transport = transport
        self.named = named
        self.path = path
        self.manifest = manifest
        self.digest = digest

    def __str__(self) -> str:
        return escape(str(self.named) if self.named else f"{self.transport}:{self.path}")

    def scopes(self) -> list[str]:
        """Return the keys of a policy that apply to this image, the narrowest first; never ""."""
        if self.named is not None:
            return docker_scopes(self.named)
        if not self.path or self.transport == "docker-archive":
            return []
        found = []
        path = self.path
        while path.strip("/"):
            found.append(path)
            path = path.rpartition("/")[0]
        return found


def subject_of(reference: Reference) -> Subject:
    """Return what a reference names, without a manifest yet."""
    if reference.transport == "docker":
        name = f"{reference.registry}/{reference.repository}"
        tag = None if reference.digest else reference.tag or "latest"
        return Subject("docker", Named(name, tag, reference.digest))
    path = os.path.realpath(reference.path) if reference.path else ""
    return Subject(reference.transport, path=path)


def docker_scopes(named: Named) -> list[str]:
    """Return the scopes of a name: itself, repository, namespaces, host, "*." domains."""
    found = [str(named)]
    name = named.name
    while name:
        found.append(name)
        name = name.rpartition("/")[0]
    # A wildcard stands for hosts below a domain, whatever their ports.
    domain = named.name.partition("/")[0].partition(":")[0]
    while "." in domain:
        domain = domain.partition(".")[2]
        found.append(f"*.{domain}")
    return found


class SignedIdentity:
    """One rule of `signedIdentity`.

    Attributes:
        kind: one of the constants above.
        first, second: dockerReference, dockerRepository, or prefix and signedPrefix.
    """

    __slots__ = ("first", "kind", "second")

    def __init__(self, kind: str, first: str = "", second: str = "") -> None:
        self.kind = kind
        self.first = first
        self.second = second

    def check(self) -> None:
        """Check the rule itself, as it is read.

        Raises:
            RlessError: a name in it is none.
        """
        if self.kind == EXACT_REFERENCE and parse_named(self.first).is_bare:
            raise RlessError(f"dockerReference {escape(self.first)!r} has neither tag nor digest")
        if self.kind == EXACT_REPOSITORY:
            parse_named(self.first)
        if self.kind == REMAP_IDENTITY:
            for prefix in (self.first, self.second):
                host, slash, rest = prefix.partition("/")
                if not is_registry(host) or (slash and not is_repository(rest)):
                    raise RlessError(f"prefix {escape(prefix)!r} is not valid")

    def matches(self, subject: Subject, signed: str) -> bool:
        """Tell whether the name in a signature stands for the image that was asked for."""
        try:
            named = parse_named(signed)
            if self.kind == EXACT_REFERENCE:
                return _is_exact(parse_named(self.first), named)
            if self.kind == EXACT_REPOSITORY:
                return parse_named(self.first).name == named.name
            if subject.named is None:
                return False
            if self.kind == MATCH_EXACT:
                return _is_exact(subject.named, named)
            if self.kind == MATCH_REPOSITORY:
                return subject.named.name == named.name
            if self.kind == REMAP_IDENTITY:
                return _is_digest_or_exact(self._remap(subject.named), named)
        except RlessError:
            return False
        return self.kind == MATCH_REPO_DIGEST_OR_EXACT and _is_digest_or_exact(subject.named, named)

    def _remap(self, asked: Named) -> Named:
        rest = asked.name.removeprefix(self.first)
        if rest == asked.name or (rest and not rest.startswith("/")):
            return asked
        return parse_full(f"{self.second}{str(asked).removeprefix(self.first)}")


def parse_full(text: str) -> Named:
    """Return the name that `text` is, which has a registry.

    Raises:
        RlessError: it is no name, or Docker would add to it.
    """
    named = parse_named(text)
    if str(named) != text:
        raise RlessError(f"{escape(text)!r} is not a full name")
    return named


def _is_exact(asked: Named, signed: Named) -> bool:
    return not asked.is_bare and not signed.is_bare and str(asked) == str(signed)


def _is_digest_or_exact(asked: Named, signed: Named) -> bool:
    """Compare: a tag has to be the same; where a digest was asked for, the manifest has it."""
    if asked.tag is not None:
        return str(asked) == str(signed)
    return asked.digest is not None and asked.name == signed.name
