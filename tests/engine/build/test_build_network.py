"""The network of a build: made once, for all step processes that ask, also at the same time."""

from __future__ import annotations

import json
import os
from typing import NoReturn

import pytest

from rootless.engine import idmap_policy
from rootless.engine.build.network import Network
from rootless.engine.request import RunRequest
from rootless.linux import idmap, ns
from tests.lib.build_steps import attend

pytestmark = pytest.mark.needs("user namespaces", "tun", "pasta")


def test_all_steps_are_in_one_network() -> None:
    network = Network(RunRequest())
    ids = idmap_policy.choose("auto", (0, 0), idmap_policy.Subordinate())
    reader, writer = os.pipe()

    def enter(out: int) -> NoReturn:
        try:
            network.client.enter(ids, 0)
            os.write(out, os.readlink("/proc/self/ns/net").encode() + b"\n")
        finally:
            os._exit(0)

    def body() -> NoReturn:
        found, out = os.pipe()
        pids = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                enter(out)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        answer = {"networks": os.read(found, 4096).decode().split()}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)

    try:
        pid = idmap.spawn(ids, ns.CLONE_NEWNS, body)
        os.close(writer)
        answer = attend(network, pid, reader)
        os.waitpid(pid, 0)
    finally:
        network.forget_client()
        network.close()
    assert len(answer["networks"]) == 3
    assert len(set(answer["networks"])) == 1
    assert answer["networks"][0] != os.readlink("/proc/self/ns/net")
