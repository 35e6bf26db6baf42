"""`rless push`: send an image to a registry."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.flags.values import choice
from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.image.transfer.push import Signer

VERB = Verb(
    "push",
    "[OPTIONS] NAME[:TAG] [DESTINATION]",
    (
        (
            "Options",
            (
                ("--all-tags -a", "", "flag", "all", "boolean", "Push all tags of a repository"),
                ("--compression --compression-format", "gzip|zstd", "value", "compression",
                 "image.push.compression",
                 ("How to compress layers; by default, layers that the registry has "
                  "stay as they are")),
                ("--platform", "OS/ARCH[/VARIANT]", "value", "platform", "platform",
                 "Which image of that name to push"),
                ("--quiet -q", "", "flag", "quiet", "boolean", "Print the name only"),
                ("--sign-by", "FINGERPRINT", "value", "sign_by", "required",
                 "Add a signature by this key of GnuPG"),
                ("--sign-by-sigstore-private-key", "FILE", "value", "sigstore_key", "absolute",
                 "Add a signature of sigstore by this private key"),
                ("--sign-by-sigstore", "FILE", "value", "sigstore_parameters", "absolute",
                 "The same, with the key that this file of parameters names"),
                ("--remove-signatures", "", "flag", "remove_signatures", "boolean",
                 "Leave out the signatures that the image was pulled with"),
                ("--sign-passphrase-file", "FILE", "value", "passphrase_file", "absolute",
                 "The first line of FILE is the passphrase of the key that signs"),
                ("--disable-content-trust", "", "flag", "accepted", "compat.content_trust",
                 "Accepted without effect: Docker Content Trust was discontinued"),
            ),
        ),
    ),
    (
        ("--tls-verify", "", "it can only be set for each host",
         "use insecure = true in registries.conf"),
        ("--creds", "USER:PASSWORD", "other users would see the password", "use rless login"),
    ),
    least=1,
    most=2,
    failure=1,
)  # fmt: skip


def compression(value: str) -> str:
    """Return "gzip" or "zstd"."""
    return choice(value, "gzip", "zstd")


def main(values: dict[str, Any], args: list[str]) -> int:
    """Push an image, or all tags of a repository."""
    from rootless.engine.images import registries
    from rootless.image.model.packing import Packing

    names = args[:1]
    if values.get("all"):
        if len(args) > 1:
            raise RlessError("--all-tags takes no destination", VERB.see_help())
        names = registries.names_of(args[0])
    quiet = bool(values.get("quiet"))
    signers = _signers(values)
    for name in names:
        pushed, _ = registries.push(
            name,
            args[1] if len(args) > 1 else None,
            packing=Packing(values.get("compression")),
            platform=values.get("platform"),
            quiet=quiet,
            signers=signers,
            remove_signatures=bool(values.get("remove_signatures")),
        )
        if quiet:
            streams.write(f"{escape(pushed)}\n")
    return 0


def _signers(values: dict[str, Any]) -> list[Signer]:
    """Return what signs, as the flags say."""
    names = {"--sign-by": "sign_by", "--sign-by-sigstore-private-key": "sigstore_key"}
    given = [name for name, field in names.items() if values.get(field) is not None]
    path, parameters = values.get("passphrase_file"), values.get("sigstore_parameters")
    if path is not None and len(given) != 1:
        raise RlessError(
            f"--sign-passphrase-file goes with one of {' and '.join(names)}", VERB.see_help()
        )
    if not given and parameters is None:
        return []
    from rootless.engine.images import trust

    signers = []
    if values.get("sign_by") is not None:
        signers.append(trust.gpg_signer(values["sign_by"], path))
    if values.get("sigstore_key") is not None:
        signers.append(trust.sigstore_signer(values["sigstore_key"], path))
    if parameters is not None:
        signers.append(trust.parameters_signer(parameters))
    return signers
