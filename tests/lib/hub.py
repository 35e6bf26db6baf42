"""A hub with members that are only network namespaces, for tests of helpers/networks."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from rootless.engine import idmap_policy
from rootless.linux import idmap, ns, process
from rootless.linux.network import netlink
from rootless.network import bridge, hub
from tests.lib.engine_namespace import make_map

BRIDGES = {"br-one": 1, "br-two": 2, "in-three": 3}  # each with 10.9.N.0/24 and fd09:N::/64


class Member:
    """A process in namespaces of its own, in the hub's networks."""

    def __init__(self, number: int, names: Sequence[str], bridges: Sequence[str]) -> None:
        self.id = f"{number:064x}"
        self.number = number
        self.bridges = list(bridges)
        self.hub = hub.enter(idmap_policy.identity(idmap_policy.Subordinate()), way_out=False)
        joiner = bridge.Joiner(self.hub)
        joiner.fork()
        child = idmap.NamespacedChild(
            ns.CLONE_NEWNET, _wait, inside=self.hub.userns, meanwhile=netlink.loopback_up
        )
        self.pid = child.pid
        child.begin_maps(make_map("host-root"), joiner.write_maps)
        child.release()
        places = [self._place(index, name) for index, name in enumerate(bridges)]
        for place in places:
            words = bridge.join_words(self.id, place, ("f" * 64, place.bridge), names)
            assert self.hub.call(*words) == 0
        joiner.connect(places)
        joiner.wait_ready()
        joiner.close()

    def _place(self, index: int, name: str) -> bridge.Attachment:
        net = BRIDGES[name]
        place = bridge.Attachment(
            name,
            (self.address(net, 1), self.address6(net, 1)),
            (24, 64),
            (self.address(net, self.number), self.address6(net, self.number)),
            bytes([2, 0, 0, 0, net, self.number]),
        )
        place.internal = name.startswith("in-")
        place.interface, place.outside = f"eth{index}", f"v{net}-{self.number}"
        return place

    @staticmethod
    def address(net: int, number: int) -> bytes:
        return bytes([10, 9, net, number])

    @staticmethod
    def address6(net: int, number: int) -> bytes:
        return bytes([0xFD, 9, 0, net, *bytes(11), number])

    def run(self, function: Callable[..., Any], *args: object) -> Any:
        """Run a function in the member's network; return what it returns."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reader)
                for kind in ("user", "net"):
                    ns.setns(os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY))
                idmap.answer(writer, function, *args)
            finally:
                os._exit(70)
        os.close(writer)
        with open(reader, encoding="utf-8") as stream:
            text = stream.read()
        return idmap.take_answer(text, os.waitpid(pid, 0)[1])

    def start(self, function: Callable[[], object], keep: int = -1) -> int:
        """Start a function in the member's network that goes on; return its pid.

        Args:
            keep: a descriptor that stays open there, as number 3.
        """
        pid = os.fork()
        if pid == 0:
            try:
                for kind in ("user", "net"):
                    ns.setns(os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY))
                if keep >= 0:
                    os.dup2(keep, 3)
                process.close_from(4 if keep >= 0 else 3)
                function()
            finally:
                os._exit(70)
        return pid

    def end(self) -> None:
        """Leave, and end the process."""
        self.hub.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


@contextlib.contextmanager
def only_member(name: str) -> Iterator[Member]:
    """Give the one member of a hub, which ends with it."""
    made = Member(5, ["web"], [name])
    yield made
    made.end()
    deadline = time.monotonic() + 30
    while (left := hub.connect()) is not None:
        left.close()
        assert time.monotonic() < deadline, "the hub stays"
        time.sleep(0.01)


def _wait() -> NoReturn:
    process.close_from(3)  # the memberships of others, too
    signal.pause()
    os._exit(0)


# -- DNS, by hand --------------------------------------------------------------------------------

A, PTR, TXT, AAAA = 1, 12, 16, 28


def question(name: str, kind: int = A, number: int = 0x1234) -> bytes:
    """Return a query."""
    header = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part)
    return header + labels + b"\0" + struct.pack(">HH", kind, 1)


def read(answer: bytes) -> tuple[int, list[bytes]]:
    """Return (code, data of the answers), whose names must be that of the question."""
    _, flags, questions, answers, _, _ = struct.unpack_from(">HHHHHH", answer)
    assert flags & 0x8000
    at = 12
    for _ in range(questions):
        while answer[at]:
            at += answer[at] + 1
        at += 5
    found = []
    for _ in range(answers):
        assert answer[at : at + 2] == b"\xc0\x0c"
        size = struct.unpack_from(">H", answer, at + 10)[0]
        found.append(answer[at + 12 : at + 12 + size])
        at += 12 + size
    assert at == len(answer)
    return flags & 0xF, found
