"""`.dockerignore`: the patterns and results of moby/patternmatcher, and ours."""

from __future__ import annotations

import time

import pytest

from rootless.dockerfile.ignore import IgnoreError, IgnoreRules
from rootless.dockerfile.wildcards import BadPatternError, Wildcard, has_wildcards

# (pattern, path, is excluded), from patternmatcher_test.go.
PATTERNS = [
    ("**", "file", True),
    ("**/", "file", True),
    ("**", "dir/file", True),
    ("**/", "dir/file", True),
    ("**/**", "dir/file", True),
    ("dir/**", "dir/file", True),
    ("dir/**", "dir/dir2/file", True),
    ("**/dir", "dir", True),
    ("**/dir", "dir/file", True),
    ("**/dir2/*", "dir/dir2/file", True),
    ("**/dir2/**", "dir/dir2/dir3/file", True),
    ("**file", "file", True),
    ("**file", "dir/file", True),
    ("**/file", "dir/file", True),
    ("**file", "dir/dir/file", True),
    ("**/file*", "dir/dir/file", True),
    ("**/file*", "dir/dir/file.txt", True),
    ("**/file*txt", "dir/dir/file.txt", True),
    ("**/file*.txt", "dir/dir/file.txt", True),
    ("**/file*.txt*", "dir/dir/file.txt", True),
    ("**/**/*.txt", "dir/dir/file.txt", True),
    ("**/**/*.txt2", "dir/dir/file.txt", False),
    ("**/*.txt", "file.txt", True),
    ("**/**/*.txt", "file.txt", True),
    ("a**/*.txt", "a/file.txt", True),
    ("a**/*.txt", "a/dir/file.txt", True),
    ("a**/*.txt", "a/dir/dir/file.txt", True),
    ("a/*.txt", "a/dir/file.txt", False),
    ("a/*.txt", "a/file.txt", True),
    ("a/*.txt**", "a/file.txt", True),
    ("a[b-d]e", "ae", False),
    ("a[b-d]e", "ace", True),
    ("a[b-d]e", "aae", False),
    ("a[^b-d]e", "aze", True),
    (".*", ".foo", True),
    (".*", "foo", False),
    ("abc.def", "abcdef", False),
    ("abc.def", "abc.def", True),
    ("abc.def", "abcZdef", False),
    ("abc?def", "abcZdef", True),
    ("abc?def", "abcdef", False),
    ("a\\\\", "a\\", True),
    ("a\\*b", "a*b", True),
    ("**/foo/bar", "foo/bar", True),
    ("**/foo/bar", "dir/foo/bar", True),
    ("**/foo/bar", "dir/dir2/foo/bar", True),
    ("abc/**", "abc", False),
    ("abc/**", "abc/def", True),
    ("abc/**", "abc/def/ghi", True),
    ("**/.foo", ".foo", True),
    ("**/.foo", "bar.foo", False),
    ("a(b)c/def", "a(b)c/def", True),
    ("a(b)c/def", "a(b)c/xyz", False),
    ("a.|)$(}+{bc", "a.|)$(}+{bc", True),
    ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", True),
    # What is not in theirs.
    ("**.log", "a/x.log", True),
    ("*.log", "a/x.log", False),
    ("a*b*c", "aXbYc", True),
    ("a*b*c", "aXbY/c", False),
    ("?", "/", False),
    ("a[^b]c", "a/c", False),
    ("[^a-c]?[]]", "xy]", None),
    ("x**y/z", "x/a/y/z", True),
    ("x**y/z", "xy/z", True),
    ("x**y/z", "xay/z", False),
    ("a/**/b", "a/b", True),
    ("a/**/b", "a/x/y/b", True),
    ("a/**/b", "ab", False),
    ("*/**/b?", "a/x/bz", True),
    ("/lead", "lead", True),
    ("./a/../b/", "b/c", True),
    ("  b  ", "b", True),
    ("..", "b", False),
    (".", "b", False),
]


@pytest.mark.parametrize(("pattern", "path", "expected"), PATTERNS)
def test_one_pattern(pattern: str, path: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(IgnoreError):
            IgnoreRules([pattern])
    else:
        assert IgnoreRules([pattern]).excludes(path) is expected


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        (["**", "!util/docker/web"], "util/docker/web/foo", False),
        (["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", True),
        (["**", "!dist/*.whl"], "dist/proxy.py-2.4.0rc3.whl", False),
        (["!fileutils.go", "*.go"], "fileutils.go", True),
        (["*.go", "!fileutils.go"], "fileutils.go", False),
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["docs/", "!docs/README.md"], "docs/README.md", False),
        (["docs/*", "!docs/README.md"], "docs/README.md", False),
        (["docs", "!docs/README.md"], "docs/other", True),
        ([], "any", False),
    ],
)
def test_last_match_decides(patterns: list[str], path: str, expected: bool) -> None:
    assert IgnoreRules(patterns).excludes(path) is expected


def test_file_is_read() -> None:
    rules = IgnoreRules.parse(
        b"\xef\xbb\xbf# comment\r\n\n  *.log  \r\n #no comment\n! x.log\n\xff\n"
    )
    assert rules.excludes("a.log")
    assert rules.excludes("#no comment")
    assert not rules.excludes("x.log")
    assert rules.excludes(b"\xff".decode("utf-8", "surrogateescape"))
    assert rules.has_negated and rules
    assert not IgnoreRules.parse(b"# only\n\n")


@pytest.mark.parametrize("data", [b"a\n!", b"a\n[", b"a\n[]a]", b"a\nb\\", b"a\n[a-]", b"a\n! "])
def test_wrong_lines_are_named_and_not_shown(data: bytes) -> None:
    with pytest.raises(IgnoreError) as caught:
        IgnoreRules.parse(data)
    assert str(caught.value).startswith(".dockerignore line 2: ")


@pytest.mark.parametrize(
    ("patterns", "directory", "expected"),
    [
        (["*"], "a", False),
        (["*", "!a/b"], "a", True),
        (["*", "!a/b"], "b", False),
        (["*", "!a/b/c"], "a/b", True),
        (["*", "!a/b"], "a/c", False),
        (["*", "!a/*/c"], "a/x", True),
        (["*", "!**/keep"], "deep/er", True),
        (["*", "!a**"], "b", True),
        (["*", "!a/**"], "b", False),
        (["b"], "a", True),
    ],
)
def test_skipped_directories(patterns: list[str], directory: str, expected: bool) -> None:
    rules = IgnoreRules(patterns)
    state = rules.root
    names = directory.split("/")
    for count in range(1, len(names) + 1):
        state = rules.enter(state, "/".join(names[:count]))
    assert rules.may_return(state, directory) is expected


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*.go", "a.go", True),
        ("a*/b", "ax/b", True),
        ("a**b", "axb", True),
        ("a**b", "a/b", False),
        ("[!a]", "!", True),
        ("[!a]", "b", False),
        ("[\\]a]", "]", True),
        ("[a-c][^x]", "bq", True),
        ("\\[x\\]", "[x]", True),
        ("", "", True),
        ("*", "", True),
        ("é?", "éü", True),
    ],
)
def test_wildcards_of_copy(pattern: str, name: str, expected: bool) -> None:
    assert Wildcard(pattern).matches(name) is expected


def test_names_and_patterns_are_told_apart() -> None:
    assert not has_wildcards("a/b.c")
    assert all(map(has_wildcards, ("*", "a?", "[x", "a\\b")))
    with pytest.raises(BadPatternError):
        Wildcard("a[")


@pytest.mark.parametrize(
    "pattern", ["*a" * 60 + "b", "**/a" * 60 + "/b", "a*" * 60 + "[^a]" * 9], ids=str
)
def test_time_is_linear(pattern: str) -> None:
    rules = IgnoreRules([pattern])
    start = time.process_time()
    assert not rules.enter(rules.root, "a" * 4000).is_excluded
    assert not rules.enter(rules.root, "a/" * 2000).is_excluded
    assert time.process_time() - start < 5  # milliseconds; a backtracking matcher needs years
