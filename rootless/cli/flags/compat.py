"""Read the values of flags that are accepted only where they ask for what happens anyway."""

from __future__ import annotations

from rootless.cli.flags.values import boolean, choice, refuse


def isolation(value: str) -> None:
    """Accept "default": on Linux there is no other."""
    if value not in ("", "default"):
        raise refuse(f"--isolation {value}", "it exists on Windows only")


def volume_driver(value: str) -> None:
    """Accept "local": volumes are directories of the storage."""
    if value not in ("", "local"):
        raise refuse(f"--volume-driver {value}", "volumes are local directories", "use local")


def content_trust(value: str) -> None:
    """Accept true: signatures of Docker Content Trust are not checked, as in Docker now."""
    if not boolean(value):
        raise refuse(
            "--disable-content-trust=false",
            "Docker Content Trust has ended",
            "pull by digest: NAME@sha256:...",
        )


def attach(value: str) -> str:
    """Return a stream's name."""
    return choice(value.lower(), "stdin", "stdout", "stderr")
