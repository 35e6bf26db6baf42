"""The scripts of /.singularity.d, run by the shells that read them."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

from rootless.image.squashfs import apptainer

SHELLS = [["sh"], ["bash"], ["busybox", "sh"]]
HOSTILE = ["plain", "", "a}b", "'", '"$(touch /tmp/never)`id`"', "\\", "two\nlines", "~", "ä \t"]


def script(name: str, **config: Any) -> str:
    return apptainer.files(config, {}, "")[name][0].decode()


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_values_of_the_environment_come_through_whole(shell: list[str]) -> None:
    if not shutil.which(shell[0]):
        pytest.fail(f"{shell[0]} is not installed")
    pairs = [f"V{number}={value}" for number, value in enumerate(HOSTILE)]
    text = script("env/10-docker2singularity.sh", Env=[*pairs, "PATH=/bin", "a.b=no shell has it"])
    names = " ".join(f'"$V{number}"' for number in range(len(HOSTILE)))
    variables = {"V0": "the caller's", "V1": "", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [*shell, "-c", f"{text}\nprintf '%s\\0' {names} \"$PATH\""],
        env=variables,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert done.stdout.split("\0")[:-1] == ["the caller's", *HOSTILE[1:], "/bin"]


@pytest.mark.parametrize(
    ("entrypoint", "command", "arguments", "expected"),
    [
        (["printf", "<%s>"], ["a b", "$HOME"], [], "<a b><$HOME>"),
        (["printf", "<%s>"], ["a b"], ["'x'", ""], "<'x'><>"),
        (["printf", "<%s>", "1"], [], [], "<1>"),
        ([], ["printf", "<%s>", "c"], [], "<c>"),
        ([], ["false"], ["printf", "<%s>", "$(id)"], "<$(id)>"),
        ([], [], [], ""),
    ],
)
def test_runscript_is_entrypoint_and_command_as_docker_has_them(
    entrypoint: list[str], command: list[str], arguments: list[str], expected: str
) -> None:
    text = script("runscript", Entrypoint=entrypoint, Cmd=command)
    argv = ["sh", "-c", text, "runscript", *arguments]
    assert subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout == expected


def test_labels_say_whence_the_image_is() -> None:
    found = apptainer.labels({"Labels": {"own": "1"}}, "amd64", "example.org/x:1")
    assert found == {
        "own": "1",
        "org.label-schema.schema-version": "1.0",
        "org.label-schema.build-arch": "amd64",
        "org.label-schema.usage.singularity.deffile.bootstrap": "docker",
        "org.label-schema.usage.singularity.deffile.from": "example.org/x:1",
    }
