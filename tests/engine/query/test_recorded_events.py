"""The events recorded in a container's life, and the addresses that inspect shows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib import images
from tests.lib.product import Product, probe_layer, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


@pytest.fixture
def labelled(rless: Product) -> str:
    image = images.busybox_image([probe_layer()], Labels={"vendor": 'a"b\n', "tier": "image"})
    return rless.add_image("labelled", image)


class Told:
    """The events since a moment."""

    def __init__(self, rless: Product) -> None:
        self.rless = rless
        self.since = f"{time.time():.9f}"

    def __call__(self, *filters: str) -> list[tuple[str, dict[str, str]]]:
        given = [word for text in filters for word in ("--filter", text)]
        done = self.rless("events", "--since", self.since, "--until", "now", "--format", "json",
                          "--filter", "type=container", *given).expect()  # fmt: skip
        found = [json.loads(line) for line in done.lines()]
        return [(event["Action"], event["Actor"]["Attributes"]) for event in found]


@pytest.fixture
def told(rless: Product) -> Iterator[Told]:
    yield Told(rless)


def test_each_action_is_recorded_once_with_its_labels(
    rless: Product, labelled: str, told: Told
) -> None:
    rless("create", "--name", "one", "--label", "tier=front", "--network", "none",
          "--stop-signal", "KILL", labelled, "sleep", "1000").expect()  # fmt: skip
    rless("start", "one").expect()
    rless("exec", "one", "false").expect(1)
    rless("pause", "one").expect()
    rless("unpause", "one").expect()
    rless("kill", "-s", "USR1", "one").expect()  # pid 1 has no handler for it
    rless("update", "--restart", "no", "one").expect()
    rless("rename", "one", "two").expect()
    rless("restart", "two").expect()
    rless("cp", "two:/data/seed", "-").expect()
    rless("export", "two").expect()
    made = rless("commit", "two").expect().out.strip()
    rless("stop", "two").expect()
    rless("rm", "two").expect()
    rless("rmi", made).expect()
    found = told()
    assert [action.partition(":")[0] for action, _ in found] == [
        "create", "start", "exec_create", "exec_start", "exec_die", "pause", "unpause", "kill",
        "update", "rename", "kill", "die", "stop", "start", "restart", "archive-path", "export",
        "pause", "commit", "unpause", "kill", "die", "stop", "destroy",
    ]  # fmt: skip
    for number, (_, attributes) in enumerate(found):
        assert attributes["vendor"] == 'a"b\n'
        assert attributes["tier"] == "front"
        assert attributes["image"] == labelled
        assert attributes["name"] == ("one" if number < 9 else "two")
    more = {action.partition(":")[0]: attributes for action, attributes in found}
    assert more["exec_die"]["exitCode"] == "1"
    assert more["die"]["exitCode"] == "137"
    assert more["rename"]["oldName"] == "one"
    assert more["commit"]["imageID"] == made
    assert len(told("label=tier=front")) == len(found)
    assert told("label=tier=image") == []


def test_exit_is_recorded(rless: Product, told: Told) -> None:
    rless("run", "--rm", "--label", "k=v", "--network", "none", rless.image, "false").expect(1)
    wait_for(lambda: len(told()) >= 4, "the last event")
    assert [(action, attributes["k"]) for action, attributes in told()] == [
        ("create", "v"), ("start", "v"), ("die", "v"), ("destroy", "v"),
    ]  # fmt: skip


def test_refused_start_is_recorded(rless: Product, told: Told, tmp_path: Path) -> None:
    """Before there is a namespace, in it, and in the container."""
    for flag in ("--security-opt=seccomp=/none", f"-v={tmp_path}/a:/etc/passwd", "-w=/etc/passwd"):
        assert rless.run([flag], "true").code
    rless.assert_clean()
    actions = [action for action, _ in told()]
    assert actions.count("create") == actions.count("destroy") == 3
    assert actions[-1] == "destroy"


def test_oversized_labels_do_not_lose_the_event(rless: Product, told: Told) -> None:
    long = "x" * 20000
    rless("run", "--rm", "--label", f"k={long}", "--network", "none", rless.image, "true").expect()
    wait_for(lambda: len(told()) >= 4, "the last event")
    assert [(action, attributes.get("k")) for action, attributes in told()] == [
        ("create", long), ("start", None), ("die", None), ("destroy", None),
    ]  # fmt: skip


def test_health_changes_are_recorded(rless: Product, told: Told) -> None:
    rless("run", "-d", "--name", "box", "--label", "k=v", "--health-cmd", "test -e /ok",
          "--health-interval=300ms", "--health-retries=1", "--network", "none", rless.image,
          "sleep", "1000").expect()  # fmt: skip
    wait_for(lambda: told("event=health_status"), "the first change")
    rless("rm", "-f", "box").expect()
    assert [(action, attributes["k"]) for action, attributes in told("event=health_status")] == [
        ("health_status: unhealthy", "v"),
    ]  # fmt: skip


@pytest.mark.needs("pasta")
def test_shown_addresses_are_those_of_the_container(rless: Product) -> None:
    rless("run", "-d", "--name", "box", rless.image, "sleep", "1000").expect()
    (found,) = json.loads(rless("inspect", "box").expect().out)
    settings = found["NetworkSettings"]
    shown = rless("exec", "box", "ip", "-4", "addr").expect().out
    routes = rless("exec", "box", "ip", "route").expect().out
    assert f"inet {settings['IPAddress']}/{settings['IPPrefixLen']} " in shown
    assert f"default via {settings['Gateway']} " in routes
    assert settings["Networks"]["pasta"]["IPAddress"] == settings["IPAddress"]
    rless("rm", "-f", "box").expect()
