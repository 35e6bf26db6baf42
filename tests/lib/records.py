"""Containers on disk as the engine leaves them, written by hand: for what only reads them."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest


def boot_id() -> str:
    """Return the id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def this_process() -> list[int]:
    """Return [pid, start time] of this process: one that lives."""
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return [os.getpid(), int(stat[19])]


class Records:
    """A storage with containers that never ran."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.live = storage / "run" / boot_id() / "live"
        for directory in (storage, storage / "containers", storage / "names"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        for directory in (storage / "run", self.live.parent, self.live):
            directory.mkdir(mode=0o700, exist_ok=True)
        (self.live / "booted").touch()

    def add(
        self,
        name: str,
        *,
        state: str = "exited",
        exit: dict[str, Any] | None = None,  # noqa: A002
        live: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        **facts: Any,
    ) -> str:
        """Write a container; return its id.

        Args:
            state: created, exited, or running: then this process is its init.
            exit: what exit.json has more; live: what the run record has more.
            config: what config.json has.
            facts: what container.json has otherwise.
        """
        identifier = os.urandom(32).hex()
        directory = self.storage / "containers" / identifier
        directory.mkdir(mode=0o700)
        command = facts.pop("command", ["sleep", "1000"])
        whole = {
            "id": identifier,
            "name": name,
            "image": "busybox:latest",
            "image_id": "sha256:" + "1" * 64,
            "command": command,
            "path": command[0],
            "args": command[1:],
            "created": time.time(),
            "host": socket.gethostname(),
            "boot": boot_id(),
            "rm": False,
            "run": True,
            "detach": True,
            "labels": {},
            "exposed": [],
            "ports": [],
            "stop_signal": 15,
            "stop_timeout": 10,
            "tty": False,
            "stdin_open": False,
            "stdin_once": False,
            "request": {},
            "image_config": {},
            "log": {"driver": "local", "options": {"max-size": 20 << 20, "max-file": 5}},
            "restart": {"name": "no", "max": 0},
            "health": None,
            "mounts": [],
            "network": "pasta",
            "idmap": {"uids": [[0, os.getuid(), 1]], "gids": [[0, os.getgid(), 1]], "key": "x"},
            **facts,
        }
        self._write(directory / "container.json", whole)
        self._write(directory / "config.json", config or {})
        (self.storage / "names" / name).symlink_to(identifier)
        if state != "created":
            (directory / "started").touch()
        if state == "exited":
            ended = {"code": 0, "started": time.time() - 2, "finished": time.time() - 1}
            ended |= {"error": None, "oom": False, "restarts": 0}
            self._write(directory / "exit.json", {**ended, **(exit or {})})
        elif state == "running":
            entry: dict[str, Any] = dict.fromkeys(("owner", "monitor", "init"), this_process())
            entry |= {"started": time.time() - 300, "rm": False, "directory": str(directory)}
            entry |= {"cgroup": "", "manager": "none", "restarts": 0}
            self._write(self.live / identifier, {**entry, **(live or {})})
        return identifier

    def directory(self, identifier: str) -> Path:
        """Return the directory of a container."""
        return self.storage / "containers" / identifier

    def _write(self, path: Path, value: object) -> None:
        path.write_text(json.dumps(value))
        path.chmod(0o600)


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    """Give a storage of the test's own, which rless takes."""
    storage = tmp_path / "storage"
    monkeypatch.setenv("RLESS_STORAGE", str(storage))
    return Records(storage)
