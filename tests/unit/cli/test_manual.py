"""The manual pages: one of each verb, complete, and in the language of man(7)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rootless.cli import manual, parse, verb_table
from rootless.cli.fronts.apptainer import table

ROOT = Path(__file__).parents[3]
MACROS = {".TH", ".SH", ".SS", ".TP", ".PP", ".EX", ".EE"}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return manual.pages()


def plain(text: str) -> str:
    """Return what a reader sees."""
    text = text.replace("\\&", "").replace("\\-", "-").replace("\\(aq", "'")
    return re.sub(r"\\f[BR]", "", text).replace("\\e", "\\")


def test_each_verb_has_a_page_with_all_of_its_flags(pages: dict[str, str]) -> None:
    for verbs in verb_table.VERBS.values():
        for name, (_, summary) in verbs.items():
            page = f"rless-{name.replace(' ', '-')}"
            text = plain(pages[f"{page}.1"])
            assert f"\n.SH NAME\n{page} - {summary}\n" in text
            assert f"\n.SH SYNOPSIS\nrless {name}" in text
            verb = verb_table.load(name).VERB
            for row in (row for _, rows in verb.groups for row in rows):
                told = re.escape(parse.help_text(row))
                terms = re.findall(rf"\n\.TP\n(.*)\n{told}(?=\n)", text)
                assert any(
                    set(row[0].split()) <= set(re.split(r"[ ,\[]+", term)) for term in terms
                ), row[0]
            for refused in verb.refused:
                assert f"{refused[0].split()[0]}" in text
            for what, line in verb.examples:
                assert f"\n{what}:\n.PP\n.EX\n    {line}\n.EE\n" in text
            assert page in plain(pages["rless.1"])


def test_front_has_a_page_with_all_of_its_flags(pages: dict[str, str]) -> None:
    text = plain(pages["rless-apptainer.1"])
    for _, rows in (table.GLOBAL, *table.ACTIONS):
        for row in rows:
            assert f"\n{parse.help_text(row)}\n" in text
    assert "\n.SS pull [OPTIONS] [FILE] URI\n" in text


def test_pages_are_roff_of_man(pages: dict[str, str]) -> None:
    for name, text in pages.items():
        for line in text.splitlines():
            assert line[:1] not in (".", "'") or line.split()[0] in MACROS, (name, line)
            assert not re.search(r"\\(?![-&e]|f[BR]|\(aq)", line), (name, line)


def test_pages_are_written_by_a_build_that_has_nothing_but_python(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from rootless.cli import manual; "
    lean = [sys.executable, "-I", "-S", "-B", "-c", f"{code}manual.main()", str(tmp_path)]
    subprocess.run(lean, check=True)
    assert {file.name for file in tmp_path.iterdir()} == set(manual.pages())


def test_installation_has_the_pages(tmp_path: Path) -> None:
    """Without the setuptools that a build has: they only call what setup.py gives them."""
    code = """
import runpy, sys, types
class Base:
    __version__, sub_commands, outfiles = "99", [], []
class Module(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name == "setup":
            return lambda **given: asked.update(given)
        return "99" if name == "__version__" else Base
asked = {}
for name in ("setuptools", "setuptools.command", "setuptools.command.bdist_wheel",
             "setuptools.command.build", "distutils", "distutils.command",
             "distutils.command.build_scripts", "distutils.command.install_data"):
    sys.modules[name] = Module(name)
runpy.run_path(sys.argv.pop(1))
assert asked["distclass"]().has_data_files()  # else install_data is not called
command = asked["cmdclass"]["install_data"]()
command.install_dir = sys.argv[1]
command.run()
print(*command.outfiles, sep="\\n")
"""
    lean = [sys.executable, "-I", "-S", "-B", "-c", code, str(ROOT / "setup.py"), str(tmp_path)]
    done = subprocess.run(lean, check=True, capture_output=True, text=True)
    directory = tmp_path / "share" / "man" / "man1"
    assert set(done.stdout.split()) == {str(directory / name) for name in manual.pages()}
    assert all(Path(path).read_text().startswith(".TH RLESS") for path in done.stdout.split())
