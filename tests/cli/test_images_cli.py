"""The image commands: images, rmi, tag, history, image inspect and image prune."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from rootless.engine import timestamps
from tests.lib.images import Dir, File, Image, busybox_layer, layer
from tests.lib.product import Product, own_rless, shared_product

__all__ = ["own_rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "subordinate ids")

HISTORY = [
    {"created": "2020-01-01T00:00:00Z", "created_by": "ADD rootfs in /", "comment": "made\x1b[31m"},
    {"created": "2021-01-01T00:00:00.5Z", "created_by": "ENV A=1", "empty_layer": True},
    {"created": "2022-01-01T00:00:00Z", "created_by": "RUN " + "x" * 100},
]


def dated(year: int, **config: object) -> Image:
    document = {"created": f"{year}-06-01T12:00:00Z", "author": "somebody", "history": HISTORY}
    two = [busybox_layer(), layer({"f": "y" * 2000, "year": str(year)})]
    return Image(two, {"Env": ["PATH=/bin"], **config}, document=document)


@pytest.fixture
def rless(own_rless: Product) -> Product:
    """Have two images, with names as those of a registry."""
    for year, name in ((2022, "team/app:2"), (2020, "localhost:5000/old:1")):
        labels = {"year": str(year), "both": ""}
        source = own_rless.add_image(str(year), dated(year, Labels=labels, Cmd=["sh"]))
        own_rless("pull", "-q", source).expect()
        own_rless("tag", source, name).expect()
        own_rless("rmi", source).expect()
    return own_rless


def names(rless: Product, *words: str) -> list[str]:
    form = ("--format", "{{.Repository}}:{{.Tag}}")
    return rless("images", *form, *words).expect().lines()


def image_id(rless: Product, name: str) -> str:
    return rless("image", "inspect", "-f", "{{.Id}}", name).expect().out.strip()


# -- images --------------------------------------------------------------------------------------


def test_images_prints_a_table(rless: Product) -> None:
    rless("tag", "team/app:2", "alias").expect()
    lines = rless("images").expect().lines()
    assert lines[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["alias", "latest"], ["team/app", "2"], ["localhost:5000/old", "1"]
    ]  # fmt: skip
    short = image_id(rless, "team/app:2")[7:19]
    assert lines[1].split()[2] == lines[2].split()[2] == short
    assert lines[1].endswith("MB")
    assert rless("images", "-q", "team/app").expect().out == f"{short}\n"
    assert rless("images", "-q", "--no-trunc", "app").expect().out == ""
    assert "DIGEST" in rless("images", "--digests").expect().lines()[0]
    assert rless("image", "ls", "-a").expect().lines() == lines


def test_images_supports_json_and_templates(rless: Product) -> None:
    rows = [json.loads(line) for line in rless("images", "--format", "json").expect().lines()]
    assert [row["Repository"] for row in rows] == ["team/app", "localhost:5000/old"]
    assert set(rows[0]) >= set(
        (
            "Containers CreatedAt CreatedSince Digest ID Repository SharedSize Size Tag UniqueSize"
            " VirtualSize"
        ).split()
    )
    table = rless("images", "--format", "table {{.ID}}\t{{.Tag}}").expect().lines()
    assert table[0].split() == ["IMAGE", "ID", "TAG"]
    assert "--tree" in rless("images", "--tree").expect(125).one_line_error()


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("dangling=true", ""),
        ("dangling=false", "app old"),
        ("label=year", "app old"),
        ("label=year=2020", "old"),
        ("label!=year=2020", "app"),
        ("label=both label=year=2022", "app"),
        ("before=team/app:2", "old"),
        ("since=localhost:5000/old:1", "app"),
        ("reference=team/*", "app"),
        ("reference=*", ""),
        ("reference=team/app:1 reference=*/old", "old"),
        ("reference=docker.io/team/app", "app"),
        ("until=2021-01-01T00:00:00Z", "old"),
        ("until=1h", "app old"),
        ("containers=false", "app old"),
        ("containers=true", ""),
        ("readonly=false", "app old"),
    ],
)
def test_images_can_be_filtered(rless: Product, filters: str, expected: str) -> None:
    words = [word for text in filters.split() for word in ("--filter", text)]
    wanted = {"app": "team/app:2", "old": "localhost:5000/old:1"}
    assert names(rless, *words) == [wanted[name] for name in expected.split()]


def test_wrong_filters_are_refused(rless: Product) -> None:
    for text in ("nonsense=1", "dangling", "dangling=maybe", "until=soon"):
        assert "--filter" in rless("images", "-f", text).expect(1).one_line_error()
    assert "no such image" in rless("images", "-f", "since=none").expect(1).one_line_error()


def test_argument_of_images_is_a_pattern(rless: Product) -> None:
    assert names(rless, "team/app") == names(rless, "team/app:2") == ["team/app:2"]
    assert names(rless, "team/app:3") == []
    assert names(rless, "*/app") == ["team/app:2"]


# -- tag -----------------------------------------------------------------------------------------


def test_tag_moves_to_the_new_image(rless: Product) -> None:
    old, new = image_id(rless, "localhost:5000/old:1"), image_id(rless, "team/app:2")
    done = rless("tag", "localhost:5000/old:1", "team/app:2").expect()
    assert done.out == done.err == ""
    assert image_id(rless, "team/app:2") == old
    # What it named stays, without a name.
    assert names(rless, "-f", "dangling=true") == ["<none>:<none>"]
    rless("tag", new[7:15], "docker.io/library/again").expect()
    assert image_id(rless, "again:latest") == new


def test_wrong_tags_are_refused(rless: Product) -> None:
    for words, why in (
        (("none", "x"), "no such image: none"),
        (("team/app:2", "UPPER"), "must be lowercase"),
        (("team/app:2", f"x@sha256:{'0' * 64}"), "digest reference"),
        (("team/app:2", "oci:/x"), "is not the name of an image"),
        (("team/app:2", "a:b:c/d"), "invalid reference"),
        (("team/app:2", "x:" + "y" * 129), "bad tag"),
    ):
        error = rless("tag", *words)
        assert error.code in (1, 125) and why in error.one_line_error()
    assert "needs at least 2" in rless("tag", "x").expect(125).one_line_error()


# -- rmi -----------------------------------------------------------------------------------------


def test_rmi_continues_and_reports_each_failure(rless: Product) -> None:
    app = image_id(rless, "team/app:2")
    done = rless("rmi", "none", "team/app:2", "none2").expect(1)
    assert done.out.startswith(f"Untagged: team/app:2\nDeleted: {app}\nDeleted: sha256:")
    assert done.err.count("\n") == 2 and "no such image: none2" in done.err
    done = rless("rmi", "-f", "none").expect()
    assert "no such image: none" in done.one_line_error()
    assert names(rless) == ["localhost:5000/old:1"]


def test_image_in_use_is_not_removed(rless: Product) -> None:
    rless.detach("web", "", "sleep", "100", image="team/app:2")
    for words in (("team/app:2",), ("-f", "team/app:2"), ("-f", image_id(rless, "team/app:2"))):
        error = rless("rmi", *words).expect(1).one_line_error()
        assert "running container (web)" in error
    assert names(rless, "-f", "containers=true") == ["team/app:2"]
    assert rless("image", "prune", "-a", "-f").expect().out.count("untagged") == 1
    assert names(rless) == ["team/app:2"]
    rless("stop", "-t", "0", "web").expect()
    assert "container (web)" in rless("rmi", "team/app:2").expect(1).one_line_error()
    assert rless("rmi", "-f", "team/app:2").expect().out == "Untagged: team/app:2\n"
    assert "Total reclaimed space: 0B" in rless("image", "prune", "-f").expect().out
    rless("rm", "web").expect()
    assert "deleted: sha256:" in rless("image", "prune", "-f").expect().out
    assert not rless("images", "-q").expect().out


def test_rmi_removes_deep_and_unreadable_trees(own_rless: Product) -> None:
    deep = {"/".join(["d" * 200] * depth): Dir(mode=0, uid=77) for depth in range(1, 21)}
    made = Image([layer({**deep, "locked": Dir(mode=0, uid=9), "locked/f": File("x", mode=0)})])
    source = own_rless.add_image("hard", made)
    own_rless("pull", "-q", source).expect()
    own_rless("rmi", source).expect()
    assert not list((own_rless.storage / "layers").iterdir())
    assert not list((own_rless.storage / "tmp").iterdir())


# -- inspect, history ----------------------------------------------------------------------------


def test_inspect_matches_the_shape_of_docker(rless: Product) -> None:
    rless("tag", "team/app:2", "alias:1").expect()
    (shown,) = json.loads(rless("image", "inspect", "team/app:2").expect().out)
    assert sorted(shown["RepoTags"]) == ["alias:1", "team/app:2"]
    assert shown["Created"] == "2022-06-01T12:00:00Z"
    assert (shown["Author"], shown["Os"]) == ("somebody", "linux")
    assert shown["Config"]["Cmd"] == ["sh"]
    assert shown["Config"]["Labels"]["year"] == "2022"
    assert shown["RootFS"]["Type"] == "layers" and len(shown["RootFS"]["Layers"]) == 2
    assert os.path.isdir(shown["GraphDriver"]["Data"]["UpperDir"])
    assert timestamps.rfc3339(shown["Metadata"]["LastTagTime"])
    assert shown["Size"] > 2000 and shown["Id"].startswith("sha256:")
    form = "{{.Architecture}} {{index .Config.Env 0}} {{json .Config.Cmd}}"
    out = rless("image", "inspect", "--format", form, "team/app:2").expect().out
    assert out == f'{shown["Architecture"]} PATH=/bin ["sh"]\n'


def test_inspect_shows_the_images_that_exist(rless: Product) -> None:
    done = rless("image", "inspect", "none", "team/app:2").expect(1)
    assert len(json.loads(done.out)) == 1
    assert "no such image: none" in done.one_line_error()
    done = rless("image", "inspect", "none").expect(1)
    assert json.loads(done.out) == []


def test_history_lists_the_layers(rless: Product) -> None:
    lines = rless("history", "team/app:2").expect().lines()
    assert lines[0].split() == "IMAGE CREATED CREATED BY SIZE COMMENT".split()
    short = image_id(rless, "team/app:2")[7:19]
    assert [line.split()[0] for line in lines[1:]] == [short, "<missing>", "<missing>"]
    assert "2.004kB" in lines[1] and "RUN xxx" in lines[1] and "…" in lines[1]
    assert "0B" in lines[2]
    assert "\x1b" not in "".join(lines)
    exact = rless("history", "--human=false", "--no-trunc", "team/app:2").expect().lines()
    assert "2022-01-01T00:00:00Z" in exact[1] and " 2004" in exact[1]
    assert "2021-01-01T00:00:00Z" in exact[2]  # without the fraction, as in Docker
    assert "x" * 100 in exact[1]
    assert rless("history", "-q", "team/app:2").expect().lines() == [
        short, "<missing>", "<missing>"
    ]  # fmt: skip
    out = rless("history", "--format", "{{.Size}}", "team/app:2").expect().lines()
    assert out[:2] == ["2.004kB", "0B"]
    assert "no such image" in rless("history", "none").expect(1).one_line_error()


def test_image_without_history_is_shown(own_rless: Product) -> None:
    own_rless("pull", "-q", own_rless.image).expect()
    assert len(own_rless("history", "-q", own_rless.image).expect().lines()) == 2


# -- prune ---------------------------------------------------------------------------------------


def test_prune_asks_for_confirmation(rless: Product) -> None:
    for answer in (b"n\n", b"", b"\n"):
        done = rless("image", "prune", "-a", stdin=answer).expect()
        assert "all images without at least one container" in done.out
        assert "reclaimed" not in done.out
    assert len(names(rless)) == 2
    done = rless("image", "prune", "--all", stdin=b"y\n").expect()
    assert "Deleted Images:\nuntagged: " in done.out
    assert done.out.splitlines()[-1].startswith("Total reclaimed space: 1.9")
    assert names(rless) == []


def test_image_commands_record_events(rless: Product) -> None:
    rless("rmi", "team/app:2").expect()
    rless("image", "prune", "-a", "-f").expect()
    with open(rless.storage / "events", encoding="utf-8") as file:
        actions = [json.loads(line)["action"] for line in file]
    assert actions == "pull tag untag pull tag untag untag delete untag delete prune".split()


# -- what it costs -------------------------------------------------------------------------------


def test_images_loads_few_modules(rless: Product, tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import sys; sys.argv = ['rless', 'images']; sys.path.insert(0, sys.argv_path)\n"
        "from rootless.cli.main import main; main(['images'])\n"
        f"open({str(log)!r}, 'w').write('\\n'.join(sys.modules))\n"
    ).replace("sys.argv_path", repr(str(Path(__file__).resolve().parents[2])))
    subprocess.run(
        ["python3", "-I", "-S", "-c", code], env=rless.env, check=True, capture_output=True
    )
    loaded = set(log.read_text().split())
    heavy = "json re typing dataclasses subprocess logging click urllib3 datetime enum tomllib"
    assert loaded & set(heavy.split()) == set()
