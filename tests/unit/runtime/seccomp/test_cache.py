"""The cache of compiled filters: hits, damage, and files of others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rootless.errors import RlessError
from rootless.linux import libseccomp
from rootless.runtime import seccomp
from rootless.runtime.seccomp import compiler

pytestmark = pytest.mark.needs("libseccomp")

PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}],
}
CAPS = ("CAP_SYS_CHROOT",)


class Compilations:
    """Count how often the compiler runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = compiler.compile_filter

        def counted(profile: dict[str, object]) -> bytes:
            self.count += 1
            return real(profile)

        monkeypatch.setattr(compiler, "compile_filter", counted)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Compilations:
    return Compilations(monkeypatch)


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def only_file(cache: str) -> Path:
    (file,) = Path(cache).iterdir()
    return file


def test_cached_filter_needs_no_libseccomp(
    cache: str, compilations: Compilations, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = seccomp.cached_filter(PROFILE, cache)
    default = seccomp.default_filter(CAPS, cache)
    assert compilations.count == 2
    monkeypatch.setattr(libseccomp, "_library", None)
    monkeypatch.setattr(libseccomp, "SONAME", "libseccomp-not-here.so.9")
    assert seccomp.cached_filter(PROFILE, cache) == first
    assert seccomp.default_filter(CAPS, cache) == default
    assert compilations.count == 2


def test_cache_hit_imports_nothing_heavy(cache: str) -> None:
    seccomp.cached_filter(PROFILE, cache)
    seccomp.default_filter(CAPS, cache)
    code = f"""
import sys
from rootless.runtime import seccomp
seccomp.cached_filter({PROFILE!r}, {cache!r})
seccomp.default_filter({CAPS!r}, {cache!r})
print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(seccomp.__file__).parents[3])},
    )
    loaded = set(done.stdout.split())
    assert "rootless.runtime.seccomp" in loaded
    assert not loaded & {
        "rootless.linux.libseccomp",
        "rootless.runtime.seccomp.compiler",
        "rootless.runtime.seccomp.default",
        "ctypes",
        "hashlib",
        "typing",
    }


def test_same_content_shares_one_file(cache: str, compilations: Compilations) -> None:
    seccomp.cached_filter(PROFILE, cache)
    seccomp.cached_filter(dict(reversed(PROFILE.items())), cache)
    assert compilations.count == 1
    other = {**PROFILE, "defaultErrnoRet": 2}
    assert seccomp.cached_filter(other, cache) != seccomp.cached_filter(PROFILE, cache)
    assert len(list(Path(cache).iterdir())) == 2


def test_default_depends_on_its_inputs(cache: str) -> None:
    filters = {
        seccomp.default_filter((), cache),
        seccomp.default_filter(("CAP_SYS_ADMIN",), cache),
        seccomp.default_filter((), cache, allow_nested_userns=True),
        seccomp.default_filter((), cache, socketcall=True),
        seccomp.default_filter(("CAP_SYS_PTRACE",), cache),
    }
    assert len(filters) == 5
    assert seccomp.default_filter(("CAP_KILL",), cache) in filters  # changes nothing in it
    assert len(list(Path(cache).iterdir())) == 5


def test_cache_is_private(cache: str) -> None:
    seccomp.cached_filter(PROFILE, cache)
    assert os.stat(cache).st_mode & 0o777 == 0o700
    assert only_file(cache).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-8],
        lambda content: content[:-3],
        lambda content: content + b"\0" * 8,
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: b"\0" * len(content),
        lambda content: content.replace(b"rless", b"rloss", 1),
        lambda content: content * 100,
    ],
)
def test_damaged_file_is_rebuilt(cache: str, compilations: Compilations, damage: object) -> None:
    good = seccomp.cached_filter(PROFILE, cache)
    file = only_file(cache)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))  # type: ignore[operator]
    assert seccomp.cached_filter(PROFILE, cache) == good
    assert compilations.count == 2
    assert only_file(cache).read_bytes() == whole


def test_renamed_file_is_not_used(cache: str, compilations: Compilations) -> None:
    weak = seccomp.cached_filter({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}, cache)
    file = only_file(cache)
    strict = seccomp.cached_filter(PROFILE, cache)
    (target,) = set(Path(cache).iterdir()) - {file}
    target.write_bytes(file.read_bytes())
    assert seccomp.cached_filter(PROFILE, cache) == strict != weak
    assert compilations.count == 3


def test_links_fifos_and_writable_files_are_not_used(
    cache: str, compilations: Compilations
) -> None:
    good = seccomp.cached_filter(PROFILE, cache)
    file = only_file(cache)
    kept = Path(cache).parent / "kept"
    file.rename(kept)
    file.symlink_to(kept)
    assert seccomp.cached_filter(PROFILE, cache) == good
    assert compilations.count == 2
    assert not file.is_symlink()
    file.unlink()
    os.mkfifo(file)
    assert seccomp.cached_filter(PROFILE, cache) == good
    assert compilations.count == 3
    file.chmod(0o644)
    assert seccomp.cached_filter(PROFILE, cache) == good
    assert compilations.count == 4
    assert only_file(cache).stat().st_mode & 0o777 == 0o600


def test_new_libseccomp_rebuilds_the_filter(
    cache: str, compilations: Compilations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "libseccomp.so.2.0 new\tname"
    library.write_bytes(b"old")
    monkeypatch.setattr(libseccomp, "library_file", lambda: str(library))
    good = seccomp.cached_filter(PROFILE, cache)
    assert seccomp.cached_filter(PROFILE, cache) == good
    assert compilations.count == 1
    library.write_bytes(b"upgraded")
    assert seccomp.cached_filter(PROFILE, cache) == good
    assert compilations.count == 2
    # Removed: what the old one made is still right, and better than no start at all.
    library.unlink()
    monkeypatch.setattr(libseccomp, "_library", None)
    monkeypatch.setattr(libseccomp, "SONAME", "libseccomp-not-here.so.9")
    assert seccomp.cached_filter(PROFILE, cache) == good
    with pytest.raises(RlessError, match="not installed"):
        seccomp.cached_filter({**PROFILE, "defaultErrnoRet": 3}, cache)


def test_directory_of_others_is_not_written(cache: str, compilations: Compilations) -> None:
    os.mkdir(cache)
    os.chmod(cache, 0o777)
    assert seccomp.cached_filter(PROFILE, cache)
    assert not list(Path(cache).iterdir())


def test_missing_cache_directory_is_no_error(tmp_path: Path, compilations: Compilations) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "below", tmp_path / "file", tmp_path / "no" / "parent"):
        assert seccomp.cached_filter(PROFILE, str(place))
    assert compilations.count == 3


def test_load_flags_are_passed() -> None:
    assert seccomp.load_flags({}) == 4
    assert seccomp.load_flags({"flags": None}) == 4
    assert seccomp.load_flags({"flags": []}) == 0
    assert seccomp.load_flags({"flags": ["SECCOMP_FILTER_FLAG_LOG"]}) == 2
    with pytest.raises(RlessError):
        seccomp.load_flags({"flags": ["FUN"]})
    with pytest.raises(RlessError):
        seccomp.load_flags({"flags": "SECCOMP_FILTER_FLAG_LOG"})
