"""Trust for the command line: show and change the policy, and tell why an image is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.image.model.platforms import parse_platform
from rootless.image.model.reference import parse
from rootless.image.trust.guard import Guard

if TYPE_CHECKING:
    from rootless.image.trust.verdict import Verdict


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
