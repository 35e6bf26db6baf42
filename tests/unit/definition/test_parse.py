"""Definition files as values: Apptainer's documented examples, and what is hostile or wrong."""

from __future__ import annotations

import time

import pytest

from rootless.definition import DefinitionError, Files, parse, read_args, scripts
from rootless.definition.parse import Script

# As on apptainer.org/docs/user/latest/definition_files.html, with other words.
EXAMPLE = b"""\
# who made it
Bootstrap: docker
From: ubuntu:{{ VERSION }}   # the base
Stage: build

%arguments
    VERSION=22.04
    NAME="an image"
%files
    /file1
    "/with blanks" '/opt/*.c'
    ./a* /opt/ # a comment
%environment
    export LISTEN_PORT=54321
%post -c /bin/bash -u
    # {{ NOT_READ }} in a comment
    apt-get update
    echo "{{ NAME }}"
%post
    echo more
%runscript
    echo "$*"
%labels
    Author myuser@example.com
    Version v0.0.1
    Empty
%help
    Help.

Bootstrap: library
From: alpine
%files from build
    /root/hello /bin/hello
%test
    #!/bin/bash
    true
"""


def test_documented_example() -> None:
    definition = parse(EXAMPLE, {"VERSION": "24.04", "OTHER": "1"})
    first, last = definition.stages
    assert definition.unused == ("OTHER",)
    assert (first.name, first.line) == ("build", 2)
    assert first.header == {"bootstrap": "docker", "from": "ubuntu:24.04", "stage": "build"}
    assert [(one.source, one.target) for one in first.files] == [
        ("/file1", ""),
        ("/with blanks", r"/opt/\*.c"),  # in quotes it is no wildcard
        ("./a*", "/opt/"),
    ]
    post = first.scripts["post"]
    assert (post.line, post.last) == (15, 20)
    assert '    echo "' in post.text and 'echo ""an image""\n' in post.text
    assert post.text.endswith("    echo more\n") and "{{ NOT_READ }}" in post.text
    assert first.labels == {"Author": "myuser@example.com", "Version": "v0.0.1", "Empty": ""}
    assert first.script("help") == "    Help.\n\n" and first.script("test") == ""
    assert last.header == {"bootstrap": "library", "from": "alpine"}
    assert last.files == (Files("/root/hello", "/bin/hello", "build", 33),)


def test_scripts_are_files_as_apptainer_writes_them() -> None:
    last = parse(EXAMPLE).stages[-1]
    assert scripts.shebang(last.scripts["test"]) == "#!/bin/bash\n\n    true\n\n"
    plain = Script("echo\n", "-e # a comment")
    assert scripts.shebang(plain) == "#!/bin/sh -e\n\necho\n\n"
    assert scripts.interpreter(plain) == ("/bin/sh", "-ex", "-e")
    bash = scripts.interpreter(parse(EXAMPLE).stages[0].scripts["post"])
    assert bash == ("/bin/sh", "-ex", "-c", '/bin/bash -u "$0"')
    with pytest.raises(DefinitionError, match="needs a shell"):
        scripts.interpreter(Script("", "-c"))


def test_header_goes_on_and_may_begin_with_from() -> None:
    (stage,) = parse(b"From: a\nBootstrap: docker\nInclude: b \\\n  c\nMirrorURL1: u\n").stages
    assert stage.header["include"] == "b c" and stage.header["from"] == "a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "it has no Bootstrap:"),
        (b"%post\n echo\n", "it has no Bootstrap:"),
        (b"\xff\xfe", "not in UTF-8"),
        (b"Bootstrap: docker\n\0", "NUL"),
        (b"Bootstrap: docker\nForm: a\n", "line 2: form: there is no such key"),
        (b"Bootstrap: docker\nFrom\n", "line 2: From: this is not KEY: VALUE"),
        (b"Bootstrap: docker\n%pots\n", "line 2: %pots: there is no such section"),
        (b"Bootstrap: docker\n%files form x\n", "line 2: %files form x"),
        (b"Bootstrap: docker\n%files from x\n a\n", "line 3: %files from x: there is no such"),
        (b"Bootstrap: docker\n%files\n a b c\n", "line 3: %files has one source"),
        (b'Bootstrap: docker\n%files\n "a\n', "line 3: a quote is not closed"),
        (b"Bootstrap: docker\nFrom: {{ A }}\n", "line 2: the build argument A has no value"),
        (b"Bootstrap: docker\n%arguments\nno\n", "line 3: this is not NAME=VALUE"),
        (b"Bootstrap: a\nStage: x\nBootstrap: b\nStage: x\n", "line 3: two stages are named x"),
        (b"Bootstrap: docker\n%apprun ../x\n", "is no name of an application"),
        (b"Bootstrap: docker\n" * 101, "more than 100 stages"),
        (b"Bootstrap: docker\n" + b"x" * (1 << 20), "larger than 1024 KiB"),
    ],
)
def test_mistakes_are_told_with_their_line(text: bytes, said: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse(text)
    assert said in str(caught.value)


def test_value_makes_no_section() -> None:
    text = b"Bootstrap: docker\nFrom: a\n%labels\n A {{ X }}\n"
    (stage,) = parse(text, {"X": "1\n%setup\nrm"}).stages
    assert not stage.scripts and stage.labels == {"A": "1", "%setup": "", "rm": ""}
    with pytest.raises(DefinitionError, match="make it too long"):
        parse(text.replace(b"{{ X }}", b"{{ X }}" * 100), {"X": "x" * 1000})


def test_hostile_text_takes_linear_time() -> None:
    begin = time.process_time()
    for piece in (b"{{ X }}", b"{{ ", b"'\"", b"\\", b"# {{ X }}", b"a=", b"%", b"{{" + b" " * 99):
        text = b"Bootstrap: docker\nFrom: a\n%files\n " + piece * (100_000 // len(piece))
        try:
            parse(text, {"X": ""})
        except DefinitionError:
            pass
    assert time.process_time() - begin < 20


def test_build_arguments_of_a_file() -> None:
    assert read_args('# x\nA = 1\n\nB="a b"\n', "f") == {"A": "1", "B": '"a b"'}
    with pytest.raises(DefinitionError, match="f line 2: this is not NAME=VALUE"):
        read_args("A=1\nB\n", "f")
