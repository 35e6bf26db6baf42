"""The records on disk have the keys that their types name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rootless.engine.state import records
from tests.lib.product import Product, wait_for


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def keys_of(kind: Any) -> set[str]:
    return set(kind.__annotations__)


def test_running_container_has_the_keys_of_its_types(rless: Product) -> None:
    check = "--health-cmd true --health-interval 0.2s"
    rless.detach("web", f"-v data:/data {check}", "sleep", "60")
    facts = read(rless.container() / "container.json")
    # No hardware address was asked for, and no part of a volume.
    assert set(facts) == keys_of(records.ContainerRecord) - {"macs"}
    assert set(facts["health"]) == keys_of(records.HealthCheck)
    assert set(facts["idmap"]) == keys_of(records.IdMapRecord)
    assert set(facts["log"]) == keys_of(records.LogSettings)
    assert set(facts["restart"]) == keys_of(records.RestartPolicy)
    keys = keys_of(records.MountRecord) - {"subpath"}
    assert [set(mount) for mount in facts["mounts"]] == [keys]
    run = read(rless.live / facts["id"])
    assert set(run) <= keys_of(records.RunRecord)
    assert {"owner", "monitor", "init", "started"} <= set(run)
    health = rless.container() / "health.json"
    wait_for(lambda: health.exists() and read(health)["log"], "a check")
    assert set(read(health)) == keys_of(records.HealthRecord)
    assert set(read(health)["log"][0]) == keys_of(records.HealthResult)
    assert set(read(rless.storage / "volumes/data/volume.json")) == keys_of(records.VolumeRecord)
    rless("rm", "-f", "web").expect()
    rless("volume", "rm", "data").expect()


def test_monitor_writes_the_keys_of_an_exit_record(rless: Product) -> None:
    rless.detach("ends", "--restart on-failure:5", "sh", "-c", "exit 3")
    path = rless.container() / "exit.json"
    wait_for(path.exists, "an end")
    assert set(read(path)) == keys_of(records.ExitRecord)  # it waits for its restart
    rless("rm", "-f", "ends").expect()


def test_network_has_the_keys_of_its_type(rless: Product) -> None:
    rless("network", "create", "inner").expect()
    found = read(rless.storage / "networks" / "inner.json")
    assert set(found) == keys_of(records.NetworkRecord)
    # None of its addresses is kept from containers.
    keys = keys_of(records.SubnetRecord) - {"reserved"}
    assert [set(subnet) for subnet in found["subnets"]] == [keys]
    rless("network", "rm", "inner").expect()
