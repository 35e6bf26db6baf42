"""`--link CONTAINER[:ALIAS]`, as in old Docker: a line in /etc/hosts, and environment variables.

Members of a network find names without it; programs written for the old form read the variables.
"""

from __future__ import annotations

from rootless.engine.state.container import find
from rootless.errors import CONFLICT, RlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.engine.state.records import ContainerRecord, MemberRecord

_NOT_PASSED_ON = ("HOME", "PATH")


def resolve(
    links: Sequence[tuple[str, str]],
    name: str,
    places: Sequence[MemberRecord],
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return what the links of a container stand for at this start.

    Args:
        links: (container, alias) of each --link.
        name: of the container that has them.
        places: its networks (`engine.networks.attachment`).

    Returns:
        (name, address) for /etc/hosts, and variables as NAME=VALUE.

    Raises:
        RlessError: a container does not run, or in none of these networks.
    """
    hosts: list[tuple[str, str]] = []
    env: list[str] = []
    for reference, alias in links:
        other = find(reference)
        address = _shared(other.run_record().get("networks") or (), places)
        if address is None or other.init() is None:
            raise RlessError(
                f"--link {reference}: that container does not run in the same network",
                "start it first, with the same --network",
                kind=CONFLICT,
            )
        known = dict.fromkeys((alias, other.facts["name"], other.id[:12]))
        hosts += [(one, address) for one in known]
        env += _variables(name, alias, address, other.facts)
    return hosts, env


def _shared(theirs: Sequence[MemberRecord], ours: Sequence[MemberRecord]) -> str | None:
    networks = {place["id"] for place in ours}
    return next((place["ip"] for place in theirs if place["id"] in networks), None)


def _variables(name: str, alias: str, address: str, facts: ContainerRecord) -> list[str]:
    """Return Docker's variables of a link; `facts` are those of the container that is linked."""
    prefix = alias.upper().replace("-", "_")
    found = [f"{prefix}_NAME=/{name}/{alias}"]
    for index, port in enumerate(facts.get("exposed") or ()):
        number, _, protocol = port.partition("/")
        url = f"{protocol}://{address}:{number}"
        if index == 0:
            found.append(f"{prefix}_PORT={url}")
        key = f"{prefix}_PORT_{number}_{protocol.upper()}"
        found += [f"{key}={url}", f"{key}_ADDR={address}", f"{key}_PORT={number}"]
        found.append(f"{key}_PROTO={protocol}")
    image = (facts.get("image_config") or {}).get("Env") or []
    for variable in [*image, *facts["request"].get("env", ())]:
        if variable.partition("=")[0] not in _NOT_PASSED_ON:
            found.append(f"{prefix}_ENV_{variable}")
    return found
