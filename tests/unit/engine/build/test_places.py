"""What a source of ADD or a context names (classes 60 and 61)."""

from __future__ import annotations

import pytest

from rootless.engine.build.remote.places import (
    Repository,
    Url,
    is_remote,
    parse,
    parse_context,
)
from rootless.errors import RlessError


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://h/a/b.tar.gz", "b.tar.gz"),
        ("https://h/a/b/", "b"),
        ("http://h:8080/a%20b?x=/y", "a b"),
        ("https://h", "__unnamed__"),
        ("https://h/", "__unnamed__"),
        ("https://h/a/..", "__unnamed__"),
        ("https://h/%2e%2e", "__unnamed__"),
        ("https://h/x%2F..%2F..%2Fetc", "etc"),
        ("https://h/a%00b", "__unnamed__"),
        ("https://h/x.git/y", "y"),
    ],
)
def test_name_of_a_file_behind_a_url(text: str, name: str) -> None:
    found = parse(text)
    assert isinstance(found, Url) and found.name == name


def test_fragment_of_a_url_is_not_sent() -> None:
    assert parse("https://h/a?b=c#d") == Url("https://h/a?b=c", "a")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("https://h/r.git", Repository("https://h/r.git")),
        ("https://h/r.git#v1", Repository("https://h/r.git", "v1")),
        ("https://h/r.git#v1:d/e", Repository("https://h/r.git", "v1", "d/e")),
        ("https://h/r.git#:d", Repository("https://h/r.git", "", "d")),
        ("git@h:a/r.git#main", Repository("git@h:a/r.git", "main")),
        ("git@h:r?branch=b&subdir=s", Repository("git@h:r", "refs/heads/b", "s")),
        ("ssh://git@h:22/r", Repository("ssh://git@h:22/r")),
        ("git://h/r#feature/x", Repository("git://h/r", "feature/x")),
        ("https://h/r.git?tag=v1", Repository("https://h/r.git", "refs/tags/v1")),
        ("https://h/r.git?ref=pull/1/head", Repository("https://h/r.git", "pull/1/head")),
        ("https://h/r.git?checksum=abcd12", Repository("https://h/r.git", commit="abcd12")),
        ("https://h/r.git?commit=abcd12#m", Repository("https://h/r.git", "m", commit="abcd12")),
        (
            "https://h/r.git?submodules=false&keep-git-dir",
            Repository("https://h/r.git", submodules=False, keep_git_dir=True),
        ),
    ],
)
def test_repository(text: str, wanted: Repository) -> None:
    assert parse(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc/passwd",
        "ext::sh -c id",
        "ext::sh",
        "fd::0",
        "ftp://h/x",
        "FILE://x/y",
        "ssh://-oProxyCommand=x/r",
        "https://-x/r.git",
        "http://[x/",
        "https://h/r.git#--upload-pack=x",
        "https://h/r.git#a..b",
        "https://h/r.git#a b",
        "https://h/r.git?tag=a&branch=b",
        "https://h/r.git?tag=a#b",
        "https://h/r.git?subdir=a#b:c",
        "https://h/r.git?unknown=1",
        "https://h/r.git?ref=",
        "https://h/r.git?ref=a&ref=b",
        "https://h/r.git?submodules=maybe",
        "https://h/r.git?commit=main",
        "https://h/a\nb",
    ],
)
def test_what_is_refused(text: str) -> None:
    assert is_remote(text)
    with pytest.raises(RlessError):
        parse(text)


@pytest.mark.parametrize("text", ["file", "a/b", "./git@x", "a:b", "C:/x", "Foo::Bar", "-", "github"])
def test_path_is_none(text: str) -> None:
    assert not is_remote(text)


def test_github_by_its_short_form_is_a_context_only() -> None:
    assert parse_context("github.com/a/b#main") == Repository("https://github.com/a/b.git", "main")
    assert not is_remote("github.com/a/b")
