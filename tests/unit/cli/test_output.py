"""Tables, JSON lines, templates, and the verbs that print lists."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest

from rootless.cli import images, output, ps, version
from rootless.errors import RlessError

COLUMNS = (("ID", "CONTAINER ID"), ("Names", "NAMES"))
ROWS = [{"ID": "0123456789ab", "Names": "web"}, {"ID": "ff", "Names": "\x1b[31mred\n\x9b"}]


def shown(capfd: pytest.CaptureFixture[str], template: str | None, ids: str | None = None) -> str:
    output.show(ROWS, COLUMNS, template=template, ids=ids)
    return capfd.readouterr().out


def test_table_escapes_control_characters(capfd: pytest.CaptureFixture[str]) -> None:
    assert shown(capfd, None) == (
        "CONTAINER ID   NAMES\n0123456789ab   web\nff             \\x1b[31mred\\n\\x9b\n"
    )


def test_ids(capfd: pytest.CaptureFixture[str]) -> None:
    assert shown(capfd, None, "ID") == "0123456789ab\nff\n"


def test_json_is_one_object_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    text = shown(capfd, "json")
    assert [json.loads(line) for line in text.splitlines()] == ROWS
    assert "\x1b" not in text
    assert "\x9b" not in text


@pytest.mark.parametrize(
    ("template", "first"),
    (
        ("{{.ID}}", "0123456789ab"),
        ("{{ .Names }}:{{.ID}}", "web:0123456789ab"),
        (r"{{.ID}}\t{{.Names}}", "0123456789ab\tweb"),
        ("{{json .Names}}", '"web"'),
        ("{{json .}}", json.dumps(ROWS[0])),
        ("plain", "plain"),
    ),
)
def test_templates(template: str, first: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert shown(capfd, template).splitlines()[0] == first


def test_table_template(capfd: pytest.CaptureFixture[str]) -> None:
    text = shown(capfd, r"table {{.Names}}\t{{.ID}}")
    assert text.splitlines()[0].split() == ["NAMES", "CONTAINER", "ID"]
    assert text.splitlines()[1].split() == ["web", "0123456789ab"]


@pytest.mark.parametrize(
    "template",
    (
        "{{.ID",
        "{{range .}}x{{end}}",
        "{{.A.B}}",
        "{{upper .ID}}",
        "{{.}}",
        "{{}}",
        "{{json}}",
        "{{.ID | x}}",
    ),
)
def test_other_templates_are_refused(template: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RlessError, match=r"--format: .* is not supported"):
        shown(capfd, template)


def test_unknown_field(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RlessError, match="there is no field 'Nope'; fields are ID, Names"):
        shown(capfd, "{{.Nope}}")


def test_sizes() -> None:
    sizes = [0, 999, 1000, 4430000, 1.5e9, 999999]
    assert [output.human_size(size) for size in sizes] == [
        "0B", "999B", "1kB", "4.43MB", "1.5GB", "1000kB",
    ]  # fmt: skip


def test_times() -> None:
    spans = [0.5, 1.5, 30, 70, 600, 3600, 7200 * 10, 86400 * 3, 86400 * 20, 86400 * 90, 86400 * 800]
    assert [output.human_time(span) for span in spans] == [
        "Less than a second", "1 second", "30 seconds", "About a minute", "10 minutes",
        "About an hour", "20 hours", "3 days", "2 weeks", "3 months", "2 years",
    ]  # fmt: skip
    assert output.ago(0) == "N/A"
    assert output.ago(100, 160) == "About a minute ago"


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **functions: object) -> None:
    module = ModuleType(name)
    for key, value in functions.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    package, _, leaf = name.rpartition(".")
    monkeypatch.setattr(sys.modules[package], leaf, module, raising=False)


CONTAINERS = [
    {"id": "a" * 64, "name": "old", "image": "busybox", "command": ["sh", "-c", "sleep 1000"],
     "created": 1.0, "status": "exited", "exit_code": 3, "pid": 0, "ports": [], "labels": {}},
    {"id": "b" * 64, "name": "new", "image": "busybox", "command": ["true"], "created": 2.0,
     "status": "running", "exit_code": None, "pid": 1, "ports": ["80->80/tcp"],
     "labels": {"k": "v"}},
]  # fmt: skip


def test_ps(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    asked = []

    def list_containers(everything: bool) -> list[dict[str, object]]:
        asked.append(everything)
        return list(CONTAINERS)

    fake(monkeypatch, "rootless.engine.control", list_containers=list_containers)
    ps.main({"all": True, "format": "{{.ID}} {{.Names}} {{.Command}} {{.Labels}} {{.State}}"}, [])
    assert capfd.readouterr().out.splitlines() == [
        'bbbbbbbbbbbb new "true" k=v running',
        'aaaaaaaaaaaa old "sh -c sleep 1000" \u0020exited'.replace("\u0020exited", " exited"),
    ]
    ps.main({"latest": True, "quiet": True, "full": True}, [])
    assert capfd.readouterr().out == f"{'b' * 64}\n"
    ps.main({}, [])
    assert capfd.readouterr().out.startswith("CONTAINER ID   IMAGE")
    assert asked == [True, True, False]


def test_status() -> None:
    assert ps.status(CONTAINERS[0]) == "Exited (3)"
    assert ps.status({**CONTAINERS[0], "finished": 1.0}).startswith("Exited (3) ")
    assert ps.status(CONTAINERS[1]).startswith("Up ")
    assert ps.status({"status": "created"}) == "Created"


def test_images(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    asked = []
    found = [
        {
            "repository": "busybox",
            "tag": "1",
            "id": "sha256:" + "c" * 64,
            "created": 1.0,
            "size": 1000,
            "digest": "",
            "read_only": False,
        },
        {
            "repository": "",
            "tag": "",
            "id": "sha256:" + "d" * 64,
            "created": 0.0,
            "size": 5,
            "digest": "sha256:" + "e" * 64,
            "read_only": False,
        },
    ]

    def list_images(given: dict[str, list[str]]) -> list[dict[str, object]]:
        asked.append(given)
        return found

    filters = ("label", "reference")
    fake(monkeypatch, "rootless.engine.images", list_images=list_images, LIST_FILTERS=filters)
    images.main({"format": "{{.Repository}} {{.Tag}} {{.ID}} {{.Size}}"}, [])
    assert capfd.readouterr().out == "busybox 1 cccccccccccc 1kB\n<none> <none> dddddddddddd 5B\n"
    images.main({"quiet": True, "full": True, "filters": ["label=a"]}, ["busybox:1"])
    assert capfd.readouterr().out == f"sha256:{'c' * 64}\nsha256:{'d' * 64}\n"
    assert asked == [{}, {"label": ["a"], "reference": ["busybox:1"]}]
    images.main({"digests": True}, [])
    assert capfd.readouterr().out.splitlines()[2].split()[:3] == [
        "<none>", "<none>", f"sha256:{'e' * 64}"
    ]  # fmt: skip


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    version.main({}, [])
    assert "Kernel:" in capfd.readouterr().out
    version.main({"format": "{{.Os}}"}, [])
    assert capfd.readouterr().out == "linux\n"
