"""Builds of Dockerfiles by one product: `Builds(rless, directory)("FROM localhost/base:1\\n")`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.lib.product import Product, Result

NAME = "localhost/made:1"


class Builds:
    """Builds in one storage, from one context; `localhost/base:1` is the image of the tests."""

    def __init__(self, rless: Product, context: Path) -> None:
        self.rless = rless
        self.context = context
        context.mkdir(exist_ok=True)
        rless("tag", rless.image, "localhost/base:1").expect()

    def __call__(self, text: str, *words: str, tag: str = NAME, **more: Any) -> Result:
        """Build a Dockerfile, with a name for what it makes; "": without."""
        (self.context / "Dockerfile").write_text(text)
        names = ("-t", tag) if tag else ()
        return self.rless("build", "--progress=plain", *names, *words, str(self.context), **more)

    def inspect(self, name: str = NAME) -> dict[str, Any]:
        """Return what is known of an image."""
        found: list[dict[str, Any]] = json.loads(self.rless("image", "inspect", name).expect().out)
        return found[0]

    def run(self, *words: str, name: str = NAME) -> str:
        """Return what a command prints in the image."""
        return self.rless("run", "--rm", "--network=none", name, *words).expect().out


def seed() -> str:
    """Return an instruction by which what follows is in no cache yet."""
    return f"RUN : {time.time_ns()}\n"


def cached(result: Result) -> int:
    """Return how many steps were taken from the cache."""
    return result.err.count(" CACHED\n")
