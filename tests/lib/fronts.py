"""The commands docker, podman and apptainer as programs find them: links, first in PATH."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from typing import Any

from tests.lib.product import Product, Result, launcher

NAMES = ("apptainer", "docker", "podman", "run-singularity", "singularity")


class Front:
    """One of them, in the storage of a product; `env` finds all of them in PATH."""

    def __init__(self, product: Product, name: str) -> None:
        self.product = product
        self.name = name
        self.links = product.base / "links"
        self.links.mkdir(exist_ok=True)
        for one in NAMES:
            if not os.path.lexists(self.links / one):
                (self.links / one).symlink_to(launcher()[0])
        self.env = {**product.env, "PATH": f"{self.links}:{product.env['PATH']}"}

    def __call__(self, *words: str, **more: Any) -> Result:
        """Run `NAME WORDS...` to its end."""
        return self._run([self.name, *words], **more)

    def sh(self, script: str, *words: str, **more: Any) -> Result:
        """Run a shell script in which the fronts are commands; `words` are $1 and so on."""
        return self._run(["sh", "-c", script, "sh", *words], **more)

    def start(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start `NAME WORDS...`, without standard input."""
        options: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        options |= {"stdin": subprocess.DEVNULL, "env": self._environment(more.pop("env", {}))}
        return subprocess.Popen([self.links / self.name, *words], **{**options, **more})

    def _environment(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        merged = {**self.env, **changes}
        return {name: value for name, value in merged.items() if value is not None}

    def _run(
        self, argv: list[str], *, env: Mapping[str, str | None] | None = None, **more: Any
    ) -> Result:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self._environment(env or {}),
            executable=self.links / argv[0] if argv[0] == self.name else None,
            timeout=60,
            **more,
        )
        return Result(argv, done.returncode, done.stdout, done.stderr)
