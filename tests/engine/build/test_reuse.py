"""Results that are used again although something before them has changed, and those that are not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.lib.builds import NAME, Builds, cached, seed
from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


@pytest.fixture
def build(rless: Product, tmp_path: Path) -> Builds:
    return Builds(rless, tmp_path / "context")


def top_layer(build: Builds) -> str:
    found: list[str] = build.inspect()["RootFS"]["Layers"]
    return found[-1]


def test_link_is_reused_on_a_changed_base(build: Builds) -> None:
    (build.context / "file").write_text(f"{time.time_ns()}")
    copy = "COPY --link --chown=7:8 file /srv/new/file\n"
    build(f"FROM localhost/base:1\n{seed()}{copy}").expect()
    layer, below = top_layer(build), build.inspect()["RootFS"]["Layers"][:-1]
    changed = f"FROM localhost/base:1\n{seed()}RUN mkdir -p /srv && echo > /srv/other\n{copy}"
    assert cached(build(changed).expect()) == 1
    assert top_layer(build) == layer
    assert build.inspect()["RootFS"]["Layers"][:-1] != below
    command = "cat /srv/new/file; echo; stat -c %u:%g /srv/new/file; ls /srv"
    text = (build.context / "file").read_text()
    assert build.run("sh", "-c", command) == f"{text}\n7:8\nnew\nother\n"
    assert cached(build(changed).expect()) == 3


def test_link_that_is_gone_is_made_again(build: Builds) -> None:
    (build.context / "file").write_text(f"{time.time_ns()}")
    build("FROM localhost/base:1\nRUN echo 1 > /one\nCOPY --link file /\n").expect()
    build.rless("rmi", NAME).expect()
    build.rless("builder", "prune", "-af").expect()
    assert not cached(build("FROM localhost/base:1\nRUN echo 2 > /one\nCOPY --link file /\n"))
    assert build.run("cat", "/file") == (build.context / "file").read_text()


def test_link_with_clamped_times_is_another_layer(build: Builds) -> None:
    (build.context / "file").write_text(f"{time.time_ns()}")
    text = "FROM localhost/base:1\nCOPY --link file /\n"
    build(text).expect()
    layer = top_layer(build)
    words = ("--build-arg", "SOURCE_DATE_EPOCH=1000", "-o", "type=image,rewrite-timestamp=true")
    assert not cached(build(text, *words).expect())
    assert top_layer(build) != layer
    assert build.run("stat", "-c", "%Y", "/file") == "1000\n"


def test_copy_from_a_stage_that_gives_the_same_is_cached(build: Builds) -> None:
    """The second look: the stage was done anew, and its files are as before."""
    stage = "FROM localhost/base:1 AS made\n{}RUN echo same > /out; date +%N > /noise\n"
    copy = "FROM localhost/base:1\nCOPY --from=made /out /out\nRUN cat /out > /copy\n"
    build(stage.format(seed()) + copy).expect()
    assert cached(build(stage.format(seed()) + copy).expect()) == 2


def test_without_the_cache_nothing_is_looked_up_but_all_is_kept(build: Builds) -> None:
    text = "FROM localhost/base:1\nRUN cat /proc/sys/kernel/random/uuid > /out\nRUN cat /out > /copy\n"
    build(text).expect()
    before = build.run("cat", "/out")
    assert cached(build(text, "--no-cache").expect()) == 0
    after = build.run("cat", "/out")
    assert after != before
    assert cached(build(text).expect()) == 2
    assert build.run("cat", "/out") == after


def test_failed_step_is_not_kept_but_all_before_it_is(build: Builds) -> None:
    text = f"FROM localhost/base:1\nRUN echo {time.time_ns()} > /out\nRUN test -e /none\n"
    assert "did not complete" in build(text).expect(1).err
    done = build(text).expect(1)
    assert cached(done) == 1 and "did not complete" in done.err


def test_stage_without_the_cache_is_seen_by_those_that_use_it(build: Builds) -> None:
    text = (
        "FROM localhost/base:1 AS made\n"
        "RUN cat /proc/sys/kernel/random/uuid > /out\n"
        "FROM made AS upon\n"
        "RUN cat /out > /copy\n"
        "FROM localhost/base:1\n"
        "COPY --from=made /out /out\n"
        "COPY --from=upon /copy /copy\n"
        "RUN --mount=type=bind,from=made,target=/m cat /m/out > /bound\n"
    )
    build(text).expect()
    before = build.run("cat", "/out")
    assert cached(build(text).expect()) == 5
    assert cached(build(text, "--no-cache-filter=made").expect()) == 0
    after = build.run("cat", "/out")
    assert after != before
    assert build.run("cat", "/copy", "/bound") == after * 2


def test_options_of_copy_from_a_stage_count(build: Builds) -> None:
    text = "FROM localhost/base:1 AS made\nRUN mkdir /d && echo a > /d/a && echo b > /d/b\n"
    text += "FROM localhost/base:1\nCOPY --from=made {} /d/ /to/\n"
    build(text.format("--exclude=a")).expect()
    assert build.run("ls", "/to") == "b\n"
    build(text.format("--exclude=b")).expect()
    assert build.run("ls", "/to") == "a\n"
    build(text.format("--chown=5:6")).expect()
    assert build.run("stat", "-c", "%u:%g", "/to/a") == "5:6\n"
    build(text.format("--chmod=600")).expect()
    assert build.run("stat", "-c", "%a", "/to/a") == "600\n"


def test_results_are_taken_over_to_a_single_id(build: Builds) -> None:
    """As `run` has it: layers of many ids are copied for the map of one, nothing is done anew."""
    (build.context / "file").write_text(f"{time.time_ns()}")
    text = "FROM localhost/base:1\nCOPY --chown=5:6 file /file\nRUN cat /file > /copy\n"
    build(text).expect()
    identifier = build.inspect()["Id"]
    assert cached(build(text, "--userns=single").expect()) == 2
    assert build.inspect()["Id"] == identifier
    output = build.rless("run", "--rm", "--network=none", "--userns=single", NAME, "cat", "/copy")
    assert output.expect().out == (build.context / "file").read_text()


def test_results_of_a_single_id_are_not_taken_over(build: Builds) -> None:
    """Its files have lost their owners, and none are made up."""
    (build.context / "file").write_text(f"{time.time_ns()}")
    text = "FROM localhost/base:1\nCOPY file /file\nRUN chown 5:6 /file\n"
    build(text, "--userns=single").expect()
    assert cached(build(text).expect()) == 0
    assert build.run("stat", "-c", "%u:%g", "/file") == "5:6\n"
    assert cached(build(text).expect()) == 2


# -- layers that are sealed while the next step is done ---------------------------------------

# More than is hashed at once; the same bytes and times in each build, but for what follows.
BIG = "RUN head -c 20000000 /dev/zero > /big && touch -d @1 /big"


def entries(build: Builds, text: str) -> list[Path]:
    """Return the files of the cache's entries of an instruction."""
    found = build.rless.storage.glob("build/cache/*/*")
    return [path for path in found if json.loads(path.read_text())["text"] == text.strip()]


def test_big_layers_are_whole_and_cached(build: Builds, tmp_path: Path) -> None:
    (build.context / "file").write_text("x")
    text = (
        f"FROM localhost/base:1\n{seed()}{BIG}\nRUN wc -c < /big > /size; mv /big /moved\n"
        f"WORKDIR /made\n{BIG}\nCOPY file /\n{BIG}\nWORKDIR /\n{BIG}\n"
    )
    build(text).expect()
    assert build.run("sh", "-c", "cat /size; wc -c < /moved; wc -c < /big; ls -d /made") == (
        "20000000\n20000000\n20000000\n/made\n"
    )
    assert cached(build(text).expect()) == 9
    # What is saved is proven by the digests of the config.
    build.rless("save", "-q", "-o", str(tmp_path / "saved"), NAME).expect()
    assert not list(build.rless.storage.glob("build/locks/*"))


def test_big_layer_before_a_step_that_fails_is_kept(build: Builds) -> None:
    text = f"FROM localhost/base:1\n{seed()}{BIG}\nRUN false\n"
    assert build(text).code == 1
    assert cached(build(text)) == 2


@pytest.mark.parametrize("differs", [False, True])
def test_step_upon_a_big_layer_that_is_made_anew(build: Builds, differs: bool) -> None:
    """Its result is taken from the cache only if it is on top of the same tree."""
    big = f"{BIG}; cat /proc/sys/kernel/random/uuid > /id" if differs else BIG
    big += f"; : {time.time_ns()}"
    text = f"FROM localhost/base:1\n{seed()}{big}\nRUN cp /id /copy || :\n"
    build(text).expect()
    (entry,) = entries(build, big)
    entry.unlink()
    assert cached(build(text).expect()) == (1 if differs else 2)
    if differs:
        build.run("cmp", "/id", "/copy")
