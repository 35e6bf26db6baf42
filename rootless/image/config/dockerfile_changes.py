"""Change an image's config by instructions of a Dockerfile: `commit --change`, `import --change`.

Source: docs.docker.com/reference/cli/docker/container/commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rootless.dockerfile.config import ImageConfig
from rootless.dockerfile.errors import DockerfileError
from rootless.dockerfile.parse import parse_instruction
from rootless.dockerfile.reader import read
from rootless.errors import RlessError, escape
from rootless.linux.process import signal_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ALLOWED = (
    *("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL"),
    *("USER", "VOLUME", "WORKDIR"),
)


def apply(config: Mapping[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """Return an image's `config` object changed by instructions, in their order.

    Args:
        changes: each is an instruction, or lines of them, as `ENV A=b`.

    Raises:
        RlessError: an instruction that is no change, or is written wrong.
    """
    changed = ImageConfig(config, signal_number)
    for text in changes:
        try:
            for node in read(text).nodes:
                if node.name.upper() not in _ALLOWED:
                    raise DockerfileError(
                        f"{node.name} is not a valid change command",
                        f"use one of {', '.join(_ALLOWED)}",
                    )
                changed.apply(parse_instruction(node).expanded(changed.variables))
        except DockerfileError as error:
            raise RlessError(f"--change: {escape(error.bare)}", error.hint, 1) from error
    return changed.value
