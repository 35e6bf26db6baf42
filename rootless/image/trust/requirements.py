"""The kinds of requirement that a policy can make of an image, as plain values.

Source: containers-policy.json(5), "Policy Requirements".
"""

from __future__ import annotations

import os

from rootless.errors import escape
from rootless.image.model import limits
from rootless.image.trust.signature import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.trust.identity import SignedIdentity


class Keys:
    """Public keys or certificates of a policy: in files, or in the policy itself.

    Attributes:
        paths: files, each read when it is asked for.
        datas: what is in the policy.
    """

    __slots__ = ("datas", "paths")

    def __init__(self, paths: tuple[str, ...] = (), datas: tuple[bytes, ...] = ()) -> None:
        self.paths = paths
        self.datas = datas

    def read(self) -> list[bytes]:
        """Return the content of each.

        Raises:
            RefusedError: a file cannot be read, or is too large.
        """
        return [*map(_read, self.paths), *self.datas]

    def __str__(self) -> str:
        return escape(", ".join(self.paths)) or "keys in the policy"


def _read(path: str) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            data = file.read(limits.AUTH_BYTES + 1)
    except OSError as error:
        raise RefusedError(f"cannot read the key {escape(path)}: {error.strerror}") from error
    if len(data) > limits.AUTH_BYTES:
        raise RefusedError(f"the key {escape(path)} is too large")
    return data


class Accept:
    """`insecureAcceptAnything`."""

    __slots__ = ()
    type = "insecureAcceptAnything"


class Reject:
    """`reject`."""

    __slots__ = ()
    type = "reject"


class SignedBaseLayer:
    """`signedBaseLayer`: nobody implements it, containers/image neither; it rejects."""

    __slots__ = ()
    type = "signedBaseLayer"


class SignedBy:
    """`signedBy`: simple signing with an OpenPGP key.

    Attributes:
        key_type: only "GPGKeys" is implemented, here and elsewhere; the others reject.
    """

    __slots__ = ("identity", "key_type", "keys")
    type = "signedBy"

    def __init__(self, key_type: str, keys: Keys, identity: SignedIdentity) -> None:
        self.key_type = key_type
        self.keys = keys
        self.identity = identity


class Fulcio:
    """A certificate of Fulcio for one person: who issued it, and for whom."""

    __slots__ = ("ca", "email", "issuer")

    def __init__(self, ca: Keys, issuer: str, email: str) -> None:
        self.ca = ca
        self.issuer = issuer
        self.email = email


class Pki:
    """A certificate of one's own authority; of `email` and `hostname` one may be ""."""

    __slots__ = ("email", "hostname", "intermediates", "roots")

    def __init__(self, roots: Keys, intermediates: Keys | None, email: str, hostname: str) -> None:
        self.roots = roots
        self.intermediates = intermediates
        self.email = email
        self.hostname = hostname


class SigstoreSigned:
    """`sigstoreSigned`: exactly one of keys, fulcio and pki; `rekor` is the log's keys."""

    __slots__ = ("fulcio", "identity", "keys", "pki", "rekor")
    type = "sigstoreSigned"

    def __init__(
        self,
        identity: SignedIdentity,
        *,
        keys: Keys | None = None,
        fulcio: Fulcio | None = None,
        pki: Pki | None = None,
        rekor: Keys | None = None,
    ) -> None:
        self.identity = identity
        self.keys = keys
        self.fulcio = fulcio
        self.pki = pki
        self.rekor = rekor


if TYPE_CHECKING:
    Requirement = Accept | Reject | SignedBy | SignedBaseLayer | SigstoreSigned
