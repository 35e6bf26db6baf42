"""The option tables: complete for docker run, and their generated files are current."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.cli import parse, verb_table
from rootless.cli.click_app import help_of
from rootless.cli.flags import values
from rootless.cli.options import GROUPS, REFUSED
from rootless.cli.reference import text
from rootless.engine.request import RunRequest

# docker run of 27 and 28, with the hidden and the Windows flags
DOCKER = """
add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns
cidfile cpu-count cpu-percent cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus
cpuset-cpus cpuset-mems detach detach-keys device device-cgroup-rule device-read-bps
device-read-iops device-write-bps device-write-iops disable-content-trust dns dns-opt dns-option
dns-search domainname entrypoint env env-file expose gpus group-add health-cmd health-interval
health-retries health-start-interval health-start-period health-timeout hostname init interactive
io-maxbandwidth io-maxiops ip ip6 ipc isolation kernel-memory label label-file link link-local-ip
log-driver log-opt mac-address memory memory-reservation memory-swap memory-swappiness mount name
net net-alias network network-alias no-healthcheck oom-kill-disable oom-score-adj pid pids-limit
platform privileged publish publish-all pull quiet read-only restart rm runtime security-opt
shm-size sig-proxy stop-signal stop-timeout storage-opt sysctl tmpfs tty ulimit use-api-socket user
userns uts volume volume-driver volumes-from workdir
""".split()
SHORT = "a:attach c:cpu-shares d:detach e:env h:hostname i:interactive l:label m:memory p:publish"
SHORT += " P:publish-all q:quiet t:tty u:user v:volume w:workdir"
VERBS = [verb for verbs in verb_table.VERBS.values() for verb in verbs]


def test_every_flag_of_docker_run_is_known() -> None:
    known = verb_table.load("run").VERB.index()
    assert [name for name in DOCKER if f"--{name}" not in known] == []
    for pair in SHORT.split():
        short, _, long = pair.partition(":")
        assert known[f"-{short}"] is known[f"--{long}"]


def test_no_flag_is_declared_twice() -> None:
    for verb in VERBS:
        table = verb_table.load(verb).VERB
        rows = [row[0] for _, group in table.groups for row in group]
        names = [n for row in [*rows, *(row[0] for row in table.refused)] for n in row.split()]
        assert len(names) == len(set(names)), verb


def test_every_row_is_complete() -> None:
    for verb in VERBS:
        for _, rows in verb_table.load(verb).VERB.groups:
            for row in rows:
                assert row[2] in ("flag", "value", "list", "map", "optional")
                assert bool(row[1]) == (row[2] != "flag")
                module, _, function = row[4].rpartition(".")
                assert callable(getattr(parse._module(module) if module else values, function))
                assert row[5], "no help text"


def test_every_dest_of_run_is_a_field_of_the_request() -> None:
    special = {"accepted", "aliases", "attach", "env_file", "gpus", "label_file"}
    dests = {row[3] for _, rows in GROUPS for row in rows}
    assert dests - special <= set(RunRequest.fields)
    assert set(RunRequest.fields) - dests == {
        *("add_user", "argv", "cdi", "command", "cwd", "env_remove", "env_under", "image"),
        *("holds", "networks", "stdin_once"),
        *("asked", "console_size"),  # of the service
        # Of the fronts and of --hpc.
        *("above", "ambient", "localtime", "overlay", "path_after", "path_before", "umask"),
        *("user_home", "workdirs"),
    }


def test_refusals_have_a_reason() -> None:
    assert all(why for _, _, why, _ in REFUSED)


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_every_flag(verb: str) -> None:
    page = help_of(verb)
    assert page.startswith(f"Usage: rless {verb}")
    for _, rows in verb_table.load(verb).VERB.groups:
        for row in rows:
            assert row[0].split()[0] in page


def test_reference_is_current() -> None:
    page = Path(__file__).parents[3] / "docs" / "cli.md"
    assert page.read_text() == text(), "run: python -m rootless.cli.reference > docs/cli.md"


def test_help_tells_what_a_combination_of_flags_gives_away() -> None:
    index = verb_table.load("run").VERB.index()
    assert "--privileged" in index["--cgroupns"][5]
