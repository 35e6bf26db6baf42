"""All signatures that there are of an image in a registry, and where new ones go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.errors import RlessError
from rootless.image.trust import attachments, lookaside, registries_d
from rootless.image.trust.identity import Named
from rootless.image.trust.signature import SigstoreSignature, SimpleSignature, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.image.registry.endpoint import Endpoint


def of_registry(
    endpoint: Endpoint, named: Named, digest: str
) -> list[SimpleSignature | SigstoreSignature]:
    """Return the signatures of a manifest.

    Args:
        endpoint: where the manifest came from, maybe a mirror.
        named: the name that was asked for, which registries.d is about.

    Raises:
        RlessError: one of the places cannot be asked, or has something malformed.
    """
    registries = registries_d.load()
    if lookaside.has_extension(endpoint):
        blobs = lookaside.read_extension(endpoint, digest)
    else:
        # Those of a mirror are below its own name; containers/image asks only for these.
        place = endpoint.location
        mirror = Named(f"{place.host}/{place.repository}", named.tag, named.digest)
        blobs = []
        for one in [named] if mirror.name == named.name else [named, mirror]:
            blobs += lookaside.read(registries.lookaside(one), one, digest)
    found = stored(blobs)
    if registries.uses_attachments(named):
        found += attachments.read(endpoint, digest)
    return found


def stored(blobs: Sequence[bytes]) -> list[SimpleSignature | SigstoreSignature]:
    """Return the signatures in files.

    Raises:
        RefusedError: one of them is malformed.
    """
    return [read(blob, f"signature {number}") for number, blob in enumerate(blobs, 1)]


def store(
    endpoint: Endpoint,
    named: Named,
    digest: str,
    signatures: Sequence[SimpleSignature | SigstoreSignature],
) -> str:
    """Store the signatures of a manifest that was pushed; return where.

    Raises:
        RlessError: they cannot be written there.
    """
    check_places(named, signatures)
    attached = [one for one in signatures if isinstance(one, SigstoreSignature)]
    places = []
    if attached:
        attachments.write(endpoint, digest, attached)
        places.append(f"{endpoint.name} under the tag {attachments.tag_of(digest)}")
    blobs = [one.blob() for one in signatures if isinstance(one, SimpleSignature)]
    if blobs and lookaside.has_extension(endpoint):
        lookaside.write_extension(endpoint, digest, blobs)
        places.append(endpoint.name)
    elif blobs:
        url = registries_d.load().lookaside(named, write=True)
        places.append(lookaside.write(url, named, digest, blobs))
    return " and ".join(places)


def check_places(named: Named, signatures: Sequence[SimpleSignature | SigstoreSignature]) -> None:
    """Check that registries.d has a place for signatures beside an image.

    Raises:
        RlessError: it allows none of sigstore.
    """
    attached = any(isinstance(one, SigstoreSignature) for one in signatures)
    if attached and not registries_d.load().uses_attachments(named):
        raise RlessError(
            f"signatures of sigstore are not used for {named.name}",
            "registries.d allows them by use-sigstore-attachments: true",
        )
