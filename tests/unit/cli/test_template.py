"""Go templates: the language, its functions and errors."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.cli.template import Renderer, compile_template, render
from rootless.cli.template_functions import Shown, to_json
from rootless.errors import RlessError

DATA = {
    "Name": "/web",
    "Size": 1500,
    "Ratio": 2.5,
    "Whole": 3.0,
    "On": True,
    "Off": False,
    "Nothing": None,
    "Empty": [],
    "List": ["a", "b", "c"],
    "Numbers": [3, 1, 2],
    "Labels": {"z.y": "1", "a": "2"},
    "Deep": {"Er": {"Still": "here"}, "List": [{"X": 1}, {"X": 2}]},
}

# (template, text); what Go 1.24 gives for the same data
EXAMPLES = (
    ("plain", "plain"),
    ("{{.Name}}", "/web"),
    ("{{ .Deep.Er.Still }}", "here"),
    ("{{$.Name}}", "/web"),
    ("{{.Size}} {{.Ratio}} {{.Whole}} {{.On}}", "1500 2.5 3 true"),
    ("{{.List}} {{.Numbers}} {{.Labels}} {{.Nothing}}", "[a b c] [3 1 2] map[a:2 z.y:1] <nil>"),
    ("{{.Labels.nope}}|{{.Labels.nope.deeper}}", "<no value>|<no value>"),
    # white space and comments
    ("a {{- .Name -}} b", "a/webb"),
    ("a {{- /* no */ -}} b", "ab"),
    ("a{{/* }} */}}b", "ab"),
    ("{{.Name}}\n  {{- \"x\"}}", "/webx"),
    ("{{-3}}", "-3"),
    # constants
    ('{{"a\\tb\\u00e9\\x41\\""}}{{`raw\\n`}}', 'a\tbéA"raw\\n'),
    ("{{'a'}} {{0x10}} {{1_000}} {{1.5}} {{true}} {{'\\n'}}", "97 16 1000 1.5 true 10"),
    ('{{"}}"}}{{`{{`}}', "}}{{"),
    # conditions
    ("{{if .On}}yes{{end}}{{if .Off}}no{{end}}", "yes"),
    ("{{if .Off}}a{{else if .Empty}}b{{else if .List}}c{{else}}d{{end}}", "c"),
    ("{{if .Empty}}a{{else}}b{{end}}", "b"),
    ("{{if $x := .Name}}{{$x}}{{end}}", "/web"),
    ("{{if and .On (not .Off) (gt .Size 1000)}}y{{end}}", "y"),
    ("{{with .Deep.Er}}{{.Still}}{{$.Name}}{{end}}", "here/web"),
    ("{{with .Nothing}}a{{else}}{{.Name}}{{end}}", "/web"),
    ("{{with .Nothing}}a{{else with .Name}}{{.}}{{end}}", "/web"),
    # loops
    ("{{range .List}}{{.}},{{end}}", "a,b,c,"),
    ("{{range $i, $x := .List}}{{if $i}},{{end}}{{$i}}{{$x}}{{end}}", "0a,1b,2c"),
    ("{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "a=2;z.y=1;"),
    ("{{range $x := .List}}{{$x}}{{end}}", "abc"),
    ("{{range .Empty}}x{{else}}none{{end}}", "none"),
    ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
    ("{{range .Deep.List}}{{.X}}{{end}}", "12"),
    ("{{range .List}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}", "ac"),
    ("{{range .List}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "a"),
    ("{{range 3}}{{.}}{{end}}", "012"),
    # variables
    ("{{$x := 1}}{{$x}}{{$x = 2}}{{$x}}", "12"),
    ("{{$x := \"\"}}{{range .List}}{{$x = .}}{{end}}{{$x}}", "c"),
    ("{{$x := .Deep}}{{$x.Er.Still}}", "here"),
    ("{{$x := 1}}{{if .On}}{{$x := 2}}{{end}}{{$x}}", "1"),
    # pipelines
    ("{{.Name | upper}}", "/WEB"),
    ("{{.Name | printf \"%s-%s\" \"x\"}}", "x-/web"),
    ("{{(index .Deep.List 1).X}}", "2"),
    ("{{.List | len | eq 3}}", "true"),
    ("{{len (printf \"%d\" 1234)}}", "4"),
    # comparing
    ("{{eq .Name \"x\" \"/web\"}} {{ne .Size 1}} {{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge 2 2}}",
     "true true true true false true"),
    ("{{eq .Nothing nil}} {{lt \"a\" \"b\"}}", "true true"),
    ("{{or .Off .Name \"x\"}} {{and .On .Size}} {{or .Off 0}} {{and .On 0 1}}", "/web 1500 0 0"),
    # looking up
    ('{{index .Labels "z.y"}}|{{index .Labels "none"}}|{{index .List 1}}', "1||b"),
    ('{{index .Deep "List" 0 "X"}}', "1"),
    ('{{slice .Name 1}} {{slice .List 0 2}} {{slice .Name 1 3}}', "web [a b] we"),
    # Docker's functions
    ("{{json .Labels}}{{json .List}}{{json .Nothing}}{{json \"é<\"}}",
     '{"z.y":"1","a":"2"}["a","b","c"]null"é<"'),
    ('{{join .List ", "}}|{{join .Empty ","}}', "a, b, c|"),
    ('{{split "a/b/c" "/"}} {{(index (split "a/b" "/") 1)}}', "[a b c] b"),
    ('{{title "hello world"}} {{lower "ABC"}} {{upper "é"}}', "Hello World abc É"),
    ('[{{pad "x" 2 1}}] {{truncate "hello" 3}} {{truncate "h" 3}}', "[  x ] hel h"),
    # printing
    ('{{print 1 2 "a" "b" 3}}{{println "x" 1}}', "1 2ab3x 1\n"),
    ('{{printf "%5d|%-5d|%05d|%x|%X|%o|%b|%c|%+d" 42 42 42 255 255 8 5 65 7}}',
     "   42|42   |00042|ff|FF|10|101|A|+7"),
    ('{{printf "%s %q %v %t %8s|%-8s|%.2s" "a" "b\\"" .List true "r" "l" "long"}}',
     'a "b\\"" [a b c] true        r|l       |lo'),
    ('{{printf "%.2f %f %g %6.1f" 2.5 2.5 2.5 2.25}}', "2.50 2.500000 2.5    2.2"),
    ('{{printf "%d%%" 5}} {{printf "%d" "x"}} {{printf "%s"}}', "5% %!d(string=x) %!s(MISSING)"),
    ('{{printf "%x" "hi"}} {{urlquery "a b&c"}} {{html "<a>"}}', "6869 a+b%26c &lt;a&gt;"),
)  # fmt: skip


@pytest.mark.parametrize(("template", "expected"), EXAMPLES)
def test_examples_are_rendered(template: str, expected: str) -> None:
    assert render(template, DATA) == expected


@pytest.mark.parametrize(
    ("template", "why"),
    (
        ("{{.Nope}}", "there is no field 'Nope'; fields are Name, Size"),
        ("{{.Deep.Nope}}", "there is no field 'Nope' in .Deep; fields are Er, List"),
        ("{{.nope}}", "there is no field 'nope'; fields are Name"),
        ("{{.Name.X}}", "there is no field 'X': .Name is a string"),
        ("{{.Nothing.X}}", "there is no field 'X': .Nothing is nothing (null)"),
        ("{{nope .}}", "there is no function 'nope'; functions are and, eq"),
        ("{{.Name", "is not closed by }}"),
        ("{{if .Name}}x", "{{end}} is missing"),
        ("{{range .List}}", "{{end}} is missing"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{else}}", "unexpected {{else}}"),
        ("{{if .On}}{{else}}{{else}}{{end}}", "unexpected {{else}}"),
        ("{{break}}", "outside of a {{range}}"),
        ("{{}}", "the action {{}} is empty"),
        ("{{if}}x{{end}}", "a value is missing"),
        ("{{.Name |}}", "a value is missing"),
        ("{{.Name | 1}}", "a pipe needs a function"),
        ("{{(.Name}}", "a ) is missing"),
        ("{{.Name)}}", "unexpected ')'"),
        ("{{.Name.}}", "a space is missing before '.'"),
        ("{{1 2}}", "a value was called like a function"),
        ("{{.Name 1}}", ".Name is not a function and takes no argument"),
        ('{{"open}}', "unexpected '\"'"),
        ("{{#}}", "unexpected '#'"),
        ("{{$x}}", "undefined variable $x"),
        ("{{$x = 1}}", "undefined variable $x"),
        ("{{range $a, $b, $c := .List}}{{end}}", "cannot read"),
        ("{{/* open", "a comment is not closed"),
        ('{{define "x"}}{{end}}', "{{define}} is not supported"),
        ('{{template "x"}}', "{{template}} is not supported"),
        ("{{index .List 9}}", "index: 9 is out of range, there are 3"),
        ("{{index .List -1}}", "index: -1 is out of range"),
        ('{{index .List "a"}}', "needs a number"),
        ("{{index .Nothing 0}}", "there is nothing to look 0 up in"),
        ("{{range .Name}}{{end}}", "range cannot go through a string"),
        ("{{len .Size}}", "a number has no length"),
        ("{{eq .Name 1}}", "a string and a number cannot be compared"),
        ("{{lt .Name 1}}", "a string and a number have no order"),
        ("{{upper .Size}}", "upper needs a string, not a number"),
        ("{{upper}}", "the function upper cannot take no value"),
        ('{{join .Name ","}}', "join needs a list"),
        ('{{pad .Name "a" 1}}', "the function pad cannot take string string number"),
        ("{{slice .Name 9}}", "slice: 9:4 is out of range"),
        ("{{" + "(" * 5000 + ".Name" + ")" * 5000 + "}}", "nested too deeply"),
        ("{{if .On}}" * 5000 + "{{end}}" * 5000, "nested too deeply"),
    ),
)
def test_errors_are_reported(template: str, why: str) -> None:
    with pytest.raises(RlessError) as caught:
        render(template, DATA)
    assert why in str(caught.value)
    assert str(caught.value).startswith("--format: ")
    assert caught.value.exit_code == 1


def test_text_outside_rows_keeps_its_line_ends() -> None:
    data = {"Text": "a\n\tb\x1b[2J\x9b\x7f"}
    assert render("{{.Text}}", data) == "a\n\tb\\x1b[2J\\x9b\\x7f"
    strict = Renderer(compile_template("{{.Text}}"), strict=True)
    assert strict.render(data) == "a\\n\\tb\\x1b[2J\\x9b\\x7f"
    joined = Renderer(compile_template('{{join .L "\\n"}}{{println .T}}'), strict=True)
    assert joined.render({"L": ["a\nb", "c"], "T": "x\n"}) == "a\\nb\ncx\\n\n"


def test_methods_and_documents_are_accessible() -> None:
    row = {"A": "1", "Label": lambda name: f"<{name}>"}
    assert render('{{.Label "x"}} {{"y" | .Label}}', row) == "<x> <y>"
    assert render("{{json .}}", row) == '{"A":"1"}'
    shown = Shown(Upper=1)
    shown.document = {"lower": 1}
    assert render("{{.Upper}} {{json .}}", shown) == '1 {"lower":1}'


def test_escapes_outside_actions_apply_to_lists() -> None:
    assert render(r"a\tb", {}) == r"a\tb"
    assert Renderer(compile_template(r"a\tb\n", escapes=True)).render({}) == "a\tb\n"


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
))  # fmt: skip
def test_json_is_valid_and_printable(value: object) -> None:
    for indent in (None, 4):
        text = to_json(value, indent)
        assert json.loads(text) == value
        assert text.replace("\n", "").isprintable()
    assert "\n" not in to_json(value)


PIECES = st.sampled_from(
    "{{ }} {{- -}} . .Name .List .Deep.Er $ $x := = | ( ) , if else end range with break json"
    " index len eq and or not print printf 1 -1 1.5 \"s\" `r` 'c' /* */ nil true x \\ \n {{end}}"
    " {{if .On}} {{range .List}} {{else}} {{.}}".split(" ")
)


@given(st.lists(PIECES | st.text(max_size=4), max_size=12).map(" ".join))
def test_any_text_is_rendered_or_refused(template: str) -> None:
    try:
        text = render(template, DATA)
    except RlessError as error:
        assert error.message.startswith("--format: ")
    else:
        assert "{{" in template or text == template


@given(st.text())
def test_plain_text_is_unchanged(text: str) -> None:
    if "{{" not in text:
        assert render(text, {}) == text
