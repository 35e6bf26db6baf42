"""`--verify`: two builds without the cache, which have to be the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lib.builds import NAME, Builds
from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

EPOCH = "--build-arg=SOURCE_DATE_EPOCH=1000000000"
REWRITE = "--output=type=image,rewrite-timestamp=true"


@pytest.fixture
def build(rless: Product, tmp_path: Path) -> Builds:
    made = Builds(rless, tmp_path / "context")
    (made.context / "file").write_text("content\n")
    return made


def stored(build: Builds) -> set[str]:
    return set(build.rless("images", "--no-trunc", "-aq").lines())


def test_same_bytes_are_built_and_named(build: Builds, tmp_path: Path) -> None:
    text = "FROM localhost/base:1\nCOPY file /\nRUN echo x > /made && mkdir /d\nLABEL a=b\n"
    before = stored(build)
    ids = tmp_path / "id"
    build(text, "--verify", EPOCH, REWRITE, f"--iidfile={ids}").expect()
    assert stored(build) - before == {ids.read_text()}
    assert build.run("cat", "/made") == "x\n"


def test_without_an_epoch_only_files_are_compared(build: Builds) -> None:
    """What a COPY makes has the times of its sources, whenever it is made."""
    before = stored(build)
    build("FROM scratch\nCOPY file /\n", "--verify").expect()
    assert len(stored(build) - before) == 1


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("cat /proc/sys/kernel/random/uuid > /d/id", "layer {}: /d/id: content"),
        ("touch /d/$(cat /proc/sys/kernel/random/uuid)", "layer {}: /d/"),
        ("ln -s $(cat /proc/sys/kernel/random/uuid) /d/link", "layer {}: /d/link: target"),
        (
            "head -c $((0x$(head -c 7 /proc/sys/kernel/random/uuid) % 999983)) /dev/zero > /d/n",
            "layer {}: /d/n: size",
        ),
    ],
    ids=["content", "name", "link", "size"],
)
def test_first_file_that_differs_is_named(build: Builds, command: str, found: str) -> None:
    text = f"FROM localhost/base:1\nRUN mkdir /d\nRUN echo same > /d/a && {command}\n"
    build("FROM scratch\nCOPY file /\n").expect()
    number = len(build.inspect("localhost/base:1")["RootFS"]["Layers"]) + 2
    error = build(text, "--verify", EPOCH, REWRITE).expect(1).err.splitlines()[-1]
    assert error.startswith(f"rless: two builds differ: {found.format(number)}"), error
    # The name is where it was.
    assert json.loads(build.rless("image", "inspect", NAME).out)[0]["Config"].get("Labels") is None


def test_times_are_named_with_what_helps(build: Builds) -> None:
    text = "FROM localhost/base:1\nRUN sleep 1; echo x > /made\n"
    done = build(text, "--verify", EPOCH).expect(1)
    assert "/made: time; add --output type=image,rewrite-timestamp=true" in done.err
    done = build(text, "--verify").expect(1)
    assert "/made: time; set SOURCE_DATE_EPOCH, and" in done.err


def test_standard_input_is_refused(build: Builds) -> None:
    done = build.rless("build", "--verify", "-", stdin=b"FROM scratch\n").expect(1)
    assert "standard input can be read only once" in done.one_line_error()
