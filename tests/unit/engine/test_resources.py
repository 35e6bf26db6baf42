"""engine/resources: checks of limits, and their place in the config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.cli.flags import limits
from rootless.engine import resources
from rootless.engine.request import RunRequest
from rootless.errors import RlessError

MIB = 1 << 20


def request(**fields: Any) -> RunRequest:
    return RunRequest(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"memory": 5 * MIB}, "Minimum memory limit allowed is 6MB"),
        ({"memory_reservation": 1}, "Minimum memory reservation allowed is 6MB"),
        ({"memory": 9 * MIB, "memory_swap": 8 * MIB}, "should be larger than memory limit"),
        ({"memory_swap": 8 * MIB}, "always set the Memory limit"),
        ({"memory": 9 * MIB, "memory_reservation": 10 * MIB}, "less than memory reservation"),
        ({"cpus": 10**9, "cpu_period": 5000}, "Nano CPUs and CPU Period"),
        ({"cpus": 10**9, "cpu_quota": 5000}, "Nano CPUs and CPU Quota"),
        ({"cpus": 10**15}, "Range of CPUs is from 0.01"),
        ({"cpus": 1}, "Range of CPUs is from 0.01"),
        ({"cpu_period": 999}, "less than 1ms"),
        ({"cpu_period": 1_000_001}, "larger than 1s"),
        ({"cpu_quota": 999}, "less than 1ms"),
        ({"cpuset_cpus": "0-8000"}, "Requested CPUs are not available - requested 0-8000"),
        ({"cpuset_mems": "77"}, "Requested memory nodes are not available"),
        ({"memory": 9 * MIB, "cgroups": "disabled"}, "--memory needs a control group"),
        ({"pids_limit": 9, "cgroup_manager": "none"}, "--pids-limit needs a control group"),
        ({"cgroup_parent": "a.slice", "cgroups": "disabled"}, "--cgroup-parent needs"),
        ({"cgroup_parent": "a.slice", "cgroups": "split"}, "contradict each other"),
    ],
)
def test_impossible_limits_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RlessError, match=words):
        resources.check(request(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"memory": 6 * MIB, "memory_swap": 6 * MIB, "memory_reservation": 6 * MIB},
        {"memory": 6 * MIB, "memory_swap": -1},
        {"cpus": 10_000_000},
        {"cpu_period": 1000, "cpu_quota": 1000},
        {"cpuset_cpus": "0", "cpuset_mems": "0"},
        {"pids_limit": -1, "cgroups": "disabled"},
        {"memory": 9 * MIB, "cgroups": "disabled", "limits": "try"},
    ],
)
def test_possible_limits_are_accepted(fields: dict[str, Any]) -> None:
    resources.check(request(**fields))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, {}),
        ({"memory": 9}, {"memory": {"limit": 9, "swap": 18}}),
        ({"memory": 9, "memory_swap": 9}, {"memory": {"limit": 9, "swap": 9}}),
        ({"memory_swap": -1}, {"memory": {"swap": -1}}),
        ({"memory_reservation": 9}, {"memory": {"reservation": 9}}),
        ({"cpus": 1_500_000_000}, {"cpu": {"quota": 150_000, "period": 100_000}}),
        ({"cpu_shares": 5, "cpuset_cpus": "0"}, {"cpu": {"shares": 5, "cpus": "0"}}),
        ({"pids_limit": -1}, {"pids": {"limit": -1}}),
        ({"blkio_weight": 100}, {"blockIO": {"weight": 100}}),
        ({"cgroup_conf": {"memory.high": "5"}}, {"unified": {"memory.high": "5"}}),
    ],
)
def test_requested_limits_reach_the_config(fields: dict[str, Any], found: dict[str, Any]) -> None:
    made = request(**fields)
    assert resources.wanted(made) == found
    assert made.asks_limits() == bool(found)
    assert RunRequest.from_data(made.to_data()) == made


def test_devices_are_block_devices() -> None:
    for path, words in (("/dev/null", "not a block device"), ("/dev/none", "No such file")):
        for field in ("device_read_bps", "device_write_iops", "blkio_weight_device"):
            with pytest.raises(RlessError, match=words):
                resources.wanted(request(**{field: [(path, 100)]}))


@pytest.mark.parametrize(
    ("before", "changes", "words"),
    [
        ({"cpu_period": 5000}, {"cpus": 10**9}, "cannot be updated as CPU Period"),
        ({"cpu_quota": 5000}, {"cpus": 10**9}, "cannot be updated as CPU Quota"),
        ({"cpus": 10**9}, {"cpu_quota": 5000}, "cannot be updated as NanoCPUs"),
        ({"memory": 9, "memory_swap": 9}, {"memory": 10}, "already set memoryswap limit"),
    ],
)
def test_contradicting_updates_are_refused(
    before: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(RlessError, match=words):
        resources.check_update(request(**before), changes)


def test_update_can_remove_limits() -> None:
    changes = {"memory": 0, "cpus": 0, "cpu_shares": 0, "cpuset_cpus": "", "blkio_weight": 0}
    assert resources.lifted(request(), changes) == {
        "memory.max": "max",
        "memory.swap.max": "max",
        "cpu.max": "max 100000",
        "cpu.weight": "100",
        "cpuset.cpus": Path("/sys/devices/system/cpu/online").read_text().strip(),
        "io.weight": "default 100",
    }
    assert resources.lifted(request(memory=9), {"memory": 9}) == {}


# -- the values of flags -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("1.5", 1_500_000_000), ("0.01", 10_000_000), (".5", 500_000_000), ("2", 2_000_000_000),
     ("0", 0), ("1.000000001", 1_000_000_001), ("1.5000000000", 1_500_000_000)],
)  # fmt: skip
def test_cpus_become_quota_and_period(text: str, number: int) -> None:
    assert limits.cpus(text) == number


@given(st.integers(0, 10**12))
def test_any_number_of_cpus_is_parsed_exactly(nano: int) -> None:
    assert limits.cpus(f"{nano // 10**9}.{nano % 10**9:09}") == nano


@given(st.text(max_size=12))
def test_parsers_survive_any_text(text: str) -> None:
    for parse in (
        *(limits.cpus, limits.memory, limits.memory_swap, limits.count, limits.quota),
        *(limits.pids, limits.cpuset, limits.weight, limits.weight_device, limits.rate),
        *(limits.operations, limits.conf, limits.manager, limits.groups, limits.effort),
    ):
        try:
            parse(text)
        except ValueError:
            pass


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (limits.cpus, "-1"),
        (limits.cpus, "1e3"),
        (limits.cpus, "0.0000000001"),
        (limits.cpus, "."),
        (limits.memory, "-1"),
        (limits.pids, "-2"),
        (limits.cpuset, "1-"),
        (limits.cpuset, "3-1"),
        (limits.cpuset, "0,,1"),
        (limits.cpuset, "0-99999999"),
        (limits.weight, "9"),
        (limits.weight, "1001"),
        (limits.weight_device, "/dev/sda"),
        (limits.weight_device, "sda:100"),
        (limits.rate, "/dev/sda:x"),
        (limits.conf, "memory.high"),
        (limits.conf, "../x.y=1"),
        (limits.groups, "no-conmon"),
        (limits.manager, "cgroups"),
    ],
)
def test_wrong_values_are_refused(parse: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_valid_values_are_parsed() -> None:
    assert limits.pids("0") == limits.pids("-1") == -1
    assert limits.memory_swap("-1") == -1
    assert limits.rate("/dev/a:b:1mb") == ("/dev/a:b", MIB)
    assert limits.operations("/dev/sda:7") == ("/dev/sda", 7)
    assert limits.conf("io.max=8:0 rbps=1") == ("io.max", "8:0 rbps=1")
    assert limits.cpuset("0-2,7") == "0-2,7"
    assert resources.parse_set("0-2,7") == {0, 1, 2, 7}
    assert limits.quota("-1") == 0
    assert len(os.sched_getaffinity(0)) >= 1
