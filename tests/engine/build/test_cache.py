"""The build cache on disk: entries, what they keep alive, locks, prune, SIGKILL; class 58."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.engine.build import caches
from rootless.engine.build.cache import Cache, trim
from rootless.errors import RlessError
from rootless.image.store import build_cache
from rootless.image.store.ownership import delete_any
from rootless.image.store.store import Image, Store
from rootless.image.transfer import prune_build_cache
from rootless.image.transfer.remove import collect, remove
from rootless.linux.idmap import call_in_userns
from tests.lib.image_store import Workshop, map_for, map_of
from tests.lib.images import layer
from tests.lib.kills import Moments, forked
from tests.lib.product import Product, wait_for

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

KEYS = [f"{number:064x}" for number in range(1, 9)]


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path)
    yield made
    delete_any(str(tmp_path), "store")


def steps(workshop: Workshop, count: int = 3, size: int = 1000) -> tuple[Image, Cache]:
    """Return an image of some layers, and a cache in which each of them is the result of a step."""
    layers = [layer({f"f{number}": "x" * size}) for number in range(count)]
    image = workshop.unpack(layers)
    cache = Cache(workshop.root, map_for(image).key)
    for number in range(count):
        cache.store(KEYS[number], image.chain[: number + 1], sizes=[size], text=f"RUN {number}")
    return image, cache


def used(workshop: Workshop, key: str, seconds: float) -> None:
    """Say when an entry was used last."""
    os.utime(build_cache.entry_path(workshop.root, key), (seconds, seconds))


def layers_of(workshop: Workshop) -> set[str]:
    found = set()
    for key in os.listdir(f"{workshop.root}/layers"):
        found |= {name for name in os.listdir(f"{workshop.root}/layers/{key}") if "." not in name}
    return found


def test_a_result_is_found_and_its_use_noted(workshop: Workshop) -> None:
    image, cache = steps(workshop)
    used(workshop, KEYS[1], 1000)
    entry = cache.find(KEYS[1])
    assert entry is not None
    assert entry.chain == tuple(image.chain[:2])
    assert (entry.sizes, entry.text, entry.map) == ((1000,), "RUN 1", map_for(image).key)
    again = cache.find(KEYS[1])
    assert again is not None
    assert again.used > 1000
    assert cache.find(KEYS[7]) is None


def test_entries_are_private(workshop: Workshop) -> None:
    steps(workshop)
    for directory, names, files in os.walk(f"{workshop.root}/build"):
        for name in (*names, *files, "."):
            status = os.lstat(f"{directory}/{name}")
            assert stat.S_IMODE(status.st_mode) & 0o077 == 0
            assert status.st_uid == os.getuid()


def test_a_result_under_another_map_is_none(workshop: Workshop) -> None:
    steps(workshop)
    assert Cache(workshop.root, "u7g7").find(KEYS[0]) is None


def test_an_entry_without_its_layers_is_none(workshop: Workshop) -> None:
    image, cache = steps(workshop)
    cache.store(KEYS[4], [*image.chain, "sha256:" + "0" * 64])
    assert cache.find(KEYS[4]) is None
    cache.store(KEYS[5], [])
    assert build_cache.read(workshop.root, KEYS[5]) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version":0}', '{"version":1,"chain":["../x"]}'])
def test_a_damaged_entry_is_none_and_goes(workshop: Workshop, text: str) -> None:
    _, cache = steps(workshop)
    path = Path(build_cache.entry_path(workshop.root, KEYS[0]))
    path.write_text(text)
    assert cache.find(KEYS[0]) is None
    assert KEYS[0] not in build_cache.every(workshop.root)
    prune_build_cache.prune(workshop.store)
    assert not path.exists()


def test_a_key_that_is_a_path_is_refused(workshop: Workshop) -> None:
    for key in ("../" * 10 + "etc/passwd", "", "a" * 63, "A" * 64):
        with pytest.raises(RlessError):
            Cache(workshop.root, "x").find(key)


def test_root_of_another_map_stores_what_the_caller_reads(workshop: Workshop) -> None:
    image, _ = steps(workshop, 1)

    def act() -> None:
        os.umask(0)
        cache = Cache(workshop.root, map_for(image).key)
        with cache.lock(KEYS[6]):
            cache.store(KEYS[6], image.chain)

    call_in_userns(map_of(5, 5), act)
    assert build_cache.read(workshop.root, KEYS[6]) is not None
    test_entries_are_private(workshop)


def test_an_image_that_is_removed_does_not_empty_the_cache(workshop: Workshop) -> None:
    image, cache = steps(workshop)
    remove(workshop.store, image.id, force=True, used=[])
    collect(workshop.store)
    assert len(layers_of(workshop)) == 3
    assert cache.find(KEYS[2]) is not None
    keys, freed = prune_build_cache.prune(workshop.store)
    assert sorted(keys) == KEYS[:3]
    assert freed.bytes == 3000
    assert layers_of(workshop) == set()
    assert cache.find(KEYS[2]) is None


def test_what_images_have_goes_only_with_all(workshop: Workshop) -> None:
    image, _ = steps(workshop)
    other = workshop.unpack([layer({"other": "y" * 50})])
    cache = Cache(workshop.root, map_for(other).key)
    cache.store(KEYS[5], other.chain)
    remove(workshop.store, other.id, force=True, used=[])
    usage = prune_build_cache.measure(workshop.store)
    assert (usage.size, len(usage.entries), len(usage.shared)) == (50, 4, 3)
    keys, freed = prune_build_cache.prune(workshop.store)
    assert (keys, freed.bytes) == ([KEYS[5]], 50)
    keys, freed = prune_build_cache.prune(workshop.store, every=True)
    assert sorted(keys) == KEYS[:3]
    assert freed.bytes == 0
    assert image.layer_dirs(map_for(image).key) is not None
    assert len(layers_of(workshop)) == 3


def test_what_is_known_of_contexts_goes_when_it_is_old(workshop: Workshop) -> None:
    directory = Path(workshop.root, "build/content")
    directory.mkdir(parents=True, exist_ok=True)
    for name, days in (("new", 0), ("url-month", 30), ("year", 365)):
        (directory / name).write_text("")
        used = time.time() - days * 86400
        os.utime(directory / name, (used, used))
    prune_build_cache.prune(workshop.store, keep=10**9)
    assert sorted(os.listdir(directory)) == ["new", "url-month"]
    prune_build_cache.prune(workshop.store, before=time.time() - 86400)
    assert os.listdir(directory) == ["new"]
    prune_build_cache.prune(workshop.store, every=True)
    assert os.listdir(directory) == []


def test_what_was_used_lately_stays(workshop: Workshop) -> None:
    image, cache = steps(workshop)
    remove(workshop.store, image.id, force=True, used=[])
    used(workshop, KEYS[2], 1000)
    keys, freed = prune_build_cache.prune(workshop.store, before=2000)
    assert (keys, freed.bytes) == ([KEYS[2]], 1000)
    assert cache.find(KEYS[1]) is not None


def test_the_oldest_go_until_enough_is_free(workshop: Workshop) -> None:
    image, cache = steps(workshop)
    other = workshop.unpack([layer({"other": "y" * 1000})])
    cache.store(KEYS[5], other.chain)
    for gone in (image, other):
        remove(workshop.store, gone.id, force=True, used=[])
    now = time.time()
    for key in KEYS[:3]:  # one build, an hour ago: its last step goes first
        used(workshop, key, now - 3600)
    keys, freed = prune_build_cache.prune(workshop.store, every=True, keep=2500)
    assert (keys, freed.bytes) == ([KEYS[2], KEYS[1]], 2000)
    assert cache.find(KEYS[0]) is not None
    assert cache.find(KEYS[5]) is not None


def test_the_ceiling_is_a_share_of_the_file_system(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, cache = steps(workshop)
    room = os.statvfs(workshop.root)
    most = prune_build_cache.ceiling(workshop.store)
    assert most == min(room.f_blocks * room.f_frsize // 10, 20 * 10**9)
    monkeypatch.setattr(prune_build_cache, "_CEILING", 1 << 80)
    assert prune_build_cache.ceiling(workshop.store) == room.f_blocks * room.f_frsize // 10
    remove(workshop.store, image.id, force=True, used=[])
    assert trim(workshop.root) == 0
    monkeypatch.setattr(prune_build_cache, "_CEILING", 1500)
    assert trim(workshop.root) == 2000
    assert cache.find(KEYS[0]) is not None


# -- cache mounts ----------------------------------------------------------------------------------


def mount(workshop: Workshop, number: int, size: int) -> caches.Cache:
    """Return a cache mount that a step has, as another user's."""
    made = caches.Cache(f"{workshop.root}/build/mounts", f"{number:064x}")
    os.makedirs(f"{workshop.root}/build/mounts", 0o700, exist_ok=True)
    made.take("shared", lambda: None)
    call_in_userns(map_of(5, 5), _fill_mount, made.path, size)
    return made


def _fill_mount(path: str, size: int) -> None:
    os.makedirs(f"{path}/deep", 0o700)
    Path(f"{path}/deep/file").write_bytes(b"x" * size)


def test_cache_mounts_go_but_for_those_in_use(workshop: Workshop) -> None:
    _, cache = steps(workshop)
    one, two = mount(workshop, 1, 5000), mount(workshop, 2, 5000)
    one.close()
    sizes = {one.name: 5000, two.name: 5000}
    assert set(build_cache.mounts(workshop.root)) == set(sizes)
    keys, freed = prune_build_cache.prune(workshop.store, mounts=sizes, before=1000)
    assert (keys, freed.bytes) == ([], 0)
    keys, freed = prune_build_cache.prune(workshop.store, mounts=sizes)
    assert (keys, freed.bytes) == ([one.name], 5000)
    assert (one.exists(), two.exists()) == (False, True)
    two.close()
    assert prune_build_cache.prune(workshop.store, mounts=sizes, keep=5000)[0] == []
    assert prune_build_cache.prune(workshop.store, mounts=sizes)[0] == [two.name]
    assert cache.find(KEYS[0]) is not None


# -- locks -----------------------------------------------------------------------------------------


def second(cache: Cache, ready: int, chain: list[str] | None) -> None:
    """Do as a step of another build does: wait, look, and do it if it isn't there."""
    with cache.lock(KEYS[7], lambda: os.write(ready, b"w")) as held:
        found = cache.find(KEYS[7]) is not None
        if not found and chain:
            cache.store(KEYS[7], chain)
        os.write(ready, json.dumps([held.waited, found]).encode())


def test_the_second_build_of_a_step_waits_and_finds(workshop: Workshop) -> None:
    image, cache = steps(workshop, 1)
    reader, writer = os.pipe()
    with cache.lock(KEYS[7]) as held:
        assert not held.waited
        pid = forked(lambda: second(cache, writer, None))
        assert os.read(reader, 1) == b"w"
        cache.store(KEYS[7], image.chain)
    os.waitpid(pid, 0)
    assert json.loads(os.read(reader, 100)) == [True, True]
    assert os.listdir(f"{workshop.root}/build/locks") == []


def test_the_second_does_the_step_itself_if_the_first_dies(workshop: Workshop) -> None:
    image, cache = steps(workshop, 1)
    held, holds = os.pipe()
    reader, writer = os.pipe()

    def first() -> None:
        with cache.lock(KEYS[7]):
            os.write(holds, b"h")
            signal.pause()

    dies = forked(first)
    assert os.read(held, 1) == b"h"
    pid = forked(lambda: second(cache, writer, image.chain))
    assert os.read(reader, 1) == b"w"
    os.kill(dies, signal.SIGKILL)
    os.waitpid(dies, 0)
    os.waitpid(pid, 0)
    assert json.loads(os.read(reader, 100)) == [True, False]
    assert cache.find(KEYS[7]) is not None


def test_the_lock_of_a_dead_build_is_cleared(workshop: Workshop) -> None:
    _, cache = steps(workshop, 1)

    def first() -> None:
        with cache.lock(KEYS[7]):
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(forked(first), 0)
    assert os.listdir(f"{workshop.root}/build/locks") == [KEYS[7]]
    collect(workshop.store)
    assert os.listdir(f"{workshop.root}/build/locks") == []


# -- SIGKILL ---------------------------------------------------------------------------------------


def test_sigkill_while_storing_leaves_whole_entries(workshop: Workshop) -> None:
    image, cache = steps(workshop, 2)
    entries = [f"{number:02x}" * 32 for number in range(100)]

    def act() -> None:
        for key in entries:
            with cache.lock(key):
                cache.store(key, image.chain)
        prune_build_cache.prune(workshop.store, every=True, keep=1)

    moments = Moments(seed=11)
    begin = time.monotonic()
    act()
    moments.measured("store", time.monotonic() - begin)
    while moments.hits["store"] < 30:
        moments.kill("store", forked(act))
        for key in entries:
            path = build_cache.entry_path(workshop.root, key)
            assert (build_cache.read(workshop.root, key) is not None) == os.path.exists(path)
        assert all(entry.chain == tuple(image.chain) for entry in map_entries(workshop, entries))
    prune_build_cache.prune(workshop.store, every=True)
    collect(workshop.store)
    assert build_cache._files(workshop.root) == []
    assert os.listdir(f"{workshop.root}/build/locks") == []
    assert workshop.store.lookup(image.id) is not None
    assert len(layers_of(workshop)) == 2


def map_entries(workshop: Workshop, keys: list[str]) -> list[build_cache.Entry]:
    found = (build_cache.read(workshop.root, key) for key in keys)
    return [entry for entry in found if entry is not None]


# -- the command line ------------------------------------------------------------------------------


def cached(rless: Product) -> str:
    """Keep the product's image as the result of a step; return its id."""
    image = Store(str(rless.storage)).lookup(rless.image)
    assert image is not None
    cache = Cache(str(rless.storage), next(iter(image.keys)))
    cache.store(KEYS[0], image.chain, text="RUN make\033[31m")
    return image.id


def build_cache_row(rless: Product) -> dict[str, str]:
    lines = rless("system", "df", "--format", "json").expect().lines()
    (row,) = [row for row in map(json.loads, lines) if row["Type"] == "Build Cache"]
    found: dict[str, str] = row
    return found


def test_builder_prune_and_system_df(own_rless: Product) -> None:
    rless = own_rless
    rless("run", "--rm", "--network", "none", rless.image, "true").expect()
    identifier = cached(rless)
    row = build_cache_row(rless)
    assert (row["TotalCount"], row["Active"]) == ("1", "1")
    verbose = rless("system", "df", "-v").expect().out
    assert KEYS[0][:12] in verbose
    assert "\033" not in verbose
    assert rless("builder", "prune", "-f").expect().out == "Total reclaimed space: 0B\n"
    rless("rmi", "-f", identifier).expect()
    rless("image", "prune", "-af").expect()
    row = build_cache_row(rless)
    assert (row["TotalCount"], row["Active"]) == ("1", "0")
    assert not row["Reclaimable"].startswith("0B")
    kept = rless("builder", "prune", "-f", "--keep-storage", "1g").expect()
    assert kept.out == "Total reclaimed space: 0B\n"
    until = rless("builder", "prune", "-f", "--filter", "until=1h").expect()
    assert until.out == "Total reclaimed space: 0B\n"
    made = rless.storage / "build/mounts" / KEYS[3]
    (made / "deep").mkdir(parents=True)
    (made.parent / "locks").mkdir()
    (made.parent / "locks" / KEYS[3]).touch()
    assert build_cache_row(rless)["TotalCount"] == "2"
    assert "exec.cachemount" in rless("system", "df", "-v").expect().out
    done = rless("builder", "prune", stdin=b"y\n").expect()
    assert f"{KEYS[3]}\n" in done.out
    assert not made.exists()
    assert "WARNING! This will remove all dangling build cache." in done.out
    assert "Deleted build cache objects:\n" in done.out
    assert f"{KEYS[0]}\n" in done.out
    assert build_cache_row(rless)["TotalCount"] == "0"
    for wrong in (("--keep-storage", "much"), ("--filter", "label=x"), ("--filter", "until=never")):
        rless("builder", "prune", "-f", *wrong).one_line_error()


def test_system_prune_removes_the_build_cache(own_rless: Product) -> None:
    rless = own_rless
    rless("run", "--rm", "--network", "none", rless.image, "true").expect()
    identifier = cached(rless)
    assert "build cache objects" not in rless("system", "prune", "-f").expect().out
    rless("rmi", "-f", identifier).expect()
    done = rless("system", "prune", "-f").expect()
    assert f"Deleted build cache objects:\n{KEYS[0]}\n" in done.out
    wait_for(lambda: build_cache_row(rless)["TotalCount"] == "0", "an empty cache")
