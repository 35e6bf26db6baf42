"""The verdict about one image: each requirement of its scope, and why it is met or not.

An image is accepted if every requirement is met, and for one that wants signatures if at least one
signature meets it. Whatever goes wrong on the way refuses.
"""

from __future__ import annotations

from rootless.errors import RlessError, escape
from rootless.image.trust.requirements import (
    Accept,
    Reject,
    SignedBaseLayer,
    SignedBy,
    SigstoreSigned,
)
from rootless.image.trust.signature import RefusedError, SigstoreSignature, SimpleSignature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rootless.image.trust.identity import Subject
    from rootless.image.trust.policy import Match, Policy
    from rootless.image.trust.requirements import Requirement

    # The stored blobs of an image's signatures, fetched when the first requirement asks.
    Signatures = Callable[[], Sequence[SimpleSignature | SigstoreSignature]]

_UNSIGNED = "a signature is required, and the image has none"


class Step:
    """What one requirement said.

    Attributes:
        reasons: why not, one for each signature; empty if it is met.
    """

    __slots__ = ("reasons", "requirement")

    def __init__(self, requirement: Requirement, reasons: list[str]) -> None:
        self.requirement = requirement
        self.reasons = reasons


class Verdict:
    """The verdict, rule by rule.

    Attributes:
        scope: the part of the policy that decided. path: of the policy.
        signatures: of the image; None: no requirement has asked for them, or they cannot be read.
    """

    def __init__(
        self,
        subject: Subject,
        path: str,
        scope: str,
        steps: list[Step],
        signatures: Sequence[SimpleSignature | SigstoreSignature] | None,
    ) -> None:
        self.subject = subject
        self.path = path
        self.scope = scope
        self.steps = steps
        self.signatures = signatures

    @property
    def is_accepted(self) -> bool:
        """Tell whether every requirement is met."""
        return not any(step.reasons for step in self.steps)

    def demand(self) -> None:
        """Raise RefusedError unless the image is accepted."""
        for step in self.steps:
            if step.reasons:
                raise RefusedError(
                    f"{self.subject} is refused by the policy {escape(self.path)}, "
                    f"{escape(self.scope)}: {step.requirement.type}: {'; '.join(step.reasons)}",
                    f"`rless image trust check {self.subject}` shows each rule",
                )


def judge(policy: Policy, match: Match, subject: Subject, signatures: Signatures) -> Verdict:
    """Return the verdict of a policy about an image.

    Args:
        match: of `Policy.find` for this subject.
        subject: with its manifest and digest.
    """
    known: list[SimpleSignature | SigstoreSignature] | None = None
    steps = []
    for requirement in match.requirements:
        reasons: list[str] = []
        if isinstance(requirement, Reject):
            reasons = ["no image is accepted"]
        elif isinstance(requirement, SignedBaseLayer):
            reasons = ["it is not implemented, here and elsewhere"]
        elif not isinstance(requirement, Accept):
            try:
                if known is None:
                    known = list(signatures())
                reasons = _check(requirement, known, subject)
            except RlessError as error:
                reasons = [str(error)]
        steps.append(Step(requirement, reasons))
    return Verdict(subject, policy.path, match.scope, steps, known)


def _check(
    requirement: Requirement,
    signatures: Sequence[SimpleSignature | SigstoreSignature],
    subject: Subject,
) -> list[str]:
    """Return why no signature meets a requirement; nothing if one does."""
    reasons: list[str] = []
    for signature in signatures:
        try:
            if isinstance(requirement, SignedBy) and isinstance(signature, SimpleSignature):
                from rootless.image.trust import simple

                simple.verify(requirement, signature, subject)
            elif isinstance(requirement, SigstoreSigned) and isinstance(
                signature, SigstoreSignature
            ):
                from rootless.image.trust import sigstore

                sigstore.verify(requirement, signature, subject)
            else:
                continue  # of another kind: it says nothing here
        except RlessError as error:
            if error.message not in reasons:
                reasons.append(error.message)
        else:
            return []
    return reasons or [_UNSIGNED]
