"""Certificate authorities and client certificates for a registry: the directories certs.d.

The directory HOST[:PORT] is looked for in ~/.config/containers/certs.d, /etc/containers/certs.d and
/etc/docker/certs.d; only the first one counts. In it *.crt are further authorities, and NAME.cert
with NAME.key is our client certificate.

Source: containers-certs.d(5); Docker's "Verify repository client with certificates".
"""

from __future__ import annotations

import os

from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl


def directory_of(host: str) -> str | None:
    """Return the directory of certificates for "HOST[:PORT]", None if there is none."""
    if "/" in host or host.startswith("."):
        return None
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    for base in (f"{home}/containers", "/etc/containers", "/etc/docker"):
        path = f"{base}/certs.d/{host}"
        if os.path.isdir(path):
            return path
    return None


def make_context(directory: str | None, *, verify: bool = True) -> ssl.SSLContext:
    """Return how TLS is spoken: the system's authorities, and what a directory adds.

    Raises:
        RlessError: a certificate cannot be read, or one of a pair is missing.
    """
    import ssl  # where it is meant: 13 ms

    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if directory is None:
        return context
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise RlessError(f"cannot read {directory}: {error.strerror}") from error
    for name in names:
        path = f"{directory}/{name}"
        stem, _, kind = name.rpartition(".")
        try:
            if kind == "crt":
                context.load_verify_locations(path)
            elif kind == "cert":
                if f"{stem}.key" not in names:
                    raise RlessError(f"{escape(path)}: its key {escape(stem)}.key is missing")
                # Without a password it would ask on the terminal for one.
                context.load_cert_chain(path, f"{directory}/{stem}.key", password="")
            elif kind == "key" and f"{stem}.cert" not in names:
                raise RlessError(
                    f"{escape(path)}: its certificate {escape(stem)}.cert is missing",
                    "authorities end in .crt, client certificates in .cert",
                )
        except (ssl.SSLError, OSError) as error:
            why = error.strerror or type(error).__name__
            raise RlessError(f"cannot use the certificate {escape(path)}: {why}") from error
    return context
