"""Names of packages, on distributions that are not Debian."""

from __future__ import annotations

import subprocess

import pytest

from rootless.host import facts, packages
from tests.lib.compiled import ROOT

RELEASES = {
    "Debian": 'ID=ubuntu\nID_LIKE=debian\nNAME="Ubuntu"\n',
    "Fedora": 'ID="rocky"\nID_LIKE="rhel centos fedora"\n',
    "openSUSE": 'ID="opensuse-leap"\nID_LIKE="suse opensuse"\n',
    "Arch": "ID=endeavouros\nID_LIKE=arch\n",
    "Alpine": "ID=alpine\n",
}


@pytest.mark.parametrize("family", RELEASES)
def test_family_is_told_by_os_release(family: str) -> None:
    assert packages.family(RELEASES[family]) == family


@pytest.mark.parametrize(
    ("release", "name", "again", "command"),
    [
        ("Debian", "uidmap", False, "sudo apt-get install uidmap"),
        ("Debian", "uidmap", True, "sudo apt-get install --reinstall uidmap"),
        ("Fedora", "uidmap", True, "sudo dnf reinstall shadow-utils"),
        ("Fedora", "musl-tools", False, "sudo dnf install gcc glibc-static"),
        ("openSUSE", "libseccomp2", False, "sudo zypper install libseccomp2"),
        ("Arch", "passt", False, "sudo pacman -S passt"),
        ("Alpine", "uidmap", False, "sudo apk add shadow-uidmap"),
    ],
)
def test_command_is_that_of_the_distribution(
    monkeypatch: pytest.MonkeyPatch, release: str, name: str, again: bool, command: str
) -> None:
    monkeypatch.setattr(facts, "read", lambda path: RELEASES[release])
    assert packages.command(name, again) == command


def test_each_package_has_a_name_everywhere() -> None:
    head, *rows = (line.split() for line in packages.TABLE.strip().splitlines())
    assert set(head) == set(RELEASES)
    assert {len(row) for row in rows} == {len(head)}


def test_host_of_old_python_is_told_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from rootless.host.checks import check_python

    monkeypatch.setattr(facts, "read", lambda path: RELEASES["Fedora"])
    assert "dnf install python3.11" in check_python((3, 9), "/usr/bin/python3").fix


@pytest.mark.parametrize(
    ("release", "wanted", "shown"),
    [
        ("Fedora", "uidmap passt musl-tools python3-venv", "shadow-utils passt gcc glibc-static"),
        ("Alpine", "uidmap libsubid5|libsubid4", "shadow-uidmap"),
    ],
)
def test_scripts_read_the_same_table(release: str, wanted: str, shown: str) -> None:
    script = f". scripts/lib.sh; package_names {release} {wanted}".replace("|", r"\|")
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == shown.split(), done.stderr
