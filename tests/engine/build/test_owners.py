"""Without subordinate ids: owners are kept as data, and come back in what is saved; class 63."""

from __future__ import annotations

import os
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest

from rootless.engine.build.owners import mode_of_foreign_acl
from rootless.image.layer import owners
from tests.lib import images
from tests.lib.build_steps import Room
from tests.lib.compiled import static_program
from tests.lib.needs import DRIVERS
from tests.lib.product import Product

pytestmark = pytest.mark.needs("user namespaces")


@pytest.fixture
def context(rless: Product, tmp_path: Path) -> Path:
    rless("tag", rless.image, "localhost/base:1").expect()
    (tmp_path / "context").mkdir()
    return tmp_path / "context"


def build(rless: Product, context: Path, text: str, *words: str, **more: Any) -> str:
    (context / "Dockerfile").write_text(text)
    flags = ("--progress=plain", "--userns=single", "-t", "localhost/owned:1")
    return rless("build", *flags, *words, str(context), **more).expect().err


def save(rless: Product, path: Path) -> list[dict[str, tuple[int, int]]]:
    rless("save", "-q", "-o", str(path), "localhost/owned:1").expect()
    return images.saved_layers(path)


def test_owners_of_a_run_come_back(rless: Product, context: Path, tmp_path: Path) -> None:
    text = (
        "FROM localhost/base:1\n"
        "RUN mkdir -p /d/e && touch /d/f /d/e/g /keep && chown 5:6 /d/f && chgrp 7 /keep"
        " && chown -R 8:9 /d/e && chown 1 /d && cd /d/e && chown 3:4 ../../keep\n"
        "RUN touch /d/e/new && echo x >>/d/f && touch /d/f2 && chown 6:11 /d/f2\n"
        "RUN chown 0:0 /keep && chown 5:5 /srv\n"
    )
    build(rless, context, text)
    first, second, third = save(rless, tmp_path / "saved.tar")[-3:]
    assert first == {
        "d": (1, 0), "d/e": (8, 9), "d/e/g": (8, 9), "d/f": (5, 6), "keep": (3, 4)
    }  # fmt: skip
    # What is copied up keeps what it had; a new file is root's.
    assert second == {
        "d": (1, 0), "d/e": (8, 9), "d/e/new": (0, 0), "d/f": (5, 6), "d/f2": (6, 11)
    }  # fmt: skip
    assert third == {"keep": (0, 0), "srv": (5, 5)}


def test_owners_of_copies_and_archives_come_back(
    rless: Product, context: Path, tmp_path: Path
) -> None:
    (context / "file").write_text("x")
    with tarfile.open(context / "a.tar", "w") as archive:
        member = tarfile.TarInfo("packed")
        member.uid, member.gid = 12, 13
        archive.addfile(member)
    text = (
        "FROM localhost/base:1 AS first\n"
        "COPY --chown=5:6 file /in/\n"
        "ADD a.tar /in/\n"
        "RUN touch /in/made && chown 7:8 /in/made\n"
        "FROM localhost/base:1\n"
        "COPY --from=first /in /out/\n"
        "COPY --from=first --chown=1:2 /in/made /other\n"
    )
    build(rless, context, text, "-o", f"type=tar,dest={tmp_path}/files.tar", "--load")
    copied, other = save(rless, tmp_path / "saved.tar")[-2:]
    kept = {"out/file": (5, 6), "out/made": (7, 8), "out/packed": (12, 13)}
    assert {name: copied[name] for name in kept} == kept
    assert other == {"other": (1, 2)}
    with tarfile.open(tmp_path / "files.tar") as archive:
        found = {one.name: (one.uid, one.gid) for one in archive}
    assert {name: found[name] for name in kept} == kept


@pytest.mark.parametrize("driver", DRIVERS)
def test_owners_are_the_same_with_each_driver(
    rless: Product, context: Path, tmp_path: Path, driver: str
) -> None:
    """Only the kernel's overlayfs marks what was copied up; the others keep the owners as well."""
    text = (
        "FROM localhost/base:1\n"
        f"RUN echo {driver} >/d && mkdir /e && touch /e/f /e/g /e/h && chown 5:6 /e/f"
        " && chown 7:8 /e/g && chgrp 9 /e/h && chown 3:4 /e /d\n"
        "RUN echo x >>/e/f && chmod 600 /e/g && chown 2:10 /e/h && touch /e/new && echo x >>/d"
        " && awk '$2 == \"/\" {print \"on \" $3 \".\"}' /proc/self/mounts\n"
    )
    env = {"RLESS_STORAGE_DRIVER": driver}
    said = build(rless, context, text, "--network=none", env=env)
    kinds = {"overlay": "overlay", "fuse-overlayfs": "fuse.fuse-overlayfs"}
    assert [driver == name for name in kinds] == [f" on {kind}." in said for kind in kinds.values()]
    first, second = save(rless, tmp_path / "saved.tar")[-2:]
    assert first == {"d": (3, 4), "e": (3, 4), "e/f": (5, 6), "e/g": (7, 8), "e/h": (0, 9)}
    assert second == {
        **{"d": (3, 4), "e": (3, 4), "e/f": (5, 6), "e/g": (7, 8), "e/h": (2, 10)},
        "e/new": (0, 0),
    }


@pytest.mark.needs("compiler")
@pytest.mark.parametrize("driver", DRIVERS)
def test_capabilities_that_a_run_gives_are_kept(
    rless: Product, context: Path, tmp_path: Path, driver: str
) -> None:
    """Also where the file is otherwise as it was."""
    program = static_program("tests/lib/set_capability.c").read_bytes()
    (context / "set-capability").write_bytes(program)
    (context / "set-capability").chmod(0o755)
    text = (
        f"FROM localhost/base:1\nCOPY set-capability /bin/\nRUN echo {driver} >/old\n"
        "RUN set-capability /old && touch /new && set-capability /new && touch /none\n"
    )
    build(rless, context, text, "--network=none", env={"RLESS_STORAGE_DRIVER": driver})
    rless("save", "-q", "-o", str(tmp_path / "saved.tar"), "localhost/owned:1").expect()
    top = images.saved_members(tmp_path / "saved.tar")[-1]
    name = "SCHILY.xattr.security.capability"
    found = {path: name in member.pax_headers for path, member in top.items()}
    assert found == {"new": True, "none": False, "old": True}


def test_files_of_the_image_have_no_attribute_of_ours(
    rless: Product, context: Path, tmp_path: Path
) -> None:
    build(rless, context, "FROM localhost/base:1\nRUN touch /f && chown 5:6 /f && mkdir /d\n")
    flags = ("run", "--rm", "--network=none", "--userns=single", "localhost/owned:1")
    assert rless(*flags, "stat", "-c", "%u:%g", "/f").expect().out == "0:0\n"
    layers = Path(rless.env["RLESS_STORAGE"]) / "layers"
    found = [path for path in layers.rglob("f") if path.is_file()]
    assert found
    assert not any(os.listxattr(path) for path in found)


def test_what_had_no_effect_is_told_in_one_line(rless: Product, context: Path) -> None:
    text = (
        "FROM localhost/base:1\n"
        "RUN mknod /null c 1 3 && ln -s none /link && chown -h 5:6 /link && chown -h 0:0 /link\n"
    )
    said = build(rless, context, text, "--no-cache")
    (line,) = [line for line in said.splitlines() if "no effect" in line]
    assert line.endswith("no effect: 1 of owners, 1 of devices")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return Room(tmp_path_factory.mktemp("owners"), userns="single")


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("chown 5 /none", "No such file or directory"),
        ("chown 5 /etc/passwd/x", "Not a directory"),
        ("chown 5 /context/file", "Read-only file system"),
    ],
)
def test_errors_of_chown_are_real(room: Room, command: str, error: str) -> None:
    (room.context / "file").write_text("")
    ran = room.run(command, mounts=("type=bind,target=/context",), network="none")
    assert ran.code != 0
    assert error in ran.err


def test_mounts_get_no_notes(room: Room) -> None:
    mounts = ("type=cache,target=/c,id=owners", "type=tmpfs,target=/t")
    ran = room.run("touch /c/f /t/f && chown 5 /c/f /t/f /proc/1", mounts=mounts, network="none")
    assert (ran.code, ran.messages) == (0, [])
    caches = (room.directory / "store" / "build" / "mounts").rglob("f")
    assert [os.listxattr(path) for path in caches] == [[]]


def test_chown_takes_set_id_bits_as_the_kernel_does(room: Room) -> None:
    ran = room.run("touch /s && chmod 6755 /s && chown 5 /s && stat -c %a /s", network="none")
    assert ran.out == "755\n"


def test_names_are_looked_up_in_the_root_of_the_caller(room: Room) -> None:
    """Through links, and in a root within the root."""
    command = (
        "mkdir -p /new/bin /new/etc && cp /bin/busybox /new/bin/ && touch /new/t /t"
        " && ln -s /t /new/etc/link && chroot /new /bin/busybox chown 5:6 /etc/link"
        " && cd /new/etc && chown 7:8 link"
    )
    ran = room.run(command, network="none")
    assert (ran.code, ran.err) == (0, "")
    upper = room.directory / f"run{room.count}" / "root" / "upper"
    assert owners.read(str(upper / "new" / "t")) == (5, 6)
    assert owners.read(str(upper / "t")) == (7, 8)


def test_names_of_descriptors_are_the_callers(room: Room) -> None:
    """systemd names files so, and images have links as that to standard output."""
    command = (
        "touch /f && chown 5:6 /proc/self/fd/9 9</f && ln -s /dev/stdout /log && chown 5 /log"
        " && chown 5 /dev/stdout && cd / && chown 5 log"
    )
    ran = room.run(command, network="none")
    assert (ran.code, ran.err, ran.messages) == (0, "", [])
    upper = room.directory / f"run{room.count}" / "root" / "upper"
    assert owners.read(str(upper / "f")) == (5, 6)


def test_note_that_a_run_writes_itself_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    for value in (b"", b":", b"x:y", b"99999999999:1", b"-1:-1", b"1", b"4294967295:0"):
        os.setxattr(file, owners.ATTRIBUTE, value)
        assert owners.read(str(file)) in (None, (None, None))


def test_new_file_in_place_of_another_keeps_its_owner(tmp_path: Path) -> None:
    """If it was given to root: as programs do with what they believe to be root's."""
    file = tmp_path / "f"
    file.touch()
    owner_of = owners.Owners({b"f": (3, 4)})
    with file.open() as opened:
        status = os.fstat(opened.fileno())
        owners.note(str(file), 0, 0)
        assert owner_of(b"f", opened.fileno(), status) == (3, 4)
        assert owner_of(b"g", opened.fileno(), status) == (0, 0)
        os.setxattr(file, "user.overlay.origin", b"")
        assert owner_of(b"f", opened.fileno(), status) == (0, 0)


def test_changed_file_keeps_its_owner_with_any_driver(tmp_path: Path) -> None:
    """Only the kernel's overlayfs marks what it has copied up; fuse-overlayfs and copy do not."""
    file = tmp_path / "f"
    file.touch()
    below = {b"f": (3, 4)}
    with file.open() as opened:
        status = os.fstat(opened.fileno())
        assert owners.Owners(below)(b"f", opened.fileno(), status) == (0, 0)
        other = owners.Owners(below, marked=False)
        assert other(b"f", opened.fileno(), status) == (3, 4)
        assert other(b"g", opened.fileno(), status) == (0, 0)
        owners.note(str(file), 5, 6)
        assert other(b"f", opened.fileno(), status) == (5, 6)


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_acls_for_ids_that_are_not_mapped_set_the_mode() -> None:
    none = 0xFFFFFFFF
    plain = ((1, 6, none), (4, 4, none), (32, 0, none))
    assert mode_of_foreign_acl(acl(*plain)) is None
    assert mode_of_foreign_acl(acl((1, 6, none), (2, 7, 0), *plain[1:])) is None
    assert mode_of_foreign_acl(acl((1, 6, none), (2, 7, 5), *plain[1:])) == 0o640
    assert mode_of_foreign_acl(acl(*plain, (8, 7, 5), (16, 7, none))) == 0o670
    for broken in (b"", b"\2\0\0", acl(*plain)[:-3], b"\2\0\0\0"):
        assert mode_of_foreign_acl(broken) is None


@pytest.mark.needs("compiler")
def test_attributes_are_set_as_ever(tmp_path_factory: pytest.TempPathFactory) -> None:
    """cp -p sets the mode by an ACL of three entries; the filter sees no difference."""
    program = static_program("tests/lib/set_acl.c")
    layer = images.layer({"bin/set-acl": images.File(program.read_bytes(), mode=0o755)})
    room = Room(tmp_path_factory.mktemp("acl"), images.busybox_image([layer]), userns="single")
    ran = room.run(
        "umask 077; touch /a /b; set-acl /a 644; set-acl /b 640 5; stat -c %a /a /b;"
        " set-acl /none 644 || echo missing",
        network="none",
    )
    assert (ran.code, ran.out) == (0, "644\n640\nmissing\n")
    (message,) = ran.messages
    assert message["text"].endswith("no effect: 1 of ACLs")


def test_part_of_an_owner_is_that_of_the_layers_below(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    owner_of = owners.Owners({b"f": (3, 4)})
    with file.open() as opened:
        status = os.fstat(opened.fileno())
        assert owner_of(b"f", opened.fileno(), status) == (0, 0)  # new, and not copied up
        owners.note(str(file), None, 6)
        assert owner_of(b"f", opened.fileno(), status) == (3, 6)
        assert owner_of(b"g", opened.fileno(), status) == (0, 6)
        owners.note(str(file), 5, None)
        assert owner_of(b"f", opened.fileno(), status) == (5, 6)
    assert owners.read(str(file)) == (5, 6)
