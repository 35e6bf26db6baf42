"""The manual pages: one of each verb, complete, and in the language of man(7)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rootless.cli import manual, parse, verb_table

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
