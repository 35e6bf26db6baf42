"""`apptainer build` of definition files, from a sandbox of busybox."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.lib import images
from tests.lib.fronts import Front
from tests.lib.product import Product, own_rless, rless, shared_product, wait_for

__all__ = ["own_rless", "rless", "shared_product"]

pytestmark = pytest.mark.needs("user namespaces", "mksquashfs", "fuse", "squashfuse")
DEFINITION = """\
Bootstrap: localimage
From: base
Stage: build

%files
    dir /opt/
    dir /new
    dir/l* /many
    "a b" /opt/
%post
    id -u
    echo "{{ WHO }}" > /made
    chown 5:5 /made
%arguments
    WHO=world

Bootstrap: localimage
From: base
%files from build
    /made /from/build/
    /opt/* /d
%post -c /bin/sh -u
    echo 'export LATE=late' >> "$APPTAINER_ENVIRONMENT"
    echo "$BASE, $0" > /post
%environment
    export MINE="it's {{ WHO }}"
%arguments
    WHO=you
%runscript
    echo "run: $MINE $LATE $BASE $*"
%startscript
    echo started > "$PWD/started"
%test
    test -f /from/build/made
    echo "tested $MINE"
%labels
    Author me $HOME 'and' \\\\you
%help
    Some help.
"""


@pytest.fixture
def apptainer(rless: Product) -> Front:
    return Front(rless, "apptainer")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the base, and files for %files; be there."""
    for name in ("base/.singularity.d/env", "dir/sub"):
        (tmp_path / name).mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", tmp_path / "base"], input=images.busybox_layer(), check=True)
    script = tmp_path / "base" / ".singularity.d" / "env" / "90-environment.sh"
    script.write_text("#!/bin/sh\nexport BASE=base\n")
    (tmp_path / "dir" / "f").write_text("f\n")
    (tmp_path / "dir" / "sub" / "g").write_text("g\n")
    (tmp_path / "dir" / "l1").symlink_to("f")
    (tmp_path / "a b").write_text("a b\n")
    (tmp_path / "x.def").write_text(DEFINITION)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_definition_becomes_a_file_and_a_sandbox(apptainer: Front, place: Path) -> None:
    done = apptainer("build", "--build-arg", "WHO=us", "x.sif", "x.def").expect()
    assert "tested it's us" in done.err and "INFO:    Build complete: x.sif" in done.err
    done = apptainer("run", "x.sif", "a  b", cwd=place).expect()
    assert done.out == "run: it's us late base a  b\n"
    done = apptainer("exec", "x.sif", "cat", "/made", "/post", "/from/build/made")
    assert done.lines() == ["base, /dev/pipes/script", "us"]
    listed = apptainer("exec", "x.sif", "find", "/d", "!", "-type", "d").expect().lines()
    assert sorted(listed) == ["/d/a b", "/d/dir/f", "/d/dir/l1", "/d/dir/sub/g"]
    labels = apptainer("inspect", "x.sif").expect().out
    assert r"Author: me $HOME 'and' \\you" in labels
    assert apptainer("run-help", "x.sif").expect().out.strip() == "Some help."
    assert apptainer("inspect", "-d", "x.sif").expect().out.startswith(DEFINITION[:60])
    apptainer("instance", "start", "x.sif", "one").expect()
    wait_for((place / "started").exists, "the start script")
    apptainer("instance", "stop", "one").expect()
    first = (place / "x.sif").read_bytes()
    assert "already exists" in apptainer("build", "x.sif", "x.def").expect(255).err
    apptainer("build", "-F", "-T", "--build-arg", "WHO=us", "x.sif", "x.def").expect()
    assert (place / "x.sif").read_bytes() == first
    (place / "more.def").write_text(
        "Bootstrap: localimage\nFrom: x.sif\n%post\n echo $MINE > /more\n%environment\nA=1\n"
    )
    apptainer("build", "-s", "tree", "more.def").expect()
    assert (place / "tree" / "more").read_text() == "it's us\n"
    (place / "update.def").write_text("Bootstrap: docker\nFrom: nowhere\n%post\nrm /more\n")
    apptainer("build", "--update", "tree", "update.def").expect()
    assert not (place / "tree" / "more").exists()
    assert apptainer("run", "tree", cwd=place).expect().out == "run: it's us late base \n"
    assert sorted(os.listdir(place)) == sorted(
        ["base", "dir", "a b", "x.def", "x.sif", "tree", "more.def", "update.def", "started"]
    )


@pytest.mark.nosub
def test_post_is_root_without_subordinate_ids(apptainer: Front, place: Path) -> None:
    """What packages do: other owners, modes with set-id bits, users of their own."""
    (place / "x.def").write_text(
        "Bootstrap: localimage\nFrom: base\n%post\n"
        " id -u; touch /f /g; chown 5:5 /f; chown 0:42 /g; chmod 4755 /g\n"
        " mkdir /d; chown 100:102 /d\n"
        " echo user:x:5:5::/:/bin/sh >> /etc/passwd\n"
    )
    apptainer("build", "x.sif", "x.def").expect()
    done = apptainer("exec", "x.sif", "stat", "-c", "%a %u", "/f", "/g").expect()
    assert done.lines() == [f"644 {os.getuid()}", f"4755 {os.getuid()}"]


def test_archive_is_a_base(apptainer: Front, place: Path) -> None:
    rless = apptainer.product
    rless("save", "--format", "oci-archive", "-o", "base.oci", rless.image).expect()
    (place / "x.def").write_text("Bootstrap: oci-archive\nFrom: base.oci\n%post\n echo >/made\n")
    apptainer("build", "x.sif", "x.def").expect()
    apptainer("exec", "x.sif", "ls", "/made").expect()


def test_failure_leaves_no_target_and_shows_the_line(apptainer: Front, place: Path) -> None:
    (place / "x.def").write_text(
        "Bootstrap: localimage\nFrom: base\n%post\n true\n false\n%test\n exit 3\n"
    )
    done = apptainer("build", "x.sif", "x.def").expect(255)
    assert "+ false" in done.err and ">>> %post" in done.err
    assert done.err.splitlines()[-1].startswith("FATAL:   process the script did not complete")
    done = apptainer("build", "--section", "test", "x.sif", "x.def").expect(255)
    assert "exit code 3" in done.err
    apptainer("build", "--section", "files", "x.sif", "x.def").expect()
    assert sorted(os.listdir(place)) == ["a b", "base", "dir", "x.def", "x.sif"]


def test_section_all_is_all(apptainer: Front, place: Path) -> None:
    words = ("build", "--section", "all", "x.sif", "x.def")
    (place / "x.def").write_text("Bootstrap: localimage\nFrom: base\n%test\n exit 3\n")
    assert "exit code 3" in apptainer(*words).expect(255).err
    for name in ("pre", "setup"):
        (place / "x.def").write_text(f"Bootstrap: localimage\nFrom: base\n%{name}\n true\n")
        assert f"%{name} is not supported" in apptainer(*words).expect(255).err
    assert not (place / "x.sif").exists()


APPS = """\
Bootstrap: localimage
From: base
%post
    echo "Late it is  late" >> "$APPTAINER_LABELS"
%labels
    Late early
%appinstall one
    pwd > here
    echo "data: $SCIF_APPDATA" >> here
    printf '#!/bin/sh\\necho tool\\n' > bin/tool
    chmod +x bin/tool
%appfiles one
    dir/f share/
%appenv one
    export GREETING="hello $SCIF_APPNAME"
%apprun one
    echo "$GREETING: $*"; tool
%appstart one
    echo "$GREETING" > "$PWD/started"
%apptest one
    echo "tested $GREETING"
%applabels one
    Version 1.0
%apphelp one
    Help of one.
%apprun two
    echo second
"""


def test_applications(apptainer: Front, place: Path) -> None:
    (place / "x.def").write_text(APPS)
    apptainer("build", "x.sif", "x.def").expect()
    assert apptainer("run", "--app", "one", "x.sif", "a  b", cwd=place).lines() == [
        "hello one: a  b",
        "tool",
    ]
    assert apptainer("run", "--app", "two", "x.sif").expect().out == "second\n"
    assert apptainer("test", "--app", "one", "x.sif").expect().out == "tested hello one\n"
    script = 'cat "$SCIF_APPROOT/here" "$SCIF_APPROOT/share/f"; tool; echo $SCIF_APPRUN_two'
    done = apptainer("exec", "--app", "one", "x.sif", "sh", "-c", script).expect()
    place_of = "/scif/apps/one"
    assert done.lines() == [
        place_of,
        "data: /scif/data/one",
        "f",
        "tool",
        "/scif/apps/two/scif/runscript",
    ]
    for words in (("run",), ("exec",)):
        done = apptainer(*words, "--app", "no", "x.sif", "true").expect(255)
        assert done.err == "FATAL:   the image has no application no\n"
    try:
        apptainer("instance", "start", "--app", "one", "x.sif", "inst").expect()
        wait_for((place / "started").exists, "the start script of the application")
        done = apptainer("run", "--app", "one", "instance://inst", "x").expect()
        assert done.lines() == ["hello one: x", "tool"]
    finally:
        apptainer("instance", "stop", "--all", "--force")
    assert apptainer("inspect", "--list-apps", "x.sif").expect().lines() == ["one", "two"]
    done = apptainer("inspect", "--app", "one", "-l", "-r", "--json", "x.sif").expect()
    (shown,) = json.loads(done.out)["data"]["attributes"]["apps"].items()
    assert shown[0] == "one" and shown[1]["runscript"].startswith("#!/bin/sh")
    assert shown[1]["labels"] == {"SCIF_APP_NAME": "one", "Version": "1.0"}
    assert apptainer("run-help", "--app", "one", "x.sif").expect().out.strip() == "Help of one."
    assert "no application ../one" in apptainer("inspect", "--app", "../one", "x.sif").err
    assert "Late: it is  late\n" in apptainer("inspect", "x.sif").expect().out
    apptainer("exec", "x.sif", "test", "!", "-e", "/.build.labels").expect()


def test_files_lead_nowhere_out_of_the_image(apptainer: Front, place: Path) -> None:
    """Links of the base are followed within it, and those of a stage never to the host."""
    outside = place / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret\n")
    (place / "base" / "out").symlink_to(outside)
    (place / "base" / "up").symlink_to("../../../../../../../../tmp")
    text = "Bootstrap: localimage\nFrom: base\nStage: one\n%files\n dir/f out/f\n dir/f /up/../f\n"
    (place / "x.def").write_text(text)
    apptainer("build", "-s", "tree", "x.def").expect()
    assert os.listdir(outside) == ["secret"]
    assert (place / "tree" / str(outside)[1:] / "f").is_file()
    for source in ("/out/secret", f"../../../..{outside}/secret", "/proc/self/root/etc/passwd"):
        last = f"Bootstrap: scratch\n%files from one\n {source} /got\n"
        (place / "x.def").write_text(text + last)
        done = apptainer("build", "-s", "other", "x.def").expect(255)
        assert f"%files {source}: there is no such file in its tree" in done.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Bootstrap: library\nFrom: a\n", "line 1: Bootstrap: library is not supported: there"),
        ("Bootstrap: debootstrap\n", "Bootstrap: debootstrap is not supported"),
        ("Bootstrap: docker\n", "Bootstrap: docker needs From:"),
        ("Bootstrap: scratch\n%setup\n touch x\n", "line 2: %setup is not supported: it would"),
        ("Bootstrap: scratch\n%pre\n touch x\n", "line 2: %pre is not supported: it would"),
        ("Bootstrap: scratch\n%apprun a b\n x\n", "line 2: %apprun: b stands behind the name"),
        ("Bootstrap: scratch\n%apprun ../a\n x\n", "line 2: %apprun: '../a' is no name of an"),
        ("Bootstrap: scratch\n%files\n /no/such /x\n", "line 3: %files /no/such: there is no"),
        ("Bootstrap: scratch\n%files\n $HOME/x /x\n", "line 3: %files $HOME/x: variables"),
        ("Bootstrap: localimage\nFrom: no\n", "line 1: From: no: there is no such file"),
        ("only text\n", "it has no Bootstrap:"),
    ],
)
def test_refused_by_name(
    text: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from rootless.cli.fronts.apptainer import main as front

    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.def").write_text(text)
    assert front.main(["-q", "build", "x.sif", "x.def"], "apptainer") == 255
    error = capfd.readouterr().err
    assert said in error and "definition file" in error, error
    assert error.count("\n") == 1 and os.listdir(tmp_path) == ["x.def"]
