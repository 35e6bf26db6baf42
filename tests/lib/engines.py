"""Workflow engines of docs/workflows.md: the real ones where they are installed, else stand-ins.

A stand-in types the lines that the engine of that name was seen to type (cwltool 3.3, Snakemake
9.27) for the workflow of the page, and nothing else: the engines are 130 MB each. One that is
installed is taken from PATH, or from the directories of RLESS_TEST_ENGINES:

    RLESS_TEST_ENGINES=~/cwltool/bin:~/snakemake/bin scripts/test tests/unit/docs -k workflows
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.lib import images
from tests.lib.images import File, Image, layer

NEEDS = ("busybox", "docker-registry", "mksquashfs")
NAME = "library/debian"

_CWLTOOL = r"""
image=$(sed -n 's/.*dockerPull: *//p' hello.cwl | tr -d '}')
program=$(sed -n 's/^baseCommand: *//p' hello.cwl)
name=docker
for word; do
    case $word in
    --podman | --singularity) name=${word#--} ;;
    esac
    message=$word
done
out=$(mktemp -d) tmp=$(mktemp -d) ids=$(mktemp -d)
case $name in
singularity)
    singularity --version >$ids/version && grep -q ' version [0-9.]' $ids/version || exit 1
    file=$PWD/$(echo "docker.io/$image" | sed 's:/:_s_:g').sif
    [ -e $file ] || singularity pull --name $file docker://$image >$ids/pull 2>&1 || exit 1
    singularity --quiet run --contain --ipc --cleanenv --no-eval --userns --home $out:/abcdef \
        --mount=type=bind,source=$tmp,target=/tmp --pwd /abcdef --net --network none \
        $file $program "$message" >$out/hello.txt
    ;;
*)
    $name inspect $image >$ids/inspect || $name pull $image || exit 1
    [ $name = docker ] || keep=--userns=keep-id
    $name run -i $keep --mount=type=bind,source=$out,target=/abcdef \
        --mount=type=bind,source=$tmp,target=/tmp --workdir=/abcdef --read-only=true --net=none \
        --log-driver=none --user=$(id -u):$(id -g) --rm --cidfile=$ids/of.cid --env=TMPDIR=/tmp \
        --env=HOME=/abcdef $image $program "$message" >$out/hello.txt
    ;;
esac || exit 1
cp $out/hello.txt . && printf '{\n    "hello": {\n        "basename": "hello.txt"\n    }\n}'
rm -r $out $tmp $ids
"""
_SNAKEMAKE = r"""
apptainer --version | grep -q '^apptainer version [1-9]' || exit 1
uri=$(sed -n 's/.*container: "\(.*\)".*/\1/p' Snakefile)
mkdir -p .snakemake/singularity
image=$PWD/.snakemake/singularity/$(printf %s "$uri" | md5sum | cut -d ' ' -f 1).simg
if [ ! -e $image ]; then
    (cd .snakemake/singularity && apptainer pull --name ${image##*/} "$uri" 2>pull) || exit 1
fi
for name in one two; do
    [ -e $name.txt ] || apptainer exec --home $PWD --bind $PWD/.snakemake $image \
        bash -c "set -euo pipefail;  echo $name > $name.txt" || exit 1
done
"""
_STAND_INS = {"cwltool": _CWLTOOL, "snakemake": _SNAKEMAKE}


def install(directory: Path) -> None:
    """Put the engines into a directory of PATH."""
    path = f"{os.environ.get('RLESS_TEST_ENGINES', '')}:{os.environ['PATH']}"
    for name, script in _STAND_INS.items():
        real = shutil.which(name, path=path)
        if real:
            (directory / name).symlink_to(real)
        else:
            (directory / name).write_text(f"#!/bin/sh\n{script}")
            (directory / name).chmod(0o755)


def image() -> Image:
    """Return the image that stands for debian: busybox, and a bash that is none."""
    bash = File('#!/bin/sh\nexec /bin/sh "$@"\n', mode=0o755)
    return images.busybox_image([layer({"bin/bash": bash})])
