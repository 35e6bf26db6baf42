"""`buildah run` and `buildah build` with rless-oci as their runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import Guest

pytestmark = pytest.mark.needs(
    "podman", "buildah", "conmon", "busybox", "script", "compiler", "user namespaces",
    "subordinate ids",
)  # fmt: skip


@pytest.fixture
def working(guest: Guest) -> Iterator[str]:
    """Give the name of a working container."""
    name = guest.buildah("from", "localhost/probe").expect().out.strip()
    yield name
    guest.buildah("rm", name)


def run(guest: Guest, name: str, *words: str) -> list[str]:
    options = ["--isolation=oci", f"--runtime={guest.runtime}", "--network=host"]
    return ["run", *options, name, "--", *words]


def test_buildah_runs_a_command(guest: Guest, working: str) -> None:
    done = guest.buildah(*run(guest, working, "/probe", "write", "/x", "y", ",", "id"))
    assert done.expect().facts()["uid"] == "0 0 0 0"
    assert guest.buildah(*run(guest, working, "/probe", "read", "/x")).expect().out == "y"


def test_buildah_gets_the_exit_code(guest: Guest, working: str) -> None:
    assert guest.buildah(*run(guest, working, "/probe", "exit", "4")).code == 4


def test_missing_program_is_reported(guest: Guest, working: str) -> None:
    done = guest.buildah(*run(guest, working, "nosuch"))
    assert done.code != 0
    assert "executable file not found in $PATH" in done.err


def test_buildah_run_has_a_terminal(guest: Guest, working: str) -> None:
    words = run(guest, working, "/probe", "tty")
    done = guest.buildah(words[0], "-t", *words[1:], tty=True)
    assert "isatty 1 1 1" in done.out


def test_buildah_builds_an_image(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        'FROM localhost/probe\nRUN echo built > /y\nRUN ["/probe", "read", "/y"]\n'
    )
    options = ["--isolation=oci", f"--runtime={guest.runtime}", "--network=host", "-t", "built"]
    done = guest.buildah("build", *options, str(tmp_path))
    assert "built\n" in done.expect().out
