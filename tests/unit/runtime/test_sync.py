"""rootless/runtime/sync.py: frames, and errors that name both sides."""

from __future__ import annotations

import os

import pytest

from rootless.errors import RlessError
from rootless.runtime import sync


def through(data: bytes) -> int:
    """Return a descriptor that gives these bytes, then the end."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def frame(kind: bytes, payload: object) -> bytes:
    reader, writer = os.pipe()
    sync.send(writer, kind, payload)
    os.close(writer)
    with open(reader, "rb") as file:
        return file.read()


@pytest.mark.parametrize("payload", [None, {}, {"a": [1, "\udc80é"]}, ["x", None, 127]])
def test_frame_is_read_back(payload: object) -> None:
    assert sync.receive(through(frame(sync.READY, payload))) == (sync.READY, payload)


def test_end_of_file_is_reported() -> None:
    assert sync.receive(through(b"")) is None
    with pytest.raises(RlessError, match="init was killed"):
        sync.expect_ready(through(b""))
    sync.expect_exec(through(b""))


@pytest.mark.parametrize(
    "data", [b"R", b"R\1\0\0", b"?\0\0\0\0", b"R\xff\xff\xff\xff", b"R\4\0\0\0[1"]
)
def test_malformed_frame_is_an_error(data: bytes) -> None:
    with pytest.raises(sync.UnexpectedMessageError, match="parent expected"):
        sync.receive(through(data))


def test_failure_arrives_unchanged() -> None:
    error = RlessError("what: why", "do this", 127)
    data = frame(sync.FAILED, sync.error_payload(error))
    for expect in (sync.expect_ready, sync.expect_exec):
        with pytest.raises(RlessError) as caught:
            expect(through(data))
        assert (str(caught.value), caught.value.exit_code) == ("what: why; do this", 127)


def test_repeated_ready_is_an_error() -> None:
    with pytest.raises(sync.UnexpectedMessageError):
        sync.expect_exec(through(frame(sync.READY, {})))
