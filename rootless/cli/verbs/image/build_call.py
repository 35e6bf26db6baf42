"""`--check` and `--call`: what is in a Dockerfile, as text or JSON; nothing is pulled or run.

The texts and objects are those of buildx, so that what reads them reads ours. The exit code is 1 if
a check has found something.
"""

from __future__ import annotations

import base64
import json
import re

from rootless.cli.output import table
from rootless.dockerfile import DockerfileError, outline, parse, show_lines
from rootless.engine.build import plan
from rootless.engine.build.build import read_dockerfile
from rootless.errors import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rootless.dockerfile.reader import Finding
    from rootless.engine.build.plan import Options
    from rootless.engine.build.request import BuildRequest

_RULES = "https://docs.docker.com/go/dockerfile/rule/"
_OURS = ("ArgOverridesEnv", "ChownAfterCopy")  # checks that Docker does not have
_RULER = "-" * 20


def answer(request: BuildRequest) -> tuple[str, int]:
    """Return the answer to `--call`, and the exit code.

    Raises:
        RlessError: the context or the Dockerfile cannot be read; DockerfileError: it is wrong (but
            a check says so in its answer).
    """
    data, options = read_dockerfile(request)
    name = (request.file if request.file not in ("", "-") else "Dockerfile").rpartition("/")[2]
    if request.call == "check":
        return _check(data, name, options, request.call_format)
    dockerfile = parse(data)
    sources = [base64.b64encode(data).decode()]
    if request.call == "targets":
        listed = outline.targets(dockerfile)
        if request.call_format == "json":
            return _json({"targets": listed, "sources": sources}), 0
        return _list_targets(listed), 0
    target = dockerfile.target(options.target or None)
    found = outline.outline(
        dockerfile, target, options.build_args, options.predefined, options.contexts
    )
    if request.call_format == "json":
        return _json({**found, "sources": sources}), 0
    return _describe(found), 0


def _check(data: bytes, name: str, options: Options, form: str) -> tuple[str, int]:
    findings: list[Finding] = []
    mistake = None
    try:
        findings = plan.find(parse(data), options)
    except DockerfileError as error:
        mistake = error
    code = 1 if mistake or findings else 0
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    if form == "json":
        return _json(_as_json(data, name, findings, mistake)), code
    if mistake is not None:
        hint = f"\n{mistake.hint}" if mistake.hint else ""
        shown = _excerpt(text, name, mistake.line, mistake.last) if mistake.line else ""
        return f"ERROR: {mistake.message}{hint}\n{shown}", code
    count = len(findings)
    warnings = {0: "no warnings found.", 1: "one warning has been found!"}
    parts = [f"Check complete, {warnings.get(count, f'{count} warnings have been found!')}\n"]
    for one in findings:
        link = f" - {_url(one.rule)}" if _url(one.rule) else ""
        excerpt = _excerpt(text, name, one.line, one.last)
        parts.append(f"\nWARNING: {one.rule}{link}\n{escape(one.message)}\n{excerpt}")
    return "".join(parts), code


def _excerpt(text: str, name: str, line: int, last: int) -> str:
    lines = [f"{escape(name)}:{line}", _RULER, *show_lines(text, line, last), _RULER]
    return "".join(f"{one}\n" for one in lines)


def _as_json(
    data: bytes, name: str, findings: Sequence[Finding], mistake: DockerfileError | None
) -> dict[str, Any]:
    warnings = []
    for one in findings:
        link = {"url": _url(one.rule)} if _url(one.rule) else {}
        where = outline.location(one.line, one.last)
        warnings.append({"ruleName": one.rule, **link, "detail": one.message, "location": where})
    found: dict[str, Any] = {
        "warnings": warnings,
        "sources": [{"filename": name, "data": base64.b64encode(data).decode()}],
    }
    if mistake is not None:
        where = {"location": outline.location(mistake.line, mistake.last)} if mistake.line else {}
        found["buildError"] = {"message": mistake.bare, **where}
    return found


def _url(rule: str) -> str:
    if rule in _OURS:
        return ""
    return _RULES + re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", rule).lower() + "/"


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def _list_targets(found: Sequence[dict[str, Any]]) -> str:
    rows = []
    for entry in found:
        name = entry.get("name", "")
        if entry.get("default"):
            name = f"{name} (default)".lstrip()
        rows.append((name, entry.get("description", "")))
    return table(rows, ("TARGET", "DESCRIPTION"))


def _describe(found: dict[str, Any]) -> str:
    heads = (("TARGET:", "name"), ("DESCRIPTION:", "description"))
    parts = ["".join(f"{title:<13}{escape(found[key])}\n" for title, key in heads if key in found)]
    if "args" in found:
        arguments = [
            (one["name"], one.get("value", ""), one.get("description", "")) for one in found["args"]
        ]
        parts.append(table(arguments, ("BUILD ARG", "VALUE", "DESCRIPTION")))
    for title, key in (("SECRET", "secrets"), ("SSH", "ssh")):
        if key in found:
            rows = [(one["name"], "true" if one.get("required") else "") for one in found[key]]
            parts.append(table(rows, (title, "REQUIRED")))
    return "\n".join(filter(None, parts))
