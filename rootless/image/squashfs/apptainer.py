"""What Apptainer puts into an image that it makes of an OCI image: the directory /.singularity.d.

Apptainer reads the environment and what to run from there, not from the image's config. A value is
in single quotes, so no shell reads anything in it. The scripts here are as Docker runs an image:
arguments take the place of CMD, and are never read by a shell again.

Source: apptainer.org/docs/user/latest, "Support for Docker and OCI" and "Environment and metadata".
"""

from __future__ import annotations

import json
import re
from shlex import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DIRECTORY = ".singularity.d"
# Scripts that the image may have itself, which stay; the rest is made of its config.
OWN = ("env/90-environment.sh", "env/99-base.sh", "runscript", "startscript")
# What is written anew in any case.
ABOUT = ("Singularity", "labels.json")
_ARCHIVES = ("docker-archive", "oci-archive", "oci")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ENVIRONMENT = "#!/bin/sh\n# Custom environment shell code should follow\n\n"
_BASE = """\
#!/bin/sh
# Where the libraries of --nv and --rocm are.
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
export PS1="Apptainer> "
"""


def labels(config: Mapping[str, Any], architecture: str, name: str = "") -> dict[str, str]:
    """Return the labels of an image file: those of the image, and whence it is.

    Args:
        config: the "config" object of an image config.
        architecture: in Go's words.
        name: of the image that it is made of; "": unknown.
    """
    schema = "org.label-schema"
    found = {f"{schema}.schema-version": "1.0", f"{schema}.build-arch": architecture}
    if name:
        bootstrap, source = _origin(name)
        found[f"{schema}.usage.singularity.deffile.bootstrap"] = bootstrap
        found[f"{schema}.usage.singularity.deffile.from"] = source
    return found | dict(config.get("Labels") or {})


def definition(name: str) -> str:
    """Return the definition file that makes such an image."""
    bootstrap, source = _origin(name)
    return f"bootstrap: {bootstrap}\nfrom: {source}\n"


def _origin(name: str) -> tuple[str, str]:
    kind, _, path = name.partition(":")
    return (kind, path) if kind in _ARCHIVES else ("docker", name)


def files(
    config: Mapping[str, Any], labels: Mapping[str, str], deffile: str
) -> dict[str, tuple[bytes, int]]:
    """Return what is to be in DIRECTORY: path in it -> (content, mode).

    Args:
        config: the "config" object of an image config.
        labels, deffile: of the image file.
    """
    texts = {
        "Singularity": deffile,
        "labels.json": json.dumps(dict(labels), ensure_ascii=False, indent="\t", sort_keys=True)
        + "\n",
        "env/10-docker2singularity.sh": _variables(config.get("Env") or []),
        "env/90-environment.sh": _ENVIRONMENT,
        "env/99-base.sh": _BASE,
        "runscript": _runscript(config.get("Entrypoint") or [], config.get("Cmd") or []),
        "startscript": "#!/bin/sh\n",
    }
    return {
        path: (text.encode("utf-8", "surrogateescape"), 0o755 if text.startswith("#!") else 0o644)
        for path, text in texts.items()
    }


def _variables(pairs: list[str]) -> str:
    """Return a script that sets variables, but for those that are set; PATH in any case."""
    lines = ["#!/bin/sh"]
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not _NAME.fullmatch(name):
            continue  # no shell can set it
        if name == "PATH":
            lines.append(f"export PATH={quote(value)}")
        else:
            lines.append(f"{name}=${{{name}:-{quote(value)}}}; export {name}")
    return "\n".join(lines) + "\n"


def _runscript(entrypoint: list[str], command: list[str]) -> str:
    default = " ".join(quote(word) for word in command or ([] if entrypoint else ["/bin/sh"]))
    lines = ["#!/bin/sh"]
    if default:
        lines.append(f"[ $# -gt 0 ] || set -- {default}")
    lines.append(" ".join(["exec", *map(quote, entrypoint), '"$@"']))
    return "\n".join(lines) + "\n"
