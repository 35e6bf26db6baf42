"""`registry login|logout`: the log-ins of `rless`, with the registry as a URI."""

from __future__ import annotations

from rootless.cli.fronts.apptainer import parse
from rootless.cli.fronts.apptainer.table import REGISTRY, FrontVerb
from rootless.errors import RlessError, escape

_AUTHFILE = REGISTRY[1]
_SCHEMES = ("docker", "oras")
VERBS = {
    "registry login": FrontVerb(
        "registry login",
        "[OPTIONS] docker://HOST|oras://HOST",
        "Verify a name and password with a registry, and keep them",
        (
            "Options",
            (
                ("--username -u", "NAME", "value", "username", "required", "Your user name there"),
                ("--password-stdin", "", "flag", "stdin", "boolean",
                 "Read the password from standard input; else it is asked for"),
                _AUTHFILE,
            ),
        ),
        refused=(
            ("--password -p", "TEXT", "other users would see it in the list of processes",
             "use --password-stdin"),
        ),
        least=1,
        most=1,
    ),
    "registry logout": FrontVerb(
        "registry logout",
        "[OPTIONS] docker://HOST|oras://HOST",
        "Forget the log-in of a registry",
        ("Options", (_AUTHFILE,)),
        least=1,
        most=1,
    ),
}  # fmt: skip


def main(verb: str, argv: list[str], quiet: bool) -> int:
    """Log in or out."""
    word = argv[0] if argv else ""
    if f"registry {word}" not in VERBS:
        raise RlessError(f"registry {word} is not supported", "use login or logout")
    values, (uri,) = parse.parse(VERBS[f"registry {word}"], argv[1:])
    scheme, _, host = uri.partition("://")
    if scheme not in _SCHEMES or not host:
        raise RlessError(f"{escape(uri)} is no registry", "write docker://HOST or oras://HOST")
    if word == "login":
        from rootless.cli.verbs.image import login

        return login.main(values, [host])
    from rootless.cli.verbs.image import logout

    return logout.main(values, [host])
