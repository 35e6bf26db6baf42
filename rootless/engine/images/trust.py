"""Trust for the command line: show and change the policy, and tell why an image is refused."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from rootless import log
from rootless.errors import RlessError, escape
from rootless.image.model.platforms import parse_platform
from rootless.image.model.reference import is_registry, parse
from rootless.image.trust import gpg, policy, registries_d
from rootless.image.trust.guard import Guard
from rootless.image.trust.registries_d import read_yaml
from rootless.image.trust.requirements import Accept, Reject, SignedBy, SigstoreSigned
from rootless.linux import files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rootless.image.trust.identity import Named
    from rootless.image.trust.requirements import Requirement
    from rootless.image.trust.signature import Signer, SigstoreSignature, SimpleSignature
    from rootless.image.trust.verdict import Verdict

_PASSPHRASE = 4096  # characters


def check(name: str, *, signature_policy: str | None = None) -> Verdict:
    """Return the verdict of the policy about what a name means now; nothing is pulled.

    Raises:
        RlessError: the policy is not right, or the image cannot be found.
    """
    reference = parse(name)
    if reference.short:
        from rootless.image.registry.client import resolve

        reference = resolve(reference, lambda _: None)
    guard = Guard(reference, signature_policy)
    early = guard.early_verdict()
    if early is not None:
        return early
    import tempfile

    from rootless.image.transfer.install import open_source

    # An archive that is compressed as a whole is written out there.
    with tempfile.TemporaryDirectory(prefix="rless-trust-") as scratch:
        source = open_source(reference, scratch)
        try:
            return guard.verdict(source, source.find(parse_platform(None)))
        finally:
            source.close()


# -- the policy ------------------------------------------------------------------------------

_SHOWN = {Accept.type: "accept", Reject.type: "reject", SignedBy.type: "signed"}
_KINDS = {"accept": Accept.type, "reject": Reject.type}
_SIGNED = (SignedBy.type, SigstoreSigned.type)


def raw(signature_policy: str | None = None) -> bytes:
    """Return the policy as it is written; empty: there is none.

    Raises:
        RlessError: it cannot be read.
    """
    path = policy.path_of(signature_policy)
    return b"" if path is None else policy.read(path)


def rows(name: str | None = None, signature_policy: str | None = None) -> list[dict[str, str]]:
    """Return the rules of the policy, with the fields that Podman shows.

    Args:
        name: only rules of this scope.

    Raises:
        RlessError: the policy is not right.
    """
    read = policy.load(signature_policy) or policy.NONE
    stores = registries_d.load().stores()
    found = [_row("all", "default", one, stores.get("", "")) for one in read.default]
    for transport, scopes in sorted(read.transports.items()):
        shown = "repository" if transport == "docker" else transport
        for scope, requirements in sorted(scopes.items()):
            store = _store(scope, stores) if transport == "docker" else ""
            found += [_row(shown, scope, one, store) for one in requirements]
    return [row for row in found if name in (None, row["repo_name"])]


def _row(transport: str, scope: str, requirement: Requirement, store: str) -> dict[str, str]:
    owners = ""
    if isinstance(requirement, SignedBy):
        try:
            owners = ", ".join(who for key in requirement.keys.read() for who in gpg.owners(key))
        except RlessError as error:
            log.debug(error.message)
            owners = "N/A"
    elif isinstance(requirement, SigstoreSigned):
        owners = "N/A"
    return {
        "transport": transport,
        "name": "* (default)" if transport == "all" else scope,
        "repo_name": scope,
        "type": _SHOWN.get(requirement.type, requirement.type),
        "gpg_id": owners,
        "sigstore": store,
    }


def _store(scope: str, stores: Mapping[str, str]) -> str:
    """Return where the signatures of a scope are, as far as a file says so."""
    while scope:
        if scope in stores:
            return stores[scope]
        scope = scope.rpartition("/")[0]
    return stores.get("", "")


def change(scope: str, kind: str, keys: Sequence[str], signature_policy: str | None = None) -> str:
    """Set the rule for a scope of registries, or "default"; return the file that was written.

    The user's own policy is changed, and made if there is none: from the system's, so that its
    other rules stay.

    Args:
        kind: accept, reject, signedBy or sigstoreSigned.
        keys: absolute paths; the image needs a signature for each.

    Raises:
        RlessError: the policy is not right, or would not be, or cannot be written.
    """
    if (kind in _SIGNED) != bool(keys):
        need = "needs a key" if kind in _SIGNED else "takes no key"
        raise RlessError(f"--type {kind} {need}", "--pubkeysfile FILE names one")
    if scope != "default" and not _is_scope(scope):
        raise RlessError(f"{escape(scope)[:200]!r} is no scope", "write HOST[:PORT][/PATH[:TAG]]")
    if kind in _SIGNED:
        more = {"keyType": "GPGKeys"} if kind == SignedBy.type else {}
        written = [{"type": kind, **more, "keyPath": key} for key in keys]
    else:
        written = [{"type": _KINDS[kind]}]
    path = signature_policy or (policy.SYSTEM if os.geteuid() == 0 else policy.own_path())
    base = path if os.path.exists(path) else policy.SYSTEM
    document: dict[str, Any] = {"default": [{"type": Accept.type}]}
    if os.path.exists(base):
        data = policy.read(base)
        policy.parse(data, base)
        document = json.loads(data)
    if scope == "default":
        document["default"] = written
    else:
        document.setdefault("transports", {}).setdefault("docker", {})[scope] = written
    data = json.dumps(document, indent=4).encode() + b"\n"
    policy.parse(data, path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        files.write(path, data, mode=0o644, durable=True)
    except OSError as error:
        raise RlessError(f"cannot write {escape(path)}: {error.strerror}") from error
    return path


def _is_scope(scope: str) -> bool:
    host, _, rest = scope.removeprefix("*.").partition("/")
    try:
        if rest:
            parse(f"docker://{scope.removeprefix('*.')}")
    except RlessError:
        return False
    return is_registry(host) and not (rest and scope.startswith("*."))


# -- signing ---------------------------------------------------------------------------------


def gpg_signer(key: str, passphrase_file: str | None = None) -> Signer:
    """Return what signs with a key of the user's GnuPG.

    Args:
        passphrase_file: its first line is the passphrase; None: the agent has it, or asks.

    Raises:
        RlessError: the file cannot be read, or GnuPG is missing.
    """
    from rootless.image.trust import simple

    gpg.program()
    passphrase = None if passphrase_file is None else first_line(passphrase_file)

    def sign(digest: str, named: Named) -> SimpleSignature:
        return simple.sign(digest, named, key, passphrase)

    return sign


def sigstore_signer(key_file: str, passphrase_file: str | None = None) -> Signer:
    """Return what signs with a private key as cosign has them.

    Args:
        passphrase_file: its first line is the passphrase.

    Raises:
        RlessError: one of the files cannot be read, or a package is not installed.
    """
    from rootless.image.trust import sigstore_key

    passphrase = None if passphrase_file is None else first_line(passphrase_file)
    key = sigstore_key.load(key_file, passphrase)

    def sign(digest: str, named: Named) -> SigstoreSignature:
        return sigstore_key.sign(digest, named, key)

    return sign


_FULCIO = ("fulcio", "rekorURL")


def parameters_signer(path: str) -> Signer:
    """Return what signs as a file of parameters says.

    Raises:
        RlessError: it cannot be read, is malformed, or wants a server of Fulcio or Rekor.

    Source: containers-sigstore-signing-params.yaml(5).
    """
    what = f"the parameters {escape(path)}"
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise RlessError(f"{what} are not a mapping")
    for key, value in document.items():
        if key in _FULCIO:
            raise RlessError(f"{what}: signing by {key} is not supported", "use a privateKeyFile")
        if key not in ("privateKeyFile", "privateKeyPassphraseFile"):
            raise RlessError(f"{what} have the unknown field {escape(str(key))[:60]!r}")
        if not isinstance(value, str):
            raise RlessError(f"{what}: {key} is not a string")
    if "privateKeyFile" not in document:
        raise RlessError(f"{what} have no privateKeyFile")
    return sigstore_signer(document["privateKeyFile"], document.get("privateKeyPassphraseFile"))


def first_line(path: str) -> str:
    """Return the passphrase in a file.

    Raises:
        RlessError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline(_PASSPHRASE).rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise RlessError(f"cannot read the passphrase in {escape(path)}: {why}") from error
