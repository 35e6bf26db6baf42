"""Read policy.json: which images this host, or this user, accepts.

The file is that of `--signature-policy`, or else ~/.config/containers/policy.json, or else
/etc/containers/policy.json. If there is none, every image is accepted. A file that cannot be read,
that is no JSON, or that has a field of an unknown name or of a wrong type accepts nothing: every
image is refused until the file is right.

Source: containers-policy.json(5); the verdicts are those of containers/image.
"""

from __future__ import annotations

import json
import os

from rootless import paths
from rootless.errors import RlessError, escape
from rootless.image.model import limits
from rootless.image.model.digest import is_digest
from rootless.image.trust import identity as names
from rootless.image.trust.identity import SignedIdentity
from rootless.image.trust.requirements import (
    Accept,
    Fulcio,
    Keys,
    Pki,
    Reject,
    SignedBaseLayer,
    SignedBy,
    SigstoreSigned,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.image.trust.identity import Subject
    from rootless.image.trust.requirements import Requirement

    Fields = dict[str, Any]

SYSTEM = paths.SYSTEM_POLICY
_HINT = "see containers-policy.json(5); nothing is accepted until the file is right"
_KEY_TYPES = ("GPGKeys", "signedByGPGKeys", "X509Certificates", "signedByX509CAs")
_PATH_TRANSPORTS = ("dir", "oci", "oci-archive", "sif")
_REFUSED_TRANSPORTS = ("docker-daemon", "atomic")


class PolicyError(RlessError):
    """The policy itself is wrong."""


class Match:
    """The part of a policy that decides about one image.

    Attributes:
        scope: as "docker: docker.io/library", "docker: default" or "default".
        requirements: all of them have to be met.
    """

    __slots__ = ("requirements", "scope")

    def __init__(self, scope: str, requirements: list[Requirement]) -> None:
        self.scope = scope
        self.requirements = requirements

    @property
    def accepts_anything(self) -> bool:
        """Tell whether no image is refused."""
        return all(isinstance(one, Accept) for one in self.requirements)

    @property
    def rejects_anything(self) -> bool:
        """Tell whether no image is accepted, whatever its signatures are."""
        return any(isinstance(one, Reject) for one in self.requirements)


class Policy:
    """A policy that was read and checked.

    Attributes:
        path: of its file.
        default: for whatever no scope is for.
        transports: transport -> scope -> requirements; the scope "" is the transport's default.
    """

    def __init__(
        self,
        path: str,
        default: list[Requirement],
        transports: dict[str, dict[str, list[Requirement]]],
    ) -> None:
        self.path = path
        self.default = default
        self.transports = transports

    def find(self, subject: Subject) -> Match:
        """Return what decides about an image: the narrowest scope that it is in.

        Raises:
            PolicyError: of a transport that rless has not.
        """
        if subject.transport in _REFUSED_TRANSPORTS:
            raise PolicyError(f"transport {subject.transport} is not supported")
        scopes = self.transports.get(subject.transport, {})
        for scope in (*subject.scopes(), ""):
            if scope in scopes:
                return Match(f"{subject.transport}: {scope or 'default'}", scopes[scope])
        return Match("default", self.default)


NONE = Policy("", [Accept()], {})  # of who has no policy


def path_of(explicit: str | None = None) -> str | None:
    """Return the file that applies to this user; None: there is none.

    Args:
        explicit: of `--signature-policy`.
    """
    if explicit:
        return os.path.abspath(explicit)
    if os.path.exists(own_path()):
        return own_path()
    try:
        os.stat(SYSTEM)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # it may be there: whoever reads it is told why it cannot be seen
    return SYSTEM


def own_path() -> str:
    """Return where the user's own policy is, or would be."""
    return os.path.expanduser(paths.OWN_POLICY)


def load(explicit: str | None = None) -> Policy | None:
    """Read the policy that applies to this user; None: there is none, all is accepted.

    Raises:
        PolicyError: the file cannot be read, or is not right.
    """
    path = path_of(explicit)
    return None if path is None else parse(read(path), path)


def read(path: str) -> bytes:
    """Return what a file says.

    Raises:
        PolicyError: it cannot be read, or is too large.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(limits.JSON_BYTES + 1)
    except OSError as error:
        raise PolicyError(
            f"cannot read the policy {escape(path)}: {error.strerror}",
            "no image is accepted without it",
        ) from error
    if len(data) > limits.JSON_BYTES:
        raise PolicyError(f"policy {escape(path)} is too large")
    return data


def parse(data: bytes, path: str) -> Policy:
    """Return the policy that a document is.

    Args:
        path: how errors name it.

    Raises:
        PolicyError: it is not right.
    """
    try:
        return _policy(_document(data), path)
    except (RlessError, RecursionError) as error:
        why = error.message if isinstance(error, RlessError) else "nested too deeply"
        raise PolicyError(f"policy {escape(path)}: {why}", _HINT) from None


def _document(data: bytes) -> object:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once)
    except ValueError as error:  # also of UTF-8
        raise PolicyError(f"not valid JSON: {escape(str(error))[:120]}") from None


def _once(pairs: list[tuple[str, object]]) -> Fields:
    found: Fields = {}
    for key, value in pairs:
        if key in found:
            raise PolicyError(f"field {escape(key)!r} is there twice")
        found[key] = value
    return found


def _policy(document: object, path: str) -> Policy:
    fields = _fields(document, "the policy", ("default", "transports"))
    if "default" not in fields:
        raise PolicyError("default is missing")
    transports = {
        transport: {
            _scope(transport, scope): _requirements(value, f"{transport}: {scope or 'default'}")
            for scope, value in _object(scopes, transport).items()
        }
        for transport, scopes in _object(fields.get("transports", {}), "transports").items()
    }
    return Policy(path, _requirements(fields["default"], "default"), transports)


def _scope(transport: str, scope: str) -> str:
    """Check a scope as its transport has it; those of registries are compared as they are."""
    is_wrong = False
    if scope and transport in _PATH_TRANSPORTS:
        is_wrong = not scope.startswith("/") or os.path.normpath(scope) != scope or scope == "/"
    elif scope and transport == "docker-archive":
        is_wrong = True
    elif scope and transport == "docker-daemon":
        is_wrong = is_digest(scope)
    if is_wrong:
        raise PolicyError(f"{transport} has no scope {escape(scope)[:200]!r}")
    return scope


def _requirements(value: object, where: str) -> list[Requirement]:
    where = escape(where)[:200]
    if not isinstance(value, list) or not value:
        raise PolicyError(f"{where}: a list of at least one requirement is needed")
    return [_requirement(one, where) for one in value]


def _requirement(value: object, where: str) -> Requirement:
    kind = _object(value, where).get("type")
    make = _KINDS.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise PolicyError(f"{where}: unknown type of requirement {escape(str(kind))[:100]!r}")
    try:
        return make(_object(value, where))
    except RlessError as error:
        raise error.within(f"{where}: {kind}") from None


def _accept(value: Fields) -> Requirement:
    _fields(value, "it", ("type",))
    return Accept()


def _reject(value: Fields) -> Requirement:
    _fields(value, "it", ("type",))
    return Reject()


def _signed_base_layer(value: Fields) -> Requirement:
    _fields(value, "it", ("type", "baseLayerIdentity"))
    _identity(value.get("baseLayerIdentity"))
    return SignedBaseLayer()


def _signed_by(value: Fields) -> Requirement:
    _fields(value, "it", ("type", "keyType", "keyPath", "keyPaths", "keyData", "signedIdentity"))
    key_type = value.get("keyType")
    if key_type not in _KEY_TYPES:
        raise PolicyError(f"keyType {escape(str(key_type))[:100]!r} is unknown")
    keys = _keys(value, "keyPath", "keyPaths", "keyData")
    if keys is None:
        raise PolicyError("one of keyPath, keyPaths and keyData is needed")
    return SignedBy(key_type, keys, _identity_of(value))


def _sigstore_signed(value: Fields) -> Requirement:
    own = ("keyPath", "keyPaths", "keyData", "keyDatas")
    rekor = tuple(f"rekorPublicK{name[1:]}" for name in own)
    _fields(value, "it", ("type", *own, *rekor, "fulcio", "pki", "signedIdentity"))
    keys = _keys(value, *own, may_be_empty=False)
    log = _keys(value, *rekor, may_be_empty=False)
    if (keys is not None) + ("fulcio" in value) + ("pki" in value) != 1:
        raise PolicyError(f"exactly one of {', '.join(own)}, fulcio and pki is needed")
    fulcio = _fulcio(value["fulcio"]) if "fulcio" in value else None
    if fulcio is not None and log is None:
        raise PolicyError("fulcio needs rekorPublicKeyPath, or one of its other forms")
    pki = _pki(value["pki"]) if "pki" in value else None
    return SigstoreSigned(_identity_of(value), keys=keys, fulcio=fulcio, pki=pki, rekor=log)


def _fulcio(value: object) -> Fulcio:
    fields = _fields(value, "fulcio", ("caPath", "caData", "oidcIssuer", "subjectEmail"))
    ca = _keys(fields, "caPath", "caData")
    issuer, email = _text(fields, "oidcIssuer"), _text(fields, "subjectEmail")
    if ca is None or not issuer or not email:
        raise PolicyError("fulcio needs caPath or caData, oidcIssuer and subjectEmail")
    return Fulcio(ca, issuer, email)


def _pki(value: object) -> Pki:
    roots = ("caRootsPath", "caRootsData")
    more = ("caIntermediatesPath", "caIntermediatesData")
    fields = _fields(value, "pki", (*roots, *more, "subjectEmail", "subjectHostname"))
    ca = _keys(fields, *roots)
    email, hostname = _text(fields, "subjectEmail"), _text(fields, "subjectHostname")
    if ca is None or not (email or hostname):
        raise PolicyError("pki needs caRootsPath or caRootsData, and who the subject is")
    return Pki(ca, _keys(fields, *more), email, hostname)


def _keys(value: Fields, *names: str, may_be_empty: bool = True) -> Keys | None:
    """Return the keys that one of these fields names; None: there is none of the fields.

    Args:
        names: those that end in "s" are lists; those with "Data" in them are the keys in base64.
    """
    there = [name for name in names if name in value]
    if not there:
        return None
    if len(there) > 1:
        raise PolicyError(f"{' and '.join(there)} exclude each other")
    name = there[0]
    given = value[name] if name.endswith("s") else [value[name]]
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise PolicyError(f"{name} is not {'a list of strings' if name[-1] == 's' else 'a string'}")
    if not given and not may_be_empty:
        raise PolicyError(f"{name} is empty")
    if "Data" in name:
        return Keys(datas=tuple(_base64(one, name) for one in given))
    if not all(given):
        raise PolicyError(f"{name} has no path")
    return Keys(paths=tuple(given))


def _base64(text: str, name: str) -> bytes:
    import base64

    try:
        return base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except ValueError:  # binascii.Error is one
        raise PolicyError(f"{name} is not base64") from None


def _identity_of(value: Fields) -> SignedIdentity:
    if "signedIdentity" in value:
        return _identity(value["signedIdentity"])
    return SignedIdentity(names.MATCH_REPO_DIGEST_OR_EXACT)


_IDENTITIES = {
    names.MATCH_EXACT: (),
    names.MATCH_REPO_DIGEST_OR_EXACT: (),
    names.MATCH_REPOSITORY: (),
    names.EXACT_REFERENCE: ("dockerReference",),
    names.EXACT_REPOSITORY: ("dockerRepository",),
    names.REMAP_IDENTITY: ("prefix", "signedPrefix"),
}


def _identity(value: object) -> SignedIdentity:
    kind = _object(value, "signedIdentity").get("type")
    if not isinstance(kind, str) or kind not in _IDENTITIES:
        raise PolicyError(f"signedIdentity has the unknown type {escape(str(kind))[:100]!r}")
    wanted = _IDENTITIES[kind]
    fields = _fields(value, "signedIdentity", ("type", *wanted))
    found = SignedIdentity(kind, *(_text(fields, name) for name in wanted))
    found.check()
    return found


def _object(value: object, what: str) -> Fields:
    if not isinstance(value, dict):
        raise PolicyError(f"{escape(what)[:200]} is not an object")
    return value


def _fields(value: object, what: str, known: tuple[str, ...]) -> Fields:
    fields = _object(value, what)
    for key in fields:
        if key not in known:
            raise PolicyError(f"{what} has the unknown field {escape(key)[:100]!r}")
    return fields


def _text(fields: Fields, key: str) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise PolicyError(f"{key} is not a string")
    return value


if TYPE_CHECKING:
    Make = Callable[[Fields], Requirement]

_KINDS: dict[str, Make] = {
    Accept.type: _accept,
    Reject.type: _reject,
    SignedBy.type: _signed_by,
    SignedBaseLayer.type: _signed_base_layer,
    SigstoreSigned.type: _sigstore_signed,
}
