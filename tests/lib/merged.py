"""What an archive of an image says: its config, and the merged tree of its layers."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
from pathlib import Path

_TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
# Without what no two builds share, and what a reference adds in its own name.
_NOT_COMPARED = {"Hostname", "Domainname", "Image", "AttachStdin", "AttachStdout", "AttachStderr",
                 "Tty", "OpenStdin", "StdinOnce", "ArgsEscaped", "NetworkDisabled",
                 "MacAddress"}  # fmt: skip

Facts = dict[str, str]


def read(archive: Path) -> Facts:
    """Return what two images are compared by, of a docker-archive with one image.

    Returns:
        `config NAME` -> JSON; `/path` -> type, mode, owners, size, digest, target. Files that are
        linked with each other say so.
    """
    with tarfile.open(archive) as tar:
        (manifest,) = json.load(_open(tar, "manifest.json"))
        document = json.load(_open(tar, manifest["Config"]))
        tree: dict[str, Facts] = {}
        for number, name in enumerate(manifest["Layers"]):
            with tarfile.open(fileobj=_open(tar, name)) as layer:
                _apply(layer, tree, number)
    config = document.get("config") or {}
    found = {
        f"config {name}": json.dumps(value, sort_keys=True)
        for name, value in config.items()
        if value not in (None, "", [], {}, False) and name not in _NOT_COMPARED
    }
    found |= {f"config {name}": str(document.get(name)) for name in ("os", "architecture")}
    found["config author"] = document.get("author") or ""
    groups: dict[str, list[str]] = {}
    for path, facts in tree.items():
        groups.setdefault(facts["inode"], []).append(path)
    for path, facts in tree.items():
        alike = " ".join(sorted(groups[facts["inode"]])) if len(groups[facts["inode"]]) > 1 else ""
        found[f"/{path}"] = " ".join((facts["text"], alike)).strip()
    return found


def _open(tar: tarfile.TarFile, name: str) -> io.BytesIO:
    file = tar.extractfile(name)
    assert file is not None
    return io.BytesIO(file.read())


def _apply(layer: tarfile.TarFile, tree: dict[str, Facts], number: int) -> None:
    """Put a layer on a tree, with what it removes."""
    made: dict[str, Facts] = {}
    for member in layer:
        path = member.name.removeprefix("./").strip("/")
        parent, _, name = path.rpartition("/")
        if name == ".wh..wh..opq":
            _remove(tree, parent, keep=True)
        elif name.startswith(".wh."):
            _remove(tree, f"{parent}/{name[4:]}".lstrip("/"))
        elif path not in ("", "."):
            made[path] = _describe(layer, member, made)
            made[path].setdefault("inode", f"{number} {member.offset}")
    for path, facts in made.items():
        if not facts["text"].startswith("d"):
            _remove(tree, path)
        tree[path] = facts


def _remove(tree: dict[str, Facts], path: str, keep: bool = False) -> None:
    for name in [
        name for name in tree if name.startswith(f"{path}/") or (name == path and not keep)
    ]:
        del tree[name]


def _describe(layer: tarfile.TarFile, member: tarfile.TarInfo, made: dict[str, Facts]) -> Facts:
    if member.type == tarfile.LNKTYPE:
        return made[member.linkname.removeprefix("./").strip("/")]
    mode = stat.filemode(_TYPES[member.type] | member.mode)
    if member.issym():
        mode = "l"  # it has none
    words = [mode, f"{member.uid}:{member.gid}"]
    if member.isreg():
        file = layer.extractfile(member)
        assert file is not None
        data = file.read()
        words += [str(len(data)), hashlib.sha256(data).hexdigest()[:12]]
    if member.issym():
        words.append(f"-> {member.linkname}")
    words += [
        f"{name[14:]}={value!r}"
        for name, value in sorted(member.pax_headers.items())
        if name.startswith("SCHILY.xattr.")
    ]
    return {"text": " ".join(words)}
