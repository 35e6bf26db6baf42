"""registries.conf: its meaning, and one-line errors for malformed files."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.image.model import registries_conf
from rootless.image.model.reference import parse

DIGEST = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("CONTAINERS_REGISTRIES_CONF", raising=False)
    monkeypatch.setattr(registries_conf, "_SYSTEM", str(tmp_path / "etc/registries.conf"))
    return tmp_path


def write(home: Path, text: str, name: str = ".config/containers/registries.conf") -> Path:
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def meaning(name: str) -> list[str]:
    return [found.canonical for found in registries_conf.load().candidates(parse(name))]


def places(name: str) -> list[str]:
    found = registries_conf.load().locations(parse(name))
    return [f"{one.host}/{one.repository}{' insecure' if one.insecure else ''}" for one in found]


# -- short names -----------------------------------------------------------------------------


def test_names_default_to_docker_io() -> None:
    assert meaning("busybox") == ["docker.io/library/busybox:latest"]
    assert meaning("team/app:1") == ["docker.io/team/app:1"]
    assert meaning("host.example/app") == ["host.example/app:latest"]
    assert places("busybox") == ["docker.io/library/busybox"]


def test_short_name_is_searched_in_order(home: Path) -> None:
    write(home, 'unqualified-search-registries = ["one.example", "docker.io"]')
    assert meaning("busybox") == ["one.example/busybox:latest", "docker.io/library/busybox:latest"]
    assert meaning(f"a/b@{DIGEST}") == [f"one.example/a/b@{DIGEST}", f"docker.io/a/b@{DIGEST}"]


@pytest.mark.parametrize("name", ["docker.io/x", "index.docker.io/x", "docker://x", "localhost/x"])
def test_full_name_is_not_searched(home: Path, name: str) -> None:
    write(home, 'unqualified-search-registries = ["one.example"]\n[aliases]\n"x" = "two.example/x"')
    assert len(meaning(name)) == 1 and "example" not in meaning(name)[0]


def test_alias_replaces_the_search(home: Path) -> None:
    write(
        home,
        'unqualified-search-registries = ["one.example", "two.example"]\n'
        '[aliases]\n"fedora" = "registry.example/fedora"\n"a/b" = "docker.io/library/b"',
    )
    assert meaning("fedora:40") == ["registry.example/fedora:40"]
    assert meaning("a/b") == ["docker.io/library/b:latest"]
    assert len(meaning("fedora/x")) == 2


def test_drop_ins_override_in_order(home: Path) -> None:
    main = 'unqualified-search-registries = ["one.example"]\n[aliases]\n"a" = "x.example/a"\n'
    write(home, main + '"b" = "x.example/b"')
    drop = ".config/containers/registries.conf.d"
    write(home, 'unqualified-search-registries = ["two.example"]', f"{drop}/20.conf")
    write(home, 'unqualified-search-registries = ["three.example"]', f"{drop}/10.conf")
    write(home, '[aliases]\n"a" = "y.example/a"\n"b" = ""', f"{drop}/30.conf")
    write(home, "not toml", f"{drop}/README")
    assert meaning("q") == ["two.example/q:latest"]
    assert meaning("a") == ["y.example/a:latest"]
    assert meaning("b") == ["two.example/b:latest"]


def test_user_files_replace_system_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = 'unqualified-search-registries = ["{}.example"]'
    write(home, search.format("system"), "etc/registries.conf")
    write(home, '[aliases]\n"a" = "system.example/z"', "etc/registries.conf.d/a.conf")
    assert meaning("q") == ["system.example/q:latest"] and meaning("a") == [
        "system.example/z:latest"
    ]
    # Drop-ins of the user come after those of the system; a main file of the user replaces all.
    write(home, search.format("mine"), ".config/containers/registries.conf.d/a.conf")
    assert meaning("q") == ["mine.example/q:latest"] and meaning("a") == ["system.example/z:latest"]
    write(home, search.format("own"), ".config/containers/registries.conf")
    assert meaning("a") == ["mine.example/a:latest"]
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(home / "explicit"))
    with pytest.raises(RlessError, match="there is no such file"):
        registries_conf.load()
    write(home, search.format("explicit"), "explicit")
    assert meaning("a") == ["explicit.example/a:latest"]
    write(home, search.format("beside"), "explicit.d/a.conf")
    assert meaning("a") == ["beside.example/a:latest"]


# -- places ------------------------------------------------------------------------------------


MIRRORS = """
[[registry]]
prefix = "reg.example"
location = "reg.example"
[[registry.mirror]]
location = "all.example/cache"
insecure = true
[[registry.mirror]]
location = "digests.example"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "tags.example"
pull-from-mirror = "tag-only"
[[registry]]
location = "strict.example"
mirror-by-digest-only = true
[[registry.mirror]]
location = "mirror.example"
"""


def test_mirrors_come_first(home: Path) -> None:
    write(home, MIRRORS)
    assert places("reg.example/a/b:1") == [
        "all.example/cache/a/b insecure", "tags.example/a/b", "reg.example/a/b"
    ]  # fmt: skip
    assert places(f"reg.example/a/b@{DIGEST}") == [
        "all.example/cache/a/b insecure", "digests.example/a/b", "reg.example/a/b"
    ]  # fmt: skip
    assert places("strict.example/a:1") == ["strict.example/a"]
    assert places(f"strict.example/a@{DIGEST}") == ["mirror.example/a", "strict.example/a"]
    assert registries_conf.load().own(parse("reg.example/a/b:1")).host == "reg.example"


def test_longest_prefix_wins(home: Path) -> None:
    write(
        home,
        """
        [[registry]]
        location = "reg.example:5000"
        insecure = true
        [[registry]]
        prefix = "reg.example:5000/team"
        location = "other.example/moved"
        [[registry]]
        prefix = "reg.example:5000/team/secret"
        blocked = true
        [[registry]]
        prefix = "*.wild.example"
        location = "caught.example"
        [[registry]]
        prefix = "*.free.example"
        insecure = true
        """,
    )
    assert places("reg.example:5000/x") == ["reg.example:5000/x insecure"]
    assert places("reg.example:5000/team/x") == ["other.example/moved/x"]
    assert places("reg.example:5000/teamwork") == ["reg.example:5000/teamwork insecure"]
    assert places("reg.example/x") == ["reg.example/x"]
    with pytest.raises(RlessError, match=r"reg.example:5000/team/secret is blocked"):
        places("reg.example:5000/team/secret/x")
    assert places("a.b.wild.example/x/y") == ["caught.example/x/y"]
    assert places("wild.example/x") == ["wild.example/x"]
    assert places("notwild.example/x") == ["notwild.example/x"]
    assert places("a.free.example/x") == ["a.free.example/x insecure"]


def test_docker_io_can_be_relocated(home: Path) -> None:
    write(home, '[[registry]]\nprefix = "docker.io"\nlocation = "cache.example/hub"')
    assert places("busybox") == ["cache.example/hub/library/busybox"]
    write(home, '[[registry]]\nprefix = "docker.io/library"\nlocation = "cache.example"')
    assert places("busybox") == ["cache.example/busybox"]
    assert places("team/app") == ["docker.io/team/app"]


# -- malformed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = ", "not valid TOML"),
        ("a = " + "[" * 5000, "not valid TOML"),
        ("[registries.search]\nregistries = []", "version 1"),
        ("unqualified-search-registries = 5", "not a list of strings"),
        ('unqualified-search-registries = ["a b"]', "'a b' is not a registry"),
        ('unqualified-search-registries = ["https://a.example"]', "is not a registry"),
        ('short-name-mode = "ask"', "short-name-mode is none of"),
        ("aliases = 1", "not a table"),
        ('[aliases]\n"a" = 5', "'?a'? is not a string"),
        ('[aliases]\n"a" = "b.example/c:1"', "an alias is a full name without a tag"),
        ('[aliases]\n"a" = "b"', "an alias is a full name"),
        ("registry = 5", r"write \[\[registry\]\]"),
        ("[[registry]]", "neither prefix nor location"),
        ('[[registry]]\nlocation = "https://x.example"', "without https://"),
        ('[[registry]]\nlocation = "x.example"\ninsecure = "yes"', "insecure is neither"),
        ('[[registry]]\nlocation = "x.example"\nblocked = 1', "blocked is neither"),
        ('[[registry]]\nprefix = "*.x.example/y"\nlocation = "z.example"', "with a host only"),
        ('[[registry]]\nlocation = "x.example"\n[[registry.mirror]]', "mirror 1: location"),
        (
            '[[registry]]\nlocation = "x.example"\n[[registry.mirror]]\nlocation = "y.example"\n'
            'pull-from-mirror = "never"',
            "pull-from-mirror is none of",
        ),
        (
            '[[registry]]\nlocation = "x.example"\nmirror-by-digest-only = true\n'
            '[[registry.mirror]]\nlocation = "y.example"\npull-from-mirror = "all"',
            "exclude another",
        ),
    ],
)
def test_malformed_files_are_refused(home: Path, text: str, why: str) -> None:
    path = write(home, text)
    with pytest.raises(RlessError, match=why) as caught:
        registries_conf.load()
    assert str(path) in caught.value.message
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_unreadable_files_are_refused(home: Path) -> None:
    path = write(home, "")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RlessError, match="not valid TOML"):
        registries_conf.load()
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(RlessError, match="too large"):
        registries_conf.load()
    path.unlink()
    path.mkdir()
    with pytest.raises(RlessError, match="cannot read"):
        registries_conf.load()
