"""`top`: processes of a container, read from /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.engine.query import top
from rootless.errors import RlessError
from tests.lib.images import File, Image, busybox_layer, layer
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def rows(rless: Product, *words: str) -> list[list[str]]:
    return [line.split() for line in rless("top", *words).expect().lines()]


def test_default_columns_match_docker(rless: Product) -> None:
    rless.detach("tt", "", "sh", "-c", "sleep 611 & sleep 612")
    wait_for(lambda: len(rows(rless, "tt")) == 3, "the processes")
    lines = rless("top", "tt").expect().lines()
    assert lines[0].split() == "UID PID PPID C STIME TTY TIME CMD".split()
    assert lines[0].startswith("UID                 PID                 PPID")
    found = [line.split(None, 7) for line in lines[1:]]
    assert [row[7] for row in found] == ["sleep 612", "sleep 611"]
    init = int(found[0][1])
    # The numbers are the host's.
    assert Path(f"/proc/{init}/cmdline").read_bytes() == b"sleep\x00612\x00"
    assert {row[2] for row in found[1:]} == {str(init)}
    assert rows(rless, "tt", "-ef")[0] == lines[0].split()
    assert rows(rless, "tt", "aux")[0] == (
        "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND".split()
    )
    rless("rm", "-f", "tt").expect()


def test_columns_can_be_chosen(rless: Product) -> None:
    rless.detach("tt", "--user 1000 --device /dev/null", "sleep", "613")
    assert rows(rless, "tt", "-o", "pid,ppid,comm,args")[0] == ["PID", "PPID", "COMMAND", "COMMAND"]
    (_, found) = rows(rless, "tt", "-eo", "uid,state,comm=NAME")
    assert found == [str(os.getuid()), "S", "sleep"]
    assert rows(rless, "tt", "-o", "comm=NAME")[0] == ["NAME"]
    for words, what in (
        (("-Z",), "'-Z'"), (("-o", "pid,nosuch"), "'nosuch'"), (("-o",), "-o"),
        (("aux", "--sort"), "--sort"),
    ):  # fmt: skip
        assert what in rless("top", "tt", *words).expect(1).one_line_error()
    rless("rm", "-f", "tt").expect()


def test_only_processes_of_the_container_are_listed(rless: Product) -> None:
    for flags in ("", "--pid host", "--userns nomap", "--userns single"):
        # In the host's pid namespace, children would outlive the container.
        children = "" if "host" in flags else "sleep 621 & (sleep 622 &); "
        rless.detach("tt", flags, "sh", "-c", f"{children}exec sleep 623")
        rless("exec", "-d", "tt", "sleep", "624").expect()
        wanted = {"sleep 623", "sleep 624", *(["sleep 621", "sleep 622"] if children else [])}
        wait_for(
            lambda wanted=wanted: set(rless("top", "tt", "-o", "args").lines()[1:]) == wanted, flags
        )
        rless("rm", "-f", "tt").expect()


def test_ps_of_the_image_is_not_executed(rless: Product) -> None:
    image = rless.add_image("ps", Image([busybox_layer(), layer({
        "bin/ps": File("#!/bin/sh\ntouch /tmp/ran\necho hostile\n", mode=0o755),
    })], {"Env": ["PATH=/bin"]}))  # fmt: skip
    rless.detach("tt", "", "sleep", "631", image=image)
    assert "hostile" not in rless("top", "tt").expect().out
    rless("exec", "tt", "ls", "/tmp/ran").expect(1)
    rless("rm", "-f", "tt").expect()


def test_control_characters_are_escaped(rless: Product) -> None:
    rless.detach("tt", "", "sh", "-c", "sleep 641; true", "\x1b[2J\nname")
    out = rless("top", "tt").expect().out
    assert "\x1b" not in out
    assert r"\x1b[2J\nname" in out
    rless("rm", "-f", "tt").expect()


def test_stopped_container_is_refused(rless: Product) -> None:
    rless.detach("tt", "", "true")
    wait_for(lambda: "Exited" in rless("ps", "-a").out, "its end")
    assert "tt is not running" in rless("top", "tt").expect(1).one_line_error()
    rless("rm", "tt").expect()


def test_arguments_are_parsed() -> None:
    assert top.parse(["-o", "pid", "-o", "user=WHO,x"]) == [("pid", None), ("user", "WHO,x")]
    assert top.parse(["-opid,tty"]) == [("pid", None), ("tty", None)]
    assert [name for name, _ in top.parse([])] == "user pid ppid c stime tty time args".split()
    assert top.parse(["-e", "-f"]) == top.parse(["-ef"]) == top.parse([])
    with pytest.raises(RlessError, match="'-p'"):
        top.parse(["-p", "1"])
