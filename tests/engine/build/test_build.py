"""`rless build`, whole: images that run, stages, the cache, failures, and what a kill leaves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lib.product import Product, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lib.product import Result

    Build = Callable[..., Result]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


@pytest.fixture
def build(rless: Product, tmp_path: Path) -> Build:
    """Return a function that builds a Dockerfile in a context of its own."""
    rless("tag", rless.image, "localhost/base:1").expect()
    context = tmp_path / "context"
    context.mkdir(exist_ok=True)

    def run(text: str, *words: str, tag: str = "localhost/made:1", **more: Any) -> Result:
        (context / "Dockerfile").write_text(text)
        names = ("-t", tag) if tag else ()
        return rless("build", "--progress=plain", *names, *words, str(context), **more)

    return run


def inspect(rless: Product, name: str = "localhost/made:1") -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(rless("image", "inspect", name).expect().out)
    return found[0]


def run_made(rless: Product, *words: str) -> str:
    return rless("run", "--rm", "--network=none", "localhost/made:1", *words).expect().out


def test_built_image_runs(rless: Product, build: Build, tmp_path: Path) -> None:
    (tmp_path / "context" / "file").write_text("from the context\n")
    build(
        "FROM localhost/base:1\n"
        "ENV WHO=me\n"
        "WORKDIR /srv/app\n"
        "COPY file .\n"
        "RUN echo by $WHO > made; chown 1000:1000 made; id -u > uid\n"
        "USER 1000\n"
        "RUN id -u >> made\n"
        "CMD cat file made uid\n"
    ).expect()
    assert run_made(rless) == "from the context\nby me\n1000\n0\n"
    config = inspect(rless)["Config"]
    assert config["User"] == "1000" and config["WorkingDir"] == "/srv/app"
    assert "WHO=me" in config["Env"]
    assert run_made(rless, "stat", "-c", "%u:%g", "/srv/app/made") == "1000:1000\n"


def test_only_the_result_of_the_last_stage_is_kept(rless: Product, build: Build) -> None:
    build(
        "FROM localhost/base:1 AS tool\n"
        "RUN mkdir /out && echo built > /out/file && ln -s file /out/link && echo x > /scratch\n"
        "FROM unknown AS unused\n"
        "RUN false\n"
        "FROM localhost/base:1\n"
        "COPY --from=tool /out /opt/\n"
    ).expect()
    assert run_made(rless, "cat", "/opt/link") == "built\n"
    assert run_made(rless, "sh", "-c", "test -e /scratch || echo none") == "none\n"


def test_stages_run_side_by_side(build: Build) -> None:
    """Each waits until the other has begun, which none could one after the other."""
    wait = (
        "i=0; until test -e /c/{other}; do i=$((i+1)); test $i -lt 300 || exit 9; sleep 0.1; done"
    )
    build(
        "FROM localhost/base:1 AS a\n"
        f"RUN --mount=type=cache,id=meet,target=/c touch /c/a; {wait.format(other='b')}\n"
        "FROM localhost/base:1 AS b\n"
        f"RUN --mount=type=cache,id=meet,target=/c touch /c/b; {wait.format(other='a')}\n"
        "FROM localhost/base:1\n"
        "COPY --from=a /bin/busybox /a\n"
        "COPY --from=b /bin/busybox /b\n",
        "--no-cache",
    ).expect()


def test_second_build_takes_all_from_the_cache(
    rless: Product, build: Build, tmp_path: Path
) -> None:
    text = (
        "FROM localhost/base:1\nARG seed\nCOPY file /file\nRUN echo $seed; cat /file > /copy\n"
        "WORKDIR /work\nRUN date > /when\n"
    )
    file = tmp_path / "context" / "file"
    file.write_text("1")
    words = ("--build-arg", f"seed={time.time()}")
    build(text, *words).expect()
    when = run_made(rless, "cat", "/when")
    file.touch()  # times do not count
    again = build(text, *words).expect()
    assert again.err.count("CACHED") == 4
    assert run_made(rless, "cat", "/when") == when
    file.write_text("2")
    assert "CACHED" not in build(text, *words).expect().err
    assert run_made(rless, "cat", "/copy") == "2"


def test_nothing_is_shown_as_cached_without_the_cache(build: Build) -> None:
    done = build("FROM localhost/base:1\nWORKDIR /\nRUN true\n", "--no-cache").expect()
    assert "WORKDIR /" in done.err and "CACHED" not in done.err


def test_changes_of_the_config_alone_invalidate_nothing(build: Build) -> None:
    seed = f"RUN echo {time.time()}"
    build(f"FROM localhost/base:1\nLABEL a=1\n{seed}\nCMD x\n").expect()
    again = build(f"FROM localhost/base:1\n# comment\nLABEL a=2\n\n{seed}\nEXPOSE 80\n").expect()
    assert again.err.count("CACHED") == 1


@pytest.mark.parametrize("name", ["BUILDKIT_SANDBOX_HOSTNAME", "HTTP_PROXY"])
def test_what_a_run_sees_of_build_arguments_is_part_of_its_key(build: Build, name: str) -> None:
    text = f"FROM localhost/base:1\nARG HTTP_PROXY\nRUN hostname; echo $HTTP_PROXY {time.time()}\n"
    for value in ("one", "two"):
        done = build(text, "--build-arg", f"{name}={value}", tag="").expect()
        assert f" {value}" in done.err and "CACHED" not in done.err


def test_failing_step_shows_its_lines(rless: Product, build: Build) -> None:
    done = build("FROM localhost/base:1\nRUN echo before; \\\n  exit 3\nRUN never\n", tag="")
    assert done.code == 1
    assert "exit code 3" in done.err
    assert "2 | >>> RUN echo before; \\" in done.err and "3 | >>>   exit 3" in done.err
    assert "Traceback" not in done.err
    rless.assert_clean()


def test_wrong_dockerfile_is_reported_before_anything_runs(build: Build) -> None:
    done = build("FROM localhost/base:1\nRUN true\nCOPPY a b\n", tag="")
    assert done.code == 1
    assert "line 3" in done.err and "COPY" in done.err
    assert "RUN true" not in done.err.replace(">>>", "") or "DONE" not in done.err


def test_names_stay_where_they_were_if_a_build_fails(rless: Product, build: Build) -> None:
    build("FROM localhost/base:1\nLABEL n=1\n").expect()
    before = inspect(rless)["Id"]
    assert build("FROM localhost/base:1\nLABEL n=2\nRUN false\n").code == 1
    assert inspect(rless)["Id"] == before


def test_history_and_layers_are_as_dockers(rless: Product, build: Build) -> None:
    build("FROM localhost/base:1\nENV a=1\nRUN touch /x\nCMD y\n").expect()
    lines = rless("history", "--format", "{{.CreatedBy}}|{{.Size}}", "localhost/made:1").lines()
    assert lines[0].startswith("CMD y|0")
    assert lines[1].startswith("RUN /bin/sh -c touch /x # buildkit|")
    assert lines[2].startswith("ENV a=1|0")


def test_image_goes_through_an_archive(rless: Product, build: Build, tmp_path: Path) -> None:
    build("FROM localhost/base:1\nRUN rm /bin/ls; mkdir -m 700 /d; chown 5 /d\n").expect()
    identifier = inspect(rless)["Id"]
    archive = tmp_path / "made.tar"
    rless("save", "-o", str(archive), "localhost/made:1").expect()
    rless("rmi", "localhost/made:1").expect()
    rless("builder", "prune", "-a", "-f").expect()
    rless("load", "-q", "-i", str(archive)).expect()
    assert inspect(rless)["Id"] == identifier
    assert run_made(rless, "stat", "-c", "%u %a", "/d") == "5 700\n"
    assert run_made(rless, "sh", "-c", "test -e /bin/ls || echo gone") == "gone\n"


def test_mount_points_leave_nothing_in_the_image(rless: Product, build: Build) -> None:
    build(
        "FROM localhost/base:1\nRUN --mount=type=tmpfs,target=/gone/deep true\nRUN true\n"
    ).expect()
    assert run_made(rless, "sh", "-c", "test -e /gone || echo none") == "none\n"
    size = rless("history", "--format", "{{.Size}}", "localhost/made:1").lines()
    assert size[:2] == ["0B", "0B"]


@pytest.mark.parametrize("userns", ["auto", "single"])
def test_killed_build_leaves_nothing(
    rless: Product, build: Build, tmp_path: Path, userns: str
) -> None:
    """The next `ps -a` removes it, also directories that nobody may enter."""
    context = tmp_path / "context"
    (context / "Dockerfile").write_text(
        f"FROM localhost/base:1\nRUN echo {time.time()} > /x; mkdir -p /closed/deep; "
        "chown -R 5:6 /closed; chmod 0 /closed/deep /closed; echo ready; sleep 100\n"
    )
    words = ("--progress=plain", "--network=none", f"--userns={userns}")
    process = rless.start("build", *words, str(context))
    assert process.stderr is not None
    while b" ready" not in (line := process.stderr.readline()):
        assert line, "the build ended"
    process.kill()
    process.wait()
    wait_for(lambda: not rless.processes(), "the processes to end")
    assert rless.leftovers(), "there is nothing to remove"
    rless("ps", "-aq").expect()
    rless.assert_clean()


def test_big_layer_is_kept_while_the_next_step_runs(
    rless: Product, build: Build, tmp_path: Path
) -> None:
    """So a kill in the next step loses nothing of it."""
    big = f"RUN head -c 20000000 /dev/zero > /big; : {time.time()}"
    context = tmp_path / "context"
    text = f"FROM localhost/base:1\n{big}\n"
    (context / "Dockerfile").write_text(f"{text}RUN echo ready; sleep 100\n")
    process = rless.start("build", "--progress=plain", "--network=none", str(context))
    assert process.stderr is not None
    while b" ready" not in (line := process.stderr.readline()):
        assert line, "the build ended"

    def kept() -> bool:
        found = rless.storage.glob("build/cache/??/*")
        return any(big in path.read_text() for path in found if path.suffix != ".tmp")

    wait_for(kept, "the layer to be kept")
    process.kill()
    process.wait()
    wait_for(lambda: not rless.processes(), "the processes to end")
    rless("ps", "-aq").expect()
    rless.assert_clean()
    assert build(f"{text}RUN true\n", "--network=none").expect().err.count(" CACHED\n") == 1


def test_one_id_is_enough(rless: Product, build: Build) -> None:
    build("FROM localhost/base:1\nRUN touch /x; chown 5:6 /x; id -u\n", "--userns=single").expect()
    done = rless("run", "--rm", "--network=none", "--userns=single", "localhost/made:1", "ls", "/x")
    assert done.expect().out == "/x\n"


def test_stated_owners_are_saved_without_subordinate_ids(
    rless: Product, build: Build, tmp_path: Path
) -> None:
    (tmp_path / "context" / "file").write_text("")
    text = "FROM localhost/base:1\nCOPY --chown=5:6 file /stated\n"
    build(text, "--userns=single", tag="localhost/single:1").expect()
    rless("save", "-q", "-o", str(tmp_path / "saved.tar"), "localhost/single:1").expect()
    rless("rmi", "localhost/single:1").expect()
    owners = {}
    with tarfile.open(tmp_path / "saved.tar") as saved:
        for member in saved.getmembers():
            file = saved.extractfile(member) if member.isfile() else None
            if file is not None and member.size > 1024:
                with contextlib.suppress(tarfile.ReadError), tarfile.open(fileobj=file) as layer:
                    owners |= {one.name: (one.uid, one.gid) for one in layer.getmembers()}
    assert owners["stated"] == (5, 6)


@pytest.mark.parametrize("words", [("--jobs=1",), ()])
def test_one_job_does_one_step_at_a_time(build: Build, words: tuple[str, ...]) -> None:
    """Also where there is one CPU for us, as of a job on a node of many."""
    stages = "".join(f"FROM localhost/base:1 AS s{n}\nRUN : {n}\n" for n in range(3))
    copies = "".join(f"COPY --from=s{n} /bin/busybox /b{n}\n" for n in range(3))
    before = os.sched_getaffinity(0)
    if not words:
        os.sched_setaffinity(0, {min(before)})
    try:
        done = build(f"{stages}FROM localhost/base:1\n{copies}", "--no-cache", *words).expect()
    finally:
        os.sched_setaffinity(0, before)
    events = re.findall(r"^#\d+ (\[s|DONE)", done.err, re.MULTILINE)
    assert events[:6] == ["[s", "DONE"] * 3, done.err
    assert build("FROM scratch\n", "--jobs=0").code == 125


def test_run_is_ended_after_its_time(build: Build) -> None:
    ran = build("FROM localhost/base:1\nRUN sleep 1000\n", "--timeout=300ms", "--no-cache")
    assert (ran.code, "ended after 0.3 s" in ran.err) == (1, True)
