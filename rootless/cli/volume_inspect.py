"""`rless volume inspect`: show all about volumes as JSON."""

from __future__ import annotations

import json

from rootless.cli import streams, templates
from rootless.cli.parse import Verb
from rootless.errors import RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "volume inspect",
    "[OPTIONS] VOLUME [VOLUME...]",
    (
        (
            "Options",
            (("--format -f", "FORMAT", "value", "format", "text", "json, or a Go template"),),
        ),
    ),
    least=1,
)
