"""`rless image trust`: which images are accepted, and why."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.flags.values import choice
from rootless.cli.parse import Verb
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "image trust",
    "show [OPTIONS] [SCOPE] | set [OPTIONS] SCOPE | check [OPTIONS] IMAGE...",
    (
        (
            "Options",
            (
                ("--signature-policy --policypath", "FILE", "value", "policy", "absolute",
                 "This policy.json, instead of the user's or the system's"),
            ),
        ),
        (
            "Options of show",
            (
                ("--json -j", "", "flag", "json", "boolean", "Print JSON"),
                ("--noheading -n", "", "flag", "noheading", "boolean", "Print no headings"),
                ("--raw", "", "flag", "raw", "boolean", "Print the file as it is"),
            ),
        ),
        (
            "Options of set",
            (
                ("--pubkeysfile -f", "FILE", "list", "keys", "absolute",
                 "A public key; if there are several, each has to have signed"),
                ("--type -t", "TYPE", "value", "type", "image.trust.kind",
                 "signedBy (the default), sigstoreSigned, accept or reject"),
            ),
        ),
    ),
    least=1,
    failure=1,
    examples=(
        ("Accept from a registry only what is signed by a key",
         "rless image trust set -f /etc/pki/team.pub registry.example"),
        ("Accept nothing else", "rless image trust set -t reject default"),
        ("Why is an image refused?", "rless image trust check registry.example/app:1"),
    ),
)  # fmt: skip

_FLAGS = {"show": ("json", "noheading", "raw"), "set": ("keys", "type"), "check": ()}
_NAMES = {"json": "--json", "noheading": "--noheading", "raw": "--raw"}
_NAMES |= {"keys": "--pubkeysfile", "type": "--type"}


def kind(value: str) -> str:
    """Return the type of a rule."""
    return choice(value, "signedBy", "sigstoreSigned", "accept", "reject")


def main(values: dict[str, Any], args: list[str]) -> int:
    """Show the policy, change it, or judge images by it."""
    action, rest = args[0], args[1:]
    if action not in _FLAGS:
        raise RlessError(f"no such verb: image trust {escape(action)[:100]}", VERB.see_help())
    for field, name in _NAMES.items():
        if field in values and field not in _FLAGS[action]:
            raise RlessError(f"{name} does not go with {action}", VERB.see_help())
    if action == "check":
        if not rest:
            raise RlessError("check needs the name of an image", VERB.see_help())
        return max([_check(name, values.get("policy")) for name in rest])
    if len(rest) > 1 or (action == "set" and not rest):
        raise RlessError(f"{action} takes one scope", VERB.see_help())
    if action == "show":
        _show(values, rest[0] if rest else None)
    else:
        from rootless.engine.images import trust

        how = values.get("type") or "signedBy"
        trust.change(rest[0], how, values.get("keys") or [], values.get("policy"))
    return 0


def _show(values: dict[str, Any], scope: str | None) -> None:
    from rootless.cli.output import table
    from rootless.engine.images import trust

    if values.get("raw"):
        streams.write(trust.raw(values.get("policy")).decode(errors="replace"))
        return
    rows = trust.rows(scope, values.get("policy"))
    if values.get("json"):
        import json

        shown = [{key: value for key, value in row.items() if value} for row in rows]
        streams.write(json.dumps(shown, indent=2) + "\n")
        return
    fields = ("transport", "repo_name", "type", "gpg_id", "sigstore")
    text = table(
        [[row[field] for field in fields] for row in rows],
        ("TRANSPORT", "NAME", "TYPE", "ID", "STORE"),
    )
    streams.write(text.partition("\n")[2] if values.get("noheading") else text)


def _check(name: str, policy: str | None) -> int:
    """Print the verdict about one image, rule by rule; return 1 if it is refused."""
    from rootless.engine.images import trust

    verdict = trust.check(name, signature_policy=policy)
    where = f"{escape(verdict.path)}, {escape(verdict.scope)}" if verdict.path else "no policy"
    what = "accepted" if verdict.is_accepted else "refused"
    lines = [f"{verdict.subject}: {what} ({where})"]
    for step in verdict.steps:
        lines.append(f"  {step.requirement.type}: {'no' if step.reasons else 'yes'}")
        lines += [f"    {reason}" for reason in step.reasons]
    streams.write("\n".join([*lines, ""]))
    return 0 if verdict.is_accepted else 1
