"""Which process does which step: `Builder`, with step processes that only say who they are."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from rootless.engine.build import builder
from rootless.engine.build.builder import Builder
from rootless.engine.build.messages import Receiver, sender
from rootless.engine.build.step_process import UNSEALED
from rootless.engine.build.steps import Base, CopyStep, Origin, RunStep, Stage, State
from rootless.errors import RlessError

if TYPE_CHECKING:
    from pathlib import Path

    from rootless.engine.build.steps import Step

BIG = "gives a layer that is sealed while the next step is done"
LEAVES = "leaves something open"
DIES = "dies"
KILLED = "is killed"
KILLED_EARLY = "is killed before it has begun"
KILLED_WAITING = "is killed before it has begun, after another step"


def run(number: int, text: str = "", network: str = "default") -> RunStep:
    return RunStep(
        number=number, text=text, created_by="", line=1, end_line=1, args=(), network=network
    )


def copy(number: int, *, add: bool = False, stage: int = -1) -> CopyStep:
    origin = Origin("stage", stage=stage) if stage >= 0 else Origin("context")
    return CopyStep(
        number=number, text="", created_by="", line=1, end_line=1,
        origin=origin, sources=(), destination="/", add=add,
    )  # fmt: skip


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the builder asks of a site; `stages` are to be filled."""

    def serve(site: Any, stage: Stage, tasks: int, writer: int) -> None:
        receiver, say = Receiver(tasks), sender(writer)
        done = 0
        while not receiver.ended:
            for task in receiver.read():
                step = stage.steps[task["step"]]
                if step.text == KILLED_EARLY or (step.text == KILLED_WAITING and done):
                    os.kill(os.getpid(), signal.SIGKILL)
                os.mkdir(f"{site.scratch}/{task['number']}")
                if step.text == DIES:
                    os._exit(3)
                if step.text == KILLED:
                    os.kill(os.getpid(), signal.SIGKILL)
                done += 1
                # The chain has one more layer: who made it, from what, and what it was told.
                if task["chain"][-1:] == [UNSEALED]:
                    there = os.path.isdir(f"{site.scratch}/{task['number'] - 1}")
                    task["chain"][-1] = f"{os.getpid()} sealed {there}"
                before = task["chain"][-1:] or ["nothing"]
                mine = f"{os.getpid()} {before[0].partition(' ')[0]} {task['chains']}"
                if step.text == BIG and not task["is_last"]:
                    mine = UNSEALED
                say({"kind": "result", "key": "k", "chain": [*task["chain"], mine], "created": 1.0,
                     "cached": False, "keys": [], "goes_on": step.text != LEAVES})  # fmt: skip
                if step.text == LEAVES:
                    os._exit(0)
        os._exit(0)

    monkeypatch.setattr(builder.step_process, "run", serve)
    monkeypatch.setattr(builder.step_process, "load", lambda: None)
    made = SimpleNamespace(jobs=4, scratch=str(tmp_path), plan=SimpleNamespace(targets=()))
    made.early_key = lambda step, before, results: None
    made.ignores_cache = lambda stage: False
    made.state_of_base = lambda base: State("base")
    return made


def processes(site: Any, *stages: tuple[Step, ...]) -> list[list[str]]:
    """Build; return the pid of each step of each stage."""
    site.plan.stages = tuple(
        Stage(index, str(index), Base("scratch"), steps, {}, ())
        for index, steps in enumerate(stages)
    )
    results = Builder(site, lambda message: None).run()
    return [[layer.partition(" ")[0] for layer in result.state.chain] for result in results]


def test_steps_of_a_stage_are_done_by_one_process(site: Any) -> None:
    first, second = processes(site, (run(1), copy(2), run(3), run(4)), (run(1), run(2)))
    assert len(first) == 4 and len(set(first)) == 1
    assert len(second) == 2 and len(set(second)) == 1
    assert first[0] != second[0]


def test_a_step_that_leaves_something_open_is_the_last_of_its_process(site: Any) -> None:
    (pids,) = processes(site, (run(1), run(2, LEAVES), run(3), run(4)))
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_a_process_in_the_network_of_the_build_does_nothing_of_the_host(site: Any) -> None:
    """ADD may fetch, and RUN --network=host wants the host's; the way out of a namespace is none."""
    (pids,) = processes(site, (run(1), copy(2), copy(3, add=True), run(4, network="none")))
    assert pids[0] == pids[1] != pids[2] == pids[3]
    (pids,) = processes(site, (run(1, network="none"), run(2, network="host"), run(3)))
    assert len(set(pids)) == 1
    (pids,) = processes(site, (run(1), run(2, network="host")))
    assert len(set(pids)) == 2


def test_a_process_is_told_what_other_stages_have_come_to(site: Any) -> None:
    site.plan.stages = ()
    stages = ((run(1), copy(2, stage=1)), (run(1), run(2, LEAVES), run(3)))
    processes(site, *stages)
    results = Builder(site, lambda message: None).run()
    assert str([[1, list(results[1].state.chain)]]) in results[0].state.chain[1]


def test_a_process_that_is_killed_while_it_waits_loses_nothing(site: Any) -> None:
    """It has begun nothing of the step that it was just given: another process does that."""
    steps = (run(1), run(2, KILLED_WAITING), run(3))
    (pids,) = processes(site, steps)
    assert pids[0] != pids[1] == pids[2]


def test_a_layer_is_sealed_while_the_process_does_the_next_step(site: Any) -> None:
    """Its directory stays for as long; the last step of a process seals its own."""
    (pids,) = processes(site, (run(1, BIG), run(2, BIG), copy(3), run(4, BIG)))
    assert len(set(pids)) == 1
    chain = Builder(site, lambda message: None).run()[0].state.chain
    assert [layer.partition(" ")[2] for layer in chain[:2]] == ["sealed True"] * 2
    assert UNSEALED not in chain
    assert not [name for name in os.listdir(site.scratch) if name.isdigit()]
    (pids,) = processes(site, (run(1, BIG), run(2, BIG, network="host")))
    assert UNSEALED not in pids and len(set(pids)) == 2


def test_a_process_that_is_killed_while_it_waits_and_seals_is_a_failure(site: Any) -> None:
    with pytest.raises(RlessError, match=r"its process was killed \(signal 9\)"):
        processes(site, (run(1, BIG), run(2, KILLED_WAITING), run(3)))


@pytest.mark.parametrize(
    ("text", "how"),
    [
        (DIES, r"ended \(code 3\)"),
        (KILLED, r"was killed \(signal 9\)"),
        (KILLED_EARLY, r"was killed \(signal 9\)"),
    ],
)
def test_a_process_that_ends_by_itself_is_a_failure(
    site: Any, monkeypatch: pytest.MonkeyPatch, text: str, how: str
) -> None:
    forked: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: forked.append(fork()) or forked[-1])
    with pytest.raises(RlessError, match=f"its process {how}"):
        processes(site, (run(1), run(2, text), run(3)), (run(1), run(2), run(3)))
    # No step is begun twice; one that has begun nothing is tried by another process, once.
    assert len(forked) == (3 if text == KILLED_EARLY else 2)
    for pid in forked:  # nobody is left, and all were waited for
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
