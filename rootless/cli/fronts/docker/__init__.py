"""The fronts docker and podman: the command line of `rless`, which is theirs, and what differs."""
