"""What the verbs run in a container: scripts of the image, and shells around them."""

from __future__ import annotations

from rootless.cli.fronts.apptainer.environment import EVALUATE, FAILURE

_SHELL = 'if command -v bash >/dev/null 2>&1; then exec bash --norc "$@"; else exec sh "$@"; fi'
_IF_THERE = 'if [ -e "$0" ]; then exec "$0" "$@"; fi'
# The words of `shell`, and of `test`, which the script follows.
SHELL = ["/bin/sh", "-c", _SHELL, "sh"]
TEST = ["/bin/sh", "-c", _IF_THERE]


def scripts_of(app: str) -> dict[str, str]:
    """Return the paths of the scripts of an image, or of an application in it."""
    place = f"/scif/apps/{app}/scif" if app else "/.singularity.d"
    return {name: f"{place}/{name}" for name in ("runscript", "startscript", "test")}


def entry_shell() -> list[str]:
    """Return the words before a command, which set the image's environment and $RLESS_FRONT."""
    from rootless.image.squashfs.image_file import apptainer_shell

    return apptainer_shell(r"FATAL:   \"$1\": ", FAILURE, EVALUATE)
