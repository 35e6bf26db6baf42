"""Change an image's config by instructions of a Dockerfile: `commit --change`, `import --change`.

The rules are those of Docker's builder, for the instructions that change no file: words with quotes
and backslashes, `$VAR` of the config's own environment, the JSON and the shell form of commands.

Source: docs.docker.com/reference/dockerfile; moby builder/dockerfile/dispatchers.go.
"""

from __future__ import annotations

import json
import posixpath
import re
from typing import TYPE_CHECKING, Any

from rootless.errors import RlessError, escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_SHELL = ["/bin/sh", "-c"]
_SPACE = " \t"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#]")
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?\Z", re.IGNORECASE)
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:h|ms|m|us|µs|ns|s)")
_UNITS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
_MILLISECOND = 10**6


def apply(config: Mapping[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """Return an image's `config` object changed by instructions, in their order.

    Args:
        changes: each is an instruction, or lines of them, as `ENV A=b`.

    Raises:
        RlessError: an instruction that is no change, or is written wrong.
    """
    editor = _Editor(json.loads(json.dumps(config)))
    for text in changes:
        for line in _lines(text):
            name, _, rest = _cut(line)
            change = _CHANGES.get(name.upper())
            if change is None:
                raise RlessError(
                    f"{escape(name)} is not a valid change command",
                    f"use one of {', '.join(sorted(_CHANGES))}",
                    1,
                )
            if not rest:
                raise _wrong(name, "needs an argument")
            change(editor, rest)
    return editor.config


def _lines(text: str) -> list[str]:
    """Return the instructions: a backslash at its end joins a line to the next one."""
    found: list[str] = []
    carry = ""
    for line in text.split("\n"):
        if line.lstrip().startswith("#"):
            continue
        carry += line
        if carry.rstrip().endswith("\\"):
            carry = carry.rstrip()[:-1]
            continue
        if carry.strip():
            found.append(carry.strip())
        carry = ""
    if carry.strip():
        found.append(carry.strip())
    return found


def _cut(line: str) -> tuple[str, str, str]:
    """Split at the first white space."""
    for index, char in enumerate(line):
        if char in _SPACE:
            return line[:index], char, line[index:].strip()
    return line, "", ""


def _wrong(name: str, why: str) -> RlessError:
    return RlessError(f"--change {escape(name).upper()}: {why}", "Dockerfile syntax", 1)


class _Editor:
    """A config while the instructions change it."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.has_cmd = False

    # -- instructions ----------------------------------------------------------------------------

    def cmd(self, text: str) -> None:
        self.config["Cmd"] = self._command(text)
        self.has_cmd = True

    def entrypoint(self, text: str) -> None:
        self.config["Entrypoint"] = self._command(text) or None
        if not self.has_cmd:
            # The command of the old entry point is none for the new one.
            self.config.pop("Cmd", None)

    def env(self, text: str) -> None:
        found = {}
        for entry in self.config.get("Env") or []:
            key, _, value = entry.partition("=")
            found[key] = value
        found.update(self._pairs("ENV", text))
        self.config["Env"] = [f"{key}={value}" for key, value in found.items()]

    def label(self, text: str) -> None:
        self.config["Labels"] = {**(self.config.get("Labels") or {}), **self._pairs("LABEL", text)}

    def expose(self, text: str) -> None:
        ports = dict(self.config.get("ExposedPorts") or {})
        for word in _words(text):
            value = self._expand(word)
            match = _PORT.match(value)
            if match is None:
                raise _wrong("EXPOSE", f"{value!r} is not a port")
            first, last = int(match[1]), int(match[2] or match[1])
            if not 1 <= first <= last <= 65535:
                raise _wrong("EXPOSE", f"{value!r} is not a port")
            for port in range(first, last + 1):
                ports[f"{port}/{(match[3] or 'tcp').lower()}"] = {}
        self.config["ExposedPorts"] = ports

    def volume(self, text: str) -> None:
        volumes = dict(self.config.get("Volumes") or {})
        for word in _json_words(text) or _words(text):
            path = self._expand(word).strip()
            if not path:
                raise _wrong("VOLUME", "a path cannot be empty")
            volumes[path] = {}
        self.config["Volumes"] = volumes

    def workdir(self, text: str) -> None:
        path = self._expand(text)
        if not path:
            raise _wrong("WORKDIR", "needs a path")
        before = self.config.get("WorkingDir") or "/"
        joined = posixpath.normpath(posixpath.join("/", before, path))
        self.config["WorkingDir"] = "/" + joined.lstrip("/")

    def user(self, text: str) -> None:
        words = _words(text)
        if len(words) != 1:
            raise _wrong("USER", "needs exactly one argument")
        self.config["User"] = self._expand(words[0])

    def stopsignal(self, text: str) -> None:
        from rootless.linux.process import signal_number

        signal = self._expand(text)
        try:
            signal_number(signal)
        except RlessError as error:
            raise _wrong("STOPSIGNAL", error.message) from error
        self.config["StopSignal"] = signal

    def onbuild(self, text: str) -> None:
        trigger = _cut(text)[0].upper()
        if trigger in ("ONBUILD", "FROM", "MAINTAINER"):
            raise _wrong("ONBUILD", f"{trigger} is not allowed as a trigger")
        self.config["OnBuild"] = [*(self.config.get("OnBuild") or []), text]

    def healthcheck(self, text: str) -> None:
        check: dict[str, Any] = {}
        while text.startswith("--"):
            flag, _, text = _cut(text)
            key, _, value = flag[2:].partition("=")
            field = _HEALTH.get(key)
            if field is None:
                raise _wrong("HEALTHCHECK", f"unknown flag --{key}")
            if field == "Retries":
                if not value.isdigit():
                    raise _wrong("HEALTHCHECK", f"--{key}: {value!r} is not a number")
                check[field] = int(value)
            else:
                check[field] = _duration(key, value)
        kind, _, rest = _cut(text)
        if kind.upper() == "NONE" and not rest and not check:
            check["Test"] = ["NONE"]
        elif kind.upper() == "CMD" and rest:
            words = _json_words(rest)
            check["Test"] = ["CMD-SHELL", rest] if words is None else ["CMD", *words]
        else:
            raise _wrong("HEALTHCHECK", "expected NONE, or flags and CMD with a command")
        self.config["Healthcheck"] = check

    # -- words -----------------------------------------------------------------------------------

    def _command(self, text: str) -> list[str]:
        words = _json_words(text)
        return [*(self.config.get("Shell") or _SHELL), text] if words is None else words

    def _pairs(self, name: str, text: str) -> dict[str, str]:
        words = _words(text)
        if "=" not in words[0]:
            # The old form: one name, and all the rest of the line is its value.
            key, _, value = _cut(text)
            if not value:
                raise _wrong(name, "must have two arguments")
            return {self._expand(key): self._expand(value)}
        pairs = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise _wrong(name, f"no = in {word!r}: write NAME=VALUE")
            key = self._expand(key)
            if not key:
                raise _wrong(name, "names cannot be blank")
            pairs[key] = self._expand(value)
        return pairs

    def _variables(self) -> dict[str, str]:
        entries = (entry.partition("=") for entry in self.config.get("Env") or [])
        return {key: value for key, _, value in entries}

    def _expand(self, word: str) -> str:
        """Return a word without its quotes, with variables in their places."""
        result, end = _expand(word, 0, "", self._variables())
        assert end == len(word)
        return result


_CHANGES: dict[str, Callable[[_Editor, str], None]] = {
    "CMD": _Editor.cmd,
    "ENTRYPOINT": _Editor.entrypoint,
    "ENV": _Editor.env,
    "EXPOSE": _Editor.expose,
    "HEALTHCHECK": _Editor.healthcheck,
    "LABEL": _Editor.label,
    "ONBUILD": _Editor.onbuild,
    "STOPSIGNAL": _Editor.stopsignal,
    "USER": _Editor.user,
    "VOLUME": _Editor.volume,
    "WORKDIR": _Editor.workdir,
}
_HEALTH = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
    "retries": "Retries",
}


def _json_words(text: str) -> list[str] | None:
    """Return the words of the JSON form; None: it is the shell form."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return value
    return None


def _words(text: str) -> list[str]:
    """Split at white space outside of quotes; quotes and backslashes stay."""
    words: list[str] = []
    word, quote = "", ""
    chars = iter(text)
    for char in chars:
        if not quote and char in _SPACE:
            if word:
                words.append(word)
            word = ""
            continue
        word += char
        if char == "\\" and quote != "'":
            word += next(chars, "")
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
    return [*words, word] if word else words


def _expand(text: str, start: int, stop: str, variables: Mapping[str, str]) -> tuple[str, int]:
    """Expand from `start` up to the character `stop`; return the result and where it ended."""
    result = ""
    quote = ""
    at = start
    while at < len(text):
        char = text[at]
        if not quote and char == stop:
            return result, at
        at += 1
        if quote == "'":
            if char == "'":
                quote = ""
            else:
                result += char
        elif char == "\\" and at < len(text):
            if quote and text[at] not in '"$\\':
                result += char
            result += text[at]
            at += 1
        elif char == quote:
            quote = ""
        elif not quote and char in "\"'":
            quote = char
        elif char == "$":
            value, at = _variable(text, at, variables)
            result += value
        else:
            result += char
    if quote:
        raise RlessError(f"--change: unterminated quote in {text!r}", "Dockerfile syntax", 1)
    if stop:
        raise RlessError(f"--change: a }} is missing in {text!r}", "Dockerfile syntax", 1)
    return result, at


def _variable(text: str, at: int, variables: Mapping[str, str]) -> tuple[str, int]:
    """Return what stands for the variable after a `$`, and where the text goes on."""
    braces = text[at : at + 1] == "{"
    match = _VARIABLE.match(text, at + braces)
    if match is None:
        if braces:
            raise RlessError(f"--change: bad substitution in {text!r}", "Dockerfile syntax", 1)
        return "$", at
    value = variables.get(match[0])
    at = match.end()
    if not braces:
        return value or "", at
    operator = text[at : at + 2]
    if operator in (":-", ":+"):
        word, at = _expand(text, at + 2, "}", variables)
        value = (value or word) if operator == ":-" else (word if value else "")
    elif text[at : at + 1] != "}":
        raise RlessError(f"--change: bad substitution in {text!r}", "Dockerfile syntax", 1)
    return value or "", at + 1


def _duration(name: str, text: str) -> int:
    """Return nanoseconds of Go's text of a duration, as 1m30s."""
    total = 0.0
    rest = text
    while match := _DURATION.match(rest):
        piece = match[0]
        unit = piece.lstrip("0123456789.")
        total += float(piece[: -len(unit)]) * _UNITS[unit.replace("µ", "u")]
        rest = rest[match.end() :]
    if rest or not text:
        raise _wrong("HEALTHCHECK", f"--{name}: {text!r} is not a duration, as 1m30s")
    if 0 < total < _MILLISECOND:
        raise _wrong("HEALTHCHECK", f"--{name}: {text!r} is less than 1ms")
    return round(total)
