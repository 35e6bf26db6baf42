"""The packages of other projects that rless uses, by the names that distributions give them.

scripts/lib.sh reads the table too, before there is a Python that could run this.
"""

from __future__ import annotations

from rootless.host import facts

# "-": the distribution has no such package, or another one of these brings it.
TABLE = """
Debian          Fedora              openSUSE              Arch            Alpine
uidmap          shadow-utils        shadow                shadow          shadow-uidmap
libsubid4       shadow-utils-subid  libsubid4             shadow          -
libseccomp2     libseccomp          libseccomp2           libseccomp      libseccomp
passt           passt               passt                 passt           passt
fuse-overlayfs  fuse-overlayfs      fuse-overlayfs        fuse-overlayfs  fuse-overlayfs
squashfuse      squashfuse          squashfuse            squashfuse      squashfuse
musl-tools      gcc,glibc-static    gcc,glibc-devel-static  musl          gcc,musl-dev
python3-venv    -                   -                     python          python3
"""
# What installs them, and what does so once more where files of one are missing.
_MANAGERS = {
    "Debian": ("apt-get install", "apt-get install --reinstall"),
    "Fedora": ("dnf install", "dnf reinstall"),
    "openSUSE": ("zypper install", "zypper install --force"),
    "Arch": ("pacman -S", "pacman -S"),
    "Alpine": ("apk add", "apk fix"),
}
# In ID and ID_LIKE of os-release(5).
_FAMILIES = {
    "Fedora": ("fedora", "rhel", "centos"),
    "openSUSE": ("suse", "opensuse", "sles"),
    "Arch": ("arch",),
    "Alpine": ("alpine",),
}
# A newer Python beside the one that is `python3` there: RHEL 8 and 9, SLES and openSUSE Leap 15.
_PYTHON = {"Fedora": "python3.11", "openSUSE": "python311"}


def family(os_release: str) -> str:
    """Return the column of the table for the text of an os-release(5); Debian's for any other."""
    words = []
    for line in os_release.lower().splitlines():
        key, _, value = line.partition("=")
        if key in ("id", "id_like"):
            words += value.strip("\"'").split()
    for word in words:
        for known, names in _FAMILIES.items():
            if word.partition("-")[0] in names:
                return known
    return "Debian"


def _here() -> str:
    return family(facts.read("/etc/os-release") or "")


def command(name: str, again: bool = False) -> str:
    """Return the administrator's command that installs a package, named as Debian does.

    Args:
        again: it is installed, but a file of it is missing.
    """
    here = _here()
    head, *rows = (line.split() for line in TABLE.strip().splitlines())
    names = next(row for row in rows if row[0] == name)[head.index(here)]
    if names == "-":
        return f"install the package {name} of another distribution"
    return f"sudo {_MANAGERS[here][again]} {names.replace(',', ' ')}"


def newer_python() -> str:
    """Return how a Python that is new enough comes to this distribution."""
    here = _here()
    if here in _PYTHON:
        return f"sudo {_MANAGERS[here][0]} {_PYTHON[here]}, and install rless with it"
    return "install a newer one"
