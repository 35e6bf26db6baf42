"""The same Dockerfile by `buildah build` and by `rless build`: equal in config and files.

The cases are in the form of Buildah's own conformance tests. Compared are all settings of the
config, and of each file of the merged tree its type, mode, owners, size, contents, target and what
it is linked with. Not compared are times and ids, which differ between any two builds.

Where Docker's rule is another than Buildah's, rless has Docker's: the case names what differs, and
why. It must differ, so that the list stays true.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import Guest
from tests.lib import images, merged
from tests.lib.images import Dir, File, Hard, Link
from tests.lib.product import Product, rless, shared_product

__all__ = ["rless", "shared_product"]

pytestmark = pytest.mark.needs("podman", "buildah", "user namespaces", "subordinate ids")

BASE = "localhost/equal-base:latest"
ONBUILD = "localhost/equal-onbuild:latest"

# Name -> what stands after FROM; what starts with FROM is a whole file.
CASES = {
    "copy-files": "COPY file /new\nCOPY file /old/\nCOPY other /old/file\n"
                  'COPY ["name with blanks", "/blanks/"]\nCOPY --chmod=640 file /mode',
    "copy-directory": "COPY tree /copied",
    "copy-directory-into-one-that-is-there": "COPY tree /old",
    "copy-several": "COPY file other tree/a /some/where/\nCOPY tree/* /stars/\nCOPY f?le /one/",
    "copy-all": "COPY . /all/",
    "copy-links": "COPY links /links\nCOPY links/to-file /there\nCOPY file /link/",
    "copy-chown": "COPY --chown=12:34 tree /numbers\nCOPY --chown=user:wheel tree /names\n"
                  "COPY --chown=nobody file /owned/by/",
    "copy-relative": "WORKDIR /a/b\nCOPY file .\nCOPY file c/\nCOPY file ../d",
    "add": "ADD archive.tar /unpacked/\nADD archive.tar.gz /unpacked/too/\nADD file /added/\n"
           "ADD --chown=5:6 other tree /added/",
    "workdir": "WORKDIR /w\nWORKDIR x/../y\nWORKDIR /old\nRUN pwd >/where",
    "env-and-arg": 'ARG A=1\nARG B\nENV C="$A-${B:-none}" D=\'$A\' E=a\\ b\nENV F $C and more\n'
                   "RUN echo \"$A $B $C $D $E $F\" >/values",
    "env-replaces": 'ENV PATH=/own:$PATH X=1\nENV X=2\nENV Y=$X$X\nLABEL a=1 "b c"="d e"\n'
                    "LABEL a=2 f=$PATH\nMAINTAINER somebody <a@b>",
    "commands": "CMD echo one\nENTRYPOINT [\"sh\", \"-c\"]\nCMD [\"echo two\"]",
    "command-of-the-base-is-cleared": 'ENTRYPOINT ["/bin/sh"]',
    "shell": 'SHELL ["/bin/sh", "-e", "-c"]\nRUN echo "$0 $-" >/shell\nCMD exit',
    "ports": "EXPOSE 80 443/tcp 53/udp 8000-8002",
    "volumes": 'VOLUME /data /more\nVOLUME ["/json"]',
    "user": "USER user\nRUN id >/tmp/id; touch /tmp/by\nUSER 7:8\nRUN id -u >/tmp/number",
    "signal-and-health": "STOPSIGNAL SIGINT\n"
                         "HEALTHCHECK --interval=5s --timeout=2s --retries=4 CMD [\"true\"]",
    "run-removes-and-replaces": "RUN rm -r /old/file /old/dir; mkdir /old/dir; "
                                "echo x >/old/dir/new\n"
                                "RUN rm -r /old; mkdir /old; ln -s /nowhere /old/dangling",
    "run-links-and-modes": "RUN echo x >/h1; ln /h1 /h2; chmod 4755 /h1; mkfifo /fifo; "
                           "mkdir -m 1770 /sticky; chown 9:10 /sticky",
    "stages": f"FROM {BASE} AS one\nRUN mkdir -p /out/sub; echo x >/out/sub/f; chown -R 3:4 /out\n"
              f"ENV LOST=1\nFROM {BASE}\nCOPY --from=one /out /from\nCOPY --from=0 /out/sub/f /f",
    "stage-from-stage": f"FROM {BASE} AS one\nENV KEPT=1\nWORKDIR /one\nUSER 5\nFROM one\n"
                        "RUN id -u >/tmp/u; pwd >/tmp/p",
    "copy-from-keeps-links": f"FROM {BASE} AS one\nFROM {BASE}\nCOPY --from=one /link /old /kept/",
    "scratch": f"FROM {BASE} AS one\nFROM scratch\nCOPY --from=one /bin/busybox /b/\n"
               'ENTRYPOINT ["/b/busybox"]\nCMD ["true"]',
    "onbuild": f"FROM {ONBUILD}\nRUN cat /triggered >/after",
    "global-arg": f"ARG NAME={BASE}\nARG X=global\nFROM $NAME\nARG X\nRUN echo $X >/x",
    "ignored": "COPY ignored /kept/",
}  # fmt: skip

# Case -> facts that differ, and whose rule it is.
_SET_ID = "Docker's page keeps the mode of a file; Buildah's chown clears the bits"
_VOLUME = "in BuildKit a volume is a setting alone; Buildah makes the directory"
DIFFERENCES = {
    "copy-all": {"/all/modes/0o4755": _SET_ID, "/all/modes/0o2711": _SET_ID},
    "shell": {"config Cmd": "Docker: the shell form is that of the SHELL before it"},
    "ports": {"config ExposedPorts": "Docker has a range port by port"},
    "volumes": {"/json": _VOLUME},
    "scratch": {"config WorkingDir": "BuildKit: an image from scratch begins in /"},
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with what the cases copy."""
    context = tmp_path_factory.mktemp("equality")
    for name in ("tree/sub/empty", "modes/private", "links", "ignored/in"):
        (context / name).mkdir(parents=True)
    for name in ("file", "other", "name with blanks", "tree/a", "tree/b", "tree/sub/c",
                 "ignored/in/out", "ignored/yes", "ignored/no.log"):  # fmt: skip
        (context / name).write_text(f"contents of {name}\n")
    for mode in (0o600, 0o755, 0o444, 0o4755, 0o2711, 0o1777):
        path = context / "modes" / oct(mode)
        path.write_text("x")
        path.chmod(mode)
    (context / "modes" / "private").chmod(0o700)
    for name, target in (("to-file", "../file"), ("dangling", "nowhere"), ("absolute", "/etc")):
        (context / "links" / name).symlink_to(target)
    (context / "links" / "first").write_text("linked\n")
    os.link(context / "links" / "first", context / "links" / "second")
    (context / ".dockerignore").write_text("# a comment\nignored/in\n**/*.log\nDockerfile.*\n")
    packed = images.layer({
        "dir": Dir(mode=0o750, uid=11, gid=12), "dir/f": File("packed\n", uid=13, mode=0o604),
        "dir/link": Link("f"), "dir/hard": Hard("dir/f", uid=13, mode=0o604),
    })  # fmt: skip
    (context / "archive.tar").write_bytes(packed)
    with tarfile.open(context / "archive.tar.gz", "w:gz") as tar:
        tar.add(context / "tree", "tree", filter=_of_root)
    return context


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    return entry


@pytest.fixture(scope="module")
def bases(guest: Guest, shared_product: Product, context: Path) -> Iterator[None]:
    """Give both tools the base images, from one file."""
    old = images.layer({
        "etc/hosts": "", "etc/hostname": "", "etc/resolv.conf": "", "run": Dir(),
        "old": Dir(mode=0o711, uid=21, gid=22), "old/file": File("old\n", uid=23), "old/dir": Dir(),
        "old/dir/f": "deep\n", "link": Link("/old/dir"),
    })  # fmt: skip
    base = images.busybox_image([old], Labels={"base": "yes"}, Cmd=["from", "base"])
    path = context.parent / "base.tar"
    images.write_docker_archive(base, path, BASE)
    shared_product("load", "-q", "-i", str(path)).expect()
    guest.podman("load", "-q", "-i", str(path)).expect()
    (context / "Dockerfile.onbuild").write_text(
        f"FROM {BASE}\nONBUILD COPY file /triggered\nONBUILD ENV BY=trigger\n"
    )
    _by_buildah(guest, context, "onbuild", ONBUILD)
    onbuild = context.parent / "onbuild.tar"
    shared_product("load", "-q", "-i", str(_saved(guest, onbuild, ONBUILD))).expect()
    yield
    shared_product("rmi", "-f", BASE, ONBUILD).expect()


def _by_buildah(guest: Guest, context: Path, name: str, tag: str) -> None:
    # No file of the context is read for a key, and no layer is kept: it takes half the time.
    flags = ["--isolation=chroot", "--layers=false", "--format=docker", "--identity-label=false"]
    file = str(context / f"Dockerfile.{name}")
    guest.buildah("build", *flags, "-t", tag, "-f", file, str(context)).expect()


def _saved(guest: Guest, path: Path, tag: str) -> Path:
    guest.buildah("push", "-q", tag, f"docker-archive:{path}:{tag}").expect()
    return path


@pytest.mark.usefixtures("bases")
@pytest.mark.parametrize("name", CASES)
def test_image_equals_that_of_buildah(
    guest: Guest, rless: Product, context: Path, tmp_path: Path, name: str
) -> None:
    text = CASES[name]
    if not text.startswith(("FROM", "ARG NAME")):
        text = f"FROM {BASE}\n{text}"
    file = context / f"Dockerfile.{name}"
    file.write_text(f"{text}\n")
    _by_buildah(guest, context, name, "localhost/equal")
    theirs = merged.read(_saved(guest, tmp_path / "theirs.tar", "localhost/equal"))
    output = f"--output=type=docker,dest={tmp_path}/ours.tar"
    words = ["-q", "--network=none", "-f", str(file), "-t", "localhost/equal", output]
    rless("build", *words, str(context)).expect()
    ours = merged.read(tmp_path / "ours.tar")
    differs = {
        fact: (ours.get(fact), theirs.get(fact))
        for fact in sorted({*ours, *theirs})
        if ours.get(fact) != theirs.get(fact)
    }
    expected = DIFFERENCES.get(name, {})
    assert differs.keys() == expected.keys(), "\n".join(
        f"{fact}\n  ours   {mine}\n  theirs {other}" for fact, (mine, other) in differs.items()
    )
