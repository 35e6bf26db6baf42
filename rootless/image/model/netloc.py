"""Parse "HOST[:PORT]", as in references and URLs."""

from __future__ import annotations


def is_loopback(netloc: str) -> bool:
    """Tell whether a "host:port" is this machine: localhost, 127.0.0.0/8 or ::1."""
    host = netloc.rpartition("@")[2]
    if host.startswith("["):
        return host.partition("]")[0] == "[::1"
    host = host.partition(":")[0]
    if host == "localhost":
        return True
    parts = host.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts)
