"""runtime/cgroup/resources: numbers of v1 in, files of v2 out, as runc and crun do (class 41)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.runtime.cgroup import resources, systemd
from rootless.runtime.cgroup.resources import LimitError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("given_", "files"),
    [
        ({}, []),
        ({"memory": {"limit": GIB}}, [("memory.max", str(GIB))]),
        ({"memory": {"limit": -1}}, [("memory.max", "max"), ("memory.swap.max", "max")]),
        ({"memory": {"limit": GIB, "swap": GIB}},
         [("memory.max", str(GIB)), ("memory.swap.max", "0")]),
        ({"memory": {"limit": GIB, "swap": 3 * GIB}},
         [("memory.max", str(GIB)), ("memory.swap.max", str(2 * GIB))]),
        ({"memory": {"limit": GIB, "swap": -1}},
         [("memory.max", str(GIB)), ("memory.swap.max", "max")]),
        ({"memory": {"reservation": 5}}, [("memory.low", "5")]),
        ({"cpu": {"quota": 50000, "period": 100000}}, [("cpu.max", "50000 100000")]),
        ({"cpu": {"quota": 50000}}, [("cpu.max", "50000 100000")]),
        ({"cpu": {"quota": -1, "period": 5000}}, [("cpu.max", "max 5000")]),
        ({"cpu": {"shares": 1024}}, [("cpu.weight", "100")]),
        ({"cpu": {"shares": 0}}, []),
        ({"cpu": {"shares": 1024, "idle": 1}}, [("cpu.idle", "1")]),
        ({"cpu": {"burst": 100}}, [("cpu.max.burst", "100")]),
        ({"cpu": {"cpus": "0-1", "mems": "0"}}, [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]),
        ({"pids": {"limit": 7}}, [("pids.max", "7")]),
        ({"pids": {"limit": -1}}, [("pids.max", "max")]),
        ({"pids": {"limit": 0}}, [("pids.max", "max")]),
        ({"blockIO": {"weight": 10}}, [("io.weight", "default 1")]),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 1000}]}},
         [("io.weight", "8:0 10000")]),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 9}],
                      "throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 0}]}},
         [("io.max", "8:1 rbps=9"), ("io.max", "8:1 wiops=max")]),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]}, [("hugetlb.2MB.max", "4")]),
        ({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 100}}},
         [("rdma.max", "mlx5_1 hca_handle=3 hca_object=100")]),
        ({"pids": {"limit": 7}, "unified": {"pids.max": "8", "memory.high": "1G"}},
         [("pids.max", "7"), ("pids.max", "8"), ("memory.high", "1G")]),
    ],
)  # fmt: skip
def test_limits_become_cgroup_files(given_: dict[str, Any], files: list[tuple[str, str]]) -> None:
    assert resources.files(given_) == files


def test_bfq_weight_has_its_own_scale() -> None:
    assert resources.files({"blockIO": {"weight": 500}}, bfq=True) == [
        ("io.bfq.weight", "default 500")
    ]


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"memory": {"swappiness": 0}}, "memory.swappiness"),
        ({"memory": {"disableOOMKiller": True}}, "disableOOMKiller"),
        ({"memory": {"kernel": 1}}, "memory.kernel "),
        ({"memory": {"swap": 5}}, "needs a memory limit"),
        ({"memory": {"limit": 6, "swap": 5}}, "below the memory limit"),
        ({"cpu": {"realtimeRuntime": 5}}, "needs root"),
        ({"blockIO": {"leafWeight": 5}}, "leafWeight"),
        ({"network": {"classID": 5}}, "do not mark packets"),
        ({"unified": {"cgroup.procs": "1"}}, "it is no limit"),
        ({"unified": {"cgroup.kill": "1"}}, "it is no limit"),
        ({"unified": {"../memory.max": "1"}}, "no file"),
        ({"unified": {"tasks": "1"}}, "no file"),
        ({"hugepageLimits": [{"pageSize": "2MB/../x", "limit": 4}]}, "no file"),
    ],
)
def test_unsupported_limits_are_refused(given_: dict[str, Any], words: str) -> None:
    with pytest.raises(LimitError, match=words):
        resources.files(given_)


@given(st.integers(2, 262144), st.integers(2, 262144))
def test_cpu_shares_become_weight(one: int, other: int) -> None:
    assert 1 <= resources.cpu_weight(one) <= 10000
    if one <= other:
        assert resources.cpu_weight(one) <= resources.cpu_weight(other)


@pytest.mark.parametrize(
    ("shares", "weight"), [(0, 1), (2, 1), (1024, 100), (262144, 10000), (10**9, 10000)]
)
def test_cpu_weight_covers_its_range(shares: int, weight: int) -> None:
    assert resources.cpu_weight(shares) == weight


@given(st.integers(10, 1000))
def test_blkio_weight_becomes_io_weight(weight: int) -> None:
    assert 1 <= resources.io_weight(weight) <= 10000


@given(st.integers(-1, 2**62), st.integers(-1, 2**62))
def test_swap_excludes_memory(memory: int, swap: int) -> None:
    try:
        found = resources.swap_max(memory, swap)
    except LimitError:
        assert swap > 0
        assert memory <= 0 or swap < memory
    else:
        assert found in (None, -1) or memory + found == swap  # type: ignore[operator]


def test_missing_controllers_are_reported() -> None:
    asked = {
        "memory": {"limit": 5, "swap": 5},
        "cpu": {"shares": 2, "cpus": "0"},
        "pids": {"limit": -1},  # no limit needs no controller
        "unified": {"io.latency": "8:0 target=1"},
    }
    assert resources.missing(asked, {"memory"}) == ["cpu", "cpuset", "io"]
    assert resources.missing(asked, {"memory", "cpu", "cpuset", "io"}) == []
    left = resources.without(asked, ["cpuset", "io", "memory"])
    assert left == {"cpu": {"shares": 2}, "pids": {"limit": -1}}


def test_empty_resources_need_nothing() -> None:
    nothing = {"devices": [{"allow": False}], "memory": {}, "cpu": {"cpus": ""}, "unified": {}}
    assert resources.asked(nothing) == {}
    assert resources.asked({"memory": {"swappiness": 0}}) == {"memory": {"swappiness": 0}}


def test_limits_are_written(tmp_path: Path) -> None:
    for name in ("memory.max", "io.bfq.weight"):
        (tmp_path / name).touch()
    resources.apply(str(tmp_path), {"memory": {"limit": 5}, "blockIO": {"weight": 20}})
    assert (tmp_path / "memory.max").read_text() == "5"
    assert (tmp_path / "io.bfq.weight").read_text() == "default 20"
    resources.apply(str(tmp_path), {"pids": {"limit": -1}})  # no such file, and no need of it
    with pytest.raises(LimitError, match="this kernel has no such file"):
        resources.apply(str(tmp_path), {"pids": {"limit": 5}})


def test_memory_limit_below_the_usage_can_be_refused(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max")
    (tmp_path / "memory.current").write_text("2000\n")
    memory = {"limit": 1024, "checkBeforeUpdate": True}
    with pytest.raises(LimitError, match="rejecting memory limit 1024: 2000 bytes are used"):
        resources.apply(str(tmp_path), {"memory": memory})
    assert (tmp_path / "memory.max").read_text() == "max"
    for accepted in ({"limit": 1024}, {"limit": 4096, "checkBeforeUpdate": True}):
        resources.apply(str(tmp_path), {"memory": accepted})
        assert (tmp_path / "memory.max").read_text() == str(accepted["limit"])
    resources.apply(str(tmp_path), {"memory": {"limit": -1, "checkBeforeUpdate": True}})


def test_limits_become_scope_properties() -> None:
    found = dict(
        systemd.properties(
            {
                "memory": {"limit": 50 << 20, "reservation": 10 << 20},
                "cpu": {"shares": 1024, "quota": 5000, "cpus": "0"},
                "pids": {"limit": 20},
                "unified": {"memory.min": "1M", "io.weight": "default 50"},
            }
        )
    )
    assert found == {
        "MemoryMax": ("t", (50 << 20) + systemd.ROOM_MEMORY),
        "MemoryLow": ("t", 10 << 20),
        "CPUWeight": ("t", 100),
        "TasksMax": ("t", 20 + systemd.ROOM_TASKS),
        "IOWeight": ("t", 50),
    }
    # systemd's own default for a user's units is not ours.
    assert dict(systemd.properties({})) == {"TasksMax": ("t", 2**64 - 1)}


@pytest.mark.parametrize(
    ("directory", "found"),
    [
        ("/sys/fs/cgroup/user.slice/rless-x.scope/container", ("rless-x.scope", "/container")),
        ("/sys/fs/cgroup/a.service/rless-1", ("a.service", "/rless-1")),
        ("/sys/fs/cgroup/u@1.service/a.slice/b.scope", ("b.scope", "")),
        ("/sys/fs/cgroup/rless-1", ("", "")),
    ],
)
def test_units_have_escaped_names(directory: str, found: tuple[str, str]) -> None:
    assert systemd.unit_of(directory) == found
    assert systemd.unit_name("a/b c@d") == "a_b_c_d.scope"
