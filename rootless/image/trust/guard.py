"""Ask the policy about an image that is about to come into the store.

`Guard.refuse_early` comes before anything is fetched: a name that the policy rejects is asked of
nobody. Then `Guard.watch` takes the place of the image's source. The digest and the manifest that
it shows to the policy are those that the layers are fetched by, so nothing that moves in between is
let in. A mirror is judged under the name that was asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.image.trust import policy as policies
from rootless.image.trust.identity import Subject, subject_of
from rootless.image.trust.policy import Match
from rootless.image.trust.requirements import Accept, Reject
from rootless.image.trust.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.image.layer.layers import LayerBlob
    from rootless.image.model.platforms import PlatformRequest
    from rootless.image.model.reference import Reference
    from rootless.image.model.source import Found, Source
    from rootless.image.registry.progress import Progress
    from rootless.image.trust.requirements import Requirement
    from rootless.image.trust.signature import SigstoreSignature, SimpleSignature


class Guard:
    """The policy for one image.

    Args:
        reference: the name that was asked for; a short name has been resolved.
        explicit: the file of `--signature-policy`.

    Attributes:
        asks: whether the policy asks for anything; without a policy it does not.

    Raises:
        RlessError: the policy is not right.
    """

    def __init__(self, reference: Reference, explicit: str | None = None) -> None:
        self._subject = subject_of(reference)
        self._policy = policies.load(explicit) or policies.NONE
        self._match = self._policy.find(self._subject)
        self.asks = not self._match.accepts_anything

    def refuse_early(self) -> None:
        """Raise RefusedError if the policy rejects whatever has this name."""
        early = self.early_verdict()
        if early is not None:
            early.demand()

    def early_verdict(self) -> Verdict | None:
        """Return what the policy says of the name alone; None: it has to see the image."""
        if self.asks and not self._match.rejects_anything:
            return None
        # Those that ask for signatures have not been asked.
        known: list[Requirement] = [
            one for one in self._match.requirements if isinstance(one, (Accept, Reject))
        ]
        return judge(self._policy, Match(self._match.scope, known), self._subject, list)

    def watch(self, source: Source) -> Source:
        """Return the source, such that it gives no image that the policy refuses."""
        return _Watched(source, self) if self.asks else source

    def verdict(self, source: Source, found: Found) -> Verdict:
        """Return what the policy says of an image that was found."""
        asked = self._subject
        subject = Subject(asked.transport, asked.named, asked.path, found.manifest, found.digest)
        return judge(self._policy, self._match, subject, lambda: _signatures(source, subject))


def _signatures(source: Source, subject: Subject) -> Sequence[SimpleSignature | SigstoreSignature]:
    """Return the signatures of an image, from wherever its source has them."""
    from rootless.image.trust import collect

    if subject.transport == "dir":
        from rootless.image.archive.directory import DirectoryImage

        assert isinstance(source, DirectoryImage)
        return collect.stored(source.signatures(subject.digest))
    if subject.transport != "docker" or not subject.digest:
        return ()
    from rootless.image.registry.client import Registry

    assert isinstance(source, Registry) and subject.named is not None
    return collect.of_registry(source.endpoint, subject.named, subject.digest)


class _Watched:
    """A source whose `find` asks the policy."""

    def __init__(self, source: Source, guard: Guard) -> None:
        self._source = source
        self._guard = guard

    def find(self, wanted: PlatformRequest) -> Found:
        """Return the image's documents, if the policy accepts it.

        Raises:
            RefusedError: it does not.
        """
        found = self._source.find(wanted)
        verdict = self._guard.verdict(self._source, found)
        verdict.demand()
        if verdict.signatures is not None:
            found.signatures = [signature.blob() for signature in verdict.signatures]
        return found

    def fetch(self, layers: Sequence[LayerBlob], scratch: str, progress: Progress) -> None:
        """Fetch layers of the image that was accepted."""
        self._source.fetch(layers, scratch, progress)

    def may_restart(self) -> bool:
        """Tell as the source does."""
        return self._source.may_restart()

    def close(self) -> None:
        """Close the source."""
        self._source.close()
