"""Read the values of flags that are accepted only where they ask for what happens anyway."""

from __future__ import annotations

from rootless.cli.values import boolean, choice, refuse


def restart(value: str) -> None:
    """Accept "no": nothing restarts a container."""
    if value.partition(":")[0] not in ("", "no"):
        raise refuse("--restart", "not built yet", "let systemd restart the unit, or use no")


def log_driver(value: str) -> str | None:
    """Accept "none": keep no log."""
    if value not in ("", "none"):
        raise refuse(
            f"--log-driver {value}",
            "rless keeps one kind of log, a file of its own",
            "leave it out, or use none",
        )
    return value or None


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
    """Return a stream's name; `run` accepts the set that is attached anyway."""
    return choice(value.lower(), "stdin", "stdout", "stderr")
