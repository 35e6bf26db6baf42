"""Tables, JSON lines, templates, and the verbs that print lists."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from types import ModuleType

import pytest

from rootless import __version__
from rootless.cli import output
from rootless.cli.verbs.container import ps
from rootless.cli.verbs.image import images
from rootless.cli.verbs.system import version
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


def test_ids_are_shortened(capfd: pytest.CaptureFixture[str]) -> None:
    assert shown(capfd, None, "ID") == "0123456789ab\nff\n"


def test_json_is_one_object_per_line(capfd: pytest.CaptureFixture[str]) -> None:
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
        ("{{json .}}", json.dumps(ROWS[0], separators=(",", ":"))),
        ("{{upper .Names}}{{if .ID}}!{{end}}", "WEB!"),
        ('{{range split .ID ""}}{{.}} {{end}}', "0 1 2 3 4 5 6 7 8 9 a b "),
        ("plain", "plain"),
    ),
)
def test_templates_are_rendered(
    template: str, first: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert shown(capfd, template).splitlines()[0] == first


def test_table_template_is_aligned(capfd: pytest.CaptureFixture[str]) -> None:
    text = shown(capfd, r"table {{.Names}}\t{{.ID}}")
    assert text.splitlines()[0].split() == ["NAMES", "CONTAINER", "ID"]
    assert text.splitlines()[1].split() == ["web", "0123456789ab"]


def test_table_template_has_headings(capfd: pytest.CaptureFixture[str]) -> None:
    template = r"table {{.Names | upper}}\t{{json .ID}}\t{{.Size}}"
    rows = [{**row, "Size": "1kB"} for row in ROWS]
    output.show(rows, COLUMNS, template=template, headings={"Size": "BYTES"})
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["NAMES", "CONTAINER", "ID", "BYTES"]
    assert lines[1].split() == ["WEB", '"0123456789ab"', "1kB"]


def test_row_stays_on_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """A name of an image cannot forge a second row."""
    assert len(shown(capfd, "{{.Names}}").splitlines()) == len(ROWS)


def test_unknown_field_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RlessError, match="there is no field 'Nope'; fields are ID, Names"):
        shown(capfd, "{{.Nope}}")


def test_sizes_are_readable() -> None:
    sizes = [0, 999, 1000, 4430000, 1.5e9, 999999]
    assert [output.human_size(size) for size in sizes] == [
        "0B", "999B", "1kB", "4.43MB", "1.5GB", "1000kB",
    ]  # fmt: skip


def test_times_are_relative() -> None:
    spans = [0.5, 1.5, 30, 70, 600, 3600, 7200 * 10, 86400 * 3, 86400 * 20, 86400 * 90, 86400 * 800]
    assert [output.human_time(span) for span in spans] == [
        "Less than a second", "1 second", "30 seconds", "About a minute", "10 minutes",
        "About an hour", "20 hours", "3 days", "2 weeks", "3 months", "2 years",
    ]  # fmt: skip
    assert output.ago(0) == "N/A"
    assert output.ago(100, 160) == "About a minute ago"


CONTAINER = {
    "id": "a" * 64, "name": "web", "image": "busybox", "command": ["sh"], "created": 1.0,
    "status": "running", "exit_code": None, "started": 1.0, "finished": None, "ports": [],
    "exposed": [], "labels": {}, "mounts": [], "network": "pasta", "health": None,
}  # fmt: skip


def test_status_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.time, "time", lambda: 61.0 * 5 + 1)
    for changes, text in (
        ({}, "Up 5 minutes"),
        ({"health": "healthy"}, "Up 5 minutes (healthy)"),
        ({"health": "unhealthy"}, "Up 5 minutes (unhealthy)"),
        ({"health": "starting"}, "Up 5 minutes (health: starting)"),
        ({"status": "paused", "health": "healthy"}, "Up 5 minutes (Paused)"),
        ({"status": "restarting", "exit_code": 1, "finished": 303.0},
         "Restarting (1) 3 seconds ago"),
        ({"status": "exited", "exit_code": 0, "finished": 303.0}, "Exited (0) 3 seconds ago"),
        ({"status": "exited", "exit_code": 137}, "Exited (137)"),
        ({"status": "created"}, "Created"),
        ({"status": "unknown"}, "Unknown"),
    ):  # fmt: skip
        assert output.container_status({**CONTAINER, **changes}) == text


def test_ports_are_formatted() -> None:
    def shown_ports(*given: str, exposed: tuple[str, ...] = (), status: str = "running") -> str:
        return ps.ports({**CONTAINER, "ports": given, "exposed": exposed, "status": status})

    assert shown_ports("0.0.0.0:81->81/tcp", "0.0.0.0:80->80/tcp") == "0.0.0.0:80-81->80-81/tcp"
    assert shown_ports("0.0.0.0:80->80/tcp", "0.0.0.0:91->81/tcp") == (
        "0.0.0.0:80->80/tcp, 0.0.0.0:91->81/tcp"
    )
    assert shown_ports("::1:80->80/tcp", exposed=("80/tcp", "9/udp")) == "::1:80->80/tcp, 9/udp"
    assert shown_ports("0.0.0.0:80->80/tcp", status="exited") == ""


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **functions: object) -> None:
    module = ModuleType(name)
    for key, value in functions.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    package, _, leaf = name.rpartition(".")
    monkeypatch.setattr(import_module(package), leaf, module, raising=False)


def test_images_are_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
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

    def list_images(given: dict[str, list[str]], digests: bool) -> list[dict[str, object]]:
        asked.append(given)
        return found

    filters = ("label", "reference")
    fake(
        monkeypatch, "rootless.engine.images.images", list_images=list_images, LIST_FILTERS=filters
    )
    images.main({"format": "{{.Repository}} {{.Tag}} {{.ID}} {{.Size}}"}, [])
    assert capfd.readouterr().out == "busybox 1 cccccccccccc 1kB\n<none> <none> dddddddddddd 5B\n"
    images.main({"quiet": True, "full": True, "filters": ["label=a"]}, ["busybox:1"])
    assert capfd.readouterr().out == f"sha256:{'c' * 64}\nsha256:{'d' * 64}\n"
    assert asked == [{}, {"label": ["a"], "reference": ["busybox:1"]}]
    images.main({"digests": True}, [])
    assert capfd.readouterr().out.splitlines()[2].split()[:3] == [
        "<none>", "<none>", f"sha256:{'e' * 64}"
    ]  # fmt: skip


def test_version_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    version.main({}, [])
    assert "Kernel:" in capfd.readouterr().out
    version.main({"format": "{{.Os}} {{.Client.Os}} {{.Server.Version}}"}, [])
    assert capfd.readouterr().out == f"linux linux {__version__}\n"
    version.main({"format": "json"}, [])
    shown = json.loads(capfd.readouterr().out)
    assert set(shown) == {"Client", "Server"}
    assert shown["Client"]["Version"] == __version__


def test_binary_sizes_are_readable() -> None:
    sizes = [0, 1023, 1024, 1536, 7.637 * (1 << 30), 1 << 60]
    assert [output.binary_size(size) for size in sizes] == [
        "0B", "1023B", "1KiB", "1.5KiB", "7.637GiB", "1024PiB",
    ]  # fmt: skip
