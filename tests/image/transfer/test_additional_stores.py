"""Additional stores: looked in without a lock or a write, used in place or copied, and trusted
only if nobody else can write there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless import config, paths
from rootless.errors import RlessError
from rootless.image.layer import remap_owners
from rootless.image.layer.tarsplit import open_layer
from rootless.image.store.ownership import delete_any
from rootless.image.transfer import remove
from rootless.linux.idmap import IdMap
from tests.lib import images
from tests.lib.image_store import SINGLE, Workshop, map_for, map_of
from tests.lib.images import File, Image, layer
from tests.lib.product import Product, own_rless, shared_product

__all__ = ["own_rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

BASE = layer({"base": File("x", uid=7), "etc": images.Dir(), "etc/passwd": "u:x:5:6::/:/x\n"})


def trust(monkeypatch: pytest.MonkeyPatch, *stores: Workshop | str) -> None:
    roots = [store if isinstance(store, str) else store.root for store in stores]
    monkeypatch.setattr(paths, "_additional", {})
    monkeypatch.setenv("RLESS_ADDITIONAL_STORES", ":".join(roots))


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Workshop]:
    """Have a second store, of the administrator so to speak."""
    directory = tmp_path / "shared"
    directory.mkdir()
    made = Workshop(directory)
    yield made
    _make_writable(made.root, True)
    delete_any(str(directory), "store")


def _make_writable(root: str, writable: bool) -> None:
    for directory, _, _ in os.walk(root):
        if directory.count("/", len(root)) < 3:
            try:
                os.chmod(directory, 0o755 if writable else 0o555)
            except PermissionError:
                pass  # of a subordinate id


@pytest.fixture
def image(shared: Workshop, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have an image in the shared store, which nobody can write then."""
    found = shared.unpack([BASE, layer({"top": "y"})])
    _make_writable(shared.root, False)
    trust(monkeypatch, shared)
    return found.name


# -- whom to trust -------------------------------------------------------------------------------


@pytest.mark.needs("ordinary user")
def test_store_writable_by_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trust(monkeypatch, "/usr")
    assert paths.additional_stores() == (("/usr", False),)
    trust(monkeypatch, "/tmp")
    with pytest.raises(RlessError, match=r"/tmp can be written by others \(mode 1777\)"):
        paths.additional_stores()


def test_store_of_the_user_is_trusted_and_missing_ones_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(monkeypatch, str(tmp_path))
    tmp_path.chmod(0o755)
    assert paths.additional_stores() == ((str(tmp_path), True),)
    trust(monkeypatch, str(tmp_path), "/none", f"{tmp_path}/not-mounted")
    assert paths.additional_stores() == ((str(tmp_path), True),)
    for mode in (0o775, 0o757):
        trust(monkeypatch, str(tmp_path))
        tmp_path.chmod(mode)
        with pytest.raises(RlessError, match="can be written by others"):
            paths.additional_stores()
    tmp_path.chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name, why in (("link", "not a directory"), ("file", "not a directory")):
        trust(monkeypatch, f"{tmp_path}/{name}")
        with pytest.raises(RlessError, match=why):
            paths.additional_stores()
    trust(monkeypatch, "relative")
    with pytest.raises(RlessError, match="is not an absolute path"):
        paths.additional_stores()
    trust(monkeypatch, str(tmp_path))
    real = os.lstat(tmp_path)
    foreign = os.stat_result((*real[:4], os.getuid() + 1, *real[5:]))
    monkeypatch.setattr(paths.os, "lstat", lambda path: foreign)
    with pytest.raises(RlessError, match="neither to you nor to root"):
        paths.additional_stores()


def test_stores_come_from_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f"[storage]\nadditional-stores = ['{tmp_path}']\n")
    monkeypatch.setattr(paths, "_additional", {})
    monkeypatch.setattr(config, "_loaded", {})
    monkeypatch.setenv("RLESS_CONFIG", str(file))
    monkeypatch.delenv("RLESS_ADDITIONAL_STORES", raising=False)
    tmp_path.chmod(0o700)
    assert paths.additional_stores() == ((str(tmp_path), True),)
    monkeypatch.setenv("RLESS_ADDITIONAL_STORES", "")
    assert paths.additional_stores() == ()


# -- use -----------------------------------------------------------------------------------------


def test_layers_of_the_same_map_are_used_in_place(
    workshop: Workshop, shared: Workshop, image: str
) -> None:
    before = shared.contents()
    found = workshop.pull(image, policy="missing")
    assert found.root == shared.root
    layers = found.layer_dirs(map_for(found).key)
    assert layers and all(path.startswith(shared.root) for path in layers)
    assert workshop.store.lookup(found.id) is not None
    assert workshop.store.lookup(found.id[7:19]) is not None
    assert not os.path.exists(workshop.root)
    assert shared.contents() == before


def test_layers_of_another_map_are_copied(workshop: Workshop, shared: Workshop, image: str) -> None:
    before = shared.contents()
    found = workshop.pull(image, policy="missing", idmap_for=lambda _: map_of(5, 6))
    assert found.root == workshop.root
    key = map_of(5, 6).key
    layers = found.layer_dirs(key)
    assert layers and not any(os.path.islink(path) for path in layers)
    tree = workshop.tree(found, 0, key)
    assert tree["base"]["text"] == "x"
    assert shared.contents() == before
    # Found again without the other store, and removed like any image of ours.
    assert remove.remove(workshop.store, found.id, force=True, used=())
    assert workshop.contents() == {}
    assert shared.contents() == before


def test_pull_reuses_layers_of_additional_stores(
    workshop: Workshop, shared: Workshop, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = workshop.unpack([BASE, layer({"mine": "z"})])
    layers = made.layer_dirs(map_for(made).key)
    assert layers is not None
    assert os.readlink(layers[0]).startswith(shared.root)
    assert not os.path.islink(layers[1])
    assert workshop.tree(made, 0)["base"]["uid"] == 7
    # The administrator takes it away: the next pull makes the layer anew.
    _make_writable(shared.root, True)
    for name in ("names", "ids"):
        shutil.rmtree(f"{shared.root}/images/{name}")
    for path in ("", "/layers", *(f"/layers/{key}" for key in os.listdir(f"{shared.root}/layers"))):
        os.chmod(shared.root + path, 0o700)
    remove.collect(shared.store)
    assert not os.path.exists(layers[0])
    remove.collect(workshop.store)
    assert not os.path.lexists(layers[0])
    again = workshop.pull(made.name)
    layers = again.layer_dirs(map_for(again).key)
    assert layers and os.path.isdir(layers[0]) and not os.path.islink(layers[0])
    remove.remove(workshop.store, made.name, force=False, used=())
    assert workshop.contents() == {}


def test_removal_leaves_the_additional_store(
    workshop: Workshop, shared: Workshop, image: str
) -> None:
    before = shared.contents()
    made = workshop.unpack([BASE])
    remove.remove(workshop.store, made.name, force=False, used=())
    assert workshop.contents() == {}
    assert shared.contents() == before


def test_rmi_of_a_read_only_image_is_refused(
    workshop: Workshop, shared: Workshop, image: str
) -> None:
    os.mkdir(workshop.root, 0o700)
    with pytest.raises(RlessError, match="which is read-only; only its owner") as caught:
        remove.remove(workshop.store, image, force=True, used=())
    assert caught.value.exit_code == 1
    assert shared.root in caught.value.message


# -- a store of root's ---------------------------------------------------------------------------


@pytest.fixture
def of_root(shared: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Make rless take the shared store for one of root's."""
    monkeypatch.setattr(paths, "additional_stores", lambda: ((shared.root, False),))
    return shared


@pytest.mark.parametrize("mode", ["single", "ranges"])
def test_owners_of_root_are_translated(workshop: Workshop, of_root: Workshop, mode: str) -> None:
    made = Image([BASE, layer({"suid": File("s", mode=0o4755), "g": File("t", gid=9)})])
    options = {"idmap_for": lambda _: SINGLE} if mode == "single" else {}
    name = of_root.unpack(made, **options).name
    target: IdMap = SINGLE if mode == "single" else map_of(0, 0)
    before = of_root.contents()
    found = workshop.pull(name, policy="missing", idmap_for=lambda _: target)
    assert found.root == workshop.root and found.copy_of == of_root.root
    layers = found.layer_dirs(target.key)
    assert layers and not any(os.path.islink(path) for path in layers)
    bottom, top = (workshop.tree(found, number, target.key) for number in (0, 1))
    assert bottom["base"]["text"] == "x"
    if mode == "ranges":
        assert bottom["base"]["uid"] == 7
        assert top["g"]["gid"] == 9
    else:
        assert {facts["uid"] for facts in (*bottom.values(), *top.values())} == {0}
    assert of_root.contents() == before
    # The copy is used from now on.
    second = workshop.store.lookup(name)
    assert second is not None and second.layer_dirs(target.key) == layers


def test_copy_follows_the_name_in_the_store(workshop: Workshop, of_root: Workshop) -> None:
    path = images.write_oci_archive(Image([BASE]), workshop.directory / "n.tar")
    first = of_root.pull(f"oci-archive:{path}")
    own = workshop.pull(first.name, policy="missing")
    assert own.id == first.id
    images.write_oci_archive(Image([BASE, layer({"new": "1"})]), workshop.directory / "n.tar")
    moved = of_root.pull(f"oci-archive:{path}")
    assert moved.id != first.id
    assert workshop.pull(first.name, policy="missing").id == moved.id


def test_single_id_layers_are_not_used_for_many_ids(workshop: Workshop, of_root: Workshop) -> None:
    name = of_root.unpack([BASE], idmap_for=lambda _: SINGLE).name
    found = workshop.pull(name, policy="missing")  # from the archive: the source has the owners
    assert workshop.tree(found, 0, map_for(found).key)["base"]["uid"] == 7


@pytest.mark.needs("ordinary user")
def test_unreadable_layers_are_fetched(
    workshop: Workshop, of_root: Workshop, capfd: pytest.CaptureFixture[str]
) -> None:
    name = of_root.unpack([layer({"shadow": File("s", mode=0)})]).name
    real = remap_owners.convert

    def refused(*arguments: object, **_: object) -> None:
        raise RlessError("cannot copy layer: Permission denied")

    remap_owners.convert = refused  # type: ignore[assignment]
    try:
        found = workshop.pull(name, policy="missing")
    finally:
        remap_owners.convert = real
    assert found.layer_dirs(map_for(found).key)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "layers that you may not read" in said


# -- the product ---------------------------------------------------------------------------------


def test_image_commands_work_with_additional_stores(own_rless: Product, tmp_path: Path) -> None:
    rless = own_rless
    shared = tmp_path / "shared"
    there = {"RLESS_STORAGE": str(shared)}
    rless("pull", "-q", rless.image, env=there).expect()
    rless("tag", rless.image, "tools/probe:1", env=there).expect()
    shared.chmod(0o755)
    more = {"RLESS_ADDITIONAL_STORES": str(shared)}
    words = ("--network", "none", "--rm", "--pull", "never", "tools/probe:1")
    done = rless("run", *words, "cat", "/data/seed", env=more).expect()
    assert done.out == "seed\n"
    assert not (rless.storage / "layers").exists()
    assert "no such image" in rless("image", "inspect", "tools/probe:1").expect(1).err
    listed = rless("images", "--format", "{{.Repository}}:{{.Tag}} {{.ReadOnly}}", env=more)
    assert "tools/probe:1 true" in listed.expect().lines()
    assert "R/O" in rless("images", env=more).expect().out
    assert not rless("images", "-q").expect().out
    inspected = rless("image", "inspect", "-f", "{{.ReadOnly}} {{index .RepoTags 0}}",
                      "tools/probe:1", env=more)  # fmt: skip
    assert inspected.expect().out == "true tools/probe:1\n"
    assert len(rless("history", "-q", "tools/probe:1", env=more).expect().lines()) == 2
    error = rless("rmi", "-f", "tools/probe:1", env=more).expect(1).one_line_error()
    assert "read-only" in error
    rless("tag", "tools/probe:1", "mine:1", env=more).expect()
    done = rless("run", *words[:-1], "mine:1", "cat", "/data/seed", env=more).expect()
    assert done.out == "seed\n"
    assert all(path.is_symlink() for path in (rless.storage / "layers").glob("*/*[!n]"))
    assert rless("rmi", "mine:1", env=more).expect().lines()[0] == "Untagged: mine:1"
    assert not list((rless.storage / "layers").iterdir())
    shared.chmod(0o775)
    error = rless("run", *words, "true", env=more).expect(125).one_line_error()
    assert "can be written by others" in error
    shared.chmod(0o700)
    rless("unshare", "rm", "-rf", str(shared))


def test_archive_of_a_layer_is_restored(workshop: Workshop, of_root: Workshop) -> None:
    made = Image([BASE, layer({"f": File("x" * 3000, uid=4)})])
    name = of_root.unpack(made).name
    found = workshop.store.lookup(name)
    assert found is not None and found.root == of_root.root
    for number, expected in enumerate(made.layers):
        with open_layer(workshop.store, found, number) as stream:
            data = b""
            while chunk := stream.read(1 << 16):
                data += chunk
        assert data == expected
