"""Flags that sign: `push` and `save` have the same ones."""

from __future__ import annotations

from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.image.trust.signature import Signer

OPTIONS = (
    ("--sign-by", "FINGERPRINT", "value", "sign_by", "required",
     "Add a signature by this key of GnuPG"),
    ("--sign-by-sigstore-private-key", "FILE", "value", "sigstore_key", "absolute",
     "Add a signature of sigstore by this private key"),
    ("--sign-by-sigstore", "FILE", "value", "sigstore_parameters", "absolute",
     "The same, with the key that this file of parameters names"),
    ("--sign-passphrase-file", "FILE", "value", "passphrase_file", "absolute",
     "The first line of FILE is the passphrase of the key that signs"),
)  # fmt: skip

_KEYS = {"--sign-by": "sign_by", "--sign-by-sigstore-private-key": "sigstore_key"}


def signers(values: dict[str, Any], help_hint: str) -> list[Signer]:
    """Return what signs, as the flags say.

    Args:
        help_hint: says where the flags are explained.

    Raises:
        RlessError: they contradict each other, or a key cannot be read.
    """
    given = [name for name, field in _KEYS.items() if values.get(field) is not None]
    path, parameters = values.get("passphrase_file"), values.get("sigstore_parameters")
    if path is not None and len(given) != 1:
        raise RlessError(
            f"--sign-passphrase-file goes with one of {' and '.join(_KEYS)}", help_hint
        )
    if not given and parameters is None:
        return []
    from rootless.engine.images import trust

    made = []
    if values.get("sign_by") is not None:
        made.append(trust.gpg_signer(values["sign_by"], path))
    if values.get("sigstore_key") is not None:
        made.append(trust.sigstore_signer(values["sigstore_key"], path))
    if parameters is not None:
        made.append(trust.parameters_signer(parameters))
    return made
