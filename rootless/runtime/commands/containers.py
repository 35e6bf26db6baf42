"""`rless-oci list`, and the containers that `delete --regex` selects."""

from __future__ import annotations

import os

from rootless import jsontext
from rootless.errors import RlessError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.oci.runtime_spec import State


def matching(root: str, expression: str) -> list[str]:
    """Return the ids of containers that crun's `delete --regex` means.

    Args:
        root: the directory with their state.

    Raises:
        RlessError: it is no regular expression.
    """
    import re

    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise RlessError(f"--regex {expression}: {error}", exit_code=1) from error
    return [name for name in sorted(os.listdir(root)) if name[0] != "." and pattern.search(name)]


def print_all(root: str, style: str) -> None:
    """Print all containers.

    Args:
        root: the directory with their state.
        style: quiet (ids only), or json or table, with the keys and columns of runc.
    """
    from rootless.runtime.host import lifecycle

    states = lifecycle.list_states(root)
    owner = _owner(root)
    if style == "quiet":
        for state in states:
            print(state["id"])
    elif style == "json":
        print(jsontext.dumps([_described(root, state, owner) for state in states]))
    else:
        width = max([30, *(len(state["bundle"]) for state in states)])
        print(f"{'ID':<30} {'PID':<8} {'STATUS':<9} {'BUNDLE':<{width}} {'CREATED':<30} OWNER")
        for state in states:
            pid, status, created = state["pid"], state["status"], state.get("created", "")
            bundle = escape(state["bundle"])
            print(f"{state['id']:<30} {pid:<8} {status:<9} {bundle:<{width}} {created:<30} {owner}")


def _described(root: str, state: State, owner: str) -> dict[str, object]:
    """Return an entry of `list --format json`, with the keys of runc in their order."""
    from rootless.runtime.host.state import Record

    found: dict[str, object] = {
        key: state[key] for key in ("ociVersion", "id", "pid", "status", "bundle")
    }
    try:
        found["rootfs"] = Record(root, state["id"]).read_spec()["root"]["path"]
    except RlessError:
        found["rootfs"] = ""  # it is only being created
    return {
        **found,
        "created": state.get("created", ""),
        "annotations": state["annotations"],
        "owner": owner,
    }


def _owner(root: str) -> str:
    import pwd

    uid = os.stat(root).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
