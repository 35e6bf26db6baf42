"""Read the values that widen or narrow what a container may do: namespaces, capabilities,
sysctls, security options.
"""

from __future__ import annotations

import os

from rootless.cli.flags.values import boolean, choice, integer, line, refuse, text

_SYSCTLS = (
    "kernel.msgmax kernel.msgmnb kernel.msgmni kernel.sem kernel.shmall kernel.shmmax"
    " kernel.shmmni kernel.shm_rmid_forced"
)


def _namespace(value: str, *plain: str) -> str:
    if value.startswith("container:"):
        if len(value) == len("container:"):
            raise ValueError("names no container")
        return line(value)
    return choice(value or "private", *plain)


def pid(value: str) -> str:
    """Return the mode of the pid namespace."""
    return _namespace(value, "private", "host")


def ipc(value: str) -> str:
    """Return the mode of the ipc namespace; every private one can be shared, so shareable is it."""
    mode = _namespace(value, "private", "shareable", "host", "none")
    return "private" if mode == "shareable" else mode


def uts(value: str) -> str:
    """Return the mode of the uts namespace."""
    return _namespace(value, "private", "host")


def cgroupns(value: str) -> str:
    """Return the mode of the cgroup namespace."""
    return _namespace(value, "private", "host")


def userns(value: str) -> str:
    """Return the id map policy; `host` means what it means to rootless Docker: 0 is me."""
    if value in ("", "private"):
        return "auto"
    if value == "host":
        return "host-root"
    mode, colon, rest = value.partition(":")
    if mode == "keep-id" and colon:
        ids = []
        for part in rest.split(","):
            key, _, number = part.partition("=")
            if key not in ("uid", "gid"):
                raise ValueError(f"has {key!r} where uid= or gid= belongs")
            ids.append(f"{key}={integer(number, 0, (1 << 31) - 1)}")
        if len({part[:3] for part in ids}) != len(ids):
            raise ValueError("gives an id twice")
        return f"keep-id:{','.join(ids)}"
    return _namespace(value, "auto", "host-root", "keep-id", "nomap", "single")


def capability(value: str) -> str:
    """Return "CAP_NET_ADMIN" for NET_ADMIN and cap_net_admin, "ALL" for all."""
    name = value.upper()
    if not name.isascii() or not name.replace("_", "a").isalnum():
        raise ValueError("is not a capability")
    return name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"


def sysctl(value: str) -> tuple[str, str]:
    """Return the key and the value of a namespaced sysctl, those that Docker lets through."""
    key, equals, content = line(value).partition("=")
    if not equals:
        raise ValueError("has no '='")
    known = key in _SYSCTLS.split() or key.startswith(("net.", "fs.mqueue."))
    if not known or "/" in key or "" in key.split("."):
        raise ValueError("is not of a namespace: net.*, fs.mqueue.*, kernel.msg*, sem, shm*")
    return key, content


def security_opt(value: str) -> str:
    """Return `key=value`; a seccomp profile becomes an absolute path."""
    key, equals, content = value.partition("=")
    if not equals:
        key, colon, content = value.partition(":")
        if not colon and key in ("no-new-privileges", "nested-userns"):
            content = "true"
    if not content:
        raise ValueError("has no value")
    if key == "nested-userns":
        return f"{key}={choice(content, 'true')}"
    if key == "no-new-privileges":
        return f"{key}={'true' if boolean(content) else 'false'}"
    if key == "seccomp":
        named = content in ("unconfined", "builtin")
        return f"{key}={content if named else os.path.abspath(text(content))}"
    if key == "unmask":
        paths = content.split(":")
        if content.upper() != "ALL" and not all(path.startswith("/") for path in paths):
            raise ValueError("has neither ALL nor absolute paths")
        return f"{key}={line(content)}"
    if key == "systempaths":
        return f"{key}={choice(content, 'unconfined')}"
    if (key, content) in (("apparmor", "unconfined"), ("label", "disable")):
        return f"{key}={content}"
    if key in ("apparmor", "label"):
        raise refuse(f"--security-opt {key}", "profiles and labels need an administrator to load")
    known = "no-new-privileges, seccomp, systempaths, unmask, nested-userns, apparmor, label"
    raise ValueError(f"is none of {known}")
