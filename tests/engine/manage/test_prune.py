"""`container prune`, `system df` and `system prune`: what they remove and count."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.lib.life import row
from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")


def du(rless: Product) -> int:
    """Return the bytes that du(1) sees in the storage, with the files of all ids."""
    return int(rless("unshare", "du", "-sB1", str(rless.storage)).expect().out.split()[0])


def ended(rless: Product, name: str, *words: str) -> None:
    rless("run", "--name", name, "--network=none", *words).expect()


def size_of(text: str) -> float:
    """Return the bytes of Docker's "1.23MB"."""
    number = text.rstrip("BkMGT")
    unit = text[len(number) :].removesuffix("B")
    return float(number) * 1000 ** " kMGT".index(unit or " ")


# -- container prune -------------------------------------------------------------------------------


def test_container_prune_removes_stopped_containers(rless: Product) -> None:
    ended(rless, "ended", "-l", "a=b", rless.image, "sh", "-c", "head -c 1000000 /dev/zero >/x")
    ended(rless, "other", rless.image, "true")
    rless.detach("running", "", "sleep", "600")
    ids = {name: row(rless, name)["ID"] for name in ("ended", "other")}
    done = rless("container", "prune", "-f", "--filter", "label=a=b").expect()
    heading, name, empty, total = done.lines()
    assert (heading, name, empty) == ("Deleted Containers:", ids["ended"], "")
    assert 1e6 < size_of(total.removeprefix("Total reclaimed space: ")) < 1.2e6
    assert (
        rless("container", "prune", "-f", "--filter", "label!=c").expect().lines()[1]
        == (ids["other"])
    )
    assert rless("container", "prune", "-f").expect().out == "Total reclaimed space: 0B\n"
    assert row(rless, "running")["State"] == "running"
    rless("rm", "-f", "running").expect()


def test_container_prune_respects_until(rless: Product) -> None:
    ended(rless, "old", rless.image, "true")
    assert "0B" in rless("container", "prune", "-f", "--filter", "until=10m").expect().out
    assert row(rless, "old")["State"] == "exited"
    time.sleep(0.1)
    rless("container", "prune", "-f", "--filter", f"until={time.time()}").expect()
    assert rless.containers() == []
    for wrong in ("until=never", "size=1", "x"):
        rless("container", "prune", "-f", "--filter", wrong).one_line_error()


def test_prune_asks_for_confirmation(rless: Product) -> None:
    ended(rless, "kept", rless.image, "true")
    for answer in (b"", b"n\n", b"no\n", b"\n", b"maybe\n"):
        done = rless("container", "prune", stdin=answer).expect(0)
        warning = "WARNING! This will remove all stopped containers.\nAre you sure"
        assert done.out.startswith(warning)
        assert done.err == ""
        for kind in ("builder", "image", "volume", "system"):
            done = rless(kind, "prune", stdin=answer).expect(0)
            assert "Are you sure" in done.out
            assert "eclaimed" not in done.out
            assert done.err == ""
    assert row(rless, "kept")
    assert "Deleted Containers:" in rless("container", "prune", stdin=b"y\n").expect().out
    assert rless.containers() == []


# -- system df -------------------------------------------------------------------------------------


def fill(rless: Product) -> None:
    """Make a bit of everything: holes, hard links, files of other ids."""
    script = (
        "dd if=/dev/zero of=/sparse bs=1 count=1 seek=50M 2>/dev/null;"
        "head -c 700000 /dev/zero >/a;"
        "ln /a /b; mkdir /d; head -c 300000 /dev/zero >/d/f; chown -R 1000:1000 /d; chmod 700 /d;"
        "head -c 500000 /dev/zero >/v/file; chown 1000 /v/file; chmod 700 /v"
    )
    ended(rless, "full", "-v", "kept:/v", rless.image, "sh", "-c", script)


def test_system_df_agrees_with_du(own_rless: Product) -> None:
    rless = own_rless
    fill(rless)
    rless("volume", "create", "unused").expect()
    rless.detach("running", "", "sleep", "600")
    rows = {
        entry["Type"]: entry
        for entry in map(json.loads, rless("system", "df", "--format", "json").expect().lines())
    }
    assert list(rows) == [
        "Images", "Containers", "Local Volumes", "Build Cache", "In Flight", "Caches",
    ]  # fmt: skip
    total = sum(size_of(entry["Size"]) for entry in rows.values())
    real = du(rless)
    assert abs(total - real) < 0.002 * real + 1024, (rows, real)
    assert (rows["Containers"]["TotalCount"], rows["Containers"]["Active"]) == ("2", "1")
    assert (rows["Local Volumes"]["TotalCount"], rows["Local Volumes"]["Active"]) == ("2", "1")
    assert (rows["Images"]["TotalCount"], rows["Images"]["Active"]) == ("1", "1")
    assert 1.0e6 < size_of(rows["Containers"]["Size"]) < 1.5e6  # the hole and the link cost nothing
    assert size_of(rows["Local Volumes"]["Reclaimable"].split()[0]) < 20000
    out = rless("system", "df").expect().lines()
    assert out[0].split() == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    verbose = rless("system", "df", "-v").expect().out
    for text in ("Images space usage:", "full", "running", "kept", "unused", "Caches usage:"):
        assert text in verbose
    found = json.loads(rless("system", "df", "-v", "--format", "json").expect().out)
    assert {volume["Name"]: volume["Links"] for volume in found["Volumes"]} == {
        "kept": "1", "unused": "0",
    }  # fmt: skip
    assert sorted(item["Names"] for item in found["Containers"]) == ["full", "running"]
    assert (len(found["Images"]), found["BuildCache"]) == (1, [])
    names = "{{range .Containers}}{{.Names}} {{end}}"
    done = rless("system", "df", "-v", "--format", names).expect()
    assert sorted(done.out.split()) == ["full", "running"]
    rless("rm", "-f", "full", "running").expect()
    rless("volume", "rm", "kept", "unused").expect()


def test_removed_container_frees_its_space(own_rless: Product) -> None:
    rless = own_rless
    rless("volume", "create", "lasting").expect()
    ended(rless, "first", rless.image, "true")
    rless("rm", "first").expect()
    before = du(rless)
    fill(rless)
    assert du(rless) > before + 1_000_000
    rless("rm", "full").expect()
    rless("volume", "rm", "kept").expect()
    grown = (rless.storage / "events").stat().st_blocks * 512
    assert abs(du(rless) - before) <= grown
    rless("volume", "rm", "lasting").expect()


# -- system prune ----------------------------------------------------------------------------------


def test_system_prune_all_leaves_an_empty_storage(own_rless: Product) -> None:
    rless = own_rless
    rless("pull", "-q", rless.image).expect()
    fill(rless)
    rless("volume", "create", "unused").expect()
    left = rless.storage / "tmp" / "999999-dead"
    left.mkdir(parents=True)
    (left / "file").write_bytes(bytes(300000))
    hidden = rless.storage / "volumes" / ".removed-0011223344556677"
    (hidden / "_data").mkdir(parents=True)
    before = du(rless)
    done = rless("system", "prune", "-a", "--volumes", "-f").expect()
    lines = done.lines()
    for heading in ("Deleted Containers:", "Deleted Volumes:", "Deleted Images:"):
        assert heading in lines
    assert {"kept", "unused"} <= set(lines)
    reclaimed = size_of(lines[-1].removeprefix("Total reclaimed space: "))
    after = du(rless)
    assert abs(reclaimed - (before - after)) < 0.01 * before
    files = [
        os.path.join(directory, name)
        for directory, _, names in os.walk(rless.storage)
        for name in names
    ]
    fixed = {"events", "booted", "reserved", ".lock", "lock", ".complete"}
    assert {os.path.basename(path) for path in files} <= fixed, files
    assert after < 150_000
    assert rless("system", "prune", "-a", "--volumes", "-f").out == "Total reclaimed space: 0B\n"


def test_system_prune_keeps_used_objects(own_rless: Product) -> None:
    rless = own_rless
    ended(rless, "ended", "-v", "named:/x", "-v", "/y", rless.image, "true")
    rless.detach("running", "-v mine:/x -v /y", "sleep", "600")
    done = rless("system", "prune", "-a", "-f").expect()
    assert "Deleted Volumes:" not in done.out
    assert row(rless, "running")["State"] == "running"
    assert len(rless("volume", "ls", "-q").lines()) == 4
    rless("system", "prune", "--volumes", "-f").expect()
    assert len(rless("volume", "ls", "-q").lines()) == 3  # the anonymous one of the ended one went
    rless.sh("true")  # its image is there still: a container runs from it
    error = rless("system", "prune", "-f", "--volumes", "--filter", "until=1h").expect(1)
    assert "until" in error.one_line_error()
    done = rless("system", "prune", stdin=b"n\n").expect()
    assert "all stopped containers" in done.out
    rless("rm", "-f", "running").expect()
    rless("volume", "prune", "-a", "-f").expect()


def test_system_prune_works_on_an_empty_storage(tmp_path: Path, rless: Product) -> None:
    env = {"RLESS_STORAGE": str(tmp_path / "new")}
    rless("system", "df", env=env).expect()
    assert rless("system", "prune", "-a", "-f", env=env).expect().out == (
        "Total reclaimed space: 0B\n"
    )
