"""Give a container another name, running or not."""

from __future__ import annotations

from rootless.engine.manage import network_connect, update
from rootless.engine.manage.signals import take
from rootless.engine.state import events
from rootless.engine.state.container import Container, drop_name, find, load, take_name
from rootless.errors import CONFLICT, INVALID, RlessError


def rename(reference: str, name: str) -> None:
    """Give a container another name, running or not.

    Raises:
        RlessError: the name is another one's, or its own.
    """
    container = find(reference)
    old = container.facts["name"]
    if name == old:
        raise RlessError(f"container {old} has that name already", exit_code=1, kind=INVALID)
    update.change(container, [old, name], lambda: _change_name(container, old, name))
    events.of_container("rename", container, oldName=old)


def _change_name(container: Container, old: str, name: str) -> None:
    current = load(container.id)  # now that nobody else renames it
    if current is None or current.facts["name"] != old or _is_going(container):
        raise RlessError(
            f"container {old} was renamed or removed just now", exit_code=1, kind=CONFLICT
        )
    in_networks = bool(container.facts["request"].get("networks"))
    if in_networks:
        network_connect.check_name(container, name)
    try:
        take_name(container.id, name)
        container.update_facts(name=name)
    except RlessError as error:
        raise RlessError(error.message, error.hint, 1, error.kind) from error
    except OSError:
        drop_name(name, container.id)
        raise
    drop_name(old, container.id)
    running = take(container)
    if running is not None:
        if running.client is not None:
            running.client.rename(name)
        running.close()
    if in_networks:
        network_connect.rename(container)
    if _is_going(container):
        drop_name(name, container.id)  # a removal may know only the old one


def _is_going(container: Container) -> bool:
    """Tell whether a container is being removed, or is gone."""
    return bool(container.run_record().get("removing")) or load(container.id) is None
