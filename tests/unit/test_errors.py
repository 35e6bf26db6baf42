"""Errors, and the escaping of untrusted text."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.errors import RlessError, SyscallError, escape


@settings(database=None)
@given(st.text(st.characters()))
def test_escaped_text_is_printable(text: str) -> None:
    """Class 37: whatever comes from an image or a registry, the terminal obeys none of it."""
    result = escape(text)
    assert result.isprintable()
    result.encode()  # lone surrogates would fail
    if text.isprintable():
        assert result == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text, ünïcode ✓", "plain text, ünïcode ✓"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x7f\x80\x9b", "\\x7f\\x80\\x9b"),
        ("\udcff", "\\udcff"),
        ("\u202e\u2028", "\\u202e\\u2028"),
        ('it\'s "quoted" \\', 'it\'s "quoted" \\'),
        ("", ""),
    ],
)
def test_escape_replaces_control_characters(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_message_and_hint_are_printed() -> None:
    error = RlessError("it failed", "do this")
    assert str(error) == "it failed; do this"
    assert error.exit_code == 125
    assert str(RlessError("it failed")) == "it failed"


def test_within_adds_context() -> None:
    outer = RlessError("it failed", "do this", 127).within("layer 3")
    assert (outer.message, outer.hint, outer.exit_code) == ("layer 3: it failed", "do this", 127)


def test_syscall_error_names_the_call() -> None:
    error = SyscallError("mount(tmpfs, /dev)", errno.EPERM)
    assert error.message == "mount(tmpfs, /dev): Operation not permitted"
    assert (error.call, error.errno) == ("mount(tmpfs, /dev)", errno.EPERM)
    assert isinstance(error, RlessError)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("_ssl", "was built without the module _ssl; install rless with the Python of the"),
        ("h11", "the package h11 is not installed for Python 3"),
        ("rootless.gone", None),
    ],
)
def test_missing_modules_are_named(name: str, said: str | None) -> None:
    from rootless.errors import lacks_module

    found = lacks_module(ModuleNotFoundError("no", name=name))
    assert (said in found) if said and found else found is said
