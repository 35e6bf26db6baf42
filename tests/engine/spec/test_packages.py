"""`apt-get install` as root of one id: --fakeroot, which is on by itself.

The image is made of the files that this machine's packages of the base system have.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.product import Product, Result

pytestmark = pytest.mark.needs("user namespaces", "apt-get", "dpkg-deb")

_POSTINST = """#!/bin/sh
set -e
groupadd -r hello
useradd -r -g hello -d /var/lib/hello hello
chown hello:hello /var/lib/hello
install -o hello -g hello -m 2750 -d /var/lib/hello/log
mknod /var/lib/hello/null c 1 3
"""
_CONTROL = """Package: hello-owner
Version: 1.0
Architecture: all
Maintainer: Nobody <nobody@example.org>
Description: a package that wants owners
"""


def base_packages() -> dict[str, str]:
    """Return the paragraphs of the essential packages, apt and what they need, by name."""
    text = Path("/var/lib/dpkg/status").read_text(encoding="utf-8")
    known: dict[str, str] = {}
    provided: dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and line[0] != " "
        )
        if "ok installed" not in fields.get("Status", ""):
            continue
        known[fields["Package"]] = paragraph
        for name in fields.get("Provides", "").split(","):
            provided.setdefault(name.split("(")[0].strip(), fields["Package"])
    wanted = ["apt", "dpkg", "passwd"]
    wanted += [name for name, text in known.items() if "\nEssential: yes" in text]
    found: dict[str, str] = {}
    while wanted:
        name = wanted.pop()
        name = name if name in known else provided.get(name, "")
        if not name or name in found:
            continue
        found[name] = known[name]
        for line in known[name].splitlines():
            if line.startswith(("Depends: ", "Pre-Depends: ")):
                for part in line.split(": ", 1)[1].split(","):
                    wanted += [one.split("(")[0].split(":")[0].strip() for one in part.split("|")]
    return found


def write_base(path: Path) -> None:
    """Write the files of these packages as a tar."""
    packages = base_packages()
    listed = subprocess.run(["dpkg-query", "-L", *packages], stdout=subprocess.PIPE, text=True)
    skipped = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/i18n")
    files = {line for line in listed.stdout.splitlines() if line.startswith("/")}
    files |= {"/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", "/var/lib/dpkg"}
    with tarfile.open(path, "w") as archive, tempfile.TemporaryDirectory() as made:
        for name in sorted(files):
            if (
                not name.startswith(skipped)
                and os.path.lexists(name)
                and os.access(os.path.dirname(name), os.X_OK)
            ):
                if os.path.isfile(name) and not os.access(name, os.R_OK):
                    continue
                archive.add(name, recursive=False)
        texts = {
            "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n_apt:x:42:65534::/:/bin/false\n",
            "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
            "/etc/shadow": "root:*:1::::::\n",
            "/etc/gshadow": "root:*::\n",
            "/var/lib/dpkg/status": "\n\n".join(packages.values()) + "\n",
        }
        for name, text in texts.items():
            copy = Path(made) / "copy"
            copy.write_text(text)
            archive.add(copy, name, recursive=False)
        for name in ("/tmp", "/var/cache/apt/archives/partial", "/var/lib/apt/lists/partial"):
            archive.add("/tmp", name, recursive=False)


@pytest.fixture(scope="module")
def base(shared_product: Product) -> Iterator[str]:
    """Import the base system."""
    path = shared_product.base / "base.tar"
    write_base(path)
    shared_product("import", str(path), "base:1").expect()
    path.unlink()
    yield "base:1"
    shared_product("rmi", "base:1").expect()


@pytest.fixture(scope="module")
def repository(shared_product: Product) -> Iterator[Path]:
    """Make a repository with one package, whose installation wants users, owners, a device."""
    top = shared_product.base / "repository"
    tree = shared_product.base / "package"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "var/lib/hello").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(_CONTROL)
    (tree / "DEBIAN/postinst").write_text(_POSTINST)
    (tree / "DEBIAN/postinst").chmod(0o755)
    top.mkdir()
    file = top / "hello-owner.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", tree, file], check=True, stdout=subprocess.DEVNULL
    )
    import hashlib

    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (top / "Packages").write_text(
        f"{_CONTROL}Filename: ./hello-owner.deb\nSize: {file.stat().st_size}\nSHA256: {digest}\n\n"
    )
    yield top


def install(rless: Product, image: str, repository: Path, *flags: str) -> Result:
    script = (
        "rm -rf /etc/apt/sources.list*; echo 'deb [trusted=yes] file:/repo ./'"
        " >/etc/apt/sources.list; apt-get -qq update && apt-get -qq -y install hello-owner"
        " && dpkg-query -W hello-owner && stat -c '%U %a' /var/lib/hello/log && id -un hello"
    )
    return rless.run(
        ["-v", f"{repository}:/repo", *flags], "sh", "-c", script, image=image, timeout=120
    )


def test_package_that_changes_owners_installs(rless: Product, base: str, repository: Path) -> None:
    done = install(rless, base, repository, "--userns=single")
    assert done.expect().lines()[-3:] == ["hello-owner\t1.0", "root 2750", "hello"]
    # Without it there is no way.
    done = install(rless, base, repository, "--userns=single", "--fakeroot=false")
    assert done.code != 0


@pytest.mark.needs("mksquashfs", "squashfuse", "fuse")
def test_package_installs_on_an_image_file(
    rless: Product, base: str, repository: Path, tmp_path: Path
) -> None:
    file = tmp_path / "base.sqsh"
    rless("flatten", "--compression", "lz4", base, str(file)).expect()
    done = install(rless, str(file), repository, "--hpc", "-u", "0")
    assert done.expect().lines()[-3:] == ["hello-owner\t1.0", "root 2750", "hello"]
